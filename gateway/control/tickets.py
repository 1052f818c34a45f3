"""Tickets for browsers: POST /api/v1/events/{client_id}/ticket.

What a ticket is and where it is redeemed: policy/tickets. Not here: opening the stream with it,
which the edge does.
"""

from __future__ import annotations

import time

import orjson
from aiohttp import web

from gateway.control.answers import Failed, client_id_of, identity_of
from gateway.control.jobs import may_look
from gateway.control.state import STATE
from gateway.errors import Rejection
from gateway.policy.auth import Identity, forbidden, unauthorized
from gateway.policy.tickets import TICKET_SECONDS, TicketsAwayError
from sse.event import JOB_PREFIX

_RETRY_SECONDS = 1


def routes() -> list[web.RouteDef]:
    """The one path."""
    return [web.post("/api/v1/events/{client_id}/ticket", ticket)]


async def ticket(request: web.Request) -> web.Response:
    """201 with a ticket for this client id's streams, for whoever may read them."""
    client_id = client_id_of(request)
    identity = identity_of(request)
    if not identity.may_read(client_id) and not _is_own_job(request, identity, client_id):
        if identity.subject is None:
            raise Failed(unauthorized())
        message = "this credential reads the client id equal to its sub and those in its client_ids"
        raise Failed(forbidden(message, "events:read"))
    try:
        issued = request.app[STATE].tickets.issue(identity, client_id, time.time())
        text = issued if isinstance(issued, str) else await issued
    except TicketsAwayError:
        message = "tickets can't be kept just now: try again"
        raise Failed(Rejection("SERVICE_UNAVAILABLE", message, _RETRY_SECONDS)) from None
    return web.Response(
        body=orjson.dumps({"ticket": text, "expires_in": TICKET_SECONDS}),
        status=201,
        headers={"Content-Type": "application/json", "Cache-Control": "no-store"},
    )


def _is_own_job(request: web.Request, identity: Identity, client_id: str) -> bool:
    """Whether the client id is the stream of a job that the caller may look at."""
    desk = request.app[STATE].jobs
    if desk is None or not client_id.startswith(JOB_PREFIX) or not may_look(identity):
        return False
    return desk.owns(identity, client_id.removeprefix(JOB_PREFIX))
