"""The order of the checks before a request is let in.

Synchronous: it decides, it never waits; where a policy can't tell yet, it says what to wait for.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Final

from gateway.edge import durable
from gateway.edge import headers as h
from gateway.edge.arrival import Answered, Arrival, Refusal
from gateway.edge.context import ADMISSION_ROUTE, EVENTS_ROUTE, EdgeContext
from gateway.edge.identifying import (
    INTERNAL,
    asserted,
    authenticate,
    bad_credential,
    caller_key,
    closed,
    credentials,
    identify,
    nobodys,
    owner,
    token_in_query,
)
from gateway.edge.message import RequestHead, bad_request
from gateway.errors import Rejection
from gateway.policy.identity import LEAST_TIER
from gateway.policy.limit_rules import Rule
from gateway.policy.limits import Verdict
from gateway.policy.on_behalf import HEADER, Assertion
from gateway.policy.pending import Pending
from gateway.policy.ratelimit import address_key
from gateway.routing.routes import Route
from gateway.routing.services import Service
from gateway.routing.table import BadTarget, MethodNotAllowed, split_target
from gateway.settings_patterns import path_text

__all__ = ["Answered", "Peer", "admit", "bad_credential", "credentials", "is_within"]

_REFUSED: Final = frozenset((b"CONNECT", b"TRACE"))
_JOBS: Final = ("/api/v1/workflows", "/api/workflows")
_OWN_PREFIXES: Final = ("/api/v1/", "/api/workflows")
# Paths that are hidden from whoever has no business there: a bad credential is none.
_HIDDEN: Final = ("/admin", "/metrics", "/internal")
# The credentials of a worker: its service token is no service's business.
_WORKERS: Final = frozenset((b"authorization", b"x-api-key"))
# What counts against the rate limit on the gateway's own paths.
_COUNTED: Final = {
    EVENTS_ROUTE: frozenset((b"GET", b"HEAD", b"POST")),
    "/api/v1/events/{client_id}/ticket": frozenset((b"POST",)),
    "/api/v1/events/{client_id}/response": frozenset((b"POST",)),
    "/api/v1/questions": frozenset((b"POST",)),
    "/api/v1/questions/{question_id}/response": frozenset((b"POST",)),
}
_COUNTED_OF_JOBS: Final = frozenset((b"GET", b"HEAD", b"POST"))


class Peer:
    """Whose bytes these are: the address at the other end, and whether its forwarding fields are
    believed.
    """

    __slots__ = ("address", "key", "scheme", "trusted")

    def __init__(self, address: str, scheme: str, context: EdgeContext) -> None:
        self.address = address
        self.scheme = scheme
        self.key = address_key(address)
        self.trusted = is_within(address, context.settings.trusted_proxies)


def is_within(
    address: str, networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
) -> bool:
    """Whether an address is in one of the networks; text that is no address is in none."""
    if not networks:
        return False
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in networks)


def client_address(head: RequestHead, peer: Peer, context: EdgeContext) -> str:
    """The right-most address of the forwarding chain that is not a trusted proxy's."""
    if not peer.trusted or not head.forwarding:  # nobody vouches for it
        return peer.address
    client = peer.address
    for written in reversed(h.forwarded_for(head.forwarding)):
        address = _without_port(written)
        try:
            ipaddress.ip_address(address)
        except ValueError:
            return client  # whatever stands further left nobody vouches for
        client = address
        if not is_within(address, context.settings.trusted_proxies):
            break
    return client


def _without_port(written: str) -> str:
    """An address of a forwarding chain: some proxies write the client's port behind it."""
    if written.startswith("["):
        return written[1:].partition("]")[0]
    return written.partition(":")[0] if written.count(":") == 1 else written


def admit(
    context: EdgeContext, arrival: Arrival, peer: Peer, *, waited: bool = False
) -> Refusal | Answered:
    """Framing that the parser left open → CORS preflight → route → credential → rate limit →
    breaker; None lets it in.

    Request ids are there before, so that a refusal has one too. A `Pending` is waited for once and
    the checks begin anew, `waited`: then they decide.
    """
    head = arrival.head
    if head.forwarding:
        arrival.client_address = client_address(head, peer, context)
    arrival.agent = context.agents.agent_of(head)
    if head.method in _REFUSED or head.via is not None:
        refusal = _refuse(head, context)
        if refusal is not None:
            return refusal
    try:
        path, arrival.query = split_target(head.target)
    except BadTarget as error:
        return bad_request(str(error))
    if context.cors is not None:
        preflight = _cross_origin(context, arrival)
        if preflight is not None:
            return preflight
    match = context.table.match(head.method, path, head)
    if match is None:
        return Rejection("NOT_FOUND", nothing_here(context))
    arrival.route = match.name
    client = arrival.client_address
    key = peer.key if client is peer.address else address_key(client)
    if isinstance(match, MethodNotAllowed):
        message = (
            f"this path does not take {head.method.decode('latin-1')}; Allow says what it does"
        )
        return Rejection("METHOD_NOT_ALLOWED", message, headers=((b"Allow", match.allow),))
    arrival.path = match.path
    route = match.route
    if route is None:
        arrival.service = context.mounted
        return _admit_own(context, arrival, key, path, waited=waited)
    arrival.policy = route
    service = arrival.service = route.service
    if head.on_behalf is not None:
        return _admit_worker(context, arrival, route, key, path, waited=waited)
    rules = route.rules
    if route.agents != "allow" and arrival.agent is not None:
        found = rules_of_agents(route)
        if isinstance(found, Rejection):
            return found
        rules = found
    if route.durable is not None and durable.is_wanted(context, head, route):
        return _admit_job(context, arrival, route, key, path, rules, waited=waited)
    return (
        closed(context, arrival, key)
        or identify(context, arrival, route, key, waited=waited)
        or _limit(context, arrival, key, path, rules, route.cost, waited=waited)
        or _break(arrival, service)
    )


