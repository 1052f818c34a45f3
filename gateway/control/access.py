"""Who may see the gateway's own figures and who may change it: `/metrics` and `/admin`.

To everyone else these paths do not exist: 404, whatever the method. Not here: who somebody is,
which the door has found out and says in X-Gateway-Identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from gateway.policy.auth import Identity
from gateway.policy.keyless import Keyless
from gateway.settings import Settings

ADMIN_SCOPE: Final = "admin"

# Whatever ALLOW_ANONYMOUS opens, the gateway itself stays with the owner of this machine.
_OWNER: Final = Keyless("127.0.0.1", allow_anonymous=False)


def may_read_figures(settings: Settings, identity: Identity, headers: Mapping[str, str]) -> bool:
    """Whether a request with these fields, as the door hands them in, may see `/metrics`.

    Loopback addresses may when they are the peer itself (X-Gateway-Direct: it sent no forwarding
    field, so it is no proxy on this host speaking for others), addresses in `ADMIN_FROM`, and the
    scope `admin`.
    """
    if ADMIN_SCOPE in identity.scopes:
        return True
    address = _address(headers)
    if address is None:
        return False
    if _is_direct(headers) and address.is_loopback:
        return True
    return any(address in network for network in settings.admin_from)


def may_administer(identity: Identity, headers: Mapping[str, str]) -> bool:
    """Whether a request with these fields may use `/admin`.

    With a signing key: the scope `admin`. Without one: who may write by the keyless rules, from a
    loopback address, to a Host and from an Origin of this machine, and through no proxy, also where
    ALLOW_ANONYMOUS lets others write.
    """
    if ADMIN_SCOPE in identity.scopes:
        return True
    address = _address(headers)
    return (
        identity.open_write
        and address is not None
        and address.is_loopback
        and _OWNER.may_write(
            _field(headers, "X-Forwarded-Host"),  # what the client's Host field said
            _field(headers, "Origin"),
            _field(headers, "Sec-Fetch-Site"),
            forwarded=not _is_direct(headers),
        )
    )


def _is_direct(headers: Mapping[str, str]) -> bool:
    return headers.get("X-Gateway-Direct") == "1"


def _field(headers: Mapping[str, str], name: str) -> bytes | None:
    value = headers.get(name)
    return None if value is None else value.encode("utf-8", "surrogateescape")


def _address(headers: Mapping[str, str]) -> IPv4Address | IPv6Address | None:
    """The client's address, an IPv4 one also when written as IPv6; None where there is none."""
    try:
        address = ip_address(headers.get("X-Gateway-Client", ""))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
