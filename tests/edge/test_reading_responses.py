"""Responses as they come from a back end, whole, odd or broken.

That the pieces they come in do not matter is in test_reading.py.
"""

from __future__ import annotations

import pytest

from gateway.edge.reading import HeadLimits, ResponseReader

LIMITS = HeadLimits()
TIGHT = HeadLimits(headers_bytes=256, header_count=6)
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


def test_a_counted_response_ends_by_its_count() -> None:
    reader = receive(OK[:-1])
    assert repr(reader) == "<ResponseReader body>"
    assert not reader.by_close
    reader.feed(b"k")
    assert reader.complete
    assert body_of(reader) == b"ok"
    assert reader.keep_alive
    assert not reader.excess
    assert repr(reader) == "<ResponseReader complete>"
    assert reader.head is not None
    assert (reader.head.status, reader.head.reason) == (200, b"OK")


def test_a_response_is_untouched_until_its_first_byte() -> None:
    assert receive().untouched
    assert repr(receive()) == "<ResponseReader head>"
    assert not receive(b"H").untouched


def test_a_connection_reads_one_response_after_the_other() -> None:
    reader = receive(OK)
    flow = FLOW + b"3\r\nabc\r\n0\r\nConnection: close\r\n\r\n"
    for wire in (flow, OK, b"HTTP/1.1 204 None\r\n\r\n", OK):
        reader.expect(is_head=False)
        assert reader.untouched
        reader.feed(wire)
        assert reader.complete
        assert reader.failure is None
        assert not reader.excess
    assert body_of(reader) == b"ok"
    assert reader.trailers == []


