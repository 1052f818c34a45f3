"""One stream of events for several gateways: the history in Redis is the truth, pub/sub the nudge.

A publication is one step of a script in Redis (`backplane_scripts.py`): numbers, history and nudge
together. The nudge holds the events, so a gateway that stands right before them appends them; any
other loads the history. Publications go out in batches (`backplane_publishing.py`), histories that
are read here are kept up to date (`backplane_watching.py`), each over connections of their own that
come back by themselves (`backplane_link.py`), so that a large history holds up no publication.

Redis away:

- strict: publishing raises BackplaneAwayError, at once when that is known, else within 5 s.
- best effort: the hub publishes here alone, under an epoch of its own: readers here are told by a
  `stream.reset`, so no id ever means two events. A batch that may have reached Redis before it
  went away counts as not published.
- Back again: Redis's history wins. What was published here alone is in no history any more; its
  readers are told by a `stream.reset` (`epoch`) and get what Redis retains.
- Redis that lost its data begins histories with new epochs, and readers are told the same way.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

from sse.backplane_link import Health, Log, Times, connections
from sse.backplane_publishing import PART, LocalHub, Publishing
from sse.backplane_scripts import fresh_epochs
from sse.backplane_watching import LISTENING, READING, Watching
from sse.event import NewEvent, Published
from sse.ring import HistoryLimits


class Backplane:
    """This gateway's share in the histories that all gateways on one Redis have in common."""

    def __init__(
        self,
        url: str,
        hub: LocalHub,
        limits: HistoryLimits,
        *,
        strict: bool,
        log: Log,
        times: Times | None = None,
    ) -> None:
        """Connects at `start`. All gateways should have the same `limits`.

        Raises ValueError for a URL that can't be read.
        """
        times = times or Times()
        connect, database = connections(url)
        gateway = fresh_epochs(1)[0]
        channel = b"gateway:%d:" % database
        self._health = Health((PART, LISTENING, READING), log)
        self._watching = Watching(
            hub, limits, connect, channel, gateway, self._health, times, log, self._replaced
        )
        self._publishing = Publishing(
            hub,
            limits,
            connect,
            channel,
            gateway,
            self._health,
            times,
            log,
            strict=strict,
            local=self._watching.went_local,
            shared=self._watching.heal,
        )
        self._settle_seconds = times.connect

    def __repr__(self) -> str:
        return f"<Backplane {self._health!r} {self._publishing!r} {self._watching!r}>"

    async def start(self) -> None:
        """Connect; returns when that is done, or known not to be possible for now."""
        self._publishing.start()
        self._watching.start()
        settled = (self._publishing.settled, *self._watching.settled)
        try:
            async with asyncio.timeout(self._settle_seconds):
                for each in settled:
                    await each.wait()
        except TimeoutError:
            pass

    async def close(self) -> None:
        """End all connections; publications under way raise BackplaneAwayError."""
        await self._publishing.close()
        await self._watching.close()

    def publish(
        self, client_id: str, events: Sequence[NewEvent], name: str = ""
    ) -> asyncio.Future[Published]:
        """Publish a list for all gateways, contiguous and in order; to be awaited.

        A publication with a `name` (say, made from an Idempotency-Key and its scope) that is
        repeated within two minutes is published once, whatever came between: the same ids are the
        answer again. The future raises BackplaneAwayError when Redis is away or does not answer
        within 5 s.
        """
        if name:
            name = hashlib.sha256(f"{client_id} {name}".encode()).hexdigest()
        return self._publishing.publish(client_id, events, name)

    def watch(self, client_id: str) -> None:
        """The first reader came: leads to `Hub.replace`, or to `Hub.go_local` when Redis is away or
        tells of no history for 2 s (or of this one for 10 s).
        """
        self._watching.watch(client_id)

    def verify(self, client_id: str) -> None:
        """A reader names what is not known here: leads to the same, by loading the history."""
        self._watching.verify(client_id)

    def unwatch(self, client_id: str) -> None:
        """The last reader left."""
        self._watching.unwatch(client_id)

    @property
    def state(self) -> dict[str, object]:
        """For the health page: `state` (`healthy` or `degraded`), `latency_ms`, `error`."""
        return self._health.state

    def _replaced(self, client_id: str) -> None:
        self._publishing.replaced(client_id)
