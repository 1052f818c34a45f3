"""HTTP/1 messages as the tests see them: building them, and a strict reader of its own.

The reader is deliberately not httptools: what the gateway writes is judged by a second, stricter
pair of eyes. Anything RFC 9112 does not allow in a message raises `ViolationError`; a message that
ends too early raises `TruncatedError`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
STATUS_LINE = re.compile(rb"(HTTP/1\.[01]) ([1-5][0-9]{2}) ([\t \x21-\x7e\x80-\xff]*)")
REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e]+) (HTTP/1\.[01])")

Fields = list[tuple[bytes, bytes]]


class ViolationError(AssertionError):
    """A message that RFC 9110 or 9112 does not allow."""


class TruncatedError(ConnectionError):
    """The connection ended inside a message; `message` is what there was of it."""

    def __init__(self, message: Message, how: str) -> None:
        super().__init__(f"{how} inside {message.start!r} after {len(message.body)} bytes of body")
        self.message = message
        self.how = how


@dataclass
class Message:
    """A request or response. `framing` is none, length, chunked or close; `interim` its 1xx."""

    start: bytes
    fields: Fields
    head: bytes = b""
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    framing: str = "none"
    interim: list[Message] = field(default_factory=list)

    def all(self, name: str) -> list[bytes]:
        """The values of every field of that name."""
        wanted = name.lower().encode()
        return [value for key, value in self.fields if key.lower() == wanted]

    def get(self, name: str) -> bytes | None:
        """The value of the one field of that name, None without it; two are an error."""
        values = self.all(name)
        assert len(values) < 2, f"{name} appears {len(values)} times: {values}"
        return values[0] if values else None

    def tokens(self, name: str) -> list[bytes]:
        """A list field's members, lower-cased."""
        joined = b",".join(self.all(name)).lower()
        return [token.strip() for token in joined.split(b",") if token.strip()]

    @property
    def names(self) -> set[bytes]:
        """The names of all fields, lower-cased."""
        return {key.lower() for key, _ in self.fields}

    @property
    def status(self) -> int:
        """Of a response."""
        return int(self.start.split(b" ", 2)[1])

    @property
    def method(self) -> bytes:
        """Of a request."""
        return self.start.split(b" ", 1)[0]

    @property
    def target(self) -> bytes:
        """Of a request."""
        return self.start.split(b" ", 2)[1]

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Source(Protocol):
    """What the reader reads from."""

    async def line(self) -> bytes:
        """One line without its CRLF."""

    async def exactly(self, count: int) -> bytes:
        """That many bytes."""

    async def some(self) -> bytes:
        """Whatever is there, b"" at the end."""


async def read_head(source: Source, start_line: re.Pattern[bytes]) -> Message:
    """A start line and fields up to the empty line."""
    start = await source.line()
    if not start_line.fullmatch(start):
        raise ViolationError(f"bad start line {start!r}")
    lines = [start]
    fields = await _read_fields(source, lines)
    return Message(start, fields, head=b"".join(line + b"\r\n" for line in [*lines, b""]))


async def read_request_body(source: Source, message: Message) -> Message:
    """The body of a request whose head was read."""
    return await _read_body(source, message, none_means="none")


async def read_response(
    source: Source, method: bytes, tell: Callable[[Message], Awaitable[None]] | None = None
) -> Message:
    """A final response (101 counts as final) with the interim ones before it."""
    interim: list[Message] = []
    while True:
        message = await read_head(source, STATUS_LINE)
        if message.status >= 200 or message.status == 101:
            break
        if message.all("content-length") or message.all("transfer-encoding"):
            raise ViolationError(f"framing fields in a 1xx: {message.head!r}")
        interim.append(message)
        if tell:
            await tell(message)
    message.interim = interim
    if message.status == 101 or message.status in (204, 304) or method == b"HEAD":
        if message.status in (101, 204) and message.all("transfer-encoding"):
            raise ViolationError(f"transfer-encoding in {message.head!r}")
        return message
    return await _read_body(source, message, none_means="close")


