"""Message heads: what is read out of them, what is refused, and the bytes that are written."""

from __future__ import annotations

import pytest

from gateway.edge import headers as h
from gateway.edge import message as m
from gateway.errors import Rejection

HOST = b"Host: gateway.test"


def split(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value.strip()


def read_request(start: bytes, *lines: bytes) -> m.RequestHead | Rejection:
    """A request head as it stands on the wire, sorted as the reader sorts it."""
    method, target, version = start.split(b" ")
    fields: list[h.Field] = []
    special: list[m.SpecialField] = []
    for name, value in map(split, lines):
        kind = h.request_kind(name)
        if kind == h.PLAIN:
            fields.append((name, value))
        elif kind != h.DROP:
            special.append((kind, name, value))
    number = {b"HTTP/1.0": m.HTTP_10, b"HTTP/1.1": m.HTTP_11}[version]
    return m.read_request(method, target, number, fields, special)


def accepted(start: bytes, *lines: bytes) -> m.RequestHead:
    head = read_request(start, *lines)
    assert isinstance(head, m.RequestHead), head
    return head


def refused(start: bytes, *lines: bytes) -> Rejection:
    rejection = read_request(start, *lines)
    assert isinstance(rejection, Rejection), rejection
    assert rejection.close, "what follows can't be trusted"
    return rejection


def get(*lines: bytes) -> m.RequestHead:
    return accepted(b"GET /x HTTP/1.1", HOST, *lines)


def read_response(status: int, *lines: bytes) -> m.ResponseHead | str:
    fields: list[h.Field] = []
    special: list[m.SpecialField] = []
    for name, value in map(split, lines):
        kind = h.response_kind(name)
        if kind == h.PLAIN:
            fields.append((name, value))
        elif kind != h.DROP:
            special.append((kind, name, value))
    return m.read_response(status, b"Why", fields, special)


def answered(status: int, *lines: bytes) -> m.ResponseHead:
    head = read_response(status, *lines)
    assert isinstance(head, m.ResponseHead), head
    return head


def test_a_plain_request_keeps_its_fields_in_their_order_and_spelling() -> None:
    head = accepted(b"GET /a?b HTTP/1.1", b"X-One: 1", HOST, b"cookie: a", b"X-ONE: 2")
    assert (head.method, head.target, head.version) == (b"GET", b"/a?b", m.HTTP_11)
    assert head.host == b"gateway.test"
    assert head.fields == [(b"X-One", b"1"), (b"cookie", b"a"), (b"X-ONE", b"2")]
    assert head.keep_alive
    assert not head.has_body


def test_a_head_shows_what_it_is_without_its_values() -> None:
    assert repr(get(b"Cookie: secret")) == "<RequestHead b'GET' b'/x' fields=1>"
    assert repr(answered(204, b"Set-Cookie: secret")) == "<ResponseHead 204 fields=1>"


def test_http_11_needs_exactly_one_host() -> None:
    assert refused(b"GET / HTTP/1.1").status == 400
    assert refused(b"GET / HTTP/1.1", HOST, HOST).status == 400
    assert refused(b"GET / HTTP/1.0", HOST, HOST).status == 400


def test_http_10_needs_no_host() -> None:
    assert accepted(b"GET / HTTP/1.0").host is None
    assert accepted(b"GET / HTTP/1.0", HOST).host == b"gateway.test"


@pytest.mark.parametrize("value", [b"a b", b"a/b", b"u@a", b"a:b", b'"a"', b"a, b"])
def test_a_host_that_is_none_is_refused(value: bytes) -> None:
    assert refused(b"GET / HTTP/1.1", b"Host: " + value).status == 400
    assert refused(b"GET / HTTP/1.0", b"Host: " + value).status == 400


def test_content_length_says_whether_there_is_a_body() -> None:
    assert get(b"Content-Length: 5").has_body
    assert get(b"Content-Length: 5").content_length == 5
    assert not get(b"Content-Length: 0").has_body
    assert get(b"Content-Length: 0").content_length == 0


@pytest.mark.parametrize("coding", [b"chunked", b"Chunked", b"CHUNKED"])
def test_the_chunked_coding_is_known_in_any_case(coding: bytes) -> None:
    head = get(b"Transfer-Encoding: " + coding)
    assert head.chunked
    assert head.has_body
    assert head.content_length is None


@pytest.mark.parametrize("coding", [b"gzip", b"chunked, gzip", b"identity", b"xchunked", b""])
def test_a_transfer_coding_that_does_not_end_in_chunked_is_a_bad_request(coding: bytes) -> None:
    assert refused(b"POST / HTTP/1.1", HOST, b"Transfer-Encoding: " + coding).status == 400


def test_a_coding_before_chunked_is_not_implemented() -> None:
    # RFC 9112 §6.1: an unknown transfer coding SHOULD be answered with 501.
    assert refused(b"POST / HTTP/1.1", HOST, b"Transfer-Encoding: gzip, chunked").status == 501


def test_chunked_goes_neither_with_content_length_nor_with_http_10() -> None:
    chunked = b"Transfer-Encoding: chunked"
    assert refused(b"POST / HTTP/1.1", HOST, chunked, b"Content-Length: 5").status == 400
    assert refused(b"POST / HTTP/1.1", HOST, b"Content-Length: 0", chunked).status == 400
    assert refused(b"POST / HTTP/1.0", HOST, chunked).status == 400


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        (b"HTTP/1.1", None, True),
        (b"HTTP/1.1", b"keep-alive", True),
        (b"HTTP/1.1", b"x-thing", True),
        (b"HTTP/1.1", b"Close", False),
        (b"HTTP/1.1", b"keep-alive, close", False),
        *((b"HTTP/1.0", None, False), (b"HTTP/1.0", b"x-thing", False)),
        *((b"HTTP/1.0", b"Keep-Alive", True), (b"HTTP/1.0", b"keep-alive, close", False)),
    ],
)
def test_persistence_follows_version_and_connection(
    version: bytes, connection: bytes | None, kept: bool
) -> None:
    lines = [] if connection is None else [b"Connection: " + connection]
    assert accepted(b"GET / " + version, HOST, *lines).keep_alive is kept


