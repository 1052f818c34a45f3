"""The hub behind a backplane against a plain list: nudges that come, come late or never come.

The list stands for the history that all gateways share. Whatever is nudged, lost and healed, a
reader follows the list; what it can't get any more a reset tells it to the event.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from typing import Any, cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sse.event import NewEvent, encode
from sse.hub import Hub, HubLimits
from sse.ring import HistoryLimits
from sse.stream import EventStream, lane
from tests.sse.test_hub_model import NEVER, Peer, Reader, Turns
from tests.streams import split_id

EVENTS = 6
CLIENT = "alice"
UUID = "01a1fe9b-3a94-7653-8114-8d0d01ec1e13"
AT = "2026-11-21T15:00:00.000Z"


class Shared:
    """The history in Redis, as far as the hub can see it: it is watched, asked and forgotten."""

    def __init__(self, loop: Turns) -> None:
        self.loop = loop
        self.hub: Hub = None  # type: ignore[assignment]
        self.epochs = (f"epoch{number:03}" for number in itertools.count())
        self.watched = False
        self.forget()

    def forget(self) -> None:
        """Begins again, empty."""
        self.epoch = next(self.epochs)
        self.bodies: list[bytes] = []
        self.last = 0

    def append(self, bodies: Sequence[bytes]) -> int:
        """The first number of what is new."""
        first = self.last + 1
        self.bodies = [*self.bodies, *bodies][-EVENTS:]
        self.last += len(bodies)
        return first

    def watch(self, client_id: str) -> None:
        """The first reader came: its history comes in a later turn."""
        self.watched = True
        self.loop.call_soon(self.heal)

    def verify(self, client_id: str) -> None:
        """A reader names what is not known here: the same."""
        self.loop.call_soon(self.heal)

    def unwatch(self, client_id: str) -> None:
        """The last reader left."""
        self.watched = False

    def heal(self) -> None:
        """Tells the whole history."""
        if self.watched:
            first = self.last - len(self.bodies) + 1
            self.hub.replace(CLIENT, self.epoch, first, self.bodies, self.last)


class SharedMachine(RuleBasedStateMachine):
    """Rules: others publish, nudges come or not, readers come, stop, read and leave."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Turns()
        limits = HubLimits(HistoryLimits(EVENTS, 4 << 20, 100.0))
        clock = lambda: self.loop.now  # noqa: E731
        self.hub = Hub(self.loop, limits, clock, lambda: 1.7e9, random.Random(2))
        self.shared = Shared(self.loop)
        self.shared.hub = self.hub
        self.hub.backplane = cast(Any, self.shared)
        self.epochs = [self.shared.epoch]
        self.readers: list[Reader] = []
        self.over: list[Reader] = []
        self.left: list[str] = []
        self.numbers = itertools.count()

    @initialize()
    def begin(self) -> None:
        """The timer runs."""
        self.hub.start()

    @rule(count=st.integers(1, 9), nudged=st.sampled_from((True, True, True, False)))
    def publish(self, count: int, nudged: bool) -> None:
        """Some gateway publishes; the nudge comes, or is lost."""
        bodies = [
            encode(NewEvent("note", json.dumps({"n": next(self.numbers)}).encode()), UUID, AT)
            for _ in range(count)
        ]
        first = self.shared.append(bodies)
        if nudged and self.shared.watched:
            self.nudge(first, bodies)

    @rule()
    def nudge_again(self) -> None:
        """What was told is told again, as after a reconnect."""
        shared = self.shared
        if shared.bodies and shared.watched:
            self.nudge(shared.last - len(shared.bodies) + 1, shared.bodies)

    def nudge(self, first: int, bodies: Sequence[bytes]) -> None:
        """What pub/sub tells; a gap is healed in a later turn."""
        if not self.hub.deliver(CLIENT, self.shared.epoch, first, bodies):
            self.loop.call_soon(self.shared.heal)

    @rule()
    def heal(self) -> None:
        """A silent minute, or the connection is back."""
        self.shared.heal()

    @rule()
    def forget(self) -> None:
        """Redis came back empty; that shows with the next heal."""
        self.shared.forget()
        self.epochs.append(self.shared.epoch)
        self.shared.heal()

    @rule(
        back=st.sampled_from(("", "earliest", "left", "left")),
        room=st.sampled_from((NEVER, NEVER, 0, 300)),
    )
    def subscribe(self, back: str, room: float) -> None:
        """A reader comes, perhaps with the id with which one left."""
        given: str | None = back
        if back == "left":
            given = self.left.pop() if self.left else None
        peer = Peer(self.loop)
        peer.room = room
        stream = EventStream(self.hub, cast(Any, peer), "", lane(True, ""), b"", given or None)
        peer.stream = stream
        reader = Reader(peer, CLIENT, given or None, "", True)
        reader.always_read = room == NEVER
        self.hub.join(stream, CLIENT)
        self.readers.append(reader)

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 100), count=st.sampled_from((1, 500, NEVER)))
    def read_more(self, which: int, count: float) -> None:
        """A slow reader reads."""
        self.readers[which % len(self.readers)].peer.take(count)

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 100))
    def stop_reading(self, which: int) -> None:
        """A reader reads no more."""
        self.readers[which % len(self.readers)].peer.room = 0

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 100))
    def leave(self, which: int) -> None:
        """A reader goes, with the last id it has."""
        reader = self.readers.pop(which % len(self.readers))
        reader.peer.lose()
        reader.look()
        self.over.append(reader)
        ids = [each.id for each in reader.events if each.id]
        if ids:
            self.left.append(str(ids[-1]))

    @rule(times=st.integers(1, 3))
    def turn(self, times: int) -> None:
        """The loop goes round."""
        for _ in range(times):
            self.loop.turn()

    def teardown(self) -> None:
        """All is healed and read: then everybody has what the list has."""
        self.shared.heal()
        for reader in self.readers:
            reader.peer.take(NEVER)
        self.loop.settle()
        for reader in [*self.readers, *self.over]:
            reader.look()
            self.judge(reader)
        for reader in self.readers:
            assert reader.established is not None, "never let in"
            if reader.given is not None and self.shared.bodies:
                ids = [each.id for each in reader.events if each.id]
                last = ids[-1] if ids else reader.given
                assert last == f"{self.shared.epoch}-{self.shared.last}"
        self.hub.close()

    def judge(self, reader: Reader) -> None:
        """Follows its own last id: no repetition, no hole but a told one, epochs in their order."""
        last: tuple[str, int] | None = None
        if reader.given not in (None, "earliest"):
            last = split_id(str(reader.given))
        told: Any = None
        for got in reader.events[1:]:
            if got.type == "stream.reset":
                assert got.data["reason"] in ("epoch", "trimmed", "slow"), got
                before = told["lost"] if told else 0  # two in a row tell of two losses
                told = dict(got.data)
                if told["lost"] is not None:
                    told["lost"] += before or 0
                if got.id is not None:
                    last, told = got.position, None
                continue
            if last is not None and got.epoch == last[0]:
                lost = told["lost"] if told else 0
                assert got.seq == last[1] + 1 + lost, (last, told, got.id)
            elif last is not None:
                assert told is not None, (last, got.id)
                assert told["reason"] == "epoch"
                assert self.epochs.index(got.epoch) > self.epochs.index(last[0])
            last, told = got.position, None


def test_the_hub_behind_a_backplane_behaves_like_a_plain_list() -> None:
    run_state_machine_as_test(
        SharedMachine,
        settings=settings(
            max_examples=200,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
