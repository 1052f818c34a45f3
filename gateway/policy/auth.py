"""Who is calling, and whether that is enough: bearer tokens (RFC 6750), API keys, or no credential.

Here are the claims of a token (RFC 7519), what a route asks of its callers, and the answers to a
missing or bad credential. What an identity may do is in identity, keys and algorithms are in
signatures and jwks, API keys in api_keys, what is open without a key in keyless, tickets and
cookies for browsers in tickets. The clock is passed in: Unix seconds, since tokens speak of those.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from gateway.errors import Rejection
from gateway.policy.api_keys import PREFIX, ApiKeys
from gateway.policy.identity import (
    LEAST_TIER,
    LEEWAY_SECONDS,
    NAME_LENGTH,
    TIERS,
    Identity,
    Verified,
    is_name,
    is_scope,
    is_scopes,
)
from gateway.policy.jwks import Jwks
from gateway.policy.keyless import Keyless
from gateway.policy.pending import Pending
from gateway.policy.revocations import Revocations
from gateway.policy.signatures import BadTokenError, Signatures, UnknownKeyError, key_bytes
from gateway.settings import Settings

__all__ = [
    "LEAST_TIER",
    "LEEWAY_SECONDS",
    "MAX_REMEMBERED",
    "TIERS",
    "AuthRule",
    "Authenticator",
    "Credentials",
    "Identity",
    "auth_failed",
    "forbidden",
    "unauthorized",
]

# The tokens that come again and again: verifying one takes 39 µs (RS256 85, ES256 152), knowing it
# 2 µs. At most 4,096 identities of a header line each: 50 MB at worst, 3 MB with usual tokens.
MAX_REMEMBERED: Final = 4096
# RFC 7518 §3.2: a key as long as the hash or longer MUST be used with HS256.
HS256_KEY_BYTES: Final = 32

# 9999-12-31T23:59:59Z: what lies beyond can't be written as a date, and is a mistake.
_LAST_SECOND: Final = 253_402_300_799
_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/-]+=*").fullmatch  # RFC 6750 §2.1: b64token
_BEARER_PREFIX: Final = b"Bearer "
_AWAY_RETRY_SECONDS: Final = 5
_SET_A_KEY: Final = (
    "this needs a credential, and nobody's can be verified: set JWT_SECRET, JWT_PUBLIC_KEY or "
    "JWKS_URL, or make an API key"
)


_SEND_ONE: Final = (
    "send a credential: Authorization: Bearer with a token or an API key, or X-API-Key with the key"
)


@dataclass(slots=True)
class Credentials:
    """The fields of a request that say who sends it; `address` is the client's.

    `authorization` and `api_key` (X-API-Key) have every such field; `forwarded` is whether there
    was any forwarding field.
    """

    authorization: Sequence[bytes] = field(default=(), repr=False)
    host: bytes | None = None
    origin: bytes | None = None
    fetch_site: bytes | None = None
    forwarded: bool = False
    cookie: bytes | None = field(default=None, repr=False)
    address: str = ""
    api_key: Sequence[bytes] = field(default=(), repr=False)


class Authenticator:
    """Identifies callers by the signing keys of `settings`, those of `jwks` and the API keys given;
    without any of them, by the keyless rules. `service_token` is a worker's, also where those hold.

    Raises SettingsError when a key can't be used. A token whose signature was good is remembered by
    its SHA-256, so that no table of the process holds tokens. `takes_api_keys`: X-API-Key is a
    credential here, and not some service's own field; `is_keyless`: nobody's credential could be
    verified, and the keyless rules hold.
    """

    __slots__ = (
        "_audience",
        "_issuer",
        "_jwks",
        "_keyless",
        "_keys",
        "_revocations",
        "_service_digest",
        "_signatures",
        "_verified",
        "_version",
        "_warnings",
        "is_keyless",
        "takes_api_keys",
    )

    def __init__(
        self,
        settings: Settings,
        *,
        keys: ApiKeys | None = None,
        jwks: Jwks | None = None,
        revocations: Revocations | None = None,
        service_token: str | None = None,
    ) -> None:
        self._signatures: Signatures | None = None
        if (
            jwks is not None
            or settings.jwt_secret is not None
            or settings.jwt_public_key is not None
        ):
            self._signatures = Signatures(settings.jwt_secret, settings.jwt_public_key, jwks)
        self._service_digest: bytes | None = None
        if service_token is not None:
            self._service_digest = hashlib.sha256(key_bytes(service_token)).digest()
        self._keys = keys if keys is not None else ApiKeys()
        # Looked at for every request, and the same for as long as this lives.
        self.takes_api_keys: Final = len(self._keys) > 0
        self.is_keyless: Final = self._signatures is None and not self.takes_api_keys
        self._jwks = jwks
        self._revocations = revocations if revocations is not None else Revocations()
        self._keyless = Keyless(settings.host, allow_anonymous=settings.allow_anonymous)
        self._issuer = settings.jwt_issuer
        self._audience = settings.jwt_audience
        self._verified: OrderedDict[bytes, Verified] = OrderedDict()
        self._version = 0 if jwks is None else jwks.version
        self._warnings = self._found_doubtful(settings)

    def __repr__(self) -> str:
        rules = self._signatures or (self._keyless if not self._keys else None)
        return f"<Authenticator {rules} {self._keys} known={len(self._verified)}>"

    @property
    def algorithms(self) -> list[str]:
        """What tokens may be signed with; empty: no key is set."""
        return [] if self._signatures is None else self._signatures.algorithms

    def warnings(self) -> list[str]:
        """What to say once at start, a line each, without a secret."""
        return list(self._warnings)

    def identify(
        self, credentials: Credentials, wall_seconds: float, waited: bool = False
    ) -> Identity | Rejection | Pending:
        """The caller, or why the credential is refused (401; 400 for two of them; 503 while the
        issuer's keys were never had), or what to wait for (never when `waited`).

        No credential is an identity too: without rights when a key is set. While none is set a
        credential is not looked at: nobody could verify it, and it gives nothing that its sender
        would not have without, so a client with a token in its configuration is served as well.
        """
        fields = credentials.authorization
        if credentials.api_key and self.takes_api_keys:
            return self._by_own_field(credentials, wall_seconds)
        if self._jwks is not None and self._jwks.version != self._version:
            # The issuer took a key back: what it signed must be verified again.
            self._version = self._jwks.version
            self._verified.clear()
        if len(fields) == 1 and fields[0].startswith(_BEARER_PREFIX):
            # As nearly all write it, and a credential that is known needs no more reading.
            digest = hashlib.sha256(fields[0][len(_BEARER_PREFIX) :]).digest()
            if (verified := self._verified.get(digest)) is not None:
                return self._judged(verified, wall_seconds, digest)
            if (verified := self._keys.find(digest)) is not None:
                return self._judged(verified, wall_seconds, None)
            if self._is_worker(digest):
                return _WORKER
        if self.is_keyless:
            return _KEYLESS_OWNER if self._may_write(credentials) else _KEYLESS_READER
        if not fields:
            return _NOBODY
        if len(fields) > 1:
            return Rejection("BAD_REQUEST", "send one Authorization field", headers=_BAD_REQUEST)
        scheme, _, rest = fields[0].strip().partition(b" ")
        token = rest.strip()
        if scheme.lower() != b"bearer":
            message = "the Authorization field must say: Bearer and a token"
            return Rejection("AUTH_FAILED", message, headers=_BEARER)
        if token.startswith(PREFIX):
            return self._by_api_key(token, wall_seconds)
        if not _TOKEN(token):
            return auth_failed("behind Bearer there must be one token, without quotes")
        return self._by_token(token, wall_seconds, waited)

    def recall(self, field: bytes | None, wall_seconds: float) -> Identity | None:
        """The caller, where `field`, its one Authorization field (empty: it sent no credential),
        was judged before and is still good; None: `identify` must say. For every request.
        """
        if field == b"":
            return None if self.is_keyless else _NOBODY
        if field is None or (self._jwks is not None and self._jwks.version != self._version):
            return None
        if not field.startswith(_BEARER_PREFIX):
            return None
        digest = hashlib.sha256(field[len(_BEARER_PREFIX) :]).digest()
        verified = self._verified.get(digest)
        if verified is None:
            return _WORKER if self._is_worker(digest) else None
        if not verified.not_before <= wall_seconds < verified.ends_at:
            return None
        identity = verified.identity
        if identity.jti is not None and self._revocations.is_revoked(identity.jti):
            return None
        return identity

    def is_service(self, field: bytes | None) -> bool:
        """Whether `field`, the one Authorization field, is the service token."""
        if self._service_digest is None or not field or not field.startswith(_BEARER_PREFIX):
            return False
        return self._is_worker(hashlib.sha256(field[len(_BEARER_PREFIX) :]).digest())

    def _is_worker(self, digest: bytes) -> bool:
        """In constant time, though what is compared are digests."""
        own = self._service_digest
        return own is not None and hmac.compare_digest(digest, own)

    def write_refusal(self) -> Rejection:
        """For a caller without a credential that wants to write."""
        return unauthorized(self._keyless.refusal()) if self.is_keyless else unauthorized()

    def _may_write(self, credentials: Credentials) -> bool:
        return self._keyless.may_write(
            credentials.host,
            credentials.origin,
            credentials.fetch_site,
            forwarded=credentials.forwarded,
        )

    def _by_own_field(self, credentials: Credentials, wall_seconds: float) -> Identity | Rejection:
        """X-API-Key. With a second credential nobody could say which one a service believes."""
        if credentials.authorization or len(credentials.api_key) > 1:
            message = "send one credential: Authorization or one X-API-Key"
            return Rejection("BAD_REQUEST", message, headers=_BAD_REQUEST)
        return self._by_api_key(credentials.api_key[0].strip(), wall_seconds)

    def _by_api_key(self, key: bytes, wall_seconds: float) -> Identity | Rejection:
        if not self.takes_api_keys:
            return auth_failed("API keys are not taken here: send a token")
        verified = self._keys.find(hashlib.sha256(key).digest())
        if verified is None:
            return auth_failed("the API key is not known here")
        return self._judged(verified, wall_seconds, None)

    def _by_token(
        self, token: bytes, wall_seconds: float, waited: bool
    ) -> Identity | Rejection | Pending:
        signatures = self._signatures
        if signatures is None:
            return auth_failed("tokens are not taken here: send an API key")
        digest = hashlib.sha256(token).digest()
        verified = self._verified.get(digest)  # it may have come with other spaces around it
        if verified is None:
            try:
                verified = self._verified_by(signatures, token)
            except UnknownKeyError as error:
                return self._unknown_key(error, waited)
            except BadTokenError as error:
                return auth_failed(f"the token is refused: {error}")
            if len(self._verified) >= MAX_REMEMBERED:
                self._verified.popitem(last=False)
            self._verified[digest] = verified
        return self._judged(verified, wall_seconds, digest)

    def _unknown_key(self, error: UnknownKeyError, waited: bool) -> Rejection | Pending:
        """The key may be one that its issuer published since."""
        jwks = self._jwks
        pending = None if jwks is None or waited else jwks.ask()
        if pending is not None:
            return pending
        if jwks is not None and not jwks.has_keys:
            message = "tokens can't be verified now: their issuer's keys can't be had; try again"
            return Rejection("SERVICE_UNAVAILABLE", message, _AWAY_RETRY_SECONDS)
        return auth_failed(f"the token is refused: {error}")

    def _judged(
        self, verified: Verified, wall_seconds: float, digest: bytes | None
    ) -> Identity | Rejection:
        """Whether a credential whose signature or secret is good holds now; `digest` is that of a
        token, which is remembered no longer than it holds.
        """
        identity, not_before, ends_at = verified
        if wall_seconds >= ends_at:
            if digest is None:
                return auth_failed("the API key is refused: it has expired")
            self._verified.pop(digest, None)
            return auth_failed("the token is refused: it has expired (exp)")
        if wall_seconds < not_before:
            return auth_failed("the token is refused: it is not valid yet (nbf)")
        if self._revocations.is_revoked(identity.jti):
            what = "API key" if digest is None else "token"
            return auth_failed(f"the {what} is refused: it was revoked")
        return identity

    def _verified_by(self, signatures: Signatures, token: bytes) -> Verified:
        """Signature and claims, all but the time. Raises BadTokenError."""
        claims = signatures.claims(token)
        expires_at = _seconds(claims, "exp")
        if expires_at is None:
            raise BadTokenError("it has no exp claim")
        not_before = _seconds(claims, "nbf")
        _seconds(claims, "iat")  # its kind only: RFC 7519 §4.1.6 gives no rule
        self._check_issuer_and_audience(claims)
        identity = identity_of(claims, expires_at)
        earliest = -math.inf if not_before is None else not_before - LEEWAY_SECONDS
        return Verified(identity, earliest, expires_at + LEEWAY_SECONDS)

    def _check_issuer_and_audience(self, claims: dict[str, object]) -> None:
        """Against JWT_ISSUER and JWT_AUDIENCE; what is not set is not compared."""
        if self._issuer is not None and claims.get("iss") != self._issuer:
            raise BadTokenError("its issuer (iss) is another")
        if self._audience is not None:
            said = claims.get("aud")  # RFC 7519 §4.1.3: a text or a list of them
            audiences = said if isinstance(said, list) else [said]
            if self._audience not in audiences:
                raise BadTokenError("it is for another audience (aud)")

    def _found_doubtful(self, settings: Settings) -> list[str]:
        lines = []
        if self.is_keyless:
            lines.append(self._keyless.warning())
        elif settings.allow_anonymous:
            lines.append("ALLOW_ANONYMOUS says nothing while a signing key is set")
        if self.is_keyless and settings.auth_default == "required":
            lines.append(f"AUTH_DEFAULT is required: {_SET_A_KEY}")
        secret = settings.jwt_secret
        if secret is not None and len(key_bytes(secret)) < HS256_KEY_BYTES:
            lines.append(
                f"JWT_SECRET is shorter than {HS256_KEY_BYTES} bytes, which RFC 7518 §3.2 asks for"
            )
        if secret is not None and settings.cookie_secret == secret:
            lines.append("COOKIE_SECRET is the same as JWT_SECRET: give it a value of its own")
        if self._jwks is not None and settings.jwt_audience is None:
            lines.append(
                "JWKS_URL is set without JWT_AUDIENCE: tokens that the issuer made for others are "
                "taken here too"
            )
        return lines


_NOBODY: Final = Identity()
# Its id begins as an API key's does: no service gets such a credential (edge/passing.py).
_WORKER: Final = Identity(
    subject="gateway-worker",
    tier="enterprise",
    scopes=frozenset(("internal",)),
    jti="gw_service_token",
)
_KEYLESS_READER: Final = Identity(open_read=True)
_KEYLESS_OWNER: Final = Identity(open_read=True, open_write=True)


@dataclass(frozen=True, slots=True)
class AuthRule:
    """What a route asks of its callers.

    `none`: a credential is not looked at. `optional`: none is needed, a bad one is refused all the
    same. `required`: one that was verified. `scope`: one with any of `scopes`. Where no signing key
    is set, whoever may write without one has what both ask for.
    """

    kind: Literal["none", "optional", "required", "scope"]
    scopes: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> AuthRule:
        """From `none`, `optional`, `required`, `scope:a` or `scope:a,b`; ValueError for others,
        with what was expected.
        """
        if text in ("none", "optional", "required"):
            return cls(text)  # type: ignore[arg-type]
        kind, _, listed = text.partition(":")
        scopes = [scope.strip() for scope in listed.split(",")]
        if kind != "scope" or not all(map(is_scope, scopes)):
            raise ValueError("none, optional, required, or scope: and one scope or several, a,b")
        return cls("scope", frozenset(scopes))

    def check(self, identity: Identity) -> Rejection | None:
        """Why this caller is refused: 401 without a credential, 403 with one that is not enough."""
        if self.kind == "optional" or self.kind == "none":
            return None
        if self.kind == "scope":
            enough = identity.may(*self.scopes)
        else:
            enough = identity.subject is not None or identity.open_write
        if enough:
            return None
        scope = " ".join(sorted(self.scopes))
        if identity.subject is not None:
            return forbidden("this credential is not enough", scope)
        if identity.open_read:  # keyless
            return unauthorized(_SET_A_KEY, scope)
        return unauthorized(scope=scope)


def identity_of(claims: dict[str, object], expires_at: float | None) -> Identity:
    """The identity that claims speak of. Raises BadTokenError for a claim of the wrong kind.

    A token without `sub` names nobody: it has its scopes and client ids, and is anonymous in the
    audit trail. An unknown tier is the least one.
    """
    scope = claims.get("scope", "")
    if not is_scopes(scope):
        raise BadTokenError("its scope claim is no text of scopes with spaces between")
    client_ids = claims.get("client_ids", [])
    if not isinstance(client_ids, list) or not all(map(is_name, client_ids)):
        raise BadTokenError("its client_ids claim is no list of texts")
    tier = _text(claims, "tier")
    return Identity(
        subject=_text(claims, "sub") or "",
        tenant=_text(claims, "tenant"),
        tier=tier if tier is not None and tier in TIERS else LEAST_TIER,
        scopes=frozenset(scope.split()),
        client_ids=frozenset(client_ids),
        expires_at=expires_at,
        jti=_text(claims, "jti"),
    )


def auth_failed(message: str) -> Rejection:
    """The answer to a bad credential (RFC 6750 §3.1: invalid_token)."""
    return Rejection("AUTH_FAILED", message, headers=_BAD_TOKEN)


def unauthorized(message: str = _SEND_ONE, scope: str = "") -> Rejection:
    """The answer where a credential is needed and none came (RFC 6750 §3: no error code then);
    `scope` has the scopes that would do, with spaces between.
    """
    return Rejection("UNAUTHORIZED", _taking(message, scope), headers=_challenge(scope=scope))


def forbidden(message: str, scope: str) -> Rejection:
    """The answer to a good credential without the right; `scope` has what would give it, with
    spaces between, and is named behind the message.
    """
    headers = _challenge("insufficient_scope", scope)
    return Rejection("FORBIDDEN", _taking(message, scope), headers=headers)


def _taking(message: str, scope: str) -> str:
    return f"{message}; it takes the scope {scope.replace(' ', ' or ')}" if scope else message


def _challenge(error: str = "", scope: str = "") -> tuple[tuple[bytes, bytes], ...]:
    """RFC 6750 §3: `Bearer` is followed by at least one parameter, here the realm."""
    given = (("realm", "gateway"), ("error", error), ("scope", scope))
    parameters = ", ".join(f'{name}="{value}"' for name, value in given if value)
    return ((b"WWW-Authenticate", f"Bearer {parameters}".encode("ascii")),)


_BEARER: Final = _challenge()
_BAD_TOKEN: Final = _challenge("invalid_token")
_BAD_REQUEST: Final = _challenge("invalid_request")


def _seconds(claims: dict[str, object], name: str) -> float | None:
    """A claim that is a time in Unix seconds (RFC 7519 §2: NumericDate)."""
    value = claims.get(name)
    if name not in claims:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
        if abs(seconds) <= _LAST_SECOND:
            return seconds
    raise BadTokenError(f"its {name} claim is no time in seconds")


def _text(claims: dict[str, object], name: str) -> str | None:
    if name not in claims:
        return None
    value = claims[name]
    if not is_name(value):
        raise BadTokenError(f"its {name} claim is no text of 1 to {NAME_LENGTH} characters")
    return value
