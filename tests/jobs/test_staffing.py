"""Whether Temporal is fit for jobs: workers at the queues, and the search attributes."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

import pytest
from google.protobuf.duration_pb2 import Duration
from structlog.testing import capture_logs
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

from gateway.jobs.namespace import WANTED
from gateway.jobs.staffing import RECENT_SECONDS, Staffing
from tests.connection import eventually
from tests.jobs.tiny_workflows import TinyRequest, flaky
from tests.temporal_server import PATIENCE_SECONDS, TemporalServer, temporal

__all__ = ["temporal"]


async def test_a_queue_lacks_a_worker_until_there_is_one(temporal: TemporalServer) -> None:
    client = await temporal.client()
    queue, other = temporal.new_queue(), temporal.new_queue()
    staffing = Staffing(client, lambda: [queue, other], time.time, missing_seconds=0.05)
    staffing.start()
    try:
        both = f"no worker is at queue {queue}, {other}: what is started waits"
        await eventually(lambda: staffing.lacks == both, "looked")
        async with worker(client, queue):
            one = f"no worker is at queue {other}: what is started waits"
            await eventually(lambda: staffing.lacks == one, "one worker")
            async with worker(client, other):
                await eventually(lambda: staffing.lacks == "", "both")
        assert repr(staffing) == "<Staffing idle=[] missing=[]>"
    finally:
        await staffing.close()


async def test_a_worker_that_has_gone_is_none_soon(temporal: TemporalServer) -> None:
    client, queue = await temporal.client(), temporal.new_queue()
    later = 0.0
    staffing = Staffing(client, lambda: [queue], lambda: time.time() + later, missing_seconds=0.05)
    await staffing.look()
    assert queue in staffing.lacks
    staffing.start()
    async with worker(client, queue):
        await eventually(lambda: staffing.lacks == "", "a worker")
    await staffing.close()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while queue not in staffing.lacks:  # its last question may be noted just now
            later += RECENT_SECONDS + 5
            await staffing.look()


@pytest.mark.parametrize("apart", [-3600, 3600])
async def test_temporals_clock_may_be_another(temporal: TemporalServer, apart: float) -> None:
    client, queue = await temporal.client(), temporal.new_queue()
    staffing = Staffing(client, lambda: [queue], lambda: time.time() + apart, missing_seconds=0.05)
    await staffing.look()
    assert queue in staffing.lacks
    staffing.start()
    async with worker(client, queue):
        await eventually(lambda: staffing.lacks == "", "a worker")
    await staffing.close()


async def test_a_bug_does_not_end_the_looking(temporal: TemporalServer) -> None:
    client, queue = await temporal.client(), temporal.new_queue()
    looks = iter((KeyError("a bug"),))

    def queues() -> list[str]:
        for bug in looks:
            raise bug
        return [queue]

    staffing = Staffing(client, queues, time.time, look_seconds=0.05)
    with capture_logs() as lines:
        staffing.start()
        await eventually(lambda: queue in staffing.lacks, "looked again")
        await staffing.close()
    assert [line["event"] for line in lines] == ["jobs_not_looked_after"]


async def test_a_namespace_may_lack_the_search_attributes(temporal: TemporalServer) -> None:
    client, name = await temporal.client(), f"bare-{uuid4().hex}"
    kept = Duration(seconds=86_400)
    await client.workflow_service.register_namespace(
        RegisterNamespaceRequest(namespace=name, workflow_execution_retention_period=kept)
    )
    bare = await Client.connect(temporal.address, namespace=name)
    staffing = Staffing(bare, list, time.time, missing_seconds=0.05)
    staffing.start()
    try:
        names = ", ".join(WANTED)
        lacks = f"search attributes {names} (Keyword) are missing"
        # A new namespace is known everywhere within seconds; until then nothing can be said.
        await eventually(lambda: staffing.lacks == lacks, "looked")
    finally:
        await staffing.close()


async def test_what_temporal_does_not_tell_is_not_made_up(temporal: TemporalServer) -> None:
    nowhere = await Client.connect(temporal.address, namespace="nowhere")
    with pytest.raises(RPCError):
        await nowhere.count_workflows()
    staffing = Staffing(nowhere, lambda: ["q"], time.time)
    await staffing.look()
    assert staffing.lacks == ""
    await staffing.close()


def worker(client: Client, queue: str) -> Worker:
    """One that asks for work, workflows among it."""
    return Worker(client, task_queue=queue, workflows=[TinyRequest], activities=[flaky])
