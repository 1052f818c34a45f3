"""Fixtures for every test: asynchronous tests run on uvloop, as the gateway does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest
import structlog
import uvloop
from hypothesis import settings

# How long an example takes is no property of the code on a busy machine.
settings.register_profile("gateway", deadline=None)
settings.load_profile("gateway")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The one loop that tests run on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _log_lines_are_captured() -> Iterator[None]:
    """A gateway that a test left half built must not take the log lines of the tests behind it."""
    yield
    structlog.reset_defaults()
