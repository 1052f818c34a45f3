"""The paths of jobs: starting, waiting, looking, steering. Thin: what happens is in `jobs`.

`/api/workflows/…` is `/api/v1/workflows/…`. Streams are at the door (`edge/streaming`); a proxied
request that becomes a job is in `job_durable`.
"""

from __future__ import annotations

from functools import wraps
from typing import Final

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.control import job_requests as asked
from gateway.control.answers import Failed, body_of
from gateway.control.job_desk import JobDesk
from gateway.control.state import STATE
from gateway.errors import Rejection
from gateway.jobs.inputs import MAX_INPUT_BYTES, job_type
from gateway.jobs.refusals import JobRefusedError
from gateway.jobs.starting import NewJob, Started
from gateway.jobs.status import PATH, JobStatus, links
from gateway.jobs.waiting import NoPlaceError
from gateway.policy.auth import forbidden, unauthorized
from gateway.policy.identity import Identity

PREFIXES: Final = ("/api/v1/workflows", "/api/workflows")
_BELOW: Final = (
    "",
    "/{type}",
    "/{operation_id}/status",
    "/{operation_id}/result",
    "/{operation_id}/stream",
    "/{operation_id}/history",
    "/{operation_id}/cancel",
    "/{operation_id}/terminate",
    "/{operation_id}/signal/{name}",
    "/{operation_id}/update/{name}",
)
PATHS: Final = tuple(prefix + below for prefix in PREFIXES for below in _BELOW)

READ_SCOPE: Final = "jobs:read"
WRITE_SCOPE: Final = "jobs:write"
_JSON: Final = {"Content-Type": "application/json", "Cache-Control": "no-store"}
# A short kind is over in well under a second, as a rule; a long one is better followed.
_SHORT_RETRY: Final = 1
_LONG_RETRY: Final = 5


def routes() -> list[web.RouteDef]:
    """All paths about jobs; that of streams is for other methods' 405."""
    made: list[web.RouteDef] = []
    for prefix in PREFIXES:
        job = f"{prefix}/{{operation_id}}"
        made += [
            web.get(prefix, told(listed)),
            web.post(f"{prefix}/{{type}}", told(start)),
            web.get(f"{job}/status", told(status)),
            web.get(f"{job}/result", told(result), allow_head=False),
            web.get(f"{job}/stream", _at_the_door),
            web.get(f"{job}/history", told(history)),
            web.post(f"{job}/cancel", told(cancel)),
            web.post(f"{job}/terminate", told(terminate)),
            web.post(f"{job}/signal/{{name}}", told(signal)),
            web.post(f"{job}/update/{{name}}", told(update)),
        ]
    return made


def no_pages() -> list[web.RouteDef]:
    """What looks like a job's own page, and is none."""
    return [web.route("*", f"{prefix}/{{type}}", told(_no_page)) for prefix in PREFIXES]


async def start(request: web.Request) -> web.Response:
    """200 with the status body when the job is over in time, else 202 with where to look."""
    caller = writer(request)
    desk = desk_of(request)
    kind = job_type(request.match_info["type"])
    body = await body_of(request, MAX_INPUT_BYTES)
    wishes = asked.wishes_of(request)
    key = asked.key_of(request)
    given = await desk.read(kind, body, caller)
    job = NewJob(
        kind=kind,
        input=given,
        caller=caller,
        address=asked.address_of(request),
        agent=asked.agent_of(request),
        route=kind.name,
        fingerprint=asked.fingerprint_of(kind.name, body),
        key=key,
        request_id=request.headers.get("X-Request-ID", ""),
        correlation_id=request.headers.get("X-Correlation-ID", ""),
        trace=request.headers.get("traceparent"),
    )
    seconds = wishes.seconds(asked.SHORT_SECONDS if kind.short else 0.0)
    return await started(desk, job, seconds, wishes.applied)


async def started(
    desk: JobDesk, job: NewJob, seconds: float, applied: dict[str, str]
) -> web.Response:
    """Start a job, wait so long for its end, and answer."""
    begun: Started = await desk.start(job)
    # For the access record: the door takes it off.
    headers = applied | {"X-Gateway-Job": begun.operation_id}
    if begun.replayed:
        headers["Idempotent-Replayed"] = "true"
    ended = None
    if begun.replayed:  # it may be over since long ago
        found = await desk.status(job.caller, begun.operation_id)
        ended = found if found.ended else None
    if ended is None:
        try:
            ended = await desk.wait(job.caller, begun.operation_id, seconds)
        except NoPlaceError:  # it was started: who asked looks for its end later
            headers.pop("Preference-Applied", None)
    if ended is not None:
        return web.Response(body=ended.data, headers=_JSON | headers)
    retry = _SHORT_RETRY if job.kind.short else _LONG_RETRY
    return _accepted(begun.operation_id, headers, retry)


async def listed(request: web.Request) -> web.Response:
    """A page of the caller's jobs."""
    caller = reader(request)
    query = request.query
    found, token = await desk_of(request).page(
        caller,
        query.get("status") or None,
        query.get("type") or None,
        asked.page_size_of(request),
        query.get("page_token") or None,
    )
    return _json({"workflows": found, "next_page_token": token})


async def status(request: web.Request) -> web.Response:
    """The status body."""
    caller = reader(request)
    found = await desk_of(request).status(caller, request.match_info["operation_id"])
    headers = {} if found.ended else {"Retry-After": str(_SHORT_RETRY)}
    return web.Response(body=found.data, headers=_JSON | headers)


