"""The stream of a job: its status first, then what happens, resumable, and an end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.job_streams import asks, get, watch
from tests.scenarios.job_calls import (
    ALICE,
    ASYNC,
    BODY_MEMBERS,
    GRAPH,
    PROCESS,
    assert_status_body,
    call,
    did,
    ended,
    path_of,
    stands,
    started,
    status,
    tell,
)
from tests.scenarios.job_house import House, Place, Reply
from tests.scenarios.test_tickets import cookie_of, ticket
from tests.streams import Event, bearer, post, raw_stream, refusal, sign, split_id, who

READER = who("carol", "jobs:read", tenant="acme")
EARLIEST = "last_event_id=earliest"
"""From the beginning: a job may have told something before its stream is open."""

PROGRESS = {"operation_id", "status", "progress", "current_step", "updated_at"}


def chain(place: Place, *names: str) -> dict[str, Any]:
    """Steps one after the other."""
    steps: list[dict[str, Any]] = []
    for name in names:
        before = {"depends_on": [steps[-1]["id"]]} if steps else {}
        steps.append({"id": name, **call(place(f"/{name}")), **before})
    return {"steps": steps}


def told(events: list[Event]) -> list[tuple[str, str]]:
    """The steps and their statuses as they were told."""
    steps = [event.data["step"] for event in events if event.type == "job.step"]
    return [(step["id"], step["status"]) for step in steps]


def assert_in_order(events: list[Event]) -> None:
    """One sequence without holes."""
    positions = [event.position for event in events]
    assert len({epoch for epoch, _ in positions}) == 1
    numbers = [number for _, number in positions]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@pytest.mark.parametrize("prefix", ["/api/v1", "/api"])
async def test_a_watcher_sees_the_status_then_all_that_happens_then_the_end(
    house: House, prefix: str
) -> None:
    place = house.place()
    held = place.hold("/a")
    operation_id = await started(house, GRAPH, chain(place, "a", "b"))
    place.until("/a")
    await stands(house, operation_id, lambda body: body["current_step"] == "a")
    async with watch(house.door, operation_id, READER, prefix=prefix) as (stream, first):
        assert stream.established.data["client_id"] == f"job:{operation_id}"
        assert_status_body(first.data)
        assert first.data["status"] == "running"
        held.set()
        events = await stream.rest()
    assert_in_order(events)
    assert told(events) == [
        ("a", "completed"),
        ("b", "running"),
        ("b", "completed"),
    ]
    for event in events[:-1]:
        assert set(event.data) >= PROGRESS, event
        assert event.data["operation_id"] == operation_id
    progress = [event.data["progress"] for event in events]
    assert progress == sorted(progress)
    last = events[-1]
    assert (last.type, set(last.data)) == ("job.completed", BODY_MEMBERS)
    assert last.data == await status(house, operation_id)


async def test_who_comes_back_gets_what_was_missed_and_after_the_end_nothing(
    house: House,
) -> None:
    place = house.place()
    held = place.hold("/a")
    operation_id = await started(house, GRAPH, chain(place, "a", "b", "c"))
    async with watch(house.door, operation_id, READER, query=EARLIEST) as (stream, _):
        seen = await stream.until("job.step")
    held.set()
    await ended(house, operation_id)
    after = seen[-1].id
    async with watch(house.door, operation_id, READER, after=after) as (stream, snapshot):
        assert stream.established.data["resumed"] is True
        assert snapshot.data["status"] == "completed"
        events = await stream.rest()
    assert_in_order([seen[-1], *events])
    assert events[-1].type == "job.completed"
    async with watch(house.door, operation_id, READER, query=EARLIEST) as (stream, _):
        everything = await stream.rest()
    assert everything[0].type == "job.started"
    assert everything[-len(events) :] == events
    for after in (events[-1].id, f"{events[-1].epoch}-{events[-1].seq}"):
        response = await asks(house.door, READER, operation_id=operation_id, after=after)
        assert (response.status, response.body) == (204, b"")


async def test_of_a_job_that_is_over_there_is_the_snapshot_and_the_end(house: House) -> None:
    place = house.place()
    body = await did(house, GRAPH, chain(place, "a"))
    async with watch(house.door, body["operation_id"], READER) as (stream, snapshot):
        assert snapshot.data == body
        assert await stream.rest() == []
    assert snapshot.id is not None
    split_id(snapshot.id)
    response = await asks(house.door, READER, operation_id=body["operation_id"], after=snapshot.id)
    assert response.status == 204


@pytest.mark.parametrize(
    ("how", "event_type"),
    [
        ("failed", "job.failed"),
        ("timed_out", "job.failed"),
        ("cancelled", "job.cancelled"),
        ("terminated", "job.cancelled"),
    ],
)
async def test_each_end_is_told_and_ends_the_stream(
    house: House, how: str, event_type: str
) -> None:
    place = house.place()
    held = place.hold("/a")
    place.on("/b", Reply({}, 404))
    given = chain(place, "a", "b")
    if how == "timed_out":
        given["timeout_seconds"] = 1
    operation_id = await started(house, GRAPH, given)
    async with watch(house.door, operation_id, READER, query=EARLIEST) as (stream, _):
        if how == "failed":
            held.set()
        elif how != "timed_out":  # which may come before the request
            place.until("/a")
            word = {"cancelled": "cancel", "terminated": "terminate"}[how]
            await tell(house, operation_id, word)
        last = (await stream.rest())[-1]
    assert (last.type, last.data["status"]) == (event_type, how)
    body = await ended(house, operation_id, how)
    assert last.data["error"] == body["error"]


async def test_many_watchers_see_the_same(house: House) -> None:
    place = house.place()
    held = place.hold("/a")
    operation_id = await started(house, GRAPH, chain(place, "a", "b"))
    place.until("/a")
    await stands(house, operation_id, lambda body: body["current_step"] == "a")
    ready = asyncio.Barrier(25)

    async def watches() -> list[bytes]:
        async with watch(house.door, operation_id, READER) as (stream, _):
            await ready.wait()
            return [event.raw for event in await stream.rest()]

    async def lets_go() -> None:
        await ready.wait()
        held.set()

    *seen, _ = await asyncio.gather(*(watches() for _ in range(24)), lets_go())
    assert len(seen[0] or []) >= 4
    assert all(each == seen[0] for each in seen)


async def test_a_result_too_large_for_an_event_is_left_out_and_its_place_told(
    house: House,
) -> None:
    place = house.place()
    place.on("/a", Reply({"text": "x" * 40_000}))
    held = place.hold("/b")
    operation_id = await started(house, GRAPH, chain(place, "a", "b"))
    async with watch(house.door, operation_id, READER) as (stream, _):
        held.set()
        last = (await stream.rest())[-1]
    assert (last.type, last.data["status"]) == ("job.completed", "completed")
    assert last.data.get("result") is None
    assert last.data["result_url"] == path_of(operation_id, "result")
    body = await ended(house, operation_id)
    assert len(body["result"]["data"]["a"]["text"]) == 40_000


async def test_only_the_types_that_were_asked_for_come(house: House) -> None:
    place = house.place()
    held = place.hold("/a")
    operation_id = await started(house, GRAPH, chain(place, "a", "b"))
    async with watch(house.door, operation_id, READER, query="types=job.completed") as (stream, _):
        held.set()
        assert [event.type for event in await stream.rest()] == ["job.completed"]


async def test_an_id_of_another_history_is_told_by_a_reset(house: House) -> None:
    place = house.place()
    held = place.hold("/a")
    operation_id = await started(house, GRAPH, chain(place, "a"))
    place.until("/a")
    data = get(operation_id, READER, after="abcdefgh-3")
    async with raw_stream(house.door, data) as stream:
        assert (await stream.event()).data["resumed"] is False
        got = [await stream.event(), await stream.event()]
        assert {event.type for event in got} == {"stream.reset", "job.snapshot"}
        held.set()
        assert (await stream.rest())[-1].type == "job.completed"


async def test_a_client_that_takes_no_streams_is_refused(house: House) -> None:
    place = house.place()
    body = await did(house, ASYNC, call(place("/a")))
    given = {"operation_id": body["operation_id"], "accept": b"Accept: application/json"}
    refusal(await asks(house.door, READER, **given), 406, "NOT_ACCEPTABLE")


async def test_a_page_gets_in_by_a_ticket_and_stays_in_by_its_cookie(house: House) -> None:
    place = house.place()
    held = place.hold("/a")
    operation_id = await started(house, GRAPH, chain(place, "a", "b"))
    found = await ticket(house.door, f"job:{operation_id}", ALICE)
    data = get(operation_id, b"X-A: b", query=f"ticket={found}")
    async with raw_stream(house.door, data) as stream:
        await stream.event()
        assert (await stream.event()).type == "job.snapshot"
        cookie, attributes = cookie_of(stream.head)
        assert attributes["path"].endswith(f"/workflows/{operation_id}/stream")
        assert attributes["samesite"].lower() == "strict"
        assert "httponly" in attributes
    held.set()
    await ended(house, operation_id)
    again = get(operation_id, cookie, query=f"ticket={found}")
    async with raw_stream(house.door, again) as stream:
        assert "job.snapshot" in [event.type for event in await stream.rest()]
    refusal(await house.door.ask(data), 401, ("AUTH_FAILED"))


async def test_a_ticket_is_good_for_its_job_alone(house: House) -> None:
    place = house.place()
    place.hold("/a")
    mine = await started(house, GRAPH, chain(place, "a"))
    other = await started(house, GRAPH, chain(place, "a"))
    found = await ticket(house.door, f"job:{mine}", READER)
    response = await house.door.ask(get(other, b"X-A: b", query=f"ticket={found}"))
    assert response.status in (401, 403, 404), response.start
    stranger = who("mallory", "jobs:write", tenant="globex")
    path = f"/api/v1/events/job:{mine}/ticket"
    assert (await house.door.ask(post(path, b"", stranger))).status in (403, 404)
    for each in (mine, other):
        await tell(house, each, "terminate")


async def test_a_token_in_the_address_is_refused(house: House) -> None:
    place = house.place()
    body = await did(house, ASYNC, call(place("/a")))
    token = sign("carol", "jobs:read", tenant="acme")
    for query in (f"access_token={token}", f"token={token}", f"ticket={token}"):
        response = await house.door.ask(get(body["operation_id"], b"X-A: b", query=query))
        assert response.status == 401, query
    refusal(await house.door.ask(get(body["operation_id"], bearer("x"))), 401, "AUTH_FAILED")


async def test_nobody_but_a_worker_tells_events_of_a_job(house: House) -> None:
    place = house.place()
    place.hold("/a")
    operation_id = await started(house, GRAPH, chain(place, "a"))
    path = f"/api/v1/events/job:{operation_id}"
    event = {"event_type": "job.completed", "data": {"operation_id": operation_id}}
    writer = who("mallory", "events:write", "jobs:write", "admin")
    refusal(await house.door.ask(post(path, event, writer)), 422, "UNPROCESSABLE")
    assert (await status(house, operation_id))["status"] in ("pending", "running")
    await tell(house, operation_id, "terminate")


async def test_a_subject_that_is_named_like_a_job_reads_none(house: House) -> None:
    place = house.place()
    place.hold("/a")
    operation_id = await started(house, GRAPH, chain(place, "a"))
    mallory = who(f"job:{operation_id}", "jobs:read", tenant="globex")
    refusal(await house.door.ask(get(operation_id, mallory)), 404, "NOT_FOUND")
    await tell(house, operation_id, "terminate")


async def test_progress_and_waiting_are_told(house: House) -> None:
    given = {"steps": [{"id": "one", "value": 1}, {"id": "q", "ask": {"prompt": "Well?"}}]}
    operation_id = await started(house, PROCESS, given)
    async with watch(house.door, operation_id, READER, query=EARLIEST) as (stream, _):
        asked = (await stream.until("job.question"))[-1]
        assert set(asked.data["question"]) == {"question_id", "prompt", "step", "expires_at"}
        assert (asked.data["status"], asked.data["question"]["step"]) == ("waiting", "q")
        await tell(house, operation_id, "cancel")
        rest = await stream.rest()
    assert rest[-1].type == "job.cancelled"
    assert rest[-1].data["question"] is None
