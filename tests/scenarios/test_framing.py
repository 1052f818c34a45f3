"""Bodies both ways: counted, chunked, ended by close, absent; interim answers; keep-alive."""

from __future__ import annotations

import asyncio

import pytest

from tests.wire import Link, TruncatedError, answer, assert_error, chunks, proxied, request

GET = b"GET /api/v1/svc/x"
POST = b"POST /api/v1/svc/x"
GET_10 = b"GET /api/v1/svc/x HTTP/1.0\r\nHost: a\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BY_CLOSE = b"HTTP/1.1 200 OK\r\nX-Kind: by close\r\n\r\n"


async def test_a_request_without_a_body_has_no_framing_upstream() -> None:
    async with proxied() as (gateway, upstream):
        await gateway.ask(request(GET))
        assert not {b"content-length", b"transfer-encoding"} & upstream.requests[0].names


@pytest.mark.parametrize(
    "body", [b"", b"x", b"hello\r\n\r\nGET / HTTP/1.1\r\n\r\n", b"\x00" * 70000]
)
async def test_a_counted_body_goes_upstream_with_one_length(body: bytes) -> None:
    async with proxied() as (gateway, upstream):
        assert (await gateway.ask(request(POST, body=body))).status == 200
        assert upstream.requests[0].all("content-length") == [b"%d" % len(body)]
        assert upstream.requests[0].body == body


@pytest.mark.parametrize(
    "body",
    [
        chunks(b"hello", b" ", b"world"),
        b"5;name=value\r\nhello\r\n0006\r\n world\r\n0;last\r\n\r\n",
        b"B\r\nhello world\r\n000\r\n\r\n",
        b'b;a="quoted"\r\nhello world\r\n0\r\n\r\n',
    ],
)
async def test_a_chunked_body_goes_upstream_with_framing_of_our_own(body: bytes) -> None:
    async with proxied() as (gateway, upstream):
        data = request(POST, b"Transfer-Encoding: chunked") + body
        assert (await gateway.ask(data)).status == 200
        sent = upstream.requests[0]
        assert sent.body == b"hello world"
        assert len(sent.all("content-length")) + len(sent.all("transfer-encoding")) == 1
        assert b";" not in bytes(upstream.links[0].received)[len(sent.head) :]


async def test_the_spelling_of_chunked_does_not_matter() -> None:
    async with proxied() as (gateway, upstream):
        data = request(POST, b"transfer-ENCODING: Chunked") + chunks(b"abc")
        assert (await gateway.ask(data)).status == 200
        assert upstream.requests[0].body == b"abc"


async def test_trailers_of_a_request_go_upstream_and_forged_ones_do_not() -> None:
    trailers = (
        b"X-Checksum: abc",
        b"X-User-ID: forged",
        b"X-Forwarded-For: forged",
        b"X-Request-ID: forged",
        b"Authorization: forged",
        b"Host: forged",
        b"Via: forged",
        b"X_User_ID: forged",
    )
    async with proxied() as (gateway, upstream):
        data = request(POST, b"Transfer-Encoding: chunked") + chunks(b"hello", trailers=trailers)
        assert (await gateway.ask(data)).status == 200
        sent = upstream.requests[0]
        assert (b"x-checksum", b"abc") in [(name.lower(), value) for name, value in sent.trailers]
        assert b"forged" not in upstream.links[0].received
        assert sent.get("x-forwarded-for") == b"127.0.0.1"


@pytest.mark.parametrize("trailer", [b"Content-Length: 99", b"Transfer-Encoding: chunked"])
async def test_a_trailer_changes_no_framing(trailer: bytes) -> None:
    data = request(POST, b"Transfer-Encoding: chunked") + chunks(b"hello", trailers=(trailer,))
    async with proxied() as (gateway, upstream), gateway.connect() as client:
        client.send(data)
        response = await client.response()
        assert response.status in (200, 400)
        if response.status == 200:
            assert upstream.requests[0].trailers == []
            assert (await client.ask(request(GET))).status == 200
        else:
            await client.closed()


async def test_a_body_flows_upstream_before_it_is_complete() -> None:
    async with proxied() as (gateway, upstream), gateway.connect() as client:
        client.send(request(POST, b"Content-Length: 10"), b"first")
        link = await upstream.link()
        await link.until(lambda: bytes(link.received).endswith(b"first"), "the first half")
        client.send(b"after")
        assert (await client.response()).status == 200
        assert upstream.requests[0].body == b"firstafter"


