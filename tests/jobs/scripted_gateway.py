"""A gateway whose answers a test writes, over a real socket, and a worker that calls it: for tests
of what workers say and of what they make of answers. The real gateway is in tests/scenarios.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

import aiohttp
import orjson
import structlog
from aiohttp import web
from temporalio.client import Client, WorkflowHandle
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.worker import Worker, WorkflowRunner

from gateway.jobs.activities import activities
from gateway.jobs.activities.parts import CallbackOutcome, Parts
from gateway.jobs.activities.publishing import HttpPublisher
from gateway.jobs.gateway_http import GatewayHttp, new_session
from gateway.jobs.models import Caller, JobContext
from gateway.jobs.types import OWNER_ATTRIBUTE, STATE_ATTRIBUTE
from gateway.jobs.worker import CountRetries, sandbox
from gateway.policy.on_behalf import HEADER, Assertion, Assertions

KEYS = {"one": bytes(range(32))}
TOKEN = "service-token"
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def answer(status: int = 200, value: Any = None, **headers: str) -> web.Response:
    """An answer of a service, as JSON."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    body = None if value is None else orjson.dumps(value)
    return web.Response(
        status=status, body=body, headers={"Content-Type": "application/json", **named}
    )


def refusal(status: int, code: str, retry_after: int | None = None) -> web.Response:
    """An error of the gateway's own."""
    error: dict[str, Any] = {"code": code, "message": f"it is {code}", "request_id": "r"}
    if retry_after is not None:
        error["retry_after"] = retry_after
    return answer(status, {"error": error}, X_Gateway_Error=code)


@dataclass
class Seen:
    """A request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def assertion(self) -> Assertion:
        token = self.headers[HEADER.lower()].encode()
        return Assertions(KEYS).verify(token, time.time())


class ScriptedGateway:
    """Answers each path by what was put there: one answer a request, the last one for good."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.events: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._keys: set[str] = set()
        self._scripts: dict[str, deque[web.Response | Handler]] = {}
        self.changed = asyncio.Condition()
        self.url = ""
        self.publishing = True

    def put(self, path: str, *answers: web.Response | Handler) -> None:
        self._scripts[path] = deque(answers)

    def asked(self, path: str) -> list[Seen]:
        return [each for each in self.seen if each.target.partition("?")[0] == path]

    def types(self, client_id: str) -> list[str]:
        return [each["event_type"] for each in self.events[client_id]]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30), self.changed:
            await self.changed.wait_for(condition)

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen = Seen(request.method, request.raw_path, headers, await request.read())
        async with self.changed:
            self.seen.append(seen)
            self.changed.notify_all()
        path = request.raw_path.partition("?")[0]
        script = self._scripts.get(path)
        if script is None:
            return await self._otherwise(seen, path)
        made = script[0] if len(script) == 1 else script.popleft()
        if isinstance(made, web.Response):
            return web.Response(status=made.status, body=made.body, headers=made.headers)
        return await made(request)

    async def _otherwise(self, seen: Seen, path: str) -> web.Response:
        if path == "/internal/jobs/admission":
            return answer(200, {"allowed": True, "error": None})
        if path.startswith("/api/v1/events/"):
            if not self.publishing:
                return refusal(503, "SERVICE_UNAVAILABLE", 1)
            return await self._publish(path.rpartition("/")[2], seen)
        return answer(404, {"path": path})

    async def _publish(self, client_id: str, seen: Seen) -> web.Response:
        async with self.changed:
            key = seen.headers["idempotency-key"]
            if key not in self._keys:
                self._keys.add(key)
                self.events[client_id] += seen.json
            self.changed.notify_all()
        return answer(202, {"ids": [], "subscribers": 0})


@asynccontextmanager
async def scripted_gateway() -> AsyncIterator[ScriptedGateway]:
    gateway = ScriptedGateway()
    runner = web.ServerRunner(web.Server(gateway.serve), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    gateway.url = f"http://{host}:{port}"
    try:
        yield gateway
    finally:
        await runner.cleanup()


@dataclass
class Receiver:
    """Takes callbacks, as the room callbacks would have sent them."""

    outcomes: deque[CallbackOutcome] = field(default_factory=deque)
    taken: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def send(self, url: str, message_id: str, body: bytes) -> CallbackOutcome:
        async with self.changed:
            self.taken.append((url, message_id, orjson.loads(body)))
            self.changed.notify_all()
        return self.outcomes.popleft() if self.outcomes else CallbackOutcome()

    @property
    def types(self) -> list[str]:
        return [body["type"] for _, _, body in self.taken]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30), self.changed:
            await self.changed.wait_for(condition)


