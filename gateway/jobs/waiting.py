"""Who waits for the end of a job in this gateway.

The end's event wakes them, as it passes the hub. Beside it there is one question to Temporal for
each job that is waited for, whose answer comes when the job is over: for events that get lost.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from gateway.errors import Rejection
from gateway.jobs.refusals import JobRefusedError
from sse.event import JOB_PREFIX

# Each is a request that is held open, with its connection: some 10 KB. Further ones do not wait.
MOST_WAITERS: Final = 10_000
# For jobs of one owner: ten of them fill all, one does not. As many as jobs of one run at once
# where nothing else is set, and not fewer: an owner is a tenant with all of its people.
MOST_OF_OWNER: Final = 1000
# Each holds a long poll at Temporal, which has some 1,200 for a namespace and gateway.
MOST_POLLS: Final = 500
# The event comes well before, mostly; then nothing is asked.
POLL_AFTER_SECONDS: Final = 0.2
# Between two tries while Temporal is away.
AGAIN_SECONDS: Final = 2.0
RETRY_SECONDS: Final = 1  # places become free whenever a job ends


class Following(Protocol):
    """The hub follows a client id's events until this is closed."""

    def close(self) -> None: ...


class NoPlaceError(JobRefusedError):
    """As many wait for jobs of this owner as may. The job goes on."""

    def __init__(self, most: int) -> None:
        message = (
            f"{most} requests wait for your jobs to end, as many as may at once. Ask without"
            " waiting, or follow the job's stream."
        )
        super().__init__(Rejection("RATE_LIMITED", message, RETRY_SECONDS))


class JobWaiters:
    """Futures by job. `closed` returns when a job is over, whichever way; it raises where that
    can't be told now. `follow` has the hub follow a client id, also where other gateways publish.
    """

    def __init__(
        self,
        closed: Callable[[str], Awaitable[None]],
        follow: Callable[[str], Following],
        *,
        most: int = MOST_WAITERS,
        most_of_owner: int = MOST_OF_OWNER,
        most_polls: int = MOST_POLLS,
    ) -> None:
        self._closed = closed
        self._follow = follow
        self._most = most
        self._most_of_owner = most_of_owner
        self._most_polls = most_polls
        self._by_owner: Counter[str] = Counter()
        self._by_job: dict[str, set[asyncio.Future[None]]] = {}
        self._followed: dict[str, Following] = {}
        self._polls: dict[str, asyncio.Task[None]] = {}
        self._draining = False
        self.count = 0

    def __repr__(self) -> str:
        return f"<JobWaiters {self.count} for {len(self._by_job)} jobs, {len(self._polls)} polls>"

    async def wait(self, operation_id: str, seconds: float, owner: str) -> bool:
        """Wait for the end; false when the time ran out, or there is no place to wait in.

        Raises NoPlaceError where the owner's own places are taken.
        """
        if self._draining or self.count >= self._most:
            return False
        if self._by_owner[owner] >= self._most_of_owner:
            raise NoPlaceError(self._most_of_owner)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._by_job.setdefault(operation_id, set()).add(future)
        self.count += 1
        self._by_owner[owner] += 1
        try:
            if operation_id not in self._followed:
                self._followed[operation_id] = self._follow(JOB_PREFIX + operation_id)
            self._poll(operation_id)
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            return False
        finally:
            self._leave(operation_id, future)
            self._by_owner[owner] -= 1
            if not self._by_owner[owner]:
                del self._by_owner[owner]
        return not self._draining

    def wake(self, operation_id: str) -> None:
        """A job is over: tell all who wait for it."""
        for future in self._by_job.get(operation_id, ()):
            if not future.done():
                future.set_result(None)

    def drain(self) -> None:
        """Let everybody go; nobody waits from now on."""
        self._draining = True
        for operation_id in list(self._by_job):
            self.wake(operation_id)

    async def close(self) -> None:
        """End what is under way."""
        self.drain()
        polls = list(self._polls.values())
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)

    def _leave(self, operation_id: str, future: asyncio.Future[None]) -> None:
        self.count -= 1
        waiting = self._by_job[operation_id]
        waiting.discard(future)
        if not waiting:
            del self._by_job[operation_id]
            followed = self._followed.pop(operation_id, None)
            if followed is not None:
                followed.close()
            poll = self._polls.pop(operation_id, None)
            if poll is not None:
                poll.cancel()

    def _poll(self, operation_id: str) -> None:
        if operation_id in self._polls or len(self._polls) >= self._most_polls:
            return
        poll = asyncio.get_running_loop().create_task(self._until_closed(operation_id))
        self._polls[operation_id] = poll

    async def _until_closed(self, operation_id: str) -> None:
        pause = POLL_AFTER_SECONDS
        while True:
            await asyncio.sleep(pause)
            try:
                await self._closed(operation_id)
            except Exception:  # away, or restarted: who waits has a time-out
                pause = AGAIN_SECONDS
                continue
            self.wake(operation_id)
            return
