"""The order of the checks before a request is let in.

Synchronous: it decides, it never waits; where a policy can't tell yet, it says what to wait for.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import unquote_to_bytes

from gateway.edge import headers as h
from gateway.edge.context import BAD_CREDENTIALS_A_MINUTE, EVENTS_ROUTE, EdgeContext
from gateway.edge.message import RequestHead, bad_request
from gateway.errors import Rejection
from gateway.policy.auth import Credentials, auth_failed
from gateway.policy.breaker import Pass
from gateway.policy.identity import LEAST_TIER, Identity
from gateway.policy.limit_rules import Rule
from gateway.policy.limits import spent_lines
from gateway.policy.pending import Pending
from gateway.policy.ratelimit import address_key
from gateway.routing.routes import Route
from gateway.routing.services import Service
from gateway.routing.table import BadTarget, MethodNotAllowed, split_target
from gateway.settings_patterns import path_text

_REFUSED: Final = frozenset((b"CONNECT", b"TRACE"))
_TOKEN_KEYS: Final = frozenset((b"access_token", b"authorization", b"bearer", b"jwt", b"token"))
_OWN_PREFIX: Final = "/api/v1/"
# Paths that are hidden from whoever has no business there: a bad credential is none.
_HIDDEN: Final = ("/admin", "/metrics")
# What counts against the rate limit on the gateway's own paths.
_COUNTED: Final = {
    EVENTS_ROUTE: frozenset((b"GET", b"HEAD", b"POST")),
    "/api/v1/events/{client_id}/ticket": frozenset((b"POST",)),
    "/api/v1/events/{client_id}/response": frozenset((b"POST",)),
    "/api/v1/questions": frozenset((b"POST",)),
    "/api/v1/questions/{question_id}/response": frozenset((b"POST",)),
}


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


class Arrival(Protocol):
    """A request at the door; the checks write down what they find out, also when it is refused."""

    head: RequestHead
    started: float  # monotonic seconds
    started_wall: float  # seconds since 1970
    service: Service | None
    route: str
    policy: Route | None  # None: one of the gateway's own paths
    path: bytes  # what the service gets, or all of a mounted path
    query: bytes  # with its `?`, or empty
    client_address: str  # the address that counts for limits and records
    limit_lines: bytes
    answer_lines: bytes  # fields that every answer gets
    caller_lines: bytes  # fields that tell the service who asks
    drop_api_key: bool  # X-API-Key was for the gateway
    identity: Identity | None
    agent: str | None  # the AI agent, as figures name it
    pass_: Pass | None  # the breaker's


@dataclass(frozen=True, slots=True)
class Answered:
    """The request is answered here and now, and it is no error."""

    status: int
    fields: list[h.Field]


Refusal = Rejection | Pending | None


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
    rules = route.rules
    if route.agents != "allow" and arrival.agent is not None:
        if route.agents == "refuse":
            return Rejection("FORBIDDEN", "AI agents and crawlers are not let in here")
        rules += route.agent_rules
    return (
        _closed(context, arrival, key)
        or _identify(context, arrival, route, key, waited=waited)
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


def _admit_own(
    context: EdgeContext, arrival: Arrival, key: int, path: bytes, *, waited: bool
) -> Refusal:
    """The gateway's own paths: who asks, and the limit where a call counts."""
    own = arrival.route.startswith(_OWN_PREFIX)
    if context.authenticator is None or not (own or arrival.route.startswith(_HIDDEN)):
        return None
    if own and (closed := _closed(context, arrival, key)):
        return closed
    expect = arrival.head.by_name.get(b"expect")
    if expect is not None and own and not arrival.head.expects_continue:
        return Rejection("BAD_REQUEST", "Expect knows 100-continue only (RFC 9110 §10.1.1)")
    in_query = token_in_query(arrival.query)
    if in_query is not None:
        return in_query  # a mistake and no guess: it counts nowhere
    found = _authenticate(context, arrival, waited=waited)
    if isinstance(found, Rejection):
        if found.status == 401:
            found = bad_credential(context, arrival, key) or found
        if not own:
            found = None  # its handler sees nobody, and hides
    if not own and found is None and _is_hidden(arrival):
        return Rejection("NOT_FOUND", nothing_here(context))
    if found is not None or arrival.head.method not in _COUNTED.get(arrival.route, ()):
        return found
    return _limit(context, arrival, key, path, (), 1, waited=waited)


def _is_hidden(arrival: Arrival) -> bool:
    """Whether `/admin` is not there for this caller, whatever else its handler asks for: said here,
    before a body or an Expect could tell that there is something.
    """
    identity = arrival.identity
    may = identity is not None and (identity.open_write or "admin" in identity.scopes)
    return arrival.route.startswith("/admin") and not may


def _identify(
    context: EdgeContext, arrival: Arrival, route: Route, key: int, *, waited: bool
) -> Refusal:
    """Who asks for a service, as far as its route wants to know."""
    rule, authenticator = route.auth, context.authenticator
    if authenticator is None:
        return None
    arrival.drop_api_key = authenticator.takes_api_keys
    if rule.kind == "none" or (authenticator.is_keyless and rule.kind == "optional"):
        return None  # nobody wants to know, or could verify anything
    identity = authenticator.recall(_only_credential(arrival.head), arrival.started_wall)
    if identity is None:
        refusal = _authenticate(context, arrival, waited=waited)
        if isinstance(refusal, Rejection) and refusal.status == 401:
            return bad_credential(context, arrival, key) or refusal
        if refusal is not None:
            return refusal
        identity = arrival.identity
    if identity is None:
        return None
    arrival.identity = identity
    if identity.subject is not None:
        arrival.caller_lines = caller_lines(identity)
    return rule.check(identity)


