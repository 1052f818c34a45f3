"""The JSON Schemas (2020-12) of what jobs are started with, as data: by them inputs are checked
before anything starts, and `/openapi.json` shows them.

One schema for each dataclass of `models` that stands in an input; a test holds both against each
other. What the gateway alone sets is no member here. What no schema can say (services, order of
steps, references) is in `inputs`. Every list and text has a bound: an input is kept in a history.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.jobs.failures import KINDS
from gateway.jobs.graph import MAX_STEPS
from gateway.jobs.types import DAY, JOB_TYPES

Schema = dict[str, Any]

MAX_HEADERS: Final = 64
MAX_PARAMETERS: Final = 100
MAX_RULES: Final = 8
MAX_HISTORY: Final = 100
# As the door's MAX_REQUEST_LINE_BYTES and MAX_HEADER_LINE_BYTES by default.
MAX_PATH: Final = 8192
MAX_FIELD: Final = 8192
MAX_URL: Final = 2048
MAX_MESSAGE: Final = 2048

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
STEP_ID: Final = "^[A-Za-z0-9_.-]{1,64}$"
# A path without query and fragment (RFC 3986 §3.3), other characters percent-encoded; and
# references, in which anything may stand.
PATH: Final = r"^/(?:[A-Za-z0-9\-._~!&'()*+,;=:@%/]|\$\{[^}]*\}|\$)*$"
FIELD_NAME: Final = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}$"  # RFC 9110 §5.6.2
FIELD_VALUE: Final = r"^[^\x00-\x08\x0a-\x1f\x7f]*$"  # §5.5
BASE64: Final = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
CLIENT_ID: Final = "^[A-Za-z0-9._~:@-]{1,128}$"

_ANY: Final[Schema] = {"description": "Any JSON value; strings and objects may hold references."}


def _text(most: int, description: str = "", **more: Any) -> Schema:
    told = {"description": description} if description else {}
    return {"type": "string", "maxLength": most} | more | told


def _seconds(most: float, description: str = "", **more: Any) -> Schema:
    told = {"description": description} if description else {}
    return {"type": "number", "exclusiveMinimum": 0, "maximum": int(most)} | more | told


def _or_null(given: Schema) -> Schema:
    """The same, or null: as good as left out."""
    return given | {"type": [given["type"], "null"]}


def _object(needed: tuple[str, ...], told: str, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "description": told,
        "required": list(needed),
        "properties": properties,
        "additionalProperties": False,
    }


def _list(items: Schema, most: int, least: int = 0) -> Schema:
    bounds = {"minItems": least} if least else {}
    return {"type": "array", "items": items, "maxItems": most} | bounds


_HEADERS: Final[Schema] = {
    "type": "object",
    "maxProperties": MAX_HEADERS,
    "propertyNames": {"pattern": FIELD_NAME},
    "additionalProperties": _text(MAX_FIELD, pattern=FIELD_VALUE),
    "description": "Credentials and fields of the connection are refused.",
}
_REQUEST_MEMBERS: Final[Mapping[str, Schema]] = {
    "service": _text(128, "The name of a registered service.", minLength=1),
    "path": _text(MAX_PATH, "Below the service, without a query.", pattern=PATH, default="/"),
    "method": {"type": "string", "enum": list(METHODS), "default": "GET"},
    "query": {
        "type": "object",
        "maxProperties": MAX_PARAMETERS,
        "description": "A value or a list of values by name.",
    },
    "headers": _HEADERS,
    "body": {"description": "Any JSON value; null: no body."},
    "body_base64": {
        "type": ["string", "null"],
        "pattern": BASE64,
        "contentEncoding": "base64",
        "description": "Bytes as they are, their type in `headers`; instead of `body`.",
    },
}
SERVICE_REQUEST: Final = _object(
    ("service",), "A request to a registered service, in the caller's name.", **_REQUEST_MEMBERS
)
RETRY: Final = _object(
    (),
    "How often and when it is tried again; null: as the kind of its error says.",
    max_attempts={"type": ["integer", "null"], "minimum": 1, "maximum": 100},
    initial_seconds={"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 3600},
    backoff={"type": "number", "minimum": 1, "maximum": 10, "default": 2},
    max_seconds=_seconds(DAY, default=60),
)
RESULT_RULE: Final = _object(
    ("schema",),
    "What a result must fit, or the step has failed (or is skipped).",
    schema={"description": "A JSON Schema 2020-12, bounded as those of questions."},
    otherwise={"type": "string", "enum": ["fail", "skip"], "default": "fail"},
)
_RULES: Final = _list(RESULT_RULE, MAX_RULES)
_CONDITION: Final[Schema] = {
    "type": ["object", "boolean", "null"],
    "description": "Over the results so far: a comparison at a pointer, all, any, not.",
}
_STEP_ID: Final[Schema] = {"type": "string", "pattern": STEP_ID}
_STEP_SECONDS: Final = _seconds(DAY, "Of one try.", default=30)
STEP: Final = _object(
    ("id", "service"),
    "One request of an orchestration; `${/pointer}` and `$result` refer to earlier results.",
    id=_STEP_ID,
    **{name: each for name, each in _REQUEST_MEMBERS.items() if name != "body_base64"},
    depends_on=_list(_STEP_ID, MAX_STEPS),
    condition=_CONDITION,
    timeout_seconds=_STEP_SECONDS,
    retry=_or_null(RETRY),
    compensation=_or_null(SERVICE_REQUEST),
    required={"type": "boolean", "default": True},
    rules=_RULES,
)
FAILURE_REPORT: Final = _object(
    ("kind",),
    "A failure that was seen.",
    kind={"type": "string", "enum": list(KINDS), "description": "Decides what may help."},
    status={"type": ["integer", "null"], "minimum": 100, "maximum": 599},
    message=_text(MAX_MESSAGE),
    at=_text(64),
)
FALLBACK: Final = _object(
    (),
    "Another service to ask, or an answer that is kept here.",
    request=_or_null(SERVICE_REQUEST),
    answer={"description": "Any JSON value."},
)
ASK: Final = _object(
    ("prompt",),
    "A question as of POST /api/v1/questions; texts may hold references.",
    prompt=_text(8192, minLength=1),
    client_ids=_list(_text(512), 64)
    | {"description": "Whom it is shown to; none: who started the job."},
    schema={"description": "A JSON Schema of the answer."},
    options={"type": ["array", "null"], "items": _text(512), "maxItems": 64},
    approvers=_list(_text(512), 64),
    policy={"description": "`first`, `all` or `{at_least: n}`."},
    forbid_self={"type": "boolean"},
    expires_in={"type": ["number", "null"], "minimum": 1, "maximum": int(90 * DAY)},
    default={"description": "The answer when nobody answers in time."},
    reminders=_list({"type": "number"}, 16),
    metadata={"type": "object"},
)
_STEP_KINDS: Final = ("request", "ask", "wait_seconds")
PROCESS_STEP: Final = _object(
    ("id",),
    "One step: exactly one of `request`, `value`, `ask`, `wait_seconds`.",
    id=_STEP_ID,
    request=_or_null(SERVICE_REQUEST),
    value=_ANY,
    ask=_or_null(ASK),
    wait_seconds={"type": ["number", "null"], "minimum": 0, "maximum": int(90 * DAY)},
    condition=_CONDITION,
    continue_when=_CONDITION,
    timeout_seconds=_STEP_SECONDS,
    retry=_or_null(RETRY),
    compensation=_or_null(SERVICE_REQUEST),
    rules=_RULES,
)
PROCESS_STEP["oneOf"] = [
    {"required": ["value"], "properties": {kind: {"type": "null"} for kind in _STEP_KINDS}},
    *(
        {
            "required": [kind],
            "properties": {kind: {"not": {"type": "null"}}}
            | {other: {"type": "null"} for other in (*_STEP_KINDS, "value") if other != kind},
        }
        for kind in _STEP_KINDS
    ),
]
SWITCH_STEP: Final = _object(
    ("id", "request"),
    "One service that is told of the new context; `compensation` takes it back.",
    id=_STEP_ID,
    request=SERVICE_REQUEST,
    compensation=_or_null(SERVICE_REQUEST),
)


def _timeout(name: str) -> Schema:
    kind = JOB_TYPES[name]
    usual = f"Of the whole job; {kind.timeout_seconds:.0f} unless set otherwise."
    return _or_null(_seconds(kind.most_seconds, usual))


INPUTS: Final[Mapping[str, Schema]] = MappingProxyType(
    {
        "api_request_workflow": _object(
            ("service",),
            "A request as a job: the caller's rights and limits, retries, a transformed answer.",
            **_REQUEST_MEMBERS,
            transform={"description": "A template over status, headers and body; null: as is."},
            retry=_or_null(RETRY),
            timeout_seconds=_timeout("api_request_workflow"),
        ),
        "multi_service_orchestration_workflow": _object(
            ("steps",),
            "A graph of requests, undone where it fails.",
            steps=_list(STEP, MAX_STEPS, 1),
            output={"description": "A template over the results; null: all of them."},
            timeout_seconds=_timeout("multi_service_orchestration_workflow"),
        ),
        "async_request_workflow": _object(
            ("service",),
            "A request that is answered later.",
            **_REQUEST_MEMBERS,
            callback_url=_or_null(_text(MAX_URL, "Told that it was accepted, and of the end.")),
            client_id={
                "type": ["string", "null"],
                "pattern": CLIENT_ID,
                "description": "A stream that is told of the end; null: the caller's own.",
            },
            retry=_or_null(RETRY),
            timeout_seconds=_timeout("async_request_workflow"),
            metadata={"type": "object", "description": "Comes back with the callback."},
        ),
        "error_recovery_workflow": _object(
            ("request", "failure"),
            "What to do after a failure.",
            request=SERVICE_REQUEST,
            failure=FAILURE_REPORT,
            history=_list(FAILURE_REPORT, MAX_HISTORY),
            strategy={
                "type": ["string", "null"],
                "enum": ["retry", "fallback", "circuit_breaker", None],
            },
            fallback=_or_null(FALLBACK),
            retry=_or_null(RETRY),
            timeout_seconds=_timeout("error_recovery_workflow"),
        ),
        "business_process_workflow": _object(
            ("steps",),
            "Steps one after the other, people among them, undone where one fails.",
            steps=_list(PROCESS_STEP, MAX_STEPS, 1),
            data={"description": "Is there as the result `/input`."},
            output={"description": "A template over the results; null: all of them."},
            timeout_seconds=_timeout("business_process_workflow"),
        ),
        "tenant_switch_workflow": _object(
            ("to_tenant", "validate", "services"),
            "From one tenant to another over several services, or back in all.",
            to_tenant=_text(255, minLength=1),
            validate=SERVICE_REQUEST,
            services=_list(SWITCH_STEP, 100, 1),
            from_tenant=_or_null(_text(255)),
            user_id=_or_null(_text(255)),
            context={"description": "The template of the user's context."},
            timeout_seconds=_timeout("tenant_switch_workflow"),
        ),
    }
)
