"""bench policies: what all policies together add to a proxied request, with them and without in the
same run.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from bench import figures, results, wrk
from bench.peers import Lab
from bench.processes import Process
from bench.proxy import check
from bench.redis_server import redis_server
from gateway.observe.metrics import Metrics
from gateway.routing.routes import build_routes
from gateway.routing.services import services_from
from gateway.routing.table import RouteTable
from gateway.settings import load

_GOAL = 1.15
_ROWS = 1000
_SECRET = "bench-secret-of-more-than-thirty-two-bytes"
_PATH = "/api/v1/bench/json"
_NAMES = {
    "off": "without: no key, no breaker, no outlier detection, the open line, one limit in memory",
    "on": f"with: JWT, tiers by leases from Redis, {_ROWS} rows, breaker, outlier detection",
}


def run(options: Namespace) -> None:
    """Runs the rounds and writes the section."""
    rounds, seconds = options.rounds or 5, options.seconds or 5
    with Lab() as lab, redis_server(lab.directory) as redis:
        address = f"redis://127.0.0.1:{redis.port}/0"
        started = {
            "off": lab.start("gateway", GATEWAY_CONFIG=_plain(lab.directory)),
            "on": lab.start(
                "gateway",
                GATEWAY_CONFIG=_profile(lab.directory),
                JWT_SECRET=_SECRET,
                REDIS_URL=address,
            ),
        }
        look_up, get = _look_up(lab.directory / "policies.toml")
        token = _token(lab.directory)
        for process in started.values():
            check(process, token)
            wrk.run(process.port, _PATH, seconds=2, token=token, directory=lab.directory)
        cost: dict[str, list[float]] = {name: [] for name in started}
        failed = dict.fromkeys(started, 0)
        for _ in range(rounds):
            for name, process in started.items():
                each, wrong = _round(process, seconds, token, lab.directory)
                cost[name].append(each)
                failed[name] += wrong
    ratio = figures.ratios(cost["on"], cost["off"])
    rows = [
        (_NAMES["off"], figures.spread(cost["off"]).text(1), str(failed["off"]), "", "", ""),
        (
            _NAMES["on"],
            figures.spread(cost["on"]).text(1),
            str(failed["on"]),
            ratio.text(3),
            f"≤ {_GOAL:g}",
            figures.verdict(ratio.median, _GOAL),
        ),
    ]
    header = ("policies", "µs CPU a request", "failed", "with ÷ without", "goal", "so")
    body = (
        f"The same GET with the same bearer token, 64 keep-alive clients ({wrk.name()}), "
        f"{rounds} rounds of {seconds:g} s, alternating.\n\n{figures.table(header, rows)}\n\n"
        f"A look-up in the table of {_ROWS} rows, random paths of all of them: "
        f"{look_up:.2f} µs (goal < 1: {figures.verdict(look_up, 1.0)}); a dictionary's get in the "
        f"same loop {get:.2f} µs.\n"
    )
    results.publish("policies", body, peers=("wrk", "redis-server"), options=options)


def _round(process: Process, seconds: float, token: str, directory: Path) -> tuple[float, int]:
    before = sum(process.cpu_split_seconds())
    done = wrk.run(process.port, _PATH, seconds=seconds, token=token, directory=directory)
    used = sum(process.cpu_split_seconds()) - before
    return used * 1e6 / max(done.completed, 1), done.failed


def _plain(directory: Path) -> str:
    path = directory / "plain.toml"
    path.write_text(
        '[services.bench]\nurl = "http://127.0.0.1:1"\nbreaker = "off"\noutlier = "off"\n'
    )
    return str(path)


def _profile(directory: Path) -> str:
    """Tiers that let everything through, and a table of which one row is asked for."""
    path, rows = directory / "policies.toml", directory / "rows.toml"
    path.write_text(
        'routes = ["rows.toml"]\n'
        '[services.bench]\nurl = "http://127.0.0.1:1"\n'
        "[tiers.pro]\nper_second = 500000\nper_minute = 90000000\nburst = 1000000\n"
    )
    written = [
        f'[[routes]]\npath = "/api/v1/area{at % 40}/thing{at}/:id"\nservice = "bench"\n'
        'auth = "optional"\n'
        for at in range(_ROWS - 1)
    ]
    written.append(
        f'[[routes]]\npath = "{_PATH}"\nservice = "bench"\nauth = "required"\nrewrite = "/json"\n'
    )
    rows.write_text("\n".join(written))
    return str(path)


class _Head:
    host = b"127.0.0.1"
    by_name: ClassVar[dict[bytes, list[bytes]]] = {}


def _look_up(profile: Path) -> tuple[float, float]:
    """µs of CPU of one look-up of a route, and of one of a dictionary."""
    settings = load({"GATEWAY_CONFIG": str(profile)})
    services = {each.name: each for each in services_from(settings.services, Metrics("bench"))}
    table = RouteTable(build_routes(settings.routes, services, "optional"), {}, [])
    chance = random.Random(1)
    areas = [chance.randrange(_ROWS - 1) for _ in range(20_000)]
    paths = [b"/api/v1/area%d/thing%d/%d" % (at % 40, at, chance.randrange(9999)) for at in areas]
    known = dict.fromkeys(paths, 1)
    costs = []
    for ask in (lambda path: table.match(b"GET", path, _Head), known.get):
        best = min(_timed(ask, paths) for _ in range(5))
        costs.append(best / len(paths) * 1e6)
    return costs[0], costs[1]


def _timed(ask: Callable[[bytes], object], paths: list[bytes]) -> float:
    begun = time.process_time()
    for path in paths:
        ask(path)
    return time.process_time() - begun


def _token(directory: Path) -> str:
    command = [sys.executable, "-m", "gateway", "token", "--sub", "bench", "--tier", "pro"]
    done = subprocess.run(
        command,
        env={"JWT_SECRET": _SECRET, "GATEWAY_CONFIG": _plain(directory), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()
