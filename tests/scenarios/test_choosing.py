"""Which endpoint a request goes to: hashed, by its session's cookie, and while endpoints come and
go.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from gateway.settings_services import EndpointUrl
from tests.routed import Routed, hang, routed
from tests.wire import Link, ScriptedUpstream, answer, eventually, request

GET = request(b"GET /r/x")


def named(count: int) -> list[bytes]:
    """Answers that say which endpoint gave them."""
    return [answer(b"%d" % at) for at in range(count)]


async def who(at: Routed, *fields: bytes) -> bytes:
    """Which endpoint answers."""
    response = await at.ask(request(b"GET /r/x", *fields))
    assert response.status == 200
    return response.body


@pytest.mark.parametrize(
    ("source", "field"), [("header:X-Key", b"X-Key: %d"), ("cookie:k", b"Cookie: a=b; k=%d")]
)
async def test_the_same_key_goes_to_the_same_endpoint_and_keys_are_spread(
    source: str, field: bytes
) -> None:
    service = f"balance = 'hash'\nhash_on = '{source}'"
    async with routed(*named(3), service=service) as at:
        first = [await who(at, field % key) for key in range(30)]
        assert [await who(at, field % key) for key in range(30)] == first
        assert set(first) == {b"0", b"1", b"2"}


async def test_a_client_without_a_key_goes_anywhere() -> None:
    service = "balance = 'hash'\nhash_on = 'header:X-Key'"
    async with routed(*named(2), service=service) as at:
        assert {await who(at) for _ in range(4)} == {b"0", b"1"}


async def test_an_address_is_that_of_the_client_behind_a_trusted_proxy() -> None:
    service = "balance = 'hash'"
    async with routed(*named(3), service=service, TRUSTED_PROXIES="127.0.0.1") as at:
        first = [await who(at, b"X-Forwarded-For: 192.0.2.%d" % key) for key in range(30)]
        again = [await who(at, b"X-Forwarded-For: 192.0.2.%d" % key) for key in range(30)]
        assert first == again
        assert len(set(first)) == 3


async def test_a_session_stays_at_its_endpoint_by_a_cookie() -> None:
    async with routed(*named(3), service="sticky = 'where'", COOKIE_SECRET="c" * 32) as at:
        response = await at.ask(GET)
        cookie, _, attributes = (response.get("set-cookie") or b"").partition(b"; ")
        assert cookie.startswith(b"where=")
        assert attributes == b"Path=/; HttpOnly; SameSite=Lax"
        for _ in range(6):
            again = await at.ask(request(b"GET /r/x", b"Cookie: a=b; " + cookie))
            assert again.body == response.body
            assert again.all("set-cookie") == []
        forged = await at.ask(request(b"GET /r/x", b"Cookie: " + cookie[:-1] + b"x"))
        assert forged.get("set-cookie") is not None
        seen = Counter([(await at.ask(GET)).body for _ in range(3)])
        assert seen == {b"0": 1, b"1": 1, b"2": 1}


async def test_a_session_whose_endpoint_takes_no_more_begins_anew() -> None:
    async with routed(*named(2), service="sticky = 'where'", COOKIE_SECRET="c" * 32) as at:
        response = await at.ask(GET)
        cookie = (response.get("set-cookie") or b"").partition(b";")[0]
        at.service.drain_endpoint(at.upstreams[int(response.body)].url)
        again = await at.ask(request(b"GET /r/x", b"Cookie: " + cookie))
        assert again.body != response.body
        other = (again.get("set-cookie") or b"").partition(b";")[0]
        assert other != cookie
        assert await who(at, b"Cookie: " + other) == again.body


async def test_a_session_that_was_retried_elsewhere_stays_there() -> None:
    async def busy(link: Link) -> None:
        await link.request()
        link.send(answer(b"busy", status=b"503 Busy"))

    service, row = "sticky = 'where'", "retries = { on = ['503'] }"
    async with routed(busy, answer(b"1"), service=service, row=row, COOKIE_SECRET="c" * 32) as at:
        response = await at.ask(GET)
        cookie = (response.get("set-cookie") or b"").partition(b";")[0]
        assert await who(at, b"Cookie: " + cookie) == b"1"


async def test_an_error_of_the_gateway_begins_no_session() -> None:
    service = "sticky = 'where'\nhead_timeout = 0.1"
    async with routed(hang, service=service, COOKIE_SECRET="c" * 32) as at:
        response = await at.ask(GET)
        assert (response.status, response.all("set-cookie")) == (504, [])


async def test_endpoints_come_and_go_without_a_failed_request() -> None:
    async with routed(*named(2)) as at, ScriptedUpstream(answer(b"new")) as new:
        service, services = at.service, at.gateway.gateway._services
        seen: Counter[bytes] = Counter()
        running = True

        async def load() -> None:
            async with at.connect() as client:
                while running:
                    response = await client.ask(GET)
                    assert response.status == 200
                    seen[response.body] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(load())
            for _ in range(5):
                url = EndpointUrl("http", "127.0.0.1", new.port)
                endpoint = service.add_endpoint(url)
                at.context.pools[endpoint.key] = services.open_pool(service, endpoint)
                before = seen[b"new"]
                await eventually(lambda before=before: seen[b"new"] > before + 20, "the new one")
                service.drain_endpoint(at.upstreams[0].url)
                before = seen[b"1"]
                await eventually(lambda before=before: seen[b"1"] > before + 20, "the old one")
                service.remove_endpoint(endpoint.name)
                await eventually(lambda key=endpoint.key: key not in at.context.pools, "its end")
                service.add_endpoint(service.endpoints[0].url)
            running = False
        assert set(seen) == {b"0", b"1", b"new"}
