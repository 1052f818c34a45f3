"""How activities fail, retry and stay alive: the taxonomy as failures of Temporal, and heartbeats.

The retry table is kept here and not by a RetryPolicy, which knows one interval for all kinds of
errors: a failure says itself when it is to be tried again, and that it is not.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from gateway.jobs import failures
from gateway.jobs.failures import Kind
from gateway.jobs.models import JobError, Retry

# Of the heartbeat time-out that an activity was started with: three may be lost. And at least once
# a second, which is how soon a cancellation arrives; the SDK sends them no more often than that.
_BEATS: Final = 3.5
_BEAT_SECONDS: Final = 1.0


def failed(
    kind: Kind,
    error: JobError,
    retry: Retry | None = None,
    more: Mapping[str, Any] | None = None,
    *,
    endless: bool = False,
) -> ApplicationError:
    """The failure of an activity's try: final when its kind's tries are used up, else with the time
    of the next. `more` are further details. `endless`: the workflow says when it is enough (the
    store's being away for an hour is no reason to give up a question that has days).
    """
    attempt = activity.info().attempt
    delay = failures.delay_seconds(kind, attempt, retry, error.retry_after)
    again = kind.retryable if endless else failures.may_try_again(kind, attempt, retry)
    # A try that would come too late is none: better the reason now than a time-out then.
    again = again and delay < _left_seconds()
    details = {"error": failures.members_of(error), "attempts": attempt, **(more or {})}
    return ApplicationError(
        error.message,
        details,
        type=kind.code,
        non_retryable=not again,
        next_retry_delay=timedelta(seconds=delay) if again else None,
        # Expected, and told elsewhere: no stack trace of each in the worker's log.
        category=ApplicationErrorCategory.BENIGN,
    )


def _left_seconds() -> float:
    """How long the activity may go on with all its tries."""
    info = activity.info()
    if info.schedule_to_close_timeout is None:
        return math.inf
    return (
        info.scheduled_time + info.schedule_to_close_timeout - datetime.now(UTC)
    ).total_seconds()


@asynccontextmanager
async def beating(*details: Any) -> AsyncIterator[None]:
    """Send heartbeats while the body waits, so that a lost worker is noticed and a cancellation
    arrives. Local activities have none.
    """
    timeout = activity.info().heartbeat_timeout
    if activity.info().is_local or timeout is None:
        yield
        return
    task = asyncio.create_task(_beat(min(timeout.total_seconds() / _BEATS, _BEAT_SECONDS), details))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _beat(every_seconds: float, details: tuple[Any, ...]) -> None:
    while True:
        activity.heartbeat(*details)
        await asyncio.sleep(every_seconds)
