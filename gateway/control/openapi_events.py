"""The part of the OpenAPI document about event streams: opening, publishing, tickets."""

from __future__ import annotations

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
    strict,
)
from gateway.control.openapi_terms import parameters as refs
from sse.publication import MAX_EVENTS

CLIENT_ID: Schema = {"type": "string", "pattern": "^[A-Za-z0-9._~:@-]{1,128}$"}
EVENT_TYPE: Schema = {"type": "string", "pattern": "^[a-z0-9_.-]{1,64}$"}

_STREAM_OPENING = (
    "The stream begins with `connection.established`. A subscriber without a position starts live;"
    " one with the id of the last event it saw gets what it missed, or a `stream.reset` that says"
    " what is lost. Open questions of the client id that were not among those follow, without an"
    " `id:` line, then live events. `heartbeat` comes when nothing else did. At the end of a stream"
    " that should come back stands `stream.closing` with `retry:`; where there is no room an"
    " EventSource is told so by such a stream, anyone else by 503."
)

_EXAMPLE_STREAM = """\
event: connection.established
data: {"id":"019a8f10-6c1e-7b5d-9d2a-3f5b8c7e1a20","event_type":"connection.established",\
"timestamp":"2026-11-21T10:00:00.000Z","data":{"client_id":"alice","epoch":"Zx81mQp0",\
"resumed":false,"heartbeat_seconds":30}}

id: Zx81mQp0-1
event: run.progress
data: {"id":"019a8f10-9a4c-7c11-8a57-6d0f2b9c4e31","event_type":"run.progress",\
"timestamp":"2026-11-21T10:00:11.788Z","data":{"percent":42}}

"""


def paths() -> Schema:
    """Paths below /api/v1/events."""
    return {
        "/api/v1/events/{client_id}": {
            "parameters": refs("client_id"),
            **_stream(),
            "post": _publish(),
        },
        "/api/v1/events/{client_id}/ticket": {
            "parameters": refs("client_id"),
            "post": operation(
                "createTicket",
                "events",
                "A ticket for an EventSource, which can send no header",
                {
                    "201": answer(
                        "Good once, within 30 s, for this client id.",
                        "application/json",
                        schema("Ticket"),
                    )
                }
                | errors(
                    "BAD_REQUEST",
                    "UNAUTHORIZED",
                    "FORBIDDEN",
                    "METHOD_NOT_ALLOWED",
                    "SERVICE_UNAVAILABLE",
                ),
            ),
        },
    }


def _stream() -> Schema:
    ok = answer(_STREAM_OPENING, "text/event-stream", TEXT, LIMIT_HEADERS)
    ok["content"] = {
        "text/event-stream": {
            "schema": {"type": "string", "description": "Each data line holds an Event."},
            "example": _EXAMPLE_STREAM,
        }
    }
    # OpenAPI 3.1 has no words for the items of a stream.
    ok["x-event"] = schema("Event")
    ok["x-event-data"] = {
        "connection.established": schema("ConnectionEstablished"),
        "stream.reset": schema("StreamReset"),
        "question": schema("Question"),
        "question.resolved": schema("QuestionResolved"),
    }
    responses: Schema = {"200": ok}
    get = operation(
        "subscribe",
        "events",
        "The event stream of a client id",
        responses
        | errors(
            "BAD_REQUEST",
            "UNAUTHORIZED",
            "FORBIDDEN",
            "METHOD_NOT_ALLOWED",
            "NOT_ACCEPTABLE",
            "RATE_LIMITED",
            "OVERLOADED",
        ),
        parameters=refs("Last-Event-ID", "last_event_id", "types"),
        security=[{"bearer": []}, {"ticket": []}, {"streamGrant": []}, {}],
    )
    return {"get": get, "head": head_of(get, responses)}


def _publish() -> Schema:
    return operation(
        "publish",
        "events",
        "Publish one event or a list of them",
        {
            "202": answer(
                "Published, in order.",
                "application/json",
                schema("Published"),
                ("Idempotent-Replayed", *LIMIT_HEADERS),
            )
        }
        | errors(
            "BAD_REQUEST",
            "UNAUTHORIZED",
            "FORBIDDEN",
            "CONFLICT",
            "PAYLOAD_TOO_LARGE",
            "UNPROCESSABLE",
            "RATE_LIMITED",
            "SERVICE_UNAVAILABLE",
        ),
        description=(
            "Needs the scope `events:write` (`internal` for the gateway's own types). A list is"
            f" published whole or not at all, contiguously. At most 1 MiB and {MAX_EVENTS} events;"
            " the data line of each at most 64 KiB. An event `question` asks it."
        ),
        parameters=refs("Idempotency-Key"),
        requestBody=json_body(
            {
                "oneOf": [
                    schema("NewEvent"),
                    listed(schema("NewEvent"), least=1, most=MAX_EVENTS),
                ]
            },
            one={"event_type": "run.progress", "data": {"percent": 42}},
            list=[{"event_type": "run.start"}, {"event_type": "run.complete", "data": "ok"}],
        ),
    )


def schemas() -> Schema:
    """Events, what publishing answers, and the data of the gateway's own types."""
    return {
        "NewEvent": strict(("event_type",), event_type=EVENT_TYPE, data=ANYTHING),
        "Event": strict(
            ("id", "event_type", "timestamp", "data"),
            id={"type": "string", "format": "uuid", "description": "UUIDv7 (RFC 9562)."},
            event_type=EVENT_TYPE,
            timestamp=MOMENT,
            data=ANYTHING,
        ),
        "Published": strict(
            ("ids", "subscribers"),
            ids=listed(
                {"type": "string", "description": "`<epoch>-<seq>`, as in the `id:` line."},
                least=1,
                most=MAX_EVENTS,
            ),
            subscribers=COUNT
            | {"description": "Open streams of the client id, on all gateways as last known."},
        ),
        "Ticket": strict(
            ("ticket", "expires_in"),
            ticket=TEXT,
            expires_in={"type": "integer", "minimum": 1, "description": "Seconds."},
        ),
        "ConnectionEstablished": obj(
            ("client_id", "epoch", "resumed", "heartbeat_seconds"),
            client_id=TEXT,
            epoch={"type": "string", "description": "Of this history; another: it was forgotten."},
            resumed={"type": "boolean", "description": "The position was found."},
            heartbeat_seconds={"type": "number"},
        ),
        "StreamReset": obj(
            ("reason", "lost"),
            reason={
                "type": "string",
                "enum": ["trimmed", "epoch", "future", "invalid", "slow"],
                "description": (
                    "trimmed: older than what is retained; epoch: the history was forgotten;"
                    " future: beyond the newest; invalid: no id; slow: the reader fell behind."
                ),
            },
            lost=or_null(COUNT) | {"description": "Events since the given id; null: not known."},
        ),
    }


def parameters() -> Schema:
    """Parameters of these paths."""
    position = "The id of the last event seen; `earliest`: all that is retained."
    return {
        "client_id": parameter("client_id", "path", "Whose stream.", CLIENT_ID),
        "Last-Event-ID": parameter("Last-Event-ID", "header", f"{position} Wins over the query."),
        "last_event_id": parameter("last_event_id", "query", position),
        "types": parameter(
            "types", "query", "A comma list of types and prefixes: `run.*,question`. None: all."
        ),
    }
