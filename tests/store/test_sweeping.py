"""What time brings, by one of many gateways: events, expiries, reminders, forgetting."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.store import Database
from sse.answer import Withdrawal
from sse.question_store import Mark, Note
from tests.asking import NOW_MS, Asker, Clock, Place, Told, attempt
from tests.store.keeping import ALICE, keep


async def test_what_was_not_published_is_handed_out_once_until_its_time(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.store(clock) as one, place.store(clock) as two:
        asked, done, ended = await keep(one, asker.new(), asker.new(), asker.new())
        await one.mark([Mark(done.question_id, "alice", "e-1", "question")])
        await one.decide(attempt(ended, ALICE))
        assert await two.publications_due(clock.ms + 4999, clock.ms, 10) == []
        later_ms = clock.ms + 5000
        both = await asyncio.gather(
            *(each.publications_due(later_ms, later_ms + 10_000, 10) for each in (one, two))
        )
        due = [each for mine in both for each in mine]
        assert {(each.question.question_id, each.kind, each.client_id) for each in due} == {
            (asked.question_id, "question", "alice"),
            (ended.question_id, "resolved", "alice"),
        }
        assert len(due) == 2
        assert await two.publications_due(later_ms + 9999, later_ms, 10) == []
        await one.mark([Mark(asked.question_id, "alice", "e-2", "question")])
        again = await two.publications_due(later_ms + 10_000, later_ms + 20_000, 10)
        assert [each.question.question_id for each in again] == [ended.question_id]
        assert again[0].state.status == "answered"


async def test_a_late_note_of_the_question_does_not_hide_its_end(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.store(clock) as store:
        [asked] = await keep(store, asker.new())
        await store.decide(attempt(asked, ALICE))
        await store.mark([Mark(asked.question_id, "alice", "e-1", "question")])
        [due] = await store.publications_due(clock.ms + 5000, clock.ms + 6000, 10)
        assert due.kind == "resolved"
        await store.mark([Mark(asked.question_id, "alice", "e-2", "resolved")])
        assert await store.publications_due(clock.ms + 6000, clock.ms + 7000, 10) == []


async def test_expiries_are_decided_when_due_and_by_one_of_many(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.store(clock) as one, place.store(clock) as two:
        told = Told()
        one.attend(told)
        two.attend(told)
        news = [asker.new(expires_in=1 + n) for n in range(3)]
        await keep(one, *news, asker.new(expires_in=1, default="x"))
        assert (await one.pressing(clock.ms)).next_ms == clock.ms + 1000
        assert await one.end_due(clock.ms + 999, 10) == 0
        assert (await one.pressing(clock.ms + 2000)).expiries
        counts = await asyncio.gather(*(each.end_due(clock.ms + 2000, 10) for each in (one, two)))
        assert sum(counts) == 3
        statuses = [each.state.status for each in told.endings]
        assert sorted(statuses) == ["answered", "expired", "expired"]
        pressing = await one.pressing(clock.ms + 2000)
        assert (pressing.expiries, pressing.next_ms) == (False, clock.ms + 3000)


async def test_reminders_are_given_out_once_each_and_missed_ones_together(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.store(clock) as one, place.store(clock) as two:
        await keep(one, asker.new(expires_in=100, reminders=[90, 80, 10], client_ids=["a", "b"]))
        start = clock.ms
        assert await one.remind_due(start + 9_999, 10) == []
        both = await asyncio.gather(*(each.remind_due(start + 20_000, 10) for each in (one, two)))
        due = [each for mine in both for each in mine]
        assert sorted((each.client_id, each.kind) for each in due) == [
            ("a", "reminder"),
            ("b", "reminder"),
        ]
        assert (await one.pressing(start + 20_000)).next_ms == start + 90_000
        assert len(await two.remind_due(start + 90_000, 10)) == 2
        assert await two.remind_due(start + 99_000, 10) == []
        details = await one.details("q-1")
        assert details is not None
        assert [each.what for each in details.noted] == ["reminded", "reminded"]


async def test_what_is_decided_reminds_nobody(place: Place, clock: Clock, asker: Asker) -> None:
    async with place.store(clock) as store:
        [asked] = await keep(store, asker.new(expires_in=100, reminders=[50]))
        await store.decide(attempt(asked, ALICE))
        assert await store.remind_due(clock.ms + 60_000, 10) == []
        assert (await store.pressing(clock.ms + 60_000)).reminders is False


async def test_which_are_not_open_any_more(place: Place, clock: Clock, asker: Asker) -> None:
    async with place.store(clock) as store:
        asked, done = await keep(store, asker.new(), asker.new())
        await store.decide(attempt(done, ALICE))
        ids = [asked.question_id, done.question_id, "unknown"]
        assert await store.ended_among(ids) == ids[1:]
        assert await store.ended_among([f"u{n}" for n in range(2500)]) != []


async def test_thirty_days_after_its_end_a_question_is_forgotten_with_all_that_belongs_to_it(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.database() as database, place.store(clock, forward=True) as store:
        url = "https://example.test/"
        old, still, later = await keep(
            store,
            asker.new(callback_url=url, approvers=["alice"], policy={"at_least": 1}),
            asker.new(),
            asker.new(),
        )
        await store.decide(attempt(old, ALICE, key="k"))
        await store.note([Note(old.question_id, NOW_MS, "seen", "bob")])
        clock.now += 10
        await store.decide(attempt(later, ALICE))
        end_ms = clock.ms - 10_000
        assert await store.purge(end_ms, 10) == 0
        assert await store.purge(end_ms + 1, 10) == 1
        assert set(await store.find([old.question_id, still.question_id, later.question_id])) == {
            still.question_id,
            later.question_id,
        }
        left = await rows(database)
        assert left == {
            "questions": 2,
            "question_clients": 2,
            "question_approvers": 0,
            "question_votes": 0,
            "answer_keys": 0,
            "question_audit": 0,
            "outbox": 1,
        }


async def rows(database: Database) -> dict[str, int]:
    """How many rows each table of questions has."""
    from sqlalchemy import func, select

    from gateway.store.tables import metadata

    mine = ("question", "answer", "outbox")

    def count(connection: Any) -> dict[str, int]:
        return {
            name: connection.scalar(select(func.count()).select_from(table))
            for name, table in metadata.tables.items()
            if name.startswith(mine)
        }

    return await database.read(count)


async def test_what_is_taken_back_leaves_nothing_but_what_was_answered_stays(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.database() as database, place.store(clock) as store:
        news = [asker.new(question_id=name, approvers=["alice"]) for name in ("a", "b")]
        await store.ask(news, together=True)
        await store.decide(attempt(news[1].question, ALICE))
        assert await store.forget(["a", "b", "c"]) == ["a"]
        assert set(await store.find(["a", "b"])) == {"b"}
        left = await rows(database)
        assert (left["questions"], left["question_clients"], left["question_approvers"]) == (
            1,
            1,
            1,
        )
        assert (await store.ask([asker.new(question_id="a")], together=False)).found is None


async def test_purging_takes_bounded_pieces(place: Place, clock: Clock, asker: Asker) -> None:
    async with place.store(clock) as store:
        for asked in await keep(store, *(asker.new() for _ in range(5))):
            await store.decide(Withdrawal(asked, "svc"))
        later_ms = clock.ms + 1
        assert [await store.purge(later_ms, 2) for _ in range(4)] == [2, 2, 1, 0]
