"""A stream whose open questions are still being asked for when its end comes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, cast

import pytest

from sse.event import NewEvent
from sse.hub import Hub, HubLimits
from sse.ring import HistoryLimits
from sse.stream import EventStream, lane
from tests.sse.reader import Reader
from tests.sse.test_hub_model import Peer
from tests.sse.turns import Turns


class SlowStore:
    """A store that has not answered yet."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[list[Any]], None]] = []

    def open_for(self, client_id: str, deliver: Callable[[list[Any]], None]) -> None:
        """Keeps who asks waiting."""
        self.waiting.append(deliver)

    def resent(self, question_id: str, client_id: str, user: str | None) -> None:
        """Nothing is sent again here."""


@pytest.mark.parametrize("way", ["drained", "expired"])
async def test_what_came_before_its_end_is_sent_before_it(way: str) -> None:
    loop, store = Turns(), SlowStore()
    limits = HubLimits(HistoryLimits(9, 4 << 20, 100.0), heartbeat_seconds=30)
    hub = Hub(cast(Any, loop), limits, lambda: loop.now, lambda: loop.now, random.Random(1))
    hub.questions = store
    peer = Peer(loop)
    stream = EventStream(hub, cast(Any, peer), "192.0.2.1", lane(False, ""), b"", None)
    peer.stream = stream
    hub.join(stream, "alice")
    hub.publish("alice", [NewEvent("note", b"1"), NewEvent("note", b"2")])
    loop.settle()
    if way == "drained":
        hub.drain(0)
    else:
        hub.expire(lambda _stream: True)
    loop.settle()
    last = "stream.closing" if way == "drained" else "stream.expired"
    types = [each.type for each in Reader().feed(bytes(peer.received))]
    assert types == ["connection.established", "note", "note", last]
    [deliver] = store.waiting
    deliver([])  # too late, and nobody minds
    assert (hub.asking, hub.count) == (0, 0)
