"""The work itself: what polls Temporal's queues and runs workflows and activities, from its start
to an end in order.

One SDK worker a queue, since a kind of job may have a queue of its own; all of them run all kinds,
so that a queue needs no list of what belongs to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final, Protocol

import structlog
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory, FailureError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    PollerBehaviorAutoscaling,
    UnsandboxedWorkflowRunner,
    Worker,
    WorkflowRunner,
)
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from gateway.jobs.activities.failing import failed
from gateway.jobs.codec import NoKeyError
from gateway.jobs.failures import KINDS, kind_of_exception
from gateway.jobs.models import JobError

_log = structlog.get_logger("gateway.jobs")
_SDK_LOG: Final = logging.getLogger("temporalio.worker._workflow")

# Requests that wait for services cost a socket each; workflow tasks cost a thread and a core.
ACTIVITIES_AT_ONCE: Final = 400
WORKFLOW_TASKS_AT_ONCE: Final = 64
# Jobs kept ready in memory between their tasks (50 to 500 KiB each); others are replayed.
CACHED_JOBS: Final = 1000
# A poll is a request that waits: two that are there at once, more as the queue asks for them.
_POLLERS: Final = PollerBehaviorAutoscaling(minimum=2, initial=4, maximum=32)
# What waits for a worker that has it in memory goes to another after that: it may be dead.
_STICKY_SECONDS: Final = 5.0
# A cancelled request is closed at its next heartbeat, which the SDK sends no more often than that.
_HEARTBEAT_SECONDS: Final = 1.0
# So late that it is no longer this worker's to try again: workflows leave pauses above a second to
# Temporal.
_ELSEWHERE_SECONDS: Final = 1.5
# What workflow code uses and is the same for all jobs: in a sandbox loaded once, not for each job
# (150 ms where that pulls in aiohttp and orjson). Each of these is free of clocks and chance.
PASSED_THROUGH: Final = (
    "gateway.jobs.activity_models",
    "gateway.jobs.conditions",
    "gateway.jobs.failures",
    "gateway.jobs.graph",
    "gateway.jobs.models",
    "gateway.jobs.processes",
    "gateway.jobs.references",
    "gateway.jobs.types",
    "orjson",
)


class RetryCount(Protocol):
    """What is told of further attempts."""

    def retried(self, activity_type: str) -> None:
        """An attempt that is not the first."""


class WorkerEndedError(Exception):
    """A worker stopped working by itself; the text is for its operator."""


class JobWorker:
    """The SDK's workers of one process."""

    def __init__(
        self,
        client: Client,
        *,
        queues: Sequence[str],
        workflows: Sequence[type[Any]],
        activities: Sequence[Callable[..., Any]],
        retries: RetryCount,
        graceful_seconds: float,
        runner: WorkflowRunner | None = None,
    ) -> None:
        """`graceful_seconds`: what activities under way get to end by themselves. `runner`: in what
        workflow code runs; None: without a sandbox, which loads each job's code anew and costs as
        much again as all else of a short job (62 and 104 ms of CPU, two busy cores). That the code
        needs none is what its tests and its replays show: they run it in one.
        """
        self._graceful_seconds = graceful_seconds
        self._give_back = GiveBack()
        self._workers = [
            Worker(
                client,
                task_queue=queue,
                workflows=workflows,
                activities=activities,
                workflow_runner=runner or UnsandboxedWorkflowRunner(),
                interceptors=[CountRetries(retries), self._give_back],
                max_cached_workflows=CACHED_JOBS,
                max_concurrent_workflow_tasks=WORKFLOW_TASKS_AT_ONCE,
                max_concurrent_activities=ACTIVITIES_AT_ONCE,
                max_concurrent_local_activities=ACTIVITIES_AT_ONCE,
                workflow_task_poller_behavior=_POLLERS,
                activity_task_poller_behavior=_POLLERS,
                sticky_queue_schedule_to_start_timeout=timedelta(seconds=_STICKY_SECONDS),
                max_heartbeat_throttle_interval=timedelta(seconds=_HEARTBEAT_SECONDS),
                default_heartbeat_throttle_interval=timedelta(seconds=_HEARTBEAT_SECONDS),
                # Nothing is kept by the SDK's own means (`codec` has its); above 1 it makes a task
                # of each payload all the same.
                max_workflow_task_external_storage_concurrency=1,
                graceful_shutdown_timeout=timedelta(seconds=graceful_seconds),
            )
            for queue in dict.fromkeys(queues)
        ]

    def __repr__(self) -> str:
        states = {each.task_queue: each.is_running for each in self._workers}
        return f"<JobWorker {states}>"

    @property
    def is_running(self) -> bool:
        """Whether all queues are worked on."""
        return all(each.is_running for each in self._workers)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop, then finish what is under way, or give it back after the grace.

        Raises WorkerEndedError when one ends by itself; the others are ended in order then.
        """
        runs = [asyncio.ensure_future(each.run()) for each in self._workers]
        stopped = asyncio.ensure_future(stop.wait())
        _SDK_LOG.addFilter(_is_news)
        try:
            await asyncio.wait({*runs, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            grace = asyncio.ensure_future(self._grace())
            await asyncio.gather(*(each.shutdown() for each in self._workers))
            ends = await asyncio.gather(*runs, return_exceptions=True)
            grace.cancel()
            _SDK_LOG.removeFilter(_is_news)
        for end in ends:
            if isinstance(end, BaseException):
                raise WorkerEndedError(" ".join(str(end).split())[:300]) from end

    async def _grace(self) -> None:
        await asyncio.sleep(self._graceful_seconds)
        self._give_back.end()


def _is_news(line: logging.LogRecord) -> bool:
    """Not a stack for each job and each try where a key is missing: the codec has said so."""
    return not (line.exc_info and isinstance(line.exc_info[1], NoKeyError))


def sandbox() -> SandboxedWorkflowRunner:
    """Runs workflow code so that clocks, chance and sockets are errors in it; for tests."""
    restrictions = SandboxRestrictions.default.with_passthrough_modules(*PASSED_THROUGH)
    return SandboxedWorkflowRunner(restrictions=restrictions)


class GiveBack(Interceptor):
    """Ends local activities when the worker ends. The SDK cancels others after the grace, and waits
    for these however long they take.
    """

    def __init__(self) -> None:
        self._under_way: set[asyncio.Timeout] = set()
        self._over = False

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 - the SDK's name
        """Around each activity."""
        return _GivingBack(next, self)

    def end(self) -> None:
        """Give back what is under way, and what still begins."""
        self._over = True
        now = asyncio.get_running_loop().time()
        for each in self._under_way:
            each.reschedule(now)

    @asynccontextmanager
    async def until_the_end(self) -> AsyncIterator[None]:
        """Raises ApplicationError when the end comes first."""
        try:
            async with asyncio.timeout(0 if self._over else None) as limit:
                self._under_way.add(limit)
                try:
                    yield
                finally:
                    self._under_way.discard(limit)
        except TimeoutError:
            if not limit.expired():
                raise
            raise ApplicationError(
                "the worker ended first",
                type=KINDS["network"].code,
                next_retry_delay=timedelta(seconds=_ELSEWHERE_SECONDS),
                category=ApplicationErrorCategory.BENIGN,
            ) from None


class _GivingBack(ActivityInboundInterceptor):
    def __init__(self, inner: ActivityInboundInterceptor, give_back: GiveBack) -> None:
        super().__init__(inner)
        self._give_back = give_back

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's name
        if not activity.info().is_local:
            return await super().execute_activity(input)
        async with self._give_back.until_the_end():
            return await super().execute_activity(input)


class CountRetries(Interceptor):
    """Counts further attempts, whatever the activity. What nobody expected to be raised gets a
    kind, so that a mistake of ours is not tried twenty times.
    """

    def __init__(self, retries: RetryCount) -> None:
        self._retries = retries

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 - the SDK's name
        """Beside each activity."""
        return _Counting(next, self._retries)


class _Counting(ActivityInboundInterceptor):
    def __init__(self, inner: ActivityInboundInterceptor, retries: RetryCount) -> None:
        super().__init__(inner)
        self._retries = retries

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's name
        info = activity.info()
        if info.attempt > 1:
            self._retries.retried(info.activity_type)
        try:
            return await super().execute_activity(input)
        except FailureError:
            raise
        except Exception as error:
            _log.exception("activity_failed", activity=info.activity_type, attempt=info.attempt)
            kind = kind_of_exception(error)
            text = f"the worker failed: {type(error).__name__}"
            told = JobError(kind.code, text, retryable=kind.retryable)
            raise failed(kind, told) from None
