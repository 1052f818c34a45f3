"""The order of the checks before a request is let in. Synchronous: it decides, it never waits."""

from __future__ import annotations

import ipaddress
from typing import Final, Protocol
from urllib.parse import unquote_to_bytes

from gateway.edge import headers as h
from gateway.edge.context import EVENTS_ROUTE, EdgeContext
from gateway.edge.message import RequestHead, bad_request
from gateway.errors import Rejection
from gateway.policy.auth import Credentials, Identity, auth_failed
from gateway.policy.ratelimit import address_key
from gateway.routing.services import Service
from gateway.routing.table import BadTarget, split_target

_REFUSED: Final = frozenset((b"CONNECT", b"TRACE"))
_TOKEN_KEYS: Final = frozenset((b"access_token", b"authorization", b"bearer", b"jwt", b"token"))
_OWN_PREFIX: Final = "/api/v1/"
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
    path: bytes  # behind the service's name; all of it for a mounted path
    query: bytes  # with its `?`, or empty
    client_address: str  # the address that counts for limits and records
    limit_lines: bytes
    identity: Identity | None  # who asks, on the gateway's own paths


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
    for address in reversed(h.forwarded_for(head.forwarding)):
        try:
            ipaddress.ip_address(address)
        except ValueError:
            return client  # whatever stands further left nobody vouches for
        client = address
        if not is_within(address, context.settings.trusted_proxies):
            break
    return client


def admit(context: EdgeContext, arrival: Arrival, peer: Peer) -> Rejection | None:
    """Framing that the parser left open → route → credential → rate limit; None lets it in.

    Request ids are there before, so that a refusal has one too.
    """
    head = arrival.head
    if head.forwarding:
        arrival.client_address = client_address(head, peer, context)
    if head.method in _REFUSED or head.via is not None:
        refusal = _refuse(head, context)
        if refusal is not None:
            return refusal
    try:
        path, arrival.query = split_target(head.target)
    except BadTarget as error:
        return bad_request(str(error))
    match = context.table.match(path)
    if match is None:
        return _not_found(context)
    service, arrival.route, arrival.path = match
    arrival.service = service or context.mounted
    if service is None and (
        not arrival.route.startswith(_OWN_PREFIX) or context.authenticator is None
    ):
        return None
    client = arrival.client_address
    key = peer.key if client is peer.address else address_key(client)
    if service is None:
        refusal = _authenticate(context, arrival, key)
        if refusal is not None or head.method not in _COUNTED.get(arrival.route, ()):
            return refusal
    limiter = context.limiter
    if limiter is None:
        return None
    admitted, remaining, seconds = limiter.take(key, arrival.started)
    arrival.limit_lines = limiter.headers(remaining, seconds, arrival.started_wall)
    return None if admitted else _too_many(context, "requests", seconds)


def _authenticate(context: EdgeContext, arrival: Arrival, key: int | str) -> Rejection | None:
    """Who asks, on the gateway's own paths. Bad credentials have a limit of their own, so that
    guessing is slow and takes nothing from the address's requests.
    """
    if context.authenticator is None:
        return None
    found = token_in_query(arrival.query) or context.authenticator.identify(
        credentials(arrival.head, arrival.client_address), arrival.started_wall
    )
    if not isinstance(found, Rejection):
        arrival.identity = found
        return None
    return bad_credential(context, key, arrival.started) or found


def token_in_query(query: bytes) -> Rejection | None:
    """The refusal of a token in a URL, where every log on the way keeps it (RFC 9700 §4.3.2)."""
    for pair in query[1:].split(b"&") if query else ():
        name, _, value = pair.partition(b"=")
        name = unquote_to_bytes(name).partition(b"[")[0].lower()
        if name in _TOKEN_KEYS or (name == b"ticket" and value.count(b".") == 2):
            message = "a token is never taken from a URL: send it as Authorization, or get a ticket"
            return auth_failed(message)
    return None


def bad_credential(context: EdgeContext, key: int | str, now: float) -> Rejection | None:
    """Count a bad credential of an address; the refusal when there were too many."""
    admitted, _, seconds = context.bad_credentials.take(key, now)
    return None if admitted else _too_many(context, "bad credentials", seconds)


def _too_many(context: EdgeContext, what: str, seconds: int) -> Rejection:
    context.metrics.rate_limited("anonymous")
    return Rejection(
        "RATE_LIMITED", f"too many {what} from this address; try again in {seconds} s", seconds
    )


def credentials(head: RequestHead, address: str) -> Credentials:
    """What a request says about who sent it, and from where."""
    found = head.by_name
    cookie, origin = found.get(b"cookie"), found.get(b"origin")
    return Credentials(
        authorization=found.get(b"authorization", []),
        host=head.host,
        origin=b", ".join(origin) if origin else None,
        fetch_site=b", ".join(found[b"sec-fetch-site"]) if b"sec-fetch-site" in found else None,
        forwarded=bool(head.forwarding) or head.via is not None,
        cookie=b"; ".join(cookie) if cookie else None,
        address=address,
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


def _not_found(context: EdgeContext) -> Rejection:
    names = context.table.names()
    if names:
        known = ", ".join(names[:20])
        message = (
            f"nothing is at this path; services are at /api/v1/<service>/…, registered: {known}"
        )
    else:
        message = (
            "nothing is at this path, and no service is registered: set <NAME>_URL and start again"
        )
    return Rejection("NOT_FOUND", message)
