"""Publishing the same thing twice by repeating a request: keys that make it happen once. Pure.

A client sends `Idempotency-Key` with a publication; a repeat with the same key and body gets the
first answer again and publishes nothing (draft-ietf-httpapi-idempotency-key-header-07). Here is the
table of one gateway, with the clock passed in; the one that gateways share is in
`idempotency_redis.py`. Not here: keys of answers to questions, which live as long as those.

An attempt is `begin`, then `finish` with its answer, or `forget` when nothing came of it (4xx,
503), which leaves the key free for the next.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from sse.event import Refused

# An answer has up to 100 ids, about 3 KB: 30 MB at the very most, 2 MB for single events.
KEYS: Final = 10_000
KEEP_SECONDS: Final = 86_400.0
# An attempt that neither finished nor was forgotten by then has died with whoever made it.
# Far above what publishing takes before it gives up.
UNDER_WAY_SECONDS: Final = 30.0

# Visible ASCII (RFC 5234, VCHAR). The draft's quotes, when a client sends them, belong to the key.
_is_key: Final = re.compile(rb"[!-~]{1,255}").fullmatch


@dataclass(frozen=True, slots=True)
class Stored:
    """The first answer to a key: the body to send again."""

    answer: bytes


@dataclass(slots=True)
class _Entry:
    """What is known of a key; `answer` is None while its attempt is under way."""

    digest: bytes
    since: float
    answer: bytes | None = None


def read_key(field: bytes) -> str:
    """The key in the header field's value; raises Refused (BAD_REQUEST) when it is none."""
    if _is_key(field) is None:
        raise Refused(
            "BAD_REQUEST",
            "The Idempotency-Key is not 1 to 255 visible ASCII characters; send a UUID, for"
            " instance, a new one for each publication.",
        )
    return field.decode("ascii")


def publishing_scope(client_id: str, subject: str | None, address: str) -> str:
    """Whose keys and for what: two callers, or two client ids, never share one.

    A caller without a credential is known by `address`. A client id has no space, so the parts
    can't run into each other.
    """
    caller = f"address {address}" if subject is None else f"subject {subject}"
    return f"{client_id} {caller}"


def body_digest(body: bytes) -> bytes:
    """What is kept of a request to tell whether a repeat is the same: 16 bytes, not the body."""
    return blake2b(body, digest_size=16).digest()


def key_id(scope: str, key: str) -> bytes:
    """The name of a scope's key in a table, short whatever their lengths: 16 bytes.

    A key has no space, so it ends where the scope begins.
    """
    named = f"{key} {scope}".encode(errors="surrogatepass")  # a subject may be any JSON string
    return blake2b(named, digest_size=16).digest()


def under_way() -> Refused:
    """The refusal of a repeat that came before the first answer."""
    return Refused(
        "CONFLICT",
        "The first request with this Idempotency-Key is still under way; repeat this one in a"
        " second to get its answer.",
    )


def other_body() -> Refused:
    """The refusal of a key that belongs to another body."""
    return Refused(
        "UNPROCESSABLE",
        "This Idempotency-Key was used with another body; a new publication needs a new key.",
    )


class IdempotencyKeys:
    """The keys of one gateway: the newest `max_keys`, each for `keep_seconds`.

    `now` is Unix time in seconds. A key counts from its attempt's end; when the table is full the
    oldest goes, even one under way (its repeat is then a new publication).
    """

    def __init__(self, max_keys: int = KEYS, keep_seconds: float = KEEP_SECONDS) -> None:
        if max_keys < 1:
            raise ValueError("max_keys must be at least 1")
        self._max_keys = max_keys
        self._keep_seconds = keep_seconds
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()  # by `since`, oldest first

    def __repr__(self) -> str:
        under_way = sum(entry.answer is None for entry in self._entries.values())
        return f"<IdempotencyKeys {len(self)}/{self._max_keys} under_way={under_way}>"

    def __len__(self) -> int:
        """Keys remembered, those lapsed but not yet given up among them."""
        return len(self._entries)

    def __contains__(self, scope_and_key: tuple[str, str]) -> bool:
        """Whether anything is remembered of this scope's key."""
        return key_id(*scope_and_key) in self._entries

    def keep(self, scope: str, key: str, digest: bytes, answer: bytes, now: float) -> None:
        """Remember an attempt that was begun and answered elsewhere."""
        self._put(key_id(scope, key), _Entry(digest, now, answer))

    def begin(self, scope: str, key: str, digest: bytes, now: float) -> Stored | None:
        """None: go on and publish. Stored: it was done before, answer with that.

        `digest` is the body's. Raises Refused: CONFLICT while the first attempt is under way,
        UNPROCESSABLE when the key came with another body.
        """
        self._give_up(now)
        at = key_id(scope, key)
        entry = self._entries.get(at)
        if entry is not None and not self._lapsed(entry, now):
            if entry.digest != digest:
                raise other_body()
            if entry.answer is None:
                raise under_way()
            return Stored(entry.answer)
        self._put(at, _Entry(digest, now))
        return None

    def finish(self, scope: str, key: str, answer: bytes, now: float) -> None:
        """Keep the answer of the attempt that began; nothing when it was given up meanwhile."""
        at = key_id(scope, key)
        entry = self._entries.get(at)
        if entry is None:
            return
        entry.answer = answer
        entry.since = now
        self._entries.move_to_end(at)

    def forget(self, scope: str, key: str) -> None:
        """The attempt came to nothing: the key is free again. Does nothing to a finished one."""
        at = key_id(scope, key)
        entry = self._entries.get(at)
        if entry is not None and entry.answer is None:
            del self._entries[at]

    def _put(self, at: bytes, entry: _Entry) -> None:
        self._entries.pop(at, None)
        if len(self._entries) >= self._max_keys:
            self._entries.popitem(last=False)
        self._entries[at] = entry

    def _lapsed(self, entry: _Entry, now: float) -> bool:
        limit = UNDER_WAY_SECONDS if entry.answer is None else self._keep_seconds
        return now - entry.since >= limit

    def _give_up(self, now: float) -> None:
        """Drop what lapsed, from the oldest: two a call, so that no call is a long one and the
        table still shrinks.
        """
        for _ in range(2):
            oldest = next(iter(self._entries.values()), None)
            if oldest is None or now - oldest.since < self._keep_seconds:
                return
            self._entries.popitem(last=False)
