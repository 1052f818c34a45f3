"""Who is calling, and what they may do: bearer tokens (RFC 6750), or no credential at all.

Here are the identity, the claims of a token and the answers to a missing or bad credential. Keys
and algorithms are in signatures, what is open without a key in keyless, tickets and cookies for
browsers in tickets. The clock is passed in: Unix seconds, since tokens speak of those.
"""

from __future__ import annotations

import hashlib
import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import orjson

from gateway.errors import Rejection
from gateway.policy.keyless import Keyless
from gateway.policy.signatures import BadTokenError, Signatures, key_bytes
from gateway.settings import Settings

TIERS: Final = ("anonymous", "free", "pro", "enterprise")
LEAST_TIER: Final = TIERS[0]
# Between the clocks of who signs and who verifies; longer would let ended tokens live on.
LEEWAY_SECONDS: Final = 30.0
# The tokens that come again and again: verifying one takes 47 µs (RS256 88, ES256 148), knowing it
# 3 µs. At most 4,096 identities of a header line each: 50 MB at worst, 3 MB with usual tokens.
MAX_REMEMBERED: Final = 4096
# RFC 7518 §3.2: a key as long as the hash or longer MUST be used with HS256.
HS256_KEY_BYTES: Final = 32

# 9999-12-31T23:59:59Z: what lies beyond can't be written as a date, and is a mistake.
_LAST_SECOND: Final = 253_402_300_799
_NAME_LENGTH: Final = 255  # OpenID Connect Core §2 on `sub`
# RFC 6749 §3.3: scope-token, here with the spaces between.
_SCOPE: Final = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]*").fullmatch
_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/-]+=*").fullmatch  # RFC 6750 §2.1: b64token
_INTERNAL: Final = "internal"

