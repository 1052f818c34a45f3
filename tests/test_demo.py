"""The demo service: every path it has, and that its streams end when it does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import ClientSession, WSMsgType

from gateway.demo import Demo, start_demo


class Clock:
    """Time that passes at once, written down."""

    def __init__(self) -> None:
        self.waited: list[float] = []

    async def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def demo(clock: Clock) -> AsyncIterator[Demo]:
    demo = Demo(clock.wait)
    await demo.start()
    yield demo
    await demo.close()


@pytest.fixture
async def client(demo: Demo) -> AsyncIterator[ClientSession]:
    async with ClientSession(base_url=demo.url) as session:
        yield session


async def test_it_listens_on_the_loopback_and_shows_its_state() -> None:
    demo = await start_demo()
    assert demo.url.startswith("http://127.0.0.1:")
    assert repr(demo) == f"<Demo {demo.url} ending=False>"
    await demo.close()
    assert "ending=True" in repr(demo)


def test_the_invitation_has_three_commands() -> None:
    said = Demo().invitation("http://127.0.0.1:8081")
    assert "Open http://127.0.0.1:8081/api/v1/demo/ or" in said
    assert said.count("    curl ") == 3


async def test_the_page_opens_the_stream_and_the_websocket(client: ClientSession) -> None:
    async with client.get("/") as answer:
        page = await answer.text()
        assert answer.content_type == "text/html"
    assert 'new EventSource("events")' in page
    assert 'new URL("ws", location.href)' in page


async def test_json_is_json(client: ClientSession) -> None:
    async with client.get("/json") as answer:
        assert (await answer.json())["service"] == "demo"


async def test_echo_gives_the_request_back(client: ClientSession) -> None:
    async with client.patch("/echo?a=1", data=b"h\xffi", headers={"X-One": "1"}) as answer:
        echoed = await answer.json()
    assert (echoed["method"], echoed["path"]) == ("PATCH", "/echo?a=1")
    assert echoed["body"] == "h\ufffdi"
    assert ["X-One", "1"] in echoed["headers"]


@pytest.mark.parametrize(
    ("query", "seconds"),
    [("", 1.0), ("?seconds=2.5", 2.5), ("?seconds=99", 30.0), ("?seconds=-1", 0)],
)
async def test_a_slow_answer_has_an_upper_bound(
    client: ClientSession, clock: Clock, query: str, seconds: float
) -> None:
    async with client.get(f"/slow{query}") as answer:
        assert await answer.json() == {"waited_seconds": seconds}
    assert clock.waited == [seconds]


async def test_a_slow_answer_needs_a_number(client: ClientSession) -> None:
    async with client.get("/slow?seconds=soon") as answer:
        assert answer.status == 400


@pytest.mark.parametrize(("last", "first"), [(None, 1), ("41", 42), ("x", 1), ("9" * 30, 1)])
async def test_events_go_on_behind_the_last_one_seen(
    client: ClientSession, last: str | None, first: int
) -> None:
    headers = {} if last is None else {"Last-Event-ID": last}
    async with client.get("/events", headers=headers) as answer:
        assert answer.content_type == "text/event-stream"
        for number in (first, first + 1):
            frame = await answer.content.readuntil(b"\n\n")
            data = json.dumps({"number": number})
            assert frame.decode() == f"id: {number}\nevent: tick\ndata: {data}\n\n"


async def test_a_websocket_gives_back_what_it_gets(client: ClientSession) -> None:
    async with client.ws_connect("/ws") as socket:
        await socket.send_str("text")
        assert await socket.receive_str() == "text"
        await socket.send_bytes(b"\x00\xff")
        assert await socket.receive_bytes() == b"\x00\xff"


async def test_streams_and_websockets_end_with_the_demo(client: ClientSession, demo: Demo) -> None:
    async with client.get("/events") as answer, client.ws_connect("/ws") as socket:
        demo.end_streams()
        assert (await answer.content.read()).startswith(b"id: 1\n")
        message = await socket.receive()
        assert (message.type, message.data) == (WSMsgType.CLOSE, aiohttp.WSCloseCode.GOING_AWAY)


async def test_a_stream_whose_client_left_is_over(demo: Demo) -> None:
    async with ClientSession() as session, session.get(f"{demo.url}/events") as answer:
        await answer.content.readuntil(b"\n\n")
        answer.close()
    await demo.close()
