"""What jobs hold that is too large for their histories (above 256 KiB), kept by reference.

The bytes come and go encrypted; what is in them and when they are referred to is not known here. A
history is read again for as long as Temporal keeps it, so a row lives as long as its job there:
who purges asks for the jobs whose turn it is (`due`), looks, and tells which are gone (`forget`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from sqlalchemy import BigInteger, Connection, Integer, bindparam, delete, func, select, update

from gateway.store.database import Database
from gateway.store.sql import Sql
from gateway.store.tables import job_payloads

# A payload is kept before its job is started; a start that takes longer has failed long ago.
GRACE_SECONDS: Final = 3600.0
# A job is looked at when it is as old as that, then when it is twice as old, but each day.
LONGEST_PAUSE_SECONDS: Final = 86_400.0
# Rows that go in one transaction: 1 MiB each is 64 MiB of a log that is written twice.
FORGET_ROWS: Final = 64
_columns = job_payloads.c


class JobPayloads:
    """The table, for the jobs of one namespace. All raise StoreAwayError and StoreSlowError."""

    def __init__(
        self, database: Database, namespace: str, wall: Callable[[], float] = time.time
    ) -> None:
        """`wall`: Unix seconds."""
        self._database = database
        self._namespace = namespace
        self._wall = wall
        sql = Sql(database.dialect)
        self._insert = sql.insert(job_payloads).on_conflict_do_nothing()
        self._again = (
            update(job_payloads)
            .where(_columns.payload_id == bindparam("this", type_=_columns.payload_id.type))
            .values(kept_ms=bindparam("now_ms"), look_ms=bindparam("then_ms"))
        )
        of_job = (_columns.namespace == bindparam("of_namespace")) & (
            _columns.operation_id == bindparam("of_job")
        )
        turn = (_columns.namespace == bindparam("of_namespace")) & (
            _columns.look_ms <= bindparam("now_ms", type_=BigInteger)
        )
        self._due = (
            select(_columns.operation_id, func.max(_columns.kept_ms).label("kept_ms"))
            .where(turn)
            .group_by(_columns.operation_id)
            .order_by(func.min(_columns.look_ms))
            .limit(bindparam("most", type_=Integer))
        )
        self._later = update(job_payloads).where(of_job).values(look_ms=bindparam("then_ms"))
        old = (
            select(_columns.payload_id)
            .where(of_job, _columns.kept_ms <= bindparam("before_ms", type_=BigInteger))
            .limit(FORGET_ROWS)
        )
        # Nested, since Python counts no rows of a statement for SQLite that begins with WITH.
        gone = sql.locked(old, skip=True).cte("gone", nesting=True)
        self._forget = delete(job_payloads).where(
            _columns.payload_id.in_(select(gone.c.payload_id))
        )

    def __repr__(self) -> str:
        return f"<JobPayloads {self._namespace} {self._database!r}>"

    async def put(self, payload_id: str, operation_id: str, data: bytes) -> None:
        """Keep bytes under an id, for a job (empty: none that is known). What is there stays: the
        same id is the same content, written again by another try or a replay.
        """
        now_ms = self._now_ms()
        times = {"now_ms": now_ms, "then_ms": now_ms + int(GRACE_SECONDS * 1000)}
        row = {
            "payload_id": payload_id,
            "namespace": self._namespace,
            "operation_id": operation_id,
            "data": data,
            "kept_ms": times["now_ms"],
            "look_ms": times["then_ms"],
        }

        def work(connection: Connection) -> None:
            if not connection.execute(self._again, times | {"this": payload_id}).rowcount:
                connection.execute(self._insert, row)

        await self._database.write(work)

    async def get(self, payload_id: str) -> bytes | None:
        """The bytes; None: they are not there."""
        query = select(_columns.data).where(_columns.payload_id == payload_id)
        return await self._database.read(lambda it: it.scalar(query))

    async def due(self, most: int) -> list[str]:
        """Jobs whose turn it is to be looked at; nobody else is told of them for a while."""
        now_ms = self._now_ms()

        def work(connection: Connection) -> list[str]:
            wanted = {"of_namespace": self._namespace, "now_ms": now_ms, "most": most}
            jobs = connection.execute(self._due, wanted).all()
            for job in jobs:
                pause = min(now_ms - job.kept_ms, LONGEST_PAUSE_SECONDS * 1000)
                then_ms = now_ms + int(max(pause, GRACE_SECONDS * 1000))
                of_job = {"of_namespace": self._namespace, "of_job": job.operation_id}
                connection.execute(self._later, of_job | {"then_ms": then_ms})
            return [job.operation_id for job in jobs]

        return await self._database.write(work)

    async def forget(self, operation_id: str, older_seconds: float = GRACE_SECONDS) -> int:
        """Drop what was kept for a job that is gone, but for what was written since; how many."""
        wanted = {
            "of_namespace": self._namespace,
            "of_job": operation_id,
            "before_ms": self._now_ms() - int(older_seconds * 1000),
        }
        total = 0
        while True:
            rows = await self._database.write(
                lambda it: int(it.execute(self._forget, wanted).rowcount)
            )
            total += rows
            if rows < FORGET_ROWS:
                return total

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)
