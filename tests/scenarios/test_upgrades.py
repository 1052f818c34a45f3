"""Upgrades: a WebSocket passes as a tunnel, other protocols only where told, h2c and TLS never."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.client import connect as connect_websocket
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.connection import PATIENCE_SECONDS
from tests.wire import (
    Link,
    RawClient,
    RunningGateway,
    ScriptedUpstream,
    answer,
    assert_error,
    chunks,
    eventually,
    proxied,
    request,
    start_gateway,
    turn,
)

GET = b"GET /api/v1/svc/x"
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n"
)


def handshake(*more: bytes, line: bytes = GET, token: bytes = b"websocket") -> bytes:
    """The request that opens a WebSocket."""
    return request(
        line,
        b"Connection: Upgrade",
        b"Upgrade: " + token,
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *more,
    )


async def switching(link: Link) -> None:
    """Agrees to the upgrade and leaves the tunnel to the test."""
    await link.request()
    link.send(SWITCH)
    await link.until(lambda: link.lost, "the end", 60)


@contextlib.asynccontextmanager
async def tunnel(**environ: object) -> AsyncIterator[tuple[RawClient, Link, RunningGateway]]:
    """An open tunnel: the client's end, the upstream's end, the gateway."""
    async with proxied(switching, **environ) as (gateway, upstream), gateway.connect() as client:
        client.send(handshake())
        response = await client.response()
        assert response.status == 101
        yield client, upstream.links[0], gateway


async def test_the_handshake_passes_both_ways() -> None:
    async with proxied(switching) as (gateway, upstream), gateway.connect() as client:
        client.send(handshake(b"Sec-WebSocket-Protocol: chat", b"Origin: http://a"))
        response = await client.response()
        sent = upstream.requests[0]
        assert sent.start == b"GET /x HTTP/1.1"
        assert sent.tokens("upgrade") == [b"websocket"]
        assert b"upgrade" in sent.tokens("connection")
        assert sent.get("sec-websocket-key") == b"dGhlIHNhbXBsZSBub25jZQ=="
        assert sent.get("sec-websocket-version") == b"13"
        assert sent.get("sec-websocket-protocol") == b"chat"
        assert sent.get("origin") == b"http://a"
        assert sent.get("x-forwarded-for") == b"127.0.0.1"
        assert response.status == 101
        assert response.tokens("upgrade") == [b"websocket"]
        assert b"upgrade" in response.tokens("connection")
        assert response.get("sec-websocket-accept") == ACCEPT
        assert response.all("x-request-id")


async def test_bytes_pass_untouched_both_ways() -> None:
    every_byte = bytes(range(256))
    there = every_byte + request(b"GET /api/v1/svc/y")
    back = answer(b"no answer") + every_byte
    async with tunnel() as (client, link, _):
        client.send(there)
        assert await link.exactly(len(there)) == there
        link.send(back)
        assert await client.exactly(len(back)) == back


async def test_bytes_with_the_101_reach_the_client() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(SWITCH + b"hello from the first segment")
        await link.closed()

    async with proxied(script) as (gateway, _), gateway.connect() as client:
        client.send(handshake())
        assert (await client.response()).status == 101
        assert await client.exactly(28) == b"hello from the first segment"


async def test_bytes_sent_before_the_101_are_not_parsed_and_pass_after_it() -> None:
    async def script(link: Link) -> None:
        await link.request()
        await turn(20)
        assert link.unread == b""
        link.send(SWITCH)
        early.extend(await link.exactly(len(eager)))
        await link.closed()

    early = bytearray()
    eager = b"\x81\x85 not a request \r\n\r\n" + request(b"GET /api/v1/svc/smuggled")
    async with proxied(script) as (gateway, upstream), gateway.connect() as client:
        client.send(handshake(), eager)
        assert (await client.response()).status == 101
        await eventually(lambda: bytes(early) == eager, "the early bytes")
        assert len(upstream.requests) == 1


async def test_bytes_behind_an_upgrade_are_requests_once_the_upstream_has_declined() -> None:
    async def script(link: Link) -> None:
        message = await link.request()
        await turn(20)
        assert link.unread == b""
        link.send(answer(b"declined " + message.target))
        while True:
            message = await link.request()
            link.send(answer(message.target))

    async with proxied(script) as (gateway, _), gateway.connect() as client:
        client.send(
            handshake(),
            request(b"POST /api/v1/svc/2", body=b"two"),
            request(b"GET /api/v1/svc/3"),
        )
        bodies = [(await client.response()).body for _ in range(3)]
        assert bodies == [b"declined /x", b"/2", b"/3"]


@pytest.mark.parametrize("status", [b"200 OK", b"403 Forbidden", b"426 Upgrade Required"])
async def test_a_declined_upgrade_is_an_ordinary_answer(status: bytes) -> None:
    async with proxied(answer(b"no", status=status)) as (gateway, upstream):
        async with gateway.connect() as client:
            for _ in range(2):
                client.send(handshake())
                response = await client.response()
                assert response.start == b"HTTP/1.1 " + status
                assert response.body == b"no"
            assert (await client.ask(request(GET))).body == b"no"
        assert len(upstream.requests) == 3


async def test_the_clients_half_close_passes_and_the_other_half_lives_on() -> None:
    async with tunnel() as (client, link, _):
        client.send(b"last words")
        client.end()
        assert await link.exactly(10) == b"last words"
        assert await link.closed() == "eof"
        link.send(b"still here")
        assert await client.exactly(10) == b"still here"
        link.close()
        assert await client.closed() == "eof"


async def test_the_upstreams_half_close_passes_and_the_other_half_lives_on() -> None:
    async with tunnel() as (client, link, _):
        link.send(b"last words")
        link.end()
        assert await client.exactly(10) == b"last words"
        assert await client.closed() == "eof"
        client.send(b"still here")
        assert await link.exactly(10) == b"still here"
        client.close()
        await link.until(lambda: link.ended, "the end")


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_when_one_side_goes_the_other_is_let_go(who: str, how: str) -> None:
    async with tunnel() as (client, link, _):
        gone, left = (client, link) if who == "client" else (link, client)
        if how == "reset":
            gone.reset()
        else:
            gone.close()
        await left.closed()


async def test_a_silent_tunnel_ends_after_the_idle_time() -> None:
    async with tunnel(STREAM_IDLE_TIMEOUT=0.3, IDLE_TIMEOUT=0.3) as (client, link, _):
        await client.closed()
        await link.closed()


async def test_a_tunnel_is_not_parsed_limited_or_timed_as_http() -> None:
    environ = {"CLIENT_HEAD_TIMEOUT": 0.8, "KEEPALIVE_TIMEOUT": 0.8, "HEAD_TIMEOUT": 0.8}
    async with tunnel(MAX_BODY_BYTES=100, **environ) as (client, link, _):
        with contextlib.suppress(TimeoutError):
            await client.closed(1.3)
        client.send(b"\x00" * 100_000)
        assert await link.exactly(100_000) == b"\x00" * 100_000
        link.send(b"\xff" * 100_000)
        assert await client.exactly(100_000) == b"\xff" * 100_000


@pytest.mark.parametrize("way", ["down", "up"])
async def test_a_tunnel_has_back_pressure(way: str) -> None:
    block, blocks = b"t" * 65536, 1024
    async with tunnel() as (client, link, _):
        writer, reader = (link, client) if way == "down" else (client, link)
        reader.record = False
        before = reader.count
        reader.hold()
        sent = await writer.push(block, blocks)
        assert sent < 20 * 1024 * 1024
        reader.release()
        begun = sent // len(block) + 1
        await writer.flush()
        for _ in range(blocks - begun):
            writer.send(block)
            await writer.flush()
        whole = len(block) * blocks
        await reader.until(lambda: reader.count - before >= whole, "all of it")


async def test_a_tunnel_leaves_one_record_when_it_ends() -> None:
    async with tunnel() as (client, link, gateway):
        client.send(b"12345")
        await link.exactly(5)
        link.send(b"1234567")
        await client.exactly(7)
        client.close()
        await link.closed()
        link.close()
        record = (await gateway.records())[0]
        assert record["status"] == 101
        assert record["bytes_in"] >= 5
        assert record["bytes_out"] >= 7


PLAIN = {
    "h2c": [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"],
    "h2c unnamed settings": [b"Connection: Upgrade", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"],
    "H2C": [b"Connection: upgrade", b"Upgrade: H2C"],
    "TLS": [b"Connection: Upgrade", b"Upgrade: TLS/1.2"],
    "TLS and HTTP": [b"Connection: Upgrade", b"Upgrade: TLS/1.0, HTTP/1.1"],
    "unlisted": [b"Connection: Upgrade", b"Upgrade: mystery/1"],
    "settings alone": [b"HTTP2-Settings: AAMAAABk"],
    "upgrade not named in Connection": [b"Upgrade: websocket"],
}


@pytest.mark.parametrize("fields", PLAIN.values(), ids=PLAIN.keys())
async def test_a_token_that_may_not_pass_is_dropped_and_the_request_goes_on(
    fields: list[bytes],
) -> None:
    async with proxied() as (gateway, upstream), gateway.connect() as client:
        client.send(request(GET, *fields), request(b"GET /api/v1/svc/next"))
        assert (await client.response()).body == b"ok"
        assert (await client.response()).body == b"ok"
        sent = upstream.requests[0]
        assert not {b"upgrade", b"http2-settings"} & sent.names
        assert not {b"upgrade", b"http2-settings"} & set(sent.tokens("connection"))
        assert [r.target for r in upstream.requests] == [b"/x", b"/next"]


@pytest.mark.parametrize("fields", PLAIN.values(), ids=PLAIN.keys())
async def test_an_upstream_that_switches_without_being_asked_is_502(fields: list[bytes]) -> None:
    script = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    async with proxied(script) as (gateway, upstream), gateway.connect() as client:
        client.send(request(GET, *fields))
        assert_error(await client.response(), 502, "PROXY_ERROR")
        await upstream.links[0].closed()


@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
async def test_a_dropped_upgrade_with_a_body_smuggles_nothing(chunked: bool) -> None:
    inner = request(b"GET /api/v1/svc/smuggled")
    fields = [b"Connection: Upgrade", b"Upgrade: h2c"]
    data = request(b"POST /api/v1/svc/x", *fields, body=inner)
    if chunked:
        data = request(b"POST /api/v1/svc/x", *fields, b"Transfer-Encoding: chunked")
        data += chunks(inner)
    async with proxied() as (gateway, upstream), gateway.connect() as client:
        client.send(data)
        response = await client.response()
        assert response.status in (200, 400)
        if response.status == 400:
            await client.closed()
            assert client.unread == b""
            assert upstream.requests == []
        else:
            assert upstream.requests[0].body == inner
        assert all(r.target != b"/smuggled" for r in upstream.requests)


async def test_a_token_that_the_service_lists_is_a_tunnel() -> None:
    async def script(link: Link) -> None:
        message = await link.request()
        assert message.tokens("upgrade") == [b"mystery/1"]
        link.send(SWITCH.replace(b"websocket", b"mystery/1"))
        link.send(await link.exactly(4))
        await link.closed()

    async with ScriptedUpstream(script) as upstream:
        config = f'[services.svc]\nurl = "{upstream.url}"\nupgrades = ["websocket", "mystery/1"]\n'
        async with start_gateway(config) as gateway, gateway.connect() as client:
            client.send(handshake(token=b"mystery/1"))
            assert (await client.response()).status == 101
            client.send(b"ping")
            assert await client.exactly(4) == b"ping"


@pytest.mark.parametrize("framing", ["counted", "chunked"])
async def test_an_upgrade_with_a_body_is_400_and_closed(framing: str) -> None:
    inner = request(b"GET /api/v1/svc/smuggled")
    if framing == "counted":
        data = handshake(b"Content-Length: %d" % len(inner)) + inner
    else:
        data = handshake(b"Transfer-Encoding: chunked") + chunks(inner)
    async with proxied(switching) as (gateway, upstream), gateway.connect() as client:
        client.send(data)
        assert_error(await client.response(), 400, "BAD_REQUEST")
        await client.closed()
        assert client.unread == b""
        assert upstream.links == []


async def test_an_upgrade_that_nobody_answers_is_an_error_of_the_contract() -> None:
    async def silent(link: Link) -> None:
        await link.request()
        await link.closed()

    async with proxied(silent, HEAD_TIMEOUT=0.3) as (gateway, _), gateway.connect() as client:
        client.send(handshake())
        assert_error(await client.response(), 504, "TIMEOUT")


@contextlib.asynccontextmanager
async def websocket_echo() -> AsyncIterator[tuple[RunningGateway, str]]:
    """A real WebSocket server behind the gateway, and its address through it."""

    async def echo(socket: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in socket:
                if message == "bye":
                    await socket.close(4001, "as you wish")
                await socket.send(message)

    async with serve(echo, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with start_gateway(SVC_URL=f"http://127.0.0.1:{port}") as gateway:
            yield gateway, f"ws://127.0.0.1:{gateway.address[1]}/api/v1/svc/chat"


async def test_a_real_websocket_passes() -> None:
    async with websocket_echo() as (_, url), connect_websocket(url, proxy=None) as socket:
        for message in ("text", b"binary", "x" * 500_000, ""):
            await socket.send(message)
            assert await socket.recv() == message
        assert await asyncio.wait_for(await socket.ping(), PATIENCE_SECONDS) >= 0
        await socket.send("bye")
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you wish")


async def test_a_websocket_to_nowhere_is_refused_with_the_contracts_error() -> None:
    async with websocket_echo() as (_, url):
        with pytest.raises(InvalidStatus) as refused:
            async with connect_websocket(url.replace("/svc/", "/nosuch/"), proxy=None):
                pass
        assert refused.value.response.status_code == 404


async def test_many_websockets_at_once_do_not_mix() -> None:
    async def talk(url: str, number: int) -> None:
        async with connect_websocket(url, proxy=None) as socket:
            for turn_number in range(5):
                await socket.send(f"{number} {turn_number}")
                assert await socket.recv() == f"{number} {turn_number}"

    async with websocket_echo() as (_, url):
        await asyncio.gather(*(talk(url, number) for number in range(20)))
