"""Tickets in a real Redis: shared between gateways, redeemed by one, gone after 30 s, safe to ask
for while Redis is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from gateway.policy.auth import Identity
from gateway.policy.revocations import Revocations
from gateway.policy.tickets import TicketsAwayError
from gateway.policy.tickets_redis import RedisTickets
from tests.connection import PATIENCE_SECONDS
from tests.policy.keys import NOW
from tests.redis_server import RedisServer, redis_server

ALICE = Identity(
    "alice",
    None,
    "free",
    frozenset(("events:read",)),
    frozenset(("board", "é")),
    NOW + 3600,
    open_read=True,
)


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with redis_server() as started:
        yield started


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(server.url) as connected:
        yield connected


async def test_a_ticket_of_one_gateway_is_redeemed_once_at_any(server: RedisServer) -> None:
    async with Redis.from_url(server.url) as first, Redis.from_url(server.url) as second:
        here, there = (
            RedisTickets(first, timeout_seconds=PATIENCE_SECONDS),
            RedisTickets(second, timeout_seconds=PATIENCE_SECONDS),
        )
        ticket = await here.issue(ALICE, "board", NOW)
        assert await there.redeem(ticket, "board", NOW) == ALICE
        assert await here.redeem(ticket, "board", NOW) is None
        assert await there.redeem(ticket, "board", NOW) is None


async def test_of_many_that_redeem_at_once_one_gets_it(client: Redis) -> None:
    tickets = RedisTickets(client, timeout_seconds=PATIENCE_SECONDS)
    ticket = await tickets.issue(ALICE, "board", NOW)
    found = await asyncio.gather(*(tickets.redeem(ticket, "board", NOW) for _ in range(50)))
    assert [one for one in found if one is not None] == [ALICE]


async def test_a_ticket_is_nothing_for_another_client_id(client: Redis) -> None:
    tickets = RedisTickets(client, timeout_seconds=PATIENCE_SECONDS)
    ticket = await tickets.issue(ALICE, "board", NOW)
    for other in ("team", "alice", "boar", ""):
        assert await tickets.redeem(ticket, other, NOW) is None
    for guess in ("", "x", "é", "\udcff", ticket[:-1]):
        assert await tickets.redeem(guess, "board", NOW) is None
    assert await tickets.redeem(ticket, "board", NOW) == ALICE


async def test_redis_ends_a_ticket_after_30_seconds(server: RedisServer, client: Redis) -> None:
    tickets = RedisTickets(client, timeout_seconds=PATIENCE_SECONDS)
    ticket = await tickets.issue(ALICE, "board", NOW)
    (key,) = await server.call("KEYS", "*")
    assert 0 < await server.call("PTTL", key) <= 30_000
    await server.call("PEXPIRE", key, 0)  # the time has come
    assert await tickets.redeem(ticket, "board", NOW) is None


async def test_a_ticket_ends_with_its_owners_token(client: Redis) -> None:
    tickets = RedisTickets(client, timeout_seconds=PATIENCE_SECONDS)
    ticket = await tickets.issue(Identity(subject="alice", expires_at=NOW + 5), "alice", NOW)
    assert await tickets.redeem(ticket, "alice", NOW + 5) is None


async def test_a_ticket_ends_when_its_owners_token_is_revoked(client: Redis) -> None:
    revocations = Revocations()
    tickets = RedisTickets(client, revocations=revocations, timeout_seconds=PATIENCE_SECONDS)
    ticket = await tickets.issue(Identity("alice", jti="t-1"), "alice", NOW)
    other = await tickets.issue(Identity("alice", jti="t-2"), "alice", NOW)
    revocations.revoke("t-1", None)
    assert await tickets.redeem(ticket, "alice", NOW) is None
    assert await tickets.redeem(other, "alice", NOW) == Identity("alice", jti="t-2")


async def test_what_redis_holds_opens_nothing(server: RedisServer, client: Redis) -> None:
    tickets = RedisTickets(client, timeout_seconds=PATIENCE_SECONDS)
    ticket = await tickets.issue(ALICE, "board", NOW)
    (key,) = await server.call("KEYS", "*")
    kept = await server.call("GET", key)
    assert key.startswith(b"gateway:ticket:")
    assert ticket.encode() not in key + kept
    assert await tickets.redeem(key.removeprefix(b"gateway:ticket:").decode(), "board", NOW) is None


async def test_redis_away_is_said_and_heals(server: RedisServer, client: Redis) -> None:
    tickets = RedisTickets(client, timeout_seconds=PATIENCE_SECONDS)
    await tickets.issue(ALICE, "board", NOW)
    await server.stop()
    with pytest.raises(TicketsAwayError):
        await tickets.issue(ALICE, "board", NOW)
    with pytest.raises(TicketsAwayError):
        await tickets.redeem("x", "board", NOW)
    await server.start()
    ticket = await tickets.issue(ALICE, "board", NOW)
    assert await tickets.redeem(ticket, "board", NOW) == ALICE


async def test_a_redis_that_hangs_is_as_good_as_away(server: RedisServer, client: Redis) -> None:
    await RedisTickets(client, timeout_seconds=PATIENCE_SECONDS).issue(ALICE, "board", NOW)
    tickets = RedisTickets(client, timeout_seconds=0.2)
    server.hang()
    with pytest.raises(TicketsAwayError):
        await tickets.issue(ALICE, "board", NOW)
    server.resume()
    tickets = RedisTickets(client, timeout_seconds=PATIENCE_SECONDS)
    ticket = await tickets.issue(ALICE, "board", NOW)
    assert await tickets.redeem(ticket, "board", NOW) == ALICE


def test_showing_it_shows_no_address() -> None:
    assert repr(RedisTickets(Redis.from_url("redis://:secret@h/0"))) == "<RedisTickets>"
