"""The circuit breaker of a service: whether another request is sent to it, or refused at once.
Pure: `now` is monotonic seconds, passed in.

Rule (facts, "Balancing, health, breakers"): closed, it opens when in a rolling window of 10 s the
failed requests reach a threshold and their share of all reaches a rate. Open, it refuses. After its
time it is half open: a few requests at a time are let through as probes; as many good ones in all
close it, one bad one opens it again. Not here: what counts as failed (the exchange: 5xx of the
upstream, no connection, time-outs, broken answers; not 4xx, not a client that left), and the answer
to a refused request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import ceil, inf
from typing import Final, Literal

State = Literal["closed", "open", "half_open"]
CLOSED: Final = "closed"
OPEN: Final = "open"
HALF_OPEN: Final = "half_open"
# As gateway_breaker_state shows them.
STATE_FIGURES: Final[dict[State, int]] = {CLOSED: 0, HALF_OPEN: 1, OPEN: 2}

WINDOW_SECONDS: Final = 10.0
PROBES: Final = 3  # at a time, and so many good ones close it: one may be luck
# A probe whose client or connection was lost without a word frees its place then; a back end that
# takes longer for an answer is judged all the same when that comes.
PROBE_SECONDS: Final = 10.0

_STEPS: Final = 100  # of a window: it forgets in steps of 0.1 s, and holds so many cells at most


class Pass:
    """Leave to send one request. All requests of one closed spell share one: nothing is made for
    them.
    """

    __slots__ = ()


class Probe(Pass):
    """Leave to send one request to a service that may be ill."""

    __slots__ = ("deadline", "spell")

    def __init__(self, deadline: float, spell: int) -> None:
        self.deadline = deadline
        self.spell = spell

    def __repr__(self) -> str:
        return f"<Probe spell={self.spell} deadline={self.deadline:g}>"


class Breaker:
    """One service's breaker. Every pass that `admit` gave is settled once, whatever became of it.

    What was admitted before a change of state has no part in the state after it: a closed spell
    knows its own pass, a half-open one its own probes.
    """

    __slots__ = (
        "_cell",
        "_cells",
        "_failures",
        "_good",
        "_on_change",
        "_open_seconds",
        "_open_until",
        "_pass",
        "_places",
        "_probe_seconds",
        "_probes",
        "_rate",
        "_spell",
        "_step_ends",
        "_step_seconds",
        "changes",
        "failed",
        "forced",
        "requests",
        "state",
    )

    def __init__(
        self,
        failures: float = 20,
        open_seconds: float = 3.0,
        rate: float = 0.5,
        *,
        window_seconds: float = WINDOW_SECONDS,
        probes: int = PROBES,
        probe_seconds: float = PROBE_SECONDS,
        on_change: Callable[[Breaker, State], None] | None = None,
    ) -> None:
        """`failures`: how many open it (`math.inf`: only `force_open` does); `rate`: the share of
        them, from 0 to 1. `on_change` is told the breaker, changed already, and its former state.
        """
        self._failures = failures
        self._open_seconds = open_seconds
        self._rate = rate
        self._step_seconds = window_seconds / _STEPS
        self._probes = probes
        self._probe_seconds = probe_seconds
        self._on_change = on_change
        self.state: State = CLOSED
        self.forced = False  # opened by hand: until it is reset by hand
        self.changes: dict[State, int] = dict.fromkeys(STATE_FIGURES, 0)
        self._spell = 0
        self._pass: Pass | None = Pass()  # while closed
        self._open_until = 0.0
        self._places: list[Probe] = []
        self._good = 0  # probes of this spell
        # Requests and failures of a step each, with its number, oldest first; and their sums, which
        # `window` brings up to date.
        self._cells: deque[list[int]] = deque()
        self._cell: list[int] = [0, 0, 0]
        self._step_ends = -inf
        self.requests = 0
        self.failed = 0

    def __repr__(self) -> str:
        figures = f"{self.failed}/{self.requests} failed, {len(self._places)} probes"
        return f"<Breaker {self.state}{' by hand' if self.forced else ''} {figures}>"

    def admit(self, now: float) -> Pass | None:
        """Leave to send a request, to be given back to `settle`; None: refuse it at once."""
        current = self._pass
        return self._admit_probe(now) if current is None else current

    def settle(self, pass_: Pass, failed: bool | None, now: float) -> None:
        """How the request with `pass_` ended; None: it says nothing about the service (its client
        left), but the place of a probe is free again.
        """
        if pass_ is not self._pass:
            self._settle_probe(pass_, failed, now)
            return
        if failed is None:
            return
        if now >= self._step_ends:
            self._step(now)
        self._cell[1] += 1
        self.requests += 1
        if failed:
            self._cell[2] += 1
            self.failed += 1
            if self.failed >= self._failures and self.failed >= self._rate * self.requests:
                self._open(now)

    def retry_after(self, now: float) -> int:
        """Whole seconds after which a refused request may be let through, at least 1."""
        if self.state is not OPEN:
            return 1
        wait = self._open_seconds if self.forced else self._open_until - now
        return max(1, ceil(wait))

    def look(self, now: float) -> State:
        """The state at `now`: the end of the open time is noticed by whoever looks first."""
        if self.state is OPEN and now >= self._open_until:
            self._change(HALF_OPEN)
        return self.state

    def force_open(self) -> None:
        """Open it until `reset`: an operator's word, which no time and no probe takes back."""
        self.forced = True
        self._open_until = inf
        self._change(OPEN)

    def take_over(self, before: Breaker) -> None:
        """Be the successor of `before`, whose figures were others: its counts go on, and so does
        what an operator said; not what it has seen.
        """
        self.changes = before.changes
        if before.forced:
            self.state, self._pass, self.forced, self._open_until = OPEN, None, True, inf

    def reset(self) -> None:
        """Close it and forget what it has seen."""
        self.forced = False
        self._change(CLOSED)

    def window(self, now: float) -> tuple[int, int]:
        """Requests and failures of the last 10 s; while not closed, of those before it opened."""
        if self.state is CLOSED and now >= self._step_ends:
            self._step(now)
        return self.requests, self.failed

    def _admit_probe(self, now: float) -> Probe | None:
        if self.look(now) is OPEN:
            return None
        if len(self._places) >= self._probes:
            self._places = [probe for probe in self._places if now < probe.deadline]
            if len(self._places) >= self._probes:
                return None
        probe = Probe(now + self._probe_seconds, self._spell)
        self._places.append(probe)
        return probe

    def _settle_probe(self, pass_: Pass, failed: bool | None, now: float) -> None:
        if not isinstance(pass_, Probe) or pass_.spell != self._spell:
            return
        pass_.spell = -1  # settled: it counts no second time
        if pass_ in self._places:  # else its place was given to another
            self._places.remove(pass_)
        if failed:
            self._open(now)
        elif failed is not None:
            self._good += 1
            if self._good >= self._probes:
                self._change(CLOSED)

    def _open(self, now: float) -> None:
        self._open_until = now + self._open_seconds
        self._change(OPEN)

    def _change(self, to: State) -> None:
        before, self.state = self.state, to
        self._spell += 1
        self._pass = Pass() if to is CLOSED else None
        self._places = []
        self._good = 0
        if to is CLOSED:
            self._cells.clear()
            self.requests = self.failed = 0
            self._step_ends = -inf
        if before is not to:
            self.changes[to] += 1
            if self._on_change is not None:
                self._on_change(self, before)

    def _step(self, now: float) -> None:
        """Begin the cell of `now`, and leave out of the sums those older than the window."""
        at = int(now / self._step_seconds)
        self._step_ends = (at + 1) * self._step_seconds
        cells = self._cells
        while cells and cells[0][0] <= at - _STEPS:
            _, requests, failed = cells.popleft()
            self.requests -= requests
            self.failed -= failed
        self._cell = [at, 0, 0]
        cells.append(self._cell)
