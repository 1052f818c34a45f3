"""What scenarios share: the house for jobs, started once in a process, when a test asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.scenarios.job_house import House, job_house
from tests.temporal_server import CannotStartError, temporal_server


@pytest.fixture(scope="session")
def house() -> Iterator[House]:
    """A gateway, its worker, Temporal and services; skipped where there is no Temporal."""
    try:
        server = temporal_server()
        started = server.__enter__()
    except CannotStartError as error:
        pytest.skip(f"no Temporal here: {error}")
    try:
        with job_house(started.address, started.new_queue()) as made:
            yield made
    finally:
        server.__exit__(None, None, None)
