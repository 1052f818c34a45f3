"""Prefaces: what a new reader of a job is told before its events, so that it knows where it is.

A preface is `job.snapshot`, the job's status, with the place in the history up to which it tells.
What came behind that place is sent after it; of a stream that begins now, only what is not older
than the status. Status is read once for all who come at the same time, and not again as long as no
event has passed: a thousand watchers of a job cost one look.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import orjson

from sse.event import JOB_ENDS, JOB_PREFIX, MAX_DATA_BYTES, NewEvent, frame_data, frame_type
from sse.ring import Position, Ring
from sse.stream import Lane

if TYPE_CHECKING:
    from sse.channels import Channel
    from sse.hub import Hub

SNAPSHOT: Final = "job.snapshot"
OVER: Final = frozenset(("completed", "failed", "cancelled", "terminated", "timed_out"))
# A job that ends without a word (ended from outside, all workers gone) is seen this late by those
# who come then; whoever comes meanwhile costs nothing.
FRESH_SECONDS: Final = 5.0
# A job whose readers hear nothing is looked at so often, however many they are: it may have been
# ended from outside, and nobody said so.
SILENT_SECONDS: Final = 60.0
# Jobs that are looked at one after the other, and what their statuses weigh together.
MOST_KEPT: Final = 1024
MOST_KEPT_BYTES: Final = 16 << 20
# While a status is read a job may publish more than its history holds; three times in a row it has
# no end, and the reader is told how much it lost.
MOST_READS: Final = 3
# The envelope takes some 150 bytes of a data line.
_ROOM: Final = MAX_DATA_BYTES - 512


@dataclass(frozen=True, slots=True)
class Preface:
    """What is told first. `mark` is the id of the newest event that it covers, `updated_at` the
    time of the status (RFC 3339, of one form, so that texts compare), `over`: nothing will come.
    """

    event: NewEvent
    mark: str
    updated_at: str
    over: bool

    def locate(self, ring: Ring, last_event_id: str | None, *, ahead: bool = False) -> Position:
        """Where the reader's events begin: behind its id, or behind what the preface covers."""
        if last_event_id:
            return ring.locate(last_event_id, ahead=ahead)
        return replace(ring.locate(self.mark, ahead=ahead), resumed=False)

    def is_done(self, ring: Ring, last_event_id: str | None) -> bool:
        """Whether a reader that comes back has had all there will ever be."""
        if not self.over or not last_event_id:
            return False
        position = ring.locate(last_event_id)
        return position.resumed and position.cursor == ring.last + 1

    def shape(self, lane: Lane, last_event_id: str | None) -> Lane:
        """What the reader wants of the events behind: one that goes on wants them all."""
        return lane if last_event_id or not self.updated_at else _newer(lane, self.updated_at)


class NewerLane(Lane):
    """Readers who know a job's status as of some time: older events of the job are not for them."""

    __slots__ = ("_since",)

    def __init__(self, lane: Lane, since: str) -> None:
        """`since` is an RFC 3339 time as events have it."""
        self.chunked = lane.chunked
        self.filtered = lane.filtered
        self._exact = lane._exact
        self._prefixes = lane._prefixes
        self._since = since

    def select(self, frames: Sequence[bytes]) -> Sequence[bytes]:
        """Those of the frames that are wanted."""
        return [frame for frame in super().select(frames) if _updated_at(frame) >= self._since]


# Who comes at the same time shares the status, and so the lane and its bytes.
_newer = lru_cache(maxsize=1024)(NewerLane)


@lru_cache(maxsize=64)  # some lanes look at one frame each in turn; 64 KiB each at most
def _updated_at(frame: bytes) -> str:
    """When the status in a job's event was true; the last of all times where it holds none, and for
    an end, which everyone is told.
    """
    kind = frame_type(frame)
    if not kind.startswith(b"job.") or kind in JOB_ENDS:
        return _ALWAYS
    return _member(orjson.loads(frame_data(frame)), "updated_at") or _ALWAYS


_ALWAYS: Final = "~"


