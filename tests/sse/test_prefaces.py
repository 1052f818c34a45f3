"""Prefaces: what is read, how often, what is kept of it, and where a reader's events begin."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from sse.event import JOB_PREFIX, NewEvent, encode, timestamp, uuid7
from sse.hub import Hub, HubLimits
from sse.prefaces import FRESH_SECONDS, MOST_KEPT, MOST_KEPT_BYTES, Preface, Prefaces, preface_of
from sse.ring import HistoryLimits
from sse.stream import Lane
from tests.connection import turn

LANE = Lane(False, "")


class Temporal:
    """Says what it was told to say, when it is let."""

    def __init__(self) -> None:
        self.asked = 0
        self.says: dict[str, Any] | Exception = {"status": "running", "updated_at": "2026-1"}
        self.open = asyncio.Event()
        self.open.set()

    async def read(self, operation_id: str) -> bytes:
        self.asked += 1
        found = self.says
        await self.open.wait()
        if isinstance(found, Exception):
            raise found
        return json.dumps(found | {"operation_id": operation_id}).encode()


class Bench:
    """A hub, a clock and the prefaces over both."""

    def __init__(self, events: int = 100) -> None:
        self.now = 0.0
        limits = HubLimits(HistoryLimits(events=events))
        self.hub = Hub(asyncio.get_running_loop(), limits, lambda: self.now, time.time)
        self.temporal = Temporal()
        self.prefaces = Prefaces(self.hub, self.temporal.read, lambda: self.now)

    def publish(self, job: str, kind: str = "job.progress", **data: Any) -> str:
        """The id."""
        event = NewEvent(kind, json.dumps(data, separators=(",", ":")).encode())
        return self.hub.publish(JOB_PREFIX + job, [event]).ids[0]


async def test_what_was_read_holds_until_an_event_passes() -> None:
    bench = Bench()
    first = await bench.prefaces.of("a")
    assert await bench.prefaces.of("a") is first
    assert (first.over, first.updated_at, bench.temporal.asked) == (False, "2026-1", 1)
    assert json.loads(first.event.data)["operation_id"] == "a"
    mark = bench.publish("a", updated_at="2026-2")
    second = await bench.prefaces.of("a")
    assert (second.mark, bench.temporal.asked) == (mark, 2)


async def test_a_silent_job_is_looked_at_again_after_a_while_and_one_that_is_over_is_not() -> None:
    bench = Bench()
    await bench.prefaces.of("a")
    bench.now = FRESH_SECONDS
    bench.temporal.says = {"status": "terminated"}
    assert (await bench.prefaces.of("a")).over
    bench.now += 10 * FRESH_SECONDS
    assert (await bench.prefaces.of("a")).over
    assert bench.temporal.asked == 2


async def test_a_failure_goes_to_all_who_wait_and_is_not_kept() -> None:
    bench = Bench()
    bench.temporal.says = ConnectionError("away")
    bench.temporal.open.clear()
    waiting = [asyncio.ensure_future(bench.prefaces.of("a")) for _ in range(3)]
    await turn()
    assert "1 reading" in repr(bench.prefaces)
    bench.temporal.open.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in found] == [ConnectionError] * 3
    bench.temporal.says = {"status": "running"}
    assert (await bench.prefaces.of("a")).updated_at == ""
    assert bench.temporal.asked == 2


async def test_who_stops_waiting_takes_nothing_from_the_others() -> None:
    bench = Bench()
    bench.temporal.open.clear()
    leaving, staying = (asyncio.ensure_future(bench.prefaces.of("a")) for _ in range(2))
    await turn()
    leaving.cancel()
    await turn()
    bench.temporal.open.set()
    assert not (await staying).over
    assert bench.temporal.asked == 1


async def test_the_event_of_the_end_says_all_without_reading() -> None:
    bench = Bench()
    mark = bench.publish("a", "job.failed", status="timed_out", updated_at="2026-3")
    found = await bench.prefaces.of("a")
    assert (found.over, found.mark, found.updated_at) == (True, mark, "2026-3")
    assert json.loads(found.event.data)["status"] == "timed_out"
    assert await bench.prefaces.of("a") is found
    assert bench.temporal.asked == 0


async def test_an_end_that_is_no_longer_retained_is_read() -> None:
    bench = Bench(events=2)
    bench.publish("a", "job.completed", status="completed")
    for _ in range(2):
        bench.publish("a", "note")
    bench.temporal.says = {"status": "completed"}
    assert (await bench.prefaces.of("a")).over
    assert bench.temporal.asked == 1


async def test_a_job_that_outruns_every_read_is_told_what_is_lost() -> None:
    bench = Bench(events=2)
    read = bench.temporal.read

    async def outrun(operation_id: str) -> bytes:
        for _ in range(3):
            bench.publish("a", updated_at="2026-2")
        return await read(operation_id)

    bench.prefaces = Prefaces(bench.hub, outrun, lambda: bench.now)
    found = await bench.prefaces.of("a")
    assert bench.temporal.asked == 3
    ring = bench.hub.channels.get("job:a").ring
    position = found.locate(ring, None)
    assert (position.reset, position.lost, position.resumed) == ("trimmed", 1, False)


async def test_no_more_is_kept_than_there_is_room_for() -> None:
    bench = Bench()
    for number in range(MOST_KEPT + 1):
        await bench.prefaces.of(f"job-{number}")
    assert f"<Prefaces {MOST_KEPT} " in repr(bench.prefaces)
    asked = bench.temporal.asked
    await bench.prefaces.of(f"job-{MOST_KEPT}")
    assert bench.temporal.asked == asked
    await bench.prefaces.of("job-0")
    assert bench.temporal.asked == asked + 1
    bench.temporal.says = {"status": "completed", "result": "x" * 60_000}
    large = MOST_KEPT_BYTES // 60_000 + 10
    for number in range(large):
        await bench.prefaces.of(f"large-{number}")
    kept, size = map(int, repr(bench.prefaces).split()[1:3])
    assert kept < large
    assert MOST_KEPT_BYTES - 61_000 < size <= MOST_KEPT_BYTES


def test_a_status_that_is_no_object_is_told_as_it_is() -> None:
    found = preface_of(b"[1]", "abcdefgh-0")
    assert (found.event.data, found.over, found.updated_at) == (b"[1]", False, "")
    assert preface_of(b'"%b"' % (b"x" * 70_000), "abcdefgh-0").event.data.startswith(b'"xx')


def frame(kind: str, data: bytes) -> bytes:
    return b"id: abcdefgh-1\n" + encode(NewEvent(kind, data), uuid7(1.0), timestamp(1.0))


@pytest.mark.parametrize(
    ("kind", "data", "shown"),
    [
        ("job.progress", b'{"updated_at":"2026-1"}', False),
        ("job.progress", b'{"updated_at":"2026-2"}', True),
        ("job.step", b'{"updated_at":"2026-3"}', True),
        ("job.step", b'{"updated_at":1}', True),
        ("job.step", b'"updated_at"', True),
        ("job.completed", b'{"updated_at":"2026-1"}', True),
        ("job.failed", b'{"updated_at":"2026-1"}', True),
        ("job.cancelled", b'{"updated_at":"2026-1"}', True),
        ("question", b'{"updated_at":"2026-1"}', True),
    ],
)
def test_of_a_jobs_events_those_that_are_older_than_the_status_are_not_shown(
    kind: str, data: bytes, shown: bool
) -> None:
    preface = Preface(NewEvent("job.snapshot", b"{}"), "abcdefgh-0", "2026-2", over=False)
    lane = preface.shape(LANE, None)
    assert bool(lane.select([frame(kind, data)])) is shown
    assert preface.shape(LANE, None) is lane, "shared by who comes at the same time"
    assert preface.shape(LANE, "abcdefgh-0") is LANE, "who goes on wants all"
    timeless = Preface(NewEvent("job.snapshot", b"{}"), "abcdefgh-0", "", over=False)
    assert timeless.shape(LANE, None) is LANE


def test_a_readers_own_wishes_hold_beside_it() -> None:
    preface = Preface(NewEvent("job.snapshot", b"{}"), "abcdefgh-0", "2026-2", over=False)
    lane = preface.shape(Lane(True, "job.step"), None)
    new = b'{"updated_at":"2026-2"}'
    step, other = frame("job.step", new), frame("job.progress", new)
    assert lane.select([step, other]) == [step]
    assert lane.wants(b"job.step")
    assert not lane.wants(b"question")
    assert lane.wrap(b"abc") == b"3\r\nabc\r\n"
