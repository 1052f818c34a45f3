"""The admin API of a running gateway: what it changes holds for the next request, and cuts none."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.messages import Message
from tests.policy.keys import SECRET, token
from tests.processes import WAIT_SECONDS, Running, get
from tests.wire import (
    Link,
    RunningGateway,
    ScriptedUpstream,
    answer,
    assert_error,
    chunks,
    eventually,
    load_settings,
    request,
    start_gateway,
)

GET = b"GET /api/v1/svc/x"
SERVICES = b"/admin/services"
ENDPOINTS = b"/admin/services/svc/endpoints"


def bearer(scope: str = "admin", **claims: object) -> bytes:
    """The field of a token that is good for an hour."""
    exp = int(time.time()) + 3600
    return b"Authorization: Bearer " + token(exp=exp, scope=scope, **claims)


class Admin:
    """A gateway and somebody with the scope `admin`."""

    def __init__(self, gateway: RunningGateway, credential: bytes | None = None) -> None:
        self.gateway = gateway
        self.credential = bearer() if credential is None else credential

    async def ask(self, method: bytes, path: bytes, body: object = None) -> Message:
        data = b"" if body is None else json.dumps(body).encode()
        fields = [self.credential] if self.credential else []
        return await self.gateway.ask(request(method + b" " + path, *fields, body=data))

    async def ok(self, method: bytes, path: bytes, body: object = None) -> dict[str, Any]:
        told = await self.ask(method, path, body)
        assert told.status in (200, 201), told
        found: dict[str, Any] = json.loads(told.body)
        return found


@asynccontextmanager
async def administered(
    config: str = "", **environ: Any
) -> AsyncIterator[tuple[Admin, ScriptedUpstream, ScriptedUpstream]]:
    """A gateway with a key, a service with one endpoint, and another that could be one."""
    async with (
        ScriptedUpstream(answer(b"one")) as one,
        ScriptedUpstream(answer(b"two")) as two,
        start_gateway(config, **({"SVC_URL": one.url, "JWT_SECRET": SECRET} | environ)) as gateway,
    ):
        yield Admin(gateway), one, two


async def test_nobody_else_finds_anything_and_it_reads_like_any_other_path() -> None:
    async with administered() as (admin, _, _):
        bad = b"Authorization: Bearer nonsense"
        for credential in (b"", bearer("events:read"), bad):
            other = Admin(admin.gateway, credential)
            for method, path in ((b"GET", SERVICES), (b"PURGE", SERVICES), (b"POST", ENDPOINTS)):
                told = await other.ask(method, path)
                assert_error(told, 404, "NOT_FOUND")
                nothing = await other.ask(method, b"/nothing")
                assert message_of(told) == message_of(nothing)


def message_of(told: Message) -> str:
    text: str = json.loads(told.body)["error"]["message"]
    return text


async def test_while_no_key_is_set_this_machine_administers() -> None:
    async with administered(JWT_SECRET=None) as (admin, _, _):
        host = b"localhost:8081"
        home = await admin.gateway.ask(request(b"GET " + SERVICES, host=host))
        assert json.loads(home.body)["services"][0]["name"] == "svc"
        for field in (b"Origin: https://evil.example", b"X-Forwarded-For: 192.0.2.1"):
            told = await admin.gateway.ask(request(b"GET " + SERVICES, field, host=host))
            assert told.status == 404
        rebound = request(b"GET " + SERVICES, host=b"rebound.example")
        assert (await admin.gateway.ask(rebound)).status == 404


async def test_endpoints_come_and_go_without_a_failed_request() -> None:
    async with administered() as (admin, one, two):
        bodies: list[bytes] = []
        stop = asyncio.Event()

        async def load() -> None:
            async with admin.gateway.connect() as client:
                while not stop.is_set():
                    told = await client.ask(request(GET))
                    assert told.status == 200, told
                    bodies.append(told.body)

        loads = [asyncio.create_task(load()) for _ in range(4)]

        async def served_by(*wanted: bytes) -> None:
            bodies.clear()
            await eventually(lambda: len(bodies) > 40, "requests")
            assert set(bodies[20:]) == set(wanted)

        await served_by(b"one")
        for _ in range(2):
            await admin.ok(b"POST", ENDPOINTS, {"url": two.url})
            await served_by(b"one", b"two")
            await admin.ok(b"POST", ENDPOINTS + b"/drain", {"url": one.url})
            await served_by(b"two")
            await admin.ok(b"POST", ENDPOINTS, {"url": one.url})
            await admin.ok(b"DELETE", ENDPOINTS, {"url": two.url})
            await served_by(b"one")
        stop.set()
        await asyncio.gather(*loads)
        assert {record["status"] for record in admin.gateway.access_records()} <= {200, 201}


async def test_a_request_at_a_removed_endpoint_is_answered() -> None:
    rest = asyncio.Event()

    async def halves(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        await rest.wait()
        link.send(b"after")
        await link.closed(60)

    async with administered() as (admin, one, two), admin.gateway.connect() as client:
        one.script = halves
        client.send(request(GET))
        await client.until(lambda: b"first" in client.received, "the first half")
        await admin.ok(b"POST", ENDPOINTS, {"url": two.url})
        service = await admin.ok(b"DELETE", ENDPOINTS, {"url": one.url})
        leaving = [each for each in service["endpoints"] if each.get("leaving")]
        assert [each["url"] for each in leaving] == [one.url]
        assert (await admin.gateway.ask(request(GET))).body == b"two"
        rest.set()
        assert (await client.response()).body == b"firstafter"
        await one.links[0].closed()  # its pool is gone with it
        (service,) = (await admin.ok(b"GET", SERVICES))["services"]
        assert [each["url"] for each in service["endpoints"]] == [two.url]


async def test_an_endpoint_that_comes_back_after_a_reload_keeps_its_pool(tmp_path: Path) -> None:
    rest = asyncio.Event()

    async def halves(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        await rest.wait()
        link.send(b"after")
        await link.closed(60)

    async with administered() as (admin, one, two), admin.gateway.connect() as client:
        one.script = halves
        client.send(request(GET))
        await client.until(lambda: b"first" in client.received, "the first half")
        await admin.ok(b"POST", ENDPOINTS, {"url": two.url})
        await admin.ok(b"DELETE", ENDPOINTS, {"url": one.url})
        other = load_settings(tmp_path, SVC_URL=two.url, JWT_SECRET=SECRET)
        admin.gateway.gateway.reload(other)
        await admin.ok(b"POST", ENDPOINTS, {"url": one.url})
        rest.set()
        assert (await client.response()).body == b"firstafter"
        one.script = answer(b"one")
        bodies = {(await admin.gateway.ask(request(GET))).body for _ in range(4)}
        assert bodies == {b"one", b"two"}


async def test_an_open_breaker_refuses_shows_in_health_and_is_closed_again() -> None:
    async with administered() as (admin, one, _):
        await admin.ok(b"POST", b"/admin/services/svc/breaker", {"state": "open"})
        told = await admin.gateway.ask(request(GET))
        assert_error(told, 503, "CIRCUIT_BREAKER_OPEN")
        assert one.requests == []
        health = await admin.gateway.ask(request(b"GET /health"))
        body = json.loads(health.body)
        assert (health.status, body["status"]) == (200, "degraded")
        assert body["services"][0]["breaker"]["state"] == "open"
        await admin.ok(b"POST", b"/admin/services/svc/breaker", {"state": "closed"})
        assert (await admin.gateway.ask(request(GET))).status == 200
        body = json.loads((await admin.gateway.ask(request(b"GET /health"))).body)
        assert (body["status"], body["services"][0]["breaker"]["state"]) == ("healthy", "closed")


async def test_a_limit_of_the_store_holds_at_once_and_its_bucket_is_shown() -> None:
    async with administered() as (admin, _, _):
        rules = b"/admin/limits/rules"
        await admin.ok(b"PUT", rules, {"pattern": "/api/v1/svc/*", "requests_per_hour": 1})
        caller = bearer("")
        statuses = [(await admin.gateway.ask(request(GET, caller))).status for _ in range(2)]
        assert statuses == [200, 429]
        (bucket,) = (await admin.ok(b"GET", b"/admin/limits?subject=alice"))["buckets"]
        assert (bucket["quota"], bucket["remaining"]) == (1, 0)
        await admin.ok(b"DELETE", rules, {"pattern": "/api/v1/svc/*"})
        assert (await admin.gateway.ask(request(GET, caller))).status == 200


async def test_a_revoked_token_is_refused_at_once() -> None:
    async with administered() as (admin, _, _):
        caller = bearer("", jti="t-1")
        assert (await admin.gateway.ask(request(GET, caller))).status == 200
        body = {"jti": "t-1", "expires_at": int(time.time()) + 3600}
        await admin.ok(b"POST", b"/admin/tokens/revoke", body)
        told = await admin.gateway.ask(request(GET, caller))
        assert_error(told, 401, "AUTH_FAILED")


async def test_live_connections_are_told_by_what_they_do() -> None:
    async def stream(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(b"x")[:6])
        await link.closed(60)

    async with (
        administered() as (admin, one, _),
        admin.gateway.connect() as idle,
        admin.gateway.connect() as busy,
        admin.gateway.connect() as reader,
    ):
        assert (await idle.ask(request(b"GET /health/live"))).status == 200
        one.script = stream
        busy.send(request(b"GET /api/v1/svc/long?token=hidden", bearer("")))
        await busy.until(lambda: b"200 OK" in busy.received, "an answer's head")
        reader.send(request(b"GET /api/v1/events/alice", bearer("")))
        await reader.until(lambda: b"connection.established" in reader.received, "a stream")
        found = await admin.ok(b"GET", b"/admin/connections")
        assert found["total"] == 4
        assert (found["kinds"]["stream"], found["kinds"]["idle"]) == (1, 1)
        assert found["kinds"]["request"] == 2  # this one is among them
        by_kind = {each["kind"]: each for each in found["connections"] if each["kind"] != "request"}
        assert by_kind["stream"]["client_id"] == by_kind["stream"]["user_id"] == "alice"
        (long,) = [each for each in found["connections"] if each.get("path") == "/api/v1/svc/long"]
        assert (long["user_id"], long["service"], long["client_ip"]) == (
            "alice",
            "svc",
            "127.0.0.1",
        )
        assert "hidden" not in str(found)
        found = await admin.ok(b"GET", b"/admin/connections?limit=1")
        assert (found["total"], len(found["connections"])) == (4, 1)
        found = await admin.ok(b"GET", b"/admin/connections?limit=0")
        assert (found["kinds"]["stream"], found["connections"]) == (1, [])


@pytest.mark.parametrize("scope", ["admin", "events:read"])
async def test_figures_are_for_the_scope_admin_also_behind_a_proxy(scope: str) -> None:
    async with administered() as (admin, _, _):
        told = await admin.gateway.ask(
            request(b"GET /metrics", bearer(scope), b"X-Forwarded-For: 192.0.2.1")
        )
        assert told.status == (200 if scope == "admin" else 404)


async def switch(link: Link) -> None:
    """An upstream that becomes a tunnel."""
    await link.request()
    link.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
    link.send(b"Connection: Upgrade\r\n\r\n")
    await link.closed(60)


async def test_a_tunnel_ends_when_its_credential_is_revoked_and_others_go_on() -> None:
    upgrade = (b"Upgrade: websocket", b"Connection: Upgrade")
    async with (
        administered() as (admin, one, _),
        admin.gateway.connect() as ending,
        admin.gateway.connect() as staying,
    ):
        one.script = switch
        for client, jti in ((ending, "t-1"), (staying, "t-2")):
            client.send(request(GET, bearer("", jti=jti), *upgrade))
            await client.until(lambda it=client: b"101 Switching" in it.received, "a tunnel")  # type: ignore[misc]
        body = {"jti": "t-1", "expires_at": int(time.time()) + 3600}
        await admin.ok(b"POST", b"/admin/tokens/revoke", body)
        await one.links[0].closed()
        kinds = (await admin.ok(b"GET", b"/admin/connections"))["kinds"]
        assert kinds["tunnel"] == 1
        (record,) = [each for each in admin.gateway.access_records() if each["status"] == 101]
        assert record["end_reason"] == "revoked"


async def test_a_tunnel_is_told_as_one() -> None:
    async with administered() as (admin, one, _), admin.gateway.connect() as client:
        one.script = switch
        upgrade = (b"Upgrade: websocket", b"Connection: Upgrade")
        client.send(request(GET, bearer(""), *upgrade))
        await client.until(lambda: b"101 Switching" in client.received, "the tunnel")
        found = await admin.ok(b"GET", b"/admin/connections")
        assert (found["total"], found["kinds"]["tunnel"], found["kinds"]["other"]) == (2, 1, 0)
        (tunnel,) = [each for each in found["connections"] if each["kind"] == "tunnel"]
        assert (tunnel["service"], tunnel["user_id"]) == ("svc", "alice")
        found = await admin.ok(b"GET", b"/admin/connections?limit=0")
        assert (found["kinds"]["tunnel"], found["connections"]) == (1, [])


def post(port: int, path: str) -> tuple[int, dict[str, Any]]:
    """Status and body of one POST by the owner of this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
    try:
        connection.request("POST", path)
        told = connection.getresponse()
        return told.status, json.loads(told.read())
    finally:
        connection.close()


