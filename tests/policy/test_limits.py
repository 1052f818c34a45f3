"""Which rules hold for whom, and that all of them must agree."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.auth import TIERS
from gateway.policy.limit_rules import route_rule
from gateway.policy.limits import UNLIMITED, Standing
from gateway.policy.ratelimit import address_key
from gateway.settings_limits import LimitSettings
from tests.policy.limiting import HERE, MEDIA, Fields, Stored, admitted, ask, limits_of, rule


@pytest.mark.parametrize(("tier", "burst"), [*zip(TIERS, (10, 20, 100, 400), strict=True)])
def test_each_tier_has_its_burst(tier: str, burst: int) -> None:
    assert admitted(limits_of(tiers=MEDIA, default=3), tier=tier) == burst


def test_a_tier_lets_in_its_rate_and_then_its_minute() -> None:
    limits = limits_of(tiers=MEDIA)
    total = admitted(limits, now=1000.0)
    for second in range(1, 60):
        total += admitted(limits, now=1000.0 + second)
    assert total == 100 + 100 * 59 // 60  # the bucket of a minute, and what came into it
    refused = ask(limits, now=1059.0)
    assert refused.rule == "anonymous"
    assert refused.retry_after == 1


def test_the_default_is_for_tiers_without_a_row() -> None:
    limits = limits_of(tiers=MEDIA[:1], default=3)
    assert admitted(limits, tier="anonymous") == 10
    assert admitted(limits, tier="pro") == 3
    assert ask(limits, tier="pro").rule == "default"
    assert admitted(limits_of(default=7), tier="anonymous") == 7


def test_without_default_and_row_there_is_no_limit_and_no_field() -> None:
    limits = limits_of(tiers=MEDIA[:1])
    assert ask(limits, tier="pro") is UNLIMITED
    assert (UNLIMITED.admitted, UNLIMITED.lines) == (True, b"")
    assert ask(limits, tier="anonymous").lines


def test_callers_do_not_share_a_bucket() -> None:
    limits = limits_of(default=2)
    for caller in (HERE, address_key("192.0.2.2"), "s:alice", "s:bob", f"s:{HERE}"):
        assert admitted(limits, caller=caller) == 2


def test_a_rule_without_tenant_counts_each_caller_on_its_paths() -> None:
    limits = limits_of(LimitSettings("search", path="/api/v1/search*", per_minute=2), default=100)
    assert admitted(limits, caller="s:a", path="/api/v1/search") == 2
    assert not ask(limits, "s:a", path="/api/v1/search/more").admitted
    assert admitted(limits, caller="s:b", path="/api/v1/search") == 2
    assert ask(limits, "s:a", path="/api/v1/other").admitted


def test_a_rule_with_a_tenant_counts_the_tenant_as_a_whole() -> None:
    row = LimitSettings("acme search", tenant="acme", path="/api/v1/search*", per_minute=3)
    limits = limits_of(row, default=100)
    for caller in ("s:a", "s:b", "s:c"):
        assert ask(limits, caller, tenant="acme", path="/api/v1/search").admitted
    refused = ask(limits, "s:d", tenant="acme", path="/api/v1/search")
    assert (refused.rule, refused.retry_after) == ("acme search", 20)
    assert ask(limits, "s:d", tenant="acme", path="/api/v1/movies").admitted
    assert ask(limits, "s:d", tenant="other", path="/api/v1/search").admitted
    assert ask(limits, "s:d", path="/api/v1/search").admitted


def test_a_rule_of_a_tenant_alone_holds_on_all_paths() -> None:
    limits = limits_of(LimitSettings("acme", tenant="acme", per_hour=2))
    assert ask(limits, tenant="acme", path="/a").admitted
    assert ask(limits, tenant="acme", path="/b").admitted
    assert not ask(limits, tenant="acme", path="/").admitted
    assert ask(limits, tenant=None, path="/a") is UNLIMITED


def test_a_rule_of_nobody_in_particular_holds_for_each_caller_everywhere() -> None:
    limits = limits_of(LimitSettings("all", per_day=1), LimitSettings("a", path="/a", per_day=9))
    assert admitted(limits, path="/a") == 1
    assert admitted(limits, caller="s:x", path="/b") == 1


def test_every_rule_that_holds_must_agree_and_a_refusal_takes_nothing() -> None:
    route = route_rule("search", LimitSettings("search", per_minute=4))
    limits = limits_of(
        LimitSettings("paths", path="/a/*", per_minute=6),
        LimitSettings("acme", tenant="acme", per_minute=8),
        tiers=MEDIA,
    )
    about = {"caller": "s:a", "tenant": "acme", "path": "/a/b", "own": (route,)}
    assert admitted(limits, **about) == 4  # type: ignore[arg-type]
    for _ in range(50):
        refused = ask(limits, "s:a", tenant="acme", path="/a/b", own=(route,))
        assert refused.rule == "search"
        assert Fields.read(refused.lines).limits == {
            "anonymous-burst": (6, 0),
            "anonymous-minute": (96, 0),
            "paths": (2, 0),
            "acme": (4, 0),
            "search": (0, 15),
        }
    assert admitted(limits, caller="s:a", tenant="acme", path="/a/b") == 2  # the rows' six


def test_of_several_that_refuse_the_longest_is_named_and_waited_for() -> None:
    own = (rule("slow", per_minute=1), rule("slower", per_hour=1), rule("quick", 1.0))
    limits = limits_of()
    assert ask(limits, own=own).admitted
    refused = ask(limits, own=own)
    assert (refused.rule, refused.retry_after) == ("slower", 3600)
    assert Fields.read(refused.lines).limits["slow"] == (0, 60)


def test_a_rule_that_holds_twice_is_taken_from_once() -> None:
    own = rule("x", per_minute=5)
    again = rule("x", per_minute=5)
    limits = limits_of()
    assert admitted(limits, own=(own, again)) == 5


def test_a_request_costs_what_its_route_says() -> None:
    limits = limits_of(tiers=MEDIA)
    assert Fields.read(ask(limits, cost=4).lines).limits == {
        "anonymous-burst": (6, 1),
        "anonymous-minute": (96, 3),
    }
    assert ask(limits, cost=4).admitted
    refused = ask(limits, cost=4)
    assert not refused.admitted
    assert Fields.read(refused.lines).limits == {
        "anonymous-burst": (2, 1),
        "anonymous-minute": (92, 0),
    }
    assert ask(limits, cost=2).admitted
    assert not ask(limits, cost=1).admitted
    assert ask(limits, cost=0) is UNLIMITED


def test_what_costs_more_than_a_bucket_holds_takes_it_whole() -> None:
    limits = limits_of(tiers=MEDIA)
    assert ask(limits, cost=1000, now=0.0).admitted
    refused = ask(limits, cost=1000, now=0.0)
    assert refused.retry_after == 2
    assert not ask(limits, cost=1000, now=1.0).admitted
    assert ask(limits, cost=1000, now=2.0).admitted


STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.05, 0.4, 7.0]),  # seconds since the one before
        st.sampled_from(["s:a", "s:b"]),
        st.sampled_from(["/a", "/a/b", "/c"]),
        st.sampled_from([1, 1, 2, 7]),
    ),
    max_size=50,
)
OWN = (rule("own", per_second=2, per_hour=40, burst=5),)


@settings(max_examples=80)
@given(start=st.floats(0.0, 1e8), steps=STEPS)
def test_a_client_that_waits_out_retry_after_is_let_in(
    start: float, steps: list[tuple[float, str, str, int]]
) -> None:
    """Nobody else asks in the meantime, else a tenant's tokens may be gone again."""
    limits = limits_of(
        LimitSettings("a", path="/a*", per_minute=9),
        LimitSettings("acme", tenant="acme", per_minute=12),
        tiers=MEDIA,
    )
    now = start
    for step, caller, path, cost in steps:
        now += step
        about = {"tenant": "acme", "path": path, "cost": cost, "own": OWN}
        verdict = ask(limits, caller, now=now, **about)  # type: ignore[arg-type]
        fields = Fields.read(verdict.lines)
        assert fields.remaining / fields.limit == min(
            left / fields.policies[name][0] for name, (left, _) in fields.limits.items()
        )
        if not verdict.admitted:
            assert all(seconds <= verdict.retry_after for _, seconds in fields.limits.values())
            now += verdict.retry_after
            assert ask(limits, caller, now=now, **about).admitted  # type: ignore[arg-type]


