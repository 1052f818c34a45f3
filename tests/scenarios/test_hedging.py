"""Hedging: a second attempt beside one that is slow, and who wins."""

from __future__ import annotations

import asyncio

from tests.routed import books, hang, routed
from tests.wire import Link, answer, assert_error, eventually, holds, request

GET = request(b"GET /r/x")
OK = answer(b"ok")
HEDGED = "hedge_after = 0.05"


async def test_a_slow_endpoint_is_overtaken_and_let_go_uncounted() -> None:
    async with routed(hang, OK, row=HEDGED) as at:
        response = await at.ask(GET)
        assert (response.body, response.get("x-gateway-attempts")) == (b"ok", b"2")
        await at.upstreams[0].links[0].closed()
        (record,) = await at.gateway.records(1)
        assert (record["endpoint"], record["attempts"]) == (at.upstreams[1].url, 2)
        assert [each.failures for each in at.service.endpoints] == [0, 0]
        assert at.judged == (1, 0)


async def test_the_first_attempt_may_still_win() -> None:
    async def slow(link: Link) -> None:
        await link.request()
        await at.upstreams[1].received_requests(1)
        link.send(answer(b"first"))

    async with routed(slow, hang, row=HEDGED) as at:
        response = await at.ask(GET)
        assert (response.body, response.get("x-gateway-attempts")) == (b"first", b"2")
        await at.upstreams[1].links[0].closed()
        (record,) = await at.gateway.records(1)
        assert record["endpoint"] == at.upstreams[0].url


async def test_an_answer_in_time_needs_no_second_attempt() -> None:
    async with routed(OK, OK, row="hedge_after = 30") as at:
        assert (await at.ask(GET)).get("x-gateway-attempts") == b"1"
        assert at.asked == [1, 0]


async def test_a_body_is_sent_to_both() -> None:
    async with routed(hang, OK, row=HEDGED) as at:
        assert (await at.ask(request(b"PUT /r/x", body=b"hello"))).status == 200
        assert [each.requests[0].body for each in at.upstreams] == [b"hello", b"hello"]


async def test_what_is_not_idempotent_or_too_large_or_not_whole_is_asked_once() -> None:
    async with routed(hang, OK, row=HEDGED) as at, at.connect() as client:
        client.send(request(b"POST /r/x", body=b"hello"))
        await at.upstreams[0].received_requests(1)
        await holds(lambda: not at.upstreams[1].links, 0.3)
    async with routed(hang, OK, row=HEDGED) as at, at.connect() as client:
        client.send(request(b"PUT /r/x", body=b"b" * 70_000))
        await at.upstreams[0].received_requests(1)
        await holds(lambda: not at.upstreams[1].links, 0.3)
    async with routed(hang, OK, row=HEDGED) as at, at.connect() as client:
        client.send(request(b"PUT /r/x", b"Content-Length: 10"), b"half")
        await at.upstreams[0].link()
        await holds(lambda: not at.upstreams[1].links, 0.3)
        client.send(b"-whole")  # from here on time counts
        assert (await client.response(b"PUT")).status == 200


async def test_an_upgrade_is_not_asked_twice() -> None:
    async with routed(hang, OK, row=HEDGED) as at, at.connect() as client:
        client.send(request(b"GET /r/x", b"Upgrade: websocket", b"Connection: Upgrade"))
        await at.upstreams[0].received_requests(1)
        await holds(lambda: not at.upstreams[1].links, 0.3)


async def test_a_single_endpoint_is_not_asked_twice() -> None:
    async with routed(hang, row=HEDGED) as at, at.connect() as client:
        client.send(GET)
        await at.upstreams[0].received_requests(1)
        await holds(lambda: len(at.upstreams[0].links) == 1, 0.3)


async def test_when_one_fails_the_other_goes_on() -> None:
    async def failing(link: Link) -> None:
        await link.request()
        await at.upstreams[1].received_requests(1)
        link.reset()

    async def slow(link: Link) -> None:
        await link.request()
        await at.upstreams[0].links[0].closed()
        link.send(OK)

    async with routed(failing, slow, row=HEDGED) as at:
        assert (await at.ask(GET)).body == b"ok"
        assert [each.failures for each in at.service.endpoints] == [1, 0]
        assert at.judged == (1, 0)


