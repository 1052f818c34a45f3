"""What activities are given and give back: between a job and what its workers do for it.

Inside of Temporal only: what callers give a job and get of it is in `models`. As there, workflow
code imports this file, so nothing here reads a clock or a socket; and new fields need a default,
for histories that are older than a field are still replayed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gateway.jobs.models import (
    JobContext,
    JobError,
    ResultRule,
    Retry,
    ServiceAnswer,
    ServiceRequest,
)


@dataclass
class CallInput:
    """One request in the caller's name. `key` is its Idempotency-Key, the same at every try.

    `spent`: the caller's limits have counted it. `rules` are held against the answer's body.
    `retry`: None: as the kind of an error says. `any_status`: an answer that is an error is an
    answer too, when its tries are used up. `most_bytes`: of the answer, None: as of all.
    """

    context: JobContext
    request: ServiceRequest
    key: str
    timeout_seconds: float = 30.0
    spent: bool = False
    rules: list[ResultRule] = field(default_factory=list)
    step: str | None = None
    retry: Retry | None = None
    any_status: bool = False
    most_bytes: int | None = None


@dataclass
class CallResult:
    """`broken` is what was found by the rules: `fail` or `skip`, and why in `message`."""

    answer: ServiceAnswer
    attempts: int = 1
    broken: str | None = None
    message: str = ""


@dataclass
class JobEvent:
    """An event of a job's stream."""

    event_type: str
    data: dict[str, Any]


@dataclass
class PublishInput:
    """Events in their order; the same `key` is published once. `client_id` None: the job's own
    stream.
    """

    context: JobContext
    key: str
    events: list[JobEvent]
    client_id: str | None = None


@dataclass
class GivenUp:
    """So many events of a job that no stream will get."""

    context: JobContext
    events: int


@dataclass
class GateInput:
    """What the gateway is asked about a request before it is made. `news` are told beside it."""

    context: JobContext
    request: ServiceRequest
    news: PublishInput | None = None


@dataclass
class GateAnswer:
    """`error` None: it may go on. `told`: the news were."""

    error: JobError | None = None
    told: bool = False


@dataclass
class TransformInput:
    """An answer and the template that it is put into."""

    answer: ServiceAnswer
    template: Any = None


@dataclass
class LogInput:
    """What is kept of a request that was made. `news` are told with it."""

    context: JobContext
    request: ServiceRequest  # without body and headers
    status: int
    attempts: int
    duration_ms: int
    error: JobError | None = None
    news: PublishInput | None = None


@dataclass
class CallbackInput:
    """A signed callback (Standard Webhooks); `id` is the same at every try."""

    context: JobContext
    url: str
    id: str
    event_type: str
    data: dict[str, Any]


@dataclass
class AskInput:
    """A question of a job; `question_id` is the workflow's choice, so asking is repeatable."""

    context: JobContext
    question_id: str
    step: str
    body: dict[str, Any]


@dataclass
class Decision:
    """How a question stands: `status` is `open`, `answered`, `expired` or `withdrawn`."""

    question_id: str
    status: str
    response: Any = None
    answered_by: str | None = None
    answered_at: str | None = None
    expires_at: str | None = None


@dataclass
class BreakerAsk:
    """`what` is `allow`, `failed` or `succeeded`."""

    service: str
    owner: str
    what: str


@dataclass
class BreakerState:
    """`allowed`: a request may go on now."""

    state: str
    allowed: bool = True
    retry_after: int = 0
    failures: int = 0
