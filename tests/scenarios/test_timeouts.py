"""Time-outs: each one ends what it is for, with its own answer, and none ends what is alive."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.connection import PATIENCE_SECONDS
from tests.wire import (
    Link,
    RawClient,
    TruncatedError,
    answer,
    assert_error,
    eventually,
    holds,
    proxied,
    request,
)

GET = b"GET /api/v1/svc/x"
POST = b"POST /api/v1/svc/x"
SHORT_SECONDS = 0.3
EVENT_STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


async def silent(link: Link) -> None:
    """Reads a request and says nothing."""
    await link.request()
    await link.closed()


async def drip(client: RawClient, byte: bytes, seconds: float) -> None:
    """Sends a byte every now and then until the connection ends."""
    while not client.ended:
        client.send(byte)
        with contextlib.suppress(TimeoutError):
            await client.closed(seconds)


async def test_an_upstream_that_does_not_answer_is_504_and_let_go() -> None:
    async with proxied(silent, HEAD_TIMEOUT=SHORT_SECONDS) as (gateway, upstream):
        assert_error(await gateway.ask(request(GET)), 504, "TIMEOUT")
        await upstream.links[0].closed()
        assert (await gateway.records())[0]["error_code"] == "TIMEOUT"


async def test_an_upstream_that_dribbles_its_head_is_504() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not link.ended:
            link.send(b"a")
            with contextlib.suppress(TimeoutError):
                await link.closed(SHORT_SECONDS / 4)

    async with proxied(script, HEAD_TIMEOUT=SHORT_SECONDS) as (gateway, _):
        assert_error(await gateway.ask(request(GET)), 504, "TIMEOUT")


async def test_a_hint_does_not_count_as_the_answer() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n")
        await link.closed()

    async with proxied(script, HEAD_TIMEOUT=SHORT_SECONDS) as (gateway, _):
        response = await gateway.ask(request(GET))
        assert [i.status for i in response.interim] == [103]
        assert_error(response, 504, "TIMEOUT")


async def test_a_slow_upload_is_not_the_upstreams_time_to_answer() -> None:
    async with (
        proxied(HEAD_TIMEOUT=SHORT_SECONDS * 3) as (gateway, _),
        gateway.connect() as client,
    ):
        client.send(request(POST, b"Content-Length: 4"))
        for _ in range(4):
            await holds(lambda: client.count == 0, SHORT_SECONDS)
            client.send(b"b")
        assert (await client.response()).status == 200


async def test_an_answer_that_stops_in_the_middle_is_cut_after_the_idle_time() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(answer(b"0123456789")[:-5])
        await link.closed()

    async with (
        proxied(script, IDLE_TIMEOUT=SHORT_SECONDS) as (gateway, upstream),
        gateway.connect() as client,
    ):
        with pytest.raises(TruncatedError):
            await client.ask(request(GET))
        await upstream.links[0].closed()


async def test_an_answer_that_keeps_coming_is_not_cut_by_the_idle_time() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(answer(b"0123456789")[:-10])
        for digit in b"0123456789":
            with contextlib.suppress(TimeoutError):
                await link.closed(SHORT_SECONDS / 3)
            link.send(bytes([digit]))

    async with proxied(script, IDLE_TIMEOUT=SHORT_SECONDS * 3) as (gateway, _):
        assert (await gateway.ask(request(GET))).body == b"0123456789"


async def test_a_quiet_event_stream_outlives_the_idle_time() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(EVENT_STREAM)
        await go.wait()
        link.send(b"3\r\n:\n\n\r\n0\r\n\r\n")

    go = asyncio.Event()
    async with (
        proxied(script, IDLE_TIMEOUT=SHORT_SECONDS) as (gateway, _),
        gateway.connect() as client,
    ):
        client.send(request(GET, b"Accept: text/event-stream"))
        await holds(lambda: not client.ended, SHORT_SECONDS * 5)
        go.set()
        assert (await client.response()).body == b":\n\n"


async def test_a_silent_event_stream_ends_after_the_idle_time_of_streams() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(EVENT_STREAM)
        await link.closed()

    environ = {"STREAM_IDLE_TIMEOUT": SHORT_SECONDS, "IDLE_TIMEOUT": SHORT_SECONDS}
    async with proxied(script, **environ) as (gateway, upstream), gateway.connect() as client:
        with pytest.raises(TruncatedError):
            await client.ask(request(GET))
        await upstream.links[0].closed()


async def test_a_client_that_begins_a_head_and_stops_is_408() -> None:
    async with (
        proxied(CLIENT_HEAD_TIMEOUT=SHORT_SECONDS) as (gateway, upstream),
        gateway.connect() as client,
    ):
        client.send(b"GET /api/v1/svc/x HTTP/1.1\r\nHos")
        assert_error(await client.response(), 408, "REQUEST_TIMEOUT")
        assert await client.closed() == "eof"
        assert upstream.links == []


async def test_a_client_that_dribbles_its_head_is_408() -> None:
    async with (
        proxied(CLIENT_HEAD_TIMEOUT=SHORT_SECONDS) as (gateway, upstream),
        gateway.connect() as client,
    ):
        client.send(b"GET /api/v1/svc/x HTTP/1.1\r\nX-Long: ")
        await drip(client, b"a", SHORT_SECONDS / 4)
        assert client.received.startswith(b"HTTP/1.1 408 ")
        assert upstream.links == []


async def test_a_client_that_says_nothing_is_closed() -> None:
    environ = {"CLIENT_HEAD_TIMEOUT": SHORT_SECONDS, "KEEPALIVE_TIMEOUT": SHORT_SECONDS}
    async with proxied(**environ) as (gateway, _), gateway.connect() as client:
        await client.closed()


async def test_an_idle_kept_alive_connection_is_closed_without_a_word() -> None:
    async with (
        proxied(KEEPALIVE_TIMEOUT=SHORT_SECONDS) as (gateway, _),
        gateway.connect() as client,
    ):
        assert (await client.ask(request(GET))).status == 200
        assert await client.closed() == "eof"
        assert client.unread == b""


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
async def test_empty_lines_do_not_keep_a_connection_alive(used: bool) -> None:
    environ = {"CLIENT_HEAD_TIMEOUT": SHORT_SECONDS, "KEEPALIVE_TIMEOUT": SHORT_SECONDS}
    async with proxied(**environ) as (gateway, _), gateway.connect() as client:
        if used:
            assert (await client.ask(request(GET))).status == 200
        async with asyncio.timeout(PATIENCE_SECONDS):
            await drip(client, b"\r\n", SHORT_SECONDS / 4)


async def test_keep_alive_time_does_not_run_while_a_request_is_answered() -> None:
    async def script(link: Link) -> None:
        await link.request()
        await holds(lambda: not link.ended, SHORT_SECONDS * 5)
        link.send(answer(b"late"))

    environ = {"CLIENT_HEAD_TIMEOUT": SHORT_SECONDS * 3, "KEEPALIVE_TIMEOUT": SHORT_SECONDS * 3}
    async with proxied(script, **environ) as (gateway, _):
        assert (await gateway.ask(request(GET))).body == b"late"


async def test_a_body_slower_than_the_least_rate_is_408() -> None:
    async with (
        proxied(MIN_BODY_RATE=1_000_000) as (gateway, upstream),
        gateway.connect() as client,
    ):
        client.send(request(POST, b"Content-Length: 100000"))
        dripping = asyncio.create_task(drip(client, b"b", 0.3))
        await eventually(lambda: client.count, "the answer")
        assert_error(await client.response(), 408, "REQUEST_TIMEOUT")
        await client.closed()
        await dripping
        await upstream.links[0].closed()
        assert len(upstream.requests[0].body) < 1000


async def test_a_client_that_takes_nothing_of_its_answer_is_given_up() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n")
        await link.push(b"d" * 65536, 1024)
        await link.closed()

    async with (
        proxied(script, IDLE_TIMEOUT=SHORT_SECONDS * 2) as (gateway, upstream),
        gateway.connect(held=True, receive_buffer_bytes=65536) as client,
    ):
        client.send(request(GET))
        await (await upstream.link()).closed()
