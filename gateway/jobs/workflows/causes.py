"""From Temporal's failures to the error that a job tells of, and back: what went wrong in an
activity or a child, as data, and the failure that a job ends with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from temporalio import exceptions
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    FailureError,
    is_cancelled_exception,
)

from gateway.jobs import failures
from gateway.jobs.models import Compensation, JobError


def causes(error: BaseException) -> Iterator[BaseException]:
    """What is behind an activity's or a child's failure, the outermost first."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.cause if isinstance(seen, FailureError) else None


def details_of(error: BaseException) -> Mapping[str, Any]:
    """The details of the innermost failure that was raised with some: those of `raised`, or of an
    activity (`error`, `attempts`). Empty where there are none.
    """
    found: Mapping[str, Any] = {}
    for each in causes(error):
        if isinstance(each, ApplicationError) and each.details:
            first = each.details[0]
            if isinstance(first, Mapping):
                found = first
    return found


def error_of(error: BaseException, step: str | None = None) -> JobError:
    """What went wrong, to be told. `step` is added where the error names none.

    An exception that is none of Temporal's is a bug: its text may hold anything, so only its class
    is named.
    """
    told = failures.error_of(details_of(error).get("error")) or _guessed(error)
    if step is not None and told.step is None:
        told = replace(told, step=step)
    return told


def attempts_of(error: BaseException) -> int:
    """How many tries an activity had that failed, as it said; 1 where it did not."""
    attempts = details_of(error).get("attempts")
    return attempts if isinstance(attempts, int) else 1


def failure(
    error: JobError,
    *,
    data: Any = None,
    decisions: Mapping[str, Any] | None = None,
    errors: Sequence[JobError] = (),
    compensations: Sequence[Compensation] = (),
) -> ApplicationError:
    """The failure that a job ends with: final, and with all that is to be told in its details."""
    details = {
        "error": failures.members_of(error),
        "data": data,
        "errors": [asdict(each) for each in errors],
        "compensations": [asdict(each) for each in compensations],
    }
    if decisions:
        details["decisions"] = decisions
    return ApplicationError(error.message, details, type=error.code, non_retryable=True)


def is_cancelled(error: BaseException) -> bool:
    """Whether it is a cancellation, of this job or of what it waited for."""
    return is_cancelled_exception(error)


def _guessed(error: BaseException) -> JobError:
    if is_cancelled_exception(error):
        return JobError(failures.CANCELLED, "the job was cancelled")
    last = error
    for each in causes(error):
        last = each
    if isinstance(last, exceptions.TimeoutError):
        return JobError("TIMEOUT", "it took too long", retryable=True)
    if isinstance(last, ApplicationError):
        kind = failures.kind_of_code(last.type or "")
        code = last.type or kind.code
        return JobError(code, failures.short(last.message), retryable=kind.retryable)
    if isinstance(last, ActivityError | ChildWorkflowError | FailureError):
        return JobError("INTERNAL_ERROR", "the worker could not do it")
    return JobError("INTERNAL_ERROR", f"a bug in the job's code: {type(last).__name__}")
