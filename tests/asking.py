"""Questions for tests below HTTP: callers, bodies, a clock, stores on real databases."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from gateway.policy.auth import Identity
from gateway.store import Database, StoredQuestions
from sse.answer import Attempt, Ending
from sse.answer_schema import AnswerSchemas
from sse.event import NewEvent, Published
from sse.question import Caller, Question, digest_of, seats_of
from sse.question_body import NewQuestion, QuestionReader
from sse.questions import Questions

# 2026-01-01T00:00:00Z
NOW = 1_767_225_600.0
NOW_MS = int(NOW * 1000)


@dataclass
class Clock:
    """Time that passes when a test says so."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now

    @property
    def ms(self) -> int:
        """Milliseconds."""
        return int(self.now * 1000)


def someone(
    subject: str | None = "alice", *scopes: str, client_ids: Iterable[str] = ()
) -> Identity:
    """A caller with a token."""
    return Identity(subject, scopes=frozenset(scopes), client_ids=frozenset(client_ids))


KEYLESS = Identity(open_read=True, open_write=True)
ASKER = someone("svc", "questions:ask")
WORKER = someone("gateway-worker", "internal")


class Ids:
    """Ids in their order."""

    def __init__(self, prefix: str = "id") -> None:
        self._prefix = prefix
        self._numbers = itertools.count(1)

    def __call__(self) -> str:
        return f"{self._prefix}-{next(self._numbers)}"


class Asker:
    """Makes questions without a gateway."""

    def __init__(self, clock: Clock, prefix: str = "q") -> None:
        self._clock = clock
        self._reader = QuestionReader(AnswerSchemas(), Ids(prefix), callbacks=True)
        self._last = 0

    def new(self, asked_by: str | None = "svc", **members: Any) -> NewQuestion:
        """One that is valid; with a `job` it is a worker's."""
        self._last = max(self._last + 1, int(self._clock.now * 1_000_000))
        body = {"client_ids": ["alice"], "prompt": "Deploy?"} | members
        if "job" not in members:
            return self._reader.read(body, asked_by, self._last)
        return self._reader.read(body | {"asked_by": asked_by}, "w", self._last, internal=True)


def attempt(
    question: Question,
    caller: Caller,
    response: bytes = b'"yes"',
    *,
    key: str | None = None,
    comment: str | None = None,
) -> Attempt:
    """An answer that fits."""
    return Attempt(
        question,
        f"subject {caller.subject}",
        caller.name,
        digest_of([response.decode(), comment]),
        seats_of(caller, question),
        response,
        comment,
        key,
    )


@dataclass
class Told:
    """What a store told its audience."""

    news: list[NewQuestion] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)

    def asked(self, news: Sequence[NewQuestion]) -> None:
        self.news += news

    def ended(self, ending: Ending) -> None:
        self.endings.append(ending)


@dataclass(frozen=True)
class Place:
    """Where a database is; several gateways may open it."""

    url: str | None
    state_dir: Path

    @asynccontextmanager
    async def database(self, patience_seconds: float = 30.0) -> AsyncIterator[Database]:
        """It, open; patient, since another process may have the machine just now."""
        database = Database(self.url, self.state_dir, patience_seconds=patience_seconds)
        await database.open()
        try:
            yield database
        finally:
            await database.close()

    @asynccontextmanager
    async def store(self, clock: Clock, *, forward: bool = False) -> AsyncIterator[StoredQuestions]:
        """A gateway's store on it."""
        async with self.database() as database:
            store = StoredQuestions(database, clock, clock, Ids("d"), forward=forward)
            try:
                yield store
            finally:
                await store.close()


@dataclass
class Board:
    """Where events go: a list for each client id. `failing`: what publishing raises."""

    events: dict[str, list[NewEvent]] = field(default_factory=dict)
    reading: dict[str, list[str | None]] = field(default_factory=dict)
    failing: Exception | None = None
    lists: list[int] = field(default_factory=list)  # how many events each publication had
    epoch: str = "abcdefgh"

    async def publish(self, client_id: str, events: Sequence[NewEvent]) -> Published:
        """As a hub does."""
        if self.failing is not None:
            raise self.failing
        self.lists.append(len(events))
        mine = self.events.setdefault(client_id, [])
        first = len(mine) + 1
        mine += events
        ids = [f"{self.epoch}-{first + at}" for at in range(len(events))]
        return Published(ids, len(self.readers(client_id)))

    def readers(self, client_id: str) -> list[str | None]:
        """Who reads a client id."""
        return self.reading.get(client_id, [])

    def types(self, client_id: str) -> list[str]:
        """What a client id got."""
        return [event.event_type for event in self.events.get(client_id, [])]


@dataclass
class Room:
    """Questions with all that is around them."""

    questions: Questions
    store: StoredQuestions
    database: Database
    board: Board
    clock: Clock

    async def settle(self) -> None:
        """Returns when what was written is told and noted."""
        await self.store.settle()
        await self.questions.settle()
        await self.store.settle()


@asynccontextmanager
async def room(
    place: Place,
    clock: Clock,
    board: Board | None = None,
    *,
    patience_seconds: float = 30.0,
    due: Callable[[], None] = lambda: None,
) -> AsyncIterator[Room]:
    """A gateway's questions on a database, without its sweep running by itself."""
    board = board or Board()
    async with place.database(patience_seconds) as database:
        store = StoredQuestions(database, clock, clock, Ids("d"))
        log = structlog.get_logger("test")
        questions = Questions(
            store, board.publish, board.readers, clock, log, callbacks=True, delivery_due=due
        )
        try:
            yield Room(questions, store, database, board, clock)
        finally:
            await questions.close()
            await store.close()
