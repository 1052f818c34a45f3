"""Questions in the database: the store that `sse.questions` decides on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from sqlalchemy import Connection

from gateway.store.asking import Asking, AskingRows
from gateway.store.batches import Batches
from gateway.store.database import PATIENCE_SECONDS, Database
from gateway.store.deciding import DecidingRows
from gateway.store.forgetting import Forgetting
from gateway.store.noting import Noting
from gateway.store.reading import Reading
from gateway.store.sql import Sql
from gateway.store.sweeping import Sweeping
from sse.answer import Attempt, Deed, Details, Ending, Expiry, Outcome, Withdrawal
from sse.question_body import NewQuestion
from sse.question_store import (
    Asked,
    Audience,
    Kept,
    Mark,
    Note,
    Pressing,
    Publication,
    Shown,
    Wanted,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Notes:
    notes: Sequence[Note]


@dataclass(frozen=True, slots=True)
class _Marks:
    marks: Sequence[Mark]


_Job = Asking | Deed | _Notes | _Marks


@dataclass(slots=True)
class _Done:
    """What a transaction did."""

    results: list[object]
    news: Sequence[NewQuestion] = ()
    endings: Sequence[Ending] = ()


class StoredQuestions:
    """Keeps questions. `forward`: answers are also for a service (`[questions.forward]`).

    `wall` is Unix time in seconds, `clock` monotonic; `new_id` draws UUIDv7s.
    """

    def __init__(
        self,
        database: Database,
        wall: Callable[[], float],
        clock: Callable[[], float],
        new_id: Callable[[], str],
        *,
        forward: bool = False,
    ) -> None:
        self.forward = forward
        self._database = database
        self._wall = wall
        sql = Sql(database.dialect)
        self._apart = not sql.is_sqlite
        self._asking = AskingRows(sql)
        self._noting = Noting(sql)
        self._deciding = DecidingRows(sql, self._noting, new_id)
        self._reading = Reading(sql)
        self._forgetting = Forgetting(sql)
        self._sweeping = Sweeping(sql, self._noting, self._deciding)
        self._audience: Audience | None = None
        self._batches: Batches[_Job] = Batches(self._apply, clock, PATIENCE_SECONDS)

    def __repr__(self) -> str:
        return f"<StoredQuestions {self._database!r} {self._batches!r}>"

    def attend(self, audience: Audience) -> None:
        """Tell `audience` what is written from here."""
        self._audience = audience

    async def settle(self) -> None:
        """Returns when all that was to be written is."""
        await self._batches.settle()

    async def close(self) -> None:
        """Finish what was taken. The database is closed by its owner."""
        await self._batches.close()

    # Writing, together with whatever else is to be written. Who stops waiting takes nothing back.

    async def ask(self, news: Sequence[NewQuestion], *, together: bool) -> Asked:
        """Keep questions, all or none."""
        return cast(Asked, await self._batches.submit(Asking(tuple(news), together)))

    async def forget(self, question_ids: Sequence[str]) -> list[str]:
        """As if they had never been asked; which went."""
        return await self._database.write(lambda it: self._forgetting.forget(it, question_ids))

    async def decide(self, deed: Deed) -> Outcome:
        """Do it, if it comes first."""
        return cast(Outcome, await self._batches.submit(deed))

    def note(self, notes: Sequence[Note]) -> asyncio.Future[object]:
        """Write entries of the audit trail."""
        return self._batches.submit(_Notes(notes))

    def mark(self, marks: Sequence[Mark]) -> asyncio.Future[object]:
        """These events were published."""
        return self._batches.submit(_Marks(marks))

    async def _apply(self, jobs: Sequence[_Job]) -> Sequence[object]:
        """One transaction. Where several machines write, what was published goes into another: its
        rows are in another order than those of decisions, and two gateways could wait for each
        other in a circle.
        """
        forward = self.forward
        marks = [job for job in jobs if isinstance(job, _Marks)]
        if self._apart and marks and len(marks) < len(jobs):
            first = [None if isinstance(job, _Marks) else job for job in jobs]
            done = await self._database.write(lambda it: self._work(it, first, forward))
            self._tell(done)
            await self._database.write(lambda it: self._work(it, marks, forward))
        else:
            done = await self._database.write(lambda it: self._work(it, jobs, forward))
            self._tell(done)
        return done.results

    def _work(self, connection: Connection, jobs: Sequence[_Job | None], forward: bool) -> _Done:
        now_ms = self._now_ms()
        done = _Done([None] * len(jobs))
        askings = [(at, job) for at, job in enumerate(jobs) if isinstance(job, Asking)]
        if askings:
            asked, done.news = self._asking.ask(connection, [job for _, job in askings], now_ms)
            _place(done.results, askings, asked)
        deeds = [
            (at, job)
            for at, job in enumerate(jobs)
            if isinstance(job, Attempt | Withdrawal | Expiry)
        ]
        if deeds:
            outcomes, done.endings = self._deciding.apply(
                connection, [job for _, job in deeds], now_ms, forward=forward
            )
            _place(done.results, deeds, outcomes)
        marks = [mark for job in jobs if isinstance(job, _Marks) for mark in job.marks]
        self._noting.mark(connection, marks)
        notes = [note for job in jobs if isinstance(job, _Notes) for note in job.notes]
        self._noting.note(connection, notes)
        return done

    def _tell(self, done: _Done) -> None:
        audience = self._audience
        if audience is None:
            return
        if done.news:
            audience.asked(done.news)
        for ending in done.endings:
            audience.ended(ending)

    # Looking

    async def find(self, question_ids: Sequence[str]) -> dict[str, Kept]:
        """Those that exist."""
        return await self._database.read(lambda it: self._reading.find(it, question_ids))

    async def details(self, question_id: str) -> Details | None:
        """One with its votes and its audit trail."""
        return await self._database.read(lambda it: self._reading.details(it, question_id))

    async def page(self, wanted: Wanted) -> list[Kept]:
        """Newest first."""
        return await self._database.read(lambda it: self._reading.page(it, wanted))

    async def open_for(self, client_ids: Sequence[str], most: int) -> dict[str, list[Shown]]:
        """The open questions of each client id."""
        return await self._database.read(lambda it: self._reading.open_for(it, client_ids, most))

    async def ended_among(self, question_ids: Sequence[str]) -> list[str]:
        """Which of them are not open any more, or gone."""
        return await self._database.read(lambda it: self._reading.ended_among(it, question_ids))

    async def count_open(self) -> int:
        """How many are open."""
        return await self._database.read(self._reading.count_open)

    async def pressing(self, now_ms: int) -> Pressing:
        """What is due."""
        return await self._database.read(lambda it: self._reading.pressing(it, now_ms))

    # What time brings, each in a transaction of its own

    async def end_due(self, now_ms: int, most: int) -> int:
        """End what has expired; how many."""
        forward = self.forward
        endings = await self._database.write(
            lambda it: self._sweeping.end_due(it, now_ms, most, forward=forward)
        )
        self._tell(_Done([], endings=endings))
        return len(endings)

    async def remind_due(self, now_ms: int, most: int) -> list[Publication]:
        """The reminders whose time has come."""
        return await self._database.write(lambda it: self._sweeping.remind_due(it, now_ms, most))

    async def publications_due(self, now_ms: int, until_ms: int, most: int) -> list[Publication]:
        """Events that nobody has published yet."""
        return await self._database.write(
            lambda it: self._sweeping.publications_due(it, now_ms, until_ms, most)
        )

    async def purge(self, before_ms: int, most: int) -> int:
        """Forget questions that ended before; how many."""
        return await self._database.write(lambda it: self._forgetting.purge(it, before_ms, most))

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)


def _place(results: list[object], jobs: Sequence[tuple[int, Any]], answers: Sequence[Any]) -> None:
    for (at, _), answer in zip(jobs, answers, strict=True):
        results[at] = answer
