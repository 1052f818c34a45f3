"""Temporal as a gateway's child: it comes up beside the gateway, comes back, and goes with it.

The server is the real one where its data matters, else a script that answers as it does; the
worker is a script that says what it was told. Pauses are shortened, nothing waits for time to pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client

from gateway.jobs import embedded, embedded_ports
from gateway.jobs.embedded import ADDRESS_FILE, Embedded, EmbeddedSettings, Pauses
from gateway.jobs.embedded_standing import Phase
from gateway.jobs.types import OWNER_ATTRIBUTE, STATE_ATTRIBUTE
from gateway.settings import environment
from tests import temporal_server
from tests.processes import ROOT, free_port, taken_port

WAIT_SECONDS = 30

# Answers every GET with 200 on the port that is the value of the environment's WORKER_PORT or of
# --http-port, after it has written down its pid, arguments and environment.
ANSWERING = """
import http.server, json, os, sys
if "--version" in sys.argv:
    print("temporal version 0 (Server 1.29.1, UI 2)")
    sys.exit()
seen = {"pid": os.getpid(), "arguments": sys.argv[1:], "environ": dict(os.environ)}
with open(sys.argv[0] + ".calls", "a") as calls:
    calls.write(json.dumps(seen) + "\\n")
if os.path.exists(sys.argv[0] + ".broken"):
    print("it is broken")
    sys.exit(9)
port = os.environ.get("WORKER_PORT") or sys.argv[sys.argv.index("--http-port") + 1]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if os.path.exists(sys.argv[0] + ".deaf"):
            return
        self.send_response(200 if self.path.startswith(("/health/ready", "/api/v1/names")) else 404)
        self.end_headers()
    def log_message(self, *_):
        pass
class Server(http.server.HTTPServer):
    allow_reuse_port = "WORKER_PORT" in os.environ
Server(("127.0.0.1", int(port)), Handler).serve_forever()
"""


class Lines:
    """A log that can be waited for."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []
        self._more = asyncio.Event()

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))
        self._more.set()

    warning = error = info

    async def wait(self, event: str, count: int = 1) -> dict[str, Any]:
        """The fields of the `count`-th line of this event."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                found = [fields for name, fields in self.lines if name == event]
                if len(found) >= count:
                    return found[count - 1]
                self._more.clear()
                await self._more.wait()


class Place:
    """A STATE_DIR, scripts for server and worker, and what was seen."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.log = Lines()
        self.pauses: list[float] = []
        self._paused = asyncio.Event()
        self.temporal = self.script(directory / "temporal")
        self.worker = self.script(directory / "worker")
        self.environ = environment() | {"TEMPORAL_CLI": str(self.temporal)}
        self.home = directory

    @staticmethod
    def script(file: Path, text: str = ANSWERING) -> Path:
        # -S: without what the test environment adds to every Python
        file.write_text(f"#!/bin/sh\nexec '{sys.executable}' -S '{file}.py' \"$@\"\n")
        file.chmod(0o755)
        file.with_name(f"{file.name}.py").write_text(text)
        return file

    @staticmethod
    def calls(script: Path) -> list[dict[str, Any]]:
        file = script.with_name(f"{script.name}.py.calls")
        return [json.loads(line) for line in file.read_text().splitlines()]

    @staticmethod
    def breaks(script: Path, *, broken: bool = True, how: str = "broken") -> None:
        flag = script.with_name(f"{script.name}.py.{how}")
        flag.touch() if broken else flag.unlink()

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._paused.set()
        await asyncio.sleep(0.02)  # instead of all that time

    async def paused(self, count: int) -> None:
        """Returns when there were so many pauses."""
        while len(self.pauses) < count:
            self._paused.clear()
            await self._paused.wait()

    def embedded(self, *, log: Lines | None = None, **settings: Any) -> Embedded:
        options: dict[str, Any] = {"worker_command": (str(self.worker),)} | settings
        return Embedded(
            EmbeddedSettings(self.state, **options),
            environ=self.environ,
            worker_environ={"GATEWAY_URL": "http://127.0.0.1:1", "SERVICE_TOKEN": "marked-secret"},
            log=log or self.log,
            pause=self.pause,
        )


