"""What it takes to start a job: its id, who it is for, how long it may take, where its services are
reached, and asking Temporal for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from temporalio.client import Client
from temporalio.common import (
    Priority,
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)

from gateway.jobs.input_checks import Registered, requests_of
from gateway.jobs.models import AsyncRequestInput, Caller, JobContext
from gateway.jobs.types import OWNER_ATTRIBUTE, STATE_ATTRIBUTE, JobType
from gateway.policy.identity import Identity
from gateway.settings import Settings
from sse.event import is_client_id, is_job_stream

# A job's own time-out is kept inside it, so that it can undo what it did; this is for the case that
# its workers are gone for good.
BACKSTOP_SECONDS: Final = 600.0
# Short kinds do all within their tasks, and hear of a cancellation at a task's heartbeat only: at
# 80 % of this.
SHORT_TASK: Final = timedelta(seconds=5)

_OWNER: Final = SearchAttributeKey.for_keyword(OWNER_ATTRIBUTE)
_STATE: Final = SearchAttributeKey.for_keyword(STATE_ATTRIBUTE)


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be started. `route` and `key` make it the same at every try (no key: a new job each
    time), `fingerprint` tells whether it is. `spent`: the caller's limits have counted its request.
    `agent`: the AI agent that asked for it; `trace`: the `traceparent` of that request.
    """

    kind: JobType
    input: Any
    caller: Identity
    address: str
    route: str
    fingerprint: str
    key: str | None = None
    request_id: str = ""
    correlation_id: str = ""
    spent: bool = False
    agent: str | None = None
    trace: str | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A job that was started, now or (`replayed`) before."""

    operation_id: str
    replayed: bool = False


def registered(settings: Settings) -> Mapping[str, Registered]:
    """The services by every name that they answer to, written with `_`."""
    return {
        alias.replace("-", "_"): Registered(
            service.name, f"/api/v1/{service.name}" if service.exposed else ""
        )
        for service in settings.services
        for alias in (service.name, *service.aliases)
    }


def queue_of(kind: JobType, settings: Settings) -> str:
    """The task queue of the workers that run such jobs."""
    for each in settings.workflows:
        if each.name == kind.name and each.task_queue is not None:
            return each.task_queue
    return settings.temporal_task_queue


def seconds_of(job: NewJob, settings: Settings) -> float:
    """How long the job may take: as its input says, else as set, else as is usual."""
    asked: float | None = job.input.timeout_seconds
    for each in settings.workflows:
        if asked is None and each.name == job.kind.name:
            asked = each.timeout_seconds
    return min(asked or job.kind.timeout_seconds, job.kind.most_seconds)


def context_of(
    job: NewJob, operation_id: str, services: Mapping[str, Registered], timeout_seconds: float
) -> JobContext:
    """What the workflow is told of the job. An asynchronous request tells its end to the client id
    that its input names, else to the caller's own.
    """
    caller = job.caller
    notify = None
    if isinstance(job.input, AsyncRequestInput):
        notify = job.input.client_id or caller.subject
        if notify is not None and (not is_client_id(notify) or is_job_stream(notify)):
            notify = None  # a subject that can be nobody's stream
    named = {request.service for _, request in requests_of(job.input)}
    return JobContext(
        caller=Caller(
            subject=caller.subject,
            tenant=caller.tenant,
            tier=caller.tier,
            scopes=sorted(caller.scopes),
            client_ids=sorted(caller.client_ids),
            address=job.address,
            open_write=caller.open_write,
            agent=job.agent,
        ),
        operation_id=operation_id,
        workflow_type=job.kind.name,
        timeout_seconds=timeout_seconds,
        request_id=job.request_id,
        correlation_id=job.correlation_id,
        bases={each.name: each.base for each in services.values() if each.name in named},
        spent=job.spent,
        notify=notify,
        trace=job.trace,
    )


async def ask(
    client: Client, job: NewJob, operation_id: str, owner: str, settings: Settings
) -> None:
    """Have Temporal start it; `owner` is the tag of whose it is. Raises
    WorkflowAlreadyStartedError, and RPCError.

    Where tasks wait for a worker, owners take turns: the tag is their fairness key, which what a
    job starts has from it. Servers that know no fairness pass it over.
    """
    seconds = seconds_of(job, settings)
    await client.start_workflow(
        job.kind.name,
        args=[context_of(job, operation_id, registered(settings), seconds), job.input],
        id=operation_id,
        task_queue=queue_of(job.kind, settings),
        execution_timeout=timedelta(seconds=seconds + BACKSTOP_SECONDS),
        task_timeout=SHORT_TASK if job.kind.short else None,
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
        memo=None if job.key is None else {"fingerprint": job.fingerprint},
        search_attributes=TypedSearchAttributes(
            [SearchAttributePair(_OWNER, owner), SearchAttributePair(_STATE, "pending")]
        ),
        priority=Priority(fairness_key=owner),
    )
