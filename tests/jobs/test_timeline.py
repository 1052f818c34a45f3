"""The timeline of a job, out of a real history: what ran, how long, what failed and why."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.client import (
    Client,
    DescribeWorkflowInput,
    Interceptor,
    OutboundInterceptor,
    WorkflowExecutionDescription,
)
from temporalio.service import RPCError, RPCStatusCode

from gateway.jobs import timeline
from gateway.jobs.models import OrchestrationInput, Retry, Step
from gateway.jobs.timeline import timeline_of
from gateway.jobs.workflows.orchestration import Orchestration
from gateway.jobs.workflows.orchestration_part import PART, OrchestrationPart
from tests.jobs.desk import ALICE, ORCHESTRATION, Desk
from tests.jobs.scripted_services import Jobs, Services, jobs_at
from tests.temporal_server import PATIENCE_SECONDS, TemporalServer


async def until(room: Desk, operation_id: str, **wanted: Any) -> dict[str, Any]:
    """The history, as soon as it has an entry with these members."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            found = await room.jobs.history(ALICE, operation_id)
            for entry in found["entries"]:
                if wanted.items() <= entry.items():
                    return found
            await asyncio.sleep(0.02)


def entries(history: dict[str, Any], what: str) -> list[dict[str, Any]]:
    return [each for each in history["entries"] if each["what"] == what]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_job_with_a_bit_of_everything(room: Desk, fails: bool) -> None:
    what = {"do": "lots", "fails": fails, "result": "marked-secret"}
    operation_id = await room.started(what, ORCHESTRATION)
    await until(room, operation_id, what="activity", name="transform_response", status="running")
    await room.jobs.signal(ALICE, operation_id, "pause", [])
    await room.jobs.update(ALICE, operation_id, "skip_step", ["two"])
    for step in ("bad", "done"):
        with pytest.raises(Exception, match="step"):
            await room.jobs.update(ALICE, operation_id, "skip_step", [step])
    await room.go(operation_id)
    await room.ended(operation_id)
    found = await room.jobs.history(ALICE, operation_id)
    assert (found["operation_id"], found["workflow_type"]) == (operation_id, ORCHESTRATION)
    assert found["events_left_out"] == 0
    assert "marked-secret" not in json.dumps(found)

    begun, *rest = entries(found, "job")
    assert begun["status"] == "started"
    assert rest[0]["status"] == ("failed" if fails else "completed")
    if fails:
        assert rest[0]["failure"] == {"code": "EXTERNAL", "message": "it broke"}

    paid, local, failed_local, failed, cancelled = entries(found, "activity")
    assert (paid["name"], paid["step"], paid["status"]) == ("route_to_service", "pay", "completed")
    assert paid["attempts"] == 2
    assert paid["last_failure"] == {"code": "EXTERNAL", "message": "the service is ill"}
    assert paid["duration_ms"] >= 0
    assert paid["ended_at"] >= paid["started_at"] >= paid["at"]
    assert (local["name"], local["local"], local["status"]) == (
        "route_to_service",
        True,
        "completed",
    )
    assert failed_local["status"] == "failed"
    assert failed_local["failure"]["message"] == "the service is ill"
    assert failed_local["attempts"] == 2
    assert (failed["status"], failed["attempts"]) == ("failed", 2)
    assert failed["failure"] == {"code": "EXTERNAL", "message": "the service is ill"}
    assert "step" not in failed
    assert (cancelled["name"], cancelled["status"]) == ("transform_response", "unfinished")

    timers = entries(found, "timer")
    assert [(each["seconds"], each["status"]) for each in timers] == [
        (0.01, "completed"),
        (3600.0, "cancelled"),
    ]
    children = entries(found, "child")
    assert {each["name"] for each in children} == {"tiny_child"}
    assert [each["status"] for each in children] == ["completed", "failed", "timed_out", "failed"]
    assert children[1]["failure"]["message"] == "the child broke"
    assert {each["name"] for each in entries(found, "signal")} == {"pause", "go"}
    updates = entries(found, "update")
    assert [(each["name"], each["status"]) for each in updates] == [
        ("skip_step", "completed"),
        ("skip_step", "failed"),
        ("skip_step", "failed"),
    ]
    assert updates[1]["failure"] == {
        "code": "UNPROCESSABLE",
        "message": "there is no such step",
    }


async def test_what_was_cut_off_did_not_fail_and_the_jobs_own_timer_is_not_shown(
    room: Desk,
) -> None:
    operation_id = await room.started({"do": "cut_off"}, ORCHESTRATION)  # which has 60 s
    await room.ended(operation_id)
    found = await until(room, operation_id, what="job", status="completed")
    [entry] = entries(found, "activity")
    assert (entry["name"], entry["status"]) == ("transform_response", "cancelled")
    assert "failure" not in entry
    assert [each["seconds"] for each in entries(found, "timer")] == [0.01]


async def test_what_is_tried_again_says_when_and_why(room: Desk) -> None:
    operation_id = await room.started({"do": "retrying"}, ORCHESTRATION)
    found = await until(room, operation_id, what="activity", status="retrying")
    [entry] = entries(found, "activity")
    assert entry["last_failure"] == {"code": "EXTERNAL", "message": "the service is ill"}
    assert entry["next_attempt_at"] > entry["at"]
    assert entry["attempts"] == 2
    await room.jobs.cancel(ALICE, operation_id)
    found = await until(room, operation_id, what="cancel")
    await room.ended(operation_id)
    found = await until(room, operation_id, what="job", status="cancelled")
    [entry] = entries(found, "activity")
    assert entry["status"] == "unfinished"


