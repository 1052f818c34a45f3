"""The OpenAPI 3.1 document of what the gateway answers: the proxied path and its own pages.

Written by hand as data, so that a client can rely on it; a test holds it against the application
and the error table. Not here: what the services behind the gateway offer, which they describe
themselves.
"""

from __future__ import annotations

import orjson
from aiohttp import web

from gateway import __version__
from gateway.errors import ERRORS

Schema = dict[str, object]

# OpenAPI has no other methods; the proxied path takes any.
_PROXIED_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")

_LIMIT_HEADERS = (
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "RateLimit-Policy",
    "RateLimit",
)


async def openapi(_request: web.Request) -> web.Response:
    """The document, the same for everyone."""
    return web.Response(
        body=orjson.dumps(document()),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def document() -> Schema:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Gateway",
            "version": __version__,
            "description": "One door in front of several HTTP services.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "services", "description": "Requests passed on to a service."},
            {"name": "control", "description": "The gateway's own pages."},
        ],
        "paths": {
            "/api/v1/{service}/{path}": _proxied_path(),
            "/health": _health_path(),
            "/health/live": _live_path(),
            "/health/ready": _ready_path(),
            "/metrics": _metrics_path(),
            "/openapi.json": _openapi_path(),
        },
        "components": {
            "schemas": _schemas(),
            "headers": _headers(),
            "responses": _error_responses(),
            "parameters": _parameters(),
        },
    }


def _ref(kind: str, name: str) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def _answer(description: str, content_type: str, schema: Schema) -> Schema:
    return {
        "description": description,
        "headers": {"X-Request-ID": _ref("headers", "X-Request-ID")},
        "content": {content_type: {"schema": schema}},
    }


def _read(operation_id: str, summary: str, responses: Schema) -> Schema:
    """A path that is only read: GET and HEAD; any other method is 405."""
    get: Schema = {"operationId": operation_id, "tags": ["control"], "summary": summary}
    get["responses"] = responses | {"405": _ref("responses", "METHOD_NOT_ALLOWED")}
    head: Schema = {"operationId": operation_id + "Head", "tags": ["control"]}
    head["summary"] = f"{summary} (head only)"
    head["responses"] = {
        status: {"description": "As for GET, without the content."} for status in responses
    }
    return {"get": get, "head": head}


def _proxied_path() -> Schema:
    operations: Schema = {}
    for method in _PROXIED_METHODS:
        operation: Schema = {
            "operationId": f"proxy{method.capitalize()}",
            "tags": ["services"],
            "summary": "Passed on to the service",
            "responses": _proxied_responses(),
        }
        if method in ("put", "post", "patch", "delete"):
            operation["requestBody"] = {
                "description": "Passed on as it is, byte for byte.",
                "content": {"*/*": {}},
            }
        operations[method] = operation
    return {
        "description": (
            "Any method, passed on to an endpoint of the service, with `/{path}` and the query"
            " below the endpoint's base path, bytes untouched. `{path}` may hold further slashes"
            " or be empty. Answers of the service pass through, its errors included."
        ),
        "parameters": [
            _ref("parameters", "service"),
            _ref("parameters", "path"),
            _ref("parameters", "X-Request-ID"),
            _ref("parameters", "X-Correlation-ID"),
            _ref("parameters", "traceparent"),
        ],
        **operations,
    }


def _proxied_responses() -> Schema:
    names = ("X-Request-ID", *_LIMIT_HEADERS)
    responses: Schema = {
        "default": {
            "description": "Whatever the service answers.",
            "headers": {name: _ref("headers", name) for name in names},
            "content": {"*/*": {}},
        }
    }
    made_here = (
        "BAD_REQUEST",
        "NOT_FOUND",
        "REQUEST_TIMEOUT",
        "PAYLOAD_TOO_LARGE",
        "URI_TOO_LONG",
        "RATE_LIMITED",
        "HEADERS_TOO_LARGE",
        "INTERNAL_ERROR",
        "NOT_IMPLEMENTED",
        "PROXY_ERROR",
        "SERVICE_UNAVAILABLE",
        "TIMEOUT",
        "HTTP_VERSION_NOT_SUPPORTED",
    )
    for code in made_here:
        responses[str(ERRORS[code].status)] = _ref("responses", code)
    return responses


def _health_path() -> Schema:
    health = _ref("schemas", "Health")
    return _read(
        "health",
        "How the gateway and every service is",
        {
            "200": _answer("Healthy, or degraded: a service is not.", "application/json", health),
            "503": _answer("The gateway is starting or draining.", "application/json", health),
        },
    )


def _live_path() -> Schema:
    schema = _ref("schemas", "Live")
    return _read(
        "live",
        "Whether the process is up",
        {"200": _answer("It is.", "application/json", schema)},
    )


def _ready_path() -> Schema:
    schema = _ref("schemas", "Ready")
    return _read(
        "ready",
        "Whether to send requests here",
        {
            "200": _answer("Yes.", "application/json", schema),
            "503": _answer("No: starting or draining.", "application/json", schema),
        },
    )


