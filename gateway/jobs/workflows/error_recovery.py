"""`error_recovery_workflow`: what to do about a request that failed. The failure is analysed, and
the request tried again, replaced by a fallback, or sent through the breaker that jobs keep for its
service. How it went is a result, whatever it is, and told in the job's events and the request log.

Not here: how often and when a kind of error is tried again (`jobs.failures`), the breaker's rule
(`service_breaker`), requests (`steps`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Final

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, FailureError

with workflow.unsafe.imports_passed_through():
    from gateway.jobs import failures, processes
    from gateway.jobs.activity_models import BreakerAsk, BreakerState, LogInput
    from gateway.jobs.models import (
        ErrorRecoveryInput,
        ErrorRecoveryResult,
        FailureReport,
        Fallback,
        JobContext,
        JobError,
        Retry,
        ServiceAnswer,
        ServiceRequest,
    )
    from gateway.jobs.workflows import causes, tracking
    from gateway.jobs.workflows.steps import Call, Saga, StepFailedError

RETRY: Final = "retry"
FALLBACK: Final = "fallback"
CIRCUIT_BREAKER: Final = "circuit_breaker"

# So many failures of the service, this one included, are no accident: trying again at once would
# only add to its load.
SERIES: Final = 3
# What is longer ago says nothing about the service as it is now.
RECENT: Final = timedelta(minutes=10)
# Kinds that speak against the service, and not against the request or its caller.
_OF_SERVICE: Final = frozenset(("database", "network", "timeout", "external"))

_STEP: Final = processes.REQUEST
_FALLBACK_STEP: Final = "fallback"
_ONCE: Final = Retry(max_attempts=1)
# The breaker is a workflow beside this one. Where it does not answer the request goes on: to know
# nothing of a service is no reason to refuse it.
_ASKING: Final = timedelta(seconds=10)
_ASKING_IN_ALL: Final = timedelta(seconds=30)
_QUICK: Final = timedelta(seconds=5)


@workflow.defn(name="error_recovery_workflow")
class ErrorRecoveryWorkflow(tracking.TrackedWorkflow):
    """One recovery of one request."""

    @workflow.run
    async def run(self, context: JobContext, given: ErrorRecoveryInput) -> ErrorRecoveryResult:
        """Raises only when the input is wrong, or when it was cancelled or took too long."""
        return await self.conduct(context, lambda: self._recover(context, given))

    async def _recover(self, context: JobContext, given: ErrorRecoveryInput) -> ErrorRecoveryResult:
        flaws = processes.flaws_of(given)
        if flaws:
            told = JobError("VALIDATION", f"{flaws[0].pointer}: {flaws[0].message}")
            raise causes.failure(told)
        began = workflow.now()
        strategy, reason = choose(given, began)
        self.tracker.plan(_steps(strategy, given.fallback))
        self.tracker.progress(0.0, f"{strategy}: {reason}")
        result = ErrorRecoveryResult(strategy, "failed", reason)
        saga = Saga(context, self.tracker, {processes.FAILURE: asdict(given.failure)})
        if strategy == RETRY:
            await self._retry(context, given, saga, result)
        elif strategy == CIRCUIT_BREAKER:
            await self._through_breaker(context, given, saga, result)
        if result.answer is None:
            await self._fall_back(given.fallback, saga, result)
        elif self.tracker.step_status(_FALLBACK_STEP) == "pending":
            self.tracker.end(_FALLBACK_STEP, "skipped")
        result.completed_at = tracking.now()
        await self._record(context, given.request, result, workflow.now() - began)
        return result

    async def _retry(
        self,
        context: JobContext,
        given: ErrorRecoveryInput,
        saga: Saga,
        result: ErrorRecoveryResult,
    ) -> None:
        """Wait as the kind's policy says, then as often as it says."""
        kind = kind_of(given.failure)
        await workflow.sleep(failures.delay_seconds(kind, 1, given.retry))
        await self._request(given, given.retry, saga, result)
        if result.error is not None and _against_service(result.error):
            # The next job's analysis begins with what this one learned.
            state = await self._ask(context, given.request.service, "failed")
            result.breaker = None if state is None else state.state

    async def _through_breaker(
        self,
        context: JobContext,
        given: ErrorRecoveryInput,
        saga: Saga,
        result: ErrorRecoveryResult,
    ) -> None:
        """One try, if the breaker allows it; the breaker hears of this failure and of that try."""
        service = given.request.service
        if kind_of(given.failure).name in _OF_SERVICE:
            await self._ask(context, service, "failed")
        state = await self._ask(context, service, "allow")
        if state is not None and not state.allowed:
            result.outcome, result.breaker = "refused", state.state
            message = f"{service} has failed too often; the breaker of its jobs is {state.state}"
            result.error = JobError(
                "CIRCUIT_BREAKER_OPEN", message, retry_after=state.retry_after, retryable=True
            )
            self.tracker.end(_STEP, "skipped", result.error)
            return
        await self._request(given, _ONCE, saga, result)
        bad = result.error is not None and _against_service(result.error)
        state = await self._ask(context, service, "failed" if bad else "succeeded")
        result.breaker = None if state is None else state.state

    async def _request(
        self,
        given: ErrorRecoveryInput,
        retry: Retry | None,
        saga: Saga,
        result: ErrorRecoveryResult,
    ) -> None:
        try:
            called = await saga.call(Call(_STEP, given.request, retry=retry))
        except StepFailedError as failed:
            result.error, result.attempts = failed.error, failed.attempts
            return
        result.outcome, result.answer, result.attempts = "recovered", called.answer, called.attempts

    async def _fall_back(
        self, fallback: Fallback | None, saga: Saga, result: ErrorRecoveryResult
    ) -> None:
        """The other service, and where that fails too, the answer that is kept."""
        if fallback is None:
            if result.strategy == FALLBACK:
                result.error = JobError(
                    "VALIDATION", "the same request would fail again, and there is no fallback"
                )
            return
        if fallback.request is not None:
            try:
                called = await saga.call(Call(_FALLBACK_STEP, fallback.request))
            except StepFailedError as failed:
                result.outcome, result.error = "failed", failed.error
                result.attempts += failed.attempts
            else:
                result.outcome, result.answer = "fallback", called.answer
                result.attempts += called.attempts
                return
        if fallback.answer is not None:
            result.outcome, result.answer = "fallback", ServiceAnswer(200, body=fallback.answer)

    async def _ask(self, context: JobContext, service: str, what: str) -> BreakerState | None:
        """What the breaker says; None: nothing."""
        owner = context.operation_id.split("-", 1)[0]
        try:
            state: BreakerState = await workflow.execute_activity(
                "ask_breaker",
                BreakerAsk(service, owner, what),
                result_type=BreakerState,
                start_to_close_timeout=_ASKING,
                schedule_to_close_timeout=_ASKING_IN_ALL,
                retry_policy=RetryPolicy(maximum_interval=_QUICK),
            )
        except ActivityError as error:
            if causes.is_cancelled(error):
                raise
            workflow.logger.warning("breaker not asked: %s", causes.error_of(error).code)
            return None
        return state

    async def _record(
        self,
        context: JobContext,
        request: ServiceRequest,
        result: ErrorRecoveryResult,
        took: timedelta,
    ) -> None:
        """In the job's events and in the log: how it went, never what was sent or answered."""
        self.tracker.progress(1.0, f"{result.outcome} by {result.strategy}")
        bare = ServiceRequest(request.service, request.path, request.method)
        status = result.answer.status if result.answer is not None else 0
        if result.error is not None and result.answer is None:
            status = result.error.status or 0
        duration_ms = int(took.total_seconds() * 1000)
        entry = LogInput(context, bare, status, result.attempts, duration_ms, result.error)
        try:
            await workflow.execute_local_activity(
                "log_api_request",
                entry,
                start_to_close_timeout=_QUICK,
                retry_policy=RetryPolicy(maximum_attempts=3),
            )
        except FailureError as error:
            workflow.logger.warning("recovery not logged: %s", causes.error_of(error).code)


