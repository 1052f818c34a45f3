"""Time that passes only when a test says so."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class Time:
    """A clock and what is to be called when."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self._order = count()
        self.calls: list[tuple[float, int, Callable[[], None]]] = []

    def clock(self) -> float:
        """Seconds, monotonic."""
        return self.now

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """As the loop's."""
        heapq.heappush(self.calls, (self.now + seconds, next(self._order), call))

    def pass_by(self, seconds: float) -> None:
        """Let time go by, calling in between what is due."""
        end = self.now + seconds
        while self.calls and self.calls[0][0] <= end:
            self.now, _, call = heapq.heappop(self.calls)
            call()
        self.now = end
