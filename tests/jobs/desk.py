"""Jobs as the gateway has them, over a real Temporal with small workflows and a real hub."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from gateway.jobs.client import Jobs
from gateway.jobs.codec import data_converter
from gateway.jobs.connect import connect
from gateway.jobs.inputs import job_type
from gateway.jobs.owners import Owners
from gateway.jobs.refusals import JobRefusedError
from gateway.jobs.starting import NewJob, Started
from gateway.jobs.status import JobStatus
from gateway.policy.identity import Identity
from gateway.policy.payload_keys import PayloadKeys
from gateway.settings import EndpointUrl, ServiceSettings, Settings
from sse.event import BackplaneAwayError, NewEvent, Published
from sse.hub import Hub, HubLimits
from sse.ring import HistoryLimits
from tests.jobs.tiny_workflows import ACTIVITIES, WORKFLOWS
from tests.temporal_server import PATIENCE_SECONDS, TemporalServer

REQUEST = "api_request_workflow"
ASYNC = "async_request_workflow"
ORCHESTRATION = "multi_service_orchestration_workflow"

ALICE = Identity(subject="alice", tenant="acme", tier="pro", scopes=frozenset({"jobs:write"}))
COLLEAGUE = Identity(subject="carol", tenant="acme", scopes=frozenset({"jobs:read"}))
BOB = Identity(subject="bob", tenant="other", scopes=frozenset({"jobs:write"}))


def key(name: str, byte: int) -> tuple[str, bytes]:
    """A payload key."""
    return name, bytes([byte]) * 32


def service(name: str, *aliases: str, exposed: bool = True) -> ServiceSettings:
    """A registered service."""
    return ServiceSettings(
        name=name,
        aliases=(name, *aliases),
        endpoints=(EndpointUrl("http", "127.0.0.1", 9, ""),),
        exposed=exposed,
    )


SETTINGS = Settings(
    services=(service("demo", "demo_service"), service("hidden", exposed=False)),
    payload_keys=(key("k1", 1),),
)


@dataclass
class Desk:
    """Jobs, and what surrounds them."""

    jobs: Jobs
    hub: Hub
    client: Client
    settings: Settings
    away: bool = False  # the backplane
    withdrawn: list[str] = field(default_factory=list)

    async def withdraw(self, question_id: str) -> None:
        """As the gateway withdraws questions."""
        self.withdrawn.append(question_id)
        if self.away:
            raise OSError

    async def publish(self, client_id: str, events: Sequence[NewEvent]) -> Published:
        """As the gateway publishes."""
        if self.away:
            raise BackplaneAwayError
        return self.hub.publish(client_id, events)

    async def start(
        self,
        what: Any = None,
        kind: str = REQUEST,
        caller: Identity = ALICE,
        **more: Any,
    ) -> Started:
        """A job that does `what`."""
        members: dict[str, Any] = {"service": "demo", "body": what}
        if kind == ORCHESTRATION:
            members = {"steps": [{"id": "one", **members}]}
        members |= more.pop("members", {})
        found = job_type(kind)
        given = await self.jobs.read(found, orjson.dumps(members), caller)
        if "key" in more:  # as of this test: the server knows those of others
            more["key"] = f"{self.settings.temporal_task_queue} {more['key']}"
        defaults = {"address": "192.0.2.1", "route": kind, "fingerprint": str(members)}
        return await self.jobs.start(NewJob(found, given, caller, **(defaults | more)))

    async def started(self, what: Any = None, kind: str = REQUEST, **more: Any) -> str:
        """Its operation id."""
        return (await self.start(what, kind, **more)).operation_id

    async def ended(self, operation_id: str, caller: Identity = ALICE) -> JobStatus:
        """The status when it is over."""
        found = await self.jobs.wait(caller, operation_id, PATIENCE_SECONDS)
        assert found is not None, "it is not over"
        return found

    async def stands(self, operation_id: str, status: str, caller: Identity = ALICE) -> JobStatus:
        """The status, as soon as it is that."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                found = await self.jobs.status(caller, operation_id)
                if found.status == status:
                    return found
                await asyncio.sleep(0.01)

    async def go(self, operation_id: str) -> None:
        """Let a job that waits go on."""
        await self.client.get_workflow_handle(operation_id).signal("go")


async def listed(
    room: Desk, count: int, caller: Identity = ALICE, **more: Any
) -> tuple[list[dict[str, Any]], str | None]:
    """A page, as soon as it has so many: lists are behind by some milliseconds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            found, token = await room.jobs.page(caller, **more)
            mine = [each for each in found if each["started_at"]]
            if len(mine) >= count:
                return mine, token
            await asyncio.sleep(0.02)


def tenant(name: str) -> Identity:
    """A caller whom no other test has."""
    return replace(ALICE, tenant=name)


def refusal(caught: Any) -> tuple[str, str]:
    """Code and message of what was refused."""
    assert isinstance(caught.value, JobRefusedError)
    return caught.value.rejection.code, caught.value.rejection.message


@contextlib.asynccontextmanager
async def desk(
    temporal: TemporalServer, *, worker: bool = True, settings: Settings = SETTINGS
) -> AsyncIterator[Desk]:
    """Jobs over that server; with a worker, on a queue of their own."""
    settings = replace(settings, temporal_task_queue=temporal.new_queue())
    keys = PayloadKeys(settings)
    client = await connect(temporal.address, settings, data_converter(keys, None), role="gateway")
    hub = Hub(asyncio.get_running_loop(), HubLimits(HistoryLimits()), time.monotonic, time.time)
    hub.start()
    found = Desk(None, hub, client, settings)  # type: ignore[arg-type]
    found.jobs = Jobs(
        client,
        Owners(keys.derive(b"job owner")),
        settings=lambda: found.settings,
        publish=found.publish,
        withdraw=found.withdraw,
        follow=hub.follow,
        callback_fault=lambda url: "has no host" if "//" not in url else None,
    )
    hub.job_ended = found.jobs.ended
    async with contextlib.AsyncExitStack() as stack:
        if worker:
            # It answers, however long a busy machine takes: what it tells is what tests are about.
            patience = stack.enter_context(pytest.MonkeyPatch.context())
            patience.setattr("gateway.jobs.looking.TELL_SECONDS", PATIENCE_SECONDS)
            await stack.enter_async_context(working(client, settings.temporal_task_queue))
        try:
            yield found
        finally:
            await found.jobs.close()
            hub.close()


def working(client: Client, queue: str) -> Worker:
    """A worker with the small workflows."""
    return Worker(
        client,
        task_queue=queue,
        workflows=WORKFLOWS,
        activities=ACTIVITIES,
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
