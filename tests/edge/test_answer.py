"""Answers of the door's own, byte for byte."""

from __future__ import annotations

import re

import pytest

from tests.wire import RawClient, proxied, request, start_gateway


async def whole(client: RawClient, data: bytes) -> bytes:
    """The bytes of the only answer on a connection, with what changes from run to run left out."""
    client.send(data)
    await client.until(lambda: client.ended, "the end")
    told = re.sub(rb"(Date|X-Request-ID): [^\r]*", rb"\1: *", bytes(client.received))
    return re.sub(rb'"request_id":"[^"]*"', b'"request_id":"*"', told)


async def test_options_of_the_server_itself_has_no_body_and_no_length() -> None:
    async with start_gateway() as gateway, gateway.connect() as client:
        asked = request(b"OPTIONS *", b"Connection: close")
        assert await whole(client, asked) == (
            b"HTTP/1.1 204 No Content\r\n"
            b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
            b"X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"
            b"X-Frame-Options: DENY\r\n"
            b"Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"
            b"Date: *\r\nX-Request-ID: *\r\nConnection: close\r\n\r\n"
        )


async def test_security_headers_are_a_setting_and_never_on_a_services_answer() -> None:
    async with proxied() as (gateway, _):
        assert (await gateway.ask(request(b"GET /api/v1/svc/"))).get("x-frame-options") is None
        assert (await gateway.ask(request(b"GET /nothing"))).get("x-frame-options") == b"DENY"
    async with proxied(SECURITY_HEADERS="off") as (gateway, _):
        told = await gateway.ask(request(b"GET /nothing"))
        assert told.status == 404
        assert told.get("x-frame-options") is None
        assert (await gateway.ask(request(b"GET /health"))).get("x-frame-options") is None


async def test_an_error_says_in_its_head_what_to_do() -> None:
    async with proxied(RATE_LIMIT="1/hour") as (gateway, _):
        await gateway.ask(request(b"GET /api/v1/svc/"))
        async with gateway.connect() as client:
            told = await whole(client, request(b"GET /api/v1/svc/", b"Connection: close"))
    head, _, body = told.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\n")
    assert b"\r\nCache-Control: no-store\r\n" in head
    assert re.search(rb"\r\nRetry-After: [0-9]+\r\n", head)
    assert b'"retry_after":' in body


@pytest.mark.parametrize("method", [b"HEAD", b"TRACE"])
async def test_a_refusal_has_the_length_of_its_body_also_where_it_is_left_out(
    method: bytes,
) -> None:
    async with start_gateway() as gateway:
        told = await gateway.ask(request(method + b" /nothing"))
        assert told.status in (404, 405)
        assert int(told.get("content-length") or 0) > 0
        assert (told.body == b"") is (method == b"HEAD")
