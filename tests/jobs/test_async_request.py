"""async_request_workflow and the delivery of its callbacks, against a real Temporal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError

from gateway.jobs.activities.parts import CallbackOutcome
from gateway.jobs.models import AsyncRequestInput, Retry
from gateway.jobs.workflows.async_request import AsyncRequestWorkflow
from gateway.jobs.workflows.callback_delivery import CallbackDeliveryWorkflow
from tests.jobs.fast_clock import FastClock
from tests.jobs.scripted_gateway import (
    Jobs,
    ScriptedGateway,
    answer,
    jobs_worker,
    refusal,
    scripted_gateway,
)
from tests.temporal_server import TemporalServer, temporal  # noqa: F401

KIND = "async_request_workflow"
PATH = "/api/v1/orders/7"
URL = "https://example.com/hook?secret=abc"
SOON = Retry(initial_seconds=0.01, max_seconds=0.01)
WORKFLOWS: list[type[Any]] = [AsyncRequestWorkflow, CallbackDeliveryWorkflow]


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
    async with jobs_worker(client, gateway, temporal.new_queue(), WORKFLOWS) as jobs:
        yield jobs


async def held(request: web.BaseRequest) -> web.Response:
    """A service that never answers; its client's leaving ends it."""
    await asyncio.get_running_loop().create_future()
    return web.Response()


async def test_it_is_accepted_done_and_called_back(jobs: Jobs) -> None:
    jobs.gateway.put(PATH, answer(201, {"id": 7}))
    asked = AsyncRequestInput("orders", "/7", "POST", callback_url=URL, metadata={"mine": 1})
    context = jobs.context(KIND, notify="ada")
    handle = await jobs.start(context, asked)
    result = await handle.result()
    assert result["answer"]["status"] == 201
    assert result["answer"]["body"] == {"id": 7}
    assert (result["callback"], result["attempts"]) == ("sending", 1)
    await jobs.receiver.until(lambda: len(jobs.receiver.taken) == 2)
    (url, first_id, first), (_, second_id, second) = jobs.receiver.taken
    assert url == URL
    assert (first["type"], second["type"]) == ("job.accepted", "job.completed")
    assert first_id == f"msg_{context.operation_id}_accepted"
    assert second_id == f"msg_{context.operation_id}_completed"
    assert "." not in first_id
    assert first["data"]["status"] == "running"
    assert second["data"]["result"]["answer"]["body"] == {"id": 7}
    assert second["data"]["metadata"] == {"mine": 1}
    delivery = jobs.client.get_workflow_handle(f"{context.operation_id}-callback")
    assert await delivery.result() == "delivered"


async def test_the_callers_stream_hears_of_the_end_without_the_result(jobs: Jobs) -> None:
    jobs.gateway.put(PATH, answer(200, {"id": 7}))
    context = jobs.context(KIND, notify="ada")
    handle = await jobs.start(context, AsyncRequestInput("orders", "/7"))
    result = await handle.result()
    assert result["callback"] == "none"
    (told,) = jobs.gateway.events["ada"]
    assert told["event_type"] == "job.completed"
    assert told["data"]["result"] is None
    assert told["data"]["result_url"].endswith(f"{context.operation_id}/result")
    assert jobs.types(context) == ["job.started", "job.step", "job.step", "job.completed"]
    # The log has a line for each of the job's own events.
    lines = [each for each in jobs.lines if each["event"] == "workflow_event"]
    assert [each["event_type"] for each in lines] == jobs.types(context)
    assert {(each["user_id"], each["tenant"]) for each in lines} == {("ada", "acme")}


async def test_a_failed_request_is_called_back_too(jobs: Jobs) -> None:
    jobs.gateway.put(PATH, refusal(403, "FORBIDDEN"))
    context = jobs.context(KIND, notify="ada")
    handle = await jobs.start(context, AsyncRequestInput("orders", "/7", callback_url=URL))
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "FORBIDDEN"
    await jobs.receiver.until(lambda: "job.failed" in jobs.receiver.types)
    data = jobs.receiver.taken[-1][2]["data"]
    assert (data["status"], data["error"]["code"]) == ("failed", "FORBIDDEN")
    assert jobs.gateway.types("ada") == ["job.failed"]


async def test_a_cancelled_job_closes_its_request_and_tells_the_end(jobs: Jobs) -> None:
    jobs.gateway.put(PATH, held)
    context = jobs.context(KIND)
    handle = await jobs.start(context, AsyncRequestInput("orders", "/7", callback_url=URL))
    await jobs.gateway.until(lambda: bool(jobs.gateway.asked(PATH)))
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, CancelledError)
    assert jobs.types(context)[-1] == "job.cancelled"
    assert jobs.events(context)[-1]["data"]["status"] == "cancelled"
    await jobs.receiver.until(lambda: "job.cancelled" in jobs.receiver.types)
    assert jobs.figures.ended == [(KIND, "cancelled")]


async def test_time_runs_out_inside_the_job(jobs: Jobs) -> None:
    jobs.gateway.put(PATH, held)
    context = jobs.context(KIND, timeout_seconds=0.3)
    handle = await jobs.start(context, AsyncRequestInput("orders", "/7", callback_url=URL))
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "TIMED_OUT"
    end = jobs.events(context)[-1]
    assert (end["event_type"], end["data"]["status"]) == ("job.failed", "timed_out")
    assert end["data"]["error"]["code"] == "TIMED_OUT"
    described = await handle.describe()
    assert described.search_attributes["GatewayState"] == ["timed_out"]


