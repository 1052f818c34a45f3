"""The only place where objects meet: from settings to a running gateway, and down again."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import ssl
import time
from contextlib import suppress

import structlog
from aiohttp import web

from gateway import __version__
from gateway.assemble_events import EventRoom
from gateway.control.app import PATHS, ControlState, build_app
from gateway.edge.context import EdgeContext
from gateway.edge.deadlines import Deadlines
from gateway.edge.headers import Ids
from gateway.edge.listener import (
    BACKLOG,
    accept_queued,
    open_sockets,
    tls_context,
    upstream_tls_context,
)
from gateway.edge.mount import memory_connector
from gateway.edge.outbox import Outbox
from gateway.edge.pool import Connector, Pool, PoolLimits, tcp_connector
from gateway.edge.reading import HeadLimits
from gateway.edge.server import EdgeServer
from gateway.observe.access import AccessLog, RecordWriter, Timestamps
from gateway.observe.log import configure
from gateway.observe.metrics import Metrics, sample_loop_lag
from gateway.policy.ratelimit import RateLimiter
from gateway.routing.services import Endpoint, Service, exposed
from gateway.routing.table import RouteTable
from gateway.settings import EndpointUrl, ServiceSettings, Settings

MOUNTED = "gateway"  # the service label of what the gateway answers itself
LAG_INTERVAL_SECONDS = 1.0
LAST_HANDSHAKE_SECONDS = 2.0  # for TLS clients taken out of the queue when a drain closes it


class Gateway:
    """One running server. `start` once, then `drain` once; `reload` in between."""

    def __init__(self, settings: Settings, *, log_fd: int = 1) -> None:
        """Needs a running event loop. Raises OSError or ssl.SSLError for unusable TLS files."""
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        console = settings.log_format == "console" or (
            settings.log_format == "auto" and os.isatty(log_fd)
        )
        self._writer = RecordWriter(log_fd, self._loop.call_later)
        self._restore_log = configure(self._writer, settings.log_level, console=console)
        self._log = structlog.get_logger("gateway")
        self._tls = _listener_tls(settings)
        self._upstream_tls: ssl.SSLContext | None = None
        self._started_wall = time.time()
        self._state = "starting"
        self._metrics = Metrics(__version__)
        self._metrics.log_records_dropped(lambda: self._writer.dropped)
        self._metrics.upstream_connections(self._connection_figures)
        self._room = EventRoom(settings, self._metrics)
        self._asked = self._control_state()
        self._control = web.AppRunner(
            build_app(self._asked),
            access_log=None,
            handler_cancellation=True,  # a long-poll whose client left gives up its place
            # The door has checked sizes before it added fields of its own.
            max_line_size=settings.max_request_line_bytes + 1024,
            max_field_size=settings.max_headers_bytes + 1024,
            max_headers=settings.max_header_count + 32,
        )
        self._deadlines = Deadlines(time.monotonic, self._loop.call_later)
        self._context = self._build_context(console)
        self._room.attach(self._context)
        self._server = EdgeServer(self._context)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=settings.drain_seconds)
        self._sockets: list[socket.socket] = []
        self._spares: list[socket.socket] = []  # the same, to accept the last from at a drain
        self._hurry = asyncio.Event()
        self._stopped = asyncio.Event()
        self._lag: asyncio.Task[None] | None = None
        self._retired: list[Pool] = []

    def __repr__(self) -> str:
        return f"<Gateway {self._state} {self._server!r}>"

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, once started."""
        name = self._sockets[0].getsockname()
        return name[0], name[1]

    @property
    def context(self) -> EdgeContext:
        """What the door's connections share."""
        return self._context

    async def start(self) -> None:
        """Listen; raises OSError (a port in use) before anything is accepted."""
        settings = self._settings
        try:
            self._sockets = open_sockets(
                settings.host, settings.port, share_port=settings.worker > 0
            )
        except OSError:
            self._writer.close()
            self._restore_log()
            raise
        self._spares = [listener.dup() for listener in self._sockets]
        await self._room.start()
        await self._control.setup()
        control = self._control.server
        if control is None:  # pragma: no cover - setup made it
            raise RuntimeError("the control application did not start")
        endpoint = self._context.mounted.endpoints[0]
        self._context.pools[endpoint.key] = self._pool(
            endpoint, memory_connector(control), settings
        )
        await self._runner.setup()
        for listener in self._sockets:
            site = web.SockSite(self._runner, listener, ssl_context=self._tls, backlog=BACKLOG)
            await site.start()
        self._lag = self._loop.create_task(sample_loop_lag(self._metrics, LAG_INTERVAL_SECONDS))
        self._state = "ready"
        host, port = self.address
        for service in settings.services:
            self._log.info(
                "service",
                name=service.name,
                endpoints=[str(url) for url in service.endpoints],
                names=list(service.aliases),
            )
        for warning in (*settings.warnings, *self._room.authenticator.warnings()):
            self._log.warning("settings", warning=warning)
        self._log.info(
            "listening", host=host, port=port, tls=self._tls is not None, version=__version__
        )

    async def drain(self, *, grace: bool) -> None:
        """Stop without failing a request: not ready at once, accepting for the grace.

        Called again it waits for the first to end; without `grace` it ends that one's.
        """
        if not grace:
            self._hurry.set()
        if self._state in ("draining", "stopped"):
            await self._stopped.wait()
            return
        self._state = "draining"
        self._context.draining = True
        self._room.hub.draining = True
        self._log.info("draining", connections=len(self._server.connections), grace=grace)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_grace_seconds):
                await self._hurry.wait()
        await self._close_listeners()
        self._room.drain()
        await self._runner.cleanup()
        await self._room.close()
        for pool in [*self._context.pools.values(), *self._retired]:
            pool.close()
        await self._control.cleanup()
        if self._lag is not None:
            self._lag.cancel()
            with suppress(asyncio.CancelledError):
                await self._lag
        self._log.info("stopped")
        self._state = "stopped"
        self._writer.close()
        self._restore_log()
        self._stopped.set()

    async def _close_listeners(self) -> None:
        for site in self._runner.sites:
            await site.stop()
        last: list[socket.socket] = []
        for spare in self._spares:
            with suppress(OSError):  # out of descriptors, say: the drain goes on
                last += accept_queued(spare)
        timeout = LAST_HANDSHAKE_SECONDS if self._tls is not None else None
        await asyncio.gather(
            *(
                self._loop.connect_accepted_socket(
                    self._server, connection, ssl=self._tls, ssl_handshake_timeout=timeout
                )
                for connection in last
            ),
            return_exceptions=True,  # a handshake that fails is its client's
        )
        for listener in self._sockets:
            listener.close()

    def reload(self, settings: Settings) -> None:
        """Take new settings; requests in flight keep what they have, equal endpoints their
        connections.

        Host, port, worker count and log output stay as they were. Raises OSError or ssl.SSLError,
        and then nothing has changed.
        """
        tls = _listener_tls(settings)
        if self._tls is not None and tls is not None and settings.tls_cert and settings.tls_key:
            self._tls.load_cert_chain(settings.tls_cert, settings.tls_key)
        self._room.reload(settings, self._context)
        before, self._settings = self._settings, settings
        self._upstream_tls = (
            None if settings.upstream_ca != before.upstream_ca else self._upstream_tls
        )
        context = self._context
        context.settings, context.limits = settings, _head_limits(settings)
        if (settings.rate_limit, settings.rate_limit_keys) != (
            before.rate_limit,
            before.rate_limit_keys,
        ):
            context.limiter = _limiter(settings)
        services = self._services(settings)
        self._replace_pools(services, settings, same_ca=settings.upstream_ca == before.upstream_ca)
        self._asked.settings = settings
        context.table = RouteTable(exposed(services), PATHS)
        self._log.info("reloaded", services=[service.name for service in services])

    def _replace_pools(self, services: list[Service], settings: Settings, *, same_ca: bool) -> None:
        pools = self._context.pools
        mounted = self._context.mounted.endpoints[0].key
        fresh = self._pools(services, settings)
        fresh[mounted] = pools[mounted]
        for key, pool in pools.items():
            kept = fresh.get(key)
            same_peer = same_ca or pool.endpoint.url.scheme == "http"
            if kept is not None and kept.limits == pool.limits and same_peer:
                fresh[key] = pool
            elif kept is not pool:
                pool.retire()
                self._retired.append(pool)
        self._retired = [pool for pool in self._retired if pool.active or pool.waiting]
        self._context.pools = fresh

    # Building

    def _build_context(self, console: bool) -> EdgeContext:
        settings = self._settings
        services = self._services(settings)
        return EdgeContext(
            settings=settings,
            limits=_head_limits(settings),
            table=RouteTable(exposed(services), PATHS),
            mounted=Service(_mounted_settings(settings), self._metrics.service(MOUNTED)),
            limiter=_limiter(settings),
            pools=self._pools(services, settings),
            metrics=self._metrics,
            access=AccessLog(self._writer, settings.access_log, console),
            timestamps=Timestamps(),
            deadlines=self._deadlines,
            outbox=Outbox(self._loop.call_soon),
            ids=Ids(os.urandom),
            via=_pseudonym(settings),
            clock=time.monotonic,
            wall=time.time,
            log=structlog.get_logger("gateway.edge"),
        )

    def _services(self, settings: Settings) -> list[Service]:
        return [Service(each, self._metrics.service(each.name)) for each in settings.services]

    def _pools(self, services: list[Service], settings: Settings) -> dict[str, Pool]:
        return {
            endpoint.key: self._pool(
                endpoint,
                tcp_connector(endpoint.url, self._tls_for(endpoint.url)),
                settings,
                service.settings,
            )
            for service in services
            for endpoint in service.endpoints
        }

    def _pool(
        self,
        endpoint: Endpoint,
        connector: Connector,
        settings: Settings,
        service: ServiceSettings | None = None,
    ) -> Pool:
        limits = PoolLimits(
            idle_connections=settings.upstream_idle_connections,
            idle_timeout=settings.upstream_idle_timeout,
            max_connections=service.max_connections
            if service
            else settings.upstream_max_connections,
            queue=settings.upstream_queue,
            queue_timeout=settings.upstream_queue_timeout,
            connect_timeout=service.connect_timeout if service else settings.connect_timeout,
        )
        head_limits = _head_limits(settings)
        return Pool(endpoint, connector, limits, head_limits, self._deadlines, time.monotonic)

    def _tls_for(self, url: EndpointUrl) -> ssl.SSLContext | None:
        if url.scheme != "https":
            return None
        if self._upstream_tls is None:
            self._upstream_tls = upstream_tls_context(self._settings.upstream_ca)
        return self._upstream_tls

    # What the control application asks

    def _control_state(self) -> ControlState:
        return ControlState(
            settings=self._settings,
            metrics=self._metrics,
            ready=lambda: self._state,
            services=self._health,
            started_wall=self._started_wall,
            tickets=self._room.door.tickets,
            questions=self._room.questions,
            dependencies=lambda: self._room.dependencies,
        )

    def _health(self) -> list[dict[str, object]]:
        return [_service_health(name, pools) for name, pools in self._pools_by_service().items()]

    def _pools_by_service(self) -> dict[str, list[Pool]]:
        grouped: dict[str, list[Pool]] = {}
        for pool in self._context.pools.values():
            if pool.endpoint.service != MOUNTED:
                grouped.setdefault(pool.endpoint.service, []).append(pool)
        return grouped

    def _connection_figures(self) -> list[tuple[tuple[str, ...], float]]:
        return [
            ((name, state), float(sum(getattr(pool, state) for pool in pools)))
            for name, pools in self._pools_by_service().items()
            for state in ("idle", "active", "waiting")
        ]


