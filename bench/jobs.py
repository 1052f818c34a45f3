"""bench jobs: what a job costs over HTTP, on a real Temporal: starting, waiting, being told of
progress, many at once, many watchers, and what proxied requests notice of it all.

Every answer is checked: a job that fails is counted and named. Processes are in `jobs_site`.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import aiohttp
import uvloop

from bench import figures, load, machine, processes, results
from bench.client import Call, get
from bench.jobs_site import Site, job_site
from bench.peers import Lab
from bench.peers.launch import PREFIX
from bench.subscriber_process import most_streams

# A job costs some 70 ms of CPU in three processes: at 20 a second two cores are full, and what is
# measured is the line before them.
_START_RATE, _START_SECONDS = 5.0, 30.0
_WAITS = 150
_WATCHED, _WATCHED_STEPS, _STEP_DELAY = 20, 6, 0.2
_AT_ONCE = 200
_WATCHERS, _WATCHED_JOBS = 10_000, 100
_IDLE_SECONDS = 5.0
_PROXIED_RATE = 300.0
# The goal's, more than two cores can do; and one that they hold.
_JOB_RATE, _HELD_JOB_RATE = 50.0, 10.0
_QUIET_SHARE, _QUIET_WITHIN_SECONDS = 0.25, 60.0  # of a core, worker and Temporal together
_PATIENCE_SECONDS = 60.0
_PART_SECONDS = 45.0  # most parts take 10; all of it is to end within four minutes
_SOURCES = 8  # one source address has some 28,000 ports
_GOAL_START_MS, _GOAL_PROGRESS_MS, _GOAL_WAIT_MS = 100.0, 150.0, 60.0
_GOAL_KIB, _GOAL_RATIO = 2.0, 1.5  # a watcher costs what any subscriber may: bench sse

_ONE = {"service": "bench", "path": "/json"}
_PATIENT = {"steps": [{"id": "rest", "wait_seconds": 3600}]}


@dataclass(slots=True)
class Seen:
    """What was measured. Times in ms."""

    start_ms: list[float] = field(default_factory=list)
    wait_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)  # a job: gateway, worker, Temporal
    progress_ms: list[float] = field(default_factory=list)
    at_once_seconds: float = 0.0  # to the end of the last
    at_once_failed: int = 0
    watchers: int = 0
    kib_each: float = 0.0
    idle_share: float = 0.0  # of the gateway's core, in %
    temporal_share: float = 0.0
    alone_p99_ms: list[float] = field(default_factory=list)
    held_p99_ms: list[float] = field(default_factory=list)
    beside_p99_ms: list[float] = field(default_factory=list)
    jobs_held: int = 0
    jobs_beside: int = 0
    faults: Counter[str] = field(default_factory=Counter)


def run(options: Namespace) -> None:
    """Runs the parts one after the other and writes the section."""
    rounds, seconds = options.rounds or 3, options.seconds or 8
    seen = Seen()
    with Lab() as lab, job_site(lab) as site:
        _go(site, _warm_up, seen)
        before = site.cpu_seconds()
        _go(site, _waits, seen)
        spent = zip(site.cpu_seconds(), before, strict=True)
        seen.cpu_ms = [1000 * (after - then) / _WAITS for after, then in spent]
        for part in (_starts, _progress, _at_once):
            _go(site, part, seen)
        for _ in range(rounds):
            _proxied(site, seen, seconds)
        _watch(site, seen, most_streams(options.subscribers or _WATCHERS))
    results.publish("jobs", _report(seen, rounds, seconds), options=options)


Part = Callable[[aiohttp.ClientSession, Seen], Coroutine[Any, Any, None]]


def _go(site: Site, part: Part, seen: Seen) -> None:
    """Runs one part on the clients' core, within its time."""

    async def within() -> None:
        limit = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=_PATIENCE_SECONDS)
        base = f"http://127.0.0.1:{site.port}"
        async with aiohttp.ClientSession(base, connector=limit, timeout=timeout) as session:
            try:
                async with asyncio.timeout(_PART_SECONDS):
                    await part(session, seen)
            except TimeoutError:
                seen.faults[f"{part.__name__.strip('_')}: not done in time"] += 1

    with processes.pinned(machine.other_cores()):
        uvloop.run(within())


