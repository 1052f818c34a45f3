"""The work itself: queues, further attempts, an end in order, and what a namespace must have."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from uuid import uuid4

import pytest
from google.protobuf.duration_pb2 import Duration
from structlog import get_logger
from structlog.testing import capture_logs
from temporalio import activity, workflow
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    ListSearchAttributesRequest,
    RemoveSearchAttributesRequest,
)
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.worker import Worker

from gateway.jobs.codec import data_converter
from gateway.jobs.connect import connect
from gateway.jobs.namespace import WANTED, NoNamespaceError, prepare
from gateway.jobs.types import JOB_TYPES
from gateway.jobs.worker import JobWorker, WorkerEndedError, sandbox
from gateway.jobs.workflows.registered import WORKFLOWS
from gateway.policy.payload_keys import PayloadKeys
from gateway.settings import Settings
from tests.jobs.scripted_gateway import Figures
from tests.temporal_server import PATIENCE_SECONDS, TemporalServer, temporal, temporal_server

__all__ = ["temporal"]


@activity.defn
async def twice() -> int:
    if activity.info().attempt == 1:
        raise ApplicationError("once more")
    return activity.info().attempt


@workflow.defn(sandboxed=False)
class Tries:
    """One activity, tried twice."""

    @workflow.run
    async def run(self) -> int:
        return await workflow.execute_activity(
            twice,
            start_to_close_timeout=timedelta(seconds=10),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=1)),
        )


def job_worker(client: Client, figures: Figures, *queues: str) -> JobWorker:
    return JobWorker(
        client,
        queues=queues,
        workflows=[Tries],
        activities=[twice],
        retries=figures,
        graceful_seconds=1.0,
    )


async def test_each_queue_is_worked_on_and_further_attempts_are_counted(
    temporal: TemporalServer,
) -> None:
    client, figures, stop = await temporal.client(), Figures(), asyncio.Event()
    queues = temporal.new_queue(), temporal.new_queue()
    worker = job_worker(client, figures, *queues, queues[0])
    running = asyncio.ensure_future(worker.run(stop))
    for queue in queues:
        assert await client.execute_workflow(Tries.run, id=uuid4().hex, task_queue=queue) == 2
    assert worker.is_running
    assert repr(worker) == f"<JobWorker {dict.fromkeys(queues, True)}>"
    assert figures.again == ["twice", "twice"]
    stop.set()
    await running
    assert not worker.is_running


async def test_jobs_under_a_key_that_a_worker_has_not_wait_and_it_says_so_once(
    temporal: TemporalServer, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = [
        await connect(
            temporal.address,
            Settings(),
            data_converter(PayloadKeys(Settings(payload_keys=((name, b"k" * 32),))), None),
            role="test",
        )
        for name in ("ours", "theirs")
    ]
    queue, stop = temporal.new_queue(), asyncio.Event()
    with capture_logs() as lines:
        running = asyncio.ensure_future(job_worker(ours, Figures(), queue).run(stop))
        for _ in range(2):
            handle = await theirs.start_workflow("Tries", 1, id=uuid4().hex, task_queue=queue)
            async for event in handle.fetch_history_events(wait_new_event=True):
                if event.HasField("workflow_task_failed_event_attributes"):
                    break
            await handle.terminate()
        stop.set()
        await running
    (line,) = [each for each in lines if each["event"] == "payload_key_missing"]
    assert "'theirs'" in line["reason"]
    assert "Failed handling activation" not in caplog.text


@activity.defn
async def mistaken() -> None:
    raise KeyError("a secret of somebody")


@workflow.defn(sandboxed=False)
class Mistakes:
    """One activity with a mistake in it."""

    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(mistaken, start_to_close_timeout=timedelta(seconds=10))


async def test_a_mistake_of_ours_is_tried_once_and_told_without_its_text(
    temporal: TemporalServer,
) -> None:
    client, stop, queue = await temporal.client(), asyncio.Event(), temporal.new_queue()
    worker = JobWorker(
        client,
        queues=[queue],
        workflows=[Mistakes],
        activities=[mistaken],
        retries=Figures(),
        graceful_seconds=1.0,
    )
    running = asyncio.ensure_future(worker.run(stop))
    with pytest.raises(WorkflowFailureError) as caught:
        await client.execute_workflow(Mistakes.run, id=uuid4().hex, task_queue=queue)
    cause = caught.value.cause.cause if caught.value.cause is not None else None
    assert isinstance(cause, ApplicationError)
    assert (cause.type, cause.non_retryable) == ("INTERNAL", True)
    assert "secret" not in str(cause)
    stop.set()
    await running


class Held:
    """An activity that does not end the first time."""

    def __init__(self) -> None:
        self.began = asyncio.Event()

    @activity.defn
    async def held(self) -> str:
        if not self.began.is_set():
            self.began.set()
            await asyncio.Event().wait()
        return "done"


@workflow.defn(sandboxed=False)
class Holds:
    """Waits for it, as a local activity."""

    @workflow.run
    async def run(self) -> str:
        done: str = await workflow.execute_local_activity(
            "held",
            result_type=str,
            schedule_to_close_timeout=timedelta(minutes=1),
            local_retry_threshold=timedelta(seconds=1),
        )
        return done


async def test_a_worker_that_ends_waits_for_no_local_activity_and_the_next_one_does_it(
    temporal: TemporalServer,
) -> None:
    client, queue, held = await temporal.client(), temporal.new_queue(), Held()
    handle = await client.start_workflow(Holds.run, id=uuid4().hex, task_queue=queue)
    ends: tuple[Awaitable[object], ...] = (held.began.wait(), handle.result())
    async with asyncio.timeout(PATIENCE_SECONDS):  # a lost worker is missed after ten seconds
        for end in ends:
            worker = JobWorker(
                client,
                queues=[queue],
                workflows=[Holds],
                activities=[held.held],
                retries=Figures(),
                graceful_seconds=0.0,
            )
            stop = asyncio.Event()
            running = asyncio.ensure_future(worker.run(stop))
            await end
            stop.set()
            await running
    assert await handle.result() == "done"


async def test_a_worker_that_can_not_work_says_why_and_takes_the_others_with_it(
    temporal: TemporalServer,
) -> None:
    client = await Client.connect(temporal.address, namespace="nowhere")
    worker = job_worker(client, Figures(), "a", "b")
    with pytest.raises(WorkerEndedError, match="nowhere"):
        await worker.run(asyncio.Event())


async def test_every_kind_of_job_that_can_be_started_is_run_by_workers_and_in_a_sandbox(
    temporal: TemporalServer,
) -> None:
    worker = Worker(
        await temporal.client(),
        task_queue="unused",
        workflows=WORKFLOWS,
        workflow_runner=sandbox(),  # it loads each of them, and refuses what is not for workflows
    )
    assert worker.task_queue == "unused"
    names = {workflow._Definition.must_from_class(each).name for each in WORKFLOWS}
    assert names >= JOB_TYPES.keys()


async def test_missing_search_attributes_are_made_once(temporal: TemporalServer) -> None:
    log = get_logger("test")
    with temporal_server() as server:
        client = await server.client()
        await client.operator_service.remove_search_attributes(
            RemoveSearchAttributesRequest(search_attributes=WANTED, namespace="default")
        )
        with capture_logs() as lines:
            assert await prepare(client, log)
            assert await prepare(client, log)
        made = [each for each in lines if each["event"] == "namespace.search_attributes"]
        assert [each["made"] for each in made] == [list(WANTED)]
        listed = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace="default")
        )
        assert set(WANTED) <= set(listed.custom_attributes)


async def test_an_attribute_of_another_kind_is_said(temporal: TemporalServer) -> None:
    # Its kind can't be changed: the operator has to choose another namespace, or another name.
    client = await temporal.client()
    client = await _namespace(temporal, client, days=3)
    await client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(
            namespace=client.namespace,
            search_attributes={
                WANTED[0]: IndexedValueType.INDEXED_VALUE_TYPE_INT,
                WANTED[1]: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
            },
        )
    )
    with capture_logs() as lines:
        assert not await prepare(client, get_logger("test"))
    assert lines[-1]["other_kind"] == [WANTED[0]]


async def test_attributes_that_can_not_be_made_are_the_operators_to_make(
    temporal: TemporalServer,
) -> None:
    client = await _namespace(temporal, await temporal.client(), days=1)
    keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    await client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(  # all that this server has room for
            namespace=client.namespace,
            search_attributes={f"Taken{number}": keyword for number in range(10)},
        )
    )
    with capture_logs() as lines:
        assert not await prepare(client, get_logger("test"))
    assert lines[-1]["log_level"] == "warning"
    assert lines[-1]["needed"] == WANTED


async def test_a_namespace_that_is_not_there_is_an_error(temporal: TemporalServer) -> None:
    client = await Client.connect(temporal.address, namespace="nowhere")
    with pytest.raises(NoNamespaceError, match="there is no namespace nowhere"):
        await prepare(client, get_logger("test"))


async def test_a_temporal_that_is_away_is_no_answer(temporal: TemporalServer) -> None:
    with temporal_server() as server:
        client = await server.client()
        server.stop(kill=True)
        with pytest.raises(RPCError):
            await prepare(client, get_logger("test"))


async def _namespace(server: TemporalServer, client: Client, days: int) -> Client:
    """A client of a new namespace, once it can be used."""
    name = f"test-{uuid4().hex}"
    await client.workflow_service.register_namespace(
        RegisterNamespaceRequest(
            namespace=name,
            workflow_execution_retention_period=Duration(seconds=days * 86_400),
        )
    )
    return await Client.connect(server.address, namespace=name)
