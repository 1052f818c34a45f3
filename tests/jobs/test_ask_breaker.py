"""The activity that asks a service's breaker, against a real Temporal."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.service import RetryConfig, RPCError
from temporalio.testing import ActivityEnvironment
from temporalio.worker import Worker

from gateway.jobs.activities.breakers import Breakers
from gateway.jobs.activity_models import BreakerAsk
from gateway.jobs.worker import sandbox
from gateway.jobs.workflows.service_breaker import ServiceBreakerWorkflow
from tests.temporal_server import PATIENCE_SECONDS, TemporalServer, temporal_server


def environment(queue: str, activity_id: str) -> ActivityEnvironment:
    env = ActivityEnvironment()
    env.info = replace(
        env.info, task_queue=queue, activity_id=activity_id, schedule_to_close_timeout=None
    )
    return env


async def test_the_first_who_asks_starts_it_and_a_repeat_counts_once(
    temporal: TemporalServer,
) -> None:
    client = await temporal.client()
    queue = temporal.new_queue()
    service = queue.replace("test-", "s")
    breakers = Breakers(client)
    (ask_breaker,) = breakers.all()
    async with Worker(
        client, task_queue=queue, workflows=[ServiceBreakerWorkflow], workflow_runner=sandbox()
    ):
        owner = "ab" * 8
        first = await environment(queue, "1").run(ask_breaker, BreakerAsk(service, owner, "allow"))
        assert (first.state, first.allowed) == ("closed", True)
        for activity_id in ("2", "2", "3"):
            env = environment(queue, activity_id)
            state = await env.run(ask_breaker, BreakerAsk(service, owner, "failed"))
        assert state.failures == 2
        handle = client.get_workflow_handle(f"breaker-{owner}-{service}")
        assert (await handle.describe()).task_queue == queue
        await handle.terminate()


async def test_a_temporal_that_is_away_is_asked_again() -> None:
    with temporal_server() as server:
        patience = RetryConfig(max_retries=1)
        client = await Client.connect(server.address, retry_config=patience)
        server.stop(kill=True)
        with pytest.raises(ApplicationError) as failed:
            await environment("queue", "1").run(
                Breakers(client, 0.2).ask_breaker, BreakerAsk("s", "o", "allow")
            )
    assert (failed.value.type, failed.value.non_retryable) == ("NETWORK", False)


async def there(handle: WorkflowHandle[Any, Any]) -> None:
    """Returns when the workflow was started, by the first who asked or the second."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                await handle.describe()
            except RPCError:
                await asyncio.sleep(0.01)
            else:
                return


async def test_a_breaker_that_no_worker_runs_is_asked_again_until_it_is_cancelled(
    temporal: TemporalServer,
) -> None:
    client = await temporal.client()
    queue = temporal.new_queue()
    ask = BreakerAsk(queue.replace("test-", "s"), "o", "allow")
    with pytest.raises(ApplicationError) as failed:
        await environment(queue, "1").run(Breakers(client, 0.3).ask_breaker, ask)
    assert (failed.value.type, failed.value.non_retryable) == ("NETWORK", False)
    env = environment(queue, "1")
    asking = asyncio.create_task(env.run(Breakers(client).ask_breaker, ask))
    handle = client.get_workflow_handle(f"breaker-o-{ask.service}")
    await there(handle)
    env.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await handle.terminate()
