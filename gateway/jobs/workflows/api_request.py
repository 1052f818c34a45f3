"""`api_request_workflow`: one request to a service, with each of its phases an activity of its own.

A refusal by the gateway (not allowed, over a limit, no such path, a breaker that is open) is a
result with its code and what to wait for, and so is a service's answer of any status. It fails when
no answer could be had at all. All activities are local: the job is short, and each saves a round
through Temporal.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import FailureError

from gateway.jobs.activity_models import (
    CallInput,
    CallResult,
    GateAnswer,
    GateInput,
    LogInput,
    TransformInput,
)
from gateway.jobs.models import (
    ApiRequestInput,
    ApiRequestResult,
    JobContext,
    JobError,
    ServiceRequest,
)
from gateway.jobs.workflows import causes
from gateway.jobs.workflows.tracking import TrackedWorkflow

SPARE: Final = timedelta(seconds=1)
QUICK: Final = timedelta(seconds=10)
# The activities say themselves when there is no other try, and when the next one is.
AGAIN: Final = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=100)
ONCE: Final = RetryPolicy(maximum_attempts=1)
# A longer pause between two tries is a timer of Temporal's: the worker holds nothing meanwhile.
_THRESHOLD: Final = timedelta(seconds=1)
_STEPS: Final = ("authenticate", "limit", "route", "transform")


def bare(request: ServiceRequest) -> ServiceRequest:
    """What of a request may be logged."""
    return ServiceRequest(request.service, request.path.partition("?")[0], request.method)


def plain(request: ServiceRequest) -> ServiceRequest:
    """The request alone, without what its job adds to it."""
    return ServiceRequest(
        request.service,
        request.path,
        request.method,
        request.query,
        request.headers,
        request.body,
        request.body_base64,
        request.target,
    )


@workflow.defn(name="api_request_workflow")
class ApiRequestWorkflow(TrackedWorkflow):
    """One request to a service."""

    tells_steps = False
    tells_along = True

    def __init__(self) -> None:
        super().__init__()
        self._made: LogInput | None = None

    @workflow.run
    async def run(self, context: JobContext, input: ApiRequestInput) -> ApiRequestResult:  # noqa: A002 - the contract's name
        """Raises ApplicationError, its type the kind of error, where no answer could be had."""
        return await self.conduct(context, lambda: self._work(context, input))

    async def _work(self, context: JobContext, asked: ApiRequestInput) -> ApiRequestResult:
        steps = _STEPS if asked.transform is not None else _STEPS[:-1]
        self.tracker.plan(steps)
        began = workflow.now()
        request = plain(asked)
        # What is kept for the log, should it fail.
        made = self._made = LogInput(context, bare(request), 0, 0, 0)
        try:
            result = await self._request(context, asked, request)
        except (asyncio.CancelledError, Exception) as failure:
            if isinstance(failure, FailureError):
                made.error = causes.error_of(failure)
                made.status = made.error.status or 0
            self._took(made, began)
            raise
        made.status, made.error = result.status, result.error
        self._took(made, began)
        result.duration_ms = made.duration_ms
        return result

    def _took(self, made: LogInput, began: datetime) -> None:
        made.duration_ms = round((workflow.now() - began).total_seconds() * 1000)
        made.attempts = self.tracker.attempts_of("route")

    async def closing(self, context: JobContext) -> None:
        """The line about the request, and with it the end."""
        if self._made is not None:
            with self.announcer.along() as along:
                self._made.news = along.news
                along.told = await log_request(self._made)

    async def _request(
        self, context: JobContext, asked: ApiRequestInput, request: ServiceRequest
    ) -> ApiRequestResult:
        refused = await self._gate("authenticate", "authenticate_request", context, request)
        if refused is None and not context.spent:
            refused = await self._gate("limit", "check_rate_limit", context, request)
        if refused is not None:
            return ApiRequestResult(status=refused.status or 0, error=refused)
        self.tracker.begin("route")
        try:
            routed = await self._route(context, asked, request)
        except FailureError as failure:
            if causes.is_cancelled(failure):
                raise
            error, attempts = causes.error_of(failure, "route"), causes.attempts_of(failure)
            self.tracker.end("route", "failed", error, attempts)
            if not is_refusal(failure):
                raise
            return ApiRequestResult(status=error.status or 0, error=error, attempts=attempts)
        self.tracker.end("route", "completed", attempts=routed.attempts)
        return await self._transformed(asked, routed)

    async def _gate(
        self, step: str, activity: str, context: JobContext, request: ServiceRequest
    ) -> JobError | None:
        self.tracker.begin(step)
        # The body decides nothing here.
        asked = GateInput(context, replace(request, body=None, body_base64=None))
        with self.announcer.along() as along:
            asked.news = along.news
            answer: GateAnswer = await workflow.execute_local_activity(
                activity,
                asked,
                result_type=GateAnswer,
                start_to_close_timeout=QUICK,
                schedule_to_close_timeout=self.left(context) + SPARE,
                local_retry_threshold=_THRESHOLD,
                retry_policy=AGAIN,
            )
            along.told = answer.told
        error = answer.error
        if error is not None:
            error = replace(error, step=step)
        self.tracker.end(step, "completed" if error is None else "failed", error)
        return error

    async def _route(
        self, context: JobContext, asked: ApiRequestInput, request: ServiceRequest
    ) -> CallResult:
        # A little more than the job has: that its time is over is for the job to say.
        left = self.left(context) + SPARE
        timeout_seconds = min(asked.timeout_seconds or math.inf, left.total_seconds())
        call = CallInput(
            context,
            request,
            key=f"{context.operation_id}:request",
            timeout_seconds=timeout_seconds,
            spent=True,
            step="route",
            retry=asked.retry,
            any_status=True,
        )
        routed: CallResult = await workflow.execute_local_activity(
            "route_to_service",
            call,
            result_type=CallResult,
            schedule_to_close_timeout=left,
            local_retry_threshold=_THRESHOLD,
            retry_policy=AGAIN,
        )
        return routed

    async def _transformed(self, asked: ApiRequestInput, routed: CallResult) -> ApiRequestResult:
        answer = routed.answer
        result = ApiRequestResult(
            answer.status, answer.headers, answer.body, answer.body_base64, attempts=routed.attempts
        )
        if asked.transform is None:
            return result
        self.tracker.begin("transform")
        if answer.status >= 400:
            # What a template expects of a good answer is not in an error.
            self.tracker.end("transform", "skipped")
            return result
        try:
            result.body = await workflow.execute_local_activity(
                "transform_response",
                TransformInput(replace(answer), asked.transform),
                start_to_close_timeout=QUICK,
                retry_policy=AGAIN,
            )
        except FailureError as failure:
            self.tracker.end("transform", "failed", causes.error_of(failure, "transform"))
            raise
        result.body_base64 = None
        self.tracker.end("transform", "completed")
        return result


async def log_request(made: LogInput) -> bool:
    """Write the line about a request, and tell the news that go with it: whether they were told. A
    job does not fail for a line.
    """
    try:
        told: bool = await workflow.execute_local_activity(
            "log_api_request",
            made,
            result_type=bool,
            start_to_close_timeout=QUICK,
            retry_policy=ONCE,
        )
    except FailureError as failure:
        if causes.is_cancelled(failure):
            raise
        return False
    return told


def is_refusal(failure: BaseException) -> bool:
    """Whether it was the gateway that refused, rather than that nothing could be reached."""
    details = causes.details_of(failure)
    if not details.get("refused"):
        return False
    error = causes.error_of(failure)
    return (error.status or 0) < 500 or error.code in _REFUSALS


# Refused at once, by a rule: with 5xx, but not because something is broken just now.
_REFUSALS: Final = frozenset(("CIRCUIT_BREAKER_OPEN", "OVERLOADED"))
