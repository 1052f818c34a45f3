"""Outlier ejection: who is left alone, for how long, and how many at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.endpoint import DRAINING, EJECTED, UNHEALTHY, Endpoint
from gateway.routing.outlier import eject
from gateway.settings_balancing import OutlierSettings
from tests.routing.members import Told, url


def test_five_failures_in_a_row_eject_an_endpoint_for_30_s() -> None:
    told = Told("ab")
    told.fail("a", 4)
    assert told.ready == "ab"
    told.fail("a", 1, now=2.0)
    assert (told.ready, told["a"].ejected_until) == ("b", 32.0)
    assert told.whys == ["5 failures in a row, for 30 s"]


def test_a_success_in_between_begins_the_count_again() -> None:
    told = Told("ab")
    told.fail("a", 4)
    told.requests("a", 1, 0.0, failed=False)
    told.fail("a", 4)
    assert told.ready == "ab"


def test_a_client_that_left_neither_counts_nor_interrupts() -> None:
    told = Told("ab")
    told.fail("a", 4)
    told.requests("a", 9, 0.0, failed=None)
    assert told.ready == "ab"
    told.fail("a", 1)
    assert told.ready == "b"


def test_each_ejection_is_longer_by_30_s_up_to_300_s() -> None:
    told, now, spans = Told("ab"), 0.0, []
    for _ in range(12):
        told.fail("a", 5, now)
        spans.append(told["a"].ejected_until - now)
        now = told["a"].ejected_until
        told.rotation.look(now)
    assert spans == [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]


def test_an_endpoint_that_stayed_in_for_300_s_begins_at_30_s_again() -> None:
    told = Told("ab")
    told.fail("a", 5, 0.0)
    told.rotation.look(30.0)
    told.fail("a", 5, 329.0)
    assert told["a"].ejected_until == 389.0
    told.rotation.look(389.0)
    told.fail("a", 5, 689.0)
    assert told["a"].ejected_until == 719.0


@pytest.mark.parametrize(
    ("hosts", "share", "most"),
    [("a", 0.5, 0), ("ab", 0.5, 1), ("abc", 0.5, 1), ("abcd", 0.5, 2), ("abcdefghij", 0.1, 1),
     ("abc", 1.0, 3), ("a", 1.0, 1), ("ab", 0.0, 0)],
)  # fmt: skip
def test_at_most_a_share_of_the_endpoints_is_out_rounded_down(
    hosts: str, share: float, most: int
) -> None:
    told = Told(hosts, outlier=OutlierSettings(share=share))
    for host in hosts:
        told.fail(host, 7)
    assert told.states().count("ejected") == most


def test_one_that_could_not_be_ejected_is_when_another_is_back() -> None:
    told = Told("ab")
    told.fail("a")
    told.fail("b", 9)
    assert told.ready == "b"
    told.rotation.look(30.0)
    told.fail("b", 1, 30.0)
    assert told.ready == "a"


def test_those_that_checks_took_out_count_and_those_that_drain_do_not() -> None:
    a, b, c, d = (Endpoint("users", url(host)) for host in "abcd")
    a.failures = 5
    b.state = UNHEALTHY
    c.state = UNHEALTHY
    assert not eject(OutlierSettings(), a, [a, b, c, d], 0.0)
    b.state = c.state = DRAINING
    assert eject(OutlierSettings(), a, [a, b, c, d], 0.0)


def test_who_is_out_already_or_not_there_is_not_ejected() -> None:
    a, b = Endpoint("users", url("a")), Endpoint("users", url("b"))
    a.failures = 5
    assert not eject(OutlierSettings(), a, [b], 0.0)
    a.state = EJECTED
    assert not eject(OutlierSettings(), a, [a, b], 0.0)
    assert a.ejections == 0


def test_without_detection_nobody_is_ejected() -> None:
    told = Told("ab", outlier=None)
    told.fail("a", 50)
    assert told.ready == "ab"


@given(
    st.lists(
        st.tuples(st.sampled_from("abcde"), st.booleans(), st.sampled_from([0.0, 1.0, 45.0])),
        max_size=150,
    )
)
def test_whatever_fails_at_least_half_of_the_endpoints_stay_in(
    steps: list[tuple[str, bool, float]],
) -> None:
    told, now = Told("abcde", outlier=OutlierSettings(failures=2)), 0.0
    for host, failed, wait in steps:
        now += wait
        if now >= told.rotation.look_at:
            told.rotation.look(now)
        told.requests(host, 1, now, failed=failed)
        assert len(told.ready) >= 3
