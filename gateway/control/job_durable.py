"""A proxied request that becomes a job: the door sends it here (`Prefer: respond-async`, or a route
that is always durable), where `async_request_workflow` is started with it.

What it is about stands in fields that only the door sets. It was let in and counted as the request
that it is. Whether its caller may look at jobs was asked there too.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Final
from urllib.parse import unquote

from aiohttp import web

from gateway.control import job_requests as asked
from gateway.control.answers import Failed, body_of
from gateway.control.jobs import desk_of, started, told
from gateway.jobs.input_checks import NOT_HELD, NOT_HELD_STARTS
from gateway.jobs.inputs import MAX_INPUT_BYTES, job_type
from gateway.jobs.models import AsyncRequestInput
from gateway.jobs.starting import NewJob
from gateway.policy.auth import unauthorized

PATH: Final = "/internal/jobs/durable"
_KIND: Final = "async_request_workflow"
# What the door added, besides what no job holds.
_NOT_KEPT: Final = NOT_HELD | {"traceparent", "tracestate"}


def routes() -> list[web.RouteDef]:
    """The one path, for any method: that of the request."""
    return [web.route("*", PATH, told(durable))]


async def durable(request: web.Request) -> web.Response:
    """202 with where to look, or 200 with the status body when it is over in time."""
    caller = asked.identity_of(request)
    if caller.subject is None and not caller.open_read:
        raise Failed(unauthorized())  # who could never look what became of it
    desk = desk_of(request)
    fields = request.headers
    target, service = fields["X-Gateway-Target"], fields["X-Gateway-Service"]
    body = await body_of(request, MAX_INPUT_BYTES)
    wishes = asked.wishes_of(request)
    key = asked.key_of(request)
    job = NewJob(
        kind=job_type(_KIND),
        input=AsyncRequestInput(
            service=service,
            method=request.method,
            target=target,
            headers=_kept(request),
            body_base64=b64encode(body).decode("ascii") if body else None,
        ),
        caller=caller,
        address=asked.address_of(request),
        agent=asked.agent_of(request),
        # Who repeats a request gets its answer, with no right but to have sent it: a key is the
        # caller's own, and not as for other jobs the tenant's.
        route=f"{unquote(fields.get('X-Gateway-Route', ''))}\n{caller.subject or ''}",
        fingerprint=asked.fingerprint_of(request.method, target, body),
        key=key,
        request_id=fields.get("X-Request-ID", ""),
        correlation_id=fields.get("X-Correlation-ID", ""),
        trace=fields.get("traceparent"),
        spent=True,
    )
    return await started(desk, job, wishes.seconds(0.0), wishes.applied)


def _kept(request: web.Request) -> dict[str, str]:
    """The fields that the service gets; several of one name are one (RFC 9110 §5.3)."""
    kept: dict[str, str] = {}
    for written, value in request.headers.items():
        name = written.lower()
        if name in _NOT_KEPT or name.startswith(NOT_HELD_STARTS):
            continue
        kept[name] = f"{kept[name]}, {value}" if name in kept else value
    host = request.headers.get("X-Gateway-Host")
    return kept if host is None else kept | {"host": host}
