"""Ring and hub against a plain list: whatever readers, publishers and the clock do.

The network and the clock are played (a transport that the kernel may stop taking bytes from, a loop
whose turns the machine takes); ring, channels, hub and streams are the real ones. What a reader got
is read strictly and must follow the list without a hole that no reset told of.
"""

from __future__ import annotations

import itertools
import json
import random
from typing import Any, cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sse.event import NewEvent
from sse.hub import Hub, HubLimits
from sse.ring import HistoryLimits
from sse.stream import EventStream, lane
from tests.sse.turns import Turns
from tests.streams import Event, Ledger, _Chunked, read_block, split_id

EVENTS = 6
SIZE_BYTES = 4 << 20
SECONDS = 100.0
HEARTBEAT_SECONDS = 30.0
CLIENTS = ("alice", "bob")
TYPES = ("note", "run.start", "run.end")
NEVER = 10.0**9


class Peer:
    """A transport with a client behind it: `room` is how much the kernel takes (bytes)."""

    def __init__(self, loop: Turns) -> None:
        self.loop = loop
        self.room = NEVER
        self.stream: EventStream = None  # type: ignore[assignment]
        self.received = bytearray()
        self.gone = False
        self.most_waiting = 0
        self._waiting = bytearray()
        self._paused = False
        self._closing = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Everything that the kernel does not take pauses."""

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Nothing is known."""
        return default

    def get_write_buffer_size(self) -> int:
        """What waits."""
        return len(self._waiting)

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self._closing

    def write(self, data: bytes) -> None:
        """Takes what the kernel takes; pauses when something is left."""
        assert not self._closing, "written after the end"
        self._waiting += data
        self._pass_on()
        self.most_waiting = max(self.most_waiting, len(self._waiting))
        if self._waiting and not self._paused:
            self._paused = True
            self.stream.pause_writing()

    def close(self) -> None:
        """Ends when all is written."""
        self._closing = True
        if not self._waiting:
            self.loop.call_soon(self.lose)

    def abort(self) -> None:
        """Ends at once."""
        self._closing = True
        self._waiting.clear()
        self.loop.call_soon(self.lose)

    def take(self, count: float) -> None:
        """The client reads: so many more bytes have room."""
        self.room += count
        self._pass_on()
        if self._paused and not self._waiting:
            self._paused = False
            if self._closing:
                self.lose()
            else:
                self.stream.resume_writing()

    def lose(self) -> None:
        """The connection is gone."""
        if not self.gone:
            self.gone = True
            self._closing = True
            self.stream.connection_lost(None)

    def _pass_on(self) -> None:
        part = self._waiting[: int(min(self.room, len(self._waiting)))]
        self.received += part
        self.room -= len(part)
        del self._waiting[: len(part)]


class Reader:
    """A subscriber: what it asked for and what came, block by block."""

    def __init__(
        self, peer: Peer, client_id: str, given: str | None, types: str, chunked: bool
    ) -> None:
        self.peer = peer
        self.client_id = client_id
        self.given = given
        self.types = types
        self.always_read = True
        self.ledger = Ledger()
        self.established: Event | None = None
        self.events: list[Event] = []
        self._body = _Chunked() if chunked else None
        self._tail = b""
        self._read = 0

    def look(self) -> None:
        """Reads what came since."""
        data = bytes(self.peer.received[self._read :])
        self._read += len(data)
        if self._body is not None:
            data = self._body.feed(data)
        *blocks, self._tail = (self._tail + data).split(b"\n\n")
        for block in blocks:
            got = read_block(block)
            if self.established is None:
                assert got.type == "connection.established", got
                self.established = got
            self.events.append(got)