def test_what_connection_names_goes_no_further() -> None:
    head = get(b"Connection: X-Hop, close", b"x-hop: 1", b"X-Stays: 2", b"CONNECTION: other")
    assert head.fields == [(b"X-Stays", b"2")]
    assert not head.keep_alive


def test_connection_takes_away_ids_and_traces_that_the_client_itself_sent() -> None:
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    sent = (
        b"X-Request-ID: mine",
        b"X-Correlation-ID: ours",
        b"traceparent: " + trace,
        b"tracestate: a=1",
    )
    kept = get(*sent, b"Connection: x-other")
    assert kept.request_id == b"mine"
    assert kept.correlation_id == b"ours"
    assert kept.traceparent == trace
    assert kept.tracestate == b"a=1"
    gone = get(
        *sent,
        b"Connection: X-Request-ID, X-Correlation-ID",
        b"Connection: Traceparent, tracestate",
    )
    assert gone.request_id is gone.correlation_id is None
    assert gone.traceparent is gone.tracestate is None


def test_connection_can_not_hide_the_way_that_a_request_came() -> None:
    way = (b"Via: 1.1 p", b"X-Forwarded-For: 10.0.0.1", b"Forwarded: for=10.0.0.1")
    head = get(*way, b"Connection: Via, X-Forwarded-For, Forwarded")
    assert head.via == [b"1.1 p"]
    assert head.forwarding == [split(line) for line in way[1:]]


def test_connection_can_not_name_away_framing_or_host() -> None:
    head = get(b"Content-Length: 3", b"Connection: Content-Length, Host")
    assert head.content_length == 3
    assert head.host == b"gateway.test"


def test_an_upgrade_is_one_only_where_connection_says_so() -> None:
    asked = get(b"Connection: keep-alive, Upgrade", b"Upgrade: websocket", b"Upgrade: h2c")
    assert asked.upgrade == b"websocket,h2c"
    assert get(b"Upgrade: websocket").upgrade is None
    assert get(b"Upgrade: websocket", b"Connection: keep-alive").upgrade is None
    assert get(b"Connection: upgrade").upgrade is None


def test_http_10_upgrades_to_nothing() -> None:
    # RFC 9110 §7.8: a server MUST ignore an Upgrade in an HTTP/1.0 request.
    head = accepted(b"GET / HTTP/1.0", HOST, b"Connection: upgrade", b"Upgrade: websocket")
    assert head.upgrade is None


def test_what_is_only_looked_at_is_passed_on_as_well() -> None:
    lines = (b"User-Agent: curl", b"Accept: text/html", b"Accept: */*", b"Expect: 100-continue")
    head = get(*lines)
    assert head.user_agent == b"curl"
    assert head.accept == b"text/html,*/*"
    assert head.fields == [split(line) for line in lines]


