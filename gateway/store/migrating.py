"""Bringing the tables up to date, by Alembic, on a connection that holds a lock.

Most starts find them so: then Alembic, which takes 0.2 s to import, is not even loaded.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy import Connection, inspect, text

HEAD: Final = "0003"
_log = structlog.get_logger("gateway.store")
_MIGRATIONS: Final = Path(__file__).parent / "migrations"


def migrate(connection: Connection) -> None:
    """Make the tables, or change those of an older gateway. Raises ValueError for a newer one's."""
    version = _version(connection)
    if version == HEAD:
        return
    if version is not None and version > HEAD:
        raise ValueError(f"its tables are those of a newer gateway ({version})")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # each of its plugins says hello
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)
    _log.info("store.migrated", before=version, now=HEAD)


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    version = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return None if version is None else str(version)
