"""Group commit: what came while one transaction ran goes into the next, all of it together.

So a commit, which waits for the disk or for the network, is paid once for many callers, and the
busier it is the more share it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from sse.question_store import StoreAwayError, StoreSlowError

J = TypeVar("J")

# One transaction of 256 answers takes some 30 ms; a caller waits for two of them at most, the one
# under way and his own, while there is room.
MOST_TOGETHER: Final = 256
# 4,096 callers are three seconds of work; who came later would be told 504 after his patience.
MOST_WAITING: Final = 4096
_LOOK_SECONDS: Final = 1.0


class Batches(Generic[J]):
    """Runs `apply` on lists of jobs, one list at a time; it gives a result for each.

    A result that is an exception is raised to who submitted the job.
    """

    def __init__(
        self,
        apply: Callable[[Sequence[J]], Awaitable[Sequence[object]]],
        clock: Callable[[], float],
        patience_seconds: float,
    ) -> None:
        self._apply = apply
        self._clock = clock
        self._patience_seconds = patience_seconds
        self._waiting: deque[tuple[J, asyncio.Future[object], float]] = deque()
        self._under_way: list[tuple[J, asyncio.Future[object], float]] = []
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Batches waiting={len(self._waiting)} under_way={len(self._under_way)}>"

    def submit(self, job: J) -> asyncio.Future[object]:
        """The result, when it is durable. Raises StoreAwayError when too much waits."""
        loop = asyncio.get_running_loop()
        if self._closed or len(self._waiting) >= MOST_WAITING:
            raise StoreAwayError("too much waits for the database")
        future: asyncio.Future[object] = loop.create_future()
        future.add_done_callback(_retrieved)
        self._waiting.append((job, future, self._clock()))
        if self._task is None:
            self._task = loop.create_task(self._drain())
        if self._timer is None:
            self._timer = loop.call_later(_LOOK_SECONDS, self._look)
        return future

    async def settle(self) -> None:
        """Returns when all that was taken is done."""
        if self._task is not None:
            await self._task

    async def close(self) -> None:
        """Take nothing more, and finish what was taken."""
        self._closed = True
        await self.settle()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _drain(self) -> None:
        while self._waiting:
            count = min(MOST_TOGETHER, len(self._waiting))
            batch = self._under_way = [self._waiting.popleft() for _ in range(count)]
            try:
                results = await self._apply([job for job, _, _ in batch])
            except Exception as error:
                results = await self._one_by_one(batch, error)
            for (_, future, _), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
            self._under_way = []
        self._task = None

    async def _one_by_one(
        self, batch: Sequence[tuple[J, asyncio.Future[object], float]], error: Exception
    ) -> Sequence[object]:
        """One job that the database does not take must not fail the others."""
        if isinstance(error, StoreAwayError | StoreSlowError) or len(batch) == 1:
            return [error] * len(batch)
        results: list[object] = []
        for job, _, _ in batch:
            try:
                results += await self._apply([job])
            except Exception as mine:
                results.append(mine)
        return results

    def _look(self) -> None:
        """Once a second while there is something: who waited too long is told so."""
        late = self._clock() - self._patience_seconds
        for _, future, since in self._under_way:
            if since < late and not future.done():
                future.set_exception(StoreSlowError("the database takes too long"))
        while self._waiting and self._waiting[0][2] < late:
            _, future, _ = self._waiting.popleft()
            if not future.done():
                future.set_exception(
                    StoreAwayError("the database takes too long: nothing was done")
                )
        self._timer = None
        if self._task is not None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)


def _retrieved(done: asyncio.Future[object]) -> None:
    """Its caller may have gone; an error is no news to the loop then."""
    if not done.cancelled():
        done.exception()
