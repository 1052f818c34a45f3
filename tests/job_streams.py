"""Streams of jobs for tests: what a worker publishes, what Temporal would say, and how one reads.

A `Desk` stands where the client of Temporal would: it says what it was told to say, and counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from gateway.edge.events import JobsDoor
from gateway.errors import Rejection
from gateway.policy.auth import Identity
from tests.messages import Message, request
from tests.streams import (
    EVENT_STREAM,
    LOCAL,
    SECRET,
    Door,
    Event,
    Stream,
    published,
    raw_stream,
    who,
)
from tests.wire import RunningGateway, start_gateway

KEYED = {"JWT_SECRET": SECRET}
WORKER = who("worker", "internal")
READER = who("ann", "jobs:read", tenant="acme")
OTHER = who("bob", "jobs:read", "jobs:write", tenant="globex")
OPERATION = "acme-1"
GONE = Rejection("NOT_FOUND", "There is no job of this id, or it is none of yours.")
AWAY = Rejection("SERVICE_UNAVAILABLE", "Temporal is away", 2)


def at(number: int) -> str:
    """The time of the n-th change of a job."""
    return f"2026-11-21T14:00:00.{number:03}Z"


def status(number: int, state: str = "running", **members: Any) -> dict[str, Any]:
    """A status body as of the n-th change."""
    return {
        "operation_id": OPERATION,
        "status": state,
        "progress": number / 100,
        "result": None,
        "steps": [],
        "updated_at": at(number),
    } | members


def told(kind: str, number: int, state: str = "running", **members: Any) -> dict[str, Any]:
    """An event that a worker publishes."""
    return {"event_type": f"job.{kind}", "data": status(number, state, **members)}


def progress(*numbers: int) -> list[dict[str, Any]]:
    """So many events of progress."""
    return [told("progress", number) for number in numbers]


class Desk:
    """What is said of jobs; nothing while `open` is not set."""

    def __init__(self) -> None:
        self.says: dict[str, object] = {}
        self.asked: list[str] = []
        self.open = asyncio.Event()
        self.open.set()

    def owns(self, identity: Identity, operation_id: str) -> bool:
        """By the beginning of the id."""
        return operation_id.startswith(f"{identity.tenant}-")

    async def snapshot(self, operation_id: str) -> bytes | Rejection:
        """The status body, as it is when asked."""
        self.asked.append(operation_id)
        found = self.says.get(operation_id, GONE)
        await self.open.wait()
        if isinstance(found, Exception):
            raise found
        return found if isinstance(found, Rejection) else json.dumps(found).encode()


def seat(gateway: RunningGateway, desk: Desk) -> None:
    """Let a gateway's door ask this desk."""
    door = gateway.gateway._room.door
    door.jobs = JobsDoor(owns=desk.owns, snapshot=desk.snapshot)


@contextlib.asynccontextmanager
async def job_gateway(**environ: object) -> AsyncIterator[tuple[RunningGateway, Desk]]:
    """A gateway, and the desk where it asks about jobs: OPERATION runs."""
    desk = Desk()
    desk.says[OPERATION] = status(10)
    async with start_gateway(**({**KEYED} | environ)) as gateway:
        seat(gateway, desk)
        yield gateway, desk


def get(
    operation_id: str = OPERATION,
    *fields: bytes,
    query: str = "",
    after: str | None = None,
    accept: bytes | None = EVENT_STREAM,
    prefix: str = "/api/v1",
    method: bytes = b"GET",
) -> bytes:
    """The request that opens a job's stream."""
    target = f"{prefix}/workflows/{operation_id}/stream{'?' if query else ''}{query}"
    lines = [line for line in (accept, *(fields or (READER,))) if line is not None]
    if after is not None:
        lines.append(b"Last-Event-ID: " + after.encode())
    return request(b"%b %b HTTP/1.1" % (method, target.encode()), *lines, host=LOCAL)


@contextlib.asynccontextmanager
async def watch(
    door: Door, operation_id: str = OPERATION, *fields: bytes, **options: Any
) -> AsyncIterator[tuple[Stream, Event]]:
    """An open stream, of which `connection.established` and the snapshot were read."""
    async with raw_stream(door, get(operation_id, *fields, **options)) as stream:
        stream.established = await stream.event()
        assert stream.established.type == "connection.established", stream.established
        snapshot = await stream.event()
        assert snapshot.type == "job.snapshot", snapshot
        yield stream, snapshot


async def tell(door: Door, *events: dict[str, Any], operation_id: str = OPERATION) -> list[str]:
    """Publishes as a worker does; the ids."""
    return await published(door, f"job:{operation_id}", list(events), WORKER)


async def asks(door: Door, *fields: bytes, **options: Any) -> Message:
    """What a request for a job's stream is answered, where that is no stream."""
    operation_id = options.pop("operation_id", OPERATION)
    return await door.ask(get(operation_id, *fields, **options))
