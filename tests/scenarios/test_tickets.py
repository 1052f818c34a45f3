"""Tickets: how a browser's EventSource, which can send no header, gets in and stays in."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from pathlib import Path

import pytest
import trustme

from tests.streams import (
    SECRET,
    Door,
    bearer,
    event,
    get,
    post,
    published,
    refusal,
    sign,
    subscribe,
    who,
)
from tests.wire import Message, start_gateway

KEYED = {"JWT_SECRET": SECRET}
WRITER = who("svc", "events:write")


async def asked(door: Door, client_id: str = "alice", *fields: bytes) -> Message:
    """The answer to asking for a ticket."""
    return await door.ask(post(f"/api/v1/events/{client_id}/ticket", b"", *fields))


async def ticket(door: Door, client_id: str = "alice", field: bytes | None = None) -> str:
    """A new ticket."""
    response = await asked(door, client_id, field or who(client_id))
    assert response.status == 201, (response.start, response.body)
    document = response.json()
    assert set(document) == {"ticket", "expires_in"}
    assert document["expires_in"] == 30
    assert (response.get("cache-control") or b"") == b"no-store"
    found: str = document["ticket"]
    assert re.fullmatch(r"[A-Za-z0-9._~-]{20,}", found), found
    return found


def cookie_of(head: Message) -> tuple[bytes, dict[str, str]]:
    """The Cookie field that follows from the one Set-Cookie, and that one's attributes."""
    line = (head.get("set-cookie") or b"").decode()
    assert line, head.head
    pair, *rest = line.split(";")
    attributes = {}
    for part in rest:
        name, _, value = part.strip().partition("=")
        attributes[name.lower()] = value
    return b"Cookie: " + pair.encode(), attributes


async def test_a_ticket_opens_a_stream_and_leaves_a_cookie_for_its_reconnects() -> None:
    async with start_gateway(**KEYED) as gateway:
        query = f"ticket={await ticket(gateway)}"
        async with subscribe(gateway, query=query) as stream:
            cookie, attributes = cookie_of(stream.head)
            assert attributes["httponly"] == ""
            assert attributes["samesite"].lower() == "strict"
            assert attributes["path"] == "/api/v1/events/alice"
            assert "secure" not in attributes
            assert "domain" not in attributes
            [sent] = await published(gateway, "alice", event(), WRITER)
            assert (await stream.event()).id == sent
        [missed] = await published(gateway, "alice", event(), WRITER)
        for _ in range(2):  # the same address again, as an EventSource comes back
            async with subscribe(gateway, "alice", cookie, query=query, after=sent) as again:
                assert again.established.data["resumed"] is True
                assert (await again.event()).id == missed


async def test_a_ticket_is_redeemed_once() -> None:
    async with start_gateway(**KEYED) as gateway:
        query = f"ticket={await ticket(gateway)}"
        async with subscribe(gateway, query=query):
            response = await gateway.ask(get(query=query))
            refusal(response, 401, "AUTH_FAILED")
            assert response.get("set-cookie") is None
        assert (await gateway.ask(get(query=query))).status == 401


async def test_of_many_that_redeem_it_at_once_one_gets_in() -> None:
    async with start_gateway(**KEYED) as gateway:
        query = f"ticket={await ticket(gateway)}"

        async def status() -> int:
            async with gateway.connect() as client:
                client.send(get(query=query))
                return int((await client.line()).split()[1])

        statuses = await asyncio.gather(*(status() for _ in range(10)))
        assert sorted(statuses) == [200] + [401] * 9


async def test_a_ticket_is_for_its_client_id_only() -> None:
    async with start_gateway(**KEYED) as gateway:
        reader = who("alice", "events:read")
        query = f"ticket={await ticket(gateway, 'alice', reader)}"
        response = await gateway.ask(get("bob", query=query))
        assert response.status in (401, 403)


async def test_the_cookie_is_for_its_client_id_only_and_not_for_writing() -> None:
    async with start_gateway(**KEYED) as gateway:
        owner = who("alice", "events:read", "events:write")
        query = f"ticket={await ticket(gateway, 'alice', owner)}"
        async with subscribe(gateway, query=query) as stream:
            cookie, _ = cookie_of(stream.head)
        assert (await gateway.ask(get("bob", cookie))).status in (401, 403)
        response = await gateway.ask(post("/api/v1/events/alice", event(), cookie))
        assert response.status in (401, 403)


async def test_a_cookie_that_was_changed_is_401() -> None:
    async with start_gateway(**KEYED) as gateway:
        query = f"ticket={await ticket(gateway)}"
        async with subscribe(gateway, query=query) as stream:
            cookie, _ = cookie_of(stream.head)
        name, _, value = cookie.partition(b"=")
        middle = len(value) // 2
        for place in (0, middle, len(value) - 2):
            other = b"A" if value[place : place + 1] != b"A" else b"B"
            changed = name + b"=" + value[:place] + other + value[place + 1 :]
            assert (await gateway.ask(get("alice", changed, query=query))).status == 401
        for changed in (name + b"=", name + b"=x", b"Cookie: other=" + value):
            assert (await gateway.ask(get("alice", changed, query=query))).status == 401


