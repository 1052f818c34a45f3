"""The service behind the proxy: as fast as uvloop lets it be, so that the proxy is measured.

GET /json (209 bytes of JSON), GET /bytes/N, POST /upload (counts and drops), POST /echo (the same
bytes back), GET /stream?rate=R&count=N (server-sent events that carry the monotonic nanosecond at
which they were written). `?delay=S` on any of them answers S seconds later. Started as `python -m
bench.backend PORT`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import cast
from urllib.parse import parse_qsl, urlsplit

import httptools
import uvloop

JSON_BODY = (
    b'{"id":"4f9c2d7e-0b1a-4c3d-8e5f-6a7b8c9d0e1f","name":"plain answer","status":"active",'
    b'"items":[{"sku":"A-100","count":3},{"sku":"B-200","count":12}],'
    b'"total":128.5,"currency":"EUR","updated":"2025-01-01T00:00Z"}'
)
_BLOCK = bytes(range(256)) * 256
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def answer(body: bytes, content_type: bytes = b"application/json") -> bytes:
    """A whole 200 answer."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
    return head % (content_type, len(body)) + body


JSON_ANSWER = answer(JSON_BODY)


def bytes_of(size_bytes: int) -> bytes:
    """The body of /bytes/N: the same for everyone, so that a client can check it."""
    return (_BLOCK * (size_bytes // len(_BLOCK) + 1))[:size_bytes]


class Backend(asyncio.Protocol):
    """One connection. Requests come one after the other: a proxy's pool does not pipeline."""

    def __init__(self, loop: asyncio.AbstractEventLoop, bodies: dict[int, bytes]) -> None:
        self._loop = loop
        self._bodies = bodies
        self._transport: asyncio.Transport | None = None
        self._fresh = True
        self._start()

    def _start(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._received = 0
        self._kept: list[bytes] = []
        self._echo = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        self._transport.set_write_buffer_limits(high=1 << 20)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        # The express path: one whole GET /json. Four in five benchmarks send nothing else.
        if self._fresh and data.startswith(b"GET /json ") and data.endswith(b"\r\n\r\n"):
            if self._transport is not None:
                self._transport.write(JSON_ANSWER)
            return
        self._fresh = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._write(
                b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            if self._transport is not None:
                self._transport.close()

    # httptools callbacks
    def on_url(self, url: bytes) -> None:
        self._target += url
        self._echo = self._target.startswith(b"/echo")

    def on_headers_complete(self) -> None:
        if self._target.startswith(b"/stream"):
            self._write(_STREAM_HEAD)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"expect":
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self._received += len(data)
        if self._echo:
            self._kept.append(data)

    def on_message_complete(self) -> None:
        url = urlsplit(self._target.decode("latin-1"))
        query = dict(parse_qsl(url.query))
        body, received = b"".join(self._kept), self._received
        self._start()
        self._fresh = True
        if "delay" in query:
            self._loop.call_later(
                float(query["delay"]), self._answer, url.path, query, body, received
            )
        else:
            self._answer(url.path, query, body, received)

    def _answer(self, path: str, query: dict[str, str], body: bytes, received: int) -> None:
        if path == "/stream":
            self._stream(float(query.get("rate", "10")), int(query.get("count", "0")), 0)
        elif path == "/echo":
            self._write(answer(body, b"application/octet-stream"))
        elif path == "/upload":
            self._write(answer(b'{"bytes":%d}' % received))
        elif path.startswith("/bytes/"):
            size = int(path[7:])
            whole = self._bodies.get(size)
            if whole is None:
                whole = self._bodies[size] = answer(bytes_of(size), b"application/octet-stream")
            self._write(whole)
        else:
            self._write(JSON_ANSWER)

    def _stream(self, rate: float, count: int, sent: int) -> None:
        """Writes an event and comes back for the next, until `count` or the connection's end."""
        if self._transport is None:
            return
        if count and sent >= count:
            self._write(b"0\r\n\r\n")
            return
        event = b"id: %d\ndata: %d\n\n" % (sent, time.monotonic_ns())
        self._write(b"%x\r\n%b\r\n" % (len(event), event))
        self._loop.call_later(1 / rate, self._stream, rate, count, sent + 1)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


async def serve(port: int) -> asyncio.Server:
    """A listening backend on the loopback; port 0 takes a free one."""
    loop = asyncio.get_running_loop()
    bodies: dict[int, bytes] = {}
    return await loop.create_server(lambda: Backend(loop, bodies), "127.0.0.1", port, backlog=4096)


async def _main(port: int) -> None:
    server = await serve(port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1])))
