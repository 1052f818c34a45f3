"""The circuit breaker: when it opens, whom it lets through meanwhile, and when it closes."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.breaker import STATE_FIGURES, Breaker, Pass


def passed(breaker: Breaker, now: float) -> Pass:
    """Leave to send a request, which must be given."""
    found = breaker.admit(now)
    assert found is not None
    return found


def state(breaker: Breaker) -> str:
    """As it is now: a type checker believes that it is still what it was compared with."""
    return breaker.state


def requests(breaker: Breaker, count: int, now: float, *, failed: bool | None) -> None:
    """So many, one after the other, that end so."""
    for _ in range(count):
        breaker.settle(passed(breaker, now), failed, now)


def opened(now: float = 0.0, **figures: Any) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker(**figures)
    requests(breaker, 20, now, failed=True)
    assert state(breaker) == "open"
    return breaker


def test_failures_below_the_threshold_leave_it_closed() -> None:
    breaker = Breaker(20)
    requests(breaker, 19, 0.0, failed=True)
    assert state(breaker) == "closed"
    requests(breaker, 1, 9.8, failed=True)
    assert state(breaker) == "open"


def test_the_figures_of_a_service_without_any_are_20_in_10_s_a_half_and_3_s() -> None:
    breaker = Breaker()
    requests(breaker, 20, 0.0, failed=False)
    requests(breaker, 19, 0.0, failed=True)
    assert state(breaker) == "closed"
    requests(breaker, 1, 0.0, failed=True)
    assert state(breaker) == "open"
    assert breaker.admit(2.9) is None
    assert breaker.admit(3.0) is not None


def test_failures_below_the_rate_leave_it_closed() -> None:
    breaker = Breaker(10, rate=0.4)
    requests(breaker, 31, 0.0, failed=False)
    requests(breaker, 20, 0.0, failed=True)
    assert state(breaker) == "closed"
    requests(breaker, 1, 0.0, failed=True)
    assert state(breaker) == "open"


def test_what_is_older_than_the_window_no_longer_counts() -> None:
    breaker = Breaker(20)
    requests(breaker, 19, 0.05, failed=True)
    requests(breaker, 1, 10.05, failed=True)
    assert (state(breaker), breaker.window(10.05)) == ("closed", (1, 1))
    assert breaker.window(30.0) == (0, 0)


def test_successes_that_are_too_old_no_longer_lower_the_rate() -> None:
    breaker = Breaker(20)
    requests(breaker, 1000, 0.0, failed=False)
    requests(breaker, 20, 5.0, failed=True)
    assert state(breaker) == "closed"
    requests(breaker, 1, 10.0, failed=True)
    assert state(breaker) == "open"


def test_a_client_that_left_counts_neither_way() -> None:
    breaker = Breaker(20)
    requests(breaker, 500, 0.0, failed=None)
    assert breaker.window(0.0) == (0, 0)


def test_an_open_breaker_refuses_and_says_how_long() -> None:
    breaker = opened(100.0)
    assert breaker.admit(100.0) is None
    assert [breaker.retry_after(now) for now in (100.0, 100.5, 101.0, 102.9)] == [3, 3, 2, 1]


def test_a_few_probes_at_a_time_are_let_through_when_the_time_is_over() -> None:
    breaker = opened(0.0, open_seconds=3.0)
    probes = [breaker.admit(3.0) for _ in range(3)]
    assert all(probes)
    assert state(breaker) == "half_open"
    assert breaker.admit(3.0) is None
    assert breaker.retry_after(3.0) == 1
    breaker.settle(first(probes), False, 3.1)
    assert breaker.admit(3.1) is not None
    assert breaker.admit(3.1) is None


def first(probes: list[Pass | None]) -> Pass:
    """The first of them."""
    assert probes[0] is not None
    return probes[0]


def test_as_many_good_probes_as_fit_close_it() -> None:
    breaker = opened()
    requests(breaker, 2, 3.0, failed=False)
    assert state(breaker) == "half_open"
    requests(breaker, 1, 3.0, failed=False)
    assert (state(breaker), breaker.window(3.0)) == ("closed", (0, 0))
    requests(breaker, 19, 3.0, failed=True)
    assert state(breaker) == "closed"


def test_one_bad_probe_opens_it_again_for_the_whole_time() -> None:
    breaker = opened()
    requests(breaker, 2, 3.0, failed=False)
    requests(breaker, 1, 4.0, failed=True)
    assert (state(breaker), breaker.retry_after(4.0)) == ("open", 3)
    assert breaker.admit(6.9) is None
    assert breaker.admit(7.0) is not None


def test_probes_that_are_lost_free_their_places_at_their_deadline() -> None:
    breaker = opened(probe_seconds=10.0)
    assert [breaker.admit(3.0) is not None for _ in range(4)] == [True, True, True, False]
    assert breaker.admit(12.9) is None
    assert [breaker.admit(13.0) is not None for _ in range(4)] == [True, True, True, False]


def test_a_probe_whose_client_left_frees_its_place_and_says_nothing() -> None:
    breaker = opened()
    requests(breaker, 50, 3.0, failed=None)
    assert (state(breaker), breaker.changes["closed"]) == ("half_open", 0)
    requests(breaker, 3, 3.0, failed=False)
    assert state(breaker) == "closed"


def test_a_probe_that_ends_after_its_deadline_counts_all_the_same() -> None:
    breaker = opened()
    late = passed(breaker, 3.0)
    for _ in range(2):
        passed(breaker, 3.0)
    for _ in range(3):
        passed(breaker, 13.0)
    breaker.settle(late, True, 14.0)
    assert state(breaker) == "open"


def test_a_probe_that_is_settled_twice_counts_once() -> None:
    breaker = opened()
    probe = passed(breaker, 3.0)
    for _ in range(5):
        breaker.settle(probe, False, 3.0)
    assert state(breaker) == "half_open"


def test_what_was_admitted_before_a_change_says_nothing_after_it() -> None:
    breaker = Breaker()
    old = passed(breaker, 0.0)
    requests(breaker, 20, 0.0, failed=True)
    breaker.settle(old, False, 1.0)
    assert state(breaker) == "open"
    stale_probe = passed(breaker, 3.0)
    breaker.settle(old, True, 3.0)
    breaker.settle(old, False, 3.0)
    assert state(breaker) == "half_open"
    requests(breaker, 3, 3.0, failed=False)
    assert state(breaker) == "closed"
    for _ in range(30):
        breaker.settle(old, True, 4.0)
        breaker.settle(stale_probe, True, 4.0)
    assert (state(breaker), breaker.window(4.0)) == ("closed", (0, 0))


def test_a_probe_of_an_earlier_half_open_time_says_nothing_in_a_later_one() -> None:
    breaker = opened()
    stale = passed(breaker, 3.0)
    requests(breaker, 1, 3.0, failed=True)
    assert breaker.admit(6.0) is not None
    breaker.settle(stale, True, 6.0)
    assert state(breaker) == "half_open"


def test_changes_are_told_once_and_counted() -> None:
    told: list[tuple[str, str]] = []
    breaker = Breaker(on_change=lambda breaker, before: told.append((before, breaker.state)))
    requests(breaker, 20, 0.0, failed=True)
    for _ in range(5):
        assert breaker.admit(1.0) is None
    assert breaker.look(3.0) == "half_open"
    requests(breaker, 1, 3.0, failed=True)
    requests(breaker, 3, 6.0, failed=False)
    assert told == [
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "open"),
        ("open", "half_open"),
        ("half_open", "closed"),
    ]
    assert breaker.changes == {"closed": 1, "half_open": 2, "open": 2}


def test_the_end_of_the_open_time_is_noticed_by_who_looks() -> None:
    breaker = opened()
    assert breaker.look(2.9) == "open"
    assert breaker.look(3.0) == "half_open"
    assert [STATE_FIGURES[state] for state in ("closed", "half_open", "open")] == [0, 1, 2]


def test_one_opened_by_hand_stays_open_until_it_is_reset() -> None:
    breaker = Breaker(open_seconds=2.5)
    under_way = passed(breaker, 0.0)
    breaker.force_open()
    assert breaker.admit(1e9) is None
    assert (breaker.look(1e9), breaker.retry_after(1e9)) == ("open", 3)
    breaker.settle(under_way, False, 1e9)
    assert repr(breaker) == "<Breaker open by hand 0/0 failed, 0 probes>"
    breaker.reset()
    assert (state(breaker), breaker.forced) == ("closed", False)
    assert breaker.admit(1e9) is not None


def test_a_reset_forgets_what_was_seen() -> None:
    breaker = Breaker(20)
    requests(breaker, 19, 0.0, failed=True)
    breaker.reset()
    requests(breaker, 19, 0.0, failed=True)
    assert (state(breaker), breaker.changes["closed"]) == ("closed", 0)


def test_one_that_is_off_opens_only_by_hand() -> None:
    breaker = Breaker(inf)
    requests(breaker, 10_000, 0.0, failed=True)
    assert state(breaker) == "closed"
    breaker.force_open()
    assert breaker.admit(0.0) is None


def test_a_successor_keeps_the_counts_and_an_operators_word_and_nothing_else() -> None:
    before = opened()
    after = Breaker(5)
    after.take_over(before)
    assert (state(after), after.changes["open"]) == ("closed", 1)
    before.force_open()
    last = Breaker(6)
    last.take_over(before)
    assert (state(last), last.forced, last.admit(1e9)) == ("open", True, None)


def test_a_breaker_and_a_probe_show_their_state() -> None:
    breaker = opened()
    probe = passed(breaker, 3.0)
    assert repr(breaker) == "<Breaker half_open 20/20 failed, 1 probes>"
    assert repr(probe) == "<Probe spell=2 deadline=13>"


def test_it_remembers_no_more_than_its_window_however_long_it_runs() -> None:
    breaker = Breaker(inf)
    for step in range(5000):
        breaker.settle(passed(breaker, step * 0.07), bool(step % 3), step * 0.07)
    assert len(breaker._cells) <= 100


class Plain:
    """The rule written down naively: the window in steps of 0.1 s, everything kept in a list."""

    def __init__(self, failures: int, rate: float, seconds: float) -> None:
        self.failures, self.rate, self.seconds = failures, rate, seconds
        self.ends: deque[tuple[int, bool]] = deque()
        self.open_until = -1.0

    def request(self, now: float, failed: bool) -> bool:
        """Whether it is let through, all while never half open."""
        if now < self.open_until:
            return False
        step = int(now / 0.1)
        self.ends.append((step, failed))
        while self.ends[0][0] <= step - 100:
            self.ends.popleft()
        bad = sum(failed for _, failed in self.ends)
        if failed and bad >= self.failures and bad >= self.rate * len(self.ends):
            self.open_until = now + self.seconds
        return True


@given(
    failures=st.integers(1, 6),
    rate=st.sampled_from([0.1, 0.4, 0.5, 1.0]),
    steps=st.lists(
        st.tuples(st.sampled_from([0.0, 0.01, 0.3, 1.0, 4.0, 11.0]), st.booleans()), max_size=60
    ),
)
def test_until_it_opens_it_does_as_the_rule_written_naively(
    failures: int, rate: float, steps: list[tuple[float, bool]]
) -> None:
    breaker, plain, now = Breaker(failures, 3.0, rate), Plain(failures, rate, 3.0), 1000.0
    for wait, failed in steps:
        now += wait
        if breaker.look(now) == "half_open":
            return
        admitted = breaker.admit(now)
        assert (admitted is not None) == plain.request(now, failed)
        if admitted is not None:
            breaker.settle(admitted, failed, now)


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.1, 2.0, 3.0, 10.0]),
            st.sampled_from(["admit", "good", "bad", "gone", "lose"]),
        ),
        max_size=80,
    )
)
def test_no_history_wedges_it(steps: list[tuple[float, str]]) -> None:
    """Whatever happened, and whatever never ends: a service that answers again is used again."""
    breaker, now = Breaker(3, 3.0, 0.5), 0.0
    under_way: list[Pass] = []
    for wait, what in steps:
        now += wait
        if what == "admit":
            admitted = breaker.admit(now)
            if admitted is not None:
                under_way.append(admitted)
        elif under_way:
            pass_ = under_way.pop(0)
            if what != "lose":
                breaker.settle(pass_, {"good": False, "bad": True, "gone": None}[what], now)
        assert len(breaker._places) <= 3
    now += 20.0
    requests(breaker, 3, now, failed=False)
    assert state(breaker) == "closed"


@pytest.mark.parametrize("rate", [0.4, 0.5])
def test_a_share_that_equals_the_rate_opens_it(rate: float) -> None:
    breaker = Breaker(10, rate=rate)
    requests(breaker, round(10 / rate) - 10, 0.0, failed=False)
    requests(breaker, 10, 0.0, failed=True)
    assert state(breaker) == "open"
