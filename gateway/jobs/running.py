"""How many jobs of one owner run at once, and the bound of that.

Temporal's visibility store counts them, of all gateways and from before any restart. A count holds
for a second, far from the bound for ten; what was started here since is added to it, and what ended
is taken off as its event comes by. So the bound is exact but for what other gateways started since
the count: each may start half of the bound in those ten seconds, and all of it in one. So an owner
that goes to G gateways may have G times half of it too many, at worst G times all of it. Where the
store can't count, jobs are started uncounted: it is a bound against one who takes too much, not a
lock.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from temporalio.service import RPCError

from gateway.errors import Rejection
from gateway.jobs.refusals import JobRefusedError

# How long a count holds. It takes 2 ms, which is not spent at every start of an owner far from the
# bound: half of it is hardly started within ten seconds, and if so it is noticed.
NEAR_SECONDS: Final = 1.0
FAR_SECONDS: Final = 10.0
# Nobody is refused for jobs that have ended since the count, unless some were started here since:
# the store may not know of those yet. Who asks again and again costs no more than a fiftieth of the
# store's time.
AGAIN_SECONDS: Final = 0.1
# A store that is slower does not hold up starts.
PATIENCE_SECONDS: Final = 1.0
# Some 500 bytes each. Who is forgotten, the one not seen for the longest, is counted anew.
MOST_OWNERS: Final = 10_000
# Jobs last from a blink to months: often enough to be noticed, too seldom to be a burden.
RETRY_SECONDS: Final = 5


class TooManyJobsError(JobRefusedError):
    """The owner has as many jobs as may run at once."""

    def __init__(self, most: int) -> None:
        message = (
            f"Nothing was started: {most} of your jobs run, as many as may at once. Wait until one"
            " has ended, or cancel one, and start this again."
        )
        super().__init__(Rejection("RATE_LIMITED", message, RETRY_SECONDS))


class _Owner:
    """Its jobs: those counted, those started here since, and of these the ones being started."""

    __slots__ = ("asked", "counted", "lock", "since", "starting")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.asked: float | None = None  # monotonic seconds
        self.counted = 0
        self.since = 0
        self.starting = 0

    @property
    def running(self) -> int:
        return self.counted + self.since


class RunningJobs:
    """`count` asks the store how many jobs of an owner run, by its tags. `clock` is monotonic."""

    def __init__(
        self,
        count: Callable[[Sequence[str]], Awaitable[int]],
        log: Any,
        clock: Callable[[], float] = time.monotonic,
        most_owners: int = MOST_OWNERS,
    ) -> None:
        self._count = count
        self._log = log
        self._clock = clock
        self._most_owners = most_owners
        self._owners: OrderedDict[str, _Owner] = OrderedDict()
        self._counts = True

    def __repr__(self) -> str:
        return f"<RunningJobs of {len(self._owners)} owners>"

    @asynccontextmanager
    async def place(self, tags: Sequence[str], most: int) -> AsyncIterator[None]:
        """A place for one job more while it is being started; kept unless that raises. `most` 0:
        without a bound.

        Raises TooManyJobsError.
        """
        if not most:
            yield
            return
        owner = self._owner(tags[0])
        async with owner.lock:  # counted once, however many start at once
            if self._is_old(owner, most):
                await self._recount(owner, tags)
            if owner.running >= most:
                raise TooManyJobsError(most)
            owner.since += 1
            owner.starting += 1
        try:
            yield
        except Exception:  # of one that was left half-way nobody knows whether it started
            owner.since = max(0, owner.since - 1)
            raise
        finally:
            owner.starting -= 1

    def ended(self, tag: str) -> None:
        """The end of one of an owner's jobs came by: counted or started since, it is one less."""
        owner = self._owners.get(tag)
        if owner is not None and owner.since > owner.starting:
            owner.since -= 1
        elif owner is not None and owner.counted:
            owner.counted -= 1

    def _owner(self, tag: str) -> _Owner:
        owner = self._owners.get(tag)
        if owner is None:
            owner = self._owners[tag] = _Owner()
            if len(self._owners) > self._most_owners:
                self._owners.popitem(last=False)
        else:
            self._owners.move_to_end(tag)
        return owner

    def _is_old(self, owner: _Owner, most: int) -> bool:
        if owner.asked is None:
            return True
        if owner.counted >= most and owner.since == owner.starting == 0:
            seconds = AGAIN_SECONDS
        else:
            seconds = NEAR_SECONDS if 2 * owner.running >= most else FAR_SECONDS
        return self._clock() - owner.asked >= seconds

    async def _recount(self, owner: _Owner, tags: Sequence[str]) -> None:
        asked, owner.asked = self._clock(), None  # whoever asks may leave: the next one counts then
        owner.since = owner.starting  # whether the count will have those can't be told
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                owner.counted = await self._count(tags)
        except (RPCError, TimeoutError) as error:
            owner.counted = 0
            if self._counts:
                self._log.warning("jobs_not_counted", error=type(error).__name__)
            self._counts = False
        else:
            self._counts = True
        owner.asked = asked
