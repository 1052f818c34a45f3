"""PostgreSQL by asyncpg, through SQLAlchemy Core's asynchronous engine.

The address is read by asyncpg itself, so that all of libpq's words are good (`sslmode`,
`host=/a/directory`, several hosts, a password file), and it stands in no engine's repr.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import asyncpg
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

T = TypeVar("T")

CONNECTIONS: Final = 8  # one writes most of the time, the others read and deliver
CONNECT_SECONDS: Final = 4.0
STATEMENT_SECONDS: Final = 4.0
MIGRATING_SECONDS: Final = 60.0
# A gateway that hangs in the middle of a transaction holds others up for so long.
_IDLE_MS: Final = 10_000
_LOCK: Final = 0x67617465776179  # "gateway": nobody else's advisory lock


class PostgresBackend:
    """A database that several machines share."""

    dialect: Final = "postgresql"

    def __init__(self, address: str) -> None:
        self._address = address
        self._engine = self._build(STATEMENT_SECONDS, pool_size=CONNECTIONS)
        self._reading = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    def __repr__(self) -> str:
        return "<PostgresBackend>"

    async def open(self, migrate: Callable[[Connection], None]) -> None:
        """Bring the tables up to date, one gateway at a time."""

        def work(connection: Connection) -> None:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            migrate(connection)

        engine = self._build(MIGRATING_SECONDS, poolclass=NullPool)
        try:
            async with engine.begin() as connection:
                await connection.run_sync(work)
        finally:
            await engine.dispose()

    async def write(self, work: Callable[[Connection], T]) -> T:
        """One transaction (read committed)."""
        async with self._engine.begin() as connection:
            return await connection.run_sync(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Each statement sees the database as it is then."""
        async with self._reading.connect() as connection:
            return await connection.run_sync(work)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._engine.dispose()

    def _build(self, seconds: float, **options: Any) -> AsyncEngine:
        async def connect(*_: object, **__: object) -> asyncpg.Connection[asyncpg.Record]:
            return await asyncpg.connect(
                self._address,
                timeout=CONNECT_SECONDS,
                command_timeout=seconds,
                server_settings={
                    "application_name": "gateway",
                    "statement_timeout": str(round(seconds * 1000)),
                    "idle_in_transaction_session_timeout": str(_IDLE_MS),
                },
            )

        if "pool_size" in options:
            options |= {"max_overflow": 0, "pool_timeout": CONNECT_SECONDS, "pool_pre_ping": True}
        return create_async_engine(
            "postgresql+asyncpg://", async_creator=connect, hide_parameters=True, **options
        )