@settings(max_examples=80)
@given(start=st.floats(0.0, 1e8), steps=STEPS)
def test_no_span_lets_in_more_than_any_rule_allows(
    start: float, steps: list[tuple[float, str, str, int]]
) -> None:
    limits = limits_of(
        LimitSettings("a", path="/a*", per_minute=9),
        LimitSettings("acme", tenant="acme", per_minute=12),
        tiers=MEDIA,
    )
    now, taken = start, []
    for step, caller, path, cost in steps:
        now += step
        while ask(limits, caller, now=now, tenant="acme", path=path, cost=cost, own=OWN).admitted:
            taken.append((now, caller, path, cost))

    def check(name: str, whom: str | None, paths: str, capacity: float, rate: float) -> None:
        mine = [
            (at, min(cost, 5 if name == "own" else 9))
            for at, caller, path, cost in taken
            if (whom is None or caller == whom) and path.startswith(paths)
        ]
        for first, (begin, _) in enumerate(mine):
            total = 0
            for at, cost in mine[first:]:
                total += cost
                assert total <= capacity + (at - begin) * rate + 0.01, name

    check("acme", None, "/", 12, 0.2)
    for caller in ("s:a", "s:b"):
        check("a", caller, "/a", 9, 0.15)
        check("own", caller, "/", 5, 2.0)
        check("own", caller, "/", 40, 40 / 3600)


