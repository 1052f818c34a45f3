"""How many requests of one service are under way at once, and the line of those that wait their
turn. Not here: connections and their own line (pool.py), of which one request may use several.

A service without a bound has no line, and costs nothing here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from gateway.edge.deadlines import NEVER, Deadlines
from gateway.errors import Rejection

RETRY_AFTER_SECONDS = 1  # what a request is told that found no place


class Waiter(Protocol):
    """Who waits for a place: an exchange."""

    def let_in(self) -> None:
        """A place is there, and taken."""

    def turned_away(self, rejection: Rejection) -> None:
        """None came free in time; there is nothing to leave."""


class Line:
    """At most `most` requests at once, a stream counting as one until it ends; `queue` more wait,
    first come first served, each for at most `queue_timeout` seconds.
    """

    __slots__ = (
        "_active", "_clock", "_deadlines", "_most", "_queue", "_queue_timeout", "_serving",
        "_waiting", "deadline", "filed_tick", "service",
    )  # fmt: skip

    def __init__(
        self,
        service: str,
        most: int,
        queue: int,
        queue_timeout: float,
        deadlines: Deadlines,
        clock: Callable[[], float],
    ) -> None:
        """`most` is at least 1; `clock` is monotonic seconds."""
        self.service = service
        self.deadline = NEVER
        self.filed_tick = NEVER
        self._most = most
        self._queue = queue
        self._queue_timeout = queue_timeout
        self._deadlines = deadlines
        self._clock = clock
        self._active = 0
        self._serving = False
        self._waiting: OrderedDict[Waiter, float] = OrderedDict()  # until when each waits

    def __repr__(self) -> str:
        return f"<Line {self.service} active={self._active}/{self._most} waiting={self.waiting}>"

    @property
    def active(self) -> int:
        """Requests under way."""
        return self._active

    @property
    def waiting(self) -> int:
        """Requests in the line."""
        return len(self._waiting)

    def enter(self, waiter: Waiter) -> bool | Rejection:
        """True: go on at once. False: the waiter is told later. Else the line is full as well."""
        if self._active < self._most and not self._waiting:
            self._active += 1
            return True
        if len(self._waiting) >= self._queue:
            return self._refusal("and its waiting line is full")
        until = self._clock() + self._queue_timeout
        self._waiting[waiter] = until
        self._deadlines.set(self, min(self.deadline, until))
        return False

    def leave(self, waiter: Waiter) -> None:
        """A request is over, or waits no longer; whoever waits longest takes the place."""
        if waiter in self._waiting:
            del self._waiting[waiter]
            return
        self._active -= 1
        self._serve()

    def resize(self, most: int, queue: int, queue_timeout: float) -> None:
        """Other bounds, for requests to come; those under way and in line keep their places."""
        self._most, self._queue, self._queue_timeout = most, queue, queue_timeout
        self._serve()

    def _serve(self) -> None:
        # One that is over at once leaves while it is let in: a loop, or a line of them would nest.
        if self._serving:
            return
        self._serving = True
        try:
            while self._waiting and self._active < self._most:
                waiter, _ = self._waiting.popitem(last=False)
                self._active += 1
                waiter.let_in()
        finally:
            self._serving = False

    def expired(self, now: float) -> None:
        """Some have waited too long."""
        while self._waiting:
            waiter, until = next(iter(self._waiting.items()))
            if until > now:
                self._deadlines.set(self, until)
                return
            del self._waiting[waiter]
            waiter.turned_away(self._refusal(f"and none ended in {self._queue_timeout:g} s"))

    def _refusal(self, what: str) -> Rejection:
        message = f"service {self.service!r} has {self._most} requests under way {what}"
        message += "; try again later"
        return Rejection("OVERLOADED", message, RETRY_AFTER_SECONDS)
