"""The page of figures for Prometheus.

Not here: the figures (observe/metrics.py), and who may read them (access.py).
"""

from __future__ import annotations

from aiohttp import hdrs, web
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

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
    workers = _families(await state.worker_metrics())
    accept = request.headers.get(hdrs.ACCEPT, "")
    body, content_type = state.metrics.exposition(accept, workers)
    return web.Response(
        body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"}
    )


def _families(text: bytes) -> list[Metric]:
    """What a page of Prometheus text holds, without the times at which series were created: they
    would be families of their own, which nothing else on the page has.
    """
    found = text_string_to_metric_families(text.decode())
    return [family for family in found if not family.name.endswith("_created")]
