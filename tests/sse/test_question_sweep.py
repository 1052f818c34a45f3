"""The sweep: once a second and sooner where something is due, whatever fails."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sse.question_store import StoreAwayError
from sse.question_sweep import KEEP_MS, MOST_AT_ONCE
from tests.asking import ASKER, Board, Clock, Place, Room, room, someone
from tests.connection import eventually


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Room]:
    async with room(Place(None, tmp_path), Clock()) as made:
        yield made


async def asked(here: Room, **members: object) -> str:
    body = {"client_ids": ["alice"], "prompt": "x"} | members
    return (await here.questions.ask(ASKER, body))[0].question_id


async def test_it_looks_once_a_second_and_when_something_is_due(here: Room) -> None:
    assert await here.questions.sweep() == 1.0
    await asked(here, expires_in=30)
    assert await here.questions.sweep() == 1.0
    here.clock.now += 29.25
    assert await here.questions.sweep() == pytest.approx(0.75, abs=0.01)
    here.clock.now += 0.749
    assert await here.questions.sweep() == pytest.approx(0.02, abs=0.001)


async def test_many_that_expire_at_once_are_ended_at_once(here: Room) -> None:
    count = MOST_AT_ONCE + 10
    for start in range(0, count, 50):
        await asyncio.gather(*(asked(here, expires_in=1) for _ in range(min(50, count - start))))
    here.clock.now += 1
    await here.questions.sweep()
    await here.settle()
    assert here.board.types("alice").count("question.resolved") == count
    assert here.questions.open_count == 0


async def test_what_ended_thirty_days_ago_is_forgotten(here: Room) -> None:
    question_id = await asked(here)
    await here.questions.withdraw(ASKER, question_id)
    here.clock.now += KEEP_MS / 1000 - 1
    await here.questions.sweep()
    assert await here.store.find([question_id])
    here.clock.now += 2
    for _ in range(60):  # it is looked for once a minute
        await here.questions.sweep()
    assert await here.store.find([question_id]) == {}


async def test_it_runs_by_itself_in_time(tmp_path: Path) -> None:
    class Real(Clock):
        def __call__(self) -> float:
            return time.time()

    async with room(Place(None, tmp_path), Real()) as here:
        await here.questions.start()
        question_id = await asked(here, expires_in=1)
        body, ended = await here.questions.wait(someone("alice"), question_id, 60)
        assert ended
        assert json.loads(body)["status"] == "expired"


async def test_a_database_that_went_away_ends_nothing_for_good(tmp_path: Path) -> None:
    place, clock, board = Place(None, tmp_path), Clock(), Board()
    async with room(place, clock, board) as here:
        await here.questions.start()
        await asked(here, expires_in=1)
        await here.database.close()
        clock.now += 1
        with pytest.raises(StoreAwayError):
            await here.questions.sweep()
    async with room(place, clock, board) as again:
        await again.questions.start()
        await eventually(lambda: "question.resolved" in board.types("alice"))
