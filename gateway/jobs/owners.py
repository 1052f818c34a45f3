"""Whose job it is, told by its id alone. Pure.

An operation id is `{tag}-{rest}`: the tag is a keyed hash of the owner (the tenant, or the subject
of who has none), so it names nobody, and another's id is refused before anyone asks Temporal. It is
made with the current payload key; ids from before a rotation hold as long as their key is there.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from gateway.policy.identity import Identity
from sse.event import OPERATION_ID

TAG_LENGTH: Final = 16
SEAL_BYTES: Final = 16
_ID: Final = re.compile(OPERATION_ID).fullmatch


class Owners:
    """Knows owners by keys of `PayloadKeys.derive(b"job owner")`, the current one first."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        if not keys:
            raise ValueError("owners need a key")
        self._keys = tuple(keys.values())

    def __repr__(self) -> str:
        return f"<Owners {len(self._keys)} keys>"

    def tag(self, identity: Identity) -> str:
        """What the ids of this caller's new jobs begin with: 16 hex digits. Raises ValueError for
        a credential that names nobody, whose jobs would be those of all callers without one.
        """
        return _tag(self._keys[0], identity)

    def tags(self, identity: Identity) -> tuple[str, ...]:
        """What the ids of all jobs of this caller begin with, the current one first. Raises
        ValueError as `tag` does.
        """
        return tuple(dict.fromkeys(_tag(key, identity) for key in self._keys))

    def owns(self, identity: Identity, operation_id: str) -> bool:
        """Whether a job of this id would be this caller's; false for what is no id, and for a
        credential that names nobody: others have such a one too.
        """
        match = _ID(operation_id)
        if match is None or identity.is_nameless:
            return False
        tag = match["tag"]
        return any(hmac.compare_digest(tag, own) for own in self.tags(identity))

    def seal(self, text: bytes) -> bytes:
        """A mark by which `is_sealed` knows what was made here, 16 bytes."""
        return _seal(self._keys[0], text)

    def is_sealed(self, text: bytes, mark: bytes) -> bool:
        """Whether the mark is `text`'s, made with any of the keys."""
        return any(hmac.compare_digest(mark, _seal(key, text)) for key in self._keys)


def rest_for_key(route: str, key: str) -> str:
    """What an Idempotency-Key makes of an operation id, behind the tag. A key has no line end."""
    return sha256(f"{key}\n{route}".encode(errors="surrogatepass")).hexdigest()[:32]


def _seal(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, b"sealed:" + text, "sha256")[:SEAL_BYTES]  # no owner begins so


def _tag(key: bytes, identity: Identity) -> str:
    if identity.tenant:
        owner = f"t:{identity.tenant}"
    elif identity.subject:
        owner = f"s:{identity.subject}"
    elif identity.is_nameless:
        raise ValueError("a credential that names nobody owns no jobs")
    else:
        owner = ""
    return hmac.digest(key, owner.encode(errors="surrogatepass"), "sha256").hex()[:TAG_LENGTH]
