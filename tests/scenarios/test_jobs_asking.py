"""Processes that ask people: a question of the gateway, decided once, however it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.job_streams import watch
from tests.messages import Message
from tests.questions import answer, fetch, listed, look, recorded, resolved, what, withdraw
from tests.scenarios.job_calls import (
    ALICE,
    PROCESS,
    call,
    ended,
    stands,
    started,
    steps_of,
    tell,
)
from tests.scenarios.job_house import House, Place
from tests.streams import Door, post, refusal, subscribe, who

ANN = who("ann", tenant="acme")


def asking(place: Place, *, undo: bool = True, **ask: Any) -> dict[str, Any]:
    """Reserve, ask ann, then pay: with `no` it is undone."""
    given = {
        "prompt": "Pay ${/reserve/service}?",
        "client_ids": ["ann"],
        "options": ["yes", "no"],
    } | ask
    release = {"compensation": call(place("/reserve"), "DELETE")} if undo else {}
    return {
        "steps": [
            {"id": "reserve", "request": call(place("/reserve"), "POST"), **release},
            {
                "id": "ok",
                "ask": {name: value for name, value in given.items() if value is not None},
                "continue_when": {"pointer": "/ok", "equals": "yes"},
            },
            {
                "id": "pay",
                "request": call(place("/pay"), "POST", body={"said": {"$result": "/ok"}}),
            },
        ]
    }


async def asked(
    house: House, place: Place, caller: bytes = ALICE, **ask: Any
) -> tuple[str, dict[str, Any]]:
    """Starts it and waits until it asks: the job and its question."""
    operation_id = await started(house, PROCESS, asking(place, **ask), caller=caller)
    return operation_id, await question_of(house, operation_id, caller)


async def question_of(house: House, operation_id: str, caller: bytes = ALICE) -> dict[str, Any]:
    """What a job waits for, as soon as it was asked."""
    body = await stands(house, operation_id, lambda each: each["question"], caller)
    assert body["status"] == "waiting"
    question: dict[str, Any] = body["question"]
    return question


async def asked_for_a_moment(house: House, place: Place, **ask: Any) -> tuple[str, dict[str, Any]]:
    """The same for a question that may be over before anyone looks: what the job's stream told."""
    operation_id = await started(house, PROCESS, asking(place, expires_in=1, **ask))
    query = "last_event_id=earliest"
    async with watch(house.door, operation_id, ALICE, query=query) as (stream, _):
        told = (await stream.until("job.question"))[-1].data
    assert told["status"] == "waiting"
    question: dict[str, Any] = told["question"]
    return operation_id, question


def waits_for(step: str) -> Callable[[dict[str, Any]], bool]:
    """Whether it is this step's question that is open."""
    return lambda body: (body["question"] or {}).get("step") == step


Answering = Callable[[Door, str, str], Awaitable[Message]]


async def as_the_page_does(door: Door, question_id: str, word: str) -> Message:
    """What /approvals sends: it lists, looks, and answers with a key."""
    assert question_id in await listed(door, "status=open&assignee=me", ANN)
    assert (await look(door, question_id, ANN))["status"] == "open"
    return await answer(door, question_id, word, ANN, key=f"card-{question_id}")


async def on_the_questions_path(door: Door, question_id: str, word: str) -> Message:
    """As a program does."""
    return await answer(door, question_id, word, ANN)


async def on_the_streams_path(door: Door, question_id: str, word: str) -> Message:
    """As a subscriber does."""
    return await answer(door, question_id, word, ANN, client_id="ann")


WAYS: list[Answering] = [as_the_page_does, on_the_questions_path, on_the_streams_path]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("word", ["yes", "no"])
async def test_an_answer_moves_the_job_whatever_way_it_comes(
    house: House, way: Answering, word: str
) -> None:
    place = house.place()
    operation_id, question = await asked(house, place)
    recorded(await way(house.door, question["question_id"], word))
    refusal(
        await answer(house.door, question["question_id"], "yes", ANN),
        409,
        "CONFLICT",
        extra=("answered_by", "answered_at", "response"),
    )
    if word == "yes":
        body = await ended(house, operation_id)
        assert body["result"]["data"]["ok"] == "yes"
        assert [each.json() for each in place.seen("/pay")] == [{"said": "yes"}]
        assert place.paths() == ["POST /reserve", "POST /pay"]
    else:
        body = await ended(house, operation_id, "failed")
        assert (body["error"]["code"], body["error"]["step"]) == ("CONDITION_NOT_MET", "ok")
        assert place.paths() == ["POST /reserve", "DELETE /reserve"]
        assert steps_of(body)["reserve"] == "compensated"
    assert body["question"] is None


