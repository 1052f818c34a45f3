"""bench limits: what a decision about a rate limit takes, and how much memory a million keys take.

The decisions are made in a process of their own (`python -m bench.limits`), as admission makes
them: tokens taken, fields of the answer written. Each is timed by itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import Namespace
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from bench import figures, machine, processes, results
from gateway.policy.limits import Limits, Verdict
from gateway.policy.ratelimit import LocalBuckets
from gateway.settings_limits import LimitSettings, TierSettings
from gateway.settings_values import RateLimit

_KEYS: Final = 1_000_000
_GOAL_P99_US: Final = 50.0
_PAGE_KIB: Final = 4
# Figures of the media profile's tiers; nothing is refused for what others did in the run
_TIERS: Final = (
    TierSettings("anonymous", per_second=5, per_minute=100, burst=10),
    TierSettings("enterprise", per_second=200, per_minute=5000, burst=400),
)
_ROWS: Final = (
    LimitSettings("search", path="/api/v1/search*", per_minute=60),
    LimitSettings("acme", tenant="acme", path="/api/v1/movies/:id", per_minute=1_000_000_000),
)
_HEADER: Final = ("decisions", "p50 µs", "p99 µs", "p99.9 µs", "slowest µs", "refused", "RSS MB")


class Times:
    """Times by tenths of a microsecond, in little room: the keys' memory is to be seen, not theirs.

    What takes more than 10 ms is counted as that, but for the slowest.
    """

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * 100_001))
        self._slowest = 0

    def add(self, nanoseconds: int) -> None:
        """Count one."""
        self._counts[min(nanoseconds // 100, 100_000)] += 1
        if nanoseconds > self._slowest:
            self._slowest = nanoseconds

    def shares(self) -> dict[str, float]:
        """p50, p99, p999 (nearest rank, rounded up to a tenth) and slowest, in microseconds."""
        found = {"slowest": self._slowest / 1000}
        total, so_far = sum(self._counts), 0
        wanted = [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)]
        for tenths, count in enumerate(self._counts, 1):
            so_far += count
            while wanted and so_far >= wanted[0][1] * total:
                found[wanted.pop(0)[0]] = tenths / 10
        return found


def run(options: Namespace) -> None:
    """Starts the process, waits for its figures, writes the section."""
    with processes.pinned(machine.proxy_cores()):
        done = subprocess.run(
            [sys.executable, "-m", "bench.limits", str(_KEYS)],
            capture_output=True,
            text=True,
            check=True,
            timeout=600,
            cwd=Path(__file__).parents[1],
        )
    results.publish("limits", section(json.loads(done.stdout)), options=options)


def section(found: dict[str, Any]) -> str:
    """The section of RESULTS.md."""
    rows = [
        (
            phase["name"],
            *(f"{phase[share]:.1f}" for share in ("p50", "p99", "p999")),
            f"{phase['slowest']:.0f}",
            f"{phase['refused']:,}",
            f"{phase['rss_mb']:.0f}",
        )
        for phase in found["phases"]
    ]
    worst = max(phase["p99"] for phase in found["phases"])
    most = max(phase["rss_mb"] for phase in found["phases"]) - found["before_mb"]
    return (
        f"{found['keys']:,} client addresses and RATE_LIMIT_KEYS={found['keys']:,}, in memory: "
        "each decision takes its tokens and writes the fields of the answer, and is timed by "
        "itself, with what the clock takes (0.1 µs). A tier is two buckets. RSS is that of the "
        f"process when the row was done; before, it was {found['before_mb']:.0f} MB.\n\n"
        + figures.table(_HEADER, rows)
        + f"\n\nMost memory for all keys: {most:.0f} MB, {most * 1e6 / found['keys']:.0f} bytes "
        f"each; of {found['seen']:,} addresses in all, {found['remembered']:,} are remembered at "
        f"the end.\n\nGoal: p99 of a decision < {_GOAL_P99_US:g} µs: "
        f"{figures.verdict(worst, _GOAL_P99_US)}."
    )


def measure(keys: int) -> dict[str, Any]:
    """All phases, each with `keys` decisions."""
    buckets = LocalBuckets(keys)
    limits = Limits(_TIERS, _ROWS, RateLimit(1000, 60), buckets)
    before = _rss_mb()
    phases = []

    def phase(name: str, order: Iterable[int], tier: str, tenant: str | None, path: str) -> None:
        times = Times()
        refused = _decide(limits, order, times, tier, tenant, path)
        phases.append({"name": name, "refused": refused, "rss_mb": _rss_mb(), **times.shares()})

    home, movie = "/api/v1/content/home", "/api/v1/movies/17"
    phase("each address for the first time", _addresses(keys), "anonymous", None, home)
    phase("again, in another order", _addresses(keys, 7919), "anonymous", None, home)
    phase("other addresses", _addresses(keys, first=keys), "anonymous", None, home)
    phase("one address that is refused", (1 for _ in range(keys)), "anonymous", None, home)
    phase("no tier: the default", _addresses(keys), "free", None, home)
    phase("tier, tenant and path", _addresses(keys, 7919), "enterprise", "acme", movie)
    return {
        "keys": keys,
        "seen": 2 * keys,
        "remembered": len(buckets),
        "before_mb": before,
        "phases": phases,
    }


def _addresses(count: int, step: int = 1, first: int = 0) -> Iterable[int]:
    """So many IPv6 clients, each once, in an order that `step` gives (it shares no factor with
    `count`).
    """
    return ((1 << 64) | (first + at * step % count) << 16 for at in range(count))


def _decide(
    limits: Limits, order: Iterable[int], times: Times, tier: str, tenant: str | None, path: str
) -> int:
    """One decision a key, timed; how many were refused."""
    check, clock, monotonic, wall = limits.check, time.perf_counter_ns, time.monotonic, time.time
    refused = 0
    for key in order:
        now, today = monotonic(), wall()
        begun = clock()
        verdict = check(key, tier, tenant, path, (), 1, now, today)
        times.add(clock() - begun)
        refused += isinstance(verdict, Verdict) and not verdict.admitted
    return refused


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * _PAGE_KIB * 1024 / 1e6


if __name__ == "__main__":
    json.dump(measure(int(sys.argv[1])), sys.stdout)
