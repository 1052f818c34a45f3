"""Forgetting questions, with all that belongs to them: long after their end, or never asked."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import BigInteger, Connection, Integer, bindparam, delete, select

from gateway.store.rows import QUESTION_COLUMNS, question_of
from gateway.store.sql import Sql
from gateway.store.tables import (
    answer_keys,
    approvers,
    audit,
    is_running,
    outbox,
    questions,
    shown,
    votes,
)
from sse.question import Question

_BY_QUESTION = (votes, answer_keys, audit, outbox, questions)


class Forgetting:
    """The statements."""

    def __init__(self, sql: Sql) -> None:
        now = bindparam("now_ms", type_=BigInteger)
        most = bindparam("most", type_=Integer)
        self._old = sql.locked(
            select(*QUESTION_COLUMNS)
            .where(questions.c.ended_ms < now)
            .order_by(questions.c.ended_ms)
            .limit(most),
            skip=True,
        )
        self._unasked = sql.locked(
            select(*QUESTION_COLUMNS).where(
                sql.among(questions.c.question_id, "ids"), is_running, questions.c.voted == 0
            )
        )
        self._forget = [
            delete(table).where(sql.among(table.c.question_id, "ids")) for table in _BY_QUESTION
        ]
        self._forget_place = delete(shown).where(
            shown.c.client_id == bindparam("of_client"),
            shown.c.question_id == bindparam("of_question"),
        )
        self._forget_approver = delete(approvers).where(
            approvers.c.approver == bindparam("of_approver"),
            approvers.c.question_id == bindparam("of_question"),
        )

    def purge(self, connection: Connection, before_ms: int, most: int) -> int:
        """Forget what ended before a time."""
        rows = connection.execute(self._old, {"now_ms": before_ms, "most": most})
        return len(self._remove(connection, [question_of(row) for row in rows]))

    def forget(self, connection: Connection, question_ids: Sequence[str]) -> list[str]:
        """Take back questions that nobody has answered."""
        rows = connection.execute(self._unasked, {"ids": list(question_ids)})
        return self._remove(connection, [question_of(row) for row in rows])

    def _remove(self, connection: Connection, old: Sequence[Question]) -> list[str]:
        """Delete questions with all that belongs to them; their ids."""
        if not old:
            return []
        connection.execute(
            self._forget_place,
            [
                {"of_client": client_id, "of_question": question.question_id}
                for question in old
                for client_id in question.client_ids
            ],
        )
        named = [
            {"of_approver": approver, "of_question": question.question_id}
            for question in old
            for approver in question.approvers
        ]
        if named:
            connection.execute(self._forget_approver, named)
        ids = [question.question_id for question in old]
        for statement in self._forget:
            connection.execute(statement, {"ids": ids})
        return ids
