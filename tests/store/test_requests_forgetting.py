"""The request log forgets what is older than its days, in bounded slices, whatever else goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, insert
from structlog.testing import capture_logs

from gateway.store import Database
from gateway.store.requests import SWEEP_ROWS
from gateway.store.tables import api_requests
from tests.asking import NOW_MS, Clock, Place
from tests.connection import eventually
from tests.store.requesting import ids, logging, record, written


async def kept(database: Database, *ages_days: float) -> None:
    """Keep rows that are so old."""
    values = [
        {
            "id": number,
            "started_ms": NOW_MS - int(age * 86_400_000),
            "duration_ms": 1.0,
            "request_id": f"{age:g}",
            "method": "GET",
            "path": "/",
            "status": 200,
            "bytes_in": 0,
            "bytes_out": 0,
            "attempts": 1,
        }
        for number, age in enumerate(ages_days)
    ]

    def work(connection: Connection) -> None:
        connection.execute(insert(api_requests), values)

    await database.write(work)


async def left(database: Database, count: int) -> list[str]:
    """The rows' request ids when there are no more than so many."""
    async with asyncio.timeout(60):
        while len(found := await ids(database)) > count:
            pass
    return found


async def test_rows_older_than_the_days_said_are_forgotten(place: Place) -> None:
    async with place.database() as database:
        await kept(database, 0, 6.9, 7.1, 400)
        async with logging(database, days=7):
            assert await left(database, 2) == ["0", "6.9"]


async def test_much_that_is_old_is_forgotten_in_bounded_slices(place: Place) -> None:
    count = 2 * SWEEP_ROWS + 10
    slices: list[int] = []

    def heard(_: object, cursor: Any, statement: str, *__: object) -> None:
        if statement.startswith("DELETE"):
            slices.append(cursor.rowcount)

    async with place.database() as database:
        await kept(database, 1, *([40] * count))
        event.listen(Connection, "after_cursor_execute", heard)
        try:
            async with logging(database, days=30) as log:
                assert await left(database, 1) == ["1"]
        finally:
            event.remove(Connection, "after_cursor_execute", heard)
    assert slices[:3] == [SWEEP_ROWS, SWEEP_ROWS, 10]
    assert (log.written, log.dropped) == (0, 0)


async def test_what_goes_wrong_with_forgetting_does_not_end_the_log(place: Place) -> None:
    clock = Clock()
    async with place.database() as database:
        with capture_logs() as lines:
            async with logging(database, clock=clock) as log:
                log.add(record())
                await written(log, 1)
                log.days = -(10**18)  # in no column of the database
                clock.now += 61
                await eventually(
                    lambda: any("sweep" in line["event"] for line in lines), seconds=60
                )
                log.add(record())
                await written(log, 2)
    failed = [line for line in lines if line["event"] == "request_log.sweep_failed"]
    assert {line["log_level"] for line in failed} == {"error"}


async def test_several_gateways_forget_side_by_side(place: Place) -> None:
    async with place.database() as one, place.database() as two:
        await kept(one, 1, *([40] * (SWEEP_ROWS + 500)))
        async with logging(one), logging(two):
            assert await left(one, 1) == ["1"]


async def test_looking_for_old_rows_waits_a_minute_when_there_were_few(place: Place) -> None:
    clock = Clock()
    async with place.database() as database:
        await kept(database, 40)
        async with logging(database, clock=clock) as log:
            assert await left(database, 0) == []
            await kept(database, 41)
            log.add(record())
            await written(log, 1)
            assert await ids(database) == ["41", "r-0"]
            clock.now += 61
            assert await left(database, 1) == ["r-0"]


async def test_fewer_days_hold_from_when_they_are_set(place: Place) -> None:
    clock = Clock()
    async with place.database() as database:
        await kept(database, 5)
        async with logging(database, clock=clock) as log:
            log.add(record())
            await written(log, 1)
            assert len(await ids(database)) == 2
            log.days = 4
            clock.now += 61
            assert await left(database, 1) == ["r-0"]


async def test_old_rows_are_found_through_an_index(tmp_path: Path) -> None:
    done: list[tuple[str, Any]] = []

    def heard(_: object, __: object, statement: str, parameters: Any, *___: object) -> None:
        if statement.startswith(("DELETE", "WITH")):
            done.append((statement, parameters))

    async with Place(None, tmp_path).database() as database:
        event.listen(Connection, "before_cursor_execute", heard)
        try:
            async with logging(database) as log:
                log.add(record())
                await written(log, 1)
        finally:
            event.remove(Connection, "before_cursor_execute", heard)

        def plan(connection: Connection) -> list[str]:
            statement, parameters = done[0]
            found = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            return [str(row[-1]) for row in found]

        lines = await database.read(plan)
    assert any("USING COVERING INDEX api_requests_started" in line for line in lines), lines
    assert not [line for line in lines if line.startswith("SCAN api_requests")], lines
