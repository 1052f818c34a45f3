"""bench breaker: how many requests a second an open breaker answers, beside proxied ones in the
same gateway.
"""

from __future__ import annotations

import http.client
import json
import shutil
from argparse import Namespace
from pathlib import Path

from bench import figures, processes, proxy, results, wrk
from bench.peers import Lab
from bench.processes import Process

_CONNECTIONS = 64
_GOAL = 2.0
_CODE = "CIRCUIT_BREAKER_OPEN"
_PATHS = {"proxied": "/api/v1/bench/json", "refused": "/api/v1/dead/json"}
_NAMES = {
    "proxied": "proxied, 209 bytes of JSON",
    "refused": "refused by an open breaker: 503 with Retry-After, a record, limits and metrics",
}


def run(options: Namespace) -> None:
    """Runs the rounds and writes the section. Raises RuntimeError without wrk: our own client takes
    a 503 for the end.
    """
    if shutil.which("wrk") is None:
        raise RuntimeError("it needs wrk, whose clients go on after an error")
    rounds, seconds = options.rounds or 5, options.seconds or 5
    with Lab() as lab:
        gateway = lab.start("gateway", GATEWAY_CONFIG=_profile(lab.directory))
        proxy.check(gateway)
        _open(gateway)
        rate: dict[str, list[float]] = {name: [] for name in _PATHS}
        cost: dict[str, list[float]] = {name: [] for name in _PATHS}
        refused = dict.fromkeys(_PATHS, 0)
        for at in range(-1, rounds):  # the first is to warm up
            for name, path in _PATHS.items():
                before = gateway.cpu_seconds()
                done = wrk.run(
                    gateway.port,
                    path,
                    seconds=seconds,
                    connections=_CONNECTIONS,
                    directory=lab.directory,
                )
                if at >= 0:
                    used = gateway.cpu_seconds() - before
                    rate[name].append(done.completed / done.seconds)
                    cost[name].append(used * 1e6 / max(done.completed, 1))
                    refused[name] += done.failed
        _ask(gateway, 503, _CODE)
    ratio = figures.ratios(rate["refused"], rate["proxied"])
    rows = [
        (
            _NAMES[name],
            f"{figures.spread(rate[name]).median:,.0f}",
            figures.spread(cost[name]).text(1),
            str(refused[name]),
            ratio.text(2) if name == "refused" else "",
            f"≥ {_GOAL:g}" if name == "refused" else "",
            figures.verdict(ratio.median, _GOAL, at_most=False) if name == "refused" else "",
        )
        for name in _PATHS
    ]
    header = ("requests", "a second", "µs CPU each", "not 2xx", "refused ÷ proxied", "goal", "so")
    body = (
        f"{_CONNECTIONS} keep-alive clients (wrk) at one service, then at one whose breaker is "
        f"open, {rounds} rounds of {seconds:g} s, alternating. Client and backend share one core, "
        f"which a refused request needs less of as well.\n\n{figures.table(header, rows)}\n"
    )
    results.publish("breaker", body, peers=("wrk",), options=options)


def _profile(directory: Path) -> str:
    """A service that nobody listens for, whose breaker stays open for longer than the run."""
    path = directory / "breaker.toml"
    url = f"http://127.0.0.1:{processes.free_port()}"
    path.write_text(f'[services.dead]\nurl = "{url}"\nbreaker_seconds = 3600\n')
    return str(path)


def _open(gateway: Process) -> None:
    for _ in range(20):
        _ask(gateway, 503, "SERVICE_UNAVAILABLE")
    _ask(gateway, 503, _CODE)


def _ask(gateway: Process, status: int, code: str) -> None:
    """One request to the dead service by hand; raises RuntimeError for another answer."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    try:
        connection.request("GET", _PATHS["refused"])
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != status or json.loads(body)["error"]["code"] != code:
        raise RuntimeError(f"expected {status} {code}, got {answer.status} {body!r}")
