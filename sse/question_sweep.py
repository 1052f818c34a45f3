"""Once a second: what time brings to questions, whatever gateway they came by.

One task and one timer for all questions. A look at small indexes tells what there is; it comes
sooner than after a second where something is due sooner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from sse.question_events import Log, QuestionEvents
from sse.question_store import QuestionStore, StoreAwayError, StoreSlowError
from sse.question_waiters import Waiters

EVERY_SECONDS: Final = 1.0
# Two looks are at least so far apart: what is due just then is looked for once, not in a circle.
_LEAST_SECONDS: Final = 0.02
# Of one transaction, so that answers get their turn in between.
MOST_AT_ONCE: Final = 250
# Publications that were taken over belong to this gateway for so long.
LEASE_MS: Final = 10_000
KEEP_MS: Final = 30 * 86_400_000
_COUNT_EVERY: Final = 10
_PURGE_EVERY: Final = 60
# So many at once are 250,000 questions an hour, more than are asked.
_PURGE_ROUNDS: Final = 20


class QuestionSweep:
    """Runs until it is closed. `open_count` is how many questions are open, as last counted."""

    def __init__(
        self,
        store: QuestionStore,
        events: QuestionEvents,
        waiters: Waiters,
        wall: Callable[[], float],
        log: Log,
    ) -> None:
        self.open_count = 0
        self._store = store
        self._events = events
        self._waiters = waiters
        self._wall = wall
        self._log = log
        self._task: asyncio.Task[None] | None = None
        self._turn = 0
        self._away = False

    async def start(self) -> None:
        """Sweep once, then go on. Raises StoreAwayError, StoreSlowError."""
        await self.sweep()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """No more of it."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def sweep(self) -> float:
        """Do what is due; seconds until the next is."""
        now_ms = self._now_ms()
        pressing = await self._store.pressing(now_ms)
        if pressing.expiries:
            while await self._store.end_due(self._now_ms(), MOST_AT_ONCE) == MOST_AT_ONCE:
                continue
        if pressing.reminders:
            self._events.add(await self._store.remind_due(now_ms, MOST_AT_ONCE))
        if pressing.publications:
            until_ms = now_ms + LEASE_MS
            found = await self._store.publications_due(now_ms, until_ms, MOST_AT_ONCE)
            self._events.add(found)
        await self._look_for_waiters()
        if self._turn % _COUNT_EVERY == 0:
            self.open_count = await self._store.count_open()
        if self._turn % _PURGE_EVERY == 0:
            for _ in range(_PURGE_ROUNDS):
                if await self._store.purge(now_ms - KEEP_MS, MOST_AT_ONCE) < MOST_AT_ONCE:
                    break
        self._turn += 1
        if pressing.next_ms is None:
            return EVERY_SECONDS
        due = pressing.next_ms / 1000 - self._wall()
        return min(EVERY_SECONDS, max(_LEAST_SECONDS, due))

    async def _look_for_waiters(self) -> None:
        """What another gateway decided: who waits here must look."""
        waited_for = self._waiters.question_ids
        if waited_for:
            for question_id in await self._store.ended_among(waited_for):
                self._waiters.wake(question_id, None)

    async def _run(self) -> None:
        seconds = EVERY_SECONDS
        while True:
            await asyncio.sleep(seconds)
            seconds = EVERY_SECONDS
            try:
                seconds = await self.sweep()
                if self._away:
                    self._log.info("question.sweep_back")
                self._away = False
            except (StoreAwayError, StoreSlowError):
                if not self._away:
                    self._log.warning("question.sweep_away", reason="the database is away")
                self._away = True
            except Exception as error:
                self._log.error("question.sweep_failed", reason=repr(error))

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)
