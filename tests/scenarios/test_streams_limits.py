"""How many streams there may be, and how they end: limits, overload, drain, slow readers' fate."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

import pytest

from tests.connection import PATIENCE_SECONDS
from tests.messages import STATUS_LINE, read_head, request
from tests.processes import Running
from tests.streams import (
    LOCAL,
    Remote,
    Stream,
    event,
    gather_all,
    get,
    publish_many,
    published,
    raw_stream,
    read_events,
    refusal,
    subscribe,
)
from tests.wire import Message, RunningGateway, eventually, start_gateway

FORWARDED = {"TRUSTED_PROXIES": "127.0.0.0/8"}


def put_off(response: Message) -> int:
    """Holds the answer to an EventSource that shall come back later; when it shall (ms)."""
    assert response.status == 200
    assert response.get("content-type") == b"text/event-stream; charset=utf-8"
    assert response.get("x-request-id")
    got = read_events(response.body)
    assert [each.type for each in got] == ["stream.closing"]
    assert got[0].id is None
    assert got[0].retry is not None
    return got[0].retry


async def leave(gateway: RunningGateway, count: int) -> None:
    """Waits until that many streams are over that were more than a refusal."""
    await eventually(
        lambda: (
            len(
                [
                    r
                    for r in gateway.access_records()
                    if (r.get("events_sent") or 0) > 0 and r["end_reason"] != "overloaded"
                ]
            )
            >= count
        )
    )


async def test_one_stream_too_many_of_a_client_id_is_429_and_room_is_used_again() -> None:
    async with start_gateway(STREAMS_PER_CLIENT=2) as gateway, subscribe(gateway) as one:
        async with subscribe(gateway):
            response = await gateway.ask(get())
            refusal(response, 429, "RATE_LIMITED")
            assert int(response.get("retry-after") or b"0") > 0
            async with subscribe(gateway, "bob"):
                pass
            await published(gateway, "alice", event("still here"))
            assert (await one.event()).data == "still here"
        await leave(gateway, 2)
        async with subscribe(gateway):
            pass


async def test_a_job_may_have_more_readers() -> None:
    async with (
        start_gateway(STREAMS_PER_CLIENT=1, STREAMS_PER_JOB=3) as gateway,
        subscribe(gateway, "job:1"),
        subscribe(gateway, "job:1"),
        subscribe(gateway, "job:1"),
    ):
        refusal(await gateway.ask(get("job:1")), 429, "RATE_LIMITED")


async def test_one_stream_too_many_of_an_address_is_429() -> None:
    async with start_gateway(STREAMS_PER_ADDRESS=2, **FORWARDED) as gateway:
        here = b"X-Forwarded-For: 192.0.2.1"
        async with subscribe(gateway, "alice", here), subscribe(gateway, "bob", here):
            refusal(await gateway.ask(get("carol", here)), 429, "RATE_LIMITED")
            async with subscribe(gateway, "carol", b"X-Forwarded-For: 192.0.2.2"):
                pass
        await leave(gateway, 3)
        async with subscribe(gateway, "carol", here):
            pass


EVENT_SOURCES = [b"Accept: text/event-stream"]
OTHERS = [b"Accept: */*", None]


@pytest.mark.parametrize("full", [0, 1])
async def test_when_all_streams_are_taken_an_event_source_is_asked_to_come_back(full: int) -> None:
    async with start_gateway(MAX_STREAMS=full) as gateway, contextlib.AsyncExitStack() as stack:
        for number in range(full):
            await stack.enter_async_context(subscribe(gateway, f"c{number}"))
        told = {put_off(await gateway.ask(get())) for _ in range(12)}
        assert len(told) > 3
        assert min(told) >= 1000
        for accept in OTHERS:
            response = await gateway.ask(get(accept=accept))
            refusal(response, 503, "OVERLOADED")
            assert int(response.get("retry-after") or b"0") > 0
        assert (await published(gateway, "alice", event())) != []


async def test_room_that_becomes_free_is_used_again() -> None:
    async with start_gateway(MAX_STREAMS=1) as gateway:
        for number in range(3):
            async with subscribe(gateway):
                put_off(await gateway.ask(get("bob")))
            await leave(gateway, number + 1)


async def test_an_http_1_0_event_source_is_put_off_with_the_end_of_its_connection() -> None:
    async with start_gateway(MAX_STREAMS=0) as gateway, gateway.connect() as client:
        client.send(get(version=b"HTTP/1.0"))
        put_off(await client.response())
        assert await client.closed() == "eof"


async def test_with_a_drain_every_stream_is_told_when_to_come_back_and_ends_cleanly() -> None:
    async with (
        start_gateway(DRAIN_SECONDS=2) as gateway,
        contextlib.AsyncExitStack() as stack,
    ):
        streams = [
            await stack.enter_async_context(subscribe(gateway, f"c{number % 7}"))
            for number in range(30)
        ]
        await publish_many(gateway, "c1", 3)
        draining = asyncio.create_task(gateway.drain(grace=True))
        ended = await gather_all(*(stream.rest() for stream in streams))
        await asyncio.wait_for(draining, PATIENCE_SECONDS)
        retries = set()
        for number, got in enumerate(ended):
            expected = ["note"] * 3 if number % 7 == 1 else []
            assert [each.type for each in got] == [*expected, "stream.closing"]
            assert got[-1].id is None
            assert got[-1].retry is not None
            retries.add(got[-1].retry)
        assert len(retries) > 5
        for stream in streams:
            assert await stream.client.closed() == "eof"


async def test_a_drain_is_spread_and_not_all_end_at_once() -> None:
    async with (
        start_gateway(DRAIN_SECONDS=3) as gateway,
        contextlib.AsyncExitStack() as stack,
    ):
        streams = [
            await stack.enter_async_context(subscribe(gateway, f"c{number}"))
            for number in range(20)
        ]
        draining = asyncio.create_task(gateway.drain(grace=True))
        await eventually(lambda: any(stream.client.ended for stream in streams), "a first end")
        assert not all(stream.client.ended for stream in streams)
        await gather_all(*(stream.rest() for stream in streams))
        await asyncio.wait_for(draining, PATIENCE_SECONDS)


async def not_ready(gateway: RunningGateway) -> None:
    """Waits until the drain is seen from outside."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await gateway.ask(request(b"GET /health/ready"))).status != 503:
            pass


