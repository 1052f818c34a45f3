"""Drain: not ready at once, serving in the grace, finishing what is under way, then gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.connection import PATIENCE_SECONDS
from tests.wire import (
    Link,
    RunningGateway,
    ScriptedUpstream,
    TruncatedError,
    ViolationError,
    answer,
    assert_error,
    eventually,
    proxied,
    request,
    start_gateway,
)

GET = b"GET /api/v1/svc/x"
GRACE_SECONDS = 300.0
"""More than any test lasts: who has seen enough of the grace ends it."""


@contextlib.asynccontextmanager
async def draining(
    gateway: RunningGateway, *, grace: bool = True
) -> AsyncIterator[asyncio.Task[None]]:
    """A drain under way; when the block is done its grace is over, and it is waited for."""
    task = asyncio.create_task(gateway.drain(grace=grace))
    try:
        if grace:
            await not_ready(gateway)
        yield task
        async with asyncio.timeout(PATIENCE_SECONDS):
            await gateway.drain(grace=False)
            await task
    finally:
        task.cancel()


async def not_ready(gateway: RunningGateway) -> None:
    """Waits until the drain is seen from outside; it must be at once, in the grace."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await gateway.ask(request(b"GET /health/ready"))).status != 503:
            pass


async def refused(gateway: RunningGateway) -> bool:
    """Whether the listener is gone."""
    try:
        async with gateway.connect():
            return False
    except ConnectionRefusedError:
        return True


async def test_ready_is_503_at_once_and_live_stays_200() -> None:
    async with start_gateway(DRAIN_GRACE_SECONDS=GRACE_SECONDS) as gateway:
        assert (await gateway.ask(request(b"GET /health/ready"))).status == 200
        async with draining(gateway):
            assert (await gateway.ask(request(b"GET /health/ready"))).status == 503
            assert (await gateway.ask(request(b"GET /health/live"))).status == 200


async def test_in_the_grace_new_connections_are_served_and_told_to_close() -> None:
    async with proxied(DRAIN_GRACE_SECONDS=GRACE_SECONDS) as (gateway, _):
        async with draining(gateway):
            for data in (request(GET), request(b"GET /nowhere"), request(b"GET /health/live")):
                async with gateway.connect() as client:
                    response = await client.ask(data)
                    assert response.status in (200, 404)
                    assert b"close" in response.tokens("connection")
                    assert await client.closed() == "eof"
        assert await refused(gateway)


async def test_in_the_grace_an_open_connection_is_served_and_told_to_close() -> None:
    async with (
        proxied(DRAIN_GRACE_SECONDS=GRACE_SECONDS) as (gateway, _),
        gateway.connect() as client,
    ):
        assert b"close" not in (await client.ask(request(GET))).tokens("connection")
        async with draining(gateway):
            response = await client.ask(request(GET))
            assert response.body == b"ok"
            assert b"close" in response.tokens("connection")
            assert await client.closed() == "eof"


async def test_after_the_grace_idle_connections_close_without_a_word() -> None:
    async with (
        proxied(DRAIN_GRACE_SECONDS=0.3) as (gateway, upstream),
        gateway.connect() as used,
        gateway.connect() as unused,
    ):
        assert (await used.ask(request(GET))).status == 200
        task = asyncio.create_task(gateway.drain(grace=True))
        for client in (used, unused):
            assert await client.closed() == "eof"
            assert client.unread == b""
        await task
        await upstream.links[0].closed()
        assert await refused(gateway)


async def test_a_request_under_way_is_finished_after_the_grace() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        await finish.wait()
        link.send(b"after")
        await link.closed()

    finish = asyncio.Event()
    async with (
        proxied(script, DRAIN_GRACE_SECONDS=0.2, DRAIN_SECONDS=60) as (gateway, upstream),
        gateway.connect() as client,
    ):
        client.send(request(GET))
        await upstream.received_requests(1)
        task = asyncio.create_task(gateway.drain(grace=True))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await refused(gateway):
                pass
        assert not task.done()
        finish.set()
        assert (await client.response()).body == b"firstafter"
        assert await client.closed() == "eof"
        async with asyncio.timeout(PATIENCE_SECONDS):
            await task


async def test_an_answer_that_has_not_begun_is_finished_and_says_close() -> None:
    async def script(link: Link) -> None:
        await link.request()
        await finish.wait()
        link.send(answer(b"late"))
        await link.closed()

    finish = asyncio.Event()
    async with (
        proxied(script, DRAIN_SECONDS=60) as (gateway, upstream),
        gateway.connect() as client,
    ):
        client.send(request(GET))
        await upstream.received_requests(1)
        async with draining(gateway, grace=False):
            await eventually(lambda: gateway.drained)
            finish.set()
            response = await client.response()
            assert response.body == b"late"
            assert b"close" in response.tokens("connection")
            assert await client.closed() == "eof"


