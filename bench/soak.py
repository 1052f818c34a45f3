"""bench soak: ten minutes of mixed traffic from clients that come and go; nothing may fail."""

from __future__ import annotations

import http.client
import os
import random
import threading
import time
import zlib
from argparse import Namespace
from collections.abc import Callable

import uvloop

from bench import backend, figures, load, machine, processes, results
from bench.client import Call, get, post
from bench.peers import Lab
from bench.peers.launch import PREFIX
from bench.processes import Process

_RATE = 2000
_SECONDS = 600
_WARM_SHARE = 0.1  # memory is compared from here on: the first minute fills pools and buffers
_SAMPLE_SECONDS = 1.0
_LOG_BYTES = 256 << 20  # the access log is cut when it is larger: ten minutes would be a gigabyte


class Watch(threading.Thread):
    """Looks at the memory of a process every second, and keeps its log from filling the disk."""

    def __init__(self, process: Process) -> None:
        super().__init__(daemon=True)
        self._process = process
        self._ended = threading.Event()
        self.samples: list[tuple[float, int]] = []

    def run(self) -> None:
        """Until `end` is called."""
        started = time.monotonic()
        while not self._ended.wait(_SAMPLE_SECONDS):
            self.samples.append((time.monotonic() - started, self._process.rss_bytes()))
            if self._process.output.stat().st_size > _LOG_BYTES:
                os.truncate(self._process.output, 0)

    def end(self) -> None:
        """Stops looking."""
        self._ended.set()
        self.join()


def mixed_calls(port: int, seed: int = 1) -> Callable[[int], Call]:
    """A repeatable mix: 60 % small GETs, 10 % larger, 30 % POSTs of 1 to 64 KiB echoed.

    One in a hundred vanishes in the middle of its request or its answer.
    """
    random_ = random.Random(seed)
    small = Call(get(f"{PREFIX}/json", port), len(backend.JSON_BODY), zlib.crc32(backend.JSON_BODY))
    larger, posts = [], []
    for _ in range(16):
        size = random_.randint(1 << 10, 256 << 10)
        body = backend.bytes_of(size)
        larger.append(Call(get(f"{PREFIX}/bytes/{size}", port), size, zlib.crc32(body)))
    for _ in range(64):
        body = random_.randbytes(random_.randint(1 << 10, 64 << 10))
        posts.append(Call(post(f"{PREFIX}/echo", port, body), len(body), zlib.crc32(body)))
    cut = [Call(call.request[: len(call.request) * 2 // 3], vanish=True) for call in posts[:8]]
    gone = [Call(call.request, vanish=True) for call in (*posts[8:16], *larger, small)]

    def pick(number: int) -> Call:
        draw = random_.random()
        if draw < 0.01:
            return random_.choice(cut + gone)
        if draw < 0.60:
            return small
        return random_.choice(larger) if draw < 0.70 else random_.choice(posts)

    return pick


def run(options: Namespace) -> None:
    """Runs it through the gateway and writes the section."""
    seconds = options.seconds or _SECONDS
    with Lab() as lab:
        process = lab.start("gateway", UPSTREAM_IDLE_TIMEOUT="90")
        files_before = process.open_files()
        watch = Watch(process)
        watch.start()
        try:
            with processes.pinned(machine.other_cores()):
                outcome = uvloop.run(_traffic(process.port, seconds))
        finally:
            watch.end()
        used = process.cpu_seconds()
        ready = _ready(process.port)
        files_after = process.open_files()
        stopped = process.stop()
        said = process.errors.read_text()[-1000:].strip()
    body = _report(outcome, watch.samples, seconds, used)
    body += (
        f"\n\nAfterwards: ready answers {ready}, {files_after} open files ({files_before} before "
        f"the first request; "
        f"the difference is the idle upstream pool), exit code {stopped}, stderr "
        + (f"said:\n\n```\n{said}\n```" if said else "empty.")
    )
    results.publish("soak", body, options=options)


async def _traffic(port: int, seconds: float) -> load.Outcome:
    lives = random.Random(2)
    loop = load.OpenLoop(
        port,
        mixed_calls(port),
        rate=_RATE,
        seconds=seconds,
        lifetime=lambda: lives.randint(1, 200),
    )
    return await loop.run()


def _ready(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/health/ready")
        return str(connection.getresponse().status)
    except OSError as error:
        return type(error).__name__
    finally:
        connection.close()


def _report(
    outcome: load.Outcome, samples: list[tuple[float, int]], seconds: float, cpu_seconds: float
) -> str:
    warm = [sample for sample in samples if sample[0] >= seconds * _WARM_SHARE]
    steps = max(1, len(samples) // 10)
    rows = [(f"{at:.0f}", f"{size / 1e6:.1f}") for at, size in samples[::steps]]
    ordered = sorted(outcome.latencies)
    reasons = ", ".join(
        f"{count} times {reason}" for reason, count in sorted(outcome.reasons.items())
    )
    growth = (warm[-1][1] - warm[0][1]) / 1e6 if warm else 0.0
    return (
        f"{seconds:g} s at {_RATE:,} requests/s due at fixed times: 60 % GETs of 209 bytes, 10 % "
        f"of 1-256 KiB, 30 % "
        f"POSTs of 1-64 KiB echoed and compared; {outcome.connections:,} connections of 1-200 "
        f"requests; "
        f"{outcome.vanished:,} clients vanished in the middle (not counted as failed).\n\n"
        f"- completed {outcome.completed:,}, **failed {outcome.failed}** (goal 0: "
        f"{figures.verdict(outcome.failed, 0)}){': ' + reasons if reasons else ''}\n"
        f"- latency p50 {figures.percentile(ordered, 0.5) * 1e3:.2f} ms, "
        f"p99 {figures.percentile(ordered, 0.99) * 1e3:.2f} ms (client and backend share a core)\n"
        f"- CPU of the gateway {cpu_seconds / max(outcome.seconds, 1e-9):.0%} of a core\n"
        f"- RSS from {100 * _WARM_SHARE:.0f} % of the time on to the end: {growth:+.1f} MB, "
        f"highest "
        f"{max((size for _, size in samples), default=0) / 1e6:.1f} MB\n\n"
        + figures.table(("at s", "RSS MB"), rows)
    )
