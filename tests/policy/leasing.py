"""Gateways that lease tokens from a real Redis by hand, and a Redis whose time passes when told.

Redis' clock is the machine's. But all that the scripts count is how long ago the state was written,
so a test writes that it was longer ago.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from gateway.policy import lease_scripts
from gateway.policy.lease_scripts import Answer, Ask, Beat, Leases
from sse.backplane_link import Wire, connections, read

SILENT_SECONDS = 0.6
SEEN_SECONDS = 10.0
LEASE_SECONDS = 3.0
FAR = 2**53
"""As `not_after`: never too late."""


class Caller:
    """One gateway."""

    def __init__(self, wire: Wire, name: bytes, run: bytes = b"run", of: int = 1) -> None:
        self._wire = wire
        self.name = name
        self.run = run
        self.of = of
        self.epoch = b""
        self._beats = 0

    async def beat(
        self, *, before: bytes | None = None, not_after: int = FAR, leaves: bool = False
    ) -> Beat:
        """Show that it is there."""
        self._beats += 1
        command = lease_scripts.beating(
            self.name,
            self.run,
            self.epoch if before is None else before,
            self.of,
            b"%b/%d" % (self.name, self._beats),
            not_after,
            (round(SILENT_SECONDS * 1e6), round(SEEN_SECONDS * 1e6)),
            leaves=leaves,
        )
        said = lease_scripts.beat((await ask(self._wire, command))[0])
        self.epoch = said.epoch
        self.of = said.gateways
        return said

    async def leases(self, *asks: Ask, not_after: int = FAR) -> Leases:
        command = lease_scripts.leasing(
            self.name,
            self.epoch,
            not_after,
            round(SILENT_SECONDS * 1e6),
            round(LEASE_SECONDS * 1e6),
            asks,
        )
        return lease_scripts.leases((await ask(self._wire, command))[0])

    async def lease(
        self,
        key: bytes,
        buckets: Sequence[tuple[int, float]],
        need: int = 0,
        want: int = 0,
        *,
        least: int = 1,
        held: int = 0,
        back: int = 0,
        at_most: Sequence[float] | None = None,
    ) -> Answer:
        """One key's lease."""
        wanted = Ask(key, buckets, need, least, want, held, back, at_most)
        return (await self.leases(wanted)).answers[0]


class Callers:
    """Makes gateways, and lets time pass."""

    def __init__(self, url: str) -> None:
        self._connect, _ = connections(url)
        self.wires: list[Wire] = []
        self.all: list[Caller] = []

    async def make(self, name: bytes, *, run: bytes = b"run", of: int = 1) -> Caller:
        """One that has not been heard yet."""
        wire = self._connect("test")
        await wire.connect()
        self.wires.append(wire)
        await ask(wire, lease_scripts.loading(), 2)
        self.all.append(Caller(wire, name, run, of))
        return self.all[-1]

    async def there(self, *names: bytes) -> list[Caller]:
        """Gateways that know of each other."""
        made = [await self.make(name) for name in names]
        for caller in (*made, *made):
            await caller.beat()
        return made

    async def call(self, *words: bytes | str | int) -> Any:
        """Any command."""
        return (await ask(self.wires[0], lease_scripts._packed(*words)))[0]

    async def pass_by(self, seconds: float, *heard: Caller) -> None:
        """Time passes; these gateways show that they are there, three times a second."""
        while seconds > 1e-9:
            step = min(seconds, 0.3) if heard else seconds
            seconds -= step
            await self.call("HINCRBY", lease_scripts.STATE_KEY, "at", -round(step * 1e6))
            for caller in heard:
                await caller.beat()

    async def close(self) -> None:
        for wire in self.wires:
            await wire.disconnect(nowait=True)


async def ask(wire: Wire, command: bytes, count: int = 1) -> list[Any]:
    """Commands and their answers."""
    await wire.send_packed_command(command, check_health=False)
    return [await read(wire) for _ in range(count)]


class Lines:
    """Log lines as they come."""

    def __init__(self) -> None:
        self.all: list[tuple[str, dict[str, object]]] = []

    def info(self, event: str, **fields: object) -> None:
        self.all.append((event, fields))

    warning = error = info

    @property
    def names(self) -> list[str]:
        return [event for event, _ in self.all]


class Relay:
    """The network between a gateway and Redis: it can be slow, or cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay_seconds = 0.0

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    def cut(self) -> None:
        """Nothing gets through any more, and nobody is told."""
        self._open.clear()

    def mend(self) -> None:
        """What was held up comes through now."""
        self._open.set()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, there_writer))
                both.create_task(self._pass(there_reader, writer))
        except* OSError:
            pass
        finally:
            for one in (writer, there_writer):
                one.close()
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._open.wait()
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            writer.write(data)
        writer.close()
