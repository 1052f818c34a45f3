"""What it takes to start a job, put together before Temporal is asked: its id, who it is for, how
long it may take, where its services are reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.jobs.input_checks import Registered, requests_of
from gateway.jobs.models import AsyncRequestInput, Caller, JobContext
from gateway.jobs.types import JobType
from gateway.policy.identity import Identity
from gateway.settings import Settings
from sse.event import is_client_id, is_job_stream


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be started. `route` and `key` make it the same at every try (no key: a new job each
    time), `fingerprint` tells whether it is. `spent`: the caller's limits have counted its request.
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
        ),
        operation_id=operation_id,
        workflow_type=job.kind.name,
        timeout_seconds=timeout_seconds,
        request_id=job.request_id,
        correlation_id=job.correlation_id,
        bases={each.name: each.base for each in services.values() if each.name in named},
        spent=job.spent,
        notify=notify,
    )
