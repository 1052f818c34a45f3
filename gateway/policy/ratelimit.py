"""Token buckets in memory: who may send another request now.

Here are the buckets of all rules (as GCRA), bounded in number, and the keys of addresses. Not here:
which rules hold for whom and the fields that tell the client (limits), and limits shared between
gateways (ratelimit_redis). No clock is read: `now` is any clock in seconds that the caller keeps
to, best a monotonic one.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from math import ceil, inf
from struct import Struct

from gateway.policy.limit_rules import Bucket, Key, Levels, Rule
from gateway.policy.pending import Pending

# Clocks are floats: a client that waits exactly as long as it was told must not be a rounding error
# short of its token. In tokens, or in seconds where tokens come fast; far above the error of a
# float clock, and it does not add up over time.
_SLACK_TOKENS = 2.0**-10
_SLACK_SECONDS = 1e-7
_MOST_SLACK_TOKENS = 0.5


class _Table:
    """The buckets of one rule, by key: when each will be full again, counted in tokens (seconds
    times rate): taking a token then adds exactly 1.0, and a million additions carry no rounding
    error.

    They are packed: for two buckets a tuple of floats takes 120 bytes and the garbage collector's
    time, packed they take 64 and none of it.
    """

    __slots__ = (
        "figures",
        "full",
        "old",
        "one",
        "pack",
        "turn_at",
        "two",
        "unpack",
        "window_seconds",
        "young",
    )

    def __init__(self, rule: Rule, now: float) -> None:
        packing = Struct(f"{len(rule.buckets)}d")
        self.pack = packing.pack
        self.unpack = packing.unpack
        self.full = packing.pack(*[-inf] * len(rule.buckets))
        # Of each bucket: its number, what it holds with the slack, the slack, its rate.
        self.figures = tuple(
            (at, bucket.capacity + _slack(bucket), _slack(bucket), bucket.rate)
            for at, bucket in enumerate(rule.buckets)
        )
        self.one: tuple[float, float] | None = None
        self.two: tuple[float, float, float, float] | None = None
        limits = [(limit, rate) for _, limit, _, rate in self.figures]
        if len(limits) == 1:
            self.one = limits[0]
        elif len(limits) == 2:
            self.two = *limits[0], *limits[1]
        self.window_seconds = max(bucket.capacity / bucket.rate for bucket in rule.buckets)
        self.young: dict[Key, bytes] = {}
        self.old: dict[Key, bytes] = {}
        self.turn_at = now + self.window_seconds


def _slack(bucket: Bucket) -> float:
    return min(max(_SLACK_TOKENS, bucket.rate * _SLACK_SECONDS), _MOST_SLACK_TOKENS)


class LocalBuckets:
    """The buckets of all rules in this process; satisfies `limit_rules.Buckets`.

    Over any span of time a key is admitted for at most `capacity + span * rate` tokens of each
    bucket. At most `max_keys` pairs of a rule and a key are remembered; the least recently used are
    forgotten, and such a key has full buckets again.

    The pairs of a rule live in two dicts, young and old. What is used moves to young; when half of
    `max_keys` are young, all that is young becomes old and what was old is given up. So the least
    recently used go first, without a list to keep in order. Dicts given up are emptied two keys at
    a time, when another key becomes young: freeing half a million at once would stop the event loop
    for tens of milliseconds. Until then they are in memory too; since two go for each that comes,
    they are never more than `max_keys`.

    Raises ValueError when `max_keys` is below 2.
    """

    __slots__ = ("_half", "_leaving", "_max", "_old", "_tables", "_young")

    def __init__(self, max_keys: int = 1_000_000) -> None:
        if max_keys < 2:
            raise ValueError("max_keys must be at least 2")
        self._max = max_keys
        self._half = max_keys // 2
        self._young = 0
        self._old = 0
        self._tables: dict[str, _Table] = {}
        self._leaving: list[dict[Key, bytes]] = []

    @property
    def is_sure(self) -> bool:
        """As `Buckets.is_sure`: all that there is, is known here."""
        return True

    def __repr__(self) -> str:
        leaving = sum(map(len, self._leaving))
        return (
            f"<LocalBuckets rules={len(self._tables)} young={self._young} old={self._old}"
            f" leaving={leaving}>"
        )

    def __len__(self) -> int:
        """Pairs remembered now, those already given up left out."""
        return self._young + self._old

    def look(self, rule: Rule, key: Key, cost: int, now: float) -> float:
        """0.0 when each bucket holds `cost` tokens, else the seconds until each does.

        A clock that was set back makes a bucket at worst empty; it then refills by the new time.
        """
        table = self._tables.get(rule.id)
        if table is None or now >= table.turn_at:
            table = self._turn(rule, now)
        state = table.young.get(key)
        if state is None:
            state = self._fetch(table, key)
            if state is None:
                return 0.0
        wait = 0.0
        when_full = table.unpack(state)
        for at, limit, slack, rate in table.figures:
            tick = now * rate
            full_at = when_full[at]
            missing = (full_at if full_at > tick else tick) + cost - tick
            if missing > limit:
                if missing > limit + cost:  # more than the bucket holds, before this request
                    self._set_back(table, key, now)
                    return self.look(rule, key, cost, now)
                wait = max(wait, (missing - limit + slack) / rate)
        return wait

    def spend(self, rule: Rule, key: Key, cost: int, now: float) -> Levels:
        """Take `cost` tokens of each bucket; `look` said with the same arguments that it can."""
        levels = self.take(rule, key, cost, now)
        if isinstance(levels, float):
            raise RuntimeError(f"spent without a look: {rule.name} holds no {cost}")
        return levels

    def take(self, rule: Rule, key: Key, cost: int, now: float) -> float | Levels:
        """Take `cost` tokens of each bucket and say how they stand then, or what `look` says."""
        table = self._tables.get(rule.id)
        if table is None or now >= table.turn_at:
            table = self._turn(rule, now)
        state = table.young.get(key)
        if state is None:
            state = self._fetch(table, key)
            if state is None:
                self._make_room()
                state = table.full
        # One bucket is the default, two is what tiers have: unrolled, 0.9 µs instead of 1.5.
        if table.one is not None:
            limit, rate = table.one
            (full_at,) = table.unpack(state)
            tick = now * rate
            full_at = (full_at if full_at > tick else tick) + cost
            missing = full_at - tick
            if missing > limit:
                return self.look(rule, key, cost, now)
            table.young[key] = table.pack(full_at)
            return ((int(limit - missing), missing / rate),)
        if table.two is None:
            return self._take_some(table, rule, key, state, cost, now)
        limit, rate, limit_2, rate_2 = table.two
        full_at, full_at_2 = table.unpack(state)
        tick, tick_2 = now * rate, now * rate_2
        full_at = (full_at if full_at > tick else tick) + cost
        full_at_2 = (full_at_2 if full_at_2 > tick_2 else tick_2) + cost
        missing, missing_2 = full_at - tick, full_at_2 - tick_2
        if missing > limit or missing_2 > limit_2:
            return self.look(rule, key, cost, now)
        table.young[key] = table.pack(full_at, full_at_2)
        return (
            (int(limit - missing), missing / rate),
            (int(limit_2 - missing_2), missing_2 / rate_2),
        )

    def _take_some(
        self, table: _Table, rule: Rule, key: Key, state: bytes, cost: int, now: float
    ) -> float | Levels:
        before = table.unpack(state)
        after = []
        levels = []
        for at, limit, _, rate in table.figures:
            tick = now * rate
            full_at = before[at]
            full_at = (full_at if full_at > tick else tick) + cost
            missing = full_at - tick
            if missing > limit:
                return self.look(rule, key, cost, now)
            after.append(full_at)
            levels.append((int(limit - missing), missing / rate))
        table.young[key] = table.pack(*after)
        return levels

    def standing(self, rule: Rule, key: Key, now: float) -> Levels:
        """How the buckets stand; a key that is not remembered has full ones."""
        table = self._tables.get(rule.id)
        state = table and (table.young.get(key) or table.old.get(key))
        if not table or not state:
            return [(bucket.capacity, 0.0) for bucket in rule.buckets]
        when_full = table.unpack(state)
        levels = []
        for at, limit, _, rate in table.figures:
            missing = max(0.0, when_full[at] - now * rate)
            levels.append((max(0, int(limit - missing)), missing / rate))
        return levels

    def pending(self, wanted: Sequence[tuple[Rule, Key]], cost: int) -> Pending:
        """Never needed: what is in memory is known. Raises RuntimeError."""
        raise RuntimeError("buckets in memory are never unknown")

    def _fetch(self, table: _Table, key: Key) -> bytes | None:
        """The state of a key that is not young; it is now, also when it will be refused."""
        state = table.old.pop(key, None)
        if state is not None:
            self._old -= 1
            self._make_room()
            table.young[key] = state
        return state

    def _make_room(self) -> None:
        """Count one more young pair, before it is put into its table."""
        if self._young >= self._half or self._young + self._old >= self._max:
            for table in self._tables.values():
                self._leaving.append(table.old)
                table.old, table.young = table.young, {}
            self._old, self._young = self._young, 0
        self._young += 1
        self._free()

    def _free(self) -> None:
        """Forget two of those that were given up, if there are any."""
        for _ in range(2):
            while self._leaving and not self._leaving[-1]:
                self._leaving.pop()
            if self._leaving:
                self._leaving[-1].popitem()

    def _turn(self, rule: Rule, now: float) -> _Table:
        """The table of `rule`, made if there is none.

        Its dicts move up when a whole window has passed since they last did: every bucket that
        nobody touched since is full then, and its entry says nothing.
        """
        table = self._tables.get(rule.id)
        if table is None:
            self._forget(now)
            table = self._tables[rule.id] = _Table(rule, now)
            return table
        if table.old:
            self._leaving.append(table.old)
        self._old += len(table.young) - len(table.old)
        self._young -= len(table.young)
        table.old, table.young = table.young, {}
        table.turn_at = now + table.window_seconds
        self._free()
        return table

    def _forget(self, now: float) -> None:
        """Give up the tables of rules that nobody asked for in a window: they hold full buckets.
        So rules that come and go leave nothing behind.
        """
        for name, table in list(self._tables.items()):
            if now >= table.turn_at + table.window_seconds:
                self._young -= len(table.young)
                self._old -= len(table.old)
                self._leaving += (table.young, table.old)
                del self._tables[name]

    def _set_back(self, table: _Table, key: Key, now: float) -> None:
        """The clock was set back: call the buckets empty that would be more than that."""
        when_full = table.unpack(table.young[key])
        table.young[key] = table.pack(
            *[min(when_full[at], now * rate + int(limit)) for at, limit, _, rate in table.figures]
        )


class RateLimiter:
    """One rule, `quota` requests in `window_seconds`, for each of many keys.

    Raises ValueError when `quota`, `window_seconds` or `max_keys` is too small.
    """

    __slots__ = ("_buckets", "_rule")

    def __init__(self, quota: int, window_seconds: int, max_keys: int = 1_000_000) -> None:
        if window_seconds < 1:
            raise ValueError("window_seconds must be at least 1")
        bucket = Bucket("default", quota, quota / window_seconds, window_seconds)
        self._rule = Rule("default", (bucket,))
        self._buckets = LocalBuckets(max_keys)

    def __repr__(self) -> str:
        (bucket,) = self._rule.buckets
        window = bucket.window_seconds
        return f"<RateLimiter {bucket.capacity}/{window}s, {len(self._buckets)} keys>"

    def take(self, key: Key, now: float) -> tuple[bool, int, int]:
        """Take one token for `key` at `now` (seconds): (admitted, remaining tokens, seconds).

        Seconds, rounded up: when admitted, until the bucket is full again; when refused, until
        there is one token again (at least 1), so that a client that waits them out is admitted. A
        refusal takes nothing.
        """
        levels = self._buckets.take(self._rule, key, 1, now)
        if isinstance(levels, float):
            return False, 0, max(1, ceil(levels))
        ((remaining, seconds),) = levels
        return True, remaining, ceil(seconds)


def address_key(address: str) -> int:
    """The key under which a client address is counted.

    IPv4 counts as it is, also when written as IPv6 (`::ffff:192.0.2.1`). IPv6 counts by its /64,
    which is what one subscriber gets: counting single addresses would give everyone 2**64 buckets.
    The families never share a key. Raises ValueError when `address` is not an IP address.
    """
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is None:
            return (1 << 64) | (int(parsed) >> 64)
        parsed = parsed.ipv4_mapped
    return int(parsed)


def address_of(key: int) -> str:
    """The address, or the /64, that `key` counts: the way back from `address_key`, for people."""
    if key < 1 << 64:
        return str(IPv4Address(key))
    return str(IPv6Network(((key - (1 << 64)) << 64, 64)))
