"""SQLite: one thread writes, a few read beside it (WAL), all through SQLAlchemy Core.

Work runs as a whole in one of these threads. Through an asynchronous driver each statement would be
four hops between threads: a transaction of three statements took 4 ms of CPU at its least, here 1
(both SQLAlchemy 2.1, measured on 2 cores), and it would hold up the loop with what SQLAlchemy does.

`synchronous=FULL`: a commit is on the disk before anyone is told of it. An approval that a power
cut takes back would be asked for again, and could be answered otherwise; commits come in batches,
so the disk is waited for once for many (2 ms).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import QueuePool

from sse.question_store import StoreAwayError

T = TypeVar("T")

READERS: Final = 4
# How long a transaction waits for another process's; the loop's own patience is shorter.
BUSY_SECONDS: Final = 4.0
MIGRATING_SECONDS: Final = 60.0
# A disk that hangs gets no more work than this: callers give up after seconds, threads can't.
MAX_PENDING: Final = 2000
_JOURNAL_BYTES: Final = 64 << 20  # the log is cut down to this after a burst
_BETWEEN_TRIES_SECONDS: Final = 0.01


class SqliteBackend:
    """A database file of this machine."""

    dialect: Final = "sqlite"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = self._engine(1, "BEGIN IMMEDIATE", query_only=False)
        self._reader = self._engine(READERS, "BEGIN", query_only=True)
        self._writing = ThreadPoolExecutor(1, "store-write")
        self._reading = ThreadPoolExecutor(READERS, "store-read")
        self._closed = False
        self._pending = 0  # work that a thread has, or will have; its callers may have given up

    def __repr__(self) -> str:
        return f"<SqliteBackend {self._path}>"

    async def open(self, migrate: Callable[[Connection], None]) -> None:
        """Make the file, for this user alone, and bring its tables up to date."""

        def work() -> None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            engine = self._engine(1, "BEGIN IMMEDIATE", query_only=False, busy=MIGRATING_SECONDS)
            try:
                # The transaction is the lock: who comes second finds the tables there.
                with engine.begin() as connection:
                    migrate(connection)
            finally:
                engine.dispose()

        await asyncio.get_running_loop().run_in_executor(self._writing, work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """One transaction."""
        return await self._run(self._writing, self._writer, work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """One view of the database, which no writing holds up."""
        return await self._run(self._reading, self._reader, work)

    async def _run(
        self, threads: ThreadPoolExecutor, engine: Engine, work: Callable[[Connection], T]
    ) -> T:
        def run() -> T:
            with engine.begin() as connection:
                return work(connection)

        if self._pending >= MAX_PENDING:
            raise StoreAwayError("the disk does not keep up")
        self._pending += 1
        # Shielded: who stops waiting does not stop what a thread is in the middle of.
        done = asyncio.get_running_loop().run_in_executor(threads, run)
        done.add_done_callback(self._finished)
        return await asyncio.shield(done)

    def _finished(self, done: asyncio.Future[Any]) -> None:
        """Its waiter may have gone; an error is no news to the loop then."""
        self._pending -= 1
        if not done.cancelled():
            done.exception()

    async def close(self) -> None:
        """Wait for what is under way, then let go of the file. A second time nothing happens."""
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        for threads, engine in ((self._reading, self._reader), (self._writing, self._writer)):
            await loop.run_in_executor(threads, engine.dispose)
            threads.shutdown(wait=False, cancel_futures=True)

    def _engine(
        self, size: int, begin: str, *, query_only: bool, busy: float = BUSY_SECONDS
    ) -> Engine:
        engine = create_engine(
            URL.create("sqlite+pysqlite", database=str(self._path)),
            poolclass=QueuePool,
            pool_size=size,
            max_overflow=0,
            connect_args={"check_same_thread": False, "timeout": busy},
            hide_parameters=True,
        )

        @event.listens_for(engine, "connect")
        def prepare(connection: Any, _record: object) -> None:
            connection.isolation_level = None  # BEGIN is said below, COMMIT by SQLAlchemy
            _write_ahead(connection, busy)
            for pragma in (
                "synchronous=FULL",
                f"journal_size_limit={_JOURNAL_BYTES}",
                f"query_only={int(query_only)}",
            ):
                connection.execute(f"PRAGMA {pragma}").close()

        @event.listens_for(engine, "begin")
        def started(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

        return engine


def _write_ahead(connection: sqlite3.Connection, patience_seconds: float) -> None:
    """WAL: processes on one file (a gateway and its worker) write in turn, and read meanwhile.

    SQLite waits for any lock but the one that a new file's first switch takes: of processes that
    start at once, some would be told that it is locked.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(_BETWEEN_TRIES_SECONDS)  # in a thread of the store's