def _cross_origin(context: EdgeContext, arrival: Arrival) -> Answered | None:
    """The fields that let pages of other origins read the answer, or the answer to a preflight."""
    cors, found = context.cors, arrival.head.by_name
    if cors is None:
        return None
    origins = found.get(b"origin", ())
    origin = origins[0] if len(origins) == 1 else None  # no page sends two
    arrival.answer_lines = cors.lines(origin)
    wanted = found.get(b"access-control-request-method")
    if arrival.head.method != b"OPTIONS" or origin is None or wanted is None:
        return None
    asked = b", ".join(found.get(b"access-control-request-headers", ()))
    fields = cors.preflight(origin, wanted[0], asked)
    if fields is None:
        return None
    arrival.answer_lines = b""  # the preflight's own fields say it all
    return Answered(204, fields)


def rules_of_agents(route: Route) -> tuple[Rule, ...] | Rejection:
    """The row's limits as they hold for AI agents; the refusal where it lets none in."""
    if route.agents == "refuse":
        return Rejection("FORBIDDEN", "AI agents and crawlers are not let in here")
    return route.rules + route.agent_rules


def _admit_worker(
    context: EdgeContext, arrival: Arrival, route: Route, key: int, path: bytes, *, waited: bool
) -> Refusal:
    """A step of a job: its caller's rights and limits hold, as they would for a request of its own;
    limits that have counted the step already are not looked at again. What an agent started is an
    agent's, whatever its steps say of themselves.
    """
    shut = closed(context, arrival, key)
    if shut is not None:
        return shut
    found = asserted(context, arrival, route, key, waited=waited)
    if not isinstance(found, Assertion):
        return found
    agent = found.agent or arrival.agent
    rules = route.rules if agent is None else rules_of_agents(route)
    if isinstance(rules, Rejection):
        return rules
    refusal: Refusal = None
    if not found.spent:
        # Callers without a credential are told apart by their addresses, not by the worker's.
        key = caller_key(found, key)
        refusal = _limit(context, arrival, key, path, rules, route.cost, waited=waited)
    refusal = refusal or _break(arrival, route.service)
    if refusal is None:
        arrival.head.fields = h.without_aliases(arrival.head.fields, _WORKERS)
        arrival.policy = _patient(route, found.wait_seconds)
    return refusal


def _patient(route: Route, seconds: float | None) -> Route:
    """A step may take as long as its job says: nobody else waits at the door meanwhile. The time
    that a row gives the whole request stays.
    """
    own = route.service.settings.head_timeout if route.head_timeout is None else route.head_timeout
    return route if seconds is None or seconds <= own else replace(route, head_timeout=seconds)


def _admit_job(
    context: EdgeContext,
    arrival: Arrival,
    route: Route,
    key: int,
    path: bytes,
    rules: tuple[Rule, ...],
    *,
    waited: bool,
) -> Refusal:
    """A request that becomes a job: let in as any other, but that no breaker is asked. Who could
    not look what became of it is served as ever, or not at all.
    """
    refusal = (
        closed(context, arrival, key)
        or identify(context, arrival, route, key, waited=waited)
        or durable.refusal(context, arrival.head)
        or owner(context, arrival, waited=waited)
    )
    if refusal is not None:
        return refusal
    may_look = durable.may_look(arrival.identity)
    if not may_look and route.durable == "always":
        return durable.not_looking(arrival.identity)
    refusal = _limit(context, arrival, key, path, rules, route.cost, waited=waited)
    if refusal is None and may_look:
        durable.hand_over(context, arrival, route, path)
    return refusal if may_look else refusal or _break(arrival, route.service)


