"""Processes, switches and recoveries with the activities that workers have, in the sandbox that
workers use: what they say to a gateway, on the wire.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest
from aiohttp import web

from gateway.jobs.activity_models import Decision
from gateway.jobs.models import (
    Ask,
    BusinessProcessInput,
    ErrorRecoveryInput,
    FailureReport,
    ProcessStep,
    Retry,
    ServiceRequest,
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
from tests.temporal_server import TemporalServer, temporal  # noqa: F401

ORDERS = "/api/v1/orders"
QUESTIONS = "/api/v1/questions"


@pytest.fixture
async def gateway() -> AsyncIterator[ScriptedGateway]:
    async with scripted_gateway() as made:
        yield made


@pytest.fixture
async def jobs(temporal: TemporalServer, gateway: ScriptedGateway) -> AsyncIterator[Jobs]:  # noqa: F811
    client = await temporal.client()
    async with jobs_worker(client, gateway, temporal.new_queue(), WORKFLOWS) as made:
        yield made


def order(step: str) -> ProcessStep:
    undo = ServiceRequest("orders", f"/{step}/${{/{step}/id}}", "DELETE")
    return ProcessStep(
        step, request=ServiceRequest("orders", f"/{step}", "POST"), compensation=undo
    )


async def _asked(request: web.BaseRequest) -> web.Response:
    """The gateway takes a question."""
    body = orjson.loads(await request.read())
    return answer(
        201, body | {"status": "open", "expires_at": "2999-01-01T00:00:00.000Z", "answer": None}
    )


async def test_a_process_asks_through_the_gateway_and_goes_on(
    jobs: Jobs, gateway: ScriptedGateway
) -> None:
    gateway.put(f"{ORDERS}/a", answer(200, {"id": 1}))
    gateway.put(f"{ORDERS}/b", answer(200, {"id": 2}))
    gateway.put(QUESTIONS, _asked)
    given = BusinessProcessInput([order("a"), ProcessStep("ok", ask=Ask("${/a/id}?")), order("b")])
    context = jobs.context("business_process_workflow", 3600)
    handle = await jobs.start(context, given)
    await gateway.until(lambda: "job.question" in jobs.types(context))
    asked = gateway.asked(QUESTIONS)[0].json
    assert (asked["prompt"], asked["job"], asked["node_id"]) == ("1?", context.operation_id, "ok")
    decision = Decision(asked["question_id"], "answered", "yes", "bob")
    await handle.execute_update("question_decided", decision, id=decision.question_id)
    result = await handle.result()
    assert result["data"] == {"a": {"id": 1}, "ok": "yes", "b": {"id": 2}}
    assert jobs.types(context)[-1] == "job.completed"
    (seen,) = gateway.asked(f"{ORDERS}/b")
    assert seen.headers["idempotency-key"] == f"{context.operation_id}:b"
    assert seen.assertion.job == context.operation_id


async def test_a_process_that_fails_is_undone_at_the_services(
    jobs: Jobs, gateway: ScriptedGateway
) -> None:
    gateway.put(f"{ORDERS}/a", answer(200, {"id": 1}))
    gateway.put(f"{ORDERS}/a/1", answer(204))
    gateway.put(f"{ORDERS}/b", answer(422, {"no": "stock"}))
    context = jobs.context("business_process_workflow", 3600)
    handle = await jobs.start(context, BusinessProcessInput([order("a"), order("b")]))
    await gateway.until(lambda: "job.failed" in jobs.types(context))
    (undone,) = gateway.asked(f"{ORDERS}/a/1")
    assert undone.method == "DELETE"
    assert undone.headers["idempotency-key"] == f"{context.operation_id}:a:undo"
    status = await handle.query("status")
    assert (status["status"], status["error"]["status"]) == ("failed", 422)


async def test_a_question_that_the_gateway_refuses_ends_the_process(
    jobs: Jobs, gateway: ScriptedGateway
) -> None:
    gateway.put(QUESTIONS, refusal(422, "UNPROCESSABLE"))
    context = jobs.context("business_process_workflow", 3600)
    await jobs.start(context, BusinessProcessInput([ProcessStep("ok", ask=Ask("?"))]))
    await gateway.until(lambda: "job.failed" in jobs.types(context))
    assert jobs.events(context)[-1]["data"]["error"]["step"] == "ok"


async def test_a_switch_gives_a_session_that_nobody_can_guess(
    jobs: Jobs, gateway: ScriptedGateway
) -> None:
    gateway.put(f"{ORDERS}/users/ada", answer(200, {"role": "owner"}))
    gateway.put(f"{ORDERS}/context", answer(200, {}))
    body = {"session": "${/session_id}"}
    put = ServiceRequest("orders", "/context", "PUT", body=body)
    given = TenantSwitchInput(
        "initech",
        ServiceRequest("orders", "/users/${/input/user_id}"),
        [SwitchStep("orders", put)],
        user_id="ada",
    )
    handle = await jobs.start(jobs.context("tenant_switch_workflow"), given)
    result = await handle.result()
    assert (result["success"], result["user_context"]) == (True, {"role": "owner"})
    assert gateway.asked(f"{ORDERS}/context")[0].json == {"session": result["session_id"]}


async def test_a_recovery_tells_of_its_end_and_asks_the_services_breaker(
    jobs: Jobs, gateway: ScriptedGateway
) -> None:
    gateway.put(f"{ORDERS}/x", answer(500), answer(200, {"id": 1}))
    request = ServiceRequest("orders", "/x", "POST")
    soon = Retry(initial_seconds=0.01)
    failure = FailureReport("external", 500)
    context = jobs.context("error_recovery_workflow")
    given = ErrorRecoveryInput(request, failure, retry=soon)
    result = await (await jobs.start(context, given)).result()
    assert (result["strategy"], result["outcome"], result["attempts"]) == ("retry", "recovered", 2)
    given.strategy = "circuit_breaker"
    context = jobs.context("error_recovery_workflow")
    result = await (await jobs.start(context, given)).result()
    assert (result["outcome"], result["breaker"]) == ("recovered", "closed")
    assert [each["operation_id"] for each in jobs.lines if each["event"] == "job_request"][-1:] == [
        context.operation_id
    ]
