"""Keys of repeated publications that several gateways share, in Redis.

The rules, and what an attempt is, are in `idempotency.py`; here they are three Lua scripts, each
one atomic step, over two Redis keys: a hash of what is known of each idempotency key, and a sorted
set of when, which bounds the hash. Both expire when nobody publishes with a key for a day. Not
here: the publication itself, which is a step of its own. So a gateway that dies between publishing
and `finish` leaves a claim that lapses, and a repeat after that publishes again.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from sse.event import BackplaneAwayError
from sse.idempotency import (
    KEEP_SECONDS,
    KEYS,
    UNDER_WAY_SECONDS,
    IdempotencyKeys,
    Stored,
    key_id,
    other_body,
    under_way,
)

ENTRIES: Final = "gateway:idempotency:entries"
SINCE: Final = "gateway:idempotency:since"
_BOTH: Final = [ENTRIES, SINCE]

# A publisher waits for it; a Redis that takes longer is as good as away.
TIMEOUT_SECONDS: Final = 2.0
# Failed attempts of this gateway that Redis could not be told of; the newest count.
UNTOLD: Final = 1_000

# An entry is a letter (U: under way, D: done), 16 bytes of the attempt, 16 of the body's digest,
# then the answer.
_BEGIN: Final = """
local id, digest, attempt = ARGV[1], ARGV[2], ARGV[3]
local now, keep, under_way, most = ARGV[4] + 0, ARGV[5] + 0, ARGV[6] + 0, ARGV[7] + 0
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('UNLINK', KEYS[1]) end
local entry = redis.call('HGET', KEYS[1], id)
local since = redis.call('ZSCORE', KEYS[2], id)
if entry and since then
  local done = string.sub(entry, 1, 1) == 'D'
  local own = not done and string.sub(entry, 2, 17) == attempt
  local limit = done and keep or under_way
  if not own and now - since < limit then
    if string.sub(entry, 18, 33) ~= digest then return {'other'} end
    if done then return {'done', string.sub(entry, 34)} end
    return {'busy'}
  end
end
local function drop(ids)
  for _, old in ipairs(ids) do
    redis.call('HDEL', KEYS[1], old)
    redis.call('ZREM', KEYS[2], old)
  end
end
drop({id})
local lapsed = string.format('%.17g', now - keep)
drop(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', lapsed, 'LIMIT', 0, 100))
local over = redis.call('ZCARD', KEYS[2]) - most + 1
if over > 0 then drop(redis.call('ZRANGE', KEYS[2], 0, over - 1)) end
redis.call('HSET', KEYS[1], id, 'U' .. attempt .. digest)
redis.call('ZADD', KEYS[2], ARGV[4], id)
redis.call('EXPIRE', KEYS[1], math.ceil(keep))
redis.call('EXPIRE', KEYS[2], math.ceil(keep))
return {'go'}
"""

_FINISH: Final = """
local id, attempt, answer, now, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5] + 0
local entry = redis.call('HGET', KEYS[1], id)
if entry and string.sub(entry, 1, 17) == 'U' .. attempt then
  redis.call('HSET', KEYS[1], id, 'D' .. string.sub(entry, 2, 33) .. answer)
  redis.call('ZADD', KEYS[2], now, id)
  redis.call('EXPIRE', KEYS[1], math.ceil(keep))
  redis.call('EXPIRE', KEYS[2], math.ceil(keep))
