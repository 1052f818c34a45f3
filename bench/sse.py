"""bench sse: ten thousand subscribers of one client id on one core, and what an event costs them.

Every server gets its own process of subscribers, and its rounds are interleaved with those of a
bare `os.write` of the same bytes on as many sockets, which is the floor.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field

from bench import figures, results
from bench.peers import Lab
from bench.processes import Process
from bench.subscriber_process import SubscriberProcess, most_streams

_SUBSCRIBERS = 10_000
_SINGLES, _BURSTS, _BURST_EVENTS = 25, 5, 10  # in a round
_WARM = 200
_SERVERS = {
    "bare": "a bare `os.write` on each socket",
    "gateway": "this gateway",
    "nchan": "nginx with nchan",
    "axum-streams": "Rust axum, a broadcast channel",
    "aiohttp-queue": "aiohttp handler with a queue, on uvloop",
}
_GOAL_KIB, _GOAL_RATIO, _GOAL_BURST_US, _GOAL_P99_MS = 2.0, 1.25, 1.0, 100.0
# What stands in a gateway's way to so many readers of one client id from a few addresses
STREAM_LIMITS = {
    "STREAMS_PER_CLIENT": "100000",
    "STREAMS_PER_ADDRESS": "100000",
    "MAX_STREAMS": "100000",
}


@dataclass(slots=True)
class Measured:
    """What was seen of one server, round by round."""

    kib_each: float = 0.0
    single_us: list[float] = field(default_factory=list)
    burst_us: list[float] = field(default_factory=list)
    to_last_ms: list[float] = field(default_factory=list)
    burst_to_last_ms: list[float] = field(default_factory=list)
    frame_bytes: int = 0
    faults: dict[str, int] = field(default_factory=dict)


def run(options: Namespace) -> None:
    """Runs the rounds and writes the section."""
    rounds = options.rounds or 5
    count = most_streams(options.subscribers or _SUBSCRIBERS)
    with Lab() as lab, ExitStack() as stack:
        started = lab.start_all(chosen(_SERVERS, options), **STREAM_LIMITS)
        measured, subscribers = {}, {}
        for name, process in started.items():
            subscribers[name] = stack.enter_context(SubscriberProcess(name, process.port))
            measured[name] = Measured(kib_each=fill(process, subscribers[name], count))
        for _ in range(rounds):
            for name, process in started.items():
                _round(process, subscribers[name], measured[name], count)
        body = _report(measured, count, rounds)
        for name, reason in lab.skipped.items():
            body += f"\n\nSkipped: {name}: {reason.splitlines()[0]}"
    results.publish("sse", body, peers=("nginx", "cargo"), options=options)


def chosen(servers: Iterable[str], options: Namespace) -> tuple[str, ...]:
    """The servers to be compared: all, or those of `--servers`."""
    wanted = options.servers.split(",") if options.servers else servers
    return tuple(name for name in servers if name in wanted)


def fill(process: Process, subscribers: SubscriberProcess, count: int, clients: int = 1) -> float:
    """Opens the streams; KiB of the server's resident memory that each costs while idle."""
    # So that what the first streams and events cost for good is not put down to the others
    subscribers.ask("open", count=_WARM, clients=1)
    subscribers.ask("publish", times=20, events=1)
    subscribers.ask("close")
    before = process.rss_bytes()
    subscribers.ask("open", count=count, clients=clients)
    return (process.rss_bytes() - before) / count / 1024


def _round(
    process: Process, subscribers: SubscriberProcess, measured: Measured, count: int
) -> None:
    for times, events, cost, times_ms in (
        (_SINGLES, 1, measured.single_us, measured.to_last_ms),
        (_BURSTS, _BURST_EVENTS, measured.burst_us, measured.burst_to_last_ms),
    ):
        before = process.cpu_seconds()
        done = subscribers.ask("publish", times=times, events=events)
        spent = process.cpu_seconds() - before
        cost.append(spent * 1e6 / (count * times * events))
        times_ms += [seconds * 1000 for seconds in done["seconds"]]
        measured.frame_bytes, measured.faults = done["frame_bytes"], done["faults"]


def _report(measured: dict[str, Measured], count: int, rounds: int) -> str:
    floor = measured.get("bare")
    rows = []
    for name, seen in measured.items():
        ratio = figures.ratios(seen.single_us, floor.single_us).text(2) if floor else ""
        ordered = sorted(seen.to_last_ms)
        rows.append(
            (
                _SERVERS[name],
                f"{seen.kib_each:.2f}" if name != "bare" else "",
                figures.spread(seen.single_us).text(2),
                ratio if name != "bare" else "",
                figures.spread(seen.burst_us).text(2),
                f"{figures.percentile(ordered, 0.5):.0f}",
                f"{figures.percentile(ordered, 0.99):.0f}",
                f"{figures.percentile(sorted(seen.burst_to_last_ms), 0.5):.0f}",
                str(seen.frame_bytes),
                told(seen.faults),
            )
        )
    header = (
        "server",
        "KiB RSS a subscriber",
        "µs CPU a delivery",
        "÷ bare",
        "in a burst, µs an event",
        "p50 ms to the last",
        "p99 ms",
        "burst p50 ms",
        "bytes an event",
        "faults",
    )
    body = (
        f"{count:,} subscribers of one client id; {rounds} rounds of {_SINGLES} events one after "
        f"the other and {_BURSTS} bursts of {_BURST_EVENTS} (a list; ten POSTs in one write where "
        f"there are no lists). CPU is the server's, publishing included; the time to the last is "
        f"from the publisher's write to the last subscriber's read, publisher and subscribers "
        f"being one Python process on the other core. Each subscriber checked that it got every "
        f"event once and in order.\n\n" + figures.table(header, rows)
    )
    if "gateway" in measured and floor:
        body += "\n\n" + _goals(measured["gateway"], floor)
    return body


def _goals(ours: Measured, floor: Measured) -> str:
    ratio = figures.ratios(ours.single_us, floor.single_us).median
    burst = figures.spread(ours.burst_us).median
    p99 = figures.percentile(sorted(ours.to_last_ms), 0.99)
    return (
        f"Goals: ≤ {_GOAL_KIB:g} KiB a subscriber: {figures.verdict(ours.kib_each, _GOAL_KIB)}; "
        f"CPU ≤ {_GOAL_RATIO:g} times bare: {figures.verdict(ratio, _GOAL_RATIO)}; "
        f"burst ≤ {_GOAL_BURST_US:g} µs an event: {figures.verdict(burst, _GOAL_BURST_US)}; "
        f"p99 to the last < {_GOAL_P99_MS:g} ms: {figures.verdict(p99, _GOAL_P99_MS)}; "
        f"faults 0: {'met' if not ours.faults else 'missed'}."
    )


def told(faults: dict[str, int]) -> str:
    """The faults in a word, such as `12 lost`."""
    return ", ".join(f"{number:,} {what}" for what, number in faults.items()) or "0"
