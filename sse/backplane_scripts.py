"""What Redis does for the backplane, each an atomic step: a few Lua scripts. Pure.

Keys, all with an expiry, for a client id:

- `gateway:state:<id>`: epoch, newest number, bytes retained and `life`, with spaces between;
- `gateway:events:<id>`, a list: what is retained, the newest last, without `id:` lines. Numbers
  have no holes, so the newest number and the length say which is which, and a list needs
  no ids of its own, as a Redis Stream would.
- `gateway:readers:<id>`, a hash: for each gateway how many read there, and until when that counts.

And `gateway:batches:<gateway>`, what the last batches of a gateway came to, so that those whose
answers were lost can be sent again; `gateway:publication:<name>`, the same of a publication with a
name.
A nudge goes to the channel `gateway:<database>:<id>`: channels are common to all databases.

A Redis that comes back with an older state (a snapshot, an append-only file without its last
second, a replica that was behind) would give numbers a second time. So each history belongs to one
`life` of Redis; what is left of it in the next gets another epoch and is numbered anew. Only where
every write is synced before it is answered (`appendfsync always`) a restart is no new life. All
gateways agree on it by `gateway:life`: the run of Redis, its life, and whom it followed before.

The keys are made in the scripts, which a Redis Cluster does not allow: it is not supported.
Redis 5 or newer (streams; scripts that ask for the time before they write).
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NamedTuple, cast

import hiredis

# How long Redis knows a publication by its name: a client repeats within that.
REMEMBERED_MS: Final = 120_000
# How long Redis knows its life after the last gateway connected: 30 days.
REMEMBERED_LIFE_MS: Final = 2_592_000_000
# Batches of a gateway under way: one in Redis, the next behind it.
DEPTH: Final = 2

# Sizes count 20 bytes for the `id:` line, which the ring counts too.
_STATE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function living(told)
  local said = redis.call('GET', 'gateway:life')
  if not said then
    said = told
    redis.call('SET', 'gateway:life', said, 'PX', LIFE_MS)
  end
  return string.match(said, ' (%S+) ')
end
local function stands(state, events, life)
  local said = redis.call('GET', state)
  if said then
    local epoch, seq, bytes, lived = string.match(said, '^(%S+) (%d+) (%d+) (%S+)$')
    if lived == life then return epoch, seq + 0, bytes + 0 end
    if lived then return nil, redis.call('LLEN', events), bytes + 0 end
  end
  -- A script that has written is never told that Redis is full.
  if redis.call('EXISTS', events) == 1 then redis.call('DEL', events) end
  return nil, 0, 0
end
local function others(id, own)
  local count, readers = 0, 'gateway:readers:' .. id
  local fields = redis.call('HGETALL', readers)
  for i = 1, #fields, 2 do
    local there, till = string.match(fields[i + 1], '^(%d+) (%d+)$')
    if till + 0 <= now then redis.call('HDEL', readers, fields[i])
    elseif fields[i] ~= own then count = count + there end
  end
  return count
end
""".replace("LIFE_MS", str(REMEMBERED_LIFE_MS))

