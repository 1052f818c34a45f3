"""What breaker and endpoints are told of each request, and that each is told once."""

from __future__ import annotations

import asyncio

import pytest

from tests.routed import books, hang, routed
from tests.wire import (
    Link,
    TruncatedError,
    answer,
    assert_error,
    closed_port,
    eventually,
    request,
)

GET = request(b"GET /r/x")
OK = answer(b"ok")
QUICK = "breaker_failures = 1\nbreaker_seconds = 60\nbreaker_rate = 0.01\noutlier = 'off'"


async def reset(link: Link) -> None:
    """Takes a request and ends the connection by a reset."""
    await link.request()
    link.reset()


@pytest.mark.parametrize(
    ("status", "judged"),
    [(200, (1, 0)), (304, (1, 0)), (404, (1, 0)), (429, (1, 0)), (500, (1, 1)), (503, (1, 1))],
)
async def test_a_status_of_500_and_above_is_a_failure(status: int, judged: tuple[int, int]) -> None:
    async with routed(answer(b"", status=b"%d X" % status)) as at:
        assert (await at.ask(GET)).status == status
        assert at.judged == judged
        assert [each.failures for each in at.service.endpoints] == [judged[1]]


@pytest.mark.parametrize("status", [501, 505])
async def test_what_a_client_can_ask_for_says_nothing_of_the_service(status: int) -> None:
    async with routed(answer(b"", status=b"%d X" % status)) as at:
        assert (await at.ask(request(b"PROPFIND /r/x"))).status == status
        assert at.judged == (0, 0)
        assert [each.failures for each in at.service.endpoints] == [0]


async def test_a_client_that_keeps_its_body_to_itself_says_nothing_either() -> None:
    async with routed(hang, row="head_timeout = 0.1") as at, at.connect() as client:
        client.send(request(b"POST /r/x", b"Content-Length: 5", b"Expect: 100-continue"))
        assert_error(await client.response(b"POST"), 504, "TIMEOUT")
        assert at.judged == (0, 0)
        assert [each.failures for each in at.service.endpoints] == [0]


async def test_a_connection_that_does_not_come_about_is_a_failure() -> None:
    with closed_port() as port:
        async with routed(SVC_URL=f"http://127.0.0.1:{port}") as at:
            assert_error(await at.ask(GET), 503, "SERVICE_UNAVAILABLE")
            assert at.judged == (1, 1)


async def test_no_answer_and_a_time_out_are_failures() -> None:
    async with routed(reset) as at:
        assert_error(await at.ask(GET), 502, "PROXY_ERROR")
        assert at.judged == (1, 1)
    async with routed(hang, row="head_timeout = 0.1") as at:
        assert_error(await at.ask(GET), 504, "TIMEOUT")
        assert at.judged == (1, 1)


async def test_a_stream_is_judged_at_its_end() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await leave.wait()
        link.reset()

    leave = asyncio.Event()
    async with routed(script) as at, at.connect() as client:
        client.send(GET)
        await client.until(lambda: b"\r\na\r\n" in client.received, "the first chunk")
        assert at.judged == (0, 0)
        leave.set()
        with pytest.raises(TruncatedError):
            await client.response()
        await at.gateway.records(1)
        assert at.judged == (1, 1)


async def test_a_client_that_leaves_says_nothing_of_the_service() -> None:
    async with routed(hang) as at, at.connect() as client:
        client.send(GET)
        await at.upstreams[0].received_requests(1)
        client.reset()
        await at.gateway.records(1)
        assert at.judged == (0, 0)
        assert [each.failures for each in at.service.endpoints] == [0]


async def test_neither_does_a_body_that_is_too_large_nor_one_that_is_no_body() -> None:
    async with routed(hang, row="max_body_bytes = 10") as at, at.connect() as client:
        client.send(request(b"POST /r/x", b"Transfer-Encoding: chunked"), b"5\r\nhello\r\n")
        await at.upstreams[0].received_requests(0)
        await at.upstreams[0].link()
        client.send(b"9\r\nand more.\r\n")
        assert_error(await client.response(b"POST"), 413, "PAYLOAD_TOO_LARGE")
        assert at.judged == (0, 0)
    async with routed(hang) as at, at.connect() as client:
        client.send(request(b"POST /r/x", b"Transfer-Encoding: chunked"), b"5\r\nhello\r\n")
        await at.upstreams[0].link()
        client.send(b"xyz\r\n")
        assert_error(await client.response(b"POST"), 400, "BAD_REQUEST")
        assert at.judged == (0, 0)


async def test_an_open_breaker_answers_at_once_and_asks_nobody() -> None:
    async with routed(answer(b"", status=b"500 X"), service=QUICK + "\nmax_requests = 1") as at:
        at.service.breaker.force_open()
        response = await at.ask(GET)
        error = assert_error(response, 503, "CIRCUIT_BREAKER_OPEN")
        assert response.get("retry-after") == b"%d" % error["retry_after"]
        assert at.asked == [0]


