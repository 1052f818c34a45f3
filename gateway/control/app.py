"""The control application as a whole: its paths, and one shape for all its errors.

The edge hands it requests with fields that it alone sets: X-Request-ID, X-Forwarded-For,
X-Gateway-Client (the client's address) and X-Gateway-Direct. Here is what holds for every path;
what a path answers is in the file of its name. Not here: the door itself, admission and access
records, which the edge does for everything.
"""

from __future__ import annotations

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from gateway.control import (
    admin,
    approvals,
    health,
    internal,
    job_durable,
    jobs,
    metrics,
    openapi,
    questions,
    tickets,
)
from gateway.control.answers import Failed
from gateway.control.state import STATE, ControlState
from gateway.errors import ERRORS, Rejection, render, wants_problem
from gateway.policy.security_headers import security_fields

__all__ = ["PATHS", "ControlState", "build_app", "own_methods"]

# What the edge mounts here; everything else is a service's or nobody's.
PATHS: tuple[str, ...] = (
    "/health",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/openapi.json",
    "/approvals",
    "/api/v1/events/{client_id}",
    "/api/v1/events/{client_id}/ticket",
    "/api/v1/events/{client_id}/response",
    "/api/v1/events/{client_id}/questions",
    "/api/v1/questions",
    "/api/v1/questions/{question_id}",
    "/api/v1/questions/{question_id}/response",
    "/api/v1/questions/{question_id}/wait",
    *jobs.PATHS,
    *internal.PATHS,
    *admin.paths(),
)

_EVENTS = "/api/v1/events/{client_id}"

_log = structlog.get_logger("gateway.control")

# aiohttp raises by status; where several codes share one, the general one.
_CODES = {
    kind.status: kind.code
    for kind in ERRORS.values()
    if kind.code not in ("AUTH_FAILED", "JOB_FAILED", "CIRCUIT_BREAKER_OPEN", "OVERLOADED")
}
_MESSAGES = {
    "METHOD_NOT_ALLOWED": "This path does not take the method {method}; Allow names those it does.",
    "INTERNAL_ERROR": "The gateway failed at this request; its log says why under the request id.",
}


def build_app(state: ControlState) -> web.Application:
    """The application over `state`."""
    app = web.Application(middlewares=[_errors_as_json, admin.admins_only])
    app[STATE] = state
    app.on_response_prepare.append(_finish_headers)
    # The latter two are no paths to ask for.
    app.router.add_routes([*_routes(), *job_durable.routes(), *jobs.no_pages()])
    return app


def own_methods() -> dict[str, tuple[str, ...]]:
    """The methods that each of PATHS takes; others are 405."""
    found: dict[str, list[str]] = {path: [] for path in PATHS}
    for route in _routes():
        taken = metrics.METHODS if route.method == hdrs.METH_ANY else (route.method,)
        if route.method == hdrs.METH_GET and route.kwargs.get("allow_head", True):
            taken = (*taken, hdrs.METH_HEAD)
        found[route.path] += taken
    return {path: tuple(methods) for path, methods in found.items()}


def _routes() -> list[web.RouteDef]:
    return [
        web.get("/health", health.health),
        web.get("/health/live", health.live),
        web.get("/health/ready", health.ready),
        web.route(hdrs.METH_ANY, "/metrics", metrics.metrics),
        web.get("/openapi.json", openapi.openapi),
        *approvals.routes(),
        *tickets.routes(),
        *questions.routes(),
        *jobs.routes(),
        *internal.routes(),
        web.get(_EVENTS, _at_the_door),
        web.post(_EVENTS, _at_the_door),
        *admin.routes(),
    ]


async def _at_the_door(_request: web.Request) -> web.Response:  # pragma: no cover
    """Streams and publications never come here; a known path gives other methods their 405."""
    raise web.HTTPInternalServerError


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give every error the contract's shape, whoever raised it."""
    try:
        return await handler(request)
    except Failed as failed:
        return _render(request, failed.rejection)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        general = "BAD_REQUEST" if error.status < 500 else "INTERNAL_ERROR"
        code = _CODES.get(error.status, general)
        return _error_response(request, code, allow=error.headers.get("Allow"))
    except Exception:
        request_id = request.headers.get("X-Request-ID", "")
        _log.exception("request_failed", request_id=request_id, path=request.path)
        return _error_response(request, "INTERNAL_ERROR")


def _error_response(request: web.Request, code: str, allow: str | None = None) -> web.Response:
    if code == "NOT_FOUND":
        message = request.app[STATE].nothing_here()
    else:
        message = _MESSAGES.get(code, "The request was refused.").format(method=request.method)
    headers = () if allow is None else ((b"Allow", allow.encode("ascii")),)
    return _render(request, Rejection(code, message, headers=headers))


def _render(request: web.Request, rejection: Rejection) -> web.Response:
    problem = wants_problem(request.headers.get("Accept", ""))
    body, content_type = render(rejection, request.headers.get("X-Request-ID", ""), problem=problem)
    headers = {"Content-Type": content_type.decode("ascii"), "Cache-Control": "no-store"}
    headers["X-Gateway-Error"] = rejection.code  # for the access record: the door takes it off
    if rejection.retry_after_seconds is not None:
        headers["Retry-After"] = str(rejection.retry_after_seconds)
    headers.update(
        (name.decode("ascii"), value.decode("ascii")) for name, value in rejection.headers
    )
    return web.Response(body=body, status=rejection.status, headers=headers)


async def _finish_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Every answer carries the request id and what browsers are told of it; none says which server
    software wrote it. A page with rules of its own (the approvals page) keeps them.
    """
    response.headers.popall("Server", None)
    for name, value in security_fields(request.app[STATE].settings):
        response.headers.setdefault(name, value)
    request_id = request.headers.get("X-Request-ID")
    if request_id is not None:
        response.headers["X-Request-ID"] = request_id
