"""Upstreams that answer nonsense, break off or are not there: what the client is told; no reuse."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from tests.wire import (
    Link,
    ScriptedUpstream,
    TruncatedError,
    answer,
    assert_error,
    chunks,
    closed_port,
    free_port,
    proxied,
    request,
    start_gateway,
)

GET = b"GET /api/v1/svc/x"
OK_HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

MALFORMED = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "body alone": b"hello\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "status 099": b"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n",
    "status 000": b"HTTP/1.1 000 None\r\nContent-Length: 0\r\n\r\n",
    "status 999": b"HTTP/1.1 999 High\r\nContent-Length: 0\r\n\r\n",
    "status 600": b"HTTP/1.1 600 High\r\nContent-Length: 0\r\n\r\n",
    "version 2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "version 0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
    "version 1.2": b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
    "another protocol": b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "NUL in the reason": b"HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n",
    "bare CR in the reason": b"HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n",
    "NUL in a value": OK_HEAD + b"X-A: b\x00c\r\nContent-Length: 0\r\n\r\n",
    "bare CR in a value": OK_HEAD + b"X-A: b\rX-B: c\r\nContent-Length: 0\r\n\r\n",
    "NUL in a name": OK_HEAD + b"X-\x00A: b\r\nContent-Length: 0\r\n\r\n",
    "space in a name": OK_HEAD + b"X A: b\r\nContent-Length: 0\r\n\r\n",
    "no colon": OK_HEAD + b"X-A\r\nContent-Length: 0\r\n\r\n",
    "no name": OK_HEAD + b": b\r\nContent-Length: 0\r\n\r\n",
    "negative length": OK_HEAD + b"Content-Length: -1\r\n\r\n",
    "length with plus": OK_HEAD + b"Content-Length: +2\r\n\r\nok",
    "length of letters": OK_HEAD + b"Content-Length: two\r\n\r\nok",
    "hexadecimal length": OK_HEAD + b"Content-Length: 0x2\r\n\r\nok",
    "overflowing length": OK_HEAD + b"Content-Length: 99999999999999999999999\r\n\r\nok",
    "two different lengths": OK_HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
    "two lengths in a list": OK_HEAD + b"Content-Length: 2, 3\r\n\r\nok!",
    "length and chunked": OK_HEAD
    + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    + chunks(b"ok"),
    "chunked and length": OK_HEAD
    + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n"
    + chunks(b"ok"),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_head_is_502_and_the_connection_is_never_used_again(data: bytes) -> None:
    async with proxied([data, answer(b"good")]) as (gateway, upstream), gateway.connect() as client:
        assert_error(await client.ask(request(GET)), 502, "PROXY_ERROR")
        await upstream.links[0].closed()
        assert (await gateway.ask(request(GET))).body == b"good"
        assert [len(link.requests) for link in upstream.links] == [1, 1]


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1", OK_HEAD, OK_HEAD + b"Content-Length: 2\r\n"])
@pytest.mark.parametrize("how", ["end", "reset"])
async def test_an_upstream_that_ends_inside_the_head_is_502(data: bytes, how: str) -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(data)
        await link.flush()
        if how == "reset":
            link.reset()
        else:
            link.close()

    async with proxied(script) as (gateway, upstream):
        assert_error(await gateway.ask(request(GET)), 502, "PROXY_ERROR")
        assert len(upstream.links) == 1


async def test_a_folded_field_of_an_answer_never_reaches_the_client_folded() -> None:
    data = OK_HEAD + b"X-A: b\r\n X-Evil: c\r\nContent-Length: 2\r\n\r\nok"
    async with proxied(data) as (gateway, _):
        response = await gateway.ask(request(GET))
        assert response.status in (200, 502)
        assert b"x-evil" not in response.names
        assert b"\r\n " not in response.head


EXCESS = {
    "bytes after a counted body": answer(b"ok") + b"excess",
    "a second answer": answer(b"ok") + answer(b"smuggled"),
    "bytes after a chunked body": CHUNKED + chunks(b"ok") + b"excess",
    "a second answer after a chunked body": CHUNKED + chunks(b"ok") + answer(b"smuggled"),
}


@pytest.mark.parametrize("data", EXCESS.values(), ids=EXCESS.keys())
async def test_excess_bytes_with_the_answer_are_502_and_nobody_sees_them(data: bytes) -> None:
    async with proxied([data, answer(b"good")]) as (gateway, upstream), gateway.connect() as client:
        assert_error(await client.ask(request(GET)), 502, "PROXY_ERROR")
        await upstream.links[0].closed()
        async with gateway.connect() as other:
            assert (await other.ask(request(GET))).body == b"good"
        for wire in (client, other):
            assert b"smuggled" not in wire.received
            assert b"excess" not in wire.received


BODY_WHERE_NONE_MAY_BE = {
    "HEAD": (b"HEAD", answer(b"smuggled")),
    "204": (b"GET", b"HTTP/1.1 204 No Content\r\n\r\nsmuggled"),
    "204 with a length": (b"GET", answer(b"smuggled", status=b"204 No Content")),
    "304": (b"GET", answer(b"smuggled", status=b"304 Not Modified")),
}


@pytest.mark.parametrize(
    ("method", "data"), BODY_WHERE_NONE_MAY_BE.values(), ids=BODY_WHERE_NONE_MAY_BE.keys()
)
async def test_a_body_where_none_may_be_is_seen_by_nobody(method: bytes, data: bytes) -> None:
    async with proxied([data, answer(b"good")]) as (gateway, upstream), gateway.connect() as client:
        response = await client.ask(request(method + b" /api/v1/svc/x"))
        assert response.status in (int(data.split(b" ")[1]), 502)
        await upstream.links[0].closed()
        async with gateway.connect() as other:
            assert (await other.ask(request(GET))).body == b"good"
        assert b"smuggled" not in client.received + other.received


@pytest.mark.parametrize("late", [answer(b"smuggled"), b"x", b"HTTP/1.1 408 Timeout\r\n\r\n"])
async def test_bytes_on_an_idle_connection_never_reach_the_next_client(late: bytes) -> None:
    async with proxied([answer(b"first"), answer(b"second")]) as (gateway, upstream):
        assert (await gateway.ask(request(GET))).body == b"first"
        upstream.links[0].send(late)
        await upstream.links[0].closed()
        assert (await gateway.ask(request(GET))).body == b"second"
        assert [len(link.requests) for link in upstream.links] == [1, 1]


TRUNCATED = {
    "counted": OK_HEAD + b"Content-Length: 10\r\n\r\nhalf",
    "counted, none of it": OK_HEAD + b"Content-Length: 10\r\n\r\n",
    "inside a chunk": CHUNKED + b"a\r\nhalf",
    "between chunks": CHUNKED + b"4\r\nhalf\r\n",
    "inside the last chunk": CHUNKED + b"4\r\nhalf\r\n0\r\n",
    "a malformed chunk": CHUNKED + b"4\r\nhalf\r\nxyz\r\n",
}


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("data", TRUNCATED.values(), ids=TRUNCATED.keys())
async def test_a_cut_body_is_seen_as_cut_by_the_client(data: bytes, how: str) -> None:
    async def script(link: Link) -> None:
        await link.request()
        head, _, rest = data.partition(b"\r\n\r\n")
        link.send(head + b"\r\n\r\n")
        await client.until(lambda: client.count, "the head")
        link.send(rest)
        await link.flush()
        if how == "reset":
            link.reset()
        else:
            link.close()

    async with proxied(script) as (gateway, _), gateway.connect() as client:
        with pytest.raises(TruncatedError) as cut:
            await client.ask(request(GET))
        assert cut.value.message.status == 200
        assert b"half".startswith(cut.value.message.body)


@pytest.mark.parametrize("data", TRUNCATED.values(), ids=TRUNCATED.keys())
async def test_a_body_cut_in_the_first_segment_is_cut_or_502(data: bytes) -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(data)
        link.close()

    async with proxied(script) as (gateway, _), gateway.connect() as client:
        try:
            response = await client.ask(request(GET))
        except TruncatedError:
            return
        assert_error(response, 502, "PROXY_ERROR")


async def test_a_client_of_1_0_sees_a_cut_chunked_answer_as_a_reset() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(CHUNKED + b"a\r\nhalf")
        await client.until(lambda: b"half" in client.received, "the first half")
        link.close()

    async with proxied(script) as (gateway, _), gateway.connect() as client:
        client.send(b"GET /api/v1/svc/x HTTP/1.0\r\n\r\n")
        assert await client.closed() == "reset"


async def test_an_upstream_that_refuses_is_503() -> None:
    with closed_port() as port:
        async with start_gateway(SVC_URL=f"http://127.0.0.1:{port}") as gateway:
            assert_error(await gateway.ask(request(GET)), 503, "SERVICE_UNAVAILABLE")
            data = request(b"POST /api/v1/svc/x", body=b"hello")
            assert_error(await gateway.ask(data), 503, "SERVICE_UNAVAILABLE")


async def test_an_upstream_without_an_address_is_503() -> None:
    async with start_gateway(SVC_URL="http://nowhere.invalid") as gateway:
        assert_error(await gateway.ask(request(GET)), 503, "SERVICE_UNAVAILABLE")


@contextlib.contextmanager
def full_listener() -> Iterator[int]:
    """A port whose accept queue is full: connecting to it neither succeeds nor fails."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_a_connection_that_does_not_come_about_is_given_up_in_time() -> None:
    with full_listener() as port:
        url = f"http://127.0.0.1:{port}"
        async with start_gateway(SVC_URL=url, CONNECT_TIMEOUT=0.3) as gateway:
            response = await gateway.ask(request(GET))
            assert_error(response, (503, 504), ("SERVICE_UNAVAILABLE", "TIMEOUT"))


