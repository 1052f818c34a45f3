"""Sagas: what was done is undone, exactly that, the last first; proved with a failure at every step
in turn, on a real server.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowHistory
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.worker import Worker

from gateway.jobs.activity_models import CallInput, CallResult
from gateway.jobs.models import Caller, JobContext, OrchestrationInput, Retry, ServiceRequest, Step
from gateway.jobs.workflows import steps as saga_steps
from gateway.jobs.workflows.orchestration import Orchestration
from gateway.jobs.workflows.orchestration_part import OrchestrationPart
from gateway.jobs.workflows.steps import MOST_ANSWER_BYTES, MOST_ANSWERS_BYTES, Saga, share
from gateway.jobs.workflows.tracking import Tracker
from tests.jobs.scripted_services import Services, answer, jobs_at, refuse
from tests.temporal_server import TemporalServer, temporal  # noqa: F401

NAME = "multi_service_orchestration_workflow"
WORKFLOWS = (Orchestration, OrchestrationPart)
TIME_SECONDS = 5.0
"""Of a job that does not end in time: enough for its first step, also on a busy machine."""


def undoing(step_id: str) -> ServiceRequest:
    return ServiceRequest("shop", f"/{step_id}/${{/{step_id}/id}}", "DELETE")


def step(step_id: str, *after: str, undo: bool = True, **more: Any) -> Step:
    compensation = undoing(step_id) if undo else None
    return Step(
        step_id,
        "shop",
        more.pop("path", f"/{step_id}"),
        "POST",
        depends_on=list(after),
        compensation=compensation,
        retry=Retry(initial_seconds=0.01, max_attempts=3),
        **more,
    )


# A diamond with a tail, and a chain beside it: what is under way together differs at each step.
GRAPH = [
    step("a"),
    step("b", "a"),
    step("c", "a"),
    step("d", "b", "c"),
    step("e", "d"),
    step("x"),
    step("y", "x"),
]


def _scheduled(history: WorkflowHistory, step_id: str) -> list[int]:
    """The events by which the request of a step was begun."""
    found = []
    for event in history.events:
        if event.HasField("activity_task_scheduled_event_attributes"):
            given = event.activity_task_scheduled_event_attributes.input.payloads[0].data
            if json.loads(given).get("step") == step_id:
                found.append(event.event_id)
    return found


def undone(failure: BaseException) -> list[tuple[str, str]]:
    assert isinstance(failure, ApplicationError)
    return [(each["step"], each["status"]) for each in failure.details[0]["compensations"]]


@pytest.mark.parametrize("cached", [0, 100])
@pytest.mark.parametrize("failing", [each.id for each in GRAPH])
async def test_a_failure_at_any_step_undoes_exactly_the_finished_steps_in_reverse(
    temporal: TemporalServer,  # noqa: F811
    failing: str,
    cached: int,
) -> None:
    services = Services()
    services.refuses(failing)
    async with jobs_at(
        await temporal.client(), temporal.new_queue(), services, WORKFLOWS, cached=cached
    ) as jobs:
        handle = await jobs.start(NAME, OrchestrationInput(GRAPH))
        failure = await jobs.failure(handle)
    assert isinstance(failure, ApplicationError)
    assert failure.type == "EXTERNAL"
    assert failure.details[0]["error"]["step"] == failing
    # The order of finishing is the job's own; which were finished is what the services say.
    finished = services.steps("completed")
    undos = [key for key in services.seen if key.endswith(":undo")]
    assert undos == [f"{each}:undo" for each in reversed(finished)]
    assert set(finished) == {key for key in services.done if not key.endswith(":undo")}
    assert undone(failure) == [(each, "done") for each in reversed(finished)]
    assert services.steps("compensated") == list(reversed(finished))
    assert failing not in finished
    assert services.events[-1][0] == "job.failed"
    assert services.events[-1][1]["error"]["step"] == failing


async def test_nothing_is_undone_when_all_goes_well(
    temporal: TemporalServer,  # noqa: F811
) -> None:
    services = Services()
    async with jobs_at(await temporal.client(), temporal.new_queue(), services, WORKFLOWS) as jobs:
        result = await (await jobs.start(NAME, OrchestrationInput(GRAPH))).result()
    assert sorted(services.seen) == sorted(each.id for each in GRAPH)
    assert result["compensations"] == []
    assert result["data"]["e"] == {"id": "e"}


async def test_a_compensation_names_the_result_of_its_step_and_has_a_key_of_its_own(
    temporal: TemporalServer,  # noqa: F811
) -> None:
    services = Services()
    services.refuses("b")

    async def created(given: CallInput) -> CallResult:
        return answer({"id": "4/2"}, 201)

    services.answers("a", created)
    steps = [step("a", timeout_seconds=7), step("b", "a")]
    async with jobs_at(await temporal.client(), temporal.new_queue(), services, WORKFLOWS) as jobs:
        handle = await jobs.start(NAME, OrchestrationInput(steps))
        await jobs.failure(handle)
    [made] = services.inputs["a"]
    [undo] = services.inputs["a:undo"]
    assert (made.key, undo.key) == (f"{handle.id}:a", f"{handle.id}:a:undo")
    assert (undo.request.method, undo.request.path) == ("DELETE", "/a/4%2F2")
    assert (made.spent, undo.spent) == (False, True)
    assert undo.timeout_seconds == 7


async def test_a_compensation_is_tried_again_and_one_that_fails_keeps_no_other_from_running(
    temporal: TemporalServer,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    services = Services()
    services.refuses("d")

    async def second_time(given: CallInput) -> CallResult:
        if len(services.inputs["b:undo"]) == 1:
            refuse("NETWORK", 503, final=False)
        return answer()

    services.answers("b:undo", second_time)
    services.refuses("c:undo", "VALIDATION", 409)
    steps = [step("a"), step("b", "a"), step("c", "b"), step("d", "c")]
    async with jobs_at(await temporal.client(), temporal.new_queue(), services, WORKFLOWS) as jobs:
        failure = await jobs.failure(await jobs.start(NAME, OrchestrationInput(steps)))
    assert undone(failure) == [("c", "failed"), ("b", "done"), ("a", "done")]
    assert services.done[-2:] == ["b:undo", "a:undo"]
    assert services.statuses("c") == ["running", "completed", "compensation_failed"]
    assert isinstance(failure, ApplicationError)
    error = failure.details[0]["compensations"][0]["error"]
    assert (error["code"], error["status"], error["step"]) == ("VALIDATION", 409, "c")


async def test_a_compensation_whose_references_are_not_there_is_reported_as_failed(
    temporal: TemporalServer,  # noqa: F811
) -> None:
    services = Services()
    services.refuses("b")

    async def nothing(given: CallInput) -> CallResult:
        return answer(None, 204)

    services.answers("a", nothing)
    async with jobs_at(await temporal.client(), temporal.new_queue(), services, WORKFLOWS) as jobs:
        failure = await jobs.failure(
            await jobs.start(NAME, OrchestrationInput([step("a"), step("b", "a")]))
        )
    assert undone(failure) == [("a", "failed")]
    assert services.seen == ["a", "b"]


async def test_a_step_without_compensation_is_passed_over(
    temporal: TemporalServer,  # noqa: F811
) -> None:
    services = Services()
    services.refuses("c")
    steps = [step("a"), step("b", "a", undo=False), step("c", "b")]
    async with jobs_at(await temporal.client(), temporal.new_queue(), services, WORKFLOWS) as jobs:
        failure = await jobs.failure(await jobs.start(NAME, OrchestrationInput(steps)))
    assert undone(failure) == [("a", "done")]


@pytest.mark.parametrize("broken", ["fail", "skip"])
async def test_a_step_that_was_answered_against_a_rule_is_undone_too(
    temporal: TemporalServer,  # noqa: F811
    broken: str,
) -> None:
    services = Services()

    async def wrong(given: CallInput) -> CallResult:
        result = answer({"id": 1})
        result.broken, result.message = broken, "/id is no string"
        return result

    services.answers("b", wrong)
    services.refuses("c")
    steps = [step("a"), step("b", "a"), step("c", "b")]
    async with jobs_at(await temporal.client(), temporal.new_queue(), services, WORKFLOWS) as jobs:
        failure = await jobs.failure(await jobs.start(NAME, OrchestrationInput(steps)))
    assert undone(failure) == [("b", "done"), ("a", "done")]
    assert services.inputs["b:undo"][0].request.path == "/b/1"
    assert isinstance(failure, ApplicationError)
    error = failure.details[0]["error"]
    if broken == "fail":
        assert services.statuses("b") == ["running", "failed", "compensated"]
        assert (error["code"], error["message"]) == ("VALIDATION", "/id is no string")
        assert "c" not in services.seen
    else:
        assert services.statuses("b") == ["running", "skipped", "compensated"]
        assert (error["code"], error["step"]) == ("EXTERNAL", "c")


@pytest.mark.parametrize("held", ["a", "b", "d"])
async def test_cancelled_in_the_middle_it_undoes_what_is_finished_and_cuts_off_the_rest(
    temporal: TemporalServer,  # noqa: F811
    held: str,
) -> None:
    services = Services()
    services.holds(held)
    async with jobs_at(await temporal.client(), temporal.new_queue(), services, WORKFLOWS) as jobs:
        handle = await jobs.start(NAME, OrchestrationInput(GRAPH))
        others = {"a": {"x", "y"}, "b": {"a", "c", "x", "y"}, "d": {"a", "b", "c", "x", "y"}}[held]
        await services.until(lambda: held in services.seen and others <= set(services.done))
        await services.until(lambda: others <= set(services.steps("completed")))
        await handle.cancel()
        failure = await jobs.failure(handle)
        assert (await handle.describe()).status == WorkflowExecutionStatus.CANCELED
    assert isinstance(failure, CancelledError)
    finished = services.steps("completed")
    assert set(finished) == others
    assert services.cut_off == [held]
    assert services.steps("compensated") == list(reversed(finished))
    assert services.seen[-len(finished) :] == [f"{each}:undo" for each in reversed(finished)]
    event, data = services.events[-1]
    assert (event, data["status"]) == ("job.cancelled", "cancelled")
    assert [each["step"] for each in data["error"]["details"]["compensations"]] == list(
        reversed(finished)
    )


async def test_undoing_goes_on_when_the_job_is_cancelled_meanwhile(
    temporal: TemporalServer,  # noqa: F811
) -> None:
    services = Services()
    services.refuses("c")
    release = services.holds("b:undo")
    steps = [step("a"), step("b", "a"), step("c", "b")]
    async with jobs_at(await temporal.client(), temporal.new_queue(), services, WORKFLOWS) as jobs:
        handle = await jobs.start(NAME, OrchestrationInput(steps))
        await services.until(lambda: "b:undo" in services.seen)
        await handle.cancel()
        asked = False
        async for event in handle.fetch_history_events(wait_new_event=True):
            asked = asked or event.HasField("workflow_execution_cancel_requested_event_attributes")
            if asked and event.HasField("workflow_task_completed_event_attributes"):
                break
        release.set()
        await jobs.failure(handle)
        history = await handle.fetch_history()
    assert not any(
        event.HasField("activity_task_cancel_requested_event_attributes")
        for event in history.events
    )
    assert services.cut_off == []
    assert services.steps("compensated") == ["b", "a"]


@pytest.mark.parametrize("broken", [None, "skip", "fail"])
async def test_an_answer_that_comes_although_it_was_cancelled_is_undone(
    temporal: TemporalServer,  # noqa: F811
    broken: str | None,
) -> None:
    services = Services()
    services.holds("b")
    services.answers_late["b"] = broken
    steps = [step("a"), step("b", "a")]
    async with jobs_at(await temporal.client(), temporal.new_queue(), services, WORKFLOWS) as jobs:
        handle = await jobs.start(NAME, OrchestrationInput(steps))
        await services.until(lambda: "b" in services.seen)
        await handle.cancel()
        await jobs.failure(handle)
    status = {None: "completed", "skip": "skipped", "fail": "failed"}[broken]
    assert services.statuses("b") == ["running", status, "compensated"]
    assert services.steps("compensated") == ["b", "a"]
    assert services.events[-1][0] == "job.cancelled"
    assert services.inputs["b:undo"][0].request.path == "/b/late"


async def test_an_answer_that_came_together_with_the_cancellation_is_undone(
    temporal: TemporalServer,  # noqa: F811
) -> None:
    services = Services()
    release = services.holds("b")
    client, queue = await temporal.client(), temporal.new_queue()
    route, publish = services.route_to_service, services.publish_events
    async with Worker(client, task_queue=queue, activities=[route, publish]):
        # Nobody runs the workflow while both arrive, so one task of it sees them together.
        async with jobs_at(client, queue, services, WORKFLOWS, cached=0, activities=False) as jobs:
            handle = await jobs.start(NAME, OrchestrationInput([step("a"), step("b", "a")]))
            await services.until(lambda: "b" in services.seen)
        release.set()
        async for event in handle.fetch_history_events(wait_new_event=True):
            if event.HasField("activity_task_completed_event_attributes"):
                completed = event.activity_task_completed_event_attributes
                if completed.scheduled_event_id in _scheduled(await handle.fetch_history(), "b"):
                    break
        await handle.cancel()
        async with jobs_at(client, queue, services, WORKFLOWS, cached=0, activities=False) as jobs:
            await jobs.failure(handle)
            jobs.also(handle)
    assert services.cut_off == []
    assert services.seen[-2:] == ["b:undo", "a:undo"]


async def test_a_job_that_takes_too_long_is_undone(
    temporal: TemporalServer,  # noqa: F811
) -> None:
    services = Services()
    services.holds("b")
    async with jobs_at(await temporal.client(), temporal.new_queue(), services, WORKFLOWS) as jobs:
        handle = await jobs.start(
            NAME, OrchestrationInput([step("a"), step("b", "a")]), timeout_seconds=TIME_SECONDS
        )
        failure = await jobs.failure(handle)
    assert isinstance(failure, ApplicationError)
    assert failure.type == "TIMED_OUT"
    assert undone(failure) == [("a", "done")]
    assert services.events[-1][1]["status"] == "timed_out"


async def test_when_no_time_is_left_for_undoing_that_is_reported(
    temporal: TemporalServer,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(saga_steps, "_UNDO_SECONDS", 0.0)
    services = Services()
    services.refuses("b")
    async with jobs_at(await temporal.client(), temporal.new_queue(), services, WORKFLOWS) as jobs:
        failure = await jobs.failure(
            await jobs.start(NAME, OrchestrationInput([step("a"), step("b", "a")]))
        )
    assert undone(failure) == [("a", "failed")]
    assert services.seen == ["a", "b"]


async def test_a_request_that_cannot_be_made_fails_its_step(
    temporal: TemporalServer,  # noqa: F811
) -> None:
    services = Services()
    steps = [step("a"), step("b", path="/${/a/id}/..")]
    async with jobs_at(await temporal.client(), temporal.new_queue(), services, WORKFLOWS) as jobs:
        failure = await jobs.failure(await jobs.start(NAME, OrchestrationInput(steps)))
    assert isinstance(failure, ApplicationError)
    assert failure.type == "VALIDATION"
    assert services.seen == ["a", "a:undo"]


async def test_two_failures_at_once_are_one_of_the_job(
    temporal: TemporalServer,  # noqa: F811
) -> None:
    services = Services()
    held = [services.holds("a"), services.holds("b")]
    services.refuses("a")
    services.refuses("b")
    async with jobs_at(await temporal.client(), temporal.new_queue(), services, WORKFLOWS) as jobs:
        handle = await jobs.start(NAME, OrchestrationInput([step("a"), step("b")]))
        await services.until(lambda: {"a", "b"} <= set(services.seen))
        for each in held:
            each.set()
        failure = await jobs.failure(handle)
    assert isinstance(failure, ApplicationError)
    assert failure.type == "EXTERNAL"
    assert services.steps("failed")[0] == failure.details[0]["error"]["step"]


def test_a_saga_shows_what_there_is_to_undo() -> None:
    context = JobContext(Caller(), "0123-job", NAME, 60.0)
    saga = Saga(context, Tracker("0123-job", NAME, lambda: "", lambda *_: None))
    saga.finished("a", undoing("a"))
    saga.finished("b", None)
    assert repr(saga) == "<Saga 0123-job to undo: ['a']>"


async def test_a_step_is_tried_again_under_the_same_key(
    temporal: TemporalServer,  # noqa: F811
) -> None:
    services = Services()

    async def third_time(given: CallInput) -> CallResult:
        if len(services.inputs["a"]) < 3:
            refuse("NETWORK", 503, final=False)
        return answer({"id": 1})

    services.answers("a", third_time)
    async with jobs_at(await temporal.client(), temporal.new_queue(), services, WORKFLOWS) as jobs:
        handle = await jobs.start(NAME, OrchestrationInput([step("a")]))
        await handle.result()
        status = await handle.query("status")
    assert {each.key for each in services.inputs["a"]} == {f"{handle.id}:a"}
    assert status["steps"][0]["attempts"] == 3
    assert services.inputs["a"][0].retry == Retry(initial_seconds=0.01, max_attempts=3)


async def test_the_tries_of_a_step_that_failed_are_told(
    temporal: TemporalServer,  # noqa: F811
) -> None:
    services = Services()

    async def never(given: CallInput) -> CallResult:
        refuse("NETWORK", 503, final=len(services.inputs["a"]) == 2)

    services.answers("a", never)
    async with jobs_at(await temporal.client(), temporal.new_queue(), services, WORKFLOWS) as jobs:
        handle = await jobs.start(NAME, OrchestrationInput([step("a")]))
        await jobs.failure(handle)
        [told] = (await handle.query("status"))["steps"]
    assert (told["status"], told["attempts"]) == ("failed", 2)
    assert told["error"]["code"] == "NETWORK"


def test_steps_share_what_a_jobs_answers_may_have() -> None:
    assert share(0) == share(1) == share(16) == MOST_ANSWER_BYTES
    for count in (17, 50, 500):
        assert count * share(count) <= MOST_ANSWERS_BYTES
    assert share(500) > 128_000
