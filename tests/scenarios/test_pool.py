"""Connections to upstreams: reuse, last in first out, a cap with a line, the stale ones."""

from __future__ import annotations

import asyncio

import pytest

from tests.wire import (
    Link,
    RunningGateway,
    ScriptedUpstream,
    answer,
    assert_error,
    eventually,
    proxied,
    request,
)

GET = b"GET /api/v1/svc/x"


class Gate:
    """An upstream that answers each request only when it is let."""

    def __init__(self) -> None:
        self.leave = asyncio.Semaphore(0)

    async def __call__(self, link: Link) -> None:
        while True:
            message = await link.request()
            await self.leave.acquire()
            link.send(answer(message.target))

    def let(self, count: int = 1) -> None:
        """Lets so many requests be answered."""
        for _ in range(count):
            self.leave.release()


async def test_requests_one_after_the_other_share_one_connection() -> None:
    async with proxied() as (gateway, upstream):
        for _ in range(10):
            assert (await gateway.ask(request(GET))).status == 200
        assert len(upstream.links) == 1


async def test_requests_at_the_same_time_have_connections_of_their_own() -> None:
    gate = Gate()
    async with proxied(gate) as (gateway, upstream):
        tasks = [asyncio.create_task(gateway.ask(request(GET))) for _ in range(5)]
        await upstream.received_requests(5)
        assert len(upstream.links) == 5
        gate.let(5)
        assert [r.status for r in await asyncio.gather(*tasks)] == [200] * 5


async def test_the_connection_used_last_is_used_next() -> None:
    async def script(link: Link) -> None:
        while True:
            message = await link.request()
            await leave[message.target].wait()
            link.send(answer(message.target))

    leave = {name: asyncio.Event() for name in (b"/a", b"/b", b"/next")}
    async with proxied(script) as (gateway, upstream):
        first = asyncio.create_task(gateway.ask(request(b"GET /api/v1/svc/a")))
        await upstream.received_requests(1)
        second = asyncio.create_task(gateway.ask(request(b"GET /api/v1/svc/b")))
        await upstream.received_requests(2)
        leave[b"/b"].set()
        await second
        leave[b"/a"].set()
        await first
        leave[b"/next"].set()
        for _ in range(3):
            await gateway.ask(request(b"GET /api/v1/svc/next"))
        assert [len(link.requests) for link in upstream.links] == [4, 1]


async def test_nagle_is_off_towards_the_upstream() -> None:
    async with proxied() as (gateway, upstream), gateway.connect() as client:
        for _ in range(5):
            client.send(request(b"POST /api/v1/svc/x", b"Content-Length: 4"), b"ab")
            await upstream.link()
            client.send(b"cd")
            assert (await client.response()).status == 200


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    async with proxied(UPSTREAM_IDLE_TIMEOUT=0.3) as (gateway, upstream):
        await gateway.ask(request(GET))
        await upstream.links[0].closed()
        assert (await gateway.ask(request(GET))).status == 200
        assert len(upstream.links) == 2


async def test_no_more_connections_are_kept_idle_than_allowed() -> None:
    gate = Gate()
    async with proxied(gate, UPSTREAM_IDLE_CONNECTIONS=2) as (gateway, upstream):
        tasks = [asyncio.create_task(gateway.ask(request(GET))) for _ in range(5)]
        await upstream.received_requests(5)
        gate.let(5)
        await asyncio.gather(*tasks)
        await eventually(lambda: len(upstream.open_links) == 2, "three connections to close")


async def test_an_idle_connection_that_the_upstream_closes_is_let_go_and_costs_no_request() -> None:
    async with proxied() as (gateway, upstream):
        assert (await gateway.ask(request(GET))).status == 200
        upstream.links[0].end()
        await upstream.links[0].closed()
        data = request(b"POST /api/v1/svc/x", body=b"hello")
        assert (await gateway.ask(data)).status == 200
        assert [len(link.requests) for link in upstream.links] == [1, 1]


