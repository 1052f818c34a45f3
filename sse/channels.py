"""Channels: each client id's history and readers, and the bounds of all histories together.

A history is forgotten some time after its last event and reader, or when there are too many, the
least recently used without readers first.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from sse.event import JOB_ENDS, JOB_PREFIX, JOB_STARTED, frame_type
from sse.ring import EPOCH_ALPHABET, EPOCH_LENGTH, HistoryLimits, Ring

if TYPE_CHECKING:
    from sse.followers import Follower
    from sse.stream import EventStream, Lane


class Round:
    """Some frames on their way to the readers that were there when it began, a slice a turn."""

    __slots__ = ("at", "end", "ends", "frames", "made", "start", "streams")

    def __init__(self, channel: Channel, most_bytes: int) -> None:
        """What is new, at most `most_bytes` unless a single frame is larger."""
        ring = channel.ring
        self.start = max(channel.flushed + 1, ring.first)
        self.frames = ring.since(self.start, ring.last, most_bytes)
        self.end = self.start + len(self.frames) - 1
        self.streams = tuple(channel.streams)
        self.at = 0  # the next of them
        self.ends = self.start <= channel.final <= self.end  # a job's last event is among them
        self.made: dict[Lane, tuple[bytes, int, int]] = {}  # wire bytes, size of events, count

    def __repr__(self) -> str:
        return f"<Round {self.start}..{self.end} at {self.at} of {len(self.streams)}>"

    def write(self, most: int, now: float) -> int:
        """Write to `most` readers more; how many events were written. `now`: monotonic seconds."""
        delivered = 0
        start, end, made = self.start, self.end, self.made
        part = self.streams[self.at : self.at + most]
        self.at += len(part)
        for stream in part:
            lane = stream.lane
            if lane is None or stream.cursor > end:
                continue  # it lags, has left, or got these when it joined
            if stream.cursor != start:
                stream.catch_up()
                continue
            chunk, size, count = made.get(lane) or self._make(lane)
            stream.cursor = end + 1
            if chunk:
                stream.sent_at = now
                stream.write_live(chunk, size, count)
                delivered += count
            if self.ends:
                stream.caught_up()
        return delivered

    def _make(self, lane: Lane) -> tuple[bytes, int, int]:
        wanted = lane.select(self.frames)
        data = b"".join(wanted)
        made = self.made[lane] = (lane.wrap(data) if data else b"", len(data), len(wanted))
        return made


class Channel:
    """A client id: its history and its readers."""

    __slots__ = (
        "busy", "client_id", "dirty", "final", "flushed", "followers", "is_job", "looked_at",
        "ready", "ring", "round", "streams",
    )  # fmt: skip

    def __init__(self, client_id: str, ring: Ring) -> None:
        self.client_id = client_id
        self.ring = ring
        self.streams: list[EventStream] = []
        self.followers: tuple[Follower, ...] = ()
        self.is_job = client_id.startswith(JOB_PREFIX)
        self.final = 0  # the number of the event that ended the job, while it is retained
        self.looked_at = -math.inf  # when the job's status was last read, monotonic seconds
        self.flushed = ring.last  # the newest number that live readers were written
        self.dirty = False  # a flush is on its way
        self.round: Round | None = None  # one that is not through
        self.ready = True  # whether the history is known here
        self.busy: list[Callable[[], None]] | None = None  # lists that wait for their turn

    def __repr__(self) -> str:
        return f"<Channel {self.client_id} {self.ring!r} readers={len(self.streams)}>"

    @property
    def is_wanted(self) -> bool:
        """Whether someone here wants its events."""
        return bool(self.streams or self.followers)

    def note(self, frame: bytes, sequence: int) -> None:
        """See whether an event ends the job."""
        if self.is_job:
            kind = frame_type(frame)
            if kind in JOB_ENDS:
                self.final = sequence
            elif kind == JOB_STARTED:
                self.final = 0  # it was begun anew

    def add(self, stream: EventStream) -> None:
        """One more reader."""
        stream.index = len(self.streams)
        self.streams.append(stream)

    def remove(self, stream: EventStream) -> None:
        """One less; the last takes its place, so that it costs the same with 10,000."""
        last = self.streams.pop()
        if last is not stream:
            self.streams[stream.index] = last
            last.index = stream.index


class Channels:
    """All channels of this process."""

    def __init__(
        self,
        limits: HistoryLimits,
        most: int,
        most_bytes: int,
        clock: Callable[[], float],
        chance: random.Random,
    ) -> None:
        """At most `most` histories of together `most_bytes`; `chance` draws the epochs."""
        self.limits = limits
        self.size_bytes = 0
        self._most = most
        self._most_bytes = most_bytes
        self._clock = clock
        self._chance = chance
        self._by_id: dict[str, Channel] = {}
        self._idle: dict[str, float] = {}  # without readers: when it was last used, oldest first

    def __repr__(self) -> str:
        return f"<Channels {len(self._by_id)} idle={len(self._idle)} {self.size_bytes} bytes>"

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Channel]:
        return iter(list(self._by_id.values()))

    def find(self, client_id: str) -> Channel | None:
        """The channel of a client id, if it has one."""
        return self._by_id.get(client_id)

    def get(self, client_id: str) -> Channel:
        """The channel of a client id; a new one begins with an epoch of its own."""
        channel = self._by_id.get(client_id)
        if channel is None:
            if len(self._by_id) >= self._most and self._idle:
                self._forget(next(iter(self._idle)))
            epoch = "".join(self._chance.choices(EPOCH_ALPHABET, k=EPOCH_LENGTH))
            channel = self._by_id[client_id] = Channel(client_id, Ring(epoch))
        return channel

    def used(self, channel: Channel) -> None:
        """It was published to, or a reader came or left: its time starts anew."""
        self._idle.pop(channel.client_id, None)
        if not channel.is_wanted:
            self._idle[channel.client_id] = self._clock()

    def add(self, channel: Channel, frame: bytes) -> None:
        """Append what the channel's ring numbered."""
        ring = channel.ring
        before = ring.size_bytes
        ring.append(frame, self.limits)
        channel.note(frame, ring.last)
        self.size_bytes += ring.size_bytes - before
        if self.size_bytes > self._most_bytes:
            self._make_room(channel)

    def is_full(self, size_bytes: int) -> bool:
        """Whether so many bytes more are too many."""
        return self.size_bytes + size_bytes > self._most_bytes

    def exchange(self, channel: Channel, ring: Ring) -> Ring:
        """Give a channel another history; the old one."""
        before, channel.ring = channel.ring, ring
        channel.final = 0
        for sequence, frame in enumerate(ring.frames, ring.first):
            channel.note(frame, sequence)
        self.size_bytes += ring.size_bytes - before.size_bytes
        return before

    def expire(self) -> None:
        """Forget what was not used for the retention time."""
        oldest = self._clock() - self.limits.seconds
        for client_id in list(self._idle):
            if self._idle[client_id] > oldest:
                break
            self._forget(client_id)

    def _forget(self, client_id: str) -> None:
        del self._idle[client_id]
        self.size_bytes -= self._by_id.pop(client_id).ring.size_bytes

    def _make_room(self, channel: Channel) -> None:
        """Forget idle histories, then the oldest events of the one that grows."""
        for client_id in list(self._idle):
            if self.size_bytes <= self._most_bytes:
                return
            if client_id != channel.client_id:
                self._forget(client_id)
        ring = channel.ring
        while self.size_bytes > self._most_bytes and len(ring.frames) > 1:
            self.size_bytes -= len(ring.frames[0])
            ring.drop(1)
