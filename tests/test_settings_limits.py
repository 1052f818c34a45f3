"""Tiers, limits and figures of abuse as files write them, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gateway.policy.auth import TIERS
from gateway.settings_limits import (
    TIER_NAMES,
    AbuseSettings,
    LimitSettings,
    TierSettings,
    build_abuse,
    build_limits,
    build_tiers,
    limit_name,
)
from gateway.settings_values import SettingsError, Value

Table = dict[str, Value]


def table(raw: Mapping[str, object], line: int = 1, name: str = "x") -> Table:
    """A table as a file gives it: each key on a line of its own below the header."""
    keys = {"": Value(name, None, f"f.toml:{line}")}
    for offset, (key, value) in enumerate(raw.items(), 1):
        keys[key] = Value(f"{name}.{key}", value, f"f.toml:{line + offset}")
    return keys


def test_tiers_have_the_names_of_tokens() -> None:
    assert TIER_NAMES == TIERS


def test_a_tier_has_the_figures_that_are_written() -> None:
    tables = {
        "anonymous": table({"per_second": 5, "per_minute": 100, "burst": 10}),
        "pro": table({"per_second": 0.5, "per_hour": 7, "per_day": 1_000_000_000}),
    }
    assert build_tiers(tables) == (
        TierSettings("anonymous", per_second=5, per_minute=100, burst=10),
        TierSettings("pro", per_second=0.5, per_hour=7, per_day=1_000_000_000),
    )


def test_a_limit_says_for_whom_where_and_how_often() -> None:
    rows = [
        table({"tenant": "acme", "path": "/api/v1/search*", "per_minute": 600}, 1),
        table({"path": "/api/v1/movies/:id", "per_second": 2}, 9),
        table({"tenant": "acme", "per_day": 5, "name": "acme-all"}, 20),
        table({"per_hour": 5}, 30),
    ]
    assert build_limits(rows) == (
        LimitSettings(
            "acme:/api/v1/search*", "acme", "/api/v1/search*", per_minute=600, where="f.toml:1"
        ),
        LimitSettings(
            "/api/v1/movies/:id", None, "/api/v1/movies/:id", per_second=2, where="f.toml:9"
        ),
        LimitSettings("acme-all", "acme", None, per_day=5, where="f.toml:20"),
        LimitSettings("all", None, None, per_hour=5, where="f.toml:30"),
    )


@pytest.mark.parametrize(
    ("tenant", "path", "name"),
    [("a", "/b", "a:/b"), ("a", None, "a"), (None, "/b", "/b"), ("", "", "all")],
)
def test_a_limit_without_a_name_is_called_by_what_it_is_about(
    tenant: str | None, path: str | None, name: str
) -> None:
    assert limit_name(tenant, path) == name


@pytest.mark.parametrize(
    ("raw", "line", "problem"),
    [
        ({}, 1, "has no figure, expected at least one of per_second, per_minute"),
        ({"burst": 5}, 1, "has no figure"),
        ({"per_minute": 5, "burst": 5}, 3, "burst stands alone, expected per_second beside it"),
        ({"per_minute": 0}, 2, "is 0, expected a whole number from 1"),
        ({"per_minute": 1.5}, 2, "is 1.5, expected a whole number"),
        ({"per_minute": True}, 2, "is True, expected a whole number"),
        ({"per_day": 10**400}, 2, "expected a whole number"),
        ({"per_second": 0}, 2, "is 0, expected a number from 0.001"),
        ({"per_second": -1}, 2, "is -1"),
        ({"per_second": float("nan")}, 2, "is nan"),
        ({"per_second": float("inf")}, 2, "is inf"),
        ({"per_second": 10**400}, 2, "expected a number"),
        ({"per_second": True}, 2, "is True"),
        ({"per_second": "5"}, 2, "is '5'"),
        ({"per_year": 5}, 2, "per_year is unknown, expected one of per_second"),
    ],
)
def test_a_wrong_figure_is_said_with_its_line(
    raw: dict[str, object], line: int, problem: str
) -> None:
    with pytest.raises(SettingsError) as refusal:
        build_tiers({"pro": table(raw, name="tiers.pro")})
    text = str(refusal.value)
    assert text.startswith(f"f.toml:{line}: tiers.pro")
    assert problem in text
    assert "\n" not in text


def test_a_tier_that_no_token_can_have_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"f.toml:4: tiers.gold is no tier, expected anonymous"):
        build_tiers({"gold": table({"per_second": 5}, 4, "tiers.gold")})


@pytest.mark.parametrize(
    ("raw", "line", "problem"),
    [
        ({"path": "movies", "per_minute": 5}, 2, "is 'movies': "),
        ({"path": "/a/*/b", "per_minute": 5}, 2, "is '/a/*/b': "),
        ({"path": "/a/../b", "per_minute": 5}, 2, "is '/a/../b': "),
        ({"path": 7, "per_minute": 5}, 2, "is 7, expected a text"),
        ({"tenant": "", "per_minute": 5}, 2, "expected a text"),
        ({"tenant": "a" * 256, "per_minute": 5}, 2, "is too long"),
        ({"name": "a b", "per_minute": 5}, 2, "is 'a b', expected letters"),
        ({"name": 'a"', "per_minute": 5}, 2, "expected letters"),
        ({"tenant": "a"}, 1, "has no figure"),
        ({"per_minute": 5, "cost": 5}, 3, "is unknown, expected one of name, tenant, path"),
    ],
)
def test_a_wrong_row_is_said_with_its_line(raw: dict[str, object], line: int, problem: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        build_limits([table(raw, name="limits")])
    text = str(refusal.value)
    assert text.startswith(f"f.toml:{line}: limits")
    assert problem in text


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"tenant": "a", "path": "/m/:id"}, {"tenant": "a", "path": "/m/:movie/"}),
        ({"path": "/a/*"}, {"path": "/a/*rest"}),
        ({"tenant": "a"}, {"tenant": "a"}),
        ({}, {}),
        ({"name": "x", "path": "/a"}, {"name": "x", "path": "/b"}),
    ],
)
def test_two_rows_about_the_same_are_an_error(
    one: dict[str, object], two: dict[str, object]
) -> None:
    rows = [table(one | {"per_minute": 5}, 3), table(two | {"per_hour": 5}, 8)]
    with pytest.raises(SettingsError, match=r"f.toml:8: .* already \(f.toml:3\)"):
        build_limits(rows)


def test_rows_about_other_tenants_or_paths_stand_side_by_side() -> None:
    raws: list[dict[str, object]] = [
        {"tenant": "a", "path": "/m"},
        {"tenant": "b", "path": "/m"},
        {"path": "/m"},
        {"path": "/m/:id"},
        {"path": "/m/*"},
        {"tenant": "a"},
    ]
    rows = [table(raw | {"per_minute": 5}, 10 * at) for at, raw in enumerate(raws)]
    assert len(build_limits(rows)) == len(raws)


def test_a_row_that_does_not_say_where_it_stands_is_where_its_first_key_is() -> None:
    keys = table({"per_minute": 0}, 4)
    del keys[""]
    with pytest.raises(SettingsError, match=r"^f.toml:5"):
        build_limits([keys])
    with pytest.raises(SettingsError, match=r"^settings: limits has no figure"):
        build_limits([{}])


def test_no_table_of_abuse_is_none_and_an_empty_one_the_usual_figures() -> None:
    assert build_abuse({}) is None
    assert build_abuse(table({})) == AbuseSettings(20, 100, 60.0, 60.0, 3600.0)


def test_figures_of_abuse_are_read() -> None:
    raw = {
        "bad_credentials": 5,
        "refusals": 0,
        "window_seconds": 30,
        "close_seconds": 1.5,
        "close_max_seconds": 90,
    }
    assert build_abuse(table(raw)) == AbuseSettings(5, 0, 30.0, 1.5, 90.0)


@pytest.mark.parametrize(
    ("raw", "line", "problem"),
    [
        ({"tries": 5}, 2, "abuse.tries is unknown, expected one of bad_credentials"),
        ({"refusals": -1}, 2, "is -1"),
        ({"window_seconds": 0}, 2, "expected seconds, more than 0"),
        ({"close_seconds": 90, "close_max_seconds": 60}, 1, "closes for 90 s first and 60 s at"),
    ],
)
def test_wrong_figures_of_abuse_are_said_with_their_line(
    raw: dict[str, object], line: int, problem: str
) -> None:
    with pytest.raises(SettingsError) as refusal:
        build_abuse(table(raw, name="abuse"))
    assert str(refusal.value).startswith(f"f.toml:{line}: abuse")
    assert problem in str(refusal.value)
