"""Owners take turns where jobs wait for a worker, and have so many at once: on a real server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from temporalio import activity, workflow
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from gateway.jobs import running
from gateway.jobs.models import ApiRequestInput, JobContext
from gateway.jobs.refusals import JobRefusedError
from gateway.jobs.running import TooManyJobsError
from gateway.policy.identity import Identity
from tests.jobs.desk import REQUEST, SETTINGS, Desk, desk, listed, refusal, tenant
from tests.temporal_server import PATIENCE_SECONDS, TemporalServer

QUEUED = 100
BOUNDED = replace(SETTINGS, jobs_per_owner=2)


class Order:
    """In which order jobs got their turn."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.small = asyncio.Event()

    @activity.defn(name="route_to_service")
    async def note(self, name: str) -> None:
        self.names.append(name)
        if name == "small":
            self.small.set()


@workflow.defn(name=REQUEST)
class Turn:
    """A job with a task of its own and an activity; each waits in a queue."""

    @workflow.run
    async def run(self, _context: JobContext, given: ApiRequestInput) -> None:
        await workflow.execute_activity(
            "route_to_service", given.body, start_to_close_timeout=timedelta(seconds=60)
        )


async def test_the_queued_jobs_of_one_owner_do_not_hold_anothers_to_the_end(
    temporal: TemporalServer,
) -> None:
    async with desk(temporal, worker=False) as room:
        large, small = tenant("with many jobs"), tenant("with one job")
        await asyncio.gather(*(room.start("large", caller=large) for _ in range(QUEUED)))
        started = await room.started("small", caller=small)
        described = await room.client.get_workflow_handle(started).describe()
        key = described.raw_description.workflow_execution_info.priority.fairness_key
        assert key == room.jobs._owners.tag(small)
        order = Order()
        async with Worker(
            room.client,
            task_queue=room.settings.temporal_task_queue,
            workflows=[Turn],
            activities=[order.note],
            workflow_runner=UnsandboxedWorkflowRunner(),
            max_concurrent_workflow_tasks=2,
            max_concurrent_activities=2,
            max_concurrent_workflow_task_polls=2,
            max_concurrent_activity_task_polls=2,
        ):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await order.small.wait()
        assert order.names.index("small") < QUEUED // 2


async def is_full(room: Desk, caller: Identity) -> bool:
    """Whether one job more is refused; else it was started."""
    try:
        await room.started({"do": "complete"}, caller=caller)
    except TooManyJobsError:
        return True
    return False


async def test_above_the_bound_nothing_is_started_and_others_are_not_touched(
    temporal: TemporalServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(running, "NEAR_SECONDS", 0.0)  # counted each time
    mine, other = tenant("bounded"), tenant("not bounded")
    async with desk(temporal, settings=BOUNDED) as room, desk(temporal, settings=BOUNDED) as second:
        first = await room.start({"do": "wait"}, key="k", caller=mine)
        await room.started({"do": "wait"}, caller=mine)
        await listed(room, 2, mine)
        for gateway in (room, second):  # which has started none of them
            with pytest.raises(JobRefusedError) as caught:
                await gateway.start({"do": "complete"}, caller=mine, key="new")
            code, message = refusal(caught)
            assert (code, caught.value.rejection.retry_after_seconds) == ("RATE_LIMITED", 5)
            assert "2 of your jobs run" in message
        assert len((await room.jobs.page(mine))[0]) == 2

        again = await room.start({"do": "wait"}, key="k", caller=mine)
        assert (again.operation_id, again.replayed) == (first.operation_id, True)
        with pytest.raises(JobRefusedError) as caught:
            await room.start({"do": "complete"}, key="k", caller=mine)
        assert refusal(caught)[0] == "UNPROCESSABLE"

        await room.started({"do": "complete"}, caller=other)
        await room.go(first.operation_id)
        await room.ended(first.operation_id, mine)
        async with asyncio.timeout(PATIENCE_SECONDS):  # the store is behind by some milliseconds
            while True:
                if not await is_full(second, mine):
                    break
                await asyncio.sleep(0.02)


async def test_repeats_and_starts_that_fail_take_no_place(
    temporal: TemporalServer,
) -> None:
    async with desk(temporal, settings=BOUNDED) as room:
        mine = tenant("repeating")
        for _ in range(5):
            await room.start({"do": "wait"}, key="k", caller=mine)
        await room.started({"do": "wait"}, caller=mine)
        with pytest.raises(JobRefusedError):
            await room.started({"do": "wait"}, caller=mine)
