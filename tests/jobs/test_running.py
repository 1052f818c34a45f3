"""The bound of one owner's running jobs: counted seldom, exact within a second, never in the way
where nobody can count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
import structlog
from temporalio.service import RPCError, RPCStatusCode

from gateway.jobs import running
from gateway.jobs.running import (
    AGAIN_SECONDS,
    FAR_SECONDS,
    NEAR_SECONDS,
    RunningJobs,
    TooManyJobsError,
)


class Store:
    """Jobs as Temporal's visibility store has them, by the first of their owner's tags; the time is
    the test's.
    """

    def __init__(self) -> None:
        self.running: dict[str, int] = {}
        self.asked: list[tuple[str, ...]] = []
        self.now = 100.0
        self.error: Exception | None = None
        self.hold: asyncio.Event | None = None

    async def __call__(self, tags: Sequence[str]) -> int:
        self.asked.append(tuple(tags))
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        return self.running.get(tags[0], 0)

    def jobs(self, most_owners: int = 100) -> RunningJobs:
        log = structlog.get_logger("test")
        return RunningJobs(self, log, clock=lambda: self.now, most_owners=most_owners)


@pytest.fixture
def store() -> Store:
    return Store()


async def start(jobs: RunningJobs, most: int, *tags: str) -> None:
    """A job that is started, and shows in the store at once or later as the test says."""
    async with jobs.place(tags or ("a",), most):
        await asyncio.sleep(0)


async def test_one_job_too_many_is_refused_with_what_to_do(store: Store) -> None:
    jobs = store.jobs()
    for _ in range(3):
        await start(jobs, 3)
    with pytest.raises(TooManyJobsError) as caught:
        await start(jobs, 3)
    refused = caught.value.rejection
    assert (refused.code, refused.status, refused.retry_after_seconds) == ("RATE_LIMITED", 429, 5)
    assert "Nothing was started: 3 of your jobs run" in refused.message
    assert "cancel one" in refused.message
    assert store.asked == [("a",)]  # what was started here since is known


async def test_jobs_from_before_a_restart_and_of_other_gateways_count(store: Store) -> None:
    store.running["a"] = 2
    jobs = store.jobs()
    await start(jobs, 3, "a", "older")
    with pytest.raises(TooManyJobsError):
        await start(jobs, 3, "a", "older")
    assert store.asked == [("a", "older")]


async def test_a_job_that_ended_makes_room_within_a_second(store: Store) -> None:
    store.running["a"] = 2
    jobs = store.jobs()
    with pytest.raises(TooManyJobsError):
        await start(jobs, 2)
    store.running["a"] = 1
    with pytest.raises(TooManyJobsError):
        await start(jobs, 2)
    store.now += NEAR_SECONDS
    await start(jobs, 2)


async def test_short_jobs_that_ended_since_never_fill_the_bound(store: Store) -> None:
    jobs = store.jobs()
    for _ in range(100):  # each over before the next, and told so
        await start(jobs, 2)
        jobs.ended("a")
    assert len(store.asked) == 1


async def test_what_the_count_has_makes_room_as_it_ends(store: Store) -> None:
    store.running["a"] = 2
    jobs = store.jobs()
    with pytest.raises(TooManyJobsError):
        await start(jobs, 2)
    jobs.ended("b")  # nobody's here
    jobs.ended("a")
    await start(jobs, 2)
    with pytest.raises(TooManyJobsError):
        await start(jobs, 2)


async def test_what_the_store_does_not_know_yet_counts_for_a_second(store: Store) -> None:
    jobs = store.jobs()
    for _ in range(2):
        await start(jobs, 2)
    store.now += AGAIN_SECONDS
    with pytest.raises(TooManyJobsError):
        await start(jobs, 2)
    store.now += NEAR_SECONDS
    await start(jobs, 2)


async def test_who_asks_again_and_again_at_the_bound_is_counted_seldom(store: Store) -> None:
    store.running["a"] = 2
    jobs = store.jobs()
    for _ in range(100):
        with pytest.raises(TooManyJobsError):
            await start(jobs, 2)
    assert len(store.asked) == 1


async def test_who_leaves_while_it_is_counted_leaves_the_bound_as_it_is(store: Store) -> None:
    jobs = store.jobs()
    await start(jobs, 10)
    store.running["a"] = 10
    store.now += FAR_SECONDS
    store.hold = asyncio.Event()
    left = asyncio.create_task(start(jobs, 10))
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(store.asked) == 2
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    store.hold = None
    with pytest.raises(TooManyJobsError):
        await start(jobs, 10)


async def test_an_owner_far_from_the_bound_is_counted_seldom(store: Store) -> None:
    jobs = store.jobs()
    for _ in range(5):
        await start(jobs, 100)
        store.now += NEAR_SECONDS
    assert len(store.asked) == 1
    store.now += FAR_SECONDS
    await start(jobs, 100)
    assert len(store.asked) == 2


async def test_owners_do_not_count_for_each_other(store: Store) -> None:
    store.running["a"] = 9
    jobs = store.jobs()
    with pytest.raises(TooManyJobsError):
        await start(jobs, 1, "a")
    await start(jobs, 1, "b")


async def test_without_a_bound_nothing_is_counted(store: Store) -> None:
    jobs = store.jobs()
    await start(jobs, 0)
    assert store.asked == []
    assert repr(jobs) == "<RunningJobs of 0 owners>"


async def test_a_start_that_failed_gives_its_place_back(store: Store) -> None:
    jobs = store.jobs()
    with pytest.raises(OSError, match="away"):
        async with jobs.place(("a",), 1):
            raise OSError("away")
    await start(jobs, 1)


async def test_a_start_that_was_left_half_way_keeps_its_place(store: Store) -> None:
    jobs = store.jobs()
    with pytest.raises(asyncio.CancelledError):
        async with jobs.place(("a",), 1):
            raise asyncio.CancelledError
    with pytest.raises(TooManyJobsError):
        await start(jobs, 1)


async def test_many_at_once_are_counted_once_and_none_gets_past(store: Store) -> None:
    store.hold = asyncio.Event()
    store.running["a"] = 5
    jobs = store.jobs()
    starts = [asyncio.create_task(start(jobs, 8)) for _ in range(20)]
    for _ in range(3):
        await asyncio.sleep(0)
    store.hold.set()
    found = await asyncio.gather(*starts, return_exceptions=True)
    assert sum(each is None for each in found) == 3
    assert sum(isinstance(each, TooManyJobsError) for each in found) == 17
    assert len(store.asked) == 1


async def test_starts_under_way_are_not_lost_by_a_count(store: Store) -> None:
    jobs = store.jobs()
    going = asyncio.Event()

    async def slow() -> None:
        async with jobs.place(("a",), 2):
            await going.wait()

    under_way = asyncio.create_task(slow())
    await asyncio.sleep(0)
    store.now += FAR_SECONDS
    await start(jobs, 2)
    assert len(store.asked) == 2
    with pytest.raises(TooManyJobsError):
        await start(jobs, 2)
    going.set()
    await under_way


@pytest.mark.parametrize("error", [RPCError("no", RPCStatusCode.UNAVAILABLE, b""), None])
async def test_where_nobody_can_count_jobs_are_started_and_it_is_said_once(
    store: Store, error: RPCError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.running["a"] = 2
    jobs = store.jobs()
    with pytest.raises(TooManyJobsError):
        await start(jobs, 2)
    store.error = error
    if error is None:  # it does not answer
        store.hold = asyncio.Event()
        monkeypatch.setattr(running, "PATIENCE_SECONDS", 0.0)
    with structlog.testing.capture_logs() as lines:
        for _ in range(2):
            store.now += FAR_SECONDS
            await start(jobs, 2)
    assert [line["event"] for line in lines] == ["jobs_not_counted"]
    store.error, store.hold = None, None
    monkeypatch.undo()
    store.now += FAR_SECONDS
    with pytest.raises(TooManyJobsError):
        await start(jobs, 2)


async def test_owners_that_are_not_seen_for_long_are_forgotten(store: Store) -> None:
    jobs = store.jobs(most_owners=2)
    for tag in ("a", "b", "a", "c", "a", "b"):
        await start(jobs, 100, tag)
    assert [tag for (tag,) in store.asked] == ["a", "b", "c", "b"]
    assert repr(jobs) == "<RunningJobs of 2 owners>"
