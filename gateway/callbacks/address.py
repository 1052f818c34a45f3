"""Where a callback may go: its URL, and the addresses that its host turns out to have.

Whoever asks a question chooses the URL, and the gateway stands inside networks that the asker does
not; so a callback reaches public addresses only, and those that `CALLBACK_ALLOW` lists. Names are
judged by what they resolve to, at delivery (`sending.py` resolves once and connects to just the
addresses judged here).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from yarl import URL

MAX_URL = 2048  # characters; what proxies and servers in front of a receiver commonly take

Address = IPv4Address | IPv6Address

# Not for anyone beyond this host or network (IANA's special-purpose registries, RFC 6890 and its
# updates): `ipaddress.is_global` lets multicast and the relays of 6to4 through.
_CLOSED_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private, RFC 1918
        "100.64.0.0/10",  # behind carriers' NAT, RFC 6598
        "127.0.0.0/8",  # this host
        "168.63.129.16/32",  # public to look at, but the host under every Azure machine
        "169.254.0.0/16",  # link local; clouds tell secrets there
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4, RFC 7526
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and the broadcast address
    )
)
# All else (mapped and translated IPv4 addresses, unique local, link local, multicast) is outside.
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # RFC 4291 §2.4
_CLOSED_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, among them Teredo's tunnels
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3fff::/20",  # documentation, RFC 9637
    )
)
_ISATAP = 0x00005EFE  # an interface id of IPv4 in disguise, RFC 5214 §6.1; bit 25 may be set

_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?P<userinfo>[^/?#]*@)?"
    r"(?:\[(?P<v6>[^\]/?#]*)\]|(?P<host>[^/?#:]*))"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?(?P<fragment>#.*)?"
)
_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~%!$&'()*+,;=:@/?#\[\]]*")  # RFC 3986 §2
_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"(?=.{{1,254}}\Z){_LABEL}(?:\.{_LABEL})*\.?")
_NUMERIC = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_PORTS = {"http": 80, "https": 443}


class AddressRefused(Exception):
    """A URL or an address that callbacks do not go to; the text says why, without the URL."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart by one parser, so that what was judged is what is connected to.

    `host` is a lower-case name without the last dot, or an address without brackets.
    """

    url: URL
    host: str
    port: int
    literal: Address | None

    @property
    def destination(self) -> str:
        """`host:port`, what deliveries to one place are counted by; no secret is in it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def target(text: str) -> Target:
    """Take a callback URL apart. Raises AddressRefused with what is wrong with it.

    Stricter than browsers are: just http and https, no user information, no fragment, nothing that
    needs guessing (`127.1`, `0x7f000001`, a backslash), so that no second reading of it exists.
    """
    if len(text) > MAX_URL:
        raise AddressRefused(f"is longer than {MAX_URL} characters")
    match = _URL.fullmatch(text)
    if match is None or not _CHARACTERS.fullmatch(text):
        raise AddressRefused("is no URL: http(s)://host/path, other characters percent-encoded")
    scheme = match["scheme"].lower()
    if scheme not in _PORTS:
        raise AddressRefused("has another scheme than http and https")
    if match["userinfo"] is not None:
        raise AddressRefused("holds user information")
    if match["fragment"] is not None:
        raise AddressRefused("has a fragment")
    port = int(match["port"] or _PORTS[scheme])
    if not 1 <= port <= 65535:
        raise AddressRefused("has an impossible port")
    host, literal = _host(match["v6"], match["host"])
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    query = "" if match["query"] is None else f"?{match['query']}"
    try:
        url = URL(f"{scheme}://{authority}{match['path'] or '/'}{query}", encoded=True)
    except ValueError:  # pragma: no cover - nothing is known that gets here
        raise AddressRefused("is no URL") from None
    return Target(url, host, port, literal)


def _host(v6: str | None, name: str | None) -> tuple[str, Address | None]:
    if v6 is not None:
        try:
            literal = IPv6Address(v6)
        except ValueError:
            raise AddressRefused("has an impossible address") from None
        if literal.scope_id is not None:
            raise AddressRefused("has an impossible address")
        return str(literal), literal
    if not name or not _NAME.fullmatch(name):
        raise AddressRefused("has no host, or an impossible one")
    plain = name.lower().removesuffix(".")
    if not _NUMERIC.fullmatch(plain.rpartition(".")[2]):
        return plain, None
    # What ends in a number is an address to all resolvers, and many read more than four decimals.
    try:
        return plain, IPv4Address(plain)
    except ValueError:
        raise AddressRefused("has an impossible address") from None


def is_public(address: Address) -> bool:
    """Whether an address belongs to the Internet at large."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _CLOSED_V4)
    if address not in _GLOBAL_UNICAST or any(address in network for network in _CLOSED_V6):
        return False
    return (int(address) >> 32) & 0xFDFFFFFF != _ISATAP


class Allowed:
    """What callbacks may reach: public addresses, and what `CALLBACK_ALLOW` lists besides.

    An entry is a network or a host; a host that is listed may have any address.
    """

    __slots__ = ("_hosts", "_networks")

    def __init__(self, entries: Iterable[str] = ()) -> None:
        hosts: set[str] = set()
        networks: list[IPv4Network | IPv6Network] = []
        for entry in entries:
            try:
                networks.append(ip_network(entry, strict=False))
            except ValueError:
                hosts.add(entry.lower().removesuffix("."))
        self._hosts = frozenset(hosts)
        self._networks = tuple(networks)

    def __repr__(self) -> str:
        listed = ["public", *sorted(self._hosts), *map(str, self._networks)]
        return f"<Allowed {' '.join(listed)}>"

    def host(self, host: str) -> bool:
        """Whether the host is listed by its name."""
        return host in self._hosts

    def address(self, address: Address) -> bool:
        """Whether the address may be connected to, whatever name led there."""
        return is_public(address) or any(address in network for network in self._networks)

    def check(self, host: str, addresses: Sequence[str]) -> None:
        """Raise AddressRefused unless all `addresses` of `host` may be connected to.

        All, not those that may: a name that has public and private addresses at once is somebody's
        try or somebody's mistake, and where it leads must not hang on the order of a resolver's
        answer.
        """
        if not addresses:
            raise AddressRefused("has no address")
        if not self.host(host) and not all(self.address(ip_address(each)) for each in addresses):
            raise AddressRefused("has an address that is not public")


def check_callback_url(url: str, allowed: Allowed) -> str | None:
    """What is wrong with a `callback_url`, at asking time, or None: syntax, scheme, and addresses
    that are written out. Names are looked up at delivery only: an answer now would mean nothing
    then.
    """
    try:
        parsed = target(url)
        if parsed.literal is not None:
            allowed.check(parsed.host, [str(parsed.literal)])
    except AddressRefused as refused:
        return str(refused)
    return None
