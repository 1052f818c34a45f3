"""The activity that puts a job's events into streams, and the way to do it over HTTP.

Publishing is the one place that sees each event of each job once: so the log line of an event and
the count of a job that ended are made here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from temporalio import activity

from gateway.jobs.activities.failing import beating, failed
from gateway.jobs.activities.parts import JobMetrics, NotPublishedError, Publisher
from gateway.jobs.activity_models import GivenUp, JobEvent, PublishInput
from gateway.jobs.failures import KINDS
from gateway.jobs.gateway_http import GatewayHttp, NoAnswerError, refusal_of
from gateway.jobs.models import JobError, Retry
from sse.idempotency import other_body

_SOON: Final = Retry(initial_seconds=1.0, max_seconds=15.0)
_ALONG_SECONDS: Final = 5.0  # as its own first try has
_OTHER_BODY: Final = other_body().message
_ENDS: Final = frozenset(("job.completed", "job.failed", "job.cancelled"))


class HttpPublisher:
    """Publishes through the gateway, with the service's token."""

    def __init__(self, http: GatewayHttp) -> None:
        self._http = http

    def __repr__(self) -> str:
        return f"<HttpPublisher {self._http!r}>"

    async def publish(self, client_id: str, events: Sequence[JobEvent], key: str) -> None:
        """Publish in order, once for each key, which tells what is told (`announcing.news_of`).
        Raises NotPublishedError.
        """
        body = [{"event_type": each.event_type, "data": each.data} for each in events]
        try:
            # A subject may hold anything: it must not become another path.
            path = f"/api/v1/events/{quote(client_id, safe=':@')}"
            answer = await self._http.own("POST", path, body, key=key)
        except NoAnswerError as failure:
            raise NotPublishedError(str(failure)) from None
        if answer.status != 202:
            refusal = refusal_of(answer)
            if refusal.message == _OTHER_BODY:
                return  # these news, told at another time by a worker that has died since
            # What is wrong with a body or a credential stays wrong; all else may pass.
            final = answer.status in (400, 413, 422)
            raise NotPublishedError(refusal.message, final=final)


class Publishing:
    """The activity."""

    def __init__(self, publisher: Publisher, metrics: JobMetrics, log: Any) -> None:
        self._publisher = publisher
        self._metrics = metrics
        self._log = log

    def all(self) -> list[Callable[..., Any]]:
        """The activities, to be registered."""
        return [self.publish_events, self.give_up_events]

    @activity.defn(name="publish_events")
    async def publish_events(self, asked: PublishInput) -> None:
        """Publish a batch; once, as long as the streams remember its key."""
        try:
            async with beating():
                await self._publish(asked)
        except NotPublishedError as failure:
            raise self._failed(str(failure), final=failure.final) from None
        except Exception as failure:
            raise self._failed(type(failure).__name__, final=False) from None

    @activity.defn(name="give_up_events")
    async def give_up_events(self, lost: GivenUp) -> None:
        """Say that a stream lacks some: who watches it does not know."""
        self._log.error(
            "workflow_events_given_up",
            operation_id=lost.context.operation_id,
            workflow_type=lost.context.workflow_type,
            correlation_id=lost.context.correlation_id,
            events=lost.events,
        )
        self._metrics.given_up(lost.context.workflow_type, lost.events)

    async def along(self, news: PublishInput | None) -> bool:
        """Publish beside what another activity does; whether it was done. It is no failure of
        theirs where it was not, and does not keep them for long.
        """
        if news is None:
            return False
        try:
            async with asyncio.timeout(_ALONG_SECONDS):
                await self._publish(news)
        except Exception:
            return False
        return True

    async def _publish(self, asked: PublishInput) -> None:
        client_id = asked.client_id or f"job:{asked.context.operation_id}"
        await self._publisher.publish(client_id, asked.events, asked.key)
        if asked.client_id is not None:
            return
        try:
            for event in asked.events:
                self._note(asked, event)
        except Exception as failure:  # who watches was told all the same
            activity.logger.warning("events not noted: %s", type(failure).__name__)

    def _failed(self, message: str, *, final: bool) -> Exception:
        kind = KINDS["validation" if final else "network"]
        return failed(kind, JobError(kind.code, message, retryable=not final), _SOON, endless=True)

    def _note(self, asked: PublishInput, event: JobEvent) -> None:
        context, data = asked.context, event.data
        step = data.get("step")
        self._log.info(
            "workflow_event",
            event_type=event.event_type,
            operation_id=context.operation_id,
            workflow_type=context.workflow_type,
            correlation_id=context.correlation_id,
            user_id=context.caller.subject or "anonymous",
            tenant=context.caller.tenant,
            status=data.get("status"),
            step=step.get("id") if isinstance(step, dict) else data.get("current_step"),
        )
        if event.event_type in _ENDS:
            seconds = _between(data.get("started_at"), data.get("ended_at"))
            self._metrics.executed(context.workflow_type, str(data.get("status")), seconds)


def _between(start: object, end: object) -> float:
    """Seconds between two times as they are told; 0 where one is missing."""
    if not isinstance(start, str) or not isinstance(end, str):
        return 0.0
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
