"""The kinds of errors, and how often each is tried again."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from sqlalchemy.exc import OperationalError

from gateway.jobs import failures
from gateway.jobs.failures import KINDS
from gateway.jobs.models import JobError, Retry


def test_the_table_is_the_one_that_was_asked_for() -> None:
    table = {kind.name: (kind.max_attempts, kind.initial_seconds) for kind in KINDS.values()}
    assert table["database"] == (3, 1.0)
    assert table["network"] == (5, 2.0)
    assert table["external"] == (3, 5.0)
    assert not KINDS["validation"].retryable
    assert not KINDS["authorization"].retryable
    assert {"VALIDATION", "AUTHORIZATION"} <= set(failures.NEVER_AGAIN)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "validation"),
        (401, "authorization"),
        (403, "authorization"),
        (404, "validation"),
        (408, "timeout"),
        (422, "validation"),
        (429, "rate_limited"),
        (500, "external"),
        (501, "validation"),
        (502, "network"),
        (503, "external"),
        (504, "timeout"),
        (599, "external"),
    ],
)
def test_an_answer_is_of_a_kind_by_its_status(status: int, kind: str) -> None:
    found = failures.kind_of_status(status)
    assert found is not None
    assert found.name == kind


def test_a_good_answer_is_no_error() -> None:
    assert failures.kind_of_status(399) is None


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("PROXY_ERROR", None, "network"),
        ("CIRCUIT_BREAKER_OPEN", 503, "external"),
        ("RATE_LIMITED", 429, "rate_limited"),
        ("TIMED_OUT", None, "timeout"),
        ("NETWORK", None, "network"),
        ("FORBIDDEN", 403, "authorization"),
        ("UNPROCESSABLE", 422, "validation"),
        ("WHAT", None, "internal"),
        ("WHAT", 200, "internal"),
    ],
)
def test_an_error_is_of_a_kind_by_its_code(code: str, status: int | None, kind: str) -> None:
    assert failures.kind_of_code(code, status).name == kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), "timeout"),
        (ConnectionRefusedError(), "network"),
        (PermissionError(), "authorization"),
        (aiohttp.ServerDisconnectedError(), "network"),
        (aiohttp.ServerTimeoutError(), "timeout"),
        (OperationalError("secret", {}, Exception()), "database"),
        (asyncio.CancelledError(), "cancelled"),
        (UnicodeDecodeError("utf-8", b"", 0, 1, ""), "validation"),
        (ZeroDivisionError(), "internal"),
    ],
)
def test_an_exception_is_of_a_kind_by_its_class(error: BaseException, kind: str) -> None:
    assert failures.kind_of_exception(error).name == kind


def test_an_input_may_ask_for_other_numbers_but_not_for_the_hopeless() -> None:
    network, validation = KINDS["network"], KINDS["validation"]
    assert failures.may_try_again(network, 4)
    assert not failures.may_try_again(network, 5)
    assert failures.may_try_again(network, 8, Retry(max_attempts=9))
    assert not failures.may_try_again(network, 1, Retry(max_attempts=1))
    assert failures.may_try_again(network, 4, Retry(backoff=3))
    assert not failures.may_try_again(network, 100, Retry(max_attempts=10**9))
    assert not failures.may_try_again(validation, 1, Retry(max_attempts=9))


def test_pauses_grow_to_their_most_and_hear_retry_after() -> None:
    external = KINDS["external"]
    assert [failures.delay_seconds(external, n) for n in (1, 2, 3, 4, 5, 1000)] == [
        5, 10, 20, 40, 60, 60,
    ]  # fmt: skip
    assert failures.delay_seconds(external, 1, retry_after=42) == 42
    assert failures.delay_seconds(external, 1, retry_after=99_999) == 300
    asked = Retry(initial_seconds=0.5, backoff=0.1, max_seconds=3)
    assert failures.delay_seconds(external, 7, asked) == 0.5
    assert failures.delay_seconds(external, 1, Retry(max_seconds=3)) == 3


def test_an_error_comes_back_from_a_failures_details() -> None:
    error = JobError("EXTERNAL", "m", "a", 500, 3, True)
    members = failures.members_of(error)
    assert failures.error_of(members) == error
    assert failures.error_of(members | {"new": 1}) == error
    assert failures.error_of({"code": "A", "message": "b", "step": None}) == JobError("A", "b")
    assert failures.error_of(None) is None
    assert failures.error_of({"code": 1, "message": "b"}) is None


def test_a_long_text_is_cut() -> None:
    assert failures.short("a") == "a"
    assert len(failures.short("a" * 1000)) == failures.MESSAGE_LENGTH


def test_no_input_makes_tries_follow_each_other_at_once() -> None:
    at_once = Retry(100, initial_seconds=1e-9, backoff=1, max_seconds=1e-9)
    assert failures.delay_seconds(KINDS["external"], 50, at_once) == failures.LEAST_SECONDS
