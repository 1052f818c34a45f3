"""Four gateways, one Redis: together they never admit more than a limit allows, over any span of
time, whatever becomes of Redis; and nearly all of it is there for who wants it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from gateway.policy.limit_rules import Bucket, Rule
from tests.connection import eventually
from tests.processes import ROOT, clean_environment
from tests.redis_server import RedisServer, redis_server
from tests.scenarios.limiting import GATEWAYS, KEYS

# For whatever is waited for, before it counts as never.
WAIT_SECONDS = 60.0
# Redis counts by the time of day, which may be slewed against the monotonic clock by 500 ppm
# (adjtimex(2)), and calls a token whole that is 2**-10 short of it.
SLEW = 0.0005
SLACK_TOKENS = 0.01

Times = list[tuple[float, float]]


def most_over(rule: Rule, times: Times) -> float:
    """By how much the worst of all spans exceeds `capacity + rate * span`.

    A span goes from just before one decision to just after another, or the same: what reading the
    clock takes counts for the limit (microseconds; the time of a request, when it is clients that
    look at the clock). Nothing else is allowed for.
    """
    worst = float("-inf")
    for bucket in rule.buckets:
        rate = bucket.rate * (1 + SLEW)
        least = float("inf")
        for count, (before, after) in enumerate(sorted(times)):
            least = min(least, count - rate * before)
            worst = max(worst, count + 1 - rate * after - least - bucket.capacity)
    return worst


def test_the_measure_finds_a_single_token_too_many_in_any_span() -> None:
    rule = Rule("three", (Bucket("burst", 3, 2.0, 2),))
    kept = [(at, at) for at in (0.0, 0.0, 0.0, 0.5, 1.0, 9.0, 9.0, 9.0, 9.5)]
    assert most_over(rule, kept) <= 0.0
    for at in (0.4, 0.9, 1.4, 8.9, 9.0):
        assert most_over(rule, [*kept, (at, at)]) > 0.1


class Processes:
    """What several processes say, and what they are told."""

    def __init__(self) -> None:
        self.processes: list[Process] = []

    async def start(self, *words: str, **environment: str) -> None:
        """One more."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *words,
            cwd=ROOT,
            env=clean_environment(**environment),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            limit=2**26,
        )
        self.processes.append(process)

    def tell(self, word: str) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(word.encode() + b"\n")

    async def hear(self, line: str) -> None:
        """Until each has said it; what they say before is left out."""
        async with asyncio.timeout(WAIT_SECONDS):
            for process in self.processes:
                assert process.stdout is not None
                said = b" "
                while said.strip().decode() != line:
                    said = await process.stdout.readline()
                    assert said, f"ended before it said {line}"

    async def results(self) -> list[dict[str, Any]]:
        """The last line of each."""
        found = []
        async with asyncio.timeout(WAIT_SECONDS):
            for process in self.processes:
                out, _ = await process.communicate()
                assert process.returncode == 0
                found.append(json.loads(out.splitlines()[-1]))
        return found

    async def close(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        for process in self.processes:
            await process.wait()


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with redis_server() as started:
        yield started


@pytest.fixture
async def gateways(server: RedisServer, request: pytest.FixtureRequest) -> AsyncIterator[Processes]:
    running = Processes()
    try:
        for _ in range(GATEWAYS):
            words = ("-m", "tests.scenarios.limiting", server.url)
            await running.start(*words, *getattr(request, "param", ()))
        await running.hear("ready")
        yield running
    finally:
        await running.close()


def admitted(said: list[dict[str, Any]], number: int) -> Times:
    return [(before, after) for one in said for before, after in one["times"][number]]


def assert_within_the_limits(said: list[dict[str, Any]]) -> None:
    assert [one["failed"] for one in said] == [[]] * GATEWAYS
    for number, (rule, _) in enumerate(KEYS):
        assert most_over(rule, admitted(said, number)) <= SLACK_TOKENS, rule.name


@pytest.mark.parametrize("gateways", [("patient",)], indirect=True, ids=[""])
async def test_four_gateways_admit_what_a_limit_allows_and_never_more(gateways: Processes) -> None:
    gateways.tell("begin")
    await gateways.hear("second 4")
    gateways.tell("end")
    said = await gateways.results()
    assert_within_the_limits(said)
    stalled = sum(one["stalled"] for one in said)
    for number, (rule, _) in enumerate(KEYS):
        # As long as all of them asked: on a busy machine some begin later, or can't for a while.
        seconds = min(one["last"][number] for one in said)
        seconds -= max(one["first"][number] for one in said)
        seconds = max(0.0, seconds - stalled)
        most = min(bucket.capacity + bucket.rate * seconds for bucket in rule.buckets)
        assert len(admitted(said, number)) >= int(0.95 * most), rule.name


async def test_redis_killed_and_restarted_empty_lets_no_more_through(
    gateways: Processes, server: RedisServer
) -> None:
    gateways.tell("begin")
    await gateways.hear("second 1")
    await server.stop(kill=True)
    await gateways.hear("alone")
    await gateways.hear("second 3")
    await server.start()
    await gateways.hear("again")
    await gateways.hear("second 6")
    gateways.tell("end")
    said = await gateways.results()
    assert_within_the_limits(said)
    for one in said:
        assert one["lines"][:2] == ["limits_local", "limits_shared"]


async def test_redis_that_hangs_for_a_while_lets_no_more_through(
    gateways: Processes, server: RedisServer
) -> None:
    gateways.tell("begin")
    await gateways.hear("second 1")
    server.hang()
    await gateways.hear("alone")
    await gateways.hear("second 3")
    server.resume()
    await gateways.hear("again")
    await gateways.hear("second 5")
    gateways.tell("end")
    said = await gateways.results()
    assert_within_the_limits(said)
    for one in said:
        assert one["lines"][:2] == ["limits_local", "limits_shared"]


async def test_a_killed_gateway_takes_nothing_with_it_for_long(gateways: Processes) -> None:
    gateways.tell("begin")
    await gateways.hear("second 1")
    killed = gateways.processes.pop()
    killed.kill()
    await killed.wait()
    await gateways.hear("second 3")
    gateways.tell("end")
    said = await gateways.results()
    asked_seconds = max(0.0, 1.0 - sum(one["stalled"] for one in said))
    for number, (rule, _) in enumerate(KEYS):
        times = sorted(admitted(said, number))
        assert most_over(rule, times) <= SLACK_TOKENS
        # Three quarters of the rate are theirs: for all that Redis knows the rest may be in use.
        last = times[-1][1]
        recent = [before for before, _ in times if before > last - 1.0]
        rate = min(bucket.rate for bucket in rule.buckets)
        assert len(recent) >= 0.4 * rate * asked_seconds, rule.name


# The same with whole gateways

RATE = 30
LIMIT = Rule("default", (Bucket("default", RATE, float(RATE), 1),))
CLIENTS = 20


async def answer_everything(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A service."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    writer.close()


class Clients:
    """Twenty addresses that ask four gateways, more than they may."""

    def __init__(self) -> None:
        self.times: list[Times] = [[] for _ in range(CLIENTS)]
        self.statuses: set[int] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, ports: Sequence[int]) -> None:
        for port in ports:
            for number in range(CLIENTS):
                self._tasks.append(asyncio.create_task(self._ask(port, number)))

    async def admitted(self, count: int) -> None:
        """Until each address was admitted that many times more."""
        more = [len(times) + count for times in self.times]
        await eventually(
            lambda: all(len(times) >= n for times, n in zip(self.times, more, strict=True)),
            seconds=WAIT_SECONDS,
        )

    async def stop(self) -> None:
        """Raises what any of them ran into."""
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if not isinstance(result, asyncio.CancelledError):
                raise AssertionError("a client ended") from result

    async def _ask(self, port: int, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = b"GET /api/v1/svc/ HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 203.0.113.%d\r\n\r\n"
        draw = random.Random()
        try:
            while True:
                before = time.monotonic()
                writer.write(request % number)
                head = await reader.readuntil(b"\r\n\r\n")
                after = time.monotonic()
                status = int(head.split(b" ", 2)[1])
                length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
                await reader.readexactly(int(length))
                self.statuses.add(status)
                if status == 200:
                    self.times[number].append((before, after))
                await asyncio.sleep(draw.expovariate(2 * RATE / GATEWAYS))
        finally:
            writer.close()


@pytest.fixture
async def service() -> AsyncIterator[str]:
    async with await asyncio.start_server(answer_everything, "127.0.0.1", 0) as started:
        yield f"http://127.0.0.1:{started.sockets[0].getsockname()[1]}"


async def heard(process: Process, *messages: str) -> dict[str, Any]:
    """The next log line with one of these messages."""
    assert process.stdout is not None
    async with asyncio.timeout(WAIT_SECONDS):
        while line := await process.stdout.readline():
            said: dict[str, Any] = json.loads(line)
            if said["message"] in messages:
                return said
    raise AssertionError(f"ended before {messages}")


async def listening(process: Process) -> int:
    """The port of a gateway that shares limits."""
    port, shared = 0, True
    while not port or not shared:
        said = await heard(process, "listening", "limits_local", "limits_shared")
        if said["message"] == "listening":
            port = said["port"]
        else:
            shared = said["message"] == "limits_shared"
    return port


async def test_whole_gateways_stay_within_the_limit_and_answer_while_redis_is_restarted(
    server: RedisServer, service: str
) -> None:
    gateways, clients = Processes(), Clients()
    try:
        for _ in range(GATEWAYS):
            await gateways.start(
                "-m",
                "gateway",
                REDIS_URL=server.url,
                SVC_URL=service,
                RATE_LIMIT=f"{RATE}/second",
                TRUSTED_PROXIES="127.0.0.1/32",
                ACCESS_LOG="off",
            )
        ports = [await listening(process) for process in gateways.processes]
        clients.start(ports)
        await clients.admitted(2 * RATE)
        await server.stop(kill=True)
        for process in gateways.processes:
            await heard(process, "limits_local")
        await clients.admitted(RATE)
        await server.start()
        for process in gateways.processes:
            await heard(process, "limits_shared")
        await clients.admitted(RATE)
        await clients.stop()
    finally:
        await gateways.close()
    assert clients.statuses == {200, 429}
    for times in clients.times:
        assert most_over(LIMIT, times) <= SLACK_TOKENS
