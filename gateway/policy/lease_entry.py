"""What a gateway knows of one rule and key whose buckets are in Redis: its lease, and what it may
admit alone while Redis is away. Pure.

What Redis keeps and why the sum is right is in lease_scripts.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Sequence
from enum import Enum
from typing import Final

from gateway.policy.lease_scripts import Answer, Ask, bucket_key
from gateway.policy.limit_rules import Key, Rule

# Who waits as long as told must not be a rounding error short of the token. Redis has the same.
_SLACK_TOKENS: Final = 2.0**-10
# A lease is for what is used in this time.
AHEAD_SECONDS: Final = 0.2
# Leases of one token each would cost a round trip each; what is left comes back when idle.
_LEAST_AHEAD: Final = 8
# For an estimate of use; a burst of a millisecond says little about the next 200.
_LEAST_SPAN_SECONDS: Final = 0.05
# A bucket that could not give all: others want it too, so let some come together.
PAUSE_SECONDS: Final = 0.01
# The least part of a rate to reckon with when others keep theirs alone.
_LEAST_LIVE: Final = 0.05
# What Redis said of an empty bucket is asked again after this time: others give tokens back.
_STALE_SECONDS: Final = 1.0


class Kind(Enum):
    """How a gateway goes on without Redis."""

    SPLIT = "split"  # with its share of each limit
    ALONE = "alone"  # with all of it: it was the only gateway
    APART = "apart"  # never connected: with its share, in buckets that begin full


class Share:
    """What a gateway may admit by itself, from one loss of Redis until it is back.

    SPLIT: buckets begin with the tokens that are still leased, at `since` and not before, when
    Redis reckons with it; ALONE: with what Redis was left with; a key that was not known here with
    what `since` gave, because nobody used it since.
    """

    __slots__ = ("divisor", "kind", "lease_era", "since")

    def __init__(self, kind: Kind, since: float, divisor: int, lease_era: int) -> None:
        self.kind = kind
        self.since = since
        self.divisor = divisor
        self.lease_era = lease_era  # entries of that era have leases that hold

    def __repr__(self) -> str:
        return f"<Share {self.kind.value} 1/{self.divisor}>"


class Entry:
    """One rule and key.

    `era` says for which connection, or which time without one, the rest holds: `LeasedBuckets`
    brings it up to date when it has changed.
    """

    __slots__ = (
        "_at",
        "_divisor",
        "_leased",
        "_live",
        "_others_until",
        "_report",
        "_told",
        "_told_at",
        "_used_alone",
        "_wanted",
        "asked",
        "asked_at",
        "checked_at",
        "credit",
        "era",
        "figures",
        "gives",
        "gone",
        "key",
        "least",
        "levels",
        "low",
        "need",
        "place",
        "refused_until",
        "share",
        "tokens",
        "until",
        "used",
        "used_at",
        "waiting",
    )

    def __init__(self, rule: Rule, key: Key, now: float, era: int) -> None:
        self.key = (rule.id, key)
        self.place = bucket_key(rule.id, key)
        self.figures = tuple((bucket.capacity, bucket.rate) for bucket in rule.buckets)
        self.era = era
        # The lease.
        self.tokens = 0
        self.until = 0.0
        self.low = 0  # when so few are left more are asked for
        self.used = 0  # since the last ask
        self.used_at = now
        # What Redis said last of each bucket: capacity, rate, what is left there, and what that and
        # the lease are together at most. None when nothing holds.
        self._told: list[tuple[int, float, float, int]] | None = None
        self._told_at = now
        self._live = 1.0
        self._others_until = now
        # The ask: none, waiting for its turn, on its way.
        self.asked = False
        self.asked_at = now
        self._wanted = 0
        self.need = 0
        self.least = 0
        self.gives = False
        self.gone = False
        self.refused_until = 0.0
        self.waiting: list[Future[None]] = []
        self.checked_at = now
        # Without Redis.
        self.credit = False
        self.share: Share | None = None
        self.levels: list[float] | None = None
        self._at = now
        self._divisor = 1
        self._leased = 0  # of the levels: void when the lease would have ended
        self._used_alone = 0
        self._report: Sequence[float] | None = None

    def __repr__(self) -> str:
        return f"<Entry tokens={self.tokens} told={self._told} levels={self.levels}>"

    # The lease

    def holds(self, cost: int, era: int, now: float) -> bool:
        """Whether the lease is enough."""
        return cost <= self.tokens and now < self.until and era == self.era

    def take(self, cost: int, now: float) -> bool:
        """Spend of the lease; whether it is time to ask for more."""
        self.tokens -= cost
        self.used += cost
        self.used_at = now
        return self.tokens <= self.low and not self.asked

    def wait(self, cost: int, now: float) -> float:
        """Seconds until Redis has what is missing for `cost`, by what it said last; 0.0: ask it."""
        longest = self.refused_until - now
        passed = max(0.0, now - self._told_at)
        if self._told is None or passed > _STALE_SECONDS:
            return max(0.0, longest)
        for _, rate, left, most in self._told:
            missing = cost - self.tokens - left
            if missing <= 0.0:
                continue
            seconds = missing / (rate * self._live)
            if most < cost:  # it fills when the leases of others have ended
                seconds += self._others_until - self._told_at
            longest = max(longest, seconds - passed)
        return max(0.0, longest)

    def there(self, now: float) -> list[float]:
        """The tokens of each bucket, here and in Redis, as far as one can know."""
        if self._told is None:
            return [float(capacity) for capacity, _ in self.figures]
        passed = max(0.0, now - self._told_at) * self._live
        tokens = self.tokens
        return [
            min(left + rate * passed + tokens, float(most)) for _, rate, left, most in self._told
        ]

    def standing(self, now: float) -> list[tuple[int, float]]:
        """As `Buckets.standing`; written for speed, every request is told."""
        levels: list[tuple[int, float]] = []
        if self._told is not None:
            passed = now - self._told_at
            gained = passed * self._live if passed > 0.0 else 0.0
            tokens = self.tokens + _SLACK_TOKENS
            for capacity, rate, left, most in self._told:
                there = left + rate * gained + tokens
                if there > most:
                    there = most
                levels.append((int(there) if there > 0.0 else 0, (capacity - there) / rate))
            return levels
        if self.levels is None and now < self.refused_until:  # nobody knows
            return [(0, self.refused_until - now)] * len(self.figures)
        here = [float(capacity) for capacity, _ in self.figures]
        if self.levels is not None:
            here = [level * self._divisor for level in self._alone(self.levels, 1, now)]
        for (capacity, rate), there in zip(self.figures, here, strict=True):
            left = there / self._divisor if self.levels is not None else there
            levels.append((max(0, int(left + _SLACK_TOKENS)), max(0.0, capacity - there) / rate))
        return levels

    def ask(self, now: float) -> Ask:
        """What to say to Redis now; what it says to that comes to `answer`."""
        span = max(_LEAST_SPAN_SECONDS, now - self.asked_at)
        self._wanted = max(_LEAST_AHEAD, int(AHEAD_SECONDS * self.used / span), self._wanted // 2)
        self.used = 0
        self.asked_at = now
        if now >= self.until:
            self.tokens = min(0, self.tokens)
        at_most, self._report = self._report, None
        if self.tokens < 0:
            at_most, self.tokens = self.there(now), 0
            self._tell(at_most, 0, now)
        gives = self.gives and not self.need
        back = self.tokens if gives else 0
        self.tokens -= back
        need, least = max(0, self.need - self.tokens), max(1, self.least - self.tokens)
        self.need = self.least = 0
        self.gives = False
        want = 0 if gives else max(0, self._wanted - self.tokens)
        return Ask(
            self.place, self.figures, need, least if need else 1, want, self.tokens, back, at_most
        )

    def answer(self, ask: Ask, answer: Answer, live: float, until: float, now: float) -> None:
        """What Redis said. `until`: the end of the lease, by the caller's clock."""
        self.tokens += answer.granted
        self.until = until
        self._tell(answer.left, answer.others, now)
        self._live = max(_LEAST_LIVE, live)
        self._others_until = now + answer.others_seconds
        self.low = min(self._wanted, max(0, self.tokens)) // 2
        self.credit = False
        self.refused_until = now + PAUSE_SECONDS if answer.granted < ask.need else 0.0

    @property
    def has_news(self) -> bool:
        """Whether Redis has to hear something that no lease covers."""
        return self._report is not None or self.tokens < 0

    # Without Redis

    def forget(self) -> None:
        """Whatever Redis said holds no more."""
        self.tokens = 0
        self.until = 0.0
        self._told = None
        self.credit = False
        self.levels = None
        self.share = None
        self.refused_until = 0.0
        self._leased = 0
        self._used_alone = 0

    def begin(self, share: Share, now: float) -> None:
        """Go on without Redis."""
        tokens = self.tokens if now < self.until and self.era == share.lease_era else 0
        until = self.until
        if share.kind is not Kind.ALONE or self.era != share.lease_era:
            self.forget()
        self.share = share
        self._divisor = share.divisor
        if share.kind is Kind.ALONE:
            self.trust(share.since, now)
        elif share.kind is Kind.APART:
            self.levels = [capacity / share.divisor for capacity, _ in self.figures]
            self._at = now
        else:
            self.levels = [float(tokens)] * len(self.figures)
            self._leased, self.until = tokens, until
            self._at = share.since

    def trust(self, since: float, now: float) -> None:
        """Admit by what Redis had left, without a lease: nobody else does since `since`."""
        self.credit = True
        if self._told is None:
            passed = max(0.0, now - since)
            self._tell([min(float(c), rate * passed) for c, rate in self.figures], 0, now)
        self._live = 1.0

    def wait_alone(self, cost: int, now: float) -> float:
        """As `Buckets.look`, without Redis; never UNKNOWN."""
        if self.levels is None:
            there = self.there(now)
            if min(there) + _SLACK_TOKENS >= cost:
                return 0.0
            return max((cost - t) / rate for (_, rate), t in zip(self.figures, there, strict=True))
        if self._leased and now >= self.until:
            self.levels = [level - self._leased for level in self.levels]
            self._leased = 0
        longest = 0.0
        alone = self._alone(self.levels, cost, now)
        for (_, rate), level, at_now in zip(self.figures, self.levels, alone, strict=True):
            if at_now + _SLACK_TOKENS < cost:
                longest = max(longest, (cost - level) * self._divisor / rate + self._at - now)
        return longest

    def take_alone(self, cost: int, now: float) -> None:
        """Spend without Redis, when `wait_alone` said 0.0."""
        self.used_at = now
        self.used += cost
        self._used_alone += cost
        self._leased = max(0, self._leased - cost)
        if self.levels is not None:
            self.levels = [there - cost for there in self._alone(self.levels, cost, now)]
            self._at = max(self._at, now)
            return
        there = self.there(now)  # full buckets gain nothing
        self.tokens -= cost
        self._tell([level - self.tokens - cost for level in there], 0, max(now, self._told_at))

    def report(self, now: float, *, forgotten: bool) -> None:
        """Redis is back, with the levels that it had: it has to hear what was used here and what it
        did not reckon with. Called before `forget`.
        """
        if not self._used_alone:
            return
        divisor = self._divisor
        if self.levels is None:  # all of it was here
            self._report = self.there(now)
        elif self.share is not None and self.share.kind is Kind.APART:
            there = self._alone(self.levels, 1, now)
            self._report = [
                capacity - max(0.0, capacity / divisor - level)
                for (capacity, _), level in zip(self.figures, there, strict=True)
            ]
        elif forgotten:
            self._report = [
                capacity - min(self._used_alone, capacity / divisor) for capacity, _ in self.figures
            ]

    def _tell(self, left: Sequence[float], others: int, now: float) -> None:
        self._told = [
            (capacity, rate, level, capacity - others)
            for (capacity, rate), level in zip(self.figures, left, strict=True)
        ]
        self._told_at = now

    def _alone(self, levels: Sequence[float], cost: int, now: float) -> list[float]:
        """The level of each bucket of this gateway's own. One request must fit, whatever the share
        is: a limit below the number of gateways would let nobody in.
        """
        divisor = self._divisor
        passed = max(0.0, now - self._at) / divisor
        return [
            min(max(capacity / divisor, cost, level), level + rate * passed)
            for (capacity, rate), level in zip(self.figures, levels, strict=True)
        ]
