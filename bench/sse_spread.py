"""bench sse-spread: eighteen thousand subscribers, each of its own client id, at a steady rate."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, field

from bench import figures, results
from bench.peers import Lab
from bench.processes import Process
from bench.sse import STREAM_LIMITS, chosen, fill, told
from bench.subscriber_process import SubscriberProcess, most_streams

_SUBSCRIBERS = 18_000
_RATE = 5000
_SERVERS = {
    "gateway": "this gateway",
    "nchan": "nginx with nchan",
    "axum-streams": "Rust axum, a broadcast channel each",
    "aiohttp-queue": "aiohttp handler with a queue, on uvloop",
}
_GOAL_P99_MS, _GOAL_KIB, _GOAL_US = 20.0, 4.0, 25.0


@dataclass(slots=True)
class Measured:
    """What was seen of one server, round by round."""

    kib_idle: float = 0.0
    kib_with_history: float = 0.0
    microseconds: list[float] = field(default_factory=list)
    ages_ms: dict[str, list[float]] = field(default_factory=dict)
    missing: int = 0
    frame_bytes: int = 0
    faults: dict[str, int] = field(default_factory=dict)


def run(options: Namespace) -> None:
    """Runs one server after the other and writes the section."""
    rounds, seconds = options.rounds or 3, options.seconds or 10
    count = most_streams(options.subscribers or _SUBSCRIBERS)
    rate = options.rate or _RATE
    measured: dict[str, Measured] = {}
    with Lab() as lab:
        for name in chosen(_SERVERS, options):
            started = lab.start_all((name,), **STREAM_LIMITS)
            if name in started:
                measured[name] = _measure(started[name], count, rate, rounds, seconds)
                started[name].stop()
        body = _report(measured, count, rate, f"{rounds} rounds of {seconds:g} s")
        for name, reason in lab.skipped.items():
            body += f"\n\nSkipped: {name}: {reason.splitlines()[0]}"
    results.publish("sse-spread", body, peers=("nginx", "cargo"), options=options)


def _measure(process: Process, count: int, rate: float, rounds: int, seconds: float) -> Measured:
    seen = Measured()
    with SubscriberProcess(process.name, process.port) as subscribers:
        seen.kib_idle = fill(process, subscribers, count, clients=count)
        empty = process.rss_bytes() - seen.kib_idle * 1024 * count
        for number in range(rounds):
            before = process.cpu_seconds()
            done = subscribers.ask("spread", rate=rate, seconds=seconds, seed=number)
            spent = process.cpu_seconds() - before
            seen.microseconds.append(spent * 1e6 / max(1, done["delivered"]))
            for share, age in done["ages_ms"].items():
                seen.ages_ms.setdefault(share, []).append(age)
            seen.missing += int(rate * seconds) - done["delivered"]
            seen.frame_bytes, seen.faults = done["frame_bytes"], done["faults"]
        seen.kib_with_history = (process.rss_bytes() - empty) / count / 1024
    return seen


def _report(measured: dict[str, Measured], count: int, rate: float, how: str) -> str:
    rows = [
        (
            _SERVERS[name],
            f"{seen.kib_idle:.2f}",
            f"{seen.kib_with_history:.2f}",
            figures.spread(seen.microseconds).text(1),
            *(figures.spread(ages).text(1) for ages in seen.ages_ms.values()),
            str(seen.frame_bytes),
            str(seen.missing),
            told(seen.faults),
        )
        for name, seen in measured.items()
    ]
    header = (
        "server",
        "KiB RSS a subscriber",
        "with its history",
        "µs CPU a publish and delivery",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "most ms",
        "bytes an event",
        "missing",
        "faults",
    )
    body = (
        f"{count:,} subscribers on {count:,} client ids, {rate:,.0f} events/s due at fixed times "
        f"to ids drawn at random, over HTTP on 64 keep-alive connections, {how}, one server after "
        f"the other. Times are from when an event was due to its subscriber's read; publisher and "
        f"subscribers are one Python process on the other core, whose own time is in them. axum "
        f"and aiohttp keep no history to replay.\n\n" + figures.table(header, rows)
    )
    if "gateway" in measured:
        ours = measured["gateway"]
        p99 = figures.spread(ours.ages_ms["0.99"]).median
        cost = figures.spread(ours.microseconds).median
        body += (
            f"\n\nGoals: p99 < {_GOAL_P99_MS:g} ms: {figures.verdict(p99, _GOAL_P99_MS)}; "
            f"≤ {_GOAL_KIB:g} KiB with its history: "
            f"{figures.verdict(ours.kib_with_history, _GOAL_KIB)}; "
            f"≤ {_GOAL_US:g} µs a publish and delivery: {figures.verdict(cost, _GOAL_US)}; "
            f"missing or faults 0: {'missed' if ours.missing or ours.faults else 'met'}."
        )
    return body
