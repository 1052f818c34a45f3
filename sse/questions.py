"""Questions: asked once, shown to whom they are for, answered once, by one of many who race.

The store decides (`question_store.py`); here is the order of the checks before, and the telling
after: events to the client ids, a nudge to who waits. Callers are who they say: a credential is
checked before anything comes here, and so is who may ask.

Everything may raise Refused; `code` is one of the gateway's error table. A store that is away or
slow is SERVICE_UNAVAILABLE or TIMEOUT, and repeating is safe: an answer with an Idempotency-Key
gets its first reply, one without is told who answered.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple

import orjson

from sse.answer import Ending, Outcome, State, Withdrawal, summary, unknown
from sse.answer_body import attempt, idempotency_key, parse, question_id_of
from sse.answer_schema import AnswerSchemas
from sse.event import BackplaneAwayError, NewEvent, Published, Refused, is_client_id, uuid7
from sse.question import (
    ADMIN_SCOPE,
    ANSWERED,
    ANSWERER_SCOPE,
    INTERNAL_SCOPE,
    OPEN,
    STATUSES,
    Caller,
    Question,
    is_asker,
    is_worker,
    may_see,
    may_withdraw,
    why_not_answer,
)
from sse.question_body import NewQuestion, QuestionReader, checker_of
from sse.question_events import Log, Publish, QuestionEvents
from sse.question_list import assignee_reach, place_of, reach, token_of
from sse.question_lookups import Lookups
from sse.question_memory import Noted, Recent
from sse.question_open import Deliver, OpenQuestions
from sse.question_store import (
    Kept,
    Note,
    Publication,
    QuestionStore,
    StoreAwayError,
    StoreSlowError,
    Wanted,
    in_time,
)
from sse.question_sweep import QuestionSweep
from sse.question_waiters import Waiters

_What = Literal["delivered", "seen", "refused"]

PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 200
WAIT_SECONDS: Final = 30.0
MAX_WAIT_SECONDS: Final = 300.0


class AskedQuestion(NamedTuple):
    """A question that is kept: its id, and the object as everyone is shown it."""

    question_id: str
    data: bytes


class Answered(NamedTuple):
    """The answer to an answer. `replayed`: it is that of an earlier try with the same key."""

    body: bytes
    replayed: bool


class Questions:
    """All there is to do with questions. `start` once, `close` at the end."""

    def __init__(
        self,
        store: QuestionStore,
        publish: Publish,
        readers: Callable[[str], Sequence[str | None]],
        wall: Callable[[], float],
        log: Log,
        *,
        callbacks: bool,
        delivery_due: Callable[[], None] = lambda: None,
    ) -> None:
        """`publish` tells a client id, `readers` who reads it here. `wall`: Unix time in seconds.

        `callbacks`: a question may have a callback_url. `delivery_due` is called when something is
        to be sent about a decision.
        """
        self._store = store
        self._publish = publish
        self._wall = wall
        self._delivery_due = delivery_due
        self._schemas = AnswerSchemas()
        self._reader = QuestionReader(self._schemas, self._new_id, callbacks=callbacks)
        self._events = QuestionEvents(publish, readers, store, wall, log)
        self._open = OpenQuestions(store, self._events, log)
        self._waiters = Waiters()
        self._sweep = QuestionSweep(store, self._events, self._waiters, wall, log)
        self._lookups: Lookups[Kept] = Lookups(store.find)
        self._recent = Recent()
        self._noted = Noted()
        self._publisher_shows: dict[str, str] = {}  # question to the client id it is published to
        self._last_ordinal = 0
        self._random = (b"", 0)  # random bytes, and how many of them are used
        store.attend(self)

    def __repr__(self) -> str:
        return f"<Questions open={self.open_count} {self._waiters!r} {self._events!r}>"

    @property
    def open_count(self) -> int:
        """How many are open, by all gateways; right within ten seconds."""
        return max(0, self._sweep.open_count)

    @property
    def waiting(self) -> int:
        """How many callers wait for a decision here."""
        return self._waiters.count

    def allow_callbacks(self, allowed: bool, fault: Callable[[str], str | None]) -> None:
        """Whether a question may have a callback_url, and what is wrong with one, if anything."""
        self._reader.callbacks = allowed
        self._reader.callback_fault = fault

    async def start(self) -> None:
        """Decide what passed meanwhile, then begin. Raises StoreAwayError, StoreSlowError."""
        await self._sweep.start()

    def drain(self) -> None:
        """Let all who wait go, with what there is."""
        self._waiters.wake_all()

    async def sweep(self) -> float:
        """Do what is due now; seconds until the next is."""
        return await self._sweep.sweep()

    async def settle(self) -> None:
        """Returns when what was written so far is told to those whom it is for."""
        await self._events.settle()

    async def close(self) -> None:
        """Finish what is under way. The store is closed by its owner."""
        await self._sweep.close()
        self._waiters.wake_all()
        await self._events.settle()
        await self._open.close()
        await self._lookups.close()

    # Asking

    async def ask(self, caller: Caller, body: object) -> tuple[AskedQuestion, bool]:
        """Ask; whether it is new. The same body under an id that exists is no new question."""
        new = self._read(caller, body)
        asked = await in_time(self._store.ask([new], together=False))
        question, found = new.question, asked.found
        if asked.taken or (found is not None and not may_see(caller, found.question)):
            raise _taken(question.question_id)
        if found is None or found.state.is_open:
            shown = (found or new).question.shown(OPEN)
        else:
            shown = summary(found.question, found.state)
        return AskedQuestion(question.question_id, shown), found is None

    async def ask_published(
        self,
        caller: Caller,
        client_id: str,
        datas: Sequence[object],
        pointers: Sequence[str] = (),
    ) -> list[AskedQuestion]:
        """Ask what is published to a client id: all or none. `pointers`: where each data stands.

        Who publishes tells that client id himself, and calls `published` for each; then nobody does
        it once more. Where he can't, `retract` takes them back.
        """
        news: list[NewQuestion] = []
        for index, data in enumerate(datas):
            try:
                news.append(self._read(caller, data, client_id))
            except Refused as refused:
                at = pointers[index] if pointers else ""
                details = tuple((f"{at}{each}", text) for each, text in refused.details)
                details = details or ((at, refused.message),)
                raise Refused(refused.code, refused.message, details) from None
        for new in news:
            self._publisher_shows[new.question.question_id] = client_id
        try:
            asked = await in_time(self._store.ask(news, together=True))
        finally:
            for new in news:
                self._publisher_shows.pop(new.question.question_id, None)
        if asked.taken:
            raise _taken(asked.taken[0])
        return [AskedQuestion(new.question.question_id, new.question.shown(OPEN)) for new in news]

    def _read(self, caller: Caller, body: object, client_id: str | None = None) -> NewQuestion:
        who, internal = caller.subject or None, caller.may(INTERNAL_SCOPE)
        return self._reader.read(body, who, self._ordinal(), client_id, internal=internal)

    def published(self, question_id: str, client_id: str, position: str) -> None:
        """The event of a question is out; `position` is its id."""
        self._events.published(question_id, client_id, position)

    async def retract(self, question_ids: Sequence[str]) -> None:
        """Forget questions whose publication failed, so that the same may be asked again."""
        gone = await in_time(self._store.forget(question_ids))
        for question_id in gone:
            self._recent.forget(question_id)
        self._sweep.open_count -= len(gone)

    async def publish_list(
        self, caller: Caller, client_id: str, events: Sequence[NewEvent], *, listed: bool = True
    ) -> Published:
        """Publish a list that has questions in it: all or none, in order. `listed`: it was a list.

        Raises Refused, and what publishing raises: then nothing was asked.
        """
        places = [at for at, event in enumerate(events) if event.event_type == "question"]
        datas = [orjson.loads(events[at].data) for at in places]
        pointers = [f"/{at}/data" if listed else "/data" for at in places]
        asked = await self.ask_published(caller, client_id, datas, pointers)
        whole = list(events)
        for at, question in zip(places, asked, strict=True):
            whole[at] = NewEvent("question", question.data)
        try:
            done = await self._publish(client_id, whole)
        except Exception as error:
            await self.retract([question.question_id for question in asked])
            if isinstance(error, BackplaneAwayError):
                text = "Redis is away: nothing was published. Repeating it is safe."
                raise Refused("SERVICE_UNAVAILABLE", text) from None
            raise
        for at, question in zip(places, asked, strict=True):
            self.published(question.question_id, client_id, done.ids[at])
        return done

    # Answering

    async def answer(
        self,
        caller: Caller,
        address: str,
        question_id: str,
        body: bytes,
        key: bytes | None,
    ) -> Answered:
        """Answer. `address` tells callers without a credential apart; `key`: Idempotency-Key."""
        question = await self._visible(caller, question_id)
        await self._check_right(caller, question)
        return await self._answer(caller, address, question, parse(body), key, via_client=False)

    async def answer_for_client(
        self, caller: Caller, address: str, client_id: str, body: bytes, key: bytes | None
    ) -> Answered:
        """Answer a question that is shown to a client id; the body names it."""
        if not caller.may_read(client_id):
            raise Refused("NOT_FOUND", "There is no such client id, or it is not yours to read.")
        value = parse(body)
        question = await self._visible(caller, question_id_of(value), client_id)
        await self._check_right(caller, question)
        return await self._answer(caller, address, question, value, key, via_client=True)

    async def _check_right(self, caller: Caller, question: Question) -> None:
        why = why_not_answer(caller, question)
        if why is not None:
            await self._refuse(caller, question, "FORBIDDEN")
            raise Refused("FORBIDDEN", why)

    async def _answer(
        self,
        caller: Caller,
        address: str,
        question: Question,
        value: object,
        key: bytes | None,
        *,
        via_client: bool,
    ) -> Answered:
        checker = checker_of(self._schemas, question)
        given = attempt(
            value,
            question,
            checker,
            caller,
            address,
            idempotency_key(key),
            names_question=via_client,
        )
        outcome = await in_time(self._store.decide(given))
        if outcome.refused is not None:
            raise outcome.refused
        return Answered(outcome.body, outcome.replayed)

    async def withdraw(self, caller: Caller, question_id: str) -> bytes:
        """Withdraw; the question."""
        question = await self._visible(caller, question_id)
        if not may_withdraw(caller, question):
            raise Refused("FORBIDDEN", "A question is withdrawn by its asker or an administrator.")
        outcome: Outcome = await in_time(self._store.decide(Withdrawal(question, caller.name)))
        if outcome.refused is not None:
            raise outcome.refused
        return summary(question, outcome.state)

    # Looking

    async def get(self, caller: Caller, question_id: str) -> bytes:
        """One with its answer, votes and audit trail."""
        question = await self._visible(caller, question_id)
        details = await in_time(self._store.details(question_id))
        if details is None:
            raise unknown()
        self._see(caller, [question])
        return details.shown()

    async def list(
        self,
        caller: Caller,
        *,
        status: str = OPEN,
        assignee: str | None = None,
        page_token: str | None = None,
        page_size: int = PAGE_SIZE,
        client_id: str | None = None,
    ) -> bytes:
        """A page, newest first: what the caller may see, of a client id, for an assignee."""
        if status not in STATUSES:
            raise Refused("BAD_REQUEST", f"status is one of {', '.join(STATUSES)}.")
        if not 1 <= page_size <= MAX_PAGE_SIZE:
            raise Refused("BAD_REQUEST", f"page_size is a whole number from 1 to {MAX_PAGE_SIZE}.")
        if client_id is not None and not caller.may_read(client_id):
            raise Refused("NOT_FOUND", "There is no such client id, or it is not yours to read.")
        wanted = Wanted(
            status=status,
            limit=page_size + 1,
            viewer=reach(caller, ANSWERER_SCOPE, ADMIN_SCOPE) if client_id is None else None,
            assignee=assignee_reach(caller, assignee),
            client_id=client_id,
            before=None if page_token is None else place_of(page_token),
        )
        found = await in_time(self._store.page(wanted))
        page = found[:page_size]
        token = token_of(page[-1].question) if len(found) > page_size else None
        self._see(caller, [each.question for each in page])
        shown = [orjson.Fragment(summary(each.question, each.state)) for each in page]
        return orjson.dumps({"questions": shown, "next_page_token": token})

    async def wait(
        self, caller: Caller, question_id: str, timeout_seconds: float = WAIT_SECONDS
    ) -> tuple[bytes, bool]:
        """The question, and whether it has ended, after at most `timeout_seconds`."""
        if not 0 <= timeout_seconds <= MAX_WAIT_SECONDS:
            raise Refused("BAD_REQUEST", f"timeout is 0 to {MAX_WAIT_SECONDS:.0f} seconds.")
        question = await self._visible(caller, question_id)
        self._see(caller, [question])
        with self._waiters.place(question_id) as decided:
            kept = await self._look(question_id)
            if kept.state.is_open and timeout_seconds:
                try:
                    async with asyncio.timeout(timeout_seconds):
                        result = await decided
                except TimeoutError:
                    result = None
                if result is not None:
                    return result, True
                kept = await self._look(question_id)
        return summary(question, kept.state), not kept.state.is_open

    def open_for(self, client_id: str, deliver: Deliver) -> None:
        """Call `deliver` with the open questions of a client id, soon, once."""
        self._open.find(client_id, deliver)

    def resent(self, question_id: str, client_id: str, user: str | None) -> None:
        """A question was sent again to a reader of a client id."""
        self._note(question_id, "delivered", user or "anonymous", client_id)

    # What the store tells

    def asked(self, news: Sequence[NewQuestion]) -> None:
        """Questions were kept here: tell whom they are for."""
        publications: list[Publication] = []
        for new in news:
            question = new.question
            self._recent.add(question)
            itself = self._publisher_shows.get(question.question_id)
            publications += [
                Publication(question, State(), client_id, "question")
                for client_id in question.client_ids
                if client_id != itself
            ]
        self._sweep.open_count += len(news)
        self._events.add(publications)

    def ended(self, ending: Ending) -> None:
        """A question ended here: tell everyone it was shown to, and who waits."""
        question, state = ending.question, ending.state
        self._sweep.open_count -= 1
        self._events.add(
            [
                Publication(question, state, client_id, "resolved")
                for client_id in question.client_ids
            ]
        )
        if self._waiters.wait_for(question.question_id):
            self._waiters.wake(question.question_id, summary(question, state))
        if question.callback_url or question.job or state.status == ANSWERED:
            self._delivery_due()

    # Details

    async def _visible(
        self, caller: Caller, question_id: str, client_id: str | None = None
    ) -> Question:
        """The question, if the caller may know of it; and if it is shown to `client_id`."""
        question = self._recent.get(question_id)
        if question is None and is_client_id(question_id):
            kept = await in_time(self._find(question_id))
            if kept is not None:
                question = kept.question
                self._recent.add(question)
        if question is None:
            raise unknown()
        if client_id is not None and client_id not in question.client_ids:
            raise unknown()
        if not may_see(caller, question):
            await self._refuse(caller, question, "NOT_FOUND")
            raise unknown()
        return question

    async def _find(self, question_id: str) -> Kept | None:
        return await self._lookups.ask(question_id)

    async def _look(self, question_id: str) -> Kept:
        kept = await in_time(self._find(question_id))
        if kept is None:
            raise unknown()
        return kept

    def _see(self, caller: Caller, questions: Sequence[Question]) -> None:
        """Who looked; the asker knows his own question, and so does a job."""
        for question in questions:
            itself = is_asker(caller, question) or is_worker(caller, question)
            if not itself and caller.name != question.asker:
                self._note(question.question_id, "seen", caller.name)

    async def _refuse(self, caller: Caller, question: Question, code: str) -> None:
        """Keep a try that was refused, before it is told."""
        if self._noted.is_new(question.question_id, "refused", caller.name):
            note = Note(question.question_id, self._now_ms(), "refused", caller.name, code)
            try:
                await self._store.note([note])
            except (StoreAwayError, StoreSlowError):
                self._noted.forget(question.question_id, "refused", caller.name)

    def _note(self, question_id: str, what: _What, who: str, detail: str | None = None) -> None:
        """Soon; a look does not wait for its note."""
        if self._noted.is_new(question_id, what, who):
            try:
                self._store.note([Note(question_id, self._now_ms(), what, who, detail)])
            except StoreAwayError:
                self._noted.forget(question_id, what, who)

    def _new_id(self) -> str:
        """A UUIDv7; one system call for its randomness serves four hundred."""
        drawn, used = self._random
        if used == len(drawn):
            drawn, used = os.urandom(4000), 0
        self._random = (drawn, used + 10)
        return uuid7(self._wall(), drawn[used : used + 10])

    def _ordinal(self) -> int:
        """Now in microseconds, but always later than the question before."""
        self._last_ordinal = max(self._last_ordinal + 1, int(self._wall() * 1_000_000))
        return self._last_ordinal

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)


def _taken(question_id: str) -> Refused:
    text = f"A question with the id {question_id} exists and is another one."
    return Refused("CONFLICT", text)
