"""Sticky sessions: the cookie that leads a browser back to its endpoint, and those that do not."""

from __future__ import annotations

import re

import pytest

from gateway.routing.services import Service
from gateway.routing.sticky import Sticky, cookie_values
from tests.routing.members import SECRET, fail, named, service, url


def cookie(made: Service, host: str) -> bytes:
    """What a browser sends back of the line that was set."""
    sticky = made.sticky
    assert sticky is not None
    return sticky.line(named(made, host)).removeprefix(b"Set-Cookie: ").partition(b";")[0]


def leads_to(made: Service, field: bytes | None) -> str:
    """The endpoint that a Cookie field names; `-`: none."""
    assert made.sticky is not None
    found = made.sticky.endpoint(field)
    return found.url.host[0] if found else "-"


def test_a_session_comes_back_to_its_endpoint() -> None:
    made = service(sticky="seat")
    for host in "abc":
        assert leads_to(made, cookie(made, host)) == host
        assert leads_to(made, b"theme=dark; " + cookie(made, host) + b"; x=1") == host


def test_the_line_has_what_browsers_want_and_nothing_of_the_address() -> None:
    made = service(sticky="seat")
    assert made.sticky is not None
    line = made.sticky.line(named(made, "a"))
    assert re.fullmatch(
        rb"Set-Cookie: seat=[0-9a-f]{16}\.[0-9a-f]{64}; Path=/; HttpOnly; SameSite=Lax\r\n", line
    )
    secure = made.sticky.line(named(made, "a"), secure=True)
    assert secure == line.replace(b"\r\n", b"; Secure\r\n")
    assert repr(made.sticky) == "<Sticky seat of users>"


def test_a_cookie_that_was_tampered_with_leads_nowhere() -> None:
    made = service(sticky="seat")
    name, _, value = cookie(made, "a").partition(b"=")
    other = cookie(made, "b").partition(b"=")[2]
    identity, _, signature = value.partition(b".")
    forged = [
        b"",
        b".",
        identity,
        identity + b".",
        b"." + signature,
        identity + b"." + other.partition(b".")[2],
        value[:-1] + (b"0" if value[-1:] != b"0" else b"1"),
        value + b"0",
        value.upper(),
        b"a.test",
        b"http://a.test." + signature,
        b"\xff\xfe." + signature,
    ]
    for each in forged:
        assert leads_to(made, name + b"=" + each) == "-", each


def test_each_byte_of_a_cookie_counts() -> None:
    made = service(sticky="seat")
    good = cookie(made, "a")
    for at in range(len(b"seat="), len(good)):
        changed = b"f" if good[at : at + 1] != b"f" else b"e"
        assert leads_to(made, good[:at] + changed + good[at + 1 :]) == "-"


def test_a_cookie_of_another_service_name_or_secret_leads_nowhere() -> None:
    made = service(sticky="seat")
    for other in (service(sticky="seat", name="orders"), service(sticky="place")):
        value = cookie(other, "a").partition(b"=")[2]
        assert leads_to(made, b"seat=" + value) == "-"
    stranger = Sticky("seat", SECRET + ".", "users", lambda: made.endpoints)
    line = stranger.line(named(made, "a"))
    assert leads_to(made, line.removeprefix(b"Set-Cookie: ").partition(b";")[0]) == "-"


def test_another_gateway_with_the_same_secret_knows_the_cookie() -> None:
    assert leads_to(service(sticky="seat"), cookie(service("cba", sticky="seat"), "b")) == "b"


def test_an_endpoint_that_takes_no_requests_is_not_led_to_until_it_does() -> None:
    made = service(sticky="seat")
    field = cookie(made, "a")
    fail(made, "a", now=0.0)
    assert leads_to(made, field) == "-"
    made.pick(None, 30.0)
    assert leads_to(made, field) == "a"
    made.drain_endpoint("http://a.test")
    assert leads_to(made, field) == "-"


def test_endpoints_that_come_and_go_are_kept_up_with() -> None:
    made = service("ab", sticky="seat")
    assert made.sticky is not None
    field, gone = cookie(made, "a"), named(made, "a")
    made.add_endpoint(url("d"))
    assert leads_to(made, cookie(made, "d")) == "d"
    made.remove_endpoint("http://a.test")
    assert leads_to(made, field) == "-"
    assert field in made.sticky.line(gone), "its last request may still be under way"


def test_of_several_cookies_of_the_name_the_first_good_one_counts_and_few_are_tried() -> None:
    made = service(sticky="seat")
    good = cookie(made, "b")
    assert leads_to(made, b"seat=old.old; " + good) == "b"
    assert leads_to(made, b"seat=x; " * 4 + good) == "-"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        (None, []),
        (b"", []),
        (b"seat", []),
        (b"seat=", [b""]),
        (b"seat=a=b", [b"a=b"]),
        (b"xseat=1; seat=2;seat=3 ; Seat=4", [b"2", b"3"]),
        (b";;; seat=1;", [b"1"]),
    ],
)
def test_cookies_are_found_by_their_exact_name(field: bytes | None, values: list[bytes]) -> None:
    assert cookie_values(field, b"seat") == values


def test_no_cookie_leads_nowhere() -> None:
    assert leads_to(service(sticky="seat"), None) == "-"
