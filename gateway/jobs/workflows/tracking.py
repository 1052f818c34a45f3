"""What every workflow of the gateway shares: how far it is, as the status body tells it; its
events; pausing, skipping and decisions of people; its beginning, its time-out and its end.

A workflow derives from TrackedWorkflow and gives `conduct` what it does. What is done is none of
this file's business.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from temporalio import workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import ApplicationError, FailureError

from gateway.jobs import failures
from gateway.jobs.activity_models import Decision, JobEvent
from gateway.jobs.models import JobContext, JobError
from gateway.jobs.types import STATE_ATTRIBUTE
from gateway.jobs.workflows import causes
from gateway.jobs.workflows.announcing import Announcer, fitted, size_of

T = TypeVar("T")

# Decisions that came before the question's asking was seen to be done; a job asks one at a time.
MOST_DECISIONS: Final = 1000
OVER: Final = frozenset(("completed", "failed", "cancelled", "timed_out"))
_STEP_OVER: Final = frozenset(
    ("completed", "skipped", "failed", "compensated", "compensation_failed")
)
_GUARD: Final = "this step asks people, or decides whether the process goes on: it can't be skipped"
_STATE: Final = SearchAttributeKey.for_keyword(STATE_ATTRIBUTE)
_END_EVENTS: Final = {
    "completed": "job.completed",
    "failed": "job.failed",
    "timed_out": "job.failed",
    "cancelled": "job.cancelled",
}


def moment(at: datetime) -> str:
    """RFC 3339, UTC, milliseconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def now() -> str:
    """The workflow's time, as it is told."""
    return moment(workflow.now())


