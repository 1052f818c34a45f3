"""How a browser opens an event stream: a ticket in the URL, once, then a cookie.

An EventSource sends no Authorization field and keeps its URL when it reconnects. So a page asks for
a ticket with its token, opens the stream with the ticket, and gets a *stream grant*: a signed
cookie that is good for this client id's streams and that the reconnects use. Tickets in memory are
here, those in Redis in tickets_redis. The clock is passed in: `wall` is Unix seconds, since a
token's end is one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from typing import Final
from urllib.parse import unquote

from gateway.policy.identity import Identity
from gateway.policy.kept_secret import kept_secret
from gateway.policy.revocations import Revocations
from gateway.policy.signatures import BadTokenError, Signatures, key_bytes
from gateway.settings import Settings

TICKET_SECONDS: Final = 30
# A ticket lives 30 s: 10,000 of them are 333 page loads a second. Some 500 bytes each.
MAX_TICKETS: Final = 10_000
COOKIE_NAME: Final = "gateway_stream"
# Of a credential without an end (no token has none): a working day, so that a cookie on a shared
# machine does not outlive its owner's presence by much.
ENDLESS_GRANT_SECONDS: Final = 12 * 3600
KEY_FILE: Final = "stream-cookie.key"

_TICKET_BYTES: Final = 32  # 256 bits: nobody guesses one in 30 s, nor in 30 years
_MAX_VALUES: Final = 4  # cookies of our name that are tried; a browser sends one for a path
_WRITTEN: Final = re.compile(r"[A-Za-z0-9._~:@%-]{1,384}").fullmatch  # 128 characters, all as %XX
_PATH: Final = re.compile(r"/[A-Za-z0-9._~:@%/-]{1,511}").fullmatch


class TicketsAwayError(ConnectionError):
    """Where the tickets are kept can't be reached; asking again does no harm."""


class Tickets:
    """Tickets in memory, for one process: each opens one client id's stream once, within 30 s.

    At most 10,000 are kept, of which the oldest go first.
    """

    __slots__ = ("_issued", "_revocations")

    def __init__(self, revocations: Revocations | None = None) -> None:
        self._issued: OrderedDict[bytes, tuple[float, Identity]] = OrderedDict()
        self._revocations = revocations if revocations is not None else Revocations()

    def __repr__(self) -> str:
        return f"<Tickets {len(self._issued)}>"

    def __len__(self) -> int:
        """Tickets kept now, those that ran out and were not met since among them."""
        return len(self._issued)

    def issue(self, identity: Identity, client_id: str, wall: float) -> str:
        """A new ticket with the rights of `identity`, for the streams of `client_id` only."""
        issued = self._issued
        while issued:
            oldest = next(iter(issued))
            if len(issued) < MAX_TICKETS and wall < issued[oldest][0]:
                break
            del issued[oldest]
        ticket = new_ticket()
        issued[ticket_key(ticket, client_id)] = (wall + TICKET_SECONDS, identity)
        return ticket

    def clear(self) -> None:
        """Forget all: the keys that their owners' tokens were signed with are others now."""
        self._issued.clear()

    def redeem(self, ticket: str, client_id: str, wall: float) -> Identity | None:
        """Whose ticket it is, once; None when it is used, too old, another client id's or none, or
        when its owner's token has ended or was revoked.
        """
        kept = self._issued.pop(ticket_key(ticket, client_id), None)
        if kept is None or wall >= kept[0] or kept[1].has_ended(wall):
            return None
        return None if self._revocations.is_revoked(kept[1].jti) else kept[1]


def new_ticket() -> str:
    """43 characters that a URL takes as they are."""
    return secrets.token_urlsafe(_TICKET_BYTES)


def ticket_key(ticket: str, client_id: str) -> bytes:
    """Under what a ticket is kept. It needs both, so a ticket for one client id is unknown for any
    other, and what is kept opens nothing.
    """
    both = f"{client_id} {ticket}"
    return hashlib.sha256(both.encode("utf-8", "surrogatepass")).digest()


