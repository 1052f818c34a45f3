"""bench fuzz: mutated raw bytes against a running gateway; what must hold is in judging.py.

The cases of a run are replayed by its seed: `python -m bench fuzz --seed S`.
"""

from __future__ import annotations

import asyncio
import http.client
import re
import time
from argparse import Namespace

import uvloop

from bench import figures, machine, processes, results
from bench.judging import Judge
from bench.mutations import cases
from bench.peers import Lab
from bench.processes import Process
from bench.recorder import Recorder, play

_SECONDS = 600
_BATCH = 2000
_AT_ONCE = 200  # more, and answers on two cores come later than half-closed clients wait
_SHOWN = 20
# Short, so that what a client leaves hanging ends while we look
_TIMEOUTS = {
    "CLIENT_HEAD_TIMEOUT": "2",
    "KEEPALIVE_TIMEOUT": "2",
    "IDLE_TIMEOUT": "3",
    "HEAD_TIMEOUT": "3",
    "STREAM_IDLE_TIMEOUT": "3",
    "UPSTREAM_IDLE_TIMEOUT": "3",
}
# Access records (message "request") are at level error for any 5xx, as they should be
_TROUBLE = re.compile(
    rb'Traceback \(most recent|"level":"(?:error|critical)","message":"(?!request")|never awaited'
)


def run(options: Namespace) -> None:
    """Plays batch after batch until the time is up, then looks at what is left; writes the section.

    Raises RuntimeError when anything did not hold, after the section is written.
    """
    seed = options.seed or int(time.time())
    judge = Judge()
    with Lab() as lab, processes.pinned(machine.other_cores()):
        count, left = uvloop.run(_run(lab, judge, seed, options.seconds or _SECONDS))
    rows = [("connections", f"{count:,}"), ("well-formed requests sent", f"{judge.requests:,}")]
    rows += [("requests that reached the backend", f"{judge.seen:,}"), *left]
    faults = "\n".join(f"- {fault}" for fault in judge.faults[:_SHOWN])
    body = (
        f"Seed {seed}: well-formed and mutated requests in raw bytes, {_AT_ONCE} connections at "
        f"once, to a gateway before a backend that gives sound and broken answers.\n\n"
        + figures.table(("", "figure"), rows)
        + f"\n\n**Faults: {len(judge.faults)}**\n\n{faults}"
    )
    results.publish("fuzz", body, options=options)
    if judge.faults:
        raise RuntimeError(f"{len(judge.faults)} faults, seed {seed}")


async def _run(
    lab: Lab, judge: Judge, seed: int, seconds: float
) -> tuple[int, list[tuple[str, str]]]:
    recorder = Recorder(judge)
    upstream = await recorder.start()
    url = f"http://127.0.0.1:{upstream}"
    process = await asyncio.to_thread(lab.start, "gateway", BENCH_URL=url, **_TIMEOUTS)
    await asyncio.to_thread(_ready, process)
    files, memory = process.open_files(), process.rss_bytes()
    count, deadline = 0, time.monotonic() + seconds
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int) -> None:
        async with gate:
            case = next(cases(seed, 1, number))
            await play(case, process.port, judge)

    while time.monotonic() < deadline and len(judge.faults) < _SHOWN and process.running:
        await asyncio.gather(*(one(count + index) for index in range(_BATCH)))
        count += _BATCH
        judge.turn_page()
        if not await asyncio.to_thread(_ready, process):
            judge.faults.append(f"after {count} cases the gateway is not ready")
            break
    left = await _settled(process, files)
    if left > files:
        judge.faults.append(f"{left} open files, {files} before")
    grown = (process.rss_bytes() - memory) / 1e6
    said = process.errors.read_bytes()
    judge.faults.extend(_trouble(said, "stderr") + _trouble(process.output.read_bytes(), "log"))
    await asyncio.to_thread(process.stop)
    await recorder.stop()
    return count, [
        ("open files before and after", f"{files}, {left}"),
        ("RSS grown MB", f"{grown:.1f}"),
    ]


async def _settled(process: Process, files: int) -> int:
    """How many files are open when the idle pool has run out, or after 20 s."""
    deadline = time.monotonic() + 20
    while (left := process.open_files()) > files and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    return left


def _ready(process: Process) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=10)
    try:
        connection.request("GET", "/health/ready", headers={"Connection": "close"})
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _trouble(said: bytes, where: str) -> list[str]:
    lines = [line for line in said.splitlines() if _TROUBLE.search(line)]
    return [f"{where}: {line[:300].decode('utf-8', 'replace')}" for line in lines[:5]]
