"""What many parts of the OpenAPI document refer to: errors, headers, common parameters, health."""

from __future__ import annotations

from gateway.control.openapi_terms import (
    COUNT,
    LIMIT_HEADERS,
    TEXT,
    Schema,
    listed,
    obj,
    parameter,
    ref,
    schema,
)
from gateway.errors import ERRORS


def schemas() -> Schema:
    """Errors, and the gateway's health."""
    return _error_schemas() | _health_schemas()


def _error_schemas() -> Schema:
    members: dict[str, Schema] = {
        "code": {"type": "string", "enum": sorted(ERRORS)},
        "message": {"type": "string", "description": "What is wrong and what to do."},
        "retry_after": {"type": "integer", "minimum": 0, "description": "Seconds."},
        "details": listed(schema("Detail"), least=1),
        "request_id": TEXT,
    }
    required = ("code", "message", "request_id")
    return {
        "Error": obj(("error",), error=obj(required, **members)),
        "Problem": obj(
            ("type", "title", "status", *required),
            type=TEXT,
            title=TEXT,
            status={"type": "integer", "minimum": 400, "maximum": 599},
            detail=TEXT,
            **members,
        ),
        "Detail": obj(
            ("pointer", "message"),
            pointer={
                "type": "string",
                "pattern": r"^(/([^~/]|~0|~1)*)*$",
                "description": "Where in the request's body, as a JSON pointer (RFC 6901).",
            },
            message=TEXT,
        ),
    }


def _health_schemas() -> Schema:
    number: Schema = {"type": "number"}
    state: Schema = {"type": "string", "enum": ["healthy", "degraded", "unhealthy", "unknown"]}
    check: Schema = obj(("status",), status=state)
    endpoint = obj(
        ("url", "state"),
        url=TEXT,
        state={
            "type": "string",
            "enum": ["unknown", "healthy", "unhealthy", "ejected", "draining"],
            "description": (
                "`unhealthy` by active checks, or no request to it ever succeeded; `ejected` for a"
                " while, by its failures in a row; `draining` by hand."
            ),
        },
        weight=COUNT,
        outstanding=COUNT | {"description": "Requests under way."},
        idle=COUNT | {"description": "Connections ready for the next request."},
        active=COUNT | {"description": "Connections at work."},
        waiting=COUNT | {"description": "Requests without a connection."},
        latency_ms={"type": ["number", "null"], "description": "Of the last connecting."},
        last_error={"type": ["string", "null"]},
        ejected_seconds={"type": "number", "description": "How long it stays ejected."},
        leaving={"const": True, "description": "Removed, when what is under way has ended."},
    )
    breaker = obj(
        ("state",),
        state={"type": "string", "enum": ["closed", "half_open", "open"]},
        forced={"type": "boolean", "description": "Opened by hand: until it is closed by hand."},
        requests=COUNT | {"description": "Of the last 10 s; while not closed, of those before."},
        failed=COUNT | {"description": "Of those."},
    )
    return {
        "Live": obj(("status",), status={"const": "live"}),
        "Ready": obj(
            ("status",),
            status={"type": "string", "enum": ["ready", "unavailable"]},
            reason={"type": "string", "description": "starting, draining, or what is missing."},
        ),
        "Health": obj(
            ("status", "version", "uptime_seconds", "checks", "services"),
            status={"type": "string", "enum": ["healthy", "degraded", "unhealthy"]},
            version=TEXT,
            uptime_seconds=number,
            checks={"type": "object", "additionalProperties": check},
            services=listed(schema("Service")),
        ),
        "Service": obj(
            ("name", "state", "breaker", "endpoints"),
            name=TEXT,
            state=state,
            breaker=breaker,
            endpoints=listed(endpoint),
        ),
    }


def responses() -> Schema:
    """A response for each code of the error table."""
    found: Schema = {}
    for kind in ERRORS.values():
        names = ["X-Request-ID"]
        if kind.code == "RATE_LIMITED":
            names += LIMIT_HEADERS
        if kind.code in ("RATE_LIMITED", "OVERLOADED", "SERVICE_UNAVAILABLE"):
            names.append("Retry-After")
        if kind.code == "METHOD_NOT_ALLOWED":
            names.append("Allow")
        if kind.code in ("AUTH_FAILED", "UNAUTHORIZED", "FORBIDDEN"):
            names.append("WWW-Authenticate")
        again = "the same request may succeed later" if kind.retryable else "do not repeat it as is"
        found[kind.code] = {
            "description": f"{kind.code}: an error of the {kind.source.value}; {again}.",
            "headers": {name: ref("headers", name) for name in names},
            "content": {
                "application/json": {"schema": schema("Error")},
                "application/problem+json": {"schema": schema("Problem")},
            },
        }
    return found


def headers() -> Schema:
    """Header fields of responses."""
    rows: tuple[tuple[str, str, Schema], ...] = (
        ("X-Request-ID", "The client's own, or one made here (UUIDv7).", TEXT),
        ("X-RateLimit-Limit", "Requests in a window.", COUNT),
        ("X-RateLimit-Remaining", "Requests left now.", COUNT),
        (
            "X-RateLimit-Reset",
            "Unix seconds: when the bucket is full again; after a refusal, when to come back.",
            COUNT,
        ),
        ("RateLimit-Policy", 'The limits that hold: `"default";q=1000;w=60`.', TEXT),
        ("RateLimit", 'Where they stand: `"default";r=999;t=1`.', TEXT),
        ("Retry-After", "Seconds to wait before asking again.", COUNT),
        ("Allow", "The methods that the path takes.", TEXT),
        ("WWW-Authenticate", "`Bearer`, with what is wrong or missing (RFC 6750).", TEXT),
        ("Location", "The path of what was made.", TEXT),
        ("Preference-Applied", "What was done as preferred (RFC 7240 §3).", TEXT),
        (
            "Idempotent-Replayed",
            "The first answer to this Idempotency-Key, again; nothing happened now.",
            {"const": "true"},
        ),
    )
    return {name: {"description": doc, "schema": given} for name, doc, given in rows}


def common_parameters() -> Schema:
    """Parameters of the proxied path, and those of several others."""
    return {
        "service": parameter("service", "path", "The name of a service; `-` and `_` are the same."),
        "path": parameter("path", "path", "The rest of the path, slashes included."),
        "X-Request-ID": parameter(
            "X-Request-ID", "header", "Taken over when it is at most 128 visible ASCII characters."
        ),
        "X-Correlation-ID": parameter(
            "X-Correlation-ID", "header", "As X-Request-ID, for several requests."
        ),
        "traceparent": parameter(
            "traceparent", "header", "W3C Trace Context; passed on, or begun here."
        ),
        "Idempotency-Key": parameter(
            "Idempotency-Key",
            "header",
            "Makes a repeat safe: the same key with the same body gets the first answer again;"
            " with another body 422; while the first is under way 409.",
            {"type": "string", "pattern": "^[!-~]{1,255}$"},
        ),
    }
