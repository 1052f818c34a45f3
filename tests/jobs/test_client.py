"""Jobs against a real Temporal: starting, the same again, whose they are, steering."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import structlog

from gateway.jobs.owners import Owners
from gateway.jobs.refusals import JobRefusedError
from gateway.jobs.starting import registered
from gateway.jobs.status import MEMBERS
from gateway.policy.identity import Identity
from gateway.policy.payload_keys import PayloadKeys
from gateway.settings_jobs import WorkflowSettings
from tests.connection import eventually
from tests.jobs.desk import (
    ALICE,
    ASYNC,
    BOB,
    COLLEAGUE,
    ORCHESTRATION,
    REQUEST,
    SETTINGS,
    Desk,
    desk,
    key,
    listed,
    refusal,
    tenant,
    working,
)
from tests.temporal_server import PATIENCE_SECONDS, TemporalServer

# Starting


async def test_a_job_runs_and_its_status_has_every_member(room: Desk) -> None:
    operation_id = await room.started({"do": "complete", "result": {"n": 1}})
    assert operation_id.startswith(room.jobs._owners.tag(ALICE) + "-")
    body = (await room.ended(operation_id)).body
    assert tuple(body) == MEMBERS
    assert (body["operation_id"], body["workflow_type"]) == (operation_id, REQUEST)
    assert (body["status"], body["result"], body["error"]) == ("completed", {"n": 1}, None)
    assert body["progress"] == 1.0


async def test_every_start_without_a_key_is_a_job_of_its_own(room: Desk) -> None:
    one, two = await room.start(), await room.start()
    assert one.operation_id != two.operation_id
    assert not one.replayed
    assert not two.replayed


async def test_the_same_key_starts_one_job_however_many_ask_at_once(room: Desk) -> None:
    found = await asyncio.gather(*(room.start({"do": "wait"}, key="k") for _ in range(20)))
    assert len({each.operation_id for each in found}) == 1
    assert sorted(each.replayed for each in found) == [False] + [True] * 19
    await room.go(found[0].operation_id)
    await room.ended(found[0].operation_id)
    again = await room.start({"do": "wait"}, key="k")  # also when it is over
    assert (again.operation_id, again.replayed) == (found[0].operation_id, True)


async def test_the_same_key_with_another_body_is_422(room: Desk) -> None:
    await room.start({"n": 1}, key="k")
    with pytest.raises(JobRefusedError) as caught:
        await room.start({"n": 2}, key="k")
    assert refusal(caught)[0] == "UNPROCESSABLE"


async def test_keys_are_each_owners_and_each_routes(room: Desk) -> None:
    found = [
        await room.start(key="k"),
        await room.start(key="k", caller=BOB),
        await room.start(key="k", route="another"),
        await room.start(key="k2"),
    ]
    assert len({each.operation_id for each in found}) == 4
    colleague = replace(COLLEAGUE, scopes=frozenset({"jobs:write"}))
    assert (await room.start(key="k", caller=colleague)).replayed  # one tenant, one owner


async def test_after_a_rotation_a_key_still_finds_its_job(
    temporal: TemporalServer,
) -> None:
    async with desk(temporal) as room:
        mine = tenant("rotated")
        first = await room.start({"do": "complete"}, key="k", caller=mine)
        await room.ended(first.operation_id, mine)
        both = PayloadKeys(replace(SETTINGS, payload_keys=(key("k2", 2), key("k1", 1))))
        room.jobs._owners = Owners(both.derive(b"job owner"))
        again = await room.start({"do": "complete"}, key="k", caller=mine)
        assert (again.operation_id, again.replayed) == (first.operation_id, True)
        new = await room.start({"do": "complete"}, key="k new", caller=mine)
        assert new.operation_id[:16] == room.jobs._owners.tag(mine) != first.operation_id[:16]
        assert (await room.jobs.status(mine, first.operation_id)).status == "completed"
        found, _ = await listed(room, 2, mine)
        assert {each["operation_id"] for each in found} == {first.operation_id, new.operation_id}


async def test_the_workflow_is_told_who_started_it_and_where_services_are(room: Desk) -> None:
    members = {"service": "Demo-Service", "client_id": "alice", "headers": {"x-a": "b"}}
    operation_id = await room.started(
        None,
        ASYNC,
        members=members,
        request_id="r-1",
        correlation_id="c-1",
        spent=True,
        trace="00-1-2-01",
    )
    told = (await room.ended(operation_id)).body["result"]
    assert told["context"] == {
        "caller": {
            "subject": "alice",
            "tenant": "acme",
            "tier": "pro",
            "scopes": ["jobs:write"],
            "client_ids": [],
            "address": "192.0.2.1",
            "open_write": False,
            "agent": None,
        },
        "operation_id": operation_id,
        "workflow_type": ASYNC,
        "timeout_seconds": 300.0,
        "request_id": "r-1",
        "correlation_id": "c-1",
        "bases": {"demo": "/api/v1/demo"},
        "spent": True,
        "notify": "alice",
        "trace": "00-1-2-01",
    }
    assert told["input"]["service"] == "demo"


@pytest.mark.parametrize(
    ("caller", "notify"),
    [
        (ALICE, "alice"),
        (replace(ALICE, subject="no client id"), None),
        (Identity(open_read=True, open_write=True), None),
    ],
)
async def test_who_is_told_of_the_end_is_the_caller_where_that_is_a_client_id(
    room: Desk, caller: Identity, notify: str | None
) -> None:
    operation_id = await room.started(
        None, ASYNC, caller=caller, members={"service": "hidden", "body": None}
    )
    told = (await room.ended(operation_id, caller)).body["result"]["context"]
    assert told["notify"] == notify
    assert told["bases"] == {"hidden": ""}  # reached by rows only


async def test_queue_and_time_are_as_set_for_the_kind(room: Desk) -> None:
    async def described(**members: Any) -> Any:
        operation_id = await room.started(None, members=members)
        return await room.client.get_workflow_handle(operation_id).describe()

    def seconds(description: Any) -> float:
        info = description.raw_description.execution_config
        return float(info.workflow_execution_timeout.ToTimedelta().total_seconds())

    assert seconds(await described()) == 30 + 600
    assert seconds(await described(timeout_seconds=2)) == 2 + 600
    room.settings = replace(
        room.settings,
        workflows=(
            WorkflowSettings("async_request_workflow", "others", 5.0),
            WorkflowSettings(REQUEST, "elsewhere", 500.0),
        ),
    )
    found = await described()
    assert (found.task_queue, seconds(found)) == ("elsewhere", 30 + 600)  # never above its most
    room.settings = replace(room.settings, workflows=(WorkflowSettings(REQUEST),))
    assert (await described()).task_queue == room.settings.temporal_task_queue


async def test_a_large_input_is_read_beside_the_loop_and_refused_alike(room: Desk) -> None:
    steps = [{"id": f"s{n}", "service": "demo", "path": f"/{n}"} for n in range(300)]
    operation_id = await room.started(None, ORCHESTRATION, members={"steps": steps})
    assert (await room.ended(operation_id)).status == "completed"
    steps[299]["service"] = "nobody"
    with pytest.raises(JobRefusedError) as caught:
        await room.started(None, ORCHESTRATION, members={"steps": steps})
    assert caught.value.rejection.details[0][0] == "/steps/299/service"


async def test_only_who_may_tell_a_client_id_something_names_it(room: Desk) -> None:
    async def named(caller: Identity) -> None:
        await room.started(None, ASYNC, caller=caller, members={"client_id": "carol"})

    with pytest.raises(JobRefusedError) as caught:
        await named(ALICE)
    assert refusal(caught)[0] == "FORBIDDEN"
    await named(replace(ALICE, scopes=frozenset({"jobs:write", "events:write"})))
    await named(replace(ALICE, client_ids=frozenset({"carol"})))


async def test_a_callback_needs_a_secret_and_an_address_that_may_be_called(room: Desk) -> None:
    async def asked(url: str) -> str:
        with pytest.raises(JobRefusedError) as caught:
            await room.started(None, ASYNC, members={"callback_url": url})
        [(pointer, message)] = caught.value.rejection.details
        assert pointer == "/callback_url"
        return message

    assert "WEBHOOK_SECRET" in await asked("https://example.com/x")
    room.settings = replace(room.settings, webhook_secret=(b"x" * 32,))
    assert await asked("nonsense") == "Can't be called: it has no host."
    members = {"callback_url": "https://example.com/x"}
    assert await room.started(None, ASYNC, members=members)


def test_services_are_known_by_every_name() -> None:
    found = registered(SETTINGS)
    assert found["demo_service"] == found["demo"] == ("demo", "/api/v1/demo")
    assert found["hidden"] == ("hidden", "")


# Whose


async def test_anothers_job_is_not_there_whatever_is_asked(room: Desk) -> None:
    operation_id = await room.started({"do": "wait"})
    jobs = room.jobs
    assert (await jobs.status(COLLEAGUE, operation_id)).operation_id == operation_id
    assert jobs.owns(COLLEAGUE, operation_id)
    for stranger in (BOB, Identity(), Identity(subject="alice"), replace(ALICE, tenant="t:acme")):
        assert not jobs.owns(stranger, operation_id)
        for call in (
            jobs.status(stranger, operation_id),
            jobs.wait(stranger, operation_id, 1),
            jobs.history(stranger, operation_id),
            jobs.cancel(stranger, operation_id),
            jobs.terminate(stranger, operation_id),
            jobs.signal(stranger, operation_id, "pause", []),
            jobs.update(stranger, operation_id, "skip_step", ["a"]),
        ):
            with pytest.raises(JobRefusedError) as caught:
                await call
            assert refusal(caught)[0] == "NOT_FOUND"
    assert (await listed(room, 0, tenant("nobody")))[0] == []
    await room.go(operation_id)


async def test_ids_that_are_no_jobs_are_not_there(room: Desk) -> None:
    tag = room.jobs._owners.tag(ALICE)
    uuid = "019a8f10-6c1e-7b5d-9d2a-3f5b8c7e1a20"
    await room.client.start_workflow(
        "service_breaker_workflow",
        id=f"{tag}-{'0' * 32}",
        task_queue=room.settings.temporal_task_queue,
    )
    for operation_id in (
        f"{tag}-{uuid}",  # never started
        f"{tag}-{'0' * 32}",  # a workflow, but none that is a job
        f"{tag}-{uuid}-callback",
        f"{tag}-nonsense",
        f"{tag}-{uuid}\n",
        tag,
        "",
    ):
        for call in (room.jobs.status, room.jobs.history, room.jobs.cancel):
            with pytest.raises(JobRefusedError) as caught:
                await call(ALICE, operation_id)
            assert refusal(caught)[0] == "NOT_FOUND"


# Steering


async def test_a_cancelled_job_ends_as_it_sees_fit(room: Desk) -> None:
    operation_id = await room.started({"do": "wait"})
    await room.stands(operation_id, "running")
    await room.jobs.cancel(ALICE, operation_id)
    body = (await room.ended(operation_id)).body
    assert (body["status"], body["error"]["code"]) == ("cancelled", "CANCELLED")
    for call in (
        room.jobs.cancel(ALICE, operation_id),
        room.jobs.terminate(ALICE, operation_id),
        room.jobs.signal(ALICE, operation_id, "pause", []),
        room.jobs.update(ALICE, operation_id, "skip_step", ["a"]),
    ):
        with pytest.raises(JobRefusedError) as caught:
            await call
        assert refusal(caught)[0] in ("CONFLICT", "NOT_FOUND")


async def test_a_job_that_is_cancelled_before_it_begins_is_cancelled(unmanned: Desk) -> None:
    operation_id = await unmanned.started({"do": "wait"})
    await unmanned.jobs.cancel(ALICE, operation_id)
    async with working(unmanned.client, unmanned.settings.temporal_task_queue):
        assert (await unmanned.ended(operation_id)).status == "cancelled"


async def test_a_terminated_job_is_over_at_once_and_everybody_is_told(room: Desk) -> None:
    operation_id = await room.started({"do": "ask"})
    await room.stands(operation_id, "waiting")
    waiting = asyncio.create_task(room.jobs.wait(ALICE, operation_id, PATIENCE_SECONDS))
    await eventually(lambda: room.jobs._waiters.count == 1, "one who waits")
    with structlog.testing.capture_logs() as logged:
        ended = await room.jobs.terminate(ALICE, operation_id)
    body = ended.body
    assert (body["status"], body["error"]["code"]) == ("terminated", "TERMINATED")
    assert body["question"] is None
    assert body["steps"]
    found = await waiting
    assert found is not None
    assert found.data == ended.data
    assert room.jobs.terminated == {REQUEST: 1}
    assert room.withdrawn == ["q"]
    assert room.hub.published["job.cancelled"] == 1
    [line] = [each for each in logged if each["event"] == "workflow_event"]
    assert (line["operation_id"], line["status"]) == (operation_id, "terminated")
    room.jobs._looks._forget(operation_id)  # as another gateway finds it
    again = (await room.jobs.status(ALICE, operation_id)).body
    assert (again["status"], again["error"], again["question"]) == (
        "terminated",
        body["error"],
        None,
    )


async def test_a_terminated_job_is_over_also_where_nobody_can_be_told(room: Desk) -> None:
    operation_id = await room.started({"do": "ask"})
    await room.stands(operation_id, "waiting")
    room.away = True
    with structlog.testing.capture_logs() as logged:
        assert (await room.jobs.terminate(ALICE, operation_id)).status == "terminated"
    assert {"job_end_not_published", "question_not_withdrawn"} <= {each["event"] for each in logged}
    assert room.jobs.terminated == {REQUEST: 1}
    with pytest.raises(JobRefusedError):  # it is over: that counts once
        await room.jobs.terminate(ALICE, operation_id)
    assert room.jobs.terminated == {REQUEST: 1}


async def test_signals_and_updates_are_those_that_the_type_declares(room: Desk) -> None:
    operation_id = await room.started({"do": "wait"}, ORCHESTRATION)
    await room.stands(operation_id, "running")
    await room.jobs.signal(ALICE, operation_id, "pause", [])
    await room.stands(operation_id, "waiting")
    answered = await room.jobs.update(ALICE, operation_id, "skip_step", ["two"], "u-1")
    assert answered == {"skipped": "two"}
    for call, names in (
        (room.jobs.signal(ALICE, operation_id, "go", []), "pause, resume"),
        (room.jobs.update(ALICE, operation_id, "question_decided", [{}]), "skip_step"),
    ):
        with pytest.raises(JobRefusedError) as caught:
            await call
        code, message = refusal(caught)
        assert code == "NOT_FOUND"
        assert names in message
    for args in ([], [3], ["a b"], [{"id": 3}], [{"id": "a", "more": 1}], [["a"]]):
        with pytest.raises(JobRefusedError) as caught:
            await room.jobs.update(ALICE, operation_id, "skip_step", args)
        assert refusal(caught)[0] == "UNPROCESSABLE"
    answered = await room.jobs.update(ALICE, operation_id, "skip_step", [{"id": "three"}])
    assert answered == {"skipped": "three"}
    with pytest.raises(JobRefusedError) as caught:
        await room.jobs.signal(ALICE, operation_id, "resume", ["x"])
    assert refusal(caught)[0] == "UNPROCESSABLE"
    await room.jobs.signal(ALICE, operation_id, "resume", [{}])
    assert (await room.ended(operation_id)).status == "completed"
    short = await room.started({"do": "wait"})
    with pytest.raises(JobRefusedError) as caught:
        await room.jobs.signal(ALICE, short, "pause", [])
    assert "has none" in refusal(caught)[1]
    await room.go(short)


@pytest.mark.parametrize(
    ("step", "code", "says"),
    [
        ("bad", "UNPROCESSABLE", "no such step"),
        ("done", "CONFLICT", "is over"),
        ("never", "CONFLICT", "never is not skipped"),
    ],
)
async def test_what_a_job_says_against_an_update_is_told(
    room: Desk, step: str, code: str, says: str
) -> None:
    operation_id = await room.started({"do": "wait"}, ORCHESTRATION)
    await room.stands(operation_id, "running")
    with pytest.raises(JobRefusedError) as caught:
        await room.jobs.update(ALICE, operation_id, "skip_step", [step])
    told = refusal(caught)
    assert told[0] == code
    assert says in told[1]
    await room.go(operation_id)


async def test_an_update_that_no_worker_takes_is_503(
    unmanned: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.jobs.client.UPDATE_SECONDS", 0.2)
    operation_id = await unmanned.started({"do": "wait"}, ORCHESTRATION)
    with pytest.raises(JobRefusedError) as caught:
        await unmanned.jobs.update(ALICE, operation_id, "skip_step", ["a"])
    assert refusal(caught)[0] == "SERVICE_UNAVAILABLE"


async def test_a_job_that_ends_while_it_is_steered_is_409(room: Desk) -> None:
    operation_id = await room.started({"do": "complete"})
    await room.ended(operation_id)
    handle = room.client.get_workflow_handle(operation_id)
    with pytest.raises(JobRefusedError) as caught:  # as after the look, had it been earlier
        await room.jobs._steered(handle.signal("pause"))
    assert refusal(caught)[0] == "CONFLICT"


async def test_a_job_whose_worker_is_ill_is_told_as_temporal_knows_it(
    room: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.jobs.looking.TELL_SECONDS", 0.2)
    monkeypatch.setattr("gateway.jobs.client.UPDATE_SECONDS", 0.2)
    operation_id = await room.started({"do": "stuck"}, ORCHESTRATION)
    handle = room.client.get_workflow_handle(operation_id)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            if (await handle.describe()).history_length > 3:  # a task has failed
                break
            await asyncio.sleep(0.02)
    assert (await room.jobs.status(ALICE, operation_id)).status in ("pending", "running")
    with pytest.raises(JobRefusedError) as caught:
        await room.jobs.update(ALICE, operation_id, "skip_step", ["a"])
    assert refusal(caught)[0] == "SERVICE_UNAVAILABLE"
    await room.jobs.terminate(ALICE, operation_id)


async def test_what_was_sent_to_a_job_that_does_not_know_it_is_409(room: Desk) -> None:
    operation_id = await room.started({"do": "wait"}, ORCHESTRATION)
    await room.stands(operation_id, "running")
    with pytest.raises(JobRefusedError) as caught:
        await room.jobs._steered(room.client.get_workflow_handle("nobody").cancel())
    assert refusal(caught)[0] == "CONFLICT"
    await room.go(operation_id)