class Tracker:
    """How far a job is. Every change makes an event of it; `clock` tells the time as it is told."""

    def __init__(
        self, operation_id: str, workflow_type: str, clock: Callable[[], str], emit: Emit
    ) -> None:
        self.status = "pending"
        self.fraction = 0.0
        self.current_step: str | None = None
        self.attempts = 0
        self.result: Any = None
        self.error: dict[str, Any] | None = None
        self.question: dict[str, Any] | None = None
        self.paused = False
        self.operation_id = operation_id
        self.workflow_type = workflow_type
        self.ended_at: str | None = None
        self.started_at = self.updated_at = clock()
        self._steps: dict[str, dict[str, Any]] = {}
        self._clock = clock
        self._emit = emit

    def __repr__(self) -> str:
        return f"<Tracker {self.operation_id} {self.status} {self.fraction:.2f}>"

    def plan(self, step_ids: Iterable[str]) -> None:
        """The steps that there will be, in their order. More may be added later. No event."""
        for step_id in step_ids:
            self._steps.setdefault(
                step_id,
                {
                    "id": step_id,
                    "status": "pending",
                    "attempts": 0,
                    "started_at": None,
                    "ended_at": None,
                },
            )

    def begin(self, step_id: str, waiting: bool = False) -> None:
        """A step begins; `waiting`: for time. For people it waits from `asked` on."""
        step = self._step(step_id)
        step["status"] = "waiting" if waiting else "running"
        step["started_at"] = step["started_at"] or self._clock()
        self.current_step = step_id
        self._step_changed(step)

    def end(
        self, step_id: str, status: str, error: JobError | None = None, attempts: int = 1
    ) -> None:
        """A step ended: `completed`, `skipped`, `failed`, or what was done is undone:
        `compensated`, `compensation_failed`. Progress is the share of steps that are over.
        """
        step = self._step(step_id)
        undone = status.startswith("compensat")
        step["status"] = status
        step["ended_at"] = self._clock()
        if not undone:
            step["attempts"] = attempts if status != "skipped" else 0
            self.attempts += step["attempts"]
        if error is not None:
            members = failures.members_of(error)
            # What failed first is the cause; that it could not be undone comes after it.
            step["error"] = step.get("error", members) if undone else members
        if self.current_step == step_id and status != "failed":
            self.current_step = self._running()
        if not undone:
            over = sum(each["status"] in _STEP_OVER for each in self._steps.values())
            self.fraction = max(self.fraction, over / len(self._steps))
        self._step_changed(step)

    def leave_out(self, step_id: str) -> None:
        """A step that has not begun never will. No event: that is told when its turn comes."""
        self._step(step_id)["status"] = "skipped"

    def progress(self, fraction: float, message: str | None = None) -> None:
        """How much is done, 0 to 1; it never goes back."""
        self.fraction = max(self.fraction, min(fraction, 1.0))
        data = self._now()
        if message is not None:
            data["message"] = message
        self._tell("job.progress", data)

    def asked(self, question_id: str, prompt: str, step: str, expires_at: str | None) -> None:
        """A question is open, and the step waits for it; told as one, so that who sees it wait
        sees what for.
        """
        waiting = self._step(step)
        waiting["status"] = "waiting"
        self.question = {
            "question_id": question_id,
            "prompt": prompt,
            "step": step,
            "expires_at": expires_at,
        }
        self._tell("job.question", self._now() | {"question": self.question, "step": dict(waiting)})

    def decided(self) -> None:
        """The question that was open is decided."""
        if self.question is not None:
            step = self._step(self.question["step"])
            step["status"] = "running"
            self.question = None
            self._tell("job.question", self._now() | {"question": None, "step": dict(step)})

    def tried(self, attempts: int) -> None:
        """Requests were made that belong to no step."""
        self.attempts += attempts

    def step_status(self, step_id: str) -> str | None:
        """How a step stands; None where there is none of that id."""
        step = self._steps.get(step_id)
        return None if step is None else str(step["status"])

    def attempts_of(self, step_id: str) -> int:
        """How many tries a step that is over had."""
        step = self._steps.get(step_id)
        return 0 if step is None else int(step["attempts"])

    def started(self) -> None:
        """The job runs."""
        self.status = "running"
        self._tell("job.started", self.body())

    def ended(self, status: str, result: Any = None, error: dict[str, Any] | None = None) -> None:
        """The job is over: `status` is one of OVER."""
        self.status, self.result, self.error = status, result, error
        self.question = self.current_step = None
        self.paused = False
        if status == "completed":
            self.fraction = 1.0
        self.ended_at = self._clock()
        self._tell(_END_EVENTS[status], self.body())

    def pause(self, paused: bool) -> None:
        """Nothing new begins while a job is paused."""
        if self.paused != paused and self.status not in OVER:
            self.paused = paused
            self.progress(self.fraction, "paused" if paused else "resumed")

    def body(self) -> dict[str, Any]:
        """The status body of the contract."""
        return {
            "operation_id": self.operation_id,
            "workflow_type": self.workflow_type,
            "status": self.shown,
            "progress": round(self.fraction, 4),
            "current_step": self.current_step,
            "steps": [dict(step) for step in self._steps.values()] or None,
            "question": self.question,
            "attempts": self.attempts,
            "result": self.result,
            "error": self.error,
            "started_at": self.started_at,
            "updated_at": self.updated_at,
            "ended_at": self.ended_at,
        }

    @property
    def end_event(self) -> str:
        """The type of the event that tells the end; of a job that is over."""
        return _END_EVENTS[self.status]

    @property
    def shown(self) -> str:
        """The status as it is told: a job that can't go on by itself is `waiting`."""
        if self.status != "running":
            return self.status
        if self.paused:
            return "waiting"
        open_steps = [each["status"] for each in self._steps.values()]
        if self.question is not None or "waiting" in open_steps:
            return "running" if "running" in open_steps else "waiting"
        return "running"

    def _now(self) -> dict[str, Any]:
        self.updated_at = self._clock()
        return {
            "operation_id": self.operation_id,
            "status": self.shown,
            "progress": round(self.fraction, 4),
            "current_step": self.current_step,
            "updated_at": self.updated_at,
        }

    def _step(self, step_id: str) -> dict[str, Any]:
        self.plan((step_id,))
        return self._steps[step_id]

    def _running(self) -> str | None:
        """The step that is told as the current one: the last that began and is not over."""
        for step in reversed(self._steps.values()):
            if step["status"] in ("running", "waiting"):
                return str(step["id"])
        return None

    def _step_changed(self, step: dict[str, Any]) -> None:
        self._tell("job.step", self._now() | {"step": dict(step)})

    def _tell(self, event_type: str, data: dict[str, Any]) -> None:
        if "updated_at" in data:
            self.updated_at = data["updated_at"] = self._clock()
        self._emit(event_type, data)