PUBLISH: Final = (
    _STATE
    + """
local gateway, batch, again, channel = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local most, most_bytes, ttl = ARGV[5] + 0, ARGV[6] + 0, ARGV[7]
local not_after, remembered = ARGV[8] + 0, ARGV[9]
local memory, place = 'gateway:batches:' .. gateway, batch % DEPTH
if again == '1' then
  local kept = redis.call('HGET', memory, place)
  if kept then
    local number, result = unpack(cmsgpack.unpack(kept))
    if number == batch then
      result[1] = now
      return result
    end
  end
end
if now > not_after then return {now} end

local life = living(ARGV[10])
local function append(at, id, fresh, count, listening, name)
  local publication = name ~= '-' and 'gateway:publication:' .. name
  if publication then
    local known = redis.call('GET', publication)
    if known then
      local epoch, first = string.match(known, '^(%S+) (%d+)$')
      return epoch, first + 0, others(id, gateway)
    end
  end
  local state, events = 'gateway:state:' .. id, 'gateway:events:' .. id
  local epoch, seq, bytes = stands(state, events, life)
  epoch = epoch or fresh
  local first, kept = seq + 1, 0
  for i = at + 1, at + count, 1000 do
    kept = redis.call('RPUSH', events, unpack(ARGV, i, math.min(i + 999, at + count)))
  end
  if kept == count then bytes = 0 end
  for i = at + 1, at + count do bytes = bytes + #ARGV[i] + 20 end
  while kept > 1 and (kept > most or bytes > most_bytes) do
    bytes = bytes - #redis.call('LPOP', events) - 20
    kept = kept - 1
  end
  local said = epoch .. ' ' .. (seq + count) .. ' ' .. bytes .. ' ' .. life
  redis.call('SET', state, said, 'PX', ttl)
  redis.call('PEXPIRE', events, ttl)
  if publication then redis.call('SET', publication, epoch .. ' ' .. first, 'PX', remembered) end
  local nudge = epoch .. ' ' .. first .. ' ' .. count .. '\\n'
  nudge = nudge .. table.concat(ARGV, '', at + 1, at + count)
  local heard = redis.call('PUBLISH', channel .. id, nudge)
  return epoch, first, heard > listening and others(id, gateway) or 0
end

local result, at = {now}, 11
while at <= #ARGV do
  local id, fresh, count, listening, name =
    string.match(ARGV[at], '^(%S+) (%S+) (%d+) (%d) (%S+)$')
  local ok, epoch, first, readers = pcall(append, at, id, fresh, count + 0, listening + 0, name)
  if not ok then
    first = type(epoch) == 'table' and epoch.err or tostring(epoch)
    epoch, readers = '', 0
  end
  result[#result + 1] = epoch
  result[#result + 1] = first
  result[#result + 1] = readers
  at = at + 1 + count
end
redis.call('HSET', memory, place, cmsgpack.pack({batch, result}))
redis.call('PEXPIRE', memory, remembered)
return result
""".replace("DEPTH", str(DEPTH))
)

# Says where histories stand, for readers here; begins those that no gateway has begun.
VISIT: Final = (
    _STATE
    + """
local own, ttl, counts_ms, life = ARGV[1], ARGV[2], ARGV[3] + 0, living(ARGV[4])
local result = {}
for at = 5, #ARGV do
  local id, fresh, readers = string.match(ARGV[at], '^(%S+) (%S+) (%d+)$')
  local state, events = 'gateway:state:' .. id, 'gateway:events:' .. id
  local counts = 'gateway:readers:' .. id
  local epoch, seq, bytes = stands(state, events, life)
  if readers == '0' then
    redis.call('HDEL', counts, own)
  else
    if not epoch then
      epoch = fresh
      redis.call('SET', state, epoch .. ' ' .. seq .. ' ' .. bytes .. ' ' .. life)
    end
    redis.call('HSET', counts, own, readers .. ' ' .. (now + counts_ms))
    redis.call('PEXPIRE', counts, counts_ms)
  end
  redis.call('PEXPIRE', state, ttl)
  redis.call('PEXPIRE', events, ttl)
  result[#result + 1] = epoch or ''
  result[#result + 1] = seq
  result[#result + 1] = bytes
end
return result
"""
)

LOAD: Final = """
local result = {}
for at, id in ipairs(ARGV) do
  local said = redis.call('GET', 'gateway:state:' .. id)
  if said then
    local epoch, seq = string.match(said, '^(%S+) (%d+)')
    result[at] = {epoch, seq + 0, redis.call('LRANGE', 'gateway:events:' .. id, 0, -1)}
  else
    result[at] = {'', 0, {}}
  end
end
return result
"""


_LIFE: Final = """
local run, whole, followed, remembered = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local said = redis.call('GET', 'gateway:life')
local life = run
if said then
  local last, known, behind = string.match(said, '^(%S+) (%S+) (%S+)$')
  if last == run or whole == '1' and behind == followed then life = known end
end
local now = run .. ' ' .. life .. ' ' .. followed
if said == now then
  redis.call('PEXPIRE', 'gateway:life', remembered)
else
  redis.call('SET', 'gateway:life', now, 'PX', remembered)
end
return now
"""


class Place(NamedTuple):
    """Where a history stands: epoch ("" when there is none), newest number, bytes retained."""

    epoch: str
    seq: int
    size_bytes: int


