"""The error table: every code the gateway answers with, its status, whose fault it is, and the
body.

One place, so that a client can rely on one shape whoever noticed the problem. Errors of an upstream
(its own 4xx and 5xx) never pass through here: they reach the client as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import orjson


class Source(StrEnum):
    """Whose fault an error is."""

    CLIENT = "client"
    GATEWAY = "gateway"
    UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """A row of the table: `retryable` says whether the same request may succeed when sent again
    later.
    """

    code: str
    status: int
    source: Source
    retryable: bool


def _kinds() -> dict[str, ErrorKind]:
    client, gateway, upstream = Source.CLIENT, Source.GATEWAY, Source.UPSTREAM
    rows: tuple[tuple[str, int, Source, bool], ...] = (
        ("BAD_REQUEST", 400, client, False),
        ("AUTH_FAILED", 401, client, False),
        ("UNAUTHORIZED", 401, client, False),
        ("FORBIDDEN", 403, client, False),
        ("NOT_FOUND", 404, client, False),
        ("METHOD_NOT_ALLOWED", 405, client, False),
        ("NOT_ACCEPTABLE", 406, client, False),
        ("REQUEST_TIMEOUT", 408, client, True),
        ("CONFLICT", 409, client, False),
        ("JOB_FAILED", 409, client, False),
        ("GONE", 410, client, False),
        ("PAYLOAD_TOO_LARGE", 413, client, False),
        ("URI_TOO_LONG", 414, client, False),
        ("UNPROCESSABLE", 422, client, False),
        ("RATE_LIMITED", 429, client, True),
        ("HEADERS_TOO_LARGE", 431, client, False),
        ("INTERNAL_ERROR", 500, gateway, False),
        ("NOT_IMPLEMENTED", 501, client, False),
        ("PROXY_ERROR", 502, upstream, False),
        ("SERVICE_UNAVAILABLE", 503, upstream, True),
        ("CIRCUIT_BREAKER_OPEN", 503, upstream, True),
        ("OVERLOADED", 503, gateway, True),
        ("TIMEOUT", 504, upstream, False),
        ("HTTP_VERSION_NOT_SUPPORTED", 505, client, False),
    )
    return {row[0]: ErrorKind(*row) for row in rows}


ERRORS: Mapping[str, ErrorKind] = _kinds()

REASONS: Mapping[int, bytes] = {
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    406: b"Not Acceptable",
    408: b"Request Timeout",
    409: b"Conflict",
    410: b"Gone",
    413: b"Content Too Large",
    414: b"URI Too Long",
    422: b"Unprocessable Content",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}


@dataclass(frozen=True, slots=True)
class Rejection:
    """One error to answer with: what to tell the client and what it should do.

    `close` is set where the framing of what follows on the connection is no longer sure, so that
    the connection ends with the answer (RFC 9112 §9.6). `headers` are extra fields such as Allow.
    `details` are (JSON pointer, message) pairs on what is wrong in a body, `extra` further members.
    """

    code: str
    message: str
    retry_after_seconds: int | None = None
    close: bool = False
    headers: tuple[tuple[bytes, bytes], ...] = ()
    details: tuple[tuple[str, str], ...] = ()
    extra: tuple[tuple[str, object], ...] = ()

    @property
    def kind(self) -> ErrorKind:
        """The row of the error table."""
        return ERRORS[self.code]

    @property
    def status(self) -> int:
        """The HTTP status of the answer."""
        return ERRORS[self.code].status


def wants_problem(accept: str) -> bool:
    """Whether errors are to be told as RFC 9457, by the Accept field of the request."""
    return "application/problem+json" in accept.lower()


def render(rejection: Rejection, request_id: str, *, problem: bool) -> tuple[bytes, bytes]:
    """The body of an error answer and its Content-Type.

    With `problem` (the client accepts application/problem+json) it is RFC 9457, the contract's
    members being extensions; else the contract's own JSON.
    """
    members: dict[str, object] = {"code": rejection.code, "message": rejection.message}
    if rejection.retry_after_seconds is not None:
        members["retry_after"] = rejection.retry_after_seconds
    if rejection.details:
        members["details"] = [
            {"pointer": pointer, "message": message} for pointer, message in rejection.details
        ]
    members.update(rejection.extra)
    members["request_id"] = request_id
    if not problem:
        return orjson.dumps({"error": members}), b"application/json"
    title = REASONS[rejection.status].decode("ascii")
    body = {"type": "about:blank", "title": title, "status": rejection.status}
    body["detail"] = rejection.message
    return orjson.dumps(body | members), b"application/problem+json"