def _only_credential(head: RequestHead) -> bytes | None:
    """The Authorization field where it is the only credential; empty: there is none; None: there
    are several, or another.
    """
    found = b""
    for name, value in head.fields:
        size = len(name)
        if size == 13 and name.lower() == b"authorization":
            if found or not value:
                return None
            found = value
        elif size == 9 and name.lower() == b"x-api-key":
            return None
    return found


def _authenticate(context: EdgeContext, arrival: Arrival, *, waited: bool) -> Refusal:
    authenticator = context.authenticator
    if authenticator is None:
        return None
    asked = credentials(arrival.head, arrival.client_address)
    found = authenticator.identify(asked, arrival.started_wall, waited=waited)
    if isinstance(found, Identity):
        arrival.identity = found
        return None
    return found


def caller_lines(identity: Identity) -> bytes:
    """Who asks, for the service: fields that clients can't send (headers.request_kind).

    Names that are no ASCII are written as UTF-8, as field values may be (RFC 9110 §5.5: obs-text).
    """
    lines = b"X-User-Tier: %b\r\n" % identity.tier.encode()
    if identity.tenant:
        lines = b"X-Tenant-ID: %b\r\n%b" % (identity.tenant.encode(), lines)
    if identity.subject:
        lines = b"X-User-ID: %b\r\n%b" % (identity.subject.encode(), lines)
    return lines


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
    context.metrics.rate_limited(tier)
    seconds = verdict.retry_after
    if not verdict.known:
        message = f"the limit {verdict.rule!r} can't be told now; try again in {seconds} s"
        return Rejection("RATE_LIMITED", message, seconds)
    if verdict.blames:
        context.doors.refused(key, now)
    message = f"the limit {verdict.rule!r} is used up; try again in {seconds} s"
    return Rejection("RATE_LIMITED", message, seconds)


def _break(arrival: Arrival, service: Service) -> Rejection | None:
    breaker = service.breaker
    arrival.pass_ = breaker.admit(arrival.started)
    if arrival.pass_ is not None:
        return None
    seconds = breaker.retry_after(arrival.started)
    message = f"service {service.name!r} failed too often; it is tried again in {seconds} s"
    return Rejection("CIRCUIT_BREAKER_OPEN", message, seconds)


def _closed(context: EdgeContext, arrival: Arrival, key: int) -> Rejection | None:
    seconds = context.doors.closed(key, arrival.started)
    if not seconds:
        return None
    arrival.limit_lines = spent_lines("door", 0, seconds, seconds, arrival.started_wall)
    context.metrics.rate_limited(LEAST_TIER)
    message = f"too many refusals: closed to this address; try again in {seconds} s"
    return Rejection("RATE_LIMITED", message, seconds)


def token_in_query(query: bytes) -> Rejection | None:
    """The refusal of a token in a URL, where every log on the way keeps it (RFC 9700 §4.3.2)."""
    for pair in query[1:].split(b"&") if query else ():
        name, _, value = pair.partition(b"=")
        name = unquote_to_bytes(name).partition(b"[")[0].lower()
        if name in _TOKEN_KEYS or (name == b"ticket" and value.count(b".") == 2):
            message = "a token is never taken from a URL: send it as Authorization, or get a ticket"
            return auth_failed(message)
    return None


def bad_credential(context: EdgeContext, arrival: Arrival, key: int) -> Rejection | None:
    """Count a bad credential of an address; the refusal when there were too many.

    They have a limit of their own, so that guessing is slow and takes nothing from the address's
    requests. The door is not closed for what a page elsewhere made a browser send.
    """
    now = arrival.started
    if b"cross-site" not in arrival.head.by_name.get(b"sec-fetch-site", ()):
        context.doors.bad_credential(key, now)
    admitted, _, seconds = context.bad_credentials.take(key, now)
    if admitted:
        return None
    quota, wall = BAD_CREDENTIALS_A_MINUTE, arrival.started_wall
    arrival.limit_lines = spent_lines("bad-credentials", quota, 60, seconds, wall)
    context.metrics.rate_limited(LEAST_TIER)
    message = f"too many bad credentials from this address; try again in {seconds} s"
    return Rejection("RATE_LIMITED", message, seconds)


def credentials(head: RequestHead, address: str) -> Credentials:
    """What a request says about who sent it, and from where."""
    found = head.by_name
    cookie, origin = found.get(b"cookie"), found.get(b"origin")
    return Credentials(
        authorization=found.get(b"authorization", ()),
        host=head.host,
        origin=b", ".join(origin) if origin else None,
        fetch_site=b", ".join(found[b"sec-fetch-site"]) if b"sec-fetch-site" in found else None,
        forwarded=bool(head.forwarding) or head.via is not None,
        cookie=b"; ".join(cookie) if cookie else None,
        address=address,
        api_key=found.get(b"x-api-key", ()),
    )


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
