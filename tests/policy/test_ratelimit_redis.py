"""Limits shared by leases, over a real Redis: what several gateways admit together, what they tell,
and what becomes of leases.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from gateway.policy.limit_rules import UNKNOWN, Bucket, Rule
from gateway.policy.ratelimit_redis import LeasedBuckets
from tests.connection import eventually
from tests.policy.leased import BOTH, FAST, PATIENT, TEN, Start, passed
from tests.redis_server import RedisServer


async def test_the_first_request_of_a_key_waits_once_then_memory_is_enough(start: Start) -> None:
    here = await start()
    now = time.monotonic()
    assert here.buckets.look(TEN, "s:alice", 1, now) == UNKNOWN
    await here.buckets.pending([(TEN, "s:alice")], 1).wait
    assert here.buckets.look(TEN, "s:alice", 1, now) == 0.0
    assert here.buckets.spend(TEN, "s:alice", 1, now)[0][0] == 9
    assert here.buckets.take(TEN, "s:alice", 1, now)[0][0] == 8  # type: ignore[index]


async def test_gateways_together_admit_one_limit(start: Start) -> None:
    gateways = [await start() for _ in range(3)]
    admitted = [0, 0, 0]
    for _ in range(20):
        for number, gateway in enumerate(gateways):
            admitted[number] += await gateway.admits(TEN)
    assert sum(admitted) == 10
    assert min(admitted) > 0


async def test_keys_and_rules_have_their_own_buckets(start: Start) -> None:
    here = await start()
    assert await here.drain(TEN) == 10
    assert await here.drain(TEN, "s:bob") == 10
    assert await here.drain(TEN, 42) == 10
    assert await here.drain(Rule("other", TEN.buckets)) == 10


async def test_what_is_told_counts_down_in_every_bucket(start: Start) -> None:
    here = await start()
    for used in range(1, 6):
        said = await here.said(BOTH)
        assert not isinstance(said, float)
        (burst, burst_seconds), (minute, minute_seconds) = said
        assert burst >= 10 - used  # and some came back by now
        assert 60 - used <= minute <= 60
        assert burst_seconds == pytest.approx((10 - burst) / 10, abs=0.11)
        assert minute_seconds == pytest.approx(60 - minute, abs=1.1)
        assert here.buckets.standing(BOTH, "s:alice", time.monotonic())[1][0] >= minute


async def test_a_refusal_names_the_seconds_and_asks_nobody(start: Start) -> None:
    here = await start()
    await here.drain(TEN)
    wait = here.buckets.take(TEN, "s:alice", 1, time.monotonic())
    assert isinstance(wait, float)
    assert 900 < wait <= 1000
    assert here.buckets.standing(TEN, "s:alice", time.monotonic())[0][0] == 0


async def test_a_client_that_waits_as_told_is_admitted(start: Start) -> None:
    here, _ = await start(), await start()
    for _ in range(3):
        while not isinstance(wait := await here.said(FAST), float):
            pass
        await passed(wait)
        assert await here.admits(FAST)


async def test_who_waits_while_another_gateway_holds_the_tokens_is_told_so(start: Start) -> None:
    times = replace(PATIENT, idle=60.0)
    here, there = await start(times), await start(times)
    rule = Rule("narrow", (Bucket("burst", 4, 100.0, 1),))
    await there.admits(rule)
    assert await here.admits(rule)
    wait = await here.said(rule, cost=4)
    assert isinstance(wait, float)
    assert wait > 0.1  # its lease lasts for longer than the bucket takes to fill


async def test_a_request_may_cost_more_than_one_token(start: Start) -> None:
    here = await start()
    assert await here.admits(TEN, cost=7)
    assert not await here.admits(TEN, cost=7)
    assert await here.admits(TEN, cost=3)


async def test_several_rules_are_asked_for_at_once(start: Start) -> None:
    here = await start()
    rules = [(TEN, "s:alice"), (FAST, "s:alice"), (BOTH, "t:acme")]
    await here.buckets.pending(rules, 1).wait
    now = time.monotonic()
    assert [here.buckets.look(rule, key, 1, now) for rule, key in rules] == [0.0, 0.0, 0.0]


async def test_of_many_that_wait_for_one_key_as_many_are_admitted_as_may_be(start: Start) -> None:
    here = await start()
    admitted = await asyncio.gather(*(here.admits(TEN) for _ in range(30)))
    assert sum(admitted) == 10


async def test_who_waits_no_more_holds_up_nobody(start: Start) -> None:
    here = await start()
    waiting = asyncio.ensure_future(here.said(TEN))
    await asyncio.sleep(0)
    waiting.cancel()
    here.buckets.pending([(TEN, "s:bob")], 1)  # and nobody awaits this
    assert await here.drain(TEN) == 10


async def test_idle_leases_come_back(start: Start) -> None:
    here = await start(replace(PATIENT, idle=0.05))
    there = await start()
    assert await here.admits(TEN)
    await eventually(lambda: not len(here.buckets))
    assert await there.drain(TEN) == 9


async def test_leases_in_use_go_on(start: Start) -> None:
    here = await start(replace(PATIENT, idle=0.05, lease=0.4, margin=0.1))
    rule = Rule("wide", (Bucket("minute", 1000, 0.001, 1_000_000),))
    left = 1000
    for _ in range(40):
        said = await here.said(rule)
        assert not isinstance(said, float)
        assert said[0][0] == left - 1
        left = said[0][0]
        await passed(0.02)


async def test_closing_gives_all_back_and_leaves(start: Start, server: RedisServer) -> None:
    here, there = await start(), await start()
    for number in range(5):
        assert await here.admits(TEN, number)
    await here.buckets.close()
    assert await there.drain(TEN, 0) == 9
    assert await server.call("HLEN", "gateway:{limits}:gateways") == 1
    await here.buckets.close()  # once more does nothing


async def test_a_killed_gateways_lease_ends(start: Start) -> None:
    times = replace(PATIENT, lease=0.6, margin=0.1, beat=0.05, silent=30.0)
    here, there = await start(times), await start(times)
    rule = Rule("half", (Bucket("burst", 8, 100.0, 1),))
    began = time.monotonic()
    assert await here.admits(rule)
    await here.crash()
    # What it held is not admitted by others at once, but the bucket is theirs when it has ended.
    while isinstance(wait := await there.said(rule, cost=8), float):
        await passed(wait)
    assert time.monotonic() - began > 0.99 * times.lease


async def test_nobodys_name_is_in_redis(start: Start, server: RedisServer) -> None:
    here = await start()
    await here.admits(TEN, "s:alice@example.org")
    for key in await server.call("KEYS", "*"):
        kept = await server.call("HGETALL", key)
        assert key.startswith(b"gateway:{limits}")
        assert b"alice" not in key + b"".join(map(bytes, kept))


async def test_a_key_that_was_never_seen_is_full_and_not_remembered(start: Start) -> None:
    here = await start()
    assert here.buckets.standing(BOTH, "s:new", 0.0) == [(10, 0.0), (60, 0.0)]
    assert len(here.buckets) == 0


async def test_the_table_is_bounded_and_a_key_given_up_gives_its_lease_back(start: Start) -> None:
    here, there = await start(max_keys=2), await start()
    for number in range(5):
        assert await here.admits(TEN, number)
        assert len(here.buckets) <= 2
    await eventually(lambda: not here.buckets._gone)
    assert await there.drain(TEN, 0) == 9
    assert await here.drain(TEN, 0) == 0


async def test_a_lease_that_ended_unused_is_asked_for_again(start: Start) -> None:
    here = await start(replace(PATIENT, idle=60.0, lease=0.2, margin=0.1))
    assert await here.admits(TEN)
    await passed(0.15)
    assert here.buckets.look(TEN, "s:alice", 1, time.monotonic()) == UNKNOWN
    assert await here.admits(TEN)


async def test_a_key_that_had_to_go_between_look_and_spend_is_an_error_for_nobody() -> None:
    buckets = LeasedBuckets("redis://127.0.0.1:1/0", max_keys=1)
    assert buckets.look(TEN, "s:alice", 1, 0.0) == 0.0
    assert buckets.look(TEN, "s:bob", 1, 0.0) == 0.0
    assert len(buckets) == 1
    assert buckets.spend(TEN, "s:alice", 1, 0.0)[0][0] == 9


def test_a_url_that_cannot_be_read_is_refused_without_its_words() -> None:
    with pytest.raises(ValueError, match="can't be read") as refused:
        LeasedBuckets("http://:secret@host/")
    assert "secret" not in str(refused.value)


async def test_showing_them_shows_no_address(start: Start) -> None:
    buckets = LeasedBuckets("redis://:secret@host/0")
    assert repr(buckets) == "<LeasedBuckets <Share apart 1/1> keys=0 gateways=1>"
    assert repr(buckets._link) == "<LeaseLink away gateways=1>"
    await buckets.close()
    here = await start()
    assert repr(here.buckets) == "<LeasedBuckets shared keys=0 gateways=1>"
