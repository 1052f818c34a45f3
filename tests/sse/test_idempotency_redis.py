"""Repeats of a publication by key, at several gateways that share a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sse.event import BackplaneAwayError, Refused
from sse.idempotency import KEEP_SECONDS, UNDER_WAY_SECONDS, Stored, body_digest
from sse.idempotency_redis import ENTRIES, SINCE, UNTOLD, SharedIdempotencyKeys
from tests.redis_server import RedisServer, redis_server

A, B = body_digest(b"a"), body_digest(b"b")
NOW = 1_790_000_000.5
SCOPE = "alice subject publisher"

Gateway = Callable[..., SharedIdempotencyKeys]


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with redis_server() as started:
        yield started


@contextlib.asynccontextmanager
async def clients(server: RedisServer) -> AsyncIterator[Gateway]:
    """Makes gateways' keys, each with connections of its own."""
    async with contextlib.AsyncExitStack() as stack:

        def make(
            *, strict: bool = True, max_keys: int = 10_000, timeout_seconds: float = 20.0
        ) -> SharedIdempotencyKeys:
            client = Redis.from_url(server.url, retry=Retry(NoBackoff(), 0), socket_timeout=20)
            stack.push_async_callback(client.aclose)
            return SharedIdempotencyKeys(
                client, strict=strict, max_keys=max_keys, timeout_seconds=timeout_seconds
            )

        yield make


@pytest.fixture
async def gateway(server: RedisServer) -> AsyncIterator[Gateway]:
    async with clients(server) as make:
        yield make


async def refused(attempt: Awaitable[object]) -> str:
    """The code of the refusal that an attempt meets."""
    with pytest.raises(Refused) as caught:
        await attempt
    return caught.value.code


async def test_a_repeat_elsewhere_gets_the_first_answer_again(gateway: Gateway) -> None:
    here, there = gateway(), gateway()
    assert await here.begin(SCOPE, "k", A, NOW) is None
    await here.finish(SCOPE, "k", b'{"ids":["a-1"]}\x00\r\n\xff', NOW)
    for keys in (here, there):
        assert await keys.begin(SCOPE, "k", A, NOW + 1) == Stored(b'{"ids":["a-1"]}\x00\r\n\xff')
        assert await refused(keys.begin(SCOPE, "k", B, NOW + 1)) == "UNPROCESSABLE"
    assert await there.begin("bob subject publisher", "k", B, NOW) is None


async def test_a_repeat_while_the_first_is_under_way_is_a_conflict(gateway: Gateway) -> None:
    here, there = gateway(), gateway()
    await here.begin(SCOPE, "k", A, NOW)
    for keys in (here, there):
        assert await refused(keys.begin(SCOPE, "k", A, NOW)) == "CONFLICT"
        assert await refused(keys.begin(SCOPE, "k", B, NOW)) == "UNPROCESSABLE"


async def test_one_of_many_at_once_goes_on(gateway: Gateway) -> None:
    gateways = [gateway() for _ in range(4)]
    said = await asyncio.gather(
        *(keys.begin(SCOPE, "k", A, NOW) for keys in gateways * 25), return_exceptions=True
    )
    assert said.count(None) == 1
    assert {answer.code for answer in said if isinstance(answer, Refused)} == {"CONFLICT"}
    winner = next(keys for keys in gateways if "under_way=1" in repr(keys))
    await winner.finish(SCOPE, "k", b"1", NOW)
    said = await asyncio.gather(*(keys.begin(SCOPE, "k", A, NOW) for keys in gateways * 25))
    assert set(said) == {Stored(b"1")}


async def test_an_attempt_that_failed_does_not_burn_the_key(gateway: Gateway) -> None:
    here, there = gateway(), gateway()
    await here.begin(SCOPE, "k", A, NOW)
    await here.forget(SCOPE, "k")
    assert await there.begin(SCOPE, "k", B, NOW) is None


async def test_what_is_finished_is_not_forgotten(gateway: Gateway) -> None:
    here = gateway()
    await here.begin(SCOPE, "k", A, NOW)
    await here.finish(SCOPE, "k", b"1", NOW)
    await here.forget(SCOPE, "k")
    await here.finish(SCOPE, "k", b"2", NOW)
    assert await here.begin(SCOPE, "k", A, NOW) == Stored(b"1")


