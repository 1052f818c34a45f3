"""Jobs survive: workers, gateways and Temporal are killed in the middle of them, and what was done
is neither lost nor done twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import job_streams
from tests.messages import Message
from tests.questions import answer, listed, look, recorded, what
from tests.scenarios.job_calls import (
    ALICE,
    API,
    ASYNC,
    GRAPH,
    LIST,
    PROCESS,
    SWITCH,
    call,
    fetch,
    last_status,
    path_of,
    stands,
    started,
    starts,
    status,
    steps_of,
    tell,
)
from tests.scenarios.mortal_house import (
    CannotStartError,
    MortalHouse,
    Place,
    Reply,
    kill,
    mortal_house,
)
from tests.streams import Event, gather_all, refusal, who

LONG_SECONDS = 50.0
"""What is lost with a worker is noticed after ten seconds, in two places one after the other."""


@pytest.fixture(scope="module")
def standing() -> Iterator[MortalHouse]:
    """The house of these tests, started once."""
    try:
        with mortal_house() as made:
            made.start_gateway()
            yield made
    except CannotStartError as error:
        pytest.skip(f"no Temporal here: {error}")


@pytest.fixture
def house(standing: MortalHouse) -> Iterator[MortalHouse]:
    """With a gateway, and no worker yet."""
    if standing.gateway.process.poll() is not None:
        standing.start_gateway()
    yield standing
    for worker in standing.workers:
        kill(worker)


def stood(name: str, how: str) -> Callable[[dict[str, Any]], bool]:
    """Whether a step stands so."""
    return lambda body: steps_of(body)[name] == how


async def over(
    house: MortalHouse, operation_id: str, expected: str = "completed", caller: bytes = ALICE
) -> dict[str, Any]:
    """The status body when the job is over, as expected, however long a lost worker takes."""
    end = time.monotonic() + LONG_SECONDS
    path = path_of(operation_id, "result?wait=5")
    while (response := await fetch(house.door, path, caller)).status != (
        200 if expected == "completed" else 409
    ):
        assert response.status in (202, 503), response.body
        assert time.monotonic() < end, (await status(house, operation_id, caller), house.logs())
    return await last_status(house, operation_id, caller)


def step(place: Place, name: str, *after: str, **members: Any) -> dict[str, Any]:
    """A step that orders something, and what undoes it; it says what those before it got."""
    body = {"after": [{"$result": f"/{each}/number"} for each in after]}
    undo = call(place(f"/undo/{name}"), "DELETE")
    request = call(place(f"/{name}"), "POST", body=body)
    return {"id": name, "depends_on": list(after), "compensation": undo} | request | members


def answers(place: Place, *names: str) -> None:
    """What the services say to each of these steps; `number` is added by them."""
    for name in names:
        place.on(f"/{name}", Reply({"name": name}))


FIVE = ("order", "left", "right", "both", "last")


def five(place: Place) -> dict[str, Any]:
    """One, two beside each other, and two behind them."""
    answers(place, *FIVE)
    steps = [
        step(place, "order"),
        step(place, "left", "order"),
        step(place, "right", "order"),
        step(place, "both", "left", "right"),
        step(place, "last", "both"),
    ]
    return {"steps": steps, "output": {"last": {"$result": "/last"}}}


def assert_each_key_once(place: Place, operation_id: str) -> Counter[str]:
    """Every request had the key of its step, which the same request alone came with again. How
    often each came.
    """
    by_key: dict[str, set[tuple[str, str, bytes]]] = {}
    for seen in place.seen():
        key = seen.headers["idempotency-key"]
        name = seen.path[len(place.prefix) + 1 :]
        undone = name.removeprefix("undo/")
        assert key == f"{operation_id}:{undone}" + (":undo" if undone != name else "")
        by_key.setdefault(key, set()).add((seen.method, seen.path, seen.body))
    assert all(len(requests) == 1 for requests in by_key.values()), by_key
    return Counter(seen.path[len(place.prefix) + 1 :] for seen in place.seen())


def story(events: list[Event]) -> list[str]:
    """What a stream told, in words; and each event once, none left out."""
    ids = [each.id for each in events]
    assert len(set(ids)) == len(ids)
    assert [each.seq for each in events] == list(range(events[0].seq, events[0].seq + len(events)))
    assert len({each.envelope["id"] for each in events}) == len(events)
    times = [each.data["updated_at"] for each in events]
    assert times == sorted(times)
    return [
        f"{each.data['step']['id']} {each.data['step']['status']}"
        if each.type == "job.step"
        else each.type
        for each in events
    ]


def assert_told_once(told: list[str], *steps: str) -> None:
    """The beginning, each step's beginning and end in this order, and the end."""
    assert (told[0], told[-1]) == ("job.started", "job.completed")
    assert sorted(each for each in told if " " in each) == sorted(
        f"{name} {how}" for name in steps for how in ("running", "completed")
    )
    for name in steps:
        assert told.index(f"{name} running") < told.index(f"{name} completed")