_CHALLENGE: Final = b"WWW-Authenticate"
_BAD_TOKEN: Final = ((_CHALLENGE, b'Bearer error="invalid_token"'),)
_BAD_REQUEST: Final = ((_CHALLENGE, b'Bearer error="invalid_request"'),)
_BEARER: Final = ((_CHALLENGE, b"Bearer"),)


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller: `subject` is None without a credential, and only then; empty where it names nobody.

    `expires_at` (Unix seconds) is when the credential ends; None: never. `open_read` and
    `open_write` say what is open to this caller without a credential (no signing key is set).
    """

    subject: str | None = None
    tenant: str | None = None
    tier: str = LEAST_TIER
    scopes: frozenset[str] = frozenset()
    client_ids: frozenset[str] = frozenset()
    expires_at: float | None = None
    open_read: bool = False
    open_write: bool = False

    @property
    def name(self) -> str:
        """For records and answers: the subject or `anonymous`."""
        return self.subject or "anonymous"

    def may_read(self, client_id: str) -> bool:
        """Whether the events and questions of this client id are for this caller."""
        return (
            self.open_read
            or client_id == self.subject
            or client_id in self.client_ids
            or "events:read" in self.scopes
        )

    def may(self, *scopes: str) -> bool:
        """Whether the caller has one of the scopes, or what they stand for is open.

        `internal` is never open: it marks the gateway's own parts, not the machine's owner.
        """
        if self.open_write and any(scope != _INTERNAL for scope in scopes):
            return True
        return not self.scopes.isdisjoint(scopes)

    def has_ended(self, wall_seconds: float) -> bool:
        """Whether the credential is over, the leeway left out."""
        return self.expires_at is not None and wall_seconds >= self.expires_at

    def encode(self) -> bytes:
        """ASCII for a header field that only the gateway sets. Never longer than the token's claims
        by more than a few bytes.
        """
        members = (
            self.subject,
            self.tenant,
            self.tier,
            " ".join(sorted(self.scopes)),
            sorted(self.client_ids),
            self.expires_at,
            self.open_read,
            self.open_write,
        )
        return urlsafe_b64encode(orjson.dumps(members))

    @classmethod
    def decode(cls, raw: bytes | str) -> Identity:
        """What `encode` wrote; ValueError for anything else."""
        try:
            members = orjson.loads(urlsafe_b64decode(raw))
            subject, tenant, tier, scopes, client_ids, expires_at, open_read, open_write = members
            return cls(
                subject,
                tenant,
                tier,
                frozenset(scopes.split()),
                frozenset(client_ids),
                expires_at,
                open_read,
                open_write,
            )
        except (ValueError, TypeError, AttributeError):
            raise ValueError("not an encoded identity") from None


@dataclass(slots=True)
class Credentials:
    """The fields of a request that say who sends it; `address` is the client's.

    `authorization` has every such field; `forwarded` is whether there was any forwarding field.
    """

    authorization: Sequence[bytes] = field(default=(), repr=False)
    host: bytes | None = None
    origin: bytes | None = None
    fetch_site: bytes | None = None
    forwarded: bool = False
    cookie: bytes | None = field(default=None, repr=False)
    address: str = ""


class _Verified(NamedTuple):
    identity: Identity
    not_before: float
    ends_at: float  # Unix seconds, the leeway included, as in not_before


class Authenticator:
    """Identifies callers by the signing keys of `settings`; without one, by the keyless rules.

    Raises SettingsError when a key can't be used. A token whose signature was good is remembered by
    its SHA-256, so that no table of the process holds tokens.
    """

    __slots__ = ("_audience", "_issuer", "_keyless", "_signatures", "_verified", "_warnings")

    def __init__(self, settings: Settings) -> None:
        self._signatures: Signatures | None = None
        if settings.jwt_secret is not None or settings.jwt_public_key is not None:
            self._signatures = Signatures(settings.jwt_secret, settings.jwt_public_key)
        self._keyless = Keyless(settings.host, allow_anonymous=settings.allow_anonymous)
        self._issuer = settings.jwt_issuer
        self._audience = settings.jwt_audience
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()
        self._warnings = self._found_doubtful(settings)

    def __repr__(self) -> str:
        return f"<Authenticator {self._signatures or self._keyless} known={len(self._verified)}>"

    @property
    def algorithms(self) -> list[str]:
        """What tokens may be signed with; empty: no key is set."""
        return [] if self._signatures is None else self._signatures.algorithms

    def warnings(self) -> list[str]:
        """What to say once at start, a line each, without a secret."""
        return list(self._warnings)

    def identify(self, credentials: Credentials, wall_seconds: float) -> Identity | Rejection:
        """The caller, or why the credential is refused (401; 400 for two of them).

        No credential is an identity too: without rights when a key is set. While none is set a
        credential is not looked at: nobody could verify it, and it gives nothing that its sender
        would not have without, so a client with a token in its configuration is served as well.
        """
        signatures = self._signatures
        if signatures is None:
            return _KEYLESS_OWNER if self._may_write(credentials) else _KEYLESS_READER
        fields = credentials.authorization
        if not fields:
            return _NOBODY
        if len(fields) > 1:
            return Rejection("BAD_REQUEST", "send one Authorization field", headers=_BAD_REQUEST)
        scheme, _, rest = fields[0].strip().partition(b" ")
        token = rest.strip()
        if scheme.lower() != b"bearer":
            message = "the Authorization field must say: Bearer and a token"
            return Rejection("AUTH_FAILED", message, headers=_BEARER)
        if token.startswith(b"gw_"):
            return auth_failed("API keys are not taken here: send a token")
        if not _TOKEN(token):
            return auth_failed("behind Bearer there must be one token, without quotes")
        return self._identified(signatures, token, wall_seconds)

    def write_refusal(self) -> Rejection:
        """For a caller without a credential that wants to write."""
        if self._signatures is None:
            return unauthorized(self._keyless.refusal())
        return unauthorized()

    def _may_write(self, credentials: Credentials) -> bool:
        return self._keyless.may_write(
            credentials.host,
            credentials.origin,
            credentials.fetch_site,
            forwarded=credentials.forwarded,
        )

    def _identified(
        self, signatures: Signatures, token: bytes, wall_seconds: float
    ) -> Identity | Rejection:
        digest = hashlib.sha256(token).digest()
        verified = self._verified.get(digest)
        if verified is None:
            try:
                verified = self._verified_by(signatures, token)
            except BadTokenError as error:
                return auth_failed(f"the token is refused: {error}")
            if len(self._verified) >= MAX_REMEMBERED:
                self._verified.popitem(last=False)
            self._verified[digest] = verified
        if wall_seconds < verified.not_before:
            return auth_failed("the token is refused: it is not valid yet (nbf)")
        if wall_seconds >= verified.ends_at:
            return auth_failed("the token is refused: it has expired (exp)")
        return verified.identity

    def _verified_by(self, signatures: Signatures, token: bytes) -> _Verified:
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
        return _Verified(identity, earliest, expires_at + LEEWAY_SECONDS)

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
        if self._signatures is None:
            lines.append(self._keyless.warning())
        elif settings.allow_anonymous:
            lines.append("ALLOW_ANONYMOUS says nothing while a signing key is set")
        secret = settings.jwt_secret
        if secret is not None and len(key_bytes(secret)) < HS256_KEY_BYTES:
            lines.append(
                f"JWT_SECRET is shorter than {HS256_KEY_BYTES} bytes, which RFC 7518 §3.2 asks for"
            )
        if secret is not None and settings.cookie_secret == secret:
            lines.append("COOKIE_SECRET is the same as JWT_SECRET: give it a value of its own")
        return lines


_NOBODY: Final = Identity()
_KEYLESS_READER: Final = Identity(open_read=True)
_KEYLESS_OWNER: Final = Identity(open_read=True, open_write=True)


def identity_of(claims: dict[str, object], expires_at: float | None) -> Identity:
    """The identity that claims speak of. Raises BadTokenError for a claim of the wrong kind.

    A token without `sub` names nobody: it has its scopes and client ids, and is anonymous in the
    audit trail. An unknown tier is the least one.
    """
    scope = claims.get("scope", "")
    if not isinstance(scope, str) or not _SCOPE(scope):
        raise BadTokenError("its scope claim is no text of scopes with spaces between")
    client_ids = claims.get("client_ids", [])
    if not isinstance(client_ids, list) or not all(_is_name(name) for name in client_ids):
        raise BadTokenError("its client_ids claim is no list of texts")
    tier = _text(claims, "tier")
    return Identity(
        subject=_text(claims, "sub") or "",
        tenant=_text(claims, "tenant"),
        tier=tier if tier is not None and tier in TIERS else LEAST_TIER,
        scopes=frozenset(scope.split()),
        client_ids=frozenset(client_ids),
        expires_at=expires_at,
    )


def auth_failed(message: str) -> Rejection:
    """The answer to a bad credential (RFC 6750 §3.1: invalid_token)."""
    return Rejection("AUTH_FAILED", message, headers=_BAD_TOKEN)


def unauthorized(message: str = "send a token: Authorization: Bearer <token>") -> Rejection:
    """The answer where a credential is needed and none came (RFC 6750 §3: no error code then)."""
    return Rejection("UNAUTHORIZED", message, headers=_BEARER)


def forbidden(message: str, scope: str) -> Rejection:
    """The answer to a good credential without the right, and the scope that would give it."""
    challenge = f'Bearer error="insufficient_scope", scope="{scope}"'
    return Rejection("FORBIDDEN", message, headers=((_CHALLENGE, challenge.encode("ascii")),))


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
    if not isinstance(value, str) or not _is_name(value):
        raise BadTokenError(f"its {name} claim is no text of 1 to {_NAME_LENGTH} characters")
    return value


def _is_name(value: object) -> bool:
    """A text that can stand in a header field, a log line and a record as it is."""
    return isinstance(value, str) and 0 < len(value) <= _NAME_LENGTH and value.isprintable()
