"""The door closes to an address that keeps getting it wrong, for a growing time, and says so."""

from __future__ import annotations

import pytest
import structlog
from structlog.testing import capture_logs

from gateway.policy import abuse
from gateway.policy.abuse import Doors
from gateway.policy.ratelimit import address_key
from gateway.settings_limits import AbuseSettings

HERE = address_key("192.0.2.1")
THERE = address_key("2001:db8::1")
FIGURES = AbuseSettings(
    bad_credentials=3, refusals=5, window_seconds=60, close_seconds=10, close_max_seconds=40
)


def guess(doors: Doors, count: int, now: float, key: int = HERE) -> None:
    for _ in range(count):
        doors.bad_credential(key, now)


def test_without_the_table_no_door_closes() -> None:
    doors = Doors(None)
    guess(doors, 1000, 0.0)
    for _ in range(1000):
        doors.refused(HERE, 0.0)
    assert doors.closed(HERE, 0.0) == 0
    assert repr(doors) == "<Doors remembered=0 shut=0 closed_total=0>"


def test_bad_credentials_close_the_door_to_that_address_alone() -> None:
    doors = Doors(FIGURES)
    guess(doors, 2, 0.0)
    assert doors.closed(HERE, 0.0) == 0
    guess(doors, 1, 59.0)
    assert doors.closed(HERE, 59.0) == 10
    assert doors.closed(HERE, 68.5) == 1
    assert doors.closed(THERE, 59.0) == 0
    assert doors.closed(HERE, 69.0) == 0
    assert doors.closed_total == 1


def test_refusals_close_it_too_and_are_counted_apart() -> None:
    doors = Doors(FIGURES)
    for _ in range(4):
        doors.refused(HERE, 0.0)
    guess(doors, 2, 0.0)
    assert doors.closed(HERE, 0.0) == 0
    doors.refused(HERE, 1.0)
    assert doors.closed(HERE, 1.0) == 10


def test_what_is_spread_over_windows_closes_nothing() -> None:
    doors = Doors(FIGURES)
    for now in range(0, 600, 31):
        guess(doors, 1, float(now))
    assert doors.closed_total == 0


def test_each_time_it_stays_shut_twice_as_long_up_to_the_most() -> None:
    doors, now, times = Doors(FIGURES), 0.0, []
    for _ in range(5):
        guess(doors, 3, now)
        times.append(doors.closed(HERE, now))
        now += times[-1]
    assert times == [10, 20, 40, 40, 40]
    assert doors.closed_total == 5


def test_who_was_good_for_long_begins_anew() -> None:
    doors = Doors(FIGURES)
    guess(doors, 3, 0.0)
    guess(doors, 3, 10.0)
    assert doors.closed(HERE, 10.0) == 20
    guess(doors, 3, 30.0 + 39.0)
    assert doors.closed(HERE, 69.0) == 40
    guess(doors, 3, 109.0 + 40.0)
    assert doors.closed(HERE, 149.0) == 10


def test_requests_that_were_let_in_before_do_not_close_a_shut_door_again() -> None:
    doors = Doors(FIGURES)
    guess(doors, 20, 0.0)
    assert doors.closed_total == 1
    assert doors.closed(HERE, 0.0) == 10
    guess(doors, 2, 10.0)
    assert doors.closed(HERE, 10.0) == 0


@pytest.mark.parametrize("settings", [AbuseSettings(bad_credentials=0), AbuseSettings(refusals=0)])
def test_zero_is_not_counted(settings: AbuseSettings) -> None:
    doors = Doors(settings)
    for _ in range(500):
        if settings.refusals:
            doors.bad_credential(HERE, 0.0)
        else:
            doors.refused(HERE, 0.0)
    assert doors.closed_total == 0


def test_each_closing_is_one_line_of_the_log() -> None:
    with capture_logs() as lines:
        doors = Doors(FIGURES, structlog.get_logger("gateway.policy"))
        guess(doors, 7, 0.0)
        for _ in range(5):
            doors.refused(THERE, 0.0)
        guess(doors, 3, 10.0)
    assert lines == [
        {
            "event": "door_closed",
            "log_level": "warning",
            "address": address,
            "reason": reason,
            "seconds": seconds,
            "times": times,
        }
        for address, reason, seconds, times in (
            ("192.0.2.1", "bad_credentials", 10, 1),
            ("2001:db8::/64", "refusals", 10, 1),
            ("192.0.2.1", "bad_credentials", 20, 2),
        )
    ]


def test_addresses_and_shut_doors_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abuse, "MAX_ADDRESSES", 10)
    doors = Doors(FIGURES)
    for key in range(50):
        guess(doors, 3, 0.0, key)
    assert repr(doors) == "<Doors remembered=10 shut=10 closed_total=50>"
    assert doors.closed(49, 0.0) == 10
    assert doors.closed(1, 0.0) == 0


def test_other_figures_hold_from_then_on() -> None:
    doors = Doors(FIGURES)
    guess(doors, 3, 0.0)
    doors.configure(AbuseSettings(bad_credentials=1))
    assert doors.closed(HERE, 1.0) == 9
    guess(doors, 1, 10.0)
    assert doors.closed(HERE, 10.0) == 120
    guess(doors, 1, 200.0)
    doors.configure(None)
    assert doors.closed(HERE, 200.0) == 0
    assert repr(doors) == "<Doors remembered=0 shut=0 closed_total=3>"


def test_closing_for_ever_more_is_no_number_too_large() -> None:
    doors, now = Doors(AbuseSettings(bad_credentials=1, close_max_seconds=61.0)), 0.0
    for _ in range(3000):
        doors.bad_credential(HERE, now)
        now += doors.closed(HERE, now)
    assert doors.closed_total == 3000
