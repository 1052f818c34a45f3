"""Which endpoints take requests: what requests, checks, time, operators and reloads make of it."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.endpoint import Endpoint
from gateway.routing.rotation import MAX_ENDPOINTS, Rotation, Rules
from gateway.settings_balancing import CheckSettings, OutlierSettings
from tests.routing.members import Told, url

CHECKS = CheckSettings("/health")


def checked(told: Told, host: str, *results: bool, now: float = 0.0) -> None:
    """Checks of one endpoint, one after the other."""
    for passed in results:
        told.rotation.checked(told[host], None if passed else "status 503", now)


# Requests and checks


def test_endpoints_nobody_asked_take_requests() -> None:
    told = Told("ab")
    assert (told.ready, told.states()) == ("ab", "unknown unknown")
    assert repr(told.rotation) == "<Rotation 2 of 2 in>"


def test_a_service_without_endpoints_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs an endpoint"):
        Rotation([], Rules())


def test_a_good_request_or_check_makes_an_endpoint_healthy() -> None:
    told = Told("abc", checks=CHECKS)
    told.requests("a", 2, 0.0, failed=False)
    checked(told, "b", True, True)
    told.requests("c", 1, 0.0, failed=None)
    assert told.states() == "healthy healthy unknown"
    assert told.lines == ["a unknown>healthy", "b unknown>healthy"]


def test_three_bad_checks_in_a_row_take_an_endpoint_out_and_two_good_ones_bring_it_back() -> None:
    told = Told("ab", checks=CHECKS)
    checked(told, "a", False, False, True, False, False)
    assert told.ready == "ab"
    checked(told, "a", False)
    assert told.ready == "b"
    assert told.whys[-1] == "3 checks failed: status 503"
    checked(told, "a", True, False, True)
    assert (told.ready, told["a"].last_error) == ("b", None)
    checked(told, "a", True)
    assert told.ready == "ab"
    assert told.lines[-2:] == ["a healthy>unhealthy", "a unhealthy>healthy"]


def test_all_endpoints_can_be_taken_out_by_checks() -> None:
    told = Told("a", checks=CHECKS)
    checked(told, "a", False, False, False, False)
    assert (told.ready, told["a"].last_error) == ("", "status 503")
    assert told.lines == ["a unknown>unhealthy"]


def test_a_good_check_ends_an_ejection() -> None:
    told = Told("ab", checks=CHECKS)
    told.fail("a", now=0.0)
    checked(told, "a", True, now=1.0)
    assert told.ready == "ab"
    assert told.lines == ["a unknown>ejected", "a ejected>healthy"]
    told.fail("a", 4, now=1.0)
    assert told.ready == "ab", "its failures before were forgotten"


def test_bad_checks_keep_an_ejected_endpoint_out() -> None:
    told = Told("ab", checks=CHECKS)
    told.fail("a", now=0.0)
    checked(told, "a", False, False, False)
    told.rotation.look(30.0)
    assert (told.ready, told.states()) == ("b", "unhealthy unknown")


def test_an_ejection_ends_with_its_time() -> None:
    told = Told("ab")
    told.fail("a", now=10.0)
    assert told.rotation.look_at == 40.0
    told.rotation.look(39.9)
    assert told.ready == "b"
    told.rotation.look(40.0)
    assert (told.ready, told["a"].state, told.rotation.look_at) == ("ab", "unknown", inf)


def test_checks_that_nobody_asked_for_say_nothing() -> None:
    told = Told("ab")
    checked(told, "a", *[False] * 9)
    assert told.states() == "unknown unknown"


# Slow start


def test_a_recovered_endpoints_share_grows_to_its_weight() -> None:
    told = Told("ab", slow_start=100.0)
    told["a"].weight = 2
    told["a"].share = 2.0
    told.fail("a", now=0.0)
    shares = []
    for now in (30.0, 35.0, 55.0, 80.0, 130.0):
        assert told.rotation.look_at <= now
        told.rotation.look(now)
        shares.append(told["a"].share)
    assert shares == [0.2, 0.2, 0.5, 1.0, 2.0]
    assert (told.rotation.look_at, told.rotation.even) == (inf, False)
    assert told["b"].share == 1.0


def test_shares_are_brought_up_to_date_twenty_times_in_a_slow_start() -> None:
    told = Told("ab", slow_start=100.0)
    told.fail("a", now=0.0)
    now, looks = 30.0, 0
    while now < inf:
        told.rotation.look(now)
        now, looks = told.rotation.look_at, looks + 1
    assert 20 <= looks <= 22


def test_endpoints_of_the_start_begin_with_their_whole_share() -> None:
    told = Told("ab", slow_start=100.0)
    assert [each.share for each in told.rotation.endpoints] == [1.0, 1.0]
    assert told.rotation.look_at == inf


def test_one_that_checks_brought_back_starts_slowly_too() -> None:
    told = Told("ab", slow_start=10.0, checks=CHECKS)
    checked(told, "a", False, False, False, True, True, now=50.0)
    assert told["a"].share == 0.1
    told.rotation.look(55.0)
    assert told["a"].share == 0.5


def test_a_slow_start_that_a_reload_took_away_is_over() -> None:
    told = Told("ab", slow_start=100.0)
    told.fail("a", now=0.0)
    told.rotation.look(30.0)
    told.rotation.configure(Rules(OutlierSettings()), 31.0)
    assert (told["a"].share, told.rotation.even) == (1.0, True)


# An operator


def test_a_drained_endpoint_gets_nothing_new_and_ends_what_it_has() -> None:
    told = Told("ab")
    told["a"].outstanding = 2
    told.rotation.drain("http://a.test")
    assert (told.ready, told.states()) == ("b", "draining unknown")
    told.rotation.settled(told["a"], False, 0.0)
    assert (told["a"].outstanding, told["a"].state) == (1, "draining")


def test_neither_failures_nor_checks_nor_time_change_a_draining_endpoint() -> None:
    told = Told("abc", checks=CHECKS)
    told.fail("a", now=0.0)
    told.rotation.drain("http://a.test")
    told.fail("a", 20, now=1.0)
    checked(told, "a", True, True, False, False, False)
    told.rotation.look(500.0)
    assert told["a"].state == "draining"


def test_the_last_endpoint_is_not_drained() -> None:
    told = Told("ab")
    told.rotation.drain("http://a.test")
    with pytest.raises(ValueError, match=r"http://b\.test is the last endpoint"):
        told.rotation.drain("http://b.test")
    with pytest.raises(ValueError, match="last"):
        told.rotation.remove("http://b.test")
    assert told.ready == "b"


def test_an_endpoint_nobody_knows_is_neither_drained_nor_removed() -> None:
    told = Told("ab")
    for change in (told.rotation.drain, told.rotation.remove):
        with pytest.raises(KeyError, match=r"http://x\.test"):
            change("http://x.test")


def test_an_endpoint_is_removed_when_its_last_request_has_ended() -> None:
    told, gone = Told("ab"), list[Endpoint]()
    told.rotation.on_removed = gone.append
    a = told["a"]
    a.outstanding = 2
    told.rotation.remove("http://a.test")
    told.rotation.settled(a, False, 0.0)
    assert (len(told.rotation.endpoints), gone) == (2, [])
    told.rotation.settled(a, True, 0.0)
    assert (len(told.rotation.endpoints), gone) == (1, [a])


def test_an_idle_endpoint_is_removed_at_once_and_a_drained_one_as_well() -> None:
    told = Told("abc")
    told.rotation.remove("http://a.test")
    told.rotation.drain("http://b.test")
    told.rotation.remove("http://b.test")
    assert (told.ready, len(told.rotation.endpoints)) == ("c", 1)


def test_an_added_endpoint_takes_requests_with_its_weight() -> None:
    told = Told("a")
    added = told.rotation.add(Endpoint("users", url("b"), 3))
    assert (told.ready, added.share, told.rotation.even) == ("ab", 3.0, False)
    with pytest.raises(ValueError, match=r"http://b\.test is an endpoint already"):
        told.rotation.add(Endpoint("users", url("b")))


def test_an_added_endpoint_starts_slowly_from_the_first_look_on() -> None:
    told = Told("a", slow_start=10.0)
    told.rotation.add(Endpoint("users", url("b")))
    assert told.rotation.look_at < 0
    for now, share in ((500.0, 0.1), (505.0, 0.5), (510.0, 1.0)):
        told.rotation.look(now)
        assert told["b"].share == share


def test_a_draining_endpoint_that_is_added_again_takes_part_again() -> None:
    told = Told("ab")
    a = told["a"]
    a.outstanding = 1
    told.fail("a")
    told.rotation.remove("http://a.test")
    assert told.rotation.add(Endpoint("users", url("a"), 2)) is a
    assert (told.ready, a.weight, a.failures) == ("ab", 2, 0)
    told.rotation.settled(a, False, 0.0)
    assert told.ready == "ab", "it is not leaving any more"


def test_endpoints_are_bounded() -> None:
    told = Told("a")
    for number in range(MAX_ENDPOINTS - 1):
        told.rotation.add(Endpoint("users", url(f"b{number}")))
    with pytest.raises(ValueError, match="at most 1024 endpoints"):
        told.rotation.add(Endpoint("users", url("z")))


# A reload


def test_endpoints_that_stay_keep_their_standing_and_others_come_and_go() -> None:
    told = Told("abcd")
    a, b, c = told["a"], told["b"], told["c"]
    told.fail("a", now=0.0)
    b.outstanding = c.outstanding = 4
    told.rotation.drain("http://d.test")
    told.rotation.replace([(url(host), 2) for host in "ebad"], "users", 1.0)
    assert [each.url.host[0] for each in told.rotation.endpoints] == list("ebad")
    assert (told["a"], told["b"], b.outstanding, b.weight, b.share) == (a, b, 4, 2, 2.0)
    assert told.states() == "unknown unknown ejected draining"
    assert c.state == "draining"
    told.rotation.settled(c, True, 2.0)
    assert (c.outstanding, told.ready) == (3, "eb")


def test_an_endpoint_that_is_gone_says_nothing_any_more() -> None:
    told = Told("abc", checks=CHECKS)
    a = told["a"]
    a.outstanding = 20
    told.rotation.replace([(url("b"), 1), (url("c"), 1)], "users", 0.0)
    for _ in range(10):
        told.rotation.settled(a, True, 0.0)
    told.rotation.checked(a, "status 500", 0.0)
    assert (a.outstanding, a.state, told.ready) == (10, "draining", "bc")


def test_one_that_was_leaving_when_a_reload_dropped_it_is_not_forgotten_twice() -> None:
    told = Told("ab")
    gone: list[Endpoint] = []
    told.rotation.on_removed = gone.append
    old = told["a"]
    old.outstanding = 1
    told.rotation.remove(old.name)
    told.rotation.replace([(url("b"), 1)], "users", 0.0)
    new = told.rotation.add(Endpoint("users", url("a")))
    told.rotation.settled(old, False, 0.0)
    assert gone == []
    assert told.rotation.ready[-1] is new


def test_when_all_that_stay_are_draining_they_take_part_again() -> None:
    told = Told("ab")
    told.rotation.drain("http://a.test")
    told.rotation.replace([(url("a"), 1)], "users", 0.0)
    assert told.ready == "a"


def test_who_is_out_by_a_rule_that_is_no_more_is_in_again() -> None:
    told = Told("abcd", checks=CHECKS)
    told.fail("a", now=0.0)
    checked(told, "b", False, False, False)
    checked(told, "c", False)
    told.rotation.configure(Rules(OutlierSettings(), None), 1.0)
    assert (told.ready, told["b"].last_error) == ("bcd", None)
    told.rotation.configure(Rules(None, None), 2.0)
    assert (told.ready, told.rotation.look_at) == ("abcd", inf)
    told.rotation.configure(Rules(None, CHECKS), 3.0)
    checked(told, "c", False, False)
    assert told.ready == "abcd", "checks of other settings do not count with those of these"


def test_without_anybody_to_tell_changes_happen_all_the_same() -> None:
    rotation = Rotation([Endpoint("users", url("a")), Endpoint("users", url("b"))], Rules())
    rotation.remove("http://a.test")
    assert len(rotation.ready) == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["pick", "good", "bad", "gone", "pass", "fail", "drain", "remove",
                             "add", "wait"]),
            st.sampled_from("abcd"),
        ),
        max_size=120,
    )
)  # fmt: skip
def test_whatever_happens_requests_are_counted_and_one_endpoint_takes_part(
    steps: list[tuple[str, str]],
) -> None:
    told, now = Told("abc", checks=CHECKS, slow_start=5.0), 0.0
    rotation = told.rotation
    under_way: list[Endpoint] = []
    for what, host in steps:
        member = next((e for e in rotation.endpoints if e.url.host[0] == host), None)
        if what == "wait":
            now += 7.0
        elif what == "pick" and member is not None and member.available:
            member.outstanding += 1
            under_way.append(member)
        elif what in ("good", "bad", "gone") and under_way:
            failed = {"good": False, "bad": True, "gone": None}[what]
            rotation.settled(under_way.pop(0), failed, now)
        elif what in ("pass", "fail") and member is not None:
            rotation.checked(member, None if what == "pass" else "status 500", now)
        elif what in ("drain", "remove", "add"):
            try:
                if what == "add":
                    rotation.add(Endpoint("users", url(host)))
                else:
                    getattr(rotation, what)(f"http://{host}.test")
            except (KeyError, ValueError):
                pass
        if now >= rotation.look_at:
            rotation.look(now)
        assert any(each.state != "draining" for each in rotation.endpoints)
        assert rotation.ready == tuple(each for each in rotation.endpoints if each.available)
        for each in {*rotation.endpoints, *under_way}:
            assert each.outstanding == under_way.count(each)
            assert 0 < each.share <= each.weight
