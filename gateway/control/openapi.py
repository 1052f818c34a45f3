"""The OpenAPI 3.1 document of what the gateway answers: the proxied path and its own pages.

Written by hand as data, so that a client can rely on it; a test holds it against the application
and the error table. Event streams, questions and the admin API are in the files of their names,
what all refer to in `openapi_components`. Not here: what the services behind the gateway offer,
which they describe themselves.
"""

from __future__ import annotations

import orjson
from aiohttp import web

from gateway import __version__
from gateway.control import openapi_admin as admin
from gateway.control import openapi_components as components
from gateway.control import openapi_events as events
from gateway.control import openapi_jobs as jobs
from gateway.control import openapi_questions as questions
from gateway.control.openapi_terms import (
    LIMIT_HEADERS,
    TEXT,
    Schema,
    answer,
    errors,
    head_of,
    operation,
    parameters,
    ref,
    schema,
)

# OpenAPI has no other methods; the proxied path takes any.
_PROXIED_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")

# What the door answers to any request that is malformed, too long, too slow or too much.
_AT_THE_DOOR = (
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
            "description": (
                "One door in front of several HTTP services. Besides the errors of a path, any"
                " request may meet those of the door: 400, 408, 413, 414, 431, 500, 501, 505."
            ),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "services", "description": "Requests passed on to a service."},
            {"name": "events", "description": "Event streams, and publishing to them."},
            {"name": "questions", "description": "Questions that people answer once."},
            {"name": "jobs", "description": "Work that takes longer than a request."},
            {"name": "control", "description": "The gateway's own pages."},
            {"name": "admin", "description": "Running the gateway: scope `admin`, else 404."},
        ],
        "paths": {
            "/api/v1/{service}/{path}": _proxied_path(),
            **events.paths(),
            **questions.paths(),
            **jobs.paths(),
            "/approvals": _approvals_path(),
            "/health": _health_path(),
            "/health/live": _live_path(),
            "/health/ready": _ready_path(),
            "/metrics": _metrics_path(),
            "/openapi.json": _openapi_path(),
            **admin.paths(),
        },
        "components": {
            "schemas": (
                components.schemas()
                | events.schemas()
                | questions.schemas()
                | jobs.schemas()
                | admin.schemas()
            ),
            "headers": components.headers(),
            "responses": components.responses(),
            "parameters": (
                components.common_parameters()
                | events.parameters()
                | questions.parameters()
                | jobs.parameters()
                | admin.parameters()
            ),
            "securitySchemes": _security_schemes(),
        },
        # The empty one: what is open without a credential, as the settings have it.
        "security": [{"bearer": []}, {}],
    }


def _security_schemes() -> Schema:
    return {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": (
                "Claims `sub`, `exp`, `scope` (`events:read events:write questions:ask"
                " questions:answer jobs:read jobs:write admin internal`), `client_ids`. A"
                " subscriber reads the client id equal to its `sub`, one in `client_ids`, or any"
                " with `events:read`."
            ),
        },
        "ticket": {
            "type": "apiKey",
            "in": "query",
            "name": "ticket",
            "description": "For one opening of an event stream within 30 s, by an EventSource.",
        },
        "streamGrant": {
            "type": "apiKey",
            "in": "cookie",
            "name": "gateway_stream",
            "description": "Set when a ticket is redeemed; for the reconnects that follow.",
        },
    }


def _read(operation_id: str, summary: str, responses: Schema) -> Schema:
    """A path that is only read: GET and HEAD; any other method is 405."""
    get = operation(
        operation_id, "control", summary, responses | errors("METHOD_NOT_ALLOWED"), security=[]
    )
    return {"get": get, "head": head_of(get, responses)}


def _proxied_path() -> Schema:
    operations: Schema = {}
    for method in _PROXIED_METHODS:
        body: Schema = {}
        if method in ("put", "post", "patch", "delete"):
            body["requestBody"] = {
                "description": "Passed on as it is, byte for byte.",
                "content": {"*/*": {}},
            }
        operations[method] = operation(
            f"proxy{method.capitalize()}",
            "services",
            "Passed on to the service",
            _proxied_responses(),
            **body,
        )
    return {
        "description": (
            "Any method, passed on to an endpoint of the service, with `/{path}` and the query"
            " below the endpoint's base path, bytes untouched. `{path}` may hold further slashes"
            " or be empty. Answers of the service pass through, its errors included."
        ),
        "parameters": parameters(
            "service", "path", "X-Request-ID", "X-Correlation-ID", "traceparent"
        ),
        **operations,
    }


def _proxied_responses() -> Schema:
    names = ("X-Request-ID", *LIMIT_HEADERS)
    passed: Schema = {
        "description": "Whatever the service answers.",
        "headers": {name: ref("headers", name) for name in names},
        "content": {"*/*": {}},
    }
    return {"default": passed} | errors(*_AT_THE_DOOR)


def _approvals_path() -> Schema:
    page = answer("The page.", "text/html", TEXT)
    known: Schema = {"description": "The page that the client has (If-None-Match) still holds."}
    return _read("approvals", "A page to answer questions on", {"200": page, "304": known})


def _health_path() -> Schema:
    health = schema("Health")
    return _read(
        "health",
        "How the gateway and every service is",
        {
            "200": answer("Healthy, or degraded: a service is not.", "application/json", health),
            "503": answer("The gateway is starting or draining.", "application/json", health),
        },
    )


def _live_path() -> Schema:
    return _read(
        "live",
        "Whether the process is up",
        {"200": answer("It is.", "application/json", schema("Live"))},
    )


def _ready_path() -> Schema:
    ready = schema("Ready")
    no = "No: starting, draining, or without its database."
    return _read(
        "ready",
        "Whether to send requests here",
        {
            "200": answer("Yes.", "application/json", ready),
            "503": answer(no, "application/json", ready),
        },
    )


def _metrics_path() -> Schema:
    ok = answer("Prometheus text, or OpenMetrics on Accept.", "text/plain", TEXT)
    ok["content"] = {
        "text/plain": {"schema": TEXT},
        "application/openmetrics-text": {"schema": TEXT},
    }
    return _read(
        "metrics",
        "Figures for Prometheus, for loopback addresses, ADMIN_FROM and the scope admin",
        {"200": ok} | errors("NOT_FOUND"),
    )


def _openapi_path() -> Schema:
    whole: Schema = {"type": "object"}
    return _read(
        "openapi",
        "This document",
        {"200": answer("OpenAPI 3.1.", "application/json", whole)},
    )