async def test_each_try_has_the_same_key_and_is_counted_once(jobs: Jobs) -> None:
    jobs.gateway.put(
        PATH, refusal(429, "RATE_LIMITED", 0), answer(500), answer(502), answer(200, "done")
    )
    context = jobs.context(KIND)
    retry = Retry(max_attempts=5, initial_seconds=0.01, max_seconds=0.01)
    handle = await jobs.start(context, AsyncRequestInput("orders", "/7", retry=retry))
    assert (await handle.result())["answer"]["body"] == "done"
    sent = jobs.gateway.asked(PATH)
    assert {each.headers["idempotency-key"] for each in sent} == {f"{context.operation_id}:request"}
    # What the limits refused was not counted; what came to the service was.
    assert [each.assertion.spent for each in sent] == [False, False, True, True]
    assert len({each.headers["x-request-id"] for each in sent}) == 4


async def test_a_callback_is_tried_for_days_and_given_up_then(
    temporal: TemporalServer,  # noqa: F811
    gateway: ScriptedGateway,
) -> None:
    gateway.put(PATH, answer(200))
    client = await temporal.client()
    async with jobs_worker(
        client, gateway, temporal.new_queue(), WORKFLOWS, FastClock(86_400)
    ) as jobs:
        jobs.receiver.outcomes.extend(
            [CallbackOutcome(), CallbackOutcome("answered 410", final=True)]
        )
        context = jobs.context(KIND)
        handle = await jobs.start(context, AsyncRequestInput("orders", "/7", callback_url=URL))
        await handle.result()
        delivery = client.get_workflow_handle(f"{context.operation_id}-callback")
        assert await delivery.result() == "given_up"
        assert jobs.receiver.types == ["job.accepted", "job.completed"]
        failed = [each for each in jobs.lines if each["event"] == "job_callback.failed"]
        assert [(each["error"], each["final"]) for each in failed] == [("answered 410", True)]
        assert not any("secret" in str(each) for each in jobs.lines)


async def test_a_receiver_that_is_away_is_asked_again(jobs: Jobs) -> None:
    jobs.gateway.put(PATH, answer(200))
    jobs.receiver.outcomes.extend(
        [CallbackOutcome(), CallbackOutcome("answered 503", retry_after_seconds=0.01)]
    )
    context = jobs.context(KIND)
    handle = await jobs.start(context, AsyncRequestInput("orders", "/7", callback_url=URL))
    await handle.result()
    delivery = jobs.client.get_workflow_handle(f"{context.operation_id}-callback")
    assert await delivery.result() == "delivered"
    assert jobs.receiver.types == ["job.accepted", "job.completed", "job.completed"]
    ids = [message_id for _, message_id, _ in jobs.receiver.taken]
    assert ids[1] == ids[2]
    assert jobs.receiver.taken[1][2] == jobs.receiver.taken[2][2]


async def test_without_a_secret_the_callback_is_given_up_and_the_job_is_done(
    temporal: TemporalServer,  # noqa: F811
    gateway: ScriptedGateway,
) -> None:
    gateway.put(PATH, answer(200, "ok"))
    client = await temporal.client()
    queue = temporal.new_queue()
    async with jobs_worker(client, gateway, queue, WORKFLOWS, callbacks=False) as jobs:
        context = jobs.context(KIND)
        handle = await jobs.start(context, AsyncRequestInput("orders", "/7", callback_url=URL))
        assert (await handle.result())["answer"]["body"] == "ok"
        delivery = client.get_workflow_handle(f"{context.operation_id}-callback")
        assert await delivery.result() == "given_up"


async def test_a_result_too_large_for_a_callback_is_said_where_it_is(jobs: Jobs) -> None:
    jobs.gateway.put(PATH, answer(200, {"text": "x" * 200_000}))
    context = jobs.context(KIND)
    handle = await jobs.start(context, AsyncRequestInput("orders", "/7", callback_url=URL))
    result = await handle.result()
    assert len(result["answer"]["body"]["text"]) == 200_000
    await jobs.receiver.until(lambda: "job.completed" in jobs.receiver.types)
    data = jobs.receiver.taken[-1][2]["data"]
    assert data["result"] is None
    assert data["result_url"] == f"/api/v1/workflows/{context.operation_id}/result"
    end = jobs.events(context)[-1]["data"]
    assert (end["result"], end["result_url"]) == (None, data["result_url"])


async def test_a_row_is_sent_to_its_own_target(jobs: Jobs) -> None:
    jobs.gateway.put("/shop/basket", answer(200))
    asked = AsyncRequestInput(
        "rows",
        method="POST",
        headers={"host": "shop.example", "content-type": "text/plain"},
        body_base64="aGVsbG8=",
        target="/shop/basket?a=%20b",
    )
    handle = await jobs.start(jobs.context(KIND, spent=True), asked)
    await handle.result()
    (sent,) = jobs.gateway.asked("/shop/basket")
    assert (sent.target, sent.body) == ("/shop/basket?a=%20b", b"hello")
    assert (sent.headers["host"], sent.headers["content-type"]) == ("shop.example", "text/plain")
    assert sent.assertion.spent
