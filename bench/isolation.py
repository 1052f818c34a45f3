"""bench isolation: one of three services hangs (it accepts and never answers); what the others'
clients notice of it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from bench import figures, load, machine, processes, results
from bench.client import Call, get
from bench.peers import Lab
from bench.processes import Process

_RATE = 300  # a second to each service
_HEAD_TIMEOUT_SECONDS = 1
_HEALTHY = ("bench", "second")
_SICK = "third"
_GOAL = 1.5
_SETTINGS = {
    "breaker as it comes": "",
    "breaker and outlier detection off": 'breaker = "off"\noutlier = "off"\n',
}


def run(options: Namespace) -> None:
    """Runs the rounds of each setting and writes the section."""
    rounds, seconds = options.rounds or 3, options.seconds or 6
    rows, worst = [], 0.0
    with Lab() as lab, _backend(lab.directory) as sick:
        for name, settings in _SETTINGS.items():
            gateway = lab.start(
                "gateway",
                GATEWAY_CONFIG=_profile(lab.directory, sick, settings),
                SECOND_URL=f"http://127.0.0.1:{lab.backend.port}",
            )
            p99: dict[str, list[float]] = {"before": [], "hanging": []}
            lost, answered = 0, ""
            _measure(gateway, 2)
            for _ in range(rounds):
                before = _measure(gateway, seconds)
                with _stopped(sick):
                    during = _measure(gateway, seconds)
                for label, outcomes in (("before", before), ("hanging", during)):
                    times = [each for one in _HEALTHY for each in outcomes[one].latencies]
                    p99[label].append(figures.percentile(sorted(times), 0.99) * 1000)
                    lost += sum(outcomes[one].failed for one in _HEALTHY)
                reasons = during[_SICK].reasons
                answered = ", ".join(f"{reasons[why]:,} {why}" for why in sorted(reasons))
            gateway.stop()
            ratio = figures.ratios(p99["hanging"], p99["before"])
            worst = max(worst, ratio.median)
            rows.append(
                (
                    name,
                    figures.spread(p99["before"]).text(2),
                    figures.spread(p99["hanging"]).text(2),
                    str(lost),
                    ratio.text(2),
                    f"≤ {_GOAL:g}",
                    figures.verdict(ratio.median, _GOAL),
                    answered,
                )
            )
    header = (
        "the third service's", "p99 before, ms", "p99 while it hangs, ms", "failed",
        "hanging ÷ before", "goal", "so", "what its own clients got (last round)",
    )  # fmt: skip
    body = (
        f"Open loop, {_RATE:,} GETs a second to each of three services, {rounds} rounds of "
        f"{seconds:g} s before and {seconds:g} s while the process behind the third is stopped: "
        "the kernel accepts its connections and nobody answers. Its head_timeout is "
        f"{_HEAD_TIMEOUT_SECONDS} s. p99 and failures are those of the two others.\n\n"
        + figures.table(header, rows)
        + "\n"
    )
    results.publish("isolation", body, options=options)


def _measure(gateway: Process, seconds: float) -> dict[str, load.Outcome]:
    with processes.pinned(machine.other_cores()):
        return uvloop.run(_load(gateway.port, seconds))


async def _load(port: int, seconds: float) -> dict[str, load.Outcome]:
    """All three at once; the outcome of each."""

    def loop(service: str) -> load.OpenLoop:
        call = Call(get(f"/api/v1/{service}/json", port))
        return load.OpenLoop(port, lambda _: call, rate=_RATE, seconds=seconds)

    names = (*_HEALTHY, _SICK)
    outcomes = await asyncio.gather(*(loop(name).run() for name in names))
    return dict(zip(names, outcomes, strict=True))


def _profile(directory: Path, sick: Process, settings: str) -> str:
    path = directory / "isolation.toml"
    path.write_text(
        f'[services.{_SICK}]\nurl = "http://127.0.0.1:{sick.port}"\n'
        f"head_timeout = {_HEAD_TIMEOUT_SECONDS}\n{settings}"
    )
    return str(path)


@contextmanager
def _backend(directory: Path) -> Iterator[Process]:
    """One more backend, for the service that is going to hang."""
    port = processes.free_port()
    process = processes.start(
        "sick",
        [sys.executable, "-m", "bench.backend", str(port)],
        port=port,
        output=directory / "sick.out",
        cores=machine.other_cores(),
    )
    try:
        process.wait_until_ready()
        yield process
    finally:
        process.stop()


@contextmanager
def _stopped(process: Process) -> Iterator[None]:
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)
