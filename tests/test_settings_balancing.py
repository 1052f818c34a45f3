"""The keys of a service about balancing, checks, ejection and breaker."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings import ServiceSettings, load
from gateway.settings_balancing import (
    KEYS,
    BalanceSettings,
    BreakerSettings,
    CheckSettings,
    OutlierSettings,
)
from tests.loading import refusal


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(tmp_path: Path, *lines: str) -> Path:
    """A file with one service of two endpoints and these lines, of which the first is line 3."""
    file = tmp_path / "gateway.toml"
    head = ["[services.users]", 'url = "http://a:1,http://b:2"']
    file.write_text("\n".join([*head, *lines, ""]))
    return file


def users(tmp_path: Path, *lines: str) -> ServiceSettings:
    """The service of such a file."""
    (only,) = load({}, written(tmp_path, *lines)).services
    return only


def test_a_service_without_any_has_the_defaults(tmp_path: Path) -> None:
    found = users(tmp_path)
    assert found.balance == BalanceSettings("round_robin", (), None, None, 0.0, False)
    assert found.breaker == BreakerSettings(20, 3.0, 0.5)
    assert found.outlier == OutlierSettings(5, 30.0, 300.0, 0.5)
    assert found.checks is None
    assert (found.max_requests, found.queue, found.queue_timeout) == (None, 1024, 5.0)
    assert (found.pass_authorization, found.auth) == (True, None)


def test_a_service_of_the_environment_has_them_too() -> None:
    (only,) = load({"USERS_URL": "http://a"}).services
    assert (only.breaker, only.outlier) == (BreakerSettings(), OutlierSettings())


def test_each_key_says_its_part(tmp_path: Path) -> None:
    found = users(
        tmp_path,
        "breaker_failures = 10",
        "breaker_seconds = 2",
        'breaker_rate = "40%"',
        'balance = "weighted"',
        "weights = [3, 1]",
        'sticky = "seat"',
        "slow_start = 30",
        "panic = true",
        'check_path = "/health?deep=1"',
        "check_interval = 5",
        "check_timeout = 1.5",
        "check_healthy = 1",
        "check_unhealthy = 2",
        "outlier_failures = 3",
        "outlier_seconds = 10",
        "outlier_max_seconds = 60",
        "outlier_share = 0.1",
        "max_requests = 100",
        "queue = 0",
        "queue_timeout = 0.5",
        "pass_authorization = false",
        'auth = "scope:orders:read,orders:write"',
    )
    assert found.breaker == BreakerSettings(10, 2.0, 0.4)
    assert found.balance == BalanceSettings("weighted", (3, 1), None, "seat", 30.0, True)
    assert found.checks == CheckSettings("/health?deep=1", 5.0, 1.5, 1, 2)
    assert found.outlier == OutlierSettings(3, 10.0, 60.0, 0.1)
    assert (found.max_requests, found.queue, found.queue_timeout) == (100, 0, 0.5)
    assert (found.pass_authorization, found.auth) == (False, "scope:orders:read,orders:write")


def test_breaker_and_detection_can_be_switched_off(tmp_path: Path) -> None:
    found = users(tmp_path, 'breaker = "off"', "breaker_failures = 3", "outlier = false")
    assert (found.breaker, found.outlier) == (None, None)
    found = users(tmp_path, 'breaker = "on"', "outlier = true")
    assert (found.breaker, found.outlier) == (BreakerSettings(), OutlierSettings())


@pytest.mark.parametrize(
    ("lines", "hash_on"),
    [
        (['balance = "hash"'], ("address",)),
        (['balance = "hash"', 'hash_on = "Address"'], ("address",)),
        (['balance = "hash"', 'hash_on = "header:X-User"'], ("header", b"x-user")),
        (['balance = "hash"', 'hash_on = "cookie: Seat"'], ("cookie", b"Seat")),
        (['balance = "p2c"'], None),
    ],
)
def test_what_is_hashed(tmp_path: Path, lines: list[str], hash_on: object) -> None:
    assert users(tmp_path, *lines).balance.hash_on == hash_on


def test_weights_may_be_a_text(tmp_path: Path) -> None:
    assert users(tmp_path, 'weights = "5, 1"').balance.weights == (5, 1)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("breaker_failures = 0", "services.users.breaker_failures is 0, expected a whole number"),
        ("breaker_seconds = 0", "seconds, more than 0"),
        ("breaker_rate = 0", "is 0, expected a share above 0 to 1, such as 0.5 or 50%"),
        ("breaker_rate = 1.5", "is 1.5, expected a share"),
        ('breaker_rate = "150%"', "expected a share"),
        ("breaker_rate = true", "expected a share"),
        ("breaker_rate = [1]", "expected a share"),
        ('breaker_rate = "half"', "expected a share"),
        ("outlier_share = -0.1", "expected a share from 0 to 1"),
        ('balance = "random"', "expected round_robin or weighted or p2c or hash"),
        ("weights = [1]", "has 1 weights, expected one for each of the 2 endpoints"),
        ("weights = [1, 0]", "is 0, expected a whole number from 1 to 1000"),
        ("weights = 3", "expected a text with commas or a list of texts"),
        ('hash_on = "address"', "stands beside balance 'round_robin', expected balance = \"hash\""),
        ('hash_on = "header"', "expected header:<name>, cookie:<name> or address"),
        ('hash_on = "header:a b"', "expected header:<name>"),
        ('hash_on = "query:x"', "expected header:<name>"),
        ('sticky = "a;b"', "expected a cookie's name"),
        ("slow_start = -1", "seconds, at least 0"),
        ('panic = "maybe"', "expected true or false"),
        ('check_path = "health"', "expected a path at the endpoint, such as /health"),
        ('check_path = "/a b"', "expected a path at the endpoint"),
        ("check_interval = 5", "check_interval has no check_path beside it, expected one"),
        ("outlier_max_seconds = 10", "is 10, expected at least outlier_seconds (30)"),
        ("outlier_seconds = 400", "is 400, expected at most outlier_max_seconds (300)"),
        ("max_requests = 0", "expected a whole number"),
        ("queue = -1", "expected a whole number"),
        ('pass_authorization = "x"', "expected true or false"),
        ('auth = "scope:"', "expected none, optional, required or scope:<name>"),
        ('auth = "scope:a,,b"', "expected none, optional, required or scope:<name>"),
        ('auth = "anyone"', "expected none, optional, required or scope:<name>"),
        ("breakers = 1", "is unknown, expected one of url, exposed"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, line: str, problem: str) -> None:
    file = written(tmp_path, line)
    told = refusal({}, file)
    assert told.startswith(f"{file}:3: services.users.")
    assert problem in told


def test_weights_are_those_of_the_endpoints_that_the_environment_gives(tmp_path: Path) -> None:
    file = written(tmp_path, "weights = [3, 1]")
    told = refusal({"USERS_URL": "http://a"}, file)
    assert "has 2 weights, expected one for each of the 1 endpoints" in told


def test_an_unknown_key_is_answered_with_all_that_there_are(tmp_path: Path) -> None:
    told = refusal({}, written(tmp_path, "x = 1"))
    assert all(key in told for key in (*KEYS, "max_requests", "queue", "auth"))
