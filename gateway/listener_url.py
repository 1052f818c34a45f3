"""Where a gateway is reached that listens on a host and a port: for people, and for its worker."""

from __future__ import annotations

from typing import Final

from gateway.settings import EndpointUrl, Settings

# All addresses are also this one (RFC 1122 §3.2.1.3, RFC 4291 §2.5.2).
_HERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing listens by this


def listener_url(settings: Settings, host: str, port: int, *, here: bool = False) -> str:
    """Of a listener with these settings; `here`: for who is on the same machine, also where it
    listens on all addresses.
    """
    scheme = "http" if settings.tls_cert is None else "https"
    return str(EndpointUrl(scheme, _HERE.get(host, host) if here else host, port))
