"""Look-ups of one turn of the loop are made together."""

from __future__ import annotations

import asyncio

import pytest

from sse.question_lookups import MOST_TOGETHER, Lookups
from sse.question_store import StoreAwayError


class Shelf:
    """Finds numbers for keys that are numbers, when a test lets it."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failing = False

    async def __call__(self, keys: list[str]) -> dict[str, int]:
        self.asked.append(keys)
        await self.gate.wait()
        if self.failing:
            raise StoreAwayError("away")
        return {key: int(key) for key in keys if key.isdecimal()}


async def test_what_is_asked_in_one_turn_is_one_query() -> None:
    shelf = Shelf()
    lookups = Lookups(shelf)
    found = await asyncio.gather(*(lookups.ask(key) for key in ("1", "x", "2", "1")))
    assert found == [1, None, 2, 1]
    assert shelf.asked == [["1", "x", "2"]]
    await lookups.close()


async def test_what_comes_during_a_query_is_asked_anew() -> None:
    shelf = Shelf()
    lookups = Lookups(shelf)
    shelf.gate.clear()
    first = lookups.ask("1")
    await asyncio.sleep(0)
    second = lookups.ask("1")
    shelf.gate.set()
    assert await asyncio.gather(first, second) == [1, 1]
    assert shelf.asked == [["1"], ["1"]]
    await lookups.close()


async def test_a_query_is_bounded() -> None:
    shelf = Shelf()
    lookups = Lookups(shelf)
    await asyncio.gather(*(lookups.ask(f"{n}") for n in range(MOST_TOGETHER + 1)))
    assert [len(keys) for keys in shelf.asked] == [MOST_TOGETHER, 1]


async def test_too_many_are_refused_at_once_and_later_ones_taken() -> None:
    shelf = Shelf()
    lookups = Lookups(shelf, most_waiting=2)
    waiting = [lookups.ask("1"), lookups.ask("1")]
    with pytest.raises(StoreAwayError):
        lookups.ask("2")
    assert repr(lookups) == "<Lookups 2 waiting>"
    assert await asyncio.gather(*waiting) == [1, 1]
    assert await lookups.ask("2") == 2


async def test_an_error_is_told_to_all_who_asked_and_nobody_else() -> None:
    shelf = Shelf()
    shelf.failing = True
    lookups = Lookups(shelf)
    done = await asyncio.gather(lookups.ask("1"), lookups.ask("2"), return_exceptions=True)
    assert all(isinstance(each, StoreAwayError) for each in done)
    shelf.failing = False
    assert await lookups.ask("1") == 1


async def test_who_stops_waiting_disturbs_nobody() -> None:
    shelf = Shelf()
    lookups = Lookups(shelf)
    gone, stays = lookups.ask("1"), lookups.ask("1")
    gone.cancel()
    assert await stays == 1
    await lookups.close()
