"""The database when it is away, slow, locked or full: what callers are told, and that it heals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from gateway.store import Database, StoredQuestions, StoreError
from gateway.store.database import FILE_NAME, MAX_WAITING
from gateway.store.deciding import DecidingRows
from gateway.store.noting import Noting
from gateway.store.sql import Sql
from sse.answer import Outcome
from sse.question_store import StoreAwayError, StoreSlowError
from tests.asking import Asker, Clock, Ids, Place, attempt, someone
from tests.postgres_server import CannotStartError, PostgresServer, connected, postgres_server


def one(connection: Connection) -> int:
    return connection.scalar(text("SELECT 1")) or 0


async def test_work_is_done_and_its_result_comes_back(place: Place) -> None:
    async with place.database() as database:
        assert await database.write(one) == 1
        assert await database.read(one) == 1
        state = database.state
        assert (state["state"], state["error"]) == ("healthy", None)
        assert isinstance(state["latency_ms"], float)
        assert "healthy" in repr(database)


async def test_before_it_is_open_and_after_its_close_it_is_away(place: Place) -> None:
    database = Database(place.url, place.state_dir)
    with pytest.raises(StoreAwayError):
        await database.read(one)
    assert database.state["state"] == "unhealthy"
    await database.open()
    assert await database.read(one) == 1
    await database.close()
    with pytest.raises(StoreAwayError):
        await database.write(one)


async def test_what_fails_takes_its_transaction_back(place: Place) -> None:
    def work(connection: Connection) -> None:
        connection.execute(
            text("INSERT INTO question_approvers (approver, question_id) VALUES ('a', 'q')")
        )
        raise ValueError("no")

    def count(connection: Connection) -> int:
        return connection.scalar(text("SELECT count(*) FROM question_approvers")) or 0

    async with place.database() as database:
        with pytest.raises(ValueError, match="no"):
            await database.write(work)
        assert await database.read(count) == 0


async def test_reading_can_not_write_in_sqlite(tmp_path: Path) -> None:
    def write(connection: Connection) -> None:
        connection.execute(text("DELETE FROM questions"))

    async with Place(None, tmp_path).database() as database:
        with pytest.raises(StoreAwayError):
            await database.read(write)


async def test_more_than_it_can_do_is_refused(place: Place) -> None:
    async with place.database() as database:
        asked = [asyncio.ensure_future(database.read(one)) for _ in range(MAX_WAITING + 5)]
        await asyncio.sleep(0)
        refused = [each for each in asked if each.done()]
        assert len(refused) == 5  # at once; how many of the others a busy machine serves is its own
        assert all(isinstance(each.exception(), StoreAwayError) for each in refused)
        await asyncio.gather(*asked, return_exceptions=True)
        assert await database.read(one) == 1


# SQLite


async def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    state_dir = tmp_path / "new" / "state"
    async with Place(None, state_dir).database():
        path = state_dir / FILE_NAME
        assert path.stat().st_mode & 0o777 == 0o600
        assert state_dir.stat().st_mode & 0o777 == 0o700


async def test_a_file_may_be_named_by_its_address(tmp_path: Path) -> None:
    path = tmp_path / "a b%20#?.db"
    async with Place(f"sqlite:///{path}", tmp_path / "unused").database() as database:
        assert await database.read(one) == 1
    assert path.exists()
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize("what", ["a directory", "no database"])
async def test_a_file_that_can_not_be_used_is_told_in_a_line(tmp_path: Path, what: str) -> None:
    path = tmp_path / FILE_NAME
    if what == "a directory":
        path.mkdir()
    else:
        path.write_text("this is text and no database, however one looks at it" * 50)
    database = Database(None, tmp_path)
    with pytest.raises(StoreError, match="can't be used") as caught:
        await database.open()
    assert "\n" not in str(caught.value)
    await database.close()


async def test_a_commit_is_on_the_disk_before_anyone_is_told(tmp_path: Path) -> None:
    def pragma(connection: Connection) -> list[object]:
        return [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("synchronous", "journal_mode")
        ]

    async with Place(None, tmp_path).database() as database:
        assert await database.write(pragma) == [2, "wal"]


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Another process's connection, which can hold the write lock."""
    connection = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    yield connection
    connection.close()


async def test_reading_goes_on_while_another_writes(
    tmp_path: Path, locked: sqlite3.Connection
) -> None:
    async with Place(None, tmp_path).database() as database:
        locked.execute("BEGIN IMMEDIATE")
        assert await database.read(one) == 1
        locked.execute("ROLLBACK")


async def test_writing_waits_for_another_and_is_told_when_it_takes_too_long(
    tmp_path: Path, locked: sqlite3.Connection
) -> None:
    database = Database(None, tmp_path, patience_seconds=0.05)
    await database.open()
    locked.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreSlowError):
        await database.write(one)
    assert database.state["state"] == "unhealthy"
    locked.execute("ROLLBACK")
    patient = Place(None, tmp_path)
    async with patient.database() as other:
        assert await other.write(one) == 1
    await database.close()


# PostgreSQL


@pytest.fixture
async def own_server() -> AsyncIterator[PostgresServer]:
    """A server that a test may stop."""
    try:
        with postgres_server() as server:
            yield server
    except CannotStartError as error:
        pytest.skip(f"no PostgreSQL here: {error}")