def choose(given: ErrorRecoveryInput, now: datetime) -> tuple[str, str]:
    """The strategy and why: the one that the input names, else what the failure calls for."""
    if given.strategy is not None:
        return given.strategy, "named by the input"
    kind = kind_of(given.failure)
    if not kind.retryable:
        return FALLBACK, f"the same request would end in the same {kind.name} error"
    series = 1 + sum(1 for _ in _recent(given, now, kind))
    if series >= SERIES:
        if kind.name in _OF_SERVICE:
            return CIRCUIT_BREAKER, f"{series} failures of the service within ten minutes"
        if given.fallback is not None:
            return FALLBACK, f"{kind.name} {series} times within ten minutes"
    return RETRY, f"{kind.name} errors may pass"


def kind_of(failure: FailureReport) -> failures.Kind:
    """The kind of a failure. A status that says that no retry helps, or when it does, says more
    than who reported it.
    """
    told = failures.KINDS.get(failure.kind)
    shown = None if failure.status is None else failures.kind_of_status(failure.status)
    if shown is not None and (told is None or not shown.retryable or shown.name == "rate_limited"):
        return shown
    return told or failures.KINDS["internal"]


def _recent(
    given: ErrorRecoveryInput, now: datetime, kind: failures.Kind
) -> Iterator[FailureReport]:
    """Former failures like this one. One without a time that can be read counts as recent."""
    alike = _OF_SERVICE if kind.name in _OF_SERVICE else {kind.name}
    for each in given.history:
        at = _moment(each.at)
        if kind_of(each).name in alike and (at is None or now - at <= RECENT):
            yield each


def _moment(text: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _against_service(error: JobError) -> bool:
    return failures.kind_of_code(error.code, error.status).name in _OF_SERVICE


def _steps(strategy: str, fallback: Fallback | None) -> list[str]:
    steps = [] if strategy == FALLBACK else [_STEP]
    if fallback is not None and fallback.request is not None:
        steps.append(_FALLBACK_STEP)
    return steps
