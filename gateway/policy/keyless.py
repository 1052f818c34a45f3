"""What is open while no signing key is set. Pure.

Reading is open. Writing is open to the machine's owner: not to a page in a browser (Host, Origin
and Sec-Fetch-Site tell), not to whoever comes through a proxy on the same host (a forwarding field
tells). Not here: credentials (auth).
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Final

_HOST: Final = rb"(\[[0-9a-f.]*:[0-9a-f:.]*\]|[a-z0-9._~-]+)(?::([0-9]{0,5}))?"
_AUTHORITY: Final = re.compile(_HOST)
_ORIGIN: Final = re.compile(rb"(https?)://" + _HOST)
_DEFAULT_PORTS: Final = {b"http": b"80", b"https": b"443"}
_NO_KEY: Final = "no signing key is set (JWT_SECRET or JWT_PUBLIC_KEY): "


class Keyless:
    """The rules for one listener; `listener_host` is what `HOST` says."""

    __slots__ = ("_allow_anonymous", "_listener_host", "_local")

    def __init__(self, listener_host: str, *, allow_anonymous: bool) -> None:
        self._listener_host = listener_host
        self._local = _is_loopback(listener_host)
        self._allow_anonymous = allow_anonymous

    def __repr__(self) -> str:
        return f"<Keyless {self._listener_host} allow_anonymous={self._allow_anonymous}>"

    def may_write(
        self, host: bytes | None, origin: bytes | None, fetch_site: bytes | None, *, forwarded: bool
    ) -> bool:
        """Whether a request may write, by its fields: Host, Origin, Sec-Fetch-Site, and whether any
        forwarding field came with it.

        ALLOW_ANONYMOUS speaks of who may come from where, so it does without the listener, the Host
        and the forwarding fields; it does not say that any page in anyone's browser may write, so
        an Origin must then be the request's own Host.
        """
        if fetch_site is not None and b"cross-site" in fetch_site.lower():
            return False
        if self._allow_anonymous and (origin is None or _is_own_origin(origin, host)):
            return True
        return (
            self._local
            and not forwarded
            and host is not None
            and _is_local(_AUTHORITY.fullmatch(host.lower()))
            and (origin is None or _is_local(_ORIGIN.fullmatch(origin.lower())))
        )

    def warning(self) -> str:
        """What is open, in one line, to be said loudly at start."""
        if self._allow_anonymous:
            return f"{_NO_KEY}reading and writing are open to everyone (ALLOW_ANONYMOUS)"
        if self._local:
            return f"{_NO_KEY}reading is open, and so is writing from this machine"
        return (
            f"{_NO_KEY}reading is open to everyone; writing is refused, as HOST is "
            f"{self._listener_host} and not this machine alone"
        )

    def refusal(self) -> str:
        """What to tell a client that may not write."""
        if self._local or self._allow_anonymous:
            return (
                "without a signing key (JWT_SECRET) the gateway takes this only from its own "
                "machine: sent to localhost, from no other origin, through no proxy"
            )
        return (
            "without a signing key (JWT_SECRET) the gateway takes this only while HOST is a "
            "loopback address"
        )


@lru_cache(maxsize=1024)  # the same few again and again; bounded, since a client chooses them
def _is_loopback(host: str) -> bool:
    """`localhost` or a loopback literal; other names may point anywhere tomorrow."""
    if host.lower() == "localhost":
        return True
    try:
        address = IPv6Address(host) if ":" in host else IPv4Address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _is_local(match: re.Match[bytes] | None) -> bool:
    """Whether a matched authority or origin is of this machine, whatever its port."""
    if match is None:
        return False
    host = match[match.re.groups - 1].decode("ascii")
    return _is_loopback(host[1:-1]) if host.startswith("[") else _is_loopback(host)


def _is_own_origin(origin: bytes, host: bytes | None) -> bool:
    """Whether an Origin has the host and port that the request was sent to.

    Its scheme gives the port that either leaves out: a proxy may have taken TLS off.
    """
    theirs = _ORIGIN.fullmatch(origin.lower())
    ours = None if host is None else _AUTHORITY.fullmatch(host.lower())
    if theirs is None or ours is None:
        return False
    default = _DEFAULT_PORTS[theirs[1]]
    return (theirs[2], theirs[3] or default) == (ours[1], ours[2] or default)
