"""Streams that open: what is open for their client id, and where it stood."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sse.event import BackplaneAwayError
from sse.stream import OpenQuestion
from tests.asking import ASKER, Board, Clock, Place, Room, room
from tests.sse.questioning import answer, asked, code, open_for


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(None, tmp_path)


@pytest.fixture
async def here(place: Place) -> AsyncIterator[Room]:
    """A gateway."""
    async with room(place, Clock()) as made:
        yield made


async def test_a_stream_that_opens_is_told_what_is_open_and_where_it_stood(here: Room) -> None:
    one, two, done = await asked(here), await asked(here), await asked(here)
    await answer(here, done)
    await here.settle()
    found: list[OpenQuestion] = []
    told = asyncio.Event()

    def deliver(questions: list[OpenQuestion]) -> None:
        found.extend(questions)
        told.set()

    here.questions.open_for("alice", deliver)
    await told.wait()
    assert [each[0::2] for each in found] == [(one, "abcdefgh-1"), (two, "abcdefgh-2")]
    assert found[0].data == here.board.events["alice"][0].data
    assert await open_for(here, "nobody") == []


async def test_many_streams_that_open_at_once_are_all_told(here: Room) -> None:
    question_id = await asked(here)
    await here.settle()
    others = [open_for(here, f"c{n % 400}") for n in range(2000)]
    found = await asyncio.gather(*others, *(open_for(here, "alice") for _ in range(50)))
    assert found[:2000] == [[]] * 2000
    assert found[2000:] == [[(question_id, "abcdefgh-1")]] * 50


async def test_what_is_asked_while_a_stream_opens_is_sent_again_or_still_to_come(
    here: Room,
) -> None:
    async def opens() -> list[tuple[str, str | None]]:
        return await open_for(here, "alice")

    for _ in range(20):
        before = len(here.board.events.get("alice", []))
        question_id, found = await asyncio.gather(asked(here), opens())
        mine = dict(found).get(question_id, "unseen")
        if mine in ("unseen", None):
            await here.settle()
            assert len(here.board.events["alice"]) > before
        await here.questions.withdraw(ASKER, question_id)
        await here.settle()


async def test_a_question_that_another_gateway_has_just_kept_is_waited_for(place: Place) -> None:
    clock, away = Clock(), Board()
    away.failing = BackplaneAwayError()
    async with room(place, clock, away) as one, room(place, clock) as two:
        question_id = await asked(one)
        looking = asyncio.create_task(open_for(two, "alice"))
        await asyncio.sleep(0)
        one.questions.published(question_id, "alice", "abcdefgh-9")
        await one.store.settle()
        assert await looking == [(question_id, "abcdefgh-9")]


async def test_a_question_whose_place_nobody_notes_is_sent_again(place: Place) -> None:
    clock, away = Clock(), Board()
    away.failing = BackplaneAwayError()
    async with room(place, clock, away) as one, room(place, clock) as two:
        question_id = await asked(one)
        assert await open_for(two, "alice") == [(question_id, "")]


async def test_without_a_database_a_stream_opens_without_questions(
    place: Place,
) -> None:
    async with room(place, Clock()) as here:
        await asked(here)
        await here.settle()
        await here.database.close()
        assert await open_for(here, "alice") == []
        assert await code(here.questions.get(ASKER, "x")) == "SERVICE_UNAVAILABLE"
