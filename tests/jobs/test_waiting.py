"""Who waits for the end of a job: woken once, bounded, and gone without a trace."""

from __future__ import annotations

import asyncio

import pytest

from gateway.jobs import waiting
from gateway.jobs.waiting import JobWaiters, NoPlaceError
from tests.connection import PATIENCE_SECONDS, eventually


class Followed:
    """What the hub follows."""

    def __init__(self) -> None:
        self.open: list[str] = []

    def __call__(self, client_id: str) -> _Follower:
        self.open.append(client_id)
        return _Follower(self, client_id)


class _Follower:
    def __init__(self, followed: Followed, client_id: str) -> None:
        self._followed = followed
        self._client_id = client_id

    def close(self) -> None:
        self._followed.open.remove(self._client_id)


class Ends:
    """Jobs as Temporal has them: `over` are closed, `away` of the next questions fail."""

    def __init__(self) -> None:
        self.over: dict[str, asyncio.Event] = {}
        self.away = 0
        self.asked = 0

    async def __call__(self, operation_id: str) -> None:
        self.asked += 1
        if self.away:
            self.away -= 1
            raise ConnectionError
        await self.over.setdefault(operation_id, asyncio.Event()).wait()


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Ends:
    monkeypatch.setattr(waiting, "POLL_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(waiting, "AGAIN_SECONDS", 0.0)
    return Ends()


@pytest.fixture
def followed() -> Followed:
    return Followed()


async def test_all_who_wait_for_a_job_are_woken_and_no_other(
    ends: Ends, followed: Followed
) -> None:
    waiters = JobWaiters(ends, followed)
    mine = [asyncio.create_task(waiters.wait("a", PATIENCE_SECONDS, "o")) for _ in range(3)]
    other = asyncio.create_task(waiters.wait("b", PATIENCE_SECONDS, "o"))
    await eventually(lambda: ends.asked == 2, "one question for each job")
    assert sorted(followed.open) == ["job:a", "job:b"]
    assert repr(waiters) == "<JobWaiters 4 for 2 jobs, 2 polls>"
    waiters.wake("a")
    waiters.wake("a")
    waiters.wake("nobody's")
    assert await asyncio.gather(*mine) == [True] * 3
    assert not other.done()
    assert followed.open == ["job:b"]
    ends.over["b"].set()
    assert await other
    assert repr(waiters) == "<JobWaiters 0 for 0 jobs, 0 polls>"
    assert followed.open == []


async def test_who_waited_long_enough_goes(ends: Ends, followed: Followed) -> None:
    waiters = JobWaiters(ends, followed)
    assert not await waiters.wait("a", 0.001, "o")
    assert (waiters.count, followed.open) == (0, [])


async def test_one_who_leaves_takes_only_his_place(ends: Ends, followed: Followed) -> None:
    waiters = JobWaiters(ends, followed)
    one, two = (asyncio.create_task(waiters.wait("a", PATIENCE_SECONDS, "o")) for _ in range(2))
    await eventually(lambda: waiters.count == 2, "two who wait")
    one.cancel()
    await asyncio.gather(one, return_exceptions=True)
    assert (waiters.count, followed.open) == (1, ["job:a"])
    waiters.wake("a")
    assert await two


async def test_temporal_is_asked_again_while_it_is_away(ends: Ends, followed: Followed) -> None:
    ends.away = 3
    waiters = JobWaiters(ends, followed)
    task = asyncio.create_task(waiters.wait("a", PATIENCE_SECONDS, "o"))
    await eventually(lambda: ends.asked == 4, "the fourth question")
    ends.over["a"].set()
    assert await task


async def test_above_the_bound_nobody_waits(ends: Ends, followed: Followed) -> None:
    waiters = JobWaiters(ends, followed, most=1)
    task = asyncio.create_task(waiters.wait("a", PATIENCE_SECONDS, "o"))
    await eventually(lambda: waiters.count == 1, "one who waits")
    assert not await waiters.wait("a", PATIENCE_SECONDS, "o")
    waiters.wake("a")
    assert await task


async def test_above_the_bound_of_one_owner_others_still_wait(
    ends: Ends, followed: Followed
) -> None:
    waiters = JobWaiters(ends, followed, most_of_owner=2)
    mine = [asyncio.create_task(waiters.wait(each, PATIENCE_SECONDS, "o")) for each in "ab"]
    await eventually(lambda: waiters.count == 2, "two who wait")
    with pytest.raises(NoPlaceError) as caught:
        await waiters.wait("c", PATIENCE_SECONDS, "o")
    refused = caught.value.rejection
    assert (refused.code, refused.status, refused.retry_after_seconds) == ("RATE_LIMITED", 429, 1)
    assert "2 requests wait for your jobs" in refused.message
    other = asyncio.create_task(waiters.wait("d", PATIENCE_SECONDS, "other"))
    await eventually(lambda: waiters.count == 3, "the other owner's")
    waiters.wake("a")
    assert await mine[0]
    again = asyncio.create_task(waiters.wait("c", PATIENCE_SECONDS, "o"))
    await eventually(lambda: waiters.count == 3, "the place that became free")
    for each in "bcd":
        waiters.wake(each)
    assert await asyncio.gather(mine[1], again, other) == [True] * 3
    assert not waiters._by_owner


async def test_above_the_bound_of_polls_the_event_alone_wakes(
    ends: Ends, followed: Followed
) -> None:
    waiters = JobWaiters(ends, followed, most_polls=1)
    tasks = [asyncio.create_task(waiters.wait(each, PATIENCE_SECONDS, "o")) for each in "ab"]
    await eventually(lambda: ends.asked == 1 and waiters.count == 2, "one question")
    for each in "ab":
        waiters.wake(each)
    assert await asyncio.gather(*tasks) == [True, True]


async def test_a_hub_that_can_follow_no_more_leaves_no_trace(ends: Ends) -> None:
    def full(_client_id: str) -> _Follower:
        raise OverflowError

    waiters = JobWaiters(ends, full)
    with pytest.raises(OverflowError):
        await waiters.wait("a", PATIENCE_SECONDS, "o")
    assert repr(waiters) == "<JobWaiters 0 for 0 jobs, 0 polls>"


async def test_at_a_drain_everybody_goes_and_nobody_comes(ends: Ends, followed: Followed) -> None:
    waiters = JobWaiters(ends, followed)
    task = asyncio.create_task(waiters.wait("a", PATIENCE_SECONDS, "o"))
    await eventually(lambda: ends.asked == 1, "the question")
    polls = list(waiters._polls.values())
    await waiters.close()
    assert not await task
    assert all(each.done() for each in polls)
    assert not await waiters.wait("a", PATIENCE_SECONDS, "o")
