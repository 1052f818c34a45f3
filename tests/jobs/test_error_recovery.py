"""What is done about a request that failed, and how that is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from gateway.jobs.models import (
    ErrorRecoveryInput,
    FailureReport,
    Fallback,
    Retry,
    ServiceRequest,
)
from gateway.jobs.workflows.error_recovery import ErrorRecoveryWorkflow, choose, kind_of
from gateway.jobs.workflows.service_breaker import FAILURES, ServiceBreakerWorkflow
from tests.jobs.saga_world import TAG, World, broken, failure_of, hurried, world
from tests.temporal_server import TemporalServer, temporal  # noqa: F401

RECOVERY = "error_recovery_workflow"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SOON = Retry(initial_seconds=0.01)
KEPT = Fallback(answer={"price": 1})


def report(kind: str = "external", minutes_ago: float | None = None, **members: Any) -> Any:
    at = "" if minutes_ago is None else (NOW - timedelta(minutes=minutes_ago)).isoformat()
    return FailureReport(kind, at=at, **members)


def given(failure: FailureReport, *history: FailureReport, **members: Any) -> ErrorRecoveryInput:
    request = members.pop("request", ServiceRequest("shop", "/orders", "POST"))
    members.setdefault("retry", SOON)
    return ErrorRecoveryInput(request, failure, list(history), **members)


# The choice


@pytest.mark.parametrize("kind", ["database", "network", "timeout", "external", "rate_limited"])
def test_what_may_pass_is_tried_again(kind: str) -> None:
    assert choose(given(report(kind)), NOW) == ("retry", f"{kind} errors may pass")


@pytest.mark.parametrize("kind", ["validation", "authorization", "cancelled", "internal", "odd"])
def test_what_no_retry_helps_falls_back(kind: str) -> None:
    assert choose(given(report(kind)), NOW)[0] == "fallback"


def test_a_series_of_the_services_failures_goes_through_the_breaker() -> None:
    series = [report("network", 1), report("database", 9), report("validation", 1)]
    assert choose(given(report("timeout"), *series), NOW) == (
        "circuit_breaker",
        "3 failures of the service within ten minutes",
    )


def test_failures_of_long_ago_make_no_series() -> None:
    series = [report("network", 11), report("network", 60), report("network", 1)]
    assert choose(given(report("network"), *series), NOW)[0] == "retry"


@pytest.mark.parametrize("at", ["", "yesterday", "2026-01-01T11:59:00", "2026-01-01T11:59:00Z"])
def test_a_time_may_be_missing_or_without_a_zone(at: str) -> None:
    series = [FailureReport("network", at=at)] * 2
    assert choose(given(report("network"), *series), NOW)[0] == "circuit_breaker"


def test_a_caller_over_its_limit_again_and_again_falls_back_if_it_can() -> None:
    series = [report("rate_limited", 1)] * 2
    assert choose(given(report("rate_limited"), *series), NOW)[0] == "retry"
    strategy, reason = choose(given(report("rate_limited"), *series, fallback=KEPT), NOW)
    assert (strategy, reason) == ("fallback", "rate_limited 3 times within ten minutes")


@pytest.mark.parametrize("strategy", ["retry", "fallback", "circuit_breaker"])
def test_what_the_data_names_is_not_questioned(strategy: str) -> None:
    assert choose(given(report("validation"), strategy=strategy), NOW) == (
        strategy,
        "named by the input",
    )


@pytest.mark.parametrize(
    ("kind", "status", "expected"),
    [
        ("external", None, "external"),
        ("external", 404, "validation"),
        ("network", 403, "authorization"),
        ("external", 429, "rate_limited"),
        ("database", 500, "database"),
        ("odd", 504, "timeout"),
        ("odd", 200, "internal"),
    ],
)
def test_a_status_says_more_than_who_reported_it(
    kind: str, status: int | None, expected: str
) -> None:
    assert kind_of(FailureReport(kind, status)).name == expected


# What is done


@pytest.fixture
async def around(temporal: TemporalServer) -> AsyncIterator[World]:  # noqa: F811
    async with world(temporal, [ErrorRecoveryWorkflow, ServiceBreakerWorkflow]) as made:
        yield made


@pytest.fixture
async def days(temporal: TemporalServer) -> AsyncIterator[World]:  # noqa: F811
    """Where days pass in no time."""
    async with world(temporal, [ErrorRecoveryWorkflow], hurried()) as made:
        yield made


def fresh(**members: Any) -> ServiceRequest:
    """To a service that no breaker knows."""
    return ServiceRequest(f"s{uuid4().hex}", "/orders", "POST", **members)


async def breaker(around: World, service: str) -> dict[str, Any]:
    """What the breaker of a service remembers."""
    handle = around.client.get_workflow_handle(f"breaker-{TAG}-{service}")
    kept: dict[str, Any] = await handle.query("status")
    return kept


async def test_tried_again_it_is_recovered_and_that_is_recorded(around: World) -> None:
    around.script["request"] = {"id": 1}
    request = ServiceRequest("shop", "/orders", "POST", {"q": "secret"}, {"x": "1"}, {"card": "no"})
    result = await around.run(RECOVERY, given(report("network"), request=request))
    assert (result["strategy"], result["outcome"], result["attempts"]) == ("retry", "recovered", 1)
    assert result["answer"]["body"] == {"id": 1}
    assert (result["error"], result["breaker"]) == (None, None)
    assert [each["message"] for each in around.told("job.progress")] == [
        "retry: network errors may pass",
        "recovered by retry",
    ]
    logged = around.logged[0]
    assert (logged.status, logged.attempts, logged.error) == (200, 1, None)
    assert logged.request == ServiceRequest("shop", "/orders", "POST")
    assert around.calls[0].retry == SOON


async def test_it_waits_before_it_tries_again_as_the_kind_says(days: World) -> None:
    slow = Retry(initial_seconds=86_400, max_seconds=86_400)
    before = datetime.now(UTC)
    result = await days.run(RECOVERY, given(report("network"), retry=slow))
    assert datetime.fromisoformat(result["completed_at"]) - before > timedelta(days=1)


async def test_a_request_may_tell_of_the_failure(around: World) -> None:
    request = ServiceRequest("shop", "/", "POST", body={"why": "${/failure/message}"})
    await around.run(RECOVERY, given(report("network", message="reset"), request=request))
    assert around.calls[0].request.body == {"why": "reset"}


async def test_when_all_tries_fail_that_is_a_result_and_the_breaker_hears_of_it(
    around: World,
) -> None:
    around.script["request"] = broken("NETWORK", None)
    request = fresh()
    result = await around.run(RECOVERY, given(report("network"), request=request))
    assert (result["outcome"], result["error"]["code"]) == ("failed", "NETWORK")
    assert (result["attempts"], result["breaker"]) == (2, "closed")
    assert len((await breaker(around, request.service))["failed_at"]) == 1
    assert around.told("job.completed")[0]["result"]["outcome"] == "failed"
    assert (around.logged[0].status, around.logged[0].error) == (0, around.logged[0].error)
    assert around.logged[0].error is not None


async def test_when_the_request_itself_is_wrong_the_breaker_hears_nothing(around: World) -> None:
    around.script["request"] = broken("VALIDATION", 422)
    result = await around.run(RECOVERY, given(report("network"), request=fresh()))
    assert (result["outcome"], result["error"]["status"], result["breaker"]) == (
        "failed",
        422,
        None,
    )
    assert around.logged[0].status == 422


async def test_what_cannot_be_recovered_is_answered_by_the_fallback(around: World) -> None:
    around.script["request"] = broken()
    other = Fallback(ServiceRequest("spare", "/${/$errors/request/code}"), answer="kept")
    result = await around.run(RECOVERY, given(report("network"), request=fresh(), fallback=other))
    assert (result["strategy"], result["outcome"]) == ("retry", "fallback")
    assert result["answer"]["body"] == {"by": "/EXTERNAL"}
    assert result["attempts"] == 3
    assert around.made == ["request", "fallback"]


async def test_a_fallback_that_is_not_needed_is_left_out(around: World) -> None:
    other = Fallback(ServiceRequest("spare", "/"))
    await around.run(RECOVERY, given(report("network"), fallback=other))
    assert around.made == ["request"]
    assert around.statuses("fallback") == ["skipped"]


async def test_a_fallback_that_fails_too_gives_the_answer_that_is_kept(around: World) -> None:
    around.script["fallback"] = broken()
    other = Fallback(ServiceRequest("spare", "/"), answer=[1])
    result = await around.run(RECOVERY, given(report("validation"), fallback=other))
    assert (result["strategy"], result["outcome"]) == ("fallback", "fallback")
    assert result["answer"] == {"status": 200, "headers": {}, "body": [1], "body_base64": None}
    assert around.made == ["fallback"]


async def test_a_fallback_that_fails_without_more_is_a_failure(around: World) -> None:
    around.script["fallback"] = broken()
    other = Fallback(ServiceRequest("spare", "/"))
    result = await around.run(RECOVERY, given(report("validation"), fallback=other))
    assert (result["outcome"], result["error"]["step"]) == ("failed", "fallback")


async def test_without_a_fallback_what_no_retry_helps_is_a_failure(around: World) -> None:
    result = await around.run(RECOVERY, given(report("validation")))
    assert (result["strategy"], result["outcome"], around.made) == ("fallback", "failed", [])
    assert result["error"]["code"] == "VALIDATION"


async def test_through_the_breaker_there_is_one_try_and_it_hears_how_it_went(
    around: World,
) -> None:
    request = fresh()
    good = given(report(), strategy="circuit_breaker", request=request)
    result = await around.run(RECOVERY, good)
    assert (result["outcome"], result["breaker"]) == ("recovered", "closed")
    assert around.calls[0].retry == Retry(max_attempts=1)
    assert (await breaker(around, request.service))["failed_at"] == []


async def test_a_wrong_request_through_the_breaker_shows_that_the_service_lives(
    around: World,
) -> None:
    around.script["request"] = broken("VALIDATION", 422)
    request = fresh()
    failing = given(report("validation"), strategy="circuit_breaker", request=request)
    result = await around.run(RECOVERY, failing)
    assert (result["outcome"], result["breaker"]) == ("failed", "closed")
    assert (await breaker(around, request.service))["failed_at"] == []


async def test_after_failures_in_a_row_it_is_refused_until_the_breaker_lets_one_through(
    around: World,
) -> None:
    around.script["request"] = broken()
    request = fresh()
    failing = given(report(), strategy="circuit_breaker", request=request)
    states = []
    for _ in range(FAILURES // 2 + 1):  # each tells of two failures: the reported and its own
        result = await around.run(RECOVERY, failing)
        states.append((result["outcome"], result["breaker"]))
    assert states[:-1] == [("failed", "closed")] * (FAILURES // 2)
    assert states[-1] == ("refused", "open")
    assert result["error"]["code"] == "CIRCUIT_BREAKER_OPEN"
    assert 0 < result["error"]["retry_after"] <= 30
    assert len(around.calls) == FAILURES // 2
    assert around.statuses("request")[-1] == "skipped"
    # With a fallback a refusal is answered all the same.
    failing.fallback = KEPT
    result = await around.run(RECOVERY, failing)
    assert (result["outcome"], result["breaker"]) == ("fallback", "open")
    assert result["answer"]["body"] == {"price": 1}
    # Where that fails as well, it is a failure.
    around.script["fallback"] = broken()
    failing.fallback = Fallback(ServiceRequest("spare", "/"))
    result = await around.run(RECOVERY, failing)
    assert (result["outcome"], result["error"]["step"]) == ("failed", "fallback")


async def test_owners_do_not_share_a_breaker(around: World) -> None:
    around.script["request"] = broken()
    failing = given(report(), strategy="circuit_breaker", request=fresh())
    for _ in range(FAILURES // 2 + 1):
        result = await around.run(RECOVERY, failing)
    assert result["outcome"] == "refused"
    result = await around.run(RECOVERY, failing, tag="fedcba9876543210")
    assert (result["outcome"], result["breaker"]) == ("failed", "closed")


async def test_a_breaker_that_does_not_answer_refuses_nothing(around: World) -> None:
    around.breaker_failing = ApplicationError("away", non_retryable=True)
    through = given(report(), strategy="circuit_breaker", request=fresh())
    result = await around.run(RECOVERY, through)
    assert (result["outcome"], result["breaker"]) == ("recovered", None)
    assert [each.what for each in around.breakers] == ["failed", "allow", "succeeded"]
    around.script["request"] = broken()
    result = await around.run(RECOVERY, given(report(), request=fresh()))
    assert (result["outcome"], result["breaker"]) == ("failed", None)


async def test_a_log_that_takes_nothing_does_not_undo_a_recovery(around: World) -> None:
    around.log_failing = ApplicationError("full", non_retryable=True)
    result = await around.run(RECOVERY, given(report("network")))
    assert result["outcome"] == "recovered"


async def test_cancelled_while_it_asks_the_breaker_it_ends(around: World) -> None:
    around.breaker_failing = asyncio.Event()
    through = given(report(), strategy="circuit_breaker", request=fresh())
    handle = await around.start(RECOVERY, through)
    await around.until(lambda: len(around.breakers) == 1)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    around.breaker_failing.set()
    assert around.made == []


async def test_cancelled_it_ends_at_once(around: World) -> None:
    around.script["request"] = asyncio.Event()
    handle = await around.start(RECOVERY, given(report("network")))
    await around.until(lambda: around.made == ["request"])
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert around.told("job.cancelled")[0]["status"] == "cancelled"


async def test_an_input_that_is_wrong_starts_nothing(around: World) -> None:
    handle = await around.start(RECOVERY, given(report(), strategy="fallback"))
    assert (await failure_of(handle))[0] == "VALIDATION"
    assert around.made == []
