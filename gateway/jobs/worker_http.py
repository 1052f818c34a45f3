"""What a worker answers over HTTP, on `WORKER_PORT`: whether it lives, whether it works, how it and
what it needs are, and its figures. No job is started or seen here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

import orjson
from aiohttp import web

from gateway import __version__
from gateway.jobs.worker_metrics import CONTENT_TYPE, WorkerMetrics

_NO_STORE: Final = {"Cache-Control": "no-store"}
_SHUTDOWN_SECONDS: Final = 2.0  # for answers under way; all are small
_FINE: Final = "healthy"

Health = Callable[[], Mapping[str, Mapping[str, object]]]


class WorkerHttp:
    """The server. `start` once, then `close`."""

    def __init__(
        self,
        *,
        metrics: WorkerMetrics,
        sdk_address: str | None,
        state: Callable[[], str],
        checks: Health,
        admin_from: Sequence[IPv4Network | IPv6Network],
    ) -> None:
        """`state`: `ready`, or what it is doing instead; `checks`: what it needs by name, each with
        its `state`. `admin_from` may read the figures, besides this machine.
        """
        self._metrics = metrics
        self._sdk_address = sdk_address
        self._state = state
        self._checks = checks
        self._admin_from = tuple(admin_from)
        self._started_wall = time.time()
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/health/live", self._live)
        app.router.add_get("/health/ready", self._ready)
        app.router.add_get("/metrics", self._figures)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS, handle_signals=False
        )

    def __repr__(self) -> str:
        return f"<WorkerHttp {self._state()}>"

    async def start(self, host: str, port: int, *, shared: bool = False) -> int:
        """Listen; the port (0 takes any free one). `shared`: whoever started this worker keeps the
        port for it (SO_REUSEPORT). Raises OSError.
        """
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, reuse_port=shared or None).start()
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        """Listen no more."""
        await self._runner.cleanup()

    async def _live(self, _request: web.Request) -> web.Response:
        return _json({"status": "live"}, 200)

    async def _ready(self, _request: web.Request) -> web.Response:
        reason = self._state()
        if reason == "ready":
            return _json({"status": "ready"}, 200)
        return _json({"status": "unavailable", "reason": reason}, 503)

    async def _health(self, _request: web.Request) -> web.Response:
        state, checks = self._state(), self._checks()
        well = all(each["state"] == _FINE for each in checks.values())
        if state != "ready":
            status = "unhealthy"
        else:
            status = _FINE if well else "degraded"
        body = {
            "status": status,
            "version": __version__,
            "uptime_seconds": round(max(0.0, time.time() - self._started_wall), 3),
            "checks": {
                "ready": {"status": _FINE if state == "ready" else "unhealthy", "state": state},
                **{
                    name: {"status": each["state"]}
                    | {key: value for key, value in each.items() if key != "state"}
                    for name, each in checks.items()
                },
            },
        }
        return _json(body, 503 if status == "unhealthy" else 200)

    async def _figures(self, request: web.Request) -> web.Response:
        if not self._may_read(request.remote):
            raise web.HTTPNotFound
        page = await self._metrics.page(self._sdk_address)
        return web.Response(body=page, headers=_NO_STORE | {"Content-Type": CONTENT_TYPE})

    def _may_read(self, remote: str | None) -> bool:
        """The peer itself: nobody speaks for others here."""
        try:
            address = ip_address(remote or "")
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return address.is_loopback or any(address in network for network in self._admin_from)


def _json(body: Mapping[str, object], status: int) -> web.Response:
    return web.Response(
        body=orjson.dumps(body), status=status, content_type="application/json", headers=_NO_STORE
    )
