"""Whether the gateway is up, whether it should get traffic, and how it and its services are.

`/health/live` is for what restarts a dead process, `/health/ready` for what sends traffic,
`/health` for people and dashboards. Not here: finding out how a service is (routing/health); this
only shows it.
"""

from __future__ import annotations

import time

import orjson
from aiohttp import web

from gateway import __version__
from gateway.control.state import STATE

_NO_STORE = {"Cache-Control": "no-store"}

# A service nobody has asked yet is no reason to worry.
_FINE = ("healthy", "unknown")
_UNHEALTHY = "unhealthy"


async def live(_request: web.Request) -> web.Response:
    """200 for as long as the process can answer at all."""
    return _json({"status": "live"}, 200)


async def ready(request: web.Request) -> web.Response:
    """200 when new requests are welcome, else 503 and the reason; without its database also."""
    state = request.app[STATE]
    reason = state.ready()
    if reason == "ready":
        away = [name for name, each in state.dependencies().items() if each["state"] == _UNHEALTHY]
        if not away:
            return _json({"status": "ready"}, 200)
        reason = f"{away[0]} away"
    return _json({"status": "unavailable", "reason": reason}, 503)


async def health(request: web.Request) -> web.Response:
    """The gateway and every service with its endpoints.

    `degraded` (200) when a service or Redis is not well, `unhealthy` (503) only when the gateway
    itself takes no requests or has no database: a back end that is down must not take its gateway
    out of the rotation.
    """
    state = request.app[STATE]
    readiness = state.ready()
    services = state.services()
    well = all(service.get("state") in _FINE for service in services)
    needed = state.dependencies()
    states = {each["state"] for each in needed.values()}
    if readiness != "ready" or _UNHEALTHY in states:
        status = _UNHEALTHY
    else:
        status = "healthy" if well and states <= {"healthy"} else "degraded"
    body = {
        "status": status,
        "version": __version__,
        "uptime_seconds": round(max(0.0, time.time() - state.started_wall), 3),
        "checks": {
            "ready": {
                "status": "healthy" if readiness == "ready" else "unhealthy",
                "state": readiness,
            },
            "services": {
                "status": "healthy" if well else "degraded",
                "total": len(services),
                "not_healthy": sum(service.get("state") not in _FINE for service in services),
            },
            "event_loop": {"status": "healthy", "lag_seconds": state.metrics.loop_lag_seconds},
            **{
                name: {"status": each["state"]} | {k: v for k, v in each.items() if k != "state"}
                for name, each in needed.items()
            },
        },
        "services": services,
    }
    return _json(body, 503 if status == "unhealthy" else 200)


def _json(body: dict[str, object], status: int) -> web.Response:
    return web.Response(
        body=orjson.dumps(body),
        status=status,
        content_type="application/json",
        headers=_NO_STORE,
    )
