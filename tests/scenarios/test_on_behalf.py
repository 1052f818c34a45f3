"""A worker at the door: for whom it asks, and everybody who would like to be one."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.messages import Message, assert_error, chunks, request
from tests.scenarios.governed import ADMIN, OK, get, row
from tests.scenarios.working import JOB, JOBS, WORKER, at_work, behalf, signer
from tests.streams import who
from tests.wire import Link, answer, proxied

PATH = "/api/v1/svc/x"
NOBODY: dict[str, Any] = {"subject": None, "tenant": None, "tier": "anonymous"}


def names(message: Message) -> set[bytes]:
    """The names of its fields, in lower case."""
    return {name.lower() for name, _ in message.fields}


def code(message: Message) -> tuple[int, str]:
    """The status and the code of an error."""
    return message.status, message.json()["error"]["code"]


async def test_the_service_is_told_the_caller_and_never_of_the_worker() -> None:
    async with at_work() as (gateway, upstream):
        field = behalf(gateway)
        found = await get(gateway, PATH, WORKER, field, b"Idempotency-Key: j:1", b"X-Api-Key: k")
        assert found.status == 200
        (asked,) = upstream.requests
        assert asked.get("x-user-id") == b"ann"
        assert asked.get("x-tenant-id") == b"acme"
        assert asked.get("x-user-tier") == b"pro"
        assert asked.get("idempotency-key") == b"j:1"
        assert not names(asked) & {b"authorization", b"x-on-behalf-of", b"x-api-key"}
        for secret in (WORKER.split()[-1], field.split()[-1]):
            assert secret not in upstream.received[0]
        (record,) = await gateway.records()
        assert (record["user_id"], record["tenant"], record["service"]) == ("ann", "acme", "svc")
        assert field.split()[-1].decode() not in gateway.log_path.read_text()


async def test_the_record_names_the_job_that_a_request_is_about() -> None:
    async with at_work() as (gateway, _):
        await get(gateway, PATH, WORKER, behalf(gateway))
        await get(gateway, f"/api/v1/workflows/{JOB}/status", ADMIN)
        await get(gateway, PATH)
        records = await gateway.records(3)
        assert [record.get("operation_id") for record in records] == [JOB, JOB, None]


async def test_a_token_with_scope_internal_is_a_workers_too() -> None:
    async with at_work() as (gateway, upstream):
        found = await get(gateway, PATH, who("w", "internal"), behalf(gateway))
        assert found.status == 200
        assert upstream.requests[0].get("x-user-id") == b"ann"


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ((), (401, "UNAUTHORIZED")),
        ((b"Authorization: Bearer nonsense",), (401, "AUTH_FAILED")),
        ((who("eve"),), (403, "FORBIDDEN")),
        ((who("eve", "jobs:write", "events:write"),), (403, "FORBIDDEN")),
        ((ADMIN,), (403, "FORBIDDEN")),
        ((who("eve", "internal", seconds=-60),), (401, "AUTH_FAILED")),
        ((WORKER + b"x",), (401, "AUTH_FAILED")),
        ((WORKER, WORKER), (400, "BAD_REQUEST")),
    ],
)
async def test_who_is_no_worker_may_speak_for_nobody(
    fields: tuple[bytes, ...], refusal: tuple[int, str]
) -> None:
    async with at_work() as (gateway, upstream):
        found = await get(gateway, PATH, *fields, behalf(gateway))
        assert code(found) == refusal
        assert found.get("x-gateway-error") is None
        assert upstream.requests == []


async def test_a_bad_assertion_is_refused_and_never_passed_on_without() -> None:
    async with at_work() as (gateway, upstream):
        good = behalf(gateway)
        token = good.split()[-1]
        body, signature = token.split(b".")[1:]
        for field in (
            b"X-On-Behalf-Of:",
            b"X-On-Behalf-Of: ann",
            b"X-On-Behalf-Of: " + who("ann").split()[-1],
            good[:-2],
            good + b"A",
            b"X-On-Behalf-Of: " + b".".join((token.split(b".")[0], signature, body)),
            good + b", " + token,
            behalf(gateway, age=91),
            behalf(gateway, age=-31),
            good + b"\r\n" + good,
            good + b"\r\nx-on-behalf-of: " + token,
        ):
            found = await get(gateway, PATH, WORKER, field)
            assert code(found) == (401, "AUTH_FAILED"), field
            assert found.get("x-gateway-error") == b"AUTH_FAILED"
        assert upstream.requests == []


async def test_one_of_another_gateways_key_is_refused() -> None:
    other = JOBS | {"PAYLOAD_KEYS": "now:" + "A" * 43 + "="}
    async with at_work() as (gateway, upstream), at_work(**other) as (stranger, _):
        assert code(await get(gateway, PATH, WORKER, behalf(stranger))) == (401, "AUTH_FAILED")
        assert upstream.requests == []


async def test_an_assertion_is_for_the_service_that_it_names() -> None:
    config = '[services.other_one]\nurl = "http://127.0.0.1:9"\n'
    async with at_work(config, row("/r/*", to="svc")) as (gateway, upstream):
        for service in ("other-one", "gateway", "SV", "svc/x"):
            found = await get(gateway, PATH, WORKER, behalf(gateway, service))
            assert code(found) == (403, "FORBIDDEN"), service
            found = await get(gateway, "/r/x", WORKER, behalf(gateway, service))
            assert code(found) == (403, "FORBIDDEN"), service
        assert upstream.requests == []
        for path in (PATH, "/r/x"):
            assert (await get(gateway, path, WORKER, behalf(gateway, "SVC"))).status == 200


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /health", 403),
        (b"GET /openapi.json", 403),
        (b"GET /approvals", 403),
        (b"GET /api/v1/events/ann", 403),
        (b"POST /api/v1/events/ann", 403),
        (b"POST /api/v1/questions", 403),
        (b"POST /api/v1/workflows/api_request_workflow", 403),
        (b"GET /api/workflows/x/status", 403),
        (b"GET /metrics", 404),
        (b"GET /admin/services", 404),
        (b"POST /admin/reload", 404),
        (b"POST /internal/jobs/durable", 404),
        (b"GET /internal/jobs/durable", 404),
    ],
)
async def test_no_job_reaches_a_path_of_the_gateways_own(line: bytes, status: int) -> None:
    async with at_work() as (gateway, _):
        field = behalf(gateway, scopes=frozenset(("admin", "internal", "events:write")))
        for fields in ((WORKER,), (ADMIN,), ()):
            found = await gateway.ask(request(line, *fields, field, body=b""))
            assert found.status == status, found.body


@pytest.mark.parametrize(
    "name", [b"X_On_Behalf_Of", b"X-On_Behalf-Of", b"x.on.behalf.of", b"X-On-Behalf_of"]
)
async def test_another_spelling_is_neither_believed_nor_passed_on(name: bytes) -> None:
    async with at_work() as (gateway, upstream):
        field = behalf(gateway).replace(b"X-On-Behalf-Of", name)
        assert (await get(gateway, PATH, who("eve"), field)).status == 200
        (asked,) = upstream.requests
        assert asked.get("x-user-id") == b"eve"
        assert field.split()[-1] not in upstream.received[0]


async def test_behind_a_body_it_is_nothing() -> None:
    async with at_work() as (gateway, upstream):
        field = behalf(gateway)
        data = request(b"POST /api/v1/svc/x", who("eve"), b"Transfer-Encoding: chunked")
        data += chunks(b"abc", trailers=(field, b"X_On_Behalf_Of: y", b"X-Checksum: 1"))
        assert (await gateway.ask(data)).status == 200
        assert upstream.requests[0].get("x-user-id") == b"eve"
        assert upstream.requests[0].trailers == [(b"X-Checksum", b"1")]


async def test_to_call_it_hop_by_hop_changes_nothing() -> None:
    async with at_work() as (gateway, upstream):
        named = b"Connection: X-On-Behalf-Of, Authorization"
        found = await get(gateway, PATH, WORKER, named, behalf(gateway))
        assert found.status == 401  # Authorization was taken off, so nobody asked
        found = await get(gateway, PATH, who("eve"), b"Connection: X-On-Behalf-Of", behalf(gateway))
        assert code(found) == (403, "FORBIDDEN")
        assert upstream.requests == []


async def test_a_folded_or_odd_line_is_refused_as_ever() -> None:
    async with at_work() as (gateway, upstream):
        token = behalf(gateway).split()[-1]
        for field in (
            b"X-On-Behalf-Of : " + token,
            b"X-On-Behalf-Of:\r\n " + token,
            b" X-On-Behalf-Of: " + token,
            b"X-On-Behalf-Of: " + token + b"\x00",
        ):
            found = await get(gateway, PATH, WORKER, field)
            assert found.status == 400, field
        assert upstream.requests == []


async def test_what_a_row_asks_for_is_asked_of_the_caller() -> None:
    config = '[services.svc2]\nurl = "http://127.0.0.1:9"\nauth = "required"\n'
    rows = (row("/books/*", 'auth = "scope:books"'), row("/open/*", 'auth = "none"'))
    async with at_work(config, *rows) as (gateway, upstream):
        found = await get(gateway, "/books/1", WORKER, behalf(gateway))
        error = assert_error(found, 403, "FORBIDDEN")
        assert "books" in error["message"]
        assert found.get("x-gateway-error") == b"FORBIDDEN"
        nobody = behalf(gateway, "svc2", subject=None, tenant=None, tier="anonymous")
        found = await get(gateway, "/api/v1/svc2/x", WORKER, nobody)
        assert code(found) == (401, "UNAUTHORIZED")
        assert upstream.requests == []
        may = behalf(gateway, scopes=frozenset(("books",)))
        assert (await get(gateway, "/books/1", WORKER, may)).status == 200
        assert (await get(gateway, "/open/1", WORKER, behalf(gateway))).status == 200
        # Where a row wants to know nobody, its service is told of nobody.
        assert upstream.requests[1].get("x-user-id") is None


async def test_the_callers_limit_counts_and_only_once() -> None:
    async with at_work(RATE_LIMIT="2/hour") as (gateway, upstream):
        for _ in range(2):
            assert (await get(gateway, PATH, WORKER, behalf(gateway))).status == 200
        found = await get(gateway, PATH, WORKER, behalf(gateway))
        error = assert_error(found, 429, "RATE_LIMITED")
        assert found.get("retry-after") == str(error["retry_after"]).encode()
        assert found.get("x-gateway-error") == b"RATE_LIMITED"
        # The same budget as the caller's own; another's is another's.
        assert (await get(gateway, PATH, who("ann"))).status == 429
        assert (await get(gateway, PATH, WORKER, behalf(gateway, subject="bob"))).status == 200
        for _ in range(3):
            found = await get(gateway, PATH, WORKER, behalf(gateway, spent=True))
            assert found.status == 200
            assert found.get("x-ratelimit-limit") is None
        assert len(upstream.requests) == 6


async def test_callers_without_a_name_are_counted_by_their_addresses() -> None:
    async with at_work(RATE_LIMIT="1/hour") as (gateway, _):
        statuses = [
            (await get(gateway, PATH, WORKER, behalf(gateway, address=address, **NOBODY))).status
            for address in ("9.9.9.9", "9.9.9.9", "::ffff:9.9.9.9", "2001:db8::1", "2001:db8::2")
        ]
        assert statuses == [200, 429, 429, 200, 429]
        # Where it is not known they share the worker's.
        for wanted in (200, 429):
            found = await get(gateway, PATH, WORKER, behalf(gateway, address="", **NOBODY))
            assert found.status == wanted
        assert (await get(gateway, PATH)).status == 429


async def test_a_workers_own_calls_are_not_limited() -> None:
    async with at_work(RATE_LIMIT="2/hour") as (gateway, _):
        event = request(
            b"POST /api/v1/events/ann", WORKER, body=b'{"event_type":"job.started","data":1}'
        )
        for _ in range(5):
            found = await gateway.ask(event)
            assert found.status == 202
            assert found.get("x-ratelimit-limit") is None
        other = event.replace(WORKER, who("ann", "events:write")).replace(
            b"job.started", b"xob.started"
        )
        assert [(await gateway.ask(other)).status for _ in range(3)] == [202, 202, 429]


async def test_a_door_closed_to_the_workers_address_lets_the_worker_in() -> None:
    async with at_work("[abuse]\nbad_credentials = 3\n") as (gateway, _):
        for _ in range(4):
            found = await get(gateway, PATH, b"Authorization: Bearer x")
        assert found.status == 429
        assert (await get(gateway, PATH)).status == 429
        assert (await get(gateway, PATH, WORKER, behalf(gateway))).status == 200
        assert (await get(gateway, PATH, who("w", "internal"), behalf(gateway))).status == 429


async def test_without_a_signing_key_the_service_token_is_still_the_workers() -> None:
    rows = (row("/closed/*", 'auth = "required"'),)
    async with at_work("", *rows, JWT_SECRET=None) as (gateway, upstream):
        assert (await get(gateway, PATH, WORKER, behalf(gateway))).status == 200
        assert code(await get(gateway, PATH, behalf(gateway))) == (401, "UNAUTHORIZED")
        found = await get(gateway, PATH, b"Authorization: Bearer x", behalf(gateway))
        assert code(found) == (401, "UNAUTHORIZED")
        found = await get(gateway, "/closed/1", WORKER, behalf(gateway, **NOBODY))
        assert code(found) == (401, "UNAUTHORIZED")
        owner = behalf(gateway, open_write=True, **NOBODY)
        assert (await get(gateway, "/closed/1", WORKER, owner)).status == 200
        assert len(upstream.requests) == 2
    async with at_work("", *rows) as (gateway, _):  # a key was set meanwhile
        owner = behalf(gateway, open_write=True, **NOBODY)
        found = await get(gateway, "/closed/1", WORKER, owner)
        assert code(found) == (401, "UNAUTHORIZED")


async def test_an_error_of_the_service_is_not_the_gateways() -> None:
    sick = answer(b"{}", b"X-Gateway-Error: RATE_LIMITED", status=b"429 Too Many Requests")
    async with at_work(script=sick) as (gateway, _):
        found = await get(gateway, PATH, WORKER, behalf(gateway))
        assert found.status == 429
        assert found.get("x-gateway-error") is None


async def test_a_breaker_that_is_open_holds_for_jobs_too() -> None:
    async with at_work() as (gateway, upstream):
        gateway.gateway._services.services["svc"].breaker.force_open()
        found = await get(gateway, PATH, WORKER, behalf(gateway))
        error = assert_error(found, 503, "CIRCUIT_BREAKER_OPEN")
        assert error["retry_after"] > 0
        assert found.get("x-gateway-error") == b"CIRCUIT_BREAKER_OPEN"
        assert upstream.requests == []


async def test_where_jobs_are_off_nobody_is_spoken_for() -> None:
    async with proxied(JWT_SECRET=JOBS["SERVICE_TOKEN"] * 2) as (gateway, upstream):
        token = b"X-On-Behalf-Of: a.b.c"
        secret = JOBS["SERVICE_TOKEN"] * 2
        found = await get(gateway, PATH, who("w", "internal", key=secret), token)
        error = assert_error(found, 403, "FORBIDDEN")
        assert "PAYLOAD_KEYS" in error["message"]
        assert (await get(gateway, PATH, token)).status == 401
        assert (await get(gateway, PATH, WORKER, token)).status == 401
        assert upstream.requests == []


async def test_an_overheard_assertion_dies_with_its_minute() -> None:
    async with at_work() as (gateway, upstream):
        field = behalf(gateway)
        now = time.time()
        assert signer(gateway).verify(field.split()[-1], now + 88).subject == "ann"
        for _ in range(2):  # until then it may come again: the worker's credential is what counts
            assert (await get(gateway, PATH, WORKER, field)).status == 200
        assert code(await get(gateway, PATH, who("eve"), field)) == (403, "FORBIDDEN")
        assert len(upstream.requests) == 2


@pytest.mark.parametrize(("wait", "status"), [(None, 504), (0.01, 504), (60.0, 200)])
async def test_a_step_may_take_as_long_as_its_job_says(wait: float | None, status: int) -> None:
    """The service answers when the door has given up on somebody else, who asked after the step."""
    given_up = asyncio.Event()

    async def late(link: Link) -> None:
        asked = await link.request()
        if asked.get("x-user-id") == b"ann":
            await given_up.wait()
            link.send(OK)

    rows = (row("/other/*", "head_timeout = 0.6"), row("/total/*", "total_timeout = 0.2"))
    lines = ("head_timeout = 0.2",)
    async with at_work("", *rows, script=late, lines=lines) as (gateway, _):

        async def another() -> int:
            found = await get(gateway, "/other/1", who("bob"))
            given_up.set()
            return found.status

        field = behalf(gateway, wait_seconds=wait)
        step, other = await asyncio.gather(get(gateway, PATH, WORKER, field), another())
        assert (step.status, other) == (status, 504)
        given_up.clear()
        # What a row gives the whole request is its operator's.
        found = await get(gateway, "/total/1", WORKER, behalf(gateway, wait_seconds=60.0))
        assert found.status == 504
