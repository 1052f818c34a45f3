"""Publications on their way to a real Redis: batches, bounds, and what becomes of them when it is
away, slow, full or read-only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from sse.backplane_publishing import QUEUE_EVENTS
from sse.event import BackplaneAwayError
from sse.ring import HistoryLimits
from tests.connection import eventually, turn
from tests.redis_server import RedisServer, redis_server
from tests.sse.gateways import QUICK, Gateway, Pass, calls, note, notes, two


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with redis_server() as started:
        yield started


async def test_what_is_published_in_one_turn_goes_out_in_few_commands(
    server: RedisServer,
) -> None:
    async with Gateway(server.url) as here:
        before = await calls(server, "evalsha")
        futures = [here.backplane.publish(f"c{at % 300}", [note(at)]) for at in range(1500)]
        done = await asyncio.gather(*futures)
        assert await calls(server, "evalsha") - before <= 5
        assert [each.ids[0].rpartition("-")[2] for each in done[::300]] == list("12345")


async def test_publications_for_one_client_id_share_a_nudge_and_keep_their_ids(
    server: RedisServer,
) -> None:
    async with two(server.url) as (here, there):
        reader = await there.read("alice")
        before = await calls(server, "publish")
        futures = [here.backplane.publish("alice", notes(1 + at % 3)) for at in range(60)]
        ids = [each for future in futures for each in (await future).ids]
        assert [each.rpartition("-")[2] for each in ids] == [str(at) for at in range(1, 121)]
        assert await calls(server, "publish") - before <= 6
        assert [event.id for event in await reader.events(120)] == ids


async def test_a_history_is_cut_at_the_same_event_in_redis_and_in_rings(
    server: RedisServer,
) -> None:
    limits = HistoryLimits(events=10, size_bytes=20_000)
    async with two(server.url, limits=limits) as (here, there):
        grown = await here.read("alice")
        for number in range(25):
            await here.publish("alice", note(number))
        assert await server.call("LLEN", "gateway:events:alice") == 10
        ids = []
        for number in range(9):
            ids += await here.publish("alice", note(number, 3000))
        assert await server.call("LLEN", "gateway:events:alice") == 6
        await grown.until(ids[-1])
        for gateway in (here, there):
            reader = await gateway.read("alice", after="earliest")
            assert [event.id for event in await reader.events(6)] == ids[3:]
        ids = await here.publish("alice", note(0, 30_000))
        assert await server.call("LLEN", "gateway:events:alice") == 1
        ids += await here.publish("alice", note(1))
        state = (await server.call("GET", "gateway:state:alice")).split()
        kept = await server.call("LRANGE", "gateway:events:alice", 0, -1)
        assert int(state[2]) == sum(len(body) + 20 for body in kept)
        assert state[1].decode() == ids[-1].rpartition("-")[2]


async def test_a_list_longer_than_the_history_is_numbered_whole(server: RedisServer) -> None:
    async with Gateway(server.url) as here:
        ids = await here.publish("alice", *notes(2500))
        assert ids[-1].endswith("-2500")
        assert await server.call("LLEN", "gateway:events:alice") == 100
        reader = await here.read("alice", after="earliest")
        assert [event.data["n"] for event in await reader.events(100)] == list(range(2400, 2500))


async def test_a_publication_that_redis_comes_to_too_late_is_not_done(
    server: RedisServer,
) -> None:
    async with Gateway(server.url, times=replace(QUICK, publish=1.0, connect=1.0)) as here:
        first = await here.publish("alice", note(1))
        server.hang()
        late = [here.backplane.publish("alice", [note(2)]) for _ in range(3)]
        for future in late:
            with pytest.raises(BackplaneAwayError):
                await future
        await here.becomes("degraded")
        server.resume()
        await here.becomes("healthy")
        assert await here.publish("alice", note(3)) == [first[0][:-1] + "2"]


async def test_a_clock_of_redis_that_jumps_costs_one_batch_at_most(server: RedisServer) -> None:
    async with Gateway(server.url) as here:
        await here.publish("alice", note(0))
        here.backplane._publishing._ahead_seconds -= 60  # as if Redis's clock was put forward
        with pytest.raises(BackplaneAwayError):
            await here.publish("alice", note(1))
        assert (await here.publish("alice", note(2)))[0].endswith("-2")


async def test_publishing_goes_on_where_the_answer_of_two_batches_was_lost(
    server: RedisServer,
) -> None:
    async with Pass(server.port) as way, Gateway(way.url) as here:
        await here.publish("alice", note(0))
        way.lose_answers_to = b'"n":1,'
        first = here.backplane.publish("alice", [note(1)])
        await asyncio.sleep(0)
        second = here.backplane.publish("alice", [note(2)])
        third = here.backplane.publish("alice", [note(3)])
        done = [await first, await second, await third]
        assert [each.ids[0].rpartition("-")[2] for each in done] == ["2", "3", "4"]
        assert way.lost == 1
        assert await server.call("LLEN", "gateway:events:alice") == 4


async def test_what_may_have_been_done_is_refused_when_redis_stays_away(
    server: RedisServer,
) -> None:
    times = replace(QUICK, publish=1.0)
    async with Pass(server.port) as way, Gateway(way.url, times=times) as here:
        way.lose_answers_to, way.refuse_after_loss = b'"n":1,', True
        sent = here.backplane.publish("alice", [note(1)], "a name")
        with pytest.raises(BackplaneAwayError):
            await sent
        way.refusing = False
        await here.becomes("healthy")
        assert (await here.publish("alice", note(1), name="a name"))[0].endswith("-1")
        assert await server.call("LLEN", "gateway:events:alice") == 1


async def test_best_effort_publishes_here_what_was_under_way(server: RedisServer) -> None:
    async with Gateway(server.url, strict=False) as here:
        reader = await here.read("alice")
        futures = [here.backplane.publish("alice", [note(at)]) for at in range(5)]
        await server.stop(kill=True)
        assert len({(await future).ids[0] for future in futures}) == 5
        got = [await reader.event()]
        while got[-1].type != "note" or got[-1].data["n"] != 4:
            got.append(await reader.event())
        alone = [event.data["n"] for event in got if event.id and event.type == "note"]
        assert alone[-5:] == [0, 1, 2, 3, 4]


async def test_publishing_here_alone_and_hearing_of_others_never_share_an_id(
    server: RedisServer,
) -> None:
    async with (
        Pass(server.port) as way,
        Gateway(server.url) as there,
        Gateway(way.url, strict=False) as here,
    ):
        reader = await here.read("alice")
        shared = await here.publish("alice", note(0))
        await reader.until(shared[0])
        await _lose_publishing(server, way, here)
        alone = await here.publish("alice", note(1))
        await reader.until(alone[0])
        shared += await there.publish("alice", note(2))
        await reader.until(shared[1])
        again = await here.publish("alice", note(3))
        await reader.until(again[0])
        assert len({each[:8] for each in (shared[0], shared[1], alone[0], again[0])}) == 3
        way.refusing = False
        await here.becomes("healthy")
        await reader.until(shared[1])
        shared += await here.publish("alice", note(4))
        assert (await reader.event()).id == shared[2]


async def _lose_publishing(server: RedisServer, way: Pass, gateway: Gateway) -> None:
    """Cuts the connections that a gateway publishes over, for good."""
    way.refusing = True
    for client in (await server.call("CLIENT", "LIST")).splitlines():
        if b"name=gateway-publishing" in client and way.holds(client):
            await server.call("CLIENT", "KILL", "ID", client.split()[0].removeprefix(b"id="))
    await eventually(lambda: "publishing away" in repr(gateway.backplane))


async def test_too_much_that_waits_is_refused(server: RedisServer) -> None:
    async with Gateway(server.url) as here:
        await here.publish("alice", note(0))
        server.hang()
        futures = [here.backplane.publish("alice", notes(100)) for _ in range(QUEUE_EVENTS // 100)]
        over = here.backplane.publish("alice", notes(1))
        with pytest.raises(BackplaneAwayError):
            await over
        server.resume()
        assert (await futures[-1]).ids[-1].endswith(f"-{QUEUE_EVENTS + 1}")


async def test_a_publication_nobody_waits_for_any_more_is_not_sent(server: RedisServer) -> None:
    async with Gateway(server.url) as here:
        futures = [here.backplane.publish("alice", [note(at)]) for at in range(3)]
        futures[1].cancel()
        assert (await futures[2]).ids[0].endswith("-2")
        before = await calls(server, "evalsha")
        only = here.backplane.publish("bob", [note(0)])
        only.cancel()
        await turn(5)
        assert await calls(server, "evalsha") == before
        await here.publish("alice", note(3))
        assert await server.call("EXISTS", "gateway:state:bob") == 0


async def test_one_history_that_is_broken_harms_no_other(server: RedisServer) -> None:
    async with Gateway(server.url) as here:
        await here.publish("alice", note(0))
        state = await server.call("GET", "gateway:state:alice")
        await server.call("SET", "gateway:state:bob", state)
        await server.call("SET", "gateway:events:bob", "not a list")
        bad = here.backplane.publish("bob", [note(1)])
        good = here.backplane.publish("alice", [note(2)])
        assert (await good).ids[0].endswith("-2")
        with pytest.raises(BackplaneAwayError, match="refused"):
            await bad
        assert here.state == "healthy"
        with pytest.raises(BackplaneAwayError, match="refused"):
            await here.publish("bob", note(3))
        assert "WRONGTYPE" in str(here.backplane.state["error"])
        await here.publish("alice", note(4))
        assert here.state == "healthy"


async def test_a_full_redis_refuses_and_heals(server: RedisServer) -> None:
    async with Gateway(server.url) as here:
        await server.call("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(BackplaneAwayError):
            await here.publish("alice", note(1))
        await here.becomes("degraded")
        assert "maxmemory" in str(here.backplane.state["error"])
        await server.call("CONFIG", "SET", "maxmemory", "0")
        assert (await here.publish("alice", note(1)))[0].endswith("-1")
        await here.becomes("healthy")


async def test_scripts_that_redis_has_forgotten_are_made_known_again(server: RedisServer) -> None:
    async with Gateway(server.url) as here:
        await here.publish("alice", note(1))
        await server.call("SCRIPT", "FLUSH")
        assert (await here.publish("alice", note(2)))[0].endswith("-2")
        reader = await here.read("alice", after="earliest")
        assert [event.data["n"] for event in await reader.events(2)] == [1, 2]


async def test_a_primary_that_has_become_a_replica_is_waited_for(server: RedisServer) -> None:
    async with Gateway(server.url) as here:
        await here.publish("alice", note(1))
        await server.call("REPLICAOF", "127.0.0.1", "1")
        future = here.backplane.publish("alice", [note(2)])
        await eventually(lambda: here.state == "degraded")
        await server.call("REPLICAOF", "NO", "ONE")
        assert (await future).ids


async def test_closing_refuses_what_is_under_way(server: RedisServer) -> None:
    async with Gateway(server.url) as here:
        await here.publish("alice", note(0))
        server.hang()
        futures = [here.backplane.publish("alice", notes(20)) for _ in range(100)]
        await asyncio.sleep(0)
        await here.backplane.close()
        futures.append(here.backplane.publish("alice", [note(1)]))
        for future in futures:
            with pytest.raises(BackplaneAwayError):
                await future
        server.resume()
