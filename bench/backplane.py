"""bench backplane: how many events a second one gateway publishes through one local Redis.

The gateway's part is its backplane and hub alone, without HTTP (that is `bench sse-spread`), on one
core; Redis on the other. A number of events is always under way, as requests at the door would be.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from argparse import Namespace
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
import uvloop

from bench import figures, machine, processes, results
from bench.redis_server import redis_server
from sse.backplane import Backplane
from sse.event import NewEvent, Published
from sse.hub import Hub, HubLimits
from sse.ring import HistoryLimits

_GOAL_RATE = 20_000.0
_UNDER_WAY = 2000
_TICK_SECONDS = 0.002  # at a rate: how often what is due is published
_CLIENTS = 10_000
_SECONDS = 5.0
_ROUNDS = 3
_EVENT = NewEvent("run.progress", b'{"step":12,"of":100,"message":"%b"}' % (b"x" * 120))


@dataclass(frozen=True, slots=True)
class Figures:
    """One run; CPU in microseconds an event."""

    rate: float
    cpu: float
    redis_cpu: float
    latency_p50_ms: float
    latency_p99_ms: float


def run(options: Namespace) -> None:
    """Runs each load in turn, several rounds, and writes the section."""
    rounds = options.rounds or _ROUNDS
    seconds = options.seconds or _SECONDS
    rate = options.rate or 5000.0
    loads = {
        f"{_CLIENTS:,} client ids": (_CLIENTS, 1, 0.0),
        "one client id": (1, 1, 0.0),
        "lists of 100": (_CLIENTS, 100, 0.0),
        f"{_CLIENTS:,} client ids at {rate:,.0f}/s": (_CLIENTS, 1, rate),
    }
    measured: dict[str, list[Figures]] = {name: [] for name in loads}
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        for _ in range(rounds):
            for name, load in loads.items():
                measured[name].append(_round(Path(directory), seconds, *load))
    rows = []
    for name, outcomes in measured.items():
        cells = [
            figures.spread([getattr(each, column) for each in outcomes]).text(digits)
            for column, digits in (
                ("rate", 0),
                ("cpu", 1),
                ("redis_cpu", 1),
                ("latency_p50_ms", 1),
                ("latency_p99_ms", 1),
            )
        ]
        rows.append((name, *cells))
    first = figures.spread([each.rate for each in measured[next(iter(loads))]]).median
    header = ("events to", "events/s", "CPU µs", "Redis µs", "p50 ms", "p99 ms")
    body = (
        f"Events of {len(_EVENT.data)} bytes of data, published by one gateway's backplane in one "
        f"process on one core, Redis on another; {_UNDER_WAY:,} events under way, histories of 100 "
        f"events full after a while. CPU is that of the gateway's process and of Redis for each "
        f"event; the time is from publishing to the answer.\n\n{figures.table(header, rows)}\n\n"
        f"Goal: ≥ {_GOAL_RATE:,.0f} events/s: {figures.verdict(first, _GOAL_RATE, at_most=False)}."
    )
    results.publish("backplane", body, options=options)


def _round(directory: Path, seconds: float, clients: int, size: int, rate: float) -> Figures:
    with redis_server(directory) as server, processes.pinned(machine.proxy_cores()):
        return uvloop.run(_measure(server, seconds, clients, size, rate))


async def _measure(
    server: processes.Process, seconds: float, clients: int, size: int, rate: float
) -> Figures:
    loop = asyncio.get_running_loop()
    url = f"redis://127.0.0.1:{server.port}/0"
    hub = Hub(loop, HubLimits(HistoryLimits()), loop.time, time.time)
    log = structlog.get_logger("bench")
    backplane = Backplane(url, hub, HistoryLimits(), strict=True, log=log)
    await backplane.start()
    if backplane.state["state"] != "healthy":
        raise RuntimeError(str(backplane.state["error"]))
    try:
        await _Publisher(backplane, clients, size, rate).publish(1.0)
        cpu, redis_cpu = time.process_time(), server.cpu_seconds()
        began = time.perf_counter()
        times = await _Publisher(backplane, clients, size, rate).publish(seconds)
        took = time.perf_counter() - began
        cpu, redis_cpu = time.process_time() - cpu, server.cpu_seconds() - redis_cpu
    finally:
        await backplane.close()
    count = len(times) * size
    times.sort()
    return Figures(
        rate=count / took,
        cpu=cpu / count * 1e6,
        redis_cpu=redis_cpu / count * 1e6,
        latency_p50_ms=figures.percentile(times, 0.5) * 1000,
        latency_p99_ms=figures.percentile(times, 0.99) * 1000,
    )


class _Publisher:
    """Publishes for a while: the next when one is done, or so many every tick."""

    def __init__(self, backplane: Backplane, clients: int, size: int, rate: float) -> None:
        self._backplane = backplane
        self._chance = random.Random(1)
        self._names = [f"client-{number}" for number in range(clients)]
        self._events = [_EVENT] * size
        self._rate = rate / size
        self._under_way = 0
        self._idle = asyncio.Event()
        self._running = True
        self._error: BaseException | None = None
        self.times: list[float] = []

    async def publish(self, seconds: float) -> list[float]:
        """How long each publication took, in seconds."""
        loop = asyncio.get_running_loop()
        loop.call_later(seconds, self._stop)
        if self._rate:
            began, sent = loop.time(), 0
            while self._running:
                due = int((loop.time() - began) * self._rate)
                for _ in range(due - sent):
                    self._next()
                sent = due
                await asyncio.sleep(_TICK_SECONDS)
        else:
            for _ in range(max(2, _UNDER_WAY // len(self._events))):
                self._next()
        await self._idle.wait()
        if self._error is not None:
            raise self._error
        return self.times

    def _stop(self) -> None:
        self._running = False
        if not self._under_way:
            self._idle.set()

    def _next(self) -> None:
        self._under_way += 1
        future = self._backplane.publish(self._chance.choice(self._names), self._events)
        future.add_done_callback(partial(self._done, time.perf_counter()))

    def _done(self, began: float, future: asyncio.Future[Published]) -> None:
        self.times.append(time.perf_counter() - began)
        self._error = self._error or future.exception()
        self._under_way -= 1
        if self._running and not self._rate:
            self._next()
        elif not self._running and not self._under_way:
            self._idle.set()
