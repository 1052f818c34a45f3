"""`tenant_switch_workflow`: a user goes over from one tenant to another. Whether that is allowed is
validated, then one service after the other is told of the new context; when one of them fails, all
that were told before are told of the old one again. That it did not come to the switch is a result,
not a failure.

Not here: requests and their compensations (`steps`), what is wrong with an input
(`jobs.processes`).
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, Final

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from gateway.jobs import failures, processes, references
    from gateway.jobs.models import (
        JobContext,
        JobError,
        TenantSwitchInput,
        TenantSwitchResult,
    )
    from gateway.jobs.workflows import causes, tracking
    from gateway.jobs.workflows.steps import Call, Saga, StepFailedError

_DRAWING: Final = timedelta(seconds=5)


@workflow.defn(name="tenant_switch_workflow")
class TenantSwitchWorkflow(tracking.TrackedWorkflow):
    """A switch over several services, all or none."""

    @workflow.run
    async def run(self, context: JobContext, given: TenantSwitchInput) -> TenantSwitchResult:
        """Raises only when the input is wrong, or when it was cancelled or took too long: also then
        everything was rolled back.
        """
        self.tracker.plan((processes.VALIDATE, *(step.id for step in given.services)))
        return await self.conduct(context, lambda: self._switch(context, given))

    async def _switch(self, context: JobContext, given: TenantSwitchInput) -> TenantSwitchResult:
        flaws = processes.flaws_of(given)
        if flaws:
            told = JobError("VALIDATION", f"{flaws[0].pointer}: {flaws[0].message}")
            raise causes.failure(told)
        # Drawn by an activity: what workflow code draws follows from the run's id, no secret.
        session_id = await workflow.execute_local_activity(
            "new_session_id", result_type=str, start_to_close_timeout=_DRAWING
        )
        saga = Saga(context, self.tracker, _begin(given, session_id))
        try:
            await saga.call(Call(processes.VALIDATE, given.validate))
            for step in given.services:
                await saga.call(Call(step.id, step.request, compensation=step.compensation))
            user_context = _context(given, saga.results)
        except (StepFailedError, references.NoResultError) as error:
            return TenantSwitchResult(
                success=False,
                error=_told(error),
                compensations=await saga.undo(),
                completed_at=tracking.now(),
            )
        except (asyncio.CancelledError, Exception) as error:
            # Never GeneratorExit: a worker that ends drops what it has in memory.
            compensations = await saga.undo()
            raise causes.failure(causes.error_of(error), compensations=compensations) from None
        return TenantSwitchResult(True, session_id, user_context, completed_at=tracking.now())


def _begin(given: TenantSwitchInput, session_id: str) -> dict[str, Any]:
    """What references see from the beginning."""
    return {
        processes.INPUT: {
            "to_tenant": given.to_tenant,
            "from_tenant": given.from_tenant,
            "user_id": given.user_id,
        },
        processes.SESSION: session_id,
    }


def _context(given: TenantSwitchInput, results: dict[str, Any]) -> Any:
    """The user's context: the template's, else what the validation told of the user."""
    if given.context is None:
        return results[processes.VALIDATE]
    return references.fill(given.context, results, lenient=True)


def _told(error: StepFailedError | references.NoResultError) -> JobError:
    if isinstance(error, StepFailedError):
        return error.error
    return JobError("VALIDATION", failures.short(str(error)))
