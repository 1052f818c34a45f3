"""Readers that come, leave and come back: what they are let in on while a history loads from a real
Redis, and how long they wait for one that hangs or is away.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

from tests.connection import PATIENCE_SECONDS, eventually
from tests.redis_server import RedisServer
from tests.sse.gateways import QUICK, Gateway, Pass, Reader, calls, heard_in_vain, note, notes, two

CALM = replace(QUICK, tick=60)
"""Nothing is asked of Redis but what must be."""


async def test_what_is_published_while_a_history_loads_comes_behind_it(
    server: RedisServer,
) -> None:
    async with (
        Pass(server.port) as way,
        Gateway(way.url, times=CALM) as here,
        Gateway(server.url) as there,
    ):
        await here.read("bob")
        ids = await there.publish("alice", *notes(3))
        way.hold("reading")
        reader = await here.join("alice", "earliest")
        witness = await there.read("alice")
        await _subscribed(server, 2)
        for number in range(3, 50):
            ids += await there.publish("alice", note(number))
        await witness.until(ids[-1])
        way.release("reading")
        assert (await reader.event()).type == "connection.established"
        assert [event.id for event in await reader.events(50)] == ids
        assert not reader.ledger.resets


async def test_more_than_a_history_published_while_it_loads_is_told_as_lost(
    server: RedisServer,
) -> None:
    async with (
        Pass(server.port) as way,
        Gateway(way.url, times=CALM) as here,
        Gateway(server.url) as there,
    ):
        await here.read("bob")
        way.hold("reading")
        reader = await here.join("alice", "earliest")
        await _subscribed(server, 1)
        await _visited(server)
        ids: list[str] = []
        for number in range(130):
            ids += await there.publish("alice", note(number))
        witness = await there.read("alice", after="earliest")
        await witness.until(ids[-1])
        way.release("reading")
        assert (await reader.event()).type == "connection.established"
        got = await reader.until(ids[-1])
        assert [event.id for event in got if event.id] == ids[30:]


async def _subscribed(server: RedisServer, count: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await server.call("PUBSUB", "NUMSUB", "gateway:0:alice"))[1] != count:
            pass


async def _visited(server: RedisServer) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await server.call("EXISTS", "gateway:readers:alice"):
            pass


async def test_a_history_forgotten_while_it_loads_begins_anew(server: RedisServer) -> None:
    async with (
        Pass(server.port) as way,
        Gateway(way.url, times=CALM) as here,
        Gateway(server.url) as there,
    ):
        await here.read("bob")
        ids = await there.publish("alice", *notes(3))
        way.hold("reading")
        reader = await here.join("alice", ids[0])
        await _visited(server)
        await server.call("FLUSHALL")
        way.release("reading")
        established = await reader.event()
        assert established.data["epoch"] != ids[0][:8]
        assert (await reader.event()).data["reason"] == "epoch"
        ids = await there.publish("alice", note(3))
        assert (await reader.event()).id == ids[0]


async def test_a_reader_that_comes_back_before_anything_is_confirmed_misses_nothing(
    server: RedisServer,
) -> None:
    async with Pass(server.port) as way, Gateway(way.url, times=CALM) as here:
        await here.read("bob")
        way.hold("listening")
        for _ in range(3):
            gone = await here.join("alice")
            await _subscribed(server, 1)
            gone.leave()
            await eventually(lambda: here.hub.subscribers("alice") == 0)
        reader = await here.join("alice", "earliest")
        ids = await here.publish("alice", note(0))
        way.hold("reading")
        way.release("listening")
        ids += await here.publish("alice", note(1))
        way.release("reading")
        ids += await here.publish("alice", note(2))
        assert [event.id for event in await reader.until(ids[-1])] == [None, *ids]


async def test_thousands_that_come_at_once_are_let_in_with_few_commands(
    server: RedisServer,
) -> None:
    count = 2000
    async with two(server.url, times=replace(QUICK, join=60)) as (here, there):
        published = [here.backplane.publish(f"c{at}", [note(at)]) for at in range(0, count, 2)]
        ids = [(await future).ids[0] for future in published]
        before = [await calls(server, name) for name in ("subscribe", "evalsha")]
        seats = [await there.seat() for _ in range(count)]
        readers = [reader for _, reader in seats]
        for at, (transport, _) in enumerate(seats):
            there.join_at(transport, f"c{at}", "earliest")
        for at, reader in enumerate(readers):
            assert (await reader.event()).type == "connection.established"
            if at % 2 == 0:
                event = await reader.event()
                assert (event.id, event.data["n"]) == (ids[at // 2], at)
        after = [await calls(server, name) for name in ("subscribe", "evalsha")]
        assert after[0] - before[0] < count / 10
        assert after[1] - before[1] < count / 10
        await server.call("CLIENT", "KILL", "TYPE", "pubsub")
        fresh = [here.backplane.publish(f"c{at}", [note(-at)]) for at in range(count)]
        fresh_ids = [(await future).ids[0] for future in fresh]
        for at, reader in enumerate(readers):
            assert (await reader.event()).id == fresh_ids[at]


async def test_readers_that_come_and_go_while_events_fly_get_each_once(
    server: RedisServer,
) -> None:
    chance = random.Random(7)
    async with two(server.url) as gateways:
        ids: list[str] = []
        positions: list[str | None] = ["earliest"] * 6
        reading: list[tuple[int, Reader]] = []
        for number in range(120):
            gateway = chance.choice(gateways)
            future = asyncio.ensure_future(gateway.publish("alice", *notes(chance.randint(1, 3))))
            if positions and chance.random() < 0.4:
                after = positions.pop()
                reading.append((number, await chance.choice(gateways).join("alice", after)))
            if reading and chance.random() < 0.3:
                _, reader = reading.pop(chance.randrange(len(reading)))
                await reader.event()
                position = await _some(reader, chance.randint(0, 3))
                reader.leave()
                positions.append(position)
            ids += await future
        for _, reader in reading:
            got = [event for event in await reader.until(ids[-1]) if event.id]
            last = [event.id for event in got]
            assert last == ids[-len(last) :]


async def _some(reader: Reader, count: int) -> str:
    """Where a reader is after some more events, or from the start."""
    for _ in range(count):
        if reader.client.unread:
            await reader.event()
    return reader.ledger.last or "earliest"


async def test_a_history_of_megabytes_is_loaded(server: RedisServer) -> None:
    async with two(server.url) as (here, there):
        ids: list[str] = []
        for number in range(60):
            ids += await here.publish("alice", note(number, 60_000))
            ids += await here.publish("bob", note(number, 60_000))
        for name, own in (("alice", ids[::2]), ("bob", ids[1::2])):
            reader = await there.read(name, after="earliest")
            assert [event.id for event in await reader.events(60)] == own


async def test_large_histories_asked_for_together_are_loaded_a_few_at_a_time(
    server: RedisServer,
) -> None:
    async with two(server.url) as (here, there):
        last = []
        for name in "abcde":
            for number in range(10):
                ids = await here.publish(name, note(number, 60_000))
            last.append(ids[0])
        before = await calls(server, "lrange")
        seats = [await there.seat() for _ in range(5)]
        for (transport, _), name in zip(seats, "abcde", strict=True):
            there.join_at(transport, name, "earliest")
        for (_, reader), event_id in zip(seats, last, strict=True):
            assert len(await reader.until(event_id)) == 11
        assert await calls(server, "lrange") - before == 5


async def test_a_reader_that_leaves_while_its_history_loads_is_nobody_s_concern(
    server: RedisServer,
) -> None:
    async with Pass(server.port) as way, Gateway(way.url, times=CALM) as here:
        await here.read("bob")
        ids = await here.publish("alice", *notes(3))
        way.hold("reading")
        gone = await here.join("alice", "earliest")
        await _visited(server)
        assert "loading" in repr(here.backplane._watching._watched["alice"])
        gone.leave()
        await eventually(lambda: here.hub.subscribers("alice") == 0)
        again = await here.join("alice", "earliest")
        way.release("reading")
        assert [event.id for event in await again.events(4)] == [None, *ids]


async def test_a_reader_ahead_of_this_gateway_is_let_in_on_what_redis_has(
    server: RedisServer,
) -> None:
    async with (
        Pass(server.port) as way,
        Gateway(way.url, times=CALM) as here,
        Gateway(server.url) as there,
    ):
        witness = await here.read("alice")
        way.deaf = "listening"
        ids = await there.publish("alice", *notes(2))
        first = await here.read("alice", after=ids[0])
        assert first.established.data["resumed"] is True
        way.hold("reading")
        ids += await there.publish("alice", *notes(2, 2))
        joined = []
        for at in (2, 3, 3, 3, 3):
            joined.append((at, await here.join("alice", after=ids[at])))
            await _visited(server)
        way.release("reading")
        for at, reader in joined:
            reader.ledger.last = ids[at]
            assert (await reader.event()).data["resumed"] is True
        await heard_in_vain(server)
        way.deaf = ""
        ids += await there.publish("alice", note(4))
        for after, reader in [(0, witness), (1, first), *((at + 1, each) for at, each in joined)]:
            assert [event.id for event in await reader.events(5 - after)] == ids[after:]
            assert not reader.ledger.resets


async def test_a_reader_ahead_of_this_gateway_does_not_wait_for_a_redis_that_is_away(
    lasting: RedisServer,
) -> None:
    async with two(lasting.url) as (here, there):
        witness = await here.read("alice")
        ids = await there.publish("alice", *notes(2))
        await witness.until(ids[1])
        await lasting.stop(kill=True)
        await here.becomes("degraded")
        reader = await here.read("alice", after=ids[1][:-1] + "7")
        assert reader.established.type == "connection.established"
        await lasting.start()
        await here.becomes("healthy")


async def test_a_reader_waits_no_longer_than_that_for_a_redis_that_hangs(
    server: RedisServer,
) -> None:
    async with Gateway(server.url, times=replace(QUICK, join=0.1)) as here:
        server.hang()
        reader = await here.read("alice")
        server.resume()
        await here.becomes("healthy")
        ids = await here.publish("alice", note(0))
        assert (await reader.until(ids[0]))[-1].data["n"] == 0


async def test_a_reader_waits_for_a_redis_that_answers_others_but_not_for_ever(
    server: RedisServer,
) -> None:
    times = replace(QUICK, join=0.1, silent=0.02)
    async with Pass(server.port) as way, Gateway(way.url, times=times) as here:
        await here.read("bob")
        way.hold("listening")
        gone, reader = await here.join("alice"), await here.join("carol")
        gone.leave()
        assert (await reader.event()).type == "connection.established"
        way.release("listening")
        ids = await here.publish("carol", note(0))
        assert (await reader.until(ids[0]))[-1].id == ids[0]


async def test_a_history_that_fell_behind_unread_misleads_nobody_while_redis_is_away(
    lasting: RedisServer,
) -> None:
    async with two(lasting.url) as (here, there):
        reader = await here.read("alice")
        ids = await here.publish("alice", *notes(2))
        await reader.until(ids[-1])
        reader.leave()
        await eventually(lambda: here.hub.subscribers("alice") == 0)
        ids += await there.publish("alice", *notes(3, 2))
        await lasting.stop(kill=True)
        await here.becomes("degraded")
        behind = await here.read("alice", after=ids[1])
        ahead = await here.read("alice", after=ids[3])
        await lasting.start()
        await here.becomes("healthy")
        await there.becomes("healthy")
        ids += await there.publish("alice", note(5))
        for reader, missed in ((behind, 2), (ahead, 4)):
            assert [event.id for event in await reader.events(6 - missed)] == ids[missed:]
            assert not reader.ledger.resets


async def test_a_reader_that_leaves_at_once_leaves_nothing_behind(server: RedisServer) -> None:
    async with Gateway(server.url) as here:
        for _ in range(3):
            (await here.join("alice")).leave()
            await eventually(lambda: here.hub.count == 0)
        reader = await here.read("alice")
        ids = await here.publish("alice", note(0))
        assert (await reader.event()).id == ids[0]
        reader.leave()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await server.call("PUBSUB", "NUMSUB", "gateway:0:alice"))[1]:
                pass
            while await server.call("EXISTS", "gateway:readers:alice"):
                pass
