"""Revoked ids: at once, until their credentials end, and bounded."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.revocations import Revocations
from tests.policy.keys import NOW


def test_an_id_is_revoked_from_then_on() -> None:
    revocations = Revocations()
    assert not revocations.is_revoked("t-1")
    revocations.revoke("t-1", NOW)
    assert revocations.is_revoked("t-1")
    assert not revocations.is_revoked("t-2")
    assert not revocations.is_revoked(None)


def test_an_id_is_held_until_its_credential_is_refused_for_its_age() -> None:
    revocations = Revocations()
    revocations.revoke("token", NOW)
    revocations.revoke("later", NOW + 1)
    revocations.revoke("key", None)
    revocations.forget_ended(NOW + 29.9)  # the leeway that tokens are granted
    assert len(revocations) == 3
    revocations.forget_ended(NOW + 30)
    assert [revocations.is_revoked(each) for each in ("token", "later", "key")] == [
        *(False, True, True)
    ]
    revocations.forget_ended(1e12)
    assert repr(revocations) == "<Revocations 1 dropped=0>"


def test_the_later_of_two_ends_counts() -> None:
    revocations = Revocations()
    for end in (NOW, NOW + 60, NOW + 30):
        revocations.revoke("t-1", end)
    revocations.forget_ended(NOW + 89)
    assert revocations.is_revoked("t-1")
    revocations.forget_ended(NOW + 90)
    assert not revocations.is_revoked("t-1")
    revocations.revoke("t-1", NOW)
    revocations.revoke("t-1", None)
    revocations.forget_ended(1e12)
    assert revocations.is_revoked("t-1")


def test_what_other_gateways_revoked_takes_nothing_back() -> None:
    revocations = Revocations()
    revocations.revoke("here", NOW + 60)
    revocations.merge({"there": NOW + 60, "key": None})
    revocations.merge({"there": NOW})
    assert all(revocations.is_revoked(each) for each in ("here", "there", "key"))


def test_past_the_bound_those_that_end_soonest_go() -> None:
    revocations = Revocations(bound=3)
    for name, end in (("b", NOW + 2), ("a", NOW + 1), ("c", NOW + 3)):
        revocations.revoke(name, end)
    revocations.revoke("a", NOW + 9)  # known already: nothing goes for it
    assert len(revocations) == 3
    revocations.revoke("soon", NOW)  # a new one is never the one to go
    assert [revocations.is_revoked(each) for each in ("a", "b", "c", "soon")] == [
        *(True, False, True, True)
    ]
    revocations.revoke("next", None)
    assert not revocations.is_revoked("soon")
    assert repr(revocations) == "<Revocations 3 dropped=2>"


def test_an_end_that_grows_again_and_again_takes_no_room() -> None:
    revocations = Revocations(bound=4)
    for end in range(1000):
        revocations.revoke("t-1", NOW + end)
        revocations.revoke("t-2", NOW + end)
    assert len(revocations._order) <= 9
    revocations.forget_ended(NOW + 999)
    assert len(revocations) == 2
    for name in ("t-3", "t-4", "t-5"):
        revocations.revoke(name, None)
    assert [revocations.is_revoked(f"t-{n}") for n in range(1, 6)] == [
        *(False, True, True, True, True)
    ]


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 99)), max_size=200))
def test_repeating_takes_no_room_and_forgets_nothing(said: list[tuple[str, int]]) -> None:
    revocations = Revocations(bound=8)
    ends: dict[str, float] = {}
    for name, end in said:
        revocations.revoke(name, end)
        ends[name] = max(end, ends.get(name, -math.inf))
    assert len(revocations._order) <= 17
    for wall in (50.0, 200.0):
        revocations.forget_ended(wall + 30)
        held = {name for name, end in ends.items() if end > wall}
        assert {name for name in "abcdefgh" if revocations.is_revoked(name)} == held
