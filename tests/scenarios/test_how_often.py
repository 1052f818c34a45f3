"""How often: tiers, rules of tenants and paths, costs, rules set while a gateway runs, and several
gateways on one Redis. What a bucket is worth over time is proved in test_shared_limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.connection import PATIENCE_SECONDS
from tests.messages import Message, assert_error, request
from tests.policy.leased import PATIENT
from tests.postgres_server import postgres_server
from tests.redis_server import RedisServer, redis_server
from tests.scenarios.governed import (
    ADMIN,
    PROXIES,
    asks_until,
    at,
    get,
    in_front,
    quotas,
    row,
    statuses,
)
from tests.streams import who
from tests.wire import RunningGateway, ScriptedUpstream, eventually, holds

X = "/api/v1/svc/x"
RULES = b"/admin/limits/rules"


def limit(*lines: str) -> str:
    """A rule of the settings file."""
    return "\n".join(["[[limits]]", *lines, ""])


def free(sub: str, **claims: Any) -> bytes:
    """The field of somebody in the tier `free`."""
    return who(sub, tier="free", **claims)


def admitted(found: list[int]) -> int:
    """How many of these statuses are no refusal."""
    assert set(found) <= {200, 429}, found
    return found.count(200)


async def test_each_tier_has_its_own_figures_and_rate_limit_is_for_the_rest() -> None:
    config = "[tiers.free]\nper_hour = 3\n[tiers.pro]\nper_hour = 5\n"
    async with in_front(config, RATE_LIMIT="2/hour") as (gateway, _):
        assert await statuses(gateway, 4, X, free("alice")) == [200] * 3 + [429]
        assert await statuses(gateway, 6, X, who("bob", tier="pro")) == [200] * 5 + [429]
        # No row says more for these.
        assert await statuses(gateway, 3, X, who("dora", tier="enterprise")) == [200] * 2 + [429]
        assert await statuses(gateway, 3, X) == [200] * 2 + [429]


async def test_callers_are_told_apart_by_subject_and_without_one_by_address() -> None:
    config = "[tiers.anonymous]\nper_hour = 2\n[tiers.free]\nper_hour = 2\n"
    async with in_front(config, **PROXIES) as (gateway, _):
        for address in ("192.0.2.1", "192.0.2.2"):
            assert (await get(gateway, X, at(address), free("alice"))).status == 200
        assert (await get(gateway, X, at("192.0.2.3"), free("alice"))).status == 429
        assert (await get(gateway, X, at("192.0.2.3"), free("bob"))).status == 200
        for address in ("192.0.2.1", "192.0.2.3"):
            assert await statuses(gateway, 3, X, at(address)) == [200, 200, 429]


async def test_a_subject_that_is_written_as_an_address_shares_nothing_with_it() -> None:
    config = "[tiers.anonymous]\nper_hour = 1\n[tiers.free]\nper_hour = 1\n"
    async with in_front(config) as (gateway, _):
        assert await statuses(gateway, 2, X) == [200, 429]
        for sub in ("127.0.0.1", "2130706433", "s:alice"):
            assert (await get(gateway, X, free(sub))).status == 200


async def test_a_tenants_rule_counts_the_whole_tenant() -> None:
    config = limit('tenant = "acme"', "per_hour = 3")
    async with in_front(config) as (gateway, _):
        assert await statuses(gateway, 2, X, who("alice", tenant="acme")) == [200] * 2
        assert await statuses(gateway, 2, X, who("bob", tenant="acme")) == [200, 429]
        assert await statuses(gateway, 4, X, who("carol", tenant="other")) == [200] * 4
        assert await statuses(gateway, 4, X) == [200] * 4


async def test_a_paths_rule_counts_each_caller_however_the_path_is_spelled() -> None:
    config = limit('path = "/api/v1/svc/search*"', "per_hour = 3")
    async with in_front(config) as (gateway, _):
        for spelled in ("search/1", "%73earch", "/search;v=1/2"):
            assert (await get(gateway, f"/api/v1/svc/{spelled}", who("alice"))).status == 200
        assert (await get(gateway, "/api/v1/svc/search?q=1", who("alice"))).status == 429
        assert (await get(gateway, "/api/v1/svc/search", who("bob"))).status == 200
        assert (await get(gateway, "/api/v1/svc/other", who("alice"))).status == 200


async def test_a_rule_of_tenant_and_path_is_for_both() -> None:
    config = limit('tenant = "acme"', 'path = "/api/v1/svc/search*"', "per_minute = 2")
    alice = who("alice", tenant="acme")
    async with in_front(config) as (gateway, _):
        assert await statuses(gateway, 3, "/api/v1/svc/search", alice) == [200, 200, 429]
        assert (await get(gateway, X, alice)).status == 200
        assert await statuses(gateway, 3, "/api/v1/svc/search", who("bob")) == [200] * 3


async def test_a_rows_cost_is_taken_at_once() -> None:
    rows = (row("/dear", "cost = 3"), row("/cheap"))
    async with in_front("[tiers.free]\nper_hour = 8\n", *rows) as (gateway, _):
        left = [quotas(await get(gateway, "/dear", free("alice")))[8] for _ in range(2)]
        assert left == [5, 2]
        assert (await get(gateway, "/dear", free("alice"))).status == 429
        assert quotas(await get(gateway, "/cheap", free("alice")))[8] == 1


async def test_a_rows_own_limit_is_beside_the_tiers() -> None:
    rows = (row("/few/*", "limits = { per_hour = 2 }"), row("/many/*"))
    async with in_front("[tiers.free]\nper_hour = 9\n", *rows) as (gateway, _):
        assert await statuses(gateway, 3, "/few/x", free("alice")) == [200, 200, 429]
        response = await get(gateway, "/many/x", free("alice"))
        assert quotas(response) == {9: 6}


SEARCHES = limit('name = "searches"', 'path = "/api/v1/svc/search"', "per_hour = 1")


async def test_every_rule_must_agree_and_a_refusal_takes_nothing_from_the_others() -> None:
    config = "[tiers.free]\nper_hour = 10\n" + SEARCHES
    async with in_front(config) as (gateway, upstream):
        found = await statuses(gateway, 6, "/api/v1/svc/search", free("alice"))
        assert found == [200] + [429] * 5
        assert quotas(await get(gateway, X, free("alice"))) == {10: 8}
        assert len(upstream.requests) == 2


async def test_the_refusal_names_the_rule_that_refused() -> None:
    config = "[tiers.free]\nper_hour = 10\n" + SEARCHES
    async with in_front(config) as (gateway, _):
        assert (await get(gateway, "/api/v1/svc/search", free("alice"))).status == 200
        refused = await get(gateway, "/api/v1/svc/search", free("alice"))
        error = assert_error(refused, 429, "RATE_LIMITED")
        assert "searches" in error["message"]


async def test_fields_list_every_bucket_and_speak_of_the_scarcest() -> None:
    figures = "per_second = 20\nburst = 40\nper_minute = 300\nper_hour = 5000\nper_day = 60000\n"
    config = f"[tiers.free]\n{figures}" + SEARCHES
    async with in_front(config) as (gateway, _):
        response = await get(gateway, X, free("alice"))
        assert set(quotas(response)) == {40, 300, 5000, 60000}
        assert response.get("x-ratelimit-limit") == b"40"
        policy = response.get("ratelimit-policy") or b""
        for window in (b"q=300;w=60", b"q=5000;w=3600", b"q=60000;w=86400"):
            assert window in policy
        response = await get(gateway, "/api/v1/svc/search", free("alice"))
        assert set(quotas(response)) == {40, 300, 5000, 60000, 1}
        assert response.get("x-ratelimit-limit") == b"1"
        assert response.get("x-ratelimit-remaining") == b"0"
        refused = await get(gateway, "/api/v1/svc/search", free("alice"))
        assert_error(refused, 429, "RATE_LIMITED")
        assert quotas(refused)[1] == 0
        assert int(refused.get("retry-after") or b"0") > 3500


async def test_who_waits_as_long_as_told_is_admitted() -> None:
    config = "[tiers.free]\nper_second = 4\nburst = 4\nper_minute = 300\n"
    data = request(b"GET " + X.encode(), free("alice"))
    async with in_front(config) as (gateway, _), gateway.connect() as client:
        with gateway.stopped_clock() as time:
            for _ in range(3):
                while (response := await client.ask(data)).status == 200:
                    pass
                wait = int(response.get("retry-after") or b"0")
                assert wait == 1
                time.pass_by(wait)
                assert (await client.ask(data)).status == 200


async def put(gateway: RunningGateway, **rule: object) -> Message:
    """Sets a rule through the admin API."""
    body = json.dumps(rule).encode()
    return await gateway.ask(request(b"PUT " + RULES, ADMIN, body=body))


FILE_RULE = limit('path = "/api/v1/svc/*"', "per_hour = 2")


async def test_a_rule_that_is_set_wins_over_the_file_and_goes_again() -> None:
    pattern = "/api/v1/svc/*"
    async with in_front(FILE_RULE) as (gateway, _):
        assert await statuses(gateway, 3, X, who("alice")) == [200, 200, 429]
        assert (await put(gateway, pattern=pattern, requests_per_hour=4)).status in (200, 201)
        assert await statuses(gateway, 5, X, who("bob")) == [200] * 4 + [429]
        # Unique per tenant and pattern: the second replaces the first.
        assert (await put(gateway, pattern=pattern, requests_per_hour=6)).status in (200, 201)
        listed = (await get(gateway, RULES.decode(), ADMIN)).json()
        assert str(listed).count(pattern) == 1
        assert await statuses(gateway, 7, X, who("carol")) == [200] * 6 + [429]
        gone = request(b"DELETE " + RULES + b"?pattern=" + pattern.encode(), ADMIN)
        assert (await gateway.ask(gone)).status in (200, 204)
        assert await statuses(gateway, 3, X, who("dora")) == [200, 200, 429]


async def test_a_rule_of_a_tenant_is_set_beside_that_of_all() -> None:
    async with in_front(FILE_RULE) as (gateway, _):
        rule = {"tenant": "acme", "pattern": "/api/v1/svc/*", "requests_per_hour": 1}
        assert (await put(gateway, **rule)).status in (200, 201)
        assert await statuses(gateway, 2, X, who("alice", tenant="acme")) == [200, 429]
        assert await statuses(gateway, 3, X, who("bob", tenant="other")) == [200, 200, 429]


async def test_rules_are_set_by_administrators_and_make_sense() -> None:
    async with in_front() as (gateway, _):
        body = b'{"pattern": "/x", "requests_per_hour": 1}'
        for fields in ((), (who("alice", "events:write"),)):
            refused = await gateway.ask(request(b"PUT " + RULES, *fields, body=body))
            assert_error(refused, 404, "NOT_FOUND")
        for rule in (
            {"pattern": "/x"},
            {"pattern": "x", "requests_per_hour": 1},
            {"pattern": "/x", "requests_per_hour": -1},
            {"pattern": "/x", "requests_per_hour": "many"},
        ):
            assert (await put(gateway, **rule)).status in (400, 422), rule


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[dict[str, Any]]:
    """The settings of a database that gateways share."""
    if request.param == "sqlite":
        yield {"STATE_DIR": tmp_path}
        return
    with postgres_server() as server:
        yield {"DATABASE_URL": await server.database()}


async def test_another_gateway_sees_a_rule_soon(database: dict[str, Any]) -> None:
    async with (
        in_front(FILE_RULE, **database) as (gateway, _),
        in_front(FILE_RULE, **database) as (other, _),
    ):
        assert await statuses(other, 3, X, who("alice")) == [200, 200, 429]
        done = await put(gateway, pattern="/api/v1/svc/*", requests_per_hour=9)
        assert done.status in (200, 201)
        numbers = iter(range(1000))

        async def has_come() -> bool:
            response = await get(other, X, who(f"caller-{next(numbers)}"))
            return 9 in quotas(response)

        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await has_come():
                await holds(lambda: True, 0.05)
        assert await statuses(other, 10, X, who("bob")) == [200] * 9 + [429]


ABUSE = """
[abuse]
bad_credentials = 3
refusals = 4
window_seconds = 60
close_seconds = 1
close_max_seconds = 60
"""
BAD = b"Authorization: Bearer nonsense"


def closings(gateway: RunningGateway) -> list[dict[str, Any]]:
    """The log lines about a door that was closed."""
    return [line for line in gateway.log() if "door" in line["message"]]


async def test_repeated_bad_credentials_close_the_door_to_an_address_for_a_growing_time() -> None:
    async with in_front(ABUSE, **PROXIES) as (gateway, upstream):
        with gateway.stopped_clock() as time:
            for seconds in (1, 2):
                assert await statuses(gateway, 3, X, at("192.0.2.1"), BAD) == [401] * 3
                time.pass_by(seconds - 0.01)
                shut = await get(gateway, X, at("192.0.2.1"), who("alice"))
                assert shut.status in (403, 429)
                assert shut.json()["error"]["retry_after"] == 1
                assert upstream.requests == []
                assert (await get(gateway, X, at("192.0.2.2"))).status == 200
                time.pass_by(0.01)
                assert (await get(gateway, X, at("192.0.2.1"))).status == 200
                upstream.requests.clear()
        await eventually(lambda: len(closings(gateway)) == 2, "log lines")
        assert "192.0.2.1" in str(closings(gateway)[0])


async def test_repeated_refusals_close_the_door() -> None:
    config = "[tiers.free]\nper_hour = 1\n" + ABUSE
    async with in_front(config, **PROXIES) as (gateway, upstream):
        found = await statuses(gateway, 5, X, at("192.0.2.1"), free("alice"))
        assert found == [200] + [429] * 4
        shut = await get(gateway, X, at("192.0.2.1"), free("bob"))
        assert shut.status in (403, 429)
        assert len(upstream.requests) == 1
        await eventually(lambda: len(closings(gateway)) == 1, "a log line")
        assert (await get(gateway, X, at("192.0.2.2"), free("bob"))).status == 200


@contextlib.asynccontextmanager
async def shared(
    config: str, **environ: Any
) -> AsyncIterator[tuple[RedisServer, list[RunningGateway], ScriptedUpstream]]:
    """Two gateways on one Redis."""
    async with (
        redis_server() as redis,
        in_front(config, REDIS_URL=redis.url, **environ) as (one, upstream),
        in_front(config, REDIS_URL=redis.url, **environ) as (two, _),
    ):
        yield redis, [one, two], upstream


HOURLY = "[tiers.free]\nper_hour = 40\n"
QUICK = "[tiers.pro]\nper_second = 20\nburst = 20\n"


async def burst(gateways: list[RunningGateway], count: int, *fields: bytes) -> list[int]:
    """So many requests at each at the same time; how many each admitted."""
    found = await asyncio.gather(*(statuses(one, count, X, *fields) for one in gateways))
    return [admitted(each) for each in found]


async def test_gateways_on_one_redis_admit_the_limit_together_and_never_more() -> None:
    async with shared(HOURLY) as (_, gateways, _):
        for gateway in gateways:  # a busy machine is no slow Redis
            buckets = gateway.gateway.context.limiter._buckets
            buckets._times = buckets._link._times = PATIENT
        for name in ("alice", "bob", "carol"):
            found = await burst(gateways, 60, free(name))
            assert sum(found) <= 40
            assert sum(found) >= 30
        # One after the other: what the first took the second does not have.
        assert sum(await burst(gateways[:1], 30, free("dora"))) == 30
        assert sum(await burst(gateways[1:], 30, free("dora"))) <= 10


async def test_redis_away_is_no_error_and_no_way_round_the_limit() -> None:
    async with shared(HOURLY + QUICK) as (redis, gateways, _):
        assert sum(await burst(gateways, 5, free("alice"))) == 10
        await redis.stop(kill=True)
        # What is still leased, and nothing more.
        assert sum(await burst(gateways, 60, free("alice"))) <= 30
        for gateway in gateways:
            new = request(b"GET " + X.encode(), who("bob", tier="pro"))
            assert (await asks_until(gateway, new, 200)).status == 200
        await redis.start()
        for gateway in gateways:
            admitted(await statuses(gateway, 5, X, free("alice")))
            back = request(b"GET " + X.encode(), who("carol", tier="pro"))
            assert (await asks_until(gateway, back, 200)).status == 200
        for gateway in gateways:
            assert {record["status"] for record in gateway.access_records()} <= {200, 429}


async def test_a_redis_that_hangs_holds_nobody_up() -> None:
    async with shared(QUICK) as (redis, gateways, _):
        assert (await get(gateways[0], X, who("alice", tier="pro"))).status == 200
        redis.hang()
        try:
            for name in ("alice", "bob", "carol"):
                data = request(b"GET " + X.encode(), who(name, tier="pro"))
                await asks_until(gateways[0], data, 200)
            records = gateways[0].access_records()
            assert {record["status"] for record in records} <= {200, 429}
        finally:
            redis.resume()


async def test_a_gateway_starts_while_its_redis_is_away() -> None:
    async with redis_server() as redis:
        await redis.stop()
        async with in_front(HOURLY, REDIS_URL=redis.url) as (gateway, _):
            assert admitted(await statuses(gateway, 45, X, free("alice"))) <= 40
            assert (await get(gateway, X, free("bob"))).status == 200
