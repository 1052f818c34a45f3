"""Revoked tokens: kept until nobody takes them any more, read by what is new, bounded."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Connection, func, insert, select
from structlog.testing import capture_logs

from gateway.store import Database, RevokedTokens
from gateway.store.policy_versions import REVOKED
from gateway.store.revoked import LENIENT_MS, PAGE_ROWS, SWEEP_ROWS
from gateway.store.tables import revoked_tokens
from tests.asking import NOW, NOW_MS, Clock, Place

LENIENT = LENIENT_MS / 1000


async def count(database: Database) -> int:
    query = select(func.count()).select_from(revoked_tokens)
    return await database.read(lambda it: it.scalar(query) or 0)


async def test_a_revocation_is_seen_by_all_gateways(place: Place, clock: Clock) -> None:
    async with place.database() as one, place.database() as two:
        await RevokedTokens(one, clock).revoke("t-1", NOW + 3600.25, "ann")
        other = RevokedTokens(two, clock)
        assert await other.current() == {"t-1": NOW + 3600.25}
        assert await other.versions.current() == {REVOKED: 1}
        row = await one.read(lambda it: it.execute(select(revoked_tokens)).one())
    assert (row.revoked_ms, row.revoked_by) == (NOW_MS, "ann")


async def test_a_key_without_an_end_is_revoked_for_ever(place: Place, clock: Clock) -> None:
    async with place.database() as database:
        revoked = RevokedTokens(database, clock)
        await revoked.revoke("gw_1", None)
        await revoked.revoke("gw_2", float("inf"))
        clock.now += 3650 * 86400
        assert await revoked.sweep() == 0
        assert set(await revoked.current()) == {"gw_1", "gw_2"}


async def test_said_again_the_later_end_counts_and_it_is_told_again(
    place: Place, clock: Clock
) -> None:
    async with place.database() as database:
        revoked = RevokedTokens(database, clock)
        await revoked.revoke("t", NOW + 100)
        await revoked.revoke("t", NOW + 200)
        assert await revoked.since(1) == ({"t": NOW + 200}, None)
        await revoked.revoke("t", NOW + 50)
        assert await revoked.since(2) == ({"t": NOW + 200}, None)
        assert await count(database) == 1


async def test_what_expired_is_told_and_kept_as_long_as_someone_is_lenient_with_it(
    place: Place, clock: Clock
) -> None:
    async with place.database() as database:
        revoked = RevokedTokens(database, clock)
        await revoked.revoke("t", NOW + 10)
        clock.now += 10 + LENIENT - 1
        assert await revoked.sweep() == 0
        assert await revoked.current() == {"t": NOW + 10}
        clock.now += 1
        assert await revoked.current() == {}
        assert await revoked.sweep() == 1
        assert await count(database) == 0


async def test_only_what_is_new_is_read_in_pages(place: Place, clock: Clock) -> None:
    rows = [
        {"jti": f"t{n}", "expires_ms": NOW_MS + 1000, "revoked_ms": NOW_MS, "version": n}
        for n in range(1, 2 * PAGE_ROWS + 2)
    ]

    def work(connection: Connection) -> None:
        connection.execute(insert(revoked_tokens), rows)

    async with place.database() as database:
        await database.write(work)
        revoked = RevokedTokens(database, clock)
        page, more = await revoked.since(PAGE_ROWS + 1)
        assert (len(page), more) == (PAGE_ROWS, 2 * PAGE_ROWS + 1)
        assert await revoked.since(2 * PAGE_ROWS) == ({rows[-1]["jti"]: NOW + 1}, None)
        assert len(await revoked.current()) == len(rows)
        clock.now += 1 + LENIENT
        assert [await revoked.sweep() for _ in range(3)] == [SWEEP_ROWS, SWEEP_ROWS, 1]


async def test_above_the_bound_those_go_that_expire_first(place: Place, clock: Clock) -> None:
    async with place.database() as database:
        revoked = RevokedTokens(database, clock, max_revoked=2)
        with capture_logs() as lines:
            for name, seconds in (("long", 300), ("short", 100), ("middle", 200)):
                await revoked.revoke(name, NOW + seconds)
        assert set(await revoked.current()) == {"long", "middle"}
    [line] = [line for line in lines if line["event"] == "revoked.forgotten"]
    assert (line["tokens"], line["most"], line["log_level"]) == (1, 2, "warning")


@pytest.mark.parametrize("jti", ["", "x" * 513, "a\0", "\ud800"])
async def test_an_id_that_no_row_can_have_is_refused(place: Place, clock: Clock, jti: str) -> None:
    async with place.database() as database:
        revoked = RevokedTokens(database, clock)
        with pytest.raises(ValueError, match="1 to 512 characters"):
            await revoked.revoke(jti, NOW + 1)
        assert await revoked.versions.current() == {}


async def test_the_largest_id_and_odd_ends_are_kept(place: Place, clock: Clock) -> None:
    async with place.database() as database:
        revoked = RevokedTokens(database, clock)
        await revoked.revoke("é" * 512, 1e300, "x\0" * 500)
        await revoked.revoke("old", -5.0)
        assert set(await revoked.current()) == {"é" * 512}
        assert "RevokedTokens" in repr(revoked)


async def test_gateways_that_revoke_at_once_lose_nothing(place: Place, clock: Clock) -> None:
    async with place.database() as one, place.database() as two:
        both = [RevokedTokens(one, clock), RevokedTokens(two, clock)]
        await asyncio.gather(*(both[n % 2].revoke(f"t{n}", NOW + 60) for n in range(12)))
        assert await both[0].versions.current() == {REVOKED: 12}
        page, more = await both[0].since(0)
        assert (set(page), more) == ({f"t{n}" for n in range(12)}, None)