def test_a_name_that_an_agent_gives_itself_is_looked_at_and_passed_on() -> None:
    lines = (b"X-AI-Agent: one", b"AI-Agent-ID: two")
    head = get(*lines)
    assert head.ai_agent == b"one"
    assert head.fields == [split(line) for line in lines]


def test_white_space_around_a_value_is_no_part_of_it() -> None:
    head = get(b"X-Version:  2 \t", b"x-version: 3")
    assert head.by_name[b"x-version"] == [b"2", b"3"]


def test_errors_are_told_as_problems_to_who_accepts_them() -> None:
    assert not get().wants_problem
    assert not get(b"Accept: application/json").wants_problem
    assert get(b"Accept: text/html", b"Accept: application/problem+json").wants_problem


def test_te_keeps_only_trailers() -> None:
    assert get(b"TE: deflate, Trailers;q=0.5", b"Connection: TE").te_trailers
    assert get(b"TE: trailers", b"TE: deflate", b"Connection: TE").te_trailers
    assert not get(b"TE: deflate", b"Connection: TE").te_trailers
    assert get(b"TE: trailers", b"Connection: close").te_trailers
    assert get(b"TE: trailers", b"Connection: TE").fields == []


def test_the_announced_trailers_are_kept_apart() -> None:
    head = get(b"Trailer: X-Checksum")
    assert head.trailer == b"X-Checksum"
    assert head.fields == []


def test_of_a_repeated_id_the_first_that_is_one_is_taken() -> None:
    head = get(
        b"X-Request-ID: two words",
        b"X-Request-ID: first",
        b"X-Request-ID: second",
        b"X-Correlation-ID: " + b"x" * 129,
        b"X-Correlation-ID: third",
        b"X-Correlation-ID: fourth",
    )
    assert head.request_id == b"first"
    assert head.correlation_id == b"third"
    assert head.fields == []


def test_two_traceparents_are_none_and_tracestates_are_one_list() -> None:
    once = get(b"traceparent: a")
    assert once.traceparent == b"a"
    twice = get(b"traceparent: a", b"traceparent: a", b"tracestate: x=1", b"tracestate: y=2")
    assert not h.is_traceparent(twice.traceparent or b"")
    assert twice.tracestate == b"x=1,y=2"


def test_forwarding_and_via_are_kept_in_order_and_not_among_the_fields() -> None:
    head = get(b"Via: 1.0 a", b"X-Real-IP: 1.1.1.1", b"Via: 1.1 b", b"Forwarded: for=a")
    assert head.via == [b"1.0 a", b"1.1 b"]
    assert head.forwarding == [(b"X-Real-IP", b"1.1.1.1"), (b"Forwarded", b"for=a")]
    assert head.fields == []


@pytest.mark.parametrize("status", [0, 99, 600, 999])
def test_a_status_that_is_none_can_not_be_passed_on(status: int) -> None:
    assert isinstance(read_response(status), str)


@pytest.mark.parametrize("status", [100, 200, 404, 599])
def test_a_status_that_is_one_can(status: int) -> None:
    head = answered(status, b"X-One: 1")
    assert (head.status, head.reason, head.fields) == (status, b"Why", [(b"X-One", b"1")])


def test_a_response_is_sorted_too() -> None:
    head = answered(
        200,
        b"Content-Length: 7",
        b"Content-Type: text/plain",
        b"Date: today",
        b"Keep-Alive: timeout=5, max=100",
        b"Upgrade: h2c",
        b"Trailer: X-Checksum",
        b"RateLimit: a",
        b"X-RateLimit-Limit: 5",
        b"Alt-Svc: h3",
        b"X-Request-ID: theirs",
    )
    assert head.counted == 7
    assert head.has_date
    assert not head.is_event_stream
    assert head.keep_alive_seconds == 5
    assert head.upgrade == b"h2c"
    assert head.trailer == b"X-Checksum"
    assert head.limits == [(b"RateLimit", b"a"), (b"X-RateLimit-Limit", b"5")]
    assert head.fields == [(b"Content-Type", b"text/plain"), (b"Date", b"today")]


def test_the_error_code_of_the_control_application_is_no_field_that_goes_on() -> None:
    head = answered(404, b"X-Gateway-Error: NOT_FOUND")
    assert head.error_code == "NOT_FOUND"
    assert head.fields == []
    assert answered(404).error_code is None


@pytest.mark.parametrize(
    ("value", "is_stream"),
    [(b"text/event-stream", True), (b"Text/Event-Stream;x=y", True), (b"text/html", False)],
)
def test_event_streams_are_known_by_their_type(value: bytes, is_stream: bool) -> None:
    assert answered(200, b"Content-Type: " + value).is_event_stream is is_stream


