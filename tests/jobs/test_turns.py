"""Starts take turns: bounded at work, in the line and in time."""

from __future__ import annotations

import asyncio

import pytest

from gateway.jobs.refusals import JobRefusedError
from gateway.jobs.turns import Turns
from tests.connection import eventually
from tests.jobs.desk import Desk, refusal
from tests.temporal_server import PATIENCE_SECONDS


class Work:
    """Something that takes a turn, and goes on until it is let go."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.go = asyncio.Event()
        self.at_work = 0
        self.most = 0

    async def do(self) -> None:
        async with self.turns.turn():
            self.at_work += 1
            self.most = max(self.most, self.at_work)
            await self.go.wait()
            self.at_work -= 1


async def test_so_many_work_at_once_and_the_others_wait() -> None:
    turns = Turns(at_once=2)
    work = Work(turns)
    tasks = [asyncio.create_task(work.do()) for _ in range(10)]
    await eventually(lambda: turns.waiting == 8 and work.at_work == 2, "a line of eight")
    assert repr(turns) == "<Turns waiting=8>"
    work.go.set()
    await asyncio.gather(*tasks)
    assert (work.most, turns.waiting) == (2, 0)


async def test_a_line_that_is_full_takes_no_more() -> None:
    turns = Turns(at_once=1, most_waiting=1)
    work = Work(turns)
    tasks = [asyncio.create_task(work.do()) for _ in range(2)]
    await eventually(lambda: turns.waiting == 1, "a full line")
    with pytest.raises(JobRefusedError) as caught:
        await work.do()
    assert refusal(caught)[0] == "OVERLOADED"
    assert caught.value.rejection.retry_after_seconds
    work.go.set()
    await asyncio.gather(*tasks)
    await work.do()


async def test_a_line_that_does_not_move_is_left() -> None:
    turns = Turns(at_once=1, patience_seconds=0.01)
    work = Work(turns)
    task = asyncio.create_task(work.do())
    await eventually(lambda: work.at_work == 1, "one at work")
    with pytest.raises(JobRefusedError) as caught:
        await work.do()
    assert refusal(caught)[0] == "OVERLOADED"
    assert turns.waiting == 0
    work.go.set()
    await task


async def test_one_who_leaves_the_line_or_fails_keeps_no_place() -> None:
    turns = Turns(at_once=1)
    work = Work(turns)
    first = asyncio.create_task(work.do())
    await eventually(lambda: work.at_work == 1, "one at work")
    second = asyncio.create_task(work.do())
    await eventually(lambda: turns.waiting == 1, "one who waits")
    second.cancel()
    first.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    work.go.set()
    with pytest.raises(ZeroDivisionError):
        async with turns.turn():
            raise ZeroDivisionError
    await work.do()


async def test_hundreds_of_starts_at_once_all_start(unmanned: Desk) -> None:
    # Those at the end of the line wait for all before them, however slow the machine is.
    unmanned.jobs._turns = Turns(patience_seconds=PATIENCE_SECONDS)
    found = await asyncio.gather(*(unmanned.start({"n": n}) for n in range(300)))
    assert len({each.operation_id for each in found}) == 300
    assert unmanned.jobs._turns.waiting == 0
