"""A real Temporal for tests: the development server, on free loopback ports, silent, in memory.

`temporal` is the server of a test process, started when the first test asks for it; tests keep
apart by ids and queues of their own. A `TemporalServer` of one's own can be stopped, killed and
started again with its data. The program is found or made by `gateway.jobs.devserver`
(`TEMPORAL_CLI` names one). Every wait is for a condition, never for time to pass.
"""

from __future__ import annotations

import contextlib
import http.client
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.jobs import devserver
from gateway.jobs.types import OWNER_ATTRIBUTE, STATE_ATTRIBUTE
from gateway.settings import environment
from tests.processes import free_port

if TYPE_CHECKING:
    from temporalio.client import Client

START_SECONDS = 60.0
"""How long a start may take on a busy machine before it counts as never."""

PATIENCE_SECONDS = 60.0
"""How long anything that Temporal and its workers do may take on a busy machine before it counts as
never: a worker that was lost is missed after ten seconds, and half of a test's time is left.
"""

NAMESPACE = "default"
_TRIES = 5  # another process may take a free port between its choice and the start
_POLL_SECONDS = 0.02
_END_SECONDS = 20.0


class CannotStartError(RuntimeError):
    """Why there is no Temporal here."""


class TemporalServer:
    """One development server; it can be stopped, killed and started again on the same ports.

    With `durable` the data is there again after any stop, SIGKILL included; without, every start
    begins empty.
    """

    def __init__(self, program: Path, directory: Path, *, durable: bool = False) -> None:
        self._program = program
        self._directory = directory
        self._database = directory / "temporal.db" if durable else None
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = _free_ports()

    def __repr__(self) -> str:
        state = "stopped" if self._process is None else f"pid {self._process.pid}"
        return f"<TemporalServer {self.address} {state}>"

    @property
    def address(self) -> str:
        """For `TEMPORAL_ADDRESS`; stays the same over restarts."""
        return self._ports.address

    @property
    def pid(self) -> int:
        """The process, while it runs."""
        assert self._process is not None, "not running"
        return self._process.pid

    async def client(self) -> Client:
        """A connection of a test's own, without the gateway's codec."""
        from temporalio.client import Client

        return await Client.connect(self.address, namespace=NAMESPACE)

    def new_queue(self) -> str:
        """A task queue that no other test has."""
        return f"test-{uuid.uuid4().hex}"

    def start(self) -> None:
        """Returns when it can be worked with; nothing happens when it runs already."""
        if self._process is not None:
            return
        for _ in range(_TRIES):
            self._process = self._spawn()
            try:
                if self._answers(self._process):
                    return
            except BaseException:
                self.stop(kill=True)
                raise
            self._process = None
            if self._database is not None and self._database.exists():
                break  # data already written belongs to this address's users
            self._ports = _free_ports()
        log = (self._directory / "temporal.log").read_text(errors="replace")
        raise CannotStartError(f"temporal did not start: {log[-2000:]}")

    def stop(self, *, kill: bool = False) -> None:
        """Returns when the process has ended; `kill`: by SIGKILL, else in order by SIGTERM."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGCONT)  # a held process takes no SIGTERM
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def hang(self) -> None:
        """Holds the process: connections stay, nothing answers (until `resume`)."""
        assert self._process is not None, "not running"
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a held process go on."""
        assert self._process is not None, "not running"
        self._process.send_signal(signal.SIGCONT)

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = devserver.server_command(
            self._program,
            self._ports,
            attributes=(OWNER_ATTRIBUTE, STATE_ATTRIBUTE),
            database=self._database,
        )
        with (self._directory / "temporal.log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self._directory,
                env=devserver.server_environ(environment()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        """Waits until it knows its namespace; False when the process ended instead."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection(
                    devserver.LOOPBACK, self._ports.http, timeout=START_SECONDS
                )
                try:
                    connection.request("GET", devserver.probe(NAMESPACE))
                    # The answer must be this process's: no other may hold the port.
                    if connection.getresponse().status == 200 and process.poll() is None:
                        return True
                finally:
                    connection.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
                return False
        raise CannotStartError(f"temporal did not answer within {START_SECONDS:g} s")


def _free_ports() -> devserver.Ports:
    return devserver.Ports(free_port(), free_port(), None)


def program() -> Path:
    """The `temporal` program; raises CannotStartError where there is none. `./start.sh test` makes
    one before the tests: a build does not fit into the time of one.
    """
    try:
        found = devserver.find(environment())
    except devserver.CannotMakeError as error:
        raise CannotStartError(str(error)) from error
    if found is None:
        raise CannotStartError("no temporal program: python -m gateway.jobs.devserver makes one")
    return found


def required_program() -> str:
    """`program`, for tests that start a Temporal by themselves: skipped where there is none."""
    try:
        return str(program())
    except CannotStartError as error:
        pytest.skip(f"no Temporal here: {error}")


@contextlib.contextmanager
def temporal_server(*, durable: bool = False) -> Iterator[TemporalServer]:
    """A started server that is gone, with its data, at the end. Raises CannotStartError."""
    with tempfile.TemporaryDirectory(prefix="temporal-") as directory:
        server = TemporalServer(program(), Path(directory), durable=durable)
        server.start()
        try:
            yield server
        finally:
            server.stop(kill=True)


_STARTED = pytest.StashKey[TemporalServer]()


@pytest.fixture(scope="session")
def temporal(request: pytest.FixtureRequest) -> TemporalServer:
    """The server of a test process: one, though each module that imports the fixture has its own of
    it. Tests that need it are skipped, and say why, where there is no program.
    """
    config = request.config
    if _STARTED not in config.stash:
        stack = contextlib.ExitStack()
        try:
            config.stash[_STARTED] = stack.enter_context(temporal_server())
        except CannotStartError as error:
            pytest.skip(f"no Temporal here: {error}")
        config.add_cleanup(stack.close)
    return config.stash[_STARTED]
