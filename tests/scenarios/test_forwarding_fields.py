"""Fields on their way through: which stay here, which never pass, which the gateway sets."""

from __future__ import annotations

import re

import pytest

from tests.wire import (
    Message,
    RunningGateway,
    ScriptedUpstream,
    answer,
    assert_error,
    free_port,
    proxied,
    request,
    start_gateway,
)

GET = b"GET /api/v1/svc/x"
TRUST_LOOPBACK = "127.0.0.0/8"


async def forwarded(*fields: bytes, line: bytes = GET, **environ: object) -> Message:
    """What the upstream is sent for a request with these fields."""
    async with proxied(**environ) as (gateway, upstream):
        assert (await gateway.ask(request(line, *fields))).status == 200
        return upstream.requests[0]


async def returned(*fields: bytes) -> Message:
    """What the client is sent for an answer with these fields."""
    async with proxied(answer(b"ok", *fields)) as (gateway, _):
        response = await gateway.ask(request(GET))
        assert response.body == b"ok"
        return response


HOP_BY_HOP = [
    b"Keep-Alive: timeout=57",
    b"Proxy-Connection: mark-57",
    b"TE: gzip",
    b"Proxy-Authorization: Basic aGk6aGk=",
    b"Proxy-Authenticate: Basic",
    b"Upgrade: mystery/1",
    b"KEEP-ALIVE: timeout=57",
    b"proxy-connection: mark-57",
]


@pytest.mark.parametrize("field", HOP_BY_HOP)
async def test_a_hop_by_hop_field_of_a_request_stays_here(field: bytes) -> None:
    sent = await forwarded(field, b"X-End: to end")
    assert sent.get("x-end") == b"to end"
    assert field.split(b":")[0].lower() not in sent.names
    assert field.split(b": ")[1] not in sent.head


async def test_te_trailers_is_kept_and_the_rest_of_te_is_not() -> None:
    sent = await forwarded(b"TE: gzip;q=0.5, trailers, deflate")
    assert sent.tokens("te") == [b"trailers"]


@pytest.mark.parametrize(
    "connection",
    [
        [b"Connection: X-Private"],
        [b"connection: keep-alive, x-private"],
        [b"Connection: keep-alive", b"Connection: X-PRIVATE"],
        [b"Connection: ,, x-private ,"],
        [b"Connection: close, X-Private"],
    ],
)
async def test_a_field_named_in_connection_stays_here(connection: list[bytes]) -> None:
    sent = await forwarded(*connection, b"X-Private: secret", b"x-private: too", b"X-Public: yes")
    assert sent.get("x-public") == b"yes"
    assert b"x-private" not in sent.names
    assert b"x-private" not in sent.tokens("connection")


@pytest.mark.parametrize(
    "name",
    [
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Request-ID",
        "X-Correlation-ID",
        "Traceparent",
        "Via",
        "Host",
    ],
)
async def test_naming_a_field_of_the_gateway_in_connection_does_not_take_it_away(name: str) -> None:
    sent = await forwarded(b"Connection: close, " + name.encode())
    assert sent.get(name)


async def test_naming_framing_in_connection_changes_no_framing() -> None:
    async with proxied() as (gateway, upstream):
        data = request(b"POST /api/v1/svc/x", b"Connection: Content-Length, Host", body=b"hello")
        assert (await gateway.ask(data)).status == 200
        assert upstream.requests[0].body == b"hello"


async def test_naming_identity_in_connection_does_not_let_it_pass() -> None:
    sent = await forwarded(b"Connection: X-User-ID", b"X-User-ID: root", b"X_User_ID: root")
    assert b"root" not in sent.head


async def test_end_to_end_fields_pass_in_order_and_as_they_are() -> None:
    fields = [
        b"Accept: text/html",
        b"Authorization: Bearer abc.def",
        b"Cookie: a=b; c=d",
        b"X-Two: 1",
        b"x-two: 2",
        b"X-Empty:",
        b'If-None-Match: "x", W/"y"',
        b"my_field: kept",
        b"my.field: kept",
    ]
    sent = await forwarded(*fields)
    assert sent.get("accept") == b"text/html"
    assert sent.get("authorization") == b"Bearer abc.def"
    assert sent.get("cookie") == b"a=b; c=d"
    assert sent.all("x-two") == [b"1", b"2"]
    assert sent.get("x-empty") == b""
    assert sent.get("if-none-match") == b'"x", W/"y"'
    assert sent.get("my_field") == b"kept"
    assert sent.get("my.field") == b"kept"
    assert len(sent.all("host")) == 1


