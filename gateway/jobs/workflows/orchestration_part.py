"""`orchestration_part_workflow`: some of the steps of an orchestration that has too many for one
history. It is a child and no job of its own: it publishes nothing and undoes nothing, but tells its
parent of every step, whose events, results and compensations those are.

What it tells goes in one queue, as many steps at once as have waited: a workflow takes only some
signals a second.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from gateway.jobs.models import JobContext, JobError, ServiceAnswer, Step
from gateway.jobs.workflows import causes
from gateway.jobs.workflows.announcing import size_of
from gateway.jobs.workflows.graph_run import GraphRun
from gateway.jobs.workflows.steps import MOST_ANSWER_BYTES, Saga, StepFailedError

PART: Final = "orchestration_part_workflow"
# Of the answers in one signal; a single larger one goes alone.
_SIGNAL_BYTES: Final = 1 << 20


@dataclass
class StepReport:
    """How a step of a part stands: `running`, or ended as `completed`, `skipped` or `failed`.

    `answer` is what it was answered, and its body its result when that is `kept`.
    """

    step: str
    status: str
    error: JobError | None = None
    attempts: int = 0
    answer: ServiceAnswer | None = None
    kept: bool = False


@dataclass
class Steering:
    """What people told the job so far."""

    held: bool = False
    skipped: list[str] = field(default_factory=list)


@dataclass
class PartInput:
    """The `steps` of a part, for whom of each other they wait, and those of other parts that some
    of them wait for (`known`), as they ended. `most_bytes`: of each answer.
    """

    steps: list[Step]
    waits: dict[str, list[str]]
    known: list[StepReport]
    steering: Steering
    most_bytes: int = MOST_ANSWER_BYTES


@workflow.defn(name=PART)
class OrchestrationPart:
    """Runs its steps; what they came to is in what it tells its parent."""

    def __init__(self) -> None:
        self._steering = Steering()
        self._saga: Saga | None = None
        self._waiting: list[StepReport] = []

    @workflow.run
    async def run(self, context: JobContext, part: PartInput) -> None:
        """Ends when all has been told. A failed step is no failure of the part."""
        self._steering = part.steering
        self._saga = Saga(context, self, most_bytes=part.most_bytes)
        for each in part.known:
            take_in(self._saga, each)
        waits = {step: frozenset(waited) for step, waited in part.waits.items()}
        # Both in tasks of their own: a cancellation stops the steps, but never the telling.
        working = asyncio.create_task(GraphRun(part.steps, waits, self._saga, self, self).run())
        telling = asyncio.create_task(self._tell(working))
        while not telling.done():
            try:
                await workflow.wait([telling])
            except asyncio.CancelledError:
                working.cancel()
        telling.result()
        try:
            working.result()
        except StepFailedError:
            return
        except Exception as bug:
            # Else Temporal would try the same task again until the job's time is over.
            workflow.logger.error("a bug in a part of a job", exc_info=bug)
            raise causes.failure(causes.error_of(bug)) from bug

    @workflow.signal
    def steer(self, steering: Steering) -> None:
        """From the parent, when people told it something."""
        self._steering = steering

    # As Gate

    def held(self) -> bool:
        """Nothing new begins."""
        return self._steering.held

    def skipped(self, step_id: str) -> bool:
        """The step is to be left out."""
        return step_id in self._steering.skipped

    # As Reports

    def begin(self, step_id: str, waiting: bool = False) -> None:
        """A step begins."""
        self._waiting.append(StepReport(step_id, "running"))

    def end(
        self, step_id: str, status: str, error: JobError | None = None, attempts: int = 1
    ) -> None:
        """A step ended."""
        saga = self._saga
        answer = None if saga is None else saga.answers.get(step_id)
        kept = saga is not None and step_id in saga.results
        self._waiting.append(StepReport(step_id, status, error, attempts, answer, kept))

    async def _tell(self, working: asyncio.Task[None]) -> None:
        parent = workflow.info().parent
        if parent is None:
            raise ApplicationError("a part has a parent", non_retryable=True)
        handle = workflow.get_external_workflow_handle(parent.workflow_id, run_id=parent.run_id)
        while True:
            await workflow.wait_condition(lambda: bool(self._waiting) or working.done())
            if not self._waiting:
                return
            await handle.signal("part_reports", self._batch())

    def _batch(self) -> list[StepReport]:
        size, count = 0, 0
        for each in self._waiting:
            size += 0 if each.answer is None else size_of(each.answer.body)
            if count and size > _SIGNAL_BYTES:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch


def take_in(saga: Saga, report: StepReport) -> None:
    """Put what a step came to where references find it."""
    if report.answer is not None:
        saga.answered(report.step, report.answer, report.kept)
    if report.status == "failed" and report.error is not None:
        saga.failed(report.step, report.error)
