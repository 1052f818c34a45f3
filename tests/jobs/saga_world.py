"""The world around a workflow under test: a worker on the real server, with the activities under
their agreed names scripted. What is scripted is the network: services, the gateway's store of
questions, its streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkflowRunner

from gateway.jobs.activities.breakers import Breakers
from gateway.jobs.activity_models import (
    AskInput,
    BreakerAsk,
    BreakerState,
    CallInput,
    CallResult,
    Decision,
    LogInput,
    PublishInput,
)
from gateway.jobs.models import Caller, JobContext, JobError, ServiceAnswer
from tests.jobs.fast_clock import FastClock
from tests.temporal_server import TemporalServer

DAY = 86_400.0
TAG = "0123456789abcdef"


def broken(code: str = "EXTERNAL", status: int | None = 500) -> ApplicationError:
    """What `route_to_service` raises when a service failed for good."""
    details = {"error": asdict(JobError(code, "it broke", status=status)), "attempts": 2}
    return ApplicationError("it broke", details, type=code, non_retryable=True)


@dataclass
class World:
    """What services were asked, what streams were told, which questions are open.

    `script`: what a call of a step (`{step}` or `{step}:undo`) gives: a body, a failure, an event
    that the call waits for, or a list of such, one for each call. `at_once`: how a question stands
    when it was asked; `overdue`: when nobody answered in its time.
    """

    client: Client
    queue: str
    script: dict[str, Any] = field(default_factory=dict)
    calls: list[CallInput] = field(default_factory=list)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    questions: dict[str, Decision] = field(default_factory=dict)
    asked: list[AskInput] = field(default_factory=list)
    desk: list[str] = field(default_factory=list)
    desk_failures: dict[str, list[Exception]] = field(default_factory=dict)
    breakers: list[BreakerAsk] = field(default_factory=list)
    desk_held: dict[str, asyncio.Event] = field(default_factory=dict)
    at_once: Callable[[Decision], Decision] = lambda decision: decision
    overdue: Callable[[Decision], Decision] = lambda decision: decision
    breaker_failing: Exception | asyncio.Event | None = None
    log_failing: Exception | None = None
    logged: list[LogInput] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def made(self) -> list[str]:
        """The calls by what is in their keys behind the job's id."""
        return [call.key.split(":", 1)[1] for call in self.calls]

    def told(self, event_type: str) -> list[dict[str, Any]]:
        """What was told in events of this type."""
        return [data for each, data in self.events if each == event_type]

    def statuses(self, step: str) -> list[str]:
        """How a step stood, one after the other, as the stream was told."""
        steps = [each["step"] for each in self.told("job.step")]
        return [each["status"] for each in steps if each["id"] == step]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what an activity does."""
        async with self.changed:
            await self.changed.wait_for(condition)

    async def start(
        self,
        workflow_type: str,
        given: Any,
        timeout_seconds: float = 3650 * DAY,
        tag: str = TAG,
        **members: Any,
    ) -> WorkflowHandle[Any, Any]:
        """Start a job as the gateway does."""
        caller = Caller("alice", "acme", "pro", ["jobs:write"])
        context = JobContext(caller, f"{tag}-{uuid4()}", workflow_type, timeout_seconds, **members)
        return await self.client.start_workflow(
            workflow_type, args=[context, given], id=context.operation_id, task_queue=self.queue
        )

    async def run(self, workflow_type: str, given: Any, **members: Any) -> dict[str, Any]:
        """Its result."""
        handle = await self.start(workflow_type, given, **members)
        result: dict[str, Any] = await handle.result()
        return result

    def shows(self, prompt: str) -> bool:
        """Whether the job was seen to wait for this."""
        questions = [each["question"] for each in self.told("job.question")]
        return any(each is not None and each["prompt"] == prompt for each in questions)

    async def open_question(self) -> AskInput:
        """The next that is asked and open, once the workflow says that it waits."""
        await self.until(lambda: any(each["question"] for each in self.told("job.question")))
        return self.asked[-1]

    async def decide(
        self, handle: WorkflowHandle[Any, Any], response: Any, status: str = "answered"
    ) -> Decision:
        """Decide the question in the store, and tell it as the outbox does."""
        question = (await self.open_question()).question_id
        decision = Decision(question, status, response, "bob", "2026-01-01T00:00:00.000Z")
        self.questions[question] = decision
        await self.tell(handle, decision)
        return decision

    async def tell(self, handle: WorkflowHandle[Any, Any], decision: Decision) -> None:
        """One delivery of the outbox."""
        await handle.execute_update("question_decided", decision, id=decision.question_id)

    # Activities

    def activities(self) -> list[Callable[..., Any]]:
        """Under the names that workflows call them by."""
        return [
            self.route_to_service,
            self.publish_events,
            self.ask_question,
            self.read_question,
            self.withdraw_question,
            self.log_api_request,
            self.new_session_id,
            self.ask_breaker,
        ]

    @activity.defn
    async def route_to_service(self, call: CallInput) -> CallResult:
        self.calls.append(call)
        await self._notify()
        scripted = self.script.get(self.made[-1], {"by": call.request.path})
        if isinstance(scripted, asyncio.Event):
            await self._held(scripted)
            scripted = {"by": call.request.path}
        if isinstance(scripted, list):
            scripted = scripted.pop(0) if len(scripted) > 1 else scripted[0]
        if isinstance(scripted, Exception):
            raise scripted
        if isinstance(scripted, CallResult):
            return scripted
        return CallResult(ServiceAnswer(200, {}, scripted))

    async def _held(self, event: asyncio.Event) -> None:
        """Until the event; heartbeats let a cancellation in."""
        while not event.is_set():
            activity.heartbeat()
            try:
                async with asyncio.timeout(0.05):
                    await event.wait()
            except TimeoutError:
                pass

    @activity.defn
    async def publish_events(self, given: PublishInput) -> None:
        self.events += [(each.event_type, each.data) for each in given.events]
        await self._notify()

    @activity.defn
    async def ask_question(self, given: AskInput) -> Decision:
        self.asked.append(given)
        await self._at_desk("ask_question")
        seconds = given.body.get("expires_in", 7 * DAY)
        at = datetime.now(UTC) + timedelta(seconds=seconds)
        decision = Decision(given.question_id, "open", expires_at=at.isoformat())
        return self.questions.setdefault(given.question_id, self.at_once(decision))

    @activity.defn
    async def read_question(self, given: AskInput) -> Decision:
        await self._at_desk("read_question")
        question = self.questions[given.question_id]
        if question.status == "open":
            question = self.questions[given.question_id] = self.overdue(question)
        return question

    @activity.defn
    async def withdraw_question(self, given: AskInput) -> Decision:
        await self._at_desk("withdraw_question")
        question = self.questions.get(given.question_id)
        if question is None or question.status == "open":
            question = Decision(given.question_id, "withdrawn")
            self.questions[given.question_id] = question
        return question

    @activity.defn
    async def ask_breaker(self, given: BreakerAsk) -> BreakerState:
        self.breakers.append(given)
        await self._notify()
        if isinstance(self.breaker_failing, asyncio.Event):
            await self.breaker_failing.wait()
        elif self.breaker_failing is not None:
            raise self.breaker_failing
        return await Breakers(self.client).ask_breaker(given)

    @activity.defn
    async def log_api_request(self, given: LogInput) -> None:
        self.logged.append(given)
        if self.log_failing is not None:
            raise self.log_failing

    @activity.defn
    async def new_session_id(self) -> str:
        return "session-1"

    async def _at_desk(self, name: str) -> None:
        self.desk.append(name)
        await self._notify()
        if name in self.desk_held:
            await self._held(self.desk_held[name])
        failing = self.desk_failures.get(name)
        if failing:
            raise failing.pop(0)

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()


def hurried(days_a_second: float = 11.5) -> FastClock:
    """Waits of the workflows' own patience (30 s) are hurried too."""
    return FastClock(days_a_second * DAY, above_seconds=20)


@asynccontextmanager
async def world(
    server: TemporalServer,
    workflows: Sequence[type],
    runner: WorkflowRunner | None = None,
    *,
    cached: int = 1000,
) -> AsyncIterator[World]:
    """A worker for these workflows; `cached` 0: every task replays its workflow from the start.

    Its time is everybody's, unless the runner is a `hurried` one: then a test must not depend on
    what comes first, an answer or the end of its time.
    """
    client = await server.client()
    made = World(client, server.new_queue())
    async with Worker(
        client,
        task_queue=made.queue,
        workflows=workflows,
        activities=made.activities(),
        workflow_runner=runner or UnsandboxedWorkflowRunner(),
        max_cached_workflows=cached,
        # A cancellation comes with the answer to a heartbeat.
        max_heartbeat_throttle_interval=timedelta(seconds=0.05),
    ):
        yield made


async def failure_of(handle: WorkflowHandle[Any, Any]) -> tuple[str, dict[str, Any]]:
    """The type and the details of the failure that a job ended with."""
    with pytest.raises(WorkflowFailureError) as raised:
        await handle.result()
    cause = raised.value.cause
    assert isinstance(cause, ApplicationError), cause
    assert cause.type is not None
    return cause.type, cause.details[0]
