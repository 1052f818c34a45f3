"""`POST /internal/jobs/admission`: a worker asks whether a request would be let in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.messages import Message, assert_error, request
from tests.redis_server import redis_server
from tests.scenarios.governed import ADMIN, row
from tests.scenarios.working import WORKER, at_work, behalf
from tests.streams import who
from tests.wire import RunningGateway

LINE = b"POST /internal/jobs/admission"
ASKED = {"what": "authenticate", "service": "svc", "method": "GET", "target": "/api/v1/svc/x?a=1"}


async def ask(
    gateway: RunningGateway, *fields: bytes, asked: Any = None, **members: Any
) -> Message:
    """What the door says to this question."""
    body = asked if isinstance(asked, bytes) else json.dumps(ASKED | members).encode()
    return await gateway.ask(request(LINE, *fields, body=body))


async def told(gateway: RunningGateway, field: bytes, **members: Any) -> str | None:
    """Why a request is not let in, None: it is."""
    found = await ask(gateway, WORKER, field, **members)
    assert found.status == 200, found.body
    assert found.get("cache-control") == b"no-store"
    document = found.json()
    assert set(document) == {"allowed", "error"}
    error = document["error"]
    assert document["allowed"] is (error is None)
    if error is None:
        return None
    assert set(error) == {"code", "message", "status", "retry_after"}
    return f"{error['status']} {error['code']}"


@pytest.mark.parametrize("fields", [(), (b"Authorization: Bearer x",), (who("eve"),), (ADMIN,)])
async def test_for_others_there_is_nothing(fields: tuple[bytes, ...]) -> None:
    async with at_work() as (gateway, _):
        nothing = await gateway.ask(request(b"POST /internal/jobs/other", *fields, body=b"{}"))
        for line in (LINE, LINE.replace(b"POST", b"GET"), LINE.replace(b"POST", b"OPTIONS")):
            for more in ((), (behalf(gateway),), (b"Expect: everything",)):
                found = await gateway.ask(request(line, *fields, *more, body=b"{}"))
                error = assert_error(found, 404, "NOT_FOUND")
                assert error["message"] == nothing.json()["error"]["message"]
                assert found.get("x-gateway-error") is None


async def test_a_worker_must_say_for_whom_it_asks() -> None:
    async with at_work() as (gateway, _):
        # A worker's start asks so, to see whether its token is good.
        assert_error(await ask(gateway, WORKER), 400, "BAD_REQUEST")
        assert_error(await ask(gateway, WORKER, behalf(gateway, age=95)), 401, "AUTH_FAILED")
        found = await ask(gateway, WORKER, b"X-On-Behalf-Of: a.b.c")
        assert_error(found, 401, "AUTH_FAILED")
        assert found.get("x-gateway-error") == b"AUTH_FAILED"
        found = await gateway.ask(request(LINE.replace(b"POST", b"GET"), WORKER))
        assert found.status == 405


async def test_it_says_what_the_request_would_be_told() -> None:
    config = '[services.other_one]\nurl = "http://127.0.0.1:9"\n'
    rows = (
        row("/books/:id", 'auth = "scope:books"', 'methods = ["GET"]'),
        row("/in/*", 'auth = "required"', 'agents = "refuse"'),
        row("/hosted/*", 'host = "api.example.com"'),
        row("/beta/*", 'headers = { X-Beta = "2" }'),
    )
    async with at_work(config, *rows) as (gateway, upstream):
        ann = behalf(gateway)
        assert await told(gateway, ann) is None
        assert await told(gateway, ann, target="/books/1") == "403 FORBIDDEN"
        reader = behalf(gateway, scopes=frozenset(("books",)))
        assert await told(gateway, reader, target="/books/1") is None
        assert await told(gateway, reader, target="/books/1", method="PUT") == (
            "405 METHOD_NOT_ALLOWED"
        )
        nobody = behalf(gateway, subject=None, tenant=None, tier="anonymous")
        assert await told(gateway, nobody, target="/in/1") == "401 UNAUTHORIZED"
        nobodys_agent = behalf(gateway, subject=None, tenant=None, tier="anonymous", agent="gptbot")
        assert await told(gateway, nobodys_agent, target="/in/1") == "401 UNAUTHORIZED"
        anns_agent = behalf(gateway, agent="gptbot")
        assert await told(gateway, anns_agent, target="/in/1") == "403 FORBIDDEN"
        for target in ("/nowhere", "/hosted/1", "/beta/1", "*", "/api/v1/unknown/x"):
            assert await told(gateway, ann, target=target) == "404 NOT_FOUND"
        assert await told(gateway, ann, target="/hosted/1", host="api.example.com:80") is None
        assert await told(gateway, ann, target="/beta/1", headers={"x-BETA": " 2"}) is None
        for target in ("/api/v1/svc/../x", "x", "/a#b", "/api/v1/svc/%2e%2e/x"):
            assert await told(gateway, ann, target=target) == "400 BAD_REQUEST"
        for target in ("/health", "/admin/services", "/api/v1/events/a", "/api/v1/other-one/x"):
            assert await told(gateway, ann, target=target) == "403 FORBIDDEN"
        other = behalf(gateway, "other-one")
        assert await told(gateway, other, service="other_one") == "403 FORBIDDEN"
        assert await told(gateway, other) == "403 FORBIDDEN"
        assert await told(gateway, other, service="other_one", target="/api/v1/other_one/x") is None
        assert upstream.requests == []


async def test_the_limit_is_taken_once_from_the_caller() -> None:
    row_limit = row("/r/*", "limits = { per_hour = 1 }")
    async with at_work("", row_limit, RATE_LIMIT="3/hour") as (gateway, _):
        ann = behalf(gateway)
        for _ in range(5):  # to ask who may takes nothing
            assert await told(gateway, ann) is None
        assert await told(gateway, ann, what="limit", target="/r/1") is None
        found = await ask(gateway, WORKER, ann, what="limit", target="/r/1")
        error = found.json()["error"]
        assert (error["code"], error["status"]) == ("RATE_LIMITED", 429)
        assert 0 < error["retry_after"] <= 3600
        for _ in range(2):
            assert await told(gateway, ann, what="limit") is None
        assert await told(gateway, ann, what="limit") == "429 RATE_LIMITED"
        assert await told(gateway, behalf(gateway, spent=True), what="limit") is None
        assert await told(gateway, behalf(gateway, subject="bob"), what="limit") is None
        nobody = behalf(gateway, subject=None, tenant=None, tier="anonymous", address="9.9.9.9")
        for wanted in (None, None, None, "429 RATE_LIMITED"):
            assert await told(gateway, nobody, what="limit") == wanted


async def test_a_limit_that_is_shared_is_waited_for() -> None:
    async with (
        redis_server() as redis,
        at_work(RATE_LIMIT="2/hour", REDIS_URL=redis.url) as (gateway, _),
    ):
        wanted = (None, None, "429 RATE_LIMITED")
        ann = behalf(gateway)
        assert tuple([await told(gateway, ann, what="limit") for _ in wanted]) == wanted


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"what": "everything"}, "/what"),
        ({"what": None}, "/what"),
        ({"service": 1}, "/service"),
        ({"method": ["GET"]}, "/method"),
        ({"target": None}, "/target"),
        ({"host": 1}, "/host"),
        ({"headers": []}, "/headers"),
        ({"headers": {"a": 1}}, "/headers"),
        ({"more": 1}, ""),
    ],
)
async def test_a_question_that_is_wrong_is_told_where(
    members: dict[str, Any], pointer: str
) -> None:
    async with at_work() as (gateway, _):
        found = await ask(gateway, WORKER, behalf(gateway), **members)
        assert found.status == 422
        assert [each["pointer"] for each in found.json()["error"]["details"]] == [pointer]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[1]", b"7", b"[" * 5000, b"\xef\xbb\xbf{}"])
async def test_what_is_no_question_is_refused(body: bytes) -> None:
    async with at_work() as (gateway, _):
        found = await ask(gateway, WORKER, behalf(gateway), asked=body)
        assert found.status in (400, 422)


async def test_a_long_question_is_refused_as_it_comes() -> None:
    async with at_work() as (gateway, _):
        found = await ask(gateway, WORKER, behalf(gateway), asked=b" " * 65537)
        assert_error(found, 413, "PAYLOAD_TOO_LARGE")
        chunked = request(LINE, WORKER, behalf(gateway), b"Transfer-Encoding: chunked")
        async with gateway.connect() as client:
            client.send(chunked + b"10001\r\n" + b" " * 65537)
            assert_error(await client.response(), 413, "PAYLOAD_TOO_LARGE")


async def test_a_question_may_come_in_pieces() -> None:
    async with at_work() as (gateway, _):
        body = json.dumps(ASKED).encode()
        data = request(LINE, WORKER, behalf(gateway), b"Expect: 100-continue", body=body)
        async with gateway.connect() as client:
            client.send(data[: -len(body)])
            await client.line()  # 100 Continue: then the rest
            await client.line()
            client.send(body[:5])
            client.send(body[5:])
            assert (await client.response()).json() == {"allowed": True, "error": None}