async def test_a_question_of_a_job_is_one_of_the_gateways(house: House) -> None:
    place = house.place()
    name = f"ann{place.prefix.replace('/', '-')}"  # whom no other test asks
    ann = who(name, tenant="acme")
    async with subscribe(house.door, name, ann) as stream:
        operation_id, question = await asked(
            house, place, client_ids=[name], prompt="Pay?", expires_in=600, metadata={"cost": 7}
        )
        shown = (await stream.until("question"))[-1].data
        assert shown["question_id"] == question["question_id"]
        found = await look(house.door, question["question_id"], ann)
        for each in ("prompt", "options", "client_ids", "expires_at", "run_id", "node_id"):
            assert shown[each] == found[each], each
        assert (found["prompt"], found["options"]) == ("Pay?", ["yes", "no"])
        assert (found["run_id"], found["node_id"]) == (operation_id, "ok")
        assert (found["job"], found["asked_by"]) == (operation_id, "alice")
        assert found["expires_at"] == question["expires_at"]
        assert found["metadata"]["cost"] == 7
        assert question["step"] == "ok"
        recorded(await answer(house.door, question["question_id"], "yes", ann))
        event = await resolved(stream)
        assert event.data["question_id"] == question["question_id"]
    await ended(house, operation_id)
    assert "answered" in what(await look(house.door, question["question_id"], ann))


async def test_of_many_answers_at_once_one_wins_and_the_job_has_that_one(house: House) -> None:
    place = house.place()
    words = [f"w{number}" for number in range(8)]
    operation_id, question = await asked(house, place, options=["yes", *words])
    answers = await asyncio.gather(
        *(answer(house.door, question["question_id"], word, ANN) for word in words)
    )
    (winner,) = [each for each in answers if each.status == 200]
    assert [each.status for each in answers].count(409) == len(words) - 1
    body = await ended(house, operation_id, "failed")
    assert place.seen("/pay") == []
    assert winner.json()["response"] in words
    assert body["error"]["code"] == "CONDITION_NOT_MET"


async def test_at_the_expiry_the_default_counts(house: House) -> None:
    place = house.place()
    operation_id, question = await asked_for_a_moment(house, place, default="yes")
    body = await ended(house, operation_id)
    assert body["result"]["data"]["ok"] == "yes"
    found = await look(house.door, question["question_id"], ANN)
    assert (found["status"], found["answer"]["answered_by"]) == ("answered", "default")


async def test_at_the_expiry_without_a_default_the_job_fails_and_is_undone(house: House) -> None:
    place = house.place()
    operation_id, question = await asked_for_a_moment(house, place)
    body = await ended(house, operation_id, "failed")
    assert (body["error"]["code"], body["error"]["step"]) == ("QUESTION_EXPIRED", "ok")
    assert place.paths() == ["POST /reserve", "DELETE /reserve"]
    assert (await look(house.door, question["question_id"], ANN))["status"] == "expired"
    late = await answer(house.door, question["question_id"], "yes", ANN)
    refusal(late, 410, "GONE")


async def test_a_default_that_says_no_undoes_it(house: House) -> None:
    place = house.place()
    operation_id, _ = await asked_for_a_moment(house, place, default="no")
    body = await ended(house, operation_id, "failed")
    assert body["error"]["code"] == "CONDITION_NOT_MET"
    assert place.paths() == ["POST /reserve", "DELETE /reserve"]


async def test_a_question_that_is_withdrawn_fails_the_job(house: House) -> None:
    place = house.place()
    operation_id, question = await asked(house, place)
    admin = who("root", "admin", tenant="acme")
    assert (await withdraw(house.door, question["question_id"], admin)).status == 200
    body = await ended(house, operation_id, "failed")
    assert body["error"]["code"] == "QUESTION_WITHDRAWN"
    assert place.paths() == ["POST /reserve", "DELETE /reserve"]


async def test_a_job_that_is_cancelled_takes_its_question_back(house: House) -> None:
    place = house.place()
    operation_id, question = await asked(house, place)
    assert (await tell(house, operation_id, "cancel")).status == 202
    await ended(house, operation_id, "cancelled")
    assert place.paths() == ["POST /reserve", "DELETE /reserve"]
    assert (await look(house.door, question["question_id"], ANN))["status"] == "withdrawn"
    refusal(await answer(house.door, question["question_id"], "yes", ANN), 410, "GONE")


async def test_a_question_goes_to_who_started_the_job_unless_it_says_to_whom(
    house: House,
) -> None:
    place = house.place()
    name = f"own{place.prefix.replace('/', '-')}"
    caller = who(name, "jobs:write", tenant="acme")
    operation_id, question = await asked(house, place, caller, client_ids=None)
    response = await fetch(house.door, f"/api/v1/events/{name}/questions", caller)
    (found,) = response.json()["questions"]
    assert found["question_id"] == question["question_id"]
    recorded(await answer(house.door, question["question_id"], "yes", caller))
    await ended(house, operation_id, caller=caller)


