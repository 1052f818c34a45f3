"""The registry: what a service knows of itself, which endpoint it picks, and what of it outlives a
reload.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import structlog

from gateway.observe.metrics import Metrics
from gateway.routing.services import (
    Service,
    breaker_changes,
    breaker_states,
    endpoints_up,
    exposed,
    services_from,
)
from gateway.settings import EndpointUrl, ServiceSettings
from gateway.settings_balancing import BreakerSettings, CheckSettings, OutlierSettings
from tests.routing import members
from tests.routing.members import SECRET, fail, named, picks, url


def service(
    name: str,
    *urls: EndpointUrl,
    aliases: tuple[str, ...] = (),
    is_exposed: bool = True,
    upgrades: tuple[str, ...] = ("websocket",),
) -> Service:
    endpoints = urls or (EndpointUrl("http", "a.test", 80, ""),)
    settings = ServiceSettings(
        name=name,
        aliases=aliases or (name,),
        endpoints=endpoints,
        exposed=is_exposed,
        upgrades=upgrades,
    )
    return Service(settings, Metrics("1").service(name))


@pytest.mark.parametrize(
    ("url", "name", "host_line", "base_path"),
    [
        (EndpointUrl("http", "a.test", 80, ""), "http://a.test", b"Host: a.test\r\n", b""),
        (
            EndpointUrl("http", "a.test", 443, "/v2"),
            "http://a.test:443/v2",
            b"Host: a.test:443\r\n",
            b"/v2",
        ),
        (EndpointUrl("https", "a.test", 443, ""), "https://a.test", b"Host: a.test\r\n", b""),
        (EndpointUrl("http", "::1", 9000, ""), "http://[::1]:9000", b"Host: [::1]:9000\r\n", b""),
    ],
)
def test_an_endpoint_has_what_each_request_to_it_needs(
    url: EndpointUrl, name: str, host_line: bytes, base_path: bytes
) -> None:
    (endpoint,) = service("users", url).endpoints
    assert endpoint.service == "users"
    assert endpoint.url == url
    assert endpoint.name == name
    assert endpoint.host_line == host_line
    assert endpoint.base_path == base_path
    assert repr(endpoint) == f"<Endpoint {name} unknown outstanding=0>"


def test_two_services_at_one_address_have_a_pool_each() -> None:
    url = EndpointUrl("http", "a.test", 80, "")
    one, other = service("one", url).endpoints[0], service("other", url).endpoints[0]
    assert one.name == other.name
    assert one.key != other.key


def test_upgrades_are_compared_in_lower_case() -> None:
    assert service("users", upgrades=("WebSocket", "x")).upgrades == {b"websocket", b"x"}
    assert service("users", upgrades=()).upgrades == frozenset()


def test_a_service_shows_its_name_and_where_it_leads() -> None:
    assert repr(service("users")) == "<Service users endpoints=['http://a.test']>"


def test_services_are_reached_by_every_name_and_hidden_ones_by_none() -> None:
    users = service("users", aliases=("users", "users_service"))
    inner = service("inner", is_exposed=False)
    assert exposed([users, inner]) == {"users": users, "users_service": users}
    assert exposed([]) == {}


# Picking


def test_endpoints_of_a_service_take_turns() -> None:
    assert picks(members.service(), 5) == "abcab"


def test_endpoints_that_are_out_are_passed_over_and_come_back_with_their_time() -> None:
    made = members.service()
    fail(made, "b", now=0.0)
    assert picks(made, 4, now=29.9) == "acac"
    assert sorted(picks(made, 3, now=30.0)) == list("abc")


@pytest.mark.parametrize("kind", ["round_robin", "weighted", "p2c", "hash"])
@pytest.mark.parametrize("key", [None, b"somebody"])
def test_no_balancer_takes_one_that_is_out_or_was_tried_while_another_is_left(
    kind: str, key: bytes | None
) -> None:
    made = members.service("abcde", kind=kind, weights=(1, 2, 3, 4, 5))
    fail(made, "a")
    made.drain_endpoint("http://b.test")
    tried = [named(made, "c"), named(made, "d")]
    assert set(picks(made, 50, key=key, avoid=tried)) == {"e"}
    assert set(picks(made, 50, key=key)) <= {"c", "d", "e"}
    tried.append(named(made, "e"))
    assert set(picks(made, 50, key=key, avoid=tried)) <= {"c", "d", "e"}, "no other is left"


def test_one_endpoint_is_taken_again_though_it_was_tried() -> None:
    made = members.service("a")
    assert picks(made, 2, avoid=[named(made, "a")]) == "aa"


def test_weights_of_the_settings_are_those_of_the_endpoints() -> None:
    made = members.service("abc", kind="weighted", weights=(5, 1, 1))
    assert picks(made, 7) == "aabacaa"


def test_requests_under_way_are_counted_for_the_choice() -> None:
    made = members.service("ab", kind="p2c")
    for host in picks(made, 1):
        made.picked(named(made, host))
    busy = next(each for each in made.endpoints if each.outstanding)
    assert busy.url.host[0] not in picks(made, 20)
    made.settled(busy, None, 0.0)
    assert set(picks(made, 50)) == {"a", "b"}


def test_a_key_keeps_its_endpoint_and_moves_when_that_is_out() -> None:
    made = members.service("abcd", kind="hash", hash_on=("header", b"x-user"))
    assert made.hash_source == ("header", b"x-user")
    (mine,) = set(picks(made, 20, key=b"somebody"))
    fail(made, mine)
    (other,) = set(picks(made, 20, key=b"somebody"))
    assert other != mine
    assert set(picks(made, 1, now=30.0, key=b"somebody")) == {mine}


def test_a_recovered_endpoint_gets_a_share_that_grows() -> None:
    made = members.service("ab", slow_start=100.0)
    fail(made, "a", now=0.0)
    taken = [Counter(picks(made, 200, now=now))["a"] for now in (30.0, 80.0, 130.0)]
    assert taken == [pytest.approx(18, abs=3), pytest.approx(67, abs=3), 100]


def all_out(**changed: Any) -> Service:
    """A service of which checks and an operator took everything out."""
    made = members.service("abc", checks=CheckSettings("/"), **changed)
    made.drain_endpoint("http://c.test")
    for endpoint in made.endpoints:
        for _ in range(3):
            made.rotation.checked(endpoint, "status 500", 0.0)
    return made


def test_with_all_endpoints_out_none_is_picked() -> None:
    assert picks(all_out(), 3) == "---"


def test_in_panic_those_that_are_out_are_tried_but_not_those_drained_by_hand() -> None:
    made = all_out(panic=True)
    assert picks(made, 4) == "abab"
    assert picks(made, 3, avoid=[named(made, "a")]) == "bbb"
    assert set(picks(made, 2, avoid=list(made.endpoints))) == {"a", "b"}


def test_in_panic_weights_count_too() -> None:
    made = all_out(panic=True, kind="weighted", weights=(3, 1, 1))
    assert Counter(picks(made, 40)) == {"a": 30, "b": 10}


def test_by_default_half_of_the_endpoints_stay_in_whatever_fails() -> None:
    made = members.service("abcd")
    for host in "abcd":
        fail(made, host, 20)
    assert len(set(picks(made, 20))) == 2


# Settings


def test_breaker_and_detection_are_on_by_default_and_checks_are_not() -> None:
    made = members.service("ab")
    for _ in range(20):
        pass_ = made.breaker.admit(0.0)
        assert pass_ is not None
        made.breaker.settle(pass_, True, 0.0)
    assert made.breaker.admit(0.0) is None
    assert made.settings.checks is None


def test_a_breaker_has_the_figures_of_its_service() -> None:
    made = members.service("a", breaker=BreakerSettings(10, 2.0, 0.4))
    for failed in [False] * 15 + [True] * 10:
        pass_ = made.breaker.admit(0.0)
        assert pass_ is not None
        made.breaker.settle(pass_, failed, 0.0)
    assert (made.breaker.state, made.breaker.retry_after(0.0)) == ("open", 2)


def test_a_breaker_that_is_off_never_opens_by_itself() -> None:
    made = members.service("a", breaker=None)
    for _ in range(500):
        pass_ = made.breaker.admit(0.0)
        assert pass_ is not None
        made.breaker.settle(pass_, True, 0.0)
    made.breaker.force_open()
    assert made.breaker.admit(0.0) is None


def test_sticky_sessions_need_a_secret() -> None:
    settings = members.settings(sticky="seat")
    with pytest.raises(ValueError, match="'users' has sticky sessions and no secret"):
        Service(settings, Metrics("1").service("users"))


# What is shown


def test_health_shows_the_breaker_and_how_each_endpoint_stands() -> None:
    made = members.service("abc", checks=CheckSettings("/"), breaker=BreakerSettings(1, 2.0, 0.1))
    fail(made, "a", now=100.0)
    for _ in range(3):
        made.rotation.checked(named(made, "b"), "status 500", 100.0)
    c = named(made, "c")
    made.add_endpoint(url("d"), 7)
    made.picked(c)
    made.remove_endpoint("http://c.test")
    pass_ = made.breaker.admit(100.0)
    assert pass_ is not None
    made.breaker.settle(pass_, True, 100.0)
    shown = made.health(101.5)
    assert shown["breaker"] == {"state": "open", "forced": False, "requests": 1, "failed": 1}
    plain: dict[str, object] = {"weight": 1, "outstanding": 0, "last_error": None}
    assert shown["endpoints"] == [
        {"url": "http://a.test", "state": "ejected", **plain, "ejected_seconds": 28.5},
        {"url": "http://b.test", "state": "unhealthy", **plain, "last_error": "status 500"},
        {"url": "http://c.test", "state": "draining", **plain, "outstanding": 1, "leaving": True},
        {"url": "http://d.test", "state": "unknown", **plain, "weight": 7},
    ]


def test_health_notices_what_time_has_brought() -> None:
    made = members.service("ab", breaker=BreakerSettings(1, 2.0, 0.1))
    fail(made, "a", now=0.0)
    pass_ = made.breaker.admit(0.0)
    assert pass_ is not None
    made.breaker.settle(pass_, True, 0.0)
    shown = made.health(30.0)
    assert shown["breaker"] == {"state": "half_open", "forced": False, "requests": 1, "failed": 1}
    assert picks(made, 2) == "ab"


def test_figures_for_prometheus_name_service_and_endpoint() -> None:
    made = members.service("ab", breaker=BreakerSettings(1, 3.0, 0.1))
    fail(made, "a")
    made.breaker.force_open()
    assert breaker_states([made], 0.0) == [(("users",), 2.0)]
    made.breaker.reset()
    assert breaker_states([made], 0.0) == [(("users",), 0.0)]
    assert breaker_changes([made]) == [
        (("users", "closed"), 1.0),
        (("users", "half_open"), 0.0),
        (("users", "open"), 1.0),
    ]
    assert endpoints_up([made]) == [
        (("users", "http://a.test"), 0.0),
        (("users", "http://b.test"), 1.0),
    ]


def test_changes_are_logged_once() -> None:
    with structlog.testing.capture_logs() as lines:
        made = members.service("ab")
        made.settled(named(made, "b"), False, 0.0)
        fail(made, "a", 9)
        made.rotation.look(30.0)
        made.breaker.force_open()
        made.breaker.reset()
    told = [(line["event"], line["log_level"], line["before"], line["to"]) for line in lines]
    assert told == [
        ("endpoint_changed", "debug", "unknown", "healthy"),
        ("endpoint_changed", "warning", "unknown", "ejected"),
        ("endpoint_changed", "info", "ejected", "unknown"),
        ("breaker_changed", "warning", "closed", "open"),
        ("breaker_changed", "info", "open", "closed"),
    ]
    assert lines[1]["service"] == "users"
    assert lines[1]["endpoint"] == "http://a.test"
    assert lines[1]["why"] == "5 failures in a row, for 30 s"
    assert (lines[3]["service"], lines[3]["forced"]) == ("users", True)


# Reloads


def reloaded(before: list[Service], *settings: ServiceSettings, **more: Any) -> list[Service]:
    """The services after a reload."""
    more.setdefault("sticky_secret", SECRET)
    return services_from(settings, Metrics("1"), before, **more)


def test_what_did_not_change_is_not_touched() -> None:
    before = reloaded([], members.settings(sticky="seat"), members.settings(name="orders"))
    before[0].drain_endpoint("http://a.test")
    before[0].add_endpoint(url("d"))
    after = reloaded(before, members.settings(sticky="seat"), members.settings(name="orders"))
    assert after == before
    assert picks(after[0], 3) == "bcd"


def test_services_come_and_go() -> None:
    before = reloaded([], members.settings(), members.settings(name="orders"))
    after = reloaded(before, members.settings(name="orders"), members.settings(name="new"))
    assert [each.name for each in after] == ["orders", "new"]
    assert after[0] is before[1]


def test_an_endpoint_that_stays_keeps_how_it_stands() -> None:
    (before,) = reloaded([], members.settings("abc"))
    a = named(before, "a")
    fail(before, "a", now=0.0)
    before.picked(a)
    (after,) = reloaded([before], members.settings("adc"), now=1.0)
    assert named(after, "a") is a
    assert (a.state, a.outstanding) == ("ejected", 1)
    assert picks(after, 2, now=1.0) == "dc"
    assert sorted(picks(after, 3, now=30.0)) == list("acd")


def test_requests_under_way_settle_with_the_service_they_began_with() -> None:
    (before,) = reloaded([], members.settings("ab"))
    a, b = named(before, "a"), named(before, "b")
    for _ in range(6):
        before.picked(a)
        before.picked(b)
    (after,) = reloaded([before], members.settings("ac", head_timeout=3.0))
    for _ in range(6):
        before.settled(a, True, 0.0)
        before.settled(b, True, 0.0)
    assert (a.outstanding, b.outstanding) == (0, 0)
    assert picks(after, 2) == "cc", "what the old ones found out is known"
    assert picks(before, 2) == "cc", "and a retry of an old one goes to a new endpoint"


def test_what_an_operator_changed_outlives_a_reload_that_says_nothing_of_endpoints() -> None:
    (before,) = reloaded([], members.settings("ab"))
    before.add_endpoint(url("d"))
    before.drain_endpoint("http://a.test")
    (after,) = reloaded([before], members.settings("ab", head_timeout=3.0))
    assert picks(after, 4) == "bdbd"
    (after,) = reloaded([after], members.settings("abc"))
    assert picks(after, 4) == "bcbc", "a new list is the whole list; what was drained stays so"


def test_other_weights_hold_at_once() -> None:
    (before,) = reloaded([], members.settings("ab", kind="weighted", weights=(1, 1)))
    (after,) = reloaded([before], members.settings("ab", kind="weighted", weights=(3, 1)))
    assert Counter(picks(after, 8)) == {"a": 6, "b": 2}
    (after,) = reloaded([after], members.settings("ab"))
    assert Counter(picks(after, 8)) == {"a": 4, "b": 4}


def test_a_breaker_whose_figures_stay_keeps_its_state() -> None:
    (before,) = reloaded([], members.settings())
    under_way = before.breaker.admit(0.0)
    assert under_way is not None
    (after,) = reloaded([before], members.settings(head_timeout=3.0))
    assert (after is not before, after.breaker is before.breaker) == (True, True)
    assert after.budget is before.budget
    before.breaker.settle(under_way, True, 0.0)
    assert after.breaker.window(0.0) == (1, 1)


def test_a_breaker_with_other_figures_begins_anew_but_for_its_counts() -> None:
    (before,) = reloaded([], members.settings(breaker=BreakerSettings(1, 9.0, 0.1)))
    pass_ = before.breaker.admit(0.0)
    assert pass_ is not None
    before.breaker.settle(pass_, True, 0.0)
    (after,) = reloaded([before], members.settings())
    assert after.breaker.state == "closed"
    assert breaker_changes([after])[2] == (("users", "open"), 1.0)
    after.breaker.settle(pass_, True, 0.0)
    assert after.breaker.window(0.0) == (0, 0)


def test_a_breaker_opened_by_hand_stays_open_with_other_figures() -> None:
    (before,) = reloaded([], members.settings())
    before.breaker.force_open()
    (after,) = reloaded([before], members.settings(breaker=None))
    assert after.breaker.admit(1e9) is None


def test_detection_that_is_switched_off_lets_everybody_in() -> None:
    (before,) = reloaded([], members.settings("ab", outlier=OutlierSettings(failures=1)))
    fail(before, "a", 1)
    (after,) = reloaded([before], members.settings("ab", outlier=None))
    assert picks(after, 2) == "ab"


def test_another_secret_makes_other_cookies() -> None:
    before = reloaded([], members.settings(sticky="seat"), members.settings(name="plain"))
    users, plain = reloaded(
        before,
        members.settings(sticky="seat"),
        members.settings(name="plain"),
        sticky_secret="other",
    )
    assert plain is before[1]
    old, new = before[0].sticky, users.sticky
    assert old is not None
    assert new is not None
    endpoint = users.endpoints[0]
    assert old.line(endpoint) != new.line(endpoint)
