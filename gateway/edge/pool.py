"""Connections to one endpoint: reuse the youngest, connect when there is none, wait in a bounded
line at the cap.

Deciding is synchronous over plain state; only connecting is a Task, and that is not done per
request.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, cast

from gateway.edge.deadlines import NEVER, Deadlines
from gateway.edge.reading import HeadLimits
from gateway.edge.upstream import CONNECTING, IDLE, UpstreamConnection
from gateway.routing.services import Endpoint
from gateway.settings import EndpointUrl

Connector = Callable[[Callable[[], asyncio.Protocol]], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds of one pool; times in seconds."""

    idle_connections: int
    idle_timeout: float
    max_connections: int
    queue: int
    queue_timeout: float
    connect_timeout: float


@dataclass(frozen=True, slots=True)
class NoConnection:
    """Why a waiter gets none: the error's code and a sentence for the client."""

    code: str
    message: str


class Waiter(Protocol):
    """Who waits for a connection: an exchange."""

    def connected(self, upstream: UpstreamConnection) -> None:
        """Here is one."""

    def not_connected(self, reason: NoConnection) -> None:
        """There will be none."""


def tcp_connector(url: EndpointUrl, context: ssl.SSLContext | None) -> Connector:
    """Connects to an endpoint, with TLS where `context` is given."""
    name = url.host if context is not None else None

    async def connect(factory: Callable[[], asyncio.Protocol]) -> object:
        loop = asyncio.get_running_loop()
        return await loop.create_connection(
            factory, url.host, url.port, ssl=context, server_hostname=name
        )

    return connect


