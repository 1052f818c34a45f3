"""Starts take turns: so many at once go to Temporal, the others wait in a line that has a bound.

Hundreds of starts in one moment would each take longer than a call may, and all fail; in a line
each is as quick as alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from gateway.errors import Rejection
from gateway.jobs.refusals import JobRefusedError

# At 4 ms a start that is 4,000 a second, far more than a Temporal of one machine takes.
AT_ONCE: Final = 16
# Each is a request that is held open, with its connection: some 10 KB.
MOST_WAITING: Final = 1000
# Below the time for which clients wait for an answer, as a rule.
PATIENCE_SECONDS: Final = 25.0
_RETRY_SECONDS: Final = 2


class Turns:
    """A line, and as many places at its head as work at once."""

    def __init__(
        self,
        at_once: int = AT_ONCE,
        most_waiting: int = MOST_WAITING,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._most_waiting = most_waiting
        self._patience_seconds = patience_seconds
        self.waiting = 0

    def __repr__(self) -> str:
        return f"<Turns waiting={self.waiting}>"

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a place, and have it until the block ends. Raises JobRefusedError (OVERLOADED)
        where the line is full, or does not move.
        """
        if self._places.locked() and self.waiting >= self._most_waiting:
            raise _overloaded()
        self.waiting += 1
        try:
            async with asyncio.timeout(self._patience_seconds):
                await self._places.acquire()
        except TimeoutError:
            raise _overloaded() from None
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._places.release()


def _overloaded() -> JobRefusedError:
    message = "More jobs are being started than Temporal takes just now; ask again."
    return JobRefusedError(Rejection("OVERLOADED", message, _RETRY_SECONDS))
