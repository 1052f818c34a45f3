"""Several requests on one connection without waiting: each answered, in order, none invented."""

from __future__ import annotations

import asyncio

import pytest

from tests.wire import (
    Link,
    answer,
    assert_error,
    chunks,
    eventually,
    proxied,
    request,
    turn,
)


async def echo(link: Link) -> None:
    """Answers each request with its method, target and body."""
    while True:
        message = await link.request()
        link.send(answer(message.method + b" " + message.target + b" " + message.body))


async def test_many_requests_in_one_segment_are_answered_in_order() -> None:
    count = 50
    async with proxied(echo) as (gateway, upstream), gateway.connect() as client:
        client.send(b"".join(request(b"GET /api/v1/svc/%d" % n) for n in range(count)))
        for number in range(count):
            assert (await client.response()).body == b"GET /%d " % number
        assert len(upstream.requests) == count
        assert len(await gateway.records(count)) == count


async def test_requests_with_bodies_follow_each_other() -> None:
    data = [
        request(b"POST /api/v1/svc/a", body=b"one"),
        request(b"PUT /api/v1/svc/b", b"Transfer-Encoding: chunked") + chunks(b"tw", b"o"),
        request(b"GET /api/v1/svc/c"),
        request(b"POST /api/v1/svc/d", b"Transfer-Encoding: chunked")
        + chunks(b"four", trailers=(b"X-T: t",)),
        request(b"POST /api/v1/svc/e", body=b""),
    ]
    async with proxied(echo) as (gateway, _), gateway.connect() as client:
        client.send(b"".join(data))
        bodies = [(await client.response()).body for _ in data]
        assert bodies == [b"POST /a one", b"PUT /b two", b"GET /c ", b"POST /d four", b"POST /e "]


async def test_a_slow_answer_comes_before_a_quick_one() -> None:
    go = asyncio.Event()

    async def script(link: Link) -> None:
        while True:
            message = await link.request()
            if message.target == b"/slow":
                await go.wait()
            link.send(answer(message.target))

    async with proxied(script) as (gateway, upstream), gateway.connect() as client:
        client.send(request(b"GET /api/v1/svc/slow"), request(b"GET /api/v1/svc/quick"))
        await upstream.received_requests(1)
        await turn(20)
        assert client.count == 0
        go.set()
        assert (await client.response()).body == b"/slow"
        assert (await client.response()).body == b"/quick"


async def test_answers_of_the_gateway_and_of_services_keep_their_order() -> None:
    async with proxied() as (gateway, _), gateway.connect() as client:
        targets = [
            b"/health/live",
            b"/api/v1/svc/x",
            b"/nowhere",
            b"/api/v1/svc/y",
            b"/health/live",
        ]
        client.send(b"".join(request(b"GET " + target) for target in targets))
        statuses = [(await client.response()).status for _ in targets]
        assert statuses == [200, 200, 404, 200, 200]


async def test_head_between_gets_keeps_the_framing() -> None:
    async with proxied() as (gateway, _), gateway.connect() as client:
        client.send(b"".join(request(m + b" /health/live") for m in (b"GET", b"HEAD", b"GET")))
        first = await client.response(b"GET")
        second = await client.response(b"HEAD")
        third = await client.response(b"GET")
        assert (first.status, second.status, third.status) == (200, 200, 200)
        assert first.body == third.body


async def test_a_malformed_request_behind_good_ones_ends_the_connection_after_their_answers() -> (
    None
):
    async with proxied(echo) as (gateway, upstream), gateway.connect() as client:
        client.send(
            request(b"GET /api/v1/svc/1"),
            request(b"GET /api/v1/svc/2"),
            b"GET /api/v1/svc/bad HTTP/1.1\r\nNo colon\r\n\r\n",
            request(b"GET /api/v1/svc/3"),
        )
        assert (await client.response()).body == b"GET /1 "
        assert (await client.response()).body == b"GET /2 "
        assert_error(await client.response(), 400, "BAD_REQUEST")
        await client.closed()
        assert client.unread == b""
        assert [r.target for r in upstream.requests] == [b"/1", b"/2"]


async def test_a_refused_request_with_a_body_does_not_confuse_the_next() -> None:
    inner = request(b"GET /api/v1/svc/inner")
    async with proxied(echo) as (gateway, upstream), gateway.connect() as client:
        client.send(request(b"POST /nowhere", body=inner), request(b"GET /api/v1/svc/next"))
        response = await client.response()
        assert_error(response, 404, "NOT_FOUND")
        if b"close" in response.tokens("connection"):
            await client.closed()
            assert client.unread == b""
        else:
            assert (await client.response()).body == b"GET /next "
        assert all(b"inner" not in r.target for r in upstream.requests)


async def test_an_empty_line_between_requests_invents_no_request() -> None:
    async with proxied(echo) as (gateway, upstream), gateway.connect() as client:
        client.send(request(b"POST /api/v1/svc/a", body=b"x"), b"\r\n")
        assert (await client.response()).body == b"POST /a x"
        client.send(request(b"GET /api/v1/svc/b"))
        response = await client.response()
        assert response.status in (200, 400)
        assert len(upstream.requests) <= 2


async def test_waiting_pipelined_bytes_are_bounded() -> None:
    async def silent(link: Link) -> None:
        await link.request()
        await link.closed()

    flood = request(b"GET /api/v1/svc/x", b"X-Fill: " + b"f" * 7000) * 9
    async with proxied(silent) as (gateway, upstream), gateway.connect() as client:
        client.send(request(b"GET /api/v1/svc/x"))
        await upstream.received_requests(1)
        offered = len(flood) * 600
        assert await client.push(flood, 600) < offered / 2
        client.reset()
        await upstream.links[0].closed()


@pytest.mark.parametrize("count", [2, 30])
async def test_a_client_that_leaves_behind_a_pipeline_leaves_nothing(count: int) -> None:
    async def silent(link: Link) -> None:
        await link.request()
        await link.closed()

    async with proxied(silent) as (gateway, upstream):
        async with gateway.connect() as client:
            client.send(request(b"GET /api/v1/svc/x") * count)
            await upstream.received_requests(1)
            client.reset()
        await eventually(lambda: not upstream.open_links, "the upstream connections to end")
        assert len(upstream.requests) <= count
