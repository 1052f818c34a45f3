"""Retries of a route: after which failures, with which requests, how often, and what the client
sees of them. Stale connections, which need no route's leave, are in `test_pool`.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.routed import books, hang, routed
from tests.wire import (
    Link,
    ScriptedUpstream,
    TruncatedError,
    answer,
    assert_error,
    closed_port,
    eventually,
    holds,
    request,
)

GET = request(b"GET /r/x")
POST = request(b"POST /r/x", body=b"hello")
OK = answer(b"ok")
BUSY = answer(b"busy", status=b"503 Service Unavailable")
ALL = "retries = { attempts = 3, on = ['connect', 'reset', '502', '503', '504'] }"
UNSAFE = ALL.replace(" }", ", unsafe = true }")


async def reset(link: Link) -> None:
    """Takes a request and ends the connection by a reset."""
    await link.request()
    link.reset()


async def end(link: Link) -> None:
    """Takes a request and ends the connection in order."""
    await link.request()
    link.close()


async def nonsense(link: Link) -> None:
    """Answers what is no HTTP."""
    await link.request()
    link.send(b"SSH-2.0-x\r\n\r\n")


def status(code: int) -> bytes:
    """An answer with this status."""
    return answer(b"%d" % code, status=b"%d Odd" % code)


FAILING = {
    "a reset": reset,
    "an end without an answer": end,
    "no HTTP": nonsense,
    "502": status(502),
    "503": status(503),
    "504": status(504),
}


@pytest.mark.parametrize("script", FAILING.values(), ids=FAILING.keys())
async def test_a_failure_that_the_row_names_is_tried_again_at_another_endpoint(
    script: object,
) -> None:
    async with routed(script, OK, row=ALL) as at:
        response = await at.ask(GET)
        assert (response.status, response.body) == (200, b"ok")
        assert response.get("x-gateway-attempts") == b"2"
        assert at.asked == [1, 1]
        (record,) = await at.gateway.records(1)
        assert record["attempts"] == 2
        assert record["endpoint"] == at.upstreams[1].url
        assert at.judged == (1, 0)
        assert [each.failures for each in at.service.endpoints] == [1, 0]


async def test_an_endpoint_that_refuses_is_left_for_another() -> None:
    with closed_port() as port:
        async with (
            ScriptedUpstream(OK) as good,
            routed(row=ALL, SVC_URL=f"http://127.0.0.1:{port},{good.url}") as at,
        ):
            for method in (GET, POST):  # nothing of either was written
                response = await at.ask(method)
                assert (response.status, response.get("x-gateway-attempts")) == (200, b"2")
                await at.ask(GET)  # the other one's turn
            assert at.judged == (4, 0)


@pytest.mark.parametrize("script", FAILING.values(), ids=FAILING.keys())
async def test_a_failure_that_the_row_does_not_name_is_the_answer(script: object) -> None:
    async with routed(script, OK, row="retries = { on = ['connect'] }") as at:
        response = await at.ask(GET)
        assert response.status >= 500
        assert response.get("x-gateway-attempts") == b"1"
        assert at.asked == [1, 0]
        assert at.judged == (1, 1)


async def test_without_retries_nothing_is_tried_again_and_nothing_said_of_attempts() -> None:
    async with routed(BUSY, OK) as at:
        response = await at.ask(GET)
        assert response.status == 503
        assert response.all("x-gateway-attempts") == []
        assert at.asked == [1, 0]


async def test_a_row_with_retries_says_so_also_when_one_attempt_was_enough() -> None:
    async with routed(OK, row=ALL) as at:
        assert (await at.ask(GET)).get("x-gateway-attempts") == b"1"


async def test_an_upstream_that_counts_attempts_of_its_own_is_not_believed() -> None:
    async with routed(answer(b"ok", b"X-Gateway-Attempts: 9")) as at:
        assert (await at.ask(GET)).all("x-gateway-attempts") == []


async def test_the_last_attempts_own_answer_passes() -> None:
    async with routed(
        [status(502), status(503)], row="retries = { attempts = 2, on = ['502', '503'] }"
    ) as at:
        response = await at.ask(GET)
        assert (response.status, response.body) == (503, b"503")
        assert response.get("x-gateway-attempts") == b"2"
        assert at.judged == (1, 1)
        (record,) = await at.gateway.records(1)
        assert record["error_code"] is None


async def test_the_last_attempts_own_failure_is_what_the_client_is_told() -> None:
    async with routed(reset, row=ALL) as at:
        response = await at.ask(GET)
        assert_error(response, 502, "PROXY_ERROR")
        assert response.get("x-gateway-attempts") == b"3"
        assert len(at.upstreams[0].links) == 3
        assert at.judged == (1, 1)


async def test_an_answer_that_was_read_away_leaves_its_connection_open() -> None:
    async with routed([BUSY, OK], row=ALL) as at:
        assert (await at.ask(GET)).status == 200
        # The endpoint is the same one, so the second attempt is on a connection of its own.
        assert [len(link.requests) for link in at.upstreams[0].links] == [1, 1]
        assert len(at.upstreams[0].open_links) == 2


async def test_an_answer_that_was_not_read_costs_its_connection() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 100000\r\n\r\nbusy")
        await link.closed()

    async with routed(script, OK, row=ALL) as at:
        response = await at.ask(GET)
        assert (response.status, response.body) == (200, b"ok")
        await at.upstreams[0].links[0].closed()


@pytest.mark.parametrize("script", FAILING.values(), ids=FAILING.keys())
async def test_a_post_that_has_left_is_sent_again_only_if_the_row_says_so(script: object) -> None:
    async with routed(script, OK, row=ALL) as at:
        response = await at.ask(POST)
        assert response.status >= 500
        assert response.get("x-gateway-attempts") == b"1"
        assert at.asked == [1, 0]
    async with routed(script, OK, row=UNSAFE) as at:
        response = await at.ask(POST)
        assert response.status == 200
        assert at.upstreams[1].requests[0].body == b"hello"


@pytest.mark.parametrize("size_bytes", [1, 60_000, 65_536])
async def test_a_body_of_up_to_64_kib_is_sent_again_as_it_was(size_bytes: int) -> None:
    body = bytes(at % 251 for at in range(size_bytes))
    async with routed(reset, OK, row=ALL) as at:
        assert (await at.ask(request(b"PUT /r/x", body=body))).status == 200
        assert at.upstreams[1].requests[0].body == body


async def test_a_larger_body_that_was_sent_is_not_kept() -> None:
    async with routed(reset, OK, row=ALL) as at:
        response = await at.ask(request(b"PUT /r/x", body=b"b" * 65_537))
        assert_error(response, 502, "PROXY_ERROR")
        assert at.asked == [1, 0]


async def test_a_larger_body_that_found_no_connection_yet_goes_to_the_next_endpoint() -> None:
    body = b"b" * 200_000
    with closed_port() as port:
        async with (
            ScriptedUpstream(OK) as good,
            routed(row=ALL, SVC_URL=f"http://127.0.0.1:{port},{good.url}") as at,
        ):
            assert (await at.ask(request(b"POST /r/x", body=body))).status == 200
            assert good.requests[0].body == body


async def test_a_chunked_body_with_trailers_is_sent_again_whole() -> None:
    async with routed(reset, OK, row=ALL) as at:
        head = request(b"PUT /r/x", b"Transfer-Encoding: chunked", b"Trailer: X-Sum")
        async with at.connect() as client:
            client.send(head, b"5\r\nhello\r\n", b"0\r\nX-Sum: 1\r\n\r\n")
            assert (await client.response()).status == 200
        seen = at.upstreams[1].requests[0]
        assert (seen.body, seen.trailers) == (b"hello", [(b"X-Sum", b"1")])


async def test_an_upload_that_still_runs_goes_on_at_the_next_endpoint() -> None:
    async def script(link: Link) -> None:
        await link.head()
        await link.exactly(5)
        link.reset()

    async with routed(script, OK, row=ALL) as at, at.connect() as client:
        client.send(request(b"PUT /r/x", b"Content-Length: 10"), b"first")
        await at.upstreams[0].received_requests(1)
        await eventually(lambda: at.upstreams[1].received, "the second attempt")
        client.send(b"after")
        assert (await client.response(b"PUT")).status == 200
        assert at.upstreams[1].requests[0].body == b"firstafter"


async def test_nothing_is_sent_again_once_a_byte_went_to_the_client() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await client.until(lambda: b"half" in client.received, "the first half")
        link.reset()

    async with routed(script, OK, row=ALL) as at, at.connect() as client:
        with pytest.raises(TruncatedError):
            await client.ask(GET)
        assert at.asked == [1, 0]
        await at.gateway.records(1)
        assert at.judged == (1, 1)


async def test_an_early_hint_that_passed_is_such_a_byte() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await client.until(lambda: b"103" in client.received, "the hint")
        link.reset()

    async with routed(script, OK, row=ALL) as at, at.connect() as client:
        response = await client.ask(GET)
        assert_error(response, 502, "PROXY_ERROR")
        assert at.asked == [1, 0]


async def test_an_attempt_has_a_time_of_its_own() -> None:
    row = "retries = { attempts = 2, on = ['504'], try_timeout = 1 }"
    async with routed(hang, OK, row=row) as at:
        response = await at.ask(GET)
        assert (response.status, response.get("x-gateway-attempts")) == (200, b"2")
        await at.upstreams[0].links[0].closed()
        assert [each.failures for each in at.service.endpoints] == [1, 0]


async def test_the_last_attempts_time_is_a_time_out() -> None:
    row = "retries = { attempts = 2, on = ['504'], try_timeout = 0.1 }"
    async with routed(hang, row=row) as at:
        response = await at.ask(GET)
        assert_error(response, 504, "TIMEOUT")
        assert response.get("x-gateway-attempts") == b"2"


async def test_the_time_of_an_attempt_begins_when_the_client_has_sent_all() -> None:
    row = "retries = { attempts = 2, on = ['504'], try_timeout = 0.8 }"
    async with routed(OK, row=row) as at, at.connect() as client:
        client.send(request(b"PUT /r/x", b"Content-Length: 10"), b"first")
        await at.upstreams[0].link()
        await holds(lambda: len(at.upstreams[0].links) == 1, 1.0)
        client.send(b"after")
        assert (await client.response(b"PUT")).get("x-gateway-attempts") == b"1"


async def test_an_answer_in_time_may_take_longer_for_its_body() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        await holds(lambda: not link.ended, 1.0)
        link.send(b"k")

    row = "retries = { attempts = 2, on = ['504'], try_timeout = 0.8 }"
    async with routed(script, row=row) as at:
        assert (await at.ask(GET)).body == b"ok"


@pytest.mark.parametrize("value", [b"3", b"120", b"Fri, 31 Dec 2100 23:59:59 GMT"])
async def test_an_upstream_that_asks_for_more_patience_than_a_proxy_has_is_passed_on(
    value: bytes,
) -> None:
    busy = answer(b"busy", b"Retry-After: " + value, status=b"503 Busy")
    async with routed(busy, OK, row=ALL) as at:
        response = await at.ask(GET)
        assert (response.status, response.get("retry-after")) == (503, value)
        assert response.get("x-gateway-attempts") == b"1"


async def test_a_short_retry_after_is_waited_for() -> None:
    times = []

    async def busy(link: Link) -> None:
        await link.request()
        times.append(time.monotonic())
        link.send(answer(b"busy", b"Retry-After: 1", status=b"503 Busy"))

    async def well(link: Link) -> None:
        await link.request()
        times.append(time.monotonic())
        link.send(OK)

    async with routed(busy, well, row=ALL) as at:
        assert (await at.ask(GET)).status == 200
        # A loop's timer may be a millisecond early.
        assert times[1] - times[0] > 0.99


async def test_retries_of_all_requests_share_a_budget() -> None:
    together, leave = asyncio.Semaphore(0), asyncio.Event()

    async def script(link: Link) -> None:
        await link.request()
        if len(at.upstreams[0].requests) <= 8:
            if len(at.upstreams[0].requests) == 8:
                for _ in range(8):
                    together.release()
            await together.acquire()
            link.send(BUSY)
            return
        await leave.wait()
        link.send(OK)

    async with routed(script, row=ALL) as at:
        tasks = [asyncio.create_task(at.ask(GET)) for _ in range(8)]
        await at.upstreams[0].received_requests(8 + 3)
        await eventually(lambda: sum(task.done() for task in tasks) == 5, "five that are refused")
        assert at.service.budget.retries == 3
        leave.set()
        statuses = sorted([(await task).status for task in tasks])
        assert statuses == [200] * 3 + [503] * 5


async def test_a_client_that_leaves_while_the_next_attempt_is_waited_for_ends_it() -> None:
    busy = answer(b"busy", b"Retry-After: 2", status=b"503 Busy")
    async with routed(busy, OK, row=ALL) as at, at.connect() as client:
        client.send(GET)
        await at.upstreams[0].received_requests(1)
        await eventually(lambda: at.service.budget.retries, "the wait")
        client.reset()
        (record,) = await at.gateway.records(1)
        assert (record["status"], record["attempts"]) == (499, 1)
        assert books(at) == {}
        assert at.judged == (0, 0)


async def test_a_client_that_leaves_during_the_second_attempt_ends_it() -> None:
    async with routed(reset, hang, row=ALL) as at, at.connect() as client:
        client.send(GET)
        link = await at.upstreams[1].link()
        await at.upstreams[1].received_requests(1)
        client.reset()
        await link.closed()
        (record,) = await at.gateway.records(1)
        assert (record["status"], record["attempts"]) == (499, 2)
        assert [each.failures for each in at.service.endpoints] == [1, 0]


async def test_a_full_pool_is_no_failure_of_the_endpoint_and_not_tried_again() -> None:
    service = "max_connections = 1"
    async with (
        routed(hang, row=ALL, service=service, UPSTREAM_QUEUE=0) as at,
        at.connect() as first,
    ):
        first.send(GET)
        await at.upstreams[0].received_requests(1)
        response = await at.ask(GET)
        assert_error(response, 503, "OVERLOADED")
        assert at.judged == (0, 0)


async def test_an_upgrade_that_no_endpoint_answers_is_asked_of_the_next() -> None:
    switching = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    )
    ask = request(b"GET /r/x", b"Upgrade: websocket", b"Connection: Upgrade")
    async with routed(reset, switching, row=ALL) as at, at.connect() as client:
        response = await client.ask(ask)
        assert (response.status, response.get("x-gateway-attempts")) == (101, b"2")
        assert books(at)["requests at endpoints"] == [1]
        client.close()


async def test_the_replay_on_a_stale_connection_is_none_of_the_rows_attempts() -> None:
    async def script(link: Link) -> None:
        at_ = len(at.upstreams[0].links)
        await link.request()
        link.send(BUSY if at_ == 2 else OK)
        await link.request()
        link.close()

    row = "retries = { attempts = 2, on = ['503'] }"
    async with routed(script, row=row) as at:
        assert (await at.ask(GET)).status == 200
        response = await at.ask(GET)  # stale, then 503, then well
        assert (response.status, response.get("x-gateway-attempts")) == (200, b"3")
        assert len(at.upstreams[0].links) == 3


async def test_a_probe_of_the_breaker_is_one_request_and_no_more() -> None:
    service = "breaker_failures = 1\nbreaker_seconds = 60\nbreaker_rate = 0.01"
    row = "retries = { attempts = 5, on = ['503'] }\nhedge_after = 0.05"
    async with routed([answer(b"", status=b"500 X"), BUSY], hang, row=row, service=service) as at:
        assert (await at.ask(GET)).status == 500
        at.half_open()
        at.service.drain_endpoint(at.upstreams[1].url)
        response = await at.ask(GET)
        assert (response.status, response.get("x-gateway-attempts")) == (503, b"1")
        assert at.service.breaker.state == "open"


async def test_a_breaker_that_opened_meanwhile_ends_the_attempts() -> None:
    async def script(link: Link) -> None:
        await link.request()
        at.service.breaker.force_open()
        link.send(BUSY)

    async with routed(script, OK, row=ALL) as at:
        response = await at.ask(GET)
        assert (response.status, response.get("x-gateway-attempts")) == (503, b"1")


async def test_no_endpoint_after_the_wait_is_the_end_of_a_failed_request() -> None:
    busy = answer(b"busy", b"Retry-After: 2", status=b"503 Busy")
    async with routed(busy, row=ALL) as at, at.connect() as client:
        client.send(GET)
        await eventually(lambda: at.service.budget.retries, "the wait")
        at.service.endpoints[0].state = "unhealthy"
        at.service.rotation.look(0.0)
        assert_error(await client.response(), 503, "SERVICE_UNAVAILABLE")
        assert at.judged == (1, 1)
