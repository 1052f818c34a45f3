"""The history of a job as people read it: what ran, for how long, which attempt failed and why.

Made of Temporal's events (temporal.api.history.v1). Inputs and results are not in it; messages of
failures are decoded, as the workflow's own would be. Entries are in the order of their beginning.

What ran in the parts of a large orchestration stands among them, with the name of its part. What
is the job's own bookkeeping does not: publishing its events, what its parts tell it, the timer of
its time-out.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import Payload, WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.client import Client
from temporalio.converter import DataConverter, WorkflowSerializationContext
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError
from temporalio.service import RPCError, RPCStatusCode

from gateway.jobs.starting import BACKSTOP_SECONDS

# A job of 1,000 steps has some 10,000 events; what is beyond is a number only.
MOST_EVENTS: Final = 12_000
PAGE_EVENTS: Final = 1000
# Local activities leave a mark when they are done, with what they were in its details.
_LOCAL: Final = "core_local_activity"
# The parts of a large orchestration (`workflows/orchestration_part`, which no gateway imports):
# what is of interest in their histories.
_PART: Final = "orchestration_part_workflow"
_OF_PARTS: Final = ("activity", "timer")
# Bookkeeping: activities that publish events, and the signal by which parts tell of their steps.
_PUBLISHING: Final = ("publish_events", "give_up_events")
_TOLD_BY_PARTS: Final = "part_reports"
# Of timers, which are kept in milliseconds.
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_ABOUT: Final = timedelta(milliseconds=20)

Entry = dict[str, Any]


async def timeline_of(client: Client, operation_id: str) -> dict[str, Any]:
    """The timeline. Raises RPCError; what it costs is bounded."""
    job, workflow_type, left = await _read(client, operation_id, None, MOST_EVENTS)
    entries, room = job.entries, MOST_EVENTS - job.events
    for part in job.parts:
        try:
            found, _, more = await _read(client, part.workflow_id, part.run_id, room)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            continue  # over long before its job, and forgotten
        name = part.workflow_id.removeprefix(f"{operation_id}-")
        entries += [each | {"part": name} for each in found.entries if each["what"] in _OF_PARTS]
        room, left = room - found.events, left + more
    entries.sort(key=itemgetter("at"))  # stable: those of one moment keep their order
    return {
        "operation_id": operation_id,
        "workflow_type": workflow_type,
        "entries": entries,
        "events_left_out": left,
    }


async def _read(
    client: Client, workflow_id: str, run_id: str | None, most_events: int
) -> tuple[_Timeline, str, int]:
    """What is in one history, the type of its workflow, and how many events were left out."""
    handle = client.get_workflow_handle(workflow_id, run_id=run_id)
    found = await handle.describe()
    context = WorkflowSerializationContext(client.namespace, workflow_id)
    reading = _Timeline(client.data_converter.with_context(context))
    if most_events:
        async for event in handle.fetch_history_events(page_size=min(PAGE_EVENTS, most_events)):
            await reading.event(event)
            if reading.events >= most_events:
                break
    if found.close_time is None:  # one that is over is not waited for
        for pending in found.raw_description.pending_activities:
            await reading.pending(pending)
    return reading, found.workflow_type, max(0, found.history_length - reading.events)


class _Timeline:
    """Entries as they come about. Those that begin and end in different events are found again by
    the number of the first.
    """

    def __init__(self, converter: DataConverter) -> None:
        self.entries: list[Entry] = []
        self.events = 0
        self.parts: list[WorkflowExecution] = []
        self._converter = converter
        self._now = self._until = _EPOCH  # as the workflow has it, and when the job's time is over
        self._within = timedelta()
        self._begun = False
        self._open: dict[int, Entry] = {}
        self._activities: dict[str, Entry] = {}  # by activity id

    async def event(self, event: HistoryEvent) -> None:
        """One event more."""
        self.events += 1
        name = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_").lower()
        attributes = getattr(event, f"{name}_event_attributes", None)
        read = _READERS.get(name)
        if read is not None:
            await read(self, event, attributes)

    async def pending(self, activity: PendingActivityInfo) -> None:
        """An activity under way: events are written at its end only."""
        entry = self._activities.get(activity.activity_id)
        if entry is None:
            return
        entry["attempts"] = activity.attempt
        if activity.HasField("last_started_time"):
            entry["started_at"] = _moment(activity.last_started_time)
            entry["status"] = "running"
        if activity.HasField("last_failure"):
            entry["last_failure"] = await self._failure(activity.last_failure)
        if activity.HasField("next_attempt_schedule_time"):
            entry["status"] = "retrying"
            entry["next_attempt_at"] = _moment(activity.next_attempt_schedule_time)

    # The job itself

    async def started(self, event: HistoryEvent, attributes: Any) -> None:
        self._add(event, "job", status="started")
        within = attributes.workflow_execution_timeout.ToTimedelta()
        self._within = within - timedelta(seconds=BACKSTOP_SECONDS)

    async def task_started(self, event: HistoryEvent, _attributes: Any) -> None:
        """The workflow's clock stands at this. Its first task is its beginning."""
        self._now = event.event_time.ToDatetime(UTC)
        if not self._begun:
            self._until = self._now + self._within

    async def task_completed(self, _event: HistoryEvent, _attributes: Any) -> None:
        self._begun = True

    async def ended(self, event: HistoryEvent, attributes: Any) -> None:
        how = EventType.Name(event.event_type).rpartition("_")[2].lower()
        shown = {"canceled": "cancelled", "out": "timed_out"}.get(how, how)
        for left in self._open.values():  # it ended before it heard of them
            left["status"] = "unfinished"
        entry = self._add(event, "job", status=shown)
        if how == "failed":
            entry["failure"] = await self._failure(attributes.failure)

    async def cancel_requested(self, event: HistoryEvent, _attributes: Any) -> None:
        self._add(event, "cancel", status="requested")

    async def signaled(self, event: HistoryEvent, attributes: Any) -> None:
        if attributes.signal_name != _TOLD_BY_PARTS:
            self._add(event, "signal", name=attributes.signal_name)

    async def update_accepted(self, event: HistoryEvent, attributes: Any) -> None:
        name = attributes.accepted_request.input.name
        self._open[event.event_id] = self._add(event, "update", name=name, status="accepted")

    async def update_completed(self, event: HistoryEvent, attributes: Any) -> None:
        entry = self._end(event, attributes.accepted_event_id, "completed")
        if entry is not None and attributes.outcome.HasField("failure"):
            entry["status"] = "failed"
            entry["failure"] = await self._failure(attributes.outcome.failure)

    # Activities

    async def scheduled(self, event: HistoryEvent, attributes: Any) -> None:
        if attributes.activity_type.name in _PUBLISHING:
            return
        entry = self._add(
            event,
            "activity",
            name=attributes.activity_type.name,
            step=await self._summary(event),
            status="scheduled",
        )
        self._open[event.event_id] = entry
        self._activities[attributes.activity_id] = entry

    async def activity_started(self, event: HistoryEvent, attributes: Any) -> None:
        entry = self._open.get(attributes.scheduled_event_id)
        if entry is None:  # one that is left out
            return
        entry["status"] = "running"
        entry["started_at"] = _moment(event.event_time)
        entry["attempts"] = attributes.attempt
        if attributes.HasField("last_failure"):
            entry["last_failure"] = await self._failure(attributes.last_failure)

    async def activity_ended(self, event: HistoryEvent, attributes: Any) -> None:
        how = EventType.Name(event.event_type).rpartition("_")[2].lower()
        shown = {"canceled": "cancelled", "out": "timed_out"}.get(how, how)
        entry = self._end(event, attributes.scheduled_event_id, shown)
        if entry is not None and how in ("failed", "out"):
            await self._failed(entry, attributes.failure)

    async def marker(self, event: HistoryEvent, attributes: Any) -> None:
        """A local activity that is over: retries of it leave no events of their own."""
        if attributes.marker_name != _LOCAL:
            return
        data = await self._decoded(attributes.details["data"].payloads)
        told = data if isinstance(data, dict) else {}
        name = str(told.get("activity_type", ""))
        if name in _PUBLISHING:
            return
        entry = self._add(event, "activity", name=name, local=True)
        entry["status"] = "completed"
        entry["attempts"] = told.get("attempt", 1)
        if attributes.HasField("failure"):
            entry["status"] = "failed"
            await self._failed(entry, attributes.failure)

    # Timers and children

    async def timer_started(self, event: HistoryEvent, attributes: Any) -> None:
        seconds = attributes.start_to_fire_timeout.ToMilliseconds() / 1000
        if abs(self._now + timedelta(seconds=seconds) - self._until) < _ABOUT:
            return
        entry = self._add(event, "timer", status="running", seconds=seconds)
        self._open[event.event_id] = entry

    async def timer_ended(self, event: HistoryEvent, attributes: Any) -> None:
        how = EventType.Name(event.event_type).rpartition("_")[2].lower()
        shown = "cancelled" if how == "canceled" else "completed"
        self._end(event, attributes.started_event_id, shown)

    async def child_initiated(self, event: HistoryEvent, attributes: Any) -> None:
        entry = self._add(event, "child", name=attributes.workflow_type.name, status="running")
        self._open[event.event_id] = entry

    async def child_started(self, _event: HistoryEvent, attributes: Any) -> None:
        if attributes.workflow_type.name == _PART:
            self.parts.append(attributes.workflow_execution)

    async def child_ended(self, event: HistoryEvent, attributes: Any) -> None:
        how = EventType.Name(event.event_type).rpartition("_")[2].lower()
        shown = {"canceled": "cancelled", "out": "timed_out"}.get(how, how)
        entry = self._end(event, attributes.initiated_event_id, shown)
        if entry is not None and hasattr(attributes, "failure"):  # one never begun has none
            entry["failure"] = await self._failure(attributes.failure)

    # Parts

    def _add(self, event: HistoryEvent, what: str, **more: Any) -> Entry:
        given = {name: value for name, value in more.items() if value is not None}
        entry: Entry = {"at": _moment(event.event_time), "what": what} | given
        self.entries.append(entry)
        return entry

    def _end(self, event: HistoryEvent, began: int, status: str) -> Entry | None:
        entry = self._open.pop(began, None)
        if entry is not None:
            entry["status"] = status
            entry["ended_at"] = _moment(event.event_time)
            began_at = str(entry.get("started_at", entry["at"]))
            entry["duration_ms"] = _between_ms(began_at, entry["ended_at"])
        return entry

    async def _summary(self, event: HistoryEvent) -> str | None:
        """Which step it is for: what the workflow noted, up to what it does for it (`: ask`)."""
        if not event.user_metadata.HasField("summary"):
            return None
        summary = await self._decoded([event.user_metadata.summary])
        return summary.partition(": ")[0] if isinstance(summary, str) else None

    async def _decoded(self, payloads: Any) -> Any:
        """The first value; None where there is none, or it can't be read here."""
        given: list[Payload] = list(payloads)
        values = await self._converter.decode(given) if given else []
        return values[0] if values else None

    async def _failed(self, entry: Entry, failure: Failure) -> None:
        """How an activity failed; what was cut off did not."""
        if failure.HasField("canceled_failure_info"):
            entry["status"] = "cancelled"
        else:
            entry["failure"] = await self._failure(failure)

    async def _failure(self, failure: Failure) -> Entry:
        """Why: the innermost of the causes, which the others only carry."""
        error: BaseException = await self._converter.decode_failure(failure)
        while isinstance(error, ActivityError | ChildWorkflowError) and error.__cause__:
            error = error.__cause__
        told: Entry = {"message": str(getattr(error, "message", error))}
        if isinstance(error, ApplicationError):
            told = {"code": error.type} | told
        return told


