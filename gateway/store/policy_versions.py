"""A number for each kind of policy that the database holds, which grows with every change of it.

So that many gateways may ask every other second whether anything changed, and read two small rows.
It grows in the transaction of the change, whose row lock puts changes in an order: who has read a
number has seen, or will be given, all that came with numbers up to it.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Connection, Text, bindparam, literal_column, select

from gateway.store.database import Database
from gateway.store.sql import Sql
from gateway.store.tables import policy_versions

LIMITS: Final = "limits"
REVOKED: Final = "revoked"


class PolicyVersions:
    """The numbers; 0 before the first change."""

    def __init__(self, database: Database) -> None:
        self._database = database
        first = (
            Sql(database.dialect)
            .insert(policy_versions)
            .values(name=bindparam("of_name", type_=Text), version=literal_column("1", BigInteger))
        )
        self._bump = first.on_conflict_do_update(
            index_elements=["name"], set_={"version": policy_versions.c.version + 1}
        ).returning(policy_versions.c.version)
        self._all = select(policy_versions.c.name, policy_versions.c.version)

    def __repr__(self) -> str:
        return f"<PolicyVersions {self._database!r}>"

    def bump(self, connection: Connection, name: str) -> int:
        """Note a change in the transaction that makes it; the new number."""
        return int(connection.execute(self._bump, {"of_name": name}).scalar_one())

    async def current(self) -> dict[str, int]:
        """All of them. Raises StoreAwayError, StoreSlowError."""

        def work(connection: Connection) -> dict[str, int]:
            return {row.name: row.version for row in connection.execute(self._all)}

        return await self._database.read(work)
