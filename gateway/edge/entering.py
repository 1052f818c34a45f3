"""From a request's head to its first attempt: its ids, the checks at the door, what it may have to
wait for, and what its route and its service make of it. What the checks are is in admission.py.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from gateway.edge import message as m
from gateway.edge.admission import Answered, admit
from gateway.edge.answer import OPTIONS_ALLOW, answer
from gateway.edge.headers import is_traceparent
from gateway.edge.passing import removed_fields
from gateway.edge.retrying import Tries
from gateway.errors import Rejection
from gateway.policy.breaker import Probe
from gateway.policy.pending import Pending
from gateway.routing.services import Service

if TYPE_CHECKING:
    from gateway.edge.context import LocalRequest
    from gateway.edge.exchange import Exchange

# A half-open breaker has three places: clients that send slowly must not keep them.
PROBE_UPLOAD_SECONDS: Final = 1.0


def enter(exchange: Exchange) -> None:
    """Admit a request and send it on its way, or answer it."""
    identify(exchange)
    head = exchange.head
    if head.target == b"*" and head.method == b"OPTIONS":
        answer(exchange, 204, [OPTIONS_ALLOW], None)
        return
    found = admit(exchange.context, exchange, exchange.client.peer)
    service = exchange.service
    if service is not None:
        service.metrics.in_flight += 1
    if found is None and service is not None:
        _dispatch(exchange, service)
    elif isinstance(found, Pending):
        # Who asks is found out first: after that another policy may have to wait as well.
        unknown = exchange.identity is None and b"authorization" in head.by_name
        _wait(exchange, found, last=not unknown)
    else:
        _refuse(exchange, found)


def identify(exchange: Exchange) -> None:
    """Give it the ids that it came with, or new ones."""
    head, context = exchange.head, exchange.context
    ids = context.ids
    given, correlation, parent = head.request_id, head.correlation_id, head.traceparent
    request_id = given.decode("ascii") if given else ids.request_id(exchange.started_wall)
    exchange.request_id = request_id
    exchange.correlation_id = correlation.decode("ascii") if correlation else request_id
    begun = parent is None or not is_traceparent(parent)
    if parent is None or begun:
        head.tracestate = None  # of the trace that was not taken (W3C Trace Context §3.3)
        parent = ids.traceparent(None if given else request_id).encode("ascii")
    exchange.traceparent = parent
    if context.tracer is not None:
        exchange.trace = context.tracer.begin(
            parent, begun=begun, believed=exchange.client.peer.trusted
        )
        if exchange.trace is not None:
            exchange.traceparent = exchange.trace.outgoing


def _refuse(exchange: Exchange, found: Rejection | Answered | Pending | None) -> None:
    """What the checks say instead of letting it in."""
    if isinstance(found, Answered):
        exchange.answer_lines = b""  # its fields are all that is to be said of origins
        answer(exchange, found.status, found.fields, None)
    elif isinstance(found, Rejection):
        exchange.reject(found)
    else:  # a policy that will not decide, say
        exchange.reject(Rejection("INTERNAL_ERROR", "admitted nowhere"))


def _wait(exchange: Exchange, pending: Pending, *, last: bool) -> None:
    """A policy can't tell yet: the one place where a request has a Task. After the `last` wait, the
    second at most, every policy has to decide.

    What comes of its body meanwhile is kept, as while it waits for a connection.
    """
    if not exchange.request_complete:
        exchange.client.hold_upload(True)
    exchange.waiting = asyncio.ensure_future(pending.wait)
    exchange.waiting.add_done_callback(lambda waiting: _waited(exchange, waiting, last))


def _waited(exchange: Exchange, waiting: asyncio.Future[None], last: bool) -> None:
    exchange.waiting = None
    if waiting.cancelled() or exchange.finished:
        return
    context, before = exchange.context, exchange.service
    error = waiting.exception()
    if error is not None:  # the policy decides all the same
        context.log.error("edge.wait_failed", error=repr(error))
    try:
        found = admit(context, exchange, exchange.client.peer, waited=last)
        service = exchange.service
        if service is not before:  # a reload came between
            if before is not None:
                before.metrics.in_flight -= 1
            if service is not None:
                service.metrics.in_flight += 1
        if found is None and service is not None:
            _dispatch(exchange, service)
        elif isinstance(found, Pending) and not last:
            _wait(exchange, found, last=True)
        else:
            _refuse(exchange, found)
    except Exception:  # as in the client's connection: a bug costs one request
        context.log.exception("edge.bug", exchange=repr(exchange))
        message = "the gateway failed; it is logged"
        exchange.reject(Rejection("INTERNAL_ERROR", message, close=True))


def _dispatch(exchange: Exchange, service: Service) -> None:
    """Admitted: into the service's line where there is one, or on at once."""
    head, context, policy = exchange.head, exchange.context, exchange.policy
    size = head.content_length or exchange.bytes_in
    if size and size > exchange.most_bytes(service):
        exchange.reject(exchange.too_large(service))
        return
    if policy is None:  # one of the gateway's own paths
        begin = context.local.get((exchange.route, head.method))
        if begin is not None:
            _answer_here(exchange, begin(exchange))
            return
    elif policy.total_timeout is not None:
        exchange.total = context.deadlines.alarm(exchange, policy.total_timeout)
    if not exchange.request_complete and isinstance(exchange.pass_, Probe):
        context.deadlines.alarm(_SlowProbe(exchange), PROBE_UPLOAD_SECONDS)
    if head.upgrade is not None:
        exchange.upgrade = m.allowed_upgrade(head.upgrade, service.upgrades)
    if policy is not None and (policy.retries is not None or policy.hedge_after is not None):
        exchange.tries = Tries(exchange, service, policy)
    removed = removed_fields(exchange, service)
    if removed:
        exchange.take_off(removed)
    line = context.lines.get(service.name) if context.lines else None
    if line is None:
        exchange.let_in()
        return
    entered = line.enter(exchange)
    if isinstance(entered, Rejection):
        exchange.reject(entered)
        return
    exchange.line = line
    if entered:
        exchange.let_in()


class _SlowProbe:
    """A request that is to show whether its service is well, and whose client is still sending."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def expired(self, now: float) -> None:
        """It shows nothing so far, and others wait for its place: it goes on as no probe."""
        exchange, service = self._exchange, self._exchange.service
        slow = not exchange.request_complete and not exchange.finished and not exchange.status
        if slow and service is not None and exchange.pass_ is not None:
            service.breaker.settle(exchange.pass_, None, now)
            exchange.pass_ = None


def _answer_here(exchange: Exchange, local: LocalRequest) -> None:
    """At the door itself."""
    exchange.local = local
    exchange.body = []
    exchange.client.hold_upload(False)
    local.receive(exchange.early, exchange.request_complete)
    if exchange.awaits_continue and not exchange.request_complete and not exchange.status:
        exchange.interim_sent = True
        exchange.client.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # RFC 9110 §10.1.1
