"""What when a back end is ill: retries and hedging, breakers, and that one service's trouble is its
own. Which endpoint is chosen is in test_which_endpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.connection import PATIENCE_SECONDS
from tests.messages import Message, answer, assert_error, request
from tests.scenarios.governed import (
    OK,
    Mood,
    asks_until,
    get,
    governed,
    health_of,
    in_front,
    mood,
    row,
    service,
    statuses,
)
from tests.streams import metric, who
from tests.wire import (
    Link,
    RunningGateway,
    ScriptedUpstream,
    TruncatedError,
    closed_port,
    eventually,
)

X = "/api/v1/svc/x"
BUSY = answer(b"busy", status=b"503 Service Unavailable")
FAILED = answer(b"failed", status=b"500 Internal Server Error")
ON_503 = 'retries = { attempts = 3, on = ["503"], backoff = 0 }'
NO_OUTLIERS = 'outlier = "off"'
NO_BREAKER = 'breaker = "off"'


async def attempts_of(response: Message) -> int:
    """How many the answer says there were; without the field it was one."""
    return int(response.get("x-gateway-attempts") or b"1")


async def test_nothing_is_retried_unless_a_row_says_so() -> None:
    async with in_front("", row("/x"), script=[BUSY, OK]) as (gateway, upstream):
        response = await get(gateway, "/x")
        assert (response.status, response.body) == (503, b"busy")
        assert len(upstream.requests) == 1


async def test_a_listed_status_is_retried_and_the_answer_counts_attempts() -> None:
    async with in_front("", row("/x", ON_503), script=[BUSY, BUSY, OK, OK]) as (gateway, upstream):
        response = await get(gateway, "/x?a=b", b"X-Request-ID: one")
        assert (response.status, response.body) == (200, b"ok")
        assert response.get("x-gateway-attempts") == b"3"
        assert [each.target for each in upstream.requests] == [b"/x?a=b"] * 3
        assert {each.get("x-request-id") for each in upstream.requests} == {b"one"}
        (record,) = await gateway.records()
        assert record["attempts"] == 3
        assert await attempts_of(await get(gateway, "/x")) == 1
        assert await metric(gateway, 'gateway_retries_total{service="svc"}') == 2


async def test_the_last_answer_passes_when_attempts_are_used_up() -> None:
    lines = (NO_OUTLIERS, NO_BREAKER)
    async with in_front("", row("/x", ON_503), script=BUSY, lines=lines) as (gateway, upstream):
        response = await get(gateway, "/x")
        assert (response.status, response.body) == (503, b"busy")
        assert len(upstream.requests) == await attempts_of(response) == 3


async def test_a_service_that_wants_to_be_left_alone_for_long_is() -> None:
    later = answer(b"busy", b"Retry-After: 60", status=b"503 Service Unavailable")
    async with in_front("", row("/x", ON_503), script=Mood(later, OK)) as (gateway, upstream):
        response = await get(gateway, "/x")
        assert (response.status, response.get("retry-after")) == (503, b"60")
        assert len(upstream.requests) == 1


async def test_a_status_that_is_not_listed_passes() -> None:
    async with in_front("", row("/x", ON_503), script=[FAILED, OK]) as (gateway, upstream):
        assert (await get(gateway, "/x")).body == b"failed"
        assert len(upstream.requests) == 1


async def test_what_is_not_idempotent_is_not_sent_again() -> None:
    async with in_front("", row("/x", ON_503), script=BUSY) as (gateway, upstream):
        for method in (b"POST", b"PATCH"):
            upstream.requests.clear()
            response = await gateway.ask(request(method + b" /x", body=b"order"))
            assert response.body == b"busy"
            assert len(upstream.requests) == 1


async def test_a_body_is_sent_again_whole_while_it_is_small() -> None:
    async def busy_first(link: Link) -> None:
        while True:
            await link.request()
            first = len(link.upstream.requests) % 2 == 1
            link.send(BUSY if first else OK)

    small, large = b"0123456789" * 1000, b"0123456789" * 20_000
    async with in_front("", row("/x", ON_503), script=busy_first) as (gateway, upstream):
        response = await gateway.ask(request(b"PUT /x", body=small))
        assert (response.status, await attempts_of(response)) == (200, 2)
        assert [each.body for each in upstream.requests] == [small] * 2
        upstream.requests.clear()
        # More than may be kept (64 KiB): the first answer is the answer.
        response = await gateway.ask(request(b"PUT /x", body=large))
        assert (response.status, len(upstream.requests)) == (503, 1)


async def test_a_refused_connection_is_tried_elsewhere() -> None:
    retries = 'retries = { attempts = 2, on = ["connect"], backoff = 0 }'
    with closed_port() as port:
        async with ScriptedUpstream() as upstream:
            urls = f'url = ["http://127.0.0.1:{port}", "{upstream.url}"]'
            config = f'[services.svc]\n{urls}\noutlier = "off"\n'
            async with governed(config, row("/x", retries), row("/y")) as gateway:
                answers = [await get(gateway, "/x") for _ in range(4)]
                assert [each.status for each in answers] == [200] * 4
                assert {await attempts_of(each) for each in answers} == {1, 2}
                found = await statuses(gateway, 4, "/y")
                assert sorted(found) == [200, 200, 503, 503]


async def breaks_off(link: Link) -> None:
    """Ends in the middle of an answer."""
    await link.request()
    link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
    await link.flush()
    link.close()


async def test_an_answer_that_has_begun_is_never_begun_again() -> None:
    retries = 'retries = { attempts = 3, on = ["connect", "reset", "502", "503"], backoff = 0 }'
    async with in_front("", row("/x", retries), script=breaks_off) as (gateway, upstream):
        with pytest.raises(TruncatedError) as caught:
            await get(gateway, "/x")
        assert caught.value.message.body == b"first"
        assert len(upstream.requests) == 1


async def test_a_reset_before_the_head_is_retried_where_listed() -> None:
    async def resets_once(link: Link) -> None:
        await link.request()
        if len(link.upstream.links) == 1:
            link.reset()
            return
        link.send(OK)
        await link.closed(60)

    retries = 'retries = { attempts = 2, on = ["reset"], backoff = 0 }'
    async with in_front("", row("/x", retries), script=resets_once) as (gateway, upstream):
        response = await get(gateway, "/x")
        assert (response.status, await attempts_of(response)) == (200, 2)
        assert len(upstream.requests) == 2


async def test_a_try_that_takes_too_long_is_given_up_for_another() -> None:
    retries = 'retries = { attempts = 2, on = ["reset", "504"], try_timeout = 1, backoff = 0 }'
    async with in_front("", row("/x", retries), script=hangs_on_the_first) as (gateway, upstream):
        response = await get(gateway, "/x")
        assert (response.status, await attempts_of(response)) == (200, 2)
        await upstream.links[0].closed()


async def hangs_on_the_first(link: Link) -> None:
    """Only later connections answer."""
    number = len(link.upstream.links)
    while True:
        await link.request()
        if number > 1:
            link.send(OK)


async def test_retries_of_all_requests_together_have_a_budget() -> None:
    again = asyncio.Event()
    seen: Counter[bytes] = Counter()

    async def holds_the_second(link: Link) -> None:
        while True:
            message = await link.request()
            seen[message.target] += 1
            if seen[message.target] > 1:
                await again.wait()
                link.send(OK)
            else:
                await eventually(lambda: len(seen) == 20, "all requests")
                link.send(BUSY)

    retries = 'retries = { attempts = 2, on = ["503"], backoff = 0 }'
    lines = (NO_OUTLIERS, NO_BREAKER)
    async with in_front("", row("/x/*", retries), script=holds_the_second, lines=lines) as (g, _):
        asked = [asyncio.create_task(get(g, f"/x/{number}")) for number in range(20)]

        def done() -> int:
            return sum(each.done() for each in asked)

        def retried() -> int:
            return sum(count - 1 for count in seen.values())

        await eventually(lambda: done() + retried() == 20, "requests that are refused or retried")
        held = retried()
        # A fifth of 20, and never fewer than three.
        assert 3 <= held <= 4
        again.set()
        found = Counter([(await each).status for each in asked])
        assert found == {200: held, 503: 20 - held}


@contextlib.asynccontextmanager
async def hedged(script: Any) -> AsyncIterator[tuple[RunningGateway, list[ScriptedUpstream]]]:
    """A row that hedges before a service of two endpoints."""
    async with (
        ScriptedUpstream(script) as one,
        ScriptedUpstream(script) as two,
        governed(service("svc", [one, two]), row("/x", "hedge_after = 0.1")) as gateway,
    ):
        yield gateway, [one, two]


async def test_a_hedge_is_sent_when_the_first_takes_long_and_the_slower_is_given_up() -> None:
    links: list[Link] = []

    async def first_hangs(link: Link) -> None:
        await link.request()
        links.append(link)
        if len(links) > 1:
            link.send(OK)
        await link.closed(60)

    async with hedged(first_hangs) as (gateway, _):
        response = await get(gateway, "/x")
        assert (response.status, await attempts_of(response)) == (200, 2)
        await links[0].closed()
        assert len(links) == 2


async def test_what_is_not_idempotent_is_not_hedged() -> None:
    release = asyncio.Event()

    async def waits(link: Link) -> None:
        await link.request()
        await release.wait()
        link.send(OK)
        await link.closed(60)

    async with hedged(waits) as (gateway, found):

        def methods() -> Counter[bytes]:
            return Counter(each.method for upstream in found for each in upstream.requests)

        asked = asyncio.create_task(gateway.ask(request(b"POST /x", body=b"order")))
        await eventually(lambda: methods()[b"POST"], "the POST")
        both = asyncio.create_task(get(gateway, "/x"))
        await eventually(lambda: methods()[b"GET"] == 2, "the hedge of the GET")
        release.set()
        assert (await asked).status == (await both).status == 200
        assert methods()[b"POST"] == 1


async def test_a_service_that_hangs_does_not_hold_up_another() -> None:
    async with ScriptedUpstream(Mood(None)) as ill, ScriptedUpstream() as well:
        config = service(
            "ill", [ill], "max_requests = 20", "queue = 5", "queue_timeout = 60"
        ) + service("well", [well])
        async with governed(config, MAX_CONNECTIONS=500) as gateway, asyncio.TaskGroup() as group:
            asked = [group.create_task(get(gateway, "/api/v1/ill/x")) for _ in range(60)]
            await eventually(lambda: sum(each.done() for each in asked) >= 35, "refusals")
            assert await statuses(gateway, 30, "/api/v1/well/x") == [200] * 30
            for each in asked:
                if each.done():
                    assert_error(each.result(), 503, ("OVERLOADED", "SERVICE_UNAVAILABLE"))
            assert sum(each.done() for each in asked) == 35
            assert len(ill.links) <= 20
            for each in asked:
                each.cancel()


async def test_requests_wait_in_a_line_that_is_bounded() -> None:
    release = asyncio.Event()

    async def waits(link: Link) -> None:
        while True:
            await link.request()
            await release.wait()
            link.send(OK)

    lines = ("max_requests = 1", "queue = 1", "queue_timeout = 60")
    async with in_front(lines=lines, script=waits) as (gateway, upstream):
        first = asyncio.create_task(get(gateway, X))
        await upstream.received_requests(1)
        others = [asyncio.create_task(get(gateway, X)) for _ in range(3)]
        await eventually(lambda: sum(each.done() for each in others) == 2, "refusals")
        for each in others:
            if each.done():
                assert_error(each.result(), 503, ("OVERLOADED", "SERVICE_UNAVAILABLE"))
        assert len(upstream.requests) == 1
        release.set()
        assert (await first).status == 200
        found = Counter([(await each).status for each in others])
        assert found == {200: 1, 503: 2}


async def test_who_waits_in_the_line_too_long_is_refused_and_who_leaves_frees_a_place() -> None:
    lines = ("max_requests = 1", "queue = 1", "queue_timeout = 0.2")
    async with in_front(lines=lines, script=Mood(None)) as (gateway, upstream):
        async with gateway.connect() as client:
            client.send(request(b"GET " + X.encode()))
            await upstream.received_requests(1)
            refused = await get(gateway, X)
            assert_error(refused, 503, ("OVERLOADED", "SERVICE_UNAVAILABLE"))
            mood(upstream).says(OK)
            client.reset()
        assert (await asks_until(gateway, request(b"GET " + X.encode()), 200)).body == b"ok"


ILL = ("breaker_failures = 2", "breaker_seconds = 0.2", NO_OUTLIERS)


async def lose_a_probe(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    """Asks until a request reaches the service, and leaves."""
    count = len(upstream.requests)
    async with asyncio.timeout(PATIENCE_SECONDS), gateway.connect() as client:
        while len(upstream.requests) == count:
            client.send(request(b"GET " + X.encode()))
            await eventually(lambda: client.unread or len(upstream.requests) > count, "either")
            if client.unread:
                await client.response()
        client.reset()


async def test_a_probe_that_is_lost_with_its_client_frees_its_place() -> None:
    async with in_front(lines=ILL, script=Mood(FAILED)) as (gateway, upstream):
        with gateway.stopped_clock() as time:
            assert await statuses(gateway, 3, X) == [500, 500, 503]
            time.pass_by(0.2)
        mood(upstream).says(None)
        for _ in range(8):
            await lose_a_probe(gateway, upstream)
        mood(upstream).says(OK)
        assert (await asks_until(gateway, request(b"GET " + X.encode()), 200)).body == b"ok"


async def test_a_probe_that_fails_opens_the_breaker_again() -> None:
    async with in_front(lines=ILL, script=FAILED) as (gateway, _):
        with gateway.stopped_clock() as time:
            assert await statuses(gateway, 3, X) == [500, 500, 503]
            time.pass_by(0.2)
            assert await statuses(gateway, 1, X) == [500]
            assert_error(await get(gateway, X), 503, "CIRCUIT_BREAKER_OPEN")


async def test_a_change_of_a_breaker_is_logged_once() -> None:
    async with in_front(lines=("breaker_failures = 2", "breaker_seconds = 60"), script=FAILED) as (
        gateway,
        upstream,
    ):
        assert await statuses(gateway, 6, X) == [500] * 2 + [503] * 4
        assert len(upstream.requests) == 2

        def lines() -> list[dict[str, Any]]:
            return [
                each
                for each in gateway.log()
                if "breaker" in each["message"] and "status" not in each
            ]

        await eventually(lines, "a log line")
        await gateway.records(6)
        assert len(lines()) == 1
        assert await metric(gateway, 'gateway_breaker_changes_total{service="svc",to="open"}') == 1


async def test_clients_that_leave_open_no_breaker() -> None:
    async with in_front(lines=ILL, script=Mood(None)) as (gateway, upstream):
        for number in range(6):
            async with gateway.connect() as client:
                client.send(request(b"GET " + X.encode()))
                await upstream.link(number)
                client.reset()
        assert (await health_of(gateway, "svc"))["breaker"]["state"] == "closed"


async def test_refused_connections_and_time_outs_open_a_breaker() -> None:
    lines = (*ILL, "head_timeout = 0.1")
    async with in_front(lines=lines, script=Mood(None)) as (gateway, _):
        with gateway.stopped_clock():
            found = [await get(gateway, X, who("alice")) for _ in range(3)]
        assert [each.json()["error"]["code"] for each in found] == [
            "TIMEOUT",
            "TIMEOUT",
            "CIRCUIT_BREAKER_OPEN",
        ]
    with closed_port() as port:
        config = f'[services.svc]\nurl = "http://127.0.0.1:{port}"\n' + "\n".join(ILL)
        async with governed(config) as gateway:
            with gateway.stopped_clock():
                found = [await get(gateway, X) for _ in range(3)]
        assert [each.json()["error"]["code"] for each in found] == [
            "SERVICE_UNAVAILABLE",
            "SERVICE_UNAVAILABLE",
            "CIRCUIT_BREAKER_OPEN",
        ]


async def test_an_answer_is_judged_at_its_end() -> None:
    async with in_front(lines=ILL, script=breaks_off) as (gateway, _):
        with gateway.stopped_clock():
            for _ in range(2):
                with pytest.raises(TruncatedError):
                    await get(gateway, X)
            assert_error(await get(gateway, X), 503, "CIRCUIT_BREAKER_OPEN")
