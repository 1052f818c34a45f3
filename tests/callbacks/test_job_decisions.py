"""Decisions on their way to jobs: told until the job has them, or is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from gateway.callbacks import JobDecisionWorker
from gateway.callbacks.retries import DAY_SECONDS
from gateway.store.deliveries import Delivery
from tests.callbacks.rows import delivery
from tests.callbacks.working import Table, a_table, working
from tests.connection import eventually


class Workflows:
    """Jobs that are told; what is in `says` is said or raised, in its order, then all is well."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Mapping[str, Any]]] = []
        self.says: list[bool | Exception] = []
        self.open = asyncio.Event()
        self.open.set()
        self.stuck: set[str] = set()

    async def tell(self, operation_id: str, decision: Mapping[str, Any], /) -> bool:
        self.told.append((operation_id, decision))
        if operation_id in self.stuck:
            await self.open.wait()
        said = self.says.pop(0) if self.says else True
        if isinstance(said, Exception):
            raise said
        return said


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[Table]:
    async with a_table(tmp_path) as table:
        yield table


@asynccontextmanager
async def telling(table: Table, workflows: Workflows) -> AsyncIterator[JobDecisionWorker]:
    """A worker that never sweeps by itself: tests wake it."""
    worker = JobDecisionWorker(
        table,
        workflows,
        wall=lambda: table.now,
        random=lambda: 0.5,
        log=structlog.get_logger("gateway.callbacks"),
        sweep_seconds=3600,
    )
    worker.start()
    try:
        yield worker
    finally:
        await worker.close()


def of_job(operation_id: str = "a-1") -> Delivery:
    return delivery("job", operation_id)


async def test_a_job_is_told_what_was_decided_in_the_words_of_its_model(table: Table) -> None:
    workflows = Workflows()
    (row,) = await table.add(of_job())
    async with telling(table, workflows) as worker:
        await table.until(lambda: table.rows[row].done)
        assert repr(worker).startswith("<JobDecisionWorker open")
    [(operation_id, decision)] = workflows.told
    assert operation_id == "a-1"
    assert decision == {
        "question_id": "q-1",
        "status": "answered",
        "response": {"approved": True},
        "answered_by": "ada",
        "answered_at": "2026-11-21T14:00:00.000Z",
        "expires_at": None,
    }
    assert table.rows[row].said == ["0 forwarded told the job at try 1"]


async def test_a_job_that_is_over_needs_no_telling(table: Table) -> None:
    workflows = Workflows()
    workflows.says = [False]
    (row,) = await table.add(of_job())
    async with telling(table, workflows):
        await table.until(lambda: table.rows[row].done)
    assert table.rows[row].said == ["0 forwarded the job is over at try 1"]


async def test_it_is_tried_for_as_long_as_the_decision_is_kept(table: Table) -> None:
    workflows = Workflows()
    workflows.says = [ConnectionError("Temporal is away")] * 6
    (row,) = await table.add(of_job())
    async with telling(table, workflows) as worker:
        for failed in range(1, 7):
            worker.wake()
            await table.tried(row, failed)
            table.now = table.next_at(row)
            if failed == 4:
                table.now += 20 * DAY_SECONDS
        worker.wake()
        await table.until(lambda: table.rows[row].done)
    assert len(workflows.told) == 7
    assert [each.split()[1:] for each in table.rows[row].said] == [
        ["forwarded", "told", "the", "job", "at", "try", "7"]
    ]


async def test_why_it_failed_is_logged_without_the_decision(table: Table) -> None:
    workflows = Workflows()
    workflows.says = [ConnectionError("no way to temporal:7233 " + "x" * 500)]
    (row,) = await table.add(of_job())
    with capture_logs() as lines:
        async with telling(table, workflows):
            await table.tried(row, 1)
    [line] = [line for line in lines if line["event"] == "delivery.failed"]
    assert line["destination"] == "job a-1"
    assert line["detail"].startswith("ConnectionError: no way to temporal:7233")
    assert len(line["detail"]) == 200
    assert "approved" not in str(lines)
    assert table.rows[row].error == "the job could not be told"


async def test_a_job_that_takes_nothing_holds_up_no_other(table: Table) -> None:
    workflows = Workflows()
    workflows.stuck = {"a-1"}
    workflows.open.clear()
    stuck, *_ = await table.add(*[of_job("a-1") for _ in range(8)])
    async with telling(table, workflows) as worker:
        await table.was_asked(1)
        (other,) = await table.add(of_job("a-2"))
        worker.wake()
        await table.until(lambda: table.rows[other].done)
        assert not table.rows[stuck].done
        workflows.open.set()
        await table.until(lambda: table.rows[stuck].done)


async def test_requests_and_jobs_are_leased_apart(table: Table) -> None:
    workflows = Workflows()
    callback, job = await table.add(delivery(target="http://127.0.0.1:9/hook"), of_job())
    async with telling(table, workflows):
        await table.until(lambda: table.rows[job].done)
        assert table.rows[callback].leased_until == 0
    async with working(table):
        await table.tried(callback, 1)
    assert len(workflows.told) == 1


async def test_what_was_not_told_at_the_end_is_told_by_the_next(table: Table) -> None:
    workflows = Workflows()
    workflows.stuck = {"a-1"}
    workflows.open.clear()
    (row,) = await table.add(of_job())
    worker = JobDecisionWorker(
        table, workflows, wall=lambda: table.now, random=lambda: 0.5, log=structlog.get_logger()
    )
    worker.start()
    await table.until(lambda: table.rows[row].leased_until > 0)
    await eventually(lambda: workflows.told, "told")
    await worker.close(grace_seconds=0)
    assert table.rows[row].leased_until == 0
    workflows.open.set()
    async with telling(table, workflows):
        await table.until(lambda: table.rows[row].done)
    assert [operation_id for operation_id, _ in workflows.told] == ["a-1", "a-1"]
