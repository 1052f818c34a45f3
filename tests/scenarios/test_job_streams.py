"""The stream of a job: its status first, then what happens, and a clean end with the job's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from sse.prefaces import Prefaces
from tests.asking import Clock
from tests.connection import eventually
from tests.job_streams import (
    AWAY,
    KEYED,
    OPERATION,
    OTHER,
    READER,
    Desk,
    asks,
    at,
    get,
    job_gateway,
    progress,
    seat,
    status,
    tell,
    told,
    watch,
)
from tests.redis_server import redis_server
from tests.streams import post, raw_stream, refusal, split_id, subscribe, who
from tests.wire import RunningGateway, start_gateway

DONE = told("completed", 50, "completed", progress=1, result={"n": 1})


@pytest.mark.parametrize("prefix", ["/api/v1", "/api"])
async def test_a_stream_begins_with_the_status_goes_on_live_and_ends_with_the_job(
    prefix: str,
) -> None:
    async with job_gateway() as (gateway, desk), watch(gateway, prefix=prefix) as (stream, first):
        assert stream.established.data["client_id"] == f"job:{OPERATION}"
        assert stream.established.data["resumed"] is False
        assert first.data == status(10)
        ids = await tell(gateway, told("step", 11), *progress(12), DONE)
        got = await stream.rest()
        assert [event.id for event in got] == ids
        assert [event.type for event in got] == ["job.step", "job.progress", "job.completed"]
        assert got[-1].data == DONE["data"]
        assert desk.asked == [OPERATION]


@pytest.mark.parametrize("kind", ["completed", "failed", "cancelled"])
async def test_who_comes_back_after_the_end_is_told_that_there_is_no_more(kind: str) -> None:
    async with job_gateway() as (gateway, desk):
        async with watch(gateway) as (stream, first):
            await tell(gateway, told(kind, 20, kind))
            last = (await stream.rest())[-1]
        asked = len(desk.asked)
        for method in (b"GET", b"HEAD"):
            response = await asks(gateway, after=last.id, method=method)
            assert (response.status, response.body) == (204, b"")
        async with watch(gateway, after=first.id) as (stream, snapshot):
            assert stream.established.data["resumed"] is True
            assert snapshot.data["status"] == kind
            assert [event.id for event in await stream.rest()] == [last.id]
        assert len(desk.asked) == asked, "the job's last event says all"


async def test_a_job_that_is_long_over_is_told_and_the_stream_ends() -> None:
    async with job_gateway() as (gateway, desk):
        desk.says[OPERATION] = status(90, "completed", progress=1, result="x")
        async with watch(gateway) as (stream, snapshot):
            assert snapshot.data == desk.says[OPERATION]
            assert snapshot.id == f"{stream.established.data['epoch']}-0"
            assert await stream.rest() == []
        assert (await asks(gateway, after=snapshot.id)).status == 204
        assert desk.asked == [OPERATION]
        # Of another history: it can't know what happened since.
        async with raw_stream(gateway, get(after="abcdefgh-7")) as stream:
            got = await stream.rest()
        kinds = ["connection.established", "job.snapshot", "stream.reset"]
        assert [event.type for event in got] == kinds
        assert got[1].id is None
        assert got[2].data == {"reason": "epoch", "lost": None}
        assert (await asks(gateway, after=got[2].id)).status == 204


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled", "terminated", "timed_out"])
async def test_every_way_of_being_over_ends_the_stream(state: str) -> None:
    async with job_gateway() as (gateway, desk):
        desk.says[OPERATION] = status(90, state)
        async with watch(gateway) as (stream, _):
            assert await stream.rest() == []


async def test_what_was_missed_comes_behind_the_status_and_nothing_of_it_is_left_out() -> None:
    async with job_gateway() as (gateway, desk):
        ids = await tell(gateway, *progress(1, 2, 3))
        async with watch(gateway, after=ids[0]) as (stream, snapshot):
            assert stream.established.data["resumed"] is True
            assert snapshot.id is None, "it would take back what is still to come"
            assert snapshot.data == status(10)
            assert [event.id for event in await stream.events(2)] == ids[1:]
            late = await tell(gateway, *progress(4))
            assert [(await stream.event()).id] == late
        assert desk.asked == [OPERATION]


async def test_earliest_is_all_that_is_retained_behind_the_status() -> None:
    async with job_gateway() as (gateway, _):
        ids = await tell(gateway, *progress(1, 2, 3))
        async with watch(gateway, query="last_event_id=earliest") as (stream, snapshot):
            assert snapshot.id is None
            assert [event.id for event in await stream.events(3)] == ids


async def test_who_was_told_only_the_status_goes_on_from_there() -> None:
    async with job_gateway() as (gateway, _):
        await tell(gateway, *progress(1, 2))
        async with watch(gateway) as (_, snapshot):
            assert snapshot.id is not None
            assert split_id(snapshot.id)[1] == 2
        ids = await tell(gateway, *progress(11, 12))
        async with watch(gateway, after=snapshot.id) as (stream, _):
            assert [event.id for event in await stream.events(2)] == ids


async def test_what_happens_while_the_status_is_read_is_not_missed() -> None:
    async with job_gateway() as (gateway, desk):
        desk.open.clear()
        async with contextlib.AsyncExitStack() as stack:
            opening = asyncio.ensure_future(stack.enter_async_context(watch(gateway)))
            await eventually(lambda: desk.asked, "the read")
            ids = await tell(gateway, *progress(8, 10, 11))
            desk.open.set()
            stream, snapshot = await opening
            assert snapshot.data == status(10)
            assert split_id(snapshot.id or "")[1] == 0
            assert [event.id for event in await stream.events(2)] == ids[1:], "none is older"


async def test_a_status_that_took_so_long_that_events_are_forgotten_is_read_again() -> None:
    async with job_gateway(HISTORY_EVENTS=3) as (gateway, desk):
        desk.open.clear()
        async with contextlib.AsyncExitStack() as stack:
            opening = asyncio.ensure_future(stack.enter_async_context(watch(gateway)))
            await eventually(lambda: desk.asked, "the read")
            await tell(gateway, *progress(11, 12, 13, 14))
            desk.says[OPERATION] = status(14)
            desk.open.set()
            stream, snapshot = await opening
            assert snapshot.data == status(14)
            assert len(desk.asked) == 2
            ids = await tell(gateway, *progress(15))
            assert (await stream.event()).id == ids[0]


async def test_what_is_older_than_the_status_and_comes_late_is_not_shown() -> None:
    async with (
        job_gateway() as (gateway, _),
        watch(gateway) as (stream, snapshot),
        watch(gateway, after=snapshot.id) as (resumed, _),
    ):
        ids = await tell(gateway, *progress(8, 9), told("question", 10, question=None))
        more = await tell(gateway, {"event_type": "note", "data": 1}, *progress(11))
        assert [event.id for event in await stream.events(3)] == [ids[2], *more]
        assert [event.id for event in await resumed.events(5)] == [*ids, *more]


async def test_the_end_is_shown_whatever_its_time() -> None:
    async with job_gateway() as (gateway, _), watch(gateway) as (stream, _):
        await tell(gateway, told("failed", 3, "failed"))
        assert [event.type for event in await stream.rest()] == ["job.failed"]


async def test_a_stream_of_other_types_ends_with_the_job_all_the_same() -> None:
    async with (
        job_gateway() as (gateway, _),
        watch(gateway, query="types=job.step") as (stream, _),
        watch(gateway, query="types=job.*") as (wide, _),
    ):
        ids = await tell(gateway, told("step", 11), DONE)
        assert [event.id for event in await stream.rest()] == ids[:1]
        assert [event.id for event in await wide.rest()] == ids


async def test_many_watchers_cost_one_look() -> None:
    async with job_gateway(STREAMS_PER_ADDRESS=200) as (gateway, desk):
        desk.open.clear()
        async with contextlib.AsyncExitStack() as stack:

            async def one() -> object:
                return await stack.enter_async_context(watch(gateway))

            coming = [asyncio.ensure_future(one()) for _ in range(50)]
            await eventually(lambda: desk.asked, "the read")
            desk.open.set()
            await asyncio.gather(*coming)
            await asyncio.gather(*(one() for _ in range(50)))
            assert desk.asked == [OPERATION]
            await tell(gateway, *progress(11))
            desk.says[OPERATION] = status(11)
            async with watch(gateway) as (_, snapshot):
                assert snapshot.data["updated_at"] == at(11)
            assert desk.asked == [OPERATION] * 2


async def test_a_job_that_is_ended_from_outside_is_told_to_those_who_hear_nothing() -> None:
    async with job_gateway(HEARTBEAT_SECONDS=0.3) as (gateway, desk):
        clock = timed(gateway)
        async with watch(gateway) as (stream, _), watch(gateway) as (other, _):
            desk.says[OPERATION] = AWAY
            clock.now += 60
            await eventually(lambda: len(desk.asked) == 2, "a look at a silent job")
            desk.says[OPERATION] = status(90, "terminated")
            clock.now += 60
            for each in (stream, other):
                [last] = await each.rest()
                assert (last.type, last.data["status"]) == ("job.snapshot", "terminated")
        assert len(desk.asked) == 3


async def test_a_silent_job_that_runs_costs_one_look_a_minute() -> None:
    async with (
        job_gateway(HEARTBEAT_SECONDS=0.3) as (gateway, desk),
        watch(gateway) as (stream, _),
        watch(gateway) as (other, _),
    ):
        clock = timed(gateway)
        clock.now += 60
        for each in (stream, other, stream, other):
            assert (await each.event(heartbeats=True)).type == "heartbeat"
        assert len(desk.asked) == 2


async def test_a_job_that_is_begun_anew_does_not_end_its_streams() -> None:
    async with job_gateway() as (gateway, desk):
        await tell(gateway, DONE, told("started", 60))
        desk.says[OPERATION] = status(60)
        async with watch(gateway) as (stream, snapshot):
            assert snapshot.data["status"] == "running"
            ids = await tell(gateway, *progress(61))
            assert (await stream.event()).id == ids[0]


async def test_a_result_too_large_for_an_event_is_left_out_and_said_where_it_is() -> None:
    async with job_gateway() as (gateway, desk):
        desk.says[OPERATION] = status(9, "completed", result="x" * 70_000, steps=[{"id": "a"}])
        async with watch(gateway) as (_, snapshot):
            assert snapshot.data["result"] is None
            assert snapshot.data["result_url"] == f"/api/v1/workflows/{OPERATION}/result"
            assert snapshot.data["steps"] == [{"id": "a"}]
        many = [{"id": "x" * 64}] * 1000
        desk.says["acme-2"] = status(9, "completed", operation_id="acme-2", steps=many)
        async with watch(gateway, "acme-2") as (_, snapshot):
            assert snapshot.data["steps"] is None
            assert snapshot.data["status_url"] == "/api/v1/workflows/acme-2/status"


async def test_a_plain_stream_of_the_same_client_id_has_no_status_and_no_end() -> None:
    async with job_gateway() as (gateway, desk):
        operator = who("ops", "events:read")
        async with subscribe(gateway, f"job:{OPERATION}", operator) as stream:
            ids = await tell(gateway, DONE, *progress(51))
            assert [event.id for event in await stream.events(2)] == ids
        assert desk.asked == []


def timed(gateway: RunningGateway) -> Clock:
    """Have what is known of jobs grow old when the test says so."""
    door, clock = gateway.gateway._room.door, Clock()
    door.prefaces = Prefaces(door.hub, door._job_status, clock)
    return clock


# Who may


@pytest.mark.parametrize(
    ("operation_id", "fields", "code"),
    [
        (OPERATION, (b"X-Nothing: 1",), (401, "UNAUTHORIZED")),
        (OPERATION, (who("ann", tenant="acme"),), (403, "FORBIDDEN")),
        (OPERATION, (who("ann", "events:read", tenant="acme"),), (403, "FORBIDDEN")),
        (OPERATION, (who(None, "jobs:read"),), (403, "FORBIDDEN")),
        (OPERATION, (OTHER,), (404, "NOT_FOUND")),
        ("acme%2d%20x", (READER,), (404, "NOT_FOUND")),
        ("a" * 125, (READER,), (404, "NOT_FOUND")),
    ],
)
async def test_who_may_not_read_a_job_is_refused_before_anyone_asks_about_it(
    operation_id: str, fields: tuple[bytes, ...], code: tuple[int, str]
) -> None:
    async with job_gateway() as (gateway, desk):
        await tell(gateway, DONE)
        refusal(await asks(gateway, *fields, operation_id=operation_id), *code)
        assert desk.asked == []


async def test_anothers_job_reads_as_one_that_there_is_not() -> None:
    async with job_gateway() as (gateway, _):
        other = refusal(await asks(gateway, OTHER), 404, "NOT_FOUND")
        none = refusal(await asks(gateway, operation_id="acme-9"), 404, "NOT_FOUND")
        assert other["message"] == none["message"]


@pytest.mark.parametrize(
    "field",
    [
        who("ann", "jobs:write", tenant="acme"),
        who("page", client_ids=[f"job:{OPERATION}"], tenant="globex"),
        who(None, client_ids=[f"job:{OPERATION}"]),
    ],
)
async def test_writers_and_tokens_for_the_one_job_may_read_it(field: bytes) -> None:
    async with job_gateway() as (gateway, _), watch(gateway, OPERATION, field) as (_, snapshot):
        assert snapshot.data == status(10)


async def test_reading_is_open_where_there_is_no_key() -> None:
    desk = Desk()
    desk.says["None-1"] = status(10)
    async with start_gateway() as gateway:
        seat(gateway, desk)
        async with watch(gateway, "None-1", b"X-Nothing: 1") as (_, snapshot):
            assert snapshot.data == status(10)


async def test_a_ticket_opens_a_jobs_stream_and_its_cookie_the_next_ones() -> None:
    async with job_gateway() as (gateway, _):
        page = who("page", client_ids=[f"job:{OPERATION}"])
        asked = post(f"/api/v1/events/job:{OPERATION}/ticket", b"", page)
        ticket = (await gateway.ask(asked)).json()["ticket"]
        query = f"ticket={ticket}"
        async with watch(gateway, OPERATION, b"X-No: 1", query=query) as (stream, snapshot):
            cookie, *attributes = (stream.head.get("set-cookie") or b"").split(b"; ")
        assert b"Path=/api/v1/workflows/acme-1/stream" in attributes
        again = {"query": query, "after": snapshot.id}
        async with watch(gateway, OPERATION, b"Cookie: " + cookie, **again) as (stream, _):
            assert stream.established.data["resumed"] is True
        refusal(await asks(gateway, b"X-No: 1", query=query), 401, "AUTH_FAILED")
        other = await asks(gateway, b"Cookie: " + cookie, operation_id="acme-2")
        refusal(other, 401, "UNAUTHORIZED")


# Where it can't be


async def test_without_jobs_the_stream_says_what_to_set() -> None:
    async with start_gateway(**KEYED) as gateway:
        error = refusal(await asks(gateway), 503, "SERVICE_UNAVAILABLE")
        assert "TEMPORAL_ADDRESS" in error["message"]


async def test_a_status_that_is_not_to_be_had_now_is_503_with_a_time() -> None:
    async with job_gateway() as (gateway, desk):
        desk.says[OPERATION] = AWAY
        error = refusal(await asks(gateway), 503, "SERVICE_UNAVAILABLE")
        assert error["retry_after"] == 2
        refusal(await asks(gateway, after="abcdefgh-1", accept=None), 503, "SERVICE_UNAVAILABLE")
        desk.says[OPERATION] = status(10)
        async with watch(gateway) as (_, snapshot):
            assert snapshot.data == status(10)


@pytest.mark.parametrize("there", [True, False])
async def test_an_event_source_that_comes_back_too_early_is_told_to_come_again(there: bool) -> None:
    async with job_gateway() as (gateway, desk):
        desk.says[OPERATION] = AWAY
        if not there:
            door = gateway.gateway._room.door
            door.jobs, door.jobs_off = None, lambda: AWAY
        async with raw_stream(gateway, get(after="abcdefgh-1")) as stream:
            [closing] = await stream.rest()
        assert (closing.type, closing.data) == ("stream.closing", {"reason": "unavailable"})
        assert closing.retry is not None


async def test_a_mistake_of_ours_is_a_500_and_costs_one_request() -> None:
    async with job_gateway() as (gateway, desk):
        desk.says[OPERATION] = RuntimeError("a mistake")
        refusal(await asks(gateway), 500, "INTERNAL_ERROR")
        desk.says[OPERATION] = status(10)
        async with watch(gateway) as (_, snapshot):
            assert snapshot.data == status(10)


async def test_who_leaves_while_the_status_is_read_leaves_nothing_behind() -> None:
    async with job_gateway() as (gateway, desk):
        hub = gateway.gateway._room.hub
        desk.open.clear()
        async with gateway.connect() as client:
            client.send(get())
            await eventually(lambda: desk.asked, "the read")
            assert hub.channels.get(f"job:{OPERATION}").followers
        await gateway.records(1)
        desk.open.set()
        await eventually(lambda: not hub.channels.get(f"job:{OPERATION}").is_wanted, "left")
        assert hub.count == 0


async def test_a_job_has_a_bound_of_streams_of_its_own() -> None:
    async with job_gateway(STREAMS_PER_CLIENT=1, STREAMS_PER_JOB=2) as (gateway, desk):
        async with watch(gateway), watch(gateway):
            error = refusal(await asks(gateway), 429, "RATE_LIMITED")
            assert "client" in error["message"]
        assert desk.asked == [OPERATION]


async def test_a_head_is_answered_as_the_get_without_a_stream() -> None:
    async with job_gateway() as (gateway, _):
        response = await asks(gateway, method=b"HEAD")
        assert response.status == 200
        assert (response.get("content-type") or b"").startswith(b"text/event-stream")


async def test_the_record_tells_the_job_and_why_the_stream_ended() -> None:
    async with job_gateway() as (gateway, _):
        async with watch(gateway) as (stream, _):
            await tell(gateway, DONE)
            last = (await stream.rest())[-1]
        await asks(gateway, after=last.id)
        records = [each for each in await gateway.records(3) if each["method"] == "GET"]
        opened, ended = sorted(records, key=lambda each: -each["status"])[::-1]
        assert opened["route"] == ended["route"] == "/api/v1/workflows/{operation_id}/stream"
        assert (opened["operation_id"], opened["end_reason"]) == (OPERATION, "job_ended")
        assert (opened["events_sent"], opened["last_event_id"]) == (3, last.id)
        assert ended["status"] == 204


# Several gateways


@pytest.fixture
async def two() -> AsyncIterator[tuple[RunningGateway, RunningGateway, Desk]]:
    """Two gateways on one Redis."""
    async with redis_server() as redis, contextlib.AsyncExitStack() as stack:
        here, desk = await stack.enter_async_context(job_gateway(REDIS_URL=redis.url))
        there = await stack.enter_async_context(start_gateway(**KEYED, REDIS_URL=redis.url))
        seat(there, desk)
        yield here, there, desk


async def test_another_gateways_watchers_see_all_and_end(
    two: tuple[RunningGateway, RunningGateway, Desk],
) -> None:
    here, there, desk = two
    before = await tell(here, *progress(8, 9))
    async with watch(there) as (stream, snapshot), watch(there, after=before[0]) as (back, _):
        assert snapshot.id == before[-1]
        ids = await tell(here, *progress(11), DONE)
        assert [event.id for event in await stream.rest()] == ids
        assert [event.id for event in await back.rest()] == [before[1], *ids]
    assert (await asks(there, after=ids[-1])).status == 204
    assert (await asks(here, after=ids[-1])).status == 204
    assert len(desk.asked) == 1


async def test_who_follows_a_job_hears_of_its_end_from_another_gateway(
    two: tuple[RunningGateway, RunningGateway, Desk],
) -> None:
    here, there, _ = two
    hub = there.gateway._room.hub
    heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
    hub.job_ended = lambda operation_id, data: heard.put_nowait((operation_id, data))
    with hub.follow(f"job:{OPERATION}") as follower:
        await follower.known
        await tell(here, *progress(11), DONE)
        operation_id, data = await heard.get()
    assert operation_id == OPERATION
    assert b'"completed"' in data
    with hub.follow(f"job:{OPERATION}"):  # it is over already
        assert await heard.get() == (operation_id, data)