def _moment(at: Timestamp) -> str:
    moment: datetime = at.ToDatetime(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _between_ms(began: str, ended: str) -> int:
    span = datetime.fromisoformat(ended) - datetime.fromisoformat(began)
    return max(0, round(span.total_seconds() * 1000))


_READERS: Final[dict[str, Callable[..., Any]]] = {
    "workflow_execution_started": _Timeline.started,
    "workflow_execution_completed": _Timeline.ended,
    "workflow_execution_failed": _Timeline.ended,
    "workflow_execution_timed_out": _Timeline.ended,
    "workflow_execution_canceled": _Timeline.ended,
    "workflow_execution_terminated": _Timeline.ended,
    "workflow_execution_cancel_requested": _Timeline.cancel_requested,
    "workflow_execution_signaled": _Timeline.signaled,
    "workflow_execution_update_accepted": _Timeline.update_accepted,
    "workflow_execution_update_completed": _Timeline.update_completed,
    "workflow_task_started": _Timeline.task_started,
    "workflow_task_completed": _Timeline.task_completed,
    "activity_task_scheduled": _Timeline.scheduled,
    "activity_task_started": _Timeline.activity_started,
    "activity_task_completed": _Timeline.activity_ended,
    "activity_task_failed": _Timeline.activity_ended,
    "activity_task_timed_out": _Timeline.activity_ended,
    "activity_task_canceled": _Timeline.activity_ended,
    "marker_recorded": _Timeline.marker,
    "timer_started": _Timeline.timer_started,
    "timer_fired": _Timeline.timer_ended,
    "timer_canceled": _Timeline.timer_ended,
    "start_child_workflow_execution_initiated": _Timeline.child_initiated,
    "start_child_workflow_execution_failed": _Timeline.child_ended,
    "child_workflow_execution_started": _Timeline.child_started,
    "child_workflow_execution_completed": _Timeline.child_ended,
    "child_workflow_execution_failed": _Timeline.child_ended,
    "child_workflow_execution_timed_out": _Timeline.child_ended,
    "child_workflow_execution_canceled": _Timeline.child_ended,
    "child_workflow_execution_terminated": _Timeline.child_ended,
}
