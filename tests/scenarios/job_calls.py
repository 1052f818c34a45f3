"""What scenarios of jobs say over HTTP: starting, looking, waiting for an end."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tests.messages import Message, request
from tests.scenarios.job_house import House
from tests.streams import LOCAL, TIMESTAMP, Door, post, who
from tests.temporal_server import PATIENCE_SECONDS

API = "api_request_workflow"
ASYNC = "async_request_workflow"
GRAPH = "multi_service_orchestration_workflow"
PROCESS = "business_process_workflow"
RECOVERY = "error_recovery_workflow"
SWITCH = "tenant_switch_workflow"
TYPES = (API, GRAPH, ASYNC, RECOVERY, PROCESS, SWITCH)
LIST = "/api/v1/workflows"
ALICE = who("alice", "jobs:write", tenant="acme")
BODY_MEMBERS = {
    *("operation_id", "workflow_type", "status", "progress", "current_step", "steps", "question"),
    *("attempts", "result", "error", "started_at", "updated_at", "ended_at"),
}
LINKS = {"operation_id", "status_url", "stream_url", "result_url"}
ENDED = ("completed", "failed", "cancelled", "terminated", "timed_out")
OPERATION_ID = re.compile(r"[0-9a-f]{16}-[0-9a-f-]{32,36}")


def path_of(operation_id: str, what: str) -> str:
    """A path of one job."""
    return f"{LIST}/{operation_id}/{what}"


async def fetch(door: Door, path: str, *fields: bytes, method: bytes = b"GET") -> Message:
    """A request without a body."""
    return await door.ask(request(method + b" " + path.encode(), *fields, host=LOCAL))


async def starts(
    house: House, kind: str, body: Any, *fields: bytes, prefix: str = LIST, caller: bytes = ALICE
) -> Message:
    """What a start is answered."""
    return await house.door.ask(post(f"{prefix}/{kind}", body, caller, *fields))


async def started(house: House, kind: str, body: Any, *fields: bytes, caller: bytes = ALICE) -> str:
    """Starts a job and does not wait for it; its id."""
    fields = (b"Prefer: respond-async", *fields)
    return begun(await starts(house, kind, body, *fields, caller=caller))


def begun(response: Message) -> str:
    """The id of a job that was started; a quick one may be over before its start is answered."""
    if response.status == 200:
        assert_status_body(response.json())
    else:
        accepted(response)
    operation_id: str = response.json()["operation_id"]
    return operation_id


def accepted(response: Message) -> str:
    """Holds a 202 against the contract; the id of the job."""
    assert response.status == 202, (response.start, response.body)
    document = response.json()
    assert set(document) == LINKS, document
    operation_id: str = document["operation_id"]
    assert OPERATION_ID.fullmatch(operation_id), operation_id
    for name in ("status", "stream", "result"):
        assert document[f"{name}_url"] == path_of(operation_id, name), document
    assert response.get("location") == document["status_url"].encode()
    assert int(response.get("retry-after") or b"0") >= 1
    return operation_id


def body_of(response: Message) -> dict[str, Any]:
    """Holds a status body against the contract."""
    assert response.status == 200, (response.start, response.body)
    body: dict[str, Any] = response.json()
    assert_status_body(body)
    return body


def assert_status_body(body: dict[str, Any]) -> None:
    """Members and their values, as far as they hang together."""
    assert set(body) == BODY_MEMBERS, set(body) ^ BODY_MEMBERS
    assert body["workflow_type"] in TYPES
    over = body["status"] in ENDED
    assert over or body["status"] in ("pending", "running", "waiting"), body["status"]
    assert body["progress"] is None or 0 <= body["progress"] <= 1
    assert (body["ended_at"] is not None) == over, body
    for name in ("started_at", "updated_at", "ended_at"):
        assert body[name] is None or TIMESTAMP.fullmatch(body[name]), (name, body[name])
    if body["status"] == "completed":
        assert (body["progress"], body["error"]) == (1, None), body
    elif over:
        assert {"code", "message"} <= set(body["error"]), body["error"]
        assert body["result"] is None
    for step in body["steps"] or ():
        assert {"id", "status"} <= set(step), step


async def status(house: House, operation_id: str, caller: bytes = ALICE) -> dict[str, Any]:
    """The status body."""
    return body_of(await fetch(house.door, path_of(operation_id, "status"), caller))


def job_told(body: dict[str, Any]) -> bool:
    """Whether this is what the job itself says, not only what Temporal knows of it."""
    return body["attempts"] is not None


async def stands(
    house: House,
    operation_id: str,
    good: str | Callable[[dict[str, Any]], Any],
    caller: bytes = ALICE,
) -> dict[str, Any]:
    """The status body, as soon as it is so and the job itself says it: while its worker is busy,
    the gateway tells what Temporal knows, without steps and question.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        body = await status(house, operation_id, caller)
        if job_told(body) and (body["status"] == good if isinstance(good, str) else good(body)):
            return body
        assert time.monotonic() < end, body
        assert body["status"] not in ENDED, body
        await asyncio.sleep(0.05)


