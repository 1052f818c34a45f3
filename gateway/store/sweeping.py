"""What time brings: expiries, reminders, and events that nobody published.

Each is one bounded piece of work, over a partial index that holds only what is open. Rows that
another gateway is at are left to it (`SKIP LOCKED`).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Connection, Integer, bindparam, null, select, update

from gateway.store.asking import GRACE_MS
from gateway.store.deciding import DecidingRows
from gateway.store.noting import Noting
from gateway.store.rows import QUESTION_COLUMNS, kept, question_of, state_of
from gateway.store.sql import Sql
from gateway.store.tables import (
    is_running,
    questions,
    shown,
)
from sse.answer import Ending, Expiry
from sse.question_store import Kind, Note, Publication


class Sweeping:
    """The statements."""

    def __init__(self, sql: Sql, noting: Noting, deciding: DecidingRows) -> None:
        self._noting = noting
        self._deciding = deciding
        now = bindparam("now_ms", type_=BigInteger)
        most = bindparam("most", type_=Integer)
        self._expired = (
            select(*QUESTION_COLUMNS)
            .where(is_running, questions.c.expires_ms <= now)
            .order_by(questions.c.expires_ms)
            .limit(most)
        )
        self._reminded = sql.locked(
            select(*QUESTION_COLUMNS)
            .where(questions.c.remind_ms <= now)
            .order_by(questions.c.remind_ms)
            .limit(most),
            skip=True,
        )
        self._next_reminder = (
            update(questions)
            .where(questions.c.question_id == bindparam("of_question"))
            .values(remind_ms=bindparam("next_ms", type_=BigInteger))
        )
        self._remind = (
            update(shown)
            .where(
                shown.c.client_id == bindparam("of_client"),
                shown.c.question_id == bindparam("of_question"),
                shown.c.pending_ms.is_(None),
            )
            .values(pending="reminder", pending_ms=bindparam("due_ms", type_=BigInteger))
        )
        self._unpublished = sql.locked(
            select(shown.c.client_id, shown.c.question_id, shown.c.pending)
            .where(shown.c.pending_ms <= now)
            .order_by(shown.c.pending_ms)
            .limit(most),
            skip=True,
        )
        self._lease = (
            update(shown)
            .where(
                shown.c.client_id == bindparam("of_client"),
                shown.c.question_id == bindparam("of_question"),
            )
            .values(pending_ms=bindparam("until_ms", type_=BigInteger))
        )
        self._drop = (
            update(shown)
            .where(
                shown.c.client_id == bindparam("of_client"),
                shown.c.question_id == bindparam("of_question"),
            )
            .values(pending=null(), pending_ms=null())
        )
        self._whole = select(*QUESTION_COLUMNS).where(sql.among(questions.c.question_id, "ids"))

    def end_due(
        self, connection: Connection, now_ms: int, most: int, *, forward: bool
    ) -> list[Ending]:
        """End what has expired."""
        rows = connection.execute(self._expired, {"now_ms": now_ms, "most": most})
        deeds = [Expiry(question_of(row)) for row in rows]
        return self._deciding.apply(connection, deeds, now_ms, forward=forward)[1] if deeds else []

    def remind_due(self, connection: Connection, now_ms: int, most: int) -> list[Publication]:
        """Reminders whose time has come; of several missed ones, one."""
        rows = connection.execute(self._reminded, {"now_ms": now_ms, "most": most})
        due = [kept(row) for row in rows]
        if not due:
            return []
        connection.execute(
            self._next_reminder,
            [
                {
                    "of_question": each.question.question_id,
                    "next_ms": each.question.next_reminder_ms(now_ms),
                }
                for each in due
            ],
        )
        publications = [
            Publication(each.question, each.state, client_id, "reminder")
            for each in due
            for client_id in each.question.client_ids
        ]
        places = [_place(each) | {"due_ms": now_ms + GRACE_MS} for each in publications]
        places.sort(key=lambda place: (place["of_client"], place["of_question"]))
        connection.execute(self._remind, places)
        notes = [Note(each.question.question_id, now_ms, "reminded", "gateway") for each in due]
        self._noting.note(connection, notes)
        return publications

    def publications_due(
        self, connection: Connection, now_ms: int, until_ms: int, most: int
    ) -> list[Publication]:
        """Take over what nobody has published."""
        rows = connection.execute(self._unpublished, {"now_ms": now_ms, "most": most}).all()
        if not rows:
            return []
        ids = sorted({row.question_id for row in rows})
        found = {
            row.question_id: (question_of(row), state_of(row))
            for row in connection.execute(self._whole, {"ids": ids})
        }
        publications, leases, drops = [], [], []
        for row in rows:
            place = {"of_client": row.client_id, "of_question": row.question_id}
            question, state = found.get(row.question_id, (None, None))
            kind: Kind | None = row.pending
            if question is None or state is None or (kind != "resolved" and not state.is_open):
                drops.append(place)
            elif kind is not None:
                publications.append(Publication(question, state, row.client_id, kind))
                leases.append(place | {"until_ms": until_ms})
        if leases:
            connection.execute(self._lease, leases)
        if drops:
            connection.execute(self._drop, drops)
        return publications


def _place(publication: Publication) -> dict[str, Any]:
    return {
        "of_client": publication.client_id,
        "of_question": publication.question.question_id,
    }
