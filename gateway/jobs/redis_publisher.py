"""Events of jobs through Redis: a worker publishes into the histories that all gateways share, as
any gateway does, and has no readers of its own.

Without Redis events go to a gateway over HTTP (`gateway_http`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from gateway.jobs.activities.parts import NotPublishedError
from gateway.jobs.activity_models import JobEvent
from sse.backplane import Backplane
from sse.backplane_link import Log
from sse.event import BackplaneAwayError, NewEvent, dumps
from sse.hub import Hub, HubLimits
from sse.ring import HistoryLimits


class RedisPublisher:
    """Publishes lists, each whole and in order. `start` once, then `close`."""

    def __init__(self, url: str, history: HistoryLimits, log: Log) -> None:
        """Needs a running event loop. `history`: as the gateways have it. Raises ValueError for a
        URL that can't be read.
        """
        # It encodes events, and remembers none: nobody reads here.
        hub = Hub(asyncio.get_running_loop(), HubLimits(history=history), time.monotonic, time.time)
        # Strict: what only this process has, nobody would ever see.
        self._backplane = Backplane(url, hub, history, strict=True, log=log)

    def __repr__(self) -> str:
        return f"<RedisPublisher {self._backplane!r}>"

    @property
    def state(self) -> dict[str, object]:
        """For the health page."""
        return self._backplane.state

    async def start(self) -> None:
        """Connect, or find out that it is not possible for now: it goes on trying."""
        await self._backplane.start()

    async def close(self) -> None:
        """End; what is under way is refused."""
        await self._backplane.close()

    async def publish(self, client_id: str, events: Sequence[JobEvent], key: str) -> None:
        """Publish; the same `key` within two minutes is published once. Raises NotPublishedError
        when Redis is away: then it may be said again, with the same key.
        """
        new = [NewEvent(each.event_type, dumps(each.data)) for each in events]
        try:
            await self._backplane.publish(client_id, new, key)
        except BackplaneAwayError as error:
            raise NotPublishedError(str(error)) from None
