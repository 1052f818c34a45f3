"""Jobs over a real gateway and a real Temporal: raw requests in, answers out."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.jobs.codec import data_converter
from gateway.jobs.connect import connect
from gateway.policy.payload_keys import PayloadKeys
from tests.connection import PATIENCE_SECONDS
from tests.jobs.desk import working
from tests.streams import SECRET, who
from tests.temporal_server import TemporalServer, temporal  # noqa: F401
from tests.wire import (
    Message,
    RunningGateway,
    assert_error,
    eventually,
    request,
    start_gateway,
)

KEYS = "k1:" + base64.b64encode(b"1" * 32).decode()
REQUEST = b'{"service": "demo", "body": {"do": "complete", "result": "well"}}'
WAITING = b'{"service": "demo", "body": {"do": "wait"}}'
ALICE = who("alice", "jobs:write", tenant="acme")
BOB = who("bob", "jobs:write", tenant="other")
START = b"/api/v1/workflows/api_request_workflow"


@contextlib.asynccontextmanager
async def gateway_with(server: TemporalServer, **more: Any) -> AsyncIterator[RunningGateway]:
    """A gateway whose jobs are there, and a worker."""
    names = {
        "TEMPORAL_ADDRESS": server.address,
        "TEMPORAL_TASK_QUEUE": server.new_queue(),
        "PAYLOAD_KEYS": KEYS,
        "DEMO_URL": "http://127.0.0.1:9",
        "JWT_SECRET": SECRET,
    } | more
    async with start_gateway(**names) as gateway:
        settings = gateway.settings
        client = await connect(
            server.address, settings, data_converter(PayloadKeys(settings), None), role="worker"
        )
        async with working(client, settings.temporal_task_queue):
            state = gateway.gateway._asked
            await eventually(lambda: state.jobs is not None, "jobs")
            yield gateway


@pytest.fixture
async def gateway(temporal: TemporalServer) -> AsyncIterator[RunningGateway]:  # noqa: F811
    async with gateway_with(temporal) as found:
        yield found


def told(message: Message, status: int) -> Any:
    assert message.status == status, message
    return json.loads(message.body)


async def test_a_job_from_its_start_to_its_end(gateway: RunningGateway) -> None:
    body = told(await gateway.ask(request(b"POST " + START, ALICE, body=REQUEST)), 200)
    assert (body["status"], body["result"]) == ("completed", "well")
    path = f"/api/workflows/{body['operation_id']}/status".encode()
    again = await gateway.ask(request(b"GET " + path, ALICE))
    assert told(again, 200) == body
    assert again.get("x-request-id")
    assert_error(await gateway.ask(request(b"GET " + path, BOB)), 404, "NOT_FOUND")
    assert_error(await gateway.ask(request(b"GET " + path)), 401, "UNAUTHORIZED")
    token = b"/api/workflows?access_token=x"
    assert_error(await gateway.ask(request(b"GET " + token, ALICE)), 401, "AUTH_FAILED")


async def test_a_job_is_followed_and_cancelled(gateway: RunningGateway) -> None:
    answer = await gateway.ask(
        request(b"POST " + START, ALICE, b"Prefer: respond-async", body=WAITING)
    )
    links = told(answer, 202)
    assert answer.get("location") == links["status_url"].encode()
    waiting = asyncio.create_task(
        gateway.ask(request(b"GET " + links["result_url"].encode() + b"?wait=60", ALICE))
    )
    await running(gateway, links["status_url"])
    cancel = f"/api/v1/workflows/{links['operation_id']}/cancel".encode()
    told(await gateway.ask(request(b"POST " + cancel, ALICE, body=b"")), 202)
    failed = told(await waiting, 409)["error"]
    assert (failed["code"], failed["status"]) == ("JOB_FAILED", "cancelled")


async def test_a_job_that_is_terminated_is_counted_by_the_gateway(gateway: RunningGateway) -> None:
    answer = await gateway.ask(
        request(b"POST " + START, ALICE, b"Prefer: respond-async", body=WAITING)
    )
    terminate = f"/api/v1/workflows/{told(answer, 202)['operation_id']}/terminate".encode()
    told(await gateway.ask(request(b"POST " + terminate, ALICE, body=b"")), 200)
    page = (await gateway.ask(request(b"GET /metrics"))).body
    counted = (
        b'workflow_executions_total{status="terminated",workflow_type="api_request_workflow"} 1.0\n'
    )
    assert counted in page


async def running(gateway: RunningGateway, url: str) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            message = await gateway.ask(request(b"GET " + url.encode(), ALICE))
            if told(message, 200)["status"] == "running":
                return
            await asyncio.sleep(0.02)


async def test_job_calls_are_counted(temporal: TemporalServer) -> None:  # noqa: F811
    async with gateway_with(temporal, RATE_LIMIT="3/minute") as gateway:
        for prefix in (b"/api/v1/workflows", b"/api/workflows", b"/api/v1/workflows"):
            message = await gateway.ask(request(b"GET " + prefix, ALICE))
            assert message.status == 200
            assert message.get("x-ratelimit-limit") == b"3"
        assert_error(await gateway.ask(request(b"GET /api/workflows", ALICE)), 429, "RATE_LIMITED")


async def test_without_temporal_everything_else_works() -> None:
    async with start_gateway(JWT_SECRET=SECRET) as gateway:
        answer = await gateway.ask(request(b"POST " + START, ALICE, body=REQUEST))
        assert_error(answer, 503, "SERVICE_UNAVAILABLE")
        assert b"TEMPORAL_ADDRESS" in answer.body
        assert told(await gateway.ask(request(b"GET /health")), 200)["status"] == "healthy"


async def test_the_gateways_internal_paths_are_not_there(gateway: RunningGateway) -> None:
    for method in (b"GET", b"POST"):
        for path in (b"/internal/jobs/durable", b"/internal/jobs/admission"):
            message = await gateway.ask(request(method + b" " + path, ALICE, body=b"{}"))
            assert_error(message, 404, "NOT_FOUND")


async def test_a_gateway_that_stops_lets_go_who_waits(gateway: RunningGateway) -> None:
    waiting = asyncio.create_task(gateway.ask(request(b"POST " + START, ALICE, body=WAITING)))
    jobs = gateway.gateway._asked.jobs
    await eventually(lambda: jobs._waiters.count == 1, "one who waits")
    await gateway.drain(grace=False)
    told(await waiting, 202)
