"""Raw connections for tests: bytes kept exactly, every wait bounded, a reset told from an end.

How messages are read is in `tests.messages`; who is at the other end in `tests.wire`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

from tests.messages import Message, ViolationError, read_response

PATIENCE_SECONDS = 60.0
"""How long any condition may take on a busy machine before it counts as never: time that only a
test that fails takes, and less than pytest-timeout gives a whole test."""

POLL_SECONDS = 0.01


class WireClosedError(ConnectionError):
    """The other side ended the connection; `partial` is what there was of the bytes wanted."""

    def __init__(self, how: str, partial: bytes = b"") -> None:
        super().__init__(how)
        self.partial = partial


async def eventually(
    predicate: Callable[[], object], what: str = "", seconds: float = PATIENCE_SECONDS
) -> None:
    """Waits until something outside our own sockets has happened (the one place that polls)."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not predicate():
        if loop.time() > end:
            raise TimeoutError(what or "the condition never came true")
        tick = loop.create_future()
        loop.call_later(POLL_SECONDS, tick.set_result, None)
        await tick


async def turn(times: int = 1) -> None:
    """Lets the loop go round."""
    for _ in range(times):
        await asyncio.sleep(0)


async def holds(predicate: Callable[[], object], seconds: float) -> None:
    """Asserts that something stays true for that long (for what must not happen)."""
    with contextlib.suppress(TimeoutError):
        await eventually(lambda: not predicate(), seconds=seconds)
        raise AssertionError("it did not stay true")


