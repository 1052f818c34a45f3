"""Without Temporal everything else works, and job paths say what to set."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from gateway.jobs import connect
from tests.connection import eventually
from tests.messages import Message, assert_error
from tests.scenarios.governed import in_front, row
from tests.scenarios.job_calls import ALICE, API, LIST, call, fetch
from tests.streams import SECRET, Door, post
from tests.wire import free_port, start_gateway

ID = "0123456789abcdef-01a20060-8eb6-7c9b-b11b-526389e7ce20"
KEYED: dict[str, Any] = {"JWT_SECRET": SECRET}
LATER = b"Prefer: respond-async"


async def all_paths(door: Door) -> list[Message]:
    """What each path of jobs answers."""
    answers = []
    for prefix in (LIST, "/api/workflows"):
        answers.append(await door.ask(post(f"{prefix}/{API}", call("/a"), ALICE)))
        answers.append(await fetch(door, prefix, ALICE))
        for word in ("status", "result", "history", "stream"):
            path = f"{prefix}/{ID}/{word}"
            answers.append(await fetch(door, path, ALICE, b"Accept: */*"))
        for word in ("cancel", "terminate", "signal/pause", "update/skip_step"):
            answers.append(await door.ask(post(f"{prefix}/{ID}/{word}", b"", ALICE)))
    return answers


@pytest.mark.parametrize(
    ("environ", "name"),
    [({}, "TEMPORAL_ADDRESS"), ({"TEMPORAL_ADDRESS": "127.0.0.1:1"}, "PAYLOAD_KEYS")],
)
async def test_job_paths_say_what_to_set(environ: dict[str, str], name: str) -> None:
    async with start_gateway(**(KEYED | environ)) as gateway:
        for response in await all_paths(gateway):
            error = assert_error(response, 503, "SERVICE_UNAVAILABLE")
            assert name in error["message"], error
        assert (await fetch(gateway, "/health/ready")).status == 200
        assert (await fetch(gateway, "/openapi.json")).status == 200


async def test_while_temporal_is_away_jobs_are_503_with_when_to_come_back() -> None:
    keys = f"now:{base64.b64encode(b'k' * 32).decode()}"
    away = {"TEMPORAL_ADDRESS": f"127.0.0.1:{free_port()}", "PAYLOAD_KEYS": keys}
    async with start_gateway(**(KEYED | away)) as gateway:
        for response in await all_paths(gateway):
            error = assert_error(response, 503, "SERVICE_UNAVAILABLE")
            assert error["retry_after"] >= 1
            assert int(response.get("retry-after") or b"0") == error["retry_after"]
        health = (await fetch(gateway, "/health")).json()
        assert health["checks"]["temporal"]["status"] == "degraded"
        assert (await fetch(gateway, "/health/ready")).status == 200


async def test_why_temporal_is_away_is_logged_anew_when_it_changes_and_bugs_are_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faults: list[Exception] = [RuntimeError("no one\nthere"), LookupError("marked-detail")]

    async def fails(*_: object, **__: object) -> None:
        raise faults[0] if len(faults) == 1 else faults.pop(0)

    monkeypatch.setattr(connect, "connect", fails)
    keys = f"now:{base64.b64encode(b'k' * 32).decode()}"
    async with start_gateway(**KEYED, TEMPORAL_ADDRESS="127.0.0.1:1", PAYLOAD_KEYS=keys) as gateway:

        def away() -> list[Any]:
            return [each for each in gateway.log() if each["message"] == "temporal_away"]

        await eventually(lambda: len(away()) == 2, "the second reason")
        first, second = away()
        assert first["error"] == "no one there"
        assert "exception" not in first
        assert "marked-detail" in second["exception"]
        response = await fetch(gateway, LIST, ALICE)
        assert "LookupError" in response.json()["error"]["message"]
        health = (await fetch(gateway, "/health")).body
        assert b"LookupError" in health
        assert b"marked-detail" not in response.body + health


async def test_a_wish_for_later_is_passed_over_and_a_row_that_insists_is_503() -> None:
    rows = (row("/slow/:id", 'durable = "always"'),)
    async with in_front("", *rows, lines=("durable = true",)) as (gateway, upstream):
        response = await fetch(gateway, "/api/v1/svc/x", ALICE, LATER)
        assert (response.status, response.get("preference-applied")) == (200, None)
        assert len(upstream.requests) == 1
        response = await fetch(gateway, "/slow/7", ALICE)
        assert_error(response, 503, "SERVICE_UNAVAILABLE")
        assert len(upstream.requests) == 1
