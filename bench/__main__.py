"""`python -m bench [name …]`: runs benchmarks in turn; each writes its section of RESULTS.md."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

# Name → whether it runs when none is named
BENCHMARKS = {
    "proxy": True,
    "latency": True,
    "bodies": True,
    "idle": True,
    "stream": True,
    "sse": True,
    "sse-spread": True,
    "latency-streams": True,
    "questions": True,
    "jobs": True,
    "backplane": True,
    "policies": True,
    "limits": True,
    "breaker": True,
    "isolation": True,
    "profile": True,
    "soak": False,
    "fuzz": False,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what was asked for; returns 0, or 1 when a benchmark failed (bad usage exits 2)."""
    parser = argparse.ArgumentParser(prog="bench", description="Benchmarks beside other gateways.")
    usual = ", ".join(name for name, runs in BENCHMARKS.items() if runs)
    long = ", ".join(name for name, runs in BENCHMARKS.items() if not runs)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=f"{usual} (all of these when none is named), {long}",
    )
    parser.add_argument(
        "--seconds", type=float, default=0, help="length of one run instead of its own"
    )
    parser.add_argument("--rounds", type=int, default=0, help="how many rounds instead of its own")
    parser.add_argument("--seed", type=int, default=0, help="of the fuzz cases (0: a new one)")
    parser.add_argument(
        "--subscribers", type=int, default=0, help="how many event streams instead of its own"
    )
    parser.add_argument(
        "--servers", default="", help="only these of those compared: a comma list (sse, sse-spread)"
    )
    parser.add_argument("--rate", type=float, default=0, help="a second, instead of its own")
    parser.add_argument("--dry", action="store_true", help="print only, leave RESULTS.md as it is")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}")
    if not sys.platform.startswith("linux"):
        parser.error("the benchmarks read /proc and pin processes to cores: they run on Linux")
    failed = 0
    for name in options.names or [name for name, runs in BENCHMARKS.items() if runs]:
        sys.stderr.write(f"bench: {name} …\n")
        try:
            importlib.import_module(f"bench.{name.replace('-', '_')}").run(options)
        except Exception as error:
            failed = 1
            sys.stderr.write(f"bench: {name} failed: {type(error).__name__}: {error}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
