"""Between rows and questions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import ColumnElement

from gateway.store.sql import AnyRow
from gateway.store.tables import questions, votes
from sse.answer import State, Vote
from sse.question import Question, from_document
from sse.question_body import NewQuestion
from sse.question_store import Kept

STATE_COLUMNS: Final[tuple[ColumnElement[Any], ...]] = (
    questions.c.question_id,
    questions.c.status,
    questions.c.voted,
    questions.c.answer,
    questions.c.ended_ms,
    questions.c.ended_by,
)
QUESTION_COLUMNS: Final[tuple[ColumnElement[Any], ...]] = (
    *STATE_COLUMNS,
    questions.c.document,
    questions.c.asked_by,
    questions.c.ordinal,
)


def state_of(row: AnyRow) -> State:
    """Of STATE_COLUMNS."""
    answer = None if row.answer is None else row.answer.encode()
    return State(row.status, row.voted, answer, row.ended_ms, row.ended_by)


def question_of(row: AnyRow) -> Question:
    """Of QUESTION_COLUMNS."""
    return from_document(row.document.encode(), row.asked_by, row.ordinal)


def kept(row: AnyRow) -> Kept:
    """Of QUESTION_COLUMNS."""
    return Kept(question_of(row), state_of(row))


# What a new question's row has values for; the rest is null.
QUESTION_NAMES: Final = (
    "question_id",
    "ordinal",
    "asked_by",
    "restricted",
    "forbid_self",
    "digest",
    "document",
    "expires_ms",
    "remind_ms",
    "status",
    "voted",
)


def question_row(new: NewQuestion) -> dict[str, Any]:
    """A row of `questions`."""
    question = new.question
    return {
        "question_id": question.question_id,
        "ordinal": question.ordinal,
        "asked_by": question.asked_by,
        "restricted": bool(question.approvers),
        "forbid_self": question.forbid_self,
        "digest": new.digest,
        "document": question.document.decode(),
        "expires_ms": question.expires_ms,
        "remind_ms": question.next_reminder_ms(question.asked_ms),
        "status": "open",
        "voted": 0,
    }


def vote_row(question_id: str, vote: Vote, number: int) -> dict[str, Any]:
    """A row of `question_votes`."""
    return {
        "question_id": question_id,
        "voter": vote.voter,
        "who": vote.who,
        "seat": vote.seat,
        "at_ms": vote.at_ms,
        "number": number,
        "response": vote.response.decode(),
        "comment": vote.comment,
    }


def votes_of(rows: Iterable[AnyRow]) -> tuple[Vote, ...]:
    """Of rows of `question_votes` in their order."""
    return tuple(
        Vote(row.voter, row.who, row.seat, row.at_ms, row.response.encode(), row.comment)
        for row in rows
    )


VOTE_COLUMNS: Final[tuple[ColumnElement[Any], ...]] = tuple(votes.c)
