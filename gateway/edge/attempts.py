"""One try of a request at one endpoint: a connection of its pool, the request on it, what becomes
of that, and what the endpoint is told of it. Not here: whether another try follows (retrying.py),
and what goes to the client (relaying.py).

An exchange has one try at a time, or two where its route hedges.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from gateway.edge.deadlines import Handle
from gateway.edge.pool import NoConnection, Pool
from gateway.edge.relaying import relay
from gateway.errors import Rejection
from gateway.routing.services import Endpoint, Service

if TYPE_CHECKING:
    from gateway.edge.exchange import Exchange
    from gateway.edge.upstream import UpstreamConnection


REPLAY_BYTES: Final = 65536  # of a request body kept for the case that it is sent again


class Cause(Enum):
    """Why a try came to nothing, in the words in which a route says what it retries."""

    NOT_THERE = "not there"  # nothing of the endpoint's: no place here, or no body from the client
    CONNECT = "connect"
    RESET = "reset"  # the connection ended before an answer
    BAD_GATEWAY = "502"  # said by the upstream, or its answer was none
    UNAVAILABLE = "503"
    TIMEOUT = "504"


class Attempt:
    """A waiter of its pool, then the sink of its connection."""

    __slots__ = (
        "_replayed", "_service", "_time", "_written_at", "endpoint", "exchange", "pool", "upstream",
    )  # fmt: skip

    def __init__(
        self, exchange: Exchange, service: Service, endpoint: Endpoint, pool: Pool
    ) -> None:
        """`endpoint` was picked for it: that is taken back when the attempt ends."""
        self.endpoint = endpoint
        self.pool = pool
        self.upstream: UpstreamConnection | None = None
        self.exchange = exchange
        self._service: Service | None = service
        self._replayed = False
        self._time: Handle | None = None
        self._written_at = -1  # the outbox's count when the request was written

    def __repr__(self) -> str:
        state = "over" if self._service is None else self.upstream or "waiting"
        return f"<Attempt {self.endpoint.name} {state}>"

    def limit(self, seconds: float) -> None:
        """Give the try so long, from now to the head of its answer."""
        if self._time is None and self._service is not None:
            self._time = self.exchange.context.deadlines.alarm(self, seconds)

    def unlimit(self) -> None:
        """The head is there."""
        if self._time is not None:
            self._time.cancel()

    def expired(self, now: float) -> None:
        """The time of this try is over."""
        if self._service is not None:
            self.exchange.attempt_timeout(self)

    @property
    def has_left(self) -> bool:
        """Whether something of the request may have reached the endpoint."""
        return self._written_at not in (-1, self.exchange.context.outbox.flushes)

    # What the pool says

    def connected(self, upstream: UpstreamConnection) -> None:
        """Here is a connection: send the request."""
        exchange = self.exchange
        self.upstream = upstream
        upstream.begin(self, is_head=exchange.head.method == b"HEAD")
        self._written_at = exchange.context.outbox.flushes
        exchange.send(upstream)

    def not_connected(self, reason: NoConnection) -> None:
        """There is none."""
        busy = reason.code == "OVERLOADED"
        retry_after = 1 if busy or reason.code == "SERVICE_UNAVAILABLE" else None
        rejection = Rejection(reason.code, reason.message, retry_after)
        self.exchange.attempt_failed(self, Cause.NOT_THERE if busy else Cause.CONNECT, rejection)

    # What the connection says

    upstream_data = relay  # that itself: a call less for each read

    def upstream_lost(self, upstream: UpstreamConnection, *, clean: bool) -> None:
        """The connection ended: at once again on a fresh one, or that was it."""
        exchange = self.exchange
        if not exchange.status and self._is_stale(upstream):
            self._replayed = True
            self._written_at = -1
            self.upstream = None
            exchange.replaying()
            self.pool.acquire(self, fresh=True)
        else:
            exchange.upstream_lost(self, upstream, clean=clean)

    def _is_stale(self, upstream: UpstreamConnection) -> bool:
        """The stale keep-alive race: a reused connection that was closed before any response byte.

        A request that is not idempotent is not sent again once it has left: it may have been
        processed (RFC 9110 §9.2.2).
        """
        exchange = self.exchange
        return (
            upstream.reused
            and not self._replayed
            and upstream.reader.untouched
            and exchange.is_replayable
            and (exchange.is_idempotent or not self.has_left)
        )

    def upstream_timeout(self, upstream: UpstreamConnection) -> None:
        """It was silent for too long."""
        self.exchange.upstream_timeout(self)

    def upstream_paused(self, paused: bool) -> None:
        """It takes no more, or again."""
        self.exchange.upstream_paused(self, paused)

    # The end

    def end(self, now: float, *, failed: bool | None, reusable: bool) -> None:
        """The answer is over; `failed`: whether that counts against the endpoint (None: neither
        way).
        """
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.end(reusable=reusable)
        self.settle(now, failed)

    def drop(self, now: float, *, failed: bool | None) -> None:
        """Nothing more of it is wanted: the connection is closed at once."""
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.abort()
        else:
            self.pool.cancel(self)
        self.settle(now, failed)

    def settle(self, now: float, failed: bool | None) -> None:
        """Tell the service how it went at this endpoint, once."""
        service, self._service = self._service, None
        if self._time is not None:
            self._time.cancel()
        if service is not None:
            service.settled(self.endpoint, failed, now)
