"""Histories that are read here, kept up to date by nudges and healed from a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from sse.hub import Hub
from sse.ring import HistoryLimits
from tests.connection import PATIENCE_SECONDS, eventually
from tests.redis_server import RedisServer
from tests.sse.gateways import QUICK, Gateway, Pass, heard_in_vain, note, notes, two


async def test_a_gap_between_nudges_is_filled_from_the_history(server: RedisServer) -> None:
    async with Pass(server.port) as way, Gateway(way.url) as here:
        reader = await here.read("alice")
        ids = await here.publish("alice", note(0))
        await reader.until(ids[0])
        way.deaf = "listening"
        ids += await here.publish("alice", note(1))
        ids += await here.publish("alice", note(2))
        await heard_in_vain(server)
        way.deaf = ""
        ids += await here.publish("alice", note(3))
        assert [event.id for event in await reader.events(3)] == ids[1:]


async def test_a_silent_history_is_compared_and_healed(server: RedisServer) -> None:
    times = replace(QUICK, silent=0.1)
    async with Pass(server.port) as way, Gateway(way.url, times=times) as here:
        reader = await here.read("alice")
        ids = await here.publish("alice", note(0))
        await reader.until(ids[0])
        way.deaf = "listening"
        ids += await here.publish("alice", note(1), note(2))
        assert [event.id for event in await reader.events(2)] == ids[1:]
        way.deaf = ""
        await heard_in_vain(server)
        ids += await here.publish("alice", note(3))
        assert (await reader.event()).id == ids[3]


async def test_a_listening_connection_that_says_nothing_any_more_is_given_up(
    server: RedisServer,
) -> None:
    times = replace(QUICK, answer=0.2)
    async with Pass(server.port) as way, Gateway(way.url, times=times) as here:
        reader = await here.read("alice")
        way.deaf = "listening"
        await eventually(lambda: "nothing heard" in str(here.log.lines))
        ids = await here.publish("alice", note(0))
        way.deaf = ""
        assert (await reader.event()).id == ids[0]
        await here.becomes("healthy")


async def test_a_history_forgotten_in_silence_is_noticed(server: RedisServer) -> None:
    async with Gateway(server.url, times=replace(QUICK, silent=0.1)) as here:
        reader = await here.read("alice")
        await reader.until((await here.publish("alice", note(0)))[0])
        await server.call("FLUSHALL")
        assert (await reader.event()).data == {"reason": "epoch", "lost": None}


async def test_what_is_no_nudge_leads_to_a_look_at_the_history(server: RedisServer) -> None:
    async with Gateway(server.url) as here:
        reader = await here.read("alice")
        ids = await here.publish("alice", note(0))
        for nonsense in (b"", b"\xff", b"a b c\n", b"a 1 2\nevent: x\n\n"):
            await server.call("PUBLISH", "gateway:0:alice", nonsense)
        await server.call("PUBLISH", "gateway:0:alice", b"otherone 7 1\nevent: x\ndata: {}\n\n")
        ids += await here.publish("alice", note(1))
        assert [event.id for event in await reader.events(2)] == ids
        assert here.log.events == []


async def test_a_history_is_forgotten_a_while_after_the_last_reader_and_not_before(
    server: RedisServer,
) -> None:
    limits = HistoryLimits(seconds=1.5)
    async with two(server.url, limits=limits) as (here, there):
        reader = await there.read("alice")
        first = await here.publish("alice", note(0))
        await reader.event()
        await _touched_again(server)
        await _touched_again(server)
        assert await here.publish("alice", note(1)) == [first[0][:-1] + "2"]
        reader.leave()
        await _gone(server)
        assert (await here.publish("alice", note(2)))[0][:8] != first[0][:8]


async def _touched_again(server: RedisServer) -> None:
    left = await server.call("PTTL", "gateway:events:alice")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (now := await server.call("PTTL", "gateway:events:alice")) <= left:
            left = now
    assert now > 0


async def _gone(server: RedisServer) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await server.call("EXISTS", "gateway:events:alice", "gateway:state:alice"):
            pass


async def test_a_burst_from_elsewhere_does_not_overtake_a_reader_that_keeps_up(
    server: RedisServer,
) -> None:
    async with two(server.url) as (here, there):
        reader = await there.read("alice")
        futures = [here.backplane.publish("alice", notes(100)) for _ in range(20)]
        last = (await futures[-1]).ids[-1]
        got = await reader.until(last)
        assert [event.seq for event in got] == list(range(1, 2001))
        assert not reader.ledger.resets


async def test_a_redis_that_hangs_is_noticed_by_a_gateway_that_does_nothing(
    server: RedisServer,
) -> None:
    async with Gateway(server.url, times=replace(QUICK, answer=1.0, connect=1.0)) as here:
        server.hang()
        await here.becomes("degraded")
        reader = await here.read("alice")
        server.resume()
        await here.becomes("healthy")
        ids = await here.publish("alice", note(0))
        assert (await reader.until(ids[0]))[-1].id == ids[0]
        assert isinstance(here.backplane.state["latency_ms"], float)


class Stumbling(Hub):
    """A hub with a mistake that shows once."""

    stumbled = False

    def deliver(self, client_id: str, epoch: str, first_seq: int, bodies: Sequence[bytes]) -> bool:
        if not self.stumbled:
            self.stumbled = True
            raise RuntimeError("a mistake")
        return super().deliver(client_id, epoch, first_seq, bodies)


async def test_a_listener_that_dies_of_a_mistake_starts_again_and_says_so(
    server: RedisServer,
) -> None:
    async with Gateway(server.url, hub=Stumbling) as here:
        reader = await here.read("alice")
        ids = await here.publish("alice", note(0))
        ids += await here.publish("alice", note(1))
        assert [event.id for event in await reader.events(2)] == ids
        await here.becomes("healthy")
        assert here.log.events == ["backplane task failed", "backplane lost", "backplane healed"]
        assert "RuntimeError: a mistake" in str(here.log.lines[1])
