"""One client connection: requests as bytes, answers checked. The load is made in load.py."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import httptools


@dataclass(frozen=True, slots=True)
class Call:
    """A request as bytes, and what its answer must be: None is not looked at."""

    request: bytes
    body_bytes: int | None = None
    body_crc32: int | None = None
    vanish: bool = False  # the client goes away in the middle: no answer is expected


def get(path: str, port: int, token: str = "") -> bytes:
    """A plain GET as bytes, with a bearer token where there is one."""
    more = f"Authorization: Bearer {token}\r\n" if token else ""
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: bench\r\n{more}\r\n"
    return head.encode()


def post(path: str, port: int, body: bytes) -> bytes:
    """A POST with Content-Length as bytes."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: bench\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection(asyncio.Protocol):
    """One client connection with at most one request under way."""

    def __init__(self, done: Callable[[Connection, str], None]) -> None:
        self._done = done  # called with "" or with what went wrong
        self._call: Call | None = None
        self._transport: asyncio.Transport | None = None
        self.due = 0.0
        self.sent = 0  # requests on this connection so far
        self.lifetime = 0  # how many it is for; 0: no end
        self.reusable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        self._parser = httptools.HttpResponseParser(self)

    def send(self, call: Call, due: float) -> None:
        """Sends one request; `done` is called once for it."""
        self._call, self.due = call, due
        self.sent += 1
        self._size, self._crc, self._checked = 0, 0, call.body_crc32 is not None
        if self._transport is None or self._transport.is_closing():
            self._finish("closed before the request")
            return
        self._transport.write(call.request)

    def busy_with(self, number: int) -> bool:
        """Whether its request of this number is still under way."""
        return self._call is not None and self.sent == number

    def close(self) -> None:
        """Ends the connection in order."""
        self.reusable = False
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Vanishes: a reset when anything is unread."""
        self.reusable, self._call = False, None
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._finish(f"unreadable answer: {type(error).__name__}")
            self.abort()

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._checked:
            self._crc = zlib.crc32(data, self._crc)

    def on_message_complete(self) -> None:
        if self._call is None:
            self.reusable = False
            return
        self.reusable = self._parser.should_keep_alive()
        self._finish(self._wrong(self._call))

    def _wrong(self, call: Call) -> str:
        status = self._parser.get_status_code()
        if status != 200:
            return f"status {status}"
        if call.body_bytes is not None and self._size != call.body_bytes:
            return f"{self._size} bytes instead of {call.body_bytes}"
        if self._checked and self._crc != call.body_crc32:
            return "other bytes than expected"
        return ""

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        self._transport = None
        self._finish("connection lost")

    def _finish(self, wrong: str) -> None:
        if self._call is not None:
            self._call = None
            self._done(self, wrong)
