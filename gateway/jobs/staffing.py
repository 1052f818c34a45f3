"""Whether Temporal is fit for jobs, as a gateway sees it from outside: does anybody work on their
queues, and are the search attributes there. For the health page alone; nothing waits for it.

Not here: whether Temporal answers (`calls`), and making what is missing (`namespace`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

import structlog
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.service import RPCError

from gateway.jobs.namespace import WANTED, known_attributes

_log = structlog.get_logger("gateway.jobs")

# A call for each queue and one more: some milliseconds of Temporal's time.
LOOK_SECONDS: Final = 15.0
# While something is missing somebody is at work on it, and looks at the health page.
MISSING_SECONDS: Final = 2.0
# A worker asks again each minute. Temporal tells of those that went for five, and when they asked
# last by its own clock: it is only looked whether that changes.
RECENT_SECONDS: Final = 120.0
_CALL: Final = timedelta(seconds=5)
_WORKFLOWS: Final = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW


class Staffing:
    """Looks, again and again. `start` once, then `close`."""

    def __init__(
        self,
        client: Client,
        queues: Callable[[], Sequence[str]],
        clock: Callable[[], float],
        *,
        missing_seconds: float = MISSING_SECONDS,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """`queues`: those of now; `clock`: seconds."""
        self._client = client
        self._queues = queues
        self._clock = clock
        self._missing_seconds = missing_seconds
        self._look_seconds = look_seconds
        self._asked: dict[str, tuple[int, float]] = {}  # Temporal's time of it, and ours
        self._idle: list[str] = []
        self._attributes: list[str] = []
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Staffing idle={self._idle} missing={self._attributes}>"

    @property
    def lacks(self) -> str:
        """What is missing, for people; empty: nothing that is known of."""
        said = []
        if self._idle:
            said.append(f"no worker is at queue {', '.join(self._idle)}: what is started waits")
        if self._attributes:
            said.append(f"search attributes {', '.join(self._attributes)} (Keyword) are missing")
        return "; ".join(said)

    def start(self) -> None:
        """Begin with a look."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> None:
        """Once. Where Temporal does not say, what was known stays."""
        try:
            self._idle = [name for name in self._queues() if not await self._is_polled(name)]
            self._attributes = await self._missing()
        except RPCError:
            return  # away, or not permitted: others tell of the one, nobody knows of the other

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:  # a bug: what was said last must not stay for good
                _log.exception("jobs_not_looked_after")
            await asyncio.sleep(self._missing_seconds if self.lacks else self._look_seconds)

    async def _is_polled(self, queue: str) -> bool:
        request = DescribeTaskQueueRequest(
            namespace=self._client.namespace,
            task_queue=TaskQueue(name=queue),
            task_queue_type=_WORKFLOWS,
        )
        service = self._client.workflow_service
        found = await service.describe_task_queue(request, timeout=_CALL)
        asked = max((each.last_access_time.ToNanoseconds() for each in found.pollers), default=0)
        if asked != self._asked.get(queue, (0, 0.0))[0]:
            self._asked[queue] = asked, self._clock()
        return asked > 0 and self._clock() - self._asked[queue][1] <= RECENT_SECONDS

    async def _missing(self) -> list[str]:
        known = await known_attributes(self._client, _CALL)
        return [name for name in WANTED if name not in known]