async def test_a_cookie_among_others_is_found() -> None:
    async with start_gateway(**KEYED) as gateway:
        query = f"ticket={await ticket(gateway)}"
        async with subscribe(gateway, query=query) as stream:
            cookie, _ = cookie_of(stream.head)
        pair = cookie.partition(b" ")[2]
        async with subscribe(gateway, "alice", b"Cookie: a=b; " + pair + b"; c=d"):
            pass


async def test_the_cookie_lives_as_long_as_the_token() -> None:
    async with start_gateway(**KEYED) as gateway:
        field = who("alice", seconds=1000)
        async with subscribe(gateway, query=f"ticket={await ticket(gateway, 'alice', field)}") as s:
            _, attributes = cookie_of(s.head)
            if "max-age" in attributes:
                assert 900 <= int(attributes["max-age"]) <= 1000
            else:
                at = time.strptime(attributes["expires"], "%a, %d %b %Y %H:%M:%S GMT")
                assert 890 <= time.mktime(at) - time.mktime(time.gmtime()) <= 1001


async def test_a_stream_of_a_ticket_ends_with_the_token_behind_it() -> None:
    async with start_gateway(**KEYED) as gateway:
        query = f"ticket={await ticket(gateway, 'alice', who('alice', seconds=3))}"
        async with subscribe(gateway, query=query) as stream:
            cookie, _ = cookie_of(stream.head)
            assert [each.type for each in await stream.rest()] == ["stream.expired"]
        assert (await gateway.ask(get("alice", cookie, query=query))).status == 401


async def test_under_tls_the_cookie_is_secure(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    context = ssl.create_default_context()
    authority.configure_trust(context)
    environ = {"TLS_CERT": str(certificate), "TLS_KEY": str(key), **KEYED}
    async with start_gateway(**environ) as gateway:
        async with gateway.connect(tls=context) as client:
            response = await client.ask(post("/api/v1/events/alice/ticket", b"", who("alice")))
            query = f"ticket={response.json()['ticket']}"
        async with subscribe(gateway, query=query, tls=context) as stream:
            _, attributes = cookie_of(stream.head)
            assert attributes["secure"] == ""
            [sent] = await published_over(gateway, context)
            assert (await stream.event()).id == sent


async def published_over(gateway: Door, context: ssl.SSLContext) -> list[str]:
    """Publishes one event over TLS."""
    async with gateway.connect(tls=context) as client:
        response = await client.ask(post("/api/v1/events/alice", event(), WRITER))
        assert response.status == 202
        ids: list[str] = response.json()["ids"]
        return ids


@pytest.mark.parametrize("secret", [None, "a cookie secret that is long enough for everything"])
async def test_the_cookie_is_good_after_a_restart(tmp_path: Path, secret: str | None) -> None:
    environ = {"STATE_DIR": str(tmp_path / "kept"), "COOKIE_SECRET": secret, **KEYED}
    async with start_gateway(**environ) as gateway:
        query = f"ticket={await ticket(gateway)}"
        async with subscribe(gateway, query=query) as stream:
            cookie, _ = cookie_of(stream.head)
    async with (
        start_gateway(**environ) as gateway,
        subscribe(gateway, "alice", cookie, query=query),
    ):
        pass


async def test_a_ticket_is_for_those_who_may_read() -> None:
    async with start_gateway(**KEYED) as gateway:
        refusal(await asked(gateway), 401, "UNAUTHORIZED")
        refusal(await asked(gateway, "alice", bearer("x")), 401, "AUTH_FAILED")
        refusal(await asked(gateway, "alice", who("bob")), 403, "FORBIDDEN")
        assert (await asked(gateway, "alice", who("bob", "events:read"))).status == 201


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_a_ticket_is_asked_for_by_post(method: str) -> None:
    async with start_gateway(**KEYED) as gateway:
        data = post("/api/v1/events/alice/ticket", b"", who("alice"))
        response = await gateway.ask(data.replace(b"POST", method.encode(), 1))
        refusal(response, 405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize("name", ["access_token", "token", "ticket"])
async def test_a_token_in_the_query_is_401(name: str) -> None:
    async with start_gateway(**KEYED) as gateway:
        refused = await gateway.ask(get(query=f"{name}={sign('alice')}"))
        assert refused.status == 401
        refusal(refused, 401, refused.json()["error"]["code"])


async def test_a_token_in_the_query_is_401_also_beside_a_good_one_in_the_header() -> None:
    async with start_gateway(**KEYED) as gateway:
        response = await gateway.ask(get("alice", who("alice"), query=f"access_token={sign()}"))
        assert response.status == 401


@pytest.mark.parametrize("value", ["", "x", "a" * 43, "%00", "..%2F"])
async def test_a_ticket_that_is_none_is_401(value: str) -> None:
    async with start_gateway(**KEYED) as gateway:
        assert (await gateway.ask(get(query=f"ticket={value}"))).status == 401


async def test_tickets_are_unlike_each_other() -> None:
    async with start_gateway(**KEYED) as gateway:
        assert len({await ticket(gateway) for _ in range(20)}) == 20