async def test_an_orchestration_goes_on_in_another_worker_when_its_own_is_killed(
    house: MortalHouse,
) -> None:
    place = house.place()
    given = five(place)
    held = place.hold("/right", {"name": "right"})
    first = house.start_worker()
    operation_id = await started(house, GRAPH, given)
    async with job_streams.watch(house.door, operation_id, ALICE) as (stream, _):
        place.until("/right")
        await stands(house, operation_id, stood("left", "completed"))
        house.start_worker()
        kill(first)
        held.set()
        body = await over(house, operation_id)
        told = story(await stream.rest())
    assert steps_of(body) == dict.fromkeys(FIVE, "completed")
    assert body["result"]["data"]["last"]["name"] == "last"
    counts = assert_each_key_once(place, operation_id)
    assert counts == {"order": 1, "left": 1, "right": 2, "both": 1, "last": 1}
    assert_told_once(told, *FIVE)


async def test_what_was_done_and_not_heard_of_is_asked_for_again_by_its_key(
    house: MortalHouse,
) -> None:
    place = house.place()
    given = five(place)
    first = house.start_worker(by_passage=True)
    killed = house.passage.watch(f"{place.prefix}/both".encode(), lambda: kill(first))
    operation_id = await started(house, GRAPH, given)
    async with job_streams.watch(house.door, operation_id, ALICE) as (stream, _):
        assert await house.happens(killed)
        house.start_worker()
        body = await over(house, operation_id)
        story(await stream.rest())
    counts = assert_each_key_once(place, operation_id)
    assert counts == {"order": 1, "left": 1, "right": 1, "both": 2, "last": 1}
    # The second answer was the first one's: what comes after it refers to the same thing.
    assert place.seen("/last")[0].json() == {"after": [place.number("/both")]}
    assert body["result"]["data"]["last"]["number"] == place.number("/both") + 1


@pytest.mark.parametrize("meanwhile", [False, True], ids=["nothing-else", "something-else"])
async def test_no_event_is_lost_when_a_worker_dies_between_telling_it_and_keeping_that(
    house: MortalHouse, meanwhile: bool
) -> None:
    place = house.place()
    given = five(place)
    held = place.hold("/right", {"name": "right"})
    first = house.start_worker(by_passage=True)
    killed = house.passage.watch(b'"id":"left","status":"completed"', lambda: kill(first))
    operation_id = await started(house, GRAPH, given)
    async with job_streams.watch(house.door, operation_id, ALICE) as (stream, _):
        assert await house.happens(killed)
        # What the dead worker told is worked out once more, now with something else before it.
        if meanwhile:
            assert (await tell(house, operation_id, "signal/pause")).status == 202
        second = house.start_worker()
        held.set()
        if meanwhile:
            await stands(house, operation_id, stood("right", "completed"))
            assert (await tell(house, operation_id, "signal/resume")).status == 202
        await over(house, operation_id)
        events = await stream.rest()
    told = story(events)
    assert_each_key_once(place, operation_id)
    if meanwhile:
        notes = [each.data["message"] for each in events if each.type == "job.progress"]
        assert notes == ["paused", "resumed"]
        assert {f"{name} completed" for name in FIVE} < set(told)
    else:
        assert_told_once(told, *FIVE)
    assert not [line for line in second.lines() if "not published" in line["message"]]


