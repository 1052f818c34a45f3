"""bench profile: where the gateway's CPU time goes under the load of `bench proxy`.

Three looks: a sampler inside Python and a count of every call (profiled.py), and perf from outside
where it is installed, which sees the kernel and the C extensions.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from argparse import Namespace
from pathlib import Path

from bench import figures, proxy, results, wrk
from bench.peers import Lab
from bench.peers.launch import PREFIX
from bench.processes import Process

_TOP = 25
_COUNTED, _COUNTED_SECONDS = 40, 3


def run(options: Namespace) -> None:
    """Profiles and writes the section."""
    seconds = options.seconds or 10
    with Lab() as lab:
        path = f"{PREFIX}/json"
        counts = lab.directory / "profile.json"
        process = lab.start("profiled", BENCH_PROFILE=str(counts))
        proxy.check(process)
        wrk.run(process.port, path, seconds=seconds, directory=lab.directory)
        process.stop()
        body = _sampled(json.loads(counts.read_text()), seconds)
        body += _counted(lab, path)
        if shutil.which("perf"):
            plain = lab.start("gateway")
            wrk.run(plain.port, path, seconds=1, directory=lab.directory)
            body += _perf(plain, path, seconds, lab.directory)
    results.publish("profile", body, peers=("wrk",), options=options)


def _sampled(report: dict[str, list[tuple[str, int]]], seconds: float) -> str:
    samples: int = max(1, int(str(report["samples"])))
    body = (
        f"What the next microsecond costs: {samples:,} samples of CPU time in {seconds:g} s of "
        f"`bench proxy`'s load. "
        f"C code and system calls are put down to the Python function that called them, the "
        f"loop's own to the "
        f"callback that follows.\n"
    )
    for key, title in (("self", "in the function itself"), ("with_callees", "with what it calls")):
        rows = [(f"`{name}`", f"{100 * count / samples:.1f}") for name, count in report[key]]
        body += "\n" + figures.table((title, "% of CPU"), rows[:_TOP]) + "\n"
    return body


def _counted(lab: Lab, path: str) -> str:
    """How often a request calls what: the same on a busy machine as on an idle one."""
    counts = lab.directory / "calls.json"
    process = lab.start("profiled", BENCH_PROFILE=str(counts), BENCH_PROFILE_CALLS="1")
    done = wrk.run(process.port, path, seconds=_COUNTED_SECONDS, directory=lab.directory)
    process.stop()
    requests = max(1, done.completed)
    rows, total = [], 0.0
    for name, calls, own in json.loads(counts.read_text())["calls"]:
        if calls >= requests / 2:
            total += calls / requests
            rows.append(
                (own, (f"`{name}`", f"{calls / requests:.1f}", f"{own / requests * 1e6:.1f}"))
            )
    rows.sort(reverse=True)
    header = ("function", "calls a request", "own µs, profiled")
    return (
        f"\nCalls counted one by one (which makes each slower, so the times only rank): "
        f"{total:.0f} calls a request, built-in ones included.\n\n"
        + figures.table(header, [row for _, row in rows[:_COUNTED]])
        + "\n"
    )


def _perf(process: Process, path: str, seconds: float, directory: Path) -> str:
    """Shares by library and by symbol as perf sees them; a line saying so where it may not look."""
    data = directory / "perf.data"
    command = ["perf", "record", "-q", "-F", "999", "-o", str(data), "-p", str(process.pid)]
    recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wrk.run(process.port, path, seconds=seconds, directory=directory)
    finally:
        recorder.send_signal(2)
        try:
            recorder.wait(20)
        except subprocess.TimeoutExpired:
            recorder.kill()
    body = "\nThe same by perf, without the sampler:\n"
    for sort, title in (("dso", "library"), ("dso,symbol", "function in C")):
        command = ["perf", "report", "-i", str(data), "--stdio", "-q", "--sort", sort]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        rows = [
            (f"`{' '.join(found.group(2).split())}`", found.group(1))
            for found in re.finditer(r"^\s+([\d.]+)%\s+(.+?)\s*$", done.stdout, re.MULTILINE)
        ]
        if not rows:
            return f"\nperf may not look at the process here: {done.stderr.strip()[:200]}\n"
        body += "\n" + figures.table((title, "% of CPU"), rows[:_TOP]) + "\n"
    return body
