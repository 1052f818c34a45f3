"""A gateway with a Temporal and a worker of its own is killed: nothing of them is left behind, and
the next one goes on where it was.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.processes import free_port
from tests.questions import answer, recorded
from tests.scenarios.job_calls import (
    API,
    LIST,
    PROCESS,
    accepted,
    call,
    fetch,
    path_of,
    result,
    steps_of,
    until,
)
from tests.scenarios.job_house import Process, temporal_is_up
from tests.scenarios.mortal_house import kill
from tests.streams import Remote, post
from tests.temporal_server import required_program


async def test_nothing_is_left_of_an_embedded_temporal_and_the_next_gateway_goes_on(
    tmp_path: Path,
) -> None:
    cli = required_program()
    port = free_port()
    names = {"TEMPORAL_CLI": cli, "TEMPORAL_ADDRESS": "embedded", "PORT": str(port)}
    names |= {"STATE_DIR": str(tmp_path / "state"), "RATE_LIMIT": "off"}
    door = Remote(port)
    ask = {"prompt": "Go on?", "client_ids": ["me"], "options": ["yes", "no"]}
    steps = [
        {"id": "before", "request": call("/json", service="demo")},
        {"id": "ok", "ask": ask},
        {"id": "after", "request": call("/json", service="demo")},
    ]
    with embedded(tmp_path, port, names) as process:
        operation_id = accepted(await door.ask(post(f"{LIST}/{PROCESS}", {"steps": steps})))
        question_id = await asked(door, operation_id)
        children = descendants(process.process.pid)
        assert len(children) >= 4, "guards, and what they guard"
        kill(process)
        await gone(children)
    with embedded(tmp_path, port, names) as process:
        assert await asked(door, operation_id) == question_id
        recorded(await answer(door, question_id, "yes"))
        response = await result(door, operation_id)
        assert response.status == 200, response.body
        assert response.json()["data"]["ok"] == "yes"
        body = (await fetch(door, path_of(operation_id, "status"))).json()
        assert set(steps_of(body).values()) == {"completed"}
        assert [step["attempts"] for step in body["steps"]] == [1, 1, 1]
        last = descendants(process.process.pid)
    await gone(last)
    assert b"Exception ignored" not in process.output.read_bytes()


async def test_who_takes_over_finds_the_jobs_also_where_temporal_gets_other_ports(
    tmp_path: Path,
) -> None:
    cli = required_program()
    names = {"TEMPORAL_CLI": cli, "TEMPORAL_ADDRESS": "embedded", "RATE_LIMIT": "off"}
    names |= {"STATE_DIR": str(tmp_path / "state")}
    ports = free_port(), free_port()
    with embedded(tmp_path, ports[0], names | {"PORT": str(ports[0])}) as first:
        second = Process(tmp_path, "second", "server", "--demo", **names, PORT=str(ports[1]))
        try:
            second.answers(ports[1], "/health", temporal_is_up)
            door = Remote(ports[1])
            operation_id = await done(Remote(ports[0]))
            before = await result(door, operation_id)
            assert before.status == 200, before.body
            # As if somebody had the ports by the time that the second starts its own.
            others = {"grpc": free_port(), "http": free_port(), "ui": free_port()}
            (tmp_path / "state" / "temporal.json").write_text(json.dumps(others))
            kill(first)
            second.answers(ports[1], "/health", embedded_is_up)
            health = (await fetch(door, "/health")).json()
            address = f"127.0.0.1:{others['grpc']}"
            assert health["checks"]["temporal"]["address"] == address
            assert (await result(door, operation_id)).body == before.body
            await done(door)
        finally:
            second.stop()
        connected = [each for each in second.lines() if each["message"] == "temporal_connected"]
        assert [each["address"] for each in connected][1:] == [address]


async def done(door: Remote) -> str:
    """The id of a job that is over."""
    response = await door.ask(post(f"{LIST}/{API}", call("/json", service="demo")))
    assert response.status == 200, response.body
    body = response.json()
    assert body["status"] == "completed", body
    operation_id: str = body["operation_id"]
    return operation_id


@contextlib.contextmanager
def embedded(directory: Path, port: int, names: dict[str, str]) -> Iterator[Process]:
    """A gateway with Temporal and a worker of its own, all of it up."""
    process = Process(directory, "gateway", "server", "--demo", **names)
    try:
        process.answers(port, "/health", embedded_is_up)
        yield process
    finally:
        process.stop()


def embedded_is_up(health: Any) -> bool:
    """Temporal and the worker are there."""
    return temporal_is_up(health) and health["checks"]["temporal"].get("worker") == "up"


async def asked(door: Remote, operation_id: str) -> str:
    """The id of the question that the job waits for."""

    async def asking() -> Any:
        response = await fetch(door, path_of(operation_id, "status"))
        return response.json()["question"] if response.status == 200 else None

    found: str = (await until("the question", asking))["question_id"]
    return found


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, and theirs."""
    said = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in said.stdout.splitlines()]
    found, new = set[int](), {pid}
    while new:
        new = {child for child, parent in pairs if parent in new} - found
        found |= new
    return found


async def gone(pids: set[int]) -> None:
    """Waits until all have ended: a server gets 5 s to do so in order."""

    async def none() -> bool:
        return not alive(pids)

    await until(f"the end of {pids}", none)


def alive(pids: set[int]) -> set[int]:
    """Those that have not ended."""
    said = subprocess.run(["ps", "-A", "-o", "pid=,stat="], capture_output=True, check=True)
    lines = [line.split() for line in said.stdout.splitlines()]
    return pids & {int(pid) for pid, state in lines if not state.startswith(b"Z")}
