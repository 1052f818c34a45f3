"""Events of jobs through Redis: into the histories that all gateways read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
import structlog

from gateway.jobs.activities.parts import NotPublishedError
from gateway.jobs.activity_models import JobEvent
from gateway.jobs.redis_publisher import RedisPublisher
from gateway.settings import Settings
from sse.ring import HistoryLimits
from tests.redis_server import RedisServer

HISTORY = HistoryLimits(events=100, seconds=300.0)
LOG = structlog.get_logger("test")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    server = RedisServer(tmp_path)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(kill=True)


async def kept(server: RedisServer) -> list[bytes]:
    """All members of lists and streams that Redis holds, whatever they are kept under."""
    found: list[bytes] = []
    for key in await server.call("KEYS", "*"):
        kind = await server.call("TYPE", key)
        if kind == b"list":
            found += await server.call("LRANGE", key, 0, -1)
        elif kind == b"stream":
            entries = await server.call("XRANGE", key, "-", "+")
            found += [each for _, fields in entries for each in fields.values()]
    return found


async def test_events_are_published_in_order_and_once_for_a_key(server: RedisServer) -> None:
    publisher = RedisPublisher(server.url, HISTORY, LOG)
    await publisher.start()
    assert publisher.state["state"] == "healthy"
    events = [JobEvent("job.progress", {"progress": 0.5}), JobEvent("job.completed", {"x": "ü"})]
    for _ in range(2):
        await publisher.publish("job:a", events, "key")
    await publisher.close()
    frames = [each for each in await kept(server) if b"event: job." in each]
    told = [orjson.loads(frame.split(b"data: ", 1)[1].split(b"\n", 1)[0]) for frame in frames]
    assert [(each["event_type"], each["data"]) for each in told] == [
        ("job.progress", {"progress": 0.5}),
        ("job.completed", {"x": "ü"}),
    ]
    assert "RedisPublisher" in repr(publisher)


async def test_while_redis_is_away_nothing_is_published_and_that_is_said(
    server: RedisServer,
) -> None:
    publisher = RedisPublisher(server.url, HISTORY, LOG)
    await server.stop(kill=True)
    await publisher.start()
    assert publisher.state["state"] == "degraded"
    with pytest.raises(NotPublishedError) as refused:
        await publisher.publish("job:a", [JobEvent("job.progress", {})], "key")
    assert not refused.value.final
    await publisher.close()


def test_the_history_of_a_worker_is_the_gateways() -> None:
    settings = Settings()
    assert HistoryLimits(settings.history_events, seconds=settings.history_seconds) == HISTORY
