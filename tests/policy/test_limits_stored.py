"""Rules of the database beside those of the file, and what a change leaves of the tokens."""

from __future__ import annotations

import pytest

from gateway.policy.ratelimit import LocalBuckets
from gateway.settings_limits import LimitSettings
from tests.policy.limiting import MEDIA, Fields, Stored, admitted, ask, limits_of


def test_stored_rules_win_over_the_file_for_the_same_tenant_and_paths() -> None:
    limits = limits_of(
        LimitSettings("file", tenant="acme", path="/a/:id", per_minute=2),
        LimitSettings("stays", path="/a/:id", per_minute=9),
    )
    assert limits.set_stored([Stored("acme", "/a/:movie", per_minute=4)]) == ()
    assert admitted(limits, tenant="acme", path="/a/1") == 4
    assert ask(limits, tenant="acme", path="/a/1").rule == "acme:/a/:movie"
    assert admitted(limits, tenant=None, path="/a/1") == 5  # of nine, four are gone
    limits.set_stored([])
    assert ask(limits, tenant="acme", path="/a/1", now=5000.0).admitted
    assert admitted(limits, tenant="acme", path="/a/1", now=5000.0) == 1


@pytest.mark.parametrize("nobody", [None, ""])
def test_a_stored_rule_without_tenant_or_pattern_is_for_all(nobody: str | None) -> None:
    limits = limits_of(LimitSettings("file", per_day=1))
    limits.set_stored([Stored(nobody, nobody, per_minute=3, per_hour=5, per_day=7)])
    assert admitted(limits, caller="s:x", tenant="t", path="/anything") == 3
    assert ask(limits, "s:x").rule == "all"
    assert admitted(limits, caller="s:y") == 3


def test_a_stored_rule_that_changes_leaves_the_others_their_tokens() -> None:
    limits = limits_of(default=5)
    kept = Stored("acme", "/a", per_minute=3)
    limits.set_stored([kept, Stored("acme", "/b", per_minute=3)])
    for path in ("/a", "/b"):
        assert admitted(limits, caller=path, tenant="acme", path=path) == 3
    limits.set_stored([kept, Stored("acme", "/b", per_minute=4)])
    assert not ask(limits, "s:z", tenant="acme", path="/a").admitted
    assert admitted(limits, caller="s:y", tenant="acme", path="/b") == 4


def test_the_same_stored_rules_again_change_nothing() -> None:
    limits = limits_of()
    limits.set_stored([Stored("acme", "/a", per_minute=3)])
    assert admitted(limits, tenant="acme", path="/a") == 3
    before = repr(limits)
    assert limits.set_stored([Stored("acme", "/a", per_minute=3)]) == ()
    assert repr(limits) == before
    assert not ask(limits, tenant="acme", path="/a").admitted


def test_stored_rules_that_can_not_hold_are_given_back_and_hold_up_nothing() -> None:
    limits = limits_of()
    bad = [Stored("a", "no-path", per_minute=1), Stored("a", "/b"), Stored("a", "/c", per_day=0)]
    good = Stored("a", "/d", per_minute=1)
    assert limits.set_stored([*bad, good]) == tuple(bad)
    assert limits.set_stored([*bad, good]) == tuple(bad)
    assert limits.stored == (*bad, good)
    assert admitted(limits, tenant="a", path="/d") == 1


def test_a_reload_keeps_the_tokens_of_rules_that_did_not_change() -> None:
    buckets = LocalBuckets()
    search = LimitSettings("search", path="/s*", per_minute=3)
    before = limits_of(search, tiers=MEDIA, buckets=buckets)
    before.set_stored([Stored("acme", None, per_minute=50)])
    assert admitted(before, caller="s:a", tenant="acme", path="/s") == 3
    after = limits_of(search, tiers=MEDIA[:2], default=1, buckets=buckets)
    after.set_stored(before.stored)
    assert ask(after, "s:a", tenant="acme", path="/s").rule == "search"
    fields = Fields.read(ask(after, "s:a", tenant="acme", path="/x").lines)
    assert fields.limits["anonymous-burst"][0] == 6
    assert fields.limits["acme"][0] == 46