def test_the_buckets_of_a_key_are_those_it_took_from() -> None:
    limits = limits_of(
        LimitSettings("acme", tenant="acme", per_minute=50),
        LimitSettings("paths", path="/p", per_minute=8),
        tiers=MEDIA,
        default=7,
    )
    own = (rule("own", per_minute=4),)
    ask(limits, "s:a", tenant="acme", own=own, now=0.0)
    ask(limits, "s:b", tenant="acme", path="/p", now=0.0)
    ask(limits, "s:b", tier="other", now=0.0)
    standings = limits.buckets_of("s:a", 0.0)
    assert [one._replace(reset_seconds=round(one.reset_seconds, 6)) for one in standings] == [
        Standing("anonymous", "burst", 10, 2, 9, 0.2),
        Standing("anonymous", "minute", 100, 60, 99, 0.6),
        Standing("own", "minute", 4, 60, 3, 15.0),
    ]
    assert [one.rule for one in limits.buckets_of("s:b", 0.0)] == [
        "anonymous",
        "anonymous",
        "paths",
        "default",
    ]
    (acme,) = limits.buckets_of("t:acme", 0.0)
    assert (acme.rule, acme.bucket, acme.remaining) == ("acme", "minute", 48)
    assert limits.buckets_of("s:nobody", 0.0) == []
    assert limits.buckets_of("s:a", 3600.0) == []
    assert limits_of(tiers=MEDIA).buckets_of("s:a", 0.0) == []


def test_what_is_remembered_of_rules_and_paths_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.policy.limits._MAX_PLANS", 3)
    limits = limits_of(LimitSettings("a", path="/a/*", per_minute=1000), default=1000)
    for cost in range(1, 8):
        assert ask(limits, cost=cost).admitted
    assert "plans=1 recent=1 " in repr(limits)
    for number in range(4):
        assert ask(limits, path=f"/a/{number}").admitted
    assert "plans=2 recent=2 " in repr(limits)
    before = repr(limits)
    assert ask(limits, path=f"/a/{'x' * 300}").admitted
    assert repr(limits).partition("recent")[0] == before.partition("recent")[0]
    assert "recent=2 " in repr(limits)


def test_paths_are_looked_at_only_where_rules_are_about_them() -> None:
    limits = limits_of(LimitSettings("all", per_minute=5), tiers=MEDIA)
    looked = [limits.by_path]
    for number in range(5):
        assert ask(limits, path=f"/{number}").admitted
    assert "recent=1 " in repr(limits)
    limits.set_stored([Stored("acme", "/a", per_minute=3)])
    looked.append(limits.by_path)
    limits.set_stored([])
    assert [*looked, limits.by_path] == [False, True, False]
