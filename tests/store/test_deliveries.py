"""Deliveries: leased to one sender at a time, kept until done, told in the audit trail."""

from __future__ import annotations

import asyncio

import pytest

from gateway.store import Deliveries, Delivery, Outbox, StoredQuestions
from gateway.store.deliveries import LEASE_SECONDS
from tests.asking import Asker, Clock, Place, attempt, someone

URL = "https://example.test/hook"


async def decided(store: StoredQuestions, asker: Asker, count: int) -> list[str]:
    """Questions with a callback, answered; their ids."""
    news = [asker.new(callback_url=URL) for _ in range(count)]
    await store.ask(news, together=True)
    for new in news:
        await store.decide(attempt(new.question, someone("alice")))
    return [new.question.question_id for new in news]


async def trail(store: StoredQuestions, question_id: str) -> list[tuple[str, str | None]]:
    details = await store.details(question_id)
    assert details is not None
    return [(each.what, each.detail) for each in details.noted]


def ids(found: list[Delivery]) -> list[str]:
    return [each.question_id for each in found]


async def test_a_delivery_is_given_to_one_of_many_senders(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.database() as one, place.database() as two, place.store(clock) as store:
        wanted = await decided(store, asker, 20)
        senders: list[Outbox] = [Deliveries(one, clock), Deliveries(two, clock)]
        found = await asyncio.gather(
            *(senders[n % 2].due_deliveries(clock.now, 3) for n in range(10))
        )
        given = [each.question_id for mine in found for each in mine]
        assert len(given) == len(set(given))
        while rest := await senders[0].due_deliveries(clock.now, 3):
            given += ids(rest)
        assert sorted(given) == sorted(wanted)


async def test_a_lease_that_is_over_gives_it_to_the_next(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.database() as database, place.store(clock) as store:
        deliveries = Deliveries(database, clock)
        await decided(store, asker, 1)
        [first] = await deliveries.due_deliveries(clock.now, 10, lease_seconds=30)
        assert await deliveries.due_deliveries(clock.now + 29.9, 10) == []
        [again] = await deliveries.due_deliveries(clock.now + 30, 10)
        assert again == first


@pytest.mark.parametrize("again_in", [1.0, None])
async def test_what_another_has_leased_since_is_not_taken_from_it_by_a_late_failure(
    place: Place, clock: Clock, asker: Asker, again_in: float | None
) -> None:
    async with place.database() as database, place.store(clock) as store:
        deliveries = Deliveries(database, clock)
        [question_id] = await decided(store, asker, 1)
        [late] = await deliveries.due_deliveries(clock.now, 1)
        leased_at = clock.now
        clock.now += LEASE_SECONDS
        [held] = await deliveries.due_deliveries(clock.now, 1)
        again_at = None if again_in is None else clock.now + again_in
        await deliveries.delivery_failed(late.id, again_at, "timed out", leased_at)
        assert await deliveries.due_deliveries(clock.now + LEASE_SECONDS - 0.1, 1) == []
        # Whose it is has its say, also when its own renewal is faster than that.
        assert await deliveries.renew_deliveries({held.id: clock.now}, clock.now + 9) == {held.id}
        await deliveries.delivery_failed(held.id, clock.now + 10, "503", clock.now)
        clock.now += 10
        [third] = await deliveries.due_deliveries(clock.now, 1)
        assert (third.question_id, third.attempts) == (question_id, 1)


async def test_a_lease_that_is_renewed_in_time_goes_on(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.database() as database, place.store(clock) as store:
        deliveries = Deliveries(database, clock)
        await decided(store, asker, 3)
        held = {each.id: clock.now for each in await deliveries.due_deliveries(clock.now, 2)}
        clock.now += 1
        held |= {each.id: clock.now for each in await deliveries.due_deliveries(clock.now, 1)}
        for _ in range(3):
            clock.now += LEASE_SECONDS - 1
            assert await deliveries.renew_deliveries(held, clock.now) == held.keys()
            held = dict.fromkeys(held, clock.now)
        assert await deliveries.due_deliveries(clock.now + LEASE_SECONDS - 0.1, 10) == []
        clock.now += LEASE_SECONDS
        assert len(await deliveries.due_deliveries(clock.now, 10)) == 3


async def test_a_lease_that_somebody_has_taken_since_is_theirs(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.database() as one, place.database() as two, place.store(clock) as store:
        first, second = Deliveries(one, clock), Deliveries(two, clock)
        await decided(store, asker, 3)
        leased = await first.due_deliveries(clock.now, 3)
        taken, done, free = (each.id for each in leased)
        held = dict.fromkeys((taken, done, free), clock.now)
        await first.delivery_done(done, clock.now)
        clock.now += LEASE_SECONDS
        assert [each.id for each in await second.due_deliveries(clock.now, 1)] == [taken]
        clock.now += 1
        # Nobody has the third: it may be kept, late as it is.
        assert await first.renew_deliveries(held, clock.now) == {free}
        assert await second.renew_deliveries({taken: clock.now - 1}, clock.now) == {taken}
        assert await second.due_deliveries(clock.now + LEASE_SECONDS - 0.1, 10) == []
        assert await first.renew_deliveries({}, clock.now) == set()


async def test_what_arrived_is_done_and_told_once(place: Place, clock: Clock, asker: Asker) -> None:
    async with place.database() as database, place.store(clock, forward=True) as store:
        deliveries = Deliveries(database, clock)
        [question_id] = await decided(store, asker, 1)
        for each in await deliveries.due_deliveries(clock.now, 10):
            for _ in range(2):
                await deliveries.delivery_done(each.id, clock.now + 1, f"{each.kind} 200")
        assert sorted(await trail(store, question_id)) == [
            ("called_back", "callback 200"),
            ("forwarded", "forward 200"),
        ]
        assert await deliveries.due_deliveries(clock.now + 10**6, 10) == []


async def test_what_failed_is_due_again_when_said(place: Place, clock: Clock, asker: Asker) -> None:
    async with place.database() as database, place.store(clock) as store:
        deliveries = Deliveries(database, clock)
        [question_id] = await decided(store, asker, 1)
        [first] = await deliveries.due_deliveries(clock.now, 10)
        await deliveries.delivery_failed(first.id, clock.now + 5, "503 " + "x" * 5000)
        assert await deliveries.due_deliveries(clock.now + 4.9, 10) == []
        [second] = await deliveries.due_deliveries(clock.now + 5, 10)
        assert (second.id, second.attempts, second.payload) == (first.id, 1, first.payload)
        assert await trail(store, question_id) == []
        await deliveries.delivery_failed(second.id, None, "410")
        assert await deliveries.due_deliveries(clock.now + 10**6, 10) == []
        assert await trail(store, question_id) == [("called_back", "given up: 410")]
        await deliveries.delivery_failed(second.id, clock.now, "late")
        assert await deliveries.due_deliveries(clock.now + 10**6, 10) == []


async def test_kinds_are_handed_out_apart(place: Place, clock: Clock, asker: Asker) -> None:
    async with place.database() as database, place.store(clock, forward=True) as store:
        deliveries = Deliveries(database, clock)
        await decided(store, asker, 2)
        forwards = await deliveries.due_deliveries(clock.now, 10, kinds=["forward"])
        assert {each.kind for each in forwards} == {"forward"}
        rest = await deliveries.due_deliveries(clock.now, 10)
        assert {each.kind for each in rest} == {"callback"}
        assert (len(forwards), len(rest)) == (2, 2)


async def test_the_oldest_come_first_and_a_limit_holds(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.database() as database, place.store(clock) as store:
        deliveries = Deliveries(database, clock)
        wanted = []
        for _ in range(4):
            wanted += await decided(store, asker, 1)
            clock.now += 1
        assert ids(await deliveries.due_deliveries(clock.now, 3)) == wanted[:3]
        assert ids(await deliveries.due_deliveries(clock.now, 3)) == wanted[3:]
        assert "Deliveries" in repr(deliveries)


@pytest.mark.parametrize("unknown", ["", "nothing"])
async def test_what_is_not_there_is_no_error(place: Place, clock: Clock, unknown: str) -> None:
    async with place.database() as database:
        deliveries = Deliveries(database, clock)
        await deliveries.delivery_done(unknown, clock.now)
        await deliveries.delivery_failed(unknown, None, "x")
        await deliveries.delivery_failed(unknown, clock.now, "x")
