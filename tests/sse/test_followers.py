"""Followers: a history is known here while somebody wants it, and its end is told."""

from __future__ import annotations

import asyncio
import time

import pytest

from sse.event import NewEvent
from sse.hub import Hub, HubLimits
from sse.ring import HistoryLimits
from tests.connection import eventually
from tests.redis_server import RedisServer
from tests.sse.gateways import Gateway, note, two


def a_hub() -> Hub:
    limits = HubLimits(HistoryLimits(seconds=10))
    return Hub(asyncio.get_running_loop(), limits, lambda: 0.0, time.time)


async def test_without_other_gateways_a_history_is_known_at_once() -> None:
    hub = a_hub()
    with hub.follow("job:a") as follower:
        assert repr(follower) == "<Follower known>"
        await follower.known
        assert hub.subscribers("job:a") == 0
    follower.close()
    assert repr(follower) == "<Follower closed>"


async def test_what_is_followed_is_not_forgotten() -> None:
    now = 0.0
    hub = Hub(
        asyncio.get_running_loop(), HubLimits(HistoryLimits(seconds=10)), lambda: now, time.time
    )
    [kept] = hub.publish("a", [note(1)]).ids
    with hub.follow("a"), hub.follow("a"):
        now = 20.0
        hub.channels.expire()
        assert hub.channels.get("a").ring.locate(kept).resumed
    hub.channels.expire()
    assert hub.channels.find("a") is not None, "its time begins when the last one leaves"
    now = 31.0
    hub.channels.expire()
    assert hub.channels.find("a") is None


async def test_a_jobs_end_is_told_with_its_data() -> None:
    hub = a_hub()
    told: list[tuple[str, bytes]] = []
    hub.job_ended = lambda operation_id, data: told.append((operation_id, data))
    for kind in ("job.started", "job.progress", "job.completed"):
        hub.publish("job:a", [NewEvent(kind, b'{"data":[1]}')])
        hub.publish("alice", [NewEvent(kind, b"1")])
    assert told == [("a", b'{"data":[1]}')]


async def test_who_is_told_of_an_end_and_fails_holds_up_nobody() -> None:
    hub = a_hub()
    seen: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))

    def fails(operation_id: str, data: bytes) -> None:
        raise RuntimeError(operation_id)

    hub.job_ended = fails
    assert hub.publish("job:a", [NewEvent("job.failed", b"{}")]).ids
    assert [str(each["exception"]) for each in seen] == ["a"]


async def test_a_follower_hears_what_other_gateways_publish(server: RedisServer) -> None:
    async with two(server.url) as (here, there):
        told: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        there.hub.job_ended = lambda operation_id, data: told.put_nowait((operation_id, data))
        follower = there.hub.follow("job:a")
        assert repr(follower) == "<Follower waiting>"
        await follower.known
        assert there.hub.channels.get("job:a").ready
        reader = await there.read("job:a")
        [sent] = await here.publish("job:a", NewEvent("job.completed", b"{}"))
        assert (await reader.event()).id == sent
        assert await told.get() == ("a", b"{}")
        follower.close()
        reader.leave()
        await eventually(lambda: not there.hub.channels.get("job:a").is_wanted, "left")


async def test_a_reader_that_stays_behind_a_follower_goes_on_hearing(server: RedisServer) -> None:
    async with two(server.url) as (here, there):
        with there.hub.follow("a") as follower:
            await follower.known
            reader = await there.read("a")
        [sent] = await here.publish("a", note(1))
        assert (await reader.event()).id == sent


@pytest.mark.parametrize("close_first", [True, False])
async def test_with_redis_away_it_is_certain_soon_that_nobody_can_say(
    server: RedisServer, close_first: bool
) -> None:
    async with Gateway(server.url) as gateway:
        await server.stop()
        await gateway.becomes("degraded")
        follower = gateway.hub.follow("job:a")
        if close_first:
            follower.close()
            assert follower.known.cancelled()
        else:
            await follower.known
            follower.close()
