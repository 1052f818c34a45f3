"""`multi_service_orchestration_workflow`: requests to several services as one job. They run as the
graph that their dependencies make, beside each other where they can; when a required one fails, or
the job is cancelled or takes too long, what has been done is undone, the last first.

Not here: how steps run and are undone (`steps`), their order (`graph_run`), what becomes of more
steps than one history should hold (`parts`).
"""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio import workflow

from gateway.jobs import failures, references
from gateway.jobs.graph import PART_STEPS, BadGraphError, Graph, graph_of
from gateway.jobs.models import JobContext, JobError, OrchestrationInput, OrchestrationResult
from gateway.jobs.workflows import causes
from gateway.jobs.workflows.graph_run import GraphRun
from gateway.jobs.workflows.orchestration_part import StepReport
from gateway.jobs.workflows.parts import PartsRun
from gateway.jobs.workflows.steps import Saga, StepFailedError, share, whole
from gateway.jobs.workflows.tracking import TrackedWorkflow, now


@workflow.defn(name="multi_service_orchestration_workflow")
class Orchestration(TrackedWorkflow):
    """See the file's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: PartsRun | None = None

    @workflow.run
    async def run(self, context: JobContext, given: OrchestrationInput) -> OrchestrationResult:
        """The results; those of optional steps that failed are missing, and `errors` says why.

        Fails with the required step's error, and what was undone in its details.
        """
        self.tracker.plan(step.id for step in given.steps)
        return await self.conduct(context, lambda: self._work(context, given))

    @workflow.signal
    def part_reports(self, reports: list[StepReport]) -> None:
        """From a child: what became of its steps."""
        if self._parts is not None:
            self._parts.reported(reports)

    def held(self) -> bool:
        """As Gate: nothing new begins while the job is paused."""
        return self.tracker.paused

    async def _work(self, context: JobContext, given: OrchestrationInput) -> OrchestrationResult:
        try:
            graph = graph_of(given)
        except BadGraphError as bad:
            # The gateway has looked at it; this is for whoever starts jobs without it.
            raise causes.failure(JobError("VALIDATION", failures.short(str(bad)))) from None
        saga = Saga(context, self.tracker, most_bytes=share(len(given.steps)))
        run = self._run(context, given, graph, saga)
        try:
            await run.run()
        except (asyncio.CancelledError, Exception) as raised:
            undone = await saga.undo()
            data = _output(given, saga, [])
            raise causes.failure(
                _error(raised), data=data, errors=run.errors, compensations=undone
            ) from raised
        return OrchestrationResult(
            data=_output(given, saga, run.errors),
            errors=run.errors,
            skipped=run.skipped,
            completed_at=now(),
        )

    def _run(
        self, context: JobContext, given: OrchestrationInput, graph: Graph, saga: Saga
    ) -> GraphRun | PartsRun:
        if len(given.steps) <= PART_STEPS:
            return GraphRun(given.steps, graph.waits, saga, self.tracker, self)
        self._parts = PartsRun(context, given.steps, graph, saga, self.tracker, self)
        return self._parts


def _error(raised: BaseException) -> JobError:
    if isinstance(raised, StepFailedError):
        return raised.error
    return causes.error_of(raised)


def _output(given: OrchestrationInput, saga: Saga, errors: list[JobError]) -> Any:
    """The output over the results; a part that isn't there is null. By now all has been done, so
    one that is too large is a further error and none of the job.
    """
    template = given.output
    if template is None:
        template = whole((step.id for step in given.steps), saga.results)
    try:
        return references.fill(template, saga.results, lenient=True)
    except references.NoResultError as error:
        errors.append(JobError("PAYLOAD_TOO_LARGE", failures.short(f"output: {error.message}")))
        return None
