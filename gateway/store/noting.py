"""Writing what nothing else tells: the audit trail's notes, and which events were published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import (
    BigInteger,
    Connection,
    Text,
    bindparam,
    case,
    func,
    null,
    select,
    update,
)

from gateway.store.sql import Sql
from gateway.store.tables import audit, shown
from sse.question_store import Mark, Note

# An inbox that a whole department looks at is fuller than a trail that anyone reads.
MAX_NOTES: Final = 200
_COLUMNS: Final = ("question_id", "at_ms", "what", "who", "detail")


class Noting:
    """The statements."""

    def __init__(self, sql: Sql) -> None:
        counted = audit.alias()
        of = bindparam("question_id", type_=Text)
        count = select(func.count()).where(counted.c.question_id == of).scalar_subquery()
        row = select(
            of,
            bindparam("at_ms", type_=BigInteger),
            bindparam("what", type_=Text),
            bindparam("who", type_=Text),
            bindparam("detail", type_=Text),
        ).where(count < MAX_NOTES)
        self._note = sql.insert_new(audit, list(_COLUMNS), row)
        done = shown.c.pending == bindparam("of_kind", type_=Text)
        self._mark = sql.many(
            update(shown)
            .where(
                shown.c.client_id == bindparam("of_client"),
                shown.c.question_id == bindparam("of_question"),
            )
            .values(
                position=func.coalesce(bindparam("at", type_=Text), shown.c.position),
                pending=case((done, null()), else_=shown.c.pending),
                pending_ms=case((done, null()), else_=shown.c.pending_ms),
            )
        )

    # Rows in one order everywhere, so that two gateways never wait for each other in a circle.

    def note(self, connection: Connection, notes: Sequence[Note]) -> None:
        """Those that are there already, and those of a full trail, are left out."""
        if notes:
            rows = [
                {
                    "question_id": note.question_id,
                    "at_ms": note.at_ms,
                    "what": note.what,
                    "who": note.who,
                    "detail": note.detail,
                }
                for note in sorted(notes, key=_order)
            ]
            connection.execute(self._note, rows)

    def mark(self, connection: Connection, marks: Sequence[Mark]) -> None:
        """What has been published need not be again. A question's own event has its place noted."""
        if marks:
            ordered = sorted(marks, key=lambda mark: (mark.client_id, mark.question_id))
            rows = [
                {
                    "of_client": mark.client_id,
                    "of_question": mark.question_id,
                    "of_kind": mark.kind,
                    "at": mark.position if mark.kind == "question" else None,
                }
                for mark in ordered
            ]
            self._mark.run(connection, rows)


def _order(note: Note) -> tuple[str, str, str]:
    return note.question_id, note.what, note.who
