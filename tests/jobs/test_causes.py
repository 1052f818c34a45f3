"""From Temporal's failures to what a job tells of them."""

from __future__ import annotations

from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    RetryState,
    TimeoutError,  # noqa: A004 - Temporal's own
    TimeoutType,
)

from gateway.jobs.models import Compensation, JobError
from gateway.jobs.workflows import causes


def _in_activity(cause: BaseException) -> ActivityError:
    error = ActivityError(
        "activity failed",
        scheduled_event_id=1,
        started_event_id=2,
        identity="",
        activity_type="route_to_service",
        activity_id="1",
        retry_state=RetryState.NON_RETRYABLE_FAILURE,
    )
    error.__cause__ = cause
    return error


def test_an_activitys_own_error_is_told_with_its_step() -> None:
    members = {"code": "EXTERNAL", "message": "it failed", "status": 500}
    cause = ApplicationError("x", {"error": members, "attempts": 3}, type="EXTERNAL")
    failure = _in_activity(cause)
    assert causes.error_of(failure, "pay") == JobError("EXTERNAL", "it failed", "pay", 500)
    assert causes.attempts_of(failure) == 3


def test_a_step_that_is_named_stays() -> None:
    members = {"code": "A", "message": "b", "step": "one"}
    assert causes.error_of(ApplicationError("x", {"error": members}), "two").step == "one"


def test_an_activity_that_took_too_long_is_told_so() -> None:
    late = TimeoutError("m", type=TimeoutType.START_TO_CLOSE, last_heartbeat_details=[])
    assert causes.error_of(_in_activity(late)) == JobError(
        "TIMEOUT", "it took too long", retryable=True
    )
    assert causes.attempts_of(_in_activity(late)) == 1


def test_a_cancellation_is_told_so() -> None:
    failure = _in_activity(CancelledError())
    assert causes.error_of(failure).code == "CANCELLED"
    assert causes.is_cancelled(failure)


def test_a_failure_without_details_counts_by_its_type() -> None:
    known = causes.error_of(_in_activity(ApplicationError("hm", type="NETWORK")))
    assert (known.code, known.message, known.retryable) == ("NETWORK", "hm", True)
    nameless = causes.error_of(ApplicationError("hm", "no object"))
    assert (nameless.code, nameless.retryable) == ("INTERNAL", False)


def test_what_the_worker_could_not_do_is_no_ones_text() -> None:
    assert causes.error_of(ActivityError(
        "m", scheduled_event_id=1, started_event_id=2, identity="", activity_type="",
        activity_id="", retry_state=None,
    )).code == "INTERNAL_ERROR"  # fmt: skip
    assert "ValueError" in causes.error_of(ValueError("secret")).message
    assert "secret" not in causes.error_of(ValueError("secret")).message


def test_the_failure_of_a_job_holds_all_that_is_to_be_told() -> None:
    error = JobError("EXTERNAL", "m", "a")
    raised = causes.failure(
        error, data=1, errors=[error], compensations=[Compensation("a", "done")]
    )
    assert (raised.type, raised.non_retryable, raised.message) == ("EXTERNAL", True, "m")
    assert causes.error_of(raised) == error
    details = causes.details_of(raised)
    assert details["data"] == 1
    assert details["compensations"] == [{"step": "a", "status": "done", "error": None}]
    assert details["errors"][0]["code"] == "EXTERNAL"