@pytest.mark.parametrize(
    "name",
    [
        b"X_Forwarded_For",
        b"X-Forwarded_For",
        b"x.forwarded.for",
        b"X_Forwarded_Proto",
        b"X_Forwarded_Host",
        b"X_Request_ID",
        b"X_User_ID",
        b"X.User.ID",
        b"X_Tenant_ID",
        b"X_User_Tier",
        b"Content_Length",
        b"Transfer_Encoding",
        b"X_Correlation_ID",
    ],
)
async def test_an_alias_of_a_field_of_the_gateway_is_dropped(name: bytes) -> None:
    sent = await forwarded(name + b": 6.6.6.6")
    assert b"6.6.6.6" not in sent.head


@pytest.mark.parametrize("name", [b"X-User-ID", b"x-tenant-id", b"X-USER-TIER"])
@pytest.mark.parametrize("trusted", ["", TRUST_LOOPBACK], ids=["", "trusted proxy"])
async def test_an_identity_field_of_a_client_never_passes(name: bytes, trusted: str) -> None:
    environ = {"TRUSTED_PROXIES": trusted} if trusted else {}
    sent = await forwarded(name + b": forged-1", name + b": forged-2", **environ)
    assert b"forged" not in sent.head


async def test_the_upstream_is_told_who_asked_for_what() -> None:
    sent = await forwarded()
    assert sent.get("x-forwarded-for") == b"127.0.0.1"
    assert sent.get("x-forwarded-proto") == b"http"
    assert sent.get("x-forwarded-host") == b"gateway.test"


async def test_forwarding_fields_of_a_stranger_are_not_believed() -> None:
    sent = await forwarded(
        b"X-Forwarded-For: 6.6.6.6",
        b"x-forwarded-for: 7.7.7.7",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: evil.example",
        b"Forwarded: for=6.6.6.6;proto=https;host=evil.example",
    )
    assert sent.get("x-forwarded-for") == b"127.0.0.1"
    assert sent.get("x-forwarded-proto") == b"http"
    assert sent.get("x-forwarded-host") == b"gateway.test"
    for lie in (b"6.6.6.6", b"7.7.7.7", b"evil.example", b"https"):
        assert lie not in sent.head


async def client_address(gateway: RunningGateway, *fields: bytes) -> str:
    """The client address that the access record gives for a request with these fields."""
    before = len(gateway.access_records())
    assert (await gateway.ask(request(GET, *fields))).status == 200
    address: str = (await gateway.records(before + 1))[-1]["client_ip"]
    return address


@pytest.mark.parametrize(
    ("trusted", "fields", "expected"),
    [
        ("", [b"X-Forwarded-For: 203.0.113.9"], "127.0.0.1"),
        ("10.0.0.0/8", [b"X-Forwarded-For: 203.0.113.9"], "127.0.0.1"),
        (TRUST_LOOPBACK, [], "127.0.0.1"),
        (TRUST_LOOPBACK, [b"X-Forwarded-For: 203.0.113.9"], "203.0.113.9"),
        (TRUST_LOOPBACK, [b"X-Forwarded-For: 6.6.6.6, 203.0.113.9"], "203.0.113.9"),
        (TRUST_LOOPBACK, [b"X-Forwarded-For: 6.6.6.6,203.0.113.9, 127.0.0.2"], "203.0.113.9"),
        (TRUST_LOOPBACK, [b"X-Forwarded-For: 6.6.6.6", b"x-forwarded-for: 1.2.3.4"], "1.2.3.4"),
        (TRUST_LOOPBACK + ",203.0.113.0/24", [b"X-Forwarded-For: 1.2.3.4, 203.0.113.9"], "1.2.3.4"),
        (TRUST_LOOPBACK, [b"X-Forwarded-For: 2001:db8::7"], "2001:db8::7"),
        (TRUST_LOOPBACK, [b"Forwarded: for=203.0.113.9"], "203.0.113.9"),
        (TRUST_LOOPBACK, [b'Forwarded: for=6.6.6.6, For="[2001:db8::7]:4711"'], "2001:db8::7"),
    ],
)
async def test_the_client_is_the_right_most_hop_that_is_not_trusted(
    trusted: str, fields: list[bytes], expected: str
) -> None:
    async with proxied(**({"TRUSTED_PROXIES": trusted} if trusted else {})) as (gateway, _):
        assert await client_address(gateway, *fields) == expected


