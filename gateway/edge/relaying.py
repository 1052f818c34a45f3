"""An upstream's answer on its way to the client: its head, its body as it comes, interim answers,
and the switch to a tunnel. What may not pass is decided in message.py and passing.py, what a broken
answer means in exchange.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.edge import message as m
from gateway.edge.headers import trailers, without
from gateway.edge.message import BY_CLOSE, CHUNKED
from gateway.edge.passing import change_answer
from gateway.edge.reading import ResponseReader
from gateway.edge.tunnel import Tunnel

if TYPE_CHECKING:
    from gateway.edge.attempts import Attempt
    from gateway.edge.exchange import Exchange
    from gateway.edge.upstream import UpstreamConnection
    from gateway.routing.services import Service

_NONE: Final[frozenset[bytes]] = frozenset()
# Not Implemented, HTTP Version Not Supported: whoever asks for them gets them (RFC 9110 §15.6), so
# they say nothing of how the service is.
_ASKED_FOR: Final = (501, 505)


def relay(attempt: Attempt, upstream: UpstreamConnection) -> None:
    """The upstream of an attempt sent something."""
    exchange, reader = attempt.exchange, upstream.reader
    if reader.interim:
        _relay_interim(exchange, reader)
    pieces: list[bytes] = []
    if not exchange.status:
        begun = _begin(exchange, attempt, upstream)
        if begun is None:
            return
        pieces = begun
    body = reader.body
    if body:
        reader.body = []
        for piece in body:
            exchange.bytes_out += len(piece)
        pieces += m.chunk(body) if exchange.framing is CHUNKED else body
    if reader.complete:
        end(exchange, reader, pieces)
        return
    if pieces:
        exchange.client.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
    if reader.failure is not None:
        exchange.break_off(reader.failure)
    elif exchange.attempt is not None and not exchange.client.paused:
        exchange.context.deadlines.after(upstream, exchange.idle_timeout)


def _begin(
    exchange: Exchange, attempt: Attempt, upstream: UpstreamConnection
) -> list[bytes] | None:
    """The head for the client; None when it is not there yet, or was dealt with otherwise."""
    reader = upstream.reader
    head, service = reader.head, exchange.service
    if reader.failure is not None or reader.excess:
        exchange.nonsense(attempt, reader.failure or "bytes behind the end of the response")
        return None
    if head is None or service is None:
        return None
    line = m.status_line(head.status, head.reason)
    if line is None:
        exchange.nonsense(attempt, "control characters in the reason phrase")
        return None
    if exchange.tries is not None:
        if exchange.tries.refuses(attempt, head):
            return None
        exchange.tries.won(attempt)
        exchange.attempt, exchange.endpoint_name = attempt, attempt.endpoint.name
        if exchange.client.paused:
            upstream.hold_reading(True)
    if head.status == 101:
        _switch(exchange, attempt, upstream, head)
        return None
    exchange.status = head.status
    exchange.failed = head.status >= 500
    if exchange.failed and head.status in _ASKED_FOR:
        exchange.failed = None
    _begin_time(exchange, service, stream=head.is_event_stream)
    upstream.keep_alive_seconds = head.keep_alive_seconds
    if service is exchange.context.mounted:
        exchange.error_code = head.error_code
        exchange.head.job = head.job or exchange.head.job
    lines = change_answer(exchange, service, head, attempt.endpoint)
    limit_lines = exchange.limit_lines
    limited = limit_lines != b""
    pieces, exchange.framing = m.response_pieces(line, head, exchange.head, limited=limited)
    if not head.has_date:
        pieces += (b"Date: ", exchange.context.date(), b"\r\n")
    if not exchange.request_complete:
        # A final status before the body ends the upload: nobody wants the rest (RFC 9112 §9.6).
        exchange.upload_over = True
        exchange.client.hold_upload(True)
    pieces += (lines, limit_lines, exchange.closing_lines(exchange.framing is not BY_CLOSE))
    return pieces


def _begin_time(exchange: Exchange, service: Service, *, stream: bool) -> None:
    policy = exchange.policy
    own = None if policy is None else policy.idle_timeout
    if stream and own is None:
        exchange.idle_timeout = service.settings.stream_idle_timeout
    else:
        exchange.idle_timeout = service.settings.idle_timeout if own is None else own
    if stream and exchange.total is not None:
        exchange.total.cancel()  # a stream has no time to be done in


def end(exchange: Exchange, reader: ResponseReader, pieces: list[bytes]) -> None:
    """The answer is over; `pieces` are the last of it."""
    if exchange.framing is CHUNKED:
        policy = exchange.policy
        removed = _NONE if policy is None else policy.response_removed
        last = trailers(reader.trailers, removed) if reader.trailers else []
        pieces.append(m.last_chunk(last))
    if pieces:
        exchange.client.write(b"".join(pieces))
    # An upload that was not finished leaves the connection in the middle of a message.
    whole = reader.keep_alive and exchange.request_complete and not reader.excess
    exchange.finish(reusable=whole)


def _relay_interim(exchange: Exchange, reader: ResponseReader) -> None:
    """Pass 1xx on to clients that know them (RFC 9110 §15.2)."""
    interim, reader.interim = reader.interim, []
    exchange.interim_sent = True
    if exchange.head.version != m.HTTP_11 or exchange.status:
        return
    removed = _NONE if exchange.policy is None else exchange.policy.response_removed
    for head in interim:
        line = m.status_line(head.status, head.reason)
        if line is not None:
            lines = m.field_lines(without(head.fields, removed) if removed else head.fields)
            exchange.client.write(b"".join([line, *lines, b"\r\n"]))


def _switch(
    exchange: Exchange, attempt: Attempt, upstream: UpstreamConnection, head: m.ResponseHead
) -> None:
    """The upstream said 101: from here on bytes pass both ways, if that was asked for."""
    behind, service = upstream.reader.upgraded, exchange.service
    lines = b""
    if service is not None:
        lines = change_answer(exchange, service, head, attempt.endpoint)
    pieces = m.switching_pieces(head, exchange.upgrade)
    if behind is None or pieces is None or service is None:
        exchange.nonsense(attempt, "101 Switching Protocols that was not asked for")
        return
    exchange.status = 101
    exchange.failed = False
    _begin_time(exchange, service, stream=True)
    pieces += (lines, exchange.limit_lines, exchange.own_lines(), b"\r\n", behind)
    exchange.client.write(b"".join(pieces))
    exchange.bytes_out += len(behind)
    websocket = m.token(head.upgrade) == b"websocket"
    Tunnel(exchange, upstream, exchange.idle_timeout, websocket, behind)
