"""Gateways without a door, for tests of the backplane: hubs on one real Redis, readers on sockets.

The network between gateway and Redis can be a `Pass`, which loses answers when told to.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

from sse.backplane import Backplane
from sse.backplane_link import Times
from sse.event import NewEvent
from sse.hub import Hub, HubLimits
from sse.ring import HistoryLimits
from sse.stream import EventStream, Lane
from tests.connection import PATIENCE_SECONDS, RawClient, eventually
from tests.redis_server import RedisServer
from tests.streams import Event, Ledger, read_block

QUICK = Times(tick=0.05, shortest_pause=0.01, longest_pause=0.05)
"""Looks often and tries again soon; what a test waits for it waits for with the usual patience."""

LIMITS = HistoryLimits()


def note(number: int, size_bytes: int = 0) -> NewEvent:
    """A counted event, its data about that large."""
    return NewEvent("note", b'{"n":%d,"pad":"%b"}' % (number, b"x" * size_bytes))


def notes(count: int, first: int = 0) -> list[NewEvent]:
    """So many counted events."""
    return [note(number) for number in range(first, first + count)]


class Lines:
    """Log lines, kept."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, object]]] = []

    def keep(self, event: str, **fields: object) -> None:
        self.lines.append((event, fields))

    info = warning = error = keep

    @property
    def events(self) -> list[str]:
        """Their names."""
        return [event for event, _ in self.lines]


class Reader:
    """The client's end of a stream."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.ledger = Ledger()
        self.established: Event = None  # type: ignore[assignment]
        self._tail = b""
        self._events: list[Event] = []

    async def event(self) -> Event:
        """The next event, which must be one that can come next."""
        while not self._events:
            data = await self.client.some()
            assert data, "the stream ended"
            *blocks, self._tail = (self._tail + data).split(b"\n\n")
            self._events += [read_block(block) for block in blocks]
        event = self._events.pop(0)
        self.ledger.take(event)
        return event

    async def events(self, count: int) -> list[Event]:
        """So many of the next ones."""
        return [await self.event() for _ in range(count)]

    async def until(self, event_id: str) -> list[Event]:
        """All up to the one with that id, with it."""
        got = [await self.event()]
        while got[-1].id != event_id:
            got.append(await self.event())
        return got

    def leave(self) -> None:
        """Cuts the connection."""
        self.client.reset()


class Gateway:
    """A hub with a backplane, and the readers it was given."""

    def __init__(self, url: str, **options: Any) -> None:
        """Options of `Backplane`, and `limits`, `times` and `hub` (a class)."""
        loop = asyncio.get_running_loop()
        limits = options.pop("limits", LIMITS)
        options = {"strict": True, "times": QUICK} | options
        self.log = Lines()
        hub_limits = HubLimits(limits, heartbeat_seconds=3600, streams_per_address=1 << 20)
        self.hub: Hub = options.pop("hub", Hub)(loop, hub_limits, loop.time, time.time)
        self.backplane = Backplane(url, self.hub, limits, log=self.log, **options)
        self.hub.backplane = self.backplane
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._clients: list[RawClient] = []

    async def __aenter__(self) -> Gateway:
        await self.backplane.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        self.hub.close()
        await self.backplane.close()
        for client in self._clients:
            client.transport.abort()
        await eventually(lambda: self.hub.count == 0 and all(each.lost for each in self._clients))

    @property
    def state(self) -> object:
        """`healthy` or `degraded`."""
        return self.backplane.state["state"]

    async def becomes(self, state: str) -> None:
        """Waits until the backplane says so of itself."""
        await eventually(lambda: self.state == state, f"{state}: {self.backplane!r}")

    async def publish(self, client_id: str, *events: NewEvent, name: str = "") -> list[str]:
        """Publishes a list; the ids."""
        return (await self.backplane.publish(client_id, events, name)).ids

    async def seat(self) -> tuple[asyncio.Transport, Reader]:
        """A connection, from the gateway's side, and who reads at its other end."""
        loop = asyncio.get_running_loop()
        near = socket.create_connection(self._listener.getsockname())
        far, _ = self._listener.accept()
        near.setblocking(False)
        far.setblocking(False)
        _, client = await loop.create_connection(RawClient, sock=near)
        self._clients.append(client)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=far)
        return transport, Reader(client)

    def join_at(
        self, transport: asyncio.Transport, client_id: str, after: str | None = None
    ) -> None:
        """Opens a stream on a connection."""
        stream = EventStream(self.hub, transport, "there", Lane(False, ""), b"", after)
        transport.set_protocol(stream)
        self.hub.join(stream, client_id)

    async def join(self, client_id: str, after: str | None = None) -> Reader:
        """A reader that has connected; it was told nothing yet."""
        transport, reader = await self.seat()
        self.join_at(transport, client_id, after)
        return reader

    async def read(self, client_id: str, after: str | None = None) -> Reader:
        """A reader that was said hello to."""
        reader = await self.join(client_id, after)
        if after is not None and after != "earliest":
            reader.ledger.last = after
        reader.established = await reader.event()
        assert reader.established.type == "connection.established"
        return reader


