"""Services as they run, built from settings: their pools and lines, the checks of their endpoints,
and the table that leads to them.

A part of `assemble`: what a reload changes of them, and what is closed when it is over.
"""

from __future__ import annotations

import hmac
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.assemble_admin import service_figures
from gateway.control import PATHS
from gateway.edge.deadlines import Deadlines
from gateway.edge.line import Line
from gateway.edge.listener import upstream_tls_context
from gateway.edge.pool import Connector, Pool, PoolLimits, tcp_connector
from gateway.edge.reading import HeadLimits
from gateway.observe.metrics import Metrics, ServiceMetrics
from gateway.policy.tickets import grant_key
from gateway.routing.health import HealthChecks
from gateway.routing.routes import Route, build_routes, open_routes
from gateway.routing.services import (
    Endpoint,
    Service,
    breaker_changes,
    breaker_states,
    endpoints_up,
    exposed,
    services_from,
)
from gateway.routing.table import RouteTable
from gateway.settings import ServiceSettings, Settings

_ANY_NUMBER: Final = 1 << 30  # of requests at once


@dataclass(frozen=True, slots=True)
class PreparedServices:
    """What a reload changes of services."""

    settings: Settings
    tls: ssl.SSLContext
    sticky_secret: str = field(repr=False)


class ServiceRoom:
    """The services of one gateway. `start` once, then `close`; `prepare` and `take` in between.

    `pools`, `lines` and `table` are the door's: the first two stay the same objects. `tls` is what
    verifies services now, for others that ask them; it takes 60 ms to make.
    """

    def __init__(self, settings: Settings, metrics: Metrics, deadlines: Deadlines):
        """Raises OSError or ssl.SSLError for an unusable UPSTREAM_CA, SettingsError for a key that
        can't be used.
        """
        self._settings = settings
        self._metrics = metrics
        self._deadlines = deadlines
        self._checks = HealthChecks(time.monotonic)
        self.tls = _tls(settings)
        self._retired: list[Pool] = []
        self._mounted = ""  # the key of the gateway's own application
        self.pools: dict[str, Pool] = {}  # by the endpoint's key
        self.lines: dict[str, Line] = {}  # by the service's name
        self.services: dict[str, Service] = {}  # by name
        self.table = self._take(settings, _sticky_secret(settings))
        self._show()

    def __repr__(self) -> str:
        return f"<ServiceRoom {sorted(self.services)} pools={len(self.pools)}>"

    def start(self) -> None:
        """Begin to check endpoints; needs the running loop."""
        self._checks.reload(self.services.values(), self.tls)

    def prepare(self, settings: Settings) -> PreparedServices:
        """What of new settings can fail, before anything has changed: OSError or ssl.SSLError for
        UPSTREAM_CA, SettingsError for a key, ValueError for services or routes that can't be made.
        """
        secret = _sticky_secret(settings)
        # Those that run change while they take new settings, so these are tried on others.
        _table(
            settings,
            [
                Service(each, ServiceMetrics(each.name), sticky_secret=secret)
                for each in settings.services
            ],
        )
        same_ca = settings.upstream_ca == self._settings.upstream_ca
        return PreparedServices(settings, self.tls if same_ca else _tls(settings), secret)

    def take(self, new: PreparedServices) -> None:
        """Go on with what was prepared. Equal endpoints keep their connections, requests in flight
        what they have.
        """
        settings = new.settings
        same_ca, self.tls = new.tls is self.tls, new.tls
        same_heads = head_limits(settings) == head_limits(self._settings)
        self._settings = settings
        for key, pool in list(self.pools.items()):
            old = not same_heads or (not same_ca and pool.endpoint.url.scheme == "https")
            if old and key != self._mounted:
                self.retire(self.pools.pop(key))
        self.table = self._take(settings, new.sticky_secret)
        self._checks.reload(self.services.values(), self.tls)

    async def close(self) -> None:
        """Close every connection."""
        await self._checks.close()
        for pool in [*self.pools.values(), *self._retired]:
            pool.close()

    def mount(self, service: Service, connector: Connector) -> None:
        """Let the gateway's own application be reached like a service."""
        endpoint = service.endpoints[0]
        self._mounted = endpoint.key
        self.pools[endpoint.key] = self._pool(endpoint, connector, self._settings, None)

    def open_pool(self, service: Service, endpoint: Endpoint) -> Pool:
        """A pool for one more endpoint."""
        connector = tcp_connector(endpoint.url, self._tls_for(endpoint))
        return self._pool(endpoint, connector, self._settings, service.settings)

    def retire(self, pool: Pool) -> None:
        """Let a pool end when nothing of it is under way."""
        pool.retire()
        self._retired = [each for each in self._retired if each.active or each.waiting]
        self._retired.append(pool)

    def figures(self) -> list[dict[str, object]]:
        """How the services stand, for the health page."""
        now = time.monotonic()
        return [service_figures(each, self.pools, now) for each in self.services.values()]

    # Taking settings

    def _take(self, settings: Settings, secret: str) -> RouteTable[Route]:
        services = services_from(
            settings.services,
            self._metrics,
            self.services.values(),
            sticky_secret=secret,
            now=time.monotonic(),
        )
        self.services = {service.name: service for service in services}
        self._take_pools(services, settings)
        self._take_lines(services)
        return _table(settings, services)

    def _take_pools(self, services: Sequence[Service], settings: Settings) -> None:
        wanted = {
            endpoint.key: (service, endpoint)
            for service in services
            for endpoint in service.endpoints
        }
        for key, pool in list(self.pools.items()):
            if key == self._mounted:
                continue
            service, _ = wanted.get(key, (None, None))
            if service is None or pool.limits != _limits(settings, service.settings):
                self.retire(self.pools.pop(key))
        for key, (service, endpoint) in wanted.items():
            service.rotation.on_removed = self._removed
            if key not in self.pools:
                self.pools[key] = self.open_pool(service, endpoint)

    def _removed(self, endpoint: Endpoint) -> None:
        """The last request of an endpoint that was taken out has ended."""
        pool = self.pools.get(endpoint.key)
        if pool is not None and pool.endpoint is endpoint:  # else another one's of the same name
            self.retire(self.pools.pop(endpoint.key))

    def _take_lines(self, services: Sequence[Service]) -> None:
        before = dict(self.lines)
        self.lines.clear()
        for service in services:
            given = service.settings
            if given.max_requests is None:
                continue
            line = before.get(service.name)
            if line is None:
                line = Line(
                    service.name,
                    given.max_requests,
                    given.queue,
                    given.queue_timeout,
                    self._deadlines,
                    time.monotonic,
                )
            else:
                line.resize(given.max_requests, given.queue, given.queue_timeout)
            self.lines[service.name] = line
        for name, line in before.items():
            if name not in self.lines:  # nothing bounds the service any more: all may go on
                line.resize(_ANY_NUMBER, 0, 0.0)

    def _pool(
        self,
        endpoint: Endpoint,
        connector: Connector,
        settings: Settings,
        service: ServiceSettings | None,
    ) -> Pool:
        limits, heads = _limits(settings, service), head_limits(settings)
        return Pool(endpoint, connector, limits, heads, self._deadlines, time.monotonic)

    def _tls_for(self, endpoint: Endpoint) -> ssl.SSLContext | None:
        return self.tls if endpoint.url.scheme == "https" else None

    # Figures

    def _show(self) -> None:
        metrics = self._metrics
        metrics.upstream_connections(self._connections)
        metrics.gauge(
            "gateway_breaker_state",
            "0 closed, 1 half open, 2 open.",
            ("service",),
            lambda: breaker_states(self.services.values(), time.monotonic()),
        )
        metrics.counter(
            "gateway_breaker_changes_total",
            "Changes of a breaker's state.",
            ("service", "to"),
            lambda: breaker_changes(self.services.values()),
        )
        metrics.gauge(
            "gateway_endpoint_up",
            "1 while the endpoint takes requests.",
            ("service", "endpoint"),
            lambda: endpoints_up(self.services.values()),
        )

    def _connections(self) -> list[tuple[tuple[str, ...], float]]:
        sums: dict[tuple[str, ...], float] = {}
        for key, pool in self.pools.items():
            if key == self._mounted:
                continue
            for state in ("idle", "active", "waiting"):
                place = (pool.endpoint.service, state)
                sums[place] = sums.get(place, 0.0) + getattr(pool, state)
        return list(sums.items())