class History(NamedTuple):
    """A whole history: its events without their `id:` lines, numbered from `first`."""

    epoch: str
    first: int
    bodies: list[bytes]
    last: int


class Nudge(NamedTuple):
    """What a gateway hears of a publication: the events themselves."""

    epoch: str
    first: int
    bodies: list[bytes]


def run(info: bytes, appendfsync: bytes) -> tuple[bytes, int, bytes]:
    """This run of Redis, by what INFO says: its name, whether it begins with all that the last one
    was given, and the name of the primary that it followed before it was one.
    """
    said = dict(line.split(b":", 1) for line in info.split(b"\r\n") if b":" in line)
    whole = said.get(b"aof_enabled") == b"1" and appendfsync == b"always"
    return said.get(b"run_id") or b"-", int(whole), said.get(b"master_replid2") or b"-"


def fresh_epochs(count: int) -> list[bytes]:
    """Names for histories that may begin: eight of `a-z2-7`, drawn at random."""
    drawn = base64.b32encode(os.urandom(5 * count)).lower()
    return [drawn[at : at + 8] for at in range(0, 8 * count, 8)]


def loading(script: str) -> bytes:
    """The command that makes a script known."""
    return _packed("SCRIPT", "LOAD", script)


def calling(script: str, *arguments: bytes | int) -> bytes:
    """The command that runs a script that is known."""
    return _packed("EVALSHA", _name(script), 0, *arguments)


@cache
def _name(script: str) -> str:
    """What Redis calls it."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def subscribing(channels: Sequence[bytes], *, ends: bool = False) -> bytes:
    """The command that begins, or ends, hearing nudges."""
    return _packed("UNSUBSCRIBE" if ends else "SUBSCRIBE", *channels)


def asking_info() -> bytes:
    """The command whose answer `run` reads."""
    return _packed("INFO")


def asking_life(name: bytes, whole: int, followed: bytes) -> bytes:
    """The command whose answer is what `gateway:life` says from now on."""
    return _packed("EVAL", _LIFE, 0, name, whole, followed, REMEMBERED_LIFE_MS)


def asking_appendfsync() -> bytes:
    """The command whose answer is the name of that setting and its value."""
    return _packed("CONFIG", "GET", "appendfsync")


def pinging() -> bytes:
    """The command that any Redis answers at once, on any connection."""
    return _packed("PING")


def _packed(*words: str | bytes | int) -> bytes:
    return cast(bytes, hiredis.pack_command(cast(Any, words)))


def group(client_id: str, epoch: bytes, count: int, name: str, *, listening: bool) -> bytes:
    """The argument in front of the events of one client id in a call of PUBLISH.

    `listening`: this gateway hears the nudge too.
    """
    about = (client_id.encode(), epoch, count, listening, name.encode() or b"-")
    return b"%b %b %d %d %b" % about


def visits(readers: Sequence[tuple[str, int]]) -> list[bytes]:
    """The arguments of VISIT: client ids and how many read them here."""
    epochs = fresh_epochs(len(readers))
    return [
        b"%b %b %d" % (client_id.encode(), epoch, count)
        for (client_id, count), epoch in zip(readers, epochs, strict=True)
    ]


def places(reply: Sequence[Any]) -> list[Place]:
    """What VISIT says."""
    return [
        Place(reply[at].decode(), reply[at + 1], reply[at + 2]) for at in range(0, len(reply), 3)
    ]


def histories(reply: Sequence[Any]) -> list[History]:
    """What LOAD says."""
    return [
        History(epoch.decode(), last - len(bodies) + 1, bodies, last)
        for epoch, last, bodies in reply
    ]


def nudge(payload: bytes) -> Nudge:
    """Read a nudge; raises ValueError for what is none.

    An event ends with an empty line and holds no other (HTML, section 9.2.6), so several are told
    apart without their lengths.
    """
    head, _, rest = payload.partition(b"\n")
    epoch, first, count = head.split(b" ")
    if count == b"1":
        return Nudge(epoch.decode(), int(first), [rest])
    bodies = [part + b"\n\n" for part in rest.split(b"\n\n")[:-1]]
    if len(bodies) != int(count):
        raise ValueError(f"a nudge of {int(count)} events holds {len(bodies)}")
    return Nudge(epoch.decode(), int(first), bodies)
