"""The connection over which a gateway leases tokens: made again whenever it ends, one pipeline on
it at a time, and a sign of life several times a second.

What is asked for and what is done with the answers is in ratelimit_redis; what Redis does is in
lease_scripts.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from redis.exceptions import ResponseError

from gateway.policy.lease_scripts import (
    Ask,
    Beat,
    LateError,
    Leases,
    LostError,
    beat,
    beating,
    greeting,
    leases,
    leasing,
    loading,
    microseconds,
    run_of,
    said_now,
)
from sse.backplane_link import AWAY, Wire, read

# Of an error's text in a log line and on the health page.
_ERROR_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """How long things may take, in seconds."""

    wait: float = 0.020  # a request waits for Redis (issue 5; Envoy's time-out too)
    away: float = 0.25  # a command is answered, or Redis is away; it does nothing after that
    slow: float = 1.0  # no answer within `wait` for so long is as good as away
    beat: float = 0.2  # between two signs of life
    silent: float = 0.6  # a gateway unheard for so long may be admitting alone
    seen: float = 10.0  # and after this is gone
    lease: float = 3.0
    margin: float = 0.5  # a lease ends here so much earlier: requests carry the time they began at
    idle: float = 1.0  # a lease unused for so long is given back
    connect: float = 1.0  # a connection with its greeting
    shortest_pause: float = 0.05  # before trying again to connect; doubled each time
    longest_pause: float = 0.25
    close: float = 1.0  # giving everything back


class Desk(Protocol):
    """Who asks."""

    def batch(self, now: float) -> list[Ask]:
        """What to ask now."""

    def answered(self, said: Leases, sent_at: float) -> None:
        """What Redis said to the last batch."""

    def joining(self) -> None:
        """From now on nothing may be admitted alone, until `joined`, `refused` or `away`."""

    def joined(self, *, lost: bool, forgotten: bool) -> None:
        """Redis reckons with this gateway: leases hold. `lost`: Redis had lost its data;
        `forgotten`: it had not, but took this gateway for gone.
        """

    def refused(self) -> None:
        """After `joining`: Redis did not take note of this gateway."""

    def away(self, error: str, base: float, divisor: int, alone_since: float | None) -> None:
        """Redis can't be reached. From `base` on it reckons with `1 / divisor` of each limit being
        used here; `alone_since`: from then on this was the only gateway.
        """


class LeaseLink:
    """Runs from `start` to `close`."""

    def __init__(
        self,
        connect: Callable[[str], Wire],
        desk: Desk,
        clock: Callable[[], float],
        times: LeaseTimes,
        gateways: int,
        report_bug: Callable[[BaseException], object],
    ) -> None:
        self._connect = connect
        self._desk = desk
        self._clock = clock
        self._times = times
        self._report_bug = report_bug
        self._name = base64.b32encode(os.urandom(10)).lower()
        self._run = b""
        self._epoch = b""
        self._offset = 0.0  # Redis' clock is at most so far ahead of ours
        self.gateways = gateways  # that Redis knew last, this one included
        self._of = gateways  # what Redis was told last
        self.alone_since: float | None = None
        self._sent_at = 0.0
        self._next_beat = 0.0
        self._fast_at = 0.0
        self._wake = asyncio.Event()
        self._joined = False
        self._asks = False  # something is on its way
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self.settled = asyncio.Event()  # joined, or Redis can't be reached

    def __repr__(self) -> str:
        return f"<LeaseLink {'joined' if self._joined else 'away'} gateways={self.gateways}>"

    @property
    def is_overdue(self) -> bool:
        """Whether Redis takes longer to answer than a request waits, or is not there."""
        return not self._joined or (
            self._asks and self._clock() - self._sent_at >= self._times.wait
        )

    def start(self) -> None:
        """Connect, again and again."""
        self._task = asyncio.get_running_loop().create_task(self._live())

    def wake(self) -> None:
        """There is something to ask."""
        self._wake.set()

    async def close(self) -> None:
        """Ask what is left to be asked, leave, end; takes bounded time."""
        task, self._task = self._task, None
        if task is None:
            return
        self._closing = True
        self._wake.set()
        if self._joined:
            await asyncio.wait([task], timeout=self._times.close)
        task.cancel()
        await asyncio.wait([task])

    async def _live(self) -> None:
        pause, times = 0.0, self._times
        while not self._is_closing():
            wire = self._connect("limits")
            was_joined = False
            error: Exception = ConnectionError("the connection ended")
            try:
                await self._greet(wire)
                await self._join(wire)
                was_joined = self._joined = True
                self.settled.set()
                await self._serve(wire)
            except (*AWAY, LateError, LostError) as problem:
                error = problem
            except Exception as problem:
                self._report_bug(problem)
                error = problem
            finally:
                self._joined = False
                await wire.disconnect(nowait=True)
            if self._is_closing():
                return
            self._tell_away(error)
            if not isinstance(error, TimeoutError | LateError):  # slow: it may be there in a moment
                self.settled.set()
            pause = 0.0 if was_joined else min(times.longest_pause, 2 * pause)
            pause = max(pause, times.shortest_pause)
            await asyncio.sleep(pause * random.SystemRandom().uniform(0.5, 1.0))

    def _is_closing(self) -> bool:
        return self._closing

    def _tell_away(self, error: Exception) -> None:
        # What was sent last has been done by then or never is; then Redis takes a while to notice.
        base = self._sent_at + self._times.away + self._times.silent
        text = f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS]
        self._desk.away(text, base, max(self.gateways, self._of), self.alone_since)

    async def _greet(self, wire: Wire) -> None:
        """Which run of Redis it is and what time it has there. None of this would have effects if
        it were done late.
        """
        async with asyncio.timeout(self._times.connect):
            await wire.connect()
        _only(await self._ask(wire, loading(), 2))
        sent_at = self._clock()
        info, time = await self._ask(wire, greeting(), 2)
        _only([time])
        if self._clock() - sent_at > self._times.wait:
            raise TimeoutError("Redis is slow")
        # INFO may not be for everyone.
        self._run = run_of(info if isinstance(info, bytes) else None)
        self._offset = microseconds(time) / 1e6 - sent_at

    async def _join(self, wire: Wire) -> None:
        """Be one of the gateways from now on; one that believes to be alone has to hear of it."""
        before = self._epoch
        self._desk.joining()
        forgotten, hidden = False, True
        while hidden:
            self._sent_at = self._clock()
            try:
                said = self._heard(_only(await self._ask(wire, self._beating(), 1))[0])
            except (ResponseError, LateError):
                self._desk.refused()
                raise
            forgotten, hidden = forgotten or said.forgotten, said.is_hidden
            self._epoch = said.epoch
            if hidden:
                await asyncio.sleep(self._times.beat / 4)
        self._fast_at = self._clock()
        lost = before not in (b"", self._epoch)
        self._desk.joined(lost=lost, forgotten=forgotten)

    async def _serve(self, wire: Wire) -> None:
        """Ask and show that one is there, until the connection ends or all is given back."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            now = self._clock()
            asks = self._desk.batch(now)
            if asks or now >= self._next_beat:
                await self._exchange(wire, asks)
            elif self._closing:
                self._sent_at = now
                await self._ask(wire, self._beating(leaves=True), 1)
                return
            else:
                alarm = loop.call_later(self._next_beat - now, self._wake.set)
                await self._wake.wait()
                alarm.cancel()

    async def _exchange(self, wire: Wire, asks: list[Ask]) -> None:
        """One pipeline. Raises one of AWAY, LateError, LostError."""
        sent_at = self._sent_at = self._clock()
        times, command = self._times, b""
        beats = sent_at >= self._next_beat
        if asks:
            spans = (round(times.silent * 1e6), round(times.lease * 1e6))
            command = leasing(self._name, self._epoch, self._not_after(), *spans, asks)
        if beats:  # after what was used alone: others may begin when they see this
            command += self._beating()
        self._asks = True
        try:
            replies = _only(await self._ask(wire, command, beats + bool(asks)))
        finally:
            self._asks = False
        if asks:
            self._desk.answered(leases(replies[0]), sent_at)
        if beats and self._heard(replies[-1]).epoch != self._epoch:
            raise LostError("Redis lost its data")
        now = self._clock()
        if now - sent_at <= times.wait:
            self._fast_at = now
        elif now - self._fast_at > times.slow:
            raise TimeoutError("Redis is slow")

    def _beating(self, *, leaves: bool = False) -> bytes:
        """The command that shows that this gateway is there."""
        times = self._times
        self._next_beat = self._clock() + times.beat
        self._of = self.gateways
        fresh = base64.b32encode(os.urandom(10)).lower()
        spans = (round(times.silent * 1e6), round(times.seen * 1e6))
        return beating(
            self._name,
            self._run,
            self._epoch,
            self._of,
            fresh,
            self._not_after(),
            spans,
            leaves=leaves,
        )

    def _not_after(self) -> int:
        return int((self._sent_at + self._offset + self._times.away) * 1e6)

    def _heard(self, reply: Any) -> Beat:
        """What Redis says to a sign of life. Raises LateError."""
        self._offset = said_now(reply) / 1e6 - self._sent_at
        said = beat(reply)
        self.gateways = said.gateways
        self._of = max(self._of, said.gateways)
        if self._of > 1:
            self.alone_since = None
        elif self.alone_since is None:
            self.alone_since = self._clock()
        return said

    async def _ask(self, wire: Wire, command: bytes, count: int) -> list[Any]:
        """The answers to commands, errors of Redis among them. Raises one of AWAY."""
        answers: list[Any] = []
        async with asyncio.timeout(self._times.away):
            await wire.send_packed_command(command, check_health=False)
            while len(answers) < count:
                try:
                    answers.append(await read(wire))
                except ResponseError as error:
                    answers.append(error)
        return answers


def _only(answers: list[Any]) -> list[Any]:
    """The same, if there is no error among them; else raises the first."""
    for answer in answers:
        if isinstance(answer, ResponseError):
            raise answer
    return answers
