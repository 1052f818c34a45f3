"""Several processes on one port: started, told, replaced, and what the exit code says."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.workers import Supervisor, port_problem
from tests.processes import Running, free_port, get, run_gateway, taken_port

REDIS = {"REDIS_URL": "redis://127.0.0.1:1"}
# Stand-ins for a worker: each says its number and process id, and waits to be told. A shell that is
# told just before it waits only notices afterwards, so it never waits for long.
PATIENT = (
    'trap "exit 0" TERM INT; echo $GATEWAY_WORKER $$ >>"$FIFO"; '
    'while :; do read -t 0.05 x <>"$NEVER"; done'
)


class Stage:
    """A FIFO that stand-ins write to, and a supervisor that runs them."""

    def __init__(self, directory: Path) -> None:
        self.fifo, self._never = directory / "fifo", directory / "never"
        for file in (self.fifo, self._never):
            os.mkfifo(file)
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

    def supervisor(self, script: str, count: int, delay_seconds: float = 0.0) -> Supervisor:
        environ = {"PATH": os.environ["PATH"], "FIFO": str(self.fifo), "NEVER": str(self._never)}
        return Supervisor(("bash", "-c", script), environ, count, delay_seconds)

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
    supervisor = stage.supervisor(PATIENT, 3)
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
    supervisor = stage.supervisor(PATIENT, 1)
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
    supervisor = stage.supervisor('echo $GATEWAY_WORKER $$ >>"$FIFO"', 1, delay_seconds=3600)
    running = asyncio.ensure_future(supervisor.run())
    _, pid = await stage.said()
    while str(pid) in repr(supervisor):  # noqa: ASYNC110 - until it is seen to have ended
        await asyncio.sleep(0)
    supervisor.signal(signal.SIGTERM)
    assert await running == 0


async def test_a_hangup_ends_nothing(stage: Stage) -> None:
    supervisor = stage.supervisor(
        PATIENT.replace("echo", 'trap "echo 0 $$ >>\\"$FIFO\\"" HUP; echo'), 1
    )
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
    supervisor = stage.supervisor(PATIENT.replace("exit 0", f"exit {code}"), 2)
    running = asyncio.ensure_future(supervisor.run())
    for _ in range(2):
        await stage.said()
    supervisor.signal(signal.SIGTERM)
    assert await running == result


async def test_a_process_told_before_it_listens_had_nothing_to_drain(stage: Stage) -> None:
    supervisor = stage.supervisor(PATIENT.partition(";")[2], 1)
    running = asyncio.ensure_future(supervisor.run())
    await stage.said()
    supervisor.signal(signal.SIGTERM)
    assert await running == 0


async def test_a_process_that_cannot_start_ends_them_all(stage: Stage) -> None:
    supervisor = stage.supervisor(f"[ $GATEWAY_WORKER = 2 ] && exit 2; {PATIENT}", 3)
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
