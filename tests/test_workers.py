"""Several processes on one port: started, told, replaced, and what the exit code says."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.workers import Supervisor, port_problem
from tests.processes import Running, free_port, get, run_gateway, taken_port

REDIS = {"REDIS_URL": "redis://127.0.0.1:1"}
# A stand-in for a worker: it says its number and process id and waits to be told. Told to hang up
# it says so, told to end it ends with the code it was given. Signals wait until it asks for them,
# so none comes at a bad moment. (No shell: bash can lose one that comes while it runs a trap.)
STAND_IN = """
import os, signal, sys
told = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
code, broken = sys.argv[1:]
def say(number):
    with open(os.environ["FIFO"], "a") as fifo:
        fifo.write(f"{number} {os.getpid()}\\n")
if os.environ["GATEWAY_WORKER"] == broken:
    sys.exit(2)
if code != "deaf":
    signal.pthread_sigmask(signal.SIG_BLOCK, told)
say(os.environ["GATEWAY_WORKER"])
while code == "deaf":
    signal.pause()
while code != "gone" and signal.sigwait(told) == signal.SIGHUP:
    say(0)
sys.exit(0 if code == "gone" else int(code))
"""


class Stage:
    """A FIFO that stand-ins write to, and a supervisor that runs them."""

    def __init__(self, directory: Path) -> None:
        self.fifo = directory / "fifo"
        os.mkfifo(self.fifo)
        self._end = os.open(self.fifo, os.O_RDWR | os.O_NONBLOCK)
        self._said = asyncio.StreamReader()

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        pipe = os.fdopen(self._end, "rb", buffering=0)
        self._transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._said), pipe
        )

    def close(self) -> None:
        self._transport.close()

    def supervisor(
        self, count: int, delay_seconds: float = 0.0, *, code: str = "0", broken: int = 0
    ) -> Supervisor:
        """Stand-ins that end with `code` (`gone`: at once; `deaf`: when they are ended); the one
        with the number `broken` can't start.
        """
        command = (sys.executable, "-S", "-c", STAND_IN, code, str(broken))
        return Supervisor(command, {"FIFO": str(self.fifo)}, count, delay_seconds)

    async def said(self) -> tuple[int, int]:
        """Number and process id of the next stand-in that runs."""
        number, pid = (await self._said.readline()).split()
        return int(number), int(pid)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    await stage.open()
    yield stage
    stage.close()


async def test_each_process_knows_its_number_and_all_are_told(stage: Stage) -> None:
    supervisor = stage.supervisor(3)
    running = asyncio.ensure_future(supervisor.run())
    pids = dict([await stage.said() for _ in range(3)])
    assert sorted(pids) == [1, 2, 3]
    assert repr(supervisor) == f"<Supervisor {dict(sorted(pids.items()))} stopping=False>"
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0
    assert repr(supervisor) == "<Supervisor {} stopping=True>"


async def test_a_process_that_died_is_replaced(
    stage: Stage, capfd: pytest.CaptureFixture[str]
) -> None:
    supervisor = stage.supervisor(1)
    running = asyncio.ensure_future(supervisor.run())
    _, first = await stage.said()
    os.kill(first, signal.SIGKILL)
    number, second = await stage.said()
    assert number == 1
    assert second != first
    supervisor.signal(signal.SIGINT)
    assert await running == 0
    assert capfd.readouterr().err == "gateway: worker 1 ended with -9: started again\n"


async def test_a_stop_cuts_the_delay_before_a_restart(stage: Stage) -> None:
    supervisor = stage.supervisor(1, delay_seconds=3600, code="gone")
    running = asyncio.ensure_future(supervisor.run())
    _, pid = await stage.said()
    while str(pid) in repr(supervisor):  # noqa: ASYNC110 - until it is seen to have ended
        await asyncio.sleep(0)
    supervisor.signal(signal.SIGTERM)
    assert await running == 0


async def test_a_hangup_ends_nothing(stage: Stage) -> None:
    supervisor = stage.supervisor(1)
    running = asyncio.ensure_future(supervisor.run())
    _, pid = await stage.said()
    supervisor.signal(signal.SIGHUP)
    assert await stage.said() == (0, pid)
    supervisor.signal(signal.SIGTERM)
    assert await running == 0


@pytest.mark.parametrize(("code", "result"), [(3, 1), (130, 130)])
async def test_a_process_that_does_not_drain_shows_in_the_exit_code(
    stage: Stage, code: int, result: int
) -> None:
    supervisor = stage.supervisor(2, code=str(code))
    running = asyncio.ensure_future(supervisor.run())
    for _ in range(2):
        await stage.said()
    supervisor.signal(signal.SIGTERM)
    assert await running == result


async def test_a_process_told_before_it_listens_had_nothing_to_drain(stage: Stage) -> None:
    supervisor = stage.supervisor(1, code="deaf")
    running = asyncio.ensure_future(supervisor.run())
    await stage.said()
    supervisor.signal(signal.SIGTERM)
    assert await running == 0


async def test_a_process_that_cannot_start_ends_them_all(stage: Stage) -> None:
    supervisor = stage.supervisor(3, broken=2)
    assert await asyncio.ensure_future(supervisor.run()) == 2


def test_two_processes_share_the_port_and_drain_together() -> None:
    with Running(WORKERS="2", PORT=str(free_port()), **REDIS) as gateway:
        ports = {gateway.port(), gateway.port()}
        assert len(ports) == 1
        assert get(ports.pop(), "/health/live")[0] == 200
        gateway.send(signal.SIGTERM)
        assert gateway.end() == (0, "")
    assert [line["message"] for line in gateway.lines].count("stopped") == 2


def test_a_port_in_use_is_said_once() -> None:
    with taken_port() as port:
        done = run_gateway("server", "--demo", WORKERS="2", PORT=str(port), **REDIS)
    assert done.returncode == 2
    assert done.stderr == (
        f"gateway: cannot listen on 127.0.0.1 port {port}: Address already in use, "
        "expected a free port (PORT) of this machine (HOST)\n"
    )


def test_a_free_port_is_no_problem() -> None:
    assert port_problem("127.0.0.1", free_port()) == ""
    assert "HOST" in port_problem("192.0.2.1", 80)
