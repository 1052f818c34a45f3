"""Token buckets that several gateways share: tokens are leased from Redis in blocks, ahead of need,
so that deciding about a request touches memory only.

Here is what the policies ask (`limit_rules.Buckets`), the table of keys, and who waits for an
answer. What one key's lease is, and what is admitted while Redis is away, is in lease_entry; the
connection in lease_link; what Redis does, and why the sum is right, in lease_scripts.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog

from gateway.policy.lease_entry import Entry, Kind, Share
from gateway.policy.lease_link import LeaseLink, LeaseTimes
from gateway.policy.lease_scripts import Ask, Leases
from gateway.policy.limit_rules import UNKNOWN, Key, Levels, Rule
from gateway.policy.pending import Pending
from sse.backplane_link import Log, connections

# One call of the script holds up all others in Redis for some 10 µs a key.
_BATCH: Final = 100
# An entry takes about 1 KB. Only keys in use have one, those of the last second or two; without
# Redis all that were used since.
_MOST_KEYS: Final = 100_000
# How often entries are looked through, and how many at most: some 2 ms.
_SWEEP_SECONDS: Final = 0.05
_SWEPT: Final = 2000
# Leases to give back of keys that had to go; more than that end by themselves, as used.
_MOST_GONE: Final = 1000
# Turns of the loop in which an answer that has arrived reaches who waits for it.
_TURNS: Final = 5
# After a wait in vain; then the next request of that key waits again.
_REFUSED_SECONDS: Final = 0.02
_NO_ERA: Final = -2
_NEW: Final = -1  # the era of an entry that knows nothing


class LeasedBuckets:
    """The buckets of all rules and gateways on one Redis; satisfies `limit_rules.Buckets`.

    All gateways together admit, over any span of time, at most `capacity + span * rate` tokens of
    each bucket: also while Redis is away, slow or restarted without its data. Then each goes on
    with its share: the tokens that it has leased, and its part of the rate. Outside of that promise
    are one request a gateway, where a limit is smaller than the number of gateways; gateways that
    have not reached Redis since they began; and one that is cut off alone from a Redis that serves
    others, from the tenth second on. What these used is told to Redis when it is back.

    `start` needs a running loop. `gateways`: how many there are as long as Redis has not said it.
    `now` everywhere is `clock`. Raises ValueError for a URL that can't be read.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        max_keys: int = _MOST_KEYS,
        gateways: int = 1,
        clock: Callable[[], float] = time.monotonic,
        times: LeaseTimes | None = None,
        log: Log | None = None,
    ) -> None:
        connect, _ = connections(redis_url)
        self._log: Log = log or structlog.get_logger("gateway.limits")
        self._clock = clock
        self._times = times or LeaseTimes()
        self._max_keys = max(1, min(max_keys, _MOST_KEYS))
        self._entries: dict[tuple[str, Key], Entry] = {}
        self._round: deque[Entry] = deque()  # all entries, longest unchecked first
        self._queue: deque[Entry] = deque()  # who asks next
        self._gone = 0
        self._flight: list[tuple[Entry, Ask]] = []
        # Counts connections and losses of them. What an entry knows holds for its own era only.
        self._era = 0
        self._share: Share | None = Share(Kind.APART, clock(), gateways, _NO_ERA)
        self._last_share: Share | None = None
        self._unsure_until = 0.0
        self._forgotten = False
        self._is_joining = False
        self._away_at: float | None = None
        self.outages = 0
        self.error: str | None = None
        self._sweeping: asyncio.TimerHandle | None = None
        self._link = LeaseLink(connect, self, clock, self._times, gateways, self._report_bug)

    def __repr__(self) -> str:
        state = "shared" if self.shared else repr(self._share)
        return f"<LeasedBuckets {state} keys={len(self._entries)} gateways={self.gateways}>"

    def __len__(self) -> int:
        """Pairs of a rule and a key that are remembered."""
        return len(self._entries)

    @property
    def shared(self) -> bool:
        """Whether limits are those of all gateways now; else this one keeps its share."""
        return self._share is None

    @property
    def gateways(self) -> int:
        """How many gateways Redis knew last, this one included."""
        return self._link.gateways

    @property
    def is_sure(self) -> bool:
        """As `Buckets.is_sure`: not while Redis is away, or just after it did not say in time."""
        return self._share is None and self._clock() >= self._unsure_until

    @property
    def state(self) -> dict[str, object]:
        """For the health page."""
        state = "healthy" if self.shared else "degraded"
        return {"state": state, "gateways": self.gateways, "error": self.error}

    async def start(self) -> None:
        """Connect; returns when that is done or has failed, after `connect` seconds at most."""
        self._link.start()
        self._sweep()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._times.connect):
                await self._link.settled.wait()

    async def close(self) -> None:
        """Give all leases back; takes bounded time, also without Redis."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        now = self._clock()
        if self.shared:
            for entry in list(self._entries.values()):
                self._bring_up(entry, now)
                if entry.tokens or entry.has_news:
                    entry.gives = True
                    self._ask(entry)
        await self._link.close()

    # What policies ask

    def look(self, rule: Rule, key: Key, cost: int, now: float) -> float:
        """As `Buckets.look`."""
        entry = self._entries.get((rule.id, key))
        if entry is not None and entry.holds(cost, self._era, now):
            return 0.0
        return self._look(entry, rule, key, cost, now)

    def spend(self, rule: Rule, key: Key, cost: int, now: float) -> Levels:
        """As `Buckets.spend`."""
        entry = self._entries.get((rule.id, key))
        if entry is None:  # had to go since the look, without Redis
            entry = self._add(rule, key, now)
        if entry.levels is not None or entry.credit:
            entry.take_alone(cost, now)
            if entry.credit and self._share is None:
                self._ask(entry)
        elif entry.take(cost, now):
            self._ask(entry)
        return entry.standing(now)

    def take(self, rule: Rule, key: Key, cost: int, now: float) -> float | Levels:
        """As `Buckets.take`."""
        entry = self._entries.get((rule.id, key))
        if entry is not None and entry.holds(cost, self._era, now):
            if entry.take(cost, now):
                self._ask(entry)
            return entry.standing(now)
        return self._look(entry, rule, key, cost, now) or self.spend(rule, key, cost, now)

    def standing(self, rule: Rule, key: Key, now: float) -> Levels:
        """As `Buckets.standing`."""
        entry = self._entries.get((rule.id, key))
        if entry is None:
            return [(bucket.capacity, 0.0) for bucket in rule.buckets]
        self._bring_up(entry, now)
        return entry.standing(now)

    def pending(self, wanted: Sequence[tuple[Rule, Key]], cost: int) -> Pending:
        """As `Buckets.pending`."""
        return Pending(_Wait(self._wait, wanted, cost))

    def _look(self, entry: Entry | None, rule: Rule, key: Key, cost: int, now: float) -> float:
        if entry is None:
            if self._share is None:
                return UNKNOWN
            entry = self._add(rule, key, now)
        self._bring_up(entry, now)
        entry.used_at = now
        if self._is_joining:
            return entry.refused_until - now if now < entry.refused_until else UNKNOWN
        if entry.credit and self._share is None and self._link.alone_since is None:
            entry.credit = False  # somebody else is there by now
        if self._share is not None or entry.credit:
            return entry.wait_alone(cost, now)
        if now >= entry.until and entry.tokens > 0:
            entry.tokens = 0
        if cost <= entry.tokens:
            return 0.0
        return entry.wait(cost, now) or UNKNOWN

    def _bring_up(self, entry: Entry, now: float) -> None:
        """Bring an entry into this era."""
        if entry.era == self._era:
            return
        if self._share is not None:
            if entry.share is not self._share:
                entry.begin(self._share, now)
        else:
            if entry.share is not None and entry.share is self._last_share:
                entry.report(now, forgotten=self._forgotten)
            entry.forget()
        entry.era = self._era

    # Who waits

    async def _wait(self, wanted: Sequence[tuple[Rule, Key]], cost: int) -> None:
        """Until `look` knows about all of `wanted`; after 20 ms it knows without Redis."""
        entries = [
            (rule, key, min(cost, rule.smallest))
            for rule, key in wanted
            if self._missing(rule, key, min(cost, rule.smallest))
        ]
        end = self._clock() + self._times.away
        while entries and not await self._answered(entries):
            # It is Redis that has 20 ms: a busy loop may not have asked yet, or not have looked.
            if self._link.is_overdue or self._clock() >= end:
                break
        now = self._clock()
        for rule, key, tokens in entries:
            if self.look(rule, key, tokens, now) == UNKNOWN:
                self._decide(self._entries.get((rule.id, key)), now)

    async def _answered(self, entries: Sequence[tuple[Rule, Key, int]]) -> bool:
        """Wait for at most 20 ms; whether `look` knows about all of them."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._times.wait):
                for rule, key, tokens in entries:
                    while self._missing(rule, key, tokens):
                        await self._answer(self._entries[rule.id, key])
                return True
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        now = self._clock()
        return all(self.look(rule, key, tokens, now) != UNKNOWN for rule, key, tokens in entries)

    def _missing(self, rule: Rule, key: Key, cost: int) -> bool:
        """Whether Redis has to be asked, and then it is."""
        now = self._clock()
        entry = self._entries.get((rule.id, key))
        if self._look(entry, rule, key, cost, now) != UNKNOWN:
            return False
        if entry is None:
            entry = self._add(rule, key, now)
        entry.need += cost
        entry.least = min(cost, entry.least or cost)
        self._ask(entry)
        return True

    async def _answer(self, entry: Entry) -> None:
        """Until Redis has said something about `entry`."""
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry.waiting.append(answered)
        await answered

    def _decide(self, entry: Entry | None, now: float) -> None:
        """Redis did not say in time."""
        since = self._link.alone_since
        if entry is None:
            return
        if since is not None and not self._is_joining:
            entry.trust(since, now)
        else:
            entry.refused_until = self._unsure_until = now + _REFUSED_SECONDS

    # The table

    def _add(self, rule: Rule, key: Key, now: float) -> Entry:
        if len(self._entries) >= self._max_keys:
            self._make_room(now)
        entry = Entry(rule, key, now, _NEW)
        self._entries[entry.key] = entry
        self._round.append(entry)
        self._bring_up(entry, now)
        return entry

    def _make_room(self, now: float) -> None:
        """Give up the key that was longest unchecked, with its lease."""
        for _ in range(min(_BATCH + 1, len(self._round))):
            entry = self._round.popleft()
            if any(entry is asking for asking, _ in self._flight):
                self._round.append(entry)
                continue
            self._remove(entry)
            if self.shared and entry.holds(1, self._era, now) and self._gone < _MOST_GONE:
                self._gone += 1
                entry.gone = entry.gives = True
                self._ask(entry)
            return

    def _remove(self, entry: Entry) -> None:
        del self._entries[entry.key]
        self._release(entry)

    def _sweep(self) -> None:
        """Give idle leases back, forget idle keys, let leases in use last longer."""
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_later(_SWEEP_SECONDS, self._sweep)
        now = self._clock()
        before = now - self._times.idle
        for _ in range(_SWEPT):
            if not self._round or self._round[0].checked_at > before:
                return
            entry = self._round.popleft()
            entry.checked_at = now
            if self._keep(entry, now):
                self._round.append(entry)
            else:
                self._remove(entry)

    def _keep(self, entry: Entry, now: float) -> bool:
        """Whether there is more to do with this key."""
        if self._share is not None:
            return True  # what was used is to be told, or stays in force
        self._bring_up(entry, now)
        if entry.asked:
            return True
        idle = now - entry.used_at >= self._times.idle
        if now >= entry.until:
            entry.tokens = min(0, entry.tokens)
        if entry.has_news or entry.tokens > 0:
            entry.gives = idle
            self._ask(entry)
            return True
        return not idle

    # What the link asks and tells

    def batch(self, now: float) -> list[Ask]:
        """As `Desk.batch`."""
        self._flight = []
        while self._queue and len(self._flight) < _BATCH:
            entry = self._queue.popleft()
            if entry.gone and entry.era != self._era:
                self._gone -= 1
                continue
            self._bring_up(entry, now)
            self._flight.append((entry, entry.ask(now)))
        return [ask for _, ask in self._flight]

    def answered(self, said: Leases, sent_at: float) -> None:
        """As `Desk.answered`."""
        now = self._clock()
        until = sent_at + self._times.lease - self._times.margin
        flight, self._flight = self._flight, []
        for (entry, ask), answer in zip(flight, said.answers, strict=True):
            entry.asked = False
            if entry.gone:
                self._gone -= 1
                continue
            entry.answer(ask, answer, said.live, until, now)
            if entry.has_news:
                self._ask(entry)
            self._release(entry)

    def joining(self) -> None:
        """As `Desk.joining`."""
        self._is_joining = True

    def refused(self) -> None:
        """As `Desk.refused`."""
        self._is_joining = False
        self._drop_asks()

    def joined(self, *, lost: bool, forgotten: bool) -> None:
        """As `Desk.joined`."""
        self._last_share = None if lost else self._share
        self._share = None
        self._forgotten = forgotten
        self._is_joining = False
        self._era += 1
        self.error = None
        if self._away_at is not None:
            away_seconds = round(self._clock() - self._away_at, 3)
            self._away_at = None
            self._log.info("limits_shared", away_seconds=away_seconds, redis_lost_data=lost)

    def away(self, error: str, base: float, divisor: int, alone_since: float | None) -> None:
        """As `Desk.away`."""
        share, joining = self._share, self._is_joining
        self.error = error
        if share is None or (joining and share.kind is Kind.SPLIT):
            era = self._era if share is None else _NO_ERA
            if alone_since is None:
                self._share = Share(Kind.SPLIT, base, divisor, era)
            else:
                self._share = Share(Kind.ALONE, alone_since, divisor, era)
            self._era += 1
        if self._away_at is None:
            self._away_at = self._clock()
            self.outages += 1
            self._log.warning("limits_local", error=error, gateways=divisor)
        if share is None or joining:
            self._is_joining = False
            self._drop_asks()

    def _ask(self, entry: Entry) -> None:
        if not entry.asked:
            entry.asked = True
            self._queue.append(entry)
            self._link.wake()

    def _release(self, entry: Entry) -> None:
        """Something is known: who waited looks again, and says again what it needs."""
        entry.need = entry.least = 0
        waiting, entry.waiting = entry.waiting, []
        for answered in waiting:
            if not answered.done():
                answered.set_result(None)

    def _drop_asks(self) -> None:
        """There will be no answers: who waits decides without them."""
        for entry in (*self._queue, *(entry for entry, _ in self._flight)):
            entry.asked = False
            self._release(entry)
        self._queue.clear()
        self._flight = []
        self._gone = 0

    def _report_bug(self, error: BaseException) -> None:
        self._log.error("limits_failed", exc_info=error)


class _Wait:
    """An awaitable that begins when it is awaited: who never does leaves nothing behind."""

    __slots__ = ("_arguments", "_wait")

    def __init__(
        self,
        wait: Callable[[Sequence[tuple[Rule, Key]], int], Coroutine[Any, Any, None]],
        wanted: Sequence[tuple[Rule, Key]],
        cost: int,
    ) -> None:
        self._wait = wait
        self._arguments = wanted, cost

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait(*self._arguments).__await__()
