"""bench bodies: 1 MiB down and 1 MiB up, in bytes per second of the proxy's CPU, beside nginx."""

from __future__ import annotations

from argparse import Namespace

from bench import figures, results, wrk
from bench.peers import Lab
from bench.peers.launch import PREFIX

_SIZE_BYTES = 1 << 20
_CONNECTIONS = 16
_GOAL = 0.7
# What nginx is at its best and as people run it: answers through its buffers (the default),
# uploads not spooled first (the gateway does not spool either). The other way round is shown for
# reference.
_FAIR, _OTHER = "proxy_request_buffering off;", "proxy_buffering off;"
_ROWS = {
    "gateway": ("this gateway", "this gateway"),
    "nginx": ("nginx, buffering answers (default)", "nginx, `proxy_request_buffering off`"),
    "other": ("nginx, `proxy_buffering off`", "nginx, spooling uploads (default)"),
}


def run(options: Namespace) -> None:
    """Runs both directions in rounds and writes the section."""
    rounds, seconds = options.rounds or 3, options.seconds or 5
    with Lab() as lab:
        started = lab.start_all(("gateway",))
        started |= lab.start_all(("nginx",), settings=_FAIR)
        if "nginx" in started:
            started["other"] = lab.start("nginx", settings=_OTHER)
        speed: dict[tuple[str, int], list[float]] = {(n, up): [] for n in started for up in (0, 1)}
        failed = dict.fromkeys(speed, 0)
        for turn in range(rounds + 1):  # the first is a warm-up
            for name, up in speed:
                process = started[name]
                before = process.cpu_seconds()
                done = wrk.run(
                    process.port,
                    f"{PREFIX}/upload" if up else f"{PREFIX}/bytes/{_SIZE_BYTES}",
                    seconds=seconds if turn else 1,
                    connections=_CONNECTIONS,
                    post_bytes=_SIZE_BYTES if up else 0,
                    directory=lab.directory,
                )
                used = max(process.cpu_seconds() - before, 0.01)
                if turn:
                    speed[name, up].append(done.completed * _SIZE_BYTES / used / 1e6)
                    failed[name, up] += done.failed
    body = (
        f"1 MiB answers and 1 MiB uploads, {_CONNECTIONS} keep-alive clients ({wrk.name()}), "
        f"{rounds} rounds of "
        f"{seconds:g} s; megabytes (10⁶) passed per second of the proxy's CPU. The goal is set "
        f"against nginx "
        f"with its default buffering for answers and without spooling for uploads.\n"
    )
    for up, title in ((0, "down"), (1, "up")):
        body += f"\n{_report(speed, failed, up, title)}\n"
    results.publish("bodies", body, peers=("nginx", "wrk"), options=options)


def _report(
    speed: dict[tuple[str, int], list[float]],
    failed: dict[tuple[str, int], int],
    up: int,
    title: str,
) -> str:
    ours = speed.get(("gateway", up))
    rows = []
    for (name, direction), rounds in speed.items():
        if direction != up:
            continue
        ratio = figures.ratios(ours, rounds) if ours and name != "gateway" else None
        rows.append(
            (
                _ROWS[name][up],
                figures.spread(rounds).text(0),
                str(failed[name, up]),
                ratio.text(2) if ratio else "",
                f"≥ {_GOAL:g}" if name == "nginx" else "",
                figures.verdict(ratio.median, _GOAL, at_most=False)
                if ratio and name == "nginx"
                else "",
            )
        )
    return figures.table((title, "MB per CPU second", "failed", "gateway ÷ it", "goal", "so"), rows)
