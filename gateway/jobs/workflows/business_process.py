"""`business_process_workflow`: steps one after the other, some at services, some here, some by
people or by waiting; undone in reverse when one fails, when what people said does not let it go on,
or when it is cancelled.

Who answers a question first, and what holds when nobody does, is decided by the gateway's store of
questions alone: the decision comes as the update `question_decided` from the store's outbox, and
where that does not come in time the store is asked. Not here: requests and their compensations
(`steps`), references and conditions (`jobs.references`, `jobs.conditions`), what is wrong with an
input (`jobs.processes`).
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final, NoReturn

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError
from temporalio.workflow import ActivityCancellationType

with workflow.unsafe.imports_passed_through():
    from gateway.jobs import failures, processes, references
    from gateway.jobs.activity_models import AskInput, Decision
    from gateway.jobs.models import (
        Ask,
        BusinessProcessInput,
        BusinessProcessResult,
        JobContext,
        JobError,
        ProcessStep,
        ServiceRequest,
    )
    from gateway.jobs.workflows import causes, tracking
    from gateway.jobs.workflows.steps import Call, Saga, StepFailedError, settled, share, whole

# The store decides within a second of the expiry, and its outbox tells at once; what is later than
# this is asked for.
GRACE: Final = timedelta(seconds=30)
# Each time that it is not decided then either, twice as long: a history has 50,000 events at most.
MOST_GRACE: Final = timedelta(hours=1)
TRY: Final = timedelta(seconds=30)
_HEARTBEAT: Final = timedelta(seconds=10)
# The gateway may be away for long; a process that waits for days waits for it too.
_PATIENT: Final = RetryPolicy(maximum_interval=timedelta(minutes=1))
# What is withdrawn in vain expires by itself.
_WITHDRAWING: Final = timedelta(minutes=2)

EXPIRED: Final = "QUESTION_EXPIRED"
WITHDRAWN: Final = "QUESTION_WITHDRAWN"
STOPPED: Final = "CONDITION_NOT_MET"
INVALID: Final = "VALIDATION"


@workflow.defn(name="business_process_workflow")
class BusinessProcessWorkflow(tracking.TrackedWorkflow):
    """A saga with people in it."""

    def __init__(self) -> None:
        super().__init__()
        self._guarding: set[str] = set()

    @workflow.run
    async def run(self, context: JobContext, given: BusinessProcessInput) -> BusinessProcessResult:
        """Raises the failure that says what failed, and what was undone."""
        # A guard that whoever started the process may leave out is none.
        self._guarding = {
            step.id
            for step in given.steps
            if step.ask is not None or step.continue_when is not None
        }
        self.tracker.plan(step.id for step in given.steps)
        return await self.conduct(context, lambda: self._process(context, given))

    def may_skip(self, step_id: str) -> bool:
        """Never an approval, nor a step that decides whether the process goes on."""
        return step_id not in self._guarding

    async def _process(
        self, context: JobContext, given: BusinessProcessInput
    ) -> BusinessProcessResult:
        flaws = processes.flaws_of(given)
        if flaws:
            raise causes.failure(JobError(INVALID, f"{flaws[0].pointer}: {flaws[0].message}"))
        begun = {processes.INPUT: given.data, processes.DECISIONS: {}}
        saga = Saga(context, self.tracker, begun, most_bytes=share(len(given.steps)))
        skipped: list[str] = []
        try:
            for step in given.steps:
                await self.may_go_on()
                if not await self._take(context, step, saga):
                    skipped.append(step.id)
            data = _output(given, saga.results)
        except (asyncio.CancelledError, Exception) as error:
            # Never GeneratorExit: a worker that ends drops what it has in memory.
            compensations = await saga.undo()
            raise causes.failure(
                _told(error),
                data=_reached(given, saga.results),
                decisions=saga.results[processes.DECISIONS],
                compensations=compensations,
            ) from None
        decisions = saga.results[processes.DECISIONS]
        return BusinessProcessResult(data, decisions, skipped, completed_at=tracking.now())

    async def _take(self, context: JobContext, step: ProcessStep, saga: Saga) -> bool:
        """One step, with what is looked at before and after it. False: it was left out."""
        if self.skipped(step.id) or not self._holds(step, step.condition, saga):
            self.tracker.end(step.id, "skipped")
            return False
        if step.request is not None:
            result = await saga.call(_call_of(step, step.request))
            if result.broken == "skip":
                return False
        else:
            await self._own(context, step, saga)
        if not self._holds(step, step.continue_when, saga):
            text = f"`continue_when` of step {step.id} does not hold"
            raise StepFailedError(JobError(STOPPED, text, step.id))
        return True

    def _holds(self, step: ProcessStep, condition: Any, saga: Saga) -> bool:
        try:
            return saga.holds(condition)
        except references.NoResultError as error:
            self._fail(step, JobError(INVALID, failures.short(str(error)), step.id), saga)

    async def _own(self, context: JobContext, step: ProcessStep, saga: Saga) -> None:
        """A step that no service takes part in."""
        self.tracker.begin(step.id, waiting=step.wait_seconds is not None)
        result = None
        try:
            if step.ask is not None:
                result = await self._ask(context, step, step.ask, saga)
            elif step.wait_seconds is not None:
                await workflow.sleep(step.wait_seconds)
            else:
                result = saga.made(step.value)
        except references.NoResultError as error:
            self._fail(step, JobError(INVALID, failures.short(str(error)), step.id), saga)
        except ActivityError as error:
            self._fail(step, causes.error_of(error, step.id), saga)
        except asyncio.CancelledError:
            told = JobError(failures.CANCELLED, "the job was cancelled", step.id)
            self.tracker.end(step.id, "failed", told)
            raise
        saga.results[step.id] = result
        saga.finished(step.id, step.compensation, step.timeout_seconds)
        self.tracker.end(step.id, "completed")

    async def _ask(self, context: JobContext, step: ProcessStep, ask: Ask, saga: Saga) -> Any:
        """What people said, or the default. Raises StepFailedError when there is neither."""
        body = question_body(ask, saga.results, context)
        question = AskInput(context, str(workflow.uuid4()), step.id, body)
        try:
            decision = await self._decision(question)
        except (asyncio.CancelledError, Exception):
            try:
                await self._withdraw(question)
            finally:
                self.tracker.decided()
            raise
        self.tracker.decided()
        if decision.status != "answered":
            self._fail(step, _undecided(decision, step), saga)
        saga.results[processes.DECISIONS][step.id] = asdict(decision)
        return decision.response

    async def _decision(self, question: AskInput) -> Decision:
        """Put the question and wait, for days if need be."""
        asked = await _desk("ask_question", question)
        self.tracker.asked(
            question.question_id, question.body["prompt"], question.step, asked.expires_at
        )
        grace = GRACE
        while asked.status == "open":
            expires_at = workflow.now()
            if asked.expires_at is not None:
                expires_at = max(expires_at, datetime.fromisoformat(asked.expires_at))
            decided = await self.decision(question.question_id, expires_at + grace)
            if decided is not None:
                return decided
            asked = await _desk("read_question", _bare(question))
            grace = min(grace * 2, MOST_GRACE)
        return asked

    async def _withdraw(self, question: AskInput) -> None:
        """It waits for nobody any more. A gateway that is away for long does not keep the process
        from ending: what is not withdrawn expires by itself.
        """
        try:
            await _desk("withdraw_question", _bare(question), _WITHDRAWING)
        except ActivityError as error:
            workflow.logger.warning("question not withdrawn: %s", causes.error_of(error).code)

    def _fail(self, step: ProcessStep, error: JobError, saga: Saga) -> NoReturn:
        saga.failed(step.id, error)
        self.tracker.end(step.id, "failed", error)
        raise StepFailedError(error)


async def _desk(activity: str, question: AskInput, within: timedelta | None = None) -> Decision:
    """What the gateway's store says; `within` None: as soon as it is there.

    Raises CancelledError only after the activity has ended: what it may have asked is known then.
    """
    handle: workflow.ActivityHandle[Decision] = workflow.start_activity(
        activity,
        question,
        result_type=Decision,
        start_to_close_timeout=TRY,
        schedule_to_close_timeout=within,
        heartbeat_timeout=_HEARTBEAT,
        retry_policy=_PATIENT,
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=f"{question.step}: {activity}",
    )
    if await settled(handle):
        raise asyncio.CancelledError
    return handle.result()


def _call_of(step: ProcessStep, request: ServiceRequest) -> Call:
    return Call(
        step.id,
        request,
        compensation=step.compensation,
        timeout_seconds=step.timeout_seconds,
        retry=step.retry,
        rules=step.rules,
    )


def question_body(ask: Ask, results: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """The question as it is put to the gateway (events.md, "Questions").

    Shown to the caller's own stream where it names none, else to the job's. Raises NoResultError.
    """
    body: dict[str, Any] = {
        "prompt": references.fill(ask.prompt, results),
        "client_ids": references.fill(ask.client_ids, results)
        or [context.notify or f"job:{context.operation_id}"],
    }
    if ask.has_default or ask.default is not None:
        body["default"] = references.fill(ask.default, results)
    for name in ("options", "approvers", "metadata"):
        if getattr(ask, name):
            body[name] = references.fill(getattr(ask, name), results)
    for name in ("schema", "policy", "expires_in"):
        if getattr(ask, name) is not None:
            body[name] = getattr(ask, name)
    if ask.forbid_self:
        body["forbid_self"] = True
    if ask.reminders:
        body["reminders"] = ask.reminders
    return body


def _bare(question: AskInput) -> AskInput:
    """The question by its id: what it says is in the history once."""
    return AskInput(question.context, question.question_id, question.step, {})


def _undecided(decision: Decision, step: ProcessStep) -> JobError:
    if decision.status == "withdrawn":
        return JobError(WITHDRAWN, "the question was withdrawn", step.id)
    return JobError(EXPIRED, "nobody answered in time, and there is no default", step.id)


def _output(given: BusinessProcessInput, results: dict[str, Any]) -> Any:
    template = given.output
    if template is None:
        template = whole((step.id for step in given.steps), results)
    return references.fill(template, results, lenient=True)


def _reached(given: BusinessProcessInput, results: dict[str, Any]) -> Any:
    """As far as it came; None where that can't be told: what failed is said already."""
    try:
        return _output(given, results)
    except (references.NoResultError, references.BadTemplateError):
        return None


def _told(error: BaseException) -> JobError:
    if isinstance(error, StepFailedError):
        return error.error
    if isinstance(error, references.NoResultError):
        return JobError(INVALID, failures.short(str(error)))
    return causes.error_of(error)