async def _start(
    session: aiohttp.ClientSession, kind: str, given: dict[str, Any], prefer: str
) -> tuple[int, dict[str, Any]]:
    """Status and body of the answer to a start."""
    path = f"/api/v1/workflows/{kind}"
    async with session.post(path, json=given, headers={"Prefer": prefer}) as answer:
        return answer.status, await answer.json()


async def _one(session: aiohttp.ClientSession, seen: Seen, wait: int) -> tuple[float, bool]:
    """One short job, waited for: the milliseconds it took, and whether it did what it should."""
    began = time.monotonic()
    status, body = await _start(session, "api_request_workflow", _ONE, f"wait={wait}")
    took = (time.monotonic() - began) * 1000
    result = body.get("result") or {}
    if status == 200 and body.get("status") == "completed" and result.get("status") == 200:
        return took, True
    said = (body.get("error") or result.get("error") or {}).get("message", body.get("status"))
    seen.faults[f"job answered {status}: {said}"] += 1
    return took, False


async def _warm_up(session: aiohttp.ClientSession, seen: Seen) -> None:
    for _ in range(20):
        await _one(session, seen, 30)


async def _starts(session: aiohttp.ClientSession, seen: Seen) -> None:
    """Open loop: a start is due at its time whatever the others do."""
    began = time.monotonic()

    async def one(due: float) -> None:
        await asyncio.sleep(began + due - time.monotonic())
        status, _ = await _start(session, "api_request_workflow", _ONE, "respond-async")
        seen.start_ms.append((time.monotonic() - began - due) * 1000)
        if status != 202:
            seen.faults[f"start answered {status}"] += 1

    dues = (number / _START_RATE for number in range(int(_START_RATE * _START_SECONDS)))
    await asyncio.gather(*map(one, dues))


async def _waits(session: aiohttp.ClientSession, seen: Seen) -> None:
    for _ in range(_WAITS):
        took, _ = await _one(session, seen, 10)
        seen.wait_ms.append(took)


async def _at_once(session: aiohttp.ClientSession, seen: Seen) -> None:
    began = time.monotonic()

    async def one() -> None:
        _, well = await _one(session, seen, 30)
        seen.at_once_failed += not well
        seen.at_once_seconds = time.monotonic() - began

    await asyncio.gather(*(one() for _ in range(_AT_ONCE)))


async def _progress(session: aiohttp.ClientSession, seen: Seen) -> None:
    """Jobs of several steps, one watcher each; how old an update is when it is read."""

    async def one(number: int) -> None:
        await asyncio.sleep(number)  # one a second, for the same reason
        status, begun = await _start(
            session, "multi_service_orchestration_workflow", _steps(), "respond-async"
        )
        if status != 202:
            seen.faults[f"orchestration answered {status}"] += 1
            return
        if await _watched(session, begun["stream_url"], seen) != "job.completed":
            seen.faults["no job.completed"] += 1

    await asyncio.gather(*map(one, range(_WATCHED)))


def _steps() -> dict[str, Any]:
    """One behind the other."""
    steps: list[dict[str, Any]] = []
    for number in range(_WATCHED_STEPS):
        step = {"id": f"s{number}", "service": "bench", "path": "/json"}
        before = [f"s{number - 1}"] if number else []
        steps.append(step | {"query": {"delay": str(_STEP_DELAY)}, "depends_on": before})
    return {"steps": steps}


async def _watched(session: aiohttp.ClientSession, path: str, seen: Seen) -> str:
    """Reads a stream to its end; the type of its last event of the job."""
    kind, last, live = "", "", False
    async with session.get(path, headers={"Accept": "text/event-stream"}) as answer:
        if answer.status != 200:
            return f"status {answer.status}"
        async for line in answer.content:
            now = time.time()
            if line.startswith(b"event: "):
                kind = line[7:].strip().decode()
                last = kind if kind.startswith("job.") else last
            elif line.startswith(b"data: ") and kind.startswith("job."):
                stamp = json.loads(line[6:])["data"]["updated_at"]
                # What was there before the stream tells nothing about its speed.
                if live:
                    seen.progress_ms.append((now - _seconds(stamp)) * 1000)
                live = live or kind == "job.snapshot"
    return last


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


# Proxied requests beside jobs


