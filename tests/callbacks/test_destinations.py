"""Whose turn it is: bounds in all and for each destination, and what a silent one costs others."""

from __future__ import annotations

import pytest

from gateway.callbacks.destinations import (
    AT_ONCE,
    MOST_SILENT,
    MOST_WAITING,
    PER_DESTINATION,
    SILENT_SECONDS,
    Destinations,
)
from tests.callbacks.rows import delivery

ROW = delivery()


@pytest.fixture
def places() -> Destinations:
    return Destinations(patience_seconds=30)


def filled(places: Destinations, name: str, count: int, now: float = 0.0) -> Destinations:
    for _ in range(count):
        places.add(name, ROW, now)
    return places


def sent(places: Destinations, now: float = 0.0) -> list[str]:
    turn = places.turn(now)
    assert turn.put_off == []
    return [name for name, _ in turn.send]


def test_a_destination_has_its_bound_and_the_next_goes_when_one_ends(places: Destinations) -> None:
    filled(places, "a", 6)
    assert sent(places) == ["a"] * PER_DESTINATION
    assert sent(places) == []
    places.ended("a", 1, answered=True)
    assert sent(places, 1) == ["a"]
    assert repr(places) == "<Destinations sending=4 waiting=1 silent=0>"


def test_what_waits_for_one_destination_does_not_hold_up_another(places: Destinations) -> None:
    filled(filled(places, "a", 50), "b", 1)
    assert sent(places) == [*["a"] * PER_DESTINATION, "b"]


def test_there_is_a_bound_for_all(places: Destinations) -> None:
    for index in range(5):
        filled(places, f"d{index}", PER_DESTINATION)
    assert len(sent(places)) == AT_ONCE
    assert places.room == 0
    places.ended("d0", 0, answered=True)
    assert places.room == AT_ONCE
    assert sent(places) == ["d4"]


def test_no_more_is_leased_than_may_wait(places: Destinations) -> None:
    filled(places, "a", MOST_WAITING + PER_DESTINATION - 3)
    sent(places)
    assert places.room == 3
    filled(places, "a", 3)
    assert places.room == 0


def test_a_silent_destination_is_tried_by_one_at_a_time_and_the_rest_is_put_off(
    places: Destinations,
) -> None:
    filled(places, "a", 10)
    sent(places)
    places.ended("a", 10, answered=False)
    turn = places.turn(10)
    assert (turn.send, len(turn.put_off)) == ([], 6)  # three are under way still
    for _ in range(3):
        places.ended("a", 11, answered=False)
    filled(places, "a", 3, 12)
    turn = places.turn(12)
    assert [name for name, _ in turn.send] == ["a"]
    assert [name for name, _ in turn.put_off] == ["a", "a"]


def test_a_destination_that_answers_again_has_its_bound_back(places: Destinations) -> None:
    filled(places, "a", 1)
    sent(places)
    places.ended("a", 0, answered=False)
    assert repr(places) == "<Destinations sending=0 waiting=0 silent=1>"
    filled(places, "a", 1)
    sent(places)
    places.ended("a", 1, answered=True)
    filled(places, "a", 5, 1)
    assert sent(places, 1) == ["a"] * PER_DESTINATION


def test_silence_is_forgotten_after_a_while(places: Destinations) -> None:
    filled(places, "a", 1)
    sent(places)
    places.ended("a", 0, answered=False)
    filled(places, "a", 2, SILENT_SECONDS)
    assert sent(places, SILENT_SECONDS) == ["a", "a"]


def test_so_many_silent_destinations_are_remembered_and_no_more(places: Destinations) -> None:
    for index in range(MOST_SILENT + 5):
        filled(places, f"d{index}", 1)
        sent(places)
        places.ended(f"d{index}", 0, answered=False)
    assert repr(places) == f"<Destinations sending=0 waiting=0 silent={MOST_SILENT}>"


def test_a_row_that_waited_too_long_is_let_go(places: Destinations) -> None:
    filled(places, "a", 6, now=0)
    sent(places)
    places.ended("a", 30, answered=True)
    assert sent(places, 30) == []
    assert repr(places) == "<Destinations sending=3 waiting=0 silent=0>"


def test_rows_that_another_has_leased_wait_no_more(places: Destinations) -> None:
    for name, ids in (("a", "123456"), ("b", "7")):
        for each in ids:
            places.add(name, delivery(delivery_id=each), 0)
    sent(places)
    assert places.waiting == {"5", "6"}
    places.forget({"5", "7", "never heard of"})
    assert places.waiting == {"6"}
    places.forget({"6"})
    assert repr(places) == "<Destinations sending=5 waiting=0 silent=0>"


def test_what_waits_at_the_end_is_given_back(places: Destinations) -> None:
    filled(places, "a", 6)
    sent(places)
    assert len(list(places.give_back())) == 2
    assert list(places.give_back()) == []
