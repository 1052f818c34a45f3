"""Telling what was written: events of questions go out after the store has them.

What is to be told stands in the store until it was published, so a gateway that dies between, or a
Redis that is away, only makes it late: the sweep brings it here again. An event may so come twice,
never not at all.

A reminder is the event `question.reminder` and not `question` once more: who counts or rings at
questions would take it for a new one. `types=question*` has both.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from typing import Final, Protocol

from sse.answer import resolved
from sse.event import BackplaneAwayError, NewEvent, Published
from sse.question import OPEN
from sse.question_store import Kind, Mark, Note, Publication, QuestionStore, StoreAwayError

Publish = Callable[[str, Sequence[NewEvent]], Awaitable[Published]]
_Sent = tuple[str, str, Kind, str]  # question, client id, kind of event, its id

# Above it the store's own list is long enough; the sweep brings what was left out.
MOST_WAITING: Final = 10_000
_MOST_TOGETHER: Final = 500
# Of one client id in one publication, so that no reader's history goes round with it.
_MOST_IN_LIST: Final = 50
# Places of events that the store may not know yet when a stream opens; a name and a number each.
_MOST_PLACES: Final = 20_000
_TYPES: Final[Mapping[Kind, str]] = {
    "question": "question",
    "reminder": "question.reminder",
    "resolved": "question.resolved",
}


class Log(Protocol):
    """Where lines go: a structlog logger."""

    def info(self, event: str, **fields: object) -> object: ...
    def warning(self, event: str, **fields: object) -> object: ...
    def error(self, event: str, **fields: object) -> object: ...


class Stage(Enum):
    """How far the event of a question is, where its place is not known here."""

    WAITING = "waiting"  # it is going out, and has not yet
    UNKNOWN = "unknown"  # it may be out


class QuestionEvents:
    """Publishes, and notes in the store that it did and who was there to read."""

    def __init__(
        self,
        publish: Publish,
        readers: Callable[[str], Sequence[str | None]],
        store: QuestionStore,
        wall: Callable[[], float],
        log: Log,
    ) -> None:
        self._publish = publish
        self._readers = readers
        self._store = store
        self._wall = wall
        self._log = log
        self._waiting: deque[Publication] = deque()
        self._pending: set[tuple[str, str, Kind]] = set()  # waiting or going out
        self._unsent: set[tuple[str, str]] = set()  # first events that are waiting
        self._places: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._task: asyncio.Task[None] | None = None
        self._away = False

    def __repr__(self) -> str:
        return f"<QuestionEvents {len(self._waiting)} waiting>"

    def add(self, publications: Sequence[Publication]) -> None:
        """Publish these soon, in their order for each client id. What is on its way is left out."""
        for each in publications:
            key = (each.question.question_id, each.client_id, each.kind)
            if key in self._pending or len(self._waiting) >= MOST_WAITING:
                continue
            self._pending.add(key)
            if each.kind == "question":
                self._unsent.add(key[:2])
            self._waiting.append(each)
        if self._waiting and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._drain())

    def place(self, question_id: str, client_id: str) -> str | Stage:
        """The id of a question's event for a client id, as far as it is known here."""
        key = (question_id, client_id)
        if key in self._unsent:
            return Stage.WAITING
        return self._places.get(key, Stage.UNKNOWN)

    def published(self, question_id: str, client_id: str, position: str) -> None:
        """Someone published a question's event himself."""
        self._note([(question_id, client_id, "question", position)])

    async def settle(self) -> None:
        """Returns when nothing waits any more."""
        if self._task is not None:
            await self._task

    async def _drain(self) -> None:
        while self._waiting:
            count = min(_MOST_TOGETHER, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(count)]
            lists = _by_client(batch)
            for each in batch:
                if each.kind == "question":
                    self._unsent.discard((each.question.question_id, each.client_id))
            sent = await asyncio.gather(*(self._send(*each) for each in lists))
            self._note([each for of_list in sent for each in of_list])
        self._task = None

    async def _send(self, client_id: str, publications: Sequence[Publication]) -> list[_Sent]:
        """Publish a list; what was published."""
        events = [NewEvent(_TYPES[each.kind], self._data(each)) for each in publications]
        try:
            done = await self._publish(client_id, events)
        except BackplaneAwayError:
            if not self._away:
                self._away = True
                self._log.warning("question.unpublished", reason="what the gateways share is away")
        except Exception as error:
            self._log.error("question.unpublished", reason=repr(error))
        else:
            self._away = False
            return [
                (each.question.question_id, client_id, each.kind, position)
                for each, position in zip(publications, done.ids, strict=True)
            ]
        finally:
            for each in publications:
                self._pending.discard((each.question.question_id, client_id, each.kind))
        return []

    def _note(self, sent: Sequence[_Sent]) -> None:
        """Keep the places, and that nobody needs to publish these any more."""
        marks: list[Mark] = []
        notes: list[Note] = []
        now_ms = int(self._wall() * 1000)
        for question_id, client_id, kind, position in sent:
            marks.append(Mark(question_id, client_id, position, kind))
            if kind == "question":
                self._places[question_id, client_id] = position
                notes += [
                    Note(question_id, now_ms, "delivered", who or "anonymous", client_id)
                    for who in dict.fromkeys(self._readers(client_id))
                ]
            elif kind == "resolved":
                self._places.pop((question_id, client_id), None)
        if not marks:
            return
        while len(self._places) > _MOST_PLACES:
            self._places.popitem(last=False)
        try:
            self._store.mark(marks)
            if notes:
                self._store.note(notes)
        except StoreAwayError:
            pass  # what is not marked is published once more, by the sweep

    def _data(self, publication: Publication) -> bytes:
        question = publication.question
        if publication.kind == "resolved":
            return resolved(question, publication.state)
        if publication.kind == "question":
            return question.shown(OPEN)
        left = max(0.0, question.expires_ms / 1000 - self._wall())
        return question.shown(OPEN, seconds_left=round(left, 3))


def _by_client(batch: Sequence[Publication]) -> list[tuple[str, list[Publication]]]:
    """Lists for one publication each; those of one client id keep their order."""
    by_client: dict[str, list[Publication]] = {}
    for each in batch:
        by_client.setdefault(each.client_id, []).append(each)
    return [
        (client_id, these[start : start + _MOST_IN_LIST])
        for client_id, these in by_client.items()
        for start in range(0, len(these), _MOST_IN_LIST)
    ]