async def _read_fields(source: Source, lines: list[bytes]) -> Fields:
    fields: Fields = []
    while line := await source.line():
        lines.append(line)
        name, colon, value = line.partition(b":")
        if not colon or not TOKEN.fullmatch(name):
            raise ViolationError(f"bad field line {line!r}")
        if CONTROLS.search(value):
            raise ViolationError(f"control byte in {line!r}")
        fields.append((name, value.strip(b" \t")))
    return fields


async def _read_body(source: Source, message: Message, none_means: str) -> Message:
    lengths, codings = message.all("content-length"), message.all("transfer-encoding")
    if len(lengths) > 1 or (lengths and codings):
        raise ViolationError(f"ambiguous framing {message.head!r}")
    if codings:
        if codings != [b"chunked"] or message.start.endswith(b"HTTP/1.0"):
            raise ViolationError(f"bad transfer-encoding {message.head!r}")
        message.framing = "chunked"
    elif lengths:
        if not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
            raise ViolationError(f"bad content-length {lengths[0]!r}")
        message.framing = "length"
    else:
        message.framing = none_means
    parts: list[bytes] = []
    try:
        await _read_framed(source, message, parts)
    except ConnectionError as error:
        parts.append(getattr(error, "partial", b""))
        message.body = b"".join(parts)
        raise TruncatedError(message, str(error)) from error
    message.body = b"".join(parts)
    return message


async def _read_framed(source: Source, message: Message, parts: list[bytes]) -> None:
    if message.framing == "length":
        left = int(message.all("content-length")[0])
        while left:
            part = await source.exactly(min(left, 65536))
            parts.append(part)
            left -= len(part)
    elif message.framing == "close":
        while part := await source.some():
            parts.append(part)
    elif message.framing == "chunked":
        while True:
            size_line = await source.line()
            if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", size_line):
                raise ViolationError(f"bad chunk size line {size_line!r}")
            size = int(size_line, 16)
            if size == 0:
                message.trailers = await _read_fields(source, [])
                return
            parts.append(await source.exactly(size))
            if await source.exactly(2) != b"\r\n":
                raise ViolationError("a chunk does not end with CRLF")


def request(
    line: bytes, *fields: bytes, body: bytes | None = None, host: bytes = b"gateway.test"
) -> bytes:
    """The bytes of a request: `line` is `GET /x` or a complete one; a body brings its length."""
    if line.count(b" ") == 1:
        line += b" HTTP/1.1"
    lines = [line, b"Host: " + host, *fields]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body or b""])


def answer(body: bytes = b"ok", *fields: bytes, status: bytes = b"200 OK") -> bytes:
    """The bytes of a counted response."""
    return b"\r\n".join(
        [b"HTTP/1.1 " + status, *fields, b"Content-Length: %d" % len(body), b"", body]
    )


def chunks(*parts: bytes, trailers: tuple[bytes, ...] = ()) -> bytes:
    """A chunked body with its end."""
    framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return framed + b"\r\n".join([b"0", *trailers, b"", b""])


def assert_error(
    response: Message, status: int | tuple[int, ...], code: str | tuple[str, ...]
) -> dict[str, Any]:
    """Holds an answer against the contract's error shape; returns the members of the error."""
    statuses = (status,) if isinstance(status, int) else status
    codes = (code,) if isinstance(code, str) else code
    assert response.status in statuses, (response.start, response.body)
    content_type = (response.get("content-type") or b"").split(b";")[0]
    assert content_type == b"application/json", response.head
    document = response.json()
    assert set(document) == {"error"}, document
    error: dict[str, Any] = document["error"]
    assert error["code"] in codes, error
    assert set(error) - {"retry_after"} == {"code", "message", "request_id"}, error
    assert isinstance(error["message"], str)
    assert error["message"]
    assert response.all("x-request-id") == [error["request_id"].encode()], response.head
    return error
