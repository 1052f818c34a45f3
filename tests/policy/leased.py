"""Gateways whose buckets are leased from a real Redis, and rules to ask them for.

They are objects on one loop; processes are in scenarios/test_shared_limits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.policy.lease_link import LeaseTimes
from gateway.policy.limit_rules import UNKNOWN, Bucket, Key, Levels, Rule
from gateway.policy.ratelimit_redis import LeasedBuckets
from tests.connection import eventually
from tests.policy.leasing import Lines

# On a busy machine Redis may take long to answer: only tests of slowness care.
PATIENT = LeaseTimes(wait=10.0, away=10.0, slow=60.0, silent=30.0, connect=10.0, close=10.0)
HASTY = LeaseTimes()

TEN = Rule("ten", (Bucket("burst", 10, 0.001, 10_000),))
FAST = Rule("fast", (Bucket("burst", 10, 20.0, 1),))
BOTH = Rule("both", (Bucket("burst", 10, 10.0, 1), Bucket("minute", 60, 1.0, 60)))


class Gateway:
    """What a gateway uses of its buckets."""

    def __init__(self, url: str, times: LeaseTimes, **options: Any) -> None:
        self.lines = Lines()
        self.buckets = LeasedBuckets(url, times=times, log=self.lines, **options)

    async def said(self, rule: Rule, key: Key = "s:alice", cost: int = 1) -> float | Levels:
        """One request."""
        said = self.buckets.take(rule, key, cost, time.monotonic())
        if said == UNKNOWN:
            await self.buckets.pending([(rule, key)], cost).wait
            said = self.buckets.take(rule, key, cost, time.monotonic())
        assert said != UNKNOWN
        return said

    async def admits(self, rule: Rule, key: Key = "s:alice", cost: int = 1) -> bool:
        return not isinstance(await self.said(rule, key, cost), float)

    async def drain(self, rule: Rule, key: Key = "s:alice") -> int:
        """How many are admitted until one is refused."""
        admitted = 0
        while await self.admits(rule, key):
            admitted += 1
        return admitted

    async def crash(self) -> None:
        """End as a killed process does."""
        task, self.buckets._link._task = self.buckets._link._task, None
        assert task is not None
        task.cancel()
        await asyncio.wait([task])


Start = Callable[..., Coroutine[Any, Any, Gateway]]


async def passed(seconds: float) -> None:
    """A client that waits as it was told."""
    end = time.monotonic() + seconds
    await eventually(lambda: time.monotonic() >= end)
