"""An orchestration of more steps than one history should hold, as children that run some each:
started when what they wait for in other parts has ended, told what people told the job, stopped
when a required step failed. Workflow code, of the parent.

The children tell of every step by signals (`orchestration_part`): so events, results and the order
in which steps were finished are all here, and what is undone is undone here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from temporalio import workflow
from temporalio.exceptions import FailureError

from gateway.jobs.graph import PART_STEPS, Graph, parts
from gateway.jobs.models import JobContext, JobError, Step
from gateway.jobs.workflows import causes
from gateway.jobs.workflows.graph_run import Gate
from gateway.jobs.workflows.orchestration_part import (
    PART,
    PartInput,
    Steering,
    StepReport,
    take_in,
)
from gateway.jobs.workflows.steps import Reports, Saga, StepFailedError, share

_Handle = workflow.ChildWorkflowHandle[object, None]
_OVER: Final = frozenset(("completed", "skipped", "failed"))


class PartsRun:
    """As GraphRun, over children. `errors`, `skipped` and `failure` are the same."""

    def __init__(
        self,
        context: JobContext,
        steps: Sequence[Step],
        graph: Graph,
        saga: Saga,
        reports: Reports,
        gate: Gate,
    ) -> None:
        self.errors: list[JobError] = []
        self.skipped: list[str] = []
        self.failure: JobError | None = None
        self._context = context
        self._steps = {step.id: step for step in steps}
        self._graph = graph
        self._saga = saga
        self._reports = reports
        self._gate = gate
        self._begun: set[str] = set()
        self._ended: dict[str, StepReport] = {}
        self._stopping = False

    def __repr__(self) -> str:
        return f"<PartsRun {len(self._ended)} of {len(self._steps)} failure={self.failure}>"

    async def run(self) -> None:
        """Run all. Raises StepFailedError and CancelledError, when no child runs any more."""
        pieces = parts(self._graph, PART_STEPS)
        tasks = [
            asyncio.create_task(self._part(number, piece))
            for number, piece in enumerate(pieces, start=1)
        ]
        stopped = False
        while not all(task.done() for task in tasks):
            try:
                await workflow.wait(tasks)
            except asyncio.CancelledError:
                stopped = self._stopping = True
        for task in tasks:
            task.result()
        if self.failure is not None:
            raise StepFailedError(self.failure)
        if stopped:
            raise asyncio.CancelledError

    def reported(self, reports: Sequence[StepReport]) -> None:
        """What a child told, in its order."""
        for each in reports:
            if each.status in _OVER:
                self._over(each)
            else:
                self._begun.add(each.step)
                self._reports.begin(each.step)

    def _over(self, report: StepReport) -> None:
        step = self._steps[report.step]
        take_in(self._saga, report)
        if report.answer is not None:
            self._saga.finished(step.id, step.compensation, step.timeout_seconds)
        if report.status == "skipped":
            self.skipped.append(step.id)
        elif report.status == "failed" and report.error is not None:
            self._failed(step, report.error)
        self._ended[step.id] = report
        self._reports.end(step.id, report.status, report.error, report.attempts)

    def _failed(self, step: Step, error: JobError) -> None:
        if not step.required:
            self.errors.append(error)
        elif not self._stopping:
            # What fails after that was cut off.
            self.failure, self._stopping = error, True

    async def _part(self, number: int, piece: tuple[str, ...]) -> None:
        """One part from before its start to its end. Never cancelled itself: a child that is being
        started must be known when it is to be stopped.
        """
        inside = frozenset(piece)
        waited = frozenset[str]().union(*(self._graph.waits[each] for each in piece)) - inside
        await workflow.wait_condition(lambda: self._stopping or waited <= self._ended.keys())
        if self._stopping:
            return
        told = self._steering(inside)
        try:
            handle = await self._child(number, self._input(piece, sorted(waited), told))
        except FailureError as error:
            self._child_over(piece, error)
            return
        steering = asyncio.create_task(self._steer(handle, inside, told))
        await workflow.wait_condition(lambda: handle.done() or self._stopping)
        if not handle.done():
            handle.cancel()
            await workflow.wait([handle])
        steering.cancel()
        self._child_over(piece, None if handle.cancelled() else handle.exception())

    async def _child(self, number: int, part: PartInput) -> _Handle:
        return await workflow.start_child_workflow(
            PART,
            args=[self._context, part],
            # Payloads too large for a history are kept as long as the job that the id begins with.
            id=f"{self._context.operation_id}-part-{number}",
            cancellation_type=workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
            static_summary=f"{len(part.steps)} steps",
        )

    def _child_over(self, piece: tuple[str, ...], error: BaseException | None) -> None:
        """`error` without being stopped: a bug, or somebody ended the child by hand. What became of
        a request that was under way there, nobody can tell any more.
        """
        if error is None:
            return
        told = causes.error_of(error)
        if not self._stopping:
            self.failure, self._stopping = told, True
        for each in piece:
            if each in self._begun and each not in self._ended:
                self._over(StepReport(each, "failed", told, attempts=1))

    def _input(
        self, piece: tuple[str, ...], waited: Sequence[str], steering: Steering
    ) -> PartInput:
        inside = frozenset(piece)
        return PartInput(
            steps=[self._steps[each] for each in piece],
            waits={each: sorted(self._graph.waits[each] & inside) for each in piece},
            known=[self._ended[each] for each in waited],
            steering=steering,
            most_bytes=share(len(self._steps)),
        )

    def _steering(self, inside: frozenset[str]) -> Steering:
        skipped = sorted(each for each in inside if self._gate.skipped(each))
        return Steering(self._gate.held(), skipped)

    async def _steer(self, handle: _Handle, inside: frozenset[str], told: Steering) -> None:
        while True:
            told = await self._steered(inside, told)
            try:
                await handle.signal("steer", told)
            except FailureError:
                return  # it has just ended

    async def _steered(self, inside: frozenset[str], last: Steering) -> Steering:
        await workflow.wait_condition(lambda: self._steering(inside) != last)
        return self._steering(inside)