class StreamGrants:
    """Signed cookies, each good for the event streams of one client id until its owner's token
    ends.

    A grant holds who the owner is and the one right to read that client id, not the owner's other
    rights: a cookie is all that a thief needs, and a browser keeps at most 4 KiB of one. It is
    refused when the credential that it came from was revoked.
    """

    __slots__ = ("_revocations", "_signatures")

    def __init__(self, key: str, revocations: Revocations | None = None) -> None:
        """`key` is a secret of this use only: see `grant_key`."""
        self._signatures = Signatures(key)
        self._revocations = revocations if revocations is not None else Revocations()

    def set_cookie(
        self,
        identity: Identity,
        client_id: str,
        wall: float,
        *,
        secure: bool,
        written: str | None = None,
        path: str | None = None,
    ) -> bytes | None:
        """The value of a Set-Cookie field (RFC 6265 §4.1); None where the caller has no credential:
        then reading is open, and must not stay so for a cookie once a key is set.

        `written` is the client id as the path of the request has it, for browsers compare paths
        byte for byte and send `a%40b` as it stands in the page's URL; `path` is the whole path,
        where it is another one. `secure`: it came by TLS. Raises ValueError when `written` is not
        the client id, or `path` no path that a cookie can name.
        """
        written = client_id if written is None else written
        if not _WRITTEN(written) or unquote(written) != client_id:
            raise ValueError("written must be the client id, percent-encoded or not")
        path = f"/api/v1/events/{written}" if path is None else path
        if not _PATH(path):
            raise ValueError("a cookie's path has no character that ends it")
        if identity.subject is None:
            return None
        ends_at = identity.expires_at
        claims = {
            "client_id": client_id,
            "sub": identity.subject,
            "tenant": identity.tenant,
            "tier": identity.tier,
            "exp": wall + ENDLESS_GRANT_SECONDS if ends_at is None else ends_at,
        }
        if identity.jti is not None:
            claims["jti"] = identity.jti
        parts = [f"{COOKIE_NAME}={self._signatures.sign(claims)}"]
        parts.append(f"Path={path}")
        if ends_at is not None:  # else the browser drops it with its session
            parts.append(f"Max-Age={max(0, int(ends_at - wall))}")
        parts += ["HttpOnly", "SameSite=Strict"]
        if secure:
            parts.append("Secure")
        return "; ".join(parts).encode("ascii")

    def read(self, cookie: bytes | None, client_id: str, wall: float) -> Identity | None:
        """The owner of the grant in a Cookie field, reduced to reading `client_id`; None: no grant,
        a forged or ended one, or one for another client id.
        """
        if cookie is None:
            return None
        prefix = f"{COOKIE_NAME}=".encode("ascii")
        pairs = (pair.strip() for pair in cookie.split(b";"))
        values = [pair.removeprefix(prefix) for pair in pairs if pair.startswith(prefix)]
        for value in values[:_MAX_VALUES]:
            identity = self._owner(value, client_id, wall)
            if identity is not None:
                return identity
        return None

    def _owner(self, value: bytes, client_id: str, wall: float) -> Identity | None:
        try:
            claims = self._signatures.claims(value)
        except BadTokenError:
            return None
        subject, tenant, tier = claims.get("sub"), claims.get("tenant"), claims.get("tier")
        ends_at, jti = claims.get("exp"), claims.get("jti")
        if (
            claims.get("client_id") != client_id
            or not isinstance(ends_at, int | float)
            or wall >= ends_at
            or not isinstance(subject, str)
            or not isinstance(tenant, str | None)
            or not isinstance(tier, str)
            or not isinstance(jti, str | None)
            or self._revocations.is_revoked(jti)
        ):
            return None
        return Identity(
            subject,
            tenant,
            tier,
            client_ids=frozenset((client_id,)),
            expires_at=float(ends_at),
            jti=jti,
        )


def grant_key(settings: Settings) -> str:
    """The key of stream grants: from COOKIE_SECRET, else one that is made once in STATE_DIR.

    It is derived with a label and the keys that tokens are signed with: neither secret signs
    anything else, a cookie is never a token, and new keys end the cookies of the old ones. Gateways
    on several machines need COOKIE_SECRET to know each other's cookies. Reads and perhaps writes a
    file; raises SettingsError when it can't.
    """
    secret = settings.cookie_secret
    if secret is None:
        secret = kept_secret(settings.state_dir / KEY_FILE, "COOKIE_SECRET")
    label = "\0".join((COOKIE_NAME, settings.jwt_secret or "", settings.jwt_public_key or ""))
    return hmac.new(key_bytes(secret), label.encode(), "sha256").hexdigest()
