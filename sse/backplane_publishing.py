"""Publications on their way to Redis, in batches: each what came in while two were under way.

So batches are as large as the load asks for, and in order. Those whose answers got lost are sent
again when Redis is back, under the same numbers: the script remembers what they came to. A batch
that Redis would only get to after its time is refused there, by Redis's own clock, so a time-out
means that nothing was published, unless the connection was lost after sending and stayed lost: then
only a publication with a name can be repeated safely.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError

from sse.backplane_link import Dialogue, Health, Link, Log, Times, Wire, converse
from sse.backplane_scripts import (
    DEPTH,
    PUBLISH,
    REMEMBERED_MS,
    calling,
    fresh_epochs,
    group,
    loading,
)
from sse.event import BackplaneAwayError, NewEvent, Published
from sse.ring import HistoryLimits

PART: Final = "publishing"
# One batch: some 3 ms of Redis's time, in which it does nothing else.
BATCH_EVENTS: Final = 512
BATCH_BYTES: Final = 1 << 20
# Events of one client id that go out as one nudge, for a gateway to deliver without a pause; and
# what that message may weigh, unless a single publication is heavier.
NUDGE_EVENTS: Final = 32
NUDGE_BYTES: Final = 65536
# What may wait to be sent: about a second of full load.
QUEUE_EVENTS: Final = 20_000
QUEUE_BYTES: Final = 32 << 20
# Client ids that were published to here while Redis was away; one forgotten only gets a new epoch.
_LOCAL_IDS: Final = 100_000


class LocalHub(Protocol):
    """What a backplane asks of the hub; see `Hub`."""

    def publish(self, client_id: str, events: Sequence[NewEvent], /) -> Published: ...
    def encode_all(self, events: Sequence[NewEvent], /) -> list[bytes]: ...
    def subscribers(self, client_id: str, /) -> int: ...
    def deliver(
        self, client_id: str, epoch: str, first_seq: int, bodies: Sequence[bytes], /
    ) -> bool: ...
    def replace(
        self, client_id: str, epoch: str, first_seq: int, bodies: Sequence[bytes], last_seq: int, /
    ) -> None: ...
    def go_local(self, client_id: str, /) -> None: ...


@dataclass(slots=True, eq=False)
class _Publication:
    client_id: str
    events: Sequence[NewEvent]
    bodies: list[bytes]
    name: str
    size_bytes: int
    deadline: float  # by the loop's clock
    future: asyncio.Future[Published]


@dataclass(slots=True, eq=False)
class _Group:
    """Publications for one client id that go out as one nudge."""

    client_id: str
    name: str
    publications: list[_Publication] = field(default_factory=list)
    count: int = 0
    size_bytes: int = 0


@dataclass(slots=True, eq=False)
class _Batch:
    number: int
    groups: list[_Group]
    deadline: float
    answer: asyncio.Future[Any] | None = None  # on the present connection

    @property
    def publications(self) -> list[_Publication]:
        return [each for group in self.groups for each in group.publications]


class Publishing:
    """The queue, the batch that is under way, and what happens to them when Redis is away."""

    def __init__(
        self,
        hub: LocalHub,
        limits: HistoryLimits,
        connect: Callable[[str], Wire],
        channel: bytes,
        gateway: bytes,
        health: Health,
        times: Times,
        log: Log,
        *,
        strict: bool,
        local: Callable[[str], None],
        shared: Callable[[str], None],
    ) -> None:
        """`local` is told of client ids whose history here is no longer Redis's, `shared` of those
        where it can be again.
        """
        self._hub = hub
        self._limits = limits
        self._channel = channel
        self._gateway = gateway
        self._health = health
        self._times = times
        self._strict = strict
        self._local = local
        self._shared = shared
        self._local_ids: OrderedDict[str, None] = OrderedDict()
        self._queue: deque[_Publication] = deque()
        self._queued_events = 0
        self._queued_bytes = 0
        self._wanted = asyncio.Event()  # something waits in the queue
        self._sent: deque[_Batch] = deque()  # under way, also while the connection is lost
        self._moved = asyncio.Event()  # a batch was sent or settled
        self._number = 0
        self._life = b""  # of the Redis that is connected to
        self._ahead_seconds = 0.0  # Redis's clock before the loop's, at least
        self._link = Link(PART, connect, self._serve, self._changed, health, times, log)
        self._closed = False

    def __repr__(self) -> str:
        return f"<Publishing {self._link!r} queued={self._queued_events}>"

    @property
    def settled(self) -> asyncio.Event:
        """Set when it is known whether Redis is there."""
        return self._link.settled

    def start(self) -> None:
        """Connect."""
        self._loop = asyncio.get_running_loop()
        self._link.start()

    async def close(self) -> None:
        """End; what is under way is refused."""
        self._closed = True
        await self._link.close()
        for batch in tuple(self._sent):
            self._refuse(batch, "the gateway stops")
        for publication in self._queue:
            _refuse(publication, "the gateway stops")

    def publish(
        self, client_id: str, events: Sequence[NewEvent], name: str
    ) -> asyncio.Future[Published]:
        """Queue a list of events; see `Backplane.publish`."""
        future: asyncio.Future[Published] = self._loop.create_future()
        if self._closed or (self._link.is_away and self._strict):
            future.set_exception(BackplaneAwayError("Redis is away"))
            return future
        if self._link.is_away:
            future.set_result(self._publish_here(client_id, events))
            return future
        bodies = self._hub.encode_all(events)
        size_bytes = sum(map(len, bodies))
        full = self._queued_events + len(bodies) > QUEUE_EVENTS
        if full or self._queued_bytes + size_bytes > QUEUE_BYTES:
            future.set_exception(BackplaneAwayError("too much waits for Redis"))
            return future
        self._queued_events += len(bodies)
        self._queued_bytes += size_bytes
        deadline = self._loop.time() + self._times.publish
        self._queue.append(
            _Publication(client_id, events, bodies, name, size_bytes, deadline, future)
        )
        self._wanted.set()
        return future

    def replaced(self, client_id: str) -> None:
        """The history here is Redis's now; the next event published here alone begins another."""
        self._local_ids.pop(client_id, None)

    # One connection

    async def _serve(self, wire: Wire) -> None:
        await converse(wire, self._talk)

    async def _talk(self, dialogue: Dialogue) -> None:
        answer = self._times.answer
        await dialogue.ask(loading(PUBLISH), answer)
        self._life = await dialogue.ask_life(answer)
        # A call without publications says what time it is there.
        self._set_clock(await dialogue.ask(self._call(_Batch(0, [], 0), again=False), answer))
        self._link.ready()
        self._health.up(PART)
        local_ids, self._local_ids = self._local_ids, OrderedDict()
        for client_id in local_ids:
            self._shared(client_id)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send(dialogue, tuple(self._sent)))
            while True:
                await self._settle_next()

    async def _send(self, dialogue: Dialogue, lost: Sequence[_Batch]) -> None:
        """Send the batches whose answers were `lost`, then new ones."""
        for batch in lost:
            batch.answer = dialogue.expect()
        self._moved.set()
        for batch in lost:
            await dialogue.send(self._call(batch, again=True))
        while True:
            await self._wanted.wait()
            while len(self._sent) >= DEPTH:
                await self._move()
            fresh = self._take()
            if fresh is not None:
                self._sent.append(fresh)
                fresh.answer = dialogue.expect()
                self._moved.set()
                await dialogue.send(self._call(fresh, again=False))

    async def _move(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    async def _settle_next(self) -> None:
        """Wait for the answer to the oldest batch, or raise one of AWAY to send it again."""
        while not self._sent or (answer := self._sent[0].answer) is None:
            await self._move()
        batch = self._sent[0]
        try:
            async with asyncio.timeout_at(batch.deadline):
                reply = await answer
        except TimeoutError:
            self._refuse(batch, "Redis did not answer in time")
            raise
        except (NoScriptError, ReadOnlyError):
            raise  # another connection makes it known, or leads to the primary in the end
        except ResponseError as error:
            if "READONLY" in str(error):  # as Redis 6 says it from within a script
                raise
            self._refuse(batch, "Redis refused it")
            self._health.down(PART, error)
            return
        self._set_clock(reply)
        if len(reply) == 1:
            self._refuse(batch, "Redis came to it too late")
            return
        self._settle(batch, reply)

    def _call(self, batch: _Batch, *, again: bool) -> bytes:
        limits = self._limits
        arguments: list[bytes | int] = [
            self._gateway,
            batch.number,
            int(again),
            self._channel,
            limits.events,
            limits.size_bytes,
            int(limits.seconds * 1000),
            int((batch.deadline + self._ahead_seconds) * 1000),
            REMEMBERED_MS,
            self._life,
        ]
        epochs = fresh_epochs(len(batch.groups))
        for each, epoch in zip(batch.groups, epochs, strict=True):
            listening = self._hub.subscribers(each.client_id) > 0
            arguments.append(
                group(each.client_id, epoch, each.count, each.name, listening=listening)
            )
            for publication in each.publications:
                arguments += publication.bodies
        return calling(PUBLISH, *arguments)

    def _set_clock(self, reply: Sequence[Any]) -> None:
        # It was that late there some time before now, so this errs on the early side.
        self._ahead_seconds = reply[0] / 1000 - self._loop.time()

    def _take(self) -> _Batch | None:
        """The next batch; None when nobody waits any more."""
        groups: list[_Group] = []
        latest: dict[str, _Group] = {}
        events = size_bytes = 0
        deadline = 0.0
        while self._queue and events < BATCH_EVENTS and size_bytes < BATCH_BYTES:
            publication = self._next()
            if publication.future.done():
                continue
            deadline = deadline or publication.deadline
            events += len(publication.bodies)
            size_bytes += publication.size_bytes
            into = latest.get(publication.client_id)
            if into is None or not _fits(into, publication):
                into = _Group(publication.client_id, publication.name)
                latest[publication.client_id] = into
                groups.append(into)
            into.publications.append(publication)
            into.count += len(publication.bodies)
            into.size_bytes += publication.size_bytes
        if not self._queue:
            self._wanted.clear()
        if not groups:
            return None
        self._number += 1
        return _Batch(self._number, groups, deadline)

    def _next(self) -> _Publication:
        publication = self._queue.popleft()
        self._queued_events -= len(publication.bodies)
        self._queued_bytes -= publication.size_bytes
        return publication

    def _settle(self, batch: _Batch, reply: Sequence[Any]) -> None:
        self._forget(batch)
        errors = []
        for at, each in enumerate(batch.groups):
            epoch, first, others = reply[1 + 3 * at : 4 + 3 * at]
            if not epoch:
                errors.append(first.decode())
                for publication in each.publications:
                    _refuse(publication, "Redis refused it")
                continue
            name = epoch.decode()
            subscribers = self._hub.subscribers(each.client_id) + others
            for publication in each.publications:
                after = first + len(publication.bodies)
                if not publication.future.done():
                    ids = [f"{name}-{number}" for number in range(first, after)]
                    publication.future.set_result(Published(ids, subscribers))
                first = after
        if not errors:
            self._health.up(PART)
        elif len(errors) == len(batch.groups):
            self._health.down(PART, errors[0])

    def _forget(self, batch: _Batch) -> None:
        if batch in self._sent:
            self._sent.remove(batch)
            self._moved.set()

    # Redis is away

    def _changed(self) -> None:
        """The connection was lost, or another could not be made."""
        for batch in self._sent:
            # Perhaps done: found out when Redis is back in time.
            batch.answer = None
            self._loop.call_at(batch.deadline, self._refuse, batch, "Redis is away")
        if not self._link.is_away:
            return
        waiting = [self._next() for _ in range(len(self._queue))]
        self._wanted.clear()
        if self._strict:
            for publication in waiting:
                _refuse(publication, "Redis is away")
            return
        sent = [publication for batch in self._sent for publication in batch.publications]
        self._sent.clear()
        for publication in (*sent, *waiting):
            if not publication.future.done():
                done = self._publish_here(publication.client_id, publication.events)
                publication.future.set_result(done)

    def _refuse(self, batch: _Batch, why: str) -> None:
        self._forget(batch)
        for publication in batch.publications:
            _refuse(publication, why)

    def _publish_here(self, client_id: str, events: Sequence[NewEvent]) -> Published:
        """Best effort: under an epoch of this gateway's own, so that no id means two events.

        Readers are told by a `stream.reset`, and again when Redis is back and its history holds.
        """
        if client_id not in self._local_ids:
            if len(self._local_ids) >= _LOCAL_IDS:
                self._local_ids.popitem(last=False)
            self._hub.replace(client_id, fresh_epochs(1)[0].decode(), 1, (), 0)
            self._local(client_id)
        self._local_ids[client_id] = None
        self._local_ids.move_to_end(client_id)
        return self._hub.publish(client_id, events)


def _fits(group: _Group, publication: _Publication) -> bool:
    return (
        not group.name
        and not publication.name
        and group.count + len(publication.bodies) <= NUDGE_EVENTS
        and group.size_bytes + publication.size_bytes <= NUDGE_BYTES
    )


def _refuse(publication: _Publication, why: str) -> None:
    if not publication.future.done():
        publication.future.set_exception(BackplaneAwayError(why))