class HubMachine(RuleBasedStateMachine):
    """Rules: publish, subscribe in every way, read or not, leave, turns, time."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Turns()
        history = HistoryLimits(EVENTS, SIZE_BYTES, SECONDS)
        limits = HubLimits(history, heartbeat_seconds=HEARTBEAT_SECONDS)
        clock = lambda: self.loop.now  # noqa: E731
        wall = lambda: 1.7e9 + self.loop.now  # noqa: E731
        self.hub = Hub(self.loop, limits, clock, wall, random.Random(1))
        self.published: dict[str, list[tuple[str, str, int]]] = {each: [] for each in CLIENTS}
        self.idle_since = dict.fromkeys(CLIENTS, self.loop.now)
        self.forgotten = dict.fromkeys(CLIENTS, "no")  # no, perhaps, surely
        self.readers: list[Reader] = []
        self.over: list[Reader] = []
        self.numbers = itertools.count()

    @initialize()
    def begin(self) -> None:
        """The timer runs."""
        self.hub.start()

    def of(self, client_id: str) -> list[Reader]:
        """The readers of a client id."""
        return [reader for reader in self.readers if reader.client_id == client_id]

    # What happens

    @rule(
        client_id=st.sampled_from(CLIENTS),
        kinds=st.lists(st.sampled_from(TYPES), min_size=1, max_size=15),
        pad=st.sampled_from((0, 10, 30_000)),
    )
    def publish(self, client_id: str, kinds: list[str], pad: int) -> None:
        """A list, perhaps longer than the history, perhaps of large events."""
        numbers = [next(self.numbers) for _ in kinds]
        new = [
            NewEvent(kind, json.dumps({"n": number, "pad": "x" * pad}).encode())
            for kind, number in zip(kinds, numbers, strict=True)
        ]
        before = self.published[client_id]
        result = self.hub.publish(client_id, new)
        assert result.subscribers == len(self.of(client_id))
        first = split_id(result.ids[0])
        if before and first[0] == split_id(before[-1][0])[0]:
            assert first[1] == split_id(before[-1][0])[1] + 1
        else:
            assert first[1] == 1
            assert not before or self.forgotten[client_id] != "no", "an epoch ended early"
            before.clear()
        assert not before or self.forgotten[client_id] != "surely", "a history lives too long"
        self.forgotten[client_id] = "no"
        assert [split_id(each) for each in result.ids] == [
            (first[0], first[1] + step) for step in range(len(new))
        ]
        before += zip(result.ids, kinds, numbers, strict=True)
        self.idle_since[client_id] = self.loop.now

    @rule(
        client_id=st.sampled_from(CLIENTS),
        where=st.one_of(
            st.sampled_from(("", "earliest", "garbage", "other", "future", "zero")),
            st.integers(1, 12),
        ),
        types=st.sampled_from(("", "note", "run.*", "note,run.end")),
        chunked=st.booleans(),
        room=st.sampled_from((NEVER, NEVER, 0, 150, 5_000)),
    )
    def subscribe(
        self, client_id: str, where: str | int, types: str, chunked: bool, room: float
    ) -> None:
        """A reader with any position; `room`: what it reads before it stops."""
        given = self.position(client_id, where)
        peer = Peer(self.loop)
        peer.room = room
        transport = cast(Any, peer)
        stream = EventStream(self.hub, transport, "192.0.2.1", lane(chunked, types), b"", given)
        peer.stream = stream
        reader = Reader(peer, client_id, given, types, chunked)
        reader.always_read = room == NEVER
        assert self.hub.refusal(client_id, "192.0.2.1") is None
        expected = self.expected(client_id, given)
        self.hub.join(stream, client_id)
        self.readers.append(reader)
        if room == NEVER:
            reader.look()
            self.judge_opening(reader, expected)

    def position(self, client_id: str, where: str | int) -> str | None:
        """An id to come back with."""
        known = self.published[client_id]
        epoch, last = split_id(known[-1][0]) if known else ("zzzzzzz0", 0)
        if isinstance(where, int):
            return f"{epoch}-{max(0, last - where + 1)}"
        words = {
            "": None,
            "other": f"zzzzzzz1-{last}",
            "future": f"{epoch}-{last + 1}",
            "zero": f"{epoch}-0",
        }
        return words.get(where, where)

    def expected(self, client_id: str, given: str | None) -> tuple[Any, ...] | None:
        """Reason, lost and the ids to be replayed by the plain list; None: the list can't say."""
        known = self.published[client_id]
        if not known or self.forgotten[client_id] != "no":
            return None
        retained = [each for each, _, _ in known[-EVENTS:]]
        epoch, last = split_id(retained[-1])
        first = split_id(retained[0])[1]
        if given is None:
            return None, None, []
        if given == "earliest":
            return None, None, retained
        if given == "garbage":
            return "invalid", None, retained
        named, seq = split_id(given)
        if named != epoch:
            return "epoch", None, retained
        if seq > last:
            return "future", None, retained
        if seq + 1 < first:
            return "trimmed", first - seq - 1, retained
        return None, None, retained[seq + 1 - first :]

    def judge_opening(self, reader: Reader, expected: tuple[Any, ...] | None) -> None:
        """Holds the first events of a reader that takes everything against the list."""
        assert reader.established is not None
        assert reader.established.data["client_id"] == reader.client_id
        if expected is None:
            return
        reason, lost, ids = expected
        rest = reader.events[1:]
        if reason is not None:
            assert rest[0].type == "stream.reset"
            assert rest[0].data == {"reason": reason, "lost": lost}
            rest = rest[1:]
        wanted = {each: kind for each, kind, _ in self.published[reader.client_id]}
        assert [each.id for each in rest] == [
            each for each in ids if wants(reader.types, wanted[each])
        ]
        fresh = reader.given in (None, "earliest") or reason is not None
        if not fresh:
            assert reader.established.data["resumed"] is True
        elif reason is not None or reader.given is None:
            assert reader.established.data["resumed"] is False

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 100), count=st.sampled_from((1, 100, 3_000, 70_000, NEVER)))
    def read_more(self, which: int, count: float) -> None:
        """A slow reader reads."""
        self.readers[which % len(self.readers)].peer.take(count)

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 100))
    def stop_reading(self, which: int) -> None:
        """A reader reads no more."""
        reader = self.readers[which % len(self.readers)]
        reader.always_read = False
        reader.peer.room = 0

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 100))
    def leave(self, which: int) -> None:
        """A reader's connection goes."""
        reader = self.readers.pop(which % len(self.readers))
        reader.peer.lose()
        self.over.append(reader)
        if not self.of(reader.client_id):
            self.idle_since[reader.client_id] = self.loop.now

    @rule(times=st.integers(1, 3))
    def turn(self, times: int) -> None:
        """The loop goes round."""
        for _ in range(times):
            self.loop.turn()

    @rule(seconds=st.sampled_from((0.1, 31.0, 65.0, 130.0)))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.loop.advance(seconds)
        for client_id in CLIENTS:
            idle = self.loop.now - self.idle_since[client_id]
            if not self.of(client_id) and idle >= SECONDS:
                surely = idle > SECONDS + HEARTBEAT_SECONDS / 10
                self.forgotten[client_id] = "surely" if surely else "perhaps"

    # What must hold

    @invariant()
    def counts_agree(self) -> None:
        """The hub knows its readers."""
        assert self.hub.count == len(self.readers)
        for client_id in CLIENTS:
            assert self.hub.subscribers(client_id) == len(self.of(client_id))

    @invariant()
    def nothing_waits_beyond_one_write(self) -> None:
        """A slow reader costs 64 KiB and one frame at most."""
        for reader in self.readers:
            assert reader.peer.most_waiting <= 65536 + 31_000

    def teardown(self) -> None:
        """Everybody reads to the end: then the list must be complete for each of them."""
        for reader in self.readers:
            reader.peer.take(NEVER)
        self.loop.settle()
        for reader in [*self.readers, *self.over]:
            reader.look()
            self.judge(reader)
        for reader in self.readers:
            self.judge_end(reader)
        self.hub.close()

    def judge(self, reader: Reader) -> None:
        """Order, no repetition, every hole told; the position given counts as the first id."""
        last: tuple[str, int] | None = None
        told: int | None = 0
        if reader.given is not None and reader.given not in ("earliest", "garbage"):
            last = split_id(reader.given)
        for got in reader.events[1:]:
            if got.type == "stream.reset":
                told = got.data["lost"]
                if got.data["reason"] != "slow":
                    last = last if told is not None else None
                else:
                    assert not reader.always_read, "a reader that keeps up fell off"
            if got.id is None:
                continue
            if got.type == "stream.reset":
                last, told = got.position, 0
                continue
            if last is not None and got.epoch == last[0] and not reader.types:
                assert got.seq == last[1] + 1 + (told or 0), (last, told, got.id)
            elif last is not None:
                assert got.epoch == last[0]
                assert got.seq > last[1]
            last, told = got.position, 0
            assert wants(reader.types, got.type)

    def judge_end(self, reader: Reader) -> None:
        """A reader that is still there has the newest event of its types."""
        assert reader.established is not None
        known = self.published[reader.client_id]
        retained = [each for each in known[-EVENTS:] if wants(reader.types, each[1])]
        if not retained or reader.established.data["epoch"] != split_id(retained[-1][0])[0]:
            return
        got = [each for each in reader.events if each.id and each.type != "stream.reset"]
        newest = retained[-1]
        if got:
            assert got[-1].id == newest[0]
            assert got[-1].data["n"] == newest[2]
        else:
            start = reader.given
            assert start is None or start.rpartition("-")[0] == split_id(newest[0])[0], start


def wants(types: str, kind: str) -> bool:
    """Whether the filter lets a type through."""
    if not types:
        return True
    return any(
        kind == each or (each.endswith("*") and kind.startswith(each[:-1]))
        for each in types.split(",")
    )


def test_ring_and_hub_behave_like_a_plain_list() -> None:
    run_state_machine_as_test(
        HubMachine,
        settings=settings(
            max_examples=150,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
