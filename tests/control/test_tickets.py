"""Asking for a ticket: who gets one, for what, and what the others are told."""

from __future__ import annotations

import time

import pytest
from aiohttp import ClientResponse
from redis.asyncio import Redis

from gateway.control.app import build_app
from gateway.policy.auth import Identity
from gateway.policy.tickets import Tickets
from gateway.policy.tickets_redis import RedisTickets
from tests.control.conftest import LOCAL, Client, Connect, Running
from tests.redis_server import redis_server

ALICE = Identity(subject="alice", client_ids=frozenset(("board",)), expires_at=time.time() + 3600)
OPEN = Identity(open_read=True)


async def ask(client: Client, identity: Identity, client_id: str = "alice") -> ClientResponse:
    headers = LOCAL | {"X-Gateway-Identity": identity.encode().decode("ascii")}
    return await client.post(f"/api/v1/events/{client_id}/ticket", headers=headers)


def tickets_of(running: Running) -> Tickets:
    kept = running.state.tickets
    assert isinstance(kept, Tickets)
    return kept


@pytest.mark.parametrize("client_id", ["alice", "board"])
async def test_who_may_read_gets_a_ticket(client: Client, running: Running, client_id: str) -> None:
    answer = await ask(client, ALICE, client_id)
    assert answer.status == 201
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.content_type == "application/json"
    body = await answer.json()
    assert body == {"ticket": body["ticket"], "expires_in": 30}
    tickets = tickets_of(running)
    assert tickets.redeem(body["ticket"], client_id, time.time()) == ALICE
    assert tickets.redeem(body["ticket"], client_id, time.time()) is None


async def test_a_client_id_is_decoded_once(client: Client, running: Running) -> None:
    identity = Identity(subject="a@b:c", expires_at=ALICE.expires_at)
    body = await (await ask(client, identity, "a%40b%3Ac")).json()
    assert tickets_of(running).redeem(body["ticket"], "a@b:c", time.time()) == identity


async def test_where_reading_is_open_anyone_gets_one(client: Client) -> None:
    assert (await ask(client, OPEN, "anything")).status == 201


async def test_another_client_id_is_forbidden(client: Client, running: Running) -> None:
    answer = await ask(client, ALICE, "bob")
    assert answer.status == 403
    assert (await answer.json())["error"]["code"] == "FORBIDDEN"
    assert answer.headers["WWW-Authenticate"] == (
        'Bearer realm="gateway", error="insufficient_scope", scope="events:read"'
    )
    assert len(tickets_of(running)) == 0


async def test_without_a_credential_one_is_asked_for(client: Client) -> None:
    answer = await ask(client, Identity(), "bob")
    assert answer.status == 401
    assert (await answer.json())["error"]["code"] == "UNAUTHORIZED"
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="gateway"'


@pytest.mark.parametrize("client_id", ["a" * 129, "a%20b", "a%2540b", "%C3%A9", "a,b", "a%2Fb"])
async def test_what_is_no_client_id_is_a_bad_request(client: Client, client_id: str) -> None:
    answer = await ask(client, OPEN, client_id)
    assert answer.status == 400
    assert (await answer.json())["error"]["code"] == "BAD_REQUEST"


async def test_only_post_asks_for_one(client: Client) -> None:
    answer = await client.get("/api/v1/events/alice/ticket", headers=LOCAL)
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


async def test_a_ticket_of_redis_is_one_too(running: Running, aiohttp_client: Connect) -> None:
    async with redis_server() as server, Redis.from_url(server.url) as connected:
        running.state.tickets = tickets = RedisTickets(connected)
        client = await aiohttp_client(build_app(running.state))
        answer = await ask(client, ALICE)
        assert answer.status == 201
        body = await answer.json()
        assert await tickets.redeem(body["ticket"], "alice", time.time()) == ALICE
        await server.stop()
        answer = await ask(client, ALICE)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert (await answer.json())["error"]["code"] == "SERVICE_UNAVAILABLE"
