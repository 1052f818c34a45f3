"""Limits shared by leases go on when Redis is slow, away, wrong or empty, or out of reach."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace

import pytest

from gateway.policy.limit_rules import UNKNOWN, Bucket, Rule
from gateway.policy.ratelimit_redis import LeasedBuckets
from tests.connection import eventually, turn
from tests.policy.leased import FAST, HASTY, PATIENT, TEN, Start, passed
from tests.policy.leasing import Relay
from tests.processes import free_port
from tests.redis_server import RedisServer


async def test_redis_killed_leaves_the_tokens_that_are_leased(
    start: Start, server: RedisServer
) -> None:
    here, there = await start(), await start()
    await passed(0.25)  # so that both have heard of each other
    await eventually(lambda: here.buckets.gateways == 2)
    assert await here.admits(TEN)
    assert await there.admits(TEN)
    await server.stop(kill=True)
    await eventually(lambda: not here.buckets.shared and not there.buckets.shared)
    assert 1 + await here.drain(TEN) + 1 + await there.drain(TEN) <= 5
    assert await here.drain(TEN, "s:new") == 0
    assert here.lines.names == ["limits_local"]
    assert here.lines.all[0][1]["gateways"] == 2
    assert here.buckets.state["state"] == "degraded"
    assert here.buckets.outages == 1


async def test_without_redis_each_gateway_has_its_share_of_the_rate(
    start: Start, server: RedisServer
) -> None:
    times = replace(PATIENT, beat=0.05, away=0.2, silent=0.1)
    here, _ = await start(times), await start(times)
    await eventually(lambda: here.buckets.gateways == 2)
    await server.stop(kill=True)
    await eventually(lambda: not here.buckets.shared)
    rule = Rule("steady", (Bucket("burst", 40, 80.0, 1),))
    admitted, began = 0, time.monotonic()
    while time.monotonic() < began + 1.0:
        admitted += await here.drain(rule)
        wait = await here.said(rule)
        if not isinstance(wait, float):
            admitted += 1
            continue
        await passed(wait)
        assert await here.admits(rule)
        admitted += 1
    assert 10 <= admitted <= 80 / 2 * (time.monotonic() - began) + 20
    (left, seconds), *_ = here.buckets.standing(rule, "s:new", time.monotonic())
    assert (left, seconds) == (40, 0.0)
    assert here.buckets.standing(rule, "s:alice", time.monotonic())[0][0] <= 20


async def test_a_restarted_empty_redis_begins_with_empty_buckets(
    start: Start, server: RedisServer
) -> None:
    here = await start()
    assert await here.admits(TEN)
    await server.stop(kill=True)
    await server.start()
    await eventually(lambda: here.lines.names == ["limits_local", "limits_shared"])
    assert here.lines.all[1][1]["redis_lost_data"]
    assert here.buckets.shared
    assert here.buckets.state == {"state": "healthy", "gateways": 1, "error": None}
    assert await here.drain(TEN) == 0
    assert await here.drain(TEN, "s:new") == 0


async def test_a_flushed_redis_begins_with_empty_buckets(start: Start, server: RedisServer) -> None:
    here = await start()
    assert await here.admits(TEN)
    await server.call("FLUSHALL")
    await eventually(lambda: here.lines.names == ["limits_local", "limits_shared"])
    assert await here.drain(TEN) == 0


async def test_scripts_that_redis_forgot_are_loaded_again(
    start: Start, server: RedisServer
) -> None:
    here = await start()
    await server.call("SCRIPT", "FLUSH")
    await eventually(lambda: here.lines.names == ["limits_local", "limits_shared"])
    assert not here.lines.all[1][1]["redis_lost_data"]
    assert await here.drain(TEN) == 10


async def test_the_only_gateway_goes_on_with_all_that_was_left(
    start: Start, server: RedisServer
) -> None:
    here = await start()
    for _ in range(3):
        assert await here.admits(TEN)
    server.hang()
    here.buckets._link._times = HASTY
    assert await here.drain(TEN) == 7
    await eventually(lambda: not here.buckets.shared)
    wait = await here.said(TEN)
    assert isinstance(wait, float)
    assert 900 < wait < 1000
    server.resume()
    await eventually(lambda: here.buckets.shared)
    assert await here.drain(TEN) == 0


async def test_what_the_only_gateway_used_alone_is_told_to_redis(
    start: Start, server: RedisServer
) -> None:
    here = await start()
    assert await here.admits(TEN)
    assert await here.admits(FAST, "s:bob")
    server.hang()
    here.buckets._link._times = HASTY
    await eventually(lambda: not here.buckets.shared)
    for _ in range(6):
        assert await here.admits(TEN)
    server.resume()
    await eventually(lambda: here.buckets.shared and not len(here.buckets))
    there = await start()
    assert await there.drain(TEN) == 3


async def test_a_redis_that_hangs_is_waited_for_shortly(start: Start, server: RedisServer) -> None:
    here, _ = await start(), await start()
    await eventually(lambda: here.buckets.gateways == 2)
    assert await here.admits(TEN)
    here.buckets._times = here.buckets._link._times = HASTY
    server.hang()
    assert not await here.admits(TEN, "s:new")
    assert await here.admits(TEN)  # of its lease
    await eventually(lambda: here.lines.names == ["limits_local"])
    here.buckets._times = here.buckets._link._times = PATIENT
    server.resume()
    await eventually(lambda: here.lines.names == ["limits_local", "limits_shared"])
    assert await here.admits(TEN, "s:new")


async def test_a_gateway_that_believes_to_be_alone_hears_of_another_before_that_one_begins(
    start: Start, relay: Relay
) -> None:
    times = replace(PATIENT, silent=0.6, wait=0.02)
    here = await start(times, relay.url)
    await eventually(lambda: here.buckets._link.alone_since is not None)
    assert await here.admits(TEN)
    relay.cut()
    there = asyncio.create_task(start(times))
    assert await here.drain(TEN, "s:alice") == 9
    relay.mend()
    other = await there
    await eventually(lambda: other.buckets.shared)
    assert here.buckets.gateways == 2
    assert here.buckets._link.alone_since is None
    await eventually(lambda: not here.buckets._entries[TEN.id, "s:alice"].credit)
    await here.drain(TEN, "s:alice")
    assert await other.drain(TEN) == 0


async def test_a_redis_that_is_slow_at_first_is_waited_for(start: Start, relay: Relay) -> None:
    relay.delay_seconds = 0.05
    times = replace(PATIENT, wait=0.02)
    starting = asyncio.create_task(start(times, relay.url))
    await passed(0.4)
    assert not starting.done()
    relay.delay_seconds = 0.0
    assert (await starting).buckets.shared


def held_up(server: RedisServer, seconds: float) -> None:
    """The loop is busy for so long, and until Redis has answered what it was asked before."""
    end = time.monotonic() + seconds
    with socket.create_connection(("127.0.0.1", server.port)) as asking:
        for _ in range(2):  # the first may come in one turn with what others asked
            asking.sendall(b"PING\r\n")
            assert asking.recv(100)
    while time.monotonic() < end:
        pass


async def test_a_busy_loop_is_no_slow_redis(start: Start, server: RedisServer) -> None:
    here, _ = await start(), await start()
    await eventually(lambda: here.buckets.gateways == 2)
    link = here.buckets._link
    here.buckets._times = link._times = replace(PATIENT, wait=0.02, beat=60.0)
    await eventually(lambda: link._next_beat > time.monotonic() + 30.0)
    for number in range(5):
        waiting = asyncio.create_task(here.said(TEN, number))
        await turn(2)
        assert link._asks
        held_up(server, 0.05)
        assert not isinstance(await waiting, float)


async def test_a_redis_that_is_always_slow_is_as_good_as_away(start: Start, relay: Relay) -> None:
    times = replace(PATIENT, wait=0.02, slow=0.1, beat=0.02)
    here = await start(times, relay.url)
    await eventually(lambda: here.buckets.shared)
    relay.delay_seconds = 0.05
    await eventually(lambda: not here.buckets.shared)
    assert "slow" in str(here.buckets.error)
    await passed(0.3)
    assert here.lines.names == ["limits_local"]
    relay.delay_seconds = 0.0
    await eventually(lambda: here.buckets.shared)


async def test_a_gateway_that_is_cut_off_goes_on_alone_and_the_others_with_redis(
    start: Start, relay: Relay
) -> None:
    there = await start()
    here = await start(HASTY, relay.url)
    await eventually(lambda: there.buckets.gateways == here.buckets.gateways == 2)
    relay.cut()
    await eventually(lambda: not here.buckets.shared)
    rule = Rule("steady", (Bucket("burst", 4, 50.0, 1),))
    await eventually(lambda: here.buckets.look(rule, "s:alice", 1, time.monotonic()) == 0.0)
    assert await there.admits(rule)
    assert there.buckets.shared
    relay.mend()
    await eventually(lambda: here.buckets.shared)
    assert here.lines.names == ["limits_local", "limits_shared"]
    assert there.lines.names == []


async def test_what_a_forgotten_gateway_used_alone_is_told_to_redis(
    start: Start, relay: Relay
) -> None:
    times = replace(HASTY, beat=0.05, away=0.1, silent=0.2, seen=0.5, wait=5.0, idle=0.2)
    there = await start(times)
    here = await start(times, relay.url)
    await eventually(lambda: there.buckets.gateways == here.buckets.gateways == 2)
    relay.cut()
    await eventually(lambda: there.buckets.gateways == 1)
    rule = Rule("few", (Bucket("minute", 8, 2.0, 4),))
    used = 0

    async def use() -> None:
        nonlocal used
        used += await here.admits(rule)

    while used < 2:
        await use()
        await passed(0.01)
    relay.mend()
    await eventually(lambda: here.buckets.shared and not len(here.buckets))
    assert await there.drain(rule) <= 8 - used + 2


async def test_a_gateway_that_begins_without_redis_has_full_buckets_and_tells_what_it_used(
    server: RedisServer, start: Start
) -> None:
    await server.stop()
    here = await start(replace(PATIENT, idle=0.1), gateways=2)
    assert not here.buckets.shared
    assert await here.drain(TEN) == 5  # its share
    assert here.buckets.standing(TEN, "s:alice", time.monotonic())[0][0] == 0
    await server.start()
    await eventually(lambda: here.buckets.shared and not len(here.buckets))
    there = await start()
    assert await there.drain(TEN) == 5


async def test_while_a_gateway_joins_nothing_is_admitted_and_nobody_waits_long() -> None:
    buckets = LeasedBuckets("redis://127.0.0.1:1/0")
    assert buckets.look(TEN, "s:alice", 1, time.monotonic()) == 0.0
    buckets.joining()
    assert buckets.look(TEN, "s:alice", 1, time.monotonic()) == UNKNOWN
    await buckets.pending([(TEN, "s:alice")], 1).wait
    assert 0.0 < buckets.look(TEN, "s:alice", 1, time.monotonic()) <= 0.02
    buckets.refused()
    assert buckets.look(TEN, "s:alice", 1, time.monotonic()) == 0.0


async def test_the_only_gateway_admits_by_what_is_left_while_redis_is_slow(
    start: Start, relay: Relay
) -> None:
    here = await start(replace(PATIENT, wait=0.02), relay.url)
    await eventually(lambda: here.buckets._link.alone_since is not None)
    assert await here.admits(TEN)
    relay.cut()
    assert await here.drain(TEN) == 9
    assert here.buckets.shared
    here.buckets._link.alone_since = None  # as if another one had been heard of
    assert isinstance(here.buckets.take(TEN, "s:alice", 1, time.monotonic()), float)
    relay.mend()
    await eventually(lambda: not here.buckets._entries[TEN.id, "s:alice"].has_news)
    assert await here.drain(TEN) == 0


@pytest.mark.parametrize("kind", ["full", "replica"])
async def test_a_redis_that_takes_no_writes_is_as_good_as_away(
    start: Start, server: RedisServer, kind: str
) -> None:
    here, _ = await start(), await start()
    await eventually(lambda: here.buckets.gateways == 2)
    assert await here.admits(TEN)
    if kind == "full":
        await server.call("CONFIG", "SET", "maxmemory", "1")
    else:
        await server.call("REPLICAOF", "127.0.0.1", free_port())
    await eventually(lambda: here.lines.names == ["limits_local"])
    assert await here.admits(TEN)
    assert not await here.admits(TEN, "s:new")
    await passed(0.3)  # it tries again and again
    if kind == "full":
        await server.call("CONFIG", "SET", "maxmemory", "0")
    else:
        await server.call("REPLICAOF", "NO", "ONE")
    await eventually(lambda: here.lines.names == ["limits_local", "limits_shared"])


async def test_a_redis_that_is_loading_is_as_good_as_away(start: Start) -> None:
    async def loading(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(b"-LOADING Redis is loading the dataset in memory\r\n" * 2)
        writer.close()

    async with await asyncio.start_server(loading, "127.0.0.1", 0) as fake:
        port = fake.sockets[0].getsockname()[1]
        here = await start(PATIENT, f"redis://127.0.0.1:{port}/0")
        assert here.lines.names == ["limits_local"]
        assert "loading" in str(here.lines.all[0][1]["error"])
        assert await here.drain(TEN) == 10


async def test_a_redis_that_does_not_tell_its_run_is_used_all_the_same(
    start: Start, server: RedisServer
) -> None:
    await server.call("ACL", "SETUSER", "default", "-info")
    here = await start()
    assert here.buckets.shared
    assert await here.drain(TEN) == 10
    await server.call("FLUSHALL")
    await eventually(lambda: here.lines.names == ["limits_local", "limits_shared"])
    assert await here.drain(TEN, "s:new") == 0


async def test_a_mistake_of_ours_is_logged_and_survived(start: Start) -> None:
    here = await start()

    def broken(*_: object) -> None:
        raise RuntimeError("ours")

    here.buckets.answered = broken  # type: ignore[assignment,method-assign]
    assert await here.drain(TEN) >= 0
    await eventually(lambda: "limits_failed" in here.lines.names)
    del here.buckets.answered
    await eventually(lambda: here.lines.names[-1] == "limits_shared")
    assert 0 < await here.drain(TEN) <= 10
