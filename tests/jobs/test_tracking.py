"""What all workflows share: status, events, pausing, skipping, decisions, time and ends; by a small
workflow of the tests' own against a real Temporal.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError, CancelledError

from gateway.jobs.activity_models import Decision, JobEvent
from gateway.jobs.models import JobContext, JobError
from gateway.jobs.workflows.announcing import SPARE, Announcer, fitted, news_of, size_of
from gateway.jobs.workflows.tracking import Tracker, moment
from tests.jobs.scripted_gateway import (
    Jobs,
    ScriptedGateway,
    jobs_worker,
    refusal,
    scripted_gateway,
)
from tests.jobs.walking import Walking
from tests.temporal_server import TemporalServer, temporal  # noqa: F401


@pytest.fixture
async def gateway() -> AsyncIterator[ScriptedGateway]:
    async with scripted_gateway() as gateway:
        yield gateway


@pytest.fixture
async def jobs(
    temporal: TemporalServer,  # noqa: F811
    gateway: ScriptedGateway,
) -> AsyncIterator[Jobs]:
    client = await temporal.client()
    async with jobs_worker(client, gateway, temporal.new_queue(), [Walking]) as jobs:
        yield jobs


async def started(
    jobs: Jobs, *words: str, timeout_seconds: float = 60.0
) -> tuple[JobContext, WorkflowHandle[Any, Any]]:
    context = jobs.context("walking", timeout_seconds)
    return context, await jobs.start(context, list(words))


async def saw(jobs: Jobs, context: JobContext, event_type: str, **data: Any) -> dict[str, Any]:
    """The first event of that type with these data, waited for."""

    def found() -> list[dict[str, Any]]:
        return [
            each["data"]
            for each in jobs.events(context)
            if each["event_type"] == event_type and data.items() <= each["data"].items()
        ]

    await jobs.gateway.until(lambda: bool(found()))
    return found()[0]


async def test_steps_are_told_in_their_order_with_progress(jobs: Jobs) -> None:
    context, handle = await started(jobs, "first", "second")
    assert await handle.result() == {"words": 2}
    told = [
        (each["data"]["step"]["id"], each["data"]["step"]["status"], each["data"]["progress"])
        for each in jobs.events(context)
        if each["event_type"] == "job.step"
    ]
    assert told == [
        ("first", "running", 0.0),
        ("first", "completed", 0.5),
        ("second", "running", 0.5),
        ("second", "completed", 1.0),
    ]
    began, *_, end = (each["data"] for each in jobs.events(context))
    assert (began["status"], began["current_step"], began["result"]) == ("running", None, None)
    assert (end["status"], end["progress"], end["result"]) == ("completed", 1.0, {"words": 2})
    assert end["ended_at"] >= end["started_at"]
    times = [each["data"]["updated_at"] for each in jobs.events(context)]
    assert times == sorted(times)
    assert [step["attempts"] for step in end["steps"]] == [1, 1]


async def test_a_paused_job_begins_nothing_and_goes_on_when_told(jobs: Jobs) -> None:
    context, handle = await started(jobs, "wait", "second")
    await saw(jobs, context, "job.step")
    await handle.signal("pause")
    await handle.signal("pause")
    await saw(jobs, context, "job.progress", message="paused", status="waiting")
    await handle.signal("went")
    status = await handle.query("status")
    assert status["status"] == "waiting"
    described = await handle.describe()
    assert described.search_attributes["GatewayState"] == ["waiting"]
    await handle.signal("resume")
    await handle.result()
    await saw(jobs, context, "job.progress", message="resumed", status="running")
    messages = [each["data"].get("message") for each in jobs.events(context)]
    assert messages.count("paused") == 1
    second = await saw(jobs, context, "job.step", current_step="second")
    assert second["step"]["status"] == "running"


async def test_a_step_that_has_not_begun_may_be_skipped(jobs: Jobs) -> None:
    context, handle = await started(jobs, "wait", "second", "ask")
    await saw(jobs, context, "job.step")
    for step, why in (("nowhere", "there is no step"), ("wait", "running"), ("ask", "asks people")):
        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await handle.execute_update("skip_step", step)
        assert why in str(refused.value.cause)
    body = await handle.execute_update("skip_step", "second")
    assert body["operation_id"] == context.operation_id
    assert [each["status"] for each in body["steps"]] == ["running", "skipped", "pending"]
    await handle.execute_update("question_decided", Decision("q1", "answered"), id="q1")
    await handle.signal("went")
    await handle.result()
    end = jobs.events(context)[-1]["data"]
    assert [(each["status"], each["attempts"]) for each in end["steps"]] == [
        ("completed", 1),
        ("skipped", 0),
        ("completed", 1),
    ]


async def test_a_question_is_told_and_its_decision_comes_once(jobs: Jobs) -> None:
    context, handle = await started(jobs, "ask")
    asked = await saw(jobs, context, "job.question")
    assert asked["status"] == "waiting"
    assert asked["question"] == {
        "question_id": "q1",
        "prompt": "May I?",
        "step": "ask",
        "expires_at": "2030-01-01T00:00:00.000Z",
    }
    assert (await handle.query("status"))["question"] == asked["question"]
    for response in ("yes", "no"):
        decision = Decision("q1", "answered", response)
        await handle.execute_update("question_decided", decision, id="q1")
    await handle.result()
    # Who is told that the job waits is told with it for what, and when it does not any more.
    assert asked["step"]["status"] == "waiting"
    decided = await saw(jobs, context, "job.question", question=None)
    assert (decided["status"], decided["step"]["status"]) == ("running", "running")
    await saw(jobs, context, "job.progress", message="yes")


async def test_a_decision_that_does_not_come_is_none(jobs: Jobs) -> None:
    context, handle = await started(jobs, "late")
    await handle.result()
    await saw(jobs, context, "job.progress", message="nobody said a word")


async def test_a_failure_ends_with_all_its_details(jobs: Jobs) -> None:
    context, handle = await started(jobs, "first", "fail", "undo")
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    assert (cause.type, cause.non_retryable) == ("EXTERNAL", True)
    details = cause.details[0]
    assert details["error"]["step"] == "fail"
    assert details["compensations"] == [{"step": "first", "status": "done", "error": None}]
    end = jobs.events(context)[-1]["data"]
    assert end["error"] == {
        "code": "EXTERNAL",
        "message": "it failed",
        "step": "fail",
        "status": 500,
        "retry_after": None,
        "details": {"compensations": details["compensations"], "errors": details["errors"]},
    }
    assert [(each["id"], each["status"], each["attempts"]) for each in end["steps"]] == [
        ("first", "compensated", 1),
        ("fail", "failed", 3),
    ]


async def test_a_cancelled_job_is_undone_before_its_end(jobs: Jobs) -> None:
    context, handle = await started(jobs, "first", "wait", "undo")
    await saw(jobs, context, "job.step", current_step="wait")
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, CancelledError)
    end = jobs.events(context)[-1]
    assert end["event_type"] == "job.cancelled"
    assert end["data"]["error"]["code"] == "CANCELLED"
    assert end["data"]["error"]["details"]["compensations"][0]["step"] == "first"


async def test_a_job_that_takes_too_long_is_undone_before_its_end(jobs: Jobs) -> None:
    context, handle = await started(jobs, "first", "wait", "undo", timeout_seconds=0.3)
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == "TIMED_OUT"
    assert cause.details[0]["compensations"][0]["step"] == "first"
    end = jobs.events(context)[-1]["data"]
    assert (end["status"], end["error"]["details"]["compensations"][0]["status"]) == (
        "timed_out",
        "done",
    )


async def test_a_bug_fails_the_job_without_its_text(jobs: Jobs) -> None:
    context, handle = await started(jobs, "bug")
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "INTERNAL_ERROR"
    assert "personal" not in str(jobs.events(context))
    assert "KeyError" in jobs.events(context)[-1]["data"]["error"]["message"]


async def test_events_wait_while_the_gateway_is_away_and_then_come_in_order(jobs: Jobs) -> None:
    jobs.gateway.publishing = False
    context, handle = await started(jobs, "first", "wait")
    path = f"/api/v1/events/job:{context.operation_id}"
    await jobs.gateway.until(lambda: len(jobs.gateway.asked(path)) >= 2)
    jobs.gateway.publishing = True
    await handle.signal("went")
    await handle.result()
    types = jobs.types(context)
    assert types == ["job.started", *["job.step"] * 4, "job.completed"]
    keys = [each.headers["idempotency-key"] for each in jobs.gateway.asked(path)]
    assert keys[0] == keys[1]
    assert "publish_events" in jobs.figures.again


async def test_a_cancellation_after_the_work_is_done_takes_nothing_from_it(jobs: Jobs) -> None:
    jobs.gateway.publishing = False
    context, handle = await started(jobs, "first")
    path = f"/api/v1/events/job:{context.operation_id}"
    await jobs.gateway.until(lambda: len(jobs.gateway.asked(path)) >= 2)
    assert (await handle.query("status"))["status"] == "completed"
    await handle.cancel()
    jobs.gateway.publishing = True
    assert await handle.result() == {"words": 1}
    assert jobs.types(context)[-1] == "job.completed"


async def test_nobody_is_told_for_so_long_that_temporal_ends_the_job(jobs: Jobs) -> None:
    jobs.gateway.publishing = False
    context = jobs.context("walking", 60.0)
    within = SPARE + timedelta(seconds=10)
    handle = await jobs.start(context, ["first", "many"], within)
    assert await handle.result() == {"words": 2}
    assert not jobs.events(context)
    ((kind, lost),) = jobs.figures.lost
    (line,) = [each for each in jobs.lines if each["event"] == "workflow_events_given_up"]
    assert (line["operation_id"], line["events"]) == (context.operation_id, lost)
    assert (kind, lost > 250) == ("walking", True)


async def test_events_that_no_stream_takes_are_given_up_and_the_job_goes_on(jobs: Jobs) -> None:
    context = jobs.context("walking", 60.0)
    jobs.gateway.put(f"/api/v1/events/job:{context.operation_id}", refusal(413, "TOO_LARGE"))
    handle = await jobs.start(context, ["first"])
    assert await handle.result() == {"words": 1}
    assert not jobs.events(context)
    lines = [each for each in jobs.lines if each["event"] == "workflow_events_given_up"]
    assert {each["operation_id"] for each in lines} == {context.operation_id}
    assert sum(each["events"] for each in lines) == sum(lost for _, lost in jobs.figures.lost) == 4


async def test_many_events_go_out_in_batches(jobs: Jobs) -> None:
    context, handle = await started(jobs, "many")
    await handle.result()
    steps = [each["data"]["step"]["id"] for each in jobs.events(context)[2:252]]
    assert steps == [f"many-{number}" for number in range(250)]
    path = f"/api/v1/events/job:{context.operation_id}"
    assert max(len(each.json) for each in jobs.gateway.asked(path)) == 100


async def test_what_was_not_told_along_is_told_whatever_comes_next(jobs: Jobs) -> None:
    context, handle = await started(jobs, "first", "along")
    await handle.result()
    messages = [each["data"].get("message") for each in jobs.events(context)]
    assert messages.count("not told along") == 1


async def test_a_job_that_no_worker_keeps_in_memory_ends_the_same_way(
    temporal: TemporalServer,  # noqa: F811
    gateway: ScriptedGateway,
) -> None:
    client = await temporal.client()
    queue = temporal.new_queue()
    async with jobs_worker(client, gateway, queue, [Walking], cached=0) as jobs:
        context, handle = await started(jobs, "first", "wait", "second")
        await saw(jobs, context, "job.step", current_step="wait")
        await handle.signal("pause")
        await saw(jobs, context, "job.progress", message="paused")
        await handle.signal("went")
        await handle.signal("resume")
        assert await handle.result() == {"words": 3}
        context, handle = await started(jobs, "first", "wait", "undo")
        await saw(jobs, context, "job.step", current_step="wait")
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        assert jobs.types(context)[-1] == "job.cancelled"
        assert len(jobs.types(context)) == len(set(map(str, jobs.events(context))))


# Without Temporal


def test_progress_that_nobody_was_told_of_is_replaced() -> None:
    announcer = Announcer()
    for number, event_type in enumerate(["job.step", "job.progress", "job.progress", "job.step"]):
        announcer.put(JobEvent(event_type, {"number": number}), 20)
    announcer.put(JobEvent("job.progress", {}), 20, "ada")
    assert repr(announcer) == "<Announcer waiting=4 batches=0>"


def test_the_same_news_have_the_same_mark_whenever_they_are_told() -> None:
    step = {"id": "a", "status": "completed", "ended_at": "now"}
    data = {"status": "running", "progress": 0.5, "updated_at": "now", "step": step}
    event = JobEvent("job.step", data)
    later = JobEvent("job.step", data | {"updated_at": "later", "step": step | {"ended_at": "l"}})
    assert news_of([event]) == news_of([later])
    asked = JobEvent("job.question", {"question": {"question_id": "q", "prompt": "?"}})
    paused = JobEvent("job.progress", {"status": "running", "message": "paused"})
    others = [
        JobEvent("job.started", data),
        JobEvent("job.step", data | {"progress": 1}),
        JobEvent("job.step", data | {"step": step | {"status": "failed"}}),
        JobEvent("job.step", data | {"step": step | {"id": "b"}}),
        asked,
        JobEvent("job.question", {"question": None}),
        paused,
        JobEvent("job.progress", {"status": "running", "message": "\ud800"}),
    ]
    batches = [[event], [event, paused], [paused, event], *([each] for each in others)]
    assert len({news_of(each) for each in batches}) == len(batches)


def test_the_size_of_a_value_is_about_what_it_has_on_the_wire() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    assert size_of(deep) > 10_000
    assert size_of("ü" * 10) == 24
    assert size_of({"a": [1, None]}) < 60


def _tracker() -> tuple[Tracker, list[tuple[str, dict[str, Any]]]]:
    told: list[tuple[str, dict[str, Any]]] = []
    tracker = Tracker("op", "kind", lambda: "t", lambda kind, data: told.append((kind, data)))
    return tracker, told


def test_progress_never_goes_back() -> None:
    tracker, told = _tracker()
    tracker.progress(0.5)
    tracker.progress(0.2, "still")
    tracker.progress(7)
    assert [data["progress"] for _, data in told] == [0.5, 0.5, 1.0]
    assert "message" not in told[0][1]


def test_a_job_waits_only_when_nothing_runs_beside_its_question() -> None:
    tracker, _ = _tracker()
    assert tracker.shown == "pending"
    tracker.started()
    tracker.begin("ask", waiting=True)
    assert (tracker.shown, tracker.step_status("ask")) == ("waiting", "waiting")
    tracker.begin("other")
    assert tracker.shown == "running"
    tracker.end("other", "completed")
    assert (tracker.shown, tracker.current_step) == ("waiting", "ask")
    assert tracker.step_status("nowhere") is None


def test_the_cause_stays_when_a_step_can_not_be_undone() -> None:
    tracker, _ = _tracker()
    tracker.end("a", "failed", JobError("EXTERNAL", "first"), 3)
    tracker.end("a", "compensation_failed", JobError("NETWORK", "then"))
    tracker.end("b", "completed")
    tracker.end("b", "compensation_failed", JobError("NETWORK", "only"))
    first, second = tracker.body()["steps"]
    assert (first["error"]["message"], first["attempts"]) == ("first", 3)
    assert second["error"]["message"] == "only"
    assert tracker.attempts == 4
    tracker.tried(2)
    assert tracker.attempts == 6


def test_nothing_is_paused_after_the_end() -> None:
    tracker, told = _tracker()
    tracker.started()
    tracker.ended("completed", 1)
    tracker.pause(True)
    tracker.decided()
    assert [kind for kind, _ in told] == ["job.started", "job.completed"]
    assert repr(tracker) == "<Tracker op completed 1.00>"


def test_what_is_too_large_for_an_event_is_said_where_it_is() -> None:
    tracker, _ = _tracker()
    tracker.plan(f"step-{number}" for number in range(500))
    error = {"code": "X", "message": "m", "details": ["y" * 20_000]}
    tracker.ended("failed", "x" * 40_000, error)
    body, size = fitted(tracker.body())
    assert (body["result"], body["steps"], body["error"]["details"]) == (None, None, None)
    assert body["result_url"] == "/api/v1/workflows/op/result"
    assert body["status_url"] == "/api/v1/workflows/op/status"
    assert size < 2000
    small = _tracker()[0].body()
    assert fitted(small)[0] == small


def test_times_are_told_to_the_millisecond() -> None:
    assert moment(datetime(2026, 1, 2, 3, 4, 5, 6789, UTC)) == "2026-01-02T03:04:05.006Z"
