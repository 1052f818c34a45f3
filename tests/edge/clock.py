"""Time that passes only when a test says so."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class Call:
    """A call to come."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """As a loop's handle."""
        self._call = None

    def __call__(self) -> None:
        if self._call is not None:
            self._call()


class Time:
    """A clock and what is to be called when."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self._order = count()
        self.calls: list[tuple[float, int, Call]] = []

    def clock(self) -> float:
        """Seconds, monotonic."""
        return self.now

    def call_later(self, seconds: float, call: Callable[[], None]) -> Call:
        """As the loop's."""
        handle = Call(call)
        heapq.heappush(self.calls, (self.now + seconds, next(self._order), handle))
        return handle

    def pass_by(self, seconds: float) -> None:
        """Let time go by, calling in between what is due."""
        end = self.now + seconds
        while self.calls and self.calls[0][0] <= end:
            self.now, _, call = heapq.heappop(self.calls)
            call()
        self.now = end