class Prefaces:
    """The prefaces of all jobs that are watched here.

    `read` gives the status of a job as JSON; what it raises goes to whoever asked. `clock` is
    monotonic, seconds.
    """

    def __init__(
        self, hub: Hub, read: Callable[[str], Awaitable[bytes]], clock: Callable[[], float]
    ) -> None:
        self._hub = hub
        self._read = read
        self._clock = clock
        self._kept: OrderedDict[str, tuple[float, Preface]] = OrderedDict()
        self._kept_bytes = 0
        self._reading: dict[str, asyncio.Task[Preface]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        hub.job_silent = self.look_again

    def __repr__(self) -> str:
        return f"<Prefaces {len(self._kept)} {self._kept_bytes} bytes {len(self._reading)} reading>"

    async def of(self, operation_id: str) -> Preface:
        """The preface for who opens a stream of this job now, and follows its client id."""
        reads = 0
        while True:
            channel = self._hub.channels.get(JOB_PREFIX + operation_id)
            preface = self._known(operation_id, channel)
            if preface is not None:
                return preface
            task = self._reading.get(operation_id)
            if task is None:
                task = asyncio.get_running_loop().create_task(self._look(operation_id, channel))
                self._reading[operation_id] = task
                task.add_done_callback(lambda done: self._done(operation_id, done))
            preface = await asyncio.shield(task)  # others may wait for it who stay
            reads += 1
            if reads == MOST_READS or channel.ring.locate(preface.mark).reset is None:
                return preface

    def _known(self, operation_id: str, channel: Channel) -> Preface | None:
        """Without reading: while nothing has passed, or from the event that ended the job."""
        ring = channel.ring
        mark = ring.id_of(ring.last)
        at, kept = self._kept.get(operation_id, (0.0, None))
        fresh = kept is not None and (kept.over or self._clock() - at < FRESH_SECONDS)
        if kept is not None and kept.mark == mark and fresh:
            return kept
        if not channel.final or channel.final < ring.first:
            return None
        end = frame_data(ring.frames[channel.final - ring.first])
        preface = replace(preface_of(end, mark), over=True)
        self._keep(operation_id, preface)
        return preface

    def look_again(self, channel: Channel) -> None:
        """See whether a job that its readers hear nothing of is over; then they are told."""
        now = self._clock()
        if now - channel.looked_at >= SILENT_SECONDS and not channel.final:
            channel.looked_at = now
            task = asyncio.get_running_loop().create_task(self._end_if_over(channel))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _end_if_over(self, channel: Channel) -> None:
        try:
            preface = await self.of(channel.client_id.removeprefix(JOB_PREFIX))
        except Exception:
            return  # nobody can say now; who comes anew is told why
        if preface.over and not channel.final and not channel.dirty:
            for stream in tuple(channel.streams):
                stream.tell_over(preface)

    async def _look(self, operation_id: str, channel: Channel) -> Preface:
        ring = channel.ring
        channel.looked_at = self._clock()
        mark = ring.id_of(ring.last)  # first, so that nothing falls between
        return preface_of(await self._read(operation_id), mark)

    def _done(self, operation_id: str, task: asyncio.Task[Preface]) -> None:
        del self._reading[operation_id]
        if task.cancelled() or task.exception() is not None:
            return
        self._keep(operation_id, task.result())

    def _keep(self, operation_id: str, preface: Preface) -> None:
        _, before = self._kept.pop(operation_id, (0.0, None))
        self._kept[operation_id] = (self._clock(), preface)
        self._kept_bytes += len(preface.event.data) - (len(before.event.data) if before else 0)
        while len(self._kept) > MOST_KEPT or self._kept_bytes > MOST_KEPT_BYTES:
            _, (_, oldest) = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest.event.data)


def preface_of(status: bytes, mark: str) -> Preface:
    """The preface with a status body; what makes it too large for an event is left out of it, and
    said where it is.
    """
    body: Any = orjson.loads(status)
    for name, member, path in (
        ("result", "result_url", "result"),
        ("steps", "status_url", "status"),
    ):
        if len(status) > _ROOM and isinstance(body, dict):
            body[name] = None
            body[member] = f"/api/v1/workflows/{body.get('operation_id')}/{path}"
            status = orjson.dumps(body)
    over = _member(body, "status") in OVER
    return Preface(NewEvent(SNAPSHOT, status), mark, _member(body, "updated_at"), over)


def _member(body: object, name: str) -> str:
    """A text in an object, empty where there is none."""
    value = body.get(name) if isinstance(body, dict) else None
    return value if isinstance(value, str) else ""
