"""The numbers that tell of changes: they grow with them, in the order in which they came about."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Connection

from gateway.store.policy_versions import LIMITS, REVOKED, PolicyVersions
from tests.asking import Place


async def test_each_change_has_the_next_number_of_its_kind(place: Place) -> None:
    async with place.database() as database:
        versions = PolicyVersions(database)
        assert await versions.current() == {}
        for number in (1, 2):
            assert await database.write(lambda it: versions.bump(it, LIMITS)) == number
        assert await database.write(lambda it: versions.bump(it, REVOKED)) == 1
        assert await versions.current() == {LIMITS: 2, REVOKED: 1}
        assert "PolicyVersions" in repr(versions)


async def test_a_change_that_is_taken_back_has_no_number(place: Place) -> None:
    async with place.database() as database:
        versions = PolicyVersions(database)

        def work(connection: Connection) -> None:
            versions.bump(connection, LIMITS)
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await database.write(work)
        assert await versions.current() == {}


async def test_gateways_that_change_something_at_once_get_numbers_of_their_own(
    place: Place,
) -> None:
    async with place.database() as one, place.database() as two:
        ours = [(each, PolicyVersions(each)) for each in (one, two)]

        async def change(at: int) -> int:
            database, versions = ours[at % 2]
            return await database.write(lambda it: versions.bump(it, REVOKED))

        numbers = await asyncio.gather(*(change(at) for at in range(12)))
        assert sorted(numbers) == list(range(1, 13))