async def test_when_both_fail_the_client_is_told_of_the_last() -> None:
    async def failing(link: Link) -> None:
        await link.request()
        await at.upstreams[1].received_requests(1)
        link.reset()

    async def failing_later(link: Link) -> None:
        await link.request()
        await at.upstreams[0].links[0].closed()
        link.send(b"nonsense\r\n\r\n")

    async with routed(failing, failing_later, row=HEDGED) as at:
        response = await at.ask(GET)
        error = assert_error(response, 502, "PROXY_ERROR")
        assert "malformed" in error["message"]
        assert response.get("x-gateway-attempts") == b"2"
        assert [each.failures for each in at.service.endpoints] == [1, 1]
        assert at.judged == (1, 1)


async def test_a_refusal_that_would_be_retried_does_not_win_over_an_attempt_under_way() -> None:
    async def busy(link: Link) -> None:
        await link.request()
        await at.upstreams[1].received_requests(1)
        link.send(answer(b"busy", status=b"503 Busy"))

    async def slow(link: Link) -> None:
        await link.request()
        await eventually(lambda: at.service.endpoints[0].failures, "the first one's end")
        link.send(OK)

    row = HEDGED + "\nretries = { attempts = 2, on = ['503'] }"
    async with routed(busy, slow, row=row) as at:
        assert (await at.ask(GET)).body == b"ok"


async def test_a_failure_before_the_time_is_the_answer_where_nothing_is_retried() -> None:
    async def failing(link: Link) -> None:
        await link.request()
        link.reset()

    async with routed(failing, OK, row="hedge_after = 30") as at:
        assert_error(await at.ask(GET), 502, "PROXY_ERROR")
        assert at.asked == [1, 0]


async def test_hedging_and_retrying_share_the_budget() -> None:
    async with routed(hang, hang, row=HEDGED) as at:
        tasks = [asyncio.create_task(at.ask(GET)) for _ in range(6)]
        await eventually(lambda: sum(at.asked) == 6 + 3, "three second attempts")
        await holds(lambda: sum(at.asked) == 6 + 3, 0.3)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await at.gateway.records(6)
        await eventually(lambda: not books(at), "balanced books")


async def test_a_client_that_leaves_ends_both() -> None:
    async with routed(hang, hang, row=HEDGED) as at, at.connect() as client:
        client.send(GET)
        for upstream in at.upstreams:
            await upstream.received_requests(1)
        client.reset()
        for upstream in at.upstreams:
            await upstream.links[0].closed()
        (record,) = await at.gateway.records(1)
        assert (record["status"], record["attempts"]) == (499, 2)
        assert at.judged == (0, 0)


async def test_both_are_given_the_time_of_an_attempt() -> None:
    row = HEDGED + "\nretries = { attempts = 2, on = ['504'], try_timeout = 0.2 }"
    async with routed(hang, hang, row=row) as at:
        response = await at.ask(GET)
        assert_error(response, 504, "TIMEOUT")
        assert response.get("x-gateway-attempts") == b"2"
        assert [each.failures for each in at.service.endpoints] == [1, 1]


async def test_a_client_that_takes_nothing_stops_the_winner_whichever_it_is() -> None:
    """Its answers before this one fill the connection: neither attempt is read meanwhile."""

    async def first(link: Link) -> None:
        head = await link.request()
        if head.target == b"/r/large":
            link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 33554432\r\n\r\n")
            await link.push(b"d" * 65536, 512)
            head = await link.request()
        await link.closed(60)

    async def second(link: Link) -> None:
        await link.request()
        link.send(OK)

    async with routed(first, second, row=HEDGED) as at, at.connect(held=True) as client:
        client.send(request(b"GET /r/large") + GET)
        await at.upstreams[0].received_requests(1)
        client.release()
        assert len((await client.response()).body) == 33554432
        assert (await client.response()).body == b"ok"
