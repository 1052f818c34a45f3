"""One coarse timer for every time-out of the door.

`loop.call_later` for each request costs 1 µs (measured); here setting a deadline is an attribute,
and most of the time nothing else, because an owner that is filed too early is simply filed again
when its slot comes up.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import structlog

TICK_SECONDS: Final = 0.1  # a time-out is late by up to three of these
NEVER: Final = math.inf
# Owners told in one turn of the loop; others that are due come in the next, behind what was read
# meanwhile. When a service hangs, all that wait for it are due together: 70 answers take 5 ms, and
# nobody else was served in them.
TOLD_AT_ONCE: Final = 8


class Timed(Protocol):
    """Something with one deadline. `filed_tick` belongs to the wheel."""

    deadline: float
    filed_tick: float

    def expired(self, now: float) -> None:
        """Called at most once for each deadline set, at or after it."""


class Called(Protocol):
    """What is called once; as `Timed`, without a deadline of its own."""

    def expired(self, now: float) -> None:
        """The time is there."""


class Handle(Protocol):
    """A call to come that can be called off."""

    def cancel(self) -> None:
        """It is not made any more."""


class Deadlines:
    """A timer wheel with slots of TICK_SECONDS; it runs only while something is filed."""

    __slots__ = (
        "_call_later", "_clock", "_due", "_now", "_running", "_slots", "_telling", "_tick",
    )  # fmt: skip

    def __init__(
        self,
        clock: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], Handle],
    ) -> None:
        self._clock = clock
        self._call_later = call_later
        self._slots: dict[int, set[Timed]] = {}
        self._due: deque[Timed] = deque()
        self._telling = False  # what is left of these is called for
        self._tick = 0
        self._now = 0.0  # the clock at the last tick while running
        self._running = False

    def __repr__(self) -> str:
        return f"<Deadlines filed={sum(map(len, self._slots.values()))}>"

    def set(self, owner: Timed, at: float) -> None:
        """Let `owner.expired` be called once the clock reads `at`; replaces the deadline before."""
        owner.deadline = at
        if at / TICK_SECONDS < owner.filed_tick:
            self._file(owner)

    def after(self, owner: Timed, seconds: float) -> None:
        """Let `owner.expired` be called in `seconds`, or up to two ticks later.

        Counts from the last tick: no clock is read for it, as each request sets three of these.
        """
        if not self._running:
            self._run()
        owner.deadline = at = self._now + seconds + TICK_SECONDS
        if at / TICK_SECONDS < owner.filed_tick:
            self._file(owner)

    def alarm(self, owner: Called, seconds: float) -> Handle:
        """Call `owner.expired` in `seconds`, to the millisecond: for the few waits for which a tick
        is too coarse (back-off, hedging, one try). Costs a timer of the loop.
        """
        return self._call_later(seconds, lambda: self._expire(owner, self._clock()))

    def clear(self, owner: Timed) -> None:
        """No deadline for now; cheap, the owner leaves its slot when that comes up."""
        owner.deadline = NEVER

    def remove(self, owner: Timed) -> None:
        """Forget an owner that ended, so that nothing keeps it alive."""
        owner.deadline = NEVER
        self._unfile(owner)

    def _unfile(self, owner: Timed) -> None:
        # A slot that is being worked off is no longer among the slots.
        slot = self._slots.get(int(owner.filed_tick)) if owner.filed_tick != NEVER else None
        if slot is not None:
            slot.discard(owner)
        owner.filed_tick = NEVER

    def _file(self, owner: Timed) -> None:
        if not self._running:
            self._run()
        self._unfile(owner)
        tick = max(math.ceil(owner.deadline / TICK_SECONDS), self._tick + 1)
        owner.filed_tick = tick
        slot = self._slots.get(tick)
        if slot is None:
            slot = self._slots[tick] = set()
        slot.add(owner)

    def _run(self) -> None:
        self._now = self._clock()
        self._tick = int(self._now / TICK_SECONDS)
        self._running = True
        self._call_later(TICK_SECONDS, self._turn)

    def _turn(self) -> None:
        self.advance(self._clock())
        if self._slots:
            self._call_later(TICK_SECONDS, self._turn)
        else:
            self._running = False

    @staticmethod
    def _expire(owner: Called, now: float) -> None:
        try:
            owner.expired(now)
        except Exception:  # a bug of one owner must not stop the time of all others
            structlog.get_logger("gateway.edge").exception("edge.bug", owner=repr(owner))

    def advance(self, now: float) -> None:
        """Run what is due at `now`, or begin to."""
        self._now = now
        last, self._tick = self._tick, int(now / TICK_SECONDS)
        if self._tick - last > len(self._slots):
            due = sorted(tick for tick in self._slots if tick <= self._tick)
        else:
            due = [tick for tick in range(last, self._tick + 1) if tick in self._slots]
        for tick in due:
            for owner in self._slots.pop(tick):
                owner.filed_tick = NEVER
                if owner.deadline <= now:
                    self._due.append(owner)
                elif owner.deadline != NEVER:
                    self._file(owner)
        if not self._telling:
            self._tell()

    def _tell(self) -> None:
        """Some of what is due, and the rest in the next turn; unless it has other plans by then."""
        due, now = self._due, self._now
        for _ in range(min(len(due), TOLD_AT_ONCE)):
            owner = due.popleft()
            if owner.deadline <= now:
                owner.deadline = NEVER
                self._expire(owner, now)
        self._telling = bool(due)
        if due:
            self._call_later(0, self._tell)
