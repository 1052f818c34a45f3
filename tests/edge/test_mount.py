"""Two transports joined in memory: what is written on one side is received on the other."""

from __future__ import annotations

import asyncio
from typing import cast

from gateway.edge.mount import MemoryTransport, memory_connector
from tests.connection import turn

HIGH_WATER_BYTES = 65536


class End(asyncio.Protocol):
    """What happened at one end, in order; bytes are put together."""

    def __init__(self) -> None:
        self.events: list[str | bytes] = []
        self.transport: MemoryTransport = None  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(MemoryTransport, transport)
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        before = self.events[-1]
        if isinstance(before, bytes):
            self.events.pop()
            data = before + data
        self.events.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost" if exc is None else "broken")

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")


async def pair() -> tuple[End, End]:
    """The client's end and the server's, joined as the gateway joins them."""
    client, server = End(), End()
    connected = await memory_connector(lambda: server)(lambda: client)
    assert connected is client.transport
    return client, server


async def test_what_one_end_writes_the_other_receives() -> None:
    client, server = await pair()
    client.transport.write(b"hel")
    client.transport.write(bytearray(b"lo"))
    client.transport.write(b"")
    assert server.events == ["made"], "never within the writer's own call"
    await turn()
    assert server.events == ["made", b"hello"]
    server.transport.write(memoryview(b"world"))
    await turn()
    assert client.events == ["made", b"world"]


async def test_an_end_that_closes_is_lost_and_the_other_reads_to_the_end_first() -> None:
    client, server = await pair()
    client.transport.write(b"last words")
    client.transport.close()
    client.transport.close()
    client.transport.write(b"nobody hears this")
    assert client.transport.is_closing()
    await turn(3)
    assert client.events == ["made", "lost"]
    assert server.events == ["made", b"last words", "lost"]
    assert server.transport.is_closing()


async def test_an_abort_ends_both() -> None:
    client, server = await pair()
    server.transport.abort()
    await turn(3)
    assert client.events == server.events == ["made", "lost"]


async def test_an_end_that_does_not_read_gets_it_later() -> None:
    client, server = await pair()
    server.transport.pause_reading()
    client.transport.write(b"held")
    await turn(3)
    assert server.events == ["made"]
    assert client.transport.get_write_buffer_size() == 4
    server.transport.resume_reading()
    await turn()
    assert server.events == ["made", b"held"]
    assert client.transport.get_write_buffer_size() == 0


async def test_what_is_on_its_way_waits_when_reading_pauses() -> None:
    client, server = await pair()
    client.transport.write(b"held")
    server.transport.pause_reading()
    await turn(3)
    assert server.events == ["made"]
    client.transport.close()
    await turn(3)
    assert server.events == ["made"]
    server.transport.resume_reading()
    await turn(3)
    assert server.events == ["made", b"held", "lost"]


async def test_resuming_with_nothing_there_is_nothing() -> None:
    client, server = await pair()
    server.transport.pause_reading()
    server.transport.resume_reading()
    await turn(2)
    assert server.events == ["made"]
    assert client.events == ["made"]


async def test_a_writer_that_is_too_fast_is_asked_to_pause_and_to_go_on() -> None:
    client, server = await pair()
    server.transport.pause_reading()
    client.transport.write(bytes(HIGH_WATER_BYTES))
    assert client.events == ["made"]
    client.transport.write(b"x")
    client.transport.write(b"y")
    assert client.events == ["made", "pause"]
    server.transport.resume_reading()
    await turn()
    assert client.events == ["made", "pause", "resume"]
    assert server.events == ["made", bytes(HIGH_WATER_BYTES) + b"xy"]


async def test_bytes_that_come_while_an_end_closes_are_dropped() -> None:
    client, server = await pair()
    client.transport.write(b"too late")
    server.transport.close()
    await turn(3)
    assert server.events == ["made", "lost"]
    assert client.events == ["made", "lost"]


async def test_the_receiver_can_change() -> None:
    client, server = await pair()
    other = End()
    other.events.append("other")
    assert server.transport.get_protocol() is server
    server.transport.set_protocol(other)
    assert server.transport.get_protocol() is other
    client.transport.write(b"x")
    await turn()
    assert other.events == ["other", b"x"]
    assert server.events == ["made"]


async def test_a_transport_says_what_it_is() -> None:
    client, server = await pair()
    server.transport.pause_reading()
    client.transport.write(b"abc")
    assert repr(server.transport) == "<MemoryTransport open waiting=3>"
    assert not client.transport.can_write_eof()
    client.transport.close()
    assert repr(client.transport) == "<MemoryTransport closing waiting=0>"
    assert client.transport.get_write_buffer_size() == 0
    server.transport.abort()
    await turn(2)
