"""Limits whose tokens are elsewhere: waited for once, and refused when unknown even then."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gateway.policy.limit_rules import UNKNOWN, Key, Levels, Rule
from gateway.policy.limits import Verdict
from gateway.policy.pending import Pending
from gateway.policy.ratelimit import LocalBuckets
from tests.policy.limiting import WALL, ask, limits_of, rule


class Away(LocalBuckets):
    """Buckets whose tokens are elsewhere until they were waited for, as far as they come back."""

    def __init__(self, comes_back: bool) -> None:
        super().__init__()
        self.comes_back = comes_back
        self.known: set[tuple[str, Key]] = set()
        self.asked: list[tuple[list[str], int]] = []

    def look(self, rule: Rule, key: Key, cost: int, now: float) -> float:
        if (rule.id, key) not in self.known:
            return UNKNOWN
        return super().look(rule, key, cost, now)

    def take(self, rule: Rule, key: Key, cost: int, now: float) -> float | Levels:
        if (rule.id, key) not in self.known:
            return UNKNOWN
        return super().take(rule, key, cost, now)

    def pending(self, wanted: Sequence[tuple[Rule, Key]], cost: int) -> Pending:
        self.asked.append(([rule.name for rule, _ in wanted], cost))

        async def fetch() -> None:
            if self.comes_back:
                self.known.update((rule.id, key) for rule, key in wanted)

        return Pending(fetch())


@pytest.mark.parametrize("own", [(), (rule("own", per_minute=2),)])
async def test_tokens_that_are_elsewhere_are_waited_for_once(own: tuple[Rule, ...]) -> None:
    buckets = Away(comes_back=True)
    limits = limits_of(default=2, buckets=buckets)
    pending = limits.check("s:a", "free", None, "/", own, 1, 0.0, WALL)
    assert isinstance(pending, Pending)
    await pending.wait
    verdict = limits.check("s:a", "free", None, "/", own, 1, 0.0, WALL, waited=True)
    assert isinstance(verdict, Verdict)
    assert verdict.admitted
    assert buckets.asked == [(["default", *(one.name for one in own)], 1)]
    assert ask(limits, "s:a", tier="free", own=own, now=0.0).admitted
    assert ask(limits, "s:a", tier="free", own=own, now=0.0).retry_after == 30


@pytest.mark.parametrize("own", [(), (rule("own", per_minute=2),)])
async def test_what_is_unknown_even_then_is_refused_for_a_second(own: tuple[Rule, ...]) -> None:
    limits = limits_of(default=2, buckets=Away(comes_back=False))
    pending = limits.check("s:a", "free", None, "/", own, 1, 0.0, WALL)
    assert isinstance(pending, Pending)
    await pending.wait
    verdict = limits.check("s:a", "free", None, "/", own, 1, 0.0, WALL, waited=True)
    assert isinstance(verdict, Verdict)
    assert (verdict.admitted, verdict.retry_after, verdict.rule) == (False, 1, "default")


async def test_a_rule_that_refuses_is_named_where_another_is_unknown() -> None:
    own = rule("own", per_minute=2)
    buckets = Away(comes_back=False)
    limits = limits_of(default=2, buckets=buckets)
    buckets.known.add((own.id, "s:a"))
    for _ in range(2):
        buckets.spend(own, "s:a", 1, 0.0)
    verdict = limits.check("s:a", "free", None, "/", (own,), 1, 0.0, WALL, waited=True)
    assert isinstance(verdict, Verdict)
    assert (verdict.rule, verdict.retry_after) == ("own", 30)
