"""Rules: which buckets figures stand for, and what a rule is known by."""

from __future__ import annotations

import pytest

from gateway.policy.limit_rules import (
    Bucket,
    Rule,
    buckets_of,
    default_rule,
    route_rule,
    rule_of,
)
from gateway.settings_limits import LimitSettings, TierSettings
from gateway.settings_values import RateLimit


def test_a_tier_of_both_figures_is_two_buckets() -> None:
    assert buckets_of(TierSettings("anonymous", per_second=5, per_minute=100, burst=10)) == (
        Bucket("burst", 10, 5.0, 2),
        Bucket("minute", 100, 100 / 60, 60),
    )


def test_each_longer_figure_is_a_bucket_refilled_evenly() -> None:
    figures = LimitSettings("x", per_minute=6, per_hour=100, per_day=1000)
    assert buckets_of(figures) == (
        Bucket("minute", 6, 0.1, 60),
        Bucket("hour", 100, 100 / 3600, 3600),
        Bucket("day", 1000, 1000 / 86_400, 86_400),
    )


@pytest.mark.parametrize(
    ("per_second", "burst", "capacity", "window"),
    [(5, None, 5, 1), (0.5, None, 1, 2), (2.5, None, 3, 2), (50, 100, 100, 2), (10, 1, 1, 1)],
)
def test_a_burst_without_a_figure_is_what_comes_in_a_second(
    per_second: float, burst: int | None, capacity: int, window: int
) -> None:
    (bucket,) = buckets_of(TierSettings("pro", per_second=per_second, burst=burst))
    assert (bucket.capacity, bucket.rate, bucket.window_seconds) == (capacity, per_second, window)


def test_the_default_is_one_bucket() -> None:
    rule = default_rule(RateLimit(1000, 60))
    assert rule.name == "default"
    assert rule.buckets == (Bucket("default", 1000, 1000 / 60, 60),)
    assert rule.scope == "caller"


def test_a_rule_that_did_not_change_has_the_same_id() -> None:
    settings = LimitSettings("search", per_minute=5)
    assert rule_of("search", settings).id == rule_of("search", settings).id


def test_rules_that_differ_have_different_ids() -> None:
    settings = LimitSettings("search", per_minute=5)
    rules = [
        rule_of("search", settings),
        rule_of("other", settings),
        rule_of("search", LimitSettings("search", per_minute=6)),
        rule_of("search", LimitSettings("search", per_hour=5)),
        rule_of("search", settings, scope="tenant"),
        route_rule("search", settings),
        default_rule(RateLimit(5, 60)),
    ]
    assert len({rule.id for rule in rules}) == len(rules)


def test_a_rule_knows_its_smallest_bucket() -> None:
    assert route_rule("x", LimitSettings("x", per_second=50, per_minute=30)).smallest == 30
    assert route_rule("x", LimitSettings("x", per_second=3, per_minute=30)).smallest == 3


@pytest.mark.parametrize(
    "buckets",
    [
        (),
        (Bucket("x", 0, 1.0, 60),),
        (Bucket("x", 1, 0.0, 60),),
        (Bucket("x", 1, float("inf"), 60),),
        (Bucket("x", 5, 1.0, 5), Bucket("y", -1, 1.0, 60)),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(buckets: tuple[Bucket, ...]) -> None:
    with pytest.raises(ValueError, match=r"figure|let anyone in"):
        Rule("x", buckets)