async def test_a_probe_that_succeeds_closes_the_breaker_in_the_end() -> None:
    async with routed([answer(b"", status=b"500 X"), OK, OK, OK], service=QUICK) as at:
        assert (await at.ask(GET)).status == 500
        assert_error(await at.ask(GET), 503, "CIRCUIT_BREAKER_OPEN")
        at.half_open()
        for _ in range(3):
            assert (await at.ask(GET)).status == 200
        assert at.service.breaker.state == "closed"


async def test_probes_that_are_lost_with_their_clients_free_their_places() -> None:
    async with routed([answer(b"", status=b"500 X")], service=QUICK) as at:
        assert (await at.ask(GET)).status == 500
        at.half_open()
        for round_ in range(1, 4):
            clients = [at.connect() for _ in range(3)]
            opened = [await client.__aenter__() for client in clients]
            for client in opened:
                client.send(GET)
            await at.upstreams[0].received_requests(1 + 3 * round_)
            assert_error(await at.ask(GET), 503, "CIRCUIT_BREAKER_OPEN")
            for client in opened:
                client.reset()
            await eventually(lambda: not books(at), "free places")
            for client in clients:
                await client.__aexit__(None, None, None)
        assert at.service.breaker.state == "half_open"


async def test_a_probe_whose_client_sends_slowly_gives_its_place_back_and_goes_on() -> None:
    async with routed([answer(b"", status=b"500 X"), OK, OK], service=QUICK) as at:
        assert (await at.ask(GET)).status == 500
        at.half_open()
        async with at.connect() as first, at.connect() as second, at.connect() as third:
            slow = (first, second, third)
            for client in slow:
                client.send(request(b"POST /r/x", b"Content-Length: 5"), b"h")
            await eventually(lambda: books(at).get("places of probes") == 3, "three probes")
            assert_error(await at.ask(GET), 503, "CIRCUIT_BREAKER_OPEN")
            await eventually(lambda: "places of probes" not in books(at), "free places")
            first.send(b"ello")
            assert (await first.response(b"POST")).status == 200
            assert at.service.breaker._good == 0
            assert (await at.ask(GET)).status == 200
            assert at.service.breaker._good == 1


async def test_a_probe_whose_body_comes_in_time_stays_one() -> None:
    async with (
        routed([answer(b"", status=b"500 X"), OK], service=QUICK) as at,
        at.connect() as client,
    ):
        assert (await at.ask(GET)).status == 500
        at.half_open()
        client.send(request(b"POST /r/x", b"Content-Length: 5"), b"h")
        await eventually(lambda: books(at).get("places of probes") == 1, "the probe")
        client.send(b"ello")
        assert (await client.response(b"POST")).status == 200
        assert at.service.breaker._good == 1


@pytest.mark.parametrize("row", ["max_body_bytes = 10", ""])
async def test_probes_that_are_refused_after_all_free_their_places(row: str) -> None:
    service = QUICK + "\nmax_requests = 1\nqueue = 0"
    async with routed([answer(b"", status=b"500 X")], row=row, service=service) as at:
        assert (await at.ask(GET)).status == 500
        at.half_open()
        large = request(b"POST /r/x", body=b"b" * 100)
        if row:
            for _ in range(5):
                assert_error(await at.ask(large), 413, "PAYLOAD_TOO_LARGE")
            return
        async with at.connect() as first:
            first.send(GET)
            await at.upstreams[0].received_requests(2)
            for _ in range(5):
                assert_error(await at.ask(large), 503, "OVERLOADED")


async def test_a_probe_that_becomes_a_tunnel_is_settled_at_its_end() -> None:
    async def script(link: Link) -> None:
        while not (await link.request()).all("upgrade"):
            link.send(answer(b"", status=b"500 X"))
        link.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
        link.send(b"Connection: Upgrade\r\n\r\n")
        await link.closed()
        link.close()

    ask = request(b"GET /r/x", b"Upgrade: websocket", b"Connection: Upgrade")
    async with routed(script, service=QUICK) as at, at.connect() as client:
        assert (await at.ask(GET)).status == 500
        at.half_open()
        assert (await client.ask(ask)).status == 101
        assert books(at)["places of probes"] == 1
        client.close()
        await eventually(lambda: not books(at), "a free place")


async def test_no_endpoint_that_takes_requests_is_503_and_says_nothing_of_the_service() -> None:
    async with routed(OK) as at:
        service = at.service
        service.endpoints[0].state = "unhealthy"
        service.rotation.look(0.0)
        response = await at.ask(GET)
        assert_error(response, 503, "SERVICE_UNAVAILABLE")
        assert response.get("retry-after") == b"1"
        assert at.judged == (0, 0)
        (record,) = await at.gateway.records(1)
        assert (record["endpoint"], record["attempts"]) == (None, 0)


async def test_an_endpoint_without_a_pool_is_none() -> None:
    async with routed(OK) as at:
        pool = at.context.pools.pop(at.service.endpoints[0].key)
        assert_error(await at.ask(GET), 503, "SERVICE_UNAVAILABLE")
        at.context.pools[at.service.endpoints[0].key] = pool
        assert (await at.ask(GET)).status == 200
