"""Limits set at run time: one row a tenant and pattern, seen by whoever looks, bounded."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import Connection, insert, text

from gateway.store import LimitConfigs, StoredRule, TooManyRulesError
from gateway.store.limit_configs import MAX_FIGURE, PAGE_ROWS
from gateway.store.policy_versions import LIMITS
from gateway.store.tables import limit_configs
from tests.asking import NOW, Clock, Place

RULE = StoredRule("acme", "/api/v1/search*", per_minute=600, per_day=10_000, updated_by="ann")


async def version(configs: LimitConfigs) -> int:
    return (await configs.versions.current()).get(LIMITS, 0)


async def test_what_is_set_is_seen_by_all_gateways(place: Place, clock: Clock) -> None:
    async with place.database() as one, place.database() as two:
        kept = await LimitConfigs(one, clock).put(RULE)
        assert kept == replace(RULE, id=kept.id, updated_at=NOW)
        assert kept.id > 0
        other = LimitConfigs(two, clock)
        assert await other.all() == [kept]
        assert await version(other) == 1


async def test_setting_it_again_takes_the_place_of_the_first(place: Place, clock: Clock) -> None:
    async with place.database() as database:
        configs = LimitConfigs(database, clock)
        first = await configs.put(RULE)
        clock.now += 60
        second = await configs.put(StoredRule("acme", "/api/v1/search*", per_hour=5))
        assert await configs.all() == [second]
        assert (second.id, second.updated_at) == (first.id, NOW + 60)
        assert (second.per_minute, second.per_day, second.updated_by) == (None, None, None)
        assert await version(configs) == 2


async def test_rules_of_every_tenant_and_path_are_rows_like_others(
    place: Place, clock: Clock
) -> None:
    async with place.database() as database:
        configs = LimitConfigs(database, clock)
        pairs = [("", ""), ("", "/a"), ("acme", ""), ("acme", "/a")]
        for _ in range(2):
            for tenant, pattern in pairs:
                await configs.put(StoredRule(tenant, pattern, per_minute=1))
        assert [(rule.tenant, rule.pattern) for rule in await configs.all()] == pairs


async def test_what_is_taken_away_is_gone_and_told(place: Place, clock: Clock) -> None:
    async with place.database() as database:
        configs = LimitConfigs(database, clock)
        await configs.put(RULE)
        assert await configs.delete("acme", "/other") is False
        assert await configs.delete("acme\0", "/api/v1/search*") is False
        assert await version(configs) == 1
        assert await configs.delete("acme", "/api/v1/search*") is True
        assert await configs.delete("acme", "/api/v1/search*") is False
        assert await configs.all() == []
        assert await version(configs) == 2


async def test_gateways_that_set_the_same_at_once_leave_one_row(place: Place, clock: Clock) -> None:
    async with place.database() as one, place.database() as two:
        both = [LimitConfigs(one, clock), LimitConfigs(two, clock)]
        kept = await asyncio.gather(
            *(both[at % 2].put(replace(RULE, per_minute=at + 1)) for at in range(10))
        )
        [rule] = await both[0].all()
        assert rule in kept
        assert await version(both[0]) == 10


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (replace(RULE, tenant="a" * 257), "tenant: expected text of at most 256"),
        (replace(RULE, tenant="a\0"), "tenant: expected text"),
        (replace(RULE, pattern="/" + "a" * 1024), "pattern: expected text of at most 1024"),
        (replace(RULE, pattern="/\ud800"), "pattern: expected text"),
        (replace(RULE, pattern="search"), "pattern: it does not begin with /"),
        (replace(RULE, pattern="/a*/b"), "pattern: a . can only be the last"),
        (StoredRule("acme", "/a"), "expected a figure"),
        (replace(RULE, per_hour=0), "expected figures from 1 to"),
        (replace(RULE, per_day=MAX_FIGURE + 1), "expected figures from 1 to"),
    ],
)
async def test_what_the_table_can_not_hold_is_refused_and_changes_nothing(
    place: Place, clock: Clock, rule: StoredRule, why: str
) -> None:
    async with place.database() as database:
        configs = LimitConfigs(database, clock)
        with pytest.raises(ValueError, match=why):
            await configs.put(rule)
        assert (await configs.all(), await version(configs)) == ([], 0)


async def test_the_largest_that_the_table_can_hold_is_kept(place: Place, clock: Clock) -> None:
    big = StoredRule("é" * 256, "/" + "a" * 1023, MAX_FIGURE, MAX_FIGURE, MAX_FIGURE)
    async with place.database() as database:
        configs = LimitConfigs(database, clock)
        await configs.put(replace(big, updated_by="x" * 1000))
        [kept] = await configs.all()
        assert kept == replace(big, id=kept.id, updated_at=NOW, updated_by="x" * 256)


async def test_a_full_table_takes_no_new_rule_but_changes_and_takes_away(
    place: Place, clock: Clock
) -> None:
    async with place.database() as database:
        configs = LimitConfigs(database, clock, max_rules=2)
        for name in ("/a", "/b"):
            await configs.put(StoredRule("", name, per_minute=1))
        with pytest.raises(TooManyRulesError, match="2 limits already"):
            await configs.put(StoredRule("", "/c", per_minute=1))
        assert await version(configs) == 2
        await configs.put(StoredRule("", "/b", per_minute=2))
        await configs.delete("", "/a")
        await configs.put(StoredRule("", "/c", per_minute=1))
        assert [(rule.pattern, rule.per_minute) for rule in await configs.all()] == [
            ("/b", 2),
            ("/c", 1),
        ]
        assert "LimitConfigs" in repr(configs)


async def test_many_rules_are_read_in_pages(place: Place, clock: Clock) -> None:
    rows = [
        {"tenant": f"t{number}", "pattern": "/", "requests_per_minute": 1, "updated_ms": clock.ms}
        for number in range(2 * PAGE_ROWS + 1)
    ]

    def work(connection: Connection) -> None:
        connection.execute(insert(limit_configs), rows)

    async with place.database() as database:
        await database.write(work)
        found = await LimitConfigs(database).all()
    assert [rule.tenant for rule in found] == [row["tenant"] for row in rows]


async def test_a_row_that_somebody_wrote_by_hand_is_read_as_it_is(place: Place) -> None:
    """What can't hold is for the limits to leave out; the others must not be lost with it."""
    query = """INSERT INTO rate_limit_configs (tenant, pattern, requests_per_minute, updated_ms)
        VALUES ('acme', 'no path', 0, 1)"""

    async with place.database() as database:
        await database.write(lambda it: it.execute(text(query)))
        [rule] = await LimitConfigs(database).all()
    assert (rule.pattern, rule.per_minute, rule.updated_at) == ("no path", 0, 0.001)
