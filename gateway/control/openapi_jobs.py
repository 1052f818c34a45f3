"""The part of the OpenAPI document about jobs: starting, looking, steering; and their events.

What a job is started with stands in `jobs/schemas`, by which it is checked.
"""

from __future__ import annotations

from gateway.control import job_requests as asked
from gateway.control.jobs import PREFIXES
from gateway.control.openapi_terms import (
    ANYTHING,
    COUNT,
    LIMIT_HEADERS,
    MOMENT,
    TEXT,
    Schema,
    answer,
    errors,
    head_of,
    json_body,
    listed,
    obj,
    operation,
    or_null,
    parameter,
    schema,
)
from gateway.control.openapi_terms import parameters as refs
from gateway.jobs import schemas as inputs
from gateway.jobs.listing import MOST_PAGE_SIZE, PAGE_SIZE
from gateway.jobs.status import MEMBERS, STATUSES
from gateway.jobs.types import JOB_TYPES

_ID: Schema = {"type": "string", "pattern": "^[0-9a-f]{16}-[0-9a-f-]{32,36}$"}
_STATUS: Schema = {"type": "string", "enum": list(STATUSES)}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_WHO = ("UNAUTHORIZED", "FORBIDDEN", "RATE_LIMITED", "METHOD_NOT_ALLOWED")
_AWAY = ("SERVICE_UNAVAILABLE",)
_STEP_STATUSES = (
    "pending",
    "running",
    "waiting",
    "completed",
    "skipped",
    "failed",
    "compensated",
    "compensation_failed",
)
_EVENTS = ("started", "progress", "step", "question", "completed", "failed", "cancelled")

_STREAM = (
    "The stream of a job. Directly after `connection.established` comes `job.snapshot`, the status"
    " body, also when the job is long over: then the stream ends. Then `job.started`,"
    " `job.progress`, `job.step`, `job.question`, and one of `job.completed`, `job.failed`"
    " (also of a job that timed out), `job.cancelled` (also of one that was terminated), after"
    " which it ends. A reconnect with `Last-Event-ID` gets what it missed; where there is nothing"
    " more to come it is answered 204, at which an EventSource stops. Of what is too large for an"
    " event `result_url` or `status_url` says where it is."
)


def paths() -> Schema:
    """Paths below both prefixes; the second is the same under another name."""
    return {
        f"{prefix}{below}": item
        for prefix, suffix in zip(PREFIXES, ("", "Short"), strict=True)
        for below, item in _below(suffix).items()
    }


def _below(suffix: str) -> Schema:
    return {
        "": {"get": _list(suffix)},
        "/{type}": {"parameters": refs("workflow_type"), "post": _start(suffix)},
        "/{operation_id}/status": _looking("getJob", suffix, "How a job stands", "Job"),
        "/{operation_id}/result": {"parameters": refs("operation_id"), "get": _result(suffix)},
        "/{operation_id}/stream": {"parameters": refs("operation_id"), **_stream(suffix)},
        "/{operation_id}/history": _looking(
            "getJobHistory", suffix, "What happened in a job", "JobHistory"
        ),
        "/{operation_id}/cancel": _steering(
            f"cancelJob{suffix}",
            "Ask a job to end, and to undo what it did",
            {"202": _accepted("It was asked to.")},
        ),
        "/{operation_id}/terminate": _steering(
            f"terminateJob{suffix}",
            "End a job at once: nothing is undone",
            {"200": _json("It has ended.", "Job")},
        ),
        "/{operation_id}/signal/{name}": _steering(
            f"signalJob{suffix}",
            "Tell a job something: a name that its type declares, such as `pause`",
            {"202": _accepted("It was told.")},
            name="name",
        ),
        "/{operation_id}/update/{name}": _steering(
            f"updateJob{suffix}",
            "Have a job do something and answer: a name that its type declares",
            {"200": _json("What it answered.", "JobUpdated")},
            name="name",
        ),
    }


def _json(description: str, name: str, *headers: str) -> Schema:
    return answer(description, "application/json", schema(name), (*headers, *LIMIT_HEADERS))


def _accepted(description: str, *headers: str) -> Schema:
    return _json(description, "JobAccepted", "Location", "Retry-After", *headers)


def _list(suffix: str) -> Schema:
    return operation(
        f"listJobs{suffix}",
        "jobs",
        "The caller's jobs (his tenant's, where he has one), newest first",
        {"200": _json("A page.", "JobList")}
        | errors("BAD_REQUEST", "UNPROCESSABLE", *_WHO, *_AWAY),
        parameters=refs("job_status", "job_type", "page_token", "job_page_size"),
    )


