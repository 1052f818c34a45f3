"""The control application as an upstream: two transports joined in memory, no socket between them.

aiohttp's own server protocol sits at one end, an UpstreamConnection at the other, so a request that
the gateway answers itself meets the same parser, admission and access record as a proxied one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from gateway.edge.pool import Connector

_HIGH_WATER_BYTES: Final = 65536  # as uvloop's: above it the writer is asked to pause


class MemoryTransport(asyncio.Transport):
    """One end of a pair. What is written here is received by the other end's protocol, one loop
    turn later.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop = loop
        self._protocol: asyncio.BaseProtocol = protocol
        self._other: MemoryTransport | None = None
        self._inbox: list[bytes] = []
        self._inbox_bytes = 0
        self._delivering = False
        self._reading = True
        self._closing = False
        self._writer_paused = False
        self._eof = False

    def __repr__(self) -> str:
        state = "closing" if self._closing else "open"
        return f"<MemoryTransport {state} waiting={self._inbox_bytes}>"

    def join(self, other: MemoryTransport) -> None:
        """Make a pair and tell both protocols."""
        self._other, other._other = other, self
        for end in (self, other):
            end._protocol.connection_made(end)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send to the other end."""
        other = self._other
        if data and other is not None and not self._closing:
            other._receive(bytes(data), self)

    def _receive(self, data: bytes, writer: MemoryTransport) -> None:
        self._inbox.append(data)
        self._inbox_bytes += len(data)
        if self._inbox_bytes > _HIGH_WATER_BYTES and not writer._writer_paused:
            writer._writer_paused = True
            writer._protocol.pause_writing()
        self._deliver_soon()

    def _deliver_soon(self) -> None:
        if not self._delivering and self._reading:
            self._delivering = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._delivering = False
        if self._closing or not self._reading:
            return
        data, self._inbox, self._inbox_bytes = b"".join(self._inbox), [], 0
        protocol = self._protocol
        if data and isinstance(protocol, asyncio.Protocol):
            protocol.data_received(data)
        other = self._other
        if other is not None and other._writer_paused and not self._inbox_bytes:
            other._writer_paused = False
            other._protocol.resume_writing()
        if self._eof and not self._inbox_bytes:
            self.close()

    def close(self) -> None:
        """End both directions once the other end has what was sent."""
        if self._closing:
            return
        self._closing = True
        other, self._other = self._other, None
        if other is not None:
            other._eof = True
            other._deliver_soon()
        self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        """As `close`: nothing is buffered on this side."""
        self.close()

    def is_closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    def pause_reading(self) -> None:
        """Deliver nothing until `resume_reading`."""
        self._reading = False

    def resume_reading(self) -> None:
        """Deliver again."""
        self._reading = True
        if self._inbox or self._eof:
            self._deliver_soon()

    def get_write_buffer_size(self) -> int:
        """Bytes that the other end has not taken."""
        return self._other._inbox_bytes if self._other is not None else 0

    def can_write_eof(self) -> bool:
        """There is no half-close."""
        return False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Who receives from now on."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who receives."""
        return self._protocol


def memory_connector(server: Callable[[], asyncio.Protocol]) -> Connector:
    """Connects to a server protocol factory (an aiohttp `web.Server`) in this process."""

    async def connect(factory: Callable[[], asyncio.Protocol]) -> object:
        loop = asyncio.get_running_loop()
        near = MemoryTransport(loop, factory())
        near.join(MemoryTransport(loop, server()))
        return near

    return connect
