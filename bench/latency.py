"""bench latency: what the gateway adds to an answer's time at a steady rate of requests."""

from __future__ import annotations

from argparse import Namespace

import uvloop

from bench import figures, load, machine, processes, results
from bench.client import Call, get
from bench.peers import Lab
from bench.peers.launch import PREFIX

_RATE = 5000
_WARM_SECONDS = 2
_GOAL_P50_MS, _GOAL_P99_MS = 1.0, 3.0
_SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


def run(options: Namespace) -> None:
    """Runs direct, gateway, nginx in turn and writes the section."""
    rounds, seconds = options.rounds or 3, options.seconds or 20
    with Lab() as lab:
        started = lab.start_all(("gateway", "nginx"))
        ports = {"backend alone": (lab.backend.port, "/json")}
        ports |= {name: (process.port, f"{PREFIX}/json") for name, process in started.items()}
        times: dict[str, dict[str, list[float]]] = {
            name: {s: [] for s in _SHARES} for name in ports
        }
        failed = dict.fromkeys(ports, 0)
        for port, path in ports.values():
            measure(port, path, _WARM_SECONDS)
        for _ in range(rounds):
            for name, (port, path) in ports.items():
                outcome = measure(port, path, seconds)
                ordered = sorted(outcome.latencies)
                failed[name] += outcome.failed
                for label, share in _SHARES.items():
                    times[name][label].append(figures.percentile(ordered, share) * 1000)
    results.publish(
        "latency", _report(times, failed, rounds, seconds), peers=("nginx",), options=options
    )


def measure(port: int, path: str, seconds: float, rate: float = _RATE) -> load.Outcome:
    """The open loop on one path, so many requests a second; on the clients' core."""
    call = Call(get(path, port))
    with processes.pinned(machine.other_cores()):
        return uvloop.run(_open_loop(port, call, seconds, rate))


async def _open_loop(port: int, call: Call, seconds: float, rate: float) -> load.Outcome:
    return await load.OpenLoop(port, lambda number: call, rate=rate, seconds=seconds).run()


def _report(
    times: dict[str, dict[str, list[float]]], failed: dict[str, int], rounds: int, seconds: float
) -> str:
    direct = times["backend alone"]
    rows, added = [], {}
    for name, by_share in times.items():
        row = [name, *(figures.spread(by_share[label]).text(2) for label in _SHARES)]
        for label in ("p50", "p99"):
            pairs = zip(by_share[label], direct[label], strict=True)
            more = figures.spread([through - alone for through, alone in pairs])
            added[name, label] = more.median
            row.append("" if by_share is direct else more.text(2))
        rows.append([*row, str(failed[name])])
    header = ("through", *(f"{s} ms" for s in _SHARES), "added p50 ms", "added p99 ms", "failed")
    body = (
        f"Open loop: GETs of 209 bytes due at {_RATE:,}/s whatever the answers do, {rounds} "
        f"rounds of "
        f"{seconds:g} s, latency from the time a request was due. The client is Python and "
        f"shares its core "
        f"with the backend, so that its own time is in each figure; what counts is what a proxy "
        f"adds.\n\n" + figures.table(header, rows)
    )
    if "gateway" in times:
        p50 = figures.verdict(added["gateway", "p50"], _GOAL_P50_MS)
        p99 = figures.verdict(added["gateway", "p99"], _GOAL_P99_MS)
        body += (
            f"\n\nGoals: added p50 ≤ {_GOAL_P50_MS:g} ms: {p50}; "
            f"added p99 ≤ {_GOAL_P99_MS:g} ms: {p99}."
        )
    return body
