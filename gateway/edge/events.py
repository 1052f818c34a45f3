"""What the door needs to open streams and take publications. Built by `assemble`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from gateway.errors import Rejection
from gateway.policy.auth import Identity
from gateway.policy.tickets import StreamGrants, Tickets
from gateway.policy.tickets_redis import RedisTickets
from sse.event import NewEvent, Published
from sse.hub import Hub
from sse.idempotency import IdempotencyKeys
from sse.idempotency_redis import SharedIdempotencyKeys
from sse.prefaces import Prefaces


class JobsRefusedError(Exception):
    """A job's status is not to be had: there is no such job, or nobody can say."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.message)
        self.rejection = rejection


class Shared(Protocol):
    """The backplane, as far as publishing needs it."""

    def publish(
        self, client_id: str, events: Sequence[NewEvent], name: str = ""
    ) -> asyncio.Future[Published]:
        """Publish for all gateways; what has the same `name` is published once."""


@dataclass(frozen=True, slots=True)
class JobsDoor:
    """What the door asks about jobs: whether one is of the caller's tenant (by its id alone), and
    its status body as JSON, or why it is not to be had.
    """

    owns: Callable[[Identity, str], bool]
    snapshot: Callable[[str], Awaitable[bytes | Rejection]]


def jobs_are_off() -> Rejection:
    """What is said of jobs where there are none."""
    message = "jobs are switched off here: set TEMPORAL_ADDRESS (and PAYLOAD_KEYS)"
    return Rejection("SERVICE_UNAVAILABLE", message)


class Asking(Protocol):
    """What publishes lists that have questions in them: they are kept before anyone sees them."""

    async def publish_list(
        self, caller: Identity, client_id: str, events: Sequence[NewEvent], *, listed: bool
    ) -> Published:
        """All or none, in order; `listed`: they came as a list. Raises Refused and
        BackplaneAwayError.
        """


@dataclass(slots=True, eq=False)
class EventsDoor:
    """Hub, tickets, keys; `shared` and `asking` where there are other gateways and questions.

    `jobs` where there are any, and now; else `jobs_off` says why not.
    """

    hub: Hub
    grants: StreamGrants
    tickets: Tickets | RedisTickets
    keys: IdempotencyKeys | SharedIdempotencyKeys
    shared: Shared | None = None
    asking: Asking | None = None
    jobs: JobsDoor | None = None
    jobs_off: Callable[[], Rejection] = jobs_are_off
    prefaces: Prefaces = field(init=False)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.prefaces = Prefaces(self.hub, self._job_status, time.monotonic)

    async def _job_status(self, operation_id: str) -> bytes:
        """The status body of a job; raises JobsRefusedError."""
        jobs = self.jobs
        found = self.jobs_off() if jobs is None else await jobs.snapshot(operation_id)
        if isinstance(found, Rejection):
            raise JobsRefusedError(found)
        return found

    def wait_for(
        self, work: Coroutine[Any, Any, None], failed: Callable[[], None] = lambda: None
    ) -> None:
        """Do what must wait; one task for a request, so as many as connections at most. `failed` is
        called when a mistake of ours ends it.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._done(done, failed))

    def _done(self, task: asyncio.Task[None], failed: Callable[[], None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            structlog.get_logger("gateway.edge").error("edge.bug", exc_info=task.exception())
            failed()
