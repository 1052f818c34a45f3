"""Without a signing key: who may write, as a table of listeners, Hosts and Origins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.keyless import Keyless

LOCAL = Keyless("127.0.0.1", allow_anonymous=False)
OPENED = Keyless("0.0.0.0", allow_anonymous=True)


def may_write(
    rules: Keyless,
    host: bytes | None = b"localhost:8081",
    origin: bytes | None = None,
    fetch_site: bytes | None = None,
    *,
    forwarded: bool = False,
) -> bool:
    return rules.may_write(host, origin, fetch_site, forwarded=forwarded)


@pytest.mark.parametrize(
    "listener", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST", "::ffff:127.0.0.1"]
)
def test_writing_is_open_while_the_listener_is_on_loopback(listener: str) -> None:
    assert may_write(Keyless(listener, allow_anonymous=False))


@pytest.mark.parametrize(
    "listener", ["0.0.0.0", "::", "192.0.2.1", "10.0.0.1", "gateway.test", "localhost.test", ""]
)
def test_writing_is_closed_on_any_other_listener(listener: str) -> None:
    assert not may_write(Keyless(listener, allow_anonymous=False))


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"localhost:8081",
        b"LocalHost:1",
        b"localhost:",
        b"127.0.0.1",
        b"127.0.0.1:8081",
        b"127.1.2.3:80",
        b"[::1]",
        b"[::1]:8081",
        b"[::FFFF:127.0.0.1]:8081",
        b"[0:0:0:0:0:0:0:1]",
    ],
)
def test_a_host_of_this_machine_may_write(host: bytes) -> None:
    assert may_write(LOCAL, host)


@pytest.mark.parametrize(
    "host",
    [
        None,
        b"",
        b":8081",
        b"attacker.test",
        b"attacker.test:8081",
        b"localhost.attacker.test",
        b"localhost.",
        b"x.localhost",
        b"127.0.0.1.attacker.test",
        b"127.1",
        b"0x7f000001",
        b"2130706433",
        b"0177.0.0.1",
        b"0.0.0.0",
        b"192.0.2.1",
        b"::1",
        b"[::2]",
        b"[::1",
        b"[127.0.0.1]",
        b"[localhost]",
        b"localhost:8081:1",
        b"localhost:abc",
        b"localhost:123456",
        b"user@localhost",
        b"localhost@attacker.test",
        b"localhost/attacker",
        b" localhost",
        b"localhost\n",
        b"localhost, attacker.test",
        b"\xff",
    ],
)
def test_any_other_host_may_not(host: bytes | None) -> None:
    # A page of attacker.test whose name was bound anew to 127.0.0.1 sends its own name as Host.
    assert not may_write(LOCAL, host)


@pytest.mark.parametrize(
    "origin",
    [
        b"http://localhost:8081",
        b"http://localhost",
        b"https://localhost:3000",
        b"http://127.0.0.1:5173",
        b"http://[::1]:8081",
        b"HTTP://LOCALHOST:8081",
    ],
)
def test_a_page_of_this_machine_may_write(origin: bytes) -> None:
    assert may_write(LOCAL, origin=origin)


@pytest.mark.parametrize(
    "origin",
    [
        b"",
        b"null",
        b"http://attacker.test",
        b"http://localhost.attacker.test",
        b"http://attacker.test:8081",
        b"http://localhost:8081.attacker.test",
        b"http://localhost@attacker.test",
        b"http://localhost/",
        b"http://localhost:8081, http://attacker.test",
        b"chrome-extension://localhost",
        b"file://",
        b"localhost",
        b"//localhost",
    ],
)
def test_a_page_from_elsewhere_may_not(origin: bytes) -> None:
    assert not may_write(LOCAL, origin=origin)
    assert not may_write(OPENED, origin=origin)


@pytest.mark.parametrize("site", [b"same-origin", b"same-site", b"none", b"", b"new-value"])
def test_a_fetch_from_no_other_site_may_write(site: bytes) -> None:
    # Fetch Metadata §2.1: a value that is not known is ignored.
    assert may_write(LOCAL, fetch_site=site)


@pytest.mark.parametrize("site", [b"cross-site", b"Cross-Site", b"none, cross-site"])
def test_a_fetch_from_another_site_may_not(site: bytes) -> None:
    assert not may_write(LOCAL, fetch_site=site)
    assert not may_write(OPENED, fetch_site=site)
    assert not may_write(LOCAL, origin=b"http://localhost:8081", fetch_site=site)
    assert not may_write(OPENED, origin=b"http://localhost:8081", fetch_site=site)


def test_whoever_comes_through_a_proxy_may_not() -> None:
    assert not may_write(LOCAL, forwarded=True)


def test_allow_anonymous_lifts_what_is_about_the_place() -> None:
    assert may_write(OPENED, b"gateway.test:8081")
    assert may_write(OPENED, None)
    assert may_write(OPENED, b"gateway.test", forwarded=True)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (b"gateway.test", b"http://gateway.test"),
        (b"gateway.test", b"https://gateway.test"),
        (b"Gateway.Test:80", b"http://gateway.test"),
        (b"gateway.test", b"http://gateway.test:80"),
        (b"gateway.test:443", b"https://gateway.test"),
        (b"gateway.test:8081", b"http://gateway.test:8081"),
        (b"[2001:db8::1]:8081", b"http://[2001:DB8::1]:8081"),
    ],
)
def test_allow_anonymous_lets_the_gateways_own_pages_write(host: bytes, origin: bytes) -> None:
    assert may_write(OPENED, host, origin, b"same-origin")


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (b"gateway.test", b"http://attacker.test"),
        (b"gateway.test", b"http://x.gateway.test"),
        (b"gateway.test:8081", b"http://gateway.test"),
        (b"gateway.test:8081", b"http://gateway.test:8082"),
        (b"gateway.test", b"https://gateway.test:80"),
        (b"gateway.test", b"http://localhost:8081"),
        (b"gateway.test", b"null"),
        (None, b"http://gateway.test"),
        (b"", b"http://gateway.test"),
        (b"gateway.test/x", b"http://gateway.test"),
    ],
)
def test_allow_anonymous_lets_no_other_page_write(host: bytes | None, origin: bytes) -> None:
    assert not may_write(OPENED, host, origin)


def test_allow_anonymous_takes_nothing_away_on_loopback() -> None:
    both = Keyless("127.0.0.1", allow_anonymous=True)
    assert may_write(both, b"localhost:8081", b"http://localhost:3000")
    assert not may_write(both, b"gateway.test", b"http://localhost:3000")


FIELD = st.none() | st.binary(max_size=40) | st.sampled_from((b"localhost", b"http://localhost"))


@given(FIELD, FIELD, FIELD, st.booleans())
def test_no_bytes_bring_more_than_an_answer(
    host: bytes | None, origin: bytes | None, site: bytes | None, forwarded: bool
) -> None:
    for rules in (LOCAL, OPENED, Keyless("::", allow_anonymous=False)):
        may_write(rules, host, origin, site, forwarded=forwarded)
    assert not may_write(Keyless("::", allow_anonymous=False), host, origin, site)


def test_the_warning_says_what_is_open() -> None:
    assert LOCAL.warning().endswith(": reading is open, and so is writing from this machine")
    assert OPENED.warning().endswith(": reading and writing are open to everyone (ALLOW_ANONYMOUS)")
    closed = Keyless("0.0.0.0", allow_anonymous=False)
    assert closed.warning().endswith(
        ": reading is open to everyone; writing is refused, as HOST is 0.0.0.0 "
        "and not this machine alone"
    )
    assert "loopback" in closed.refusal()
    assert "sent to localhost" in LOCAL.refusal()
    assert repr(closed) == "<Keyless 0.0.0.0 allow_anonymous=False>"
