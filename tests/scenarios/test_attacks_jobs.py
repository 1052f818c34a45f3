"""Attacks on jobs: reading, ending and spoofing others', another's answer by a key, filling a
worker's memory with a kilobyte, stopping the loop with a schema, keeping a decision from its job.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.messages import Message, request
from tests.questions import answer
from tests.scenarios.job_calls import (
    ALICE,
    ASYNC,
    GRAPH,
    PROCESS,
    call,
    did,
    ended,
    path_of,
    stands,
    started,
    starts,
    status,
    tell,
)
from tests.scenarios.job_house import House, Reply
from tests.streams import LOCAL, get, post, refusal, subscribe, who

MALLORY = who("mallory", "jobs:write", "events:read", "events:write", "admin", tenant="globex")
ASKER = who("mallory", "questions:ask", "events:write", tenant="globex")
WAIT = {"steps": [{"id": "a", "wait_seconds": 3000}]}


# Others' jobs, by the client id of their streams


async def test_a_jobs_events_are_its_owners_whatever_scope_asks(house: House) -> None:
    operation_id = await started(house, PROCESS, WAIT)
    stream = f"job:{operation_id}"
    for caller in (MALLORY, who(stream, "jobs:read", tenant="globex"), who("bob", tenant="acme")):
        refusal(await house.door.ask(get(stream, caller)), 403, "FORBIDDEN")
        response = await house.door.ask(post(f"/api/v1/events/{stream}/ticket", b"", caller))
        assert response.status == 403, response.start
        inbox = f"GET /api/v1/events/{stream}/questions".encode()
        response = await house.door.ask(request(inbox, caller, host=LOCAL))
        assert response.status == 404, response.start
    async with subscribe(house.door, stream, who("page", client_ids=[stream])) as events:
        assert events.established.data["client_id"] == stream  # as its token says
    await tell(house, operation_id, "terminate")


async def test_nobody_puts_events_or_questions_into_a_jobs_stream(house: House) -> None:
    operation_id = await started(house, PROCESS, WAIT)
    stream = f"job:{operation_id}"
    event = {"event_type": "run.error", "data": {"message": "enter your password"}}
    response = await house.door.ask(post(f"/api/v1/events/{stream}", event, MALLORY))
    refusal(response, 403, "FORBIDDEN")
    asked = {"client_ids": ["ann", stream], "prompt": "Your password?"}
    response = await house.door.ask(post("/api/v1/questions", asked, ASKER))
    assert response.status == 422, response.body
    event = {"event_type": "question", "data": {"prompt": "Your password?"}}
    response = await house.door.ask(post(f"/api/v1/events/{stream}", event, ASKER))
    refusal(response, 403, "FORBIDDEN")
    await tell(house, operation_id, "terminate")


async def test_the_end_of_one_job_is_never_told_as_anothers(house: House) -> None:
    """It would end the streams of all who watch, and stand there as the job's own status."""
    place = house.place()
    operation_id = await started(house, PROCESS, WAIT)
    given = call(place("/a"), client_id=f"job:{operation_id}")
    response = await starts(house, ASYNC, given, caller=MALLORY)
    assert response.status == 422, response.body
    impostor = who(f"job:{operation_id}", "jobs:write", tenant="globex")
    await did(house, ASYNC, call(place("/a")), caller=impostor)
    page = who("page", client_ids=[f"job:{operation_id}"])
    query = "last_event_id=earliest"
    async with subscribe(house.door, f"job:{operation_id}", page, query=query) as stream:
        assert (await stream.event()).type == "job.started"
        await tell(house, operation_id, "signal/pause")
        assert (await stream.event()).data["operation_id"] == operation_id
    assert (await status(house, operation_id))["status"] == "waiting"
    await tell(house, operation_id, "terminate")


# Another's answer


def later(path: str, caller: bytes, key: bytes) -> bytes:
    """A request to a durable service, waited for."""
    line = f"GET /api/v1/late{path}".encode()
    fields = (caller, b"Prefer: respond-async, wait=25", b"Idempotency-Key: " + key)
    return request(line, *fields, host=LOCAL)


