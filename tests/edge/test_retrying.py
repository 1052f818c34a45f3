"""How long to wait before the next attempt; whole journeys are in `scenarios/test_retries.py` and
`scenarios/test_hedging.py`.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.message import ResponseHead
from gateway.edge.retrying import backoff_seconds, retry_after_seconds
from gateway.settings_routes import RetrySettings

USUAL = RetrySettings()


def longest(retries: int, settings: RetrySettings = USUAL) -> float:
    """The end of what is drawn from."""
    return backoff_seconds(settings, retries, lambda steps: steps)


def test_the_wait_is_drawn_from_up_to_25_ms_then_twice_that_up_to_250_ms() -> None:
    assert [longest(retries) for retries in range(5)] == [0.025, 0.05, 0.1, 0.2, 0.25]
    assert longest(10_000) == 0.25
    assert backoff_seconds(USUAL, 9, lambda _: 0) == 0


def test_a_row_may_say_otherwise() -> None:
    settings = RetrySettings(backoff=1.0, backoff_max=1.5)
    assert [longest(retries, settings) for retries in range(3)] == [1.0, 1.5, 1.5]


@given(st.integers(0, 40))
def test_the_wait_is_spread_over_all_of_it(retries: int) -> None:
    drawn = [backoff_seconds(USUAL, retries) for _ in range(200)]
    most = longest(retries)
    assert all(0 <= wait < most for wait in drawn)
    assert min(drawn) < most / 2 < max(drawn)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0.0),
        (b"", 0.0),
        (b"0", 0.0),
        (b"2", 2.0),
        (b" 120 ", 120.0),
        (b"-5", 0.0),
        (b"1.5", 0.0),
        (b"\xb2", 0.0),
        (b"soon", 0.0),
        (b"Thu, 01 Jan 1970 00:01:40 GMT", 40.0),
        (b"Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
        (b"Thu, 99 Jan 1970 00:00:10 GMT", 0.0),
        (b"9" * 400, float("inf")),
    ],
)
def test_a_retry_after_is_seconds_or_a_date_and_anything_else_none(
    value: bytes | None, seconds: float
) -> None:
    fields = [(b"Server", b"x")]
    if value is not None:
        fields.append((b"retry-AFTER", value))
    assert retry_after_seconds(ResponseHead(503, b"", fields), 60.0) == seconds
