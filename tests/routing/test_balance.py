"""Whose turn it is among the endpoints of a service."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.balance import RoundRobin


def test_endpoints_take_turns_in_the_order_they_are_given() -> None:
    balance = RoundRobin(["a", "b", "c"])
    assert [balance.pick() for _ in range(7)] == ["a", "b", "c", "a", "b", "c", "a"]


def test_a_single_endpoint_takes_every_turn() -> None:
    balance = RoundRobin(["a"])
    assert [balance.pick() for _ in range(3)] == ["a", "a", "a"]


def test_two_turns_of_two_services_do_not_mix() -> None:
    one, other = RoundRobin(["a", "b"]), RoundRobin(["a", "b"])
    assert (one.pick(), other.pick(), one.pick(), other.pick()) == ("a", "a", "b", "b")


def test_a_service_without_endpoints_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs an endpoint"):
        RoundRobin([])


@given(endpoints=st.integers(1, 20), turns=st.integers(0, 200))
def test_no_endpoint_is_ever_two_turns_ahead(endpoints: int, turns: int) -> None:
    balance = RoundRobin(range(endpoints))
    taken = Counter(dict.fromkeys(range(endpoints), 0))
    taken.update(balance.pick() for _ in range(turns))
    assert max(taken.values()) - min(taken.values()) <= 1
