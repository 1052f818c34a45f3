"""A process that does nothing but admit requests by shared limits; run as a program by
test_shared_limits.

It reads `begin` and `end` and says `ready`, `second <n>` of its load, `alone` when it has admitted
some without Redis, `again` when it is back, and at the end what it admitted. Each admission has the
time just before and just after its decision, by the monotonic clock, which is one for all processes
of a machine (Linux).
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time

import uvloop

from gateway.policy.lease_link import LeaseTimes
from gateway.policy.limit_rules import UNKNOWN, Bucket, Rule
from gateway.policy.ratelimit_redis import LeasedBuckets
from tests.connection import eventually

RULES = (
    Rule("burst", (Bucket("burst", 40, 40.0, 1),)),
    Rule("both", (Bucket("burst", 30, 60.0, 1), Bucket("minute", 120, 24.0, 5))),
    Rule("slow", (Bucket("burst", 12, 16.0, 1),)),
    Rule("wide", (Bucket("minute", 600, 100.0, 6),)),
)
KEYS = tuple((RULES[number % len(RULES)], f"s:{number}") for number in range(20))
GATEWAYS = 4
# Of what they may admit together, that many times is asked for.
DEMAND = 5
SOME = 10
TICK_SECONDS = 0.01


def say(line: str) -> None:
    """To who started this."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Load:
    """Requests of all keys at random times."""

    def __init__(self, url: str, times: LeaseTimes) -> None:
        self.lines: list[str] = []
        self.buckets = LeasedBuckets(url, gateways=GATEWAYS, times=times, log=self)
        self.times: list[list[tuple[float, float]]] = [[] for _ in KEYS]
        self.first = [0.0] * len(KEYS)  # when each was asked for
        self.last = [0.0] * len(KEYS)
        self.alone = 0
        self.stalled = 0.0  # seconds in which the machine had other things to do than this process
        self.ends = False

    def info(self, event: str, **fields: object) -> None:
        """As a logger."""
        self.lines.append(event)
        if event == "limits_shared":
            say("again")

    warning = error = info

    async def ask(self, number: int) -> None:
        """One request."""
        rule, key = KEYS[number]
        before = self.last[number] = time.monotonic()
        said = self.buckets.take(rule, key, 1, before)
        if said == UNKNOWN:
            await self.buckets.pending([(rule, key)], 1).wait
            before = time.monotonic()
            said = self.buckets.take(rule, key, 1, before)
        if isinstance(said, float):
            return
        self.times[number].append((before, time.monotonic()))
        self.alone += not self.buckets.shared
        if self.alone == SOME:
            self.alone += 1
            say("alone")

    async def run(self, number: int) -> None:
        """The requests of one key: some together, as browsers send them."""
        draw = random.Random()
        together = (1, 1, 1, 2, 5)
        rate = DEMAND / GATEWAYS * min(bucket.rate for bucket in KEYS[number][0].buckets)
        self.first[number] = time.monotonic()
        while not self.ends:
            for _ in range(draw.choice(together)):
                await self.ask(number)
            await asyncio.sleep(draw.expovariate(rate * len(together) / sum(together)))

    async def count_seconds(self) -> None:
        """Tell how long it has lasted."""
        second = 0
        while not self.ends:
            await asyncio.sleep(1.0)
            second += 1
            say(f"second {second}")

    async def watch(self) -> None:
        """Notice when time passes in which nothing of this process could run."""
        while not self.ends:
            before = time.monotonic()
            await asyncio.sleep(TICK_SECONDS)
            self.stalled += max(0.0, time.monotonic() - before - 2 * TICK_SECONDS)

    async def live(self) -> None:
        """From its start to its end."""
        listen = asyncio.get_running_loop().run_in_executor
        await self.buckets.start()
        await eventually(lambda: self.buckets.shared)
        say("ready")
        await listen(None, sys.stdin.readline)
        loads = [asyncio.ensure_future(self.run(number)) for number in range(len(KEYS))]
        loads += [asyncio.ensure_future(each) for each in (self.count_seconds(), self.watch())]
        await listen(None, sys.stdin.readline)
        self.ends = True
        for load in loads:
            load.cancel()
        await asyncio.wait(loads)
        failed = [repr(load.exception()) for load in loads if not load.cancelled()]
        await self.buckets.close()
        said = {
            "times": self.times,
            "first": self.first,
            "last": self.last,
            "stalled": self.stalled,
            "lines": self.lines,
            "failed": failed,
        }
        say(json.dumps(said))


async def main() -> None:
    times = LeaseTimes()
    if sys.argv[2:] == ["patient"]:  # a busy machine is no slow Redis
        times = LeaseTimes(wait=1.0, away=2.0, silent=5.0, slow=30.0)
    await Load(sys.argv[1], times).live()


if __name__ == "__main__":
    uvloop.run(main())