def _proxied(site: Site, seen: Seen, seconds: float) -> None:
    """One round: without jobs, then beside few, then beside many."""
    alone, _ = _beside(site, seen, seconds, 0)
    seen.alone_p99_ms.append(alone)
    held, jobs = _beside(site, seen, seconds, _HELD_JOB_RATE)
    seen.held_p99_ms.append(held)
    seen.jobs_held += jobs
    many, jobs = _beside(site, seen, seconds, _JOB_RATE)
    seen.beside_p99_ms.append(many)
    seen.jobs_beside += jobs


def _beside(site: Site, seen: Seen, seconds: float, job_rate: float) -> tuple[float, int]:
    """The p99 of proxied requests in ms, and how many jobs were completed beside them."""
    _settle(site)
    plain = Call(get(f"{PREFIX}/json", site.port))
    job = Call(_post(site.port, "/api/v1/workflows/api_request_workflow", _ONE))

    async def measured() -> list[load.Outcome]:
        loops = [load.OpenLoop(site.port, lambda _: plain, rate=_PROXIED_RATE, seconds=seconds)]
        if job_rate:
            loops.append(load.OpenLoop(site.port, lambda _: job, rate=job_rate, seconds=seconds))
        return await asyncio.gather(*(each.run() for each in loops))

    with processes.pinned(machine.other_cores()):
        requests, *jobs = uvloop.run(measured())
    for outcome, what in ((requests, "proxied"), *((each, "job beside") for each in jobs)):
        seen.faults.update({f"{what}: {why}": n for why, n in outcome.reasons.items()})
    p99 = figures.percentile(sorted(requests.latencies), 0.99) * 1000
    return p99, sum(each.completed for each in jobs)


def _settle(site: Site) -> None:
    """Waits for jobs of the part before, which nobody waits for any more."""
    deadline = time.monotonic() + _QUIET_WITHIN_SECONDS
    busy = 1.0
    while busy > _QUIET_SHARE and time.monotonic() < deadline:
        before = sum(site.cpu_seconds()[1:])
        time.sleep(1)
        busy = sum(site.cpu_seconds()[1:]) - before


def _post(port: int, path: str, value: dict[str, Any]) -> bytes:
    body = json.dumps(value).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: bench\r\n"
        f"Content-Type: application/json\r\nPrefer: wait=30\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


# Idle watchers


def _watch(site: Site, seen: Seen, count: int) -> None:
    """Opens so many streams of a hundred jobs that rest, and looks at what they cost."""
    paths: list[str] = []

    async def start(session: aiohttp.ClientSession, seen: Seen) -> None:
        for _ in range(_WATCHED_JOBS):
            status, begun = await _start(
                session, "business_process_workflow", _PATIENT, "respond-async"
            )
            if status == 202:
                paths.append(begun["stream_url"])
            else:
                seen.faults[f"process answered {status}"] += 1

    _go(site, start, seen)
    with ExitStack() as stack:
        # What the first streams of each job cost for good is not put down to the others.
        _open(site, stack, paths, _WATCHED_JOBS, seen)
        before = site.gateway.rss_bytes()
        _open(site, stack, paths, count - _WATCHED_JOBS, seen)
        seen.watchers = count
        seen.kib_each = (site.gateway.rss_bytes() - before) / (count - _WATCHED_JOBS) / 1024
        cpu = site.gateway.cpu_seconds(), site.temporal.cpu_seconds()
        time.sleep(_IDLE_SECONDS)
        seen.idle_share = 100 * (site.gateway.cpu_seconds() - cpu[0]) / _IDLE_SECONDS
        seen.temporal_share = 100 * (site.temporal.cpu_seconds() - cpu[1]) / _IDLE_SECONDS


def _open(site: Site, stack: ExitStack, paths: list[str], count: int, seen: Seen) -> None:
    """Opens streams, some at a time, and reads each to the end of its snapshot."""
    poll, waiting = select.poll(), {}
    for number in range(count):
        source = (f"127.0.0.{2 + number % _SOURCES}", 0)
        client = socket.create_connection(
            ("127.0.0.1", site.port), timeout=_PATIENCE_SECONDS, source_address=source
        )
        stack.enter_context(client)
        client.sendall(get(paths[number % len(paths)], site.port))
        client.setblocking(False)
        waiting[client.fileno()] = (client, b"")
        poll.register(client, select.POLLIN)
        while len(waiting) >= (128 if number < count - 1 else 1):
            for descriptor, _ in poll.poll(1000 * _PATIENCE_SECONDS) or _too_late(len(waiting)):
                reader, data = waiting.pop(descriptor)
                more = reader.recv(65536)
                data += more
                if more and b"event: job.snapshot\n" not in data:
                    waiting[descriptor] = (reader, data)
                    continue
                poll.unregister(descriptor)
                if not more:
                    seen.faults["stream ended"] += 1


