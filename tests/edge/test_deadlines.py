"""The timer wheel, on a clock that only moves when told."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.deadlines import NEVER, TICK_SECONDS, TOLD_AT_ONCE, Deadlines
from tests.edge.clock import Time


class Owner:
    """Something with a deadline; `react` is what it does when that passes."""

    def __init__(self, react: Callable[[float], None] = lambda _: None) -> None:
        self.deadline = NEVER
        self.filed_tick = NEVER
        self.expirations: list[float] = []
        self._react = react

    def expired(self, now: float) -> None:
        self.expirations.append(now)
        self._react(now)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def deadlines(time: Time) -> Deadlines:
    return Deadlines(time.clock, time.call_later)


def test_a_deadline_is_told_once_when_it_has_passed(time: Time, deadlines: Deadlines) -> None:
    owner = Owner()
    deadlines.set(owner, 1000.5)
    time.pass_by(0.45)
    assert owner.expirations == []
    time.pass_by(0.25)
    assert len(owner.expirations) == 1
    assert owner.deadline == NEVER
    time.pass_by(100)
    assert len(owner.expirations) == 1


def test_a_deadline_that_is_past_is_told_at_the_next_tick(time: Time, deadlines: Deadlines) -> None:
    owner = Owner()
    deadlines.set(owner, 900.0)
    assert owner.expirations == []
    time.pass_by(2 * TICK_SECONDS)
    assert len(owner.expirations) == 1


def test_a_later_deadline_replaces_an_earlier_one(time: Time, deadlines: Deadlines) -> None:
    owner = Owner()
    deadlines.set(owner, 1001.0)
    deadlines.set(owner, 1003.0)
    time.pass_by(2.9)
    assert owner.expirations == []
    time.pass_by(0.3)
    assert len(owner.expirations) == 1


def test_an_earlier_deadline_replaces_a_later_one(time: Time, deadlines: Deadlines) -> None:
    owner = Owner()
    deadlines.set(owner, 1030.0)
    deadlines.set(owner, 1001.0)
    assert repr(deadlines) == "<Deadlines filed=1>"
    time.pass_by(1.2)
    assert len(owner.expirations) == 1
    time.pass_by(100)
    assert len(owner.expirations) == 1


def test_a_time_from_now_is_never_too_short(time: Time, deadlines: Deadlines) -> None:
    first, second = Owner(), Owner()
    deadlines.after(first, 1.0)
    time.pass_by(0.99)
    assert first.expirations == []
    deadlines.after(second, 1.0)
    time.pass_by(0.99)
    assert len(first.expirations) == 1
    assert second.expirations == []
    time.pass_by(3 * TICK_SECONDS)
    assert len(second.expirations) == 1


def test_a_time_that_begins_anew_puts_the_end_off(time: Time, deadlines: Deadlines) -> None:
    owner = Owner()
    for _ in range(50):
        deadlines.after(owner, 1.0)
        time.pass_by(0.9)
    assert owner.expirations == []
    assert repr(deadlines) == "<Deadlines filed=1>"


def test_a_cleared_deadline_is_not_told(time: Time, deadlines: Deadlines) -> None:
    owner = Owner()
    deadlines.set(owner, 1001.0)
    deadlines.clear(owner)
    time.pass_by(5)
    assert owner.expirations == []
    deadlines.set(owner, 1006.0)
    time.pass_by(2)
    assert len(owner.expirations) == 1


def test_an_owner_that_is_removed_is_forgotten(time: Time, deadlines: Deadlines) -> None:
    owner, other = Owner(), Owner()
    deadlines.set(owner, 1001.0)
    deadlines.set(other, 1001.0)
    deadlines.remove(owner)
    assert repr(deadlines) == "<Deadlines filed=1>"
    deadlines.remove(owner)
    time.pass_by(5)
    assert owner.expirations == []
    assert len(other.expirations) == 1


def test_the_timer_runs_only_while_something_is_filed(time: Time, deadlines: Deadlines) -> None:
    assert time.calls == []
    owner = Owner()
    deadlines.set(owner, 1000.5)
    assert len(time.calls) == 1
    deadlines.set(Owner(), 1000.5)
    assert len(time.calls) == 1
    time.pass_by(5)
    assert time.calls == []
    deadlines.after(owner, 1.0)
    time.pass_by(5)
    assert len(owner.expirations) == 2
    assert time.calls == []


def test_an_owner_may_set_its_next_deadline_while_it_is_told(
    time: Time, deadlines: Deadlines
) -> None:
    owner = Owner(lambda now: deadlines.set(owner, now + 1.0))
    deadlines.set(owner, 1001.0)
    time.pass_by(10.5)
    assert 7 <= len(owner.expirations) <= 10


def test_owners_of_one_moment_may_remove_and_set_each_other(
    time: Time, deadlines: Deadlines
) -> None:
    # Whichever of the two is told first silences one and puts off the other.
    told: list[Owner] = []

    def react(owner: Owner, other: Owner) -> None:
        told.append(owner)
        deadlines.remove(other)
        deadlines.set(later, time.now + 5)

    first = Owner(lambda _: react(first, second))
    second = Owner(lambda _: react(second, first))
    later = Owner()
    for owner in (first, second):
        deadlines.set(owner, 1001.0)
    time.pass_by(2)
    assert len(told) == 1
    assert later.expirations == []
    time.pass_by(5)
    assert len(later.expirations) == 1


def test_all_that_is_overdue_after_a_stall_is_told_in_order(
    time: Time, deadlines: Deadlines
) -> None:
    told: list[int] = []

    def owner(number: int) -> Owner:
        return Owner(lambda _: told.append(number))

    for number in (3, 1, 2):
        deadlines.set(owner(number), 1000.0 + number)
    deadlines.advance(1060.0)
    assert told == [1, 2, 3]


def test_a_bug_of_one_owner_does_not_stop_the_time_of_the_others(
    time: Time, deadlines: Deadlines
) -> None:
    def fail(now: float) -> None:
        raise RuntimeError(f"a bug at {now}")

    owners = [Owner(fail), Owner(), Owner(fail), Owner()]
    for owner in owners:
        deadlines.set(owner, 1001.0)
    later = Owner()
    deadlines.set(later, 1002.0)
    time.pass_by(5)
    assert [len(owner.expirations) for owner in [*owners, later]] == [1] * 5


@given(
    start=st.floats(0, 1e7),
    actions=st.lists(
        st.tuples(
            st.sampled_from(["set", "after", "clear", "remove"]),
            st.integers(0, 3),
            st.floats(0, 20),
            st.floats(0, 3),
        ),
        max_size=30,
    ),
)
def test_no_deadline_is_early_lost_or_late(
    start: float, actions: list[tuple[str, int, float, float]]
) -> None:
    time = Time(start)
    deadlines = Deadlines(time.clock, time.call_later)
    due: dict[int, float] = {}

    def told(number: int, _: float) -> None:
        expected = due.pop(number)
        assert expected - 1e-6 <= time.now <= expected + 3 * TICK_SECONDS + 1e-6

    owners = [Owner(partial(told, number)) for number in range(4)]
    for action, number, seconds, wait in actions:
        if action == "set":
            deadlines.set(owners[number], time.now + seconds)
            due[number] = time.now + seconds
        elif action == "after":
            deadlines.after(owners[number], seconds)
            due[number] = time.now + seconds
        elif action == "clear":
            deadlines.clear(owners[number])
            due.pop(number, None)
        else:
            deadlines.remove(owners[number])
            due.pop(number, None)
        time.pass_by(wait)
    time.pass_by(30)
    assert due == {}
    assert time.calls == []
    assert repr(deadlines) == "<Deadlines filed=0>"


def test_an_alarm_is_told_when_it_is_time_and_not_at_a_tick(
    time: Time, deadlines: Deadlines
) -> None:
    owner = Owner()
    deadlines.alarm(owner, 1 / 64)
    time.pass_by(1 / 128)
    assert owner.expirations == []
    time.pass_by(1 / 128)
    assert owner.expirations == [time.now]
    time.pass_by(10)
    assert len(owner.expirations) == 1


def test_an_alarm_that_is_called_off_is_not_told(time: Time, deadlines: Deadlines) -> None:
    owner = Owner()
    deadlines.alarm(owner, 0.017).cancel()
    time.pass_by(1)
    assert owner.expirations == []


def test_a_bug_at_an_alarm_is_logged_and_stops_nobody(time: Time, deadlines: Deadlines) -> None:
    def fail(now: float) -> None:
        raise RuntimeError("a bug")

    other = Owner()
    deadlines.alarm(Owner(fail), 0.01)
    deadlines.alarm(other, 0.01)
    time.pass_by(0.01)
    assert len(other.expirations) == 1


def test_many_that_are_due_together_are_told_in_several_turns(
    time: Time, deadlines: Deadlines
) -> None:
    owners = [Owner() for _ in range(3 * TOLD_AT_ONCE + 1)]
    for owner in owners:
        deadlines.set(owner, 1000.5)
    time.now = 1000.7
    calls, time.calls = time.calls, []
    deadlines.advance(time.now)
    told = [sum(map(len, (owner.expirations for owner in owners)))]
    while time.calls:
        _, _, call = time.calls.pop(0)
        call()
        told.append(sum(map(len, (owner.expirations for owner in owners))))
    assert told == [8, 16, 24, 25]
    assert calls


def test_one_that_is_due_and_has_other_plans_before_it_is_told_is_not(
    time: Time, deadlines: Deadlines
) -> None:
    owners = [Owner() for _ in range(2 * TOLD_AT_ONCE)]
    for owner in owners:
        deadlines.set(owner, 1000.5)
    time.now = 1000.7
    deadlines.advance(time.now)
    waiting = [owner for owner in owners if not owner.expirations]
    assert len(waiting) == TOLD_AT_ONCE
    cleared, removed, later, *others = waiting
    deadlines.clear(cleared)
    deadlines.remove(removed)
    deadlines.set(later, 1002.0)
    time.pass_by(0.01)
    assert all(len(owner.expirations) == 1 for owner in others)
    assert [cleared.expirations, removed.expirations, later.expirations] == [[], [], []]
    time.pass_by(2)
    assert len(later.expirations) == 1


def test_ticks_that_come_while_many_are_told_tell_nobody_twice(
    time: Time, deadlines: Deadlines
) -> None:
    owners = [Owner() for _ in range(50)]
    for at, owner in enumerate(owners):
        deadlines.set(owner, 1000.5 + at % 3 * TICK_SECONDS)
    for now in (1000.7, 1000.8, 1001.0):
        deadlines.advance(now)
    time.pass_by(2)
    assert all(len(owner.expirations) == 1 for owner in owners)
