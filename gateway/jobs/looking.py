"""Looking at jobs: what Temporal knows, what the job's own workflow tells, and what is kept of jobs
that are over, whose status changes no more.

However many ask for one job at once, it is looked at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowHistoryEventFilterType,
    WorkflowQueryFailedError,
)
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from gateway.jobs.calls import Calls
from gateway.jobs.refusals import no_such_job
from gateway.jobs.status import Facts, JobStatus, Outcome, error_of, has_told_end, together
from gateway.jobs.types import JOB_TYPES, STATE_ATTRIBUTE

# A worker answers a question in some 10 ms; one that is busy or gone is not waited for longer.
TELL_SECONDS: Final = 1.0
# A job that did not answer is not asked for a while, so that looking stays quick: its worker is
# away, or at work on it (a local activity under way is asked at its task's next heartbeat only).
SILENT_SECONDS: Final = 5.0
MOST_SILENT: Final = 10_000
# Kept of jobs that are over: at most these many, in at most that much memory.
MOST_KEPT: Final = 4096
MOST_KEPT_BYTES: Final = 32 << 20
# Without a worker the steps are not known; with one they will be.
POOR_SECONDS: Final = 15.0
# Started and its first task asked for: before the workflow ran for the first time.
_UNBEGUN_EVENTS: Final = 3
_STATUSES: Final[Mapping[WorkflowExecutionStatus, str]] = {
    WorkflowExecutionStatus.RUNNING: "open",
    WorkflowExecutionStatus.COMPLETED: "completed",
    WorkflowExecutionStatus.FAILED: "failed",
    WorkflowExecutionStatus.CANCELED: "cancelled",
    WorkflowExecutionStatus.TERMINATED: "terminated",
    WorkflowExecutionStatus.TIMED_OUT: "timed_out",
}
_STATE: Final = SearchAttributeKey.for_keyword(STATE_ATTRIBUTE)


class Seen(NamedTuple):
    """A job as Temporal describes it: the facts, and what else is needed to look further."""

    facts: Facts
    begun: bool
    fingerprint: str | None = None


class _Kept(NamedTuple):
    status: JobStatus
    until: float | None  # monotonic seconds


class JobLooks:
    """What is known of jobs, and asked of them. `clock` is monotonic."""

    def __init__(
        self, client: Client, calls: Calls, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._calls = calls
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._kept_bytes = 0
        self._looking: dict[str, asyncio.Task[JobStatus]] = {}
        self._silent: dict[str, float] = {}  # until when, the oldest first

    def __repr__(self) -> str:
        return f"<JobLooks kept={len(self._kept)} looking={len(self._looking)}>"

    def kept(self, operation_id: str) -> JobStatus | None:
        """The status of a job that is over, where it is at hand."""
        kept = self._kept.get(operation_id)
        if kept is None:
            return None
        if kept.until is not None and self._clock() >= kept.until:
            self._forget(operation_id)
            return None
        self._kept.move_to_end(operation_id)
        return kept.status

    def keep(self, status: JobStatus, seconds: float | None = None) -> None:
        """Keep the status of a job that is over, for so long or while there is room."""
        self._forget(status.operation_id)
        until = None if seconds is None else self._clock() + seconds
        self._kept[status.operation_id] = _Kept(status, until)
        self._kept_bytes += len(status.data)
        while len(self._kept) > MOST_KEPT or self._kept_bytes > MOST_KEPT_BYTES:
            self._forget(next(iter(self._kept)))

    def _forget(self, operation_id: str) -> None:
        kept = self._kept.pop(operation_id, None)
        if kept is not None:
            self._kept_bytes -= len(kept.status.data)

    async def look(self, operation_id: str) -> JobStatus:
        """How the job stands now. Raises JobRefusedError: 404 and 503."""
        kept = self.kept(operation_id)
        if kept is not None:
            return kept
        looking = self._looking.get(operation_id)
        if looking is None:
            looking = asyncio.get_running_loop().create_task(self._look(operation_id))
            self._looking[operation_id] = looking
            looking.add_done_callback(lambda done: self._looked(operation_id, done))
        return await asyncio.shield(looking)  # one who leaves does not take it from the others

    def _looked(self, operation_id: str, done: asyncio.Task[JobStatus]) -> None:
        self._looking.pop(operation_id, None)
        if not done.cancelled():
            done.exception()  # everybody may have left before they were told

    async def see(self, operation_id: str, *, memo: bool = False) -> Seen:
        """What Temporal knows of a job; `memo`: and by what its Idempotency-Key is told apart.

        Raises JobRefusedError: 404 (also for workflows that are no jobs) and 503.
        """
        try:
            async with self._calls.bounded():
                found = await self._client.get_workflow_handle(operation_id).describe()
                fingerprint = await found.memo_value("fingerprint", None) if memo else None
        except RPCError:
            raise no_such_job() from None
        if found.workflow_type not in JOB_TYPES:
            raise no_such_job()
        return Seen(facts_of(found), found.history_length > _UNBEGUN_EVENTS, fingerprint)

    async def closed(self, operation_id: str) -> None:
        """Returns when a job is over. Raises RPCError where that can't be told."""
        events = self._client.get_workflow_handle(operation_id).fetch_history_events(
            wait_new_event=True,
            event_filter_type=WorkflowHistoryEventFilterType.CLOSE_EVENT,
            skip_archival=True,
        )
        async for _ in events:
            return

    async def close(self) -> None:
        """End what is under way."""
        looking = list(self._looking.values())
        for each in looking:
            each.cancel()
        await asyncio.gather(*looking, return_exceptions=True)

    async def _look(self, operation_id: str) -> JobStatus:
        seen = await self.see(operation_id)
        facts = seen.facts
        handle = self._client.get_workflow_handle(operation_id)
        told = await self._tell(handle) if seen.begun else None
        outcome = None
        if facts.closed is not None and not has_told_end(facts, told):
            outcome = await self._outcome(handle)
        status = together(facts, told, outcome)
        if status.ended:
            self.keep(status, None if told is not None else POOR_SECONDS)
        return status

    async def _tell(self, handle: WorkflowHandle[Any, Any]) -> Mapping[str, Any] | None:
        """What the job's tracker tells; None where no worker does."""
        now = self._clock()
        if self._silent.get(handle.id, now) > now:
            return None
        self._silent.pop(handle.id, None)
        try:
            async with asyncio.timeout(TELL_SECONDS):
                told = await handle.query("status")
        except TimeoutError:
            self._silent[handle.id] = self._clock() + SILENT_SECONDS
            if len(self._silent) > MOST_SILENT:
                del self._silent[next(iter(self._silent))]
            return None
        except (WorkflowQueryFailedError, RPCError):
            return None
        return told if isinstance(told, dict) else None

    async def _outcome(self, handle: WorkflowHandle[Any, Any]) -> Outcome:
        """How a job that is over ended, by the last event of its history."""
        try:
            async with self._calls.bounded():
                return Outcome(result=await handle.result(follow_runs=False))
        except WorkflowFailureError as failed:
            cause = failed.cause
            if not isinstance(cause, ApplicationError):
                return Outcome()  # cancelled, terminated, timed out: the status says it all
            details = cause.details[0] if cause.details else None
            return Outcome(error=error_of(cause.type or "INTERNAL", cause.message, details))
        except RPCError:
            raise no_such_job() from None  # its retention is over since


def facts_of(found: WorkflowExecution) -> Facts:
    """The facts of a description or of an entry in a list."""
    status = None if found.status is None else _STATUSES.get(found.status)
    return Facts(
        operation_id=found.id,
        workflow_type=found.workflow_type,
        status=status or "open",
        state=found.typed_search_attributes.get(_STATE),
        started=found.start_time,
        closed=found.close_time,
    )
