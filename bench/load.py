"""Load on uvloop: a closed and an open loop. wrk.py has a faster closed one.

Closed loop: each connection sends its next request when it has its answer. Open loop: requests are
due at fixed times whatever the answers do, and latency counts from the time a request was due, so
a stall is not forgiven.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.client import Call, Connection

_MAX_CONNECTIONS = (
    512  # an open loop opens more where all are busy, up to here; then requests wait their turn
)
_IDLE_SECONDS = (
    30  # an idle connection is not used again after this: well before any proxy closes it
)


@dataclass(slots=True)
class Outcome:
    """What a run came to. Latencies in seconds, in order of completion."""

    completed: int = 0
    failed: int = 0
    vanished: int = 0
    connections: int = 0
    seconds: float = 0.0
    latencies: array[float] = field(default_factory=lambda: array("d"))
    reasons: dict[str, int] = field(default_factory=dict)

    def fail(self, reason: str) -> None:
        """Counts a failure under its reason."""
        self.failed += 1
        self.reasons[reason] = self.reasons.get(reason, 0) + 1


async def closed_loop(port: int, call: Call, *, connections: int, seconds: float) -> Outcome:
    """Keeps so many connections busy for so long; requests under way at the end still count."""
    loop = asyncio.get_running_loop()
    outcome, ended = Outcome(connections=connections), asyncio.Event()
    deadline, busy = loop.time() + seconds, connections

    def done(connection: Connection, wrong: str) -> None:
        nonlocal busy
        now = time.monotonic()
        if wrong:
            outcome.fail(wrong)
        else:
            outcome.completed += 1
            outcome.latencies.append(now - connection.due)
        if now < deadline and connection.reusable and not wrong:
            connection.send(call, now)
            return
        connection.close()
        busy -= 1
        if not busy:
            ended.set()

    started = time.monotonic()
    opened = [
        (await loop.create_connection(lambda: Connection(done), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    for connection in opened:
        connection.send(call, time.monotonic())
    await asyncio.wait_for(ended.wait(), seconds + 30)
    outcome.seconds = time.monotonic() - started
    return outcome


class Ticker:
    """A file descriptor readable at a fixed rate, finer than the loop's millisecond."""

    def __init__(self, interval_seconds: float) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        whole, part = divmod(int(interval_seconds * 1e9), 1_000_000_000)
        # struct itimerspec: interval, then the first expiry
        setting = (ctypes.c_long * 4)(whole, part, whole, part)
        if libc.timerfd_settime(self.fd, 0, ctypes.byref(setting), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def close(self) -> None:
        """Gives the descriptor back."""
        os.close(self.fd)


class OpenLoop:
    """Sends `make_call(n)` at `rate` a second for `seconds`, over as many connections as needed.

    `lifetime()` says how many requests a new connection is for (0: no end), so clients come and go.
    """

    def __init__(
        self,
        port: int,
        make_call: Callable[[int], Call],
        *,
        rate: float,
        seconds: float,
        lifetime: Callable[[], int] = lambda: 0,
    ) -> None:
        self._port, self._make_call, self._lifetime = port, make_call, lifetime
        self._rate, self._total = rate, int(rate * seconds)
        self._begun = self._settled = 0
        self._open = 0
        self._idle: list[Connection] = []
        self._waiting: deque[tuple[Call, float]] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self.outcome = Outcome()

    async def run(self) -> Outcome:
        """Returns when every request is settled, at the latest 30 s after the last was due."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(self._connect() for _ in range(32)))
        ticker = Ticker(min(1 / self._rate, 0.001))
        self._start = time.monotonic()
        loop.add_reader(ticker.fd, self._tick, ticker.fd)
        try:
            await asyncio.wait_for(self._ended.wait(), self._total / self._rate + 30)
        except TimeoutError:
            for _ in range(self._total - self._settled):
                self.outcome.fail("no answer in time")
        finally:
            loop.remove_reader(ticker.fd)
            ticker.close()
            for connection in self._idle:
                connection.close()
        self.outcome.seconds = time.monotonic() - self._start
        return self.outcome

    def _tick(self, fd: int) -> None:
        os.read(fd, 8)
        now = time.monotonic()
        due = min(self._total, int((now - self._start) * self._rate) + 1)
        while self._begun < due:
            call = self._make_call(self._begun)
            self._waiting.append((call, self._start + self._begun / self._rate))
            self._begun += 1
        self._give()

    def _give(self) -> None:
        """Hands what is due to idle connections, last used first; opens more where none is."""
        while self._waiting:
            if not self._idle:
                self._grow()
                return
            connection = self._idle.pop()
            if not connection.reusable or time.monotonic() - connection.due > _IDLE_SECONDS:
                connection.close()
                self._open -= 1
                continue
            call, due = self._waiting.popleft()
            connection.send(call, due)
            if call.vanish:
                self._vanish(connection)

    def _vanish(self, connection: Connection) -> None:
        # A moment later, so that the request is under way at every stage of its life
        delay, number = 0.0005 * (self._begun % 8), connection.sent

        def go() -> None:
            if connection.busy_with(number):
                connection.abort()
                self.outcome.vanished += 1
                self._open -= 1
                self._settle()

        asyncio.get_running_loop().call_later(delay, go) if delay else go()

    def _grow(self) -> None:
        room = min(len(self._waiting) - len(self._opening), _MAX_CONNECTIONS - self._open)
        for _ in range(room):
            task = asyncio.get_running_loop().create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        self._open += 1
        try:
            made = await loop.create_connection(
                lambda: Connection(self._done), "127.0.0.1", self._port
            )
        except OSError as error:
            self._open -= 1
            if self._waiting:
                self._waiting.popleft()
                self.outcome.fail(f"connect: {error.strerror or error}")
                self._settle()
            return
        self.outcome.connections += 1
        made[1].lifetime, made[1].due = self._lifetime(), time.monotonic()
        self._idle.append(made[1])
        self._give()

    def _done(self, connection: Connection, wrong: str) -> None:
        if wrong:
            self.outcome.fail(wrong)
        else:
            self.outcome.completed += 1
            self.outcome.latencies.append(time.monotonic() - connection.due)
        if not connection.reusable or connection.sent == connection.lifetime:
            connection.close()
            self._open -= 1
        else:
            self._idle.append(connection)
        self._settle()
        self._give()

    def _settle(self) -> None:
        self._settled += 1
        if self._settled >= self._total:
            self._ended.set()