async def build_server(settings: Settings, *, log_fd: int = 1) -> Gateway:
    """A gateway that is not started yet; log lines and access records go to `log_fd`."""
    return Gateway(settings, log_fd=log_fd)


def _listener_tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return tls_context(settings.tls_cert, settings.tls_key, settings.tls_min_version)


def _head_limits(settings: Settings) -> HeadLimits:
    return HeadLimits(
        request_line_bytes=settings.max_request_line_bytes,
        header_line_bytes=settings.max_header_line_bytes,
        headers_bytes=settings.max_headers_bytes,
        header_count=settings.max_header_count,
    )


def _limiter(settings: Settings) -> RateLimiter | None:
    limit = settings.rate_limit
    if limit is None:
        return None
    return RateLimiter(limit.quota, limit.window_seconds, settings.rate_limit_keys)


def _mounted_settings(settings: Settings) -> ServiceSettings:
    return ServiceSettings(
        name=MOUNTED,
        aliases=(),
        endpoints=(EndpointUrl("http", "gateway", 80, ""),),
        upgrades=(),
        max_body_bytes=settings.max_body_bytes,
    )


def _pseudonym(settings: Settings) -> bytes:
    """This gateway's name in Via: the same after a restart and in all its processes, no other's."""
    here = f"{socket.gethostname()} {settings.host} {settings.port}"
    return b"gateway-" + hashlib.sha256(here.encode()).hexdigest()[:8].encode()


def _service_health(name: str, pools: list[Pool]) -> dict[str, object]:
    endpoints: list[dict[str, object]] = []
    for pool in pools:
        known = pool.last_error is not None or pool.latency_ms is not None
        state = "unhealthy" if pool.last_error else "healthy" if known else "unknown"
        endpoints.append(
            {
                "url": pool.endpoint.name,
                "state": state,
                "idle": pool.idle,
                "active": pool.active,
                "waiting": pool.waiting,
                "latency_ms": pool.latency_ms,
                "last_error": pool.last_error,
            }
        )
    states = {endpoint["state"] for endpoint in endpoints}
    whole = states.pop() if len(states) == 1 else "degraded" if "unhealthy" in states else "healthy"
    return {"name": name, "state": whole, "endpoints": endpoints}
