"""What jobs remember of a service's health: the rule, and the workflow that keeps it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowExecutionStatus,
    WorkflowHandle,
    WorkflowUpdateFailedError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkflowRunner

from gateway.jobs.activity_models import BreakerState
from gateway.jobs.workflows import service_breaker
from gateway.jobs.workflows.service_breaker import (
    BreakerMemory,
    Memory,
    ServiceBreakerWorkflow,
)
from tests.jobs.fast_clock import FastClock
from tests.temporal_server import TemporalServer, temporal  # noqa: F401

REFUSED = BreakerState("open", allowed=False, retry_after=30, failures=5)


def _opened(at: float = 0.0) -> Memory:
    memory = Memory(BreakerMemory())
    for _ in range(service_breaker.FAILURES):
        memory.failed(at)
    return memory


def test_closed_it_lets_everything_through() -> None:
    memory = Memory(BreakerMemory())
    assert memory.allow(0) == memory.allow(0) == BreakerState("closed")


def test_it_opens_after_failures_in_a_row_and_says_when_to_come_again() -> None:
    memory = Memory(BreakerMemory())
    for failures in range(1, 5):
        memory.failed(0)
        assert memory.allow(0) == BreakerState("closed", failures=failures)
    memory.failed(0)
    assert memory.allow(0) == REFUSED
    assert memory.allow(29.5) == BreakerState("open", False, 1, 5)


def test_a_good_one_between_begins_the_row_again() -> None:
    memory = Memory(BreakerMemory())
    for _ in range(20):
        memory.failed(0)
        memory.failed(0)
        memory.succeeded()
    assert memory.look() == BreakerState("closed")


def test_failures_that_are_long_ago_do_not_count() -> None:
    memory = Memory(BreakerMemory())
    for minute in range(20):
        memory.failed(minute * 100.0)
    assert memory.look() == BreakerState("closed", failures=3)
    assert len(memory.kept.failed_at) == 3


def test_half_open_it_lets_one_probe_through_at_a_time() -> None:
    memory = _opened()
    assert memory.allow(30) == BreakerState("half_open", True, 0, 5)
    assert memory.allow(30) == BreakerState("half_open", False, 60, 5)
    # The probe was lost: its place is another's.
    assert memory.allow(90).allowed


def test_a_good_probe_closes_it_and_a_bad_one_opens_it_for_twice_as_long() -> None:
    memory = _opened()
    now = 0.0
    for open_seconds in (30, 60, 120, 240, 480, 600, 600):
        assert memory.allow(now).retry_after == open_seconds
        now += open_seconds
        assert memory.allow(now).allowed
        memory.failed(now)
    memory.allow(now + 600)
    memory.succeeded()
    assert memory.kept == BreakerMemory()


def test_open_it_does_not_listen_to_requests_of_before() -> None:
    memory = _opened()
    kept = asdict(memory.kept)
    memory.succeeded()
    memory.failed(10)
    assert asdict(memory.kept) == kept


class Breakers:
    """Asks breakers as the activity does."""

    def __init__(self, client: Client, queue: str) -> None:
        self._client = client
        self._queue = queue
        self.service = f"s{uuid4().hex}"

    @property
    def handle(self) -> WorkflowHandle[Any, Any]:
        """The newest run's."""
        return self._client.get_workflow_handle(f"breaker-tag-{self.service}")

    async def ask(self, update: str, *args: str) -> BreakerState:
        start = WithStartWorkflowOperation[ServiceBreakerWorkflow, None](
            "service_breaker_workflow",
            args=["tag", self.service],
            id=f"breaker-tag-{self.service}",
            task_queue=self._queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        )
        state: BreakerState = await self._client.execute_update_with_start_workflow(
            update, args=args, start_workflow_operation=start, result_type=BreakerState
        )
        return state


@asynccontextmanager
async def _breakers(server: TemporalServer, runner: WorkflowRunner) -> AsyncIterator[Breakers]:
    client, queue = await server.client(), server.new_queue()
    workflows = [ServiceBreakerWorkflow]
    async with Worker(client, task_queue=queue, workflows=workflows, workflow_runner=runner):
        yield Breakers(client, queue)


@pytest.fixture
async def breakers(temporal: TemporalServer) -> AsyncIterator[Breakers]:  # noqa: F811
    async with _breakers(temporal, UnsandboxedWorkflowRunner()) as made:
        yield made


async def test_the_first_who_asks_starts_it_and_all_share_it(breakers: Breakers) -> None:
    assert await breakers.ask("allow") == BreakerState("closed")
    for failures in range(1, 5):
        assert (await breakers.ask("report", "failed")).failures == failures
    assert (await breakers.ask("report", "failed")).state == "open"
    refused = await breakers.ask("allow")
    assert (refused.allowed, refused.state) == (False, "open")
    kept = await breakers.handle.query(ServiceBreakerWorkflow.status)
    assert kept["state"] == "open"


async def test_it_takes_no_other_report(breakers: Breakers) -> None:
    with pytest.raises(WorkflowUpdateFailedError):
        await breakers.ask("report", "so-so")
    assert await breakers.ask("allow") == BreakerState("closed")


async def test_a_history_is_bounded_and_what_it_knows_goes_on_in_the_next_run(
    breakers: Breakers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_breaker, "UPDATES", 3)
    runs = set()
    for _ in range(9):
        await breakers.ask("report", "failed")
        runs.add((await breakers.handle.describe()).run_id)
    refused = await breakers.ask("allow")
    assert (refused.state, refused.allowed, refused.failures) == ("open", False, 5)
    assert len(runs) > 1


async def test_after_an_hour_of_silence_it_ends_and_the_next_begins_anew(
    temporal: TemporalServer,  # noqa: F811
) -> None:
    async with _breakers(temporal, FastClock(3600)) as breakers:
        await breakers.ask("report", "failed")
        first = breakers.handle
        await first.result()
        assert (await first.describe()).status == WorkflowExecutionStatus.COMPLETED
        assert await breakers.ask("allow") == BreakerState("closed")
