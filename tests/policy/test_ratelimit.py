"""The token bucket: what it admits, what it tells the client, and how much it remembers."""

from __future__ import annotations

import re
import subprocess
import sys
from fractions import Fraction
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.limit_rules import Rule
from gateway.policy.ratelimit import LocalBuckets, RateLimiter, address_key, address_of
from tests.policy.limiting import rule

QUOTAS = st.integers(min_value=1, max_value=2000)
WINDOWS = st.sampled_from([1, 7, 60, 3600, 86_400])
STARTS = st.floats(min_value=0.0, max_value=1e8)


def drain(limiter: RateLimiter, key: int | str, now: float) -> int:
    """Take until refused; returns how many were admitted."""
    admitted = 0
    while limiter.take(key, now)[0]:
        admitted += 1
    return admitted


def test_a_burst_is_admitted_up_to_the_quota_and_counted_down() -> None:
    limiter = RateLimiter(3, 60)
    assert limiter.take("a", 100.0) == (True, 2, 20)
    assert limiter.take("a", 100.0) == (True, 1, 40)
    assert limiter.take("a", 100.0) == (True, 0, 60)
    assert limiter.take("a", 100.0) == (False, 0, 20)


def test_a_refusal_takes_nothing() -> None:
    limiter = RateLimiter(1, 10)
    limiter.take("a", 0.0)
    for _ in range(50):
        assert limiter.take("a", 5.0) == (False, 0, 5)
    assert limiter.take("a", 10.0)[0]


def test_tokens_come_back_evenly() -> None:
    limiter = RateLimiter(60, 60)
    assert drain(limiter, "a", 1000.0) == 60
    assert not limiter.take("a", 1000.5)[0]
    assert drain(limiter, "a", 1010.0) == 10
    assert drain(limiter, "a", 5000.0) == 60


def test_keys_do_not_share_a_bucket() -> None:
    limiter = RateLimiter(1, 60)
    assert limiter.take("a", 0.0)[0]
    assert limiter.take("b", 0.0)[0]
    assert not limiter.take("a", 0.0)[0]


@given(quota=QUOTAS, window=WINDOWS, start=STARTS)
def test_the_whole_quota_is_there_at_once(quota: int, window: int, start: float) -> None:
    assert drain(RateLimiter(quota, window), 1, start) == quota


@given(quota=QUOTAS, window=WINDOWS, start=STARTS, steps=st.lists(st.floats(0.0, 30.0), max_size=9))
def test_a_client_that_waits_as_told_is_admitted(
    quota: int, window: int, start: float, steps: list[float]
) -> None:
    limiter, now = RateLimiter(quota, window), start
    for step in [0.0, *steps]:
        now += step
        drain(limiter, 1, now)
        admitted, remaining, seconds = limiter.take(1, now)
        assert (admitted, remaining) == (False, 0)
        assert 1 <= seconds <= window / quota + 2
        now += seconds
        assert limiter.take(1, now)[0]


@given(
    quota=st.integers(1, 30),
    window=st.sampled_from([1, 7, 60]),
    start=STARTS,
    steps=st.lists(st.floats(0.0, 20.0), max_size=60),
)
def test_no_span_of_time_sees_more_than_quota_and_refill(
    quota: int, window: int, start: float, steps: list[float]
) -> None:
    limiter, now = RateLimiter(quota, window), start
    times = []
    for step in steps:
        now += step
        times += [now] * drain(limiter, 1, now)
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            span = times[last] - begin
            assert last - first + 1 <= quota + span * quota / window + 0.01


def test_a_million_requests_a_second_lose_nothing_to_rounding() -> None:
    limiter = RateLimiter(1_000_000, 1)
    limiter.take("a", 12_345_678.9)
    for _ in range(100_000):
        _, remaining, _ = limiter.take("a", 12_345_678.9)
    assert remaining == 1_000_000 - 100_001


@given(back=st.floats(min_value=0.0, max_value=1e6))
def test_a_clock_set_back_costs_at_most_a_token_of_waiting(back: float) -> None:
    limiter = RateLimiter(60, 60)
    now = 1e6
    drain(limiter, 1, now)
    admitted, _, seconds = limiter.take(1, now - back)
    assert not admitted
    assert seconds in (1, 2)
    assert limiter.take(1, now - back + seconds)[0]
    assert drain(limiter, 1, now - back + 3600) == 60


def test_an_unfilled_bucket_survives_a_clock_set_back() -> None:
    limiter = RateLimiter(10, 10)
    limiter.take("a", 1000.0)
    assert limiter.take("a", 10.0) == (False, 0, 1)
    assert limiter.take("a", 11.0)[0]


