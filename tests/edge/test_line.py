"""A service's line: places, order, time, and that nothing is lost or taken twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.deadlines import Deadlines
from gateway.edge.line import Line
from gateway.errors import Rejection
from tests.edge.clock import Time


class Guest:
    """Who waits; one that is `brief` leaves at once when it is let in."""

    def __init__(self, line: Line, *, brief: bool = False) -> None:
        self.line = line
        self.brief = brief
        self.state = "new"
        self.rejection: Rejection | None = None

    def enter(self) -> Guest:
        found = self.line.enter(self)
        if isinstance(found, Rejection):
            self.turned_away(found)
        else:
            self.state = "in" if found else "waiting"
        return self

    def let_in(self) -> None:
        assert self.state == "waiting"
        self.state = "in"
        if self.brief:
            self.leave()

    def turned_away(self, rejection: Rejection) -> None:
        assert self.state in ("new", "waiting")
        self.state = "away"
        self.rejection = rejection

    def leave(self) -> None:
        assert self.state in ("in", "waiting")
        self.state = "gone"
        self.line.leave(self)


class House:
    """A line with its time."""

    def __init__(self, most: int = 1, queue: int = 2, queue_timeout: float = 5.0) -> None:
        self.time = Time()
        deadlines = Deadlines(self.time.clock, self.time.call_later)
        self.line = Line("users", most, queue, queue_timeout, deadlines, self.time.clock)

    def guests(self, count: int, *, brief: bool = False) -> list[Guest]:
        return [Guest(self.line, brief=brief).enter() for _ in range(count)]


def test_so_many_go_in_at_once_the_next_wait_the_others_are_refused() -> None:
    house = House(most=2, queue=1)
    guests = house.guests(4)
    assert [guest.state for guest in guests] == ["in", "in", "waiting", "away"]
    rejection = guests[3].rejection
    assert rejection is not None
    assert (rejection.code, rejection.status, rejection.retry_after_seconds) == (
        "OVERLOADED",
        503,
        1,
    )
    assert "users" in rejection.message
    assert repr(house.line) == "<Line users active=2/2 waiting=1>"


def test_who_came_first_is_served_first() -> None:
    house = House(queue=3)
    first, *others = house.guests(4)
    first.leave()
    assert [guest.state for guest in others] == ["in", "waiting", "waiting"]
    others[0].leave()
    assert [guest.state for guest in others] == ["gone", "in", "waiting"]


def test_who_comes_later_does_not_pass_those_who_wait() -> None:
    house = House(most=1, queue=5)
    first, second = house.guests(2)
    late: list[Guest] = []
    # While the place is handed on, another one comes.
    second.let_in = lambda: late.append(Guest(house.line).enter()) or Guest.let_in(second)  # type: ignore[method-assign,func-returns-value]
    first.leave()
    assert (second.state, late[0].state) == ("in", "waiting")


def test_who_leaves_the_line_frees_a_place_in_it_and_takes_none() -> None:
    house = House(queue=1)
    first, second = house.guests(2)
    second.leave()
    third = Guest(house.line).enter()
    assert third.state == "waiting"
    first.leave()
    assert (house.line.active, house.line.waiting) == (1, 0)
    third.leave()
    assert (house.line.active, house.line.waiting) == (0, 0)


def test_who_waits_too_long_is_turned_away() -> None:
    house = House(queue_timeout=5.0)
    first, second = house.guests(2)
    house.time.pass_by(3)
    third = Guest(house.line).enter()
    house.time.pass_by(2.5)
    assert (second.state, third.state) == ("away", "waiting")
    assert second.rejection is not None
    assert second.rejection.code == "OVERLOADED"
    house.time.pass_by(3)
    assert third.state == "away"
    assert (house.line.active, house.line.waiting) == (1, 0)
    first.leave()
    assert house.line.active == 0
    house.time.pass_by(10)  # nothing is left to come


def test_nobody_is_turned_away_who_was_let_in() -> None:
    house = House()
    first, second = house.guests(2)
    first.leave()
    house.time.pass_by(10)
    assert second.state == "in"


def test_many_that_are_over_at_once_do_not_nest() -> None:
    house = House(queue=100_000)
    first = Guest(house.line).enter()
    guests = house.guests(50_000, brief=True)
    first.leave()
    assert all(guest.state == "gone" for guest in guests)
    assert (house.line.active, house.line.waiting) == (0, 0)


def test_a_mistake_of_one_that_is_let_in_does_not_stop_the_line() -> None:
    house = House(queue=3)
    first, second, third = house.guests(3)

    def fail() -> None:
        raise RuntimeError("a bug")

    second.let_in = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        first.leave()
    second.state = "in"
    second.leave()
    assert third.state == "in"


def test_a_wider_line_serves_who_waits_a_narrower_one_takes_nothing_back() -> None:
    house = House(most=1, queue=3)
    guests = house.guests(3)
    house.line.resize(2, 3, 5.0)
    assert [guest.state for guest in guests] == ["in", "in", "waiting"]
    house.line.resize(1, 0, 5.0)
    assert [guest.state for guest in guests] == ["in", "in", "waiting"]
    assert Guest(house.line).enter().state == "away"
    guests[0].leave()
    assert guests[2].state == "waiting"
    guests[1].leave()
    assert guests[2].state == "in"


@given(st.integers(1, 3), st.integers(0, 3), st.lists(st.integers(0, 9), max_size=60))
def test_whatever_happens_places_are_neither_lost_nor_exceeded(
    most: int, queue: int, steps: list[int]
) -> None:
    house = House(most, queue, queue_timeout=1.0)
    guests: list[Guest] = []
    for step in steps:
        present = [guest for guest in guests if guest.state in ("in", "waiting")]
        if step < 5 or not present:
            guests.append(Guest(house.line, brief=step == 4).enter())
        elif step == 5:
            house.time.pass_by(0.4)
        else:
            present[step % len(present)].leave()
        inside = sum(guest.state == "in" for guest in guests)
        waiting = sum(guest.state == "waiting" for guest in guests)
        assert (house.line.active, house.line.waiting) == (inside, waiting)
        assert inside <= most
        assert waiting <= queue
        assert not waiting or inside == most