async def test_undoing_goes_on_when_its_worker_is_killed_and_nothing_is_undone_twice(
    house: MortalHouse,
) -> None:
    place = house.place()
    given = five(place)
    place.on("/both", Reply({"no": "stock"}, 409))
    held = place.hold("/undo/left", {})
    first = house.start_worker()
    operation_id = await started(house, GRAPH, given)
    async with job_streams.watch(house.door, operation_id, ALICE) as (stream, _):
        place.until("/undo/left")
        kill(first)
        held.set()
        house.start_worker()
        body = await over(house, operation_id, "failed")
        told = story(await stream.rest())
    done = [each for each in place.paths() if each.startswith("DELETE")]
    finished = [each.split()[0] for each in told if each.endswith(" completed")]
    undone = [each.removeprefix("DELETE /undo/") for each in dict.fromkeys(done)]
    assert undone == finished[::-1]
    assert [each.split()[0] for each in told if each.endswith(" compensated")] == undone
    assert body["error"]["step"] == "both"
    counts = assert_each_key_once(place, operation_id)
    assert counts.pop("undo/left") == 2
    assert set(counts.values()) == {1}
    assert told[-1] == "job.failed"


async def test_more_steps_than_one_history_should_hold_survive_their_worker_too(
    house: MortalHouse,
) -> None:
    place = house.place()
    rows = [[f"s{row}-{column}" for column in range(20)] for row in range(3)]
    for name in (each for row in rows for each in row):
        place.on(f"/{name}", Reply({"name": name}))
    held = place.hold("/s1-7", {"name": "s1-7"})
    steps = [
        step(place, name, *([rows[row - 1][column]] if row else []))
        for row in range(3)
        for column, name in enumerate(rows[row])
    ]
    first = house.start_worker()
    operation_id = await started(house, GRAPH, {"steps": steps, "timeout_seconds": 120})
    async with job_streams.watch(house.door, operation_id, ALICE) as (stream, _):
        place.until("/s1-7")
        kill(first)
        held.set()
        house.start_worker()
        body = await over(house, operation_id)
        events = await stream.rest()
    assert set(steps_of(body).values()) == {"completed"}
    counts = assert_each_key_once(place, operation_id)
    assert set(counts) == {each for row in rows for each in row}
    assert counts["s1-7"] == 2
    told = story(events)
    assert {each for each in told if each.endswith(" completed")} == {
        f"{each} completed" for each in counts
    }
    assert told[-1] == "job.completed"


async def test_a_worker_that_is_told_to_end_gives_its_jobs_away_and_says_no_more_than_that(
    house: MortalHouse,
) -> None:
    place = house.place()
    first = house.start_worker(DRAIN_SECONDS="3")
    held = place.hold("/held", {})
    request = call(place("/held"), "POST")
    step = {"id": "one", "request": request}
    switch = {"to_tenant": "globex", "validate": request, "services": [step]}
    jobs = [
        await started(house, kind, given)
        for kind, given in (
            (ASYNC, request),
            (GRAPH, {"steps": [{"id": "one"} | request]}),
            (SWITCH, switch),
            (PROCESS, {"steps": [step]}),
            (PROCESS, approval(place)),
        )
    ]
    question_id = await waits(house, jobs[-1])
    # Last, and what takes time at once: a request is over after 30 seconds, wherever it is.
    jobs.append(await started(house, API, request))
    place.until("/held", 5)
    await gather_all(asyncio.to_thread(first.stop), asyncio.to_thread(house.start_worker))
    assert first.process.returncode == 0, first.output.read_text()[-9000:]
    said = first.output.read_bytes()
    assert [line for line in said.splitlines() if not line.startswith(b"{")] == []
    assert {line["level"] for line in first.lines()} <= {"info", "warning"}
    held.set()
    recorded(await answer(house.door, question_id, {"pay": True}, BOB))
    for each in jobs:
        await over(house, each)


