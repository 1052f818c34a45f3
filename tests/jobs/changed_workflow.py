"""`api_request_workflow` as somebody might change it who forgets `workflow.patched`."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

from gateway.jobs.models import ApiRequestInput, ApiRequestResult, JobContext
from gateway.jobs.workflows.api_request import ApiRequestWorkflow


@workflow.defn(name="api_request_workflow")
class ChangedWorkflow(ApiRequestWorkflow):
    """Waits first, which no job did that is under way."""

    @workflow.run
    async def run(self, context: JobContext, input: ApiRequestInput) -> ApiRequestResult:  # noqa: A002 - the contract's name
        await workflow.sleep(timedelta(seconds=5))
        return await super().run(context, input)


@workflow.defn(name="api_request_workflow")
class PatchedWorkflow(ApiRequestWorkflow):
    """The same change, made so that old jobs go on as they began."""

    @workflow.run
    async def run(self, context: JobContext, input: ApiRequestInput) -> ApiRequestResult:  # noqa: A002 - the contract's name
        if workflow.patched("waits first"):
            await workflow.sleep(timedelta(seconds=5))
        return await super().run(context, input)
