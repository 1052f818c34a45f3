"""What the gateway refuses to read: it is answered, closed, and nothing of it goes upstream."""

from __future__ import annotations

import pytest

from tests.wire import Message, ScriptedUpstream, assert_error, chunks, proxied, request

PATH = b"/api/v1/svc/x"
SMUGGLED = b"GET /api/v1/svc/smuggled HTTP/1.1\r\nHost: gateway.test\r\n\r\n"


def post(*fields: bytes, body: bytes = b"") -> bytes:
    """A POST with exactly these fields."""
    return b"\r\n".join([b"POST " + PATH + b" HTTP/1.1", b"Host: a", *fields, b"", body])


def get(*fields: bytes) -> bytes:
    """A GET with exactly these fields, no Host of its own."""
    return b"\r\n".join([b"GET " + PATH + b" HTTP/1.1", *fields, b"", b""])


async def refused(data: bytes, **environ: object) -> Message:
    """Sends it with another request behind it: one answer, the end, and nothing upstream."""
    async with proxied(**environ) as (gateway, upstream), gateway.connect() as client:
        client.send(data, SMUGGLED)
        response = await client.response()
        await client.closed()
        assert client.unread == b""
        assert upstream.links == []
        assert b"close" in response.tokens("connection")
    return response


BODY_FRAMING = {
    "length and chunked": post(
        b"Content-Length: 4", b"Transfer-Encoding: chunked", body=chunks(b"a")
    ),
    "chunked and length": post(
        b"Transfer-Encoding: chunked", b"Content-Length: 4", body=chunks(b"a")
    ),
    "two lengths": post(b"Content-Length: 1", b"Content-Length: 1", body=b"a"),
    "two different lengths": post(b"Content-Length: 1", b"Content-Length: 2", body=b"aa"),
    "length with plus": post(b"Content-Length: +1", body=b"a"),
    "negative length": post(b"Content-Length: -1", body=b"a"),
    "listed length": post(b"Content-Length: 1, 1", body=b"a"),
    "overflowing length": post(b"Content-Length: 99999999999999999999999", body=b"a"),
    "hexadecimal length": post(b"Content-Length: 0x1", body=b"a"),
    "length of words": post(b"Content-Length: one", body=b"a"),
    "length of two numbers": post(b"Content-Length: 1 1", body=b"a"),
    "chunked twice": post(
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=chunks(b"a")
    ),
    "chunked not last": post(b"Transfer-Encoding: chunked, identity", body=chunks(b"a")),
    "chunked listed twice": post(b"Transfer-Encoding: chunked, chunked", body=chunks(b"a")),
    "vertical tab before chunked": post(b"Transfer-Encoding: \x0bchunked", body=chunks(b"a")),
    "quoted chunked": post(b'Transfer-Encoding: "chunked"', body=chunks(b"a")),
    "space before the colon": post(b"Transfer-Encoding : chunked", body=chunks(b"a")),
    "space before the colon of the length": post(b"Content-Length : 1", body=b"a"),
    "folded coding": post(b"Transfer-Encoding:\r\n chunked", body=chunks(b"a")),
}

FIELD_LINES = {
    "bare LF after the request line": b"GET " + PATH + b" HTTP/1.1\nHost: a\r\n\r\n",
    "bare LF after a field": get(b"Host: a\nX-A: b"),
    "bare LF at the end": b"GET " + PATH + b" HTTP/1.1\r\nHost: a\n\n",
    "bare CR in a value": get(b"Host: a", b"X-A: b\rX-C: d"),
    "NUL in a value": get(b"Host: a", b"X-A: b\x00c"),
    "NUL in a name": get(b"Host: a", b"X-\x00A: b"),
    "control byte in a value": get(b"Host: a", b"X-A: b\x01c"),
    "folded field": get(b"Host: a", b"X-A: b\r\n c"),
    "folded field with a tab": get(b"Host: a", b"X-A: b\r\n\tc"),
    "fold at the first field": b"GET " + PATH + b" HTTP/1.1\r\n Host: a\r\n\r\n",
    "space in a name": get(b"Host: a", b"X A: b"),
    "space before a colon": get(b"Host: a", b"X-A : b"),
    "no colon": get(b"Host: a", b"X-A"),
    "no name": get(b"Host: a", b": b"),
    "bracketed name": get(b"Host: a", b"X[A]: b"),
}