def _too_late(count: int) -> list[tuple[int, int]]:
    raise TimeoutError(f"{count} streams got no snapshot")


# What is written


def _report(seen: Seen, rounds: int, seconds: float) -> str:
    start, wait = sorted(seen.start_ms), sorted(seen.wait_ms)
    progress = sorted(seen.progress_ms)
    held = figures.ratios(seen.held_p99_ms, seen.alone_p99_ms)
    ratio = figures.ratios(seen.beside_p99_ms, seen.alone_p99_ms)
    faults = ", ".join(f"{count} {what}" for what, count in seen.faults.items())
    rows = [
        (
            f"start over HTTP, {_START_RATE:g} a second", *_spoken(start),
            f"p99 < {_GOAL_START_MS:g} ms", _verdict(start, 0.99, _GOAL_START_MS),
        ),
        (
            "a job of one request, waited for", *_spoken(wait),
            f"p50 ≤ {_GOAL_WAIT_MS:g} ms", _verdict(wait, 0.5, _GOAL_WAIT_MS),
        ),
        (
            f"a progress update, until a watcher has it ({len(progress):,} seen)",
            *_spoken(progress),
            f"p99 < {_GOAL_PROGRESS_MS:g} ms", _verdict(progress, 0.99, _GOAL_PROGRESS_MS),
        ),
        (
            f"a proxied request, {_PROXIED_RATE:g} a second alone", "",
            figures.spread(seen.alone_p99_ms).text(2), "", "",
        ),
        (
            f"the same beside {_HELD_JOB_RATE:g} jobs a second ({seen.jobs_held:,} completed)", "",
            figures.spread(seen.held_p99_ms).text(2), "", f"{held.text(2)} times",
        ),
        (
            f"the same beside {_JOB_RATE:g} jobs a second ({seen.jobs_beside:,} completed)", "",
            figures.spread(seen.beside_p99_ms).text(2),
            f"p99 ≤ {_GOAL_RATIO:g} times alone",
            f"{ratio.text(2)} times, {figures.verdict(ratio.median, _GOAL_RATIO)}",
        ),
    ]  # fmt: skip
    header = ("what", "p50 ms", "p99 ms", "goal", "so")
    return (
        "A Temporal development server on SQLite and one worker, at a lower priority than backend "
        "and clients and, of two cores, on theirs; the gateway has a core to itself. A job is "
        "`api_request_workflow`: four activities, one of them a request through the gateway. An "
        "update's age is from the time that the workflow gives it to a watcher's read, over "
        f"{_WATCHED} orchestrations of {_WATCHED_STEPS} steps. Proxied: {rounds} rounds of "
        f"{seconds:g} s each.\n\n"
        + figures.table(header, rows)
        + f"\n\n{_AT_ONCE} jobs at once through one worker: the last was done after "
        f"{seen.at_once_seconds:.1f} s; goal: no error: "
        + (f"missed: {seen.at_once_failed} failed" if seen.at_once_failed else "met")
        + f". {seen.watchers:,} idle watchers of {_WATCHED_JOBS} jobs: {seen.kib_each:.2f} KiB RSS "
        f"each, {seen.idle_share:.1f} % of the gateway's core, Temporal {seen.temporal_share:.1f} %"
        f"; goal ≤ {_GOAL_KIB:g} KiB: {figures.verdict(seen.kib_each, _GOAL_KIB)}. "
        f"A job costs {_each(seen.cpu_ms)} ms of CPU at gateway, worker and Temporal. "
        f"Failed: {faults or 'none'}."
    )


def _spoken(ordered: list[float]) -> tuple[str, str]:
    if not ordered:
        return "", ""
    p50, p99 = (figures.percentile(ordered, share) for share in (0.5, 0.99))
    return f"{p50:.1f}", f"{p99:.1f}"


def _each(values: list[float]) -> str:
    return " + ".join(f"{value:.1f}" for value in values)


def _verdict(ordered: list[float], share: float, goal: float) -> str:
    return figures.verdict(figures.percentile(ordered, share), goal) if ordered else "none seen"
