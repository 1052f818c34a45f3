"""Looking: one question with its story, pages of many, what is open for a client id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Text,
    and_,
    bindparam,
    exists,
    false,
    func,
    literal,
    or_,
    select,
    tuple_,
    union,
)

from gateway.store.rows import QUESTION_COLUMNS, VOTE_COLUMNS, kept, question_of, state_of, votes_of
from gateway.store.sql import MAX_IDS, AnySelect, Sql
from gateway.store.tables import (
    approvers,
    audit,
    is_open,
    is_running,
    is_shown,
    questions,
    shown,
    votes,
)
from sse.answer import Audited, Details, State
from sse.question_store import Kept, Pressing, Reach, Shown, Wanted


class Reading:
    """The queries."""

    def __init__(self, sql: Sql) -> None:
        of = bindparam("of_question", type_=Text)
        self._found = select(*QUESTION_COLUMNS).where(sql.among(questions.c.question_id, "ids"))
        self._votes = (
            select(*VOTE_COLUMNS).where(votes.c.question_id == of).order_by(votes.c.number)
        )
        self._audit = (
            select(audit.c.at_ms, audit.c.what, audit.c.who, audit.c.detail)
            .where(audit.c.question_id == of)
            .order_by(audit.c.id)
        )
        number = func.row_number().over(partition_by=shown.c.client_id, order_by=shown.c.ordinal)
        mine = (
            select(
                shown.c.client_id,
                shown.c.question_id,
                shown.c.position,
                shown.c.ordinal,
                number.label("number"),
            )
            .where(is_shown, sql.among(shown.c.client_id, "ids"))
            .subquery()
        )
        self._open = (
            select(mine.c.client_id, mine.c.question_id, mine.c.position, questions.c.document)
            .join(questions, questions.c.question_id == mine.c.question_id)
            .where(mine.c.number <= bindparam("most", type_=Integer))
            .order_by(mine.c.client_id, mine.c.ordinal)
        )
        self._still_open = select(questions.c.question_id).where(
            is_open, sql.among(questions.c.question_id, "ids")
        )
        self._count = select(func.count()).select_from(questions).where(is_open)
        now = bindparam("now_ms", type_=BigInteger)
        expiring = select(func.min(questions.c.expires_ms)).where(is_running)
        reminding = select(func.min(questions.c.remind_ms)).where(
            questions.c.remind_ms.is_not(None)
        )
        self._pressing = select(
            expiring.scalar_subquery(),
            reminding.scalar_subquery(),
            exists().where(shown.c.pending_ms <= now),
        )

    def find(self, connection: Connection, question_ids: Sequence[str]) -> dict[str, Kept]:
        """Those that exist."""
        found: dict[str, Kept] = {}
        for start in range(0, len(question_ids), MAX_IDS):
            ids = list(question_ids[start : start + MAX_IDS])
            for row in connection.execute(self._found, {"ids": ids}):
                found[row.question_id] = kept(row)
        return found

    def details(self, connection: Connection, question_id: str) -> Details | None:
        """One with everything."""
        row = connection.execute(self._found, {"ids": [question_id]}).one_or_none()
        if row is None:
            return None
        question, state = question_of(row), state_of(row)
        of = {"of_question": question_id}
        cast = votes_of(connection.execute(self._votes, of))
        noted = tuple(
            Audited(each.at_ms, each.what, each.who, each.detail)
            for each in connection.execute(self._audit, of)
        )
        state = State(state.status, state.voted, state.answer, state.ended_ms, state.ended_by, cast)
        return Details(question, state, noted)

    def open_for(
        self, connection: Connection, client_ids: Sequence[str], most: int
    ) -> dict[str, list[Shown]]:
        """The open questions of each client id, oldest first."""
        found: dict[str, list[Shown]] = {}
        for row in connection.execute(self._open, {"ids": list(client_ids), "most": most}):
            document = row.document.encode()
            each = Shown(row.question_id, document, row.position)
            found.setdefault(row.client_id, []).append(each)
        return found

    def ended_among(self, connection: Connection, question_ids: Sequence[str]) -> list[str]:
        """Which of them are not open."""
        still: set[str] = set()
        for start in range(0, len(question_ids), MAX_IDS):
            ids = list(question_ids[start : start + MAX_IDS])
            still.update(connection.scalars(self._still_open, {"ids": ids}))
        return [each for each in question_ids if each not in still]

    def count_open(self, connection: Connection) -> int:
        """How many there are."""
        return connection.scalar(self._count) or 0

    def pressing(self, connection: Connection, now_ms: int) -> Pressing:
        """What is due, and when the next is."""
        expires, reminds, publications = connection.execute(
            self._pressing, {"now_ms": now_ms}
        ).one()
        coming = [at for at in (expires, reminds) if at is not None and at > now_ms]
        return Pressing(
            expiries=expires is not None and expires <= now_ms,
            reminders=reminds is not None and reminds <= now_ms,
            publications=bool(publications),
            next_ms=min(coming, default=None),
        )

    def page(self, connection: Connection, wanted: Wanted) -> list[Kept]:
        """Newest first."""
        query = select(*QUESTION_COLUMNS).where(questions.c.status == wanted.status)
        if wanted.client_id is not None:
            query = query.where(questions.c.question_id.in_(_shown_to([wanted.client_id], wanted)))
        if wanted.viewer is not None and not wanted.viewer.everything:
            query = query.where(questions.c.question_id.in_(_visible(wanted.viewer, wanted)))
        if wanted.assignee is not None:
            query = query.where(_answerable(wanted.assignee, wanted))
        if wanted.before is not None:
            place = tuple_(questions.c.ordinal, questions.c.question_id)
            query = query.where(place < tuple_(*map(literal, wanted.before)))
        query = query.order_by(questions.c.ordinal.desc(), questions.c.question_id.desc())
        return [kept(row) for row in connection.execute(query.limit(wanted.limit))]


def _shown_to(client_ids: Sequence[str], wanted: Wanted) -> AnySelect:
    """Ids of questions that are shown to one of these client ids."""
    query = select(shown.c.question_id).where(shown.c.client_id.in_(client_ids))
    # What is open is little; what was asked in 30 days may be much.
    return query.where(is_shown) if wanted.status == _OPEN else query


def _named(reach: Reach) -> list[str]:
    """What entries of `approvers` name someone by."""
    return sorted(reach.scopes if reach.subject is None else {*reach.scopes, reach.subject})


def _reads(reach: Reach) -> list[str]:
    """The client ids that someone reads."""
    return sorted(reach.client_ids if reach.subject is None else {*reach.client_ids, reach.subject})


def _visible(reach: Reach, wanted: Wanted) -> AnySelect:
    """Ids of questions that someone may see: by a client id, as an approver or as the asker.

    A union of what three indexes give, so that the price is what may be seen, not what there is.
    """
    asked = select(questions.c.question_id).where(
        questions.c.asked_by == reach.subject, questions.c.status == wanted.status
    )
    if reach.subject is None:
        asked = asked.where(false())
    named = select(approvers.c.question_id).where(approvers.c.approver.in_(_named(reach)))
    either = union(_shown_to(_reads(reach), wanted), named, asked).subquery()
    return select(either.c.question_id)


def _answerable(reach: Reach, wanted: Wanted) -> ColumnElement[bool]:
    """Whether someone may answer."""
    named = questions.c.question_id.in_(
        select(approvers.c.question_id).where(approvers.c.approver.in_(_named(reach)))
    )
    anyone: ColumnElement[bool] = questions.c.restricted.is_(False)
    if not reach.everything:
        anyone = and_(anyone, questions.c.question_id.in_(_shown_to(_reads(reach), wanted)))
    mine = (
        questions.c.asked_by.is_(None)
        if reach.subject is None
        else questions.c.asked_by.is_not_distinct_from(reach.subject)
    )
    return and_(or_(named, anyone), ~and_(questions.c.forbid_self.is_(True), mine))


_OPEN: Final = "open"