def breaks_on_reuse(how: str, fresh_too: bool = False, said: bytes = b"") -> object:
    """An upstream whose connections end when they are given their second request."""

    async def script(link: Link) -> None:
        first = link.upstream.links[0] is link
        message = await link.request()
        if first or not fresh_too:
            reply = answer(message.target)
            link.send(reply[: -len(message.target)] if message.method == b"HEAD" else reply)
            message = await link.request()
        if said:
            link.send(said)
            await link.flush()
        if how == "reset":
            link.reset()
        else:
            link.close()

    return script


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"])
async def test_an_idempotent_request_on_a_stale_connection_is_sent_once_more(
    method: bytes, how: str
) -> None:
    async with proxied(breaks_on_reuse(how)) as (gateway, upstream):  # type: ignore[arg-type]
        await gateway.ask(request(GET))
        body = b"hello" if method == b"PUT" else None
        response = await gateway.ask(request(method + b" /api/v1/svc/y", body=body))
        assert response.status == 200
        assert [r.target for r in upstream.requests] == [b"/x", b"/y", b"/y"]
        assert upstream.requests[1].body == upstream.requests[2].body == (body or b"")
        assert len(upstream.links) == 2
        records = await gateway.records(2)
        assert [record["attempts"] for record in records] == [1, 2]


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"LOCK"])
async def test_a_request_that_is_not_idempotent_is_never_sent_twice(
    method: bytes, how: str
) -> None:
    async with proxied(breaks_on_reuse(how)) as (gateway, upstream):  # type: ignore[arg-type]
        await gateway.ask(request(GET))
        response = await gateway.ask(request(method + b" /api/v1/svc/y", body=b"hello"))
        assert_error(response, 502, "PROXY_ERROR")
        assert [r.target for r in upstream.requests] == [b"/x", b"/y"]


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_request_is_sent_once_more_and_no_more_than_that(how: str) -> None:
    script = breaks_on_reuse(how, fresh_too=True)
    async with proxied(script) as (gateway, upstream):  # type: ignore[arg-type]
        await gateway.ask(request(GET))
        assert_error(await gateway.ask(request(b"GET /api/v1/svc/y")), 502, "PROXY_ERROR")
        assert [r.target for r in upstream.requests] == [b"/x", b"/y", b"/y"]


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_request_on_a_fresh_connection_is_not_sent_once_more(how: str) -> None:
    async def script(link: Link) -> None:
        await link.request()
        if how == "reset":
            link.reset()
        else:
            link.close()

    async with proxied(script) as (gateway, upstream):
        assert_error(await gateway.ask(request(GET)), 502, "PROXY_ERROR")
        assert len(upstream.requests) == 1


async def test_a_request_is_not_sent_once_more_when_an_answer_has_begun() -> None:
    script = breaks_on_reuse("end", said=b"HTTP/1.1 2")
    async with proxied(script) as (gateway, upstream):  # type: ignore[arg-type]
        await gateway.ask(request(GET))
        assert_error(await gateway.ask(request(b"GET /api/v1/svc/y")), 502, "PROXY_ERROR")
        assert [r.target for r in upstream.requests] == [b"/x", b"/y"]


async def test_a_body_too_large_to_keep_is_not_sent_once_more() -> None:
    async with proxied(breaks_on_reuse("end")) as (gateway, upstream):  # type: ignore[arg-type]
        await gateway.ask(request(GET))
        data = request(b"PUT /api/v1/svc/y", body=b"b" * 100_000)
        assert_error(await gateway.ask(data), 502, "PROXY_ERROR")
        assert [r.target for r in upstream.requests] == [b"/x", b"/y"]


async def test_all_idle_connections_may_be_stale_at_once() -> None:
    gate = Gate()

    async def script(link: Link) -> None:
        if len(link.upstream.links) > 3:
            await link.reply(answer(b"fresh"))
            return
        message = await link.request()
        await gate.leave.acquire()
        link.send(answer(message.target))
        await link.request()
        link.reset()

    async with proxied(script) as (gateway, upstream):
        tasks = [asyncio.create_task(gateway.ask(request(GET))) for _ in range(3)]
        await upstream.received_requests(3)
        gate.let(3)
        await asyncio.gather(*tasks)
        response = await gateway.ask(request(GET))
        assert response.body == b"fresh"


