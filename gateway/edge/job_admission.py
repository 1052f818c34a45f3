"""Whether a request would be let in, asked by a worker before it makes it: the first steps of a job
that is a request (`authenticate_request`, `check_rate_limit`).

`POST /internal/jobs/admission` with X-On-Behalf-Of: by whom and for whom is looked at as for the
request itself (identifying.py); what is asked about is in the body. For everyone without scope
`internal` there is nothing at this path (admission.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import orjson

from gateway.edge.admission import over_limit, rules_of_agents
from gateway.edge.answer import JSON, NO_STORE, answer
from gateway.edge.context import ADMISSION_ROUTE, EdgeContext
from gateway.edge.identifying import caller_key, vouched
from gateway.edge.message import HTTP_11, RequestHead
from gateway.errors import Rejection
from gateway.policy.limit_rules import Rule
from gateway.policy.on_behalf import Assertion
from gateway.policy.pending import Pending
from gateway.routing.routes import Route
from gateway.routing.table import BadTarget, MethodNotAllowed, split_target
from gateway.settings_patterns import path_text
from gateway.settings_services import canonical

if TYPE_CHECKING:
    from gateway.edge.exchange import Exchange

MOST_BODY_BYTES: Final = 65536  # a target and the fields that a row may ask for
_WHAT: Final = ("authenticate", "limit")
_MEMBERS: Final = frozenset(("what", "service", "method", "target", "host", "headers"))


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked about: a request, as it would come to the door. `what`: whether its caller may
    make it, or may make it now (which takes the tokens that it costs).
    """

    what: str
    service: str
    method: bytes
    target: bytes
    host: bytes | None = None
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)

    @classmethod
    def read(cls, body: bytes) -> Asked | Rejection:
        """From the body of the question."""
        try:
            members = orjson.loads(body)
        except orjson.JSONDecodeError:
            return Rejection("BAD_REQUEST", "the body is not JSON (RFC 8259)")
        if not isinstance(members, dict) or not members.keys() <= _MEMBERS:
            return _wrong("", f"an object with {', '.join(sorted(_MEMBERS))}")
        headers = members.get("headers", {})
        for name in ("what", "service", "method", "target"):
            if not isinstance(members.get(name), str):
                return _wrong(f"/{name}", "a text")
        if members["what"] not in _WHAT:
            return _wrong("/what", " or ".join(_WHAT))
        if not isinstance(members.get("host", ""), str):
            return _wrong("/host", "a text")
        if not isinstance(headers, dict) or not all(isinstance(v, str) for v in headers.values()):
            return _wrong("/headers", "an object of texts")
        return cls(
            what=members["what"],
            service=members["service"],
            method=_bytes(members["method"]),
            target=_bytes(members["target"]),
            host=_bytes(members["host"]) if "host" in members else None,
            fields=[(_bytes(name), _bytes(value)) for name, value in headers.items()],
        )


class Admission:
    """One question; its answer waits where a limit is shared and can't be told yet."""

    __slots__ = ("_assertion", "_exchange", "_pieces", "_size")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._assertion: Assertion | None = None
        self._pieces: list[bytes] = []
        self._size = 0

    def receive(self, pieces: Sequence[bytes], complete: bool) -> None:
        """Collect the body; with its end comes the answer."""
        exchange = self._exchange
        if self._assertion is None:
            found = vouched(exchange.context, exchange)
            if isinstance(found, Rejection):
                exchange.reject(found)
                return
            self._assertion = found
        self._pieces += pieces
        self._size += sum(map(len, pieces))
        if max(self._size, exchange.head.content_length or 0) > MOST_BODY_BYTES:
            message = f"a question has at most {MOST_BODY_BYTES} bytes"
            exchange.reject(Rejection("PAYLOAD_TOO_LARGE", message, close=True))
        elif complete:
            asked = Asked.read(b"".join(self._pieces))
            if isinstance(asked, Rejection):
                exchange.reject(asked)
            else:
                self._answer(asked, self._assertion, waited=False)

    def _answer(self, asked: Asked, assertion: Assertion, *, waited: bool) -> None:
        exchange = self._exchange
        found = refusal(exchange, asked, assertion, waited=waited)
        if isinstance(found, Pending):
            waiting = exchange.waiting = asyncio.ensure_future(found.wait)
            waiting.add_done_callback(lambda done: self._waited(asked, assertion, done))
            return
        error = None
        if found is not None:
            error = {
                "code": found.code,
                "message": found.message,
                "status": found.status,
                "retry_after": found.retry_after_seconds,
            }
        body = orjson.dumps({"allowed": error is None, "error": error})
        answer(exchange, 200, [JSON, NO_STORE], body)

    def _waited(self, asked: Asked, assertion: Assertion, done: asyncio.Future[None]) -> None:
        exchange = self._exchange
        exchange.waiting = None
        if not done.cancelled() and not exchange.finished:
            self._answer(asked, assertion, waited=True)


def attach(context: EdgeContext) -> None:
    """Answer at this path."""
    context.local[ADMISSION_ROUTE, b"POST"] = Admission


def refusal(
    exchange: Exchange, asked: Asked, assertion: Assertion, *, waited: bool
) -> Rejection | Pending | None:
    """Why the request asked about would not be let in, or is not now."""
    context = exchange.context
    head = RequestHead(asked.method, asked.target, HTTP_11, asked.fields)
    head.host = asked.host
    try:
        path, _ = split_target(asked.target)
    except BadTarget as error:
        return Rejection("BAD_REQUEST", str(error))
    match = context.table.match(asked.method, path, head)
    if match is None:
        return Rejection("NOT_FOUND", "nothing is at this path")
    if isinstance(match, MethodNotAllowed):
        return Rejection("METHOD_NOT_ALLOWED", f"this path takes {match.allow.decode()}")
    route = match.route
    named = {canonical(asked.service), canonical(assertion.service)}
    if route is None or not named <= {route.service.name, *route.service.settings.aliases}:
        return Rejection("FORBIDDEN", "this path is not one of the service that the job names")
    authenticator = context.authenticator
    identity = assertion.identity(keyless=authenticator is not None and authenticator.is_keyless)
    refused = route.auth.check(identity)
    if refused is not None:
        return refused
    rules = route.rules if assertion.agent is None else rules_of_agents(route)
    if isinstance(rules, Rejection):
        return rules
    if asked.what == "authenticate" or assertion.spent:
        return None
    return _limited(exchange, route, rules, assertion, path, waited=waited)


def _limited(
    exchange: Exchange,
    route: Route,
    rules: tuple[Rule, ...],
    assertion: Assertion,
    path: bytes,
    *,
    waited: bool,
) -> Rejection | Pending | None:
    """The caller's limits, as admission takes them for a request of its own."""
    context = exchange.context
    limiter = context.limiter
    caller: int | str = caller_key(assertion, exchange.client.peer.key)
    if assertion.subject:
        caller = "s:" + assertion.subject
    verdict = limiter.check(
        caller,
        assertion.tier,
        assertion.tenant,
        path_text(path) if limiter.by_path else "",
        rules,
        route.cost,
        exchange.started,
        exchange.started_wall,
        waited=waited,
    )
    if isinstance(verdict, Pending):
        return verdict
    return None if verdict.admitted else over_limit(context, verdict, assertion.tier)


def _wrong(pointer: str, expected: str) -> Rejection:
    message = "the question is wrong"
    return Rejection("UNPROCESSABLE", message, details=((pointer, f"expected {expected}"),))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
