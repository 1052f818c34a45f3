"""When a delivery is tried again: growing delays, a day, and a receiver's wish for patience."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gateway.callbacks.retries import DAY_SECONDS, next_try, next_try_for_job, retry_after

MIDDLE = 0.5  # a draw that leaves the delay as it is


def test_delays_grow_to_two_hours_and_end_with_a_last_try_after_a_day() -> None:
    now, times = 0.0, [0.0]
    for failed in range(1, 100):
        at = next_try(0.0, failed, now, MIDDLE)
        if at is None:
            break
        times.append(at)
        now = at
    delays = [later - earlier for earlier, later in pairwise(times)]
    assert delays[:8] == [5, 15, 45, 135, 405, 1215, 3645, 7200]
    assert set(delays[8:-1]) == {7200}
    assert times[-1] == DAY_SECONDS
    assert len(times) == 20


@pytest.mark.parametrize(("chance", "delay"), [(0.0, 33.75), (0.5, 45.0), (1.0, 56.25)])
def test_a_delay_is_up_to_a_quarter_shorter_or_longer(chance: float, delay: float) -> None:
    assert next_try(0.0, 3, 1000.0, chance) == 1000.0 + delay


def test_a_try_that_was_due_while_nobody_was_there_is_the_last_when_the_day_is_over() -> None:
    assert next_try(0.0, 1, DAY_SECONDS - 1, MIDDLE) == DAY_SECONDS
    assert next_try(0.0, 1, DAY_SECONDS, MIDDLE) is None
    assert next_try(0.0, 1, DAY_SECONDS * 7, MIDDLE) is None


def test_a_wish_for_patience_is_heard_up_to_an_hour_and_never_shortens_a_delay() -> None:
    assert next_try(0.0, 1, 100.0, MIDDLE, 60.0) == 160.0
    assert next_try(0.0, 1, 100.0, MIDDLE, 1e9) == 3700.0
    assert next_try(0.0, 8, 100.0, MIDDLE, 1.0) == 7300.0
    assert next_try(0.0, 1, DAY_SECONDS - 10, MIDDLE, 60.0) == DAY_SECONDS


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("120", 120.0),
        (" 0 ", 0.0),
        ("9" * 500, 9_999_999_999.0),
        ("-5", None),
        ("1.5", None),
        ("\u0661", None),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 110.0),
        ("Thu, 01 Jan 1970 00:02:00 -0000", 110.0),
        ("Thu, 01 Jan 1970 00:00:05 GMT", 0.0),
        ("Thu, 99 Jan 1970 00:00:05 GMT", None),
        ("Thu, 01 Jan 99999999999 00:00:05 GMT", None),
    ],
)
def test_a_wish_for_patience_is_seconds_or_a_date(text: str | None, seconds: float | None) -> None:
    assert retry_after(text, 10.0) == seconds


def test_a_job_is_told_soon_and_as_long_as_the_decision_is_kept() -> None:
    delays = [next_try_for_job(failed, 100.0, MIDDLE) - 100 for failed in range(1, 2000)]
    assert delays[:4] == [5, 15, 45, 60]
    assert set(delays[4:]) == {60}
    assert (next_try_for_job(9, 0.0, 0.0), next_try_for_job(9, 0.0, 1.0)) == (45, 75)
