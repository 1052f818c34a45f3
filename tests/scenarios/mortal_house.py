"""A house for jobs whose parts are killed, stopped and started again: a gateway, workers, and a
Temporal whose data is on a disk. Its services remember: a request whose Idempotency-Key they know
does nothing, and is answered as the first was.

What a house is made of is in `job_house`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.processes import free_port
from tests.scenarios.job_house import (
    ENVIRON,
    START_SECONDS,
    House,
    Place,
    Process,
    Reply,
    Seen,
    Services,
    temporal_is_up,
    write_settings,
)
from tests.temporal_server import CannotStartError, TemporalServer, program

MARKED_BYTES = 1 << 16


class Remembering(Services):
    """Services that do what a key asks for once: `number` in an answer that is an object says the
    how-manieth of all that were done it was.
    """

    def done(self) -> list[str]:
        """The keys of what was done, in their order."""
        with self._changed:
            keys = [each.headers.get("idempotency-key", "") for each in self.seen]
        return list(dict.fromkeys(keys))

    def _write(self, handler: Any, reply: Reply, seen: Seen) -> None:
        if isinstance(reply.body, dict):
            number = self.done().index(seen.headers.get("idempotency-key", ""))
            reply = replace(reply, body=reply.body | {"number": number})
        super()._write(handler, reply, seen)


class RememberingPlace(Place):
    """Paths of services that remember."""

    def __init__(self, services: Remembering, prefix: str) -> None:
        super().__init__(services, prefix)
        self._remembering = services

    def number(self, path: str) -> int:
        """The how-manieth what a path was asked for is, of all that were done."""
        (key,) = {each.headers["idempotency-key"] for each in self.seen(path)}
        return self._remembering.done().index(key)


class Passage:
    """The way of workers to the gateway, which can be watched: a request with marked bytes in it
    goes through, and its answer never comes back.
    """

    def __init__(self, to: tuple[str, int]) -> None:
        self._to = to
        self._mark: tuple[bytes, Callable[[], None]] | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.met = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def watch(self, marked: bytes, then: Callable[[], None]) -> threading.Event:
        """Of the next request with these bytes the answer is kept back; `then` is called when it is
        there. The event is set after that.
        """
        self.met = threading.Event()
        self._mark = marked, then
        return self.met

    def close(self) -> None:
        """No further connections."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._to) as gateway:
            held = threading.Event()
            back = threading.Thread(target=self._back, args=(gateway, client, held), daemon=True)
            back.start()
            last = b""
            while data := client.recv(MARKED_BYTES):
                last = (last + data)[-MARKED_BYTES:]
                if self._mark is not None and self._mark[0] in last:
                    held.set()
                gateway.sendall(data)
            gateway.shutdown(socket.SHUT_WR)
            back.join()

    def _back(self, gateway: socket.socket, client: socket.socket, held: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := gateway.recv(MARKED_BYTES):
                if held.is_set() and self._mark is not None:
                    then, self._mark = self._mark[1], None
                    then()
                    self.met.set()
                    break
                client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


class MortalHouse(House):
    """Its processes have numbers: each start is a new one, with a log of its own."""

    def __init__(self, directory: Path, temporal: TemporalServer, **environ: str) -> None:
        self.remembering = Remembering()
        super().__init__(directory, self.remembering, free_port())
        self.temporal = temporal
        self.temporal_log = directory / "temporal.log"
        self.state = directory / "state"
        self.passage = Passage(self.door.address)
        self.processes: list[Process] = []
        self.queue = temporal.new_queue()
        self._starts = itertools.count(1)
        self._environ = ENVIRON | {
            "GATEWAY_CONFIG": str(write_settings(directory, self.services.url)),
            "STATE_DIR": str(self.state),
            "TEMPORAL_ADDRESS": temporal.address,
            "TEMPORAL_TASK_QUEUE": self.queue,
            "GATEWAY_URL": f"http://127.0.0.1:{self.door.address[1]}",
        }
        self._environ |= environ

    def start_gateway(self, *, whole: bool = True) -> Process:
        """Returns when it serves, and (`whole`) has Temporal."""
        port = self.door.address[1]
        self.gateway = self._start("gateway", PORT=str(port))
        self.gateway.answers(port, "/health", temporal_is_up if whole else bool)
        return self.gateway

    def start_worker(self, *, by_passage: bool = False, **environ: str) -> Process:
        """Another worker, ready to work."""
        port = free_port()
        if by_passage:
            environ["GATEWAY_URL"] = self.passage.url
        self.worker = self._start("worker", "worker", WORKER_PORT=str(port), **environ)
        self.worker.answers(port, "/health/ready", lambda said: said["status"] == "ready")
        return self.worker

    async def happens(self, event: threading.Event, seconds: float = START_SECONDS) -> bool:
        """Waits for what another thread tells."""
        return await asyncio.to_thread(event.wait, seconds)

    def place(self) -> RememberingPlace:
        """Paths of the services that nobody else has."""
        return RememberingPlace(self.remembering, super().place().prefix)

    @property
    def workers(self) -> list[Process]:
        """All that were ever started."""
        return [each for each in self.processes if each.output.name.startswith("worker")]

    def logs(self) -> dict[str, bytes]:
        """What every process has written so far, Temporal's included, by the file's name."""
        files = [self.temporal_log, *(each.output for each in self.processes)]
        return {file.name: file.read_bytes() for file in files}

    def close(self) -> None:
        """Ends all of it."""
        self.services.close()
        for process in reversed(self.processes):
            kill(process)
        self.passage.close()

    def _start(self, name: str, *arguments: str, **environ: str) -> Process:
        name = f"{name}-{next(self._starts)}"
        process = Process(self.directory, name, *arguments, **(self._environ | environ))
        self.processes.append(process)
        return process


def kill(process: Process) -> None:
    """SIGKILL; returns when it is gone."""
    process.process.kill()
    process.process.wait()


@contextlib.contextmanager
def mortal_house(**environ: str) -> Iterator[MortalHouse]:
    """A house in which Temporal runs and nothing else yet. Raises CannotStartError."""
    with tempfile.TemporaryDirectory(prefix="mortal-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        temporal = TemporalServer(program(), directory, durable=True)
        stack.callback(temporal.stop, kill=True)
        temporal.start()
        house = MortalHouse(directory, temporal, **environ)
        stack.callback(house.close)
        yield house


__all__ = [
    "CannotStartError",
    "MortalHouse",
    "Place",
    "Process",
    "Reply",
    "kill",
    "mortal_house",
]