@asynccontextmanager
async def running(what: Embedded) -> AsyncIterator[Embedded]:
    what.start()
    try:
        yield what
    finally:
        await what.close()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def gone(pid: int) -> bool:
    """Whether a process has ended; without its parent it may be a zombie that waits for init."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


# With the real server


async def test_a_real_server_is_started_kept_and_ended(place: Place) -> None:
    try:
        place.environ["TEMPORAL_CLI"] = str(temporal_server.program())
    except temporal_server.CannotStartError as error:
        pytest.skip(str(error))
    async with running(place.embedded(namespace="mine")) as ours:
        assert ours.standing.phase is Phase.STARTING
        async with asyncio.timeout(WAIT_SECONDS):
            address = await ours.ready()
        assert ours.standing.address == address
        client = await Client.connect(address, namespace="mine")
        answer = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace="mine")
        )
        assert {OWNER_ATTRIBUTE, STATE_ATTRIBUTE} <= set(answer.custom_attributes)
        await client.start_workflow("kept", id="job-1", task_queue="nobody")
        ui = ours.standing.ui or ""
        assert await embedded_ports.status_of(int(ui.rpartition(":")[2]), "/") == 200
        await place.log.wait("temporal_worker_up")
        assert ours.dependency() == {
            "state": "healthy", "phase": "up", "address": address, "ui": ui, "worker": "up",
        }  # fmt: skip
        assert (place.state / "temporal.db").stat().st_mode & 0o77 == 0

        server = server_pid(ours)
        os.kill(server, signal.SIGKILL)
        assert (await place.log.wait("temporal_ended"))["code"] == 128 + signal.SIGKILL
        await place.log.wait("temporal_up", 2)
        assert ours.standing.address == address
        described = await client.get_workflow_handle("job-1").describe()
        assert described.workflow_type == "kept"
        pids = [server_pid(ours), place.calls(place.worker)[0]["pid"]]
    assert all(gone(pid) for pid in pids)
    assert ours.standing.phase is Phase.STOPPED
    assert not (place.state / ADDRESS_FILE).exists()


def server_pid(ours: Embedded) -> int:
    """The server's own process: the child of its guard."""
    guard = ours._children["server"].pid
    return int(Path(f"/proc/{guard}/task/{guard}/children").read_text().split()[0])


# With a scripted one


async def test_the_worker_is_told_by_its_environment_only(place: Place) -> None:
    place.environ |= {
        "TEMPORAL_ADDRESS": "embedded", "TEMPORAL_API_KEY": "k", "GATEWAY_WORKER": "1",
        "WORKERS": "2", "JWT_SECRET": "other-secret",
    }  # fmt: skip
    async with running(place.embedded()) as ours:
        up = await place.log.wait("temporal_worker_up")
        address = await ours.ready()
        (worker,), (server,) = place.calls(place.worker), place.calls(place.temporal)
        told = worker["environ"]
        assert told["GATEWAY_URL"] == "http://127.0.0.1:1"
        assert told["TEMPORAL_ADDRESS"] == address
        assert told["SERVICE_TOKEN"] == "marked-secret"
        assert told["STATE_DIR"] == str(place.state)
        assert ours.worker_port == int(told["WORKER_PORT"])
        assert (told["GATEWAY_EMBEDDED"], told["WORKERS"]) == ("1", "1")
        assert up["health"] == f"http://127.0.0.1:{told['WORKER_PORT']}/health"
        assert not {"GATEWAY_WORKER", "TEMPORAL_API_KEY"} & told.keys()
        assert "secret" not in json.dumps([worker["arguments"], server])
        for child in ours._children.values():
            assert "secret" not in command_line(child.pid)
        assert "secret" not in json.dumps(place.log.lines) + repr(ours)


