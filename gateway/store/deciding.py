"""Answers, withdrawals and expiries: many in one transaction, and of those that race one wins.

A deed is judged on the row as it is now (`sse.answer.decide`), and what comes of it is written by
one compare-and-set: only while the question is open and has as many votes as were counted. In
PostgreSQL the rows are locked first, in the order of their ids, so that two gateways neither judge
on the same state nor wait for each other in a circle; the compare-and-set would hold without that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sqlalchemy import Connection, bindparam, false, insert, literal_column, null, select, update

from gateway.store.asking import GRACE_MS
from gateway.store.noting import Noting
from gateway.store.rows import STATE_COLUMNS, VOTE_COLUMNS, state_of, vote_row, votes_of
from gateway.store.sql import Sql
from gateway.store.tables import answer_keys, is_open, outbox, questions, shown, votes
from sse.answer import (
    Attempt,
    Deed,
    Ending,
    Outcome,
    State,
    StoredReply,
    decide,
    delivered,
    unknown,
)
from sse.question import ANSWERED, FIRST, Question
from sse.question_store import Note

_Key = tuple[str, str, str]  # question, caller, key
# Each time someone else was faster, so there is progress; more than this is a bug.
_ROUNDS: Final = 10


@dataclass(slots=True)
class _Case:
    """A question and the deeds that are about it, in their order."""

    question: Question
    deeds: list[tuple[int, Deed]] = field(default_factory=list)
    before: State = field(default_factory=State)
    after: State = field(default_factory=State)
    outcomes: list[tuple[int, Deed, Outcome]] = field(default_factory=list)

    @property
    def has_votes(self) -> bool:
        """Whether the votes are rows of their own."""
        return self.question.policy != FIRST

    def judge(self, replies: dict[_Key, StoredReply], now_ms: int) -> None:
        """Let the deeds happen one after the other, in mind."""
        state = self.before
        self.outcomes = []
        mine: dict[_Key, StoredReply] = {}
        for index, deed in self.deeds:
            key = _key(deed)
            known = None if key is None else mine.get(key) or replies.get(key)
            outcome = decide(deed, state, known, now_ms)
            state = outcome.state
            self.outcomes.append((index, deed, outcome))
            if key is not None and outcome.keep_key and isinstance(deed, Attempt):
                mine[key] = StoredReply(deed.digest, outcome.body)
        self.after = state


def _key(deed: Deed) -> _Key | None:
    if isinstance(deed, Attempt) and deed.key is not None:
        return deed.question.question_id, deed.voter, deed.key
    return None


class DecidingRows:
    """The statements. `new_id` draws UUIDv7s."""

    def __init__(self, sql: Sql, noting: Noting, new_id: Callable[[], str]) -> None:
        self._noting = noting
        self._new_id = new_id
        by_ids = sql.among(questions.c.question_id, "ids")
        self._states = sql.locked(
            select(*STATE_COLUMNS).where(by_ids).order_by(questions.c.question_id)
        )
        self._votes = (
            select(*VOTE_COLUMNS)
            .where(sql.among(votes.c.question_id, "ids"))
            .order_by(votes.c.question_id, votes.c.number)
        )
        self._keys = select(*answer_keys.c).where(sql.among(answer_keys.c.question_id, "ids"))
        self._set = sql.many(
            update(questions)
            .where(
                questions.c.question_id == bindparam("of_question"),
                is_open,
                questions.c.voted == bindparam("expected"),
            )
            .values(
                status=bindparam("to_status"),
                voted=bindparam("to_voted"),
                answer=bindparam("to_answer"),
                ended_ms=bindparam("to_ended_ms"),
                ended_by=bindparam("to_ended_by"),
                decision=bindparam("to_decision"),
            )
        )
        self._vote = sql.insert_all(votes, *votes.c.keys())
        self._reply = sql.insert_all(answer_keys, *answer_keys.c.keys())
        self._set_by = select(questions.c.question_id).where(
            by_ids, questions.c.decision == bindparam("by")
        )
        self._unremind = (
            update(questions)
            .where(by_ids, questions.c.remind_ms.is_not(None))
            .values(remind_ms=null())
        )
        self._close = sql.many(
            update(shown)
            .where(
                shown.c.client_id == bindparam("of_client"),
                shown.c.question_id == bindparam("of_question"),
            )
            .values(
                open=false(),
                pending=literal_column("'resolved'"),
                pending_ms=bindparam("due_ms"),
            )
        )

    def apply(
        self, connection: Connection, deeds: Sequence[Deed], now_ms: int, *, forward: bool
    ) -> tuple[list[Outcome], list[Ending]]:
        """What each came to, and the questions that ended."""
        cases: dict[str, _Case] = {}
        for index, deed in enumerate(deeds):
            question = deed.question
            case = cases.setdefault(question.question_id, _Case(question))
            case.deeds.append((index, deed))
        outcomes: list[Outcome] = [_UNKNOWN] * len(deeds)
        settled = self._settle(connection, cases, now_ms)
        for case in settled:
            for index, _, outcome in case.outcomes:
                outcomes[index] = outcome
        ended = [case for case in settled if case.before.is_open and not case.after.is_open]
        self._keep(connection, settled, now_ms)
        endings = [Ending(case.question, case.after) for case in ended]
        self._end(connection, endings, now_ms, forward=forward)
        return outcomes, endings

    def _settle(self, connection: Connection, cases: dict[str, _Case], now_ms: int) -> list[_Case]:
        """Judge and write, again where someone else was faster. Unknown questions are left out."""
        settled: list[_Case] = []
        open_ids = set(cases)
        for _ in range(_ROUNDS):
            found = self._load(connection, [cases[each] for each in sorted(open_ids)])
            replies = self._replies(connection, found)
            for case in found:
                case.judge(replies, now_ms)
            lost = self._compare_and_set(connection, found)
            settled += [case for case in found if case.question.question_id not in lost]
            if not lost:
                return settled
            open_ids = lost
        raise RuntimeError("a question never came to rest")

    def _load(self, connection: Connection, cases: list[_Case]) -> list[_Case]:
        """Where they stand; those that exist."""
        ids = [case.question.question_id for case in cases]
        states = {
            row.question_id: state_of(row) for row in connection.execute(self._states, {"ids": ids})
        }
        voting = [case.question.question_id for case in cases if case.has_votes]
        by_question = defaultdict(list)
        if voting:
            for row in connection.execute(self._votes, {"ids": voting}):
                by_question[row.question_id].append(row)
        found = []
        for case in cases:
            question_id = case.question.question_id
            state = states.get(question_id)
            if state is not None:
                if case.has_votes:
                    state = replace(state, votes=votes_of(by_question[question_id]))
                case.before = state
                found.append(case)
        return found

    def _replies(self, connection: Connection, cases: Iterable[_Case]) -> dict[_Key, StoredReply]:
        """The keys that were used on these questions before."""
        ids = [
            case.question.question_id
            for case in cases
            if any(_key(deed) is not None for _, deed in case.deeds)
        ]
        if not ids:
            return {}
        return {
            (row.question_id, row.caller, row.key): StoredReply(bytes(row.digest), bytes(row.body))
            for row in connection.execute(self._keys, {"ids": ids})
        }

    def _compare_and_set(self, connection: Connection, cases: list[_Case]) -> set[str]:
        """Write the states that changed; the ids of those where someone else came first."""
        changed = [case for case in cases if case.after is not case.before]
        if not changed:
            return set()
        token = self._new_id()
        ids = [case.question.question_id for case in changed]
        done = self._set.run(connection, [_state_row(case, token) for case in changed])
        if done.rowcount == len(changed):
            return set()
        # Some were lost, or the driver does not count.
        won = connection.scalars(self._set_by, {"ids": ids, "by": token})
        return set(ids).difference(won)

    def _keep(self, connection: Connection, cases: Iterable[_Case], now_ms: int) -> None:
        """Votes, keys, and the tries that were refused."""
        vote_rows: list[dict[str, Any]] = []
        key_rows: list[dict[str, Any]] = []
        notes: list[Note] = []
        for case in cases:
            question_id = case.question.question_id
            number = len(case.before.votes)
            for _, deed, outcome in case.outcomes:
                if outcome.vote is not None:
                    vote_rows.append(vote_row(question_id, outcome.vote, number))
                    number += 1
                if not isinstance(deed, Attempt):
                    continue
                if outcome.refused is not None:
                    code = outcome.refused.code
                    notes.append(Note(question_id, now_ms, "refused", deed.who, code))
                elif deed.key is not None and outcome.keep_key:
                    key_rows.append(
                        {
                            "question_id": question_id,
                            "caller": deed.voter,
                            "key": deed.key,
                            "digest": deed.digest,
                            "body": outcome.body,
                        }
                    )
        if vote_rows:
            self._vote.run(connection, vote_rows)
        if key_rows:
            self._reply.run(connection, key_rows)
        self._noting.note(connection, notes)

    def _end(
        self, connection: Connection, endings: Sequence[Ending], now_ms: int, *, forward: bool
    ) -> None:
        """What follows from an end: everyone is to be told, also if this gateway dies now."""
        if not endings:
            return
        places = [
            {
                "of_client": client_id,
                "of_question": ending.question.question_id,
                "due_ms": now_ms + GRACE_MS,
            }
            for ending in endings
            for client_id in ending.question.client_ids
        ]
        places.sort(key=lambda place: (place["of_client"], place["of_question"]))
        self._close.run(connection, places)
        reminding = [each.question.question_id for each in endings if each.question.reminders]
        if reminding:
            connection.execute(self._unremind, {"ids": reminding})
        rows = [
            row for ending in endings for row in _deliveries(ending, forward, now_ms, self._new_id)
        ]
        if rows:
            connection.execute(insert(outbox), rows)


_UNKNOWN: Final = Outcome(State(), refused=unknown())


def _state_row(case: _Case, token: str) -> dict[str, Any]:
    after = case.after
    return {
        "of_question": case.question.question_id,
        "expected": case.before.voted,
        "to_status": after.status,
        "to_voted": after.voted,
        "to_answer": None if after.answer is None else after.answer.decode(),
        "to_ended_ms": after.ended_ms,
        "to_ended_by": after.ended_by,
        "to_decision": token,
    }


def _deliveries(
    ending: Ending, forward: bool, now_ms: int, new_id: Callable[[], str]
) -> list[dict[str, Any]]:
    """Rows of `outbox`: whom a decision is sent to."""
    targets = []
    if ending.question.callback_url is not None:
        targets.append(("callback", ending.question.callback_url))
    if forward and ending.state.status == ANSWERED:
        targets.append(("forward", ""))
    if ending.question.job is not None:
        targets.append(("job", ending.question.job))
    payload = delivered(ending) if targets else b""
    return [
        {
            "id": new_id(),
            "question_id": ending.question.question_id,
            "kind": kind,
            "target": target,
            "payload": payload,
            "attempts": 0,
            "created_ms": now_ms,
            "next_ms": now_ms,
            "leased_until_ms": 0,
        }
        for kind, target in targets
    ]
