"""The event room, built from settings: hub, tickets, keys, the ways to gateways and to people.

A part of `assemble`: what streams and questions consist of, their start, drain and end.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog
from redis.asyncio import Redis

from gateway.assemble_questions import PreparedQuestions, QuestionRoom
from gateway.edge.context import EVENTS_ROUTE, EdgeContext
from gateway.edge.events import EventsDoor
from gateway.edge.job_streams import JOB_STREAM_ROUTES, JobStreamRequest
from gateway.edge.publishing import Publication
from gateway.edge.streaming import DoorStream, StreamRequest
from gateway.observe.metrics import Metrics
from gateway.policy.revocations import Revocations
from gateway.policy.tickets import StreamGrants, Tickets, grant_key
from gateway.policy.tickets_redis import RedisTickets
from gateway.settings import Settings
from gateway.store import Database
from sse.backplane import Backplane
from sse.event import NewEvent, Published
from sse.hub import Hub, HubLimits
from sse.idempotency import IdempotencyKeys
from sse.idempotency_redis import SharedIdempotencyKeys
from sse.ring import HistoryLimits

# A drain's streams end within this share of its time, so that the last ones get their last bytes.
DRAIN_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class PreparedEvents:
    """What a reload changes of streams and questions."""

    settings: Settings
    grants: StreamGrants
    questions: PreparedQuestions


class EventRoom:
    """Streams and questions of one gateway. `start` once, `drain`, then `close`."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        database: Database,
        revocations: Revocations,
        tls: ssl.SSLContext,
    ) -> None:
        """Needs a running event loop. `tls` verifies whom decisions are sent to. Raises
        SettingsError for keys that can't be used.
        """
        self._settings = settings
        self._revocations = revocations
        self.hub = Hub(asyncio.get_running_loop(), _limits(settings), time.monotonic, time.time)
        self.door = EventsDoor(
            hub=self.hub,
            grants=StreamGrants(grant_key(settings), revocations),
            tickets=Tickets(revocations),
            keys=IdempotencyKeys(),
        )
        self._redis: Redis | None = None
        self._backplane: Backplane | None = None
        if settings.redis_url is not None:
            self._share(settings.redis_url)
        self._questions = QuestionRoom(settings, database, self.hub, self.publish, metrics, tls)
        self.questions = self.hub.questions = self.door.asking = self._questions.questions
        _show(metrics, self.hub)

    def __repr__(self) -> str:
        return f"<EventRoom {self.hub!r}>"

    def _share(self, url: str) -> None:
        """Let tickets, keys and histories be those of all gateways on one Redis."""
        strict = self._settings.backplane == "strict"
        self._redis = Redis.from_url(url)
        self.door.tickets = RedisTickets(self._redis, revocations=self._revocations)
        self.door.keys = SharedIdempotencyKeys(self._redis, strict=strict)
        log = structlog.get_logger("gateway.backplane")
        history = self.hub.limits.history
        self._backplane = Backplane(url, self.hub, history, strict=strict, log=log)
        self.hub.backplane = self.door.shared = self._backplane

    @property
    def dependencies(self) -> dict[str, dict[str, object]]:
        """The state of what the room needs, for the health page."""
        states = {"database": self._questions.state}
        return states if self._backplane is None else states | {"redis": self._backplane.state}

    def attach(self, context: EdgeContext) -> None:
        """Let the door know what it answers itself."""
        for method in (b"GET", b"HEAD"):
            context.local[EVENTS_ROUTE, method] = lambda exchange: StreamRequest(
                self.door, exchange
            )
            for route in JOB_STREAM_ROUTES:
                context.local[route, method] = lambda exchange: JobStreamRequest(
                    self.door, exchange
                )
        context.local[EVENTS_ROUTE, b"POST"] = lambda exchange: Publication(self.door, exchange)

    def on_decided(self, tell: Callable[[], None]) -> None:
        """`tell` is called when a question was decided, besides who sends callbacks."""
        self._questions.on_due = tell

    def prepare(self, settings: Settings, tls: ssl.SSLContext) -> PreparedEvents:
        """What new settings say; nothing changes. Raises SettingsError."""
        grants = StreamGrants(grant_key(settings), self._revocations)
        return PreparedEvents(settings, grants, self._questions.prepare(settings, tls))

    def take(self, new: PreparedEvents, *, new_keys: bool) -> None:
        """Go on with what was prepared; with new keys the readers come back and show theirs.

        Heartbeats, histories, Redis and the database stay as they were.
        """
        settings = self._settings = new.settings
        self._questions.take(new.questions)
        self.door.grants = new.grants
        limits = self.hub.limits
        self.hub.limits = replace(
            _limits(settings),
            history=limits.history,
            history_bytes=limits.history_bytes,
            heartbeat_seconds=limits.heartbeat_seconds,
        )
        if new_keys:
            if isinstance(self.door.tickets, Tickets):
                self.door.tickets.clear()  # those in Redis live for 30 s more
            self.hub.send_away("credentials", settings.drain_seconds * DRAIN_SHARE)

    def end_opened_by(self, is_over: Callable[[str | None], bool]) -> None:
        """End the streams whose credential, by its id, is over before its time."""
        self.hub.expire(lambda stream: isinstance(stream, DoorStream) and is_over(stream.jti))

    async def publish(self, client_id: str, events: Sequence[NewEvent]) -> Published:
        """Publish for the gateway's own parts. Raises BackplaneAwayError."""
        if self.door.shared is not None:
            return await self.door.shared.publish(client_id, events)
        return self.hub.publish(client_id, events)

    async def start(self) -> None:
        """Begin."""
        if self._backplane is not None:
            await self._backplane.start()
        await self._questions.start()
        self.hub.start()

    def drain(self) -> None:
        """Send the readers away, spread over the drain's time."""
        self.hub.drain(self._settings.drain_seconds * DRAIN_SHARE)
        self._questions.drain()

    async def close(self) -> None:
        """End what is left."""
        self.hub.close()
        await self._questions.close()
        if self._backplane is not None:
            await self._backplane.close()
        if self._redis is not None:
            await self._redis.aclose()


def _limits(settings: Settings) -> HubLimits:
    return HubLimits(
        history=HistoryLimits(events=settings.history_events, seconds=settings.history_seconds),
        history_bytes=settings.history_bytes,
        heartbeat_seconds=settings.heartbeat_seconds,
        streams_per_client=settings.streams_per_client,
        streams_per_job=settings.streams_per_job,
        streams_per_address=settings.streams_per_address,
        streams=settings.max_streams,
    )


def _show(metrics: Metrics, hub: Hub) -> None:
    """The figures of streams."""

    def one(source: Callable[[], float]) -> Callable[[], list[tuple[tuple[str, ...], float]]]:
        return lambda: [((), source())]

    metrics.gauge("gateway_sse_clients", "Open event streams.", (), one(lambda: hub.count))
    metrics.counter(
        "gateway_sse_events_total",
        "Events published here.",
        ("event_type",),
        lambda: [((name,), float(count)) for name, count in hub.published.items()],
    )
    metrics.counter(
        "gateway_sse_deliveries_total",
        "Events written to readers.",
        (),
        one(lambda: hub.deliveries),
    )
    metrics.counter(
        "gateway_sse_resets_total",
        "Readers told that events are lost.",
        (),
        one(lambda: hub.resets),
    )
