"""Orchestrations of more steps than one history should hold, on a real server."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import WorkflowExecutionStatus
from temporalio.exceptions import ApplicationError, ChildWorkflowError

from gateway.jobs.activity_models import CallInput, CallResult
from gateway.jobs.models import JobContext, OrchestrationInput, Retry, ServiceRequest, Step
from gateway.jobs.workflows.orchestration_part import (
    PART,
    OrchestrationPart,
    PartInput,
    Steering,
    StepReport,
)
from tests.jobs.scripted_services import Jobs, Services, answer, jobs_at
from tests.temporal_server import TemporalServer

NAME = "multi_service_orchestration_workflow"
WIDE = "abcdef"
"""With ten steps each these lanes are two parts, and end sooner than two long ones."""


def step(step_id: str, *after: str, **more: Any) -> Step:
    return Step(
        step_id,
        "shop",
        more.pop("path", f"/{step_id}"),
        depends_on=list(after),
        compensation=ServiceRequest("shop", f"/undo/${{/{step_id}/id}}"),
        retry=Retry(initial_seconds=0.01, max_attempts=3),
        **more,
    )


def lanes(length: int, names: str = "ab") -> list[Step]:
    """Chains beside each other, each step with the result of the one before."""
    return [
        step(f"{name}0") if n == 0 else step(f"{name}{n}", path=f"/${{/{name}{n - 1}/id}}")
        for n in range(length)
        for name in names
    ]


async def test_more_than_fifty_steps_run_as_children_and_are_told_as_one_job(
    jobs: Jobs, services: Services
) -> None:
    steps = [*(step(f"s{n}") for n in range(118)), step("last", *(f"s{n}" for n in range(118)))]
    handle = await jobs.start(NAME, OrchestrationInput(steps))
    result = await handle.result()
    assert set(result["data"]) == {each.id for each in steps}
    assert sorted(services.seen) == sorted(each.id for each in steps)
    assert services.seen[-1] == "last"
    assert sorted(services.steps("completed")) == sorted(each.id for each in steps)
    progress = [data["progress"] for event, data in services.events if event == "job.step"]
    assert progress == sorted(progress)
    history = await handle.fetch_history()
    children = [
        each.start_child_workflow_execution_initiated_event_attributes.workflow_id
        for each in history.events
        if each.HasField("start_child_workflow_execution_initiated_event_attributes")
    ]
    assert sorted(children) == [f"{handle.id}-part-{n}" for n in (1, 2, 3)]
    for child in children:
        child_handle = jobs.client.get_workflow_handle(child)
        assert (await child_handle.describe()).status == WorkflowExecutionStatus.COMPLETED
        jobs.also(child_handle)


async def test_results_go_from_part_to_part(jobs: Jobs, services: Services) -> None:
    steps = lanes(52, "a")
    result = await (await jobs.start(NAME, OrchestrationInput(steps))).result()
    assert [services.inputs[f"a{n}"][0].request.path for n in (1, 50, 51)] == [
        "/a0",
        "/a49",
        "/a50",
    ]
    assert len(result["data"]) == 52


@pytest.mark.parametrize("failing", ["a3", "f9"])
async def test_a_failure_in_a_part_undoes_the_finished_steps_of_all_parts_in_reverse(
    jobs: Jobs, services: Services, failing: str
) -> None:
    services.refuses(failing)
    handle = await jobs.start(NAME, OrchestrationInput(lanes(10, WIDE)))
    failure = await jobs.failure(handle)
    assert isinstance(failure, ApplicationError)
    assert failure.details[0]["error"]["step"] == failing
    finished = services.steps("completed")
    assert set(finished) == {key for key in services.done if not key.endswith(":undo")}
    assert services.steps("compensated") == list(reversed(finished))
    undos = [key for key in services.seen if key.endswith(":undo")]
    assert undos == [f"{each}:undo" for each in reversed(finished)]
    told = failure.details[0]["compensations"]
    assert [each["step"] for each in told] == list(reversed(finished))


async def test_cancelled_in_the_middle_all_parts_stop_and_are_undone(
    jobs: Jobs, services: Services
) -> None:
    services.holds("a2")
    services.holds("b1")
    handle = await jobs.start(NAME, OrchestrationInput(lanes(30)))
    await services.until(lambda: {"a2", "b1"} <= set(services.seen))
    await services.until(lambda: set(services.steps("completed")) == {"a0", "a1", "b0"})
    await handle.cancel()
    await jobs.failure(handle)
    assert sorted(services.cut_off) == ["a2", "b1"]
    assert services.steps("compensated") == list(reversed(services.steps("completed")))
    assert services.events[-1][0] == "job.cancelled"
    for n in (1, 2):
        child = jobs.client.get_workflow_handle(f"{handle.id}-part-{n}")
        assert (await child.describe()).status == WorkflowExecutionStatus.CANCELED
        jobs.also(child)


async def test_cancelled_before_a_part_has_begun_it_never_begins(
    jobs: Jobs, services: Services
) -> None:
    services.holds("a0")
    handle = await jobs.start(NAME, OrchestrationInput(lanes(60, "a")))
    await services.until(lambda: "a0" in services.seen)
    await handle.cancel()
    await jobs.failure(handle)
    assert services.seen == ["a0"]
    assert services.steps("compensated") == []


async def test_optional_failures_and_skips_of_parts_are_told(
    jobs: Jobs, services: Services
) -> None:
    services.refuses("x")
    steps = [
        *lanes(10, WIDE),
        step("x", "a9", required=False),
        step("y", path="/${/x/id}", required=False),
        step("z", body={"$result": "/$errors/x/code"}),
        step("no", condition=False),
    ]
    result = await (await jobs.start(NAME, OrchestrationInput(steps))).result()
    assert [each["step"] for each in result["errors"]] == ["x"]
    assert sorted(result["skipped"]) == ["no", "y"]
    assert services.inputs["z"][0].request.body == "EXTERNAL"


async def test_parts_are_paused_and_resumed_and_skip_steps_with_their_job(
    jobs: Jobs, services: Services
) -> None:
    held = [services.holds("a0"), services.holds("b0")]
    handle = await jobs.start(NAME, OrchestrationInput(lanes(30)))
    await services.until(lambda: set(services.steps("running")) == {"a0", "b0"})
    await handle.signal("pause")
    for n in range(2, 30):
        await handle.execute_update("skip_step", f"a{n}")
    await services.until(lambda: len(services.steps("skipped")) == 28)
    for each in held:
        each.set()
    await services.until(lambda: set(services.steps("completed")) == {"a0", "b0"})
    assert sorted(services.seen) == ["a0", "b0"]
    await handle.signal("resume")
    result = await handle.result()
    assert len(result["skipped"]) == 28
    assert len(result["data"]) == 32


async def test_a_part_that_somebody_ended_by_hand_fails_the_job_which_is_undone(
    jobs: Jobs, services: Services
) -> None:
    services.holds("a2")
    handle = await jobs.start(NAME, OrchestrationInput(lanes(10, WIDE)))
    await services.until(lambda: "a2" in services.steps("running"))
    await services.until(lambda: "b9" in services.steps("completed"))
    await jobs.client.get_workflow_handle(f"{handle.id}-part-1").terminate("by hand")
    failure = await jobs.failure(handle)
    assert isinstance(failure, ApplicationError)
    assert services.statuses("a2")[-1] == "failed"
    assert services.steps("compensated") == list(reversed(services.steps("completed")))


async def test_a_part_whose_id_is_taken_fails_the_job(jobs: Jobs, services: Services) -> None:
    services.holds("a0")
    services.holds("b0")
    first = await jobs.start(NAME, OrchestrationInput(lanes(30)))
    await services.until(lambda: {"a0", "b0"} <= set(services.seen))
    second = await jobs.start(
        NAME, OrchestrationInput(lanes(30)), operation_id=first.id, workflow_id=f"{first.id}-again"
    )
    failure = await jobs.failure(second)
    assert isinstance(failure, ApplicationError)
    assert services.done == []
    await first.cancel()
    await jobs.failure(first)


async def test_large_answers_go_to_the_parent_one_by_one(jobs: Jobs, services: Services) -> None:
    async def large(given: CallInput) -> CallResult:
        return answer({"id": 1, "text": "x" * 400_000})

    for each in ("s0", "s1", "s2", "s3", "s4"):
        services.answers(each, large)
    release = services.holds("last")
    steps = [*(step(f"s{n}") for n in range(50)), step("last")]
    handle = await jobs.start(NAME, OrchestrationInput(steps, output="${/s4/id} ${/last/id}"))
    await services.until(lambda: "last" in services.seen)
    release.set()
    assert (await handle.result())["data"] == "1 last"


@workflow.defn(name="a_parent")
class AParent:
    """Starts a part as nobody should."""

    @workflow.run
    async def run(self, context: JobContext, part: PartInput) -> str:
        try:
            await workflow.execute_child_workflow(
                PART, args=[context, part], id=f"{context.operation_id}-part-1"
            )
        except ChildWorkflowError as error:
            return str(error.cause)
        return ""


async def test_a_bug_in_a_part_ends_it_and_does_not_go_on_for_ever(
    temporal: TemporalServer,
    services: Services,
) -> None:
    part = PartInput([step("a", condition=["no condition"])], {"a": []}, [], Steering())
    async with jobs_at(
        await temporal.client(), temporal.new_queue(), services, (AParent, OrchestrationPart)
    ) as jobs:
        assert "TypeError" in await (await jobs.start("a_parent", part)).result()


async def test_a_job_with_no_parts_hears_of_none(jobs: Jobs, services: Services) -> None:
    release = services.holds("a")
    handle = await jobs.start(NAME, OrchestrationInput([step("a")]))
    await services.until(lambda: "a" in services.seen)
    await handle.signal("part_reports", [StepReport("a", "completed")])
    release.set()
    await handle.result()
    assert services.statuses("a") == ["running", "completed"]


async def test_a_part_without_a_parent_is_a_mistake(jobs: Jobs, services: Services) -> None:
    # Nobody is told of its steps, so it makes no request.
    handle = await jobs.start(PART, PartInput([], {}, [], Steering()))
    failure = await jobs.failure(handle)
    assert isinstance(failure, ApplicationError)
    assert services.seen == []