@dataclass
class Figures:
    """What was counted."""

    ended: list[tuple[str, str]] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    lost: list[tuple[str, int]] = field(default_factory=list)

    def executed(self, workflow_type: str, status: str, seconds: float) -> None:
        assert seconds >= 0
        self.ended.append((workflow_type, status))

    def given_up(self, workflow_type: str, events: int) -> None:
        self.lost.append((workflow_type, events))

    def retried(self, activity_type: str) -> None:
        self.again.append(activity_type)


def http_to(
    url: str, session_factory: Callable[[], aiohttp.ClientSession] = new_session
) -> GatewayHttp:
    numbers = itertools.count()
    return GatewayHttp(
        url,
        TOKEN,
        Assertions(KEYS),
        wall=time.time,
        new_request_id=lambda: f"request-{next(numbers)}",
        session_factory=session_factory,
    )


class Jobs:
    """A worker for a test, and what it is started with."""

    def __init__(self, client: Client, gateway: ScriptedGateway, queue: str) -> None:
        self.client = client
        self.gateway = gateway
        self.queue = queue
        self.receiver = Receiver()
        self.figures = Figures()
        self.lines: list[dict[str, Any]] = []

    def context(self, workflow_type: str, timeout_seconds: float = 30.0, **more: Any) -> JobContext:
        caller = Caller("ada", "acme", "pro", ["jobs:write"], ["ada"], "192.0.2.7")
        return JobContext(
            more.pop("caller", caller),
            f"{uuid4().hex[:16]}-{uuid4()}",
            workflow_type,
            timeout_seconds,
            correlation_id="corr",
            bases={"orders": "/api/v1/orders", "rows": ""},
            **more,
        )

    async def start(
        self, context: JobContext, asked: Any, within: timedelta | None = None
    ) -> WorkflowHandle[Any, Any]:
        """`within`: when Temporal ends it itself."""
        return await self.client.start_workflow(
            context.workflow_type,
            args=[context, asked],
            id=context.operation_id,
            task_queue=self.queue,
            execution_timeout=within,
            search_attributes=TypedSearchAttributes(
                [
                    SearchAttributePair(
                        SearchAttributeKey.for_keyword(OWNER_ATTRIBUTE), context.operation_id[:16]
                    ),
                    SearchAttributePair(SearchAttributeKey.for_keyword(STATE_ATTRIBUTE), "pending"),
                ]
            ),
        )

    def events(self, context: JobContext) -> list[dict[str, Any]]:
        return self.gateway.events[f"job:{context.operation_id}"]

    def types(self, context: JobContext) -> list[str]:
        return [each["event_type"] for each in self.events(context)]


def log_into(lines: list[dict[str, Any]], broken: str | None = None) -> Any:
    """A log whose lines a test reads; `broken` lines can't be written."""

    def keep(_: Any, method: str, line: Any) -> Any:
        if line["event"] == broken:
            raise OSError("no space left")
        lines.append(dict(line))
        raise structlog.DropEvent

    return structlog.wrap_logger(None, processors=[keep], wrapper_class=structlog.BoundLogger)


@asynccontextmanager
async def jobs_worker(
    client: Client,
    gateway: ScriptedGateway,
    queue: str,
    workflows: Sequence[type[Any]],
    runner: WorkflowRunner | None = None,
    callbacks: bool = True,
    cached: int = 1000,
    log_fails: bool = False,
) -> AsyncIterator[Jobs]:
    """`cached` 0: every task replays its workflow from the start. `log_fails`: of requests."""
    jobs = Jobs(client, gateway, queue)
    http = http_to(gateway.url)
    parts = Parts(
        http=http,
        publisher=HttpPublisher(http),
        callbacks=jobs.receiver if callbacks else None,
        client=client,
        metrics=jobs.figures,
        log=log_into(jobs.lines, "job_request" if log_fails else None),
    )
    worker = Worker(
        client,
        task_queue=queue,
        workflows=workflows,
        activities=activities(parts),
        workflow_runner=runner or sandbox(),
        interceptors=[CountRetries(jobs.figures)],
        max_cached_workflows=cached,
        # As gateway/jobs/worker has it: a cancellation arrives within a second.
        max_heartbeat_throttle_interval=timedelta(seconds=1),
        default_heartbeat_throttle_interval=timedelta(seconds=1),
    )
    try:
        async with worker:
            yield jobs
    finally:
        await http.close()