async def test_what_is_published_while_draining_reaches_who_is_still_there() -> None:
    async with (
        start_gateway(DRAIN_GRACE_SECONDS=300, DRAIN_SECONDS=1) as gateway,
        subscribe(gateway) as stream,
    ):
        draining = asyncio.create_task(gateway.drain(grace=True))
        await not_ready(gateway)
        sent = await published(gateway, "alice", event("late"))
        await gateway.drain(grace=False)
        got = await stream.rest()
        assert [each.id for each in got] == [sent[0], None]
        assert got[-1].type == "stream.closing"
        await draining


async def test_while_draining_an_event_source_is_put_off_and_others_get_503() -> None:
    async with start_gateway(DRAIN_GRACE_SECONDS=300) as gateway:
        draining = asyncio.create_task(gateway.drain(grace=True))
        await not_ready(gateway)
        put_off(await gateway.ask(get()))
        response = await gateway.ask(get(accept=b"Accept: */*"))
        assert response.status == 503
        assert int(response.get("retry-after") or b"0") > 0
        await gateway.drain(grace=False)
        await draining


async def test_a_drain_without_grace_ends_streams_too() -> None:
    async with start_gateway(DRAIN_SECONDS=1) as gateway, subscribe(gateway) as stream:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await gateway.drain(grace=False)
        assert [each.type for each in await stream.rest()] == ["stream.closing"]


async def test_a_drain_does_not_wait_for_a_reader_that_reads_nothing() -> None:
    async with (
        start_gateway(DRAIN_SECONDS=1) as gateway,
        subscribe(gateway, held=False, receive_buffer_bytes=4096) as stream,
    ):
        stream.client.hold()
        for _ in range(10):
            await published(gateway, "alice", [event("x" * 60_000)] * 10)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await gateway.drain(grace=True)


async def test_many_streams_come_back_at_once_after_a_gateway_has_gone() -> None:
    async with (
        start_gateway(STREAMS_PER_ADDRESS=1000, STREAMS_PER_CLIENT=1000) as gateway,
        contextlib.AsyncExitStack() as stack,
    ):
        ids = await publish_many(gateway, "alice", 50)
        clients = [await stack.enter_async_context(gateway.connect()) for _ in range(300)]
        for client in clients:
            client.send(get(after=ids[9]))

        async def resumed(number: int) -> list[str | None]:
            head = await read_head(clients[number], STATUS_LINE)
            assert head.status == 200
            stream = Stream(clients[number], head)
            await stream.event()
            return [each.id for each in await stream.events(40)]

        for got in await gather_all(*(resumed(number) for number in range(300))):
            assert got == ids[10:]


async def test_a_reader_that_leaves_is_noticed_whether_it_closes_or_resets() -> None:
    async with start_gateway() as gateway:
        for number, end in enumerate(("close", "reset")):
            async with subscribe(gateway) as stream:
                getattr(stream.client, end)()
                await leave(gateway, number + 1)
        response = await gateway.ask(request(b"GET /metrics", host=LOCAL))
        assert b"gateway_sse_clients 0" in response.body


async def test_a_stream_survives_the_time_limits_of_ordinary_requests() -> None:
    environ = {"KEEPALIVE_TIMEOUT": 0.8, "CLIENT_HEAD_TIMEOUT": 0.8, "IDLE_TIMEOUT": 0.8}
    async with (
        start_gateway(**environ, STREAM_IDLE_TIMEOUT=0.8, HEARTBEAT_SECONDS=1.2) as gateway,
        raw_stream(gateway, get()) as stream,
    ):
        await stream.event()
        assert (await stream.event(heartbeats=True)).type == "heartbeat"
        assert (await stream.event(heartbeats=True)).type == "heartbeat"


async def test_a_process_that_is_told_to_end_sends_its_readers_away_and_exits_0(
    tmp_path: Path,
) -> None:
    with Running(STATE_DIR=str(tmp_path / "state"), DRAIN_SECONDS="3") as running:
        gateway = Remote(await asyncio.to_thread(running.port))
        async with subscribe(gateway) as one, subscribe(gateway, "bob") as two:
            running.send(signal.SIGTERM)
            for stream in (one, two):
                assert [each.type for each in await stream.rest()] == ["stream.closing"]
        code, _ = await asyncio.to_thread(running.end)
        assert code == 0