class Wire(asyncio.Protocol):
    """One end of a connection: what came in, kept exactly, and a cursor that readers move."""

    def __init__(self, record: bool = True) -> None:
        self.record = record
        self.received = bytearray()
        self.count = 0
        self.error: Exception | None = None
        self.eof = False
        self.lost = False
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self._taken = 0
        self._full = False
        self._waiting: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        state = "lost" if self.lost else "ended" if self.eof else "open"
        waiting = bytes(self.received[self._taken :][:200])
        return f"<{type(self).__name__} {state} {self.error!r} got={self.count} unread={waiting!r}>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=0)
        self._changed()

    def data_received(self, data: bytes) -> None:
        self.count += len(data)
        if self.record:
            self.received += data
        self._changed()

    def eof_received(self) -> bool:
        self.eof = True
        self._changed()
        return self.transport.get_extra_info("ssl_object") is None

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.error = exc
        self._changed()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._changed()

    def _changed(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    @property
    def ended(self) -> bool:
        """Nothing more will come."""
        return self.eof or self.lost

    @property
    def unread(self) -> bytes:
        """What came and was not read yet."""
        return bytes(self.received[self._taken :])

    async def until(
        self, predicate: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS
    ) -> None:
        """Waits for a condition over this connection."""
        try:
            async with asyncio.timeout(seconds):
                while not predicate():
                    future = asyncio.get_running_loop().create_future()
                    self._waiting.append(future)
                    await future
        except TimeoutError:
            raise TimeoutError(f"waited in vain for {what}: {self!r}") from None

    async def some(self) -> bytes:
        """Whatever is there, b"" at a clean end; raises WireClosedError after a reset."""
        await self.until(lambda: self._taken < len(self.received) or self.ended, "bytes")
        data = self.unread
        if not data and self.error:
            raise WireClosedError(f"reset ({self.error!r})")
        self._taken += len(data)
        return data

    async def exactly(self, count: int) -> bytes:
        """That many bytes; raises WireClosedError."""
        await self.until(
            lambda: len(self.received) - self._taken >= count or self.ended, f"{count} bytes"
        )
        data = bytes(self.received[self._taken : self._taken + count])
        self._taken += len(data)
        if len(data) < count:
            raise WireClosedError(self.how_ended, data)
        return data

    async def line(self) -> bytes:
        """One line without its CRLF; raises WireClosedError, and ViolationError for a bare LF."""
        await self.until(
            lambda: self.received.find(b"\n", self._taken) >= 0 or self.ended, "a line"
        )
        end = self.received.find(b"\n", self._taken)
        if end < 0:
            data, self._taken = self.unread, len(self.received)
            raise WireClosedError(self.how_ended, data)
        data = bytes(self.received[self._taken : end + 1])
        self._taken = end + 1
        if not data.endswith(b"\r\n"):
            raise ViolationError(f"a line ends without CR: {data!r}")
        return data[:-2]

    @property
    def how_ended(self) -> str:
        """`open`, `eof` or `reset`."""
        if self.error:
            return "reset"
        return "eof" if self.ended else "open"

    async def closed(self, seconds: float = PATIENCE_SECONDS) -> str:
        """Waits until the other side ended the connection; says `eof` or `reset`."""
        await self.until(lambda: self.ended, "the end", seconds)
        return self.how_ended

    async def read_until_eof(self) -> bytes:
        """All that is left up to a clean end; raises WireClosedError after a reset."""
        await self.closed()
        data, self._taken = self.unread, len(self.received)
        if self.error:
            raise WireClosedError("reset", data)
        return data

    def send(self, *data: bytes) -> None:
        """Writes without waiting; raises WireClosedError when the connection is gone."""
        if self.lost:
            raise WireClosedError(self.how_ended)
        self.transport.writelines(data)

    async def flush(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Waits until all that was written is with the kernel; raises WireClosedError."""
        await turn()  # uvloop writes at the end of a turn
        await self.until(lambda: not self._full or self.lost, "a flush", seconds)
        if self.lost:
            raise WireClosedError(self.how_ended)

    async def push(self, data: bytes, times: int, stalled_after_seconds: float = 0.7) -> int:
        """Writes `data` up to that many times, each when the last was taken; returns how many bytes
        went before the other side stopped taking more (it stalled, or the connection ended)."""
        for sent in range(times):
            try:
                self.send(data)
                await self.flush(stalled_after_seconds)
            except (TimeoutError, WireClosedError):
                return sent * len(data)
        return times * len(data)

    def hold(self) -> None:
        """Stops reading."""
        self.transport.pause_reading()

    def release(self) -> None:
        """Reads again."""
        self.transport.resume_reading()

    def end(self) -> None:
        """Half-closes."""
        self.transport.write_eof()

    def close(self) -> None:
        """Closes after what was written."""
        self.transport.close()

    def reset(self) -> None:
        """Ends the connection with RST."""
        linger_off = struct.pack("ii", 1, 0)
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_off)
        self.transport.abort()


class RawClient(Wire):
    """A client that says exactly what it is told."""

    async def response(
        self,
        method: bytes = b"GET",
        tell: Callable[[Message], Awaitable[None]] | None = None,
    ) -> Message:
        """The next response, read strictly; `tell` is awaited with each 1xx as it comes."""
        return await read_response(self, method, tell)

    async def ask(self, data: bytes) -> Message:
        """Sends one request and reads its response."""
        self.send(data)
        return await self.response(data.split(b" ", 1)[0])


@contextlib.asynccontextmanager
async def connect(
    address: tuple[str, int],
    *,
    tls: ssl.SSLContext | None = None,
    server_name: str = "",
    record: bool = True,
    held: bool = False,
    receive_buffer_bytes: int = 0,
) -> AsyncIterator[RawClient]:
    """A raw client; `held` does not read until `release()`."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    sock.setblocking(False)
    if receive_buffer_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    try:
        await loop.sock_connect(sock, address[:2])
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        name = (server_name or address[0]) if tls else None
        _, client = await loop.create_connection(
            lambda: RawClient(record), sock=sock, ssl=tls, server_hostname=name
        )
    except BaseException:
        sock.close()
        raise
    try:
        if held:
            client.hold()
        yield client
    finally:
        client.transport.abort()
