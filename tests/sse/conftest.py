"""A real Redis that forgets, and one that keeps what it has when it is started again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.redis_server import RedisServer, redis_server


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with redis_server() as started:
        yield started


@pytest.fixture
async def lasting() -> AsyncIterator[RedisServer]:
    async with redis_server(appendonly=True) as started:
        yield started
