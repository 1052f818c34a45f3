"""The page of figures for Prometheus.

Not here: the figures (observe/metrics.py), and who may read them (access.py).
"""

from __future__ import annotations

from aiohttp import hdrs, web

from gateway.control.access import may_read_figures
from gateway.control.answers import identity_of
from gateway.control.state import STATE

METHODS = (hdrs.METH_GET, hdrs.METH_HEAD)


async def metrics(request: web.Request) -> web.Response:
    """Prometheus text, or OpenMetrics when Accept asks for it.

    Raises HTTPNotFound for everyone who may not read it, whatever the method: to them the path does
    not exist.
    """
    state = request.app[STATE]
    if not may_read_figures(state.settings, identity_of(request), request.headers):
        raise web.HTTPNotFound
    if request.method not in METHODS:
        raise web.HTTPMethodNotAllowed(request.method, METHODS)
    body, content_type = state.metrics.exposition(request.headers.get(hdrs.ACCEPT, ""))
    return web.Response(
        body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"}
    )
