"""What Redis does for limits that gateways share, each an atomic step: two Lua scripts. Pure.

Keys, all with an expiry; the braces keep them together, should keys ever be spread over servers:

- `gateway:{limits}`, a hash: the epoch and the clock of all buckets (below);
- `gateway:{limits}:gateways`, a hash: each gateway, when it was heard last, by how many it would
  divide a limit that it has to keep alone, and how many it knows of;
- `gateway:{limits}:<hash of rule and key>`, a hash: the levels of one rule's buckets, when that
  was, and what each gateway holds of them, until when. No key tells whom it is about.

Why all gateways together never admit more than `capacity + rate * time`: what may still be admitted
is the level in Redis, and tokens that gateways hold, and what a gateway that can't reach Redis may
admit by itself. A bucket is filled only as far as all of that stays within the capacity, and at
only as much of the rate as no gateway uses alone:

- What a gateway holds (a lease) counts towards the capacity until it is told used or given back. A
  lease that has ended counts as used.
- A gateway that was not heard for `silent` counts as one that keeps its share alone: the clock by
  which buckets fill runs slower by that share, and what it may have gathered counts towards the
  capacity. When it is heard again the clock runs as before. After `seen` it is forgotten.
- When nobody is heard, Redis was away for all, and they used all of the rate: the clock stands.
- A gateway that is the only one is different: nobody else is admitting, so the clock runs on, and
  it says what it has used. Another one that comes begins when the first has heard of it.

A Redis that lost its data, or may have (a restart, a failover), is a new epoch: all buckets are
empty, and the share of each gateway that has not come back yet counts as above. It is known by the
run of Redis in the state, and by gateways that remember another epoch. In a Redis that nobody
remembers buckets begin full.

Times are microseconds of Redis' own clock. `alpha` is that clock without the times when nobody was
heard; leases and silence are counted in it. `tau` is what buckets fill by. Commands that come too
late (`not_after`) do nothing: who sent them has given up on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NamedTuple, cast

import hiredis

STATE_KEY: Final = b"gateway:{limits}"
GATEWAYS_KEY: Final = b"gateway:{limits}:gateways"
# How long Redis knows gateways and epoch after the last one was heard: 30 days.
_REMEMBERED_MS: Final = 2_592_000_000
# How long it keeps a bucket that is full: the time for which it reckons with gateways unheard of.
_KEPT_MS: Final = 10_000

_CLOCK: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local NAMES = {'epoch', 'run', 'lost', 'at', 'alpha', 'tau', 'weight', 'length', 'back'}
local function state()
  local said = redis.call('HMGET', KEYS[1], unpack(NAMES))
  if not said[1] then return nil end
  local s = {epoch = said[1], run = said[2]}
  for i = 3, #NAMES do s[NAMES[i]] = tonumber(said[i]) end
  return s
end
-- What time it is: alpha, tau, and which shares are kept alone ({share, since how long}).
local function clock(s, quiet, flat)
  local c = {silent = {}, gateways = {}, count = 0, alone = 0, gap = false}
  local shares = 0
  for i = 1, #flat, 2 do
    local seen, of, knows = string.match(flat[i + 1], '^(%S+) (%d+) (%d+)$')
    c.gateways[flat[i]] = {seen + 0, of + 0, knows + 0}
    c.count = c.count + 1
    if of + 0 > 1 then shares = shares + 1 / of end
  end
  local passed = math.max(0, now - s.at)
  local heard = shares > 0 and math.min(passed, quiet) or passed
  c.alpha, c.tau = s.alpha + heard, s.tau + heard
  for _, gateway in pairs(c.gateways) do
    local length = c.alpha - gateway[1] - quiet
    if gateway[2] > 1 and length > 0 then
      local share = 1 / gateway[2]
      c.tau = c.tau - share * (c.alpha - math.max(s.alpha, gateway[1] + quiet))
      c.alone = c.alone + share
      c.silent[#c.silent + 1] = {share, length}
    end
  end
  c.tau = math.max(c.tau, s.tau)
  if passed > heard then
    c.gap = true
    c.silent[#c.silent + 1] = {math.min(1, shares), passed - heard}
  end
  return c
end
"""

