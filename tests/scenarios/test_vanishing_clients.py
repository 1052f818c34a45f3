"""Clients that vanish at every stage: the upstream is let go at once, nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.wire import (
    Link,
    RawClient,
    RunningGateway,
    ScriptedUpstream,
    answer,
    eventually,
    proxied,
    request,
    start_gateway,
)

GET = b"GET /api/v1/svc/x"
POST = b"POST /api/v1/svc/x"
PROMPT_SECONDS = 2.0
LARGE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n"


async def patient(link: Link) -> None:
    """Answers /x never, /half by half, /large for as long as it is taken, /switch with a tunnel."""
    while (head := await link.head()).target == b"/ok":
        link.send(answer())
    if head.target == b"/half":
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
    elif head.target == b"/large":
        link.send(LARGE_HEAD)
        await link.push(b"d" * 65536, 1024)
    elif head.target == b"/switch":
        link.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
        link.send(b"Connection: Upgrade\r\n\r\n")
    await link.closed(60)
    link.close()


Stage = Callable[[RawClient, ScriptedUpstream], Awaitable[None]]


async def connected(client: RawClient, upstream: ScriptedUpstream) -> None:
    """Only connected."""


async def in_the_head(client: RawClient, upstream: ScriptedUpstream) -> None:
    """Half a head."""
    client.send(b"GET /api/v1/svc/x HTTP/1.1\r\nHost: gat")
    await client.flush()


async def in_the_body(client: RawClient, upstream: ScriptedUpstream) -> None:
    """Half a counted body."""
    before = len(upstream.requests)
    client.send(request(POST, b"Content-Length: 1000"), b"b" * 500)
    await upstream.received_requests(before + 1)


async def in_a_chunk(client: RawClient, upstream: ScriptedUpstream) -> None:
    """Half a chunk."""
    before = len(upstream.requests)
    client.send(request(POST, b"Transfer-Encoding: chunked"), b"100\r\nhalf")
    await upstream.received_requests(before + 1)


async def waiting(client: RawClient, upstream: ScriptedUpstream) -> None:
    """Waiting for the answer."""
    before = len(upstream.requests)
    client.send(request(GET))
    await upstream.received_requests(before + 1)


async def in_the_answer(client: RawClient, upstream: ScriptedUpstream) -> None:
    """Half an answer."""
    client.send(request(b"GET /api/v1/svc/half"))
    await client.until(lambda: b"first" in client.received, "the first half")


async def in_a_large_answer(client: RawClient, upstream: ScriptedUpstream) -> None:
    """A large answer of which nothing is read."""
    before = len(upstream.requests)
    client.hold()
    client.send(request(b"GET /api/v1/svc/large"))
    await upstream.received_requests(before + 1)


async def in_a_tunnel(client: RawClient, upstream: ScriptedUpstream) -> None:
    """A tunnel."""
    client.send(
        request(b"GET /api/v1/svc/switch", b"Connection: Upgrade", b"Upgrade: websocket"),
        b"early",
    )
    await client.until(lambda: b"\r\n\r\n" in client.received, "the 101")


async def in_a_pipeline(client: RawClient, upstream: ScriptedUpstream) -> None:
    """Three requests waiting for the first answer."""
    before = len(upstream.requests)
    client.send(request(GET) * 3)
    await upstream.received_requests(before + 1)


async def after_an_answer(client: RawClient, upstream: ScriptedUpstream) -> None:
    """Idle, after an answer."""
    await client.ask(request(b"GET /api/v1/svc/ok"))


STAGES: list[Stage] = [
    connected,
    in_the_head,
    in_the_body,
    in_a_chunk,
    waiting,
    in_the_answer,
    in_a_large_answer,
    in_a_tunnel,
    in_a_pipeline,
    after_an_answer,
]
UPSTREAM_STAGES = [s for s in STAGES if s not in (connected, in_the_head, after_an_answer)]


def vanish(client: RawClient, how: str) -> None:
    """Closes (FIN) or resets (RST)."""
    if how == "reset":
        client.reset()
    else:
        client.close()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("stage", UPSTREAM_STAGES, ids=lambda stage: stage.__name__)
async def test_the_upstream_is_let_go_promptly(stage: Stage, how: str) -> None:
    async with proxied(patient) as (gateway, upstream):
        async with gateway.connect() as client:
            await stage(client, upstream)
            vanish(client, how)
            await upstream.links[0].closed(PROMPT_SECONDS)
        await eventually(lambda: not upstream.open_links, "the connections to end")
        assert (await gateway.ask(request(b"GET /api/v1/svc/ok"))).status == 200


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
async def test_the_only_place_under_the_cap_is_free_again(stage: Stage, how: str) -> None:
    async with proxied(patient, UPSTREAM_MAX_CONNECTIONS=1) as (gateway, upstream):
        for _ in range(3):
            async with gateway.connect() as client:
                await stage(client, upstream)
                vanish(client, how)
                await client.until(lambda c=client: c.lost, "our own end")  # type: ignore[misc]
        response = await gateway.ask(request(b"GET /api/v1/svc/ok"))
        assert response.body == b"ok"


async def vanish_at(
    gateway: RunningGateway, upstream: ScriptedUpstream, stage: Stage, how: str
) -> None:
    """One client that vanishes at that stage."""
    async with gateway.connect() as client:
        await stage(client, upstream)
        vanish(client, how)
        await client.until(lambda: client.lost, "our own end")


def open_descriptors() -> int:
    """How many files and sockets this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_thousand_vanishing_clients_leave_no_task_no_socket_and_no_place() -> None:
    async with (
        ScriptedUpstream(patient) as upstream,
        start_gateway(SVC_URL=upstream.url, RATE_LIMIT="off") as gateway,
    ):
        await gateway.ask(request(b"GET /api/v1/svc/ok"))
        await gateway.ask(request(b"GET /metrics"))
        tasks = len(asyncio.all_tasks()) - len(upstream.open_links)
        descriptors = open_descriptors() - 2 * len(upstream.open_links)
        for _ in range(50):  # a thousand clients
            await asyncio.gather(
                *(
                    vanish_at(gateway, upstream, stage, how)
                    for stage in STAGES
                    for how in ("close", "reset")
                )
            )
        gc.collect()
        await eventually(
            lambda: all(
                not link.requests or link.requests[-1].target == b"/ok"
                for link in upstream.open_links
            ),
            "all but idle connections to end",
        )
        await eventually(
            lambda: open_descriptors() - 2 * len(upstream.open_links) <= descriptors,
            "the sockets to close",
        )
        await eventually(
            lambda: len(asyncio.all_tasks()) - len(upstream.open_links) <= tasks,
            "the tasks to end",
        )
        text = (await gateway.ask(request(b"GET /metrics"))).body
        assert b'gateway_requests_in_flight{service="svc"} 0' in text


async def test_a_vanished_client_is_not_an_error_in_the_log() -> None:
    async with proxied(patient) as (gateway, upstream):
        for how in ("close", "reset"):
            await vanish_at(gateway, upstream, waiting, how)
        records = await gateway.records(2)
        assert [record["status"] for record in records] == [499, 499]
        levels = {line.get("level") for line in gateway.log() if "duration_ms" not in line}
        assert not levels & {"error", "critical", "exception"}
