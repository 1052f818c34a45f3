"""Rate limit by client address, limit of connections: fields, refusals, who shares a bucket."""

from __future__ import annotations

import asyncio
import re
import socket
import time

import pytest

from tests.scenarios.governed import asks_until
from tests.wire import (
    Message,
    RunningGateway,
    ScriptedUpstream,
    assert_error,
    connect,
    proxied,
    request,
    start_gateway,
)

GET = b"GET /api/v1/svc/x"
LIMIT = re.compile(rb'"([^"]+)";r=([0-9]+);t=([0-9]+)')
POLICY = re.compile(rb'"([^"]+)";q=([0-9]+);w=([0-9]+)')


async def limited(gateway: RunningGateway) -> tuple[Message, tuple[int, int, int]]:
    """An answer, with its quota, what remains and the seconds, from the fields of both families,
    which must agree.
    """
    began = time.time()
    response = await gateway.ask(request(GET))
    policy = POLICY.fullmatch(response.get("ratelimit-policy") or b"")
    limit = LIMIT.fullmatch(response.get("ratelimit") or b"")
    assert policy, response.head
    assert limit, response.head
    assert policy[1] == limit[1]
    assert response.get("x-ratelimit-limit") == policy[2]
    assert response.get("x-ratelimit-remaining") == limit[2]
    reset = int(response.get("x-ratelimit-reset") or b"0")
    assert began - 1 <= reset - int(limit[3]) <= time.time() + 1
    return response, (int(policy[2]), int(limit[2]), int(limit[3]))


async def statuses(gateway: RunningGateway, count: int, *fields: bytes) -> list[int]:
    """The statuses of so many requests, one after the other."""
    return [(await gateway.ask(request(GET, *fields))).status for _ in range(count)]


async def test_each_answer_says_what_is_left_and_then_it_is_429() -> None:
    async with proxied(RATE_LIMIT=3) as (gateway, upstream):
        left = []
        for _ in range(3):
            response, (quota, remaining, _seconds) = await limited(gateway)
            assert response.status == 200
            assert quota == 3
            left.append(remaining)
        assert left == [2, 1, 0]
        refused, (_, remaining, seconds) = await limited(gateway)
        error = assert_error(refused, 429, "RATE_LIMITED")
        retry_after = int(refused.get("retry-after") or b"0")
        assert remaining == 0
        assert 1 <= seconds <= retry_after <= 60
        assert error["retry_after"] == retry_after
        assert len(upstream.requests) == 3


async def test_the_connection_lives_on_after_a_429() -> None:
    async with proxied(RATE_LIMIT="1/hour") as (gateway, _), gateway.connect() as client:
        assert (await client.ask(request(GET))).status == 200
        assert (await client.ask(request(GET))).status == 429
        assert (await client.ask(request(b"GET /health/live"))).status == 200


@pytest.mark.parametrize(
    ("setting", "quota", "window"),
    [
        ("5", 5, 60),
        ("5/second", 5, 1),
        ("5/minute", 5, 60),
        ("5/hour", 5, 3600),
    ],
)
async def test_the_limit_is_so_many_in_a_window(setting: str, quota: int, window: int) -> None:
    async with proxied(RATE_LIMIT=setting) as (gateway, _):
        response, (found, _, _) = await limited(gateway)
        assert found == quota
        policy = POLICY.fullmatch(response.get("ratelimit-policy") or b"")
        assert policy
        assert int(policy[3]) == window


async def test_the_default_is_1000_a_minute() -> None:
    async with proxied(RATE_LIMIT=None) as (gateway, _):
        _, (quota, _, _) = await limited(gateway)
        assert quota == 1000


async def test_off_is_no_limit_and_no_fields() -> None:
    async with proxied(RATE_LIMIT="off") as (gateway, _):
        response = await gateway.ask(request(GET))
        assert not [name for name in response.names if b"ratelimit" in name]


async def test_tokens_come_back_with_time() -> None:
    async with proxied(RATE_LIMIT="4/second") as (gateway, _):
        with gateway.stopped_clock() as time:
            assert await statuses(gateway, 5) == [200] * 4 + [429]
            time.pass_by(0.25)
            assert await statuses(gateway, 2) == [200, 429]
            time.pass_by(1.0)
            assert await statuses(gateway, 5) == [200] * 4 + [429]
        # And the gateway's own clock goes on.
        await asks_until(gateway, request(GET), 200)


async def test_requests_at_once_get_no_more_than_the_limit() -> None:
    async with proxied(RATE_LIMIT="10/hour") as (gateway, upstream):
        answers = await asyncio.gather(*(gateway.ask(request(GET)) for _ in range(30)))
        assert sorted(r.status for r in answers) == [200] * 10 + [429] * 20
        assert len(upstream.requests) == 10