async def test_a_terminated_job_says_so(room: Desk) -> None:
    operation_id = await room.started({"do": "wait"})
    await room.jobs.terminate(ALICE, operation_id)
    found = await until(room, operation_id, what="job", status="terminated")
    assert len(entries(found, "job")) == 2


async def test_a_long_history_is_cut_and_says_by_how_much(
    room: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation_id = await room.started({"do": "complete"})
    await room.ended(operation_id)
    whole = await until(room, operation_id, what="job", status="completed")
    monkeypatch.setattr(timeline, "MOST_EVENTS", 2)
    cut = await room.jobs.history(ALICE, operation_id)
    assert cut["entries"] == whole["entries"][:1]
    assert cut["events_left_out"] >= 3


# Large orchestrations


@pytest.fixture
def services() -> Services:
    return Services()


@pytest.fixture
async def jobs(
    temporal: TemporalServer,
    services: Services,
) -> AsyncIterator[Jobs]:
    async with jobs_at(
        await temporal.client(),
        temporal.new_queue(),
        services,
        (Orchestration, OrchestrationPart),
    ) as running:
        yield running


def large() -> OrchestrationInput:
    """Steps for two parts, the last behind all others."""
    steps = [Step(f"s{n}", "shop", f"/{n}", retry=Retry(max_attempts=1)) for n in range(50)]
    last = Step("last", "shop", "/last", depends_on=[f"s{n}" for n in range(50)])
    return OrchestrationInput([*steps, last])


async def test_the_steps_of_all_parts_stand_in_the_order_of_their_beginning(
    jobs: Jobs, services: Services
) -> None:
    services.refuses("s7")
    given = large()
    given.steps[7].required = False
    handle = await jobs.start(ORCHESTRATION, given)
    await handle.result()
    found = await timeline_of(jobs.client, handle.id)
    assert found["events_left_out"] == 0
    steps = {each["step"]: each for each in entries(found, "activity") if "part" in each}
    assert set(steps) == {each.id for each in given.steps}
    assert {each["part"] for each in steps.values()} == {"part-1", "part-2"}
    assert steps["last"]["part"] == "part-2"
    assert (steps["s7"]["status"], steps["s7"]["failure"]["code"]) == ("failed", "EXTERNAL")
    assert steps["s8"]["status"] == "completed"
    assert steps["s8"]["duration_ms"] >= 0
    moments = [each["at"] for each in found["entries"]]
    assert moments == sorted(moments)
    children = entries(found, "child")
    assert [(each["name"], each["status"]) for each in children] == [(PART, "completed")] * 2
    assert [each["status"] for each in entries(found, "job")] == ["started", "completed"]
    # Bookkeeping is left out: events that are published, what parts tell, the job's time-out.
    assert {each["name"] for each in entries(found, "activity")} == {"route_to_service"}
    assert entries(found, "signal") == entries(found, "timer") == []


async def test_a_step_that_runs_in_a_part_is_shown_as_it_is_now(
    jobs: Jobs, services: Services
) -> None:
    release = services.holds("s3")
    handle = await jobs.start(ORCHESTRATION, large())
    await services.until(lambda: "s3" in services.seen and len(services.done) == 49)
    found = await timeline_of(jobs.client, handle.id)
    [entry] = [each for each in entries(found, "activity") if each.get("step") == "s3"]
    assert (entry["status"], entry["attempts"], entry["part"]) == ("running", 1, "part-1")
    release.set()
    await handle.result()


async def test_parts_share_the_bound_of_one_timeline(
    jobs: Jobs, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = await jobs.start(ORCHESTRATION, large())
    await handle.result()
    whole = await timeline_of(jobs.client, handle.id)
    own = (await handle.describe()).history_length
    monkeypatch.setattr(timeline, "MOST_EVENTS", own + 20)
    cut = await timeline_of(jobs.client, handle.id)
    shown = [each for each in cut["entries"] if "part" in each]
    assert 0 < len(shown) < len([each for each in whole["entries"] if "part" in each])
    assert cut["events_left_out"] > 20


class Forgetful(Interceptor, OutboundInterceptor):
    """A server that has no part one any more (or: can't say)."""

    def __init__(self, status: RPCStatusCode) -> None:
        self._status = status

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:  # noqa: A002 - the SDK's name
        OutboundInterceptor.__init__(self, next)
        return self

    async def describe_workflow(self, input: DescribeWorkflowInput) -> WorkflowExecutionDescription:  # noqa: A002 - the SDK's name
        if input.id.endswith("-part-1"):
            raise RPCError("gone", self._status, b"")
        return await super().describe_workflow(input)


async def test_a_part_that_temporal_has_forgotten_is_an_entry_of_its_own_only(
    jobs: Jobs, services: Services
) -> None:
    handle = await jobs.start(ORCHESTRATION, large())
    await handle.result()

    async def found(status: RPCStatusCode) -> dict[str, Any]:
        client = Client(**{**jobs.client.config(), "interceptors": [Forgetful(status)]})
        return await timeline_of(client, handle.id)

    history = await found(RPCStatusCode.NOT_FOUND)
    assert {each["part"] for each in history["entries"] if "part" in each} == {"part-2"}
    assert len(entries(history, "child")) == 2
    with pytest.raises(RPCError):
        await found(RPCStatusCode.UNAVAILABLE)