def _start(suffix: str) -> Schema:
    applied = ("Preference-Applied", "Idempotent-Replayed")
    return operation(
        f"startJob{suffix}",
        "jobs",
        "Start a job",
        {
            "200": _json("It is over; `status` says how.", "Job", *applied),
            "202": _accepted("It runs.", *applied),
        }
        | errors(
            "BAD_REQUEST",
            "NOT_FOUND",
            "PAYLOAD_TOO_LARGE",
            "UNPROCESSABLE",
            *_WHO,
            *_AWAY,
        ),
        description=(
            "Needs the scope `jobs:write`. A short kind is waited for (30 s), a long one is not;"
            f" `Prefer: wait=N` (at most {asked.MOST_SECONDS}) or `respond-async` overrides."
            " With an Idempotency-Key the same body starts one job, however often it is sent;"
            " keys are kept as long as their job, 24 h after its end at least."
        ),
        parameters=refs("Prefer", "Idempotency-Key"),
        requestBody=json_body(
            {"anyOf": [schema(_input_name(name)) for name in inputs.INPUTS]},
            request={"service": "demo", "path": "/echo", "method": "POST", "body": {"n": 1}},
            orchestration={
                "steps": [
                    {"id": "user", "service": "demo", "path": "/echo"},
                    {"id": "order", "service": "demo", "path": "/echo", "depends_on": ["user"]},
                ]
            },
        ),
    )


def _looking(operation_id: str, suffix: str, summary: str, name: str) -> Schema:
    responses: Schema = {"200": _json("As it is now.", name)}
    get = operation(
        f"{operation_id}{suffix}",
        "jobs",
        summary,
        responses | errors("NOT_FOUND", *_WHO, *_AWAY),
    )
    return {"parameters": refs("operation_id"), "get": get, "head": head_of(get, responses)}


def _result(suffix: str) -> Schema:
    result = answer("The result.", "application/json", ANYTHING, LIMIT_HEADERS)
    return operation(
        f"getJobResult{suffix}",
        "jobs",
        "What a job came to",
        {"200": result, "202": _accepted("It still runs.")}
        | errors("BAD_REQUEST", "NOT_FOUND", "JOB_FAILED", *_WHO, *_AWAY),
        description="409 has `status` and the `cause` besides.",
        parameters=refs("job_wait"),
    )


def _stream(suffix: str) -> Schema:
    ok = answer(_STREAM, "text/event-stream", TEXT, LIMIT_HEADERS)
    # OpenAPI 3.1 has no words for the items of a stream.
    ok["x-event"] = schema("Event")
    ok["x-event-data"] = {
        "job.snapshot": schema("Job"),
        **{
            f"job.{name}": schema("JobProgress" if name in _EVENTS[1:4] else "Job")
            for name in _EVENTS
        },
    }
    done: Schema = {"description": "The job is over, and there is nothing that was missed."}
    responses: Schema = {"200": ok, "204": done}
    get = operation(
        f"followJob{suffix}",
        "jobs",
        "The event stream of a job",
        responses | errors("BAD_REQUEST", "NOT_FOUND", "NOT_ACCEPTABLE", "OVERLOADED", *_WHO),
        parameters=refs("Last-Event-ID", "last_event_id", "types"),
        security=[{"bearer": []}, {"ticket": []}, {"streamGrant": []}, {}],
    )
    return {"get": get, "head": head_of(get, responses)}


def _steering(operation_id: str, summary: str, responses: Schema, name: str = "") -> Schema:
    more: Schema = {"parameters": refs("Idempotency-Key")} if name and "update" in summary else {}
    codes = ("BAD_REQUEST", "NOT_FOUND", "CONFLICT", "UNPROCESSABLE", "PAYLOAD_TOO_LARGE")
    if name:
        more["requestBody"] = {
            "description": 'Of `skip_step`: `{"id": …}`, the step\'s. The others take none.',
            "content": {"application/json": {"schema": ANYTHING}},
        }
    return {
        "parameters": refs("operation_id", *(("job_call",) if name else ())),
        "post": operation(
            operation_id,
            "jobs",
            summary,
            responses | errors(*codes, *_WHO, *_AWAY),
            description="Needs the scope `jobs:write`. 409: the job is over.",
            **more,
        ),
    }


