"""Several server processes on one port (`WORKERS`): starts them, passes signals on, replaces one
that died.

Each is a whole gateway in a process of its own that binds the port with SO_REUSEPORT; nothing is
shared but the port, hence the need for Redis. What one process does is in `serve`.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

import uvloop

from gateway.exits import EXIT_CANNOT_START, EXIT_DONE, EXIT_STOPPED_AT_ONCE, EXIT_WRONG
from gateway.settings import Settings

RESTART_DELAY_SECONDS = 1.0
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_workers(settings: Settings, arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run `settings.workers` processes of `gateway` with `arguments` until a signal ends them; the
    exit code.
    """
    problem = port_problem(settings.host, settings.port)
    if problem:
        _say(f"cannot listen on {settings.host} port {settings.port}: {problem}")
        return EXIT_CANNOT_START
    command = (sys.executable, "-m", "gateway", *arguments)
    supervisor = Supervisor(command, environ, settings.workers)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(supervisor.run())


def port_problem(host: str, port: int) -> str:
    """Why the port cannot be had, or nothing; the workers themselves could not tell, since they
    share it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return f"{error.strerror}, expected a free port (PORT) of this machine (HOST)"
    return ""


class Supervisor:
    """Keeps `count` processes of `command` running until told to stop."""

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        count: int,
        restart_delay_seconds: float = RESTART_DELAY_SECONDS,
    ) -> None:
        self._command = tuple(command)
        self._environ = dict(environ)
        self._count = count
        self._restart_delay_seconds = restart_delay_seconds
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._cannot_start = False

    def __repr__(self) -> str:
        pids = {number: process.pid for number, process in sorted(self._running.items())}
        return f"<Supervisor {pids} stopping={self._stopping.is_set()}>"

    async def run(self) -> int:
        """Run until all have ended: 0 drained, 2 one could not start, 130 stopped at once."""
        loop = asyncio.get_running_loop()
        for number in PASSED_ON:
            loop.add_signal_handler(number, self.signal, number)
        codes = await asyncio.gather(*(self._keep(n) for n in range(1, self._count + 1)))
        if self._cannot_start:
            return EXIT_CANNOT_START
        # One that is told before it listens for signals is simply ended, and had nothing to drain.
        undrained = set(codes) - {EXIT_DONE, -signal.SIGTERM}
        if not undrained:
            return EXIT_DONE
        return EXIT_STOPPED_AT_ONCE if undrained == {EXIT_STOPPED_AT_ONCE} else EXIT_WRONG

    def signal(self, number: signal.Signals) -> None:
        """Pass a signal on to every process; SIGTERM and SIGINT also end the keeping."""
        if number != signal.SIGHUP:
            self._stopping.set()
        for process in self._running.values():
            if process.returncode is None:
                with suppress(ProcessLookupError):  # it has ended, and is not waited for yet
                    process.send_signal(number)

    async def _keep(self, worker: int) -> int:
        """Run one process again and again; the exit code of the last."""
        first = True
        while True:
            code = await self._run_once(worker)
            if self._stopping.is_set():
                return code
            if first and code == EXIT_CANNOT_START:
                self._cannot_start = True
                self.signal(signal.SIGTERM)
                return code
            first = False
            _say(f"worker {worker} ended with {code}: started again")
            try:
                await asyncio.wait_for(self._stopping.wait(), self._restart_delay_seconds)
                return EXIT_DONE
            except TimeoutError:
                pass

    async def _run_once(self, worker: int) -> int:
        environ = self._environ | {"GATEWAY_WORKER": str(worker)}
        # A session of its own: ^C on a terminal then reaches the workers once, through us.
        process = await asyncio.create_subprocess_exec(
            *self._command, env=environ, start_new_session=True
        )
        self._running[worker] = process
        if self._stopping.is_set():  # told while the process was being started
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        try:
            return await process.wait()
        finally:
            del self._running[worker]


def _say(line: str) -> None:
    print(f"gateway: {line}", file=sys.stderr, flush=True)  # noqa: T201 - there is no log in this process
