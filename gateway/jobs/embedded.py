"""Temporal inside the gateway (`TEMPORAL_ADDRESS=embedded`): a development server and a worker as
its children, started beside a gateway that serves already, started again when they end, and ended
with it.

One gateway of those that share a `STATE_DIR` has the children: the one that holds the lock in it.
The others (`WORKERS`, or a second gateway) read in a file there where the server is. A server that
is there already and is not ours is never used. Not here: where the program comes from and how it is
started (`devserver`), what ends it after a SIGKILL (`guard`), talking to it (`client`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import os
import signal
import sys
import time
from asyncio import FIRST_COMPLETED
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from gateway.jobs import devserver
from gateway.jobs.devserver import LOOPBACK, CannotMakeError, Ports
from gateway.jobs.embedded_ports import (
    free_ports,
    read_ports,
    reserved_port,
    status_of,
    write_ports,
)
from gateway.jobs.embedded_standing import Phase, Standing
from gateway.jobs.types import OWNER_ATTRIBUTE, STATE_ATTRIBUTE

LOCK_FILE: Final = "temporal.lock"
ADDRESS_FILE: Final = "temporal.json"
DATABASE_FILE: Final = "temporal.db"
LOG_FILE: Final = "temporal.log"

POLL_SECONDS: Final = 0.05  # while a child is starting: it takes 0.2 s, a worker 2 s
LOOK_SECONDS: Final = 1.0  # how often one without children looks after who has them
# A child that lives and does not answer is ended after so many looks in a row: half a minute at
# least. Any answer will do, for a machine may be that busy.
CHECK_SECONDS: Final = 5.0
MOST_MISSED: Final = 6
START_SECONDS: Final = 60.0  # a start that takes longer counts as none
# The server ends within 1.2 s (measured). What a worker has begun is done again after a restart.
GRACE_SECONDS: Final = 5.0
# A build that is broken off removes what it fetched, some 100,000 files; nobody waits for that.
MAKER_GRACE_SECONDS: Final = 60.0
# One that ran so long did not fail at its start: the next pause is short again.
STEADY_SECONDS: Final = 60.0
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0
MAKE_AGAIN_SECONDS: Final = 600.0  # there may be a network by then
BUILDING_SECONDS: Final = 240.0  # of a build on two cores, for `retry_after`
OK: Final = 200

# Settings of this gateway that are not its worker's.
_NOT_PASSED: Final = (
    "GATEWAY_WORKER", "TEMPORAL_API_KEY", "TEMPORAL_TLS", "TEMPORAL_TLS_CA", "TEMPORAL_TLS_CERT",
    "TEMPORAL_TLS_KEY", "TEMPORAL_TLS_SERVER_NAME",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    """`worker` is the number among several processes of one gateway, 0 for a single one; only the
    first has the children. The commands, and how often these are looked after, are there for tests.
    """

    state_dir: Path
    namespace: str = "default"
    worker: int = 0
    worker_command: tuple[str, ...] = (sys.executable, "-m", "gateway", "worker")
    maker_command: tuple[str, ...] = (sys.executable, "-m", "gateway.jobs.devserver")
    guard_command: tuple[str, ...] = devserver.GUARD
    look_seconds: float = CHECK_SECONDS


class Embedded:
    """The children of one gateway. `start` once, `close` once."""

    def __init__(
        self,
        settings: EmbeddedSettings,
        *,
        environ: Mapping[str, str],
        worker_environ: Mapping[str, str],
        log: Any,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`environ` is this process's; `worker_environ` is what the worker is told besides
        (`GATEWAY_URL` …): secrets go this way only, never as arguments.
        """
        self._settings = settings
        self._environ = dict(environ)
        self._worker_environ = dict(worker_environ)
        self._log = log
        self._clock = clock
        self._pause = pause
        self._standing = Standing(Phase.STARTING)
        self._since = clock()
        self._pause_seconds = 0.0  # before the next try, where one is waited for
        self._answered = asyncio.Event()
        self._moved = asyncio.Event()  # another one after each move
        self._task: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None  # the worker
        self._resting = False  # without a worker, since the gateway is about to end
        self._lock: int | None = None
        self._children: dict[str, Process] = {}
        self._worker_up: int | None = None  # the port where its health and figures are

    def __repr__(self) -> str:
        pids = {name: child.pid for name, child in self._children.items()}
        return f"<Embedded {self._standing.phase} {self._standing.address} {pids}>"

    @property
    def standing(self) -> Standing:
        """How it stands now."""
        return self._standing

    @property
    def worker_port(self) -> int | None:
        """Where the worker that is up answers `/health` and `/metrics`; None: there is none."""
        return self._worker_up

    @property
    def retry_after(self) -> int:
        """Seconds after which asking again makes sense."""
        if self._standing.phase is Phase.BUILDING:
            return max(5, math.ceil(BUILDING_SECONDS - (self._clock() - self._since)))
        return max(1, math.ceil(self._pause_seconds))

    def dependency(self) -> dict[str, Any]:
        """For `/health`: `state` is `healthy` or `degraded`; a gateway without it still serves."""
        standing = self._standing
        mine = self._lock is not None
        well = standing.phase is Phase.UP and (self._worker_up is not None or not mine)
        shown: dict[str, Any] = {
            "state": "healthy" if well else "degraded",
            "phase": standing.phase.value,
            "address": standing.address,
            "ui": standing.ui,
        }
        if mine and standing.address is not None:
            shown["worker"] = "starting" if self._worker_up is None else "up"
        if standing.detail:
            shown["detail"] = standing.detail
        return shown

    def start(self) -> None:
        """Returns at once; everything happens beside the gateway."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def ready(self) -> str:
        """The server's address, once it answers. It stays the same over its restarts, unless
        somebody else has taken a port meanwhile.
        """
        await self._answered.wait()
        return self._standing.address or ""

    async def elsewhere(self, address: str) -> None:
        """Returns once the server is at another address than this one."""
        while self._standing.address in (None, address):
            await self._moved.wait()

    async def rest(self) -> None:
        """Ends the worker, in order, and starts none any more."""
        self._resting = True
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        await self._end("worker")

    async def close(self) -> None:
        """Ends worker and server, in this order; returns when they have ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._stand(Phase.STOPPED)

    def _stand(self, phase: Phase, detail: str = "", pause_seconds: float = 0.0) -> None:
        """Another phase, for so long at least; what is known of the address stays."""
        self._pause_seconds = pause_seconds
        if phase is not self._standing.phase:
            self._since = self._clock()
        self._standing = replace(self._standing, phase=phase, detail=detail)

    def _up(self, ports: Ports, *, own: bool) -> None:
        known, ui = self._standing.address, f"http://{LOOPBACK}:{ports.ui}"
        self._stand(Phase.UP)
        self._standing = replace(self._standing, address=ports.address, ui=ui)
        self._answered.set()
        self._log.info("temporal_up", address=ports.address, ui=ui, own=own)
        if known != ports.address:
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()

    # Who has the children

    async def _run(self) -> None:
        while True:
            try:
                await self._have_children()
            except* Exception as errors:
                # A directory that can't be written, a full disk: the gateway itself goes on.
                first = errors.exceptions[0]
                bug = None if isinstance(first, OSError) else first
                self._log.error("temporal_failed", error=str(first), exc_info=bug)
                self._stand(Phase.FAILED, str(first), LONGEST_PAUSE_SECONDS)
            await self._pause(LONGEST_PAUSE_SECONDS)

    async def _have_children(self) -> None:
        """Runs both for ever, once it is this gateway's turn. Raises OSError."""
        try:
            before = await self._lead()
            program = await self._program()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_server(program, before))
                if not self._resting:
                    self._keeping = group.create_task(self._keep_worker())
        finally:
            for name in ("worker", "server"):  # what a cancelled start left
                await self._end(name)
            self._resign()

    async def _lead(self) -> Ports | None:
        """Returns when this gateway has the lock, with the ports to try first, where there are
        such; follows until then.

        The ports are those of the one before where there was one: who knows its address (another
        process of this gateway, a client of one that was killed) finds the next server there.
        """
        directory = self._settings.state_dir
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / ADDRESS_FILE
        lock = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not (_locked(lock) and self._settings.worker <= 1):
                # Where nobody has the children now, the first process of this gateway will.
                fcntl.flock(lock, fcntl.LOCK_UN)
                await self._follow(read_ports(file))
                await self._pause(LOOK_SECONDS)
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock
        before = read_ports(file)
        file.unlink(missing_ok=True)
        self._answered.clear()
        self._stand(Phase.STARTING)
        return before

    async def _follow(self, ports: Ports | None) -> None:
        standing = self._standing
        known = ports is not None and ports.address == standing.address
        if known and standing.phase is Phase.UP:
            return
        # The file of a gateway that was killed is there until the next one has started a server.
        path = devserver.probe(self._settings.namespace)
        if ports is not None and await status_of(ports.http, path) == OK:
            self._up(ports, own=False)
        else:
            self._answered.clear()
            self._stand(Phase.WAITING, "the first gateway with this STATE_DIR starts Temporal")

    def _resign(self) -> None:
        if self._lock is not None:
            (self._settings.state_dir / ADDRESS_FILE).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    # The program

    async def _program(self) -> Path:
        """Found, or made by a process of its own; tried again when that fails."""
        while True:
            detail = ""
            try:
                found = await asyncio.to_thread(devserver.find, self._environ)
                if found is not None:
                    return found
                self._log.info("temporal_building", version=devserver.VERSION)
                self._stand(Phase.BUILDING, "the temporal program is built, once: some minutes")
                made = await self._made()
                if made is not None:
                    self._stand(Phase.STARTING)
                    return made
                detail = "the temporal program could not be made: see what the gateway said"
            except CannotMakeError as error:
                detail = str(error)
            self._log.error("temporal_failed", error=detail)
            self._stand(Phase.FAILED, detail, MAKE_AGAIN_SECONDS)
            await self._pause(MAKE_AGAIN_SECONDS)

    async def _made(self) -> Path | None:
        # What it tells goes to this process's stderr, for a person who waits.
        child = await self._spawn("maker", "-", self._settings.maker_command, self._environ, PIPE)
        try:
            said = await child.stdout.read() if child.stdout is not None else b""
            await child.wait()
        finally:
            await self._end("maker")
        return Path(os.fsdecode(said).strip()) if child.returncode == 0 and said.strip() else None

    # The children

    async def _keep_server(self, program: Path, ports: Ports | None) -> None:
        """Runs the server again and again, on the ports that it had before, but for those that
        somebody else has by then.
        """
        directory = self._settings.state_dir.absolute()
        environ = devserver.server_environ(self._environ)
        pauses = Pauses()
        while True:
            began, why = self._clock(), ""
            try:
                ports = free_ports(ports)
                command = devserver.server_command(
                    program,
                    ports,
                    namespace=self._settings.namespace,
                    attributes=(OWNER_ATTRIBUTE, STATE_ATTRIBUTE),
                    database=directory / DATABASE_FILE,
                )
                child = await self._spawn("server", str(directory / LOG_FILE), command, environ)
                path = devserver.probe(self._settings.namespace)
                if await self._answers(child, ports.http, path):
                    write_ports(directory / ADDRESS_FILE, ports)
                    self._up(ports, own=True)
                    await self._over("server", child, ports.http, path)
            except OSError as error:  # no process to be had now, a full disk
                why = f" ({error})"
            code = await self._end("server")
            detail = f"the Temporal server ended with {code}{why}: see {LOG_FILE} in STATE_DIR"
            seconds = pauses.after(self._clock() - began)
            self._stand(Phase.RESTARTING, detail, seconds)
            self._log.warning("temporal_ended", code=code, again_in_seconds=seconds)
            await self._pause(seconds)

    async def _keep_worker(self) -> None:
        """Runs the worker again and again, from when the server answered first."""
        pauses = Pauses()
        while True:
            address = await self.ready()
            began = self._clock()
            with contextlib.suppress(OSError), reserved_port() as port:  # no process to be had now
                path = "/health/ready"
                environ = self._environ_of_worker(address, port)
                child = await self._spawn("worker", "-", self._settings.worker_command, environ)
                if await self._answers(child, port, path):
                    self._worker_up = port
                    health = f"http://{LOOPBACK}:{port}/health"
                    self._log.info("temporal_worker_up", health=health)
                    await self._over("worker", child, port, path, address)
            code = await self._end("worker")
            seconds = pauses.after(self._clock() - began)
            self._log.warning("temporal_worker_ended", code=code, again_in_seconds=seconds)
            await self._pause(seconds)

    def _environ_of_worker(self, address: str, port: int) -> dict[str, str]:
        kept = {k: v for k, v in self._environ.items() if k not in _NOT_PASSED}
        return kept | self._worker_environ | {
            "GATEWAY_EMBEDDED": "1",
            "STATE_DIR": str(self._settings.state_dir.absolute()),
            "TEMPORAL_ADDRESS": address,
            "TEMPORAL_NAMESPACE": self._settings.namespace,
            "WORKER_PORT": str(port),
            "WORKERS": "1",
        }  # fmt: skip

    async def _answers(self, child: Process, port: int, path: str) -> bool:
        """Whether it answers 200 there; False when it ended instead, or took too long."""
        ended = asyncio.ensure_future(child.wait())
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(START_SECONDS):
                    # The answer must be this child's: no other may hold the port.
                    while not ended.done():
                        if await status_of(port, path) == OK and not ended.done():
                            return True
                        await asyncio.wait((ended,), timeout=POLL_SECONDS)
            return False
        finally:
            ended.cancel()

    async def _over(
        self, name: str, child: Process, port: int, path: str, server: str | None = None
    ) -> None:
        """Returns when the child has ended, or is to be ended: it does not answer any more, or the
        server that it was told of is at another address now.
        """
        over: list[asyncio.Future[Any]] = [asyncio.ensure_future(child.wait())]
        if server is not None:
            over.append(asyncio.ensure_future(self.elsewhere(server)))
        seconds, missed = self._settings.look_seconds, 0
        try:
            while missed < MOST_MISSED:
                if (await asyncio.wait(over, timeout=seconds, return_when=FIRST_COMPLETED))[0]:
                    return
                missed = 0 if await status_of(port, path) else missed + 1
            self._log.error("temporal_stuck", child=name)
        finally:
            for each in over:
                each.cancel()

    async def _spawn(
        self,
        name: str,
        log: str,
        command: Sequence[str],
        environ: Mapping[str, str],
        stdout: int | None = None,
    ) -> Process:
        """A guarded child. The lock is held by the server's guard too: while a server of a gateway
        that was killed has not ended, no second one opens its database.
        """
        held = (self._lock,) if name == "server" and self._lock is not None else ()
        grace = MAKER_GRACE_SECONDS if name == "maker" else GRACE_SECONDS
        child = await asyncio.create_subprocess_exec(
            *self._settings.guard_command, str(grace), log, *command,
            stdin=PIPE, stdout=stdout, env=dict(environ), pass_fds=held, start_new_session=True,
        )  # fmt: skip
        self._children[name] = child
        return child

    async def _end(self, name: str) -> int | None:
        """Ends a child by closing its guard's stdin, when there is one; its exit code, or None."""
        child = self._children.get(name)
        if child is None:
            return None
        if child.stdin is not None:
            child.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(signal.SIGCONT)  # a guard that was stopped ends nothing
        if name == "worker":
            self._worker_up = None
        # A guard that is busy, or that someone holds, must not keep a gateway from ending.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS if name == "maker" else 3 * GRACE_SECONDS):
                await child.wait()
        if child.returncode is None and name != "maker":
            child.kill()  # what it guards ends with it, where the system can do that
            await child.wait()
        self._children.pop(name, None)  # not before: who cancels this may have to end it anew
        return child.returncode


class Pauses:
    """How long to wait before a child is started again: longer each time, short again after one
    that ran steadily.
    """

    def __init__(self) -> None:
        self._next = FIRST_PAUSE_SECONDS

    def after(self, ran_seconds: float) -> float:
        """The pause behind a run of so long."""
        if ran_seconds >= STEADY_SECONDS:
            self._next = FIRST_PAUSE_SECONDS
        pause = self._next
        self._next = min(2 * pause, LONGEST_PAUSE_SECONDS)
        return pause


def _locked(lock: int) -> bool:
    """Whether the lock could be had, and was taken."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
