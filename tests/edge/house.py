"""A pool with its time and its back end in the hands of a test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.edge.deadlines import Deadlines
from gateway.edge.pool import NoConnection, Pool, PoolLimits
from gateway.edge.reading import HeadLimits
from gateway.edge.upstream import UpstreamConnection
from gateway.observe.metrics import Metrics
from gateway.routing.services import Endpoint, Service
from gateway.settings import EndpointUrl, ServiceSettings
from tests.connection import turn
from tests.edge.clock import Time


class Line(asyncio.Transport):
    """A transport with nobody at the other end: it keeps what was done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.ended = ""

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return bool(self.ended)

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = self.ended or "aborted"


class Backend:
    """A connector: each attempt waits until the test lets it through or fails it."""

    def __init__(self) -> None:
        self.attempts: list[asyncio.Future[None]] = []
        self.made: list[UpstreamConnection] = []

    async def connect(self, factory: Callable[[], asyncio.Protocol]) -> object:
        attempt = asyncio.get_running_loop().create_future()
        self.attempts.append(attempt)
        await attempt
        upstream = factory()
        assert isinstance(upstream, UpstreamConnection)
        line = Line()
        upstream.connection_made(line)
        self.made.append(upstream)
        return line

    async def accept(self, count: int = 1) -> None:
        """The next attempts succeed."""
        await turn()
        for attempt in [attempt for attempt in self.attempts if not attempt.done()][:count]:
            attempt.set_result(None)
        await turn(4)

    async def refuse(self, error: Exception) -> None:
        """The next attempt fails."""
        await turn()
        next(attempt for attempt in self.attempts if not attempt.done()).set_exception(error)
        await turn(4)


class Customer:
    """Wants a connection, uses it, and keeps what it was told."""

    def __init__(self) -> None:
        self.upstream: UpstreamConnection | None = None
        self.refusal: NoConnection | None = None
        self.told: list[str] = []

    def connected(self, upstream: UpstreamConnection) -> None:
        assert self.upstream is None
        self.upstream = upstream
        upstream.begin(self, is_head=False)

    def not_connected(self, reason: NoConnection) -> None:
        assert self.refusal is None
        self.refusal = reason

    def upstream_data(self, upstream: UpstreamConnection) -> None:
        self.told.append("data")

    def upstream_lost(self, upstream: UpstreamConnection, *, clean: bool) -> None:
        self.told.append("lost" if clean else "reset")

    def upstream_paused(self, paused: bool) -> None:
        self.told.append("paused" if paused else "resumed")

    def upstream_timeout(self, upstream: UpstreamConnection) -> None:
        self.told.append("timeout")

    @property
    def code(self) -> str:
        """Of the refusal."""
        return self.refusal.code if self.refusal else ""

    def done(self, *, reusable: bool = True) -> None:
        """Give the connection back."""
        assert self.upstream is not None
        self.upstream.end(reusable=reusable)


class House:
    """A pool with its time and its back end."""

    def __init__(self, **changed: float) -> None:
        limits: dict[str, Any] = {
            "idle_connections": 2,
            "idle_timeout": 90.0,
            "max_connections": 2,
            "queue": 1,
            "queue_timeout": 5.0,
            "connect_timeout": 5.0,
        }
        settings = ServiceSettings(
            name="users", aliases=("users",), endpoints=(EndpointUrl("http", "a.test", 80, ""),)
        )
        self.endpoint: Endpoint = Service(settings, Metrics("1").service("users")).endpoints[0]
        self.time = Time()
        self.backend = Backend()
        self.pool = Pool(
            self.endpoint,
            self.backend.connect,
            PoolLimits(**(limits | changed)),
            HeadLimits(),
            Deadlines(self.time.clock, self.time.call_later),
            self.time.clock,
        )

    def want(self, *, fresh: bool = False) -> Customer:
        """One more who wants a connection."""
        customer = Customer()
        self.pool.acquire(customer, fresh=fresh)
        return customer

    async def served(self, count: int = 1) -> list[Customer]:
        """So many with a fresh connection each."""
        customers = [self.want() for _ in range(count)]
        await self.backend.accept(count)
        assert all(customer.upstream for customer in customers)
        return customers

    @property
    def state(self) -> str:
        """How the pool shows itself."""
        return repr(self.pool).removeprefix("<Pool http://a.test ").removesuffix(">")


def ended(upstream: UpstreamConnection | None) -> str:
    """How the gateway ended the connection, empty while it is open."""
    assert upstream is not None
    assert isinstance(upstream.transport, Line)
    return upstream.transport.ended
