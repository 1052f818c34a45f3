"""What can be asked of a job that runs: to end, to wait, to leave a step out; and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.connection import holds
from tests.scenarios.job_calls import (
    ALICE,
    API,
    ASYNC,
    GRAPH,
    LIST,
    PROCESS,
    accepted,
    body_of,
    call,
    did,
    ended,
    fetch,
    path_of,
    stands,
    started,
    starts,
    steps_of,
    tell,
)
from tests.scenarios.job_house import House, Place, Reply
from tests.streams import post, refusal


def row(place: Place, *names: str, **more: Any) -> dict[str, Any]:
    """Steps one after the other, each with what undoes it."""
    steps: list[dict[str, Any]] = []
    for name in names:
        undo = call(place(f"/{name}"), "DELETE")
        step = {"id": name, **call(place(f"/{name}"), "POST"), "compensation": undo}
        steps.append(step | {"depends_on": [steps[-1]["id"]]} if steps else step)
    return {"steps": steps} | more


@pytest.mark.parametrize("kind", [API, ASYNC])
async def test_a_job_that_is_cancelled_ends(house: House, kind: str) -> None:
    place = house.place()
    place.hold("/a")
    operation_id = await started(house, kind, call(place("/a")))
    place.until("/a")
    assert accepted(await tell(house, operation_id, "cancel")) == operation_id
    body = await ended(house, operation_id, "cancelled")
    assert body["error"]["code"] == "CANCELLED"


async def test_what_was_done_is_undone_in_reverse_when_a_job_is_cancelled(house: House) -> None:
    place = house.place()
    place.hold("/c")
    operation_id = await started(house, GRAPH, row(place, "a", "b", "c"))
    place.until("/c")
    assert (await tell(house, operation_id, "cancel")).status == 202
    again = await tell(house, operation_id, "cancel")
    assert again.status in (202, 409)
    body = await ended(house, operation_id, "cancelled")
    undone = [each for each in place.paths() if each.startswith("DELETE")]
    assert undone[-2:] == ["DELETE /b", "DELETE /a"]
    steps = steps_of(body)
    assert (steps["a"], steps["b"]) == ("compensated", "compensated")


async def test_what_is_terminated_ends_at_once_and_nothing_is_undone(house: House) -> None:
    place = house.place()
    place.hold("/b")
    operation_id = await started(house, GRAPH, row(place, "a", "b"))
    place.until("/b")
    body = body_of(await tell(house, operation_id, "terminate"))
    assert (body["operation_id"], body["status"]) == (operation_id, "terminated")
    assert await ended(house, operation_id, "terminated") == body
    await holds(lambda: "DELETE /a" not in place.paths(), 0.5)


async def test_what_has_ended_takes_nothing_any_more(house: House) -> None:
    place = house.place()
    body = await did(house, GRAPH, row(place, "a"))
    operation_id = body["operation_id"]
    for what in ("cancel", "terminate", "signal/pause", "signal/resume"):
        error = refusal(await tell(house, operation_id, what), 409, "CONFLICT", extra=("status",))
        assert error["status"] == "completed"
    response = await tell(house, operation_id, "update/skip_step", {"id": "a"})
    refusal(response, 409, "CONFLICT", extra=("status",))
    assert await ended(house, operation_id) == body
    assert place.paths() == ["POST /a"]


@pytest.mark.parametrize("kind", [GRAPH, PROCESS])
async def test_a_job_that_is_paused_starts_no_step_until_it_is_resumed(
    house: House, kind: str
) -> None:
    place = house.place()
    held = place.hold("/a")
    given = row(place, "a", "b")
    if kind == PROCESS:
        names = ("a", "b")
        given = {"steps": [{"id": each, "request": call(place(f"/{each}"))} for each in names]}
    operation_id = await started(house, kind, given)
    place.until("/a")
    assert accepted(await tell(house, operation_id, "signal/pause")) == operation_id
    held.set()
    await stands(house, operation_id, lambda body: steps_of(body)["a"] == "completed")
    await holds(lambda: not place.seen("/b"), 0.7)
    assert (await tell(house, operation_id, "signal/resume")).status == 202
    body = await ended(house, operation_id)
    assert steps_of(body) == {"a": "completed", "b": "completed"}
    assert len(place.seen("/b")) == 1


async def test_a_paused_job_can_be_cancelled(house: House) -> None:
    place = house.place()
    held = place.hold("/a")
    operation_id = await started(house, GRAPH, row(place, "a", "b"))
    place.until("/a")
    await tell(house, operation_id, "signal/pause")
    held.set()
    await stands(house, operation_id, lambda body: steps_of(body)["a"] == "completed")
    assert (await tell(house, operation_id, "cancel")).status == 202
    await ended(house, operation_id, "cancelled")
    assert place.paths() == ["POST /a", "DELETE /a"]


@pytest.mark.parametrize("kind", [GRAPH, PROCESS])
async def test_a_step_that_has_not_begun_can_be_left_out(house: House, kind: str) -> None:
    place = house.place()
    held = place.hold("/a")
    given = row(place, "a", "b", "c")
    if kind == PROCESS:
        names = ("a", "b", "c")
        given = {"steps": [{"id": each, "request": call(place(f"/{each}"))} for each in names]}
    operation_id = await started(house, kind, given)
    place.until("/a")
    response = await tell(house, operation_id, "update/skip_step", {"id": "b"})
    assert response.status == 200, response.body
    assert set(response.json()) == {"operation_id", "result"}
    assert response.json()["operation_id"] == operation_id
    held.set()
    body = await ended(house, operation_id)
    assert steps_of(body) == {"a": "completed", "b": "skipped", "c": "completed"}
    assert place.seen("/b") == []


async def test_a_step_that_runs_or_is_none_can_not_be_left_out(house: House) -> None:
    place = house.place()
    held = place.hold("/b")
    operation_id = await started(house, GRAPH, row(place, "a", "b", "c"))
    place.until("/b")
    for step, status in (("a", 409), ("b", 409), ("nobody", 404)):
        response = await tell(house, operation_id, "update/skip_step", {"id": step})
        assert response.status == status, (step, response.body)
        assert "ecod" not in response.json()["error"]["message"], response.body
    held.set()
    assert set(steps_of(await ended(house, operation_id)).values()) == {"completed"}


@pytest.mark.parametrize("given", [{}, {"step": "b"}, {"id": 7}, 3, None, [], "b" * 70_000])
async def test_an_argument_that_does_not_fit_changes_nothing(house: House, given: Any) -> None:
    place = house.place()
    held = place.hold("/a")
    operation_id = await started(house, GRAPH, row(place, "a", "b"))
    place.until("/a")
    response = await tell(house, operation_id, "update/skip_step", given)
    assert response.status in (413, 422), response.body
    held.set()
    assert set(steps_of(await ended(house, operation_id)).values()) == {"completed"}


async def test_an_approval_can_not_be_left_out(house: House) -> None:
    given = {
        "steps": [
            {"id": "w", "wait_seconds": 60},
            {"id": "ok", "ask": {"prompt": "?", "options": ["yes", "no"]}},
        ]
    }
    operation_id = await started(house, PROCESS, given)
    await stands(house, operation_id, lambda body: body["current_step"] == "w")
    response = await tell(house, operation_id, "update/skip_step", {"id": "ok"})
    assert response.status in (409, 422), response.body
    await tell(house, operation_id, "terminate")


async def test_only_what_a_kind_declares_public_can_be_called(house: House) -> None:
    place = house.place()
    held = place.hold("/a")
    operation_id = await started(house, GRAPH, row(place, "a"))
    place.until("/a")
    names = ["signal/stop", "signal/skip_step", "signal/question_decided", "signal/__stack_trace"]
    names += ["update/question_decided", "update/pause", "update/status", "update/nothing"]
    for what in names:
        refusal(await tell(house, operation_id, what, {"id": "a"}), 404, "NOT_FOUND")
    held.set()
    await ended(house, operation_id)


async def test_a_kind_without_steps_has_no_step_to_leave_out(house: House) -> None:
    place = house.place()
    held = place.hold("/a")
    operation_id = await started(house, ASYNC, call(place("/a")))
    place.until("/a")
    for what in ("signal/pause", "signal/resume", "update/skip_step"):
        response = await tell(house, operation_id, what, {"id": "request"})
        refusal(response, 404, "NOT_FOUND")
    held.set()
    await ended(house, operation_id)


async def test_what_is_told_must_be_json_and_posted(house: House) -> None:
    place = house.place()
    held = place.hold("/a")
    operation_id = await started(house, GRAPH, row(place, "a"))
    place.until("/a")
    for what in ("signal/pause", "update/skip_step"):
        refusal(await tell(house, operation_id, what, b"{"), 400, "BAD_REQUEST")
    for what in ("cancel", "terminate", "signal/pause", "update/skip_step"):
        response = await fetch(house.door, path_of(operation_id, what), ALICE)
        refusal(response, 405, "METHOD_NOT_ALLOWED")
    held.set()
    await ended(house, operation_id)


async def test_commands_work_under_the_short_prefix_as_well(house: House) -> None:
    place = house.place()
    place.hold("/a")
    operation_id = await started(house, GRAPH, row(place, "a"))
    place.until("/a")
    for what in ("signal/pause", "cancel"):
        path = f"/api/workflows/{operation_id}/{what}"
        assert (await house.door.ask(post(path, b"", ALICE))).status == 202
    await ended(house, operation_id, "cancelled")


async def test_a_cancelled_start_can_be_had_again_under_its_key(house: House) -> None:
    place = house.place()
    place.hold("/a")
    key = b"Idempotency-Key: " + place.prefix.encode()
    operation_id = await started(house, ASYNC, call(place("/a")), key)
    place.until("/a")
    await tell(house, operation_id, "cancel")
    body = await ended(house, operation_id, "cancelled")
    again = await starts(house, ASYNC, call(place("/a")), key)
    assert again.json()["operation_id"] == operation_id
    assert body == body_of(await fetch(house.door, f"{LIST}/{operation_id}/status", ALICE))
    assert len(place.seen("/a")) == 1


async def test_an_undoing_that_fails_is_told(house: House) -> None:
    place = house.place()
    place.on("/a", Reply({}), Reply({"no": 1}, 409))
    place.on("/c", Reply({}, 422))
    body = await did(house, GRAPH, row(place, "a", "b", "c"), expected="failed")
    steps = steps_of(body)
    assert steps == {"a": "compensation_failed", "b": "compensated", "c": "failed"}
    assert (body["error"]["step"], body["error"]["status"]) == ("c", 422)
    told = body["error"]["details"]["compensations"]
    assert [each["step"] for each in told] == ["b", "a"], told
