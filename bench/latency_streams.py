"""bench latency-streams: what `bench latency` says of proxied requests beside busy event streams.

Two gateways in the same run, turn about: one without streams, one with ten thousand of one client
id, so that every event published is ten thousand writes on the core that also proxies.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, field

from bench import figures, latency, results
from bench.peers import Lab
from bench.peers.launch import PREFIX
from bench.processes import Process
from bench.sse import STREAM_LIMITS, told
from bench.subscriber_process import SubscriberProcess, most_streams

_STREAMS = 10_000
_EVENT_RATES = (0.0, 2.0, 10.0)  # a second, to all streams; 0: they are open and idle
_REQUEST_RATES = (1000.0, 5000.0)
_GOAL_RATIO = 2.0
_GOAL_AT = 10.0  # events a second


@dataclass(slots=True)
class Measured:
    """What was seen beside one rate of events, round by round."""

    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    cpu_share: list[float] = field(default_factory=list)
    events: list[float] = field(default_factory=list)
    failed: int = 0
    faults: dict[str, int] = field(default_factory=dict)


def run(options: Namespace) -> None:
    """Runs the rounds and writes the section."""
    rounds, seconds = options.rounds or 3, options.seconds or 10
    count = most_streams(options.subscribers or _STREAMS)
    request_rates = (options.rate,) if options.rate else _REQUEST_RATES
    found: dict[tuple[float, float | None], Measured] = {}
    with Lab() as lab:
        without, beside = lab.start("gateway"), lab.start("gateway", **STREAM_LIMITS)
        with SubscriberProcess("gateway", beside.port) as subscribers:
            subscribers.ask("open", count=count, clients=1)
            for process in (without, beside):
                latency.measure(process.port, f"{PREFIX}/json", 2, request_rates[0])
            for _ in range(rounds):
                for rate in request_rates:
                    _measure(found.setdefault((rate, None), Measured()), without, rate, seconds)
                    for events in _EVENT_RATES:
                        seen = found.setdefault((rate, events), Measured())
                        _measure(seen, beside, rate, seconds, subscribers, events)
    results.publish("latency-streams", _report(found, count, rounds, seconds), options=options)


def _measure(
    seen: Measured,
    process: Process,
    rate: float,
    seconds: float,
    subscribers: SubscriberProcess | None = None,
    events: float = 0.0,
) -> None:
    busy = subscribers if events else None
    before = process.cpu_seconds()
    if busy is not None:
        busy.tell("lazily", rate=events, seconds=seconds)
    outcome = latency.measure(process.port, f"{PREFIX}/json", seconds, rate)
    spent = process.cpu_seconds() - before
    if busy is not None:
        done = busy.result()
        seen.events.append(done["published"] / done["seconds"])
        seen.faults = done["faults"]
    ordered = sorted(outcome.latencies)
    seen.p50_ms.append(figures.percentile(ordered, 0.5) * 1000)
    seen.p99_ms.append(figures.percentile(ordered, 0.99) * 1000)
    seen.cpu_share.append(100 * spent / outcome.seconds)
    seen.failed += outcome.failed


def _report(
    found: dict[tuple[float, float | None], Measured], count: int, rounds: int, seconds: float
) -> str:
    rows, verdicts = [], []
    for (rate, events), seen in found.items():
        alone = found[rate, None]
        ratio = figures.ratios(seen.p99_ms, alone.p99_ms)
        if events is None:
            beside = "no streams"
        elif events:
            beside = f"{count:,} streams, {events:g} events/s wanted"
        else:
            beside = f"{count:,} idle streams"
        if events == _GOAL_AT:
            verdicts.append(f"{rate:,.0f}/s: {figures.verdict(ratio.median, _GOAL_RATIO)}")
        rows.append(
            (
                f"{rate:,.0f} requests/s, {beside}",
                f"{figures.spread(seen.events).text(1)}" if seen.events else "",
                figures.spread(seen.p50_ms).text(2),
                figures.spread(seen.p99_ms).text(2),
                "" if events is None else ratio.text(1),
                figures.spread(seen.cpu_share).text(0),
                str(seen.failed),
                told(seen.faults),
            )
        )
    header = (
        "beside",
        "events/s made",
        "p50 ms",
        "p99 ms",
        "p99 ÷ no streams",
        "% of the gateway's core",
        "failed",
        "faults of streams",
    )
    return (
        f"The open loop of `latency` through the gateway, {rounds} rounds of {seconds:g} s, alone "
        f"and beside {count:,} streams of one client id; an event is that many writes. An event "
        f"is published when the one before it was accepted, so where the core is full there are "
        f"fewer. The streams are read once a second, since client, backend and readers share "
        f"one core.\n\n"
        + figures.table(header, rows)
        + f"\n\nGoal: p99 at {_GOAL_AT:g} events/s ≤ {_GOAL_RATIO:g} times that without: "
        + "; ".join(verdicts)
        + "."
    )
