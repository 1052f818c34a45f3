"""Which endpoint of a service a request goes to: endpoints come and go, are checked and ejected;
and the ways to choose among those that are left.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.connection import PATIENCE_SECONDS
from tests.messages import Message, answer, assert_error, request
from tests.scenarios.governed import (
    ADMIN,
    Mood,
    get,
    governed,
    health_of,
    mood,
    service,
)
from tests.wire import Link, RunningGateway, ScriptedUpstream, eventually

X = "/api/v1/svc/x"
BUSY = answer(b"busy", status=b"503 Service Unavailable")
FAILED = answer(b"failed", status=b"500 Internal Server Error")
NO_OUTLIERS = 'outlier = "off"'
NO_BREAKER = 'breaker = "off"'


@contextlib.asynccontextmanager
async def endpoints(
    count: int, *lines: str, config: str = "", **environ: Any
) -> AsyncIterator[tuple[RunningGateway, list[ScriptedUpstream]]]:
    """A service of so many endpoints; each answers with its number."""
    async with contextlib.AsyncExitStack() as stack:
        found = [
            await stack.enter_async_context(ScriptedUpstream(Mood(answer(b"%d" % number))))
            for number in range(count)
        ]
        table = service("svc", found, *lines)
        yield await stack.enter_async_context(governed(config + table, **environ)), found


async def bodies(gateway: RunningGateway, count: int, *fields: bytes) -> list[bytes]:
    """The answers to so many requests on one connection."""
    data = request(b"GET " + X.encode(), *fields)
    async with gateway.connect() as client:
        return [(await client.ask(data)).body for _ in range(count)]


async def administer(gateway: RunningGateway, method: str, path: str, body: Any) -> Message:
    """A change of the endpoints."""
    line = f"{method} /admin/services/svc/{path}".encode()
    response = await gateway.ask(request(line, ADMIN, body=json.dumps(body).encode()))
    assert response.status in (200, 201), (response.start, response.body)
    return response


@pytest.mark.parametrize("balance", ["round_robin", "p2c"])
async def test_endpoints_come_drain_and_go_under_load_without_a_failed_request(
    balance: str,
) -> None:
    async with (
        ScriptedUpstream(answer(b"new")) as new,
        endpoints(2, f'balance = "{balance}"') as (gateway, (first, second)),
    ):
        found: list[Message] = []
        stop = asyncio.Event()

        async def load() -> None:
            data = request(b"POST " + X.encode(), body=b"body")
            async with gateway.connect() as client:
                while not stop.is_set():
                    found.append(await client.ask(data))

        async def only(*wanted: bytes) -> None:
            start = len(found) + 10
            await eventually(lambda: len(found) > start + 30, "requests")
            assert {each.body for each in found[start:]} == set(wanted)

        loads = [asyncio.create_task(load()) for _ in range(6)]
        await only(b"0", b"1")
        await administer(gateway, "POST", "endpoints", {"url": new.url})
        await only(b"0", b"1", b"new")
        await administer(gateway, "POST", "endpoints/drain", {"url": first.url})
        await only(b"1", b"new")
        await administer(gateway, "DELETE", "endpoints", {"url": second.url})
        await only(b"new")
        await administer(gateway, "POST", "endpoints", {"url": first.url})
        await only(b"0", b"new")
        stop.set()
        await asyncio.gather(*loads)
        assert {each.status for each in found} == {200}


CHECKS = (
    'check_path = "/up"',
    "check_interval = 0.05",
    "check_timeout = 30",
    "check_healthy = 2",
    "check_unhealthy = 2",
    NO_OUTLIERS,
)


def checked(upstream: ScriptedUpstream, number: int) -> list[bool]:
    """Makes a service answer checks by the state of the list that is returned."""
    well = [True]

    async def script(link: Link) -> None:
        while True:
            message = await link.request()
            is_check = message.target == b"/up"
            link.send(BUSY if is_check and not well[0] else answer(b"%d" % number))

    upstream.script = script
    return well


async def test_active_checks_take_an_endpoint_out_and_back() -> None:
    async with endpoints(2, *CHECKS) as (gateway, found):
        _, well = (checked(upstream, number) for number, upstream in enumerate(found))
        for link in [*found[0].open_links, *found[1].open_links]:
            link.close()

        async def served(*wanted: bytes) -> None:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while set(await bodies(gateway, 6)) != set(wanted):
                    pass

        await served(b"0", b"1")
        well[0] = False
        await served(b"0")
        assert await bodies(gateway, 6) == [b"0"] * 6
        assert (await states(gateway))[1] == "unhealthy"
        assert (await get(gateway, "/health")).json()["status"] == "degraded"
        assert sorted(await up(gateway, found)) == [0, 1]
        well[0] = True
        await served(b"0", b"1")


async def states(gateway: RunningGateway) -> list[str]:
    """Those of the endpoints, as `/health` shows them."""
    return [each["state"] for each in (await health_of(gateway, "svc"))["endpoints"]]


async def up(gateway: RunningGateway, found: list[ScriptedUpstream]) -> list[float]:
    """`gateway_endpoint_up` of each endpoint."""
    figures = (await get(gateway, "/metrics")).body.decode().splitlines()
    lines = [each for each in figures if each.startswith("gateway_endpoint_up{")]
    assert len(lines) == len(found)
    return [float(each.split()[-1]) for each in lines]


@pytest.mark.parametrize("panic", [False, True])
async def test_with_no_healthy_endpoint_it_is_503_or_tried_anyway(panic: bool) -> None:
    lines = (*CHECKS, f"panic = {str(panic).lower()}")
    async with endpoints(2, *lines) as (gateway, found):
        for number, upstream in enumerate(found):
            checked(upstream, number)[0] = False
            for link in upstream.open_links:
                link.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await states(gateway) != ["unhealthy"] * 2:
                pass
        response = await get(gateway, X)
        if panic:
            assert response.status == 200
        else:
            assert_error(response, 503, "SERVICE_UNAVAILABLE")


async def test_an_endpoint_that_fails_five_times_in_a_row_is_ejected() -> None:
    async with endpoints(3, NO_BREAKER) as (gateway, found):
        mood(found[2]).says(FAILED)
        await bodies(gateway, 40)
        assert len(found[2].requests) == 5
        assert set(await bodies(gateway, 6)) == {b"0", b"1"}
        assert (await states(gateway))[2] == "ejected"


async def test_never_more_than_half_of_the_endpoints_are_ejected() -> None:
    async with endpoints(4, NO_BREAKER) as (gateway, found):
        for upstream in found[1:]:
            mood(upstream).says(FAILED)
        await bodies(gateway, 80)
        told = await states(gateway)
        assert told.count("ejected") == 2
        assert told[0] != "ejected"


async def test_one_good_answer_begins_the_count_of_failures_anew() -> None:
    async with endpoints(2, NO_BREAKER) as (gateway, found):
        mood(found[1]).says(*([FAILED] * 4 + [answer(b"1")]) * 10)
        await bodies(gateway, 60)
        assert len(found[1].requests) == 30


async def test_an_ejected_endpoint_is_back_after_its_time() -> None:
    lines = ("outlier_failures = 2", "outlier_seconds = 0.3", NO_BREAKER)
    async with endpoints(2, *lines) as (gateway, found):
        mood(found[1]).says(FAILED, FAILED, answer(b"1"))
        with gateway.stopped_clock() as time:
            await bodies(gateway, 8)
            assert len(found[1].requests) == 2
            time.pass_by(0.3)
            await bodies(gateway, 2)
            assert len(found[1].requests) == 3


def cookie_of(response: Message) -> tuple[bytes, bytes]:
    """The cookie that an answer sets: `name=value` and its attributes."""
    (line,) = response.all("set-cookie")
    pair, _, attributes = line.partition(b";")
    return pair, attributes.lower()


async def test_a_sticky_cookie_leads_back_to_the_endpoint_at_every_gateway() -> None:
    lines = ('sticky = "route"', NO_OUTLIERS)
    environ = {"COOKIE_SECRET": "a secret for cookies, which is long enough for that"}
    async with (
        endpoints(3, *lines, **environ) as (gateway, found),
        governed(service("svc", found, *lines), **environ) as other,
    ):
        chosen = {}
        for _ in range(6):
            response = await get(gateway, X)
            pair, attributes = cookie_of(response)
            assert pair.startswith(b"route=")
            assert b"httponly" in attributes
            assert str(found[int(response.body)].port).encode() not in pair
            chosen[response.body] = b"Cookie: a=b; " + pair
        assert set(chosen) == {b"0", b"1", b"2"}
        for body, field in chosen.items():
            for one in (gateway, other):
                assert await bodies(one, 3, field) == [body] * 3
            # Who has it is not given it again.
            assert not (await get(gateway, X, field)).all("set-cookie")


async def test_a_sticky_cookie_that_was_not_signed_here_chooses_nothing() -> None:
    environ = {"COOKIE_SECRET": "a secret for cookies, which is long enough for that"}
    async with endpoints(2, 'sticky = "route"', **environ) as (gateway, _):
        pair, _ = cookie_of(await get(gateway, X))
        end = b"A" if not pair.endswith(b"A") else b"B"
        for forged in (b"route=0", pair[:-6] + end * 6, b"route=", b"route=%00%ff"):
            answers = [await get(gateway, X, b"Cookie: " + forged) for _ in range(4)]
            assert {each.body for each in answers} == {b"0", b"1"}
            for each in answers:
                cookie_of(each)


async def test_a_sticky_cookie_of_an_endpoint_that_is_gone_leads_to_another() -> None:
    async with endpoints(2, 'sticky = "route"') as (gateway, found):
        response = await get(gateway, X)
        field = b"Cookie: " + cookie_of(response)[0]
        gone = int(response.body)
        await administer(gateway, "DELETE", "endpoints", {"url": found[gone].url})
        response = await get(gateway, X, field)
        assert response.body == b"%d" % (1 - gone)
        assert cookie_of(response)[0] != field.removeprefix(b"Cookie: ")


@pytest.mark.parametrize("source", ["header:X-User", "cookie:user"])
async def test_a_consistent_hash_keeps_callers_and_moves_only_those_of_who_goes(
    source: str,
) -> None:
    field = b"X-User: u%d" if source.startswith("header") else b"Cookie: a=b; user=u%d"
    lines = ('balance = "hash"', f'hash_on = "{source}"')
    async with endpoints(3, *lines) as (gateway, found):

        async def where() -> list[bytes]:
            return [(await bodies(gateway, 1, field % number))[0] for number in range(40)]

        before = await where()
        assert await where() == before
        assert set(before) == {b"0", b"1", b"2"}
        await administer(gateway, "DELETE", "endpoints", {"url": found[2].url})
        after = await where()
        assert all(one == two for one, two in zip(before, after, strict=True) if one != b"2")
        assert set(after) == {b"0", b"1"}


async def test_weights_share_out_smoothly() -> None:
    async with endpoints(2, 'balance = "weighted"', "weights = [3, 1]") as (gateway, _):
        got = await bodies(gateway, 16)
        for start in range(0, 16, 4):
            assert Counter(got[start : start + 4]) == {b"0": 3, b"1": 1}


async def test_the_less_busy_of_two_is_chosen() -> None:
    release = asyncio.Event()

    def slow(number: int) -> Callable[[Link], Any]:
        async def script(link: Link) -> None:
            while True:
                message = await link.request()
                if message.target == b"/slow":
                    await release.wait()
                link.send(answer(b"%d" % number))

        return script

    async with endpoints(2, 'balance = "p2c"') as (gateway, found):
        for number, upstream in enumerate(found):
            upstream.script = slow(number)
        held = asyncio.create_task(get(gateway, "/api/v1/svc/slow"))
        await eventually(lambda: any(each.requests for each in found), "the slow one")
        busy = 0 if found[0].requests else 1
        assert await bodies(gateway, 8) == [b"%d" % (1 - busy)] * 8
        release.set()
        assert (await held).body == b"%d" % busy
