"""A second opinion on where requests begin and end: RFC 9112, strictly, over bytes at rest. Pure.

The fuzz test holds the gateway against it, so it shares no code and no parser with the gateway. It
is strict where two parties could read differently: what it refuses, nobody may forward.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# More than one space in a request line is read by many, and misleads nobody
_LINE = re.compile(rb"([!-~]+) +([!-~]+) +HTTP/1\.([01])")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n\x00]*)?")


@dataclass(frozen=True, slots=True)
class Message:
    """One request. `complete` is False when the bytes ended within its body."""

    method: bytes
    target: bytes
    minor_version: int
    headers: tuple[tuple[bytes, bytes], ...]  # names in lower case
    body: bytes
    complete: bool

    def values(self, name: bytes) -> list[bytes]:
        """All values of a field, given in lower case."""
        return [value for field, value in self.headers if field == name]

    @property
    def last(self) -> bool:
        """Whether nothing after it on the connection is a request any more."""
        options = b",".join(self.values(b"connection")).lower().replace(b" ", b"").split(b",")
        if b"close" in options or self.method == b"CONNECT":
            return True
        return self.minor_version == 0 and b"keep-alive" not in options

    @property
    def host_is_sound(self) -> bool:
        """RFC 9112 §3.2: one Host on HTTP/1.1, at most one on 1.0."""
        hosts = len(self.values(b"host"))
        return hosts == 1 if self.minor_version else hosts <= 1


class MalformedError(Exception):
    """The bytes are no request; the message says why."""


def read_request(data: bytes) -> tuple[Message, int] | None:
    """The first request and how many bytes it took; None while its head is not all there.

    Raises MalformedError.
    """
    # RFC 9112 §2.2: empty lines before a request, also such as end in a lone LF, mean nothing
    start = len(data) - len(data.lstrip(b"\r\n"))
    end = data.find(b"\r\n\r\n", start)
    if end < 0:
        return None
    first, *lines = data[start:end].split(b"\r\n")
    found = _LINE.fullmatch(first)
    if found is None:
        raise MalformedError(f"request line {first[:80]!r}")
    method, target, version = found.groups()
    headers = tuple(_field(line) for line in lines)
    head = Message(method, target, int(version), headers, b"", complete=True)
    body, complete, used = _body(head, data, end + 4)
    return Message(method, target, int(version), headers, body, complete), used


def read_requests(data: bytes) -> list[Message]:
    """All requests that a strict reader finds until a malformed one or the last one allowed."""
    found: list[Message] = []
    at = 0
    while at < len(data):
        try:
            step = read_request(data[at:])
        except MalformedError:
            break
        if step is None:
            break
        found.append(step[0])
        at += step[1]
        if step[0].last or not step[0].complete:
            break
    return found


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    value = value.strip(b" \t")
    if not colon or _TOKEN.fullmatch(name) is None or _BAD_VALUE.search(value):
        raise MalformedError(f"header line {line[:80]!r}")
    return name.lower(), value


def _body(head: Message, data: bytes, at: int) -> tuple[bytes, bool, int]:
    """The body, whether it is all there, and where it ends."""
    lengths, codings = head.values(b"content-length"), head.values(b"transfer-encoding")
    if codings:
        sure = len(codings) == 1 and codings[0].lower() == b"chunked" and not lengths
        if not sure or not head.minor_version:
            raise MalformedError("Transfer-Encoding in doubt")
        return _chunks(data, at)
    if not lengths:
        return b"", True, at
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,15}", lengths[0]):
        raise MalformedError("Content-Length in doubt")
    end = at + int(lengths[0])
    return data[at:end], len(data) >= end, min(end, len(data))


def _chunks(data: bytes, at: int) -> tuple[bytes, bool, int]:
    body = b""
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return body, False, len(data)
        found = _CHUNK.fullmatch(data[at:end])
        if found is None:
            return body, False, len(data)
        size, at = int(found.group(1), 16), end + 2
        if size == 0:
            return _trailers(data, at, body)
        body += data[at : at + size]
        at += size
        if data[at : at + 2] != b"\r\n":
            return body, False, len(data)
        at += 2


def _trailers(data: bytes, at: int, body: bytes) -> tuple[bytes, bool, int]:
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return body, False, len(data)
        if end == at:
            return body, True, at + 2
        try:
            _field(data[at:end])
        except MalformedError:
            return body, False, len(data)
        at = end + 2