HOSTS = {
    "no Host": get(),
    "two Hosts": get(b"Host: a", b"Host: b"),
    "the same Host twice": get(b"Host: a", b"Host: a"),
    "two Hosts in different cases": get(b"Host: a", b"HOST: a"),
    "space in Host": get(b"Host: a b"),
    "path in Host": get(b"Host: a/b"),
    "user in Host": get(b"Host: u@a"),
    "bad port in Host": get(b"Host: a:8x"),
    "query in Host": get(b"Host: a?b"),
    "markup in Host": get(b"Host: <a>"),
    "open bracket in Host": get(b"Host: [::1"),
}

REQUEST_LINES = {
    "empty target": b"GET  HTTP/1.1\r\nHost: a\r\n\r\n",
    "control byte in the target": b"GET /api/v1/svc/\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    "DEL in the target": b"GET /api/v1/svc/\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
    "NUL in the target": b"GET /api/v1/svc/\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "non-ASCII in the target": b"GET /api/v1/svc/\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "tab in the target": b"GET /api/v1/svc/\tx HTTP/1.1\r\nHost: a\r\n\r\n",
    "space in the target": b"GET /api/v1/svc/a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "target without a slash": b"GET api/v1/svc/x HTTP/1.1\r\nHost: a\r\n\r\n",
}

ALL_BAD = BODY_FRAMING | FIELD_LINES | HOSTS | REQUEST_LINES


@pytest.mark.parametrize("data", ALL_BAD.values(), ids=ALL_BAD.keys())
async def test_a_malformed_request_is_400_and_closed_and_nothing_goes_upstream(data: bytes) -> None:
    assert_error(await refused(data), 400, "BAD_REQUEST")


@pytest.mark.parametrize("coding", [b"identity", b"xchunked", b"chunkedx", b"gzip"])
async def test_a_coding_that_is_not_chunked_is_refused(coding: bytes) -> None:
    response = await refused(post(b"Transfer-Encoding: " + coding, body=chunks(b"a")))
    assert_error(response, (400, 501), ("BAD_REQUEST", "NOT_IMPLEMENTED"))


async def test_transfer_encoding_on_http_1_0_is_400() -> None:
    data = b"POST " + PATH + b" HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert_error(await refused(data + chunks(b"a")), 400, "BAD_REQUEST")


