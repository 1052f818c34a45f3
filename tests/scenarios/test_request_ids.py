"""Request id, correlation id, trace context: taken when sound, made otherwise, one everywhere."""

from __future__ import annotations

import re

import pytest

from tests.wire import Message, RunningGateway, ScriptedUpstream, proxied, request

GET = b"GET /api/v1/svc/x"
UUID7 = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
TRACE_ID = b"4bf92f3577b34da6a3ce929d0e0e4736"
SOUND = b"00-" + TRACE_ID + b"-00f067aa0ba902b7-01"


async def seen(
    gateway: RunningGateway, upstream: ScriptedUpstream, *fields: bytes
) -> tuple[Message, Message]:
    """The answer, and the request as the upstream saw it."""
    response = await gateway.ask(request(GET, *fields))
    assert response.status == 200
    return response, upstream.requests[-1]


async def test_a_request_id_is_made_and_is_the_same_everywhere() -> None:
    async with proxied() as (gateway, upstream):
        response, sent = await seen(gateway, upstream)
        made = response.get("x-request-id")
        assert made
        assert UUID7.fullmatch(made)
        assert sent.get("x-request-id") == made
        assert (await gateway.records())[0]["request_id"] == made.decode()


async def test_each_request_gets_an_id_of_its_own() -> None:
    async with proxied() as (gateway, upstream), gateway.connect() as client:
        ids = {(await client.ask(request(GET))).get("x-request-id") for _ in range(20)}
        assert len(ids) == 20
        assert {r.get("x-request-id") for r in upstream.requests} == ids


@pytest.mark.parametrize("sound", [b"abc", b"a" * 128, b"!~{}:/=+", b"0"])
async def test_a_sound_request_id_is_taken(sound: bytes) -> None:
    async with proxied() as (gateway, upstream):
        response, sent = await seen(gateway, upstream, b"X-Request-ID: " + sound)
        assert response.get("x-request-id") == sound
        assert sent.get("x-request-id") == sound
        assert (await gateway.records())[0]["request_id"] == sound.decode()


@pytest.mark.parametrize("bad", [b"", b"a" * 129, b"a b", b"a\tb", b"caf\xe9", b"\xff"])
async def test_a_bad_request_id_is_replaced(bad: bytes) -> None:
    async with proxied() as (gateway, upstream):
        response, sent = await seen(gateway, upstream, b"X-Request-ID: " + bad)
        made = response.get("x-request-id")
        assert made
        assert UUID7.fullmatch(made)
        assert sent.get("x-request-id") == made


async def test_two_request_ids_become_one() -> None:
    async with proxied() as (gateway, upstream):
        response, sent = await seen(gateway, upstream, b"X-Request-ID: a", b"x-request-id: b")
        assert sent.get("x-request-id") == response.get("x-request-id")


async def test_the_gateways_request_id_is_on_the_answer_whatever_the_upstream_says() -> None:
    script = b"HTTP/1.1 200 OK\r\nX-Request-ID: other\r\nContent-Length: 0\r\n\r\n"
    async with proxied(script) as (gateway, _):
        response = await gateway.ask(request(GET, b"X-Request-ID: mine"))
        assert b"mine" in response.all("x-request-id")


async def test_a_sound_correlation_id_is_taken() -> None:
    async with proxied() as (gateway, upstream):
        _, sent = await seen(gateway, upstream, b"X-Correlation-ID: order-7")
        assert sent.get("x-correlation-id") == b"order-7"
        assert (await gateway.records())[0]["correlation_id"] == "order-7"


@pytest.mark.parametrize(
    "field", [[], [b"X-Correlation-ID: a b"], [b"X-Correlation-ID: " + b"c" * 129]]
)
async def test_a_missing_or_bad_correlation_id_is_made(field: list[bytes]) -> None:
    async with proxied() as (gateway, upstream):
        _, sent = await seen(gateway, upstream, *field)
        made = sent.get("x-correlation-id")
        assert made
        assert re.fullmatch(rb"[\x21-\x7e]{1,128}", made)
        assert (await gateway.records())[0]["correlation_id"] == made.decode()


async def test_a_trace_is_begun_where_there_is_none() -> None:
    async with proxied() as (gateway, upstream):
        _, sent = await seen(gateway, upstream)
        match = TRACEPARENT.fullmatch(sent.get("traceparent") or b"")
        assert match
        assert set(match[1]) != {ord("0")}
        assert (await gateway.records())[0]["trace_id"] == match[1].decode()


async def test_a_trace_is_passed_on_with_its_state() -> None:
    async with proxied() as (gateway, upstream):
        fields = [b"Traceparent: " + SOUND, b"Tracestate: vendor=1,other=2"]
        _, sent = await seen(gateway, upstream, *fields)
        match = TRACEPARENT.fullmatch(sent.get("traceparent") or b"")
        assert match
        assert match[1] == TRACE_ID
        assert sent.get("tracestate") == b"vendor=1,other=2"
        assert (await gateway.records())[0]["trace_id"] == TRACE_ID.decode()


@pytest.mark.parametrize(
    "bad",
    [
        b"nonsense",
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        b"00-" + TRACE_ID + b"-" + b"0" * 16 + b"-01",
        b"00-" + TRACE_ID.upper() + b"-00f067aa0ba902b7-01",
        b"ff-" + TRACE_ID + b"-00f067aa0ba902b7-01",
        b"00-" + TRACE_ID + b"-00f067aa0ba902b7",
        b"00-" + TRACE_ID + b"-00f067aa0ba902b7-01-more",
    ],
)
async def test_a_bad_trace_is_begun_anew_without_its_state(bad: bytes) -> None:
    async with proxied() as (gateway, upstream):
        _, sent = await seen(gateway, upstream, b"Traceparent: " + bad, b"Tracestate: vendor=1")
        match = TRACEPARENT.fullmatch(sent.get("traceparent") or b"")
        assert match
        assert match[1] != TRACE_ID
        assert b"tracestate" not in sent.names
