"""The timeline of a job, out of a real history: what ran, how long, what failed and why."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.jobs import timeline
from tests.connection import PATIENCE_SECONDS
from tests.jobs.desk import ALICE, ORCHESTRATION, Desk, desk
from tests.temporal_server import TemporalServer, temporal  # noqa: F401


@pytest.fixture
async def room(temporal: TemporalServer) -> AsyncIterator[Desk]:  # noqa: F811
    async with desk(temporal) as found:
        yield found


async def until(room: Desk, operation_id: str, **wanted: Any) -> dict[str, Any]:
    """The history, as soon as it has an entry with these members."""
    async with asyncio.timeout(5 * PATIENCE_SECONDS):  # a try is repeated meanwhile
        while True:
            found = await room.jobs.history(ALICE, operation_id)
            for entry in found["entries"]:
                if wanted.items() <= entry.items():
                    return found
            await asyncio.sleep(0.02)


def entries(history: dict[str, Any], what: str) -> list[dict[str, Any]]:
    return [each for each in history["entries"] if each["what"] == what]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_job_with_a_bit_of_everything(room: Desk, fails: bool) -> None:
    what = {"do": "lots", "fails": fails, "result": "marked-secret"}
    operation_id = await room.started(what, ORCHESTRATION)
    await until(room, operation_id, what="activity", name="transform_response", status="running")
    await room.jobs.signal(ALICE, operation_id, "pause", [])
    await room.jobs.update(ALICE, operation_id, "skip_step", ["two"])
    for step in ("bad", "done"):
        with pytest.raises(Exception, match="step"):
            await room.jobs.update(ALICE, operation_id, "skip_step", [step])
    await room.go(operation_id)
    await room.ended(operation_id)
    found = await room.jobs.history(ALICE, operation_id)
    assert (found["operation_id"], found["workflow_type"]) == (operation_id, ORCHESTRATION)
    assert found["events_left_out"] == 0
    assert "marked-secret" not in json.dumps(found)

    begun, *rest = entries(found, "job")
    assert begun["status"] == "started"
    assert rest[0]["status"] == ("failed" if fails else "completed")
    if fails:
        assert rest[0]["failure"] == {"code": "EXTERNAL", "message": "it broke"}

    paid, local, failed_local, failed, cancelled = entries(found, "activity")
    assert (paid["name"], paid["step"], paid["status"]) == ("route_to_service", "pay", "completed")
    assert paid["attempts"] == 2
    assert paid["last_failure"] == {"code": "EXTERNAL", "message": "the service is ill"}
    assert paid["duration_ms"] >= 0
    assert paid["ended_at"] >= paid["started_at"] >= paid["at"]
    assert (local["name"], local["local"], local["status"]) == (
        "route_to_service",
        True,
        "completed",
    )
    assert failed_local["status"] == "failed"
    assert failed_local["failure"]["message"] == "the service is ill"
    assert failed_local["attempts"] == 2
    assert (failed["status"], failed["attempts"]) == ("failed", 2)
    assert failed["failure"] == {"code": "EXTERNAL", "message": "the service is ill"}
    assert "step" not in failed
    assert cancelled["name"] == "transform_response"

    timers = entries(found, "timer")
    assert [(each["seconds"], each["status"]) for each in timers] == [
        (0.01, "completed"),
        (3600.0, "cancelled"),
    ]
    children = entries(found, "child")
    assert {each["name"] for each in children} == {"tiny_child"}
    assert [each["status"] for each in children] == ["completed", "failed", "timed_out", "failed"]
    assert children[1]["failure"]["message"] == "the child broke"
    assert {each["name"] for each in entries(found, "signal")} == {"pause", "go"}
    updates = entries(found, "update")
    assert [(each["name"], each["status"]) for each in updates] == [
        ("skip_step", "completed"),
        ("skip_step", "failed"),
        ("skip_step", "failed"),
    ]
    assert updates[1]["failure"] == {
        "code": "UNPROCESSABLE",
        "message": "there is no such step",
    }


async def test_what_is_tried_again_says_when_and_why(room: Desk) -> None:
    operation_id = await room.started({"do": "retrying"}, ORCHESTRATION)
    found = await until(room, operation_id, what="activity", status="retrying")
    [entry] = entries(found, "activity")
    assert entry["last_failure"] == {"code": "EXTERNAL", "message": "the service is ill"}
    assert entry["next_attempt_at"] > entry["at"]
    assert entry["attempts"] == 2
    await room.jobs.cancel(ALICE, operation_id)
    found = await until(room, operation_id, what="cancel")
    await room.ended(operation_id)
    found = await until(room, operation_id, what="job", status="cancelled")
    [entry] = entries(found, "activity")
    assert entry["status"] == "unfinished"


async def test_a_terminated_job_says_so(room: Desk) -> None:
    operation_id = await room.started({"do": "wait"})
    await room.jobs.terminate(ALICE, operation_id)
    found = await until(room, operation_id, what="job", status="terminated")
    assert len(entries(found, "job")) == 2


async def test_a_long_history_is_cut_and_says_by_how_much(
    room: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation_id = await room.started({"do": "complete"})
    await room.ended(operation_id)
    whole = await until(room, operation_id, what="job", status="completed")
    monkeypatch.setattr(timeline, "MOST_EVENTS", 2)
    cut = await room.jobs.history(ALICE, operation_id)
    assert cut["entries"] == whole["entries"][:1]
    assert cut["events_left_out"] >= 3
