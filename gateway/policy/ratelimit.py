"""Token buckets in memory: who may send another request now, and the fields that tell the client.

Here are the bucket (as GCRA, one float a key), the bounded table of keys and the header block. Not
here: which rule holds for whom (routing and admission), limits shared between gateways
(ratelimit_redis). No clock is read: `now` is any clock in seconds that the caller keeps to, best a
monotonic one.

Fields: draft-ietf-httpapi-ratelimit-headers-10, and the older X-RateLimit-* that most clients know.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from math import ceil

# Clocks are floats: a client that waits exactly as long as it was told must not be a rounding error
# short of its token. In tokens; far above the error of a float clock, and it does not add up over
# time.
_SLACK_TOKENS = 2.0**-10


class RateLimiter:
    """One rule, `quota` requests in `window_seconds`, for each of many keys.

    A key is a bucket of `quota` tokens refilled evenly. Over any span of time a key is admitted at
    most `quota + span * quota / window_seconds` times.

    What is stored for a key is when its bucket will be full again, counted in tokens (seconds times
    rate): taking a token then adds exactly 1.0, and a million additions carry no rounding error.
    Keys live in two dicts, young and old, of at most half of `max_keys` each. A key that is used
    moves to young; when young is full it becomes old and old is given up. So the least recently
    used go first, without a list to keep in order. A dict given up is emptied two keys a call:
    freeing half a million at once would stop the event loop for tens of milliseconds.

    Raises ValueError when `quota`, `window_seconds` or `max_keys` is too small, or `name` is not
    plain text.
    """

    __slots__ = (
        "_capacity",
        "_half",
        "_leaving",
        "_lines",
        "_old",
        "_rate",
        "_second",
        "_turn_at",
        "_window_seconds",
        "_young",
        "name",
        "quota",
    )

    def __init__(
        self, quota: int, window_seconds: int, max_keys: int = 1_000_000, name: str = "default"
    ) -> None:
        if quota < 1 or window_seconds < 1 or max_keys < 2:
            raise ValueError("quota and window_seconds must be at least 1, max_keys at least 2")
        if not (name.isascii() and name.isprintable()) or set(name) & set('"\\%'):
            raise ValueError(
                f"a limit's name must be printable ASCII without quotes or percent signs: {name!r}"
            )
        self.name = name
        self.quota = quota
        self._window_seconds = window_seconds
        self._rate = quota / window_seconds
        self._capacity = quota + _SLACK_TOKENS
        self._half = max_keys // 2
        self._young: dict[int | str, float] = {}
        self._old: dict[int | str, float] = {}
        self._leaving: dict[int | str, float] = {}
        self._turn_at = 0.0
        self._second = 0.0
        self._lines: dict[int, bytes] = {}

    def __repr__(self) -> str:
        return (
            f"<RateLimiter {self.name} {self.quota}/{self._window_seconds}s"
            f" young={len(self._young)} old={len(self._old)} leaving={len(self._leaving)}>"
        )

    def __len__(self) -> int:
        """Keys remembered now, those already given up left out."""
        return len(self._young) + len(self._old)

    def take(self, key: int | str, now: float) -> tuple[bool, int, int]:
        """Take one token for `key` at `now` (seconds): (admitted, remaining tokens, seconds).

        Seconds, rounded up: when admitted, until the bucket is full again; when refused, until
        there is one token again (at least 1), so that a client that waits them out is admitted. A
        refusal takes nothing. A clock that was set back makes a bucket at worst empty; it then
        refills by the new time.
        """
        tick = now * self._rate
        young = self._young
        full_at = young.get(key)
        if full_at is None or now >= self._turn_at:
            young, full_at = self._fetch(key, now, tick)
        if full_at < tick:
            full_at = tick
        full_at += 1.0
        missing = full_at - tick
        if missing > self._capacity:
            return self._refuse(key, full_at - 1.0, tick)
        young[key] = full_at
        return True, int(self._capacity - missing), ceil(missing / self._rate)

    def headers(self, remaining: int, seconds: int, wall_seconds: float) -> bytes:
        """The rate limit fields for one answer, each line ended by CRLF.

        `remaining` and `seconds` are what `take` returned, `wall_seconds` is the time of day
        (Unix). The reset is rounded up, so that the bucket has refilled when it comes.
        """
        if not self._second - 1.0 < wall_seconds <= self._second:
            self._second = float(ceil(wall_seconds))
            self._lines = {}
        line = self._lines.get(seconds)
        if line is None:
            line = self._lines[seconds] = self._line(seconds)
        return line % (remaining, remaining)

    def _line(self, seconds: int) -> bytes:
        """All but what remains: the same for each client with the same wait in one second."""
        name, quota = self.name, self.quota
        return (
            f"X-RateLimit-Limit: {quota}\r\n"
            "X-RateLimit-Remaining: %d\r\n"
            f"X-RateLimit-Reset: {int(self._second) + seconds}\r\n"
            f'RateLimit-Policy: "{name}";q={quota};w={self._window_seconds}\r\n'
            f'RateLimit: "{name}";r=%d;t={seconds}\r\n'
        ).encode("ascii")

    def _refuse(self, key: int | str, full_at: float, tick: float) -> tuple[bool, int, int]:
        """Say how long to wait; what is remembered of the key counts as used.

        More missing than the bucket holds means that the clock was set back: call the bucket empty.
        """
        if full_at - tick > self._capacity:
            full_at = tick + self.quota
        self._young[key] = full_at
        return False, 0, max(1, ceil((full_at + 1.0 - tick - self.quota) / self._rate))

    def _fetch(
        self, key: int | str, now: float, tick: float
    ) -> tuple[dict[int | str, float], float]:
        """The young dict, with room for `key`, and when that key's bucket is full: the slow part of
        `take`.

        The dicts move up when young is full, or when a whole window has passed since they last did:
        every bucket that nobody touched since is full then, and its entry says nothing.
        """
        full_at = self._young.get(key)
        if full_at is None:
            full_at = self._old.get(key, tick)
        leaving = self._leaving
        if leaving:
            leaving.popitem()
        if leaving:
            leaving.popitem()
        window_over = now >= self._turn_at and not leaving
        if window_over or len(self._young) >= self._half:
            self._turn_at = now + self._window_seconds
            self._leaving, self._old, self._young = self._old, self._young, {}
        return self._young, full_at


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