def test_the_least_recently_used_keys_go_first() -> None:
    limiter, buckets = RateLimiter(1, 3600, max_keys=10), LocalBuckets(10)
    hourly = rule(per_hour=1)
    assert repr(limiter) == "<RateLimiter 1/3600s, 0 keys>"
    for key in range(5):
        buckets.take(hourly, key, 1, 0.0)
    for key in range(5, 9):
        buckets.take(hourly, key, 1, 1.0)
        buckets.take(hourly, 0, 1, 1.0)  # refused, but used
    for key in range(9, 14):
        buckets.take(hourly, key, 1, 2.0)
    assert len(buckets) <= 10
    assert buckets.look(hourly, 0, 1, 3.0) > 0.0
    assert buckets.look(hourly, 1, 1, 3.0) == 0.0


@settings(max_examples=60)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 3), st.sampled_from([0.0, 0.1, 40.0])),
        max_size=300,
    ),
    bound=st.integers(2, 40),
)
def test_never_more_keys_than_allowed_over_all_rules(
    steps: list[tuple[int, int, float]], bound: int
) -> None:
    rules = [rule("a", per_minute=5), rule("b", 1.0), rule("c", 1.0, 9), rule("d", 1, 9, 99)]
    buckets, now = LocalBuckets(bound), 0.0
    for key, which, step in steps:
        now += step
        buckets.take(rules[which], key, 1, now)
        assert len(buckets) <= bound
        remembered, leaving = remembered_in(buckets)
        assert remembered == len(buckets)
        assert leaving <= bound


def remembered_in(buckets: LocalBuckets) -> tuple[int, int]:
    """How many pairs are really in the dicts, and how many are still to be freed."""
    tables = buckets._tables.values()
    remembered = sum(len(table.young) + len(table.old) for table in tables)
    return remembered, sum(map(len, buckets._leaving))


def test_full_buckets_are_forgotten_after_two_windows() -> None:
    buckets, minute = LocalBuckets(1000), rule(per_minute=5)
    for key in range(100):
        buckets.take(minute, key, 1, 0.0)
    buckets.take(minute, "later", 1, 61.0)
    buckets.take(minute, "later", 1, 122.0)
    assert len(buckets) <= 2


def test_a_rule_that_nobody_asks_for_leaves_nothing_behind() -> None:
    buckets, minute, hour = LocalBuckets(1000), rule("a", per_minute=5), rule("b", per_hour=5)
    buckets.take(minute, 1, 1, 0.0)
    buckets.take(hour, 1, 1, 0.0)
    buckets.take(rule("c", 1.0), 1, 1, 100.0)
    assert "rules=3" in repr(buckets)
    buckets.take(rule("d", 1.0), 1, 1, 130.0)
    assert repr(buckets) == "<LocalBuckets rules=2 young=2 old=0 leaving=0>"
    assert buckets.standing(hour, 1, 130.0)[0][0] == 4


def test_a_rule_is_kept_as_long_as_its_buckets_fill_after_the_last_use() -> None:
    buckets, minute = LocalBuckets(1000), rule("a", per_minute=1)
    buckets.take(minute, 1, 1, 0.0)
    buckets.take(minute, 2, 1, 59.0)
    buckets.take(rule("b", 1.0), 1, 1, 118.0)
    assert buckets.look(minute, 2, 1, 118.0) == pytest.approx(1.0, abs=0.1)


def test_keys_given_up_are_freed_a_few_at_a_time() -> None:
    buckets, hourly = LocalBuckets(20), rule(per_hour=5)
    for key in range(21):
        buckets.take(hourly, key, 1, 0.0)
    assert "leaving=8" in repr(buckets)
    buckets.take(hourly, 100, 1, 0.0)
    assert "leaving=6" in repr(buckets)
    for key in range(101, 105):
        buckets.take(hourly, key, 1, 0.0)
    assert repr(buckets) == "<LocalBuckets rules=1 young=6 old=10 leaving=0>"


def test_an_odd_number_of_keys_given_up_is_freed_to_the_last() -> None:
    buckets, hourly = LocalBuckets(2), rule(per_hour=5)
    for key in range(4):
        buckets.take(hourly, key, 1, 0.0)
    assert repr(buckets) == "<LocalBuckets rules=1 young=1 old=1 leaving=0>"


def test_a_key_moves_from_old_to_young_with_its_bucket() -> None:
    buckets, hourly = LocalBuckets(4), rule(per_hour=2)
    for key in "abca":
        buckets.take(hourly, key, 1, 0.0)
    assert buckets.standing(hourly, "a", 0.0)[0][0] == 0


