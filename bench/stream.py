"""bench stream: how much later an event arrives through a proxy than straight from the backend."""

from __future__ import annotations

import asyncio
import re
import time
from argparse import Namespace
from functools import partial
from typing import cast

import uvloop

from bench import figures, machine, processes, results
from bench.client import get
from bench.peers import Lab
from bench.peers.launch import PREFIX

_STREAMS = 20
_RATE = 50  # events a second on each
_GOAL_MS = 1.0
_STAMP = re.compile(rb"data: (\d+)\n")


class Reader(asyncio.Protocol):
    """One subscriber: notes how old each event is when it arrives."""

    def __init__(self, request: bytes, ages_ns: list[int], ended: asyncio.Future[None]) -> None:
        self._request, self._ages_ns, self._ended = request, ages_ns, ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        # An event fits one segment, and the backend writes each by itself; one that was cut would
        # be missing from the count, which is reported
        self._ages_ns.extend(now - int(stamp) for stamp in _STAMP.findall(data))
        # The last chunk, alone or behind the last event; a head may end in 0 and blank too
        if data == b"0\r\n\r\n" or data.endswith(b"\r\n0\r\n\r\n"):
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


async def _read(port: int, path: str, seconds: float) -> list[int]:
    loop = asyncio.get_running_loop()
    ages_ns: list[int] = []
    request = get(f"{path}?rate={_RATE}&count={int(_RATE * seconds)}", port)
    ends = [loop.create_future() for _ in range(_STREAMS)]
    for number, end in enumerate(ends):
        make = partial(Reader, request, ages_ns, end)
        await loop.create_connection(make, "127.0.0.1", port)
        # Spread over the interval: streams whose events come together would wait for each other
        await asyncio.sleep(1 / _RATE / _STREAMS * (1 + number % 2))
    await asyncio.wait(ends, timeout=seconds * 2 + 10)
    return ages_ns


def run(options: Namespace) -> None:
    """Runs direct, gateway, nginx in turn and writes the section."""
    rounds, seconds = options.rounds or 3, options.seconds or 10
    with Lab() as lab:
        started = lab.start_all(("gateway",)) | lab.start_all(
            ("nginx",), settings="proxy_buffering off;"
        )
        ports = {"backend alone": (lab.backend.port, "/stream")}
        ports |= {name: (process.port, f"{PREFIX}/stream") for name, process in started.items()}
        p50: dict[str, list[float]] = {name: [] for name in ports}
        p99: dict[str, list[float]] = {name: [] for name in ports}
        seen = dict.fromkeys(ports, 0)
        for turn in range(rounds + 1):  # the first is a warm-up
            for name, (port, path) in ports.items():
                with processes.pinned(machine.other_cores()):
                    ages = sorted(uvloop.run(_read(port, path, seconds if turn else 1)))
                if turn:
                    seen[name] += len(ages)
                    p50[name].append(figures.percentile(ages, 0.5) / 1e6)
                    p99[name].append(figures.percentile(ages, 0.99) / 1e6)
    body = _report(p50, p99, seen, rounds, seconds)
    results.publish("stream", body, peers=("nginx",), options=options)


def _report(
    p50: dict[str, list[float]],
    p99: dict[str, list[float]],
    seen: dict[str, int],
    rounds: int,
    seconds: float,
) -> str:
    expected = _STREAMS * int(_RATE * seconds) * rounds
    rows, verdict = [], ""
    for name in p50:
        row = [name, figures.spread(p50[name]).text(2), figures.spread(p99[name]).text(2)]
        for label, times in (("p50", p50), ("p99", p99)):
            pairs = zip(times[name], times["backend alone"], strict=True)
            added = figures.spread([through - alone for through, alone in pairs])
            row.append(added.text(2) if name != "backend alone" else "")
            if name == "gateway":
                verdict += (
                    f" added {label} < {_GOAL_MS:g} ms: {figures.verdict(added.median, _GOAL_MS)};"
                )
        rows.append([*row, str(expected - seen[name])])
    header = ("through", "p50 ms", "p99 ms", "added p50 ms", "added p99 ms", "events missing")
    return (
        f"{_STREAMS} event streams of {_RATE} events/s each for {seconds:g} s, {rounds} rounds; "
        f"age of an event on "
        f"arrival, from the moment the backend wrote it. nginx with `proxy_buffering off`.\n\n"
        + figures.table(header, rows)
        + (f"\n\nGoal:{verdict.rstrip(';')}." if verdict else "")
    )
