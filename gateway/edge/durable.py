"""Requests that become jobs: which do, and how one leaves the way to its service for the control
application, which starts the job and answers.

A client asks for it with `Prefer: respond-async` (RFC 7240 §4.1) where the row or the service
allows it, or a row is always durable. Its checks at the door are those of the request itself, all
but the breaker: a job waits for a service that is ill. What a job is made of is in control/jobs.py.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from gateway.edge.arrival import Arrival
from gateway.edge.context import EdgeContext
from gateway.edge.identifying import nobodys
from gateway.edge.message import RequestHead
from gateway.edge.passing import control_lines
from gateway.errors import Rejection
from gateway.policy.auth import forbidden, unauthorized
from gateway.policy.identity import Identity
from gateway.policy.prefer import preferences
from gateway.routing.routes import Route

# The control application answers there; no client's path leads to it (admission.py).
PATH: Final = "/internal/jobs/durable"
# interface.md: what a job can be started with over HTTP.
MOST_BODY_BYTES: Final = 1 << 20
# The answer may wait for the job's end (`wait=N`): control bounds that, below this.
HEAD_SECONDS: Final = 320.0

_PATH: Final = PATH.encode()
# Whoever has one of these scopes may look at jobs of his own.
READERS: Final = ("jobs:read", "jobs:write")
_ALWAYS: Final = "what is sent here is done as a job"
# What the request was let in by; a job's input and its history never hold it.
_CREDENTIALS: Final = frozenset((b"authorization", b"x-api-key", b"cookie"))
# Every visible ASCII character: what else a row's name holds is escaped, so that the field is ASCII
# as a target is (the parser lets no other in).
_VISIBLE: Final = "".join(map(chr, range(0x21, 0x7F)))


def is_wanted(context: EdgeContext, head: RequestHead, route: Route) -> bool:
    """Whether a request on a durable route becomes a job.

    Where jobs are off a preference is passed over, as RFC 7240 §2 has it; so it is for an upgrade,
    which is a conversation and no request.
    """
    if route.durable == "always":
        return True
    if not head.prefers or head.upgrade is not None or not context.jobs_on:
        return False
    values = head.by_name.get(b"prefer", ())
    return preferences(value.decode("latin-1") for value in values).respond_async


def refusal(context: EdgeContext, head: RequestHead) -> Rejection | None:
    """Why a request can't become a job, whoever sends it."""
    if not context.jobs_on:
        message = f"{_ALWAYS}, and jobs are off: set TEMPORAL_ADDRESS"
        return Rejection("SERVICE_UNAVAILABLE", message)
    if b"expect" in head.by_name and not head.expects_continue:
        return Rejection("BAD_REQUEST", "Expect knows 100-continue only (RFC 9110 §10.1.1)")
    return None


def may_look(identity: Identity | None) -> bool:
    """Whether a caller could ask what became of its job: it has a name and the right, or reading is
    open.
    """
    if identity is None or identity.is_nameless:
        return False
    return identity.open_read or identity.may(*READERS)


def not_looking(identity: Identity | None) -> Rejection:
    """The refusal of who may not look at jobs, where all that is sent becomes one."""
    if identity is None or identity.subject is None:
        return unauthorized(f"{_ALWAYS}, which has to be somebody's")
    message = f"{_ALWAYS}, and this credential may not look at jobs"
    return nobodys(identity) or forbidden(message, " ".join(READERS))


def agent_line(agent: str | None) -> bytes:
    """For the control application: the AI agent that asks for a job, for whose steps the rows'
    rules about agents hold too. Its name is one of figures, never what a client wrote.
    """
    return b"" if agent is None else b"X-Gateway-Agent: %b\r\n" % agent.encode()


def hand_over(context: EdgeContext, arrival: Arrival, route: Route, path: bytes) -> None:
    """From here on it is the control application's; `path` is the one that came.

    Called when it is let in, and not before: the checks may have to begin anew.
    """
    head, settings = arrival.head, route.service.settings
    most = settings.max_body_bytes if route.max_body_bytes is None else route.max_body_bytes
    lines = [
        b"X-Gateway-Target: %b\r\n" % (path + arrival.query),
        b"X-Gateway-Service: %b\r\n" % route.service.name.encode(),
        b"X-Gateway-Route: %b\r\n" % quote(arrival.route, _VISIBLE).encode(),
    ]
    if head.host:
        lines.append(b"X-Gateway-Host: %b\r\n" % head.host)
    lines.append(agent_line(arrival.agent))
    lines.append(control_lines(arrival.client_address, head, arrival.identity))
    arrival.policy = Route(
        route.name,
        context.mounted,
        route.auth,
        head_timeout=HEAD_SECONDS,
        max_body_bytes=min(MOST_BODY_BYTES, most),
        request_lines=b"".join(lines),
        request_removed=_CREDENTIALS,
    )
    arrival.service = context.mounted
    arrival.path, arrival.query, arrival.caller_lines = _PATH, b"", b""