@pytest.mark.parametrize("version", [b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/3.0"])
async def test_another_version_of_http_is_505(version: bytes) -> None:
    response = await refused(b"GET " + PATH + b" " + version + b"\r\nHost: a\r\n\r\n")
    assert_error(response, 505, "HTTP_VERSION_NOT_SUPPORTED")


@pytest.mark.parametrize(
    "line",
    [
        b"GET " + PATH,
        b"GET " + PATH + b" RTSP/1.0",
        b"DESCRIBE " + PATH + b" RTSP/1.0",
        b"SOURCE " + PATH + b" ICE/1.0",
        b"GET " + PATH + b" ICE/1.0",
        b"GET " + PATH + b" http/1.1",
        b"GET " + PATH + b" HTTP/1.1x",
        b"GET " + PATH + b" HTTP/1,1",
        b"GET " + PATH + b" HTTP/11",
        b"GET " + PATH + b" HTTP/1.",
        b"GET " + PATH + b" XTTP/1.1",
    ],
)
async def test_another_protocol_in_the_request_line_is_refused(line: bytes) -> None:
    response = await refused(line + b"\r\nHost: a\r\n\r\n")
    assert_error(response, (400, 505), ("BAD_REQUEST", "HTTP_VERSION_NOT_SUPPORTED"))


async def test_the_preface_of_http_2_is_refused() -> None:
    response = await refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert_error(response, (400, 505), ("BAD_REQUEST", "HTTP_VERSION_NOT_SUPPORTED"))


@pytest.mark.parametrize(
    "tail",
    [b" HTTP/1.1\r\nHost: a\r\n\r\n", b""],
    ids=["complete", "never ending"],
)
async def test_a_request_line_over_8_kib_is_414(tail: bytes) -> None:
    response = await refused(b"GET /api/v1/svc/" + b"a" * 9000 + tail)
    assert_error(response, 414, "URI_TOO_LONG")


async def test_a_request_line_just_under_8_kib_passes() -> None:
    async with proxied() as (gateway, upstream):
        response = await gateway.ask(request(b"GET /api/v1/svc/" + b"a" * 8000))
        assert response.status == 200
        assert upstream.requests[0].target == b"/" + b"a" * 8000


def many(count: int, size: int) -> list[bytes]:
    """So many field lines of that size."""
    names = [b"X-%d: " % number for number in range(count)]
    return [name + b"v" * (size - len(name)) for name in names]


TOO_LARGE = {
    "one line over 8 KiB": get(b"Host: a", *many(1, 9000)),
    "one line that never ends": get(b"Host: a", *many(1, 9000)).rstrip(),
    "one name over 8 KiB": get(b"Host: a", b"N" * 9000 + b": v"),
    "all over 64 KiB": get(b"Host: a", *many(11, 6500)),
    "129 fields": get(b"Host: a", *many(128, 10)),
    "5000 fields": get(b"Host: a", *many(5000, 10)),
}


@pytest.mark.parametrize("data", TOO_LARGE.values(), ids=TOO_LARGE.keys())
async def test_fields_over_a_limit_are_431(data: bytes) -> None:
    assert_error(await refused(data), 431, "HEADERS_TOO_LARGE")


@pytest.mark.parametrize(
    "fields",
    [many(1, 8000), many(9, 7000), many(127, 10)],
    ids=["one line of 8000 bytes", "63 KiB in all", "128 fields"],
)
async def test_fields_just_under_a_limit_pass(fields: list[bytes]) -> None:
    async with proxied() as (gateway, upstream):
        response = await gateway.ask(get(b"Host: a", *fields))
        assert response.status == 200
        for field in fields:
            assert b"\r\n" + field + b"\r\n" in upstream.requests[0].head


@pytest.mark.parametrize(
    ("setting", "status"),
    [
        ("MAX_REQUEST_LINE_BYTES", 414),
        ("MAX_HEADER_LINE_BYTES", 431),
        ("MAX_HEADERS_BYTES", 431),
    ],
)
async def test_each_size_limit_of_the_head_is_a_setting_of_its_own(
    setting: str, status: int
) -> None:
    target = PATH + b"?" + b"q" * 200
    data = request(b"GET " + target, b"X-Long: " + b"v" * 300)
    async with proxied() as (gateway, _):
        assert (await gateway.ask(data)).status == 200
    async with proxied(**{setting: 200}) as (gateway, _):
        assert (await gateway.ask(data)).status == status


async def test_the_number_of_fields_is_a_setting() -> None:
    async with proxied(MAX_HEADER_COUNT=10) as (gateway, _):
        assert (await gateway.ask(request(b"GET " + PATH, *many(8, 20)))).status == 200
        response = await gateway.ask(request(b"GET " + PATH, *many(12, 20)))
        assert_error(response, 431, "HEADERS_TOO_LARGE")


@pytest.mark.parametrize("size", [999, 1000])
@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
async def test_a_body_up_to_the_limit_passes(size: int, chunked: bool) -> None:
    body = b"b" * size
    framed = post(b"Content-Length: %d" % size, body=body)
    if chunked:
        framed = post(b"Transfer-Encoding: chunked", body=chunks(body[:500], body[500:]))
    async with proxied(MAX_BODY_BYTES=1000) as (gateway, upstream):
        assert (await gateway.ask(framed)).status == 200
        assert upstream.requests[0].body == body


async def test_a_counted_body_over_the_limit_is_413_before_it_is_read() -> None:
    async with proxied(MAX_BODY_BYTES=1000) as (gateway, upstream), gateway.connect() as client:
        client.send(post(b"Content-Length: 1001"))
        assert_error(await client.response(), 413, "PAYLOAD_TOO_LARGE")
        await client.closed()
        assert upstream.requests == []


async def test_a_counted_body_over_the_limit_is_413_also_when_a_continue_is_expected() -> None:
    async with proxied(MAX_BODY_BYTES=1000) as (gateway, upstream), gateway.connect() as client:
        client.send(post(b"Content-Length: 1001", b"Expect: 100-continue"))
        response = await client.response()
        assert_error(response, 413, "PAYLOAD_TOO_LARGE")
        assert response.interim == []
        assert upstream.requests == []


def complete_requests(upstream: ScriptedUpstream) -> list[Message]:
    """Requests that the upstream was given whole (it answers those, and those only)."""
    return [r for r in upstream.requests if r.framing != "chunked" or r.body]


async def test_a_chunked_body_over_the_limit_is_413_and_never_complete_upstream() -> None:
    async with proxied(MAX_BODY_BYTES=1000) as (gateway, upstream), gateway.connect() as client:
        client.send(post(b"Transfer-Encoding: chunked", body=chunks(b"a" * 600, b"b" * 600)))
        assert_error(await client.response(), 413, "PAYLOAD_TOO_LARGE")
        await client.closed()
        for link in upstream.links:
            await link.closed()
            assert not bytes(link.received).endswith(b"\r\n0\r\n\r\n")
        assert complete_requests(upstream) == []


BAD_CHUNKS = {
    "letters in the size": b"5g\r\nhello\r\n0\r\n\r\n",
    "negative size": b"-5\r\nhello\r\n0\r\n\r\n",
    "prefixed size": b"0x5\r\nhello\r\n0\r\n\r\n",
    "empty size": b"\r\nhello\r\n0\r\n\r\n",
    "overflowing size": b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "longer than said": b"5\r\nhello!\r\n0\r\n\r\n",
    "bare LF after the size": b"5\nhello\r\n0\r\n\r\n",
    "bare LF after the data": b"5\r\nhello\n0\r\n\r\n",
    "space before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "bare LF in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "NUL in an extension": b"5;a=\x00\r\nhello\r\n0\r\n\r\n",
    "bad trailer": b"5\r\nhello\r\n0\r\nX Y: z\r\n\r\n",
}


@pytest.mark.parametrize("body", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
async def test_a_malformed_chunk_is_400_and_never_a_complete_request_upstream(body: bytes) -> None:
    async with proxied() as (gateway, upstream), gateway.connect() as client:
        client.send(post(b"Transfer-Encoding: chunked", body=body), SMUGGLED)
        assert_error(await client.response(), 400, "BAD_REQUEST")
        await client.closed()
        assert client.unread == b""
        for link in upstream.links:
            await link.closed()
            assert b"smuggled" not in link.received
            assert not bytes(link.received).endswith(b"\r\n0\r\n\r\n")


@pytest.mark.parametrize("line", [b"X-T: " + b"t" * 6000 + b"\r\n", b"t" * 6000])
async def test_trailers_are_limited_like_fields(line: bytes) -> None:
    async with proxied() as (gateway, upstream), gateway.connect() as client:
        client.send(post(b"Transfer-Encoding: chunked", body=b"1\r\na\r\n0\r\nX-A: "))
        await client.push(line, 200)
        assert_error(await client.response(), 431, "HEADERS_TOO_LARGE")
        await client.closed()
        assert b"\r\n0\r\n" not in upstream.links[0].received


@pytest.mark.parametrize("target", [b"gateway.test:443", b"/api/v1/svc/x"])
async def test_connect_is_refused(target: bytes) -> None:
    async with proxied() as (gateway, upstream):
        response = await gateway.ask(request(b"CONNECT " + target))
        assert response.status in (400, 405, 501)
        assert response.status != 400 or target.startswith(b"/")
        assert response.json()["error"]["request_id"]
        assert upstream.links == []


async def test_options_star_is_answered_by_the_gateway() -> None:
    async with proxied() as (gateway, upstream):
        response = await gateway.ask(request(b"OPTIONS *"))
        assert response.status in (200, 204)
        assert response.all("x-request-id")
        assert upstream.links == []


@pytest.mark.parametrize("scheme", [b"http", b"https", b"HTTP"])
async def test_an_absolute_target_is_routed_by_its_path(scheme: bytes) -> None:
    async with proxied() as (gateway, upstream):
        line = b"GET " + scheme + b"://elsewhere.example:99/api/v1/svc/x?y=z"
        assert (await gateway.ask(request(line, host=b"elsewhere.example:99"))).status == 200
        assert upstream.requests[0].target == b"/x?y=z"


async def test_an_absolute_target_does_not_choose_the_upstream_by_its_host() -> None:
    async with proxied() as (gateway, upstream):
        line = b"GET http://127.0.0.1:%d/admin" % upstream.port
        assert_error(await gateway.ask(request(line)), 404, "NOT_FOUND")
        assert upstream.links == []


async def test_a_request_of_http_1_0_needs_no_host() -> None:
    async with proxied() as (gateway, upstream):
        assert (await gateway.ask(b"GET " + PATH + b" HTTP/1.0\r\n\r\n")).status == 200
        assert upstream.requests[0].start == b"GET /x HTTP/1.1"
        assert upstream.requests[0].get("host")


@pytest.mark.parametrize("host", [b"a", b"a.b-c.example:8081", b"127.0.0.1:1", b"[::1]:8081"])
async def test_an_ordinary_host_is_accepted(host: bytes) -> None:
    async with proxied() as (gateway, _):
        assert (await gateway.ask(request(b"GET " + PATH, host=host))).status == 200
