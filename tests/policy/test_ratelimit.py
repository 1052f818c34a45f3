"""The token bucket: what it admits, what it tells the client, and how much it remembers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.ratelimit import RateLimiter, address_key

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
    limiter = RateLimiter(1, 3600, max_keys=10)
    for key in range(5):
        limiter.take(key, 0.0)
    for key in range(5, 9):
        limiter.take(key, 1.0)
        limiter.take(0, 1.0)  # refused, but used
    for key in range(9, 14):
        limiter.take(key, 2.0)
    assert len(limiter) <= 10
    assert not limiter.take(0, 3.0)[0]
    assert limiter.take(1, 3.0)[0]


@given(keys=st.lists(st.integers(0, 60), max_size=400), bound=st.integers(2, 40))
def test_never_more_keys_than_allowed(keys: list[int], bound: int) -> None:
    limiter = RateLimiter(5, 3600, max_keys=bound)
    for now, key in enumerate(keys):
        limiter.take(key, now / 10)
        assert len(limiter) <= bound


def test_full_buckets_are_forgotten_after_two_windows() -> None:
    limiter = RateLimiter(5, 60)
    for key in range(100):
        limiter.take(key, 0.0)
    limiter.take("later", 61.0)
    limiter.take("later", 122.0)
    assert len(limiter) <= 2


def test_keys_given_up_are_freed_a_few_at_a_time() -> None:
    limiter = RateLimiter(5, 3600, max_keys=20)
    for key in range(21):
        limiter.take(key, 0.0)
    assert "leaving=10" in repr(limiter)
    limiter.take(100, 0.0)
    assert "leaving=8" in repr(limiter)
    for key in range(101, 105):
        limiter.take(key, 0.0)
    assert repr(limiter) == "<RateLimiter default 5/3600s young=6 old=10 leaving=0>"


def test_an_odd_number_of_keys_given_up_is_freed_to_the_last() -> None:
    limiter = RateLimiter(5, 3600, max_keys=2)
    for key in range(4):
        limiter.take(key, 0.0)
    assert len(limiter) == 2


def test_a_window_that_ends_waits_for_the_keys_given_up_before() -> None:
    limiter = RateLimiter(5, 10, max_keys=20)
    for key in range(21):
        limiter.take(key, 0.0)
    limiter.take(20, 20.0)
    assert "leaving=8" in repr(limiter)
    for _ in range(4):
        limiter.take(20, 20.0)
    assert repr(limiter) == "<RateLimiter default 5/10s young=1 old=1 leaving=10>"


def test_a_key_moves_from_old_to_young_with_its_bucket() -> None:
    limiter = RateLimiter(2, 3600, max_keys=4)
    limiter.take("a", 0.0)
    limiter.take("b", 0.0)
    limiter.take("c", 0.0)
    assert limiter.take("a", 0.0)[:2] == (True, 0)


@pytest.mark.parametrize(
    ("quota", "window", "max_keys", "name"),
    [
        (0, 60, 10, "x"),
        (1, 0, 10, "x"),
        (1, 60, 1, "x"),
        (1, 60, 10, 'a"b'),
        (1, 60, 10, "a\r\nb"),
        (1, 60, 10, "a%d"),
        (1, 60, 10, "ü"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(
    quota: int, window: int, max_keys: int, name: str
) -> None:
    with pytest.raises(ValueError, match=r"at least|printable"):
        RateLimiter(quota, window, max_keys, name)


def test_the_fields_say_what_take_said() -> None:
    limiter = RateLimiter(1000, 60, name="burst")
    assert limiter.headers(999, 1, 1_700_000_000.0) == (
        b"X-RateLimit-Limit: 1000\r\n"
        b"X-RateLimit-Remaining: 999\r\n"
        b"X-RateLimit-Reset: 1700000001\r\n"
        b'RateLimit-Policy: "burst";q=1000;w=60\r\n'
        b'RateLimit: "burst";r=999;t=1\r\n'
    )


@given(
    calls=st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(1, 99), st.floats(1.7e9, 1.7e9 + 5)),
        min_size=1,
        max_size=20,
    )
)
def test_the_fields_hold_at_any_time_of_day_in_any_order(
    calls: list[tuple[int, int, float]],
) -> None:
    limiter = RateLimiter(10**6, 60)
    for remaining, seconds, wall in calls:
        text = limiter.headers(remaining, seconds, wall).decode()
        fields = dict(line.split(": ", 1) for line in text.splitlines())
        assert fields["X-RateLimit-Remaining"] == str(remaining)
        assert wall + seconds <= int(fields["X-RateLimit-Reset"]) < wall + seconds + 1
        assert fields["RateLimit"] == f'"default";r={remaining};t={seconds}'


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


def test_what_is_no_address_has_no_key() -> None:
    with pytest.raises(ValueError, match="does not appear"):
        address_key("somewhere")


FILL = """
import resource
from gateway.policy.ratelimit import RateLimiter
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
limiter = RateLimiter(1000, 86400)
for number in range(1_200_000):  # so that some have been given up
    limiter.take((1 << 64) | (number << 32), 1000.0 + number / 1000)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(limiter), (after - before) * 1024)
"""


def test_a_million_addresses_take_less_than_200_mb() -> None:
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
    assert 500_000 < int(found[1]) <= 1_000_000
    assert int(found[2]) < 200_000_000