def _admit_own(
    context: EdgeContext, arrival: Arrival, key: int, path: bytes, *, waited: bool
) -> Refusal:
    """The gateway's own paths: who asks, and the limit where a call counts."""
    name, head = arrival.route, arrival.head
    own, hidden = name.startswith(_OWN_PREFIXES), name.startswith(_HIDDEN)
    if name == durable.PATH:  # requests are led there from inside only
        return Rejection("NOT_FOUND", nothing_here(context))
    if head.on_behalf is not None and name != ADMISSION_ROUTE:
        if hidden:
            return Rejection("NOT_FOUND", nothing_here(context))
        return Rejection("FORBIDDEN", f"{HEADER} is for services, not for the gateway's own paths")
    if context.authenticator is None or not (own or hidden):
        return None
    if own and (shut := closed(context, arrival, key)):
        return shut
    if own and b"expect" in head.by_name and not head.expects_continue:
        return Rejection("BAD_REQUEST", "Expect knows 100-continue only (RFC 9110 §10.1.1)")
    in_query = token_in_query(arrival.query)
    if in_query is not None:
        return in_query  # a mistake and no guess: it counts nowhere
    found = authenticate(context, arrival, waited=waited)
    if isinstance(found, Rejection):
        if found.status == 401:
            found = bad_credential(context, arrival, key) or found
        if not own:
            found = None  # its handler sees nobody, and hides
    if not own and found is None and _is_hidden(arrival):
        return Rejection("NOT_FOUND", nothing_here(context))
    if found is None and name.startswith(_JOBS):
        if not name.endswith("/stream"):  # those have rights of their own: tickets, cookies
            found = nobodys(arrival.identity)
        arrival.caller_lines = durable.agent_line(arrival.agent)
    if found is not None or not _counts(arrival):
        return found
    return _limit(context, arrival, key, path, (), 1, waited=waited)


def _counts(arrival: Arrival) -> bool:
    """Whether a call of the gateway's own takes a token: those of its own parts never do."""
    method, identity = arrival.head.method, arrival.identity
    if identity is not None and INTERNAL in identity.scopes:
        return False
    if arrival.route.startswith(_JOBS):
        return method in _COUNTED_OF_JOBS
    return method in _COUNTED.get(arrival.route, ())


def _is_hidden(arrival: Arrival) -> bool:
    """Whether `/admin` and `/internal` are not there for this caller, whatever else their handlers
    ask for: said here, before a body or an Expect could tell that there is something.
    """
    identity = arrival.identity
    if arrival.route.startswith("/internal"):
        return identity is None or INTERNAL not in identity.scopes
    may = identity is not None and (identity.open_write or "admin" in identity.scopes)
    return arrival.route.startswith("/admin") and not may


def _limit(
    context: EdgeContext,
    arrival: Arrival,
    key: int,
    path: bytes,
    own: tuple[Rule, ...],
    cost: int,
    *,
    waited: bool,
) -> Refusal:
    """Every limit that holds for the request; a refusal takes nothing from any of them."""
    limiter, identity = context.limiter, arrival.identity
    tier, tenant = LEAST_TIER, None
    caller: int | str = key
    if identity is not None:
        tier, tenant = identity.tier, identity.tenant
        if identity.subject:
            caller = "s:" + identity.subject
    now, wall = arrival.started, arrival.started_wall
    plain = path_text(path) if limiter.by_path else ""
    verdict = limiter.check(caller, tier, tenant, plain, own, cost, now, wall, waited=waited)
    if isinstance(verdict, Pending):
        return verdict
    arrival.limit_lines = verdict.lines
    if verdict.admitted:
        return None
    # A job's steps are no hammering at the door: its worker waits as it is told.
    if verdict.known and verdict.blames and arrival.head.on_behalf is None:
        context.doors.refused(key, now)
    return over_limit(context, verdict, tier)


def over_limit(context: EdgeContext, verdict: Verdict, tier: str) -> Rejection:
    """The refusal by a limit, counted."""
    context.metrics.rate_limited(tier)
    seconds = verdict.retry_after
    state = "is used up" if verdict.known else "can't be told now"
    message = f"the limit {verdict.rule!r} {state}; try again in {seconds} s"
    return Rejection("RATE_LIMITED", message, seconds)


def _break(arrival: Arrival, service: Service) -> Rejection | None:
    breaker = service.breaker
    arrival.pass_ = breaker.admit(arrival.started)
    if arrival.pass_ is not None:
        return None
    seconds = breaker.retry_after(arrival.started)
    message = f"service {service.name!r} failed too often; it is tried again in {seconds} s"
    return Rejection("CIRCUIT_BREAKER_OPEN", message, seconds)


def _refuse(head: RequestHead, context: EdgeContext) -> Rejection | None:
    if head.method == b"CONNECT":
        return Rejection("NOT_IMPLEMENTED", "CONNECT: this is no forward proxy", close=True)
    if head.method == b"TRACE":
        allow = ((b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),)
        return Rejection(
            "METHOD_NOT_ALLOWED", "TRACE would echo what the gateway adds", headers=allow
        )
    if head.via is not None and _is_loop(head.via, context.via):
        name = context.via.decode()
        message = f"a request loop: it came through {name} before; check the service's URL"
        return Rejection("PROXY_ERROR", message)
    return None


def _is_loop(via: list[bytes], pseudonym: bytes) -> bool:
    hops = b",".join(via).split(b",")
    return any(pseudonym in hop.split() for hop in hops)


def nothing_here(context: EdgeContext) -> str:
    """What is said of a path that leads nowhere: what would."""
    names = context.table.names()
    if names:
        known = ", ".join(names[:20])
        return f"nothing is at this path; services are at /api/v1/<service>/…, registered: {known}"
    if context.settings.services:
        return "nothing is at this path"
    return "nothing is at this path, and no service is registered: set <NAME>_URL and start again"