# A gateway is there (or leaves). ARGV: its name, run of Redis, the epoch it knows, by how many it
# divides, a fresh epoch, not_after, silent, seen, whether it leaves, how long all is remembered.
# Says: ok, now, epoch, gateways, whether this one had been forgotten.
_BEAT: Final = (
    _CLOCK
    + """
local own, run, before, of, fresh = ARGV[1], ARGV[2], ARGV[3], ARGV[4] + 0, ARGV[5]
local quiet, forget = ARGV[7] + 0, ARGV[8] + 0
if now > ARGV[6] + 0 then return {'late', now} end
local s = state()
-- A full Redis refuses the first write only: so let it be one that it refuses.
redis.call('HSET', KEYS[1], 'heard', now)
local flat = redis.call('HGETALL', KEYS[2])
local other = s and s.run == run and s.lost == 0 and before ~= '' and before ~= s.epoch
if not s or s.run ~= run or other then
  local lost, missing = (s or before ~= '') and 1 or 0, of
  if s then
    local there = #flat / 2
    for i = 1, #flat, 2 do if flat[i] == own then there = there - 1 end end
    missing = math.max(missing, there + 1)
  end
  -- Who came first has come back, or was never there.
  local share = missing
  if before == '' then missing = missing - 1 end
  s = {epoch = fresh, lost = lost, at = now, alpha = 0, tau = 0, weight = 0, length = 0, back = 0}
  redis.call('DEL', KEYS[1], KEYS[2])
  redis.call('HSET', KEYS[1], 'epoch', fresh, 'run', run, 'lost', lost)
  flat = {}
  if lost == 1 then
    for i = 1, missing do
      flat[2 * i - 1] = 'missing:' .. i
      flat[2 * i] = string.format('%.0f %d %d', -quiet, share, share)
    end
    if missing > 0 then redis.call('HSET', KEYS[2], unpack(flat)) end
  end
end
-- All others that were there ended without a word: whoever begins now finds nobody.
local begins = before == ''
if begins and now - s.at > forget then
  redis.call('DEL', KEYS[2])
  flat = {}
end
local c = clock(s, quiet, flat)
local mine = c.gateways[own]
local forgotten = 0
if not mine and not begins then
  forgotten = before == s.epoch and 1 or 0
  for name, gateway in pairs(c.gateways) do
    if string.sub(name, 1, 8) == 'missing:' then
      mine, forgotten = gateway, 0
      c.gateways[name] = nil
      redis.call('HDEL', KEYS[2], name)
      break
    end
  end
end
-- What was gathered alone is over, but may be used up: it counts towards the capacity of all
-- buckets once more, at this moment.
if c.gap or (mine and mine[2] > 1 and c.alpha - mine[1] > quiet) then
  local left = math.max(0, s.length - (c.tau - s.back))
  local weight, length = left > 0 and s.weight or 0, left
  for _, silent in ipairs(c.silent) do
    weight, length = weight + silent[1], math.max(length, silent[2])
  end
  s.weight, s.length, s.back = math.min(1, weight), length, c.tau
end
local unaware = 0
for name, gateway in pairs(c.gateways) do
  local length = c.alpha - gateway[1]
  if length > forget then redis.call('HDEL', KEYS[2], name) end
  if name ~= own and gateway[3] == 1 and length <= quiet then unaware = 1 end
end
redis.call('HDEL', KEYS[2], own)
local count = redis.call('HLEN', KEYS[2])
if ARGV[9] == '0' then
  count = count + 1
  local value = string.format('%.0f %d %d', c.alpha, math.max(of, count), of)
  redis.call('HSET', KEYS[2], own, value)
end
local function whole(number) return string.format('%.0f', number) end
redis.call('HSET', KEYS[1], 'at', whole(now), 'alpha', whole(c.alpha), 'tau', whole(c.tau),
  'weight', string.format('%.17g', s.weight), 'length', whole(s.length), 'back', whole(s.back))
redis.call('PEXPIRE', KEYS[1], ARGV[10])
redis.call('PEXPIRE', KEYS[2], ARGV[10])
return {'ok', now, s.epoch, count, forgotten, unaware}
"""
)

