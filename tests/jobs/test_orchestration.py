"""Orchestrations on a real server: what runs beside what, what is left out, what comes of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.client import WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from gateway.jobs.activity_models import CallInput, CallResult
from gateway.jobs.graph import graph_of
from gateway.jobs.models import (
    Caller,
    JobContext,
    OrchestrationInput,
    ResultRule,
    ServiceRequest,
    Step,
)
from gateway.jobs.workflows.graph_run import GraphRun
from gateway.jobs.workflows.orchestration import Orchestration
from gateway.jobs.workflows.orchestration_part import OrchestrationPart, StepReport
from gateway.jobs.workflows.parts import PartsRun
from gateway.jobs.workflows.steps import Saga
from gateway.jobs.workflows.tracking import Tracker
from tests.jobs.scripted_services import Jobs, Services, answer, jobs_at
from tests.temporal_server import TemporalServer

NAME = "multi_service_orchestration_workflow"
WORKFLOWS = (Orchestration, OrchestrationPart)


def step(step_id: str, *after: str, **more: Any) -> Step:
    return Step(step_id, "shop", more.pop("path", f"/{step_id}"), depends_on=list(after), **more)


async def run(jobs: Jobs, *steps: Step, output: Any = None) -> dict[str, Any]:
    handle = await jobs.start(NAME, OrchestrationInput(list(steps), output))
    result = await handle.result()
    assert isinstance(result, dict)
    return result


async def fail(jobs: Jobs, *steps: Step, output: Any = None) -> dict[str, Any]:
    """The details of the failure, with its `type`."""
    failure = await jobs.failure(await jobs.start(NAME, OrchestrationInput(list(steps), output)))
    assert isinstance(failure, ApplicationError)
    assert failure.non_retryable
    details = failure.details[0]
    assert isinstance(details, dict)
    return {"type": failure.type} | details


def body(value: Any, status: int = 200, **headers: str) -> Any:
    async def answering(given: CallInput) -> CallResult:
        return answer(value, status, **headers)

    return answering


async def test_what_can_run_beside_each_other_does(jobs: Jobs, services: Services) -> None:
    released = [services.holds(each) for each in "abc"]
    handle = await jobs.start(
        NAME, OrchestrationInput([step("a"), step("b"), step("c"), step("d", "a", "b", "c")])
    )
    await services.until(lambda: set(services.seen) == {"a", "b", "c"})
    for each in released:
        each.set()
    await handle.result()
    assert services.seen[3:] == ["d"]


async def test_requests_are_made_of_earlier_results(jobs: Jobs, services: Services) -> None:
    services.answers("order", body({"id": "4/2", "lines": [{"sku": "x"}]}, 201, location="/o/42"))
    result = await run(
        jobs,
        step("order", method="POST", body={"n": 1}),
        step(
            "ship",
            path="/ship/${/order/id}",
            query={"sku": "${/order/lines/0/sku}"},
            headers={"X-Order": "${/order/id}"},
            body={"lines": {"$result": "/order/lines"}, "status": "${/$answers/order/status}"},
        ),
        output={
            "order": {"$result": "/order/id"},
            "at": "${/$answers/order/headers/location}",
            "gone": {"$result": "/ship/nothing"},
        },
    )
    [made] = services.inputs["ship"]
    assert made.request == ServiceRequest(
        "shop",
        "/ship/4%2F2",
        "GET",
        {"sku": "x"},
        {"X-Order": "4/2"},
        {"lines": [{"sku": "x"}], "status": "201"},
    )
    assert made.step == "ship"
    assert result["data"] == {"order": "4/2", "at": "/o/42", "gone": None}
    assert result["completed_at"].endswith("Z")
    assert (result["errors"], result["skipped"]) == ([], [])


async def test_without_an_output_all_results_are_given_by_step(
    jobs: Jobs, services: Services
) -> None:
    services.answers("b", body(None, 204))
    result = await run(jobs, step("a"), step("b"))
    assert result["data"] == {"a": {"id": "a"}, "b": None}


async def test_a_required_failure_cuts_off_what_is_under_way_and_nothing_begins_any_more(
    jobs: Jobs, services: Services
) -> None:
    services.holds("slow")
    services.refuses("bad", "VALIDATION", 404)
    release = services.holds("bad")
    handle = await jobs.start(
        NAME,
        OrchestrationInput([step("slow"), step("bad"), step("after", "slow"), step("next", "bad")]),
    )
    await services.until(lambda: {"slow", "bad"} <= set(services.seen))
    release.set()
    failure = await jobs.failure(handle)
    assert isinstance(failure, ApplicationError)
    assert failure.type == "VALIDATION"
    assert failure.details[0]["error"]["status"] == 404
    assert services.cut_off == ["slow"]
    assert sorted(services.seen) == ["bad", "slow"]
    status = await handle.query("status")
    assert [(each["id"], each["status"]) for each in status["steps"]] == [
        ("slow", "failed"),
        ("bad", "failed"),
        ("after", "pending"),
        ("next", "pending"),
    ]
    assert status["steps"][0]["error"]["code"] == "CANCELLED"


async def test_an_optional_failure_is_told_beside_the_rest(jobs: Jobs, services: Services) -> None:
    services.refuses("extra", "NETWORK", 502)
    result = await run(
        jobs,
        step("main"),
        step("extra", required=False),
        step("needs", required=False, path="/${/extra/id}"),
        step("after", "extra"),
        step("asks", body={"$result": "/$errors/extra/code"}),
    )
    assert set(result["data"]) == {"main", "after", "asks"}
    assert [(each["step"], each["code"], each["status"]) for each in result["errors"]] == [
        ("extra", "NETWORK", 502)
    ]
    assert result["skipped"] == ["needs"]
    assert services.inputs["asks"][0].request.body == "NETWORK"
    assert services.events[-1][0] == "job.completed"


async def test_a_required_step_that_needs_what_is_not_there_fails(
    jobs: Jobs, services: Services
) -> None:
    services.refuses("extra")
    details = await fail(jobs, step("extra", required=False), step("b", path="/${/extra/id}"))
    assert details["type"] == "VALIDATION"
    assert details["error"]["step"] == "b"
    assert "/extra/id" in details["error"]["message"]
    assert [each["step"] for each in details["errors"]] == ["extra"]
    assert "b" not in services.seen


async def test_an_optional_step_whose_reference_is_wrong_has_failed(
    jobs: Jobs, services: Services
) -> None:
    result = await run(jobs, step("a"), step("b", path="/${/a/nothing}", required=False))
    assert [each["step"] for each in result["errors"]] == ["b"]
    assert result["skipped"] == []
    assert services.statuses("b") == ["running", "failed"]


async def test_a_condition_decides_whether_a_step_runs(jobs: Jobs, services: Services) -> None:
    services.answers("a", body({"total": 120}))
    result = await run(
        jobs,
        step("a"),
        step("large", condition={"pointer": "/a/total", "greater": 100}),
        step("small", condition={"pointer": "/a/total", "at_most": 100}),
        step("after", "small"),
        step("or", body={"$result": "/small/id", "$default": "none"}),
    )
    assert set(result["data"]) == {"a", "large", "after", "or"}
    assert result["skipped"] == ["small"]
    assert services.statuses("small") == ["skipped"]
    assert services.inputs["or"][0].request.body == "none"


async def test_a_condition_that_cannot_be_told_fails_its_step(
    jobs: Jobs, services: Services
) -> None:
    condition = {"pointer": "/a/id", "equals": {"$result": "/a/nothing"}}
    details = await fail(jobs, step("a"), step("b", condition=condition))
    assert (details["error"]["step"], details["error"]["code"]) == ("b", "VALIDATION")
    result = await run(jobs, step("a"), step("b", condition=condition, required=False))
    assert [each["step"] for each in result["errors"]] == ["b"]


async def test_a_step_that_fails_at_once_keeps_its_neighbours_from_beginning(
    jobs: Jobs, services: Services
) -> None:
    condition = {"pointer": "/a/id", "equals": {"$result": "/a/nothing"}}
    await fail(jobs, step("a"), step("b", "a", condition=condition), step("c", "a"))
    assert services.seen == ["a"]
    assert services.statuses("c") == []


async def test_a_broken_rule_fails_or_skips(jobs: Jobs, services: Services) -> None:
    async def broken(given: CallInput) -> CallResult:
        result = answer({"id": 1})
        result.broken, result.message = given.rules[0].otherwise, "/id is no string"
        return result

    services.answers("a", broken)
    skip = ResultRule({"type": "string"}, "skip")
    result = await run(jobs, step("a", rules=[skip]), step("b", "a"))
    assert services.inputs["a"][0].rules == [skip]
    assert result["skipped"] == ["a"]
    assert list(result["data"]) == ["b"]
    details = await fail(jobs, step("a", rules=[ResultRule({"type": "string"})]))
    assert details["error"]["message"] == "/id is no string"
    result = await run(jobs, step("a", rules=[ResultRule({})], required=False))
    assert [each["code"] for each in result["errors"]] == ["VALIDATION"]


async def test_bytes_are_beside_the_results(jobs: Jobs, services: Services) -> None:
    async def picture(given: CallInput) -> CallResult:
        result = answer()
        result.answer.body_base64 = "AAEC"
        return result

    services.answers("a", picture)
    result = await run(jobs, step("a"), output={"$result": "/$answers/a/body_base64"})
    assert result["data"] == "AAEC"


async def test_an_output_that_is_too_large_is_an_error_and_undoes_nothing(
    jobs: Jobs, services: Services
) -> None:
    services.answers("a", body("x" * 500_000))
    result = await run(
        jobs,
        step("a", compensation=ServiceRequest("shop", "/undo")),
        output=[{"$result": "/a"}] * 9,
    )
    assert result["data"] is None
    assert [each["code"] for each in result["errors"]] == ["PAYLOAD_TOO_LARGE"]
    assert services.seen == ["a"]


async def test_a_failed_job_tells_what_there_was(jobs: Jobs, services: Services) -> None:
    services.refuses("b")
    details = await fail(jobs, step("a"), step("b", "a"), output={"x": "${/a/id}", "y": "${/b}"})
    assert details["data"] == {"x": "a", "y": ""}


async def test_steps_that_cannot_be_run_start_nothing(jobs: Jobs, services: Services) -> None:
    details = await fail(jobs, step("a", "b"), step("b", "a"))
    assert details["type"] == "VALIDATION"
    assert "a -> b -> a" in details["error"]["message"]
    assert services.seen == []


async def test_a_paused_job_begins_nothing_new_and_goes_on_when_resumed(
    jobs: Jobs, services: Services
) -> None:
    release = services.holds("a")
    handle = await jobs.start(NAME, OrchestrationInput([step("a"), step("b", "a")]))
    await services.until(lambda: "a" in services.seen)
    await handle.signal("pause")
    release.set()
    await services.until(lambda: services.steps("completed") == ["a"])
    status = await handle.query("status")
    assert (status["status"], status["progress"]) == ("waiting", 0.5)
    assert services.seen == ["a"]
    await handle.signal("resume")
    await handle.result()
    assert services.seen == ["a", "b"]


async def test_a_step_is_skipped_on_demand_while_it_has_not_begun(
    jobs: Jobs, services: Services
) -> None:
    release = services.holds("a")
    handle = await jobs.start(NAME, OrchestrationInput([step("a"), step("b", "a"), step("c", "b")]))
    await services.until(lambda: "a" in services.seen)
    await handle.execute_update("skip_step", "b")
    await services.until(lambda: services.steps("skipped") == ["b"])
    for step_id in ("a", "b", "none"):
        with pytest.raises(WorkflowUpdateFailedError):
            await handle.execute_update("skip_step", step_id)
    release.set()
    result = await handle.result()
    assert services.seen == ["a", "c"]
    assert result["skipped"] == ["b"]


async def test_a_step_can_be_skipped_while_the_job_is_paused(
    jobs: Jobs, services: Services
) -> None:
    release = services.holds("a")
    handle = await jobs.start(NAME, OrchestrationInput([step("a"), step("b", "a")]))
    await services.until(lambda: "a" in services.seen)
    await handle.signal("pause")
    await handle.execute_update("skip_step", "b")
    release.set()
    result = await handle.result()
    assert result["skipped"] == ["b"]


async def test_progress_and_steps_are_told_as_they_come(jobs: Jobs, services: Services) -> None:
    await run(jobs, step("a"), step("b", "a"))
    told = [
        (event, data["progress"], data["current_step"])
        for event, data in services.events
        if event == "job.step"
    ]
    assert told == [
        ("job.step", 0.0, "a"),
        ("job.step", 0.5, None),
        ("job.step", 0.5, "b"),
        ("job.step", 1.0, None),
    ]
    assert [event for event, _ in services.events if event != "job.step"] == [
        "job.started",
        "job.completed",
    ]
    assert [each["status"] for each in services.events[0][1]["steps"]] == ["pending"] * 2


async def test_it_runs_in_the_sandbox_too(
    temporal: TemporalServer,
    services: Services,
) -> None:
    restrictions = SandboxRestrictions.default.with_passthrough_modules("gateway")
    services.refuses("c")
    async with jobs_at(
        await temporal.client(),
        temporal.new_queue(),
        services,
        WORKFLOWS,
        runner=SandboxedWorkflowRunner(restrictions=restrictions),
    ) as jobs:
        undo = ServiceRequest("shop", "/undo")
        details = await fail(jobs, step("a", compensation=undo), step("b"), step("c", "a", "b"))
    assert [each["status"] for each in details["compensations"]] == ["done"]


async def test_many_jobs_run_at_once(jobs: Jobs, services: Services) -> None:
    results = await asyncio.gather(*(run(jobs, step("a"), step("b", "a")) for _ in range(20)))
    assert all(result["errors"] == [] for result in results)
    assert len(services.seen) == 40


def test_runs_show_how_far_they_are() -> None:
    context = JobContext(Caller(), "0123-job", NAME, 60.0)
    tracker = Tracker("0123-job", NAME, lambda: "", lambda *_: None)
    saga = Saga(context, tracker)
    given = OrchestrationInput([step("a"), step("b")])
    graph = graph_of(given)

    class Nobody:
        def held(self) -> bool:
            return False

        def skipped(self, step_id: str) -> bool:
            return False

    run = GraphRun(given.steps, graph.waits, saga, tracker, Nobody())
    assert repr(run) == "<GraphRun 0 of 2 failure=None>"
    parts = PartsRun(context, given.steps, graph, saga, tracker, Nobody())
    parts.reported([StepReport("a", "running"), StepReport("a", "completed")])
    assert repr(parts) == "<PartsRun 1 of 2 failure=None>"
    assert tracker.step_status("a") == "completed"
