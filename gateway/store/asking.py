"""Keeping new questions: many callers' in one transaction, each caller's whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, select

from gateway.store.rows import QUESTION_COLUMNS, QUESTION_NAMES, kept, question_row
from gateway.store.sql import Sql
from gateway.store.tables import approvers, questions, shown
from sse.answer import State
from sse.question_body import NewQuestion
from sse.question_store import Asked, Kept

# Who kept a question publishes it at once. After this the gateway counts as dead, and any other
# takes the publication over.
GRACE_MS: Final = 5_000


@dataclass(frozen=True, slots=True)
class Asking:
    """One caller's questions. `together`: none of them may exist."""

    news: tuple[NewQuestion, ...]
    together: bool


class AskingRows:
    """The statements."""

    def __init__(self, sql: Sql) -> None:
        self._insert = sql.insert_all(questions, *QUESTION_NAMES)
        self._show = sql.insert_all(
            shown, "client_id", "question_id", "ordinal", "open", "pending", "pending_ms"
        )
        self._approve = sql.insert_all(approvers, "approver", "question_id")
        self._existing = select(*QUESTION_COLUMNS, questions.c.digest).where(
            sql.among(questions.c.question_id, "ids")
        )

    def ask(
        self, connection: Connection, askings: Sequence[Asking], now_ms: int
    ) -> tuple[list[Asked], list[NewQuestion]]:
        """The answer to each, and what was kept."""
        named = {new.question.question_id for asking in askings for new in asking.news if new.named}
        known: dict[str, tuple[bytes, Kept]] = {}
        if named:
            for row in connection.execute(self._existing, {"ids": sorted(named)}):
                known[row.question_id] = (bytes(row.digest), kept(row))
        answers: list[Asked] = []
        fresh: list[NewQuestion] = []
        for asking in askings:
            answer, mine = _judge(asking, known)
            answers.append(answer)
            fresh += mine
            known |= {
                new.question.question_id: (new.digest, Kept(new.question, State()))
                for new in mine
                if new.named
            }
        if fresh:
            # In one order everywhere, so that two gateways never wait for each other in a circle.
            self._keep(connection, sorted(fresh, key=lambda new: new.question.question_id), now_ms)
        return answers, fresh

    def _keep(self, connection: Connection, news: Sequence[NewQuestion], now_ms: int) -> None:
        self._insert.run(connection, [question_row(new) for new in news])
        places: list[dict[str, Any]] = [
            {
                "client_id": client_id,
                "question_id": new.question.question_id,
                "ordinal": new.question.ordinal,
                "open": True,
                "pending": "question",
                "pending_ms": now_ms + GRACE_MS,
            }
            for new in news
            for client_id in new.question.client_ids
        ]
        self._show.run(connection, places)
        named = [
            {"approver": approver, "question_id": new.question.question_id}
            for new in news
            for approver in new.question.approvers
        ]
        if named:
            self._approve.run(connection, named)


def _judge(
    asking: Asking, known: dict[str, tuple[bytes, Kept]]
) -> tuple[Asked, Sequence[NewQuestion]]:
    """Whether a caller's questions can be kept, as far as ids go; and those that are new."""
    ids = [new.question.question_id for new in asking.news]
    if asking.together:
        taken = tuple(each for each in ids if each in known or ids.count(each) > 1)
        return (Asked(taken=taken), ()) if taken else (Asked(), asking.news)
    [new] = asking.news
    digest, found = known.get(ids[0], (b"", None))
    if found is None:
        return Asked(), asking.news
    return (Asked(found=found) if digest == new.digest else Asked(taken=(ids[0],))), ()