async def test_a_tls_handshake_that_is_not_answered_is_given_up_in_time() -> None:
    async def script(link: Link) -> None:
        await link.closed()

    async with ScriptedUpstream(script) as upstream:
        url = f"https://127.0.0.1:{upstream.port}"
        async with start_gateway(SVC_URL=url, CONNECT_TIMEOUT=0.3) as gateway:
            response = await gateway.ask(request(GET))
            assert_error(response, (503, 504), ("SERVICE_UNAVAILABLE", "TIMEOUT"))
            await upstream.links[0].closed()


async def test_the_next_endpoint_or_the_next_request_is_served_after_a_refusal() -> None:
    port = free_port()
    async with start_gateway(SVC_URL=f"http://127.0.0.1:{port}") as gateway:
        assert (await gateway.ask(request(GET))).status == 503
        async with ScriptedUpstream(port=port):
            assert (await gateway.ask(request(GET))).status == 200


@pytest.mark.parametrize("status", [b"HTTP/1.0 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 200 "])
async def test_an_unusual_but_allowed_status_line_passes(status: bytes) -> None:
    data = status + b"\r\nContent-Length: 2\r\n\r\nok"
    async with proxied(data) as (gateway, _):
        response = await gateway.ask(request(GET))
        assert response.start.startswith(b"HTTP/1.1 200")
        assert response.body == b"ok"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_a_connection_that_the_upstream_will_close_is_not_used_again(data: bytes) -> None:
    async with proxied(data) as (gateway, upstream), gateway.connect() as client:
        for _ in range(2):
            response = await client.ask(request(GET))
            assert response.body == b"ok"
            assert b"close" not in response.tokens("connection")
        assert [len(link.requests) for link in upstream.links] == [1, 1]


async def test_a_redirect_of_the_upstream_is_not_followed() -> None:
    data = answer(b"", b"Location: /api/v1/svc/y", status=b"302 Found")
    async with proxied(data) as (gateway, upstream):
        response = await gateway.ask(request(GET))
        assert response.status == 302
        assert response.get("location") == b"/api/v1/svc/y"
        assert len(upstream.requests) == 1
