"""Large payloads are forgotten with their jobs, and not before."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest
from structlog import get_logger
from structlog.testing import capture_logs
from temporalio.service import RPCError, RPCStatusCode

from gateway.jobs.payload_purge import LONGEST_SECONDS, PayloadPurge, known_to
from gateway.jobs.types import DAY
from gateway.store import Database, JobPayloads
from sse.question_store import StoreAwayError
from tests.temporal_server import TemporalServer, temporal

__all__ = ["temporal"]

HOUR = 3600.0


class Wall:
    """Unix seconds that pass when told."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


async def test_payloads_of_a_job_that_temporal_forgot_go_and_others_stay(tmp_path: Path) -> None:
    database, wall = Database(None, tmp_path), Wall()
    await database.open()
    payloads = JobPayloads(database, "default", wall)
    for name in ("gone", "kept"):
        await payloads.put(name, name, b"data")
    asked: list[str] = []

    async def is_known(operation_id: str) -> bool:
        asked.append(operation_id)
        return operation_id == "kept"

    purge = PayloadPurge(payloads, is_known, get_logger("test"))
    assert await purge.look() == 0
    assert asked == []
    wall.now += HOUR
    with capture_logs() as lines:
        assert await purge.look() == 1
    assert [line["payloads"] for line in lines] == [1]
    assert sorted(asked) == ["gone", "kept"]
    assert await payloads.get("gone") is None
    assert await payloads.get("kept") == b"data"
    assert "JobPayloads" in repr(purge)
    await database.close()


async def test_what_is_of_no_known_job_outlives_every_history(tmp_path: Path) -> None:
    database, wall = Database(None, tmp_path), Wall()
    await database.open()
    payloads = JobPayloads(database, "default", wall)
    await payloads.put("a", "", b"data")

    async def is_known(operation_id: str) -> bool:
        raise AssertionError("there is no job to ask about")

    purge = PayloadPurge(payloads, is_known, get_logger("test"))
    assert LONGEST_SECONDS == (180 + 91) * DAY
    wall.now += LONGEST_SECONDS - 1
    assert await purge.look() == 0
    wall.now += DAY
    assert await purge.look() == 1
    await database.close()


class Failing:
    """A table that is away, then has nothing."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.looked = asyncio.Event()

    async def due(self, most: int) -> list[str]:
        if self.errors:
            raise self.errors.pop(0)
        self.looked.set()
        return []

    async def forget(self, operation_id: str, older_seconds: float = 0) -> int:
        raise AssertionError


async def test_what_is_away_is_looked_at_again() -> None:
    away = RPCError("away", RPCStatusCode.UNAVAILABLE, b"")
    payloads = Failing(StoreAwayError("away"), away)

    async def is_known(operation_id: str) -> bool:
        return True

    purge = PayloadPurge(payloads, is_known, get_logger("test"), round_seconds=0.0)
    with capture_logs() as lines:
        purge.start()
        await asyncio.wait_for(payloads.looked.wait(), 10)
        await purge.close()
    assert [line["error"] for line in lines] == ["StoreAwayError", "RPCError"]


async def test_one_that_was_not_started_is_closed_without_a_word() -> None:
    async def is_known(operation_id: str) -> bool:
        return True

    await PayloadPurge(Failing(), is_known, get_logger("test")).close()


async def test_temporal_is_asked_whether_it_knows_a_job(temporal: TemporalServer) -> None:
    client = await temporal.client()
    is_known = known_to(client)
    started = uuid4().hex
    await client.start_workflow("never", id=started, task_queue=temporal.new_queue())
    assert await is_known(started)
    await client.get_workflow_handle(started).terminate()
    assert await is_known(started)
    assert not await is_known(uuid4().hex)
    with pytest.raises(RPCError):
        await is_known("")
