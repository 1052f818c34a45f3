"""Who asks, at the door: credentials, the address's own limit of bad ones, and the worker that asks
for the caller of a job. What a credential is worth is in policy/auth, the order of all checks in
admission.py.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.edge.arrival import Arrival, Refusal
from gateway.edge.context import BAD_CREDENTIALS_A_MINUTE, EdgeContext
from gateway.edge.message import RequestHead
from gateway.errors import Rejection
from gateway.policy.auth import Credentials, auth_failed, forbidden, unauthorized
from gateway.policy.identity import LEAST_TIER, Identity
from gateway.policy.limits import spent_lines
from gateway.policy.on_behalf import HEADER, Assertion, BadAssertionError
from gateway.policy.ratelimit import address_key
from gateway.routing.routes import Route
from gateway.settings_services import canonical

INTERNAL: Final = "internal"
_TOKEN_KEYS: Final = frozenset((b"access_token", b"authorization", b"bearer", b"jwt", b"token"))


def identify(
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
        refusal = authenticate(context, arrival, waited=waited)
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


def authenticate(context: EdgeContext, arrival: Arrival, *, waited: bool) -> Refusal:
    """The caller, by whatever credential it sent, into `identity`."""
    authenticator = context.authenticator
    if authenticator is None:
        return None
    asked = credentials(arrival.head, arrival.client_address)
    found = authenticator.identify(asked, arrival.started_wall, waited=waited)
    if isinstance(found, Identity):
        arrival.identity = found
        return None
    return found


def owner(context: EdgeContext, arrival: Arrival, *, waited: bool) -> Refusal:
    """Whose a job is that the request becomes, also where its route asks for nobody: a credential
    that is none here may be the service's own, and makes it nobody's.
    """
    if arrival.identity is None:
        found = authenticate(context, arrival, waited=waited)
        if found is not None and not isinstance(found, Rejection):
            return found
    if arrival.identity is None:
        arrival.identity = Identity()
    return None


def asserted(
    context: EdgeContext, arrival: Arrival, route: Route, key: int, *, waited: bool
) -> Assertion | Refusal:
    """For whom a worker asks, by X-On-Behalf-Of: that caller is the request's, as far as its route
    wants to know one. Only a credential with scope `internal` may say it, and only of the service
    that the job named: so no job reaches another, or a path of the gateway's own.
    """
    authenticator = context.authenticator
    if authenticator is None:  # nobody can be identified, so nobody may
        return not_internal(arrival)
    arrival.identity = None
    found = authenticate(context, arrival, waited=waited)
    if isinstance(found, Rejection) and found.status == 401:
        return bad_credential(context, arrival, key) or found
    if found is not None:
        return found
    assertion = vouched(context, arrival)
    if isinstance(assertion, Rejection):
        return assertion
    service = route.service
    if canonical(assertion.service) not in (service.name, *service.settings.aliases):
        return Rejection("FORBIDDEN", "this path is not one of the service that the job names")
    identity = arrival.identity = assertion.identity(keyless=authenticator.is_keyless)
    if identity.subject is not None and route.auth.kind != "none":
        arrival.caller_lines = caller_lines(identity)
    return route.auth.check(identity) or assertion


def vouched(context: EdgeContext, arrival: Arrival) -> Assertion | Rejection:
    """What X-On-Behalf-Of says, where the caller, who is known by now, may say so."""
    identity, head = arrival.identity, arrival.head
    if identity is None or INTERNAL not in identity.scopes:
        return not_internal(arrival)
    head.vouched = True
    if context.assertions is None:
        message = f"{HEADER} can't be verified here: jobs are off (PAYLOAD_KEYS)"
        return Rejection("FORBIDDEN", message)
    if head.on_behalf is None:  # no mistake of a credential
        return Rejection("BAD_REQUEST", f"{HEADER} is missing: it says for whom")
    try:
        assertion = context.assertions.verify(head.on_behalf, arrival.started_wall)
    except BadAssertionError as error:
        return auth_failed(f"{HEADER} is refused: {error}")
    head.job = assertion.job
    return assertion


def nobodys(identity: Identity | None) -> Rejection | None:
    """The refusal of jobs to a token that names nobody: they would be those of all such tokens."""
    if identity is None or not identity.is_nameless:
        return None
    message = (
        "this token names neither a subject (sub) nor a tenant, so no job could be its own; "
        "send one that does, or an API key"
    )
    return Rejection("FORBIDDEN", message)


def caller_key(assertion: Assertion, workers: int) -> int:
    """What a caller without a credential is counted by: its own address, where that is known, or
    all of them would share the worker's.
    """
    return address_key(assertion.address) if assertion.address else workers


def not_internal(arrival: Arrival) -> Rejection:
    """The refusal of X-On-Behalf-Of from anyone but a worker."""
    message = f"{HEADER} is the gateway's own"
    if arrival.identity is None or arrival.identity.subject is None:
        return unauthorized(message, INTERNAL)
    return forbidden(message, INTERNAL)


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


def closed(context: EdgeContext, arrival: Arrival, key: int) -> Rejection | None:
    """The refusal while the door is closed to an address. The gateway's own worker, which may share
    its address with whoever had it closed, is let in.
    """
    seconds = context.doors.closed(key, arrival.started)
    if not seconds:
        return None
    authenticator = context.authenticator
    if authenticator is not None and authenticator.is_service(_only_credential(arrival.head)):
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