def test_a_chunked_response_has_trailers() -> None:
    reader = receive(FLOW, b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n")
    assert reader.complete
    assert body_of(reader) == b"abc"
    assert reader.trailers == [(b"X-Sum", b"1")]


def test_a_response_that_is_not_framed_ends_with_the_connection() -> None:
    reader = receive(b"HTTP/1.1 200 OK\r\n\r\nabc", b"def")
    assert reader.by_close
    assert not reader.complete
    assert not reader.keep_alive
    assert body_of(reader) == b"abcdef"


def test_hop_by_hop_fields_of_a_response_go_no_further() -> None:
    reader = receive(OK.replace(b"\r\n", b"\r\nAlt-Svc: h3\r\nX-One: 1\r\n", 1))
    assert reader.head is not None
    assert reader.head.fields == [(b"X-One", b"1")]


def test_a_response_may_ask_to_close() -> None:
    assert not receive(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")).keep_alive
    assert not receive(OK.replace(b"1.1", b"1.0")).keep_alive


def test_the_answer_to_head_has_no_body_whatever_it_counts() -> None:
    for wire in (OK[:-2], FLOW, b"HTTP/1.1 200 OK\r\n\r\n"):
        reader = receive(wire, is_head=True)
        assert reader.complete
        assert body_of(reader) == b""
        assert not reader.excess
    reader = receive(OK[:-2], is_head=True)
    reader.expect(is_head=False)
    reader.feed(OK)
    assert reader.complete
    assert body_of(reader) == b"ok"


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_204_and_304_have_no_body(wire: bytes) -> None:
    reader = receive(wire)
    assert reader.complete
    assert body_of(reader) == b""
    assert not reader.excess
    assert receive(wire + b"hello").excess


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize(
    ("wire", "excess", "is_head"),
    [
        (OK, b"x", False),
        (OK, OK, False),
        (OK, b"\x00", False),
        (FLOW + b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", False),
        (FLOW + b"0\r\n\r\n", b"H", False),
        (OK[:-2], b"ok", True),
        (FLOW, b"2\r\nok\r\n0\r\n\r\n", True),
        (FLOW, b"0\r\n\r\n", True),
        (OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), b"x", False),
    ],
)
def test_bytes_behind_a_response_are_nobodys(
    wire: bytes, excess: bytes, is_head: bool, split: bool
) -> None:
    reader = receive(*((wire, excess) if split else (wire + excess,)), is_head=is_head)
    assert reader.complete
    assert reader.excess
    assert body_of(reader) == (b"ok" if wire.endswith(b"ok") else b"")
    assert reader.head is not None
    assert reader.head.status == 200


def test_bytes_behind_the_last_counted_one_are_nobodys() -> None:
    reader = receive(OK[:-1], b"k" + OK)
    assert reader.complete
    assert reader.excess
    assert body_of(reader) == b"ok"


def test_interim_responses_come_before_the_final_one() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    reader = receive(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert [head.status for head in reader.interim] == [100]
    assert repr(reader) == "<ResponseReader head>"
    reader.feed(early + OK)
    assert [head.status for head in reader.interim] == [100, 103]
    assert reader.interim[1].reason == b"Early Hints"
    assert reader.interim[1].fields == [(b"Link", b"</a>")]
    assert reader.head is not None
    assert reader.head.reason == b"OK"
    assert reader.head.fields == []
    assert reader.complete
    assert body_of(reader) == b"ok"


def test_what_comes_behind_101_is_no_longer_http() -> None:
    head = b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    reader = receive(head + b"\x81\x02hi")
    assert reader.complete
    assert reader.upgraded == b"\x81\x02hi"
    assert receive(head).upgraded == b""
    assert receive(OK).upgraded is None


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 099 Low\r\n\r\n",
        b"HTTP/1.1 999 High\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/0.9 200 OK\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"RTSP/1.0 200 OK\r\n\r\n",
        b"ICE/1.0 200 OK\r\n\r\n",
        b"hello",
        OK.replace(b"2\r\n", b"2\r\nContent-Length: 2\r\n", 1),
        OK.replace(b": 2", b": x"),
        OK.replace(b": 2", b": -2"),
        OK.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"),
        FLOW.replace(b"chunked", b"gzip, chunked") + b"0\r\n\r\n",
        FLOW.replace(b"chunked", b"gzip") + b"abc",
        FLOW + b"zz\r\n",
        OK.replace(b"\r\nContent", b"\r\n X: folded\r\nContent"),
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    ],
)
def test_a_malformed_response_is_a_failure(wire: bytes) -> None:
    whole = receive(wire)
    assert whole.failure
    assert not whole.complete
    assert repr(whole) == f"<ResponseReader {whole.failure}>"


def test_what_follows_a_response_that_failed_does_not_heal_it() -> None:
    reader = receive(b"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n" + OK)
    assert reader.failure is not None
    assert reader.head is None
    reader = receive(b"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n" + b"\x00")
    assert reader.failure is not None
    assert "099" in reader.failure or "99" in reader.failure


def test_a_response_head_has_limits_too() -> None:
    many = b"".join(b"X-%d: 1\r\n" % number for number in range(7))
    assert receive(OK[:-4] + many + b"\r\nok", limits=TIGHT).failure
    endless = receive(b"HTTP/1.1 200 OK\r\n", *[b"X: aaaaaaaaaaa\r\n"] * 20, limits=TIGHT)
    assert endless.failure
    framing = receive(FLOW, b"1;", *[b"a" * 50] * 8, limits=TIGHT)
    assert framing.failure
    trailers = receive(FLOW, b"0\r\n", *[b"X: aaaaaaaaaaa\r\n"] * 20, limits=TIGHT)
    assert trailers.failure


def test_a_long_body_meets_no_limit_of_heads() -> None:
    flow = receive(FLOW, *[b"5\r\nhello\r\n"] * 100, b"0\r\n\r\n", limits=TIGHT)
    assert flow.complete
    by_close = receive(b"HTTP/1.1 200 OK\r\n\r\n", *[b"hello"] * 100, limits=TIGHT)
    assert by_close.failure is None
    assert len(body_of(by_close)) == 500
