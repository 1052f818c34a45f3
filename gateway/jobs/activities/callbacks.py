"""The activity that delivers a job's signed callback: one attempt each time; when there is another
is the workflow's retry policy.

How a callback is signed, and where it may go, is the same for questions and jobs (the room
callbacks); it comes in through the constructor.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import orjson
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from gateway.jobs import failures
from gateway.jobs.activities.failing import beating
from gateway.jobs.activities.parts import CallbackOutcome, CallbackSender
from gateway.jobs.activity_models import CallbackInput
from gateway.jobs.failures import MOST_RETRY_AFTER_SECONDS
from gateway.jobs.models import JobError

_OFF = CallbackOutcome("callbacks are switched off: WEBHOOK_SECRET is not set", final=True)


class Callbacks:
    """The activity; `sender` is None where there is no secret to sign with."""

    def __init__(self, sender: CallbackSender | None, log: Any) -> None:
        self._sender = sender
        self._log = log

    def all(self) -> list[Callable[..., Any]]:
        """The activities, to be registered."""
        return [self.deliver_callback]

    @activity.defn(name="deliver_callback")
    async def deliver_callback(self, told: CallbackInput) -> None:
        """Send once. The body is `{"type", "timestamp", "data"}` as Standard Webhooks has it, the
        same bytes at every try.
        """
        info = activity.info()
        log = self._log.bind(
            operation_id=told.context.operation_id,
            workflow_type=told.context.workflow_type,
            callback=told.event_type,
            attempt=info.attempt,
        )
        outcome = _OFF
        if self._sender is not None:
            at = told.data.get("updated_at") or told.data.get("started_at")
            body = orjson.dumps({"type": told.event_type, "timestamp": at, "data": told.data})
            async with beating():
                outcome = await self._sender.send(told.url, told.id, body)
        if not outcome.error:
            log.info("job_callback.delivered")
            return
        log.warning("job_callback.failed", error=outcome.error, final=outcome.final)
        raise _failed(outcome, info.attempt)


def _failed(outcome: CallbackOutcome, attempt: int) -> ApplicationError:
    error = JobError("EXTERNAL", failures.short(outcome.error), retryable=not outcome.final)
    delay = None
    if outcome.retry_after_seconds is not None and not outcome.final:
        delay = min(outcome.retry_after_seconds, float(MOST_RETRY_AFTER_SECONDS))
    return ApplicationError(
        error.message,
        {"error": failures.members_of(error), "attempts": attempt},
        type="EXTERNAL",
        non_retryable=outcome.final,
        next_retry_delay=None if delay is None else timedelta(seconds=delay),
        category=ApplicationErrorCategory.BENIGN,
    )
