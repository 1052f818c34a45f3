"""Two gateways, one real Redis: the same events everywhere, whatever is lost on the way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from sse.backplane import Backplane
from sse.event import BackplaneAwayError
from tests.connection import PATIENCE_SECONDS, eventually
from tests.redis_server import RedisServer, redis_server
from tests.sse.gateways import LIMITS, QUICK, Gateway, Lines, Pass, note, notes, two


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with redis_server() as started:
        yield started


@pytest.fixture
async def lasting() -> AsyncIterator[RedisServer]:
    async with redis_server(appendonly=True) as started:
        yield started


async def test_an_event_reaches_the_readers_of_all_gateways_under_one_id(
    server: RedisServer,
) -> None:
    async with two(server.url) as (here, there):
        readers = [await here.read("alice"), await there.read("alice")]
        ids = await here.publish("alice", note(1), note(2))
        epoch = readers[0].established.data["epoch"]
        assert ids == [f"{epoch}-1", f"{epoch}-2"]
        for reader in readers:
            assert reader.established.data["epoch"] == epoch
            got = await reader.events(2)
            assert [event.id for event in got] == ids
            assert [event.data["n"] for event in got] == [1, 2]
        assert await there.publish("alice", note(3)) == [f"{epoch}-3"]
        for reader in readers:
            assert (await reader.event()).id == f"{epoch}-3"


@pytest.mark.parametrize("seed", range(3))
async def test_concurrent_lists_from_two_gateways_are_whole_and_in_one_order_for_all(
    server: RedisServer, seed: int
) -> None:
    chance = random.Random(seed)
    async with two(server.url) as gateways:
        readers = [await gateway.read(name) for gateway in gateways for name in ("a", "b")]
        asked = []
        for number in range(150):
            gateway, name = chance.choice(gateways), chance.choice("ab")
            events = [note(number * 100 + at) for at in range(chance.choice((1, 1, 2, 7)))]
            asked.append((name, events, asyncio.ensure_future(gateway.publish(name, *events))))
            if chance.random() < 0.2:
                await asyncio.sleep(0)
        expected: dict[str, dict[str, bytes]] = {"a": {}, "b": {}}
        for name, events, future in asked:
            ids = await future
            numbers = [int(each.rpartition("-")[2]) for each in ids]
            assert numbers == list(range(numbers[0], numbers[0] + len(events)))
            assert not set(ids) & set(expected[name])
            expected[name] |= {each: event.data for each, event in zip(ids, events, strict=True)}
        for reader, name in zip(readers, "abab", strict=True):
            wanted = expected[name]
            got = await reader.events(len(wanted))
            assert {event.id: event.data["n"] for event in got} == {
                each: int(data.split(b":")[1].split(b",")[0]) for each, data in wanted.items()
            }
            assert [event.seq for event in got] == list(range(1, len(wanted) + 1))


async def test_a_reader_that_comes_back_elsewhere_resumes_with_the_same_ids(
    server: RedisServer,
) -> None:
    async with two(server.url) as (here, there):
        reader = await here.read("alice")
        ids = await here.publish("alice", *notes(3))
        await reader.until(ids[-1])
        reader.leave()
        ids += await here.publish("alice", *notes(4, 3))
        again = await there.read("alice", after=ids[2])
        assert again.established.data["resumed"] is True
        assert [event.id for event in await again.events(4)] == ids[3:]
        ids += await here.publish("alice", note(7))
        assert (await again.event()).id == ids[-1]


async def test_what_was_published_before_anybody_read_is_retained(server: RedisServer) -> None:
    async with two(server.url) as (here, there):
        ids = await here.publish("alice", *notes(120))
        reader = await there.read("alice", after="earliest")
        assert [event.id for event in await reader.events(100)] == ids[20:]
        late = await there.read("alice", after=ids[9])
        reset = await late.event()
        assert reset.data == {"reason": "trimmed", "lost": 10}
        assert (await late.event()).id == ids[20]


async def test_lost_nudges_are_healed_from_the_history(server: RedisServer) -> None:
    async with two(server.url) as (here, there):
        readers = [await here.read("alice"), await there.read("alice")]
        ids: list[str] = []
        for number in range(20):
            if number % 4 == 0:
                await server.call("CLIENT", "KILL", "TYPE", "pubsub")
            ids += await here.publish("alice", note(number))
        for reader in readers:
            assert [event.id for event in await reader.events(20)] == ids
            assert not reader.ledger.resets
        await here.becomes("healthy")
        await there.becomes("healthy")


async def test_all_connections_cut_again_and_again_lose_and_double_nothing(
    server: RedisServer,
) -> None:
    async with two(server.url) as (here, there):
        readers = [await here.read("alice"), await there.read("alice")]
        ids: list[str] = []
        for number in range(60):
            if number % 10 == 0:
                await server.call("CLIENT", "KILL", "SKIPME", "yes")
            ids += await (here, there)[number % 2].publish("alice", note(number))
        assert [each.rpartition("-")[2] for each in ids] == [str(at) for at in range(1, 61)]
        for reader in readers:
            assert [event.id for event in await reader.events(60)] == ids


async def test_a_killed_redis_with_its_data_goes_on_where_it_was(lasting: RedisServer) -> None:
    async with two(lasting.url) as (here, there):
        readers = [await here.read("alice"), await there.read("alice")]
        ids = await here.publish("alice", *notes(3))
        await lasting.stop(kill=True)
        await here.becomes("degraded")
        await lasting.start()
        await here.becomes("healthy")
        await there.becomes("healthy")
        ids += await there.publish("alice", note(3))
        for reader in readers:
            assert [event.id for event in await reader.events(4)] == ids
            assert not reader.ledger.resets


async def test_a_redis_without_its_data_begins_anew_and_says_so(server: RedisServer) -> None:
    async with two(server.url) as (here, there):
        readers = [await here.read("alice"), await there.read("alice")]
        ids = await here.publish("alice", *notes(3))
        for reader in readers:
            await reader.until(ids[-1])
        await server.stop(kill=True)
        await here.becomes("degraded")
        await server.start()
        for reader in readers:
            reset = await reader.event()
            assert reset.type == "stream.reset"
            assert reset.data == {"reason": "epoch", "lost": None}
        await there.becomes("healthy")
        fresh = await there.publish("alice", note(3))
        for reader in readers:
            assert (await reader.event()).id == fresh[0]
        assert fresh[0].endswith("-1")
        assert fresh[0][:8] != ids[0][:8]
        back = await there.read("alice", after=ids[1])
        assert (await back.event()).data["reason"] == "epoch"
        assert (await back.event()).id == fresh[0]


async def test_numbers_of_a_snapshot_are_not_given_twice_and_what_it_holds_is_kept(
    server: RedisServer,
) -> None:
    async with two(server.url) as (here, there):
        live = await there.read("alice")
        old = await here.publish("alice", *notes(3))
        await server.call("SAVE")
        old += await here.publish("alice", *notes(3, 3))
        await live.until(old[-1])
        await server.stop(kill=True)
        await here.becomes("degraded")
        await server.start()  # with three of the six
        await here.becomes("healthy")
        await there.becomes("healthy")
        new = await here.publish("alice", *notes(3, 6))
        assert new[0][:8] != old[0][:8]
        assert new[0].endswith("-4")
        back = await here.read("alice", after=old[4])
        for reader in (live, back):
            assert (await reader.event()).data == {"reason": "epoch", "lost": None}
            got = await reader.events(6)
            assert [event.data["n"] for event in got] == [0, 1, 2, 6, 7, 8]
            assert [event.id for event in got[3:]] == new


async def test_a_flushed_redis_begins_anew_at_the_next_event(server: RedisServer) -> None:
    async with two(server.url) as (here, there):
        reader = await there.read("alice")
        await reader.until((await here.publish("alice", note(1)))[0])
        await server.call("FLUSHALL")
        fresh = await here.publish("alice", note(2))
        assert (await reader.event()).data == {"reason": "epoch", "lost": None}
        assert (await reader.event()).id == fresh[0]


async def test_strict_publishing_is_refused_while_redis_is_away(lasting: RedisServer) -> None:
    async with two(lasting.url) as (here, there):
        reader = await here.read("alice")
        await here.publish("alice", note(1))
        await reader.event()
        await lasting.stop(kill=True)
        await here.becomes("degraded")
        with pytest.raises(BackplaneAwayError):
            await here.publish("alice", note(2))
        assert "connecting" in str(here.backplane.state["error"])
        joined = await here.read("alice", after=reader.ledger.last)
        assert joined.established.data["resumed"] is True
        await lasting.start()
        await here.becomes("healthy")
        await there.becomes("healthy")
        ids = await there.publish("alice", note(3))
        for each in (reader, joined):
            assert [(await each.event()).id] == ids
        assert here.log.events == ["backplane lost", "backplane healed"]
        assert here.backplane.state["error"] is None


async def test_best_effort_publishes_here_and_heals_to_the_history_of_all(
    lasting: RedisServer,
) -> None:
    async with two(lasting.url, strict=False) as (here, there):
        reader, other = await here.read("alice"), await there.read("alice")
        shared = await here.publish("alice", note(1))
        await reader.until(shared[0])
        await lasting.stop(kill=True)
        await here.becomes("degraded")
        await eventually(lambda: "away" in repr(here.backplane))
        done = await here.backplane.publish("alice", [note(2)])
        assert done.subscribers == 1
        assert done.ids[0][:8] != shared[0][:8]
        done = await here.backplane.publish("alice", [note(3)])
        assert (await reader.event()).data["reason"] == "epoch"
        assert [event.data["n"] for event in await reader.events(2)] == [2, 3]
        assert reader.ledger.last == done.ids[0]
        await lasting.start()
        await here.becomes("healthy")
        await there.becomes("healthy")
        assert (await reader.event()).data["reason"] == "epoch"
        assert (await reader.event()).id == shared[0]
        shared += await there.publish("alice", note(4))
        assert (await reader.event()).id == shared[1]
        assert [event.id for event in await other.events(2)] == shared
        assert not other.ledger.resets


async def test_best_effort_serves_who_comes_while_redis_is_away(server: RedisServer) -> None:
    await server.stop()
    async with Gateway(server.url, strict=False) as here:
        assert here.state == "degraded"
        ids = await here.publish("alice", note(1))
        reader = await here.read("alice", after="earliest")
        assert (await reader.event()).id == ids[0]
        await server.start()
        await here.becomes("healthy")
        assert (await reader.event()).data["reason"] == "epoch"
        ids = await here.publish("alice", note(2))
        assert (await reader.event()).id == ids[0]
        assert ids[0].endswith("-1")


async def test_subscribers_are_counted_on_all_gateways(server: RedisServer) -> None:
    async with two(server.url) as (here, there):
        assert (await here.backplane.publish("alice", [note(0)])).subscribers == 0
        for _ in range(2):
            await here.read("alice")
        assert (await here.backplane.publish("alice", [note(1)])).subscribers == 2
        for _ in range(3):
            await there.read("alice")
        for gateway in (here, there):
            await _counts(gateway, 5)
        await there.__aexit__()
        await _counts(here, 2)


async def _counts(gateway: Gateway, subscribers: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await gateway.backplane.publish("alice", [note(1)])).subscribers != subscribers:
            pass


async def test_a_publication_whose_answer_was_lost_is_done_once(server: RedisServer) -> None:
    async with Pass(server.port) as way, Gateway(way.url) as here:
        epoch = (await here.publish("alice", note(0)))[0][:8]
        for number in range(1, 4):
            way.lose_answers_to = b'"n":%d' % number
            ids = await here.publish("alice", note(number), note(-number))
            assert ids == [f"{epoch}-{2 * number}", f"{epoch}-{2 * number + 1}"]
            assert way.lost == number
        assert await server.call("LLEN", "gateway:events:alice") == 7


async def test_a_named_publication_is_done_once_wherever_it_is_repeated(
    server: RedisServer,
) -> None:
    async with two(server.url) as (here, there):
        ids = await here.publish("alice", *notes(3), name="key 1 of bob")
        assert await there.publish("alice", *notes(3), name="key 1 of bob") == ids
        other = await there.publish("alice", *notes(3), name="key 2 of bob")
        assert other[0].endswith("-4")
        assert (await there.publish("bob", *notes(3), name="key 1 of bob"))[0].endswith("-1")


async def test_a_gateway_starts_beside_a_redis_that_hangs(server: RedisServer) -> None:
    server.hang()
    async with Gateway(server.url, times=replace(QUICK, connect=0.1)) as here:
        assert here.state == "degraded"
        server.resume()
        await here.becomes("healthy")
        assert await here.publish("alice", note(0))


async def test_a_password_is_never_told(server: RedisServer) -> None:
    url = server.url.replace("//", "//:geheim@")
    async with Gateway(url) as here:
        assert here.state == "degraded"
        assert "geheim" not in repr((here.log.lines, here.backplane.state, here.backplane))
    with pytest.raises(ValueError, match="can't be read") as caught:
        Backplane("redis://:geheim/1@h:x/0", here.hub, LIMITS, strict=True, log=Lines())
    assert "geheim" not in repr(caught.value)


async def test_keys_have_one_prefix_and_all_of_them_expire(server: RedisServer) -> None:
    async with two(server.url) as (here, there):
        await here.publish("alice", *notes(3), name="once")
        await here.publish("bob", note(1))
        await there.read("alice")
        await there.read("carol")
        await _counts(here, 1)
        keys = await server.call("KEYS", "*")
        assert len(keys) >= 8
        for key in keys:
            assert key.startswith(b"gateway:")
            most_ms = 30 * 86_400_000 if key == b"gateway:life" else 300_000
            assert 0 < await server.call("PTTL", key) <= most_ms, key


async def test_gateways_agree_on_the_life_of_redis_when_it_has_forgotten_it(
    lasting: RedisServer,
) -> None:
    async with Gateway(lasting.url) as here:
        old = await here.publish("alice", note(0))
        await lasting.stop(kill=True)
        await here.becomes("degraded")
        await lasting.start()  # the same life
        await here.becomes("healthy")
        old += await here.publish("alice", note(1))
        assert old[1] == old[0][:-1] + "2"
        async with Gateway(lasting.url) as there:
            number = 2
            for _ in range(2):
                await lasting.call("DEL", "gateway:life")
                new = []
                for gateway in (here, there, there, here):
                    new += await gateway.publish("alice", note(number))
                    number += 1
                    assert new[-1].rpartition("-")[2] == str(number)
                assert len({each[:8] for each in new}) == 1
