"""The control application with a gateway behind it that a test can change."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from gateway.control.app import build_app
from gateway.control.state import ControlState
from gateway.observe.metrics import Metrics
from gateway.policy.tickets import Tickets
from gateway.settings import Settings
from sse.questions import Questions
from tests.control.administering import Administered, Site

# As the edge sends it for a client on this machine, without a proxy between.
LOCAL = {"X-Gateway-Client": "127.0.0.1", "X-Gateway-Direct": "1"}

HEALTHY: dict[str, object] = {
    "name": "demo",
    "state": "healthy",
    "breaker": {"state": "closed", "forced": False, "requests": 1, "failed": 0},
    "endpoints": [
        {
            "url": "http://127.0.0.1:9000",
            "state": "healthy",
            "weight": 1,
            "outstanding": 0,
            "idle": 1,
            "active": 0,
            "waiting": 0,
            "latency_ms": 0.5,
            "last_error": None,
        }
    ],
}

Client = TestClient[web.Request, web.Application]
Connect = Callable[[web.Application], Awaitable[Client]]


@dataclass
class Running:
    """What the application is told of the gateway."""

    readiness: str = "ready"
    services: list[dict[str, object]] = field(default_factory=lambda: [HEALTHY])
    dependencies: dict[str, dict[str, object]] = field(default_factory=dict)
    state: ControlState = field(init=False)

    def __post_init__(self) -> None:
        self.state = ControlState(
            settings=Settings(),
            metrics=Metrics("1.2.3"),
            ready=lambda: self.readiness,
            services=lambda: self.services,
            started_wall=time.time() - 5,
            tickets=Tickets(),
            questions=cast(Questions, None),  # the paths of questions have an application of theirs
            dependencies=lambda: self.dependencies,
        )


@pytest.fixture
def running() -> Running:
    return Running()


@pytest.fixture
async def client(running: Running, aiohttp_client: Connect) -> Client:
    return await aiohttp_client(build_app(running.state))


@pytest.fixture
async def site(running: Running, aiohttp_client: Connect, tmp_path: Path) -> AsyncIterator[Site]:
    parts = Administered(tmp_path)
    await parts.database.open()
    running.state.desk = parts.desk
    yield Site(await aiohttp_client(build_app(running.state)), parts)
    await parts.database.close()