async def test_a_key_of_a_request_is_its_callers_own(house: House) -> None:
    """Who repeats a request must not get a colleague's answer by the same key."""
    place = house.place()
    place.on("/me", Reply({"salary": "ann's"}), Reply({"salary": "bob's"}))
    ann, bob = (who(name, "jobs:read", tenant="acme") for name in ("ann", "bob"))

    async def salary(caller: bytes) -> Message:
        response = await house.door.ask(later(place("/me"), caller, b"k-1"))
        assert response.status == 200, response.body
        return response

    for caller, name in ((ann, "ann's"), (bob, "bob's"), (ann, "ann's")):
        body = (await salary(caller)).json()["result"]["answer"]["body"]
        assert body == {"salary": name}
    assert len(place.seen("/me")) == 2


# Workers


@pytest.mark.parametrize(
    ("first", "double"), [("x" * 500, "${/s}${/s}"), ([[]] * 9, [{"$result": "/s"}] * 2)]
)
async def test_a_kilobyte_does_not_become_gigabytes_in_a_worker(
    house: House, first: Any, double: Any
) -> None:
    def doubled(of: str) -> Any:
        return json.loads(json.dumps(double).replace("/s", of))

    steps = [{"id": "s0", "value": first}]
    steps += [{"id": f"s{n}", "value": doubled(f"/s{n - 1}")} for n in range(1, 14)]
    steps += [{"id": f"t{n}", "value": doubled("/s13")} for n in range(400)]
    body = await did(house, PROCESS, {"steps": steps}, expected="failed")
    assert body["error"]["code"] == "VALIDATION"
    assert "characters of results" in body["error"]["message"]


async def test_an_answer_that_is_too_large_was_given_all_the_same(house: House) -> None:
    """A service can't have its step left undone by answering more than a worker takes."""
    place = house.place()
    place.on("/pay", Reply(b"x" * (5 << 20)))
    undo = call(place("/undo"), "DELETE")
    steps = [{"id": "pay", **call(place("/pay"), "POST"), "compensation": undo}]
    body = await did(house, GRAPH, {"steps": steps}, expected="failed")
    assert (body["error"]["code"], body["error"]["step"]) == ("VALIDATION", "pay")
    assert "bytes" in body["error"]["message"]
    assert place.paths() == ["POST /pay", "DELETE /undo"]


async def test_objects_that_fill_the_memory_stay_text(house: House) -> None:
    place = house.place()
    many = b"[" + b"{}," * 300_000 + b"{}]"
    place.on("/a", Reply(many, headers={"Content-Type": "application/json"}))
    output = {"first": {"$result": "/a/0", "$default": "none"}}
    given = {"steps": [{"id": "a", **call(place("/a"))}], "output": output}
    assert (await did(house, GRAPH, given))["result"]["data"] == {"first": "none"}


# Schemas


@pytest.mark.parametrize("pattern", [r"(?i)\\p{L}{300}", "(.{900}){9}"])
async def test_a_pattern_that_takes_a_second_is_refused_at_once(house: House, pattern: str) -> None:
    schema = {"allOf": [{"pattern": f"{n}{pattern}"} for n in range(100)]}
    asked = {"client_ids": ["ann"], "prompt": "Well?", "schema": schema}
    response = await house.door.ask(post("/api/v1/questions", asked, ASKER))
    assert response.status == 422, response.body
    step = {"id": "a", **call("/x"), "rules": [{"schema": schema}]}
    response = await starts(house, GRAPH, {"steps": [step]})
    assert response.status == 422, response.body


# Decisions


async def test_no_update_of_a_caller_stands_in_the_way_of_a_decision(house: House) -> None:
    """The question's id is the id by which its decision is told, and known to who may answer."""
    ask = {"prompt": "Pay?", "client_ids": ["ann"], "expires_in": 3600}
    given = {"steps": [{"id": "ok", "ask": ask}, {"id": "b", "value": 1}]}
    operation_id = await started(house, PROCESS, given)
    body = await stands(house, operation_id, lambda each: each["question"])
    question_id = body["question"]["question_id"]
    key = b"Idempotency-Key: " + question_id.encode()
    update = post(path_of(operation_id, "update/skip_step"), {"id": "b"}, ALICE, key)
    assert (await house.door.ask(update)).status == 200
    answered = await answer(house.door, question_id, "no", who("ann", tenant="acme"))
    assert answered.status == 200, answered.body
    ended_body = await ended(house, operation_id)
    assert ended_body["result"]["data"] == {"ok": "no"}
