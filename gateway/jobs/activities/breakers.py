"""The activity that asks the breaker of a service: a workflow for each owner and service, which is
started by the first who asks (update with start).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from temporalio import activity
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError

from gateway.jobs.activities.failing import failed
from gateway.jobs.activity_models import BreakerAsk, BreakerState
from gateway.jobs.failures import KINDS
from gateway.jobs.models import JobError

_WORKFLOW: Final = "service_breaker_workflow"
PATIENCE_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.1


class Breakers:
    """The activity; `client` is the worker's own."""

    def __init__(self, client: Client, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._client = client
        self._patience = timedelta(seconds=patience_seconds)

    def all(self) -> list[Callable[..., Any]]:
        """The activities, to be registered."""
        return [self.ask_breaker]

    @activity.defn(name="ask_breaker")
    async def ask_breaker(self, asked: BreakerAsk) -> BreakerState:
        """Whether a request may go to the service now, or how one went; how the breaker stands."""
        info = activity.info()
        start: WithStartWorkflowOperation[Any, Any] = WithStartWorkflowOperation(
            _WORKFLOW,
            args=[asked.owner, asked.service],
            id=f"breaker-{asked.owner}-{asked.service}",
            task_queue=info.task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        )
        update, args = ("allow", []) if asked.what == "allow" else ("report", [asked.what])
        try:
            state: BreakerState = await self._client.execute_update_with_start_workflow(
                update,
                args=args,
                start_workflow_operation=start,
                # The same at every try of this activity, so that it counts once.
                id=f"{info.workflow_id}:{info.workflow_run_id}:{info.activity_id}:{asked.what}",
                result_type=BreakerState,
                rpc_timeout=self._patience,
            )
        except (
            RPCError,
            WorkflowUpdateFailedError,
            WorkflowUpdateRPCTimeoutOrCancelledError,
        ) as failure:
            await _looked_at(start)
            if activity.is_cancelled():
                raise asyncio.CancelledError from None
            kind = KINDS["network"]
            text = f"the breaker could not be asked: {type(failure).__name__}"
            raise failed(kind, JobError(kind.code, text, retryable=True)) from None
        return state


async def _looked_at(start: WithStartWorkflowOperation[Any, Any]) -> None:
    """The SDK tells an error of the start a second time, in a future that complains when nobody
    looks at it.
    """
    handle = asyncio.ensure_future(start.workflow_handle())
    await asyncio.wait([handle], timeout=_LOOK_SECONDS)
    if not handle.cancel() and not handle.cancelled():
        handle.exception()
