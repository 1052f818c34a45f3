"""Jobs while Temporal is away or a worker is, and decisions that reach them then."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from temporalio.client import WorkflowUpdateFailedError
from temporalio.service import RPCError

from gateway.jobs.refusals import JobRefusedError
from tests.connection import eventually
from tests.jobs.desk import (
    ALICE,
    SETTINGS,
    Desk,
    desk,
    refusal,
)
from tests.temporal_server import PATIENCE_SECONDS, TemporalServer, temporal_server

# Decisions about its questions


def decided(question_id: str, response: Any = "yes") -> dict[str, Any]:
    return {
        "question_id": question_id,
        "status": "answered",
        "response": response,
        "answered_by": "bob",
        "answered_at": None,
        "expires_at": None,
    }


async def test_a_decision_reaches_its_job_once(room: Desk) -> None:
    operation_id = await room.started({"do": "ask"})
    await room.stands(operation_id, "waiting")
    for _ in range(3):
        assert await room.jobs.tell(operation_id, decided("q"))
    told = await room.client.get_workflow_handle(operation_id).query("status")
    assert told["decisions"] == ["q"]
    with pytest.raises(WorkflowUpdateFailedError):  # told again later
        await room.jobs.tell(operation_id, decided("r", "refuse"))
    assert not await room.jobs.tell(operation_id, decided("s", "never answered"))
    await room.ended(operation_id)
    assert not await room.jobs.tell(operation_id, decided("t"))
    assert not await room.jobs.tell(operation_id[:-4] + "0000", decided("q"))


async def test_a_decision_that_can_not_be_told_now_is_told_again_later() -> None:
    with temporal_server() as server:
        async with desk(server, worker=False) as room:
            operation_id = await room.started()
            server.stop(kill=True)
            with pytest.raises(RPCError):
                await room.jobs.tell(operation_id, decided("q"))


# Temporal away


async def test_while_temporal_is_away_jobs_are_503_and_nothing_is_lost() -> None:
    with temporal_server(durable=True) as server:
        async with desk(server, worker=False) as room:
            operation_id = await room.started({"do": "wait"})
            server.stop(kill=True)
            refused = await asyncio.gather(
                room.jobs.status(ALICE, operation_id),
                room.start(key="k"),
                room.jobs.page(ALICE),
                room.jobs.history(ALICE, operation_id),
                room.jobs.cancel(ALICE, operation_id),
                return_exceptions=True,
            )
            for each in refused:
                assert isinstance(each, JobRefusedError), each
                assert each.rejection.code == "SERVICE_UNAVAILABLE"
                assert each.rejection.retry_after_seconds
            assert {"error"} <= set(room.jobs.state)
            assert str(room.jobs.state["state"]) == "degraded"
            await asyncio.to_thread(server.start)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    try:
                        found = await room.jobs.status(ALICE, operation_id)
                        break
                    except JobRefusedError:
                        await asyncio.sleep(0.05)
            assert found.status == "pending"
            assert str(room.jobs.state["state"]) == "healthy"


async def test_a_temporal_that_is_not_set_up_for_jobs_says_what_it_lacks(
    temporal: TemporalServer,
) -> None:
    settings = replace(SETTINGS, temporal_namespace="nowhere")
    async with desk(temporal, worker=False, settings=settings) as room:
        for call in (room.start(), room.jobs.page(ALICE)):
            with pytest.raises(JobRefusedError) as caught:
                await call
            code, message = refusal(caught)
            assert code == "SERVICE_UNAVAILABLE"
            assert "GatewayOwner" in message
            assert caught.value.rejection.retry_after_seconds


async def test_a_temporal_that_hangs_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with temporal_server() as server:
        async with desk(server, worker=False) as room:
            operation_id = await room.started({"do": "wait"})
            bounded = room.jobs._calls.bounded
            monkeypatch.setattr(room.jobs._calls, "bounded", lambda *_: bounded(0.2))
            server.hang()
            with pytest.raises(JobRefusedError) as caught:
                await room.jobs.status(ALICE, operation_id)
            assert refusal(caught)[0] == "SERVICE_UNAVAILABLE"
            assert room.jobs.state["error"] == "no answer in time"
            server.resume()


async def test_who_waits_while_temporal_restarts_is_told_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.jobs.waiting.AGAIN_SECONDS", 0.05)
    with temporal_server(durable=True) as server:
        async with desk(server) as room:
            operation_id = await room.started({"do": "wait"})
            await room.stands(operation_id, "running")
            waiting = asyncio.create_task(room.jobs.wait(ALICE, operation_id, 60))
            await eventually(lambda: bool(room.jobs._waiters._polls), "the poll")
            server.stop(kill=True)
            await asyncio.to_thread(server.start)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    try:
                        await room.go(operation_id)
                        break
                    except Exception:
                        await asyncio.sleep(0.05)
            found = await waiting
            assert found is not None
            assert found.status == "completed"
