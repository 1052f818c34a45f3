"""Small workflows under the names of the real ones, for tests of the gateway's side: what they do
stands in their input, and all that is looked at from outside is there (query, signals, update).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.common import RetryPolicy, SearchAttributeKey
from temporalio.exceptions import ActivityError, ApplicationError

from gateway.jobs.activity_models import Decision
from gateway.jobs.models import ApiRequestInput, AsyncRequestInput, JobContext, OrchestrationInput
from gateway.jobs.types import STATE_ATTRIBUTE

STATE = SearchAttributeKey.for_keyword(STATE_ATTRIBUTE)
MOMENT = "2026-11-21T10:00:00.000Z"
AGAIN = RetryPolicy(initial_interval=timedelta(milliseconds=1), maximum_attempts=2)


@activity.defn(name="route_to_service")
async def flaky(fails: int) -> str:
    """Fails so many times."""
    if activity.info().attempt <= fails:
        raise ApplicationError("the service is ill", type="EXTERNAL")
    return "ok"


@activity.defn(name="transform_response")
async def slow() -> str:
    """Goes on until it is cancelled."""
    await asyncio.Event().wait()
    return "never"


class _Tiny:
    """What all of them have."""

    def __init__(self) -> None:
        self.body: dict[str, Any] = {}
        self.going = False

    def begin(self, context: JobContext) -> None:
        self.body = {
            "operation_id": context.operation_id,
            "workflow_type": context.workflow_type,
            "status": "running",
            "progress": 0.0,
            "current_step": "one",
            "steps": [{"id": "one", "status": "running", "attempts": 1}],
            "question": None,
            "attempts": 1,
            "result": None,
            "error": None,
            "started_at": MOMENT,
            "updated_at": MOMENT,
            "ended_at": None,
        }
        workflow.upsert_search_attributes([STATE.value_set("running")])

    def end(self, status: str, **more: Any) -> None:
        self.body |= {"status": status, "current_step": None, "ended_at": MOMENT} | more

    async def act(self, what: Any) -> Any:
        """Do as the input says."""
        do = what.get("do") if isinstance(what, dict) else "complete"
        await getattr(self, f"_{do}")(what)
        result = what.get("result", {"answer": 42}) if isinstance(what, dict) else {"answer": 42}
        self.end("completed", result=result, progress=1.0)
        return result

    async def _complete(self, _what: Any) -> None: ...

    async def _fail(self, what: Any) -> None:
        code = what.get("code", "EXTERNAL")
        error = {"code": code, "message": "it broke", "step": "one", "status": 500}
        undone = [{"step": "one", "status": "done"}]
        if what.get("silent"):
            raise ApplicationError("nothing said", type=None, non_retryable=True)
        self.end("timed_out" if code == "TIMED_OUT" else "failed", error=error)
        if code == "TIMED_OUT":
            workflow.upsert_search_attributes([STATE.value_set("timed_out")])
        details = {"error": error, "data": {}, "errors": [], "compensations": undone}
        raise ApplicationError("it broke", details, type=code, non_retryable=True)

    async def _wait(self, _what: Any) -> None:
        try:
            await workflow.wait_condition(lambda: self.going)
        except asyncio.CancelledError:
            self.end("cancelled", error={"code": "CANCELLED", "message": "the job was cancelled"})
            raise

    async def _ask(self, _what: Any) -> None:
        question = {"question_id": "q", "prompt": "Well?", "step": "one", "expires_at": None}
        self.body |= {"status": "waiting", "question": question}
        workflow.upsert_search_attributes([STATE.value_set("waiting")])
        await workflow.wait_condition(lambda: self.going)

    async def _linger(self, _what: Any) -> None:
        """Tells its end, and is not closed before it is told to go."""
        self.end("completed", result="early", progress=1.0)
        await workflow.wait_condition(lambda: self.going)

    async def _lots(self, what: Any) -> None:
        """A bit of everything, for the timeline."""
        await workflow.execute_activity(
            "route_to_service",
            1,
            start_to_close_timeout=timedelta(seconds=5),
            retry_policy=AGAIN,
            summary="pay: request",
        )
        await workflow.execute_local_activity(
            "route_to_service", 0, start_to_close_timeout=timedelta(seconds=5)
        )
        for fails, local in ((9, True), (9, False)):
            run = workflow.execute_local_activity if local else workflow.execute_activity
            try:
                await run(
                    "route_to_service",
                    fails,
                    start_to_close_timeout=timedelta(seconds=5),
                    retry_policy=AGAIN,
                )
            except Exception:
                workflow.logger.debug("as it should")
        await workflow.sleep(0.01)
        timer = asyncio.create_task(asyncio.sleep(3600))
        children: tuple[dict[str, Any], ...] = (
            {"arg": "complete"},
            {"arg": "fail"},
            {"arg": "wait", "execution_timeout": timedelta(seconds=1)},
            {"arg": "complete", "id": workflow.info().workflow_id},  # there is one of this id
        )
        for more in children:
            try:
                await workflow.execute_child_workflow("tiny_child", **more)
            except Exception:
                workflow.logger.debug("as it should")
        timer.cancel()
        running = workflow.start_activity(
            "transform_response",
            start_to_close_timeout=timedelta(seconds=50),
            heartbeat_timeout=timedelta(seconds=5),
        )
        await workflow.wait_condition(lambda: self.going)
        running.cancel()
        if what.get("fails"):
            await self._fail(what)

    async def _cut_off(self, _what: Any) -> None:
        """A local activity that is cancelled, and the timer of the job's time-out."""
        until = workflow.info().start_time + timedelta(seconds=60)
        limit = asyncio.create_task(asyncio.sleep((until - workflow.now()).total_seconds()))
        running = workflow.start_local_activity(
            "transform_response",
            start_to_close_timeout=timedelta(seconds=50),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        await workflow.sleep(0.01)
        limit.cancel()
        running.cancel()
        try:
            await running
        except ActivityError:
            workflow.logger.debug("as it should")

    async def _retrying(self, _what: Any) -> None:
        await workflow.execute_activity(
            "route_to_service",
            99,
            start_to_close_timeout=timedelta(seconds=5),
            retry_policy=RetryPolicy(initial_interval=timedelta(seconds=500)),
        )

    async def _stuck(self, _what: Any) -> None:
        """Answers nobody for a while: its task never ends."""
        raise RuntimeError("a bug: the task fails and is tried again")

    @workflow.query
    def status(self) -> dict[str, Any]:
        return self.body

    @workflow.signal
    def go(self) -> None:
        self.going = True

    @workflow.signal
    def pause(self) -> None:
        self.body["status"] = "waiting"

    @workflow.signal
    def resume(self) -> None:
        self.going = True

    @workflow.update(unfinished_policy=workflow.HandlerUnfinishedPolicy.ABANDON)
    async def question_decided(self, decision: Decision) -> None:
        self.body["decisions"] = [*self.body.get("decisions", ()), decision.question_id]
        if decision.response == "refuse":
            raise ApplicationError("not now", type="X")
        if decision.response == "never answered":
            self.going = True
            await workflow.wait_condition(lambda: False)

    @workflow.update
    def skip_step(self, step_id: str) -> dict[str, Any]:
        if step_id == "bad":
            raise ApplicationError("there is no such step", type="UNPROCESSABLE")
        if step_id == "none":
            raise ApplicationError("there is no step 'none'", type="NOT_FOUND")
        if step_id == "done":
            raise ApplicationError("that step is over", type="CONFLICT")
        return {"skipped": step_id}

    @skip_step.validator
    def _check_skip(self, step_id: str) -> None:
        if step_id == "never":
            raise ValueError("never is not skipped")


@workflow.defn(name="tiny_child")
class TinyChild:
    @workflow.run
    async def run(self, do: str) -> str:
        if do == "fail":
            raise ApplicationError("the child broke", type="EXTERNAL", non_retryable=True)
        await workflow.wait_condition(lambda: do == "complete")
        return "ok"


@workflow.defn(name="api_request_workflow")
class TinyRequest(_Tiny):
    @workflow.run
    async def run(self, context: JobContext, given: ApiRequestInput) -> Any:
        self.begin(context)
        return await self.act(given.body)


@workflow.defn(name="async_request_workflow")
class TinyAsync(_Tiny):
    """Its result is what it was started with."""

    @workflow.run
    async def run(self, context: JobContext, given: AsyncRequestInput) -> Any:
        self.begin(context)
        self.end("completed", result={"context": context, "input": given}, progress=1.0)
        return self.body["result"]


@workflow.defn(name="multi_service_orchestration_workflow")
class TinyOrchestration(_Tiny):
    @workflow.run
    async def run(self, context: JobContext, given: OrchestrationInput) -> Any:
        self.begin(context)
        return await self.act(given.steps[0].body)


@workflow.defn(name="service_breaker_workflow")
class TinyBreaker:
    """A workflow that is no job."""

    @workflow.run
    async def run(self) -> None:
        return None


WORKFLOWS = [TinyRequest, TinyAsync, TinyOrchestration, TinyBreaker, TinyChild]
ACTIVITIES: list[Callable[..., Any]] = [flaky, slow]
