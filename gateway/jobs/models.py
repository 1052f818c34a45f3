"""What goes into a job, and what comes out: typed, plain data, shared by the gateway that starts
jobs and the workers that run them.

Workflow code may import this file, so it imports nothing that reads a clock or a socket. The JSON
Schemas of the inputs, by which they are checked before anything starts, are in `schemas`; a test
holds both against each other. Durations are seconds. New fields need a default: histories that are
older than a field are still replayed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Caller:
    """Who started a job, as it was then; authorisation and limits of its steps are this caller's.

    `address` is what tells callers without a credential apart; `agent` is the AI agent that asked,
    by the name that figures have for it.
    """

    subject: str | None = None
    tenant: str | None = None
    tier: str = "anonymous"
    scopes: list[str] = field(default_factory=list)
    client_ids: list[str] = field(default_factory=list)
    address: str = ""
    open_write: bool = False  # the owner of a gateway without keys
    agent: str | None = None


@dataclass
class JobContext:
    """What the gateway knows of a job when it starts it: the first argument of every workflow.

    `bases` gives for each service that is named in the input the path at the gateway that its
    requests begin with: `/api/v1/{name}`, or empty for a service that is reached by rows only.
    `spent`: the caller's limits have counted the job's (first) request already. `notify` is the
    client id that is told of the end besides the job's own stream. `trace` is the `traceparent`
    (W3C Trace Context) of the request that started it.
    """

    caller: Caller
    operation_id: str
    workflow_type: str
    timeout_seconds: float
    request_id: str = ""
    correlation_id: str = ""
    bases: dict[str, str] = field(default_factory=dict)
    spent: bool = False
    notify: str | None = None
    trace: str | None = None


@dataclass
class Retry:
    """How often and when a request is tried again; None: as the kind of its error says."""

    max_attempts: int | None = None
    initial_seconds: float | None = None
    backoff: float = 2.0
    max_seconds: float = 60.0


@dataclass
class ServiceRequest:
    """A request to a registered service. `body` is any JSON value; `body_base64` are bytes as they
    are, with their type in `headers`. `target` is set by the gateway only: the whole path and query
    at the gateway, for a request that came in by a row.
    """

    service: str
    path: str = "/"
    method: str = "GET"
    query: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    body_base64: str | None = None
    target: str | None = None


@dataclass
class ServiceAnswer:
    """What a service answered. `body` is the JSON value where it is JSON, else text; what is
    neither is in `body_base64`. `headers` has lower-case names, and no cookies.
    """

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    body_base64: str | None = None


@dataclass
class JobError:
    """Why something failed or was refused: a code of the error table or of the taxonomy."""

    code: str
    message: str
    step: str | None = None
    status: int | None = None  # of the service's answer
    retry_after: int | None = None
    retryable: bool = False


# A request as a job: api_request_workflow


@dataclass
class ApiRequestInput(ServiceRequest):
    """`transform` is a template over `{"status", "headers", "body"}` of the answer; None: as is."""

    transform: Any = None
    retry: Retry | None = None
    timeout_seconds: float | None = None


@dataclass
class ApiRequestResult:
    """`error` is set where the request was refused: that is a result, not a failure."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    body_base64: str | None = None
    error: JobError | None = None
    attempts: int = 0
    duration_ms: int = 0


# Several services: multi_service_orchestration_workflow


@dataclass
class ResultRule:
    """A JSON Schema that a step's result must fit; `otherwise` is `fail` or `skip`."""

    schema: Any
    otherwise: str = "fail"


@dataclass
class Step:
    """One request of an orchestration. Strings may hold `${/pointer}`, values may be
    `{"$result": "/pointer"}`: references into the results so far, by step id.
    """

    id: str
    service: str
    path: str = "/"
    method: str = "GET"
    query: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    depends_on: list[str] = field(default_factory=list)
    condition: Any = None
    timeout_seconds: float = 30.0
    retry: Retry | None = None
    compensation: ServiceRequest | None = None
    required: bool = True
    rules: list[ResultRule] = field(default_factory=list)


@dataclass
class OrchestrationInput:
    """`output` is a template over the results; None: all results by step id."""

    steps: list[Step]
    output: Any = None
    timeout_seconds: float | None = None


@dataclass
class Compensation:
    """What became of undoing a step: `status` is `done` or `failed`."""

    step: str
    status: str
    error: JobError | None = None