async def last_status(house: House, operation_id: str, caller: bytes = ALICE) -> dict[str, Any]:
    """The status body of a job that is over, as soon as the job itself tells it: where its worker
    was busy just then, the gateway looks once more after a while.
    """

    async def told() -> dict[str, Any] | None:
        body = await status(house, operation_id, caller)
        return body if job_told(body) or body["status"] == "terminated" else None

    body: dict[str, Any] = await until(f"the end of {operation_id} in its own words", told)
    return body


async def over(house: House, operation_id: str, caller: bytes = ALICE) -> dict[str, Any]:
    """The status body when the job is over, however it ended."""
    response = await result(house.door, operation_id, caller)
    body = await last_status(house, operation_id, caller)
    assert response.status == (200 if body["status"] == "completed" else 409), response.body
    return body


async def result(door: Door, operation_id: str, *fields: bytes) -> Message:
    """What the result's path says when the job is over."""
    end = time.monotonic() + PATIENCE_SECONDS
    path = path_of(operation_id, "result?wait=5")
    while (response := await fetch(door, path, *fields)).status == 202:
        assert time.monotonic() < end, response.body
    return response


async def until(what: str, condition: Callable[[], Awaitable[Any]]) -> Any:
    """Asks again and again, for what comes within a moment; what is found."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not (found := await condition()):
        assert time.monotonic() < end, f"never: {what}"
        await asyncio.sleep(0.05)
    return found


async def ended(
    house: House, operation_id: str, expected: str = "completed", caller: bytes = ALICE
) -> dict[str, Any]:
    """The status body when the job is over, as expected."""
    body = await over(house, operation_id, caller)
    assert body["status"] == expected, body
    return body


async def did(
    house: House,
    kind: str,
    body: Any,
    *fields: bytes,
    expected: str = "completed",
    caller: bytes = ALICE,
) -> dict[str, Any]:
    """Starts a job and waits for its end; the status body."""
    operation_id = await started(house, kind, body, *fields, caller=caller)
    return await ended(house, operation_id, expected, caller)


async def tell(
    house: House, operation_id: str, what: str, body: Any = b"", caller: bytes = ALICE
) -> Message:
    """A POST to a job: `cancel`, `signal/pause` …"""
    return await house.door.ask(post(path_of(operation_id, what), body, caller))


def steps_of(body: dict[str, Any]) -> dict[str, str]:
    """How each step stands."""
    return {step["id"]: step["status"] for step in body["steps"]}


def call(path: str, method: str = "GET", service: str = "svc", **members: Any) -> dict[str, Any]:
    """A request as data."""
    return {"service": service, "method": method, "path": path} | members


def dumped(value: Any) -> bytes:
    """A body."""
    return json.dumps(value).encode()
