"""The tables: made at the first start, by one gateway at a time, as the code sees them."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, inspect, text
from structlog.testing import capture_logs

import gateway.store.migrations
from gateway.store import StoreError
from gateway.store.deciding import DecidingRows
from gateway.store.forgetting import Forgetting
from gateway.store.migrating import HEAD
from gateway.store.noting import Noting
from gateway.store.reading import Reading
from gateway.store.sql import Sql
from gateway.store.sweeping import Sweeping
from gateway.store.tables import metadata
from tests.asking import Place

MIGRATIONS = Path(gateway.store.migrations.__file__).parent


async def test_the_tables_are_those_that_the_code_sees(place: Place) -> None:
    def differences(connection: Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    def indexes(connection: Connection) -> dict[str, set[str]]:
        found = inspect(connection)
        return {
            name: {str(index["name"]) for index in found.get_indexes(name)}
            for name in metadata.tables
        }

    async with place.database() as database:
        assert await database.read(differences) == []
        assert await database.read(indexes) == {
            name: {str(index.name) for index in table.indexes}
            for name, table in metadata.tables.items()
        }


async def test_partial_indexes_are_used_for_what_is_looked_for_each_second(place: Place) -> None:
    if place.url is not None:
        pytest.skip("PostgreSQL plans by statistics, and an empty table has none")

    def plan(connection: Connection) -> str:
        done: list[tuple[str, Any]] = []

        @event.listens_for(connection, "before_cursor_execute")
        def heard(_: object, __: object, statement: str, parameters: Any, *___: object) -> None:
            done.append((statement, parameters))

        sql = Sql("sqlite")
        noting = Noting(sql)
        reading, sweeping = Reading(sql), Sweeping(sql, noting, DecidingRows(sql, noting, str))
        reading.pressing(connection, 1)
        reading.open_for(connection, ["a"], 1)
        reading.count_open(connection)
        sweeping.end_due(connection, 1, 1, forward=False)
        sweeping.remind_due(connection, 1, 1)
        sweeping.publications_due(connection, 1, 1, 1)
        Forgetting(sql).purge(connection, 1, 1)
        event.remove(connection, "before_cursor_execute", heard)
        return "\n".join(
            str(row[-1])
            for statement, parameters in done
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        )

    async with place.database() as database:
        told = await database.write(plan)
    wanted = ("expiring", "reminded", "ended")
    for name in (*(f"questions_{each}" for each in wanted), "question_clients_pending"):
        assert f"INDEX {name}" in told, told
    assert "SEARCH question_clients USING INDEX question_clients_open" in told, told
    # Counting what is open and finding the first of a kind read an index, never the table.
    assert not [line for line in told.split("\n") if line.startswith("SCAN") and "USING" not in line
                and "question" in line and "mine" not in line], told  # fmt: skip


async def test_many_gateways_that_start_at_once_make_the_tables_once(place: Place) -> None:
    async def start() -> None:
        async with place.database() as database:
            assert database.state["state"] == "healthy"

    await asyncio.gather(*(start() for _ in range(4)))


async def test_the_first_start_says_in_one_line_what_it_made(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("alembic").setLevel(logging.NOTSET)
    with capture_logs() as lines, caplog.at_level(logging.INFO):
        for _ in range(2):
            async with place.database():
                pass
    assert [(line["event"], line["before"], line["now"]) for line in lines] == [
        ("store.migrated", None, HEAD)
    ]
    assert not [record for record in caplog.records if record.name.startswith("alembic")]


async def test_an_older_gateways_tables_get_what_is_new_and_keep_what_they_hold(
    place: Place,
) -> None:
    def back(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        connection.execute(
            text("INSERT INTO question_approvers (approver, question_id) VALUES ('a', 'q')")
        )

    def look(connection: Connection) -> tuple[int, int]:
        counts = [
            connection.scalar(text(f"SELECT count(*) FROM {name}")) or 0
            for name in ("question_approvers", "api_requests")
        ]
        return counts[0], counts[1]

    async with place.database() as database:
        await database.write(back)
    with capture_logs() as lines:
        async with place.database() as database:
            assert await database.read(look) == (1, 0)
    assert [(line["before"], line["now"]) for line in lines] == [("0001", HEAD)]


async def test_the_second_start_changes_nothing(place: Place) -> None:
    def insert(connection: Connection) -> None:
        connection.execute(
            text("INSERT INTO question_approvers (approver, question_id) VALUES ('a', 'q')")
        )

    def count(connection: Connection) -> int:
        return connection.scalar(text("SELECT count(*) FROM question_approvers")) or 0

    async with place.database() as database:
        await database.write(insert)
    async with place.database() as database:
        assert await database.read(count) == 1


async def test_a_newer_gateways_tables_are_left_alone(place: Place) -> None:
    def newer(connection: Connection) -> None:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    async with place.database() as database:
        await database.write(newer)
    with pytest.raises(StoreError, match="newer gateway"):
        async with place.database():
            pass


def test_the_newest_step_is_the_one_that_starts_look_for() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


async def test_every_step_can_be_taken_back(place: Place) -> None:
    def back(connection: Connection) -> list[str]:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        return sorted(inspect(connection).get_table_names())

    async with place.database() as database:
        assert await database.write(back) == ["alembic_version"]
    async with place.database() as database:
        assert database.state["state"] == "healthy"
