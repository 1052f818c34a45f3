"""A worker for tests of workflows: on a real server, with activities of the real names whose
answers a test scripts. Every run's history is replayed at its end, so that what is not
deterministic fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import Any, NoReturn
from uuid import uuid4

from temporalio import activity
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, Worker, WorkflowRunner

from gateway.jobs.activity_models import CallInput, CallResult, PublishInput
from gateway.jobs.models import Caller, JobContext, JobError, ServiceAnswer

Answering = Callable[[CallInput], Awaitable[CallResult]]


def answer(body: Any = None, status: int = 200, **headers: str) -> CallResult:
    return CallResult(ServiceAnswer(status, headers, body), activity.info().attempt)


def refuse(code: str = "EXTERNAL", status: int = 500, final: bool = True) -> NoReturn:
    """As the activity fails: the error as members, `final` when it is not to be tried again."""
    attempt = activity.info().attempt
    error = JobError(code, f"the service answered {status}", status=status)
    details = {"error": asdict(error), "attempts": attempt}
    raise ApplicationError(error.message, details, type=code, non_retryable=final)


class Services:
    """The services of a test: what they saw (`seen`, Idempotency-Keys without the job's id), what
    they answered to the end (`done`), and the job's events as they were published.
    """

    def __init__(self) -> None:
        self.inputs: dict[str, list[CallInput]] = {}
        self.seen: list[str] = []
        self.done: list[str] = []
        self.cut_off: list[str] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.answers_late: dict[str, str | None] = {}
        """Held requests that are answered although they are cancelled, and which rule broke."""
        self._answers: dict[str, Answering] = {}
        self._held: dict[str, asyncio.Event] = {}
        self._changed = asyncio.Condition()

    def answers(self, key: str, answering: Answering) -> None:
        """How the request of a step (or `{step}:undo`) is answered; else with `{"id": key}`."""
        self._answers[key] = answering

    def refuses(self, key: str, code: str = "EXTERNAL", status: int = 500) -> None:
        async def refused(given: CallInput) -> CallResult:
            refuse(code, status)

        self._answers[key] = refused

    def holds(self, key: str) -> asyncio.Event:
        """The request waits until the event is set, or it is cancelled."""
        return self._held.setdefault(key, asyncio.Event())

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that was seen, answered, cut off or published."""
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(condition), 60)

    def steps(self, status: str) -> list[str]:
        """Steps in the order in which the job told that they came to `status`."""
        told = [data["step"] for event, data in self.events if event == "job.step"]
        return [step["id"] for step in told if step["status"] == status]

    def statuses(self, step_id: str) -> list[str]:
        """What the job told of one step, in order."""
        told = [data["step"] for event, data in self.events if event == "job.step"]
        return [step["status"] for step in told if step["id"] == step_id]

    @activity.defn(name="route_to_service")
    async def route_to_service(self, given: CallInput) -> CallResult:
        key = given.key.partition(":")[2]
        self.inputs.setdefault(key, []).append(given)
        await self._note(self.seen, key)
        try:
            if key in self._held:
                await self._wait(self._held[key])
            answering = self._answers.get(key)
            result = answer({"id": key}) if answering is None else await answering(given)
        except asyncio.CancelledError:
            if key not in self.answers_late:
                await self._note(self.cut_off, key)
                raise
            result = answer({"id": "late"})
            result.broken = self.answers_late[key]
        await self._note(self.done, key)
        return result

    @activity.defn(name="publish_events")
    async def publish_events(self, given: PublishInput) -> None:
        async with self._changed:
            self.events.extend((each.event_type, each.data) for each in given.events)
            self._changed.notify_all()

    async def _wait(self, released: asyncio.Event) -> None:
        while not released.is_set():
            activity.heartbeat()
            try:
                await asyncio.wait_for(released.wait(), 0.05)
            except TimeoutError:
                continue

    async def _note(self, where: list[str], key: str) -> None:
        async with self._changed:
            where.append(key)
            self._changed.notify_all()


class Jobs:
    """Starts jobs at a worker, and replays what they did."""

    def __init__(self, client: Client, queue: str, workflows: Sequence[type[Any]]) -> None:
        self.client = client
        self._queue = queue
        self._workflows = workflows
        self._started: list[WorkflowHandle[Any, Any]] = []

    async def start(
        self,
        name: str,
        given: Any,
        timeout_seconds: float = 60.0,
        operation_id: str | None = None,
        workflow_id: str | None = None,
    ) -> WorkflowHandle[Any, Any]:
        operation_id = operation_id or f"0123456789abcdef-{uuid4().hex}"
        context = JobContext(
            caller=Caller(subject="ann", tenant="acme"),
            operation_id=operation_id,
            workflow_type=name,
            timeout_seconds=timeout_seconds,
        )
        handle = await self.client.start_workflow(
            name,
            args=[context, given],
            id=workflow_id or operation_id,
            task_queue=self._queue,
            execution_timeout=timedelta(seconds=timeout_seconds + 600),
        )
        self._started.append(handle)
        return handle

    def also(self, handle: WorkflowHandle[Any, Any]) -> None:
        """Another one that has run, to be replayed with the rest."""
        self._started.append(handle)

    async def failure(self, handle: WorkflowHandle[Any, Any]) -> BaseException:
        """What a job failed with."""
        try:
            result = await handle.result()
        except WorkflowFailureError as error:
            return error.cause
        raise AssertionError(f"it did not fail: {result}")

    async def replayed(self) -> None:
        """Replay all that has run; raises where it would do something else now."""
        replayer = Replayer(
            workflows=self._workflows,
            workflow_runner=UnsandboxedWorkflowRunner(),
            debug_mode=True,
        )
        for handle in self._started:
            await replayer.replay_workflow(await handle.fetch_history())


@asynccontextmanager
async def jobs_at(
    client: Client,
    queue: str,
    services: Services,
    workflows: Sequence[type[Any]],
    *,
    cached: int = 100,
    runner: WorkflowRunner | None = None,
    activities: bool = True,
) -> AsyncIterator[Jobs]:
    """A worker with these services; `cached` 0: each workflow task replays all before it."""
    jobs = Jobs(client, queue, workflows)
    async with Worker(
        client,
        task_queue=queue,
        workflows=workflows,
        # Those that a workflow calls as local ones are always its own worker's.
        activities=[services.route_to_service, services.publish_events],
        no_remote_activities=not activities,
        workflow_runner=runner or UnsandboxedWorkflowRunner(),
        max_cached_workflows=cached,
        max_heartbeat_throttle_interval=timedelta(milliseconds=50),
        debug_mode=True,  # the machine may be busy: no deadlock is seen where there is none
    ):
        yield jobs
        await jobs.replayed()