# Questions


BOB = who("bob", tenant="acme")


def approval(place: Place) -> dict[str, Any]:
    """A process that reserves, asks, and pays when that was approved."""
    answers(place, "reserve", "pay")
    ask = {"prompt": "May it be paid?", "approvers": ["bob"], "expires_in": 3600}
    return {
        "steps": [
            {"id": "reserve", "request": call(place("/reserve"), "POST")},
            {"id": "approve", "ask": ask},
            {
                "id": "pay",
                "request": call(place("/pay"), "POST", body={"said": {"$result": "/approve"}}),
                "condition": {"pointer": "/approve/pay", "equals": True},
            },
        ]
    }


async def waits(house: MortalHouse, operation_id: str) -> str:
    """The id of the question, as soon as the job waits for its answer."""
    body = await stands(house, operation_id, lambda body: body["question"] is not None)
    assert body["status"] == "waiting"
    question_id: str = body["question"]["question_id"]
    return question_id


def assert_decided_once(
    place: Place, operation_id: str, body: dict[str, Any], said: dict[str, Any]
) -> None:
    """Bob's answer is the job's, and what follows was done once with it."""
    decided = body["result"]["decisions"]["approve"]
    assert (decided["response"], decided["answered_by"]) == (said, "bob")
    assert assert_each_key_once(place, operation_id) == {"reserve": 1, "pay": 1}
    assert place.seen("/pay")[0].json() == {"said": said}
    assert body["question"] is None


async def test_a_question_outlives_the_gateway_and_is_answered_once(house: MortalHouse) -> None:
    place = house.place()
    house.start_worker()
    operation_id = await started(house, PROCESS, approval(place))
    question_id = await waits(house, operation_id)
    kill(house.gateway)
    house.start_gateway()
    assert await waits(house, operation_id) == question_id
    async with job_streams.watch(house.door, operation_id, ALICE) as (stream, snapshot):
        assert snapshot.data["question"]["question_id"] == question_id
        said = [{"pay": True, "by": number} for number in range(4)]
        responses = await gather_all(*(answer(house.door, question_id, each, BOB) for each in said))
        assert sorted(each.status for each in responses) == [200, 409, 409, 409]
        (won,) = (given for given, each in zip(said, responses, strict=True) if each.status == 200)
        body = await over(house, operation_id)
        told = story(await stream.rest())
    assert_decided_once(place, operation_id, body, won)
    assert told.count("job.question") == 1
    assert told[-1] == "job.completed"
    audit = what(await look(house.door, question_id, BOB))
    assert audit.count("answered") == 1, audit


async def test_an_answer_that_was_taken_reaches_its_job_also_when_the_gateway_dies_at_once(
    house: MortalHouse,
) -> None:
    place = house.place()
    house.start_worker()
    operation_id = await started(house, PROCESS, approval(place))
    question_id = await waits(house, operation_id)
    # Without Temporal the job can't have been told.
    house.temporal.stop(kill=True)
    kill(house.gateway)
    house.start_gateway(whole=False)
    response = await answer(house.door, question_id, {"pay": True}, BOB)
    kill(house.gateway)
    recorded(response)
    house.temporal.start()
    house.start_gateway()
    body = await over(house, operation_id)
    assert_decided_once(place, operation_id, body, {"pay": True})
    late = await answer(house.door, question_id, {"pay": False}, BOB)
    refusal(late, 409, "CONFLICT", extra=("answered_by", "answered_at", "response"))