def schemas() -> Schema:
    """Jobs, lists, histories, and what each kind is started with."""
    step = obj(
        ("id", "status"),
        id=TEXT,
        status={"type": "string", "enum": list(_STEP_STATUSES)},
        attempts=COUNT,
        started_at=_TEXT_OR_NULL,
        ended_at=_TEXT_OR_NULL,
        error={"type": ["object", "null"]},
    )
    question = obj(
        ("question_id", "prompt"),
        question_id=TEXT,
        prompt=TEXT,
        step=_TEXT_OR_NULL,
        expires_at=_TEXT_OR_NULL,
    )
    return {
        "Job": obj(MEMBERS, **_job_members(step, question)),
        "JobProgress": obj(
            ("operation_id", "status", "progress", "current_step", "updated_at"),
            operation_id=_ID,
            status=_STATUS,
            progress={"type": "number", "minimum": 0, "maximum": 1},
            current_step=_TEXT_OR_NULL,
            updated_at=MOMENT,
            message=TEXT,
            step=step,
            question=or_null(question),
        ),
        "JobError": obj(
            ("code", "message"),
            code=TEXT,
            message=TEXT,
            step=_TEXT_OR_NULL,
            status={"type": ["integer", "null"], "description": "Of the service's answer."},
            retry_after={"type": ["integer", "null"]},
            details={"description": "What was reached, what failed beside, what was undone."},
        ),
        "JobAccepted": obj(
            ("operation_id", "status_url", "stream_url", "result_url"),
            operation_id=_ID,
            status_url=TEXT,
            stream_url=TEXT,
            result_url=TEXT,
        ),
        "JobUpdated": obj(("operation_id", "result"), operation_id=_ID, result=ANYTHING),
        "JobList": obj(
            ("workflows", "next_page_token"),
            workflows=listed(schema("JobSummary"), most=MOST_PAGE_SIZE),
            next_page_token={"type": ["string", "null"], "description": "null: the last page."},
        ),
        "JobSummary": obj(
            ("operation_id", "workflow_type", "status", "started_at", "ended_at", "status_url"),
            operation_id=_ID,
            workflow_type=TEXT,
            status=_STATUS,
            started_at=MOMENT,
            ended_at=or_null(MOMENT),
            status_url=TEXT,
        ),
        **_history(),
        **{_input_name(name): given for name, given in inputs.INPUTS.items()},
    }


def _job_members(step: Schema, question: Schema) -> dict[str, Schema]:
    return {
        "operation_id": _ID,
        "workflow_type": TEXT,
        "status": _STATUS,
        "progress": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "current_step": _TEXT_OR_NULL,
        "steps": or_null(listed(step)),
        "question": or_null(question) | {"description": "The one that the job waits for."},
        "attempts": {"type": ["integer", "null"], "minimum": 0},
        "result": ANYTHING,
        "error": or_null(schema("JobError")),
        "started_at": MOMENT,
        "updated_at": MOMENT,
        "ended_at": or_null(MOMENT),
    }


def _history() -> Schema:
    failure = obj(("message",), code=TEXT, message=TEXT)
    entry = obj(
        ("at", "what"),
        at=MOMENT,
        what={
            "type": "string",
            "enum": ["job", "activity", "timer", "child", "signal", "update", "cancel"],
        },
        name=TEXT,
        step=TEXT,
        part=TEXT | {"description": "Of a large orchestration: the one that this ran in."},
        status=TEXT,
        attempts=COUNT,
        local={"type": "boolean", "description": "Ran within the job's own task."},
        seconds={"type": "number", "description": "Of a timer."},
        started_at=MOMENT | {"description": "Of the last attempt."},
        ended_at=MOMENT,
        duration_ms=COUNT,
        last_failure=failure | {"description": "Why the attempt before failed."},
        failure=failure,
        next_attempt_at=MOMENT,
    )
    return {
        "JobHistory": obj(
            ("operation_id", "workflow_type", "entries", "events_left_out"),
            operation_id=_ID,
            workflow_type=TEXT,
            entries=listed(entry),
            events_left_out=COUNT,
        )
    }


def _input_name(name: str) -> str:
    return JOB_TYPES[name].input.__name__


def parameters() -> Schema:
    """Parameters of these paths."""
    size: Schema = {
        "type": "integer",
        "minimum": 1,
        "maximum": MOST_PAGE_SIZE,
        "default": PAGE_SIZE,
    }
    wait: Schema = {"type": "number", "minimum": 0, "default": 0}
    kinds: Schema = {"type": "string", "enum": list(JOB_TYPES)}
    return {
        "workflow_type": parameter("type", "path", "The workflow's full name.", kinds),
        "operation_id": parameter("operation_id", "path", "Which job.", _ID),
        "job_call": parameter("name", "path", "What the job's type declares."),
        "job_status": parameter("status", "query", "None: any.", _STATUS),
        "job_type": parameter("type", "query", "None: any.", kinds),
        "job_page_size": parameter("page_size", "query", "Jobs on a page.", size),
        "job_wait": parameter(
            "wait",
            "query",
            f"Seconds to wait for the end; {asked.MOST_SECONDS} at most are waited.",
            wait,
        ),
        "Prefer": parameter("Prefer", "header", "`wait=N`, `respond-async` (RFC 7240)."),
    }
