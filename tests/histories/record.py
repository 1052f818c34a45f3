"""Records the histories that `tests/jobs/test_replay.py` replays: every kind of job, run on a real
Temporal against a gateway whose answers are written here.

    TEMPORAL_CLI=… python -m tests.histories.record [NAME …]

Writes `tests/histories/<workflow>.<what>.json`, all or those named. Nothing of this machine stays
in a history: no host's name, no path of a file.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle

from gateway.jobs.activity_models import Decision
from gateway.jobs.models import (
    ApiRequestInput,
    Ask,
    AsyncRequestInput,
    BusinessProcessInput,
    ErrorRecoveryInput,
    FailureReport,
    Fallback,
    JobContext,
    OrchestrationInput,
    ProcessStep,
    Retry,
    ServiceRequest,
    Step,
    SwitchStep,
    TenantSwitchInput,
)
from gateway.jobs.workflows.registered import WORKFLOWS
from tests.jobs.scripted_gateway import (
    Jobs,
    ScriptedGateway,
    answer,
    jobs_worker,
    refusal,
    scripted_gateway,
)
from tests.temporal_server import temporal_server

FOLDER = Path(__file__).parent
AT = "/api/v1/orders"
URL = "https://receiver.example/hook"
SOON = Retry(max_attempts=2, initial_seconds=0.01, max_seconds=0.01)
_HIDDEN = frozenset(("identity", "stackTrace", "requestId", "workerId"))

Handle = WorkflowHandle[Any, Any]
Scenario = Callable[[Jobs], Awaitable[Handle]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str) -> Callable[[Scenario], Scenario]:
    """The scenario whose history has this name."""

    def put(each: Scenario) -> Scenario:
        SCENARIOS[name] = each
        return each

    return put


async def ended(handle: Handle) -> Handle:
    """The same, when it is over, however it ended."""
    try:
        await handle.result()
    except WorkflowFailureError:
        return handle
    return handle


async def begun(jobs: Jobs, kind: str, asked: Any, **more: Any) -> tuple[JobContext, Handle]:
    context = jobs.context(kind, **more)
    return context, await jobs.start(context, asked)


def orders(path: str, method: str = "POST") -> ServiceRequest:
    return ServiceRequest("orders", path, method)


@scenario("api_request_workflow.answered")
async def _(jobs: Jobs) -> Handle:
    jobs.gateway.put(f"{AT}/1", answer(500), answer(200, {"total": 9}))
    asked = ApiRequestInput("orders", "/1", transform={"$result": "/body/total"}, retry=SOON)
    _, handle = await begun(jobs, "api_request_workflow", asked)
    return await ended(handle)


@scenario("api_request_workflow.refused")
async def _(jobs: Jobs) -> Handle:
    jobs.gateway.put(f"{AT}/1", refusal(403, "FORBIDDEN"))
    _, handle = await begun(jobs, "api_request_workflow", ApiRequestInput("orders", "/1"))
    return await ended(handle)


@scenario("async_request_workflow.called_back")
async def _(jobs: Jobs) -> Handle:
    jobs.gateway.put(f"{AT}/1", answer(201, {"id": 1}))
    asked = AsyncRequestInput("orders", "/1", "POST", callback_url=URL)
    _, handle = await begun(jobs, "async_request_workflow", asked, notify="ada")
    return await ended(handle)


@scenario("callback_delivery_workflow.delivered")
async def _(jobs: Jobs) -> Handle:
    handle = await SCENARIOS["async_request_workflow.called_back"](jobs)
    return await ended(jobs.client.get_workflow_handle(f"{handle.id}-callback"))


@scenario("async_request_workflow.cancelled")
async def _(jobs: Jobs) -> Handle:
    jobs.gateway.put(f"{AT}/1", _held)
    asked = AsyncRequestInput("orders", "/1", callback_url=URL)
    _, handle = await begun(jobs, "async_request_workflow", asked)
    await jobs.gateway.until(lambda: bool(jobs.gateway.asked(f"{AT}/1")))
    await handle.cancel()
    return await ended(handle)


async def _held(request: Any) -> Any:
    await asyncio.get_running_loop().create_future()


def _step(step_id: str, *after: str, **more: Any) -> Step:
    return Step(
        step_id, "orders", f"/{step_id}", "POST", depends_on=list(after),
        compensation=orders(f"/{step_id}/undo"), retry=SOON, **more,
    )  # fmt: skip


@scenario("multi_service_orchestration_workflow.done")
async def _(jobs: Jobs) -> Handle:
    for each in "abc":
        jobs.gateway.put(f"{AT}/{each}", answer(200, {"id": each}))
    steps = [_step("a"), _step("b", "a", body={"$result": "/a/id"}), _step("c", "a")]
    asked = OrchestrationInput(steps, {"b": {"$result": "/b/id"}})
    _, handle = await begun(jobs, "multi_service_orchestration_workflow", asked)
    return await ended(handle)


@scenario("multi_service_orchestration_workflow.undone")
async def _(jobs: Jobs) -> Handle:
    for each in ("a", "b", "a/undo", "b/undo"):
        jobs.gateway.put(f"{AT}/{each}", answer(200, {"id": each}))
    jobs.gateway.put(f"{AT}/c", answer(500))
    asked = OrchestrationInput([_step("a"), _step("b", "a"), _step("c", "b")])
    _, handle = await begun(jobs, "multi_service_orchestration_workflow", asked)
    return await ended(handle)


async def _many(jobs: Jobs) -> Handle:
    for number in range(52):
        jobs.gateway.put(f"{AT}/s{number}", answer(200, number))
    asked = OrchestrationInput([_step(f"s{number}") for number in range(52)])
    _, handle = await begun(jobs, "multi_service_orchestration_workflow", asked)
    return await ended(handle)


@scenario("multi_service_orchestration_workflow.in_parts")
async def _(jobs: Jobs) -> Handle:
    return await _many(jobs)


@scenario("orchestration_part_workflow.done")
async def _(jobs: Jobs) -> Handle:
    handle = await _many(jobs)
    history = await handle.fetch_history()
    started = next(
        each.child_workflow_execution_started_event_attributes
        for each in history.events
        if each.HasField("child_workflow_execution_started_event_attributes")
    )
    return jobs.client.get_workflow_handle(started.workflow_execution.workflow_id)


def _process() -> BusinessProcessInput:
    return BusinessProcessInput(
        [
            ProcessStep("made", value={"amount": {"$result": "/input/amount"}}),
            ProcessStep("a", request=orders("/a"), compensation=orders("/a/undo")),
            ProcessStep(
                "ok",
                ask=Ask("Pay ${/made/amount}?", ["ada"], options=["yes", "no"]),
                continue_when={"pointer": "/ok", "equals": "yes"},
            ),
            ProcessStep("b", request=orders("/b"), retry=SOON),
        ],
        {"amount": 5},
    )


async def _decided(jobs: Jobs, response: str) -> Handle:
    for each in ("a", "b", "a/undo"):
        jobs.gateway.put(f"{AT}/{each}", answer(200, {"id": each}))
    shown = {"status": "open", "expires_at": "2100-01-01T00:00:00.000Z"}
    jobs.gateway.put("/api/v1/questions", answer(201, shown))
    context, handle = await begun(jobs, "business_process_workflow", _process())
    stream = f"job:{context.operation_id}"
    await jobs.gateway.until(lambda: "job.question" in jobs.gateway.types(stream))
    question = jobs.gateway.asked("/api/v1/questions")[-1].json["question_id"]
    decision = Decision(question, "answered", response, "bob", "2026-01-01T00:00:00.000Z")
    await handle.execute_update("question_decided", decision, id=question)
    return await ended(handle)


@scenario("business_process_workflow.approved")
async def _(jobs: Jobs) -> Handle:
    return await _decided(jobs, "yes")


@scenario("business_process_workflow.refused")
async def _(jobs: Jobs) -> Handle:
    return await _decided(jobs, "no")


async def _switched(jobs: Jobs, status: int) -> Handle:
    for each in ("check", "a", "b", "a/undo"):
        jobs.gateway.put(f"{AT}/{each}", answer(200, {"id": each}))
    jobs.gateway.put(f"{AT}/b", answer(status, {"id": "b"}))
    asked = TenantSwitchInput(
        "globex",
        orders("/check"),
        [SwitchStep("a", orders("/a"), orders("/a/undo")), SwitchStep("b", orders("/b"))],
        context={"tenant": {"$result": "/input/to_tenant"}},
    )
    _, handle = await begun(jobs, "tenant_switch_workflow", asked)
    return await ended(handle)


@scenario("tenant_switch_workflow.switched")
async def _(jobs: Jobs) -> Handle:
    return await _switched(jobs, 200)


@scenario("tenant_switch_workflow.rolled_back")
async def _(jobs: Jobs) -> Handle:
    return await _switched(jobs, 409)


async def _recovered(jobs: Jobs, strategy: str) -> Handle:
    jobs.gateway.put(f"{AT}/1", answer(404) if strategy == "fallback" else answer(200, 1))
    asked = ErrorRecoveryInput(
        orders("/1"),
        FailureReport("external", 503),
        strategy=strategy,
        fallback=Fallback(answer={"kept": True}),
        retry=SOON,
    )
    _, handle = await begun(jobs, "error_recovery_workflow", asked)
    return await ended(handle)


@scenario("error_recovery_workflow.retry")
async def _(jobs: Jobs) -> Handle:
    return await _recovered(jobs, "retry")


@scenario("error_recovery_workflow.fallback")
async def _(jobs: Jobs) -> Handle:
    return await _recovered(jobs, "fallback")


@scenario("error_recovery_workflow.circuit_breaker")
async def _(jobs: Jobs) -> Handle:
    return await _recovered(jobs, "circuit_breaker")


@scenario("service_breaker_workflow.asked")
async def _(jobs: Jobs) -> Handle:
    handle = await SCENARIOS["error_recovery_workflow.circuit_breaker"](jobs)
    # It goes on waiting: what it has done so far is replayed.
    return jobs.client.get_workflow_handle(f"breaker-{handle.id[:16]}-orders")


def scrubbed(value: Any) -> Any:
    """A history without what only says where it was recorded."""
    if isinstance(value, list):
        return [scrubbed(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {name: scrubbed(each) for name, each in value.items() if name not in _HIDDEN}


async def record(client: Client, gateway: ScriptedGateway, queue: str, name: str) -> None:
    """Run one and write its history."""
    async with jobs_worker(client, gateway, queue, WORKFLOWS) as jobs:
        handle = await SCENARIOS[name](jobs)
        history = await handle.fetch_history()
    events = scrubbed(json.loads(history.to_json()))["events"]
    lines = ",\n".join(json.dumps(each, sort_keys=True) for each in events)
    (FOLDER / f"{name}.json").write_text(f'{{"events": [\n{lines}\n]}}\n')


async def main(names: list[str]) -> None:
    """Record those, or all."""
    with temporal_server() as server:
        client = await Client.connect(server.address, identity="recorder")
        for name in names or SCENARIOS:
            async with scripted_gateway() as gateway:
                await record(client, gateway, server.new_queue(), name)
            sys.stdout.write(f"{name}\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