@dataclass
class OrchestrationResult:
    """`data` is the output; `errors` are those of optional steps. `completed_at`: RFC 3339."""

    data: Any = None
    errors: list[JobError] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    compensations: list[Compensation] = field(default_factory=list)
    completed_at: str = ""


# A request that is answered later: async_request_workflow


@dataclass
class AsyncRequestInput(ServiceRequest):
    """`callback_url` is told that it was accepted, and the end. `client_id`: a stream that is told
    the end too; None: the caller's own.
    """

    callback_url: str | None = None
    client_id: str | None = None
    retry: Retry | None = None
    timeout_seconds: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class AsyncRequestResult:
    """`callback` is `none`, or `sending`: it goes on for days, also when the job is over."""

    answer: ServiceAnswer | None = None
    callback: str = "none"
    attempts: int = 0
    completed_at: str = ""


# What to do after a failure: error_recovery_workflow


@dataclass
class FailureReport:
    """A failure that was seen. `kind` is one of the taxonomy (`failures.KINDS`)."""

    kind: str
    status: int | None = None
    message: str = ""
    at: str = ""


@dataclass
class Fallback:
    """Another service to ask, or an answer that is kept here."""

    request: ServiceRequest | None = None
    answer: Any = None


@dataclass
class ErrorRecoveryInput:
    """`strategy` is `retry`, `fallback` or `circuit_breaker`; None: chosen by the failure."""

    request: ServiceRequest
    failure: FailureReport
    history: list[FailureReport] = field(default_factory=list)
    strategy: str | None = None
    fallback: Fallback | None = None
    retry: Retry | None = None
    timeout_seconds: float | None = None


@dataclass
class ErrorRecoveryResult:
    """`outcome` is `recovered`, `fallback`, `refused` (breaker open) or `failed`."""

    strategy: str
    outcome: str
    reason: str = ""
    answer: ServiceAnswer | None = None
    error: JobError | None = None
    attempts: int = 0
    breaker: str | None = None
    completed_at: str = ""


# A process with people in it: business_process_workflow


@dataclass
class Ask:
    """A question as the contract has it (events.md), strings with references as in a step."""

    prompt: str
    client_ids: list[str] = field(default_factory=list)
    schema: Any = None
    options: list[str] | None = None
    approvers: list[str] = field(default_factory=list)
    policy: Any = None
    forbid_self: bool = False
    expires_in: float | None = None
    default: Any = None
    has_default: bool = False  # set by the gateway: `default` was given, be it null
    reminders: list[float] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class ProcessStep:
    """One step of a process: exactly one of `request` (remote), `value` (local: a template whose
    value is the result), `ask` (people) and `wait_seconds`.

    `continue_when` is a condition over the results, looked at after the step: where it does not
    hold the process fails and is undone.
    """

    id: str
    request: ServiceRequest | None = None
    value: Any = None
    ask: Ask | None = None
    wait_seconds: float | None = None
    condition: Any = None
    continue_when: Any = None
    timeout_seconds: float = 30.0
    retry: Retry | None = None
    compensation: ServiceRequest | None = None
    rules: list[ResultRule] = field(default_factory=list)


@dataclass
class BusinessProcessInput:
    """Steps in their order; `data` is there as the result `/input`."""

    steps: list[ProcessStep]
    data: Any = None
    output: Any = None
    timeout_seconds: float | None = None


@dataclass
class BusinessProcessResult:
    """As of an orchestration, with what people decided by step id."""

    data: Any = None
    decisions: dict[str, Any] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    compensations: list[Compensation] = field(default_factory=list)
    completed_at: str = ""


# From one tenant to another: tenant_switch_workflow


@dataclass
class SwitchStep:
    """One service that is told of the new context; `compensation` takes it back."""

    id: str
    request: ServiceRequest
    compensation: ServiceRequest | None = None


@dataclass
class TenantSwitchInput:
    """References see `/input` (`to_tenant`, `from_tenant`, `user_id`), `/session_id`, `/validate`
    and the results by step id. `context` is the template of the user's context.
    """

    to_tenant: str
    validate: ServiceRequest
    services: list[SwitchStep]
    from_tenant: str | None = None
    user_id: str | None = None
    context: Any = None
    timeout_seconds: float | None = None


@dataclass
class TenantSwitchResult:
    """`success` false: everything was rolled back, and `error` says why."""

    success: bool
    session_id: str | None = None
    user_context: Any = None
    error: JobError | None = None
    compensations: list[Compensation] = field(default_factory=list)
    completed_at: str = ""
