"""Bytes in, messages out: the wire as it comes, in whatever pieces, and what is made of it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.reading import HeadLimits, RequestReader, ResponseReader

LIMITS = HeadLimits()
TIGHT = HeadLimits(request_line_bytes=64, header_line_bytes=64, headers_bytes=256, header_count=6)
GET = b"GET /x HTTP/1.1\r\nHost: gateway.test\r\n\r\n"
CHUNKED = b"POST /x HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n"


def counted(size: int) -> bytes:
    return b"POST /x HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: %d\r\n\r\n" % size


def read(*pieces: bytes, limits: HeadLimits = LIMITS) -> tuple[RequestReader, bytes]:
    """Feed the pieces to one request; what is behind its end comes back."""
    reader = RequestReader(limits)
    behind = b""
    for piece in pieces:
        done = reader.complete or reader.failure is not None
        behind += piece if done else reader.feed(piece)
    return reader, behind


def refused(*pieces: bytes, limits: HeadLimits = LIMITS) -> int:
    """The status of the refusal that must come, after which the connection closes."""
    reader, _ = read(*pieces, limits=limits)
    assert reader.failure is not None, reader
    assert reader.failure.close
    assert repr(reader) == "<RequestReader failed>"
    return reader.failure.status


# Requests


def test_a_request_without_a_body_ends_with_its_head() -> None:
    reader, behind = read(GET + GET)
    assert reader.complete
    assert reader.head is not None
    assert reader.head.method == b"GET"
    assert reader.head.target == b"/x"
    assert reader.head.host == b"gateway.test"
    assert reader.body == []
    assert behind == GET


def test_a_reader_shows_how_far_it_is() -> None:
    reader = RequestReader(LIMITS)
    assert reader.idle
    assert repr(reader) == "<RequestReader idle>"
    reader.feed(b"P")
    assert repr(reader) == "<RequestReader head>"
    reader.feed(counted(3)[1:] + b"ab")
    assert repr(reader) == "<RequestReader body>"
    reader.feed(b"c")
    assert repr(reader) == "<RequestReader complete>"
    reader.rest()
    assert reader.idle


def test_the_next_request_begins_by_itself() -> None:
    reader = RequestReader(LIMITS)
    rest = reader.feed(counted(3) + b"abc" + GET.replace(b"/x", b"/y"))
    assert b"".join(reader.body) == b"abc"
    assert reader.feed(rest) == b""
    assert reader.complete
    assert reader.head is not None
    assert reader.head.target == b"/y"
    assert reader.body == []


def test_empty_lines_before_a_request_are_nothing() -> None:
    # RFC 9112 §2.2
    reader = RequestReader(LIMITS)
    assert reader.feed(b"\r\n") == b""
    assert reader.idle
    assert reader.feed(b"\r\n\r\n" + GET) == b""
    assert reader.complete


def test_a_counted_body_ends_by_its_count_whatever_is_in_it() -> None:
    body = b"\r\n\r\n" + GET
    reader, behind = read(counted(len(body)) + body[:7], body[7:] + GET)
    assert b"".join(reader.body) == body
    assert reader.complete
    assert behind == GET


def test_a_count_of_zero_is_no_body() -> None:
    reader, behind = read(counted(0) + GET)
    assert reader.complete
    assert behind == GET


def test_the_body_is_there_as_it_comes() -> None:
    reader = RequestReader(LIMITS)
    reader.feed(counted(4) + b"ab")
    assert reader.body == [b"ab"]
    reader.body.clear()
    reader.feed(b"cd")
    assert reader.body == [b"cd"]


def test_a_chunked_body_is_put_together_and_its_trailers_kept_apart() -> None:
    wire = (
        b'3;a="b;c"\r\nabc\r\n'
        b"4\r\n\r\n\r\n\r\n"
        b"00A;x\r\n0123456789\r\n"
        b"0\r\nX-Sum: 1\r\nHost: x\r\n\r\n"
    )
    reader, behind = read(CHUNKED + wire + GET)
    assert reader.complete
    assert b"".join(reader.body) == b"abc\r\n\r\n0123456789"
    assert reader.trailers == [(b"X-Sum", b"1"), (b"Host", b"x")]
    assert reader.head is not None
    assert reader.head.host == b"gateway.test"
    assert behind == GET


def test_trailers_have_no_say_over_the_connection() -> None:
    reader = RequestReader(LIMITS)
    wire = CHUNKED + b"0\r\nConnection: close\r\nHost: other.test\r\n\r\n"
    rest = reader.feed(wire + GET)
    assert reader.complete
    assert rest == GET
    assert reader.feed(rest) == b""
    assert reader.complete
    assert reader.failure is None
    assert reader.trailers == []


@pytest.mark.parametrize(
    "wire",
    [
        b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /x HTTP/1.1\r\n\r\n",
        b"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        counted(3)[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        counted(3)[:-2] + b"Content-Length: 3\r\n\r\nabc",
        CHUNKED.replace(b"chunked", b"chunked, identity") + b"0\r\n\r\n",
        CHUNKED.replace(b"chunked", b"xchunked") + b"0\r\n\r\n",
        CHUNKED.replace(b"Encoding:", b"Encoding :") + b"0\r\n\r\n",
        counted(3).replace(b"3", b"+3") + b"abc",
        counted(3).replace(b"3", b"3, 3") + b"abc",
        counted(3).replace(b"3", b"99999999999999999999") + b"abc",
        GET.replace(b"\r\nHost", b"\nHost"),
        GET.replace(b"gateway", b"gate\rway"),
        GET.replace(b"gateway", b"gate\x00way"),
        GET.replace(b"gateway", b"gate\r\n way"),
        GET.replace(b"/x", b"/\xc3\xa9"),
        GET.replace(b"/x ", b""),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"get /x HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_a_malformed_request_is_a_bad_request(wire: bytes) -> None:
    assert refused(wire) == 400


@pytest.mark.parametrize(
    "body",
    [
        *(b"x\r\n", b"-1\r\n", b"+1\r\na\r\n", b"0x1\r\na\r\n", b"1 \r\na\r\n", b"1\na\r\n"),
        *(
            b"1\r\nab\r\n",
            b"ffffffffffffffffff\r\n",
            b"\r\n",
            b"1;\x00\r\na\r\n",
            b"0\r\n a\r\n\r\n",
        ),
    ],
)
def test_a_malformed_chunk_is_a_bad_request(body: bytes) -> None:
    reader, _ = read(CHUNKED + body)
    assert reader.failure is not None
    assert reader.failure.status == 400
    assert "request body is malformed" in reader.failure.message
    assert not reader.complete


@pytest.mark.parametrize(
    "version", [b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/3.0", b"RTSP/1.0", b"ICE/1.0"]
)
def test_another_version_is_not_supported(version: bytes) -> None:
    assert refused(GET.replace(b"HTTP/1.1", version)) in (400, 505)
    if version.startswith(b"HTTP/"):
        assert refused(GET.replace(b"HTTP/1.1", version)) == 505


def test_rtsp_and_ice_are_not_taken_for_http() -> None:
    for start in (b"OPTIONS rtsp://a/ RTSP/1.0", b"SOURCE /x ICE/1.0", b"PLAY /x RTSP/1.0"):
        assert refused(start + b"\r\nHost: a\r\n\r\n") in (400, 505)


def test_http_2_with_prior_knowledge_is_told_the_version() -> None:
    assert refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)) == 505


def test_http_10_is_read() -> None:
    reader, behind = read(b"GET /x HTTP/1.0\r\n\r\n" + GET)
    assert reader.complete
    assert reader.head is not None
    assert not reader.head.keep_alive
    assert behind == GET


def test_nothing_is_read_behind_an_upgrade() -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    reader, behind = read(GET[:-2] + upgrade + b"\x81\x05hello" + GET)
    assert reader.complete
    assert reader.head is not None
    assert reader.head.upgrade == b"websocket"
    assert reader.body == []
    assert behind == b"\x81\x05hello" + GET
    assert refused(counted(5)[:-2] + upgrade + b"hello") == 400
    assert refused(CHUNKED[:-2] + upgrade + b"0\r\n\r\n") == 400


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("connection", [b"Upgrade", b"keep-alive, upgrade", b"keep-alive"])
def test_a_body_is_never_taken_for_the_next_request(version: bytes, connection: bytes) -> None:
    head = counted(len(GET)).replace(b"HTTP/1.1", b"HTTP/" + version)[:-2]
    lines = b"Connection: " + connection + b"\r\nUpgrade: websocket\r\n\r\n"
    reader, behind = read(head + lines + GET)
    if reader.failure is None:
        assert b"".join(reader.body) == GET
        assert reader.complete
        assert behind == b""


def test_the_request_line_has_a_limit() -> None:
    line = b"GET /%b HTTP/1.1" % (b"a" * (64 - 14))
    assert len(line) == 64
    reader, _ = read(line + b"\r\nHost: a\r\n\r\n", limits=TIGHT)
    assert reader.complete
    longer = line.replace(b"/a", b"/aa")
    assert refused(longer + b"\r\nHost: a\r\n\r\n", limits=TIGHT) == 414
    assert refused(*(bytes([byte]) for byte in longer), limits=TIGHT) == 414
    assert refused(b"a" * 1000, limits=TIGHT) == 414


def test_a_header_line_has_a_limit() -> None:
    fits = b"X-Long: " + b"a" * 54 + b"\r\n"
    assert len(fits) == 64
    reader, _ = read(GET[:-2] + fits + b"\r\n", limits=TIGHT)
    assert reader.complete
    longer = fits.replace(b": a", b": aa")
    assert refused(GET[:-2] + longer + b"\r\n", limits=TIGHT) == 431
    agent = longer.replace(b"X-Long", b"Accept")
    assert refused(GET[:-2] + agent + b"\r\n", limits=TIGHT) == 431


def test_all_header_lines_together_have_a_limit() -> None:
    lines = b"".join(b"X-%d: %b\r\n" % (number, b"a" * 55) for number in range(5))
    assert refused(GET[:-2] + lines + b"\r\n", limits=TIGHT) == 431
    endless = [b"X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n"] * 8
    assert refused(GET[:-2], *endless, limits=TIGHT) == 431
    assert refused(GET[:-2], *[b"a"] * 300, limits=TIGHT) == 431


def test_header_lines_have_a_count() -> None:
    lines = [b"X-%d: 1\r\n" % number for number in range(6)]
    reader, _ = read(GET[:-2] + b"".join(lines[:5]) + b"\r\n", limits=TIGHT)
    assert reader.complete
    assert refused(GET[:-2] + b"".join(lines) + b"\r\n", limits=TIGHT) == 431


def test_header_lines_that_go_no_further_count_too() -> None:
    dropped = b"X-User-ID: 1\r\nKeep-Alive: 5\r\n"
    reader, _ = read(GET[:-2] + dropped + b"\r\n", limits=TIGHT)
    assert reader.head is not None
    assert reader.head.fields == []
    assert refused(GET[:-2] + dropped * 3 + b"\r\n", limits=TIGHT) == 431


def test_the_standard_limits_are_those_of_the_settings() -> None:
    assert HeadLimits(8192, 8192, 65536, 128) == LIMITS
    assert refused(GET.replace(b"/x", b"/" + b"x" * 8192)) == 414
    assert refused(GET[:-2] + b"X: " + b"a" * 8192 + b"\r\n\r\n") == 431


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000])
def test_chunk_extensions_and_trailers_have_the_limit_of_a_head(piece_bytes: int) -> None:
    def pieces(data: bytes) -> list[bytes]:
        return [data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes)]

    assert refused(CHUNKED, *pieces(b"1;" + b"a" * 400), limits=TIGHT) == 431
    assert refused(CHUNKED, *pieces(b"0\r\n" + b"X: y\r\n" * 80 + b"\r\n"), limits=TIGHT) == 431


def test_a_long_chunked_body_meets_no_limit_of_heads() -> None:
    reader = RequestReader(TIGHT)
    reader.feed(CHUNKED)
    for _ in range(500):
        reader.feed(b"5\r\nhello\r\n")
    reader.feed(b"0\r\n\r\n")
    assert reader.complete
    assert len(b"".join(reader.body)) == 2500


def test_behind_a_failure_nothing_is_read() -> None:
    reader = RequestReader(LIMITS)
    rest = reader.feed(b"GET /x HTTP/1.1\r\n\r\n" + GET)
    assert reader.failure is not None
    assert reader.feed(rest) == rest == GET
    assert not reader.complete


# Whatever the pieces are


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FLOW = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def receive(*pieces: bytes, is_head: bool = False, limits: HeadLimits = LIMITS) -> ResponseReader:
    reader = ResponseReader(limits)
    reader.expect(is_head=is_head)
    for piece in pieces:
        reader.feed(piece)
    return reader


def body_of(reader: ResponseReader) -> bytes:
    return b"".join(reader.body)


@dataclass(frozen=True)
class Sent:
    """A valid message and what it says."""

    wire: bytes
    body: bytes
    trailers: tuple[tuple[bytes, bytes], ...]


BODIES = st.one_of(
    st.binary(max_size=60),
    st.lists(st.sampled_from([b"\r\n", b"\r", b"0\r\n\r\n", b"a", GET]), max_size=5).map(b"".join),
)
EXTENSIONS = st.sampled_from([b"", b";a", b";a=b", b';a="x;y"', b";a=b;c"])
FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b"X-Sum", b"x-other", b"Connection", b"Host", b"A"]),
        st.sampled_from([b"", b"1", b"close", b"a b", b"\xc3\xa9"]),
    ),
    max_size=3,
).map(tuple)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, Sent]:
    """The line that frames a body, and the body on the wire."""
    kind = draw(st.sampled_from(["none", "counted", "chunked"]))
    if kind == "none":
        return b"", Sent(b"", b"", ())
    if kind == "counted":
        body = draw(BODIES)
        return b"Content-Length: %d\r\n" % len(body), Sent(body, body, ())
    chunks = [chunk for chunk in draw(st.lists(BODIES, max_size=4)) if chunk]
    wire = b""
    for chunk in chunks:
        size = draw(st.sampled_from([b"%x", b"%X", b"%04x"])) % len(chunk)
        wire += size + draw(EXTENSIONS) + b"\r\n" + chunk + b"\r\n"
    trailers = draw(FIELDS)
    lines = b"".join(b"%b: %b\r\n" % field for field in trailers)
    wire += b"0" + draw(EXTENSIONS) + b"\r\n" + lines + b"\r\n"
    return b"Transfer-Encoding: chunked\r\n", Sent(wire, b"".join(chunks), trailers)


def cut(draw: st.DrawFn, wire: bytes) -> list[bytes]:
    if draw(st.booleans()) and len(wire) < 400:
        return [wire[at : at + 1] for at in range(len(wire))]
    cuts = sorted(draw(st.sets(st.integers(1, len(wire) - 1), max_size=8)))
    return [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]


@given(st.data())
def test_a_request_is_the_same_in_whatever_pieces_it_comes(data: st.DataObject) -> None:
    framing, sent = data.draw(bodies())
    plain = data.draw(st.lists(st.sampled_from([b"X-A: 1\r\n", b"X-B:\r\n"]), max_size=3))
    head = b"PUT /x?y HTTP/1.1\r\nHost: gateway.test\r\n" + b"".join(plain) + framing + b"\r\n"
    rest = data.draw(st.sampled_from([b"", GET, b"G", b"\x00", b"\r\n" + GET, b"HTTP"]))
    pieces = data.draw(st.composite(cut)(head + sent.wire + rest))
    reader, behind = read(*pieces)
    assert reader.failure is None
    assert reader.complete
    assert reader.head is not None
    assert (reader.head.method, reader.head.target) == (b"PUT", b"/x?y")
    assert len(reader.head.fields) == len(plain)
    assert b"".join(reader.body) == sent.body
    assert tuple(reader.trailers) == sent.trailers
    assert behind == rest
    assert reader.feed(GET) == b""
    assert reader.complete
    assert reader.trailers == []
    assert reader.body == []


@given(st.data())
def test_a_response_is_the_same_in_whatever_pieces_it_comes(data: st.DataObject) -> None:
    framing, sent = data.draw(bodies())
    if not framing:
        framing = b"Content-Length: 0\r\n"
    interim = data.draw(st.sampled_from([b"", b"HTTP/1.1 103 Hints\r\nLink: a\r\n\r\n"]))
    head = b"HTTP/1.1 200 Fine\r\nX-A: 1\r\n" + framing + b"\r\n"
    excess = data.draw(st.sampled_from([b"", OK, b"\x00", b"HTT"]))
    wire = interim + head + sent.wire + excess
    pieces = data.draw(st.composite(cut)(wire))
    reader = receive(*pieces)
    assert reader.failure is None
    assert reader.complete
    assert len(reader.interim) == bool(interim)
    assert reader.head is not None
    assert (reader.head.status, reader.head.reason) == (200, b"Fine")
    assert reader.head.fields == [(b"X-A", b"1")]
    assert body_of(reader) == sent.body
    assert reader.excess is bool(excess)
    if not excess:
        assert tuple(reader.trailers) == sent.trailers


@given(st.data())
def test_pipelined_requests_come_out_one_by_one(data: st.DataObject) -> None:
    sent = data.draw(st.lists(bodies(), min_size=1, max_size=4))
    head = b"PUT /%d HTTP/1.1\r\nHost: a\r\n%b\r\n"
    messages = [head % (number, made[0]) + made[1].wire for number, made in enumerate(sent)]
    reader, read_so_far = RequestReader(LIMITS), []
    for piece in data.draw(st.composite(cut)(b"".join(messages))):
        rest = piece
        while rest:
            rest = reader.feed(rest)
            assert reader.failure is None
            if reader.complete:
                assert reader.head is not None
                read_so_far.append((reader.head.target, b"".join(reader.body)))
                reader.rest()
    assert read_so_far == [(b"/%d" % number, made[1].body) for number, made in enumerate(sent)]
    assert reader.idle