@pytest.mark.parametrize("path", [b"/health", b"/health/live", b"/health/ready", b"/metrics"])
async def test_health_and_metrics_are_not_counted(path: bytes) -> None:
    async with proxied(RATE_LIMIT="1/hour") as (gateway, _):
        for _ in range(3):
            assert (await gateway.ask(request(b"GET " + path))).status == 200
        assert await statuses(gateway, 2) == [200, 429]
        assert (await gateway.ask(request(b"GET " + path))).status == 200


async def test_a_refused_request_has_its_body_left_out_of_the_next() -> None:
    async with proxied(RATE_LIMIT="1/hour") as (gateway, upstream), gateway.connect() as client:
        assert (await client.ask(request(GET))).status == 200
        inner = request(b"GET /health/live")
        response = await client.ask(request(b"POST /api/v1/svc/x", body=inner))
        assert_error(response, 429, "RATE_LIMITED")
        if b"close" in response.tokens("connection"):
            await client.closed()
        else:
            assert (await client.ask(request(b"GET /nowhere"))).status == 404
        assert client.unread == b""
        assert len(upstream.requests) == 1


def forwarded_for(address: str) -> bytes:
    """The field with which a trusted proxy names its client."""
    return b"X-Forwarded-For: " + address.encode()


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:0:1::1", "2001:db8:0:1::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
    ],
)
async def test_who_shares_a_bucket(one: str, other: str, shared: bool) -> None:
    environ = {"RATE_LIMIT": "2/hour", "TRUSTED_PROXIES": "127.0.0.0/8"}
    async with proxied(**environ) as (gateway, _):
        assert await statuses(gateway, 2, forwarded_for(one)) == [200, 200]
        expected = 429 if shared else 200
        assert await statuses(gateway, 1, forwarded_for(other)) == [expected]
        assert await statuses(gateway, 1, forwarded_for(one)) == [429]


async def test_a_stranger_cannot_choose_his_bucket() -> None:
    async with proxied(RATE_LIMIT="2/hour") as (gateway, _):
        got = [(await statuses(gateway, 1, forwarded_for(f"192.0.2.{n}")))[0] for n in range(3)]
        assert got == [200, 200, 429]


def no_ipv6() -> bool:
    """Whether this machine is without ::1."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return True
    return False


@pytest.mark.skipif(no_ipv6(), reason="no ::1 here")
async def test_the_gateway_listens_on_ipv6_and_limits_there() -> None:
    async with (
        ScriptedUpstream() as upstream,
        start_gateway(SVC_URL=upstream.url, HOST="::1", RATE_LIMIT="1/hour") as gateway,
    ):
        assert await statuses(gateway, 2) == [200, 429]
        assert upstream.requests[0].get("x-forwarded-for") == b"::1"


async def test_too_many_connections_are_refused_politely_and_room_is_used_again() -> None:
    async with proxied(MAX_CONNECTIONS=2) as (gateway, _):
        async with gateway.connect() as one, gateway.connect() as two:
            for client in (one, two):
                assert (await client.ask(request(GET))).status == 200
            async with gateway.connect() as third:
                third.send(request(GET))
                response = await third.response()
                assert_error(response, 503, "OVERLOADED")
                assert b"close" in response.tokens("connection")
                assert await third.closed() == "eof"
            assert (await one.ask(request(GET))).status == 200
        await asks_until(gateway, request(GET), 200)


async def test_a_refused_connection_that_says_nothing_is_told_and_closed() -> None:
    async with proxied(MAX_CONNECTIONS=1) as (gateway, _), gateway.connect() as one:
        assert (await one.ask(request(GET))).status == 200
        async with gateway.connect() as second:
            assert_error(await second.response(), 503, "OVERLOADED")
            assert await second.closed() == "eof"


async def test_a_flood_of_connections_over_the_limit_harms_nobody() -> None:
    async with proxied(MAX_CONNECTIONS=3) as (gateway, _), gateway.connect() as one:
        assert (await one.ask(request(GET))).status == 200
        answers = await asyncio.gather(*(gateway.ask(request(GET)) for _ in range(60)))
        assert {r.status for r in answers} <= {200, 503}
        assert (await one.ask(request(GET))).status == 200


async def test_a_port_in_use_is_an_error() -> None:
    async with start_gateway() as first:
        with pytest.raises(OSError, match=r"(?i)in use"):
            async with start_gateway(port=first.address[1]):
                pass
        async with connect(first.address) as client:
            assert (await client.ask(request(b"GET /health/live"))).status == 200
