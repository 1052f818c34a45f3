"""Answers that the door writes itself: errors, `OPTIONS *`, and what its own endpoints say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.edge import message as m
from gateway.edge.headers import Field
from gateway.errors import REASONS, Rejection, render
from gateway.policy.security_headers import security_lines

if TYPE_CHECKING:
    from gateway.edge.exchange import Exchange

# `OPTIONS *` asks about the server itself (RFC 9110 §9.3.7).
OPTIONS_ALLOW: Final = (b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
JSON: Final = (b"Content-Type", b"application/json")
NO_STORE: Final = (b"Cache-Control", b"no-store")
_REASONS: Final = {200: b"OK", 202: b"Accepted", 204: b"No Content"} | dict(REASONS)


def answer(exchange: Exchange, status: int, fields: list[Field], body: bytes | None) -> None:
    """Answer and finish the exchange; None: nothing is said of a body's size."""
    exchange.status = status
    context = exchange.context
    line = m.status_line(status, _REASONS[status]) or b""
    pieces = [line, *m.field_lines(fields), security_lines(context.settings)]
    pieces += (b"Date: ", context.date(), b"\r\n")
    if body is not None:
        pieces.append(b"Content-Length: %d\r\n" % len(body))
    pieces += (exchange.limit_lines, exchange.closing_lines(framed=True))
    if body and exchange.head.method != b"HEAD":
        pieces.append(body)
        exchange.bytes_out += len(body)
    exchange.client.write(b"".join(pieces))
    exchange.finish(reusable=False)


def answer_error(exchange: Exchange, rejection: Rejection) -> None:
    """Answer with an error of the table."""
    problem = exchange.head.wants_problem
    body, content_type = render(rejection, exchange.request_id, problem=problem)
    fields = [(b"Content-Type", content_type), NO_STORE, *rejection.headers]
    if rejection.retry_after_seconds is not None:
        fields.append((b"Retry-After", b"%d" % rejection.retry_after_seconds))
    if exchange.head.vouched:  # a worker must know it from an answer of the service
        fields.append((b"X-Gateway-Error", rejection.code.encode("ascii")))
    answer(exchange, rejection.status, fields, body)
