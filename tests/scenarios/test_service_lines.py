"""At most so many requests of a service at once: who waits, who is refused, who gives up."""

from __future__ import annotations

import asyncio

from tests.routed import Routed, books, hang, routed
from tests.wire import Link, answer, assert_error, eventually, request

GET = request(b"GET /r/x")
OK = answer(b"ok")
ONE = "max_requests = 1\nqueue = 1"


class Gate:
    """Answers a request with its target when it is let."""

    def __init__(self) -> None:
        self.leave = asyncio.Semaphore(0)

    async def __call__(self, link: Link) -> None:
        while True:
            message = await link.request()
            await self.leave.acquire()
            link.send(answer(message.target))


def line(at: Routed) -> tuple[int, int]:
    """Requests under way, and those in line."""
    found = at.context.lines["svc"]
    return found.active, found.waiting


async def test_more_wait_and_yet_more_are_refused() -> None:
    gate = Gate()
    async with routed(gate, service=ONE) as at:
        first = asyncio.create_task(at.ask(request(b"GET /r/1")))
        await at.upstreams[0].received_requests(1)
        second = asyncio.create_task(at.ask(request(b"GET /r/2")))
        await eventually(lambda: line(at) == (1, 1), "one in line")
        refused = await at.ask(request(b"GET /r/3"))
        assert_error(refused, 503, "OVERLOADED")
        assert refused.get("retry-after") == b"1"
        assert at.judged == (0, 0)
        assert at.asked == [1]
        gate.leave.release()
        assert (await first).body == b"/r/1"
        gate.leave.release()
        assert (await second).body == b"/r/2"
        assert at.asked == [2]
        assert len(at.upstreams[0].links) == 1


async def test_who_waits_too_long_is_told_so() -> None:
    async with routed(hang, service=ONE + "\nqueue_timeout = 0.1") as at, at.connect() as first:
        first.send(GET)
        await at.upstreams[0].received_requests(1)
        assert_error(await at.ask(GET), 503, "OVERLOADED")
        assert line(at) == (1, 0)


async def test_a_client_that_leaves_the_line_frees_its_place_there() -> None:
    gate = Gate()
    async with routed(gate, service=ONE) as at, at.connect() as leaving:
        first = asyncio.create_task(at.ask(GET))
        await at.upstreams[0].received_requests(1)
        leaving.send(GET)
        await eventually(lambda: line(at) == (1, 1), "one in line")
        leaving.reset()
        await eventually(lambda: line(at) == (1, 0), "an empty line")
        (record,) = await at.gateway.records(1)
        assert (record["status"], record["attempts"]) == (499, 0)
        gate.leave.release()
        assert (await first).status == 200
        assert at.asked == [1]


async def test_a_client_that_leaves_lets_the_next_one_in() -> None:
    async with routed(hang, service=ONE) as at, at.connect() as leaving:
        leaving.send(GET)
        await at.upstreams[0].received_requests(1)
        async with at.connect() as next_one:
            next_one.send(GET)
            await eventually(lambda: line(at) == (1, 1), "one in line")
            leaving.reset()
            await at.upstreams[0].received_requests(2)
            assert line(at) == (1, 0)


async def test_a_body_is_held_back_while_its_request_waits() -> None:
    gate = Gate()
    body = b"b" * 3_000_000
    async with routed(gate, service=ONE) as at, at.connect() as client:
        first = asyncio.create_task(at.ask(GET))
        await at.upstreams[0].received_requests(1)
        client.send(request(b"POST /r/x", b"Content-Length: %d" % len(body)), body)
        await eventually(lambda: line(at) == (1, 1), "one in line")
        held = [each.exchange for each in at.gateway.gateway._server.connections]
        assert all(exchange.bytes_in < 1_000_000 for exchange in held)
        gate.leave.release()
        gate.leave.release()
        assert (await first).status == 200
        assert (await client.response(b"POST")).status == 200
        assert at.upstreams[0].requests[1].body == body


async def test_a_stream_has_its_place_until_it_ends() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        link.send(b"Transfer-Encoding: chunked\r\n\r\n3\r\na\n\n\r\n")
        await leave.wait()
        link.send(b"0\r\n\r\n")

    leave = asyncio.Event()
    async with routed(script, service="max_requests = 1\nqueue = 0") as at, at.connect() as client:
        client.send(GET)
        await client.until(lambda: b"a\n\n" in client.received, "the stream")
        assert_error(await at.ask(GET), 503, "OVERLOADED")
        leave.set()
        await client.response()
        assert line(at) == (0, 0)


async def test_a_tunnel_has_its_place_until_it_ends() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
        link.send(b"Connection: Upgrade\r\n\r\n")
        await link.closed()
        link.close()

    ask = request(b"GET /r/x", b"Upgrade: websocket", b"Connection: Upgrade")
    async with routed(script, service="max_requests = 1\nqueue = 0") as at, at.connect() as client:
        assert (await client.ask(ask)).status == 101
        assert_error(await at.ask(GET), 503, "OVERLOADED")
        assert at.judged == (0, 0)
        client.close()
        await eventually(lambda: line(at) == (0, 0), "a free place")
        assert at.judged == (1, 0)


async def test_a_service_without_a_bound_has_no_line() -> None:
    async with routed(OK) as at:
        assert (await at.ask(GET)).status == 200
        assert at.context.lines == {}


async def test_a_line_of_requests_that_fail_at_once_is_worked_off() -> None:
    async with routed(hang, service="max_requests = 1\nqueue = 300") as at:
        tasks = [asyncio.create_task(at.ask(GET)) for _ in range(200)]
        await eventually(lambda: line(at) == (1, 199), "a long line")
        service = at.service
        for endpoint in service.endpoints:
            endpoint.state = "unhealthy"
        service.rotation.look(0.0)
        at.upstreams[0].links[0].reset()
        answers = await asyncio.gather(*tasks)
        assert sorted(each.status for each in answers) == [502] + [503] * 199
        assert books(at) == {}