async def test_forwarding_fields_of_a_trusted_proxy_are_passed_on() -> None:
    sent = await forwarded(
        b"X-Forwarded-For: 203.0.113.9",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: shop.example",
        TRUSTED_PROXIES=TRUST_LOOPBACK,
    )
    addresses = sent.tokens("x-forwarded-for")
    assert addresses == [b"203.0.113.9", b"127.0.0.1"]
    assert sent.get("x-forwarded-proto") == b"https"
    assert sent.get("x-forwarded-host") == b"shop.example"


async def test_via_is_added_behind_the_vias_that_came() -> None:
    sent = await forwarded(b"Via: 1.0 fred, 1.1 p.example")
    members = sent.tokens("via")
    assert members[:2] == [b"1.0 fred", b"1.1 p.example"]
    assert len(members) == 3
    assert re.fullmatch(rb"1\.1 \S+( \(.*\))?", members[2])


async def test_a_request_of_1_0_is_said_to_have_come_by_1_0_or_1_1() -> None:
    async with proxied() as (gateway, upstream):
        await gateway.ask(b"GET /api/v1/svc/x HTTP/1.0\r\n\r\n")
        assert re.fullmatch(rb"1\.[01] \S+.*", upstream.requests[0].tokens("via")[0])


async def test_a_request_that_has_been_here_is_a_loop() -> None:
    async with proxied() as (gateway, upstream):
        await gateway.ask(request(GET))
        own = upstream.requests[0].get("via")
        response = await gateway.ask(request(GET, b"Via: 1.1 other, " + (own or b"")))
        assert response.status >= 400
        assert set(response.json()) == {"error"}
        assert len(upstream.requests) == 1


async def test_a_gateway_that_is_its_own_upstream_ends_the_loop() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/api/v1/svc"
    async with start_gateway(SVC_URL=url, port=port) as gateway:
        response = await gateway.ask(request(GET))
        assert response.status >= 400
        assert len(gateway.access_records()) <= 5


@pytest.mark.parametrize(
    "field",
    [
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"Proxy-Authenticate: Basic",
        b"Upgrade: h2c",
        b'Alt-Svc: h3=":443"',
        b"alt-svc: clear",
    ],
)
async def test_a_hop_by_hop_field_of_an_answer_stays_here(field: bytes) -> None:
    response = await returned(field, b"X-End: to end")
    assert response.get("x-end") == b"to end"
    assert field.split(b":")[0].lower() not in response.names


async def test_a_field_named_in_connection_of_an_answer_stays_here() -> None:
    response = await returned(b"Connection: keep-alive, X-Private", b"X-Private: a", b"X-Public: b")
    assert response.get("x-public") == b"b"
    assert b"x-private" not in response.names


async def test_an_answer_cannot_take_away_what_the_gateway_sets() -> None:
    response = await returned(b"Connection: X-Request-ID, Content-Length")
    assert response.all("x-request-id")


async def test_end_to_end_fields_of_an_answer_pass_in_order() -> None:
    response = await returned(
        b"Set-Cookie: a=b", b"set-cookie: c=d", b'ETag: W/"1"', b"X-Empty:", b"Retry-After: 3"
    )
    assert response.all("set-cookie") == [b"a=b", b"c=d"]
    assert response.get("etag") == b'W/"1"'
    assert response.get("x-empty") == b""
    assert response.get("retry-after") == b"3"


@pytest.mark.parametrize(
    "status", [b"301 Moved", b"404 Not Found", b"418 Teapot", b"500 Oh", b"503 No"]
)
async def test_an_upstreams_own_status_and_body_pass_through(status: bytes) -> None:
    async with proxied(answer(b"mine", b"Location: /y", status=status)) as (gateway, upstream):
        response = await gateway.ask(request(GET))
        assert response.start == b"HTTP/1.1 " + status
        assert response.body == b"mine"
        assert response.get("location") == b"/y"
        assert len(upstream.requests) == 1


async def test_forged_internal_marks_do_not_make_a_client_local() -> None:
    async with ScriptedUpstream() as upstream, start_gateway(SVC_URL=upstream.url) as gateway:
        data = request(
            b"GET /metrics",
            b"X-Forwarded-For: 203.0.113.9",
            b"X-Gateway-Client: 127.0.0.1",
            b"X-Gateway-Direct: 1",
        )
        assert_error(await gateway.ask(data), 404, "NOT_FOUND")
