"""One reader of a client id's events: a transport and a place in the ring. No queue, no task.

A reader that takes bytes is *live*: the hub writes it what is new, the same bytes as to everyone in
its lane. One that does not lags in the ring and catches up by itself, at most 64 KiB at a time.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from sse.event import NewEvent, frame_type
from sse.ring import Position

if TYPE_CHECKING:
    from sse.channels import Channel
    from sse.hub import Hub
    from sse.prefaces import Preface

# What one write carries at most, unless a single frame is larger; so much can wait in a transport.
WRITE_BYTES: Final = 65536
# Bytes after the request that are read and dropped; a stream's client has nothing more to say.
GARBAGE_BYTES: Final = 65536


class State(Enum):
    """What the stream is doing."""

    PARKED = "parked"  # the history is not known here yet
    REPLAYING = "replaying"  # what was missed is being written
    ASKING = "asking"  # which questions are open is being found out
    LAGGING = "lagging"  # behind the live events
    LIVE = "live"
    ENDING = "ending"  # the last bytes are being written
    CLOSED = "closed"


# Members by plain names: `State.LIVE` costs 0.1 µs each time in Python 3.11.
PARKED, REPLAYING, ASKING, LAGGING, LIVE, ENDING, CLOSED = State


class Lane:
    """What readers with the same wishes share: how bytes are delimited, which types they want."""

    __slots__ = ("_exact", "_prefixes", "chunked", "filtered")

    def __init__(self, chunked: bool, types: str) -> None:
        """`types`: a comma list of names and `name.*`; empty: all."""
        wanted = [word.strip().encode() for word in types.split(",") if word.strip()]
        self.chunked = chunked
        self.filtered = bool(wanted)
        self._exact = frozenset(word for word in wanted if not word.endswith(b"*"))
        self._prefixes = tuple(word[:-1] for word in wanted if word.endswith(b"*"))

    def __repr__(self) -> str:
        return f"<Lane chunked={self.chunked} {self._exact | set(self._prefixes) or 'all'}>"

    def wants(self, event_type: bytes) -> bool:
        """Whether readers of this lane get events of a type."""
        return (
            not self.filtered
            or event_type in self._exact
            or (bool(self._prefixes) and event_type.startswith(self._prefixes))
        )

    def select(self, frames: Sequence[bytes]) -> Sequence[bytes]:
        """Those of the frames that are wanted."""
        if not self.filtered:
            return frames
        return [frame for frame in frames if self.wants(frame_type(frame))]

    def wrap(self, data: bytes) -> bytes:
        """The bytes of some frames as they go on the wire (RFC 9112 §7.1)."""
        return b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data

    @property
    def end(self) -> bytes:
        """What ends the body; where it is delimited by close, nothing."""
        return b"0\r\n\r\n" if self.chunked else b""


# Few combinations come again and again; bounded, since the types are the client's choice.
lane = lru_cache(maxsize=1024)(Lane)


class OpenQuestion(NamedTuple):
    """A question without an answer; `position` is its event's id, None when not yet published."""

    question_id: str
    data: bytes
    position: str | None


