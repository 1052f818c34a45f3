"""What activities are made of, in the words that they use; who builds a worker brings the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from temporalio.client import Client

from gateway.jobs.activity_models import JobEvent
from gateway.jobs.gateway_http import GatewayHttp


class Publisher(Protocol):
    """Puts events into streams: over HTTP, or through Redis."""

    async def publish(self, client_id: str, events: Sequence[JobEvent], key: str) -> None:
        """Publish in order, once for each key. Raises NotPublishedError."""
        ...


class NotPublishedError(Exception):
    """Events are in no stream. `final`: they will never be, however often it is tried."""

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


@dataclass(frozen=True, slots=True)
class CallbackOutcome:
    """What became of one attempt at a callback. `error` empty: it has arrived. `final`: there must
    be no other attempt. The text holds no address and no URL.
    """

    error: str = ""
    final: bool = False
    retry_after_seconds: float | None = None


class CallbackSender(Protocol):
    """Sends signed callbacks (Standard Webhooks), by the rules for callbacks of questions."""

    async def send(self, url: str, message_id: str, body: bytes) -> CallbackOutcome:
        """Once; never raises for what the receiver does."""
        ...


class JobMetrics(Protocol):
    """Counts what jobs do."""

    def executed(self, workflow_type: str, status: str, seconds: float) -> None:
        """A job ended."""
        ...

    def given_up(self, workflow_type: str, events: int) -> None:
        """Events that no stream will get."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """All that activities need. `client` is the worker's own, for what belongs to another workflow;
    `callbacks` is None where there is no secret to sign them with.
    """

    http: GatewayHttp
    publisher: Publisher
    callbacks: CallbackSender | None
    client: Client
    metrics: JobMetrics
    log: Any