# Leases of one gateway, for one rule and key each (KEYS[3...]). ARGV: its name, the epoch,
# not_after, silent, how long a lease lasts; then for each key: its expiry in ms, how many tokens
# are waited for, how many of them are of use at least, how many more would be good, how many are
# held, how many come back, and how many buckets follow: capacity, tokens a second, and how high the
# level is at most, by what the gateway knows.
# Says: ok, now, the part of the rate that nobody keeps alone (of 1000), gateways; then for each
# key: tokens granted, held by others, ms until the last of those ends, and the levels that are left
# in thousandths.
_LEASE: Final = (
    _CLOCK
    + """
local own, epoch, quiet, lasts = '@' .. ARGV[1], ARGV[2], ARGV[4] + 0, ARGV[5] + 0
if now > ARGV[3] + 0 then return {'late', now} end
local s = state()
if not s or s.epoch ~= epoch then return {'lost', now} end
local c = clock(s, quiet, redis.call('HGETALL', KEYS[2]))
local gateways = math.max(1, c.count)

-- How a bucket stands when `held` is out, and leases of `ended` ({tokens, ended how long ago}).
local function filled(level, at, capacity, rate, held, ended)
  for _, lease in ipairs(ended) do
    held = held + math.max(0, lease[1] - rate * lease[2] / 1000000)
  end
  level = level + rate * (c.tau - at) / 1000000
  if at < s.back then
    local alone = s.weight * math.min(capacity, rate * s.length / 1000000)
    local then_at_most = math.max(0, capacity - held - alone)
    level = math.min(level, then_at_most + rate * (c.tau - s.back) / 1000000)
  end
  local alone = 0
  for _, silent in ipairs(c.silent) do
    alone = alone + silent[1] * math.min(capacity, rate * silent[2] / 1000000)
  end
  return math.min(level, math.max(0, capacity - held - alone))
end

local function lease(key, at)
  local need, least, want = ARGV[at] + 0, ARGV[at + 1] + 0, ARGV[at + 2] + 0
  local held, gives, buckets = ARGV[at + 3] + 0, ARGV[at + 4] + 0, ARGV[at + 5] + 0
  local flat = redis.call('HGETALL', key)
  local kept, mine, others, until_us, ended = {}, 0, 0, 0, {}
  for i = 1, #flat, 2 do kept[flat[i]] = flat[i + 1] end
  local known = kept.epoch == epoch
  if not known and #flat > 0 then redis.call('DEL', key) end
  if known then
    for name, value in pairs(kept) do
      if string.sub(name, 1, 1) == '@' then
        local tokens, ends = string.match(value, '^(%S+) (%S+)$')
        tokens, ends = tokens + 0, ends + 0
        if ends <= c.alpha then
          ended[#ended + 1] = {tokens, c.alpha - ends}
          redis.call('HDEL', key, name)
        elseif name == own then mine = tokens
        else
          others, until_us = others + tokens, math.max(until_us, ends)
        end
      end
    end
  end
  local then_at = known and kept.at + 0 or 0
  local said = known and string.gmatch(kept.levels, '%S+')
  local still = math.min(held, mine)
  local back = math.min(gives, mine - still)
  local levels, free, ahead = {}, math.huge, math.huge
  for i = 1, buckets do
    local j = at + 3 + 3 * i
    local capacity, rate, at_most = ARGV[j] + 0, ARGV[j + 1] + 0, ARGV[j + 2] + 0
    local level = known and said() + 0 or s.lost == 1 and 0 or capacity
    level = filled(level, then_at, capacity, rate, mine + others, ended)
    level = math.min(level + back - (held - still), at_most, capacity)
    levels[i] = level
    free = math.min(free, math.floor(level + 0.0009765625))
    local share = math.max(level / (2 * gateways), 0.1 * rate / gateways)
    ahead = math.min(ahead, share, capacity / (2 * gateways) - held)
  end
  local granted = 0
  if free >= least then
    granted = math.min(free, math.max(need, math.min(need + want, math.floor(ahead))))
    granted = math.max(0, granted)
  end
  if held + granted > 0 then
    local value = string.format('%.0f %.0f', held + granted, c.alpha + lasts)
    redis.call('HSET', key, own, value)
  else redis.call('HDEL', key, own) end
  local written, reply, full_after = {}, {granted, others, 0}, 0
  if others > 0 then reply[3] = math.ceil((until_us - c.alpha) / 1000) end
  for i, level in ipairs(levels) do
    local j = at + 3 + 3 * i
    written[i] = string.format('%.17g', level - granted)
    reply[3 + i] = math.floor((level - granted) * 1000)
    full_after = math.max(full_after, (ARGV[j] - level + granted) / ARGV[j + 1])
  end
  redis.call('HSET', key, 'epoch', epoch, 'at', string.format('%.0f', c.tau),
    'levels', table.concat(written, ' '))
  -- Twice as long as it takes to be full again: then a bucket is what a new one would be.
  redis.call('PEXPIRE', key, string.format('%.0f', 2000 * full_after + ARGV[6]))
  return reply, at + 6 + 3 * buckets
end

local result, at = {'ok', now, math.floor(1000 * (1 - math.min(1, c.alone)))}, 7
for i = 3, #KEYS do
  result[i + 1], at = lease(KEYS[i], at)
end
return result
"""
)


class Ask(NamedTuple):
    """What a gateway says and wants of one rule and key. Tokens are whole.

    `need` is what is waited for, of which `least` would be of use; `want` is good to have besides;
    `held` stays, `back` is given back, all else that Redis had granted is used. `at_most`: for each
    bucket how high its level can be by what the gateway knows, or None.
    """

    key: bytes
    buckets: Sequence[tuple[int, float]]  # capacity, tokens a second
    need: int
    least: int
    want: int
    held: int
    back: int
    at_most: Sequence[float] | None = None