class EventStream(asyncio.Protocol):
    """One subscriber. The hub opens it, `end` or the client closes it; then `closed` is called."""

    __slots__ = (
        "_asks", "_dropped_bytes", "_half_closed", "_hello", "_open", "_over", "_owed", "_paused",
        "_preface", "_reason", "_replay_from", "_state", "_unjudged", "address", "bytes_sent",
        "channel", "cursor", "events_sent", "expires_at", "hub", "index", "is_job", "lane",
        "sent_at", "shape", "transport", "user",
    )  # fmt: skip

    def __init__(
        self,
        hub: Hub,
        transport: asyncio.Transport,
        address: str,
        shape: Lane,
        head: bytes,
        last_event_id: str | None,
        *,
        user: str | None = None,
        expires_at: float | None = None,
        paused: bool = False,
        preface: Preface | None = None,
    ) -> None:
        """`head` of the response goes in front of the first event. `expires_at`: when the
        credential that opened it ends, monotonic seconds. With a `preface` it is a job's: that is
        told first, and it ends with the job.
        """
        self.hub = hub
        self.transport = transport
        self.address = address  # the client's, for the limit of streams per address
        self.shape = shape if preface is None else preface.shape(shape, last_event_id)
        self.is_job = preface is not None
        self.user = user
        self.expires_at = expires_at
        self.channel: Channel | None = None
        self.lane: Lane | None = None  # its shape while it is live, else None
        self.index = 0  # its place in the channel's list
        self.cursor = 0  # the next event to send
        self.sent_at = 0.0  # monotonic seconds of the last write
        self.events_sent = 0
        self.bytes_sent = 0  # of events, without the framing of the body
        self._state = PARKED
        self._hello: tuple[bytes, str | None] | None = (head, last_event_id)
        self._preface = preface  # until it is sent
        self._over = preface is not None and preface.over
        self._asks = False  # whether it waits for its open questions
        self._open: list[OpenQuestion] | None = None  # those still to be sent, the first one last
        self._unjudged: str | None = None  # an id that only the shared history can place
        self._owed: str | None = None  # why it must be told of a loss when it can take that
        self._paused = paused  # what was sent before on this connection waits in the transport
        self._half_closed = False
        self._dropped_bytes = 0
        self._replay_from = 0  # the first number that the replay covered
        self._reason = ""

    def __repr__(self) -> str:
        at = f" at {self.cursor}" if self.lane is None else ""
        paused = " paused" if self._paused else ""
        return f"<EventStream {self._state.value}{paused}{at} events={self.events_sent}>"

    @property
    def state(self) -> State:
        """What it is doing."""
        return self._state

    # Opening

    @property
    def is_ahead(self) -> bool:
        """Whether it names an event that is not in the history as it is known here."""
        named = None if self._hello is None else self._hello[1]
        return self._channel.ring.locate(named).reset in ("future", "epoch")

    def begin(self, *, alone: bool = False) -> None:
        """The history is known: say hello and send what was missed. `alone`: as far as this gateway
        knows, while the others can't be asked.
        """
        if self._hello is None:
            return
        (head, last_event_id), self._hello = self._hello, None
        channel = self._channel
        ring = channel.ring
        preface, self._preface = self._preface, None
        locate = ring.locate if preface is None else partial(preface.locate, ring)
        position = locate(last_event_id, ahead=alone)
        if alone and position.reset == "epoch":
            # This copy may be the old one: nothing of it is sent again, and it is judged later.
            self._unjudged = last_event_id
            position = Position(ring.last + 1, resumed=False)
        first = self.hub.established(channel, resumed=position.resumed)
        events = 1
        if preface is not None:
            # Who names no id goes on from here when it comes back, also if nothing more came.
            place = b"" if last_event_id else b"id: %b\n" % preface.mark.encode()
            first += place + self.hub.encode(preface.event)
            events += 1
        if position.reset is not None:
            first += self._reset(position.reset, position.lost)
            events += 1
        frames = ring.since(position.cursor, ring.last, WRITE_BYTES - len(first))
        if len(first) + sum(map(len, frames)) > WRITE_BYTES:
            frames = ()  # a single large one goes by itself
        self.cursor = position.cursor + len(frames)
        wanted = self.shape.select(frames)
        first += b"".join(wanted)
        self.hub.deliveries += len(wanted)
        self._replay_from = position.cursor
        self._state = REPLAYING
        self._write(head + self.shape.wrap(first), len(first), events + len(wanted))
        self.catch_up()

    def _reset(self, reason: str, lost: int | None) -> bytes:
        """A `stream.reset`; with an id where no event behind it would move the position on."""
        ring = self._channel.ring
        self.hub.resets += 1
        retained = self.shape.select(ring.frames)
        line = b"" if retained else b"id: %b\n" % ring.id_of(ring.last).encode()
        return line + self.hub.frame("stream.reset", {"reason": reason, "lost": lost})

    @property
    def position(self) -> str | None:
        """The id of the newest event that it was sent."""
        if self.channel is None or self.cursor <= max(self._replay_from, 1):
            return None
        return self.channel.ring.id_of(self.cursor - 1)

    @property
    def _channel(self) -> Channel:
        if self.channel is None:  # pragma: no cover - the hub sets it before anything is called
            raise RuntimeError("the stream has left its channel")
        return self.channel

    # Catching up

    def catch_up(self) -> None:
        """Write what the ring has for this reader until it takes no more, then go live."""
        channel = self._channel
        if self._state is LIVE:  # it joined in the middle of what is written to the others
            self._leave_lane(LAGGING)
        while not self._paused and self._state in (REPLAYING, LAGGING):
            ring = channel.ring
            if self._owed is not None:
                why, self._owed = self._owed, None
                self._begin_anew(why, None)
            elif self._open is not None and self._state is LAGGING:
                self._send_open(self._open)
            elif self.cursor < ring.first:
                self._begin_anew("slow", ring.first - self.cursor)
            elif self.cursor <= ring.last:
                frames = ring.since(self.cursor, ring.last, WRITE_BYTES)
                self.cursor += len(frames)
                self._send_frames(self.shape.select(frames))
            elif self._state is REPLAYING:
                self._state = ASKING
                self._asks = True
                self.hub.asking += 1
                self.hub.ask_open(channel.client_id, self.questions)
            else:
                self._state = LIVE
                self.lane = self.shape
                self.caught_up()

    def caught_up(self) -> None:
        """It was sent all there is; where that is all there will be of its job, it ends."""
        if self.is_job and (self._over or 0 < self._channel.final < self.cursor):
            self.end("job_ended")

    def tell_over(self, preface: Preface) -> None:
        """Its job has ended without an event: what is known of that comes last."""
        if self.is_job and self._state is LIVE:
            self.end("job_ended", self.hub.encode(preface.event))

    def _begin_anew(self, why: str, lost: int | None) -> None:
        """Tell of a loss and go on with what is retained. A question may be among what is lost, so
        the open ones are asked for again.
        """
        self.cursor = self._replay_from = self._channel.ring.first
        if self._state is LAGGING and not self._asks:
            self._state = REPLAYING
        self._send(self._reset(why, lost), 1)

    def questions(self, found: list[OpenQuestion]) -> None:
        """The open questions of this client id: send those that the replay did not hold."""
        self._asked()
        if self._state not in (ASKING, LIVE, LAGGING):
            return
        epoch = self._channel.ring.epoch
        wanted = []
        for question in reversed(found):  # the oldest is sent first, from the end
            if question.position is None or not self.shape.wants(b"question"):
                continue  # it comes live, or is not wanted
            known, _, number = question.position.rpartition("-")
            if known == epoch and int(number) >= self._replay_from:
                continue  # it was replayed, or is in the ring behind what was
            wanted.append(question)
        self._open = wanted or None
        if self._state is LIVE and wanted:
            self._leave_lane(LAGGING)
        elif self._state is ASKING:
            self._state = LAGGING
        if self._state is LAGGING:
            self.catch_up()

    def _send_open(self, questions: list[OpenQuestion]) -> None:
        """Send some of the open questions again: what one write carries."""
        frames: list[bytes] = []
        size = 0
        while questions and size < WRITE_BYTES // 2:
            question = questions.pop()
            frames.append(self.hub.encode(NewEvent("question", question.data)))
            size += len(frames[-1])
            self.hub.resent(question.question_id, self._channel.client_id, self.user)
        self._open = questions or None
        self._send(b"".join(frames), len(frames))

    def overtake(self, first: int) -> None:
        """What waits in the ring would be lost, since `first` will be the oldest event: it goes
        before the open questions.
        """
        if self._state is ASKING and self.cursor < first:
            self._state = LAGGING
            self.catch_up()

    def _asked(self) -> None:
        """The answer about open questions is here, or nobody waits for it any more."""
        if self._asks:
            self._asks = False
            self.hub.asking -= 1

    # What the hub asks

    def write_live(self, chunk: bytes, size_bytes: int, events: int) -> None:
        """Write what is new; only while live."""
        self.events_sent += events
        self.bytes_sent += size_bytes
        self.transport.write(chunk)

    def moved(self, lost: str | None) -> None:
        """The history was replaced: go on, after a reset when something is lost (`lost`: why)."""
        if self._state not in (LIVE, LAGGING, REPLAYING, ASKING):
            return
        ring = self._channel.ring
        if self._unjudged is not None:
            named, self._unjudged = ring.locate(self._unjudged), None
            lost = named.reset
            self.cursor = self._replay_from = named.cursor
        elif lost is None and self.cursor > ring.last + 1:
            lost = "future"  # it was let in at its word, and that was wrong
        if lost is not None:
            self._owed = self._owed or lost
            self.cursor = self._replay_from = ring.first
        self.catch_up()

    def heartbeat(self) -> None:
        """Something to hear on a silent stream; finds a peer that is gone."""
        if not self._paused and self._state not in (PARKED, ENDING, CLOSED):
            self._send(self.hub.heartbeat(), 0)  # no event: it is not counted

    def end(self, reason: str, last: bytes = b"") -> None:
        """Send `last` (a frame), end the body cleanly and close.

        Events that came while its open questions are being asked for go before it: who was sent no
        id yet could not resume behind them.
        """
        if self._state is ASKING:
            self.overtake(self._channel.ring.last + 1)
        if self._state in (ENDING, CLOSED):
            return
        head = b"" if self._hello is None else self._hello[0]
        self._hello = None
        self._reason = reason
        self._leave_lane(ENDING)
        if last:
            self.events_sent += 1
            self.bytes_sent += len(last)
            last = self.shape.wrap(last)
        self.transport.write(head + last + self.shape.end)
        self.transport.close()

    def abort(self, reason: str) -> None:
        """End at once."""
        if self._state is not CLOSED:
            self._reason = self._reason or reason
            self._hello = None
            self._leave_lane(ENDING)
            self.transport.abort()

    @property
    def is_reset(self) -> bool:
        """Whether a peer that has sent its FIN has gone altogether (it answered bytes by a RST)."""
        sock = cast(Any, self.transport.get_extra_info("socket"))
        poll = select.poll()
        poll.register(sock.fileno(), 0)  # errors and hang-ups are always told
        return bool(poll.poll(0))

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """A client has nothing more to say on this connection: dropped, and cut if it goes on."""
        self._dropped_bytes += len(data)
        if self._dropped_bytes > GARBAGE_BYTES:
            self.abort("garbage")

    def eof_received(self) -> bool:
        """The client is done sending, or gone: only an answer to new bytes tells which."""
        if self._state is ENDING or self.transport.get_extra_info("sslcontext") is not None:
            return False
        self._half_closed = True
        self.hub.half_closed.add(self)
        self.heartbeat()
        return True

    def pause_writing(self) -> None:
        """The client takes no more for now."""
        self._paused = True
        if self._state is LIVE:
            self._leave_lane(LAGGING)

    def resume_writing(self) -> None:
        """It takes more."""
        self._paused = False
        if self._state in (REPLAYING, LAGGING):
            self.catch_up()

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone, whoever ended it."""
        self._leave_lane(CLOSED)
        self._asked()
        self._hello = None
        if self._half_closed:
            self.hub.half_closed.discard(self)
        try:
            self.closed(self._reason or _why(exc))
        finally:
            self.hub.leave(self)

    def closed(self, reason: str) -> None:
        """The stream is over, once: for whoever opened it to say more in a subclass."""

    def _leave_lane(self, state: State) -> None:
        """Be live no more."""
        self.lane = None
        self._state = state

    # Writing

    def _send_frames(self, frames: Sequence[bytes]) -> None:
        if frames:
            self.hub.deliveries += len(frames)
            self._send(b"".join(frames), len(frames))

    def _send(self, data: bytes, events: int) -> None:
        self._write(self.shape.wrap(data), len(data), events)

    def _write(self, wire: bytes, size_bytes: int, events: int) -> None:
        self.sent_at = self.hub.now()
        self.events_sent += events
        self.bytes_sent += size_bytes
        self.transport.write(wire)


def _why(error: Exception | None) -> str:
    """The end reason of a connection that the client or the network ended."""
    if error is None:
        return "client_closed"
    return "timeout" if isinstance(error, TimeoutError) else "reset"
