"""Tokens that were revoked before they expire: `revoked_tokens`, one row a token's id (`jti`).

Each row has the number of its change (`policy_versions.py`), so that a gateway reads only what is
new to it. An API key is revoked by its id, without an end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog
from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    bindparam,
    case,
    delete,
    select,
)

from gateway.store.database import Database
from gateway.store.policy_versions import REVOKED, PolicyVersions
from gateway.store.sql import Sql
from gateway.store.tables import revoked_tokens
from gateway.store.texts import fitting, is_storable, most_characters

# As many as a gateway holds in memory. Those above it are forgotten, those first that expire first.
MAX_REVOKED: Final = 100_000
PAGE_ROWS: Final = 1000  # a few milliseconds of the loop's time with PostgreSQL
SWEEP_ROWS: Final = 1000
# Who verifies tokens is lenient with their end by 30 s, and clocks of gateways differ.
LENIENT_MS: Final = 120_000
_FOREVER_MS: Final = 253_402_300_799_000  # the last second of the year 9999
_log = structlog.get_logger("gateway.store")
_columns = revoked_tokens.c


class RevokedTokens:
    """The table. All raise StoreAwayError and StoreSlowError."""

    def __init__(
        self,
        database: Database,
        wall: Callable[[], float] = time.time,
        *,
        max_revoked: int = MAX_REVOKED,
    ) -> None:
        """`wall`: Unix seconds."""
        self._database = database
        self._wall = wall
        self._max_revoked = max_revoked
        self.versions = PolicyVersions(database)
        sql = Sql(database.dialect)
        new = sql.insert(revoked_tokens)
        later = case(
            (new.excluded.expires_ms > _columns.expires_ms, new.excluded.expires_ms),
            else_=_columns.expires_ms,
        )
        self._revoke = new.on_conflict_do_update(
            index_elements=["jti"], set_={"expires_ms": later, "version": new.excluded.version}
        )
        now = bindparam("now_ms", type_=BigInteger)
        most = bindparam("most", type_=Integer)
        self._page = (
            select(_columns.jti, _columns.expires_ms, _columns.version)
            .where(
                _columns.version > bindparam("after", type_=BigInteger), _columns.expires_ms > now
            )
            .order_by(_columns.version)
            .limit(most)
        )
        old = select(_columns.jti).where(_columns.expires_ms <= now).order_by(_columns.expires_ms)
        # Nested, since Python counts no rows of a statement for SQLite that begins with WITH.
        expired = sql.locked(old.limit(most), skip=True).cte("old", nesting=True)
        self._sweep = delete(revoked_tokens).where(_columns.jti.in_(select(expired.c.jti)))
        above = (
            select(_columns.jti)
            .order_by(_columns.expires_ms.desc())
            .offset(bindparam("keep", type_=Integer))
            .limit(SWEEP_ROWS)
            .cte("above", nesting=True)
        )
        self._crop = delete(revoked_tokens).where(_columns.jti.in_(select(above.c.jti)))

    def __repr__(self) -> str:
        return f"<RevokedTokens {self._database!r}>"

    async def revoke(
        self, jti: str, expires_at: float | None, revoked_by: str | None = None
    ) -> None:
        """A token holds no more, until it expires (Unix seconds; None: never). Said again, the
        later end counts. Raises ValueError for an id that the table can't hold.
        """
        if not jti or not is_storable(jti, _columns.jti):
            raise ValueError(f"expected an id of 1 to {most_characters(_columns.jti)} characters")
        now_ms = int(self._wall() * 1000)
        row = {
            "jti": jti,
            "expires_ms": _FOREVER_MS if expires_at is None else _milliseconds(expires_at),
            "revoked_ms": now_ms,
            "revoked_by": fitting(revoked_by, most_characters(_columns.revoked_by)),
        }

        def work(connection: Connection) -> int:
            version = self.versions.bump(connection, REVOKED)
            connection.execute(self._revoke, row | {"version": version})
            return int(connection.execute(self._crop, {"keep": self._max_revoked}).rowcount)

        forgotten = await self._database.write(work)
        if forgotten:
            _log.warning("revoked.forgotten", tokens=forgotten, most=self._max_revoked)

    async def since(self, version: int) -> tuple[dict[str, float], int | None]:
        """Those that changed after a version, by their ids: when they expire (Unix seconds); at
        most 1,000. With them the version to go on from, None: that was all.
        """
        wanted = {"after": version, "now_ms": self._ended_ms(), "most": PAGE_ROWS}

        def work(connection: Connection) -> tuple[dict[str, float], int | None]:
            rows = connection.execute(self._page, wanted).all()
            more = rows[-1].version if len(rows) == PAGE_ROWS else None
            return {row.jti: row.expires_ms / 1000 for row in rows}, more

        return await self._database.read(work)

    async def current(self) -> dict[str, float]:
        """All that may not have expired for everyone."""
        revoked: dict[str, float] = {}
        version: int | None = 0
        while version is not None:
            page, version = await self.since(version)
            revoked |= page
        return revoked

    async def sweep(self) -> int:
        """Forget some of those that have expired; how many."""
        limits = {"now_ms": self._ended_ms(), "most": SWEEP_ROWS}
        return await self._database.write(lambda it: int(it.execute(self._sweep, limits).rowcount))

    def _ended_ms(self) -> int:
        """What expired by then holds nowhere any more."""
        return int(self._wall() * 1000) - LENIENT_MS


def _milliseconds(seconds: float) -> int:
    return int(max(0.0, min(seconds * 1000, _FOREVER_MS)))