class Answer(NamedTuple):
    """What became of an `Ask`: tokens granted, held by others and for how long at most (seconds),
    and how many each bucket has left.
    """

    granted: int
    others: int
    others_seconds: float
    left: tuple[float, ...]


class Beat(NamedTuple):
    """What Redis says to a gateway that shows that it is there."""

    epoch: bytes
    gateways: int
    forgotten: bool  # it had not been heard for long, in the same epoch
    is_hidden: bool  # another one, which is there, believes to be alone


class Leases(NamedTuple):
    """What Redis says to asks: how much of the rate no gateway keeps alone, and the answers."""

    live: float
    answers: list[Answer]


class LateError(Exception):
    """Redis did nothing: the command came too late by its clock."""


class LostError(Exception):
    """Redis is in another epoch than the gateway."""


def bucket_key(rule: str, key: int | str) -> bytes:
    """Where Redis keeps a rule's buckets of one key; tells nothing of whose they are."""
    about = f"{rule}\n{type(key).__name__} {key}".encode("utf-8", "surrogatepass")
    return STATE_KEY + b":" + hashlib.sha256(about).hexdigest()[:32].encode()


def loading() -> bytes:
    """The commands that make both scripts known."""
    return _packed("SCRIPT", "LOAD", _BEAT) + _packed("SCRIPT", "LOAD", _LEASE)


def greeting() -> bytes:
    """The commands that ask which run of Redis it is, and what time."""
    return _packed("INFO", "server") + _packed("TIME")


def run_of(info: bytes | None) -> bytes:
    """The run by what INFO says; the same for all when it may not be asked."""
    for line in (info or b"").split(b"\r\n"):
        if line.startswith(b"run_id:"):
            return line[7:]
    return b"-"


def microseconds(said: Sequence[bytes]) -> int:
    """What TIME says."""
    return int(said[0]) * 1_000_000 + int(said[1])


def beating(
    gateway: bytes,
    run: bytes,
    before: bytes,
    of: int,
    fresh: bytes,
    not_after_us: int,
    times_us: tuple[int, int],
    *,
    leaves: bool = False,
) -> bytes:
    """The command of a gateway that is there. `times_us`: when one counts as silent, as gone."""
    return _packed(
        "EVALSHA",
        _name(_BEAT),
        2,
        STATE_KEY,
        GATEWAYS_KEY,
        gateway,
        run,
        before,
        of,
        fresh,
        not_after_us,
        *times_us,
        int(leaves),
        _REMEMBERED_MS,
    )


def leasing(
    gateway: bytes,
    epoch: bytes,
    not_after_us: int,
    silent_us: int,
    lasts_us: int,
    asks: Sequence[Ask],
) -> bytes:
    """The command that asks for leases."""
    words: list[str | bytes | int] = [gateway, epoch, not_after_us, silent_us, lasts_us]
    words.append(_KEPT_MS + lasts_us // 1000)
    for ask in asks:
        words += (ask.need, ask.least, ask.want, ask.held, ask.back, len(ask.buckets))
        for at, (capacity, rate) in enumerate(ask.buckets):
            most = capacity if ask.at_most is None else ask.at_most[at]
            words += (capacity, repr(float(rate)), repr(float(most)))
    keys = [ask.key for ask in asks]
    return _packed("EVALSHA", _name(_LEASE), 2 + len(keys), STATE_KEY, GATEWAYS_KEY, *keys, *words)


def said_now(reply: Sequence[Any]) -> int:
    """Redis' time in what it says to either, whatever else it says."""
    return int(reply[1])


def beat(reply: Sequence[Any]) -> Beat:
    """Read what Redis says to `beating`. Raises LateError."""
    if reply[0] != b"ok":
        raise LateError
    return Beat(reply[2], reply[3], bool(reply[4]), bool(reply[5]))


def leases(reply: Sequence[Any]) -> Leases:
    """Read what Redis says to `leasing`. Raises LateError, LostError."""
    if reply[0] == b"late":
        raise LateError
    if reply[0] == b"lost":
        raise LostError
    return Leases(
        reply[2] / 1000,
        [
            Answer(item[0], item[1], item[2] / 1000, tuple(level / 1000 for level in item[3:]))
            for item in reply[3:]
        ],
    )


@cache
def _name(script: str) -> str:
    """What Redis calls it."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def _packed(*words: str | bytes | int) -> bytes:
    return cast(bytes, hiredis.pack_command(cast(Any, words)))