async def test_who_must_not_answer_does_not(house: House) -> None:
    place = house.place()
    own = who("alice", "questions:answer", "events:read", tenant="acme")
    operation_id, question = await asked(house, place, approvers=["alice", "ann"], forbid_self=True)
    refusal(await answer(house.door, question["question_id"], "yes", own), 403, "FORBIDDEN")
    stranger = who("bob", "questions:answer", "events:read", tenant="acme")
    response = await answer(house.door, question["question_id"], "yes", stranger)
    refusal(response, 403, "FORBIDDEN")
    recorded(await answer(house.door, question["question_id"], "yes", ANN))
    await ended(house, operation_id)


async def test_all_of_the_approvers_must_agree_first(house: House) -> None:
    place = house.place()
    operation_id, question = await asked(
        house, place, client_ids=["ann", "ben"], approvers=["ann", "ben"], policy="all"
    )
    first = await answer(house.door, question["question_id"], "yes", ANN)
    assert (first.status, first.json()["status"]) == (200, "open")
    body = await stands(house, operation_id, "waiting")
    assert body["question"]["question_id"] == question["question_id"]
    recorded(await answer(house.door, question["question_id"], "yes", who("ben", tenant="acme")))
    assert (await ended(house, operation_id))["status"] == "completed"


async def test_an_answer_fits_the_schema_or_is_refused(house: House) -> None:
    place = house.place()
    given = asking(place, options=None, schema={"type": "object", "required": ["approved"]})
    given["steps"][1]["continue_when"] = {"pointer": "/ok/approved", "equals": True}
    given["steps"][2]["request"]["body"] = {"why": "${/ok/why}"}
    operation_id = await started(house, PROCESS, given)
    question = await question_of(house, operation_id)
    refusal(await answer(house.door, question["question_id"], {"x": 1}, ANN), 422, "UNPROCESSABLE")
    recorded(
        await answer(house.door, question["question_id"], {"approved": True, "why": "fine"}, ANN)
    )
    await ended(house, operation_id)
    assert place.seen("/pay")[0].json() == {"why": "fine"}


async def test_a_process_asks_twice_and_waits_and_computes(house: House) -> None:
    ask = {"prompt": "${/input/what}?", "client_ids": ["ann"]}
    given = {
        "data": {"what": "Now"},
        "steps": [
            {"id": "one", "ask": ask},
            {"id": "pause", "wait_seconds": 0.1},
            {"id": "sum", "value": {"said": {"$result": "/one"}}},
            {"id": "two", "ask": ask | {"prompt": "Still ${/sum/said}?"}},
        ],
        "output": {"first": {"$result": "/sum"}, "second": {"$result": "/two"}},
    }
    operation_id = await started(house, PROCESS, given)
    prompts = []
    for step, word in (("one", "A"), ("two", "B")):
        await stands(house, operation_id, waits_for(step))
        question = await question_of(house, operation_id)
        prompts.append(question["prompt"])
        recorded(await answer(house.door, question["question_id"], word, ANN))
    body = await ended(house, operation_id)
    assert prompts == ["Now?", "Still A?"]
    assert body["result"]["data"] == {"first": {"said": "A"}, "second": "B"}


async def test_nobody_but_a_worker_asks_in_a_jobs_name(house: House) -> None:
    place = house.place()
    operation_id, _ = await asked(house, place)
    body = {"client_ids": ["ann"], "prompt": "?"}
    asker = who("mallory", "questions:ask", "admin", tenant="acme")
    for more in ({"job": operation_id}, {"asked_by": "alice"}):
        response = await house.door.ask(post("/api/v1/questions", body | more, asker))
        refusal(response, 422, "UNPROCESSABLE")
    await tell(house, operation_id, "cancel")


async def test_who_waits_for_the_question_and_who_waits_for_the_job_are_both_told(
    house: House,
) -> None:
    place = house.place()
    operation_id, question = await asked(house, place)
    path = f"/api/v1/questions/{question['question_id']}/wait?timeout=25"
    waiting = asyncio.create_task(fetch(house.door, path, ANN))
    job = asyncio.create_task(ended(house, operation_id))
    recorded(await answer(house.door, question["question_id"], "yes", ANN))
    response = await waiting
    assert (response.status, response.json()["status"]) == (200, "answered")
    body = await job
    assert body["ended_at"] is not None


async def test_a_step_is_asked_only_where_its_condition_holds(house: House) -> None:
    place = house.place()
    given = asking(place)
    given["data"] = {"amount": 10}
    given["steps"][1]["condition"] = {"pointer": "/input/amount", "greater": 100}
    del given["steps"][1]["continue_when"]
    given["steps"][2]["request"]["body"] = {"amount": {"$result": "/input/amount"}}
    operation_id = await started(house, PROCESS, given)
    body = await ended(house, operation_id)
    assert steps_of(body) == {"reserve": "completed", "ok": "skipped", "pay": "completed"}
