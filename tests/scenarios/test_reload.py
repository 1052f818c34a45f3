"""Reading the configuration again: what is new is there, what has gone is gone, nothing is cut."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.wire import (
    Link,
    ScriptedUpstream,
    answer,
    assert_error,
    load_settings,
    request,
    start_gateway,
)

GET = b"GET /api/v1/svc/x"


class Halves:
    """An upstream that sends half an answer, and the rest when it is told."""

    def __init__(self) -> None:
        self.rest = asyncio.Event()

    async def __call__(self, link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        await self.rest.wait()
        link.send(b"after")
        await link.closed(60)


async def test_the_same_configuration_again_changes_nothing(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, start_gateway(SVC_URL=upstream.url) as gateway:
        async with gateway.connect() as client:
            assert (await client.ask(request(GET))).status == 200
            gateway.gateway.reload(load_settings(tmp_path, SVC_URL=upstream.url))
            assert (await client.ask(request(GET))).status == 200
        assert (await gateway.ask(request(GET))).status == 200
        assert len(upstream.links) == 1


async def test_a_new_service_is_served_and_an_old_one_is_404(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(answer(b"old")) as old,
        ScriptedUpstream(answer(b"new")) as new,
        start_gateway(OLD_URL=old.url) as gateway,
        gateway.connect() as client,
    ):
        assert (await client.ask(request(b"GET /api/v1/old/x"))).body == b"old"
        gateway.gateway.reload(load_settings(tmp_path, NEW_URL=new.url))
        assert (await client.ask(request(b"GET /api/v1/new/x"))).body == b"new"
        assert_error(await client.ask(request(b"GET /api/v1/old/x")), 404, "NOT_FOUND")


async def test_a_moved_service_is_asked_at_its_new_place(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(answer(b"old")) as old,
        ScriptedUpstream(answer(b"new")) as new,
        start_gateway(SVC_URL=old.url) as gateway,
    ):
        assert (await gateway.ask(request(GET))).body == b"old"
        gateway.gateway.reload(load_settings(tmp_path, SVC_URL=new.url))
        for _ in range(3):
            assert (await gateway.ask(request(GET))).body == b"new"


async def test_an_answer_under_way_is_finished_across_reloads(tmp_path: Path) -> None:
    halves = Halves()
    async with (
        ScriptedUpstream(halves) as upstream,
        ScriptedUpstream() as other,
        start_gateway(SVC_URL=upstream.url) as gateway,
        gateway.connect() as client,
    ):
        client.send(request(GET))
        await client.until(lambda: b"first" in client.received, "the first half")
        gateway.gateway.reload(load_settings(tmp_path, SVC_URL=upstream.url, OTHER_URL=other.url))
        gateway.gateway.reload(load_settings(tmp_path, OTHER_URL=other.url))
        halves.rest.set()
        assert (await client.response()).body == b"firstafter"
        assert (await client.ask(request(b"GET /api/v1/other/x"))).status == 200
        await upstream.links[0].closed()


async def test_a_limit_that_is_set_anew_is_kept(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, start_gateway(SVC_URL=upstream.url) as gateway:
        assert (await gateway.ask(request(GET))).status == 200
        settings = load_settings(tmp_path, SVC_URL=upstream.url, RATE_LIMIT="1/hour")
        gateway.gateway.reload(settings)
        statuses = [(await gateway.ask(request(GET))).status for _ in range(2)]
        assert statuses == [200, 429]
