"""api_request_workflow against a real Temporal: its phases, refusals, retries and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError

from gateway.jobs.models import ApiRequestInput, ApiRequestResult, Caller, Retry
from gateway.jobs.workflows.api_request import ApiRequestWorkflow
from tests.jobs.scripted_gateway import (
    Jobs,
    answer,
    jobs_worker,
    refusal,
    scripted_gateway,
)
from tests.temporal_server import TemporalServer, temporal  # noqa: F401

KIND = "api_request_workflow"
PATH = "/api/v1/orders/7"
ADMISSION = "/internal/jobs/admission"
SOON = Retry(initial_seconds=0.01, max_seconds=0.01)


@pytest.fixture
async def jobs(temporal: TemporalServer) -> AsyncIterator[Jobs]:  # noqa: F811
    client = await temporal.client()
    async with (
        scripted_gateway() as gateway,
        jobs_worker(client, gateway, temporal.new_queue(), [ApiRequestWorkflow]) as jobs,
    ):
        yield jobs


async def run(jobs: Jobs, asked: ApiRequestInput, **more: Any) -> ApiRequestResult:
    context = jobs.context(KIND, **more)
    handle = await jobs.start(context, asked)
    return ApiRequestResult(**await handle.result())


async def test_a_request_is_admitted_counted_sent_and_logged(jobs: Jobs) -> None:
    jobs.gateway.put(PATH, answer(200, {"total": 9}, X_Kind="order", Set_Cookie="a=b"))
    asked = ApiRequestInput("orders", "/7", "POST", {"a": [1, 2]}, {"X-Note": "hi"}, {"n": 1})
    context = jobs.context(KIND)
    handle = await jobs.start(context, asked)
    result = ApiRequestResult(**await handle.result())
    assert (result.status, result.body, result.error, result.attempts) == (
        200,
        {"total": 9},
        None,
        1,
    )
    assert result.headers == {
        "x-kind": "order",
        "content-type": "application/json",
        "server": result.headers["server"],
    }
    first, second = jobs.gateway.asked(ADMISSION)
    assert [first.json["what"], second.json["what"]] == ["authenticate", "limit"]
    (sent,) = jobs.gateway.asked(PATH)
    assert (sent.method, sent.target, sent.json) == ("POST", PATH + "?a=1&a=2", {"n": 1})
    assert sent.headers["x-note"] == "hi"
    assert sent.headers["idempotency-key"] == f"{context.operation_id}:request"
    assert sent.headers["x-correlation-id"] == "corr"
    assert sent.headers["authorization"] == "Bearer service-token"
    assertion = sent.assertion
    assert (assertion.subject, assertion.tenant, assertion.spent) == ("ada", "acme", True)
    assert (assertion.service, assertion.job) == ("orders", context.operation_id)
    (line,) = [each for each in jobs.lines if each["event"] == "job_request"]
    assert (line["status"], line["user_id"], line["attempts"]) == (200, "ada", 1)
    assert line["duration_ms"] == result.duration_ms > 0
    # So short that its steps are told with its end.
    assert jobs.types(context) == ["job.started", "job.completed"]
    end = jobs.events(context)[-1]["data"]
    assert end["result"]["body"] == {"total": 9}
    assert [step["status"] for step in end["steps"]] == ["completed"] * 3
    assert jobs.figures.ended == [(KIND, "completed")]
    status = await handle.query("status")
    assert status == end


@pytest.mark.parametrize("phase", ["authenticate", "limit"])
async def test_a_refusal_is_a_result_with_its_code(jobs: Jobs, phase: str) -> None:
    refused = {"code": "RATE_LIMITED", "message": "later", "status": 429, "retry_after": 12}
    good = answer(200, {"allowed": True, "error": None})
    bad = answer(200, {"allowed": False, "error": refused})
    jobs.gateway.put(ADMISSION, *([bad] if phase == "authenticate" else [good, bad]))
    result = await run(jobs, ApiRequestInput("orders", "/7"))
    error: Any = result.error
    assert result.status == 429
    assert error["code"] == "RATE_LIMITED"
    assert (error["retry_after"], error["step"]) == (12, phase)
    assert not jobs.gateway.asked(PATH)


async def test_what_the_gateway_refuses_on_the_way_is_a_result_too(jobs: Jobs) -> None:
    jobs.gateway.put(PATH, refusal(403, "FORBIDDEN"))
    result = await run(jobs, ApiRequestInput("orders", "/7"))
    error: Any = result.error
    assert (result.status, error["code"], error["step"]) == (403, "FORBIDDEN", "route")
    assert len(jobs.gateway.asked(PATH)) == 1


async def test_a_failing_service_is_tried_again_as_its_kind_says(jobs: Jobs) -> None:
    jobs.gateway.put(PATH, answer(500), answer(500), answer(200, 1))
    result = await run(jobs, ApiRequestInput("orders", "/7", retry=SOON))
    assert (result.status, result.body, result.attempts) == (200, 1, 3)
    keys = {each.headers["idempotency-key"] for each in jobs.gateway.asked(PATH)}
    assert len(keys) == 1
    assert jobs.figures.again == ["route_to_service"] * 2


async def test_an_error_that_stays_is_what_the_service_answered(jobs: Jobs) -> None:
    jobs.gateway.put(PATH, answer(500, {"why": "bug"}))
    result = await run(jobs, ApiRequestInput("orders", "/7", retry=SOON))
    assert (result.status, result.body, result.attempts) == (500, {"why": "bug"}, 3)
    assert result.error is None


async def test_an_error_of_the_callers_is_never_tried_again(jobs: Jobs) -> None:
    jobs.gateway.put(PATH, answer(404, {"no": "order"}))
    result = await run(jobs, ApiRequestInput("orders", "/7", retry=Retry(max_attempts=9)))
    assert (result.status, result.attempts) == (404, 1)


async def test_no_answer_at_all_is_a_failure(jobs: Jobs) -> None:
    async def cut(request: web.BaseRequest) -> web.Response:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    jobs.gateway.put(PATH, cut)
    asked = ApiRequestInput("orders", "/7", "POST", retry=SOON)
    context = jobs.context(KIND)
    handle = await jobs.start(context, asked)
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == "NETWORK"
    assert cause.details[0]["error"]["step"] == "route"
    assert len(jobs.gateway.asked(PATH)) == 5
    end = jobs.events(context)[-1]
    assert end["event_type"] == "job.failed"
    assert end["data"]["status"] == "failed"
    assert end["data"]["error"]["code"] == "NETWORK"
    assert end["data"]["attempts"] == 7  # five of the request, one each of the checks
    assert jobs.figures.ended == [(KIND, "failed")]
    (line,) = [each for each in jobs.lines if each["event"] == "job_request"]
    assert (line["status"], line["error_code"], line["attempts"]) == (0, "NETWORK", 5)


async def test_an_anonymous_caller_is_asserted_by_address(jobs: Jobs) -> None:
    jobs.gateway.put(PATH, answer(200))
    await run(jobs, ApiRequestInput("orders", "/7"), caller=Caller(address="192.0.2.9"))
    (sent,) = jobs.gateway.asked(PATH)
    assert sent.assertion.subject is None
    assert sent.assertion.address == "192.0.2.9"


async def test_the_answer_goes_through_the_template(jobs: Jobs) -> None:
    jobs.gateway.put(PATH, answer(200, {"items": [{"id": 5}]}))
    template = {"first": {"$result": "/body/items/0/id"}, "text": "${/status}"}
    result = await run(jobs, ApiRequestInput("orders", "/7", transform=template))
    assert result.body == {"first": 5, "text": "200"}


async def test_an_answer_that_does_not_fit_the_template_fails_the_job(jobs: Jobs) -> None:
    jobs.gateway.put(PATH, answer(200, {"items": []}))
    template = {"$result": "/body/items/0/id"}
    with pytest.raises(WorkflowFailureError) as failed:
        await run(jobs, ApiRequestInput("orders", "/7", transform=template))
    assert getattr(failed.value.cause, "type", "") == "VALIDATION"


async def test_an_error_is_no_matter_for_the_template(jobs: Jobs) -> None:
    jobs.gateway.put(PATH, answer(404, {"no": 1}))
    result = await run(jobs, ApiRequestInput("orders", "/7", transform={"$result": "/body/a"}))
    assert (result.status, result.body) == (404, {"no": 1})


async def test_what_was_counted_at_the_door_is_not_counted_again(jobs: Jobs) -> None:
    jobs.gateway.put(PATH, answer(200))
    await run(jobs, ApiRequestInput("orders", "/7"), spent=True)
    (only,) = jobs.gateway.asked(ADMISSION)
    assert only.json["what"] == "authenticate"


async def test_an_open_breaker_that_asks_for_too_much_patience_is_a_refusal(jobs: Jobs) -> None:
    jobs.gateway.put(PATH, refusal(503, "CIRCUIT_BREAKER_OPEN", 60))
    result = await run(jobs, ApiRequestInput("orders", "/7"), timeout_seconds=5.0)
    error: Any = result.error
    assert (result.status, error["code"], error["retry_after"]) == (503, "CIRCUIT_BREAKER_OPEN", 60)


async def test_a_job_does_not_fail_for_its_line_in_the_log(
    temporal: TemporalServer,  # noqa: F811
) -> None:
    client = await temporal.client()
    queue = temporal.new_queue()
    async with (
        scripted_gateway() as gateway,
        jobs_worker(client, gateway, queue, [ApiRequestWorkflow], log_fails=True) as jobs,
    ):
        gateway.put(PATH, answer(200, 1))
        assert (await run(jobs, ApiRequestInput("orders", "/7"))).body == 1


async def test_a_cancelled_request_ends_cancelled(jobs: Jobs) -> None:
    async def held(request: web.BaseRequest) -> web.Response:
        await asyncio.get_running_loop().create_future()
        return web.Response()

    jobs.gateway.put(PATH, held)
    context = jobs.context(KIND, timeout_seconds=20.0)
    handle = await jobs.start(context, ApiRequestInput("orders", "/7"))
    await jobs.gateway.until(lambda: bool(jobs.gateway.asked(PATH)))
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, CancelledError)
    assert jobs.types(context)[-1] == "job.cancelled"


async def test_its_beginning_and_its_end_are_told_by_the_activities_that_it_needs_anyway(
    jobs: Jobs,
) -> None:
    jobs.gateway.put(PATH, answer(200, 1))
    context = jobs.context(KIND)
    handle = await jobs.start(context, ApiRequestInput("orders", "/7"))
    await handle.result()
    history = await handle.fetch_history()
    done = [each for each in history.events if each.HasField("marker_recorded_event_attributes")]
    assert len(done) == 4  # authenticate, limit, route, log
    assert jobs.types(context) == ["job.started", "job.completed"]


@pytest.mark.parametrize("cached", [1000, 0])
async def test_what_could_not_be_told_with_them_is_told_later_and_once(
    temporal: TemporalServer,  # noqa: F811
    cached: int,
) -> None:
    client = await temporal.client()
    queue = temporal.new_queue()
    async with (
        scripted_gateway() as gateway,
        jobs_worker(client, gateway, queue, [ApiRequestWorkflow], cached=cached) as jobs,
    ):
        gateway.publishing = False
        gateway.put(PATH, answer(200, 1))
        context = jobs.context(KIND)
        path = f"/api/v1/events/job:{context.operation_id}"
        handle = await jobs.start(context, ApiRequestInput("orders", "/7"))
        await gateway.until(lambda: len(gateway.asked(path)) >= 3)
        gateway.publishing = True
        assert (await handle.result())["body"] == 1
        assert jobs.types(context) == ["job.started", "job.completed"]
        assert jobs.figures.ended == [(KIND, "completed")]


async def test_a_job_that_is_cancelled_before_it_began_tells_its_end(
    temporal: TemporalServer,  # noqa: F811
) -> None:
    client = await temporal.client()
    queue = temporal.new_queue()
    async with scripted_gateway() as gateway:
        early = Jobs(client, gateway, queue)
        context = early.context(KIND)
        handle = await early.start(context, ApiRequestInput("orders", "/7"))
        await handle.cancel()
        async with jobs_worker(client, gateway, queue, [ApiRequestWorkflow]):
            with pytest.raises(WorkflowFailureError):
                await handle.result()
        assert not gateway.asked(PATH)
        assert early.types(context) == ["job.started", "job.cancelled"]
