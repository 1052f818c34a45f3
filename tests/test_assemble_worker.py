"""What a worker is made of: its queues, its log, its callbacks."""

from __future__ import annotations

import asyncio
import base64
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.assemble_worker import SignedCallbacks, WorkerProcess, quiet
from gateway.callbacks import Allowed, Lookups, Sender
from gateway.callbacks.signature import signature
from gateway.edge.listener import upstream_tls_context
from gateway.jobs.codec import PayloadError, data_converter
from gateway.policy.payload_keys import PayloadKeys
from gateway.settings import Settings
from tests.jobs.scripted_gateway import scripted_gateway
from tests.processes import taken_port
from tests.redis_server import RedisServer
from tests.temporal_server import TemporalServer, temporal, temporal_server

__all__ = ["temporal"]

KEY = b"k" * 32
NOW = 1_800_000_000.0


class Receiver:
    """Answers callbacks as a test says."""

    def __init__(self) -> None:
        self.answers: deque[web.Response] = deque()
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def take(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): text for name, text in request.headers.items()}
        self.seen.append((headers, await request.read()))
        return self.answers.popleft()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    runner = web.ServerRunner(web.Server(receiver.take))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()


def callbacks(*allowed: str) -> SignedCallbacks:
    sender = Sender(Lookups().resolve, upstream_tls_context(None))
    return SignedCallbacks((KEY,), Allowed(allowed), sender, lambda: NOW)


async def test_a_callback_is_signed_and_2xx_takes_it(receiver: Receiver) -> None:
    receiver.answers.append(web.Response(status=204))
    sent = await callbacks("127.0.0.1").send(receiver.url, "msg_1", b'{"a":1}')
    assert sent.error == ""
    [(headers, body)] = receiver.seen
    assert body == b'{"a":1}'
    assert headers["webhook-id"] == "msg_1"
    assert headers["webhook-timestamp"] == str(int(NOW))
    assert headers["webhook-signature"] == signature((KEY,), "msg_1", int(NOW), body)
    assert headers["content-type"] == "application/json"
    assert base64.b64encode(KEY).decode() not in repr(callbacks())


@pytest.mark.parametrize(
    ("status", "retry_after", "final", "wait"),
    [(500, None, False, None), (410, None, True, None), (429, "7", False, 7.0),
     (302, None, False, None)],
)  # fmt: skip
async def test_another_status_is_told_and_410_ends_it(
    receiver: Receiver, status: int, retry_after: str | None, final: bool, wait: float | None
) -> None:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    receiver.answers.append(web.Response(status=status, headers=headers))
    sent = await callbacks("127.0.0.1").send(receiver.url, "msg_1", b"{}")
    assert sent.error == f"the receiver answered {status}"
    assert (sent.final, sent.retry_after_seconds) == (final, wait)


async def test_a_private_address_is_refused_unless_it_is_allowed(receiver: Receiver) -> None:
    sent = await callbacks().send(receiver.url, "msg_1", b"{}")
    assert sent.error.startswith("the host ")
    assert "127.0.0.1" not in sent.error
    assert receiver.seen == []


async def test_what_is_no_url_is_final() -> None:
    sent = await callbacks().send("file:///etc/passwd", "msg_1", b"{}")
    assert sent.final
    assert sent.error == "the URL has another scheme than http and https"


async def test_no_answer_may_be_tried_again(unused_tcp_port: int) -> None:
    sent = await callbacks("127.0.0.1").send(f"http://127.0.0.1:{unused_tcp_port}/", "m", b"{}")
    assert (sent.error, sent.final) == ("no connection", False)


async def test_what_a_worker_needs_is_watched_and_shown(
    temporal: TemporalServer, tmp_path: Path
) -> None:
    redis = RedisServer(tmp_path)
    await redis.start()
    read, write = os.pipe()
    with temporal_server() as server:
        async with scripted_gateway() as gateway:
            settings = Settings(
                temporal_address=server.address,
                payload_keys=(("k", KEY),),
                gateway_url=gateway.url,
                service_token="token",
                worker_port=0,
                redis_url=redis.url,
                webhook_secret=(KEY,),
                state_dir=tmp_path,
                drain_seconds=2.0,
            )
            stop = asyncio.Event()
            process = WorkerProcess(settings, log_fd=write, health_seconds=0.05)
            port = await process.listen()
            running = asyncio.ensure_future(process.run(stop))
            health = await until(port, lambda body: body["status"] == "healthy")
            assert set(health["checks"]) == {"ready", "temporal", "database", "redis"}
            server.hang()
            health = await until(port, lambda body: body["status"] == "degraded")
            assert health["checks"]["temporal"]["status"] == "unhealthy"
            server.resume()
            await until(port, lambda body: body["status"] == "healthy")
            assert repr(process) == "<WorkerProcess ready queues=['gateway-jobs']>"
            stop.set()
            await running
    os.close(write)
    with os.fdopen(read, "rb") as lines:
        told = lines.read()
    assert b'"worker.temporal"' in told
    assert b"token" not in told
    await redis.stop(kill=True)


async def until(port: int, condition: Callable[[Any], bool]) -> Any:
    """The health page, once it says so."""
    async with asyncio.timeout(60), aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"http://127.0.0.1:{port}/health") as answer:
                body = await answer.json()
            if condition(body):
                return body


async def test_a_port_in_use_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    settings = Settings(
        temporal_address="127.0.0.1:1", payload_keys=(("k", KEY),), gateway_url="http://127.0.0.1:1",
        service_token="token", state_dir=tmp_path, embedded=True, host="0.0.0.0",
    )  # fmt: skip
    read, write = os.pipe()
    with taken_port() as port:
        process = WorkerProcess(replace(settings, worker_port=port), log_fd=write)
        assert process.host == "127.0.0.1"
        with pytest.raises(OSError, match="in use"):
            await process.listen()
    os.close(write)
    os.close(read)


def test_the_sdks_lines_are_kept_low_unless_they_are_asked_for() -> None:
    assert quiet("info").startswith("info,temporalio=warning,")
    assert quiet("info,temporalio=debug") == "info,temporalio=debug"


async def test_a_key_that_jobs_need_and_a_worker_lacks_is_shown_in_its_health(
    tmp_path: Path,
) -> None:
    read, write = os.pipe()
    settings = Settings(
        temporal_address="127.0.0.1:1",
        payload_keys=(("new", KEY),),
        gateway_url="http://127.0.0.1:1",
        service_token="token",
        worker_port=0,
        state_dir=tmp_path,
    )
    stop = asyncio.Event()
    process = WorkerProcess(settings, log_fd=write)
    port = await process.listen()
    assert "payload_keys" not in (await until(port, bool))["checks"]
    older = data_converter(PayloadKeys(replace(settings, payload_keys=(("old", KEY),))), None)
    payloads = await older.encode(["of a job"])
    with pytest.raises(PayloadError):
        await process._converter.decode(payloads)
    health = await until(port, bool)
    assert health["checks"]["payload_keys"] == {"status": "degraded", "lacking": ["old"]}
    stop.set()
    await process.run(stop)
    os.close(write)
    with os.fdopen(read, "rb") as lines:
        assert b'"payload_key_missing"' in lines.read()