def test_only_the_chunked_coding_once_and_alone_is_passed_on() -> None:
    assert answered(200, b"Transfer-Encoding: Chunked").chunked
    assert isinstance(read_response(200, b"Transfer-Encoding: gzip, chunked"), str)
    assert isinstance(read_response(200, b"Transfer-Encoding: gzip"), str)
    twice = [b"Transfer-Encoding: chunked"] * 2
    assert isinstance(read_response(200, *twice), str)
    both = (b"Content-Length: 5", b"Transfer-Encoding: chunked")
    assert isinstance(read_response(200, *both), str)


def test_what_a_responses_connection_names_goes_no_further() -> None:
    lines = (b"X-Hop: 1", b"X-Stays: 2")
    head = answered(200, *lines, b"Connection: close, x-hop", b"Connection: keep-alive")
    assert head.fields == [(b"X-Stays", b"2")]
    assert len(answered(200, *lines, b"Connection: close, upgrade").fields) == 2


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *((b"timeout=5", 5), (b"max=100, Timeout = 15 ", 15), (b"timeout=x, timeout=3", 3)),
        *((b"timeout=-1", None), (b"timeout", None), (b"max=5", None), (b"", None)),
    ],
)
def test_the_keep_alive_hint_is_read_leniently(value: bytes, seconds: int | None) -> None:
    assert m.keep_alive_hint(value) == seconds


# What is written


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        (b"OK", b"HTTP/1.1 200 OK\r\n"),
        (b"", b"HTTP/1.1 200 \r\n"),
        (b"Caf\xc3\xa9\tau lait", b"HTTP/1.1 200 Caf\xc3\xa9\tau lait\r\n"),
        *((b"a\x00b", None), (b"a\x1fb", None), (b"a\x7fb", None), (b"a\rb", None)),
    ],
)
def test_a_reason_may_hold_anything_but_controls(reason: bytes, line: bytes | None) -> None:
    # reason-phrase = 1*( HTAB / SP / VCHAR / obs-text ), RFC 9112 §4
    assert m.status_line(200, reason) == line


def sent_on(head: m.RequestHead, added: bytes = b"", upgrade: bytes = b"") -> bytes:
    return b"".join(m.request_pieces(head, b"/on", b"Host: back.test\r\n", [added], upgrade))


def test_a_request_goes_on_with_a_host_and_framing_of_its_own() -> None:
    assert sent_on(get(b"Cookie: a", b"Accept: */*"), b"Via: 1.1 gw\r\n") == (
        b"GET /on HTTP/1.1\r\nHost: back.test\r\nCookie: a\r\nAccept: */*\r\nVia: 1.1 gw\r\n\r\n"
    )
    assert sent_on(get(b"Content-Length: 005")) == (
        b"GET /on HTTP/1.1\r\nHost: back.test\r\nContent-Length: 5\r\n\r\n"
    )
    assert sent_on(accepted(b"GET /x HTTP/1.0")) == (b"GET /on HTTP/1.1\r\nHost: back.test\r\n\r\n")
    assert sent_on(get(b"Transfer-Encoding: Chunked")) == (
        b"GET /on HTTP/1.1\r\nHost: back.test\r\nTransfer-Encoding: chunked\r\n\r\n"
    )


def test_trailers_are_announced_only_where_the_body_is_chunked() -> None:
    assert sent_on(get(b"Transfer-Encoding: chunked", b"Trailer: X-Sum")) == (
        b"GET /on HTTP/1.1\r\nHost: back.test\r\nTransfer-Encoding: chunked\r\n"
        b"Trailer: X-Sum\r\n\r\n"
    )
    assert b"Trailer" not in sent_on(get(b"Content-Length: 1", b"Trailer: X-Sum"))


def test_connection_is_written_anew_for_an_upgrade_or_te() -> None:
    asks = get(b"Connection: Upgrade, TE", b"Upgrade: websocket, x", b"TE: trailers")
    assert sent_on(asks, upgrade=b"websocket").endswith(
        b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    )
    assert sent_on(asks).endswith(b"\r\nTE: trailers\r\nConnection: TE\r\n\r\n")


def passed_on(
    head: m.ResponseHead, request: m.RequestHead, *, limited: bool = False
) -> tuple[bytes, m.Framing]:
    pieces, framing = m.response_pieces(b"HTTP/1.1 200 OK\r\n", head, request, limited=limited)
    return b"".join(pieces), framing


