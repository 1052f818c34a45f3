"""The one timer: who is looked at when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from sse.pulse import SLICE, TICKS, Pulse
from sse.stream import EventStream
from tests.sse.turns import Turns

INTERVAL = 30.0


class Seen:
    """Streams are names here; each says when it wants to be looked at next."""

    def __init__(self, again: Callable[[str, float], float | None]) -> None:
        self.loop = Turns()
        self.looks: list[tuple[str, float]] = []
        self.ticks = 0
        self.again = again
        clock = lambda: self.loop.now  # noqa: E731
        self.pulse = Pulse(self.loop, clock, INTERVAL, cast(Any, self.visit), self.tick)
        self.pulse.start()

    def visit(self, name: str, now: float) -> float | None:
        self.looks.append((name, now))
        return self.again(name, now)

    def tick(self) -> None:
        self.ticks += 1

    def file(self, name: str, due: float) -> None:
        self.pulse.file(cast(EventStream, name), due)


def test_a_stream_is_looked_at_when_it_is_due_and_at_most_a_tick_later() -> None:
    seen = Seen(lambda name, now: None)
    start = seen.loop.now
    for name, due in (("a", 0.0), ("b", 10.2), ("c", 29.9)):
        seen.file(name, start + due)
    seen.loop.advance(INTERVAL + 2)
    assert [name for name, _ in seen.looks] == ["a", "b", "c"]
    tick = INTERVAL / TICKS
    for (_, at), due in zip(seen.looks, (0.0, 10.2, 29.9), strict=True):
        assert due <= at - start <= due + 2 * tick
    assert repr(seen.pulse) == "<Pulse filed=0>"


def test_it_is_looked_at_again_when_it_asked_for_it() -> None:
    seen = Seen(lambda name, now: now + INTERVAL)
    seen.file("a", seen.loop.now)
    seen.loop.advance(5 * INTERVAL)
    assert 4 <= len(seen.looks) <= 6


def test_many_that_are_due_at_once_are_spread_over_turns() -> None:
    seen = Seen(lambda name, now: None)
    for number in range(3 * SLICE + 1):
        seen.file(str(number), seen.loop.now + 1)
    seen.loop.advance(2 * INTERVAL / TICKS)
    assert len(seen.looks) == 3 * SLICE + 1
    assert len({at for _, at in seen.looks}) == 4


def test_a_loop_that_stood_still_leaves_nobody_out() -> None:
    seen = Seen(lambda name, now: None)
    for number in range(5):
        seen.file(str(number), seen.loop.now + 5 * number)
    seen.loop.jump(10 * INTERVAL)
    seen.loop.advance(2)
    assert sorted(name for name, _ in seen.looks) == ["0", "1", "2", "3", "4"]


def test_it_ticks_until_it_is_stopped() -> None:
    seen = Seen(lambda name, now: None)
    seen.loop.advance(INTERVAL)
    assert seen.ticks == pytest.approx(TICKS, abs=1)
    seen.pulse.stop()
    seen.pulse.stop()
    before = seen.ticks
    seen.loop.advance(INTERVAL)
    assert seen.ticks == before


def test_a_mistake_in_one_tick_does_not_stop_the_next() -> None:
    def fails(name: str, now: float) -> float | None:
        raise RuntimeError(name)

    seen = Seen(fails)
    seen.file("a", seen.loop.now)
    with pytest.raises(RuntimeError, match="a"):
        seen.loop.advance(2)
    seen.loop.advance(5)
    assert seen.ticks >= 3