def _table(settings: Settings, services: Sequence[Service]) -> RouteTable[Route]:
    """What leads to `services`. Raises ValueError or KeyError for routes that can't be made."""
    by_name = {service.name: service for service in services}
    return RouteTable(
        build_routes(settings.routes, by_name, settings.auth_default),
        open_routes(exposed(services), settings.auth_default),
        PATHS,
    )


def head_limits(settings: Settings) -> HeadLimits:
    """What a head may be, of a request and of an answer."""
    return HeadLimits(
        request_line_bytes=settings.max_request_line_bytes,
        header_line_bytes=settings.max_header_line_bytes,
        headers_bytes=settings.max_headers_bytes,
        header_count=settings.max_header_count,
    )


def _limits(settings: Settings, service: ServiceSettings | None) -> PoolLimits:
    return PoolLimits(
        idle_connections=settings.upstream_idle_connections,
        idle_timeout=settings.upstream_idle_timeout,
        max_connections=service.max_connections if service else settings.upstream_max_connections,
        queue=service.queue if service else settings.upstream_queue,
        queue_timeout=service.queue_timeout if service else settings.upstream_queue_timeout,
        connect_timeout=service.connect_timeout if service else settings.connect_timeout,
    )


def _tls(settings: Settings) -> ssl.SSLContext:
    return upstream_tls_context(settings.upstream_ca)


def _sticky_secret(settings: Settings) -> str:
    """What signs the cookies of sticky sessions: derived, so that it signs nothing else."""
    return hmac.new(grant_key(settings).encode(), b"sticky sessions", "sha256").hexdigest()
