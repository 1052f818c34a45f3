"""What questions need of whoever keeps them.

Every method may raise StoreAwayError or StoreSlowError; all are safe to repeat. What is written is
durable when a method returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from sse.answer import Deed, Details, Ending, Outcome, State
from sse.event import Refused
from sse.question import Question
from sse.question_body import NewQuestion

T = TypeVar("T")
# Kinds of events that tell of a question.
Kind = Literal["question", "reminder", "resolved"]


class StoreAwayError(Exception):
    """The store can't be reached, or has more to do than it can: nothing was done."""


class StoreSlowError(Exception):
    """The store did not answer in time: what was asked may still come about."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A question and where it stands; the votes are not with it."""

    question: Question
    state: State


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of asking: `taken` are ids that exist and belong to something else; then nothing
    was kept. `found` is the question that exists with the same body.
    """

    taken: tuple[str, ...] = ()
    found: Kept | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """An open question of a client id. `position` is its event's id there; None: not yet noted."""

    question_id: str
    document: bytes
    position: str | None


@dataclass(frozen=True, slots=True)
class Publication:
    """An event that a client id is to get. `resolved` where the question has ended."""

    question: Question
    state: State
    client_id: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Mark:
    """An event was published; `position` is its id. `ended`: it told the end."""

    question_id: str
    client_id: str
    position: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Note:
    """An entry for the audit trail that nothing else tells."""

    question_id: str
    at_ms: int
    what: Literal["delivered", "seen", "refused", "reminded"]
    who: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Reach:
    """What someone may see or answer: by who he is, his scopes, the client ids he reads.

    `everything`: whatever client ids a question has.
    """

    subject: str | None
    scopes: frozenset[str] = frozenset()
    client_ids: frozenset[str] = frozenset()
    everything: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which questions to list: those in a status that `viewer` may see and `assignee` may answer.

    `client_id`: shown to it. `before` is the ordinal and id of the last one of the page before.
    """

    status: str
    limit: int
    viewer: Reach | None = None
    assignee: Reach | None = None
    client_id: str | None = None
    before: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Pressing:
    """What can't wait: whether there is something of each kind, and when the next comes, Unix
    milliseconds.
    """

    expiries: bool = False
    reminders: bool = False
    publications: bool = False
    next_ms: int | None = None


class Audience(Protocol):
    """Who wants to know at once what was written here, also when its caller has gone."""

    def asked(self, news: Sequence[NewQuestion]) -> None:
        """Questions were kept."""

    def ended(self, ending: Ending) -> None:
        """A question has ended."""


class QuestionStore(Protocol):
    """Keeps questions, and decides between those that race."""

    def attend(self, audience: Audience) -> None:
        """From now on `audience` is told."""

    async def ask(self, news: Sequence[NewQuestion], *, together: bool) -> Asked:
        """Keep questions, all or none. `together`: none may exist; else the same one may."""

    async def forget(self, question_ids: Sequence[str]) -> list[str]:
        """As if they had never been asked; those that somebody has answered stay. Which went."""

    async def decide(self, deed: Deed) -> Outcome:
        """Do it, if it comes first."""

    async def find(self, question_ids: Sequence[str]) -> dict[str, Kept]:
        """Those that exist."""

    async def details(self, question_id: str) -> Details | None:
        """One with its votes and its audit trail."""

    async def page(self, wanted: Wanted) -> list[Kept]:
        """Newest first."""

    async def open_for(self, client_ids: Sequence[str], most: int) -> dict[str, list[Shown]]:
        """The open questions of each client id, oldest first, at most so many each."""

    async def ended_among(self, question_ids: Sequence[str]) -> list[str]:
        """Which of them are not open any more, or gone."""

    async def count_open(self) -> int:
        """How many are open."""

    def note(self, notes: Sequence[Note]) -> asyncio.Future[object]:
        """Write entries of the audit trail: `reminded` each time, others once for each who."""

    def mark(self, marks: Sequence[Mark]) -> asyncio.Future[object]:
        """These events were published."""

    async def pressing(self, now_ms: int) -> Pressing:
        """What is due."""

    async def end_due(self, now_ms: int, most: int) -> int:
        """End what has expired; how many."""

    async def remind_due(self, now_ms: int, most: int) -> list[Publication]:
        """The reminders whose time has come: each is given out once."""

    async def publications_due(self, now_ms: int, until_ms: int, most: int) -> list[Publication]:
        """Events that nobody has published yet; nobody else gets them until then."""

    async def purge(self, before_ms: int, most: int) -> int:
        """Forget questions that ended before; how many."""


async def in_time(work: Awaitable[T]) -> T:
    """What the store says, its troubles in a client's words."""
    try:
        return await work
    except StoreSlowError:
        raise Refused("TIMEOUT", "The database takes too long. Repeating this is safe.") from None
    except StoreAwayError:
        text = "The database is away, nothing was done. Repeating this is safe."
        raise Refused("SERVICE_UNAVAILABLE", text) from None
