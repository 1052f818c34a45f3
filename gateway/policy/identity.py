"""A caller: who it is, and what it may do.

Here are the identity, the verified credential that it came from, and what its names may look like.
Reading credentials is in auth, API keys are in api_keys.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeGuard

import orjson

from sse.event import is_job_stream

TIERS: Final = ("anonymous", "free", "pro", "enterprise")
LEAST_TIER: Final = TIERS[0]
# Between the clocks of who signs and who verifies; longer would let ended tokens live on.
LEEWAY_SECONDS: Final = 30.0
NAME_LENGTH: Final = 255  # OpenID Connect Core §2 on `sub`

_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+").fullmatch
_INTERNAL: Final = "internal"


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller: `subject` is None without a credential, and only then; empty where it names nobody.

    `expires_at` (Unix seconds) is when the credential ends; None: never. `open_read` and
    `open_write` say what is open to this caller without a credential (no signing key is set).
    `jti` is the id by which the credential can be revoked: a token's claim, an API key's id.
    """

    subject: str | None = None
    tenant: str | None = None
    tier: str = LEAST_TIER
    scopes: frozenset[str] = frozenset()
    client_ids: frozenset[str] = frozenset()
    expires_at: float | None = None
    open_read: bool = False
    open_write: bool = False
    jti: str | None = None

    @property
    def name(self) -> str:
        """For records and answers: the subject or `anonymous`."""
        return self.subject or "anonymous"

    @property
    def is_nameless(self) -> bool:
        """Whether it came with a credential that names neither a subject nor a tenant: whoever has
        such a one could be anybody, so nothing can be this caller's own.
        """
        return self.subject == "" and not self.tenant

    def may_read(self, client_id: str) -> bool:
        """Whether the events and questions of this client id are for this caller. A job's are its
        owner's, who has paths of his own for that: no scope and no name gives another's.
        """
        if self.open_read or client_id in self.client_ids:
            return True
        if is_job_stream(client_id):
            return False
        return client_id == self.subject or "events:read" in self.scopes

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
        members: list[object] = [
            self.subject,
            self.tenant,
            self.tier,
            " ".join(sorted(self.scopes)),
            sorted(self.client_ids),
            self.expires_at,
            self.open_read,
            self.open_write,
        ]
        if self.jti is not None:
            members.append(self.jti)
        return urlsafe_b64encode(orjson.dumps(members))

    @classmethod
    def decode(cls, raw: bytes | str) -> Identity:
        """What `encode` wrote; ValueError for anything else."""
        try:
            members = orjson.loads(urlsafe_b64decode(raw))
            subject, tenant, tier, scopes, client_ids, *rest = members
            expires_at, open_read, open_write, *last = rest
            (jti,) = last or (None,)
            return cls(
                subject,
                tenant,
                tier,
                frozenset(scopes.split()),
                frozenset(client_ids),
                expires_at,
                open_read,
                open_write,
                jti,
            )
        except (ValueError, TypeError, AttributeError):
            raise ValueError("not an encoded identity") from None


class Verified(NamedTuple):
    """A credential that was found good: whose it is, and when it holds (Unix seconds, the leeway
    between clocks included).
    """

    identity: Identity
    not_before: float
    ends_at: float


def is_name(value: object) -> TypeGuard[str]:
    """A text that can stand in a header field, a log line and a record as it is. Not with blanks at
    its ends: who reads a field takes them off (RFC 9110 §5.5), and it would be another's name.
    """
    return (
        isinstance(value, str)
        and 0 < len(value) <= NAME_LENGTH
        and value.isprintable()
        and value == value.strip()
    )


def is_scope(value: str) -> bool:
    """One scope-token (RFC 6749 §3.3)."""
    return _SCOPE(value) is not None


def is_scopes(value: object) -> TypeGuard[str]:
    """Scopes with spaces between, or none."""
    return isinstance(value, str) and all(map(is_scope, filter(None, value.split(" "))))
