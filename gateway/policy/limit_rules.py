"""What a limit is made of: buckets, rules of several buckets, and who keeps their tokens. Pure.

A rule is said in figures (gateway/settings_limits.py, the store, RATE_LIMIT); here they become
buckets. Which rules hold for a request is in limits.py; tokens are kept in memory by ratelimit.py,
shared between gateways by ratelimit_redis.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from gateway.policy.pending import Pending
from gateway.settings_limits import LimitSettings, TierSettings
from gateway.settings_values import RateLimit

Scope = Literal["caller", "tenant"]
Key = int | str  # whose tokens: `s:<subject>`, `t:<tenant>`, or an address (`address_key`)

# For each bucket of a rule: whole tokens left, seconds until it is full again.
Levels = Sequence[tuple[int, float]]
# The figures of a rule as they are written; None where one was left out.
Figures = TierSettings | LimitSettings

# What `Buckets.look` says when it can't tell without a round trip.
UNKNOWN: Final = -1.0

_WINDOWS: Final = (("minute", 60), ("hour", 3600), ("day", 86_400))


@dataclass(frozen=True, slots=True)
class Bucket:
    """`capacity` tokens, refilled at `rate` tokens a second: full again after `window_seconds`.

    `window_seconds` is for RateLimit-Policy, which has whole seconds only: rounded up.
    """

    name: str
    capacity: int
    rate: float
    window_seconds: int


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """Buckets that are taken from together: a request takes its cost from each, or none from any.

    `name` is for people: refusals and the limit fields. `id` is for whoever keeps the tokens: it
    says what the rule is about and all its figures, so that a rule that is read again and did not
    change finds its tokens, here and in Redis, and one that changed begins anew. Rules are compared
    as objects.

    Raises ValueError without buckets, or when one holds or gains nothing.
    """

    name: str
    buckets: tuple[Bucket, ...]
    scope: Scope = "caller"
    about: str = ""  # what tells it from rules with the same name; the name itself if empty
    id: str = field(init=False)
    smallest: int = field(init=False)  # tokens in the smallest bucket, when it is full

    def __post_init__(self) -> None:
        if not self.buckets:
            raise ValueError(f"the limit {self.name!r} has no figure")
        for bucket in self.buckets:
            if bucket.capacity < 1 or not 0 < bucket.rate < math.inf:
                raise ValueError(f"the limit {self.name!r} would never let anyone in")
        figures = ",".join(f"{b.name}={b.capacity}@{b.rate!r}" for b in self.buckets)
        object.__setattr__(self, "id", f"{self.scope}|{self.about or self.name}|{figures}")
        object.__setattr__(self, "smallest", min(bucket.capacity for bucket in self.buckets))


class Buckets(Protocol):
    """Who keeps the tokens. `now` is monotonic seconds; `cost` is at most `rule.smallest`."""

    @property
    def is_sure(self) -> bool:
        """Whether tokens that are not there were used: not so while a share has to do."""

    def look(self, rule: Rule, key: Key, cost: int, now: float) -> float:
        """0.0: each bucket of the rule holds `cost` tokens. More: the seconds until each does; who
        waits them out finds the tokens, unless somebody else with that key took them. `UNKNOWN`:
        wait for `pending` first. Takes nothing.
        """

    def spend(self, rule: Rule, key: Key, cost: int, now: float) -> Levels:
        """Take the tokens; only after `look` said 0.0 with the same arguments."""

    def take(self, rule: Rule, key: Key, cost: int, now: float) -> float | Levels:
        """`look` and, when it says 0.0, `spend`, in one call: for a request under one rule. What
        `look` says when it says anything else.
        """

    def standing(self, rule: Rule, key: Key, now: float) -> Levels:
        """Changes nothing; a key that was never seen has full buckets."""

    def pending(self, wanted: Sequence[tuple[Rule, Key]], cost: int) -> Pending:
        """What to wait for, at most 20 ms, when `look` said UNKNOWN for these; then it knows. Of a
        rule whose smallest bucket holds less than `cost` only that much is wanted.
        """


def buckets_of(figures: Figures) -> tuple[Bucket, ...]:
    """The buckets that figures stand for (interface.md, Limits).

    *burst* tokens refilled at `per_second` (without `burst`: `per_second` rounded up), and one
    bucket for each longer figure: it holds all of it and is refilled evenly.
    """
    found = []
    if figures.per_second is not None:
        rate = float(figures.per_second)
        capacity = figures.burst or max(1, math.ceil(rate))
        found.append(Bucket("burst", capacity, rate, max(1, math.ceil(capacity / rate))))
    longer = (figures.per_minute, figures.per_hour, figures.per_day)
    for (name, seconds), quota in zip(_WINDOWS, longer, strict=True):
        if quota is not None:
            found.append(Bucket(name, quota, quota / seconds, seconds))
    return tuple(found)


def rule_of(name: str, figures: Figures, *, about: str = "", scope: Scope = "caller") -> Rule:
    """A rule of some figures. Raises ValueError when there are none."""
    return Rule(name, buckets_of(figures), scope, about)


def default_rule(limit: RateLimit) -> Rule:
    """`RATE_LIMIT`: one bucket, for callers for whom no tier says more."""
    rate = limit.quota / limit.window_seconds
    bucket = Bucket("default", limit.quota, rate, limit.window_seconds)
    return Rule("default", (bucket,), about="RATE_LIMIT")


def route_rule(route: str, figures: Figures, about: str = "") -> Rule:
    """The rule of a row of a route table; it counts each caller on that row alone. `about` tells it
    from rows of the same name.

    Raises ValueError when it has no figure. Whether its buckets can hold the route's cost is for
    the reader of the row to check: `cost > rule.smallest` is a mistake in the row.
    """
    return rule_of(route, figures, about=f"route {route!r} {about}".rstrip())