async def test_over_the_cap_requests_wait_in_line_and_are_served_in_turn() -> None:
    gate = Gate()
    environ = {"UPSTREAM_MAX_CONNECTIONS": 1, "UPSTREAM_QUEUE": 5}
    async with proxied(gate, **environ) as (gateway, upstream):
        tasks = []
        for number in range(4):
            data = request(b"GET /api/v1/svc/%d" % number)
            tasks.append(asyncio.create_task(gateway.ask(data)))
            await in_line(gateway, number)
        assert len(upstream.requests) == 1
        gate.let(4)
        answers = await asyncio.gather(*tasks)
        assert [r.body for r in answers] == [b"/0", b"/1", b"/2", b"/3"]
        assert [r.target for r in upstream.requests] == [b"/0", b"/1", b"/2", b"/3"]
        assert len(upstream.links) == 1


async def in_line(gateway: RunningGateway, count: int) -> None:
    """Waits until one request is under way and so many wait for its connection."""
    pools = gateway.gateway.context.pools
    await eventually(
        lambda: [(p.active, p.waiting) for p in pools.values() if p.active] == [(1, count)],
        f"{count} in line",
    )


async def test_when_the_line_is_full_the_next_is_refused_at_once() -> None:
    gate = Gate()
    environ = {"UPSTREAM_MAX_CONNECTIONS": 1, "UPSTREAM_QUEUE": 2, "UPSTREAM_QUEUE_TIMEOUT": 60}
    async with proxied(gate, **environ) as (gateway, upstream):
        tasks = [asyncio.create_task(gateway.ask(request(GET))) for _ in range(4)]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        assert_error(done.pop().result(), 503, "OVERLOADED")
        gate.let(3)
        statuses = sorted(r.status for r in await asyncio.gather(*tasks))
        assert statuses == [200, 200, 200, 503]
        assert len(upstream.requests) == 3


async def test_when_time_in_line_runs_out_the_request_is_refused() -> None:
    gate = Gate()
    environ = {"UPSTREAM_MAX_CONNECTIONS": 1, "UPSTREAM_QUEUE_TIMEOUT": 0.3}
    async with proxied(gate, **environ) as (gateway, upstream):
        first = asyncio.create_task(gateway.ask(request(GET)))
        await upstream.received_requests(1)
        assert_error(await gateway.ask(request(GET)), 503, "OVERLOADED")
        gate.let(2)
        assert (await first).status == 200
        assert (await gateway.ask(request(GET))).status == 200
        assert len(upstream.requests) == 2


async def test_a_client_that_leaves_the_line_is_never_served() -> None:
    gate = Gate()
    async with proxied(gate, UPSTREAM_MAX_CONNECTIONS=1) as (gateway, upstream):
        first = asyncio.create_task(gateway.ask(request(GET)))
        await upstream.received_requests(1)
        async with gateway.connect() as client:
            client.send(request(b"GET /api/v1/svc/gone"))
            await client.flush()
            await in_line(gateway, 1)
            client.reset()
        await gateway.records(1)
        gate.let(2)
        assert (await first).status == 200
        assert (await gateway.ask(request(b"GET /api/v1/svc/last"))).body == b"/last"
        assert [r.target for r in upstream.requests] == [b"/x", b"/last"]


async def test_a_failed_connection_frees_its_place_under_the_cap() -> None:
    async with proxied(
        [b"nonsense\r\n\r\n", b"nonsense\r\n\r\n", answer(b"good")], UPSTREAM_MAX_CONNECTIONS=1
    ) as (gateway, _):
        for _ in range(2):
            assert_error(await gateway.ask(request(GET)), 502, "PROXY_ERROR")
        assert (await gateway.ask(request(GET))).body == b"good"


async def test_each_endpoint_has_a_pool_of_its_own() -> None:
    async with ScriptedUpstream(answer(b"b")) as second, ScriptedUpstream(answer(b"a")) as first:
        urls = f"{first.url},{second.url}"
        async with proxied(SVC_URL=urls) as (gateway, _):
            for _ in range(6):
                await gateway.ask(request(GET))
        assert [len(first.links), len(second.links)] == [1, 1]
