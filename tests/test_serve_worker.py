"""A worker's process: what it needs, what it tells, how it ends, and who goes on after it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from gateway.jobs.models import ApiRequestInput, ApiRequestResult, OrchestrationInput, Step
from gateway.store import Database
from tests.jobs.scripted_gateway import ScriptedGateway, answer, refusal, scripted_gateway
from tests.jobs.worker_processes import PAYLOAD_KEYS, Setting, context_of, off_loop
from tests.processes import ROOT, Running, clean_environment, get, run_gateway, taken_port
from tests.temporal_server import TemporalServer, temporal, temporal_server

__all__ = ["temporal"]

ALL = {
    "TEMPORAL_ADDRESS": "127.0.0.1:1",
    "PAYLOAD_KEYS": PAYLOAD_KEYS,
    "GATEWAY_URL": "http://127.0.0.1:1",
    "SERVICE_TOKEN": "token",
    "WORKER_PORT": "0",
}


@pytest.fixture
async def gateway() -> AsyncIterator[ScriptedGateway]:
    async with scripted_gateway() as gateway:
        yield gateway


@pytest.fixture
def setting(gateway: ScriptedGateway, temporal: TemporalServer, tmp_path: Path) -> Setting:
    return Setting(gateway.url, temporal.address, temporal.new_queue(), tmp_path)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("TEMPORAL_ADDRESS", "TEMPORAL_ADDRESS is not set, expected host:port of Temporal"),
        ("PAYLOAD_KEYS", "PAYLOAD_KEYS is not set, expected the keys"),
        ("SERVICE_TOKEN", "SERVICE_TOKEN is not set, expected the one that the gateway has"),
        ("GATEWAY_URL", "GATEWAY_URL is not set, expected the address of the gateway"),
    ],
)
def test_what_a_worker_needs_is_said_in_one_line(missing: str, said: str) -> None:
    ended = run_gateway("worker", **{name: ALL[name] for name in ALL if name != missing})
    assert ended.returncode == 2
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""


def test_an_embedded_temporal_is_no_place_for_a_worker_of_ones_own() -> None:
    ended = run_gateway("worker", **(ALL | {"TEMPORAL_ADDRESS": "embedded"}))
    assert ended.returncode == 2
    assert "TEMPORAL_ADDRESS is embedded, expected host:port" in ended.stderr


def test_a_port_in_use_is_said_in_one_line() -> None:
    with taken_port() as port:
        ended = run_gateway("worker", **(ALL | {"WORKER_PORT": str(port)}))
    assert ended.returncode == 2
    assert "expected a free port (WORKER_PORT)" in ended.stderr


async def test_a_token_that_the_gateway_does_not_know_ends_the_start(
    gateway: ScriptedGateway, setting: Setting
) -> None:
    gateway.put("/internal/jobs/admission", refusal(404, "NOT_FOUND"))
    with setting.worker() as worker:
        code, told = await off_loop(worker.end)
    assert code == 2
    assert "the gateway does not take SERVICE_TOKEN" in told
    assert setting.environ["SERVICE_TOKEN"] not in told + json.dumps(worker.lines)


async def test_a_namespace_that_is_not_there_ends_the_start(setting: Setting) -> None:
    with setting.worker(TEMPORAL_NAMESPACE="nowhere") as worker:
        code, told = await off_loop(worker.end)
    assert code == 2
    assert "there is no namespace nowhere, expected one that exists" in told


async def test_a_worker_does_jobs_tells_how_it_is_and_ends_in_order(
    gateway: ScriptedGateway, setting: Setting
) -> None:
    gateway.put("/api/v1/orders/1", answer(503), answer(200, {"id": 1}))
    context = context_of("api_request_workflow", 30)
    with setting.worker() as worker:
        port = (await off_loop(worker.wait_for, "worker.listening"))["port"]
        assert (await off_loop(get, port, "/health/live"))[0] == 200
        assert (await off_loop(worker.wait_for, "worker.ready"))["queues"] == [setting.queue]
        assert await off_loop(get, port, "/health/ready") == (200, b'{"status":"ready"}')
        status, body = await off_loop(get, port, "/health")
        health = json.loads(body)
        assert (status, health["status"]) == (200, "healthy")
        assert health["checks"]["temporal"]["queues"] == [setting.queue]
        assert health["checks"]["database"]["status"] == "healthy"
        client = await setting.client()
        result: ApiRequestResult = await client.execute_workflow(
            context.workflow_type,
            args=[context, ApiRequestInput("orders", "/1")],
            id=context.operation_id,
            task_queue=setting.queue,
            result_type=ApiRequestResult,
        )
        assert (result.status, result.body) == (200, {"id": 1})
        page = (await off_loop(get, port, "/metrics"))[1].decode()
        done = 'workflow_executions_total{status="completed",workflow_type="api_request_workflow"}'
        assert f"{done} 1.0" in page
        assert "workflow_duration_seconds_bucket" in page
        assert 'activity_retries_total{activity_type="route_to_service"} 1.0' in page
        assert "temporal_workflow_completed_total" in page
        worker.send(signal.SIGTERM)
        assert await off_loop(worker.end) == (0, "")
    told = [line["message"] for line in worker.lines]
    assert told[-2:] == ["worker.draining", "worker.stopped"]
    assert "workflow_event" in told


@pytest.mark.usefixtures("temporal")  # skipped where there is none
async def test_what_is_away_at_the_start_is_waited_for(
    gateway: ScriptedGateway, tmp_path: Path
) -> None:
    with temporal_server() as server:
        server.stop()
        setting = Setting(gateway.url, server.address, "queue", tmp_path)
        gateway.put("/internal/jobs/admission", answer(200))
        with setting.worker() as worker:
            port = (await off_loop(worker.wait_for, "worker.listening"))["port"]
            assert (await off_loop(worker.wait_for, "worker.waiting"))["what"] == "temporal"
            status, body = await off_loop(get, port, "/health/ready")
            assert (status, json.loads(body)["reason"]) == (503, "connecting")
            assert (await off_loop(get, port, "/health"))[0] == 503
            await off_loop(server.start)
            await off_loop(worker.wait_for, "worker.ready")
            worker.send(signal.SIGINT)
            assert await off_loop(worker.end) == (0, "")


async def test_a_worker_that_waits_ends_when_it_is_told(
    gateway: ScriptedGateway, unused_tcp_port: int, tmp_path: Path
) -> None:
    setting = Setting("http://127.0.0.1:1", f"127.0.0.1:{unused_tcp_port}", "queue", tmp_path)
    with setting.worker() as worker:
        await off_loop(worker.wait_for, "worker.gateway_away")
        await off_loop(worker.wait_for, "worker.waiting")
        worker.send(signal.SIGTERM)
        assert await off_loop(worker.end) == (0, "")


async def test_a_second_interrupt_ends_what_is_under_way(
    gateway: ScriptedGateway, setting: Setting
) -> None:
    hold = asyncio.Event()

    async def held(_: web.BaseRequest) -> web.StreamResponse:
        await hold.wait()
        return answer(200)

    gateway.put("/api/v1/orders/1", held)
    context = context_of("multi_service_orchestration_workflow", 60)
    with setting.worker() as worker:
        await off_loop(worker.wait_for, "worker.ready")
        client = await setting.client()
        await client.start_workflow(
            context.workflow_type,
            args=[context, OrchestrationInput([Step("a", "orders", "/1")])],
            id=context.operation_id,
            task_queue=setting.queue,
        )
        await gateway.until(lambda: bool(gateway.asked("/api/v1/orders/1")))
        worker.send(signal.SIGINT)
        await off_loop(worker.wait_for, "worker.draining")
        worker.send(signal.SIGINT)
        assert (await off_loop(worker.end))[0] == 130
    hold.set()


async def test_a_killed_workers_job_goes_on_elsewhere_with_the_same_keys(
    gateway: ScriptedGateway, setting: Setting
) -> None:
    hold = asyncio.Event()
    large = "x" * 400_000

    async def held(_: web.BaseRequest) -> web.StreamResponse:
        await hold.wait()
        return answer(200, {"b": 1})

    gateway.put("/api/v1/orders/a", answer(200, {"a": large}))
    gateway.put("/api/v1/orders/b", held, answer(200, {"b": 2}))
    gateway.put("/api/v1/orders/c", answer(200, {"c": 3}))
    steps = [
        Step("a", "orders", "/a", method="POST"),
        Step("b", "orders", "/b", method="POST", depends_on=["a"], timeout_seconds=60),
        Step("c", "orders", "/c", method="POST", depends_on=["b"]),
    ]
    context = context_of("multi_service_orchestration_workflow", 90)
    database = Database(None, setting.state_dir)
    await database.open()
    client = await setting.client(database)
    with setting.worker() as first:
        await off_loop(first.wait_for, "worker.ready")
        handle = await client.start_workflow(
            context.workflow_type,
            args=[context, OrchestrationInput(steps)],
            id=context.operation_id,
            task_queue=setting.queue,
            result_type=dict,
        )
        await gateway.until(lambda: bool(gateway.asked("/api/v1/orders/b")))
        first.process.kill()
    with setting.worker() as second:
        await off_loop(second.wait_for, "worker.ready")
        async with asyncio.timeout(80):
            result = await handle.result()
        second.send(signal.SIGTERM)
        assert (await off_loop(second.end))[0] == 0
    hold.set()
    await database.close()
    assert result["data"]["a"] == {"a": large}
    assert result["data"]["c"] == {"c": 3}
    keys = {
        path: Counter(seen.headers["idempotency-key"] for seen in gateway.asked(path))
        for path in ("/api/v1/orders/a", "/api/v1/orders/b", "/api/v1/orders/c")
    }
    assert keys == {
        "/api/v1/orders/a": {f"{context.operation_id}:a": 1},
        "/api/v1/orders/b": {f"{context.operation_id}:b": 2},
        "/api/v1/orders/c": {f"{context.operation_id}:c": 1},
    }


async def test_an_embedded_worker_ends_with_the_process_that_started_it(
    gateway: ScriptedGateway, setting: Setting
) -> None:
    environ = clean_environment(
        **{name: text for name, text in setting.environ.items() if name != "PAYLOAD_KEYS"},
        GATEWAY_EMBEDDED="1",
    )
    parent = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'gateway', 'worker'])\n"
        'print(\'{"message": "child", "pid": %d}\' % child.pid, flush=True)\n'
        "sys.stdin.read()\n"
    )
    started = Running(command=(sys.executable, "-c", parent), **environ)
    with started:
        await off_loop(started.wait_for, "worker.ready")
        started.process.kill()
        # The worker holds the other end of this pipe: it is read to its end when both are gone.
        _, told = await off_loop(started.end)
    messages = [line["message"] for line in started.lines]
    assert messages[-1] == "worker.stopped", told


async def test_only_the_named_queues_are_worked_on(setting: Setting) -> None:
    with setting.worker("--task-queue", "heavy", "--task-queue", "light") as worker:
        assert (await off_loop(worker.wait_for, "worker.ready"))["queues"] == ["heavy", "light"]
        worker.send(signal.SIGTERM)
        assert await off_loop(worker.end) == (0, "")


def test_help_names_the_command() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "gateway", "--help"],
        cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "gateway worker [--task-queue NAME ...]" in told
