"""Questions for the scenarios: asking, answering and looking at them over HTTP."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.messages import Message, request
from tests.streams import LOCAL, TIMESTAMP, UUID7, Door, Event, Stream, post

QUESTIONS = "/api/v1/questions"
APPROVAL = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "why": {"type": "string", "maxLength": 20}},
    "required": ["approved"],
    "additionalProperties": False,
}


def question(**members: Any) -> dict[str, Any]:
    """The body that asks; members that are None are left out."""
    given = {"client_ids": ["alice"], "prompt": "Deploy to production?"} | members
    return {name: value for name, value in given.items() if value is not None}


async def asks(door: Door, body: Any, *fields: bytes) -> Message:
    """What asking is answered."""
    return await door.ask(post(QUESTIONS, body, *fields))


async def asked(door: Door, *fields: bytes, **members: Any) -> dict[str, Any]:
    """Asks; the question."""
    response = await asks(door, question(**members), *fields)
    assert response.status == 201, (response.start, response.body)
    document: dict[str, Any] = response.json()
    assert response.get("location") == f"{QUESTIONS}/{document['question_id']}".encode()
    return document


async def answer(
    door: Door,
    question_id: str,
    response: Any = "yes",
    *fields: bytes,
    client_id: str | None = None,
    key: str | None = None,
    **members: Any,
) -> Message:
    """What an answer is answered, on the questions path or on a client id's."""
    lines = [*fields] if key is None else [*fields, b"Idempotency-Key: " + key.encode()]
    if isinstance(response, bytes):
        body: Any = response
    else:
        body = {"response": response} | members
    if client_id is None:
        return await door.ask(post(f"{QUESTIONS}/{question_id}/response", body, *lines))
    if not isinstance(body, bytes):
        body = {"question_id": question_id} | body
    return await door.ask(post(f"/api/v1/events/{client_id}/response", body, *lines))


async def fetch(door: Door, path: str, *fields: bytes, method: bytes = b"GET") -> Message:
    """A request without a body."""
    return await door.ask(request(method + b" " + path.encode(), *fields, host=LOCAL))


async def look(door: Door, question_id: str, *fields: bytes) -> dict[str, Any]:
    """One question with its audit trail."""
    response = await fetch(door, f"{QUESTIONS}/{question_id}", *fields)
    assert response.status == 200, (response.start, response.body)
    document: dict[str, Any] = response.json()
    return document


async def listed(door: Door, query: str = "", *fields: bytes, path: str = QUESTIONS) -> list[str]:
    """The ids of one page."""
    response = await fetch(door, f"{path}?{query}" if query else path, *fields)
    assert response.status == 200, (response.start, response.body)
    return [each["question_id"] for each in response.json()["questions"]]


async def withdraw(door: Door, question_id: str, *fields: bytes) -> Message:
    """What withdrawing is answered."""
    return await fetch(door, f"{QUESTIONS}/{question_id}", *fields, method=b"DELETE")


def recorded(response: Message) -> dict[str, Any]:
    """The answer to an answer that decided."""
    assert response.status == 200, (response.start, response.body)
    document: dict[str, Any] = response.json()
    members = {"question_id", "status", "response", "answered_by", "answered_at"}
    assert set(document) == members, document
    assert document["status"] == "answered"
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", document["answered_at"])
    return document


async def resolved(stream: Stream) -> Event:
    """The next event, which must say that a question is decided."""
    got = await stream.event()
    assert got.type == "question.resolved", got
    members = {"question_id", "status", "response", "answered_by", "answered_at"}
    assert set(got.data) == members, got
    assert got.id is not None
    return got


def whole(found: dict[str, Any], body: dict[str, Any]) -> None:
    """Holds a question as the gateway shows it against what was asked."""
    for name, value in body.items():
        if name not in ("expires_in", "expires_at"):
            assert found[name] == value, name
    assert found["status"] == "open"
    assert "question_id" in body or UUID7.fullmatch(found["question_id"])
    assert TIMESTAMP.fullmatch(found["asked_at"])
    assert TIMESTAMP.fullmatch(found["expires_at"])
    assert found["asked_by"]


def what(document: dict[str, Any]) -> list[str]:
    """The words of the audit trail."""
    assert all(set(each) == {"at", "what", "who", "detail"} for each in document["audit"])
    return [each["what"] for each in document["audit"]]


def dumped(value: Any) -> bytes:
    """A body."""
    return json.dumps(value).encode()
