"""Attacks on the policies: walking round rows and limits, being somebody else, shutting others out,
finding what is hidden.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.messages import Message, assert_error, request
from tests.redis_server import redis_server
from tests.routed import hang, routed
from tests.scenarios.governed import (
    ADMIN,
    OK,
    PROXIES,
    at,
    get,
    governed,
    in_front,
    row,
    statuses,
)
from tests.streams import who
from tests.wire import RunningGateway, ScriptedUpstream, answer, eventually

X = "/api/v1/svc/x"
ABUSE = """
[abuse]
bad_credentials = 3
refusals = 3
window_seconds = 60
close_seconds = 60
"""


# Walking round


@pytest.mark.parametrize(
    "target",
    [
        b"/p/x", b"/p", b"/p/", b"//p/x", b"/%70/x", b"/;a/p/x", b"/p;a=b/x", b"/p;/x",
        b"http://elsewhere.test/p/x", b"http://elsewhere.test//p", b"/p?/o",
    ],
)  # fmt: skip
async def test_no_spelling_of_a_path_leads_round_its_row(target: bytes) -> None:
    rows = row("/p/*", 'auth = "required"'), row("/*", 'auth = "none"')
    async with in_front("", *rows) as (gateway, upstream):
        assert_error(await gateway.ask(request(b"GET " + target)), 401, "UNAUTHORIZED")
        assert upstream.requests == []


@pytest.mark.parametrize("name", ["my_svc", "my-svc_service", "my-svc-service", "my_svc_service"])
async def test_a_limit_by_path_holds_for_all_names_of_a_service(name: str) -> None:
    config = '[[limits]]\npath = "/api/v1/my-svc/*"\nper_hour = 1\n'
    async with (
        ScriptedUpstream(OK) as upstream,
        governed(config, MY_SVC_SERVICE_URL=upstream.url) as gateway,
    ):
        assert (await get(gateway, "/api/v1/my-svc/x")).status == 200
        assert (await get(gateway, "/api/v1/my-svc/x")).status == 429
        assert (await get(gateway, f"/api/v1/{name}/x")).status in (404, 429)


async def test_two_spellings_of_a_pattern_are_one_limit_of_the_store() -> None:
    async with in_front() as (gateway, _):
        for pattern, most in (("/api/v1/svc/*", 100), ("/api/v1/svc/*x", 50), ("/api/v1/svc/*", 7)):
            body = json.dumps({"pattern": pattern, "requests_per_minute": most}).encode()
            set_ = await gateway.ask(request(b"PUT /admin/limits/rules", ADMIN, body=body))
            if set_.status != 200:
                assert_error(set_, 409, "CONFLICT")
        assert (await get(gateway, X)).get("x-ratelimit-limit") == b"7"


# Being somebody else


@pytest.mark.parametrize(
    "field",
    [
        b"X-User-ID: root", b"x_user_id: root", b"X.User.ID: root", b"X~User~ID: root",
        b"Connection: X-User-ID, X-User-Tier", b"X-Gateway-Identity: root",
    ],
)  # fmt: skip
async def test_who_asks_is_what_the_gateway_says(field: bytes) -> None:
    async with in_front() as (gateway, upstream):
        for credential, known in (((who("alice"),), [b"alice"]), ((), [])):
            await get(gateway, X, *credential, field)
            sent = upstream.requests[-1]
            assert sent.all("x-user-id") == known
            assert b"root" not in sent.head


async def test_a_pipelined_request_has_nothing_of_the_one_before() -> None:
    async with in_front("", row("/p/*", 'auth = "required"')) as (gateway, upstream):
        async with gateway.connect() as client:
            named = request(b"GET /p/1", who("alice", tenant="acme"))
            client.send(named + request(b"GET /p/2") + request(b"GET /api/v1/svc/3"))
            assert [(await client.response()).status for _ in range(3)] == [200, 401, 200]
        assert upstream.requests[-1].get("x-user-id") is None
        assert upstream.requests[-1].get("x-tenant-id") is None


@pytest.mark.parametrize(
    "name", ["a\r\nX-User-Tier: pro", "a\n", "\0", "a\x85", "a\u2028", "a\xa0"]
)
async def test_no_claim_becomes_a_line_of_its_own(name: str) -> None:
    async with in_front() as (gateway, upstream):
        for field in (who(name), who("alice", tenant=name)):
            assert_error(await get(gateway, X, field), 401, "AUTH_FAILED")
        assert upstream.requests == []


@pytest.mark.parametrize("name", ["root ", " root"])
async def test_a_name_that_back_ends_would_trim_is_refused(name: str) -> None:
    async with in_front() as (gateway, upstream):
        for field in (who(name), who("alice", tenant=name)):
            assert_error(await get(gateway, X, field), 401, "AUTH_FAILED")
        assert upstream.requests == []


def api_key(tmp_path: Path) -> bytes:
    """A key, whose hash is in `keys.toml`."""
    key = b"gw_test_" + b"0" * 64
    digest = hashlib.sha256(key).hexdigest()
    (tmp_path / "keys.toml").write_text(f'[keys.gw_test]\nhash = "{digest}"\n')
    return key


@pytest.mark.parametrize("name", [b"X-API-Key: ", b"Authorization: Bearer "])
async def test_an_api_key_is_no_services_business(tmp_path: Path, name: bytes) -> None:
    key = api_key(tmp_path)
    routes = row("/r/*", 'auth = "required"')
    async with in_front("", routes, API_KEYS=tmp_path / "keys.toml") as (gateway, upstream):
        assert (await get(gateway, "/r/x", name + key)).status == 200
        assert upstream.requests
        assert not any(key in sent for sent in upstream.received)


@pytest.mark.parametrize("name", [b"X-API-Key", b"X_API_Key"])
async def test_a_service_that_gets_no_credentials_gets_no_api_key(
    tmp_path: Path, name: bytes
) -> None:
    key = api_key(tmp_path)
    async with in_front(
        "",
        row("/none/*", 'auth = "none"'),
        row("/optional/*", 'auth = "optional"'),
        lines=["pass_authorization = false"],
        API_KEYS=tmp_path / "keys.toml",
    ) as (gateway, upstream):
        for path in ("/none/x", "/optional/x"):
            assert (await get(gateway, path, name + b": " + key)).status == 200
        assert not any(key in sent for sent in upstream.received)


# Shutting others out


async def test_a_client_that_holds_back_its_body_opens_no_breaker() -> None:
    data = request(b"POST /r/x", b"Expect: 100-continue", b"Content-Length: 5")
    settings = "breaker_failures = 2\nbreaker_rate = 0.5"
    async with routed(hang, row="head_timeout = 0.1", service=settings) as found:
        for _ in range(2):
            async with found.connect() as client:
                client.send(data)
                assert (await client.response()).status in (408, 504)
        assert found.service.breaker.state == "closed"


@pytest.mark.parametrize(
    "status", [b"501 Not Implemented", b"505 HTTP Version Not Supported"], ids=["501", "505"]
)
async def test_what_a_service_does_not_know_opens_no_breaker(status: bytes) -> None:
    async with routed(answer(b"", status=status), service="breaker_failures = 2") as found:
        for _ in range(2):
            await found.ask(request(b"PROPFIND /r/x"))
        assert found.service.breaker.state == "closed"


async def test_a_page_with_pictures_shuts_no_visitor_out() -> None:
    cross_site = b"Sec-Fetch-Site: cross-site", b"Sec-Fetch-Dest: image"
    async with in_front(ABUSE) as (gateway, _):
        found = await statuses(gateway, 4, "/api/v1/events/x?token=1", *cross_site)
        assert set(found) == {401}
        assert (await get(gateway, X, who("alice"))).status == 200


async def test_a_tenant_at_its_limit_shuts_none_of_its_members_out() -> None:
    config = '[[limits]]\ntenant = "acme"\nper_hour = 1\n' + ABUSE
    async with in_front(config, **PROXIES) as (gateway, _):
        mallory, bob = who("mallory", tenant="acme"), who("bob", tenant="acme")
        assert await statuses(gateway, 1, X, mallory, at("192.0.2.1")) == [200]
        assert await statuses(gateway, 4, X, bob, at("192.0.2.2")) == [429] * 4
        assert (await get(gateway, X, who("carol"), at("192.0.2.2"))).status == 200


async def test_who_asked_nothing_yet_is_not_shut_out_for_a_redis_that_hangs() -> None:
    config = "[tiers.anonymous]\nper_second = 200\nburst = 400\n" + ABUSE
    async with (
        redis_server() as redis,
        in_front(config, REDIS_URL=redis.url, **PROXIES) as (gateway, _),
        in_front(config, REDIS_URL=redis.url) as (other, _),
    ):
        leases = [each.gateway._policies._leases for each in (gateway, other)]
        await eventually(lambda: all(each.gateways == 2 for each in leases), "two gateways")
        redis.hang()
        for _ in range(4):
            answered = await get(gateway, X, at("192.0.2.1"))
            if answered.status == 429:  # then the fields must say so too
                assert b"closed" not in answered.body
                assert answered.get("x-ratelimit-remaining") in (None, b"0")
        redis.resume()


async def test_clients_behind_a_proxy_that_writes_ports_are_told_apart() -> None:
    async with in_front("", RATE_LIMIT="1/hour", **PROXIES) as (gateway, _):
        for address in ("192.0.2.1:50001", "192.0.2.2:50002", "[2001:db8::1]:50003"):
            assert (await get(gateway, X, at(address))).status == 200


# Finding what is hidden


async def both(gateway: RunningGateway, *fields: bytes, body: bytes | None = None) -> list[Message]:
    """What a hidden path is answered, and one that is not there."""
    paths = b"/admin/services", b"/admin/unknown"
    return [
        await gateway.ask(request(b"POST " + path, *fields, body=body, host=b"127.0.0.1"))
        for path in paths
    ]


@pytest.mark.parametrize(
    "fields",
    [
        (),
        (b"Authorization: Bearer x.y.z",),
        (b"Authorization: a", b"Authorization: b"),
        (b"Content-Length: 99999999999",),
        (b"Expect: more", b"Content-Length: 0"),
    ],
    ids=["nothing", "a bad token", "two credentials", "a large body", "an expectation"],
)
async def test_what_is_hidden_is_answered_as_what_is_not_there(fields: tuple[bytes, ...]) -> None:
    async with in_front() as (gateway, _):
        hidden, unknown = await both(gateway, *fields)
        assert hidden.status == unknown.status == 404
        assert hidden.json()["error"]["message"] == unknown.json()["error"]["message"]


async def test_many_bad_tokens_do_not_show_what_is_hidden() -> None:
    async with in_front() as (gateway, _):
        found = await statuses(gateway, 25, "/admin/services", b"Authorization: Bearer x.y.z")
        assert set(found) == {404}


async def test_an_unknown_expectation_is_refused_in_the_shape_of_all_errors() -> None:
    async with in_front() as (gateway, _):
        data = request(b"POST /api/v1/questions", who("alice"), b"Expect: more", body=b"{}")
        assert (await gateway.ask(data)).json()["error"]["code"]


# Reading answers from a foreign page


@pytest.mark.parametrize(
    "origin",
    [
        b"null", b"https://app.example.evil", b"https://evilapp.example", b"https://APP.example",
        b"https://app.example:443", b"https://app.example/", b"https://app.example, https://a.test",
    ],
)  # fmt: skip
async def test_only_an_exact_origin_may_read(origin: bytes) -> None:
    script = answer(b"ok", b"Access-Control-Allow-Origin: *")
    async with in_front(script=script, CORS_ORIGINS="https://app.example") as (gateway, upstream):
        read = await get(gateway, X, b"Origin: " + origin)
        wanted = b"Access-Control-Request-Method: PUT"
        asked = await gateway.ask(request(b"OPTIONS " + X.encode(), b"Origin: " + origin, wanted))
        for answered in (read, asked):
            assert not any(name.startswith(b"access-control-") for name in answered.names)
            assert b"Origin" in b",".join(answered.all("vary"))
        assert len(upstream.requests) == 1  # the preflight went nowhere
