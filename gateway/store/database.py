"""The database: `DATABASE_URL`, or a file in `STATE_DIR`. Work is a function of a connection.

What the work is, is in the other files here; this one knows how long it may take, how much may
wait, what errors mean, and how the database is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import structlog
from sqlalchemy import Connection

from gateway.store.faults import Fault, brief, classify
from gateway.store.migrating import migrate
from gateway.store.sqlite import SqliteBackend
from sse.question_store import StoreAwayError, StoreSlowError

T = TypeVar("T")

FILE_NAME: Final = "gateway.db"
# A caller is told 504 by then, and may repeat.
PATIENCE_SECONDS: Final = 5.0
# What waits for a thread or a connection: above it the database is slower than its callers, and
# more would only wait in vain. 1,000 look-ups are 50 ms of work for SQLite.
MAX_WAITING: Final = 1000
_TRIES: Final = 5  # of a transaction that lost a race
_SQLITE: Final = "sqlite:///"

_log = structlog.get_logger("gateway.store")


class StoreError(Exception):
    """The database can't be used; the text is for who starts the gateway, and holds no secret."""


class Backend(Protocol):
    """SQLite or PostgreSQL."""

    @property
    def dialect(self) -> str:
        """Its name."""

    async def open(self, migrate: Callable[[Connection], None]) -> None:
        """Make ready."""

    async def write(self, work: Callable[[Connection], T]) -> T:
        """One transaction."""

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Look only."""

    async def close(self) -> None:
        """Let go."""


class Database:
    """Runs work on the database. `open` once, then `close`."""

    def __init__(
        self,
        url: str | None,
        state_dir: Path,
        clock: Callable[[], float] = time.monotonic,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """`url`: `postgresql://…`, `sqlite:///<path>`, or None for the file in `state_dir`."""
        self._backend: Backend
        if url is None or url.startswith(_SQLITE):
            path = state_dir / FILE_NAME if url is None else Path(url.removeprefix(_SQLITE))
            self._backend = SqliteBackend(path)
        else:
            # Loaded where it is used: it takes 0.2 s of a start that most often has no need of it.
            from gateway.store.postgres import PostgresBackend

            self._backend = PostgresBackend(url)
        self._clock = clock
        self._patience_seconds = patience_seconds
        self._waiting = 0
        self._opened = False
        self._error: str | None = "not opened"
        self._latency_ms: float | None = None

    def __repr__(self) -> str:
        return f"<Database {self.dialect} waiting={self._waiting} {self._error or 'healthy'}>"

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._backend.dialect

    @property
    def state(self) -> dict[str, object]:
        """For health: `state`, `latency_ms` of what was done last, `error`."""
        return {
            "state": "healthy" if self._error is None else "unhealthy",
            "kind": self.dialect,
            "latency_ms": self._latency_ms,
            "error": self._error,
        }

    async def open(self) -> None:
        """Connect, and bring the tables up to date. Raises StoreError; then it may be tried again.

        Until it has come about, everything else raises StoreAwayError.
        """
        try:
            await self._backend.open(migrate)
        except Exception as error:
            if classify(error) is Fault.OURS and not isinstance(error, ValueError):
                raise
            self._error = brief(error)
            raise StoreError(f"the database can't be used: {self._error}") from None
        self._opened = True
        self._error = None

    async def close(self) -> None:
        """Let go of it; what is under way is done first, where it can't be undone."""
        self._opened = False
        await self._backend.close()

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Do `work` in one transaction, again where another transaction came first.

        Raises StoreAwayError, StoreSlowError, and what `work` raises.
        """
        for _ in range(_TRIES - 1):
            try:
                return await self._do(self._backend.write, work)
            except _AgainError:
                continue
        try:
            return await self._do(self._backend.write, work)
        except _AgainError:
            raise StoreSlowError from None

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Do `work`, which only looks. Raises StoreAwayError, StoreSlowError."""
        try:
            return await self._do(self._backend.read, work)
        except _AgainError:
            raise StoreSlowError from None

    async def _do(
        self,
        run: Callable[[Callable[[Connection], T]], Coroutine[Any, Any, T]],
        work: Callable[[Connection], T],
    ) -> T:
        if not self._opened:
            raise StoreAwayError("the database is away")
        if self._waiting >= MAX_WAITING:
            raise StoreAwayError("too much waits for the database")
        self._waiting += 1
        started = self._clock()
        try:
            async with asyncio.timeout(self._patience_seconds):
                result = await run(work)
        except StoreAwayError:
            raise
        except Exception as error:
            raise self._told(error) from None
        finally:
            self._waiting -= 1
        self._latency_ms = round((self._clock() - started) * 1000, 3)
        if self._error is not None:
            self._error = None
            _log.info("store.back", kind=self.dialect)
        return result

    def _told(self, error: Exception) -> Exception:
        """The same error as callers know it."""
        fault = classify(error)
        if fault is Fault.OURS:
            return error
        if fault is Fault.AGAIN:
            return _AgainError()
        if self._error is None:
            _log.error("store.away", kind=self.dialect, error=brief(error))
        self._error = brief(error)
        if fault is Fault.SLOW:
            return StoreSlowError("the database takes too long")
        return StoreAwayError("the database is away")


class _AgainError(Exception):
    """The same work should be tried once more."""