def test_an_old_bucket_says_how_it_stands_and_stays_old() -> None:
    buckets, hourly = LocalBuckets(4), rule(per_hour=2)
    for key in "abc":
        buckets.take(hourly, key, 1, 0.0)
    before = repr(buckets)
    assert buckets.standing(hourly, "a", 0.0) == [(1, 1800.0)]
    assert repr(buckets) == before


@pytest.mark.parametrize(("quota", "window", "max_keys"), [(0, 60, 10), (1, 0, 10), (1, 60, 1)])
def test_a_rule_that_makes_no_sense_is_refused(quota: int, window: int, max_keys: int) -> None:
    with pytest.raises(ValueError, match=r"at least|let anyone in"):
        RateLimiter(quota, window, max_keys)


def test_a_request_takes_from_each_bucket_or_from_none() -> None:
    buckets, tier = LocalBuckets(), rule(per_second=5, per_minute=100, burst=10)
    for left in range(9, -1, -1):
        levels = buckets.take(tier, "a", 1, 100.0)
        assert not isinstance(levels, float)
        assert [tokens for tokens, _ in levels] == [left, 90 + left]
    assert buckets.take(tier, "a", 1, 100.0) == pytest.approx(0.2, abs=0.01)
    assert [left for left, _ in buckets.standing(tier, "a", 100.0)] == [0, 90]
    assert buckets.take(tier, "a", 10, 100.0) == pytest.approx(2.0, abs=0.01)
    assert buckets.look(tier, "a", 10, 102.0) == 0.0


def test_a_bucket_without_a_longer_one_full_does_not_let_in() -> None:
    buckets, tier = LocalBuckets(), rule(per_second=10, per_minute=6, burst=10)
    for _ in range(6):
        buckets.spend(tier, "a", 1, 0.0)
    assert buckets.look(tier, "a", 1, 0.0) == pytest.approx(10.0, abs=0.01)
    assert buckets.look(tier, "a", 1, 9.0) == pytest.approx(1.0, abs=0.01)
    assert buckets.look(tier, "a", 1, 10.0) == 0.0


def test_what_was_not_looked_at_is_not_spent() -> None:
    buckets, once = LocalBuckets(), rule(per_hour=1)
    buckets.spend(once, "a", 1, 0.0)
    with pytest.raises(RuntimeError, match="without a look"):
        buckets.spend(once, "a", 1, 0.0)


def test_buckets_in_memory_are_never_unknown() -> None:
    with pytest.raises(RuntimeError, match="never unknown"):
        LocalBuckets().pending([(rule(per_hour=1), "a")], 1)


def test_keys_never_seen_have_full_buckets() -> None:
    buckets, tier = LocalBuckets(), rule(per_second=5, per_minute=100)
    assert buckets.look(tier, "a", 5, 0.0) == 0.0
    assert buckets.standing(tier, "a", 0.0) == [(5, 0.0), (100, 0.0)]
    assert len(buckets) == 0
    buckets.take(tier, "a", 1, 0.0)
    assert buckets.standing(tier, "b", 0.0) == [(5, 0.0), (100, 0.0)]


FIGURES = st.builds(
    rule,
    per_second=st.none() | st.sampled_from([0.25, 1, 3.5, 20]),
    per_minute=st.integers(4, 60),
    per_hour=st.none() | st.integers(4, 400),
)
STEPS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.5, 3.0, 61.0]), st.integers(1, 4)), max_size=80
)


@settings(max_examples=80)
@given(limit=FIGURES, start=STARTS, steps=STEPS)
def test_buckets_do_as_a_plain_model_does(
    limit: Rule, start: float, steps: list[tuple[float, int]]
) -> None:
    """The model: exact fractions of tokens, refilled at each step."""
    buckets, now = LocalBuckets(), start
    levels = [Fraction(bucket.capacity) for bucket in limit.buckets]
    before = Fraction(start)
    for step, wanted in steps:
        now += step
        cost = min(wanted, limit.smallest)
        elapsed, before = Fraction(now) - before, Fraction(now)
        levels = [
            min(Fraction(bucket.capacity), level + elapsed * Fraction(bucket.rate))
            for bucket, level in zip(limit.buckets, levels, strict=True)
        ]
        short = max(
            (cost - level) / Fraction(bucket.rate)
            for bucket, level in zip(limit.buckets, levels, strict=True)
        )
        if abs(short) < 0.02:
            continue  # a clock's rounding away from the edge: either is right
        wait = buckets.look(limit, "k", cost, now)
        if short > 0:
            assert wait == pytest.approx(float(short), abs=0.02)
            assert buckets.take(limit, "k", cost, now) == wait
        else:
            assert wait == 0.0
            levels = [level - cost for level in levels]
            said = buckets.spend(limit, "k", cost, now)
            assert list(said) == list(buckets.standing(limit, "k", now))
        for (left, until), bucket, level in zip(
            buckets.standing(limit, "k", now), limit.buckets, levels, strict=True
        ):
            assert left == pytest.approx(int(level), abs=1)
            assert 0 <= left <= bucket.capacity
            assert until == pytest.approx(
                float((bucket.capacity - level) / Fraction(bucket.rate)), abs=0.02
            )