async def test_a_server_that_is_away_is_told_and_used_again_when_it_is_back(
    own_server: PostgresServer, tmp_path: Path, clock: Clock, asker: Asker
) -> None:
    place = Place(await own_server.database(), tmp_path)
    async with place.database() as database:
        store = StoredQuestions(database, clock, clock, lambda: "x")
        new = asker.new()
        await store.ask([new], together=False)
        await asyncio.to_thread(own_server.stop, "immediate")
        for _ in range(2):
            with pytest.raises(StoreAwayError):
                await store.decide(attempt(new.question, someone("alice")))
            with pytest.raises(StoreAwayError):
                await store.find(["x"])
        assert database.state["state"] == "unhealthy"
        assert "host=" not in f"{database!r} {database.state}"
        await asyncio.to_thread(own_server.start)
        outcome = await store.decide(attempt(new.question, someone("alice")))
        assert outcome.refused is None
        assert database.state == database.state | {"state": "healthy", "error": None}
        await store.close()


async def test_a_server_that_is_away_at_the_start_is_told_in_a_line(tmp_path: Path) -> None:
    address = f"postgresql://user:hidden-secret@127.0.0.1:1/x?host={tmp_path}"
    database = Database(address, tmp_path)
    with pytest.raises(StoreError, match="can't be used") as caught:
        await database.open()
    assert "hidden-secret" not in f"{caught.value} {database!r} {database.state}"
    assert "\n" not in str(caught.value)
    await database.close()


async def test_a_server_that_hangs_is_slow_and_no_longer_waited_for_than_said(
    own_server: PostgresServer, tmp_path: Path
) -> None:
    url = await own_server.database()
    database = Database(url, tmp_path, patience_seconds=0.3)
    await database.open()
    async with asyncio.timeout(30):  # a busy machine may be slow as well
        while await seen(database) != 1:
            pass
    held = children(own_server.pid)
    for pid in held:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises((StoreSlowError, StoreAwayError)):
            await database.read(one)
        assert database.state["state"] == "unhealthy"
    finally:
        for pid in held:
            os.kill(pid, signal.SIGCONT)
    patient = Database(url, tmp_path)
    await patient.open()
    assert await patient.read(one) == 1
    await patient.close()
    await database.close()


async def seen(database: Database) -> int | None:
    """What it answers; None: not in time."""
    with contextlib.suppress(StoreSlowError):
        return await database.read(one)
    return None


def children(pid: int) -> list[int]:
    """A server's processes, the first included."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, found)]


async def test_transactions_that_wait_for_each_other_in_a_circle_are_done_again(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    place = Place(await postgres.database(), tmp_path)
    insert = "INSERT INTO question_approvers (approver, question_id) VALUES (:a, 'q')"
    update = "UPDATE question_approvers SET question_id = question_id WHERE approver = :a"
    tries: list[str] = []

    def prepare(connection: Connection) -> None:
        for name in "ab":
            connection.execute(text(insert), {"a": name})

    def work(order: str) -> Callable[[Connection], None]:
        def run(connection: Connection) -> None:
            tries.append(order)
            connection.execute(text(update), {"a": order[0]})
            connection.execute(text("SELECT pg_advisory_xact_lock_shared(7)"))
            connection.execute(text(update), {"a": order[1]})

        return run

    async with place.database() as one_gateway, place.database() as another:
        await one_gateway.write(prepare)
        async with Gate(place.url or "", 7) as gate:
            both = asyncio.gather(one_gateway.write(work("ab")), another.write(work("ba")))
            await gate.waited_for_by(2)
        await both
        assert sorted(tries[:2]) == ["ab", "ba"]
        assert len(tries) > 2  # once more, or oftener where they meet again on a busy machine


async def test_without_locks_the_compare_and_set_alone_lets_one_win(
    postgres: PostgresServer, tmp_path: Path, clock: Clock, asker: Asker
) -> None:
    """Rows are locked so that nobody judges in vain; that one wins does not hang on it."""

    class Unlocked(Sql):
        def locked(self, query: Any, *, skip: bool = False) -> Any:
            return query

    place = Place(await postgres.database(), tmp_path)
    sql = Unlocked("postgresql")
    deciding = DecidingRows(sql, Noting(sql), Ids("token"))
    new = asker.new()
    outcomes: dict[str, Outcome] = {}

    def answer(name: str, *, held: bool) -> Callable[[Connection], None]:
        def run(connection: Connection) -> None:
            deed = attempt(new.question, someone(name))
            [outcomes[name]], _ = deciding.apply(connection, [deed], clock.ms, forward=False)
            if held:
                connection.execute(text("SELECT pg_advisory_xact_lock_shared(7)"))

        return run

    async with place.store(clock) as store, place.database() as one, place.database() as two:
        await store.ask([new], together=False)
        async with Gate(place.url or "", 7) as gate:
            first = asyncio.ensure_future(one.write(answer("alice", held=True)))
            await gate.waited_for_by(1)
            second = asyncio.ensure_future(two.write(answer("bob", held=False)))
            await gate.waited_for_by(2)
        await asyncio.gather(first, second)
        assert outcomes["alice"].refused is None
        refused = outcomes["bob"].refused
        assert refused is not None
        assert (refused.code, refused.extra["answered_by"]) == ("CONFLICT", "alice")


class Gate:
    """An advisory lock that a test holds until others wait for it, or for those who do."""

    def __init__(self, url: str, number: int) -> None:
        self._url = url
        self._number = number

    async def __aenter__(self) -> Gate:
        self._connection = await connected(self._url)
        await self._connection.execute(f"SELECT pg_advisory_lock({self._number})")
        return self

    async def waited_for_by(self, count: int) -> None:
        """Returns when so many transactions wait."""
        query = """SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"""
        async with asyncio.timeout(30):
            while await self._connection.fetchval(query) < count:
                pass

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()
