"""Requests that become jobs: which do, and what the control application is told of them."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.policy.identity import Identity
from tests.messages import Message, assert_error, chunks, request
from tests.redis_server import redis_server
from tests.scenarios.governed import get, row
from tests.scenarios.working import WORKER, as_control, at_work, behalf
from tests.streams import who
from tests.wire import answer, proxied

PATH = "/api/v1/svc/x"
ASYNC = b"Prefer: respond-async"
ALICE = who("alice", "jobs:read")
DURABLE: dict[str, Any] = {"lines": ("durable = true",)}
ACCEPTED = answer(b"{}", b"Preference-Applied: respond-async", status=b"202 Accepted")
ALWAYS = row("/slow/:id", 'durable = "always"', 'rewrite = "/v2/:id"', 'name = "slow"')


def identity(asked: Message) -> Identity:
    """Whose job it is to be."""
    return Identity.decode(asked.get("x-gateway-identity") or b"")


async def test_the_control_application_gets_the_request_and_what_it_was() -> None:
    async with at_work(**DURABLE) as (gateway, upstream), as_control(gateway, ACCEPTED) as control:
        found = await gateway.ask(
            request(
                b"POST /api/v1/svc/a%20b/%C3%BC?q=1&r=%2F",
                who("ann", "jobs:read", tenant="acme", tier="pro"),
                b"Prefer: respond-async, wait=5",
                b"Cookie: session=secret",
                b"X-Api_Key: secret",
                b"Content-Type: text/plain",
                b"Idempotency-Key: k1",
                b"X-Gateway-Target: /api/v1/svc/admin",
                b"X-Gateway-Service: other",
                b"X_Gateway_Identity: bob",
                body=b"hello",
            )
        )
        assert found.status == 202
        assert found.get("preference-applied") == b"respond-async"
        (asked,) = control.requests
        assert asked.start == b"POST /internal/jobs/durable HTTP/1.1"  # no query besides
        assert asked.body == b"hello"
        assert asked.get("x-gateway-target") == b"/api/v1/svc/a%20b/%C3%BC?q=1&r=%2F"
        assert asked.get("x-gateway-service") == b"svc"
        assert asked.get("x-gateway-route") == b"/api/v1/{service}"
        assert asked.get("x-gateway-host") == b"gateway.test"
        assert asked.get("x-gateway-client") == b"127.0.0.1"
        assert asked.get("prefer") == b"respond-async, wait=5"
        assert asked.get("idempotency-key") == b"k1"
        assert asked.get("content-type") == b"text/plain"
        assert identity(asked).subject == "ann"
        assert identity(asked).tenant == "acme"
        assert not [name for name, _ in asked.fields if name.lower().startswith(b"x-user")]
        assert b"secret" not in control.received[0]
        assert b"uthorization" not in control.received[0]
        assert upstream.requests == []
        (record,) = await gateway.records()
        assert record["path"] == "/api/v1/svc/a%20b/%C3%BC"
        assert (record["service"], record["route"], record["user_id"]) == (
            "gateway",
            "/api/v1/{service}",
            "ann",
        )


async def test_a_client_of_http_10_need_not_name_a_host() -> None:
    async with at_work(**DURABLE) as (gateway, _), as_control(gateway) as control:
        data = b"\r\n".join([b"GET /api/v1/svc/x HTTP/1.0", ALICE, ASYNC, b"", b""])
        assert (await gateway.ask(data)).status == 200
        assert control.requests[0].get("x-gateway-host") is None


async def test_every_field_for_the_control_application_is_ascii() -> None:
    named = row("/büch/*", "durable = true")
    async with at_work("", named, **DURABLE) as (gateway, _), as_control(gateway) as control:
        assert (await get(gateway, "/b%C3%BCch/1?%FF", ALICE, ASYNC)).status == 200
        (asked,) = control.requests
        assert asked.get("x-gateway-route") == b"/b%C3%BCch/*"
        assert asked.get("x-gateway-target") == b"/b%C3%BCch/1?%FF"
        for target in (b"/api/v1/svc/\xc3\xbc", b"/api/v1/svc/?\xff", b"/api/v1/svc/\x7f"):
            found = await gateway.ask(request(b"GET " + target, ALICE, ASYNC))
            assert_error(found, 400, "BAD_REQUEST")
        assert len(control.requests) == 1


@pytest.mark.parametrize(
    "fields",
    [
        (),
        (b"Prefer: wait=10",),
        (b"Prefer: return=minimal",),
        (b"Prefer: respond-async=no",),
        (b'Prefer: x="a, respond-async"',),
        (b"X-Prefer: respond-async",),
        (b"Pref_er: respond-async",),
        (ASYNC, b"Connection: prefer"),
        (ASYNC, b"Connection: Upgrade", b"Upgrade: websocket"),
    ],
)
async def test_others_are_proxied_as_ever(fields: tuple[bytes, ...]) -> None:
    async with at_work(**DURABLE) as (gateway, upstream), as_control(gateway) as control:
        assert (await get(gateway, PATH, ALICE, *fields)).status == 200
        assert len(upstream.requests) == 1
        assert control.requests == []


@pytest.mark.parametrize(
    "fields",
    [
        (b"PREFER: Respond-Async",),
        (b"Prefer: wait=3", b"prefer: foo;a=1 , respond-async"),
        (ASYNC, b"Connection: Upgrade"),
        (ASYNC, b"Upgrade: websocket"),
    ],
)
async def test_the_wish_is_understood_however_it_is_written(fields: tuple[bytes, ...]) -> None:
    async with at_work(**DURABLE) as (gateway, upstream), as_control(gateway) as control:
        assert (await get(gateway, PATH, ALICE, *fields)).status == 200
        assert len(control.requests) == 1
        assert upstream.requests == []


async def test_it_is_a_wish_where_nothing_allows_it() -> None:
    rows = (row("/on/*", "durable = true"), row("/off/*", "durable = false"))
    async with at_work("", *rows) as (gateway, upstream), as_control(gateway) as control:
        assert (await get(gateway, PATH, ALICE, ASYNC)).status == 200
        assert (await get(gateway, "/off/1", ALICE, ASYNC)).status == 200
        assert len(upstream.requests) == 2
        assert upstream.requests[0].get("prefer") == b"respond-async"
        assert (await get(gateway, "/on/1", ALICE, ASYNC)).status == 200
        assert len(control.requests) == 1
    async with (
        at_work("", row("/off/*", "durable = false"), row("/by/*"), **DURABLE) as (
            gateway,
            upstream,
        ),
        as_control(gateway) as control,
    ):
        assert (await get(gateway, "/off/1", ALICE, ASYNC)).status == 200
        assert (await get(gateway, "/by/1", ALICE, ASYNC)).status == 200
        assert (len(upstream.requests), len(control.requests)) == (1, 1)


async def test_where_jobs_are_off_it_is_a_wish_and_always_is_unavailable() -> None:
    config = '[services.svc]\ndurable = true\n[[routes]]\npath = "/slow/*"\nservice = "svc"\n'
    async with proxied(config=config + 'durable = "always"\n') as (gateway, upstream):
        found = await get(gateway, PATH, ASYNC)
        assert found.status == 200
        assert found.get("preference-applied") is None
        assert upstream.requests[0].get("prefer") == b"respond-async"
        error = assert_error(await get(gateway, "/slow/1"), 503, "SERVICE_UNAVAILABLE")
        assert "TEMPORAL_ADDRESS" in error["message"]
        assert len(upstream.requests) == 1


async def test_a_row_that_is_always_durable_needs_no_wish_and_has_no_way_round() -> None:
    async with at_work("", ALWAYS) as (gateway, upstream), as_control(gateway) as control:
        upgrade = (b"Connection: Upgrade", b"Upgrade: websocket")
        for line in (b"GET /slow/1", b"DELETE /slow/1", b"GET /%73low//1;v=2", b"OPTIONS /slow/1"):
            for fields in ((), upgrade, (b"Prefer: wait=9",), (b"Prefer: handling=strict",)):
                found = await gateway.ask(request(line, ALICE, *fields))
                assert found.status == 200
        assert upstream.requests == []
        asked = control.requests[8]
        assert asked.start == b"GET /internal/jobs/durable HTTP/1.1"
        assert asked.get("x-gateway-target") == b"/%73low//1;v=2"  # as it came, to be met again
        assert asked.get("x-gateway-route") == b"slow"
        assert {each.get("upgrade") for each in control.requests} == {None}


async def test_a_worker_is_never_sent_round_again() -> None:
    async with (
        at_work("", ALWAYS, **DURABLE) as (gateway, upstream),
        as_control(gateway) as control,
    ):
        for path in ("/slow/1", PATH):
            assert (await get(gateway, path, WORKER, behalf(gateway), ASYNC)).status == 200
        assert [asked.start for asked in upstream.requests] == [
            b"GET /v2/1 HTTP/1.1",
            b"GET /x HTTP/1.1",
        ]
        assert control.requests == []


async def test_its_checks_are_those_of_the_request() -> None:
    rows = (row("/in/*", 'auth = "scope:in"'), row("/none/*", 'auth = "none"'), ALWAYS)
    async with (
        at_work("", *rows, RATE_LIMIT="4/hour", **DURABLE) as (gateway, upstream),
        as_control(gateway, ACCEPTED) as control,
    ):
        assert (await get(gateway, "/in/1", ASYNC)).status == 401
        assert (await get(gateway, "/in/1", ALICE, ASYNC)).status == 403
        assert (await get(gateway, PATH, b"Authorization: Bearer x", ASYNC)).status == 401
        assert (await get(gateway, PATH, ALICE, ASYNC, b"Expect: all")).status == 400
        assert control.requests == []
        found = await get(gateway, "/in/1", who("alice", "in", "jobs:write"), ASYNC)
        assert found.status == 202
        assert found.get("x-ratelimit-remaining") == b"3"
        # A row that wants to know nobody: the job is somebody's all the same.
        assert (await get(gateway, "/none/1", ALICE, ASYNC)).status == 202
        assert identity(control.requests[1]).subject == "alice"
        assert (await get(gateway, PATH, ALICE, ASYNC)).status == 202
        assert (await get(gateway, "/slow/1", ALICE, ASYNC)).status == 202
        found = await get(gateway, PATH, ALICE, ASYNC)
        assert_error(found, 429, "RATE_LIMITED")
        assert len(control.requests) == 4
        assert upstream.requests == []


async def test_who_could_not_look_at_it_later_is_served_at_once() -> None:
    async with (
        at_work("", ALWAYS, row("/none/*", 'auth = "none"'), **DURABLE) as (gateway, upstream),
        as_control(gateway) as control,
    ):
        assert (await get(gateway, PATH, ASYNC)).status == 200
        assert (await get(gateway, "/none/1", b"Authorization: Basic eDp5", ASYNC)).status == 200
        assert len(upstream.requests) == 2
        # The service's own credential is the service's.
        assert upstream.requests[1].get("authorization") == b"Basic eDp5"
        assert_error(await get(gateway, "/slow/1"), 401, "UNAUTHORIZED")
        # Nor who has a name, and no right to look at jobs.
        for scopes in ((), ("events:read", "admin")):
            assert (await get(gateway, PATH, who("ann", *scopes), ASYNC)).status == 200
            found = await get(gateway, "/slow/1", who("ann", *scopes))
            error = assert_error(found, 403, "FORBIDDEN")
            assert "jobs:read or jobs:write" in error["message"]
            assert b'scope="jobs:read jobs:write"' in (found.get("www-authenticate") or b"")
        assert control.requests == []
        for scope in ("jobs:read", "jobs:write"):
            assert (await get(gateway, "/slow/1", who("ann", scope))).status == 200
        assert len(control.requests) == 2


async def test_without_a_signing_key_whoever_may_read_may_have_jobs() -> None:
    async with (
        at_work(JWT_SECRET=None, **DURABLE) as (gateway, _),
        as_control(gateway) as control,
    ):
        for host, owner in ((b"127.0.0.1", True), (b"gateway.test", False)):
            found = await gateway.ask(request(b"GET /api/v1/svc/x", ASYNC, host=host))
            assert found.status == 200
            seen = identity(control.requests[-1])
            assert (seen.open_read, seen.open_write) == (True, owner)


async def test_a_job_waits_for_a_service_that_is_ill() -> None:
    async with at_work(**DURABLE) as (gateway, _), as_control(gateway) as control:
        breaker = gateway.gateway._services.services["svc"].breaker
        breaker.force_open()
        assert (await get(gateway, PATH, ALICE)).status == 503
        # Who can't have a job is served as ever: not at all.
        assert_error(await get(gateway, PATH, ASYNC), 503, "CIRCUIT_BREAKER_OPEN")
        assert (await get(gateway, PATH, ALICE, ASYNC)).status == 200
        assert len(control.requests) == 1


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 1])
async def test_its_body_has_a_mebibyte_at_most(size: int) -> None:
    async with at_work(**DURABLE) as (gateway, upstream), as_control(gateway) as control:
        counted = request(b"POST /api/v1/svc/x", ALICE, ASYNC, body=b"x" * size)
        chunked = request(b"POST /api/v1/svc/x", ALICE, ASYNC, b"Transfer-Encoding: chunked")
        for data in (counted, chunked + chunks(b"x" * size)):
            async with gateway.connect() as client:
                client.send(data)
                found = await client.response()
            if size > 1 << 20:
                assert_error(found, 413, "PAYLOAD_TOO_LARGE")
            else:
                assert found.status == 200
                assert len(control.requests[-1].body) == size
        assert upstream.requests == []


async def test_a_row_may_allow_less() -> None:
    rows = (row("/r/*", "durable = true", "max_body_bytes = 5"),)
    async with at_work("", *rows) as (gateway, _), as_control(gateway) as control:
        found = await gateway.ask(request(b"POST /r/1", ALICE, ASYNC, body=b"123456"))
        assert_error(found, 413, "PAYLOAD_TOO_LARGE")
        assert control.requests == []


async def test_a_body_that_is_asked_for_is_passed_on() -> None:
    async def hesitant(link: Any) -> None:
        message = await link.head()
        link.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await link.body(message)
        link.send(ACCEPTED)

    async with at_work(**DURABLE) as (gateway, _), as_control(gateway, hesitant):
        data = request(b"POST /api/v1/svc/x", ALICE, ASYNC, b"Expect: 100-continue", body=b"12345")
        async with gateway.connect() as client:
            client.send(data[:-5])
            assert b"100" in await client.line()
            await client.line()
            client.send(data[-5:])
            assert (await client.response()).status == 202


async def test_nobody_asks_for_the_path_behind_it() -> None:
    async with at_work(**DURABLE) as (gateway, _), as_control(gateway) as control:
        for line in (b"POST /internal/jobs/durable", b"GET //internal/jobs/durable"):
            for fields in ((), (who("eve", "admin"),), (WORKER,)):
                forged = (b"X-Gateway-Target: /api/v1/svc/x", b"X-Gateway-Service: svc")
                found = await gateway.ask(request(line, *fields, *forged, body=b""))
                assert_error(found, 404, "NOT_FOUND")
        assert control.requests == []


async def test_a_limit_that_is_shared_ends_in_one_job() -> None:
    async with (
        redis_server() as redis,
        at_work(RATE_LIMIT="1/hour", REDIS_URL=redis.url, **DURABLE) as (gateway, _),
        as_control(gateway, ACCEPTED) as control,
    ):
        assert (await get(gateway, PATH, ALICE, ASYNC)).status == 202
        assert (await get(gateway, PATH, ALICE, ASYNC)).status == 429
        (asked,) = control.requests
        assert asked.get("x-gateway-target") == PATH.encode()


async def test_the_books_balance() -> None:
    async with at_work(**DURABLE) as (gateway, _), as_control(gateway):
        service = gateway.gateway._services.services["svc"]
        mounted = gateway.gateway.context.mounted
        for _ in range(3):
            assert (await get(gateway, PATH, ALICE, ASYNC)).status == 200
        await gateway.records(3)
        assert (service.metrics.in_flight, mounted.metrics.in_flight) == (0, 0)
        assert [each.outstanding for each in (*service.endpoints, *mounted.endpoints)] == [0, 0]


async def test_with_temporal_away_the_control_application_says_so() -> None:
    async with at_work("", ALWAYS, **DURABLE) as (gateway, upstream):
        for path, fields in ((PATH, (ASYNC,)), ("/slow/1", ())):
            found = await get(gateway, path, ALICE, *fields)
            error = assert_error(found, 503, "SERVICE_UNAVAILABLE")
            assert error["retry_after"] > 0
        assert upstream.requests == []
