"""A real Redis, gateways that lease from it, and a network between that can be slow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.policy.lease_link import LeaseTimes
from tests.policy.leased import HASTY, PATIENT, Gateway, Start
from tests.policy.leasing import Relay
from tests.redis_server import RedisServer, redis_server


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with redis_server() as started:
        yield started


@pytest.fixture
async def start(server: RedisServer) -> AsyncIterator[Start]:
    """Starts gateways."""
    started: list[Gateway] = []

    async def one(times: LeaseTimes = PATIENT, url: str = "", **options: Any) -> Gateway:
        gateway = Gateway(url or server.url, times, **options)
        started.append(gateway)
        await gateway.buckets.start()
        return gateway

    yield one
    for gateway in started:
        gateway.buckets._link._times = HASTY
        await gateway.buckets.close()


@pytest.fixture
async def relay(server: RedisServer) -> AsyncIterator[Relay]:
    made = Relay(server.port)
    await made.start()
    yield made
    await made.close()
