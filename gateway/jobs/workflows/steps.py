"""Steps that are requests, and undoing them: a saga (Garcia-Molina and Salem, 1987). Workflow code.

A step is one activity `route_to_service`, tried again as the kind of its error says. A step that
was answered has been done, also when its result then broke a rule; what undoes it is remembered,
and runs, the last one first, when the job fails or is cancelled. A step that was cut off before its
answer counts as not done: its service saw an Idempotency-Key and can tell.

Not here: which step comes when (`graph_run`, `business_process`), how a request is made (the
activity), the job's events (`tracking`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NoReturn, Protocol

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import FailureError

from gateway.jobs import conditions, failures, references
from gateway.jobs.activity_models import CallInput, CallResult
from gateway.jobs.models import (
    Compensation,
    JobContext,
    JobError,
    ResultRule,
    Retry,
    ServiceAnswer,
    ServiceRequest,
)
from gateway.jobs.workflows import causes

# The activity itself ends its request in time; this is for a worker that hangs.
_BACKSTOP_SECONDS: Final = 10.0
# A worker that was killed is noticed after that long, and a cancelled request within it.
_HEARTBEAT: Final = timedelta(seconds=10)
# The activity knows the kind of an error and says when to stop (failures.may_try_again). What it
# can't say is that its worker was lost; that may happen a few times to one step, in a deployment.
_MOST_TRIES: Final = 20
# Undoing is worth more patience than doing: there is no second way. 2.5 minutes at most.
_UNDO_RETRY: Final = Retry(max_attempts=10, initial_seconds=1.0, backoff=2.0, max_seconds=30.0)
# For all of a job; Temporal ends the job itself ten minutes after its time-out.
_UNDO_SECONDS: Final = 480.0
# What a job's answers may have together, and one of them: they are in a worker's memory for as long
# as the job is.
MOST_ANSWERS_BYTES: Final = 64 << 20
MOST_ANSWER_BYTES: Final = 4 << 20


def share(steps: int) -> int:
    """How many bytes the answer of each of so many steps may have."""
    return min(MOST_ANSWERS_BYTES // max(steps, 1), MOST_ANSWER_BYTES)


class Reports(Protocol):
    """Who is told of the steps: a Tracker, or for a part of a job its parent."""

    def begin(self, step_id: str, waiting: bool = False) -> None:
        """A step begins."""

    def end(
        self, step_id: str, status: str, error: JobError | None = None, attempts: int = 1
    ) -> None:
        """A step ended."""


@dataclass(frozen=True, slots=True)
class Call:
    """A step that is a request. `request` and `compensation` may hold references."""

    id: str
    request: ServiceRequest
    compensation: ServiceRequest | None = None
    timeout_seconds: float = 30.0  # of each try
    retry: Retry | None = None
    rules: Sequence[ResultRule] = ()


class StepFailedError(Exception):
    """A step failed for good, and that was reported."""

    def __init__(self, error: JobError, attempts: int = 1) -> None:
        self.error = error
        self.attempts = attempts
        super().__init__(error.message)


@dataclass(frozen=True, slots=True)
class _Done:
    """What is to be undone."""

    id: str
    compensation: ServiceRequest
    timeout_seconds: float


class Saga:
    """What has been done in a job and with which results, and how it is undone.

    `results` are those by step id, with what the job begins with; references look into them.
    `answers` are all that steps were answered, also where a rule kept it from being a result.
    `most_bytes`: of each answer (`share`).
    """

    def __init__(
        self,
        context: JobContext,
        reports: Reports,
        results: Mapping[str, Any] | None = None,
        *,
        most_bytes: int = MOST_ANSWER_BYTES,
    ) -> None:
        self.results: dict[str, Any] = {references.ANSWERS: {}, references.ERRORS: {}}
        self.results.update(results or {})
        self.answers: dict[str, ServiceAnswer] = {}
        self._context = context
        self._reports = reports
        self._most_bytes = most_bytes
        self._done: list[_Done] = []
        # All in one task of the workflow, where nothing has to be waited for: 2 s for everything.
        self._made, self._compared = references.Budget(), references.Budget()

    def __repr__(self) -> str:
        return f"<Saga {self._context.operation_id} to undo: {[each.id for each in self._done]}>"

    async def call(self, call: Call) -> CallResult:
        """Run a step: its references filled in, its beginning and end reported.

        Its result is in `results` afterwards, unless a rule says to skip it (`broken`). Raises
        StepFailedError, and CancelledError only after the request has ended one way or the other.
        """
        self._reports.begin(call.id)
        try:
            request = references.fill_request(call.request, self.results)
        except (references.NoResultError, references.BadTemplateError) as error:
            self._fail(call.id, JobError("VALIDATION", failures.short(str(error)), call.id), 0)
        key = f"{self._context.operation_id}:{call.id}"
        given = CallInput(
            context=self._context,
            request=request,
            key=key,
            timeout_seconds=call.timeout_seconds,
            rules=list(call.rules),
            step=call.id,
            retry=call.retry,
            most_bytes=self._most_bytes,
        )
        handle = _start(given, call.id)
        stopped = await settled(handle)
        try:
            result = handle.result()
        except (asyncio.CancelledError, FailureError) as error:
            told = causes.error_of(error, call.id)
            if stopped:
                self._report_failure(call.id, told, causes.attempts_of(error))
                raise asyncio.CancelledError from error
            self._fail(call.id, told, causes.attempts_of(error))
        self._answered(call, result, stopped)
        return result

    def made(self, template: Any) -> Any:
        """A value made of the results so far; those of a whole job share one budget. Raises
        NoResultError.
        """
        return references.fill(template, self.results, budget=self._made)

    def holds(self, condition: Any) -> bool:
        """Whether a condition holds over the results so far; as `made`. Raises NoResultError."""
        return conditions.holds(condition, self.results, self._compared)

    def finished(
        self, step_id: str, compensation: ServiceRequest | None, timeout_seconds: float = 30.0
    ) -> None:
        """Remember what undoes a step that was done; None: nothing need be."""
        if compensation is not None:
            self._done.append(_Done(step_id, compensation, timeout_seconds))

    def answered(self, step_id: str, answer: ServiceAnswer, kept: bool) -> None:
        """Keep what a step was answered; its body is its result when it is `kept`."""
        about: dict[str, Any] = {"status": answer.status, "headers": answer.headers}
        if answer.body_base64 is not None:
            about["body_base64"] = answer.body_base64
        self.answers[step_id] = answer
        self.results[references.ANSWERS][step_id] = about
        if kept:
            self.results[step_id] = answer.body

    def failed(self, step_id: str, error: JobError) -> None:
        """Keep why a step failed, for conditions and templates."""
        self.results[references.ERRORS][step_id] = failures.members_of(error)

    async def undo(self) -> list[Compensation]:
        """Undo what was done, the last first, each once and each reported; one that fails does not
        keep the others from being tried. Goes on whatever is cancelled meanwhile.
        """
        # In a task of its own, so that a cancellation meets this wait and not the undoing.
        task = asyncio.create_task(self._undo_all())
        while not task.done():
            try:
                await workflow.wait([task])
            except asyncio.CancelledError:
                continue
        return task.result()

    def _answered(self, call: Call, result: CallResult, stopped: bool) -> None:
        broken = result.broken
        self.finished(call.id, call.compensation, call.timeout_seconds)
        self.answered(call.id, result.answer, kept=broken is None)
        if broken is None:
            self._reports.end(call.id, "completed", attempts=result.attempts)
        else:
            told = JobError(
                "VALIDATION", failures.short(result.message), call.id, result.answer.status
            )
            if broken == "skip":
                self._reports.end(call.id, "skipped", told, result.attempts)
            else:
                self._report_failure(call.id, told, result.attempts)
                if not stopped:
                    raise StepFailedError(told, result.attempts)
        if stopped:
            raise asyncio.CancelledError

    def _report_failure(self, step_id: str, error: JobError, attempts: int) -> None:
        self.failed(step_id, error)
        self._reports.end(step_id, "failed", error, attempts)

    def _fail(self, step_id: str, error: JobError, attempts: int) -> NoReturn:
        self._report_failure(step_id, error, attempts)
        raise StepFailedError(error, attempts)

    async def _undo_all(self) -> list[Compensation]:
        until = workflow.time() + _UNDO_SECONDS
        undone: list[Compensation] = []
        while self._done:
            each = self._done.pop()
            error = await self._undo_one(each, until - workflow.time())
            undone.append(Compensation(each.id, "done" if error is None else "failed", error))
            status = "compensated" if error is None else "compensation_failed"
            self._reports.end(each.id, status, error)
        return undone

    async def _undo_one(self, done: _Done, left_seconds: float) -> JobError | None:
        """Why it could not be undone; None: it is."""
        if left_seconds <= 0:
            return JobError("TIMEOUT", "no time was left for undoing it", done.id)
        view = self.results
        if done.id in self.answers:
            view = view | {done.id: self.answers[done.id].body}
        try:
            request = references.fill_request(done.compensation, view)
        except (references.NoResultError, references.BadTemplateError) as error:
            return JobError("VALIDATION", failures.short(str(error)), done.id)
        given = CallInput(
            context=self._context,
            request=request,
            key=f"{self._context.operation_id}:{done.id}:undo",
            timeout_seconds=done.timeout_seconds,
            # The caller asked for the step, not for its undoing: no limit stands in its way.
            spent=True,
            step=done.id,
            retry=_UNDO_RETRY,
        )
        try:
            await _start(given, f"{done.id} undone", left_seconds)
        except Exception as error:  # whatever it was, the others are tried too
            return causes.error_of(error, done.id)
        return None


def whole(steps: Iterable[str], results: Mapping[str, Any]) -> dict[str, Any]:
    """The output template of all results that there are, by step id."""
    return {each: {"$result": f"/{each}"} for each in steps if each in results}


async def settled(task: asyncio.Future[Any]) -> bool:
    """Wait until a task or activity is over. When this wait is cancelled, the task is, and its end
    is waited for all the same; True then.

    Whatever came together with the cancellation is taken in first: an answer that is there already
    is never dropped, since what it answers would not be undone.
    """
    stopped = told = False
    while not task.done():
        try:
            if stopped and not told:
                await workflow.wait_condition(lambda: True)
                told = True
                task.cancel()
            if not task.done():
                await workflow.wait([task])
        except asyncio.CancelledError:
            stopped = True
    return stopped


def _start(
    given: CallInput, summary: str, within_seconds: float | None = None
) -> workflow.ActivityHandle[CallResult]:
    retry = given.retry or Retry()
    first = 1.0 if retry.initial_seconds is None else max(retry.initial_seconds, 0.01)
    most = min(retry.max_attempts or _MOST_TRIES, failures.MOST_ATTEMPTS)
    return workflow.start_activity(
        "route_to_service",
        given,
        result_type=CallResult,
        start_to_close_timeout=timedelta(seconds=given.timeout_seconds + _BACKSTOP_SECONDS),
        schedule_to_close_timeout=None
        if within_seconds is None
        else timedelta(seconds=within_seconds),
        heartbeat_timeout=_HEARTBEAT,
        retry_policy=RetryPolicy(
            initial_interval=timedelta(seconds=first),
            backoff_coefficient=max(retry.backoff, 1.0),
            maximum_interval=timedelta(
                seconds=max(retry.max_seconds, retry.initial_seconds or 1.0)
            ),
            maximum_attempts=most,
            non_retryable_error_types=failures.NEVER_AGAIN,
        ),
        cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=summary,
    )
