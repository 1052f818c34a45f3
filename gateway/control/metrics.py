"""The page of figures for Prometheus, and who may read it.

Not here: the figures (observe/metrics.py).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from aiohttp import hdrs, web

from gateway.control.state import STATE
from gateway.settings import Settings

_METHODS = (hdrs.METH_GET, hdrs.METH_HEAD)


async def metrics(request: web.Request) -> web.Response:
    """Prometheus text, or OpenMetrics when Accept asks for it.

    Raises HTTPNotFound for everyone who may not read it, whatever the method: to them the path does
    not exist.
    """
    state = request.app[STATE]
    if not may_read(
        state.settings,
        request.headers.get("X-Gateway-Client", ""),
        direct=request.headers.get("X-Gateway-Direct") == "1",
    ):
        raise web.HTTPNotFound
    if request.method not in _METHODS:
        raise web.HTTPMethodNotAllowed(request.method, _METHODS)
    body, content_type = state.metrics.exposition(request.headers.get(hdrs.ACCEPT, ""))
    return web.Response(
        body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"}
    )


def may_read(settings: Settings, client: str, *, direct: bool) -> bool:
    """Whether `client` (an address as text) may see the figures.

    Loopback addresses may when they are the peer itself (`direct`: it sent no forwarding field, so
    it is no proxy on this host speaking for others), and addresses in `ADMIN_FROM`.
    """
    try:
        address = _address(client)
    except ValueError:
        return False
    if direct and address.is_loopback:
        return True
    return any(address in network for network in settings.admin_from)


def _address(text: str) -> IPv4Address | IPv6Address:
    """The address, an IPv4 one also when written as IPv6."""
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
