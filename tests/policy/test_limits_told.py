"""What the client is told of its limits: shares, policies, names and seconds."""

from __future__ import annotations

from math import ceil

import pytest

from gateway.settings_limits import LimitSettings, TierSettings
from tests.policy.limiting import MEDIA, WALL, Fields, admitted, ask, limits_of, rule


def test_x_ratelimit_speaks_of_the_smallest_share() -> None:
    limits = limits_of(tiers=[TierSettings("anonymous", per_second=10, per_minute=20, burst=10)])
    first = Fields.read(ask(limits, now=0.0).lines)
    assert (first.limit, first.remaining) == (10, 9)
    assert first.reset == WALL + 1
    for _ in range(9):
        ask(limits, now=0.0)
    later = Fields.read(ask(limits, now=1.0).lines)  # the burst is back, the minute is not
    assert later.limits == {"anonymous-burst": (9, 1), "anonymous-minute": (9, 32)}
    assert (later.limit, later.remaining, later.reset) == (20, 9, WALL + 32)


def test_of_equal_shares_the_one_that_takes_longer_is_spoken_of() -> None:
    limits = limits_of(tiers=[TierSettings("anonymous", per_second=10, per_minute=10, burst=10)])
    fields = Fields.read(ask(limits).lines)
    assert (fields.limit, fields.remaining, fields.reset) == (10, 9, WALL + 6)
    limits = limits_of(
        LimitSettings("a", per_minute=10), LimitSettings("b", path="/x", per_hour=10)
    )
    own = (rule("c", per_minute=10),)
    fields = Fields.read(ask(limits, path="/x", own=own).lines)
    assert (fields.limit, fields.reset) == (10, WALL + 360)


def test_policies_list_quota_and_window_of_each_bucket() -> None:
    limits = limits_of(LimitSettings("s", path="/s*", per_hour=50, per_day=99), tiers=MEDIA)
    fields = Fields.read(ask(limits, path="/s").lines)
    assert fields.policies == {
        "anonymous-burst": (10, 2),
        "anonymous-minute": (100, 60),
        "s-hour": (50, 3600),
        "s-day": (99, 86_400),
    }
    assert fields.limits == {
        "anonymous-burst": (9, 1),
        "anonymous-minute": (99, 1),
        "s-hour": (49, 72),
        "s-day": (98, 873),
    }
    assert (fields.limit, fields.remaining) == (10, 9)


def test_the_default_has_its_own_name_alone() -> None:
    assert ask(limits_of(default=1000), wall=WALL + 0.5).lines == (
        b"X-RateLimit-Limit: 1000\r\n"
        b"X-RateLimit-Remaining: 999\r\n"
        b"X-RateLimit-Reset: 1700000002\r\n"
        b'RateLimit-Policy: "default";q=1000;w=60\r\n'
        b'RateLimit: "default";r=999;t=1\r\n'
    )


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ('a"b', 'a\\"b'),
        ("a\\b", "a\\\\b"),
        ("100%d", "100%d"),
        ("a\r\nX: y", "a??X: y"),
        ("café", "caf?"),
        ("/api/v1/*", "/api/v1/*"),
    ],
)
def test_a_name_is_a_string_of_structured_fields(name: str, written: str) -> None:
    fields = Fields.read(ask(limits_of(LimitSettings(name, per_minute=5))).lines)
    assert fields.policies == {written: (5, 60)}


def test_names_in_a_field_differ() -> None:
    limits = limits_of(LimitSettings("x", per_minute=5))
    own = (rule("x", per_hour=5), rule("x", per_hour=6))
    assert list(Fields.read(ask(limits, own=own).lines).policies) == ["x", "x-2", "x-3"]


def test_a_refusal_tells_no_bucket_later_than_retry_after() -> None:
    limits = limits_of(LimitSettings("hour", per_hour=50), tiers=MEDIA)
    admitted(limits)
    refused = ask(limits)
    fields = Fields.read(refused.lines)
    assert (refused.rule, refused.retry_after) == ("anonymous", 1)
    assert all(seconds <= refused.retry_after for _, seconds in fields.limits.values())
    assert (fields.limit, fields.remaining, fields.reset) == (10, 0, WALL + 1)


def test_the_seconds_of_an_answer_are_until_the_bucket_is_full() -> None:
    limits = limits_of(default=60)
    for count in range(1, 30):
        fields = Fields.read(ask(limits, wall=WALL + 0.25).lines)
        assert fields.limits == {"default": (60 - count, count)}
        assert fields.reset == ceil(WALL + 0.25) + count
