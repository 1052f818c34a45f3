"""Steps of an orchestration on their way: each begins when those it waits for have ended, so what
can run beside each other does. Workflow code.

A required step that fails stops those that are under way, and nothing begins any more; an optional
one is noted. Not here: the graph itself (`graph`), undoing (`steps`), parts (`parts`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from temporalio import workflow

from gateway.jobs import failures, references
from gateway.jobs.models import JobError, ServiceRequest, Step
from gateway.jobs.workflows.steps import Call, Reports, Saga, StepFailedError


class Gate(Protocol):
    """What people told a job while it runs."""

    def held(self) -> bool:
        """Nothing new begins."""

    def skipped(self, step_id: str) -> bool:
        """The step is to be left out."""


class GraphRun:
    """One run over `steps`; `waits`: for whom each waits, those that ended before left out.

    `errors` are those of optional steps, `skipped` the steps that have no result by decision.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        waits: Mapping[str, AbstractSet[str]],
        saga: Saga,
        reports: Reports,
        gate: Gate,
    ) -> None:
        self.errors: list[JobError] = []
        self.skipped: list[str] = []
        self.failure: JobError | None = None
        self._steps = steps
        self._waits = waits
        self._saga = saga
        self._reports = reports
        self._gate = gate
        self._ended: set[str] = set()

    def __repr__(self) -> str:
        return f"<GraphRun {len(self._ended)} of {len(self._steps)} failure={self.failure}>"

    async def run(self) -> None:
        """Run all. Raises StepFailedError for a required step, and CancelledError; either only when
        nothing is under way any more.
        """
        tasks = [asyncio.create_task(self._step(step)) for step in self._steps]
        stopped = False
        try:
            await workflow.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        except asyncio.CancelledError:
            stopped = True
        for task in tasks:
            task.cancel()
        while not all(task.done() for task in tasks):
            try:
                await workflow.wait(tasks)
            except asyncio.CancelledError:
                stopped = True
        if self.failure is not None:
            raise StepFailedError(self.failure)
        if stopped:
            raise asyncio.CancelledError
        for task in tasks:
            task.result()

    async def _step(self, step: Step) -> None:
        await workflow.wait_condition(lambda: self._may_begin(step))
        if self.failure is not None:
            return  # another one that became ready together with this one failed at once
        try:
            if self._left_out(step):
                self.skipped.append(step.id)
                self._reports.end(step.id, "skipped", attempts=0)
            else:
                result = await self._saga.call(call_of(step))
                if result.broken == "skip":
                    self.skipped.append(step.id)
        except StepFailedError as failed:
            self._failed(step, failed.error)
        self._ended.add(step.id)

    def _may_begin(self, step: Step) -> bool:
        if self._gate.skipped(step.id):
            return True
        return not self._gate.held() and self._waits[step.id] <= self._ended

    def _left_out(self, step: Step) -> bool:
        """Whether the step is skipped. Raises StepFailedError where its condition can't be told."""
        if self._gate.skipped(step.id):
            return True
        try:
            if not self._saga.holds(step.condition):
                return True
        except references.NoResultError as error:
            told = JobError("VALIDATION", failures.short(f"condition: {error}"), step.id)
            self._saga.failed(step.id, told)
            self._reports.end(step.id, "failed", told, 0)
            raise StepFailedError(told, 0) from None
        return not step.required and self._lacks(step)

    def _lacks(self, step: Step) -> bool:
        """Whether the step needs a result of one that has none: an optional step goes with it."""
        results = self._saga.results
        return any(
            each.root not in results and not references.found(results, each.pointer)
            for each in references.references_of(request_of(step))
            if not each.has_default
        )

    def _failed(self, step: Step, error: JobError) -> None:
        if not step.required:
            self.errors.append(error)
            return
        if self.failure is None:
            self.failure = error
        raise StepFailedError(error)


def request_of(step: Step) -> ServiceRequest:
    """The request of a step, its references as they are."""
    return ServiceRequest(
        service=step.service,
        path=step.path,
        method=step.method,
        query=step.query,
        headers=step.headers,
        body=step.body,
    )


def call_of(step: Step) -> Call:
    """A step of an orchestration as a request that can be undone."""
    return Call(
        id=step.id,
        request=request_of(step),
        compensation=step.compensation,
        timeout_seconds=step.timeout_seconds,
        retry=step.retry,
        rules=step.rules,
    )
