"""The events of a job on their way to its stream: one queue in their order, published by activities
in batches while the job goes on.

A batch is tried at once by a local activity, of its own or one that a short job needs anyway. Where
that fails (the gateway or Redis is away) an ordinary one goes on for a while, and what comes
meanwhile waits behind it. What is given up then is lost for the stream only: the job itself, and
what a snapshot tells of it, do not depend on it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import FailureError

from gateway.jobs.activity_models import GivenUp, JobEvent, PublishInput
from gateway.jobs.models import JobContext

BATCH: Final = 100  # what the hub takes in one publication
BATCH_BYTES: Final = 512 << 10  # of those, half of what the gateway takes in one body
MOST_RESULT_BYTES: Final = 32 << 10  # within an event; the stream's frames hold 64 KiB
MOST_DETAILS_BYTES: Final = 8 << 10
MOST_STEPS_BYTES: Final = 16 << 10
QUICK: Final = timedelta(seconds=5)
TRY: Final = timedelta(seconds=15)
PATIENCE: Final = timedelta(minutes=9)
# Kept of the time after which Temporal ends a job itself: one that has done its work and undone
# what had to be must not be ended for what nobody could be told.
SPARE: Final = timedelta(minutes=1)
# Of an event's data: what it tells, but for times, and for what these members stand for.
_NEWS: Final = ("status", "progress", "current_step", "message")
_MARK_BYTES: Final = (
    8  # two batches of the same number in one job: no more than that to be told apart
)
_AGAIN: Final = RetryPolicy(
    initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=15)
)


@dataclass
class Along:
    """What an activity tells beside its own work. `told` is for who called it to say."""

    news: PublishInput | None = None
    told: bool = False


class Announcer:
    """The queue of one job's run. Bounded by what a job can do: progress is told once a batch,
    steps a few times each.
    """

    def __init__(self) -> None:
        self._context: JobContext | None = None
        self._waiting: list[tuple[str | None, JobEvent, int]] = []
        self._batches = 0
        self._under_way: asyncio.Task[None] | None = None
        self._held = False
        self._untold: PublishInput | None = None

    def __repr__(self) -> str:
        return f"<Announcer waiting={len(self._waiting)} batches={self._batches}>"

    def begin(self, context: JobContext, *, held: bool = False) -> None:
        """From now on events go out, those first that were put in before; `held`: as `hold`."""
        self._context, self._held = context, held
        self._wake()

    def put(self, event: JobEvent, size_bytes: int, client_id: str | None = None) -> None:
        """Append an event; `client_id` None: to the job's own stream.

        Progress that nobody was told of yet is replaced by newer progress.
        """
        if self._waiting and event.event_type == "job.progress":
            last_client_id, last, _ = self._waiting[-1]
            if last.event_type == "job.progress" and last_client_id == client_id:
                self._waiting.pop()
        self._waiting.append((client_id, event, size_bytes))
        self._wake()

    def hold(self, held: bool = True) -> None:
        """Keep what is put in for the next activity that takes it along (`held`: if so)."""
        self._held = held

    @contextmanager
    def along(self) -> Iterator[Along]:
        """The next events, for an activity that is needed anyway: that saves a short job a fifth of
        what it costs its worker. What is not told then is told as usual.
        """
        along = Along()
        self.hold()
        if self._context is not None and self._under_way is None and self._waiting:
            along.news = self._batch(self._context)
        try:
            yield along
        finally:
            if along.news is not None and not along.told:
                self._untold = along.news
            self._let_go()

    async def flushed(self) -> None:
        """Wait until all that was put in is published, or given up."""
        self._let_go()
        await workflow.wait_condition(lambda: not self._waiting and self._under_way is None)

    def _let_go(self) -> None:
        self._held = False
        self._wake()

    def _wake(self) -> None:
        if self._context is None or self._under_way is not None or self._held:
            return
        if self._waiting or self._untold is not None:
            self._under_way = asyncio.create_task(self._publish(self._context))

    async def _publish(self, context: JobContext) -> None:
        try:
            untold, self._untold = self._untold, None
            if untold is not None:
                await self._publish_one(untold)
            while self._waiting:
                await self._publish_one(self._batch(context))
        finally:
            self._under_way = None

    def _batch(self, context: JobContext) -> PublishInput:
        """The next events that belong to one client id."""
        client_id = self._waiting[0][0]
        size, events = 0, list[JobEvent]()
        for each_client_id, event, size_bytes in self._waiting[:BATCH]:
            size += size_bytes
            if each_client_id != client_id or (events and size > BATCH_BYTES):
                break
            events.append(event)
        del self._waiting[: len(events)]
        self._batches += 1
        # Another run of the same job (a reset, a continuation) numbers its batches anew.
        key = f"{workflow.info().run_id}:{self._batches}:{news_of(events)}"
        return PublishInput(context, key, events, client_id)

    async def _publish_one(self, batch: PublishInput) -> None:
        try:
            await workflow.execute_local_activity(
                "publish_events",
                batch,
                start_to_close_timeout=QUICK,
                schedule_to_close_timeout=QUICK,
                retry_policy=RetryPolicy(maximum_attempts=1),
            )
            return
        except FailureError:
            workflow.logger.warning("events not published yet")
        patience = min(PATIENCE, _time_left() - SPARE)
        if patience < TRY:
            lost = len(batch.events) + len(self._waiting)
            self._waiting.clear()
            await _give_up(batch.context, lost)
            return
        try:
            await workflow.execute_activity(
                "publish_events",
                batch,
                start_to_close_timeout=TRY,
                schedule_to_close_timeout=patience,
                retry_policy=_AGAIN,
            )
        except FailureError:
            await _give_up(batch.context, len(batch.events))


async def _give_up(context: JobContext, events: int) -> None:
    """Leave a word of it where its operator looks; a job does not fail for that."""
    try:
        await workflow.execute_local_activity(
            "give_up_events",
            GivenUp(context, events),
            start_to_close_timeout=QUICK,
            retry_policy=RetryPolicy(maximum_attempts=1),
        )
    except FailureError:
        workflow.logger.error("events given up")


def _time_left() -> timedelta:
    """Until Temporal ends the job itself."""
    info = workflow.info()
    if info.execution_timeout is None:
        return timedelta.max
    return info.workflow_start_time + info.execution_timeout - workflow.now()


def news_of(events: Iterable[JobEvent]) -> str:
    """A mark of what events tell, whenever they tell it.

    A worker that dies after a publication and before Temporal knows of it leaves a task that
    another one does again, at another time: the same news have the same key then and are published
    once; what is told besides, since more has come in meanwhile, makes it another publication.
    """
    digest = hashlib.blake2b(digest_size=_MARK_BYTES)
    for event in events:
        step, question = event.data.get("step"), event.data.get("question")
        told = [event.event_type, *(event.data.get(name) for name in _NEWS)]
        told += [step[name] for name in ("id", "status")] if isinstance(step, dict) else []
        told += [question["question_id"]] if isinstance(question, dict) else []
        digest.update(repr(told).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def fitted(body: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """A status body as an event holds it, and its size: what is too large for a frame of a stream
    is left out, and where all of it stands is said.
    """
    body = dict(body)
    at = f"/api/v1/workflows/{body['operation_id']}"
    if size_of(body.get("result")) > MOST_RESULT_BYTES:
        body["result"] = None
        body["result_url"] = f"{at}/result"
    error = body.get("error")
    if error is not None and size_of(error.get("details")) > MOST_DETAILS_BYTES:
        body["error"] = error | {"details": None}
        body["status_url"] = f"{at}/status"
    if size_of(body.get("steps")) > MOST_STEPS_BYTES:
        body["steps"] = None
        body["status_url"] = f"{at}/status"
    return body, size_of(body)


def size_of(value: Any) -> int:
    """About how many bytes a JSON value has on the wire: what bounds an event need not be exact."""
    size, left = 0, [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            size += 2
            left.extend(each.values())
            left.extend(each)
        elif isinstance(each, list | tuple):
            size += 2 + len(each)
            left.extend(each)
        else:
            # A character outside ASCII has up to four bytes.
            size += 4 + len(each.encode("utf-8", "replace")) if isinstance(each, str) else 20
    return size
