"""How many retries of a service are under way at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.budget import RetryBudget


def test_three_retries_are_always_allowed() -> None:
    budget = RetryBudget()
    assert [budget.may_retry(1) for _ in range(5)] == [True, True, True, False, False]
    assert repr(budget) == "<RetryBudget retries=3 refused=2>"


def test_a_fifth_of_the_active_requests_may_be_retries() -> None:
    budget = RetryBudget()
    assert sum(budget.may_retry(100) for _ in range(60)) == 20


def test_a_retry_that_is_over_makes_room_for_another() -> None:
    budget = RetryBudget()
    for _ in range(3):
        budget.may_retry(1)
    assert not budget.may_retry(1)
    budget.retry_over()
    assert budget.may_retry(1)
    assert not budget.may_retry(1)


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 200)), max_size=100))
def test_retries_never_exceed_the_larger_of_floor_and_share(
    steps: list[tuple[bool, int]],
) -> None:
    budget = RetryBudget()
    for asks, active in steps:
        if asks:
            if budget.may_retry(active):
                assert budget.retries <= max(3, active // 5)
        elif budget.retries:
            budget.retry_over()
    assert budget.retries >= 0
