"""Looking at jobs over a real Temporal: how they stand, who waits, and what is kept."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from gateway.jobs.calls import Calls
from gateway.jobs.codec import PayloadError
from gateway.jobs.looking import JobLooks
from gateway.jobs.refusals import JobRefusedError
from gateway.jobs.status import MEMBERS, JobStatus
from sse.event import NewEvent
from sse.question_store import StoreAwayError, StoreSlowError
from tests.connection import eventually
from tests.jobs.desk import (
    ALICE,
    Desk,
    refusal,
    working,
)
from tests.temporal_server import PATIENCE_SECONDS

# How it stands


async def test_a_running_job_is_told_as_its_tracker_tells_it(room: Desk) -> None:
    operation_id = await room.started({"do": "ask"})
    body = (await room.stands(operation_id, "waiting")).body
    assert body["question"]["prompt"] == "Well?"
    assert body["steps"] == [{"id": "one", "status": "running", "attempts": 1}]
    assert body["ended_at"] is None
    await room.go(operation_id)
    assert (await room.ended(operation_id)).status == "completed"


async def test_without_a_worker_a_job_is_pending(unmanned: Desk) -> None:
    operation_id = await unmanned.started()
    body = (await unmanned.jobs.status(ALICE, operation_id)).body
    assert (body["status"], body["progress"], body["steps"]) == ("pending", None, None)
    assert body["started_at"] == body["updated_at"]
    assert await unmanned.jobs.wait(ALICE, operation_id, 0.05) is None
    assert unmanned.jobs.state["state"] == "healthy"


async def test_when_its_worker_is_gone_a_job_is_told_as_far_as_temporal_knows(
    unmanned: Desk,
) -> None:
    async with working(unmanned.client, unmanned.settings.temporal_task_queue):
        operation_id = await unmanned.started({"do": "ask"})
        ended_id = await unmanned.started({"do": "complete", "result": "r"})
        failed_id = await unmanned.started({"do": "fail"})
        await unmanned.stands(operation_id, "waiting")
        for each in (ended_id, failed_id):
            await unmanned.client.get_workflow_handle(each).describe()
            await eventually_closed(unmanned, each)
    body = (await unmanned.jobs.status(ALICE, operation_id)).body
    assert (body["status"], body["progress"], body["steps"]) == ("waiting", None, None)
    assert operation_id in unmanned.jobs._looks._silent
    await unmanned.jobs.status(ALICE, operation_id)  # it is not asked again for a while
    body = (await unmanned.jobs.status(ALICE, ended_id)).body
    assert (body["status"], body["result"], body["progress"]) == ("completed", "r", 1.0)
    body = (await unmanned.jobs.status(ALICE, failed_id)).body
    assert (body["status"], body["error"]["code"]) == ("failed", "EXTERNAL")
    assert body["error"]["details"] == {"compensations": [{"step": "one", "status": "done"}]}


async def eventually_closed(room: Desk, operation_id: str) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        await room.jobs._looks.closed(operation_id)


async def test_a_job_that_its_tracker_tells_as_ended_is_ended(room: Desk) -> None:
    operation_id = await room.started({"do": "linger"})
    found = await room.stands(operation_id, "completed")
    assert found.body["result"] == "early"
    with pytest.raises(JobRefusedError) as caught:
        await room.jobs.cancel(ALICE, operation_id)
    assert refusal(caught)[0] == "CONFLICT"
    await room.go(operation_id)


@pytest.mark.parametrize(
    ("what", "status", "code"),
    [
        ({"do": "fail"}, "failed", "EXTERNAL"),
        ({"do": "fail", "code": "TIMED_OUT"}, "timed_out", "TIMED_OUT"),
        ({"do": "fail", "silent": True}, "failed", "INTERNAL"),
    ],
)
async def test_how_a_job_failed_is_told(
    room: Desk, what: dict[str, Any], status: str, code: str
) -> None:
    operation_id = await room.started(what)
    body = (await room.ended(operation_id)).body
    assert (body["status"], body["error"]["code"]) == (status, code)
    assert body["result"] is None
    assert body["ended_at"]


async def test_thousands_who_ask_at_once_cost_one_look(room: Desk) -> None:
    operation_id = await room.started({"do": "ask"})
    await room.stands(operation_id, "waiting")
    looks = 0
    see = room.jobs._looks.see

    async def counted(*args: Any, **more: Any) -> Any:
        nonlocal looks
        looks += 1
        return await see(*args, **more)

    room.jobs._looks.see = counted  # type: ignore[method-assign]
    found = await asyncio.gather(*(room.jobs.snapshot(operation_id) for _ in range(2000)))
    assert looks == 1
    assert len(set(found)) == 1
    assert orjson.loads(found[0])["status"] == "waiting"
    await room.go(operation_id)
    await room.ended(operation_id)
    looks = 0
    assert (await room.jobs.status(ALICE, operation_id)).ended
    assert looks == 0  # what is over changes no more


async def test_who_leaves_while_others_look_takes_nothing_from_them(room: Desk) -> None:
    operation_id = await room.started({"do": "wait"})
    one = asyncio.create_task(room.jobs.status(ALICE, operation_id))
    two = asyncio.create_task(room.jobs.status(ALICE, operation_id))
    await asyncio.sleep(0)
    one.cancel()
    assert (await two).operation_id == operation_id
    await asyncio.gather(one, return_exceptions=True)
    await room.go(operation_id)


async def test_a_look_that_nobody_waits_for_any_more_fails_unheard(room: Desk) -> None:
    missing = room.jobs._owners.tag(ALICE) + "-" + "1" * 32
    asking = asyncio.create_task(room.jobs.status(ALICE, missing))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await eventually(lambda: not room.jobs._looks._looking, "the end of the look")


# Waiting


async def test_the_event_of_the_end_wakes_who_waits_and_tells_all(room: Desk) -> None:
    operation_id = await room.started({"do": "wait"})
    waiting = [
        asyncio.create_task(room.jobs.wait(ALICE, operation_id, PATIENCE_SECONDS))
        for _ in range(50)
    ]
    await eventually(lambda: room.jobs._waiters.count == 50, "fifty who wait")
    body = dict.fromkeys(MEMBERS) | {"operation_id": operation_id, "status": "completed"}
    body |= {"result": "told by the event"}
    room.hub.publish(f"job:{operation_id}", [NewEvent("job.completed", orjson.dumps(body))])
    for found in await asyncio.gather(*waiting):
        assert found is not None
        assert found.body["result"] == "told by the event"
    assert room.jobs._waiters.count == 0
    assert not room.hub.channels.get(f"job:{operation_id}").followers
    await room.go(operation_id)


async def test_an_event_without_its_result_makes_who_waits_look(room: Desk) -> None:
    operation_id = await room.started({"do": "linger"})
    await room.stands(operation_id, "completed")
    room.jobs._looks._forget(operation_id)
    waiting = asyncio.create_task(room.jobs.wait(ALICE, operation_id, PATIENCE_SECONDS))
    await eventually(lambda: room.jobs._waiters.count == 1, "one who waits")
    body = dict.fromkeys(MEMBERS) | {"operation_id": operation_id, "status": "completed"}
    room.jobs.ended(operation_id, orjson.dumps(body | {"result_url": "/somewhere"}))
    found = await waiting
    assert found is not None
    assert found.body["result"] == "early"
    await room.go(operation_id)


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense",
        b"[]",
        b'{"operation_id": "another", "status": "completed"}',
        b'{"operation_id": "x", "status": "running"}',
        b'{"operation_id": "x", "status": "who knows"}',
        None,
    ],
)
async def test_events_that_tell_no_end_are_not_kept(room: Desk, data: bytes | None) -> None:
    room.jobs.ended("x", data)
    assert room.jobs._looks.kept("x") is None


async def test_without_the_event_who_waits_is_told_by_temporal(room: Desk) -> None:
    operation_id = await room.started({"do": "wait"})
    waiting = asyncio.create_task(room.jobs.wait(ALICE, operation_id, PATIENCE_SECONDS))
    await eventually(lambda: bool(room.jobs._waiters._polls), "the poll")
    await room.go(operation_id)
    found = await waiting
    assert found is not None
    assert found.status == "completed"


async def test_who_waits_is_let_go_at_a_drain(room: Desk) -> None:
    operation_id = await room.started({"do": "wait"})
    waiting = asyncio.create_task(room.jobs.wait(ALICE, operation_id, 3600))
    await eventually(lambda: room.jobs._waiters.count == 1, "one who waits")
    room.jobs.drain()
    assert await waiting is None
    assert await room.jobs.wait(ALICE, operation_id, 3600) is None
    await room.go(operation_id)


# What is kept


def ended_status(operation_id: str, size: int = 0) -> JobStatus:
    body = dict.fromkeys(MEMBERS) | {"operation_id": operation_id, "status": "completed"}
    return JobStatus.of(body | {"result": "x" * size})


async def test_what_is_kept_is_bounded_in_number_and_size(
    room: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = room.jobs._looks
    monkeypatch.setattr("gateway.jobs.looking.MOST_KEPT", 3)
    for name in "abc":
        looks.keep(ended_status(name))
    looks.kept("a")
    looks.keep(ended_status("d"))
    assert [name for name in "abcd" if looks.kept(name)] == ["a", "c", "d"]
    looks.keep(ended_status("a"))
    monkeypatch.setattr("gateway.jobs.looking.MOST_KEPT_BYTES", 2000)
    looks.keep(ended_status("e", 1500))
    assert looks.kept("e")
    assert looks._kept_bytes <= 2000
    looks.keep(ended_status("f", 3000))
    assert (len(looks._kept), looks._kept_bytes) == (0, 0)


async def test_what_is_known_in_part_is_kept_for_a_while(room: Desk) -> None:
    now = 0.0
    looks = JobLooks(room.client, Calls(), lambda: now)
    looks.keep(ended_status("a"), 10.0)
    assert looks.kept("a")
    now = 10.0
    assert looks.kept("a") is None


async def test_jobs_that_did_not_answer_are_remembered_up_to_a_bound(
    unmanned: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.jobs.looking.MOST_SILENT", 1)
    monkeypatch.setattr("gateway.jobs.looking.TELL_SECONDS", 0.0)
    looks = unmanned.jobs._looks
    for name in "ab":
        assert await looks._tell(unmanned.client.get_workflow_handle(name)) is None
    assert list(looks._silent) == ["b"]


async def test_looks_under_way_end_with_the_gateway(room: Desk) -> None:
    operation_id = await room.started({"do": "wait"})
    looking = asyncio.create_task(room.jobs.status(ALICE, operation_id))
    await asyncio.sleep(0)
    await room.jobs.close()
    with pytest.raises(asyncio.CancelledError):
        await looking
    await room.go(operation_id)


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (StoreAwayError("x"), "database"),
        (StoreSlowError("x"), "database"),
        (PayloadError("there is no payload key 'k'"), "no payload key"),
    ],
)
async def test_what_can_not_be_read_now_is_503(raised: Exception, says: str) -> None:
    calls = Calls()
    with pytest.raises(JobRefusedError) as caught:
        async with calls.bounded():
            raise raised
    assert refusal(caught)[0] == "SERVICE_UNAVAILABLE"
    assert says in refusal(caught)[1]
    assert calls.state == {"state": "healthy"}  # of Temporal


def test_it_shows_its_state(room: Desk) -> None:
    assert repr(room.jobs).startswith("<Jobs <Calls well> <JobLooks kept=0 looking=0> <JobWaiters")


def test_an_ended_status_is_bytes_and_no_more() -> None:
    status = JobStatus.of(dict.fromkeys(MEMBERS) | {"operation_id": "x", "status": "failed"})
    assert status.ended
