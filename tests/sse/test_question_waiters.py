"""Who waits for a decision: woken by it, and gone without a trace."""

from __future__ import annotations

import asyncio

import pytest

from sse.event import Refused
from sse.question_waiters import MOST, Waiters


async def test_all_who_wait_for_a_question_are_woken_and_no_others() -> None:
    waiters = Waiters()
    with waiters.place("a") as one, waiters.place("a") as two, waiters.place("b") as other:
        waiters.wake("a", b"done")
        waiters.wake("a", b"twice")
        waiters.wake("nobody", b"x")
        assert (await one, await two) == (b"done", b"done")
        assert not other.done()
        assert sorted(waiters.question_ids) == ["a", "b"]
        assert waiters.wait_for("a")
        waiters.wake_all()
        assert await other is None
    assert repr(waiters) == "<Waiters 0 for 0 questions>"
    assert not waiters.wait_for("a")


async def test_ten_thousand_may_wait_and_one_more_is_told_to_come_back() -> None:
    waiters = Waiters()
    places = [waiters.place(f"q{n % 100}") for n in range(MOST)]
    for place in places:
        place.__enter__()
    with pytest.raises(Refused) as caught, waiters.place("x"):
        pass
    assert caught.value.code == "OVERLOADED"
    assert not waiters.wait_for("x")
    places[0].__exit__(None, None, None)
    with waiters.place("x"):
        assert waiters.count == MOST
    for place in places[1:]:
        place.__exit__(None, None, None)
    assert waiters.question_ids == []


async def test_a_place_is_free_again_however_it_ends() -> None:
    waiters = Waiters(most=1)

    async def wait() -> None:
        with waiters.place("a") as future:
            await future

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    assert waiters.count == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert waiters.count == 0
    with waiters.place("a"):
        pass