@settings(max_examples=60)
@given(limit=FIGURES, start=STARTS, steps=STEPS)
def test_no_span_sees_more_tokens_than_a_bucket_holds_and_gains(
    limit: Rule, start: float, steps: list[tuple[float, int]]
) -> None:
    buckets, now = LocalBuckets(), start
    taken: list[tuple[float, int]] = []
    for step, wanted in steps:
        now += step
        cost = min(wanted, limit.smallest)
        while not isinstance(buckets.take(limit, "k", cost, now), float):
            taken.append((now, cost))
    for bucket in limit.buckets:
        for first in range(0, len(taken), 1 + len(taken) // 40):
            total, begin = 0, taken[first][0]
            for at, cost in taken[first:]:
                total += cost
                assert total <= bucket.capacity + (at - begin) * bucket.rate + 0.01


@settings(max_examples=80)
@given(limit=FIGURES, start=STARTS, steps=STEPS)
def test_who_waits_as_told_is_let_in_by_every_bucket(
    limit: Rule, start: float, steps: list[tuple[float, int]]
) -> None:
    buckets, now = LocalBuckets(), start
    for step, wanted in steps:
        now += step
        cost = min(wanted, limit.smallest)
        wait = buckets.take(limit, "k", cost, now)
        if isinstance(wait, float):
            assert wait > 0.0
            now += ceil(wait)
            assert buckets.look(limit, "k", cost, now) == 0.0


@settings(max_examples=60)
@given(back=st.floats(min_value=0.0, max_value=1e6), cost=st.integers(1, 5))
def test_a_clock_set_back_empties_buckets_at_worst(back: float, cost: int) -> None:
    buckets, tier = LocalBuckets(), rule(per_second=5, per_minute=60)
    for _ in range(5):
        buckets.take(tier, 1, 1, 1e6)
    wait = buckets.look(tier, 1, cost, 1e6 - back)
    assert wait <= cost + 0.01
    assert buckets.look(tier, 1, cost, 1e6 - back + ceil(wait)) == 0.0
    assert all(left >= 0 for left, _ in buckets.standing(tier, 1, 1e6 - back))


def test_an_address_counts_as_it_is_or_by_its_64() -> None:
    assert address_key("192.0.2.1") != address_key("192.0.2.2")
    assert address_key("::ffff:192.0.2.1") == address_key("192.0.2.1")
    assert address_key("2001:db8:1:2::1") == address_key("2001:db8:1:2:ffff::9")
    assert address_key("2001:db8:1:2::1") != address_key("2001:db8:1:3::1")
    assert address_key("fe80::1%eth0") == address_key("fe80::2")


@given(v4=st.ip_addresses(v=4), v6=st.ip_addresses(v=6))
def test_the_families_never_share_a_key(v4: object, v6: object) -> None:
    if not str(v6).startswith("::ffff:"):
        assert address_key(str(v4)) != address_key(str(v6))


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("0.0.0.9", "0.0.0.9"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2::77", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
    ],
)
def test_a_key_says_which_address_it_counts(address: str, counted: str) -> None:
    assert address_of(address_key(address)) == counted


def test_what_is_no_address_has_no_key() -> None:
    with pytest.raises(ValueError, match="does not appear"):
        address_key("somewhere")


FILL = """
import resource
from gateway.policy.limit_rules import rule_of
from gateway.policy.ratelimit import LocalBuckets
from gateway.settings_limits import TierSettings
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
buckets = LocalBuckets(200_000)
tier = rule_of("tier", TierSettings("tier", per_second=5, per_day=1000))
for number in range(240_000):  # so that some have been given up
    buckets.take(tier, (1 << 64) | (number << 32), 1, 1000.0 + number / 1000)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(buckets), (after - before) * 1024)
"""


def test_an_address_under_a_tier_takes_less_than_250_bytes() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", FILL],
        cwd=root,
        env={"PYTHONPATH": str(root)},  # and no coverage measured there: it would take minutes
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.fullmatch(r"(\d+) (\d+)\n", done.stdout)
    assert found is not None
    assert 100_000 < int(found[1]) <= 200_000
    assert int(found[2]) < 250 * 200_000