async def test_a_chunked_body_flows_upstream_before_it_is_complete() -> None:
    async with proxied() as (gateway, upstream), gateway.connect() as client:
        client.send(request(POST, b"Transfer-Encoding: chunked"), b"5\r\nfirst\r\n")
        link = await upstream.link()
        await link.until(lambda: b"first" in link.received, "the first chunk")
        client.send(chunks(b"after"))
        assert (await client.response()).status == 200
        assert upstream.requests[0].body == b"firstafter"


@pytest.mark.parametrize("body", [b"", b"x", b"\x00\r\n\r\n", b"y" * 200_000])
async def test_a_counted_answer_keeps_its_length_and_the_connection(body: bytes) -> None:
    async with proxied(answer(body)) as (gateway, _), gateway.connect() as client:
        for _ in range(2):
            response = await client.ask(request(GET))
            assert response.framing == "length"
            assert response.body == body


async def test_a_chunked_answer_stays_chunked_and_keeps_the_connection() -> None:
    script = CHUNKED + b"5;x=y\r\nhello\r\n006\r\n world\r\n0\r\n\r\n"
    async with proxied(script) as (gateway, upstream), gateway.connect() as client:
        for _ in range(2):
            response = await client.ask(request(GET))
            assert response.framing == "chunked"
            assert response.body == b"hello world"
        assert len(upstream.links) == 1


async def test_trailers_of_a_chunked_answer_are_passed_on() -> None:
    trailers = (b"X-Checksum: abc", b"X-Request-ID: forged")
    async with proxied(CHUNKED + chunks(b"hello", trailers=trailers)) as (gateway, _):
        response = await gateway.ask(request(GET, b"TE: trailers", b"Connection: TE"))
        assert response.body == b"hello"
        assert [(name.lower(), value) for name, value in response.trailers] == [
            (b"x-checksum", b"abc")
        ]


@pytest.mark.parametrize("trailer", [b"Content-Length: 99", b"Transfer-Encoding: chunked"])
async def test_a_trailer_of_an_answer_changes_no_framing(trailer: bytes) -> None:
    script = [CHUNKED + chunks(b"hello", trailers=(trailer,)), answer(b"next")]
    async with proxied(script) as (gateway, _), gateway.connect() as client:
        client.send(request(GET))
        try:
            response = await client.response()
        except TruncatedError:
            return
        assert response.status in (200, 502)
        assert response.trailers == []
        assert response.status == 502 or (await client.ask(request(GET))).body == b"next"


async def by_close(link: Link) -> None:
    """Answers without a length and ends."""
    await link.request()
    link.send(BY_CLOSE + b"as much as ")
    await link.flush()
    link.send(b"there is")
    link.close()


async def test_an_answer_ended_by_close_is_chunked_for_1_1_and_keeps_the_connection() -> None:
    async with proxied(by_close) as (gateway, upstream), gateway.connect() as client:
        for _ in range(2):
            response = await client.ask(request(GET))
            assert response.framing == "chunked"
            assert response.body == b"as much as there is"
            assert response.get("x-kind") == b"by close"
        assert len(upstream.links) == 2


async def test_an_answer_ended_by_close_is_ended_by_close_for_1_0() -> None:
    async with proxied(by_close) as (gateway, _):
        response = await gateway.ask(GET_10)
        assert response.framing == "close"
        assert response.body == b"as much as there is"
        assert b"keep-alive" not in response.tokens("connection")


async def test_a_chunked_answer_reaches_a_1_0_client_without_chunks() -> None:
    script = CHUNKED + chunks(b"hello", b" world", trailers=(b"X-T: t",))
    async with proxied(script) as (gateway, _), gateway.connect() as client:
        client.send(GET_10)
        response = await client.response()
        assert b"transfer-encoding" not in response.names
        assert response.body == b"hello world"
        assert await client.closed() == "eof"


async def test_a_client_of_1_0_is_closed_after_the_answer() -> None:
    async with proxied() as (gateway, _), gateway.connect() as client:
        assert (await client.ask(GET_10)).body == b"ok"
        assert await client.closed() == "eof"


async def test_a_client_of_1_0_that_wants_to_stay_may_go_on_if_it_is_told_so() -> None:
    data = b"GET /api/v1/svc/x HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
    async with proxied() as (gateway, _), gateway.connect() as client:
        response = await client.ask(data)
        assert response.body == b"ok"
        if b"keep-alive" in response.tokens("connection"):
            assert (await client.ask(data)).body == b"ok"
        else:
            assert await client.closed() == "eof"


