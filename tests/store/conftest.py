"""Every test of the store runs on both databases, each time on an empty one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.asking import Asker, Clock, Place
from tests.postgres_server import PostgresServer, postgres

__all__ = ["postgres"]


@pytest.fixture(params=["sqlite", "postgresql"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where an empty database is."""
    if request.param == "sqlite":
        return Place(None, tmp_path)
    server: PostgresServer = request.getfixturevalue("postgres")
    return Place(await server.database(), tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def asker(clock: Clock) -> Asker:
    return Asker(clock)
