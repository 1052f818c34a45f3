"""Where callbacks may go: addresses that are nobody's business, and URLs that need guessing."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.callbacks.address import (
    AddressRefused,
    Allowed,
    check_callback_url,
    is_public,
    target,
)

PUBLIC = Allowed()


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",  # a cloud's metadata
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",  # another's
        "169.254.169.254",  # most clouds'
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.0.192",  # one more's
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.251",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",  # IPv4-compatible
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",  # mapped: an IPv4 address in disguise, also of a public one
        "::ffff:0:127.0.0.1",  # translated, RFC 2765
        "64:ff9b::7f00:1",
        "64:ff9b::808:808",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",  # Teredo
        "2001:2::1",
        "2001:10::1",
        "2001:20::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:808:808::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "2a00:1450:4001::5efe:7f00:1",  # ISATAP
        "2a00:1450:4001::200:5efe:a00:1",
    ],
)
def test_an_address_that_is_not_the_internets_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "100.63.255.255",
        "100.128.0.1",
        "172.15.0.1",
        "172.32.0.1",
        "192.0.1.1",
        "198.17.0.1",
        "223.255.255.255",
        "2606:4700::1111",
        "2001:4860:4860::8888",
    ],
)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
def test_nothing_that_python_knows_as_special_is_public(
    address: IPv4Address | IPv6Address,
) -> None:
    if is_public(address):
        assert address.is_global
        assert not any((address.is_multicast, address.is_reserved, address.is_private))


def test_a_url_is_taken_apart_once_and_sent_as_it_was_written() -> None:
    taken = target("HTTPS://Hooks.Example.COM./a%2Fb/../c?sig=x%2B+y&e=")
    assert (taken.host, taken.port, taken.literal) == ("hooks.example.com", 443, None)
    assert str(taken.url) == "https://hooks.example.com/a%2Fb/../c?sig=x%2B+y&e="
    assert taken.url.raw_path_qs == "/a%2Fb/../c?sig=x%2B+y&e="
    assert taken.destination == "hooks.example.com:443"
    assert target("http://h:8080").url.raw_path_qs == "/"
    assert target("http://h?").url.raw_path_qs == "/"
    six = target("http://[2606:4700:0::1111]:81/x")
    assert (six.host, six.port, str(six.literal)) == ("2606:4700::1111", 81, "2606:4700::1111")
    assert six.destination == "[2606:4700::1111]:81"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "no URL"),
        ("example.com/x", "no URL"),
        ("//example.com/x", "no URL"),
        ("http:example.com", "no URL"),
        ("ftp://example.com/", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("unix:///run/docker.sock", "scheme"),
        ("javascript://example.com/%0aalert(1)", "scheme"),
        ("http://user@example.com/", "user information"),
        ("http://user:pass@example.com/", "user information"),
        ("http://@example.com/", "user information"),
        ("http://1.1.1.1@127.0.0.1/", "user information"),
        ("http://example.com/#x", "fragment"),
        ("http://example.com#@127.0.0.1/", "fragment"),
        ("http://example.com\\@127.0.0.1/", "no URL"),
        ("http://example.com/a b", "no URL"),
        ("http://example.com/\r\nX: y", "no URL"),
        ("http://example.com/\n", "no URL"),
        ("http://ex\u00e4mple.com/", "no URL"),
        ("http://127\u30020\u30020\u30021/", "no URL"),
        ("http://example.com:0/", "port"),
        ("http://example.com:65536/", "port"),
        ("http://example.com:99999999/", "no URL"),
        ("http://example.com:/", "no URL"),
        ("http:///x", "no host"),
        ("http://?x", "no host"),
        ("http://.example.com/", "no host"),
        ("http://a..b/", "no host"),
        ("http://-a.b/", "no host"),
        ("http://a.b-/", "no host"),
        ("http://ex%61mple.com/", "no host"),
        (f"http://{'a' * 64}.com/", "no host"),
        (f"http://{'a.' * 127}com/", "no host"),
        ("http://127.1/", "impossible address"),
        ("http://2130706433/", "impossible address"),
        ("http://0x7f000001/", "impossible address"),
        ("http://0x7f.0.0.1/", "impossible address"),
        ("http://0177.0.0.1/", "impossible address"),
        ("http://127.0.0.1.5/", "impossible address"),
        ("http://a.0x/", "impossible address"),
        ("http://[::1/", "no URL"),
        ("http://[v1.x]/", "impossible address"),
        ("http://[]/", "impossible address"),
        ("http://[fe80::1%25eth0]/", "impossible address"),
        ("http://[fe80::1%eth0]/", "impossible address"),
        ("http://[1.1.1.1]/", "impossible address"),
        ("http://" + "a" * 2048, "longer"),
        ("http://127.0.0.1/", "not public"),
        ("http://127.0.0.1./", "not public"),
        ("http://169.254.169.254/latest/meta-data/", "not public"),
        ("https://[::ffff:127.0.0.1]/", "not public"),
        ("https://[::ffff:7f00:1]/", "not public"),
        ("https://[64:ff9b::7f00:1]/", "not public"),
    ],
)
def test_a_url_that_callbacks_do_not_go_to_is_refused_when_asked_for(
    url: str, problem: str
) -> None:
    reason = check_callback_url(url, PUBLIC)
    assert reason is not None
    assert problem in reason


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hooks/1?token=a%20b",
        "http://example.com",
        "http://8.8.8.8:8080/",
        "https://[2606:4700::1111]/",
        "http://localhost/",  # a name: judged by its addresses, at delivery
        "https://xn--exmple-cua.com/",
        "https://a_b.example.com/",
    ],
)
def test_a_url_that_may_be_called_is_accepted_when_asked_for(url: str) -> None:
    assert check_callback_url(url, PUBLIC) is None


@given(st.text(max_size=40) | st.text("http://[]@:%.0123456789abcx\\#?/", max_size=30))
def test_any_text_is_refused_or_is_what_the_client_will_read(text: str) -> None:
    for url in (text, "http://" + text):
        with suppress(AddressRefused):
            taken = target(url)
            assert taken.url.raw_host == taken.host
            assert taken.url.port == taken.port
            assert taken.url.user is None
            assert str(taken.url).isascii()


def test_a_listed_network_opens_its_addresses_and_no_others() -> None:
    allowed = Allowed(["10.1.0.0/16", "127.0.0.1", "fd00::/8"])
    assert check_callback_url("http://10.1.2.3/", allowed) is None
    assert check_callback_url("http://127.0.0.1:9/", allowed) is None
    assert check_callback_url("http://[fd00::5]/", allowed) is None
    assert check_callback_url("http://10.2.0.1/", allowed) is not None
    assert check_callback_url("http://127.0.0.2/", allowed) is not None
    assert check_callback_url("http://[::ffff:10.1.2.3]/", allowed) is not None
    assert "10.1.0.0/16" in repr(allowed)


def test_a_listed_host_may_have_any_address() -> None:
    allowed = Allowed(["Hooks.Internal."])
    allowed.check("hooks.internal", ["10.0.0.1", "8.8.8.8"])
    with pytest.raises(AddressRefused, match="not public"):
        allowed.check("other.internal", ["10.0.0.1"])


def test_one_closed_address_among_open_ones_closes_the_name() -> None:
    with pytest.raises(AddressRefused, match="not public"):
        PUBLIC.check("example.com", ["8.8.8.8", "10.0.0.1"])
    with pytest.raises(AddressRefused, match="no address"):
        PUBLIC.check("example.com", [])
    PUBLIC.check("example.com", ["8.8.8.8", "2606:4700::1111"])