def _metrics_path() -> Schema:
    text: Schema = {"type": "string"}
    ok = _answer("Prometheus text, or OpenMetrics on Accept.", "text/plain", text)
    ok["content"] = {
        "text/plain": {"schema": text},
        "application/openmetrics-text": {"schema": text},
    }
    return _read(
        "metrics",
        "Figures for Prometheus, for loopback addresses and ADMIN_FROM",
        {"200": ok, "404": _ref("responses", "NOT_FOUND")},
    )


def _openapi_path() -> Schema:
    schema: Schema = {"type": "object"}
    return _read(
        "openapi",
        "This document",
        {"200": _answer("OpenAPI 3.1.", "application/json", schema)},
    )


def _object(required: tuple[str, ...], **properties: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": properties}


def _schemas() -> Schema:
    text: Schema = {"type": "string"}
    number: Schema = {"type": "number"}
    count: Schema = {"type": "integer", "minimum": 0}
    members: dict[str, Schema] = {
        "code": {"type": "string", "enum": sorted(ERRORS)},
        "message": {"type": "string", "description": "What is wrong and what to do."},
        "retry_after": {"type": "integer", "minimum": 0, "description": "Seconds."},
        "request_id": text,
    }
    required = ("code", "message", "request_id")
    state: Schema = {"type": "string", "enum": ["healthy", "degraded", "unhealthy", "unknown"]}
    check: Schema = _object(("status",), status=state)
    endpoint = _object(
        ("url", "state"),
        url=text,
        state=state,
        idle=count,
        active=count,
        waiting=count,
        latency_ms={"type": ["number", "null"]},
        last_error={"type": ["string", "null"]},
    )
    return {
        "Error": _object(("error",), error=_object(required, **members)),
        "Problem": _object(
            ("type", "title", "status", *required),
            type=text,
            title=text,
            status={"type": "integer", "minimum": 400, "maximum": 599},
            detail=text,
            **members,
        ),
        "Live": _object(("status",), status={"const": "live"}),
        "Ready": _object(
            ("status",),
            status={"type": "string", "enum": ["ready", "unavailable"]},
            reason={"type": "string", "enum": ["starting", "draining"]},
        ),
        "Health": _object(
            ("status", "version", "uptime_seconds", "checks", "services"),
            status={"type": "string", "enum": ["healthy", "degraded", "unhealthy"]},
            version=text,
            uptime_seconds=number,
            checks={"type": "object", "additionalProperties": check},
            services={"type": "array", "items": _ref("schemas", "Service")},
        ),
        "Service": _object(
            ("name", "state", "endpoints"),
            name=text,
            state=state,
            endpoints={"type": "array", "items": endpoint},
        ),
    }


def _error_responses() -> Schema:
    responses: Schema = {}
    for kind in ERRORS.values():
        headers: Schema = {"X-Request-ID": _ref("headers", "X-Request-ID")}
        if kind.code == "RATE_LIMITED":
            headers |= {name: _ref("headers", name) for name in _LIMIT_HEADERS}
        if kind.code in ("RATE_LIMITED", "OVERLOADED", "SERVICE_UNAVAILABLE"):
            headers["Retry-After"] = _ref("headers", "Retry-After")
        if kind.code == "METHOD_NOT_ALLOWED":
            headers["Allow"] = _ref("headers", "Allow")
        again = "the same request may succeed later" if kind.retryable else "do not repeat it as is"
        responses[kind.code] = {
            "description": f"{kind.code}: an error of the {kind.source.value}; {again}.",
            "headers": headers,
            "content": {
                "application/json": {"schema": _ref("schemas", "Error")},
                "application/problem+json": {"schema": _ref("schemas", "Problem")},
            },
        }
    return responses


def _headers() -> Schema:
    text: Schema = {"type": "string"}
    count: Schema = {"type": "integer", "minimum": 0}
    rows: tuple[tuple[str, str, Schema], ...] = (
        ("X-Request-ID", "The client's own, or one made here (UUIDv7).", text),
        ("X-RateLimit-Limit", "Requests in a window.", count),
        ("X-RateLimit-Remaining", "Requests left now.", count),
        (
            "X-RateLimit-Reset",
            "Unix seconds: when the bucket is full again; after a refusal, when to come back.",
            count,
        ),
        ("RateLimit-Policy", 'The limits that hold: `"default";q=1000;w=60`.', text),
        ("RateLimit", 'Where they stand: `"default";r=999;t=1`.', text),
        ("Retry-After", "Seconds to wait before asking again.", count),
        ("Allow", "The methods that the path takes.", text),
    )
    return {name: {"description": doc, "schema": schema} for name, doc, schema in rows}


def _parameters() -> Schema:
    def header(name: str, doc: str) -> Schema:
        return {"name": name, "in": "header", "description": doc, "schema": {"type": "string"}}

    def segment(name: str, doc: str) -> Schema:
        text: Schema = {"type": "string"}
        return {"name": name, "in": "path", "required": True, "description": doc, "schema": text}

    return {
        "service": segment("service", "The name of a service; `-` and `_` are the same."),
        "path": segment("path", "The rest of the path, slashes included."),
        "X-Request-ID": header(
            "X-Request-ID", "Taken over when it is at most 128 visible ASCII characters."
        ),
        "X-Correlation-ID": header("X-Correlation-ID", "As X-Request-ID, for several requests."),
        "traceparent": header("traceparent", "W3C Trace Context; passed on, or begun here."),
    }