async def test_the_claim_of_a_gateway_that_died_lapses(gateway: Gateway) -> None:
    dead, there = gateway(), gateway()
    await dead.begin(SCOPE, "k", A, NOW)
    assert await refused(there.begin(SCOPE, "k", A, NOW + UNDER_WAY_SECONDS - 1)) == "CONFLICT"
    assert await there.begin(SCOPE, "k", A, NOW + UNDER_WAY_SECONDS) is None
    # Was it only slow after all, it neither ends nor frees what is another's now.
    await dead.finish(SCOPE, "k", b"late", NOW + UNDER_WAY_SECONDS)
    assert await refused(dead.begin(SCOPE, "k", A, NOW + UNDER_WAY_SECONDS)) == "CONFLICT"
    await there.finish(SCOPE, "k", b"1", NOW + UNDER_WAY_SECONDS)
    assert await dead.begin(SCOPE, "k", A, NOW + UNDER_WAY_SECONDS) == Stored(b"1")


async def test_keys_count_for_a_day_from_their_answer(gateway: Gateway) -> None:
    keys = gateway()
    await keys.begin(SCOPE, "k", A, NOW)
    await keys.finish(SCOPE, "k", b"1", NOW + 10)
    assert await keys.begin(SCOPE, "k", A, NOW + KEEP_SECONDS + 9) == Stored(b"1")
    assert await keys.begin(SCOPE, "k", B, NOW + KEEP_SECONDS + 10) is None


async def test_the_oldest_of_too_many_keys_go(gateway: Gateway, server: RedisServer) -> None:
    keys = gateway(max_keys=3)
    for number in range(3):
        await keys.begin(SCOPE, f"{number}", A, NOW + number)
    await keys.finish(SCOPE, "0", b"0", NOW + 5)  # the newest now
    await keys.begin(SCOPE, "3", A, NOW + 6)
    assert await server.call("HLEN", ENTRIES) == await server.call("ZCARD", SINCE) == 3
    there = gateway(max_keys=3)
    assert await there.begin(SCOPE, "0", A, NOW + 6) == Stored(b"0")
    assert await refused(there.begin(SCOPE, "2", A, NOW + 6)) == "CONFLICT"
    assert await there.begin(SCOPE, "1", A, NOW + 6) is None
    assert await server.call("ZCARD", SINCE) == 3


async def test_lapsed_keys_and_an_idle_day_leave_nothing(
    gateway: Gateway, server: RedisServer
) -> None:
    keys = gateway()
    for number in range(150):
        await keys.begin(SCOPE, f"{number}", A, NOW)
    await keys.forget(SCOPE, "0")
    assert await server.call("HLEN", ENTRIES) == 149
    for number in range(2):
        await keys.begin(SCOPE, f"later {number}", A, NOW + KEEP_SECONDS)
    assert await server.call("HLEN", ENTRIES) == await server.call("ZCARD", SINCE) == 2
    for name in (ENTRIES, SINCE):
        assert 0 < await server.call("TTL", name) <= KEEP_SECONDS


async def test_half_a_table_is_no_table(gateway: Gateway, server: RedisServer) -> None:
    """A Redis short of memory may evict one of the two keys."""
    here, there = gateway(), gateway()
    for number in range(3):
        await here.begin(SCOPE, f"{number}", A, NOW)
    await server.call("DEL", SINCE)
    assert await there.begin(SCOPE, "0", A, NOW) is None
    assert await server.call("HLEN", ENTRIES) == await server.call("ZCARD", SINCE) == 1
    await server.call("DEL", ENTRIES)
    assert await there.begin(SCOPE, "1", A, NOW) is None


async def test_strict_gateways_begin_nothing_while_redis_is_away(
    gateway: Gateway, server: RedisServer
) -> None:
    keys = gateway()
    await server.stop()
    with pytest.raises(BackplaneAwayError):
        await keys.begin(SCOPE, "k", A, NOW)
    await server.start()
    assert await keys.begin(SCOPE, "k", A, NOW) is None
    await keys.finish(SCOPE, "k", b"1", NOW)
    assert await gateway().begin(SCOPE, "k", A, NOW) == Stored(b"1")