class Pool:
    """The connections of one endpoint."""

    def __init__(
        self,
        endpoint: Endpoint,
        connector: Connector,
        limits: PoolLimits,
        head_limits: HeadLimits,
        deadlines: Deadlines,
        clock: Callable[[], float],
    ) -> None:
        self.endpoint = endpoint
        self.limits = limits
        self.deadlines = deadlines
        self.last_error: str | None = None
        self.latency_ms: float | None = None
        self.deadline = NEVER
        self.filed_tick = NEVER
        self._connector = connector
        self._head_limits = head_limits
        self._clock = clock
        self._idle: list[UpstreamConnection] = []
        self._open = 0  # connected, idle or busy
        self._dials: set[asyncio.Task[None]] = set()
        self._waiters: deque[tuple[Waiter, bool, float]] = deque()
        self._retired = False

    def __repr__(self) -> str:
        figures = f"idle={self.idle} active={self.active} waiting={self.waiting}"
        return f"<Pool {self.endpoint.name} {figures}>"

    @property
    def idle(self) -> int:
        """Connections ready for the next request."""
        return len(self._idle)

    @property
    def active(self) -> int:
        """Connections at work."""
        return self._open - len(self._idle)

    @property
    def waiting(self) -> int:
        """Requests without a connection."""
        return len(self._waiters)

    def acquire(self, waiter: Waiter, *, fresh: bool = False) -> None:
        """Give `waiter` a connection, now or later; `fresh`: never one that was used before."""
        while self._idle and not fresh:
            upstream = self._idle.pop()  # LIFO: the rest may grow old and go
            if not upstream.transport.is_closing():
                upstream.reused = True
                waiter.connected(upstream)
                return
        dialing = len(self._dials)
        may_dial = self._open + dialing < self.limits.max_connections
        if not may_dial and self._idle:  # fresh, at the cap: one that is idle makes room
            self._idle.pop(0).close_idle()
            may_dial = True
        if not may_dial and len(self._waiters) >= dialing + self.limits.queue:
            waiter.not_connected(NoConnection("OVERLOADED", self._full()))
            return
        self._waiters.append((waiter, fresh, self._clock() + self.limits.queue_timeout))
        if may_dial:
            self._dial()
        else:
            self.deadlines.set(self, min(self.deadline, self._waiters[-1][2]))

    def _full(self) -> str:
        return (
            f"all {self.limits.max_connections} connections to service {self.endpoint.service!r}"
            " are busy and so is the waiting line; try again later"
        )

    def cancel(self, waiter: Waiter) -> None:
        """`waiter` no longer wants one."""
        for entry in self._waiters:
            if entry[0] is waiter:
                self._waiters.remove(entry)
                return

    def release(self, upstream: UpstreamConnection, *, reusable: bool) -> None:
        """A connection whose response is over: for the next waiter, idle, or closed."""
        if not reusable or upstream.transport.is_closing():
            upstream.abort()  # with what it did not take of an upload that nobody wants
            return
        if self._retired and not self._waiters:
            upstream.close_idle()
            return
        self.last_error = None
        waiter = self._next_waiter(used=True) if self._waiters else None
        if waiter is not None:
            upstream.reused = True
            waiter.connected(upstream)
            return
        timeout = self.limits.idle_timeout
        if upstream.keep_alive_seconds is not None:
            timeout = min(timeout, upstream.keep_alive_seconds - 1)  # before the back end closes it
        if len(self._idle) >= self.limits.idle_connections or timeout <= 0:
            upstream.close_idle()
            return
        upstream.state = IDLE
        self._idle.append(upstream)
        self.deadlines.after(upstream, timeout)

    def forget(self, upstream: UpstreamConnection) -> None:
        """A connection ended."""
        self._open -= 1
        if upstream in self._idle:
            self._idle.remove(upstream)
        self._dial_for_waiters()

    def retire(self) -> None:
        """Close what is idle, serve who waits, let the rest close when its response is over."""
        self._retired = True
        for upstream in list(self._idle):
            upstream.close_idle()

    def close(self) -> None:
        """End at once: nobody gets a connection any more."""
        self.retire()
        for task in self._dials:
            task.cancel()
        while self._waiters:
            waiter = self._waiters.popleft()[0]
            waiter.not_connected(NoConnection("SERVICE_UNAVAILABLE", "the gateway is closing"))

    def expired(self, now: float) -> None:
        """Some have waited too long; those for whom a connection is on its way wait for that."""
        while len(self._waiters) > len(self._dials) and self._waiters[0][2] <= now:
            waiter = self._waiters.popleft()[0]
            message = (
                f"no connection to service {self.endpoint.service!r} came free within"
                f" {self.limits.queue_timeout:g} s; try again later"
            )
            waiter.not_connected(NoConnection("OVERLOADED", message))
        if self._waiters:
            self.deadlines.set(self, max(self._waiters[0][2], now))

    def _next_waiter(self, *, used: bool) -> Waiter | None:
        for entry in self._waiters:
            if not (used and entry[1]):
                self._waiters.remove(entry)
                return entry[0]
        return None

    def _dial_for_waiters(self) -> None:
        while (
            len(self._waiters) > len(self._dials)
            and self._open + len(self._dials) < self.limits.max_connections
        ):
            self._dial()

    def _dial(self) -> None:
        task = asyncio.get_running_loop().create_task(self._connect())
        self._dials.add(task)

    async def _connect(self) -> None:
        upstream = UpstreamConnection(self, self._head_limits)
        started = self._clock()
        failure: NoConnection | None = None
        try:
            async with asyncio.timeout(self.limits.connect_timeout):
                await self._connector(lambda: upstream)
        except TimeoutError:
            failure = self._unreachable(
                "TIMEOUT", f"no connection within {self.limits.connect_timeout:g} s"
            )
        except ssl.SSLError as error:
            failure = self._unreachable(
                "PROXY_ERROR", f"TLS failed: {getattr(error, 'reason', None) or error}"
            )
        except OSError as error:
            failure = self._unreachable("SERVICE_UNAVAILABLE", error.strerror or str(error))
        except Exception as error:  # a name that no resolver takes raises UnicodeError
            failure = self._unreachable("SERVICE_UNAVAILABLE", f"{type(error).__name__}: {error}")
        finally:
            self._dials.discard(cast("asyncio.Task[None]", asyncio.current_task()))
        if failure is None and upstream.state is not CONNECTING:
            failure = self._unreachable("PROXY_ERROR", "it closed the connection at once")
        waiter = self._next_waiter(used=False)
        if failure is not None:
            if waiter is not None:
                waiter.not_connected(failure)
            self._dial_for_waiters()
            return
        self._open += 1
        upstream.state = IDLE  # from here on the pool counts it
        self.latency_ms = round((self._clock() - started) * 1000, 3)
        if waiter is not None:
            waiter.connected(upstream)
        else:
            self.release(upstream, reusable=True)

    def _unreachable(self, code: str, why: str) -> NoConnection:
        self.last_error = why
        message = f"service {self.endpoint.service!r} can't be reached: {why}"
        return NoConnection(code, message)