class Pass:
    """A way to Redis that can lose what Redis says, keep it for a while, or cut the connection.

    A connection's kind is the part of the gateway that it is named after: `publishing`,
    `listening` or `reading`.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._ports: set[int] = set()
        self._server: asyncio.Server = None  # type: ignore[assignment]
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = {kind: asyncio.Event() for kind in ("publishing", "listening", "reading", "")}
        self.deaf = ""  # the kind whose answers are lost
        self.lose_answers_to = b""  # a command that holds this is done, its answer lost, and then
        self.lost = 0  # the connection cut: how often
        self.refuse_after_loss = False
        self.refusing = False  # new connections are closed at once
        for event in self._open.values():
            event.set()

    @property
    def url(self) -> str:
        """The way in."""
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def hold(self, kind: str) -> None:
        """Keeps answers of that kind back."""
        self._open[kind].clear()

    def release(self, kind: str) -> None:
        """Lets them through."""
        self._open[kind].set()

    def holds(self, client: bytes) -> bool:
        """Whether a line of CLIENT LIST is one that came this way."""
        return any(b" addr=127.0.0.1:%d " % port in client for port in self._ports)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._ports.add(back.get_extra_info("sockname")[1])
        conversation = _Conversation(self, self._open)
        both = [
            asyncio.create_task(conversation.out(reader, back)),
            asyncio.create_task(conversation.back(there, writer)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            for each in (writer, back):
                each.close()
                with contextlib.suppress(OSError):
                    await each.wait_closed()

    async def __aenter__(self) -> Pass:
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", 0)
        return self

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Conversation:
    """One connection through a `Pass`."""

    def __init__(self, way: Pass, opened: dict[str, asyncio.Event]) -> None:
        self._way = way
        self._opened = opened
        self._kind = ""
        self._losing = False

    async def out(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        way = self._way
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                for kind in self._opened:
                    if kind and b"gateway-" + kind.encode() in data:
                        self._kind = kind
                if way.lose_answers_to and way.lose_answers_to in data:
                    self._losing = True
                back.write(data)
                await back.drain()

    async def back(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        way = self._way
        with contextlib.suppress(OSError):
            while data := await there.read(65536):
                if self._losing:
                    way.lose_answers_to = b""
                    way.lost += 1
                    way.refusing = way.refuse_after_loss
                    return
                await self._opened[self._kind].wait()
                if self._kind and self._kind == way.deaf:
                    continue
                writer.write(data)
                await writer.drain()


async def calls(server: RedisServer, command: str) -> int:
    """How often Redis was asked for a command so far, also from scripts."""
    said = await server.call("INFO", "commandstats")
    return int(said.get(f"cmdstat_{command}", {"calls": 0})["calls"])


@contextlib.asynccontextmanager
async def two(url: str, **options: Any) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two gateways on one Redis."""
    async with Gateway(url, **options) as here, Gateway(url, **options) as there:
        yield here, there


async def heard_in_vain(server: RedisServer) -> None:
    """Waits until what was said to a gateway that is deaf has passed it by."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while b"omem=0" not in await server.call("CLIENT", "LIST", "TYPE", "pubsub"):
            pass
    async with Gateway(server.url) as bystander:
        reader = await bystander.read("bob")
        await reader.until((await bystander.publish("bob", note(0)))[0])
