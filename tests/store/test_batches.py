"""Group commit: what comes while one transaction runs goes into the next together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.store.batches import MOST_TOGETHER, MOST_WAITING, Batches
from sse.question_store import StoreAwayError, StoreSlowError
from tests.asking import Clock


class Work:
    """A transaction that a test lets end."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.failing: Exception | None = None
        self.bad: int | None = None

    async def __call__(self, jobs: Sequence[int]) -> Sequence[object]:
        self.batches.append(list(jobs))
        await self.gate.wait()
        if self.failing is not None:
            raise self.failing
        if self.bad in jobs:
            raise ValueError("bad")
        return [job * 10 for job in jobs]


def build(work: Work, clock: Clock | None = None) -> Batches[int]:
    return Batches(work, clock or Clock(), 5.0)


async def test_jobs_of_one_turn_and_of_one_transactions_time_go_together() -> None:
    work = Work()
    batches = build(work)
    first = [batches.submit(job) for job in (1, 2)]
    await asyncio.sleep(0)
    later = [batches.submit(job) for job in (3, 4, 5)]
    work.gate.set()
    assert await asyncio.gather(*first, *later) == [10, 20, 30, 40, 50]
    assert work.batches == [[1, 2], [3, 4, 5]]
    await batches.close()


async def test_a_transaction_is_bounded() -> None:
    work = Work()
    work.gate.set()
    batches = build(work)
    await asyncio.gather(*(batches.submit(job) for job in range(MOST_TOGETHER + 1)))
    assert [len(each) for each in work.batches] == [MOST_TOGETHER, 1]
    await batches.close()


async def test_more_than_it_can_do_is_refused_at_once() -> None:
    work = Work()
    batches = build(work)
    futures = [batches.submit(job) for job in range(MOST_WAITING)]
    with pytest.raises(StoreAwayError):
        batches.submit(0)
    assert f"waiting={MOST_WAITING}" in repr(batches)
    work.gate.set()
    await asyncio.gather(*futures)
    assert await batches.submit(7) == 70
    await batches.close()


async def test_a_job_that_fails_fails_alone() -> None:
    work = Work()
    work.gate.set()
    work.bad = 2
    batches = build(work)
    done = await asyncio.gather(*(batches.submit(job) for job in (1, 2, 3)), return_exceptions=True)
    assert [done[0], done[2]] == [10, 30]
    assert isinstance(done[1], ValueError)
    await batches.close()


@pytest.mark.parametrize("error", [StoreAwayError("x"), StoreSlowError("x")])
async def test_a_database_that_is_away_fails_all_and_is_asked_once(error: Exception) -> None:
    work = Work()
    work.gate.set()
    work.failing = error
    batches = build(work)
    done = await asyncio.gather(*(batches.submit(job) for job in (1, 2)), return_exceptions=True)
    assert done == [error, error]
    assert len(work.batches) == 1
    work.failing = None
    assert await batches.submit(3) == 30
    await batches.close()


async def test_who_waits_too_long_is_told_and_the_rest_goes_on() -> None:
    work, clock = Work(), Clock()
    batches = build(work, clock)
    under_way = batches.submit(1)
    await asyncio.sleep(0)
    waiting = batches.submit(2)
    clock.now += 4.9
    batches._look()
    assert not under_way.done()
    clock.now += 0.2
    batches._look()
    with pytest.raises(StoreSlowError):
        await under_way
    with pytest.raises(StoreAwayError):
        await waiting
    fresh = batches.submit(3)
    work.gate.set()
    assert await fresh == 30
    assert work.batches == [[1], [3]]
    await batches.close()


async def test_who_stops_waiting_takes_nothing_back() -> None:
    work = Work()
    batches = build(work)
    futures = [batches.submit(job) for job in (1, 2)]
    futures[0].cancel()
    work.gate.set()
    assert await futures[1] == 20
    assert work.batches == [[1, 2]]
    await batches.close()


async def test_closing_finishes_what_was_taken_and_takes_nothing_more() -> None:
    work = Work()
    batches = build(work)
    future = batches.submit(1)
    closing = asyncio.ensure_future(batches.close())
    work.gate.set()
    await closing
    assert await future == 10
    with pytest.raises(StoreAwayError):
        batches.submit(2)