async def test_a_worker_that_ends_is_started_again(place: Place) -> None:
    async with running(place.embedded()) as ours:
        await place.log.wait("temporal_worker_up")
        os.kill(place.calls(place.worker)[0]["pid"], signal.SIGTERM)
        ended = await place.log.wait("temporal_worker_ended")
        assert ended == {"code": 128 + signal.SIGTERM, "again_in_seconds": 0.5}
        assert ours.dependency()["worker"] == "starting"
        assert ours.worker_port is None
        assert ours.dependency()["state"] == "degraded"
        await place.log.wait("temporal_worker_up", 2)
        assert ours.dependency()["state"] == "healthy"
        assert len(place.calls(place.temporal)) == 1


async def test_a_server_that_cannot_start_is_tried_again_later_and_later(place: Place) -> None:
    place.breaks(place.temporal)
    async with running(place.embedded()) as ours:
        await place.log.wait("temporal_ended", 3)
        assert ours.standing.phase is Phase.RESTARTING
        assert ours.standing.detail == (
            "the Temporal server ended with 9: see temporal.log in STATE_DIR"
        )
        assert place.pauses[:3] == [0.5, 1.0, 2.0]
        assert ours.retry_after >= 2
        assert ours.dependency()["detail"] == ours.standing.detail
        assert ours.standing.said == f"Temporal is restarting ({ours.standing.detail})"
        assert (place.state / "temporal.log").read_text().startswith("it is broken\n")
        place.breaks(place.temporal, broken=False)
        async with asyncio.timeout(WAIT_SECONDS):
            await ours.ready()
        assert ours.retry_after == 1
        assert ours.standing.said == ""


