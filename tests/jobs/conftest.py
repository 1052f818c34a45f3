"""Rooms that many tests of jobs are in, over a real Temporal: jobs as the gateway has them, with a
worker and without, and orchestrations beside services whose answers a test scripts. A module whose
jobs are others has fixtures of its own by these names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.jobs.workflows.orchestration import Orchestration
from gateway.jobs.workflows.orchestration_part import OrchestrationPart
from tests.jobs.desk import Desk, desk
from tests.jobs.scripted_services import Jobs, Services, jobs_at
from tests.temporal_server import TemporalServer, temporal  # noqa: F401


@pytest.fixture
async def room(temporal: TemporalServer) -> AsyncIterator[Desk]:  # noqa: F811
    """With a worker."""
    async with desk(temporal) as found:
        yield found


@pytest.fixture
async def unmanned(temporal: TemporalServer) -> AsyncIterator[Desk]:  # noqa: F811
    """Without a worker."""
    async with desk(temporal, worker=False) as found:
        yield found


@pytest.fixture
def services() -> Services:
    """Those of a test."""
    return Services()


@pytest.fixture
async def jobs(
    temporal: TemporalServer,  # noqa: F811
    services: Services,
) -> AsyncIterator[Jobs]:
    """A worker for orchestrations and their parts."""
    workflows = (Orchestration, OrchestrationPart)
    async with jobs_at(
        await temporal.client(), temporal.new_queue(), services, workflows
    ) as running:
        yield running
