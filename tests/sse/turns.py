"""An event loop whose clock stands until a test moves it."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any


class Handle:
    """A call that is due later."""

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        """Not any more."""
        self.cancelled = True


class Turns:
    """A loop whose clock stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._soon: list[tuple[Handle, Callable[..., object], tuple[Any, ...]]] = []
        self._later: list[tuple[float, int, Handle, Callable[..., object], tuple[Any, ...]]] = []
        self._count = itertools.count()

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Handle:
        """Next turn."""
        handle = Handle()
        self._soon.append((handle, callback, args))
        return handle

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Handle:
        """When the clock is there."""
        handle = Handle()
        heapq.heappush(self._later, (self.now + delay, next(self._count), handle, callback, args))
        return handle

    def turn(self) -> bool:
        """One turn; whether there was anything to do."""
        while self._later and self._later[0][0] <= self.now:
            _, _, handle, callback, args = heapq.heappop(self._later)
            self._soon.append((handle, callback, args))
        due, self._soon = self._soon, []
        for handle, callback, args in due:
            if not handle.cancelled:
                callback(*args)
        return bool(due)

    def settle(self) -> None:
        """Turns until nothing is to be done at this time."""
        while self.turn():
            pass

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A mistake that the code caught: here it ends the test."""
        raise context["exception"]

    def jump(self, seconds: float) -> None:
        """Moves the clock while nothing runs."""
        self.now += seconds

    def advance(self, seconds: float) -> None:
        """Moves the clock, stopping wherever something is due."""
        end = self.now + seconds
        self.settle()
        while self._later and self._later[0][0] <= end:
            self.now = max(self.now, self._later[0][0])
            self.settle()
        self.now = end
        self.settle()
