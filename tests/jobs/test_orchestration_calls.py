"""An orchestration with the activities that there are, against a gateway over a socket: what the
services see of it.
"""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.client import WorkflowFailureError

from gateway.jobs.models import OrchestrationInput, ResultRule, Retry, ServiceRequest, Step
from gateway.jobs.workflows.orchestration import Orchestration
from gateway.jobs.workflows.orchestration_part import OrchestrationPart
from tests.jobs.scripted_gateway import ScriptedGateway, answer, jobs_worker, scripted_gateway
from tests.temporal_server import TemporalServer, temporal  # noqa: F401

NAME = "multi_service_orchestration_workflow"
QUICK = Retry(max_attempts=2, initial_seconds=0.01)


async def run(temporal: TemporalServer, gateway: ScriptedGateway, *steps: Step) -> Any:  # noqa: F811
    """The result, or the failure."""
    client = await temporal.client()
    workflows = [Orchestration, OrchestrationPart]
    async with jobs_worker(client, gateway, temporal.new_queue(), workflows) as jobs:
        handle = await jobs.start(jobs.context(NAME), OrchestrationInput(list(steps)))
        try:
            return await handle.result()
        except WorkflowFailureError as error:
            return error.cause


def key_of(operation_id: str, each: Any) -> str:
    return str(each.headers["idempotency-key"]).removeprefix(f"{operation_id}:")


async def test_what_was_done_is_undone_in_the_name_of_the_caller_and_outside_his_limits(
    temporal: TemporalServer,  # noqa: F811
) -> None:
    async with scripted_gateway() as gateway:
        gateway.put("/api/v1/orders/new", answer(201, {"id": "4/2"}))
        gateway.put("/api/v1/orders/pay", answer(500))
        gateway.put("/api/v1/orders/4%2F2", answer(500), answer(204))
        failure = await run(
            temporal,
            gateway,
            Step(
                "order",
                "orders",
                "/new",
                "POST",
                body={"n": 1},
                compensation=ServiceRequest("orders", "/${/order/id}", "DELETE"),
            ),
            Step("pay", "orders", "/pay", "POST", body={"$result": "/order"}, retry=QUICK),
        )
    assert failure.type == "EXTERNAL"
    assert failure.details[0]["error"]["status"] == 500
    assert [each["status"] for each in failure.details[0]["compensations"]] == ["done"]
    calls = [each for each in gateway.seen if not each.target.startswith("/api/v1/events/")]
    operation_id = calls[0].assertion.job
    assert [(each.method, each.target, key_of(operation_id, each)) for each in calls] == [
        ("POST", "/api/v1/orders/new", "order"),
        ("POST", "/api/v1/orders/pay", "pay"),
        ("POST", "/api/v1/orders/pay", "pay"),
        ("DELETE", "/api/v1/orders/4%2F2", "order:undo"),
        ("DELETE", "/api/v1/orders/4%2F2", "order:undo"),
    ]
    assert [each.assertion.spent for each in calls] == [False, False, True, True, True]
    assert {each.assertion.subject for each in calls} == {"ada"}
    assert calls[1].json == {"id": "4/2"}
    events = gateway.events[f"job:{operation_id}"]
    assert [each["event_type"] for each in events][-1] == "job.failed"


@pytest.mark.parametrize("otherwise", ["skip", "fail"])
async def test_a_rule_is_held_against_the_answer(
    temporal: TemporalServer,  # noqa: F811
    otherwise: str,
) -> None:
    rule = ResultRule({"type": "object", "required": ["id"]}, otherwise)
    async with scripted_gateway() as gateway:
        gateway.put("/api/v1/orders/a", answer(200, {"name": "x"}))
        gateway.put("/api/v1/orders/b", answer(200, {"id": 1}))
        steps = [Step("a", "orders", "/a", rules=[rule]), Step("b", "orders", "/b", rules=[rule])]
        result = await run(temporal, gateway, *steps)
    if otherwise == "skip":
        assert result["skipped"] == ["a"]
        assert result["data"] == {"b": {"id": 1}}
    else:
        assert result.type == "VALIDATION"
        assert result.details[0]["error"]["step"] == "a"


async def test_a_query_of_results_reaches_the_service_as_it_is_meant(
    temporal: TemporalServer,  # noqa: F811
) -> None:
    async with scripted_gateway() as gateway:
        gateway.put("/api/v1/orders/a", answer(200, {"text": "a&b=c #+ü/", "many": [1, True]}))
        gateway.put("/api/v1/orders/b/a%26b%3Dc%20%23%2B%C3%BC%2F", answer(200, {}))
        query = {"a": "${/a/text}", "b": {"$result": "/a/many"}}
        step = Step("b", "orders", "/b/${/a/text}", query=query)
        result = await run(temporal, gateway, Step("a", "orders", "/a"), step)
    assert result["errors"] == []
    assert gateway.asked("/api/v1/orders/b/a%26b%3Dc%20%23%2B%C3%BC%2F")[0].target.endswith(
        "?a=a%26b%3Dc%20%23%2B%C3%BC%2F&b=1&b=true"
    )
