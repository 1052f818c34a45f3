"""The request log: rows in batches, a buffer that gives way, a database that is away or slow."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete
from structlog.testing import capture_logs

from gateway.store import Database, RequestLog
from gateway.store.database import FILE_NAME
from gateway.store.requests import BATCH_ROWS, row_of
from gateway.store.tables import api_requests
from tests.asking import NOW_MS, Clock, Place
from tests.connection import eventually
from tests.postgres_server import CannotStartError, PostgresServer, postgres_server
from tests.store.requesting import RECORD, ids, logging, record, rows, written
from tests.store.test_database import children


async def test_a_request_is_one_row_with_the_fields_of_its_record(place: Place) -> None:
    async with place.database() as database:
        async with logging(database) as log:
            log.add(RECORD | {"end_reason": "upstream_closed", "operation_id": "job-1"})
        [row] = await rows(database)
    assert row.pop("id") >= 0
    told = {name: RECORD[name] for name in row if name in RECORD and name != "end_reason"}
    assert row == told | {
        "started_ms": NOW_MS,
        "end_reason": "upstream_closed",
        "operation_id": "job-1",
    }


async def test_what_a_record_does_not_have_is_null(place: Place) -> None:
    empty: dict[str, object] = dict.fromkeys(
        ("correlation_id", "user_id", "tenant", "service", "endpoint", "error_code", "upstream_ms",
         "user_agent")
    )  # fmt: skip
    async with place.database() as database:
        async with logging(database) as log:
            log.add(record() | empty)
        [row] = await rows(database)
    assert {name: row[name] for name in empty} == empty
    assert (row["end_reason"], row["operation_id"]) == (None, None)


async def test_rows_are_written_without_a_close(place: Place) -> None:
    async with place.database() as database, logging(database) as log:
        log.add(record())
        await written(log, 1)
        assert await ids(database) == ["r-0"]


async def test_many_rows_go_in_batches_and_keep_their_order(place: Place) -> None:
    count = 2 * BATCH_ROWS + 7
    async with place.database() as database:
        async with logging(database, flush_seconds=3600.0) as log:
            for number in range(count):
                log.add(record(number))
            await written(log, 2 * BATCH_ROWS)  # those that are full wait for no time
            assert log.waiting == 7
        assert await ids(database) == [f"r-{number}" for number in range(count)]
        assert (log.written, log.dropped, log.waiting) == (count, 0, 0)


async def test_a_full_buffer_drops_the_oldest_and_counts_them(place: Place) -> None:
    async with place.database() as database:
        log = RequestLog(database, buffer_rows=5, close_seconds=30.0, wall=Clock())
        for number in range(8):
            log.add(record(number))
        assert (log.waiting, log.dropped) == (5, 3)
        log.start()
        with capture_logs() as lines:
            await log.close()
        assert await ids(database) == [f"r-{number}" for number in range(3, 8)]
    assert [line["rows"] for line in lines if line["event"] == "request_log.dropped"] == [3]
    assert "dropped=3" in repr(log)


async def test_rows_wait_for_a_database_that_is_opened_later(place: Place) -> None:
    database = Database(place.url, place.state_dir, patience_seconds=30.0)
    async with logging(database, buffer_rows=3) as log:
        for number in range(3):
            log.add(record(number))
        await eventually(lambda: "away" in repr(log), seconds=60)
        assert (log.waiting, log.dropped) == (3, 0)
        log.add(record(3))
        await database.open()
        await written(log, 3)
        assert await ids(database) == ["r-1", "r-2", "r-3"]
        assert log.dropped == 1
    await database.close()


async def test_what_can_not_be_written_until_the_end_is_dropped_in_bounded_time(
    tmp_path: Path,
) -> None:
    database = Database(None, tmp_path)
    log = RequestLog(database, close_seconds=0.05)
    log.start()
    log.add(record())
    with capture_logs() as lines:
        await log.close()
    await database.close()
    assert (log.written, log.dropped, log.waiting) == (0, 1, 0)
    assert [line["rows"] for line in lines if line["event"] == "request_log.dropped"] == [1]


async def test_a_log_that_never_began_can_be_closed(tmp_path: Path) -> None:
    database = Database(None, tmp_path)
    await RequestLog(database).close()
    await database.close()


async def test_what_comes_after_the_close_is_counted_and_not_kept(tmp_path: Path) -> None:
    log = RequestLog(Database(None, tmp_path))
    await log.close()
    log.add(record(0))
    assert (log.dropped, log.waiting) == (1, 0)


@pytest.fixture
async def held(tmp_path: Path) -> AsyncIterator[tuple[Database, sqlite3.Connection]]:
    """A database whose write lock another process holds, and that connection."""
    database = Database(None, tmp_path, patience_seconds=0.2)
    await database.open()
    other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield database, other
    other.close()
    await database.close()


async def test_a_slow_database_gets_each_row_once_whatever_became_of_the_first_try(
    held: tuple[Database, sqlite3.Connection],
) -> None:
    """The first try is given up, and comes about nevertheless when the lock is free."""
    database, other = held
    async with logging(database) as log:
        for number in range(3):
            log.add(record(number))
        await eventually(lambda: "away" in repr(log), seconds=60)
        assert (log.waiting, log.dropped) == (3, 0)
        other.execute("COMMIT")
        await written(log, 3)
        assert await ids(database) == ["r-0", "r-1", "r-2"]


async def test_of_a_batch_that_comes_back_to_a_full_buffer_the_oldest_give_way(
    held: tuple[Database, sqlite3.Connection],
) -> None:
    database, other = held
    async with logging(database, buffer_rows=4, flush_seconds=0.0) as log:
        for number in range(3):
            log.add(record(number))
        await eventually(lambda: "waiting=1" in repr(database), seconds=60)  # under way
        for number in range(3, 6):
            log.add(record(number))
        await eventually(lambda: (log.waiting, log.dropped) == (4, 2), seconds=60)
        other.execute("COMMIT")
        await written(log, 4)
        found = await ids(database)
    # The first try may have come about as well.
    assert [name for name in found if name not in ("r-0", "r-1")] == ["r-2", "r-3", "r-4", "r-5"]
    assert len(found) == len(set(found))


async def test_a_close_that_takes_too_long_gives_up(tmp_path: Path) -> None:
    async with Place(None, tmp_path).database() as database:
        other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        log = RequestLog(database, close_seconds=0.01, wall=Clock())
        log.start()
        log.add(record())
        await log.close()
        assert (log.written, log.dropped, log.waiting) == (0, 1, 0)
        other.close()


@pytest.fixture
async def own_server() -> AsyncIterator[PostgresServer]:
    """A server that a test may stop."""
    try:
        with postgres_server() as server:
            yield server
    except CannotStartError as error:
        pytest.skip(f"no PostgreSQL here: {error}")


async def test_a_server_that_hangs_holds_up_neither_requests_nor_the_close(
    own_server: PostgresServer, tmp_path: Path
) -> None:
    """Giving up waits for the server again; the close does not wait for that."""
    async with Place(await own_server.database(), tmp_path).database() as database:
        log = RequestLog(database, flush_seconds=0.001, close_seconds=0.05, wall=Clock())
        log.start()
        log.add(record(0))
        await written(log, 1)
        hanging = children(own_server.pid)
        for pid in hanging:
            os.kill(pid, signal.SIGSTOP)
        try:
            log.add(record(1))
            await eventually(lambda: "waiting=1" in repr(database), seconds=60)
            await log.close()
            # It has the row or has not; nobody can know while it hangs.
            assert (log.written, log.dropped, log.waiting) == (1, 1, 0)
        finally:
            for pid in hanging:
                os.kill(pid, signal.SIGCONT)


async def test_a_database_that_is_away_is_asked_no_more_often_for_want_of_rows(
    tmp_path: Path,
) -> None:
    database = Database(None, tmp_path)
    async with logging(database) as log:
        await eventually(lambda: "away" in repr(log), seconds=60)
    assert log.dropped == 0
    await database.close()


async def test_rows_that_the_database_refuses_do_not_hold_up_those_behind(
    tmp_path: Path,
) -> None:
    """What no row of ours should be: a status that is no number, as a record never has it."""
    async with Place(None, tmp_path).database() as database:
        with capture_logs() as lines:
            async with logging(database) as log:
                log.add(record(0, status=[]))
                await eventually(lambda: log.dropped, seconds=60)
                log.add(record(1))
        assert await ids(database) == ["r-1"]
    [line] = [line for line in lines if line["event"] == "request_log.dropped"]
    assert (line["rows"], line["log_level"]) == (1, "error")
    assert "not supported" in line["error"]


async def test_rows_that_are_dropped_are_told_once_a_minute(tmp_path: Path) -> None:
    clock = Clock()

    def dropped(count: int) -> bool:
        return log.dropped == count

    def counts() -> list[int]:
        return [line["rows"] for line in lines if line["event"] == "request_log.dropped"]

    async with Place(None, tmp_path).database() as database:
        with capture_logs() as lines:
            async with logging(database, clock=clock) as log:
                for number in (1, 2, 3):
                    log.add(record(number, status=[]))
                    await eventually(partial(dropped, number), seconds=60)
                await eventually(counts, seconds=60)
                assert counts() == [1]
                clock.now += 60
                await eventually(lambda: counts() == [1, 2], seconds=60)


# Text

LENGTHS = {
    column.name: column.type.length
    for column in api_requests.columns
    if hasattr(column.type, "length")
}


async def test_what_is_longer_than_its_column_is_cut(place: Place) -> None:
    long = dict.fromkeys(LENGTHS, "é" * 5000)
    async with place.database() as database:
        async with logging(database) as log:
            log.add(record() | long)
        [row] = await rows(database)
    assert {name: row[name] for name in LENGTHS} == {
        name: "é" * most for name, most in LENGTHS.items()
    }


def test_what_a_client_makes_long_is_cut_before_it_waits() -> None:
    row = row_of(record(path="/" + "a" * 8000, user_agent="b" * 8000))
    assert max(len(value) for value in row if isinstance(value, str)) == LENGTHS["path"]
    assert "b" * LENGTHS["user_agent"] in row
    assert None in row_of(record(path="/" + "a" * 8000, user_agent=None))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(), max_size=300), min_size=1, max_size=5))
async def test_no_text_makes_the_database_refuse_a_row(place: Place, texts: list[str]) -> None:
    """NUL and halves of surrogate pairs come in claims of tokens; a row with such must not be lost,
    nor take others with it.
    """
    async with place.database() as database:
        async with logging(database) as log:
            for number, value in enumerate(texts):
                log.add(record(number, user_id=value, tenant=value, path=value, user_agent=value))
        assert (log.written, log.dropped) == (len(texts), 0)
        found = await rows(database)
        await database.write(lambda it: it.execute(delete(api_requests)))
    for row, value in zip(found, texts, strict=True):
        if "\0" not in value and value.isascii():
            assert (row["user_id"], row["path"]) == (value[:256], value)


# Looking


@pytest.mark.parametrize(
    ("column", "index"),
    [("tenant", "tenant"), ("user_id", "user"), ("route", "route")],
)
async def test_rows_are_found_by_whom_and_when_through_an_index(
    tmp_path: Path, column: str, index: str
) -> None:
    query = f"SELECT * FROM api_requests WHERE {column} = ? AND started_ms > ? ORDER BY started_ms"

    def plan(connection: Connection) -> str:
        found = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", ("a", 1))
        return " ".join(str(row[-1]) for row in found)

    async with Place(None, tmp_path).database() as database:
        told = await database.read(plan)
    assert told == (
        f"SEARCH api_requests USING INDEX api_requests_{index} ({column}=? AND started_ms>?)"
    )