async def test_ports_that_others_have_are_left_to_them(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with taken_port() as taken, taken_port() as other:
        monkeypatch.setattr(embedded_ports, "USUAL_PORT", taken)
        monkeypatch.setattr(embedded_ports, "USUAL_UI_PORT", other)
        async with running(place.embedded()) as ours:
            async with asyncio.timeout(WAIT_SECONDS):
                address = await ours.ready()
            assert address != f"127.0.0.1:{taken}"
            assert ours.standing.ui != f"http://127.0.0.1:{other}"


async def test_ports_that_somebody_has_taken_meanwhile_are_left_to_them_too(place: Place) -> None:
    async with running(place.embedded()) as ours:
        await place.log.wait("temporal_worker_up")
        address = await ours.ready()
        moved = asyncio.ensure_future(ours.elsewhere(address))
        os.kill(place.calls(place.temporal)[0]["pid"], signal.SIGKILL)
        await place.log.wait("temporal_ended")
        with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
            await place.log.wait("temporal_up", 2)
            async with asyncio.timeout(WAIT_SECONDS):
                await moved
            assert ours.standing.address != address
            # The worker that was told of the old address has ended, another is told of the new one.
            await place.log.wait("temporal_worker_up", 2)
            told = [each["environ"]["TEMPORAL_ADDRESS"] for each in place.calls(place.worker)]
            assert told == [address, ours.standing.address]


@pytest.mark.parametrize("which", ["temporal", "worker"])
async def test_a_child_that_lives_and_does_not_answer_is_ended_and_started_again(
    place: Place, which: str
) -> None:
    script: Path = getattr(place, which)
    async with running(place.embedded(look_seconds=0.01)) as ours:
        await place.log.wait("temporal_worker_up")
        place.breaks(script, how="deaf")
        stuck = await place.log.wait("temporal_stuck")
        assert stuck == {"child": "server" if which == "temporal" else "worker"}
        await place.log.wait("temporal_ended" if which == "temporal" else "temporal_worker_ended")
        assert gone(place.calls(script)[0]["pid"])
        place.breaks(script, broken=False, how="deaf")
        async with asyncio.timeout(WAIT_SECONDS):
            await place.log.wait("temporal_up", 2 if which == "temporal" else 1)
            await place.log.wait("temporal_worker_up", 1 if which == "temporal" else 2)
        assert ours.dependency()["state"] == "healthy"


async def test_a_full_disk_leaves_no_child_behind_and_is_waited_for(place: Place) -> None:
    place.state.mkdir()
    blocked = (place.state / ADDRESS_FILE).with_suffix(".new")
    blocked.mkdir()  # what can't be written, whoever runs this
    async with running(place.embedded()) as ours:
        await place.log.wait("temporal_ended", 2)
        assert ours.standing.phase is Phase.RESTARTING
        assert "Is a directory" in ours.standing.detail
        assert gone(place.calls(place.temporal)[0]["pid"])
        blocked.rmdir()
        async with asyncio.timeout(WAIT_SECONDS):
            await ours.ready()


async def test_a_guard_that_was_stopped_does_its_duty_at_the_end(place: Place) -> None:
    async with running(place.embedded()) as ours:
        await place.log.wait("temporal_worker_up")
        for guard in ours._children.values():
            os.kill(guard.pid, signal.SIGSTOP)
        pids = [place.calls(script)[0]["pid"] for script in (place.temporal, place.worker)]
    assert all(gone(pid) for pid in pids)


async def test_what_a_killed_guard_had_is_gone_before_the_next_is_started(place: Place) -> None:
    async with running(place.embedded()) as ours:
        await place.log.wait("temporal_worker_up")
        os.kill(ours._children["server"].pid, signal.SIGKILL)
        ended = await place.log.wait("temporal_ended")
        assert ended["code"] == -signal.SIGKILL
        await place.log.wait("temporal_up", 2)
        first, second = place.calls(place.temporal)
        assert gone(first["pid"])
        assert first["arguments"] == second["arguments"], "the same ports"


async def test_a_gateway_that_is_about_to_end_has_no_worker_any_more(place: Place) -> None:
    async with running(place.embedded()) as ours:
        await ours.rest()
        await place.log.wait("temporal_up")
        assert not place.worker.with_name("worker.py.calls").exists()
    place.log.lines.clear()
    async with running(place.embedded()) as ours:
        await place.log.wait("temporal_worker_up")
        await ours.rest()
        assert gone(place.calls(place.worker)[0]["pid"])
        assert not gone(place.calls(place.temporal)[1]["pid"])
        assert ours.worker_port is None
        assert "temporal_worker_ended" not in dict(place.log.lines)


async def test_a_worker_that_hangs_at_its_end_is_killed_by_who_ends_it_anew(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "GRACE_SECONDS", 0.2)
    deaf = place.home / "deaf"  # a guard that hears nothing of its gateway
    deaf.write_text('#!/bin/sh\nshift 2\nexec "$@"\n')
    deaf.chmod(0o755)
    async with running(place.embedded(guard_command=(str(deaf),), look_seconds=0.02)) as ours:
        await place.log.wait("temporal_worker_up")
        pid = place.calls(place.worker)[0]["pid"]
        place.breaks(place.worker, how="deaf")
        assert (await place.log.wait("temporal_stuck"))["child"] == "worker"
        await ours.rest()  # breaks off who is about to end it
        assert gone(pid)


async def test_without_room_for_processes_it_is_tried_again(place: Place) -> None:
    async with running(place.embedded(guard_command=("/nowhere/guard",))) as ours:
        assert (await place.log.wait("temporal_ended", 2))["code"] is None
        assert ours.standing.phase is Phase.RESTARTING


async def test_a_worker_that_cannot_be_run_is_tried_again(place: Place) -> None:
    async with running(place.embedded(worker_command=("/nowhere/worker",))):
        assert (await place.log.wait("temporal_worker_ended", 2))["code"] == 127


async def test_a_state_dir_that_cannot_be_written_fails_and_says_why(place: Place) -> None:
    place.state.write_text("a file")
    async with running(place.embedded()) as ours:
        failed = await place.log.wait("temporal_failed")
        assert ours.standing.phase is Phase.FAILED
        assert "File exists" in failed["error"]
        failed_for = ours.retry_after
        assert ours.dependency()["detail"] == failed["error"]
        assert "worker" not in ours.dependency()
        place.state.unlink()
        async with asyncio.timeout(WAIT_SECONDS):
            await ours.ready()
        assert place.pauses[0] == embedded.LONGEST_PAUSE_SECONDS
        assert failed_for == embedded.LONGEST_PAUSE_SECONDS


async def test_closing_one_that_was_never_started_is_nothing(place: Place) -> None:
    ours = place.embedded()
    await ours.close()
    assert ours.standing.phase is Phase.STOPPED


# The program


async def test_it_is_made_beside_the_gateway_where_there_is_none(place: Place) -> None:
    del place.environ["TEMPORAL_CLI"]
    place.environ |= {"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(place.home / "cache")}
    gate = place.home / "gate"
    os.mkfifo(gate)
    maker = place.script(
        place.home / "maker", f"open({str(gate)!r}).read(); print({str(place.temporal)!r})"
    )
    async with running(place.embedded(maker_command=(str(maker),))) as ours:
        await place.log.wait("temporal_building")
        assert ours.standing.phase is Phase.BUILDING
        assert 150 < ours.retry_after <= 240
        assert ours.dependency()["state"] == "degraded"
        await asyncio.to_thread(gate.write_text, "go on")
        async with asyncio.timeout(WAIT_SECONDS):
            await ours.ready()


async def test_a_gateway_that_ends_ends_the_making(place: Place) -> None:
    del place.environ["TEMPORAL_CLI"]
    place.environ |= {"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(place.home / "cache")}
    pid = place.home / "pid"
    os.mkfifo(pid)
    maker = place.script(
        place.home / "maker",
        f"import os, signal\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\nsignal.pause()",
    )
    async with running(place.embedded(maker_command=(str(maker),))):
        async with asyncio.timeout(WAIT_SECONDS):
            making = int(await asyncio.to_thread(pid.read_text))
    assert gone(making)


async def test_a_program_that_cannot_be_made_is_tried_again_later(place: Place) -> None:
    del place.environ["TEMPORAL_CLI"]
    place.environ |= {"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(place.home / "cache")}
    maker = place.script(
        place.home / "maker",
        "import os, sys\n"
        f"if os.path.exists('{place.home}/tried'): print({str(place.temporal)!r})\n"
        f"else: open('{place.home}/tried', 'w'); sys.exit(2)\n",
    )
    async with running(place.embedded(maker_command=(str(maker),))) as ours:
        failed = await place.log.wait("temporal_failed")
        assert "could not be made" in failed["error"]
        async with asyncio.timeout(WAIT_SECONDS):
            await ours.ready()
        assert place.pauses == [embedded.MAKE_AGAIN_SECONDS]


async def test_a_wrong_temporal_cli_is_said(place: Place) -> None:
    place.environ["TEMPORAL_CLI"] = "/nowhere/temporal"
    async with running(place.embedded()) as ours:
        failed = await place.log.wait("temporal_failed")
        assert failed["error"].startswith("TEMPORAL_CLI /nowhere/temporal is no temporal program")
        assert ours.standing.phase is Phase.FAILED
        assert ours.standing.said == f"Temporal can't be started: {failed['error']}"
        assert "worker" not in ours.dependency()
        assert ours.retry_after == 600


# Several gateways with one STATE_DIR


async def test_the_second_uses_what_the_first_has_and_takes_over(place: Place) -> None:
    second_log = Lines()
    async with running(place.embedded()) as first:
        async with asyncio.timeout(WAIT_SECONDS):
            address = await first.ready()
        async with running(place.embedded(log=second_log)) as second:
            assert await second_log.wait("temporal_up") == {
                "address": address, "ui": first.standing.ui, "own": False,
            }  # fmt: skip
            assert "worker" not in second.dependency()
            assert second.dependency()["state"] == "healthy"
            assert len(place.calls(place.temporal)) == 1
            await first.close()
            taken_over = await second_log.wait("temporal_up", 2)
            assert taken_over["own"] is True
            await second_log.wait("temporal_worker_up")
            assert len(place.calls(place.temporal)) == 2


async def test_other_processes_of_one_gateway_never_have_the_children(place: Place) -> None:
    log = Lines()
    async with running(place.embedded(worker=2, log=log)) as other:
        async with asyncio.timeout(WAIT_SECONDS):
            await place.paused(3)
        assert other.standing.phase is Phase.WAITING
        assert "the first gateway" in other.standing.detail
        async with running(place.embedded(worker=1)) as first:
            assert (await log.wait("temporal_up"))["own"] is False
            async with asyncio.timeout(WAIT_SECONDS):
                assert await other.ready() == await first.ready()
        assert len(place.calls(place.temporal)) == 1


GATEWAY = """
import asyncio, sys, uvloop
from pathlib import Path
from gateway.jobs.embedded import Embedded, EmbeddedSettings
from gateway.settings import environment
class Log:
    def info(self, event, **fields):
        print(event, flush=True)
    warning = error = info
async def main():
    ours = Embedded(
        EmbeddedSettings(Path(sys.argv[1]), worker_command=(sys.argv[2],)),
        environ=environment(), worker_environ={}, log=Log(),
    )
    ours.start()
    await asyncio.Event().wait()
asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main())
"""


async def test_a_killed_gateway_leaves_no_child_and_the_next_one_is_found_at_the_same_place(
    place: Place,
) -> None:
    command = [sys.executable, "-c", GATEWAY, str(place.state), str(place.worker)]
    killed = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=place.environ, stdout=subprocess.PIPE
    )
    assert killed.stdout is not None
    async with asyncio.timeout(WAIT_SECONDS):
        said = [await killed.stdout.readline() for _ in range(2)]
    assert said == [b"temporal_up\n", b"temporal_worker_up\n"]
    ports = json.loads((place.state / ADDRESS_FILE).read_text())
    killed.kill()
    # The worker has the pipe too, as a gateway's has its log: at its end, both have ended.
    async with asyncio.timeout(WAIT_SECONDS):
        assert await killed.stdout.read() == b""
    await killed.wait()
    pids = [place.calls(script)[0]["pid"] for script in (place.temporal, place.worker)]
    async with running(place.embedded()) as next_one:
        # It has the lock: the guard of the killed one's server has ended, and that server with it.
        await place.log.wait("temporal_worker_up")
        assert await next_one.ready() == f"127.0.0.1:{ports['grpc']}"
        assert all(gone(pid) for pid in pids)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"grpc": "x", "http": 2, "ui": 3}', '{"grpc":0,"http":2,"ui":3}']
)
def test_a_file_that_says_nothing_is_nothing(tmp_path: Path, text: str) -> None:
    file = tmp_path / ADDRESS_FILE
    file.write_text(text)
    assert embedded_ports.read_ports(file) is None


def test_pauses_grow_and_are_short_again_after_a_steady_run() -> None:
    pauses = Pauses()
    assert [pauses.after(1) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert pauses.after(61) == 0.5


async def test_an_answer_that_is_none_is_none() -> None:
    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"nonsense\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await embedded_ports.status_of(port, "/") == 0
    assert await embedded_ports.status_of(free_port(), "/") == 0
    with contextlib.suppress(asyncio.CancelledError):
        await server.wait_closed()