async def test_a_best_effort_gateway_goes_by_itself_while_redis_is_away(
    gateway: Gateway, server: RedisServer
) -> None:
    keys = gateway(strict=False)
    await server.stop()
    assert await keys.begin(SCOPE, "k", A, NOW) is None
    assert await refused(keys.begin(SCOPE, "k", A, NOW)) == "CONFLICT"
    await keys.forget(SCOPE, "k")
    assert await keys.begin(SCOPE, "k", B, NOW) is None
    await keys.finish(SCOPE, "k", b"1", NOW)
    assert await keys.begin(SCOPE, "k", B, NOW) == Stored(b"1")
    await server.start()
    assert await keys.begin(SCOPE, "k", B, NOW) == Stored(b"1")
    assert await refused(keys.begin(SCOPE, "k", A, NOW)) == "UNPROCESSABLE"
    assert "alone=1" in repr(keys)


@pytest.mark.parametrize("strict", [True, False])
async def test_an_answer_that_redis_could_not_take_is_kept_here(
    gateway: Gateway, server: RedisServer, strict: bool
) -> None:
    keys = gateway(strict=strict)
    await keys.begin(SCOPE, "k", A, NOW)
    await server.stop()
    await keys.finish(SCOPE, "k", b"1", NOW)
    assert await keys.begin(SCOPE, "k", A, NOW) == Stored(b"1")
    assert "under_way=0" in repr(keys)


async def test_a_publication_that_failed_with_redis_can_be_repeated_when_it_is_back() -> None:
    """Redis has kept the claim, because the gateway could not say that it came to nothing."""
    async with redis_server(appendonly=True) as server, clients(server) as gateway:
        here, there = gateway(), gateway()
        await here.begin(SCOPE, "k", A, NOW)
        await server.stop()
        await here.forget(SCOPE, "k")
        with pytest.raises(BackplaneAwayError):
            await here.begin(SCOPE, "k", A, NOW)
        await server.start()
        assert await refused(there.begin(SCOPE, "k", A, NOW)) == "CONFLICT"
        assert await here.begin(SCOPE, "k", A, NOW) is None
        assert await refused(there.begin(SCOPE, "k", A, NOW)) == "CONFLICT"
        assert "abandoned=0" in repr(here)


async def test_a_step_that_is_cancelled_holds_nobody_up(
    gateway: Gateway, server: RedisServer
) -> None:
    """Redis does not answer; the publisher goes away."""
    keys = gateway()
    await keys.begin(SCOPE, "failed", A, NOW)
    await keys.begin(SCOPE, "published", A, NOW)
    server.hang()
    steps = (
        keys.begin(SCOPE, "begun", A, NOW),
        keys.forget(SCOPE, "failed"),
        keys.finish(SCOPE, "published", b"1", NOW),
    )
    for step in steps:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await step
    assert "under_way=0 abandoned=2 alone=1" in repr(keys)
    server.resume()
    assert await keys.begin(SCOPE, "begun", A, NOW) is None
    assert await keys.begin(SCOPE, "failed", A, NOW) is None
    assert await keys.begin(SCOPE, "published", A, NOW) == Stored(b"1")


async def test_a_redis_that_does_not_answer_is_away(gateway: Gateway, server: RedisServer) -> None:
    patient, impatient = gateway(), gateway(timeout_seconds=0.01)
    assert await patient.begin(SCOPE, "k", A, NOW) is None
    server.hang()
    with pytest.raises(BackplaneAwayError):
        await impatient.begin(SCOPE, "j", A, NOW)
    server.resume()
    await patient.finish(SCOPE, "k", b"1", NOW)


async def test_what_redis_could_not_be_told_is_bounded(
    gateway: Gateway, server: RedisServer
) -> None:
    keys = gateway()
    await server.stop()
    for number in range(UNTOLD + 1):
        with pytest.raises(BackplaneAwayError):
            await keys.begin(SCOPE, f"{number}", A, NOW)
    assert f"abandoned={UNTOLD}" in repr(keys)
