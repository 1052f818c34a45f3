"""The status body, put together of what the tracker tells and what Temporal knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest

from gateway.jobs import status
from gateway.jobs.status import MEMBERS, Facts, JobStatus, Outcome

START = datetime(2026, 11, 21, 10, 0, 0, 123456, UTC)
END = START + timedelta(seconds=5)
STARTED, ENDED = "2026-11-21T10:00:00.123Z", "2026-11-21T10:00:05.123Z"


def facts(how: str = "open", state: str | None = "running") -> Facts:
    return Facts("x", "kind", how, state, START, None if how == "open" else END)


def told(how: str, **more: Any) -> dict[str, Any]:
    return dict.fromkeys(MEMBERS) | {
        "operation_id": "x",
        "status": how,
        "progress": 0.5,
        "steps": [{"id": "a"}],
        "updated_at": ENDED,
    } | more  # fmt: skip


def together(
    known: Facts, tells: dict[str, Any] | None = None, outcome: Outcome | None = None
) -> dict[str, Any]:
    found = status.together(known, tells, outcome)
    assert tuple(found.body) == MEMBERS
    assert found.body["workflow_type"] == "kind"
    return found.body


@pytest.mark.parametrize(
    ("how", "state", "shown"),
    [
        ("open", "pending", "pending"),
        ("open", "running", "running"),
        ("open", "waiting", "waiting"),
        ("open", "timed_out", "running"),  # it undoes what it did
        ("open", None, "running"),
        ("completed", "running", "completed"),
        ("failed", "running", "failed"),
        ("failed", "timed_out", "timed_out"),
        ("cancelled", "waiting", "cancelled"),
        ("terminated", "timed_out", "terminated"),
        ("timed_out", "running", "timed_out"),
    ],
)
def test_temporal_alone_tells_each_status(how: str, state: str | None, shown: str) -> None:
    assert facts(how, state).shown == shown
    assert status.summary(facts(how, state)) == {
        "operation_id": "x",
        "workflow_type": "kind",
        "status": shown,
        "started_at": STARTED,
        "ended_at": None if how == "open" else ENDED,
        "status_url": "/api/v1/workflows/x/status",
    }


def test_what_nobody_told_is_null() -> None:
    body = together(facts())
    assert (body["status"], body["started_at"], body["updated_at"]) == ("running", STARTED, STARTED)
    assert body["progress"] is body["steps"] is body["ended_at"] is None


def test_the_tracker_tells_more() -> None:
    body = together(facts(), told("waiting", question={"question_id": "q"}))
    assert (body["status"], body["progress"], body["steps"]) == ("waiting", 0.5, [{"id": "a"}])
    assert body["started_at"] == STARTED


def test_the_tracker_tells_the_end_before_temporal_does() -> None:
    body = together(facts(), told("completed", result=1, ended_at=ENDED))
    assert (body["status"], body["result"], body["ended_at"]) == ("completed", 1, ENDED)


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("cancelled", "CANCELLED"),
        ("terminated", "TERMINATED"),
        ("timed_out", "TIMED_OUT"),
    ],
)
def test_an_end_that_the_tracker_does_not_know_is_temporals(how: str, code: str) -> None:
    known = facts(how)
    tells = told("waiting", question={"question_id": "q"}, current_step="a")
    assert not status.has_told_end(known, tells)
    body = together(known, tells, Outcome())
    assert (body["status"], body["error"]["code"]) == (how, code)
    assert body["question"] is body["current_step"] is None
    assert body["ended_at"] == body["updated_at"] == ENDED
    assert body["steps"] == [{"id": "a"}]  # as far as it came


def test_the_tracker_knows_a_time_out_from_a_failure() -> None:
    known = facts("failed")
    assert status.has_told_end(known, told("timed_out"))
    assert together(known, told("timed_out", ended_at=ENDED))["status"] == "timed_out"
    assert not status.has_told_end(known, told("completed"))
    assert not status.has_told_end(known, None)


def test_without_a_worker_the_outcome_is_the_histories() -> None:
    body = together(facts("completed"), None, Outcome(result={"a": 1}))
    assert (body["result"], body["progress"], body["error"]) == ({"a": 1}, 1.0, None)
    body = together(facts("failed"), None, Outcome(error={"code": "X"}))
    assert (body["error"], body["progress"]) == ({"code": "X"}, None)
    assert together(facts("completed"))["result"] is None


def test_a_failures_details_become_the_error() -> None:
    error = {"code": "EXTERNAL", "message": "no", "step": "a", "status": 503, "retryable": True}
    details = {"error": error, "data": {}, "errors": [], "compensations": [{"step": "a"}]}
    assert status.error_of("X", "m", details) == {
        "code": "EXTERNAL",
        "message": "no",
        "step": "a",
        "status": 503,
        "retry_after": None,
        "details": {"compensations": [{"step": "a"}]},
    }
    nothings: tuple[Any, ...] = (None, [], {}, {"error": 1})
    for nothing in nothings:
        found = status.error_of("X", "m", nothing)
        assert (found["code"], found["message"], found["details"]) == ("X", "m", None)


def test_a_terminated_job_keeps_what_was_reached() -> None:
    before = JobStatus.of(told("waiting", question={"q": 1}, result=None))
    body = status.terminated(before, END).body
    assert (body["status"], body["ended_at"], body["question"]) == ("terminated", ENDED, None)
    assert body["steps"] == [{"id": "a"}]


def test_what_has_no_room_in_an_event_is_left_out_and_said_where() -> None:
    body = told("terminated", result="r" * 5000, error="e" * 5000, steps=["s" * 5000])
    whole = status.cut(body, 20_000)
    assert whole == body
    found = status.cut(body, 11_000)
    assert (found["result"], found["result_url"]) == (None, "/api/v1/workflows/x/result")
    assert "status_url" not in found
    found = status.cut(body, 100)
    assert found["steps"] is found["error"] is None
    assert found["status_url"] == "/api/v1/workflows/x/status"


def test_the_end_that_an_event_tells() -> None:
    data = orjson.dumps(told("failed", error={"code": "X"}))
    found = status.of_event("x", data)
    assert found is not None
    assert (found.status, found.whole, found.ended) == ("failed", True, True)
    found = status.of_event("x", orjson.dumps(told("failed") | {"status_url": "/s"}))
    assert found is not None
    assert not found.whole
    assert tuple(found.body) == MEMBERS


def test_times_are_utc_whatever_the_zone() -> None:
    at = START.astimezone(timezone(timedelta(hours=5)))
    found = status.summary(Facts("x", "kind", "open", None, at, None))
    assert found["started_at"] == STARTED