Emit = Callable[[str, dict[str, Any]], None]


class TrackedWorkflow:
    """What workflows derive from. `announces` False: a part of another job, which tells its own
    beginning and end. `tells_steps` False: so short that steps one by one are no news; all are in
    what is told of the end. `tells_along`: its own activities take the beginning and the end along.
    """

    announces = True
    tells_steps = True
    tells_along = False

    def __init__(self) -> None:
        info = workflow.info()
        self.announcer = Announcer()
        self.tracker = Tracker(info.workflow_id, info.workflow_type, now, self._emit)
        self.tracker.started_at = moment(info.start_time)
        self._decisions: dict[str, Decision] = {}
        self._skipped: set[str] = set()
        self._state = "pending"

    # What is asked and told from outside

    @workflow.query
    def status(self) -> dict[str, Any]:
        """The status body."""
        return self.tracker.body()

    @workflow.signal
    def pause(self) -> None:
        """Begin nothing new; what runs goes on to its end."""
        self.tracker.pause(True)

    @workflow.signal
    def resume(self) -> None:
        """Go on."""
        self.tracker.pause(False)

    @workflow.update
    def question_decided(self, decision: Decision) -> None:
        """From the gateway's outbox, with the question's id as update id: so it comes once."""
        if len(self._decisions) < MOST_DECISIONS:
            self._decisions.setdefault(decision.question_id, decision)

    @workflow.update
    def skip_step(self, step_id: str) -> dict[str, Any]:
        """Leave a step out that has not begun. Answers with the status body.

        One that is just beginning in a part of an orchestration may run all the same: its part has
        not said so yet, and the status body tells it then.
        """
        self._skipped.add(step_id)
        self.tracker.leave_out(step_id)
        return self.tracker.body()

    @skip_step.validator
    def _check_skip(self, step_id: str) -> None:
        status = self.tracker.step_status(step_id)
        if status is None:
            raise ApplicationError(f"there is no step {step_id[:64]!r}", type="NOT_FOUND")
        if status != "pending":
            raise ApplicationError(
                f"the step is {status}: it can't be skipped any more", type="CONFLICT"
            )
        if not self.may_skip(step_id):
            raise ApplicationError(_GUARD, type="CONFLICT")

    # What workflows use

    def may_skip(self, step_id: str) -> bool:
        """Whether a step that has not begun may be skipped on demand; for subclasses."""
        return True

    def skipped(self, step_id: str) -> bool:
        """Whether the step is to be left out."""
        return step_id in self._skipped

    def left(self, context: JobContext) -> timedelta:
        """How much of the job's time is left; never nothing, which Temporal takes for no bound."""
        until = workflow.info().start_time + timedelta(seconds=context.timeout_seconds)
        return max(until - workflow.now(), timedelta(milliseconds=1))

    async def may_go_on(self) -> None:
        """Wait while the job is paused: to be called before anything new begins."""
        if self.tracker.paused:
            await workflow.wait_condition(lambda: not self.tracker.paused)

    async def decision(self, question_id: str, deadline: datetime) -> Decision | None:
        """What was decided; None when `deadline` passed without a word."""
        left = deadline - workflow.now()
        try:
            await workflow.wait_condition(
                lambda: question_id in self._decisions, timeout=max(left, timedelta())
            )
        except TimeoutError:
            return self._decisions.get(question_id)
        return self._decisions[question_id]

    async def conduct(self, context: JobContext, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work` within the job's time, and tell its beginning and its end.

        `work` is cancelled when the job is cancelled or its time is over: it undoes what is to be
        undone and re-raises, or raises the failure that says what was undone (`causes.failure`).
        Raises what the job ends with.
        """
        self.tracker.operation_id = context.operation_id
        self.announcer.begin(context, held=self.tells_along)
        if self.announces:
            self.tracker.started()
        task = asyncio.ensure_future(work())
        ended_by = await self._over(task, context)
        # In a task of its own: what is over is told to the end, whatever is cancelled now.
        ending = asyncio.ensure_future(self._end(context, task, ended_by))
        while not ending.done():
            try:
                await workflow.wait([ending])
            except asyncio.CancelledError:
                continue
        return ending.result()

    async def _end(self, context: JobContext, task: asyncio.Future[T], ended_by: str) -> T:
        error: BaseException | None = None
        self.announcer.hold(self.tells_along)
        try:
            result = task.result()
        except (asyncio.CancelledError, Exception) as raised:
            error = self._ended(raised, ended_by)
        else:
            self.tracker.ended("completed", _plain(result))
        await self.closing(context)
        await self.announcer.flushed()
        if error is not None:
            raise error
        return result

    async def closing(self, context: JobContext) -> None:
        """What there is to do when the job is over and its end is told; for subclasses. The end is
        in `tracker`.
        """

    def tell(self, event_type: str, data: dict[str, Any], client_id: str | None = None) -> None:
        """Put an event into the job's stream, or into another."""
        self.announcer.put(JobEvent(event_type, data), size_of(data), client_id)

    # The end

    async def _over(self, task: asyncio.Future[T], context: JobContext) -> str:
        """Wait until the work is over, whatever comes. What ended it: nothing (empty), `cancelled`
        or `timed_out`.
        """
        ended_by = ""
        while not task.done():
            try:
                if ended_by:
                    await workflow.wait([task])
                    continue
                await workflow.wait([task], timeout=self.left(context).total_seconds())
                if not task.done():
                    ended_by = "timed_out"
                    task.cancel()
            except asyncio.CancelledError:
                # Once is enough: what is undone now must not be interrupted by a second one.
                if not ended_by:
                    ended_by = "cancelled"
                    task.cancel()
        return ended_by

    def _ended(self, raised: BaseException, ended_by: str) -> BaseException:
        """Tell the end that an exception means, and what the workflow is to raise."""
        details = dict(causes.details_of(raised))
        details.pop("error", None)
        details = {name: value for name, value in details.items() if value}
        if ended_by == "cancelled":
            told = JobError(failures.CANCELLED, "the job was cancelled")
            self.tracker.ended("cancelled", error=_members(told, details))
            return asyncio.CancelledError()
        if ended_by == "timed_out":
            told = JobError(failures.TIMED_OUT, "the job took longer than it may")
            self.tracker.ended("timed_out", error=_members(told, details))
            return _failure(told, details)
        told = causes.error_of(raised)
        if not isinstance(raised, FailureError):
            # Where, but not what it says: that may hold anything.
            frames = traceback.extract_tb(raised.__traceback__)
            at = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
            workflow.logger.error("a bug in a workflow: %s at %s", type(raised).__name__, at)
        self.tracker.ended("failed", error=_members(told, details))
        return _failure(told, details)

    def _emit(self, event_type: str, data: dict[str, Any]) -> None:
        """Put an event of the tracker into the queue, and keep the state where lists find it."""
        if event_type in _WHOLE:
            if not self.announces:
                return
            data, size = fitted(data)
            self.announcer.put(JobEvent(event_type, data), size)
        elif event_type != "job.step" or self.tells_steps:
            self.tell(event_type, data)
        state = self.tracker.shown
        # Temporal itself tells the other ends apart, in lists too.
        kept = state not in OVER or state == "timed_out"
        if self.announces and kept and state != self._state:
            self._state = state
            workflow.upsert_search_attributes([_STATE.value_set(state)])


_WHOLE: Final = frozenset(("job.started", *_END_EVENTS.values()))


def _members(error: JobError, details: dict[str, Any]) -> dict[str, Any]:
    """An error as the status body has it."""
    members = failures.members_of(error)
    del members["retryable"]
    return members | {"details": details or None}


def _failure(error: JobError, details: dict[str, Any]) -> ApplicationError:
    members = {"data": None, "errors": [], "compensations": []} | details
    members["error"] = failures.members_of(error)
    return ApplicationError(error.message, members, type=error.code, non_retryable=True)


def _plain(result: Any) -> Any:
    """A result as JSON has it."""
    if is_dataclass(result) and not isinstance(result, type):
        return asdict(result)
    return result
