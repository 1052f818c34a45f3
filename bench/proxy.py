"""bench proxy: what one proxied GET of 209 bytes costs in CPU, here and in each peer."""

from __future__ import annotations

import http.client
from argparse import Namespace

from bench import backend, figures, results, wrk
from bench.peers import Lab
from bench.peers.launch import PREFIX
from bench.processes import Process

_CONNECTIONS = 64
_PEERS = {
    "gateway": "this gateway: record, metrics, ids, limit and its fields",
    "nginx": "nginx, same job",
    "nginx-plain": "nginx, bare `proxy_pass`",
    "haproxy": "HAProxy, same job",
    "axum": "Rust axum + reqwest: bucket, id, no log",
    "caddy": "Caddy with its log, no limit",
    "naive": "aiohttp handler + ClientSession, its own log",
}
_GOALS = {"nginx": 1.5, "axum": 1.0, "caddy": 0.3, "naive": 0.2}


def run(options: Namespace) -> None:
    """Runs the rounds and writes the section."""
    rounds, seconds = options.rounds or 5, options.seconds or 5
    with Lab() as lab:
        started = lab.start_all(tuple(_PEERS))
        for process in started.values():
            check(process)
            wrk.run(process.port, f"{PREFIX}/json", seconds=1, directory=lab.directory)
        cost: dict[str, list[float]] = {name: [] for name in started}
        kernel: dict[str, list[float]] = {name: [] for name in started}
        rate: dict[str, list[float]] = {name: [] for name in started}
        failed = dict.fromkeys(started, 0)
        for _ in range(rounds):
            for name, process in started.items():
                before = process.cpu_split_seconds()
                done = wrk.run(
                    process.port,
                    f"{PREFIX}/json",
                    seconds=seconds,
                    connections=_CONNECTIONS,
                    directory=lab.directory,
                )
                after = process.cpu_split_seconds()
                each = 1e6 / max(done.completed, 1)
                cost[name].append((sum(after) - sum(before)) * each)
                kernel[name].append((after[1] - before[1]) * each)
                rate[name].append(done.completed / done.seconds)
                failed[name] += done.failed
        body = _report(cost, kernel, rate, failed, f"{rounds} rounds of {seconds:g} s")
        for name, reason in lab.skipped.items():
            body += f"\nSkipped: {name}: {reason.splitlines()[0]}\n"
    results.publish(
        "proxy", body, peers=("nginx", "haproxy", "caddy", "cargo", "wrk"), options=options
    )


def check(process: Process, token: str = "") -> None:
    """One request by hand: what is about to be measured must give the right answer.

    Raises RuntimeError when it does not.
    """
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=10)
    try:
        fields = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request("GET", f"{PREFIX}/json", headers=fields)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200 or body != backend.JSON_BODY:
        raise RuntimeError(f"{process.name} answered {answer.status} {body!r}")
    for field in ("X-Request-ID", "X-RateLimit-Remaining"):
        if field not in answer.headers and process.name not in ("naive", "nginx-plain"):
            raise RuntimeError(f"{process.name} sent no {field}")


def _report(
    cost: dict[str, list[float]],
    kernel: dict[str, list[float]],
    rate: dict[str, list[float]],
    failed: dict[str, int],
    how: str,
) -> str:
    ours = cost.get("gateway", [])
    rows = []
    for name, rounds in cost.items():
        ratio = figures.ratios(ours, rounds) if ours else None
        goal = _GOALS.get(name)
        rows.append(
            (
                _PEERS[name],
                figures.spread(rounds).text(1),
                f"{figures.spread(kernel[name]).median:.1f}",
                f"{figures.spread(rate[name]).median:,.0f}",
                str(failed[name]),
                figures.ratios(rounds, cost["nginx"]).text(2) if "nginx" in cost else "",
                ratio.text(2) if ratio and name != "gateway" else "",
                f"≤ {goal:g}" if goal else "",
                figures.verdict(ratio.median, goal) if ratio and goal else "",
            )
        )
    header = (
        "proxy",
        "µs CPU a request",
        "of it kernel",
        "requests/s",
        "failed",
        "÷ nginx",
        "gateway ÷ it",
        "goal",
        "so",
    )
    return (
        f"GET of a {len(backend.JSON_BODY)}-byte JSON answer, {_CONNECTIONS} keep-alive clients "
        f"({wrk.name()}), "
        f"{how}. Requests/s is not a capacity: client and backend share one core.\n\n"
        + figures.table(header, rows)
        + "\n"
    )
