"""One timer for all streams: when each is looked at next.

A stream is filed under the tick in which something may be due (a heartbeat, the end of its
credential) and filed anew when that tick comes, so a busy stream costs one look an interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from sse.stream import EventStream

# The interval is cut into so many ticks: a heartbeat is late by a thirtieth at most.
TICKS: Final = 30
# Streams looked at in one go: 256 heartbeats hold up the loop for some 2 ms.
SLICE: Final = 256
SLICE_SECONDS: Final = 0.005


class Handle(Protocol):
    """What a loop gives for a call later on."""

    def cancel(self) -> None:
        """Don't."""


class Loop(Protocol):
    """The event loop, as far as hub and pulse need it."""

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Handle:
        """Next turn."""

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Handle:
        """In `delay` seconds."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Log a mistake."""


class Pulse:
    """The wheel of ticks. `visit` looks at one stream and says when it wants to be seen next."""

    def __init__(
        self,
        loop: Loop,
        clock: Callable[[], float],
        interval_seconds: float,
        visit: Callable[[EventStream, float], float | None],
        every_tick: Callable[[], None],
    ) -> None:
        """`every_tick` is called once a tick, whatever is due."""
        self._loop = loop
        self._clock = clock
        self._tick_seconds = interval_seconds / TICKS
        self._visit = visit
        self._every_tick = every_tick
        self._wheel: dict[int, list[EventStream]] = {}
        self._done = int(clock() / self._tick_seconds)  # the last tick that was looked at
        self._timer: Handle | None = None

    def __repr__(self) -> str:
        return f"<Pulse filed={sum(map(len, self._wheel.values()))}>"

    def start(self) -> None:
        """Begin to tick."""
        self._timer = self._loop.call_later(self._tick_seconds, self._tick)

    def stop(self) -> None:
        """Tick no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def file(self, stream: EventStream, due: float) -> None:
        """Look at a stream at `due` (monotonic seconds) or a tick later."""
        tick = max(self._done + 1, math.ceil(due / self._tick_seconds))
        filed = self._wheel.get(tick)
        if filed is None:
            self._wheel[tick] = [stream]
        else:
            filed.append(stream)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._tick_seconds, self._tick)
        now = self._clock()
        reached = int(now / self._tick_seconds)
        due: list[EventStream] = []
        if reached - self._done > len(self._wheel):  # the loop stood still, or ticks are tiny
            ticks = sorted(tick for tick in self._wheel if tick <= reached)
        else:
            ticks = [tick for tick in range(self._done + 1, reached + 1) if tick in self._wheel]
        for tick in ticks:
            due += self._wheel.pop(tick)
        self._done = max(reached, self._done)
        self._look(due)
        self._every_tick()

    def _look(self, due: list[EventStream]) -> None:
        now = self._clock()
        for stream in due[:SLICE]:
            again = self._visit(stream, now)
            if again is not None:
                self.file(stream, again)
        if len(due) > SLICE:
            self._loop.call_later(SLICE_SECONDS, self._look, due[SLICE:])
