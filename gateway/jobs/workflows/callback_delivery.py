"""`callback_delivery_workflow`: a signed callback, tried for days. It is a child that outlives its
job, so that a receiver that is away keeps no job from ending. Not for callers.

The schedule is that of Standard Webhooks as for questions: back-off that grows to hours, 410 and
what is as hopeless ends it. Nothing that happens here makes anything fail.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

from gateway.jobs.activity_models import CallbackInput
from gateway.jobs.workflows import causes

NAME: Final = "callback_delivery_workflow"
DAYS: Final = timedelta(days=3)
# More than DAYS, so that the last try has its time.
LIFE: Final = DAYS + timedelta(hours=1)
# 5 s, 15 s, 45 s, … 2 h: some 45 tries in three days.
_AGAIN: Final = RetryPolicy(
    initial_interval=timedelta(seconds=5),
    backoff_coefficient=3.0,
    maximum_interval=timedelta(hours=2),
)
TRY: Final = timedelta(seconds=30)  # a sender gives up by itself after 10 s
BEAT: Final = timedelta(seconds=15)


@workflow.defn(name=NAME)
class CallbackDeliveryWorkflow:
    """One callback."""

    @workflow.run
    async def run(self, told: CallbackInput) -> str:
        """`delivered`, or `given_up`."""
        try:
            await workflow.execute_activity(
                "deliver_callback",
                told,
                start_to_close_timeout=TRY,
                schedule_to_close_timeout=DAYS,
                heartbeat_timeout=BEAT,
                retry_policy=_AGAIN,
            )
        except ActivityError as failure:
            if causes.is_cancelled(failure):
                raise
            return "given_up"
        return "delivered"
