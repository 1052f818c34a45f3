"""The hub: events in, bytes to every reader out, once per turn of the event loop.

A client id's history and readers are its channel. Publishing appends to the ring and marks the
channel; the flush behind it joins what is new and writes the same bytes to every live reader, some
of them a turn. Not here: HTTP (the edge), other gateways (`backplane.py`), questions
(`questions.py`).
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sse.channels import Channel, Channels, Round
from sse.event import (
    JOB_PREFIX,
    KNOWN_TYPES,
    NewEvent,
    Published,
    dumps,
    encode,
    frame_data,
    timestamp,
    uuid7,
)
from sse.followers import Follower
from sse.hub_roles import Backplane, QuestionSource
from sse.pulse import Loop, Pulse
from sse.ring import HistoryLimits, Ring
from sse.stream import CLOSED, ENDING, WRITE_BYTES, EventStream, OpenQuestion

# A reader comes back within this after an end that is not its fault; drawn anew for each, so that
# they don't come all at once.
RETRY_MS: Final = (2000, 3000)
# The same where the gateway has no room: time for others to leave.
RETRY_LATER_MS: Final = (5000, 15000)
# Readers written to in one turn of the loop: 0.2 ms of writing (6 µs each) between two looks at
# everyone else's sockets, at 2 % more a delivery.
SLICE: Final = 32
# How fast a drain ends streams at most: 500 a second come back elsewhere without a storm.
DRAIN_RATE: Final = 500.0


@dataclass(frozen=True, slots=True)
class HubLimits:
    """Bounds of the whole hub; `history` are those of one client id."""

    history: HistoryLimits
    histories: int = 100_000  # client ids with history
    history_bytes: int = 1 << 30  # all histories together
    heartbeat_seconds: float = 30.0
    streams_per_client: int = 64
    streams_per_job: int = 1000
    streams_per_address: int = 256
    streams: int = 18_000


class Hub:
    """All channels of this process. Single-threaded: it belongs to one event loop."""

    def __init__(
        self,
        loop: Loop,
        limits: HubLimits,
        clock: Callable[[], float],
        wall: Callable[[], float],
        chance: random.Random | None = None,
    ) -> None:
        """`clock` monotonic, `wall` since 1970, seconds; `chance` draws epochs and jitter."""
        chance = chance or random.SystemRandom()
        self.limits = limits
        self.now = clock
        self.channels = Channels(
            limits.history, limits.histories, limits.history_bytes, clock, chance
        )
        self.backplane: Backplane | None = None
        self.questions: QuestionSource | None = None
        # Told a job's id and the data of the event that ended it, perhaps more than once.
        self.job_ended: Callable[[str, bytes], None] = lambda operation_id, data: None
        # Told of a job whose readers have heard nothing for as long as a heartbeat takes.
        self.job_silent: Callable[[Channel], None] = lambda channel: None
        self.half_closed: set[EventStream] = set()
        self.count = 0  # open streams
        self.asking = 0  # of those, how many wait for their open questions
        self.resets = 0
        self.deliveries = 0
        self.published: dict[str, int] = {}  # by type; those not of the contract are `other`
        self.draining = False  # no new streams
        self._loop = loop
        self._wall = wall
        self._chance = chance
        self._by_address: dict[str, int] = {}
        self._news: deque[Channel] = deque()  # with news that not all readers were written
        self._drawn = (b"", 0)  # random bytes, and how many of them are used
        self._pulse = Pulse(loop, clock, limits.heartbeat_seconds, self._visit, self._every_tick)

    def __repr__(self) -> str:
        return f"<Hub streams={self.count} {self.channels!r} due={len(self._news)}>"

    # Publishing

    def publish(self, client_id: str, events: Sequence[NewEvent]) -> Published:
        """Append to this process's own history; the ids are contiguous."""
        channel = self.channels.get(client_id)
        ids = []
        for body in self.encode_all(events):
            self._append(channel, body)
            ids.append(channel.ring.id_of(channel.ring.last))
        self.channels.used(channel)
        return Published(ids, len(channel.streams))

    def encode_all(self, events: Sequence[NewEvent]) -> list[bytes]:
        """The frames of new events, without `id:` lines; counts them."""
        wall = self._wall()
        at = timestamp(wall)
        for event in events:
            name = event.event_type if event.event_type in KNOWN_TYPES else "other"
            self.published[name] = self.published.get(name, 0) + 1
        return [encode(event, uuid7(wall, self._draw()), at) for event in events]

    def _draw(self) -> bytes:
        """Ten random bytes; a system call for four hundred times."""
        drawn, used = self._drawn
        if used >= len(drawn):
            drawn, used = os.urandom(4000), 0
        self._drawn = (drawn, used + 10)
        return drawn[used : used + 10]

    def _append(self, channel: Channel, body: bytes) -> None:
        ring = channel.ring
        frame = ring.frame(body)
        dropped = ring.dropped_by(len(frame), self.limits.history)
        if self.channels.is_full(len(frame)):
            self._save(channel, ring.last + 1)
        elif dropped:
            self._save(channel, ring.first + dropped)
        self.channels.add(channel, frame)
        if channel.final == ring.last:
            self._tell_end(channel)
        if not channel.dirty:
            channel.dirty = True
            if not self._news:
                self._loop.call_soon(self.flush)
            self._news.append(channel)

    def _tell_end(self, channel: Channel) -> None:
        frame = channel.ring.frames[channel.final - channel.ring.first]
        try:
            self.job_ended(channel.client_id.removeprefix(JOB_PREFIX), frame_data(frame))
        except Exception as error:
            self._tell(error)  # who publishes and who reads have no part in it

    def flush(self) -> None:
        """Write what is new to live readers, a slice a turn, so that ten thousand readers of one
        client id hold up nobody else.
        """
        room, news = SLICE, self._news
        now = self.now()
        while news and room > 0:
            channel = news.popleft()
            try:
                room -= self._write(channel, room, now)
            except Exception as error:
                # One channel's trouble is not the others'; its readers catch up at the next.
                channel.round, channel.flushed = None, channel.ring.last
                self._tell(error)
            if channel.flushed < channel.ring.last:
                news.append(channel)  # behind the others
                continue
            channel.dirty = False
            if channel.busy is not None:
                self._loop.call_soon(self._next_turn, channel)
        if news:
            self._loop.call_soon(self.flush)

    def _tell(self, error: Exception) -> None:
        """A mistake of ours; the loop's handler logs it."""
        self._loop.call_exception_handler({"message": f"{self!r} failed", "exception": error})

    def _write(self, channel: Channel, most: int, now: float) -> int:
        """Write to at most `most` live readers; how many were looked at, at least one."""
        if channel.flushed >= channel.ring.last:
            return 1
        turn = channel.round or Round(channel, WRITE_BYTES)
        before = turn.at
        self.deliveries += turn.write(most, now)
        if turn.at < len(turn.streams):
            channel.round = turn
        else:
            channel.round = None
            channel.flushed = turn.end
        return max(1, turn.at - before)

    def _finish(self, channel: Channel) -> None:
        """Write to all live readers now what is new."""
        now = self.now()
        while channel.flushed < channel.ring.last:
            self._write(channel, len(channel.streams) + 1, now)

    def in_turn(self, client_id: str, go: Callable[[], None]) -> None:
        """Run `go`, which publishes a list, with a turn of the loop between two of one client id.

        So what was written can leave before the ring goes round.
        """
        channel = self.channels.get(client_id)
        if channel.busy is None:
            channel.busy = []
            try:
                go()
            except Exception as error:
                self._tell(error)
                self.channels.used(channel)  # its time to be forgotten begins all the same
            if not channel.dirty:
                channel.busy = None
        else:
            channel.busy.append(go)

    def _next_turn(self, channel: Channel) -> None:
        waiting, channel.busy = channel.busy, None
        if waiting:
            self.in_turn(channel.client_id, waiting.pop(0))
            for go in waiting:
                self.in_turn(channel.client_id, go)

    def _save(self, channel: Channel, first: int) -> None:
        """A burst must not overwrite what readers who keep up have not been sent: `first` may be
        the oldest event then.
        """
        if first > channel.flushed + 1:
            self._finish(channel)
        if self.asking:
            for stream in tuple(channel.streams):
                stream.overtake(first)

    # Readers

    def subscribers(self, client_id: str) -> int:
        """How many readers a client id has here."""
        channel = self.channels.find(client_id)
        return 0 if channel is None else len(channel.streams)

    def readers(self, client_id: str) -> list[str | None]:
        """Who they are."""
        channel = self.channels.find(client_id)
        return [] if channel is None else [stream.user for stream in channel.streams]

    def refusal(self, client_id: str, address: str) -> str | None:
        """Why no further stream can be opened: `full`, `client`, `address`, or None."""
        limits = self.limits
        if self.draining or self.count >= limits.streams:
            return "full"
        is_job = client_id.startswith(JOB_PREFIX)
        most = limits.streams_per_job if is_job else limits.streams_per_client
        if self.subscribers(client_id) >= most:
            return "client"
        if self._by_address.get(address, 0) >= limits.streams_per_address:
            return "address"
        return None

    def join(self, stream: EventStream, client_id: str) -> None:
        """Open a stream, which `refusal` had nothing against; its transport's protocol it is."""
        channel = self.channels.get(client_id)
        is_first = not channel.is_wanted
        channel.add(stream)
        self.channels.used(channel)
        stream.channel = channel
        # Paused as soon as the kernel does not take everything: what waits is one write.
        stream.transport.set_write_buffer_limits(high=1, low=0)
        self.count += 1
        self._by_address[stream.address] = self._by_address.get(stream.address, 0) + 1
        stream.sent_at = self.now()
        self._pulse.file(stream, self._due(stream))
        if is_first:
            self._begin_watching(channel)
        if channel.ready:
            if self.backplane is not None and stream.is_ahead:
                self.backplane.verify(client_id)  # another gateway may know what this one does not
            else:
                stream.begin()

    def follow(self, client_id: str) -> Follower:
        """Have the history of a client id known here, until the follower is closed."""
        channel = self.channels.get(client_id)
        is_first = not channel.is_wanted
        follower = Follower(self._unfollow, channel)
        channel.followers += (follower,)
        self.channels.used(channel)
        if is_first:
            self._begin_watching(channel)
        if channel.ready:
            follower.tell()
        return follower

    def _unfollow(self, channel: Channel, follower: Follower) -> None:
        channel.followers = tuple(each for each in channel.followers if each is not follower)
        self._end_watching(channel)

    def _begin_watching(self, channel: Channel) -> None:
        if self.backplane is not None:
            channel.ready = False
            self.backplane.watch(channel.client_id)

    def _end_watching(self, channel: Channel) -> None:
        self.channels.used(channel)
        if self.backplane is not None and not channel.is_wanted:
            self.backplane.unwatch(channel.client_id)

    def leave(self, stream: EventStream) -> None:
        """A stream's transport is gone."""
        channel, stream.channel = stream.channel, None
        if channel is None:
            return
        channel.remove(stream)
        self.count -= 1
        left = self._by_address[stream.address] - 1
        if left:
            self._by_address[stream.address] = left
        else:
            del self._by_address[stream.address]
        self._end_watching(channel)

    # Time

    def start(self) -> None:
        """Begin with heartbeats; needs the loop to run."""
        self._pulse.start()

    def close(self) -> None:
        """End what is left at once."""
        self._pulse.stop()
        for stream in self._streams():
            stream.abort("stopped")

    def drain(self, seconds: float) -> None:
        """Tell every stream to come back, spread over at most `seconds`."""
        self.draining = True
        self.send_away("draining", seconds)

    def send_away(self, reason: str, seconds: float) -> None:
        """End every stream so that its reader comes back, spread over at most `seconds`."""
        streams = self._streams()
        self._chance.shuffle(streams)
        over = min(seconds, len(streams) / DRAIN_RATE)
        for at, stream in enumerate(streams):
            delay = over * at / len(streams)
            self._loop.call_later(delay, self._end, stream, reason)

    def expire(self, is_over: Callable[[EventStream], bool]) -> None:
        """End those streams whose credential is over before its time."""
        for stream in self._streams():
            if is_over(stream):
                self._expire(stream)

    def _expire(self, stream: EventStream) -> None:
        stream.end("expired", self.frame("stream.expired", {}))

    def _end(self, stream: EventStream, reason: str) -> None:
        stream.end(reason, self.closing(reason))

    def _streams(self) -> list[EventStream]:
        return [stream for channel in self.channels for stream in channel.streams]

    def _due(self, stream: EventStream) -> float:
        due = stream.sent_at + self.limits.heartbeat_seconds
        return due if stream.expires_at is None else min(due, stream.expires_at)

    def _visit(self, stream: EventStream, now: float) -> float | None:
        """A stream's time has come, or may have; when to look again."""
        if stream.state in (ENDING, CLOSED):
            return None
        if stream.expires_at is not None and now >= stream.expires_at:
            self._expire(stream)
            return None
        if now < self._due(stream):
            return self._due(stream)
        stream.heartbeat()
        if stream.is_job and stream.channel is not None:
            self.job_silent(stream.channel)
        return max(self._due(stream), now + self.limits.heartbeat_seconds / 2)

    def _every_tick(self) -> None:
        self.channels.expire()
        for stream in list(self.half_closed):
            if stream.is_reset:
                stream.abort("client_closed")

    # What a backplane tells

    def deliver(self, client_id: str, epoch: str, first_seq: int, bodies: Sequence[bytes]) -> bool:
        """Events of another gateway, or our own come back; False: a gap, `replace` must heal it."""
        channel = self.channels.find(client_id)
        if channel is None or not channel.is_wanted:
            return True  # nobody reads it here
        ring = channel.ring
        if not channel.ready or ring.epoch != epoch or first_seq > ring.last + 1:
            return False
        for body in bodies[max(0, ring.last + 1 - first_seq) :]:
            self._append(channel, body)
        return True

    def replace(
        self, client_id: str, epoch: str, first_seq: int, bodies: Sequence[bytes], last_seq: int
    ) -> None:
        """The whole retained history; readers go on where they were, or are told what is lost."""
        channel = self.channels.find(client_id)
        if channel is None:
            return
        self._finish(channel)
        ring = Ring(epoch, first_seq - 1 if bodies else last_seq)
        for body in bodies:
            ring.append(ring.frame(body), self.limits.history)
        before = self.channels.exchange(channel, ring)
        lost = None
        if before.epoch != epoch:
            lost = "epoch"
        elif ring.last < before.last:
            lost = "future"  # what readers were sent is not in it any more
        channel.flushed = ring.last
        for stream in tuple(channel.streams):
            stream.moved(lost)
        if channel.final:
            self._tell_end(channel)
        self._let_in(channel)

    def go_local(self, client_id: str) -> None:
        """The backplane can't say: readers begin with what is known here."""
        channel = self.channels.find(client_id)
        if channel is not None:
            self._let_in(channel, alone=True)

    def _let_in(self, channel: Channel, *, alone: bool = False) -> None:
        channel.ready = True
        for follower in channel.followers:
            follower.tell()
        for stream in tuple(channel.streams):
            stream.begin(alone=alone)

    # What streams ask

    def established(self, channel: Channel, *, resumed: bool) -> bytes:
        """The first event of a stream."""
        data = {
            "client_id": channel.client_id,
            "epoch": channel.ring.epoch,
            "resumed": resumed,
            "heartbeat_seconds": _number(self.limits.heartbeat_seconds),
        }
        return self.frame("connection.established", data, RETRY_MS)

    def frame(
        self, event_type: str, data: object, retry_ms: tuple[int, int] | None = None
    ) -> bytes:
        """A frame without an id; `retry_ms`: drawn between the two."""
        retry = None if retry_ms is None else self._chance.randint(*retry_ms)
        return self.encode(NewEvent(event_type, dumps(data)), retry)

    def encode(self, event: NewEvent, retry_ms: int | None = None) -> bytes:
        """A frame without an id."""
        wall = self._wall()
        return encode(event, uuid7(wall, self._draw()), timestamp(wall), retry_ms)

    def heartbeat(self) -> bytes:
        """What a silent stream is sent."""
        return self.frame("heartbeat", {})

    def closing(self, reason: str, *, later: bool = False) -> bytes:
        """What a stream that should come back is sent last."""
        retry = RETRY_LATER_MS if later else RETRY_MS
        return self.frame("stream.closing", {"reason": reason}, retry)

    def ask_open(self, client_id: str, deliver: Callable[[list[OpenQuestion]], None]) -> None:
        """Find out which questions are open."""
        if self.questions is None:
            deliver([])
        else:
            self.questions.open_for(client_id, deliver)

    def resent(self, question_id: str, client_id: str, user: str | None) -> None:
        """A question was sent again to a reader."""
        if self.questions is not None:
            self.questions.resent(question_id, client_id, user)


def _number(seconds: float) -> float:
    """Whole seconds as a whole number."""
    return int(seconds) if seconds == int(seconds) else seconds