async def test_pipelined_requests_read_before_the_drain_get_an_answer_or_a_clean_end() -> None:
    async with (
        proxied(DRAIN_GRACE_SECONDS=GRACE_SECONDS) as (gateway, _),
        gateway.connect() as client,
        draining(gateway),
    ):
        client.send(request(GET) * 3)
        first = await client.response()
        assert first.status == 200
        if b"close" in first.tokens("connection"):
            await client.closed()
            assert client.unread == b""


async def test_what_is_not_finished_in_time_is_cut() -> None:
    async def silent(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        await link.closed()

    async with (
        proxied(silent, DRAIN_SECONDS=0.5) as (gateway, upstream),
        gateway.connect() as client,
    ):
        client.send(request(GET))
        await upstream.received_requests(1)
        async with draining(gateway, grace=False):
            with pytest.raises(TruncatedError):
                await client.response()
        await upstream.links[0].closed()


async def test_a_tunnel_is_ended_with_the_drain() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
        link.send(b"Connection: Upgrade\r\n\r\n")
        await link.closed()

    async with (
        proxied(script, DRAIN_SECONDS=0.5) as (gateway, upstream),
        gateway.connect() as client,
    ):
        client.send(request(GET, b"Connection: Upgrade", b"Upgrade: websocket"))
        assert (await client.response()).status == 101
        async with draining(gateway, grace=False):
            await client.closed()
            await upstream.links[0].closed()


async def test_without_grace_an_idle_gateway_is_gone_at_once() -> None:
    async with (
        proxied(DRAIN_GRACE_SECONDS=GRACE_SECONDS) as (gateway, upstream),
        gateway.connect() as client,
    ):
        assert (await client.ask(request(GET))).status == 200
        async with asyncio.timeout(PATIENCE_SECONDS):
            await gateway.drain(grace=False)
        await client.closed()
        await upstream.links[0].closed()
        assert await refused(gateway)


async def test_a_second_drain_does_no_harm() -> None:
    async with proxied() as (gateway, _):
        async with asyncio.timeout(PATIENCE_SECONDS):
            await gateway.drain(grace=True)
            await gateway.drain(grace=False)


async def test_a_waiting_line_is_served_to_its_end() -> None:
    async def script(link: Link) -> None:
        while True:
            await link.request()
            await finish.wait()
            link.send(answer())

    finish = asyncio.Event()
    environ = {"UPSTREAM_MAX_CONNECTIONS": 1, "DRAIN_SECONDS": 60}
    async with proxied(script, **environ) as (gateway, upstream):
        tasks = [asyncio.create_task(gateway.ask(request(GET))) for _ in range(4)]
        await upstream.received_requests(1)
        await eventually(lambda: all(not task.done() for task in tasks))
        for _ in range(3):
            assert not await refused(gateway)
        async with draining(gateway, grace=False):
            finish.set()
            assert [r.status for r in await asyncio.gather(*tasks)] == [200] * 4


@pytest.mark.parametrize("keep_alive", [True, False], ids=["kept alive", "one connection each"])
async def test_under_load_no_request_fails(keep_alive: bool) -> None:
    """Clients that connect, ask and obey `Connection: close` must see nothing but answers, until
    connecting is refused."""
    failures: list[str] = []
    answered = 0

    async def client_loop() -> None:
        nonlocal answered
        while True:
            try:
                async with gateway.connect() as client:
                    while True:
                        response = await client.ask(request(GET))
                        assert response.body == b"ok"
                        answered += 1
                        if b"close" in response.tokens("connection") or not keep_alive:
                            break
            except ConnectionRefusedError:
                return
            except (ConnectionError, TimeoutError, ViolationError, AssertionError) as error:
                failures.append(repr(error))

    async with ScriptedUpstream() as upstream:
        environ = {"DRAIN_GRACE_SECONDS": 0.7, "DRAIN_SECONDS": 60}
        async with start_gateway(SVC_URL=upstream.url, **environ) as gateway:
            loops = [asyncio.create_task(client_loop()) for _ in range(8)]
            await eventually(lambda: answered > 50, "some load")
            async with asyncio.timeout(PATIENCE_SECONDS):
                await gateway.drain(grace=True)
                await asyncio.gather(*loops)
            assert failures == []
            assert len(gateway.access_records()) >= answered


async def test_an_error_in_the_grace_keeps_its_shape() -> None:
    async with start_gateway(DRAIN_GRACE_SECONDS=GRACE_SECONDS) as gateway, draining(gateway):
        response = await gateway.ask(request(b"GET /nowhere"))
        assert_error(response, 404, "NOT_FOUND")
