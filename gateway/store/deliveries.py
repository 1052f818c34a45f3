"""Deliveries of decisions: kept with the decision, leased to whoever sends them, until done.

At least once: who dies between sending and saying so is followed by another when the lease is over.
Leases are short, and whoever is at a row makes its own longer: one that is over belongs to nobody
who lives, or to one that stood still, which finds out when it comes to renew. When a lease ends is
its name too: the next one of the same row always ends later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from sqlalchemy import BigInteger, Connection, Text, bindparam, insert, select, update

from gateway.store.database import Database
from gateway.store.sql import Sql
from gateway.store.tables import audit, outbox

CALLBACK: Final = "callback"
FORWARD: Final = "forward"
JOB: Final = "job"
# What a gateway that was killed had under way is sent by another after so long at most. It is also
# how far clocks of gateways may be apart, less `callbacks.delivering.RENEW_SECONDS`: beyond that
# they would take rows from each other, and send them twice.
LEASE_SECONDS: Final = 10.0
_MAX_ERROR_CHARACTERS: Final = 500
_NEVER_MS: Final = 1 << 62
_DONE: Final = {CALLBACK: "called_back", FORWARD: "forwarded", JOB: "forwarded"}


@dataclass(frozen=True, slots=True)
class Delivery:
    """A decision that is to be sent. `id` stays the same over all tries.

    `target` is the URL of a callback, the operation id of a job, empty for a forward. `payload` is
    JSON; `attempts` counts the tries before this one. `created_at` is the decision's time, Unix
    seconds.
    """

    id: str
    question_id: str
    kind: str
    target: str
    payload: bytes
    attempts: int
    created_at: float


class Outbox(Protocol):
    """What a sender needs. Times are Unix seconds; all raise StoreAwayError and StoreSlowError."""

    async def due_deliveries(
        self,
        now: float,
        limit: int,
        *,
        lease_seconds: float = LEASE_SECONDS,
        kinds: Sequence[str] = (CALLBACK, FORWARD),
    ) -> list[Delivery]:
        """Those that are due, oldest first; nobody else gets them before the lease is over."""

    async def renew_deliveries(
        self, leased: Mapping[str, float], now: float, *, lease_seconds: float = LEASE_SECONDS
    ) -> set[str]:
        """Make leases longer: from now on. `leased` tells of each row, by its id, when that was
        last done, or when it was leased. Those that are the caller's still; the others have been
        leased by somebody else since, or are done.
        """

    async def delivery_done(self, delivery_id: str, now: float, detail: str = "") -> None:
        """It arrived."""

    async def delivery_failed(
        self,
        delivery_id: str,
        next_at: float | None,
        error: str,
        leased_at: float | None = None,
    ) -> None:
        """It did not; the next try is at `next_at`, None: never again. `leased_at`: as for
        `renew_deliveries`; nothing is kept where somebody else has leased it since.
        """


class Deliveries:
    """The outbox in the database."""

    def __init__(self, database: Database, wall: Callable[[], float] = time.time) -> None:
        """`wall`: Unix seconds, for the audit trail."""
        self._database = database
        self._wall = wall
        sql = Sql(database.dialect)
        now = bindparam("now_ms", type_=BigInteger)
        this = outbox.c.id == bindparam("of_id", type_=Text)
        mine = outbox.c.leased_until_ms < bindparam("others_ms", type_=BigInteger)
        self._due = sql.locked(
            select(outbox)
            .where(
                outbox.c.done_ms.is_(None),
                outbox.c.next_ms <= now,
                outbox.c.leased_until_ms <= now,
                sql.among(outbox.c.kind, "kinds"),
            )
            .order_by(outbox.c.next_ms, outbox.c.id)
            .limit(bindparam("most")),
            skip=True,
        )
        self._lease = (
            update(outbox)
            .where(sql.among(outbox.c.id, "ids"))
            .values(leased_until_ms=bindparam("until_ms", type_=BigInteger))
        )
        self._renew = (
            update(outbox)
            .where(
                sql.among(outbox.c.id, "ids"),
                outbox.c.leased_until_ms == bindparam("before_ms", type_=BigInteger),
                outbox.c.done_ms.is_(None),
            )
            .values(leased_until_ms=bindparam("until_ms", type_=BigInteger))
            .returning(outbox.c.id)
        )
        self._one = sql.locked(
            select(outbox.c.question_id, outbox.c.kind).where(
                this, outbox.c.done_ms.is_(None), mine
            )
        )
        self._end = (
            update(outbox)
            .where(this)
            .values(
                attempts=outbox.c.attempts + 1,
                done_ms=bindparam("at_ms", type_=BigInteger),
                last_error=bindparam("error", type_=Text),
                leased_until_ms=0,
            )
        )
        self._later = (
            update(outbox)
            .where(this, outbox.c.done_ms.is_(None), mine)
            .values(
                attempts=outbox.c.attempts + 1,
                next_ms=bindparam("at_ms", type_=BigInteger),
                last_error=bindparam("error", type_=Text),
                leased_until_ms=0,
            )
        )

    def __repr__(self) -> str:
        return f"<Deliveries {self._database!r}>"

    async def due_deliveries(
        self,
        now: float,
        limit: int,
        *,
        lease_seconds: float = LEASE_SECONDS,
        kinds: Sequence[str] = (CALLBACK, FORWARD),
    ) -> list[Delivery]:
        """Those that are due, leased."""
        until_ms = _until_ms(now, lease_seconds)

        def work(connection: Connection) -> list[Delivery]:
            wanted = {"now_ms": int(now * 1000), "most": limit, "kinds": list(kinds)}
            found = [
                Delivery(
                    row.id,
                    row.question_id,
                    row.kind,
                    row.target,
                    bytes(row.payload),
                    row.attempts,
                    row.created_ms / 1000,
                )
                for row in connection.execute(self._due, wanted)
            ]
            if found:
                ids = [each.id for each in found]
                connection.execute(self._lease, {"ids": ids, "until_ms": until_ms})
            return found

        return await self._database.write(work)

    async def renew_deliveries(
        self, leased: Mapping[str, float], now: float, *, lease_seconds: float = LEASE_SECONDS
    ) -> set[str]:
        """Make leases longer, but for those that are somebody else's by now. The same
        `lease_seconds` as they were leased with.
        """
        rounds: dict[int, list[str]] = {}
        for delivery_id, at in leased.items():
            rounds.setdefault(_until_ms(at, lease_seconds), []).append(delivery_id)
        until_ms = _until_ms(now, lease_seconds)

        def work(connection: Connection) -> set[str]:
            return {
                row.id
                for before_ms, ids in rounds.items()
                for row in connection.execute(
                    self._renew, {"ids": ids, "before_ms": before_ms, "until_ms": until_ms}
                )
            }

        return await self._database.write(work)

    async def delivery_done(self, delivery_id: str, now: float, detail: str = "") -> None:
        """Keep that it arrived, once, and say so in the audit trail."""
        at_ms = int(now * 1000)
        await self._database.write(
            lambda it: self._finish(it, delivery_id, at_ms, detail, None, _NEVER_MS)
        )

    async def delivery_failed(
        self,
        delivery_id: str,
        next_at: float | None,
        error: str,
        leased_at: float | None = None,
    ) -> None:
        """Keep when to try again, or that nobody will, unless it is somebody else's by now."""
        error = error[:_MAX_ERROR_CHARACTERS]
        others_ms = _NEVER_MS if leased_at is None else _others_ms(leased_at)

        def work(connection: Connection) -> None:
            if next_at is None:
                at_ms = int(self._wall() * 1000)
                detail = f"given up: {error}"
                self._finish(connection, delivery_id, at_ms, detail, error, others_ms)
            else:
                row = {"of_id": delivery_id, "at_ms": int(next_at * 1000), "error": error}
                connection.execute(self._later, row | {"others_ms": others_ms})

        await self._database.write(work)

    def _finish(
        self,
        connection: Connection,
        delivery_id: str,
        at_ms: int,
        detail: str,
        error: str | None,
        others_ms: int,
    ) -> None:
        wanted = {"of_id": delivery_id, "others_ms": others_ms}
        row = connection.execute(self._one, wanted).one_or_none()
        if row is None:
            return
        connection.execute(self._end, {"of_id": delivery_id, "at_ms": at_ms, "error": error})
        entry = {
            "question_id": row.question_id,
            "at_ms": at_ms,
            "what": _DONE[row.kind],
            "who": "gateway",
            "detail": detail or None,
        }
        connection.execute(insert(audit), [entry])


def _until_ms(now: float, lease_seconds: float) -> int:
    """The end of a lease that begins now."""
    return int(now * 1000) + round(lease_seconds * 1000)


def _others_ms(leased_at: float) -> int:
    """The earliest end of a lease that another took after one of then was over: later than that of
    any by which who lives has renewed its own in time.
    """
    return _until_ms(leased_at, 2 * LEASE_SECONDS)