def test_a_reload_takes_the_new_file_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    orders, users = (
        f'[services.{name}]\nurl = "http://127.0.0.1:9"\n' for name in ("orders", "users")
    )
    file.write_text(orders)
    settings = {"GATEWAY_CONFIG": str(file), "STATE_DIR": str(tmp_path)}
    with Running(**settings) as gateway:
        port = gateway.port()
        for bad, line in (("rate_limit = 'x'\n", 3), ("[services.users]\nurl = 1\n", 4)):
            file.write_text(orders + "\n" * (line - 3 - bad.count("[")) + bad)
            status, told = post(port, "/admin/reload")
            assert (status, told["error"]["code"]) == (422, "UNPROCESSABLE")
            assert told["error"]["message"].startswith(f"{file}:{line}: "), told
            services = json.loads(get(port, "/admin/services")[1])["services"]
            assert [service["name"] for service in services] == ["orders"]
        file.write_text(orders + users)
        status, told = post(port, "/admin/reload")
        assert (status, told["status"]) == (200, "reloaded")
        assert [service["name"] for service in told["services"]] == ["orders", "users"]
        changed = gateway.wait_for("admin_change")
        assert (changed["change"], changed["who"]) == ("reloaded", "anonymous")
        refused = [each for each in gateway.lines if each["message"] == "reload_refused"]
        assert len(refused) == 2