async def result(request: web.Request) -> web.Response:
    """200 with the result, 202 while the job runs, 409 with the cause where there will be none."""
    caller = reader(request)
    seconds = asked.seconds_of(request, "wait")
    operation_id, desk = request.match_info["operation_id"], desk_of(request)
    found = await desk.status(caller, operation_id)  # nobody waits for a job that is not there
    if seconds and not found.ended:
        ended = await desk.wait(caller, operation_id, seconds)
        found = ended or await desk.status(caller, operation_id)
    if not found.ended:
        return _accepted(operation_id, {}, _SHORT_RETRY, status=found.status)
    if found.status != "completed":
        raise Failed(_no_result(found))
    return _json(found.body["result"])


async def history(request: web.Request) -> web.Response:
    """What happened in a job."""
    caller = reader(request)
    found = await desk_of(request).history(caller, request.match_info["operation_id"])
    return _json(found)


async def cancel(request: web.Request) -> web.Response:
    """202: it was asked to end. Its compensations run before it does."""
    caller = writer(request)
    operation_id, desk = request.match_info["operation_id"], desk_of(request)
    await asked.no_body(request)
    await desk.cancel(caller, operation_id)
    return _accepted(operation_id, {}, _SHORT_RETRY)


async def terminate(request: web.Request) -> web.Response:
    """200 with the status body: it has ended, and nothing was undone."""
    caller = writer(request)
    operation_id, desk = request.match_info["operation_id"], desk_of(request)
    await asked.no_body(request)
    ended = await desk.terminate(caller, operation_id)
    return web.Response(body=ended.data, headers=_JSON)


async def signal(request: web.Request) -> web.Response:
    """202: the job was told."""
    caller = writer(request)
    operation_id, desk = request.match_info["operation_id"], desk_of(request)
    args = await asked.arguments_of(request)
    await desk.signal(caller, operation_id, request.match_info["name"], args)
    return _accepted(operation_id, {}, _SHORT_RETRY)


async def update(request: web.Request) -> web.Response:
    """200 with what the job answered."""
    caller = writer(request)
    operation_id, desk = request.match_info["operation_id"], desk_of(request)
    args = await asked.arguments_of(request)
    key, name = asked.key_of(request), request.match_info["name"]
    answered = await desk.update(caller, operation_id, name, args, key)
    return _json({"operation_id": operation_id, "result": answered})


async def _no_page(request: web.Request) -> web.Response:
    """405, with where to look instead."""
    at = f"{PATH}/{request.match_info['type']}"
    message = f"A job's kind is started here by POST; how a job stands is at {at[:200]}/status."
    raise Failed(Rejection("METHOD_NOT_ALLOWED", message, headers=((b"Allow", b"POST"),)))


async def _at_the_door(_request: web.Request) -> web.Response:  # pragma: no cover
    """Streams never come here."""
    raise web.HTTPInternalServerError


# Who may, and whether there are jobs at all


def reader(request: web.Request) -> Identity:
    """The caller, if he may look at jobs of his own."""
    return _let_in(request, READ_SCOPE, WRITE_SCOPE)


def writer(request: web.Request) -> Identity:
    """The caller, if he may start jobs and steer his own."""
    return _let_in(request, WRITE_SCOPE)


def may_look(identity: Identity) -> bool:
    """Whether a caller may look at jobs of his own."""
    if identity.subject is None:
        return identity.open_read
    return identity.may(READ_SCOPE, WRITE_SCOPE)


def _let_in(request: web.Request, *scopes: str) -> Identity:
    identity = asked.identity_of(request)
    if identity.subject is None:
        is_open = identity.open_read if READ_SCOPE in scopes else identity.open_write
        if not is_open:
            raise Failed(unauthorized())
        return identity
    if not identity.may(*scopes):
        what = "look at jobs" if READ_SCOPE in scopes else "start or steer jobs"
        raise Failed(forbidden(f"this credential may not {what}", " ".join(scopes)))
    return identity


def desk_of(request: web.Request) -> JobDesk:
    """The jobs; 503 where there are none now."""
    state = request.app[STATE]
    if state.jobs is None:
        off = state.jobs_off()
        raise Failed(Rejection("SERVICE_UNAVAILABLE", off.message, off.retry_after_seconds))
    return state.jobs


# Answers


def told(handler: Handler) -> Handler:
    """A handler whose refusals are told as errors of the table."""

    @wraps(handler)
    async def telling(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except JobRefusedError as refused:
            raise Failed(refused.rejection) from None

    return telling


def _accepted(
    operation_id: str, headers: dict[str, str], retry_seconds: int, **more: str
) -> web.Response:
    found = links(operation_id)
    fields = {"Location": found["status_url"], "Retry-After": str(retry_seconds)}
    return web.Response(
        body=orjson.dumps(found | more), status=202, headers=_JSON | fields | headers
    )


def _json(value: object) -> web.Response:
    return web.Response(body=orjson.dumps(value), headers=_JSON)


def _no_result(found: JobStatus) -> Rejection:
    """What is said of a job that has no result: how it ended, and the cause."""
    cause = found.body["error"] or {}
    message = cause.get("message") or "it has no result"
    told = (
        f"The job failed: {message}"
        if found.status == "failed"
        else f"{message[0].upper()}{message[1:]}"
    )
    return Rejection("JOB_FAILED", told, extra=(("status", found.status), ("cause", cause)))
