"""A worker at work for tests: the table it leases from, and how it is started and closed."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import structlog
from sqlalchemy import Connection, insert, select

from gateway.callbacks.address import Allowed
from gateway.callbacks.callback import CallbackRequests
from gateway.callbacks.delivery import DeliveryWorker
from gateway.callbacks.roles import Requests
from gateway.callbacks.sending import Sender
from gateway.store.database import Database
from gateway.store.deliveries import LEASE_SECONDS, Deliveries, Delivery
from gateway.store.tables import audit, outbox

KEY = b"k" * 32
SECRET = "whsec_" + b64encode(KEY).decode()
START = 1_800_000_000.0
TLS = ssl.create_default_context()


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it stands; `next_at` None: there is no next try. `said` is the audit trail's."""

    attempts: int
    next_at: float | None
    leased_until: float
    done: bool
    error: str | None
    said: list[str]


class Table:
    """The outbox of a real database, that tells a test when it changed.

    `now` is everyone's clock. While `away` is set the way to the database is cut; while `open` is
    not, what was leased has not come back yet.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._deliveries = Deliveries(database, lambda: self.now)
        self._changed = asyncio.Condition()
        self._numbers = count(1)
        self.now = START
        self.rows: dict[str, Row] = {}
        self.away = False
        self.open = asyncio.Event()
        self.open.set()
        self.asked = 0

    async def add(self, *deliveries: Delivery) -> list[str]:
        """Rows as decisions write them, due now; their questions are q-1, q-2, …"""
        added = []
        for each in deliveries:
            number = next(self._numbers)
            milliseconds = int(self.now * 1000)
            row = {
                "id": f"id-{number}",
                "question_id": f"q-{number}",
                "kind": each.kind,
                "target": each.target,
                "payload": each.payload,
                "attempts": 0,
                "created_ms": milliseconds,
                "next_ms": milliseconds,
                "leased_until_ms": 0,
            }
            added.append(row)
        await self._database.write(lambda connection: connection.execute(insert(outbox), added))
        for row in added:
            await self._look(str(row["id"]))
        return [str(row["id"]) for row in added]

    def next_at(self, delivery_id: str) -> float:
        """When a row is due again."""
        at = self.rows[delivery_id].next_at
        assert at is not None
        return at

    async def tried(self, delivery_id: str, times: int) -> None:
        """Wait until so many attempts of a row are over."""
        await self.until(lambda: self.rows[delivery_id].attempts >= times)

    async def was_asked(self, times: int) -> None:
        """Wait until it was asked so often what is due."""
        await self.until(lambda: self.asked >= times)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for a change after which `holds`."""
        async with self._changed:
            await self._changed.wait_for(holds)

    async def _look(self, delivery_id: str) -> None:
        def work(connection: Connection) -> Row:
            row = connection.execute(select(outbox).where(outbox.c.id == delivery_id)).one()
            of_it = select(audit).where(audit.c.question_id == row.question_id)
            return Row(
                attempts=row.attempts,
                next_at=row.next_ms / 1000 if row.done_ms is None else None,
                leased_until=row.leased_until_ms / 1000,
                done=row.done_ms is not None and row.last_error is None,
                error=row.last_error,
                said=[
                    f"{entry.at_ms / 1000 - START:g} {entry.what} {entry.detail}"
                    for entry in connection.execute(of_it.order_by(audit.c.id))
                ],
            )

        self.rows[delivery_id] = await self._database.read(work)
        async with self._changed:
            self._changed.notify_all()

    def _way(self) -> Deliveries:
        if self.away:
            raise ConnectionError("db:5432 with password s3cret is away")
        return self._deliveries

    async def due_deliveries(
        self,
        now: float,
        limit: int,
        *,
        lease_seconds: float = LEASE_SECONDS,
        kinds: Sequence[str] = ("callback", "forward"),
    ) -> list[Delivery]:
        """See Outbox."""
        self.asked += 1
        async with self._changed:
            self._changed.notify_all()
        leased = await self._way().due_deliveries(
            now, limit, lease_seconds=lease_seconds, kinds=kinds
        )
        for each in leased:
            await self._look(each.id)
        await self.open.wait()
        return leased

    async def renew_deliveries(
        self, leased: Mapping[str, float], now: float, *, lease_seconds: float = LEASE_SECONDS
    ) -> set[str]:
        """See Outbox."""
        kept = await self._way().renew_deliveries(leased, now, lease_seconds=lease_seconds)
        for each in kept:
            await self._look(each)
        return kept

    async def delivery_done(self, delivery_id: str, now: float, detail: str = "") -> None:
        """See Outbox."""
        await self._way().delivery_done(delivery_id, now, detail)
        await self._look(delivery_id)

    async def delivery_failed(
        self,
        delivery_id: str,
        next_at: float | None,
        error: str,
        leased_at: float | None = None,
    ) -> None:
        """See Outbox."""
        await self._way().delivery_failed(delivery_id, next_at, error, leased_at)
        await self._look(delivery_id)


@asynccontextmanager
async def a_table(directory: Path) -> AsyncIterator[Table]:
    """A table in a new database."""
    database = Database(None, directory)
    await database.open()
    try:
        yield Table(database)
    finally:
        await database.close()


async def nowhere(_host: str, _port: int) -> list[str]:
    """A network without names."""
    raise OSError


@asynccontextmanager
async def working(
    table: Table,
    *,
    requests: Mapping[str, Requests] | None = None,
    seconds: float = 10.0,
    resolve: Callable[[str, int], Awaitable[list[str]]] | None = None,
    grace: float = 5.0,
) -> AsyncIterator[DeliveryWorker]:
    """A worker on `table` that never sweeps by itself: tests wake it."""
    worker = DeliveryWorker(
        table,
        Sender(resolve or nowhere, TLS, timeout_seconds=seconds),
        requests or {"callback": CallbackRequests([KEY], Allowed(["127.0.0.0/8"]))},
        wall=lambda: table.now,
        random=lambda: 0.5,
        log=structlog.get_logger("gateway.callbacks"),
        sweep_seconds=3600,
    )
    worker.start()
    try:
        yield worker
    finally:
        await worker.close(grace)
