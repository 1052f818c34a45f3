"""Requests to services in a caller's name: may they, do they count, what came back.

A caller's limits count a request once, however often it is tried: whatever the gateway answered but
its own 429, the request has been counted, and that is remembered in the heartbeats' details.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from temporalio import activity
from temporalio.exceptions import ApplicationError

from gateway.jobs import failures, references
from gateway.jobs.activities.failing import beating, failed
from gateway.jobs.activities.publishing import Publishing
from gateway.jobs.activity_models import (
    CallInput,
    CallResult,
    GateAnswer,
    GateInput,
    LogInput,
    TransformInput,
)
from gateway.jobs.failures import KINDS, Kind
from gateway.jobs.gateway_http import MOST_ANSWER_BYTES, GatewayHttp, NoAnswerError
from gateway.jobs.messages import BadRequestError, Received
from gateway.jobs.models import JobError, ResultRule, ServiceAnswer
from sse.answer_schema import AnswerSchemas, BadSchema, TooManyStepsError

_SPENT: Final = "spent"
# What the news of a job's beginning may take longer than its first question.
_TELLING_SECONDS: Final = 0.5


class Calls:
    """The activities around one request."""

    def __init__(self, http: GatewayHttp, publishing: Publishing, log: Any) -> None:
        self._http = http
        self._publishing = publishing
        self._log = log
        self._schemas = AnswerSchemas()

    def all(self) -> list[Callable[..., Any]]:
        """The activities, to be registered."""
        return [
            self.authenticate_request,
            self.check_rate_limit,
            self.route_to_service,
            self.transform_response,
            self.log_api_request,
        ]

    @activity.defn(name="authenticate_request")
    async def authenticate_request(self, asked: GateInput) -> GateAnswer:
        """Whether the caller may send this request, by the route's rules."""
        return await self._gate(asked, "authenticate")

    @activity.defn(name="check_rate_limit")
    async def check_rate_limit(self, asked: GateInput) -> GateAnswer:
        """Count the request in the caller's limits; what is refused is not counted."""
        return await self._gate(asked, "limit")

    async def _gate(self, asked: GateInput, what: str) -> GateAnswer:
        """Ask, and tell the news beside it. At the first try only, also where that fails: what is
        told again, since the answer to the question was lost, has a line of the log again.
        """
        if asked.news is None or activity.info().attempt > 1:
            return await self._answer(asked, what)
        telling = asyncio.ensure_future(self._publishing.along(asked.news))
        try:
            try:
                answer = await self._answer(asked, what)
            except ApplicationError:
                await asyncio.wait((telling,), timeout=_TELLING_SECONDS)
                raise
            # Whoever watches waits for the job; it does not wait for them.
            await asyncio.wait((telling,), timeout=_TELLING_SECONDS)
            answer.told = telling.done() and telling.result()
        finally:
            telling.cancel()
        return answer

    async def _answer(self, asked: GateInput, what: str) -> GateAnswer:
        try:
            async with beating():
                error = await self._http.admission(asked.context, asked.request, what)
        except NoAnswerError as failure:
            raise _no_answer(failure) from None
        except BadRequestError as failure:
            return GateAnswer(_bad_request(failure))
        if error is not None and error.code in ("PROXY_ERROR", "SERVICE_UNAVAILABLE", "OVERLOADED"):
            raise failed(failures.kind_of_code(error.code), error)
        return GateAnswer(error)

    @activity.defn(name="route_to_service")
    async def route_to_service(self, call: CallInput) -> CallResult:
        """Send the request and wait for the answer. An answer that is an error counts by its kind,
        and is tried again as the kind's policy says; then it is a failure, or (`any_status`) what
        the service answered all the same. Rules on the result are held against the answer's body.
        """
        info = activity.info()
        spent = call.spent or _SPENT in info.heartbeat_details
        try:
            async with beating(*([_SPENT] if spent else [])):
                received = await self._http.ask_service(
                    call.context,
                    call.request,
                    key=call.key,
                    timeout_seconds=call.timeout_seconds,
                    spent=spent,
                    most_bytes=_most_bytes(call),
                )
        except NoAnswerError as failure:
            raise _no_answer(failure, call) from None
        except BadRequestError as failure:
            raise failed(KINDS["validation"], _bad_request(failure, call.step)) from None
        counted = received.refusal is None or received.refusal.status != 429
        if counted and not info.is_local:
            activity.heartbeat(_SPENT)
        return self._judged(call, received)

    def _judged(self, call: CallInput, received: Received) -> CallResult:
        answer, attempt = received.answer, activity.info().attempt
        refusal = received.refusal
        if refusal is not None:
            refusal.step = call.step
            kind = failures.kind_of_code(refusal.code, refusal.status)
            raise failed(kind, refusal, call.retry, {"refused": True})
        broken = failures.kind_of_status(answer.status)
        if broken is not None:
            again = failures.may_try_again(broken, attempt, call.retry)
            if again or not call.any_status:
                raise failed(broken, _error_of(call, received, broken), call.retry)
        if received.too_large:
            message = f"the answer has more than {_most_bytes(call)} bytes"
            if call.any_status:
                raise _no_answer(NoAnswerError("validation", message), call)
            # It was done all the same: who asked for it has to know what to undo.
            return CallResult(answer, attempt, "fail", message)
        if broken is not None:
            return CallResult(answer, attempt)
        otherwise, message = self._fits(call.rules, answer)
        return CallResult(answer, attempt, otherwise, message)

    def _fits(self, rules: list[ResultRule], answer: ServiceAnswer) -> tuple[str | None, str]:
        """The first rule that the body breaks: what to do then, and why."""
        for rule in rules:
            try:
                faults = self._schemas.read(rule.schema).faults(answer.body)
            except (BadSchema, TooManyStepsError):
                return "fail", "the rule on the result can't be applied"
            if faults:
                pointer, text = faults[0]
                return rule.otherwise, failures.short(f"{pointer or 'the result'}: {text}")
        return None, ""

    @activity.defn(name="transform_response")
    async def transform_response(self, asked: TransformInput) -> Any:
        """The template with its references into the answer replaced."""
        answer = asked.answer
        document = {"status": answer.status, "headers": answer.headers, "body": answer.body}
        try:
            return references.fill(asked.template, document)
        except (references.NoResultError, references.BadTemplateError) as failure:
            error = JobError("VALIDATION", failures.short(f"the answer does not fit: {failure}"))
            raise failed(KINDS["validation"], error) from None

    @activity.defn(name="log_api_request")
    async def log_api_request(self, made: LogInput) -> bool:
        """One line about a request that was made, without what was said; whether the news that go
        with it were told.
        """
        caller = made.context.caller
        self._log.info(
            "job_request",
            operation_id=made.context.operation_id,
            workflow_type=made.context.workflow_type,
            correlation_id=made.context.correlation_id,
            user_id=caller.subject or "anonymous",
            tenant=caller.tenant,
            service=made.request.service,
            method=made.request.method,
            status=made.status,
            attempts=made.attempts,
            duration_ms=made.duration_ms,
            error_code=None if made.error is None else made.error.code,
        )
        return await self._publishing.along(made.news)


def _no_answer(failure: NoAnswerError, call: CallInput | None = None) -> Exception:
    kind = KINDS[failure.kind]
    step, retry = (None, None) if call is None else (call.step, call.retry)
    error = JobError(kind.code, str(failure), step=step, retryable=kind.retryable)
    return failed(kind, error, retry)


def _most_bytes(call: CallInput) -> int:
    return MOST_ANSWER_BYTES if call.most_bytes is None else call.most_bytes


def _bad_request(failure: BadRequestError, step: str | None = None) -> JobError:
    return JobError("UNPROCESSABLE", failures.short(str(failure)), step=step, status=422)


def _error_of(call: CallInput, received: Received, kind: Kind) -> JobError:
    status = received.answer.status
    return JobError(
        kind.code,
        f"{call.request.service} answered {status}",
        step=call.step,
        status=status,
        retry_after=received.retry_after,
        retryable=kind.retryable,
    )
