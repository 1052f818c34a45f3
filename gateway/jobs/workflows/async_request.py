"""`async_request_workflow`: a request that is answered later. Who sent it is told by signed
callbacks that it was accepted and how it ended, and so is a stream; the answer is kept as the
job's result.

The job is over when its answer is there. The callback about that is delivered by a workflow of its
own, for days if need be.
"""

from __future__ import annotations

import asyncio
import math
from datetime import datetime, timedelta
from typing import Any, Final

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, FailureError
from temporalio.workflow import ActivityCancellationType, ParentClosePolicy

from gateway.jobs.activity_models import CallbackInput, CallInput, CallResult, LogInput
from gateway.jobs.models import AsyncRequestInput, AsyncRequestResult, JobContext
from gateway.jobs.workflows import callback_delivery, causes
from gateway.jobs.workflows.announcing import size_of
from gateway.jobs.workflows.api_request import SPARE, bare, log_request, plain
from gateway.jobs.workflows.tracking import TrackedWorkflow, now

# What a callback holds at most; a larger result is fetched from where the callback says. Below what
# goes by reference (256 KiB), as the delivery outlives the job that a reference belongs to.
MOST_CALLBACK_BYTES: Final = 128 << 10
_BACKSTOP: Final = timedelta(seconds=10)  # the activity ends its request in time by itself
_BEAT: Final = timedelta(seconds=10)  # a lost worker is noticed within
# The activity says itself when there is no other try; lost workers count here too.
_AGAIN: Final = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=100)
# That a request was accepted is told while it runs; once it is over, its end is what counts.
_ACCEPTED: Final = RetryPolicy(initial_interval=timedelta(seconds=2), backoff_coefficient=3.0)
_ACCEPTED_SECONDS: Final = 5.0
_STEP: Final = "request"


@workflow.defn(name="async_request_workflow")
class AsyncRequestWorkflow(TrackedWorkflow):
    """A request that is answered later."""

    def __init__(self) -> None:
        super().__init__()
        self._asked: AsyncRequestInput | None = None
        self._accepted: asyncio.Task[None] | None = None

    @workflow.run
    async def run(self, context: JobContext, input: AsyncRequestInput) -> AsyncRequestResult:  # noqa: A002 - the contract's name
        """Raises ApplicationError, its type the kind of error, where the service gave no answer."""
        self._asked = input
        return await self.conduct(context, lambda: self._work(context, input))

    async def _work(self, context: JobContext, asked: AsyncRequestInput) -> AsyncRequestResult:
        self.tracker.plan([_STEP])
        if asked.callback_url is not None:
            told = self._callback(context, asked.callback_url, asked, "job.accepted")
            self._accepted = asyncio.create_task(self._tell_accepted(context, told))
        self.tracker.begin(_STEP)
        routed = await self._route(context, asked)
        self.tracker.end(_STEP, "completed", attempts=routed.attempts)
        callback = "none" if asked.callback_url is None else "sending"
        return AsyncRequestResult(routed.answer, callback, routed.attempts, now())

    async def _route(self, context: JobContext, asked: AsyncRequestInput) -> CallResult:
        left, began = self.left(context), workflow.now()
        request = plain(asked)
        # A little more than the job has: that its time is over is for the job to say.
        left += SPARE
        timeout_seconds = min(asked.timeout_seconds or math.inf, left.total_seconds())
        call = CallInput(
            context,
            request,
            key=f"{context.operation_id}:request",
            timeout_seconds=timeout_seconds,
            spent=context.spent,
            step=_STEP,
            retry=asked.retry,
            any_status=True,
        )
        made = LogInput(context, bare(request), 0, 1, 0)
        try:
            routed: CallResult = await workflow.execute_activity(
                "route_to_service",
                call,
                result_type=CallResult,
                start_to_close_timeout=timedelta(seconds=timeout_seconds) + _BACKSTOP,
                schedule_to_close_timeout=left,
                heartbeat_timeout=_BEAT,
                retry_policy=_AGAIN,
                cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                summary=_STEP,
            )
        except (asyncio.CancelledError, ActivityError) as failure:
            if isinstance(failure, ActivityError) and not causes.is_cancelled(failure):
                made.error = causes.error_of(failure, _STEP)
                made.status, made.attempts = made.error.status or 0, causes.attempts_of(failure)
                self.tracker.end(_STEP, "failed", made.error, made.attempts)
            await _log(made, began)
            raise
        made.status, made.attempts = routed.answer.status, routed.attempts
        await _log(made, began)
        return routed

    async def closing(self, context: JobContext) -> None:
        """Tell the caller's stream, and start the callback about the end."""
        body = self.tracker.body()
        if context.notify is not None:
            # Others may read that stream too: what was answered stays with the job.
            told = dict(body, result=None, steps=None)
            told["result_url"] = f"/api/v1/workflows/{context.operation_id}/result"
            self.tell(self.tracker.end_event, told, context.notify)
        if self._accepted is not None:
            # In this order, if the receiver is there; else the end is news enough.
            await workflow.wait([self._accepted], timeout=_ACCEPTED_SECONDS)
            self._accepted.cancel()
            await workflow.wait([self._accepted])
        asked = self._asked
        if asked is not None and asked.callback_url is not None:
            told_end = self._callback(context, asked.callback_url, asked, self.tracker.end_event)
            await self._deliver(context, told_end)

    def _callback(
        self, context: JobContext, url: str, asked: AsyncRequestInput, event_type: str
    ) -> CallbackInput:
        data: dict[str, Any] = self.tracker.body()
        data["metadata"] = asked.metadata
        if size_of(data["result"]) > MOST_CALLBACK_BYTES:
            data["result"] = None
            data["result_url"] = f"/api/v1/workflows/{context.operation_id}/result"
        # A message's id has no full stop (Standard Webhooks), and is the same at every try.
        name = event_type.partition(".")[2]
        return CallbackInput(context, url, f"msg_{context.operation_id}_{name}", event_type, data)

    async def _tell_accepted(self, context: JobContext, told: CallbackInput) -> None:
        try:
            await workflow.execute_activity(
                "deliver_callback",
                told,
                start_to_close_timeout=callback_delivery.TRY,
                schedule_to_close_timeout=self.left(context),
                heartbeat_timeout=callback_delivery.BEAT,
                retry_policy=_ACCEPTED,
                cancellation_type=ActivityCancellationType.TRY_CANCEL,
            )
        except (ActivityError, asyncio.CancelledError):
            return

    async def _deliver(self, context: JobContext, told: CallbackInput) -> None:
        """Start the delivery, which goes on when this job is over."""
        try:
            await workflow.start_child_workflow(
                callback_delivery.NAME,
                told,
                id=f"{context.operation_id}-callback",
                parent_close_policy=ParentClosePolicy.ABANDON,
                execution_timeout=callback_delivery.LIFE,
            )
        except FailureError:
            # It was started before (this run is a reset of that one): its callback is told.
            workflow.logger.warning("the callback is under way already")


async def _log(made: LogInput, began: datetime) -> None:
    made.duration_ms = round((workflow.now() - began).total_seconds() * 1000)
    await log_request(made)
