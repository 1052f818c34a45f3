"""The benchmark of jobs: what it counts is right. No test here looks at a time."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench import jobs
from bench.jobs import Seen


def event(kind: str, **data: Any) -> bytes:
    written = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    envelope = {"event_type": kind, "data": {"updated_at": written} | data}
    return f"event: {kind}\ndata: {json.dumps(envelope)}\n\n".encode()


async def served(*answers: web.Response) -> TestServer:
    """Gives one answer after the other, whatever is asked."""
    left = list(answers)

    async def answer(_request: web.Request) -> web.Response:
        return left.pop(0)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    server = TestServer(app)
    await server.start_server()
    return server


async def test_only_what_comes_after_the_snapshot_is_an_update() -> None:
    stream = b"".join(
        (
            event("connection.established"),
            event("job.snapshot"),
            event("job.step"),
            event("heartbeat"),
            event("job.completed"),
        )
    )
    seen = Seen()
    server = await served(web.Response(body=stream), web.Response(status=503))
    async with server, aiohttp.ClientSession(server.make_url("/")) as session:
        assert await jobs._watched(session, "/stream", seen) == "job.completed"
        assert len(seen.progress_ms) == 2
        assert await jobs._watched(session, "/stream", seen) == "status 503"
    assert len(seen.progress_ms) == 2


async def test_a_job_that_did_not_do_what_it_should_is_counted_and_named() -> None:
    well = {"status": "completed", "result": {"status": 200}}
    refused = {"status": "completed", "result": {"status": 0, "error": {"message": "too often"}}}
    away = {"error": {"code": "SERVICE_UNAVAILABLE", "message": "ask again"}}
    late = {"operation_id": "x"}
    seen = Seen()
    server = await served(
        web.json_response(well),
        web.json_response(refused),
        web.json_response(away, status=503),
        web.json_response(late, status=202),
    )
    async with server, aiohttp.ClientSession(server.make_url("/")) as session:
        found = [(await jobs._one(session, seen, 1))[1] for _ in range(4)]
    assert found == [True, False, False, False]
    assert dict(seen.faults) == {
        "job answered 200: too often": 1,
        "job answered 503: ask again": 1,
        "job answered 202: None": 1,
    }


def test_the_section_says_what_was_met_and_what_was_missed() -> None:
    seen = Seen(
        start_ms=[9.0],
        wait_ms=[61.0],
        progress_ms=[1.0],
        at_once_seconds=2.0,
        watchers=10_000,
        kib_each=2.5,
        alone_p99_ms=[1.0, 1.0],
        held_p99_ms=[1.2, 1.2],
        beside_p99_ms=[1.4, 1.4],
        jobs_held=20,
        jobs_beside=100,
    )
    section = jobs._report(seen, 2, 8)
    assert "p99 < 100 ms | met |" in section
    assert "p50 ≤ 60 ms | missed: 61.00" in section
    assert "1.20 times |" in section
    assert "1.40 times, met" in section
    assert "goal: no error: met" in section
    assert "goal ≤ 2 KiB: missed: 2.50" in section
    assert section.endswith("Failed: none.")
    seen.at_once_failed = 3
    seen.faults["job answered 503: away"] = 3
    section = jobs._report(seen, 2, 8)
    assert "goal: no error: missed: 3 failed" in section
    assert section.endswith("Failed: 3 job answered 503: away.")


def test_a_part_without_samples_is_no_success() -> None:
    seen = Seen(alone_p99_ms=[1.0], held_p99_ms=[1.0], beside_p99_ms=[1.0])
    assert jobs._report(seen, 1, 1).count("none seen") == 3
