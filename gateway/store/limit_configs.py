"""Limits that are set while gateways run: `rate_limit_configs`, one row a tenant and pattern.

What a row means is decided by `policy`; here it is kept, and its change is told by a number that
all gateways look at (`policy_versions.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    Text,
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
)

from gateway.settings_patterns import PatternError, parse_pattern
from gateway.store.database import Database
from gateway.store.policy_versions import LIMITS, PolicyVersions
from gateway.store.sql import AnyRow, Sql
from gateway.store.tables import limit_configs
from gateway.store.texts import fitting, is_storable, most_characters

# All gateways hold all of them in memory: some 4 MB.
MAX_RULES: Final = 10_000
MAX_FIGURE: Final = 1_000_000_000  # fits the column
PAGE_ROWS: Final = 1000  # a few milliseconds of the loop's time with PostgreSQL
_KEY: Final = ["tenant", "pattern"]
_FIGURES: Final = ["requests_per_minute", "requests_per_hour", "requests_per_day"]
_CHANGED: Final = [*_FIGURES, "updated_ms", "updated_by"]
_columns = limit_configs.c


class TooManyRulesError(Exception):
    """The table is full; the text says so to whoever wanted one more."""


@dataclass(frozen=True, slots=True)
class StoredRule:
    """A limit. `tenant` is empty for every tenant, `pattern` for every path; a figure that is None
    limits nothing.

    `updated_by` is who set it; `updated_at` (Unix seconds) and `id` are the store's.
    """

    tenant: str
    pattern: str
    per_minute: int | None = None
    per_hour: int | None = None
    per_day: int | None = None
    updated_by: str | None = None
    updated_at: float = 0.0
    id: int = 0


class LimitConfigs:
    """The table. All raise StoreAwayError and StoreSlowError."""

    def __init__(
        self,
        database: Database,
        wall: Callable[[], float] = time.time,
        *,
        max_rules: int = MAX_RULES,
    ) -> None:
        """`wall`: Unix seconds."""
        self._database = database
        self._wall = wall
        self._max_rules = max_rules
        self.versions = PolicyVersions(database)
        sql = Sql(database.dialect)
        this = [_columns[name] == bindparam(f"of_{name}", type_=Text) for name in _KEY]
        count = select(func.count()).select_from(limit_configs).scalar_subquery()
        row = select(
            *(bindparam(f"of_{name}", type_=Text) for name in _KEY),
            *(bindparam(name, type_=Integer) for name in _FIGURES),
            bindparam("updated_ms", type_=BigInteger),
            bindparam("updated_by", type_=Text),
        ).where(or_(count < bindparam("most", type_=Integer), exists().where(*this)))
        new = sql.insert(limit_configs).from_select([*_KEY, *_CHANGED], row)
        came = {name: new.excluded[name] for name in _CHANGED}
        put = new.on_conflict_do_update(index_elements=_KEY, set_=came)
        self._put = put.returning(_columns.id)
        self._delete = delete(limit_configs).where(*this)
        self._page = (
            select(limit_configs)
            .where(_columns.id > bindparam("after", type_=BigInteger))
            .order_by(_columns.id)
            .limit(PAGE_ROWS)
        )

    def __repr__(self) -> str:
        return f"<LimitConfigs {self._database!r}>"

    async def all(self) -> list[StoredRule]:
        """All rules, the oldest first.

        What changes meanwhile may be in it or not; the number that is looked at grows by it.
        """
        rules: list[StoredRule] = []
        while True:
            after = rules[-1].id if rules else 0
            page = await self._database.read(partial(self._read, after))
            rules += page
            if len(page) < PAGE_ROWS:
                return rules

    async def put(self, rule: StoredRule) -> StoredRule:
        """Set a rule, in the place of one of the same tenant and pattern; it as it is kept.

        Raises TooManyRulesError, and ValueError for what the table can't hold.
        """
        _check(rule)
        updated_ms = int(self._wall() * 1000)
        updated_by = fitting(rule.updated_by, most_characters(_columns.updated_by))
        row = {
            "of_tenant": rule.tenant,
            "of_pattern": rule.pattern,
            "requests_per_minute": rule.per_minute,
            "requests_per_hour": rule.per_hour,
            "requests_per_day": rule.per_day,
            "updated_ms": updated_ms,
            "updated_by": updated_by,
            "most": self._max_rules,
        }

        def work(connection: Connection) -> int | None:
            found: int | None = connection.execute(self._put, row).scalar_one_or_none()
            if found is not None:
                self.versions.bump(connection, LIMITS)
            return found

        kept = await self._database.write(work)
        if kept is None:
            raise TooManyRulesError(f"there are {self._max_rules} limits already: delete one first")
        return replace(rule, id=kept, updated_at=updated_ms / 1000, updated_by=updated_by)

    async def delete(self, tenant: str, pattern: str) -> bool:
        """Take a rule away; whether there was one."""
        if not (is_storable(tenant, _columns.tenant) and is_storable(pattern, _columns.pattern)):
            return False

        def work(connection: Connection) -> bool:
            row = {"of_tenant": tenant, "of_pattern": pattern}
            gone = bool(connection.execute(self._delete, row).rowcount)
            if gone:
                self.versions.bump(connection, LIMITS)
            return gone

        return await self._database.write(work)

    def _read(self, after: int, connection: Connection) -> list[StoredRule]:
        return [_rule_of(row) for row in connection.execute(self._page, {"after": after})]


def _check(rule: StoredRule) -> None:
    for name, value in (("tenant", rule.tenant), ("pattern", rule.pattern)):
        if not is_storable(value, _columns[name]):
            most = most_characters(_columns[name])
            raise ValueError(f"{name}: expected text of at most {most} characters")
    if rule.pattern:
        try:
            parse_pattern(rule.pattern)
        except PatternError as error:
            raise ValueError(f"pattern: {error}") from None
    figures = [rule.per_minute, rule.per_hour, rule.per_day]
    if figures == [None, None, None]:
        raise ValueError("expected a figure per minute, per hour or per day")
    if any(figure is not None and not 0 < figure <= MAX_FIGURE for figure in figures):
        raise ValueError(f"expected figures from 1 to {MAX_FIGURE}")


def _rule_of(row: AnyRow) -> StoredRule:
    return StoredRule(
        row.tenant,
        row.pattern,
        row.requests_per_minute,
        row.requests_per_hour,
        row.requests_per_day,
        row.updated_by,
        row.updated_ms / 1000,
        row.id,
    )
