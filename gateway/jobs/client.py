"""Jobs, for the gateway: starting, finding, steering and ending them. It asks Temporal; what runs
is in the workers. What the control application sees of this is `control/job_desk`.

Every call says for whom it is made: a job of another owner does not exist, which its id alone tells
(`owners`). All raise JobRefusedError, with the gateway's error.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import structlog
from temporalio.client import (
    Client,
    RPCTimeoutOrCancelledError,
    WorkflowExecution,
    WorkflowHandle,
    WorkflowUpdateFailedError,
)
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from gateway.errors import Rejection
from gateway.jobs import listing, starting
from gateway.jobs import status as statuses
from gateway.jobs.activity_models import Decision
from gateway.jobs.calls import CALL_SECONDS, SLOW, Calls
from gateway.jobs.connect import why
from gateway.jobs.inputs import Inputs, argument
from gateway.jobs.looking import JobLooks, facts_of
from gateway.jobs.models import AsyncRequestInput
from gateway.jobs.owners import TAG_LENGTH, Owners, rest_for_key
from gateway.jobs.refusals import JobRefusedError, away, no_such_job
from gateway.jobs.running import RunningJobs, TooManyJobsError
from gateway.jobs.starting import NewJob, Started
from gateway.jobs.status import Facts, JobStatus
from gateway.jobs.timeline import timeline_of
from gateway.jobs.turns import Turns
from gateway.jobs.types import JOB_TYPES, OWNER_ATTRIBUTE, STATE_ATTRIBUTE, JobType
from gateway.jobs.waiting import Following, JobWaiters
from gateway.policy.auth import forbidden
from gateway.policy.identity import Identity
from gateway.settings import Settings
from sse.event import JOB_PREFIX, BackplaneAwayError, NewEvent, uuid7

# An update waits for a worker to take it.
UPDATE_SECONDS: Final = 10.0
# 12,000 events are read in three.
HISTORY_SECONDS: Final = 15.0
# Larger inputs are read beside the loop: 1,000 steps take 0.3 s.
SMALL_INPUT_BYTES: Final = 8192
# So are schemas, whose patterns take milliseconds each, and what may be that in disguise.
_SLOW: Final = (b"schema", b"\\u")
# What an event's data may have, less the envelope.
MOST_EVENT_BYTES: Final = 60_000

Publish = Callable[[str, Sequence[NewEvent]], Awaitable[object]]

# Temporal's word for an update that a workflow took and did not answer before its end.
_ENDED_MEANWHILE: Final = "AcceptedUpdateCompletedWorkflow"
# What jobs call what they have against an update, in the gateway's words.
_REFUSED_AS: Final = {
    "NOT_FOUND": "NOT_FOUND",
    "UNPROCESSABLE": "UNPROCESSABLE",
    "VALIDATION": "UNPROCESSABLE",
}
_SET_UP: Final = (
    f"the namespace, or the search attributes {OWNER_ATTRIBUTE} and {STATE_ATTRIBUTE} (Keyword) "
    "that a worker's start makes where it may"
)
SELDOM_SECONDS: Final = 10  # a worker may just be starting
_NO_WORKER: Final = "No worker took this in time; ask again."


class Jobs:
    """The jobs of one Temporal namespace. `drain`, then `close`."""

    def __init__(
        self,
        client: Client,
        owners: Owners,
        *,
        settings: Callable[[], Settings],
        publish: Publish,
        follow: Callable[[str], Following],
        callback_fault: Callable[[str], str | None],
        withdraw: Callable[[str], Awaitable[object]] | None = None,
        log: Any = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`settings` are those of now; `publish` and `follow` are the hub's, for client ids of
        jobs. `callback_fault` says what is wrong with an address to call, or None (`has no host`).
        `withdraw` takes back a question, by its id, that no job waits for any more.
        """
        # By type, those that were terminated here: their workers never hear of it, nor count it.
        self.terminated: Counter[str] = Counter()
        self._client = client
        self._owners = owners
        self._settings = settings
        self._publish = publish
        self._callback_fault = callback_fault
        self._withdraw = withdraw
        self._log = structlog.get_logger("gateway.jobs") if log is None else log
        self._wall = wall
        self._calls = Calls()
        self._looks = JobLooks(client, self._calls)
        self._running_jobs = RunningJobs(self._running_of, self._log)
        self._turns = Turns()
        self._waiters = JobWaiters(self._looks.closed, follow)
        self._inputs = Inputs(self._services, self._callback)
        self._large_inputs = Inputs(self._services, self._callback)
        self._reading_large = asyncio.Lock()  # they share what was compiled, and the other core

    def __repr__(self) -> str:
        return f"<Jobs {self._calls!r} {self._looks!r} {self._waiters!r}>"

    @property
    def state(self) -> dict[str, object]:
        """Of Temporal, as the last calls found it: for the health page."""
        return self._calls.state

    # Starting

    async def read(self, kind: JobType, body: bytes, caller: Identity) -> Any:
        """The input in a request's body. Raises JobRefusedError: 400, 403, 422."""
        asked_by = caller.subject or None
        if len(body) <= SMALL_INPUT_BYTES and not any(each in body for each in _SLOW):
            given = self._inputs.read(kind, body, asked_by)
        else:
            async with self._reading_large:
                given = await asyncio.to_thread(self._large_inputs.read, kind, body, asked_by)
        if isinstance(given, AsyncRequestInput) and given.client_id is not None:
            client_id = given.client_id
            if not (caller.may_read(client_id) or caller.may("events:write")):
                text = "this credential may not tell that client id anything"
                raise JobRefusedError(forbidden(text, "events:write"))
        return given

    async def start(self, job: NewJob) -> Started:
        """Start a job. With a key: once, and a repeat finds the same one.

        Raises JobRefusedError: 422 where the key came with something else, 429 where too many of
        the caller's run, 503.
        """
        if job.key is None:
            rest = uuid7(self._wall())
        else:
            rest = rest_for_key(job.route, job.key)
            for tag in self._owners.tags(job.caller)[1:]:  # from before a rotation of the keys
                if await self._is_there(f"{tag}-{rest}", job):
                    return Started(f"{tag}-{rest}", replayed=True)
        tags, settings = self._owners.tags(job.caller), self._settings()
        operation_id = f"{tags[0]}-{rest}"
        try:
            async with (
                self._running_jobs.place(tags, settings.jobs_per_owner),
                self._turns.turn(),
                self._calls.bounded(),
            ):
                await starting.ask(self._client, job, operation_id, tags[0], settings)
        except TooManyJobsError:
            if job.key is None or not await self._is_there(operation_id, job):
                raise
            return Started(operation_id, replayed=True)
        except WorkflowAlreadyStartedError:
            await self._is_there(operation_id, job)
            return Started(operation_id, replayed=True)
        except RPCError as error:
            raise self._not_set_up(error) from None
        self._log.info(
            "job_requested",
            operation_id=operation_id,
            workflow_type=job.kind.name,
            user_id=job.caller.name,
            tenant=job.caller.tenant,
            request_id=job.request_id,
        )
        return Started(operation_id)

    async def _running_of(self, tags: Sequence[str]) -> int:
        return (await self._client.count_workflows(listing.running_query(tags))).count

    def _not_set_up(self, error: RPCError) -> JobRefusedError:
        """What Temporal has against every job: said to its operator too."""
        self._log.error("temporal_not_set_up", error=why(error), expected=_SET_UP)
        return away(f"Temporal takes no jobs as it is set up: it lacks {_SET_UP}.", SELDOM_SECONDS)

    async def _is_there(self, operation_id: str, job: NewJob) -> bool:
        """Whether the job of this key is there; raises JobRefusedError (422) when it is another."""
        try:
            seen = await self._looks.see(operation_id, memo=True)
        except JobRefusedError as refused:
            if refused.rejection.code == "NOT_FOUND":
                return False
            raise
        if seen.fingerprint != job.fingerprint:
            text = (
                "This Idempotency-Key started another job: another body needs a new key. Keys are"
                " kept as long as their job, 24 h after its end at least."
            )
            raise JobRefusedError(Rejection("UNPROCESSABLE", text))
        return True

    # Looking

    def owns(self, caller: Identity, operation_id: str) -> bool:
        """Whether a job of this id would be the caller's."""
        return self._owners.owns(caller, operation_id)

    async def status(self, caller: Identity, operation_id: str) -> JobStatus:
        """How a job stands."""
        self._own(caller, operation_id)
        return await self._looks.look(operation_id)

    async def snapshot(self, operation_id: str) -> bytes:
        """The same as JSON, for whoever was found to own the job before."""
        found = await self._looks.look(operation_id)
        return found.data

    async def wait(self, caller: Identity, operation_id: str, seconds: float) -> JobStatus | None:
        """The status when the job is over; None when it is not after that time.

        Raises NoPlaceError where too many wait for jobs of this owner.
        """
        self._own(caller, operation_id)
        found = self._looks.kept(operation_id)
        if found is None and seconds > 0:
            owner = operation_id[:TAG_LENGTH]
            if await self._waiters.wait(operation_id, seconds, owner):
                found = await self._looks.look(operation_id)
        return found if found is not None and found.ended else None

    async def page(
        self,
        caller: Identity,
        status: str | None = None,
        kind: str | None = None,
        page_size: int = listing.PAGE_SIZE,
        page_token: str | None = None,
    ) -> tuple[list[dict[str, Any]], str | None]:
        """A page of the caller's jobs, newest first, and the token of the next. A job shows up some
        milliseconds after its start.
        """
        query = listing.query_of(self._owners.tags(caller), status, kind)
        behind = listing.read_token(self._owners, query, page_token)
        try:
            async with self._calls.bounded():
                found, behind = await listing.newest(self._entries, query, page_size, behind)
        except RPCError as error:
            raise self._not_set_up(error) from None
        summaries = [statuses.summary(facts_of(each)) for each in found]
        return summaries, listing.written_token(self._owners, query, behind)

    async def _entries(self, query: str, count: int) -> tuple[Sequence[WorkflowExecution], bool]:
        entries = self._client.list_workflows(query, page_size=count)
        await entries.fetch_next_page()
        return entries.current_page or (), bool(entries.next_page_token)

    async def history(self, caller: Identity, operation_id: str) -> dict[str, Any]:
        """What happened in a job, readable."""
        await self._seen(caller, operation_id)
        try:
            async with self._calls.bounded(HISTORY_SECONDS):
                return await timeline_of(self._client, operation_id)
        except RPCError:
            raise no_such_job() from None

    # Steering

    async def cancel(self, caller: Identity, operation_id: str) -> None:
        """Ask a job to end and to undo what it did; raises JobRefusedError (409) if it is over."""
        handle = await self._running(caller, operation_id)
        await self._steered(handle.cancel())

    async def terminate(self, caller: Identity, operation_id: str) -> JobStatus:
        """End a job at once: nothing is undone, it has no say. Its end is published here."""
        handle = await self._running(caller, operation_id)
        before = await self._looks.look(operation_id)
        await self._steered(handle.terminate(reason="terminated over HTTP"))
        ended = statuses.terminated(before, datetime.fromtimestamp(self._wall(), UTC))
        self.terminated[ended.body["workflow_type"]] += 1
        self._looks.keep(ended)
        data = orjson.dumps(statuses.cut(ended.body, MOST_EVENT_BYTES))
        try:
            await self._publish(JOB_PREFIX + operation_id, [NewEvent("job.cancelled", data)])
        except BackplaneAwayError:
            self._log.warning("job_end_not_published", operation_id=operation_id)
        self._waiters.wake(operation_id)
        self._log.info(
            "workflow_event",
            event_type="job.cancelled",
            operation_id=operation_id,
            workflow_type=ended.body["workflow_type"],
            user_id=caller.name,
            tenant=caller.tenant,
            status=ended.status,
        )
        if before.body["question"] is not None:
            await self._take_back(operation_id, before.body["question"]["question_id"])
        return ended

    async def _take_back(self, operation_id: str, question_id: str) -> None:
        """Nobody is to be asked for a job that is gone."""
        if self._withdraw is None:
            return
        try:
            await self._withdraw(question_id)
        except Exception as error:  # it may just have been decided, or expires by itself
            name = type(error).__name__
            self._log.info("question_not_withdrawn", operation_id=operation_id, error=name)

    async def signal(
        self, caller: Identity, operation_id: str, name: str, args: Sequence[Any]
    ) -> None:
        """Tell a job something; raises JobRefusedError (404) for what it does not listen to."""
        handle = await self._running(caller, operation_id, signal=name)
        await self._steered(handle.signal(name, args=argument(name, args)))

    async def update(
        self,
        caller: Identity,
        operation_id: str,
        name: str,
        args: Sequence[Any],
        update_id: str | None = None,
    ) -> Any:
        """Have a job do something and answer; the same `update_id` is done once.

        Raises JobRefusedError: 404 for what it does not do, 409 and 422 where it refuses, 503 where
        no worker takes it.
        """
        handle = await self._running(caller, operation_id, update=name)
        try:
            return await self._steered(
                handle.execute_update(
                    name,
                    args=argument(name, args),
                    # Never that of a decision, which is the question's id: it would not be told.
                    id=None if update_id is None else f"caller:{update_id}",
                ),
                UPDATE_SECONDS,
                _NO_WORKER,
            )
        except RPCTimeoutOrCancelledError:
            raise away(_NO_WORKER) from None
        except WorkflowUpdateFailedError as failed:
            raise _refused_update(failed.cause) from None

    async def tell(self, operation_id: str, decision: Mapping[str, Any], /) -> bool:
        """Tell a job how its question was decided, once; false: it is over, or there is none.

        Raises what keeps it from being told now.
        """
        handle = self._client.get_workflow_handle(operation_id)
        try:
            await handle.execute_update(
                "question_decided", Decision(**decision), id=decision["question_id"]
            )
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise
        except WorkflowUpdateFailedError as failed:
            cause = failed.cause
            if isinstance(cause, ApplicationError) and cause.type == _ENDED_MEANWHILE:
                return False
            raise
        return True

    async def _steered(
        self, call: Awaitable[Any], seconds: float = CALL_SECONDS, message: str = SLOW
    ) -> Any:
        """A call to a running job; 409 when it ended meanwhile."""
        try:
            async with self._calls.bounded(seconds, message):
                return await call
        except RPCError as error:
            if error.status is RPCStatusCode.FAILED_PRECONDITION:  # no worker, or an ill one
                raise away(_NO_WORKER) from None
            raise _over(None) from None

    async def _running(
        self,
        caller: Identity,
        operation_id: str,
        *,
        signal: str | None = None,
        update: str | None = None,
    ) -> WorkflowHandle[Any, Any]:
        """A job that is not over yet, and that takes the signal or update."""
        facts = await self._seen(caller, operation_id)
        kind = JOB_TYPES[facts.workflow_type]
        for name, known, what in (
            (signal, kind.signals, "signal"),
            (update, kind.updates, "update"),
        ):
            if name is not None and name not in known:
                raise _not_public(kind, what, known)
        kept = self._looks.kept(operation_id)
        if facts.closed is not None or kept is not None:
            raise _over(facts.shown if kept is None else kept.status)
        return self._client.get_workflow_handle(operation_id)

    async def _seen(self, caller: Identity, operation_id: str) -> Facts:
        self._own(caller, operation_id)
        return (await self._looks.see(operation_id)).facts

    def _own(self, caller: Identity, operation_id: str) -> None:
        if not self._owners.owns(caller, operation_id):
            raise no_such_job()

    # From the hub, and at the end

    def ended(self, operation_id: str, data: bytes | None = None) -> None:
        """The event of a job's end came by; `data` is the status that it tells."""
        told = None if data is None else statuses.of_event(operation_id, data)
        if told is not None and told.whole:
            self._looks.keep(told)
        self._running_jobs.ended(operation_id[:TAG_LENGTH])
        self._waiters.wake(operation_id)

    def drain(self) -> None:
        """Let go who waits for a job: they are told that it still runs."""
        self._waiters.drain()

    async def close(self) -> None:
        """End what is under way here; jobs go on."""
        await self._waiters.close()
        await self._looks.close()

    def _services(self) -> Any:
        return starting.registered(self._settings())

    def _callback(self, url: str) -> str | None:
        if not self._settings().webhook_secret:
            return (
                "This gateway makes no callbacks: it has no secret to sign with (WEBHOOK_SECRET)."
            )
        fault = self._callback_fault(url)
        return None if fault is None else f"Can't be called: it {fault}."


def _over(how: str | None) -> JobRefusedError:
    told = "The job has ended." if how is None else f"The job has ended: it is {how}."
    extra = () if how is None else (("status", how),)
    return JobRefusedError(Rejection("CONFLICT", told, extra=extra))


def _not_public(kind: JobType, what: str, known: frozenset[str]) -> JobRefusedError:
    there = f"it has {', '.join(sorted(known))}" if known else "it has none"
    message = f"{kind.name} has no {what} of this name for callers; {there}."
    return JobRefusedError(Rejection("NOT_FOUND", message))


def _refused_update(cause: BaseException) -> JobRefusedError:
    """What a job says against an update."""
    if not isinstance(cause, ApplicationError):
        return JobRefusedError(Rejection("CONFLICT", "The job did not take this update."))
    code = _REFUSED_AS.get(cause.type or "", "CONFLICT")
    return JobRefusedError(Rejection(code, cause.message or "The job did not take this update."))