async def test_a_decision_that_a_killed_gateway_was_telling_its_job_is_told_by_the_next(
    house: MortalHouse,
) -> None:
    place = house.place()
    worker = house.start_worker()
    operation_id = await started(house, PROCESS, approval(place))
    question_id = await waits(house, operation_id)
    # Without a worker the job can't take it: whoever tells it has its row, and waits.
    kill(worker)
    recorded(await answer(house.door, question_id, {"pay": True}, BOB))
    await leased(house, question_id)
    kill(house.gateway)
    house.start_gateway()
    house.start_worker()
    body = await over(house, operation_id)
    assert_decided_once(place, operation_id, body, {"pay": True})


async def leased(house: MortalHouse, question_id: str) -> None:
    """Returns when a gateway has what is to be told of the question."""
    end = time.monotonic() + LONG_SECONDS
    look_up = "SELECT leased_until_ms FROM outbox WHERE question_id = ? AND kind = 'job'"
    with contextlib.closing(sqlite3.connect(house.state / "gateway.db")) as database:
        while database.execute(look_up, (question_id,)).fetchone() in (None, (0,)):
            assert time.monotonic() < end, house.logs()
            await asyncio.sleep(0.01)


async def test_a_question_is_asked_once_also_when_the_gateway_dies_while_it_is_asked(
    house: MortalHouse,
) -> None:
    place = house.place()
    house.start_worker(by_passage=True)
    killed = house.passage.watch(b"POST /api/v1/questions", lambda: kill(house.gateway))
    operation_id = await started(house, PROCESS, approval(place))
    assert await house.happens(killed)
    house.start_gateway()
    question_id = await waits(house, operation_id)
    assert await listed(house.door, "assignee=me", BOB) == [question_id]
    recorded(await answer(house.door, question_id, {"pay": True}, BOB))
    body = await over(house, operation_id)
    assert_decided_once(place, operation_id, body, {"pay": True})


# Temporal


async def test_without_temporal_jobs_are_503_and_then_all_there_again(house: MortalHouse) -> None:
    place = house.place()
    house.start_worker()
    asking = await started(house, PROCESS, approval(place))
    question_id = await waits(house, asking)
    other = house.place()
    given = five(other)
    held = other.hold("/right", {"name": "right"})
    running = await started(house, GRAPH, given)
    other.until("/right")
    await stands(house, running, stood("left", "completed"))
    house.temporal.stop(kill=True)
    refused = await gather_all(
        fetch(house.door, path_of(running, "status"), ALICE),
        fetch(house.door, path_of(running, "result"), ALICE),
        fetch(house.door, path_of(asking, "status"), ALICE),
        starts(house, GRAPH, given),
        fetch(house.door, LIST, ALICE),
    )
    for response in refused:
        assert_away(response)
    # All else is as ever; also answers are taken, and steps go on that were begun.
    health = (await fetch(house.door, "/health")).json()
    assert health["checks"]["temporal"]["status"] == "degraded"
    assert (await fetch(house.door, "/api/v1/svc/direct")).status == 200
    recorded(await answer(house.door, question_id, {"pay": True}, BOB))
    held.set()
    house.temporal.start()
    body = await over(house, running)
    assert set(steps_of(body).values()) == {"completed"}
    counts = assert_each_key_once(other, running)
    assert set(counts) == set(FIVE)
    assert {name for name, count in counts.items() if count > 1} <= {"right"}
    assert_decided_once(place, asking, await over(house, asking), {"pay": True})
    assert {each["operation_id"] for each in await jobs_of(house)} >= {running, asking}


def assert_away(response: Message) -> None:
    """503, and when to ask again."""
    error = refusal(response, 503, "SERVICE_UNAVAILABLE")
    assert error["retry_after"] >= 1
    assert response.get("retry-after") == str(error["retry_after"]).encode()


async def jobs_of(house: MortalHouse) -> list[dict[str, Any]]:
    """The first page of Alice's tenant's jobs."""
    response = await fetch(house.door, LIST, ALICE)
    assert response.status == 200, response.body
    found: list[dict[str, Any]] = response.json()["workflows"]
    return found