end
"""

_FORGET: Final = """
local entry = redis.call('HGET', KEYS[1], ARGV[1])
if entry and string.sub(entry, 1, 17) == 'U' .. ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
end
"""

_AWAY: Final = (RedisError, OSError, TimeoutError)


class SharedIdempotencyKeys:
    """The keys of all gateways on one Redis: the newest `max_keys`, each for `keep_seconds`.

    With `strict` an attempt can't begin while Redis is away; else it is held against the keys of
    this gateway alone. `client` must give bytes (no `decode_responses`); its owner closes it.
    Gateways' clocks should agree to a few seconds.
    """

    def __init__(
        self,
        client: Redis,
        *,
        strict: bool,
        max_keys: int = KEYS,
        keep_seconds: float = KEEP_SECONDS,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._begin = client.register_script(_BEGIN)
        self._finish = client.register_script(_FINISH)
        self._forget = client.register_script(_FORGET)
        self._strict = strict
        self._max_keys = max_keys
        self._keep_seconds = keep_seconds
        self._timeout_seconds = timeout_seconds
        self._alone = IdempotencyKeys(max_keys, keep_seconds)
        # The attempt and the digest of what is under way here: as many as there are requests.
        self._attempts: dict[bytes, tuple[bytes, bytes]] = {}
        self._abandoned: OrderedDict[bytes, bytes] = OrderedDict()

    def __repr__(self) -> str:
        return (
            f"<SharedIdempotencyKeys under_way={len(self._attempts)}"
            f" abandoned={len(self._abandoned)} alone={len(self._alone)}>"
        )

    async def begin(self, scope: str, key: str, digest: bytes, now: float) -> Stored | None:
        """As `IdempotencyKeys.begin`; `now` is Unix time in seconds.

        Each attempt that began must come to `finish` or `forget`. Raises BackplaneAwayError when
        `strict` and Redis is away.
        """
        if (scope, key) in self._alone:
            return self._alone.begin(scope, key, digest, now)
        at = key_id(scope, key)
        if at in self._attempts:
            if self._attempts[at][1] != digest:
                raise other_body()
            raise under_way()
        # With the name of an attempt that Redis could not be told the end of, its claim is ours.
        attempt = self._abandoned.pop(at, None) or os.urandom(16)
        keep_seconds, max_keys = self._keep_seconds, self._max_keys
        try:
            async with asyncio.timeout(self._timeout_seconds):
                said, *answer = await self._begin(
                    _BOTH, [at, digest, attempt, now, keep_seconds, UNDER_WAY_SECONDS, max_keys]
                )
        except (*_AWAY, asyncio.CancelledError) as error:
            # Redis may have taken it and only its reply was lost.
            self._abandon(at, attempt)
            if isinstance(error, asyncio.CancelledError):
                raise
            if self._strict:
                raise BackplaneAwayError("Redis, which holds the keys, is away") from error
            return self._alone.begin(scope, key, digest, now)
        if said == b"done":
            return Stored(answer[0])
        if said == b"other":
            raise other_body()
        if said == b"busy":
            raise under_way()
        self._attempts[at] = (attempt, digest)
        return None

    async def finish(self, scope: str, key: str, answer: bytes, now: float) -> None:
        """Keep the answer of the attempt that began.

        The publication stands, so this never fails: when Redis is away the answer is kept for
        repeats that come to this gateway.
        """
        at = key_id(scope, key)
        attempt, digest = self._attempts.get(at, (b"", b""))
        if not attempt:
            self._alone.finish(scope, key, answer, now)
            return
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._finish(_BOTH, [at, attempt, answer, now, self._keep_seconds])
        except (*_AWAY, asyncio.CancelledError) as error:
            self._alone.keep(scope, key, digest, answer, now)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self._attempts.pop(at, None)

    async def forget(self, scope: str, key: str) -> None:
        """The attempt came to nothing: the key is free again.

        This never fails: the next attempt here takes the claim over that Redis could not be told
        the end of; elsewhere it lapses.
        """
        at = key_id(scope, key)
        attempt, _ = self._attempts.get(at, (b"", b""))
        if not attempt:
            self._alone.forget(scope, key)
            return
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._forget(_BOTH, [at, attempt])
        except (*_AWAY, asyncio.CancelledError) as error:
            self._abandon(at, attempt)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self._attempts.pop(at, None)

    def _abandon(self, at: bytes, attempt: bytes) -> None:
        """Remember that the claim of this attempt, if Redis has it, holds nobody up."""
        self._abandoned[at] = attempt
        self._abandoned.move_to_end(at)
        if len(self._abandoned) > UNTOLD:
            self._abandoned.popitem(last=False)
