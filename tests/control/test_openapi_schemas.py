"""The schemas of the OpenAPI document take what the application takes and what it tells."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.errors import Rejection, render
from sse.answer_schema import AnswerSchemas
from sse.event import Refused, encode, is_client_id, is_event_type, timestamp, uuid7
from sse.publication import MAX_EVENTS, read
from sse.question import MISSING
from sse.question_body import QuestionReader
from tests.control.conftest import HEALTHY, LOCAL, Client, Running
from tests.control.describing import DOCUMENT, EVENTS, SCHEMAS, breaches, content, resolve, valid
from tests.sse.reader import read_all


@pytest.mark.parametrize("readiness", ["ready", "starting", "draining"])
@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
async def test_answers_are_as_described(
    client: Client, running: Running, path: str, readiness: str
) -> None:
    running.readiness = readiness
    running.services = [HEALTHY, HEALTHY | {"state": "unknown", "endpoints": []}]
    answer = await client.get(path)
    assert breaches(content(path, "get", answer.status), await answer.json()) == []


@pytest.mark.parametrize("accept", ["application/json", "application/problem+json"])
async def test_errors_are_as_described(client: Client, accept: str) -> None:
    answer = await client.get("/metrics", headers={"Accept": accept, "X-Request-ID": "r"})
    response = resolve(DOCUMENT["paths"]["/metrics"]["get"]["responses"]["404"]["$ref"])
    assert breaches(response["content"][accept]["schema"], await answer.json()) == []
    wrong = await client.delete("/metrics", headers={"Accept": accept, **LOCAL})
    response = resolve(DOCUMENT["paths"]["/metrics"]["get"]["responses"]["405"]["$ref"])
    assert breaches(response["content"][accept]["schema"], await wrong.json()) == []


@pytest.mark.parametrize("problem", [False, True])
def test_a_refusal_with_details_is_as_described(problem: bool) -> None:
    with pytest.raises(Refused) as caught:
        read(b'[{"event_type":"A"},{"a/~":1},7]', internal=False)
    refused = caught.value
    rejection = Rejection(
        refused.code,
        refused.message,
        details=refused.details,
        extra=(("answered_by", "bob"), ("answered_at", timestamp(0.0))),
    )
    body, _ = render(rejection, "r", problem=problem)
    value = json.loads(body)
    assert breaches(SCHEMAS["Problem" if problem else "Error"], value) == []
    error = value if problem else value["error"]
    assert [detail["pointer"] for detail in error["details"]] == [
        "/0/event_type",
        "/1/event_type",
        "/1/a~1~0",
        "/2",
    ]
    error["details"][0]["pointer"] = "no pointer"
    assert breaches(SCHEMAS["Problem" if problem else "Error"], value)


def test_the_schema_of_a_publication_takes_what_publishing_takes() -> None:
    body = DOCUMENT["paths"][EVENTS]["post"]["requestBody"]["content"]["application/json"]
    one = {"event_type": "x"}
    candidates: list[Any] = [
        one,
        one | {"data": None},
        one | {"data": [1, {"a": "b"}]},
        one | {"more": 1},
        {"event_type": "X"},
        {"event_type": "x" * 65},
        {"event_type": 1},
        {"data": 1},
        1,
        None,
        [],
        [one, one],
        [one, 1],
        [one] * MAX_EVENTS,
        [one] * (MAX_EVENTS + 1),
    ]
    for value in candidates:
        try:
            taken = bool(read(json.dumps(value).encode(), internal=True))
        except Refused:
            taken = False
        assert taken == (breaches(body["schema"], value) == []), value


def test_events_are_as_described() -> None:
    """What is sent, and the example of a stream."""
    (event,) = read(b'{"event_type":"run.progress","data":{"percent":42}}', internal=False)
    (sent,) = read_all(encode(event, uuid7(1.0), timestamp(1.0)))
    assert breaches(SCHEMAS["Event"], sent.envelope()) == []
    ok = DOCUMENT["paths"][EVENTS]["get"]["responses"]["200"]
    first, second = read_all(ok["content"]["text/event-stream"]["example"].encode())
    for shown in (first, second):
        assert breaches(SCHEMAS["Event"], shown.envelope()) == []
    assert first.type == "connection.established"
    assert breaches(ok["x-event-data"][first.type], first.payload()) == []
    assert second.id == f"{first.payload()['epoch']}-1"


@pytest.mark.parametrize(
    "text", ["alice", "a" * 128, "job:7", "a@b.c~_-", "", "a" * 129, "a/b", "a b", "\u00e9", "a%20"]
)
def test_client_ids_are_as_described(text: str) -> None:
    described = DOCUMENT["components"]["parameters"]["client_id"]["schema"]
    assert (breaches(described, text) == []) == (is_client_id(text) is not None)


@pytest.mark.parametrize("text", ["a", "run.*", "a-b_c.9", "A", "", "a" * 64, "a" * 65])
def test_types_are_as_described(text: str) -> None:
    described = SCHEMAS["NewEvent"]["properties"]["event_type"]
    assert (breaches(described, text) == []) == (is_event_type(text) is not None)


NEW: dict[str, Any] = {"client_ids": ["alice"], "prompt": "Deploy?"}
BODIES: list[dict[str, Any]] = [
    {},
    {"schema": {"type": "boolean"}, "expires_in": 60},
    {"schema": True},
    {"schema": "boolean"},
    {"schema": {}, "options": ["a"]},
    {"options": ["yes", "no"], "policy": {"at_least": 2}},
    {"options": ["yes", "yes"]},
    {"options": []},
    {"options": [1]},
    {"options": [f"{n}" for n in range(65)]},
    {"approvers": ["bob", "questions:answer"], "policy": "all"},
    {"approvers": []},
    {"approvers": ["x" * 257]},
    {"policy": "some"},
    {"policy": {"at_least": 0}},
    {"policy": {"at_least": 65}},
    {"policy": {"at_least": 1, "more": 1}},
    {"forbid_self": True},
    {"forbid_self": "yes"},
    {"default": None},
    {"unknown": 1},
    {"prompt": "x" * 8193},
    {"prompt": "x" * 8192},
    {"prompt": ""},
    {"prompt": 1},
    {"client_ids": []},
    {"client_ids": ["a", "a"]},
    {"client_ids": ["a/b"]},
    {"client_ids": [f"{n}" for n in range(65)]},
    {"client_ids": [f"{n}" for n in range(64)]},
    {"client_ids": "alice"},
    {"question_id": "deploy-7"},
    {"question_id": "deploy 7"},
    {"expires_in": 0.5},
    {"expires_in": 1},
    {"expires_in": 90 * 86400},
    {"expires_in": 90 * 86400 + 1},
    {"expires_in": "60"},
    {"expires_in": 60, "expires_at": "2026-11-22T10:00:00Z"},
    {"expires_at": "2026-11-22T10:00:00Z"},
    {"reminders": [60, 0.5]},
    {"reminders": [0]},
    {"reminders": [60] * 17},
    {"run_id": "r", "node_id": "n", "metadata": {"a": [1]}},
    {"run_id": ""},
    {"metadata": []},
    {"callback_url": "https://example.org/decided"},
    {"callback_url": 7},
]
ASKED = NEW | {
    "question_id": "q-1",
    "status": "open",
    "asked_at": "2026-11-21T10:00:00.000Z",
    "asked_by": "runner",
    "expires_at": "2026-11-28T10:00:00.000Z",
}
OUTCOME = {"response": True, "answered_by": "bob", "answered_at": "2026-11-21T10:05:00.000Z"}
RESOLVED = {"question_id": "q-1", "status": "answered"} | OUTCOME


@pytest.mark.parametrize("members", [*BODIES, {"prompt": MISSING}, {"client_ids": MISSING}])
def test_the_schema_of_a_question_takes_what_asking_takes(members: dict[str, Any]) -> None:
    body = {name: value for name, value in (NEW | members).items() if value is not MISSING}
    now = datetime(2026, 11, 21, 10, tzinfo=UTC).timestamp()
    reader = QuestionReader(AnswerSchemas(), lambda: uuid7(now), callbacks=True)
    wrong = breaches(SCHEMAS["NewQuestion"], body)
    if wrong:
        with pytest.raises(Refused):
            reader.read(body, "runner", round(now * 1e6))
    else:
        question = reader.read(body, "runner", round(now * 1e6)).question
        assert breaches(SCHEMAS["Question"], json.loads(question.shown("open"))) == []


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("Question", ASKED, True),
        ("Question", ASKED | {"status": "closed"}, False),
        ("QuestionDetails", ASKED | {"answer": None, "votes": [], "audit": []}, True),
        ("QuestionDetails", ASKED | {"answer": OUTCOME, "votes": [{"who": "bob"}]}, True),
        (
            "QuestionDetails",
            ASKED | {"audit": [{"at": "", "what": "seen", "who": "bob", "detail": "x"}]},
            True,
        ),
        ("QuestionDetails", ASKED | {"audit": [{"at": "", "what": "eaten"}]}, False),
        ("QuestionList", {"questions": [ASKED], "next_page_token": None}, True),
        ("Response", {"response": None}, True),
        ("Response", {"response": 1, "comment": "fine"}, True),
        ("Response", {"comment": "fine"}, False),
        ("Response", {"question_id": "q-1", "response": 1}, False),
        ("ResponseOnStream", {"question_id": "q-1", "response": 1}, True),
        ("Recorded", RESOLVED, True),
        ("Recorded", {"question_id": "q-1", "status": "open", "votes": 1, "needed": 2}, True),
        ("QuestionResolved", RESOLVED, True),
        ("QuestionResolved", RESOLVED | {"answered_by": "default"}, True),
        (
            "QuestionResolved",
            {"question_id": "q", "status": "expired"} | dict.fromkeys(OUTCOME),
            True,
        ),
        ("QuestionResolved", {"question_id": "q", "status": "expired"}, False),
        ("StreamReset", {"reason": "trimmed", "lost": 3}, True),
        ("StreamReset", {"reason": "epoch", "lost": None}, True),
        ("StreamReset", {"reason": "bored", "lost": None}, False),
        ("Ticket", {"ticket": "t", "expires_in": 30}, True),
        ("Published", {"ids": ["e-1"], "subscribers": 0}, True),
    ],
)
def test_the_contracts_objects_fit_their_schemas(name: str, value: Any, fits: bool) -> None:
    assert valid(name, value) == fits, breaches(SCHEMAS[name], value)