def test_a_counted_response_stays_counted() -> None:
    assert passed_on(answered(200, b"A: b", b"Content-Length: 005"), get()) == (
        b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 5\r\n",
        m.Framing.COUNTED,
    )


def test_a_response_without_a_count_is_chunked_for_http_11_and_closed_for_http_10() -> None:
    for head in (answered(200), answered(200, b"Transfer-Encoding: chunked")):
        assert passed_on(head, get()) == (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n",
            m.Framing.CHUNKED,
        )
        old = accepted(b"GET / HTTP/1.0", b"Connection: keep-alive")
        assert passed_on(head, old) == (b"HTTP/1.1 200 OK\r\n", m.Framing.CLOSE)


def test_trailers_of_a_response_are_announced_where_it_is_chunked() -> None:
    head = answered(200, b"Transfer-Encoding: chunked", b"Trailer: X-Sum")
    assert passed_on(head, get())[0].endswith(b"Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n")
    assert b"Trailer" not in passed_on(head, accepted(b"GET / HTTP/1.0"))[0]


def test_head_and_304_keep_the_count_and_have_no_body() -> None:
    counted = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"
    asked = accepted(b"HEAD / HTTP/1.1", HOST)
    assert passed_on(answered(200, b"Content-Length: 5"), asked) == (counted, m.Framing.NONE)
    assert passed_on(answered(304, b"Content-Length: 5"), get()) == (counted, m.Framing.NONE)
    assert passed_on(answered(304), get()) == (b"HTTP/1.1 200 OK\r\n", m.Framing.NONE)


def test_204_has_neither_count_nor_body() -> None:
    # RFC 9110 §8.6: a server MUST NOT send a Content-Length with 204.
    head = answered(204, b"Content-Length: 0")
    assert passed_on(head, get()) == (b"HTTP/1.1 200 OK\r\n", m.Framing.NONE)


def test_rate_limit_fields_of_the_back_end_go_on_only_where_the_gateway_sets_none() -> None:
    head = answered(200, b"Content-Length: 0", b"RateLimit: theirs", b"X-RateLimit-Limit: 9")
    theirs = b"RateLimit: theirs\r\nX-RateLimit-Limit: 9\r\n"
    assert theirs in passed_on(head, get())[0]
    assert passed_on(head, get(), limited=True)[0] == (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n")


def test_a_switch_that_was_asked_for_is_passed_on() -> None:
    head = answered(
        101, b"Upgrade: WebSocket", b"Connection: Upgrade", b"Sec-WebSocket-Accept: abc"
    )
    pieces = m.switching_pieces(head, b"x, websocket")
    assert b"".join(pieces or ()) == (
        b"HTTP/1.1 101 Why\r\nSec-WebSocket-Accept: abc\r\n"
        b"Upgrade: WebSocket\r\nConnection: Upgrade\r\n"
    )


def test_a_switch_that_was_not_asked_for_is_none() -> None:
    assert m.switching_pieces(answered(101, b"Upgrade: h2c"), b"websocket") is None
    assert m.switching_pieces(answered(101), b"websocket") is None
    assert m.switching_pieces(answered(101, b"Upgrade: x"), b"") is None
    odd = m.ResponseHead(101, b"a\x00b", [])
    odd.upgrade = b"websocket"
    assert m.switching_pieces(odd, b"websocket") is None


@pytest.mark.parametrize(
    ("offered", "asked_for"),
    [
        (b"websocket", b"websocket"),
        (b"x, WebSocket ,websocket", b"WebSocket, websocket"),
        (b"h2c, HTTP/2.0", b""),
        (b"TLS/1.0, h2c, websocket", b"websocket"),
        (b"", b""),
    ],
)
def test_only_allowed_protocols_are_asked_for_and_never_h2c_or_tls(
    offered: bytes, asked_for: bytes
) -> None:
    allowed = frozenset((b"websocket", b"h2c", b"tls/1.0"))
    assert m.allowed_upgrade(offered, allowed) == asked_for


def test_a_chunk_is_what_came_in_one_read() -> None:
    assert b"".join(m.chunk([b"hello, ", b"world"])) == b"c\r\nhello, world\r\n"
    assert b"".join(m.chunk([b"x" * 256])) == b"100\r\n" + b"x" * 256 + b"\r\n"


def test_the_last_chunk_carries_the_trailers() -> None:
    assert m.last_chunk([]) == b"0\r\n\r\n"
    assert m.last_chunk([(b"X-Sum", b"1"), (b"B", b"")]) == b"0\r\nX-Sum: 1\r\nB: \r\n\r\n"
