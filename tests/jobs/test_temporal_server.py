"""The development server of the tests: it is real, keeps what it is told to keep, and ends."""

from __future__ import annotations

import asyncio
import os

import pytest
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest

from gateway.jobs.types import OWNER_ATTRIBUTE, STATE_ATTRIBUTE
from tests import temporal_server as servers
from tests.temporal_server import TemporalServer, temporal, temporal_server  # noqa: F401 - a fixture


async def test_it_knows_the_search_attributes_of_the_gateway(temporal: TemporalServer) -> None:  # noqa: F811
    client = await temporal.client()
    answer = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace="default")
    )
    assert {OWNER_ATTRIBUTE, STATE_ATTRIBUTE} <= set(answer.custom_attributes)
    assert temporal.new_queue() != temporal.new_queue()


async def test_what_a_durable_one_was_told_is_there_after_a_sigkill() -> None:
    with temporal_server(durable=True) as server:
        client = await server.client()
        await client.start_workflow("kept", id="job-1", task_queue="nobody")
        before = server.address
        server.stop(kill=True)
        server.start()
        server.start()  # nothing happens
        assert server.address == before
        async with asyncio.timeout(30):
            described = await (await server.client()).get_workflow_handle("job-1").describe()
        assert described.workflow_type == "kept"
        assert f"pid {server.pid}" in repr(server)


async def test_a_held_one_answers_when_it_goes_on() -> None:
    with temporal_server() as server:
        client = await server.client()
        server.hang()
        starting = asyncio.ensure_future(
            client.start_workflow("held", id="job-2", task_queue="nobody")
        )
        server.resume()
        assert (await starting).id == "job-2"
        pid = server.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert "stopped" in repr(server)


def test_without_a_program_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_CLI", "/nowhere/temporal")
    with pytest.raises(servers.CannotStartError, match="TEMPORAL_CLI"):
        servers.program()