NO_BODY = {
    "HEAD, counted": (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
    "HEAD, chunked": (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "HEAD, neither": (b"HEAD", b"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n"),
    "HEAD, 404": (b"HEAD", b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n"),
    "204": (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
    "204 with a length": (b"GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
    "304": (b"GET", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"),
    "304 with a length": (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
    "DELETE, 204": (b"DELETE", b"HTTP/1.1 204 No Content\r\n\r\n"),
}


@pytest.mark.parametrize(("method", "script"), NO_BODY.values(), ids=NO_BODY.keys())
async def test_an_answer_without_a_body_is_complete_with_its_head(
    method: bytes, script: bytes
) -> None:
    async with (
        proxied([script, answer(b"next")]) as (gateway, _),
        gateway.connect() as client,
    ):
        response = await client.ask(request(method + b" /api/v1/svc/x"))
        assert response.status == int(script.split(b" ")[1])
        assert (await client.ask(request(GET))).body == b"next"


async def test_the_length_in_an_answer_to_head_is_passed_on() -> None:
    async with proxied(NO_BODY["HEAD, counted"][1]) as (gateway, upstream):
        response = await gateway.ask(request(b"HEAD /api/v1/svc/x"))
        assert response.get("content-length") == b"5"
        assert upstream.requests[0].method == b"HEAD"


async def test_a_connection_is_used_again_after_an_answer_to_head() -> None:
    script = [NO_BODY["HEAD, counted"][1], NO_BODY["204"][1], NO_BODY["304"][1], answer(b"end")]
    async with proxied(script) as (gateway, upstream), gateway.connect() as client:
        for method in (b"HEAD", b"GET", b"GET", b"GET"):
            response = await client.ask(request(method + b" /api/v1/svc/x"))
        assert response.body == b"end"
        assert len(upstream.links) == 1


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", BY_CLOSE])
async def test_each_piece_of_an_answer_is_passed_on_as_it_comes(head: bytes) -> None:
    seen = asyncio.Event()

    async def script(link: Link) -> None:
        await link.request()
        link.send(head + b"first")
        await seen.wait()
        link.send(b"after")
        link.close()

    async with proxied(script) as (gateway, _), gateway.connect() as client:
        client.send(request(GET))
        await client.until(lambda: b"first" in client.received, "the first piece")
        seen.set()
        assert (await client.response()).body == b"firstafter"


async def test_each_event_of_a_chunked_stream_is_passed_on_as_it_comes() -> None:
    wanted: asyncio.Queue[None] = asyncio.Queue()

    async def script(link: Link) -> None:
        await link.request()
        link.send(CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Type: text/event-stream\r\n\r\n"))
        for number in range(3):
            await wanted.get()
            link.send(b"9\r\ndata: %d\n\n\r\n" % number)
        link.send(b"0\r\n\r\n")

    async with proxied(script) as (gateway, _), gateway.connect() as client:
        client.send(request(GET))
        await client.until(lambda: b"\r\n\r\n" in client.received, "the head")
        for number in range(3):
            wanted.put_nowait(None)
            await client.until(lambda n=number: b"data: %d" % n in client.received, "the event")  # type: ignore[misc]
        assert (await client.response()).body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"


async def test_connection_close_of_the_client_ends_its_connection_only() -> None:
    async with proxied() as (gateway, upstream):
        for _ in range(2):
            async with gateway.connect() as client:
                response = await client.ask(request(GET, b"Connection: close"))
                assert b"close" in response.tokens("connection")
                assert response.body == b"ok"
                assert await client.closed() == "eof"
        assert len(upstream.links) == 1


async def test_what_follows_a_connection_close_is_not_run() -> None:
    async with proxied() as (gateway, upstream), gateway.connect() as client:
        client.send(request(GET, b"Connection: close"), request(b"GET /api/v1/svc/second"))
        assert (await client.response()).body == b"ok"
        await client.closed()
        assert client.unread == b""
        assert [r.target for r in upstream.requests] == [b"/x"]


@pytest.mark.parametrize("split", [False, True], ids=["one segment", "two segments"])
async def test_103_is_passed_on_before_the_answer(split: bool) -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
        if split:
            await client.until(lambda: b" 103 " in client.received, "the hint")
        link.send(answer(b"page"))
        await link.reply(answer(b"next"))

    async with proxied(script) as (gateway, _), gateway.connect() as client:
        response = await client.ask(request(GET))
        assert [i.status for i in response.interim] == [103]
        assert response.interim[0].get("link") == b"</a.css>; rel=preload"
        assert response.body == b"page"
        assert (await client.ask(request(GET))).body == b"next"


async def test_several_interim_answers_are_passed_on() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: %d\r\n\r\n"
    script = hints % 1 + b"HTTP/1.1 102 Processing\r\n\r\n" + hints % 2 + answer(b"page")
    async with proxied(script) as (gateway, _):
        response = await gateway.ask(request(GET))
        assert [i.status for i in response.interim if i.status == 103] == [103, 103]
        assert response.body == b"page"


async def test_a_client_of_1_0_is_sent_no_interim_answer() -> None:
    async with proxied(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + answer()) as (gateway, _):
        response = await gateway.ask(GET_10)
        assert response.status == 200
        assert response.interim == []


async def test_a_hint_and_a_cut_answer_in_one_segment_are_a_hint_and_an_end() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Le")
        link.close()

    async with proxied(script) as (gateway, _):
        response = await gateway.ask(request(GET))
        assert_error(response, 502, "PROXY_ERROR")


async def test_a_hint_and_a_cut_body_in_one_segment_do_not_hang() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + answer(b"0123456789")[:-5])
        link.close()

    async with proxied(script) as (gateway, _), gateway.connect() as client:
        with pytest.raises(TruncatedError):
            await client.ask(request(GET))


async def test_100_continue_is_asked_of_the_upstream_and_its_100_relayed() -> None:
    async def script(link: Link) -> None:
        head = await link.head()
        assert head.tokens("expect") == [b"100-continue"]
        assert link.unread == b""
        link.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = (await link.body(head)).body
        link.send(answer(b"got " + body))

    async def go_on(_: object) -> None:
        client.send(b"hello")

    async with proxied(script) as (gateway, _), gateway.connect() as client:
        client.send(request(POST, b"Expect: 100-continue", b"Content-Length: 5"))
        response = await client.response(tell=go_on)
        assert [i.status for i in response.interim] == [100]
        assert response.body == b"got hello"


@pytest.mark.parametrize("status", [b"417 Expectation Failed", b"401 Unauthorized", b"200 OK"])
async def test_a_final_answer_to_an_expectation_comes_without_a_100(status: bytes) -> None:
    async def script(link: Link) -> None:
        await link.head()
        link.send(answer(b"no", status=status))
        await link.closed()

    async with proxied(script) as (gateway, _), gateway.connect() as client:
        client.send(request(POST, b"Expect: 100-continue", b"Content-Length: 5"))
        response = await client.response()
        assert response.start == b"HTTP/1.1 " + status
        assert response.interim == []
        if b"close" in response.tokens("connection"):
            await client.closed()


async def test_a_body_sent_without_waiting_for_the_100_passes() -> None:
    async with proxied() as (gateway, upstream), gateway.connect() as client:
        client.send(request(POST, b"Expect: 100-continue", body=b"hello"))
        assert (await client.response()).body == b"ok"
        assert upstream.requests[0].body == b"hello"


@pytest.mark.parametrize("status", [b"413 Content Too Large", b"200 OK"])
async def test_an_early_final_answer_ends_the_upload(status: bytes) -> None:
    async def script(link: Link) -> None:
        await link.head()
        link.send(answer(b"enough", status=status))
        await link.closed()

    async with proxied(script) as (gateway, upstream), gateway.connect() as client:
        client.send(request(POST, b"Content-Length: 1000000"), b"b" * 1000)
        response = await client.response()
        assert response.start == b"HTTP/1.1 " + status
        assert response.body == b"enough"
        await upstream.links[0].closed()
        assert (await gateway.ask(request(GET))).status == int(status[:3])
        assert len(upstream.links) == 2


async def test_an_early_final_answer_does_not_turn_the_rest_of_the_body_into_a_request() -> None:
    async def script(link: Link) -> None:
        await link.head()
        link.send(answer(b"enough"))

    smuggled = request(b"GET /api/v1/svc/smuggled")
    async with proxied(script) as (gateway, upstream), gateway.connect() as client:
        client.send(request(POST, b"Content-Length: %d" % (len(smuggled) + 10)), b"0123456789")
        assert (await client.response()).body == b"enough"
        client.send(smuggled, request(b"GET /api/v1/svc/after", b"Connection: close"))
        await client.closed()
        assert all(b"/smuggled " not in r.start for r in upstream.requests)


async def test_an_unrequested_101_is_502_and_no_tunnel() -> None:
    script = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    )
    async with proxied(script) as (gateway, upstream), gateway.connect() as client:
        client.send(request(GET))
        assert_error(await client.response(), 502, "PROXY_ERROR")
        await upstream.links[0].closed()
