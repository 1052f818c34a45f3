"""What a request gets and loses on its way to the service, and an answer on its way to the client:
fields of the gateway's own, and those that a route changes. Which fields never pass, whatever a
route says, is in headers.py and message.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.edge import headers as h
from gateway.edge import message as m
from gateway.policy.cors import CORS_FIELDS

if TYPE_CHECKING:
    from gateway.edge.exchange import Exchange
    from gateway.policy.identity import Identity
    from gateway.routing.services import Endpoint, Service

_NONE: Final[frozenset[bytes]] = frozenset()
_CREDENTIALS: Final = frozenset((b"authorization", b"x-api-key"))
_API_KEY: Final = frozenset((b"x-api-key",))


def removed_fields(exchange: Exchange, service: Service) -> frozenset[bytes]:
    """The names (lower case) of client's fields that the service does not get."""
    policy = exchange.policy
    removed = _NONE if policy is None else policy.request_removed
    if not service.settings.pass_authorization or _came_with_key(exchange):
        removed |= _CREDENTIALS
    return removed | _API_KEY if exchange.drop_api_key else removed


def _came_with_key(exchange: Exchange) -> bool:
    """Whether the credential was an API key: the gateway's own, which lives long and is no back
    end's business.
    """
    jti = None if exchange.identity is None else exchange.identity.jti
    return jti is not None and jti.startswith("gw_")


def request_pieces(exchange: Exchange, endpoint: Endpoint) -> list[bytes]:
    """The head of the request as it goes to an endpoint, with the fields that the gateway sets: the
    route's, forwarding, Via, ids, trace, who asks.
    """
    head, context, policy = exchange.head, exchange.context, exchange.policy
    via = context.via_10 if head.version == m.HTTP_10 else context.via_11
    if head.via is not None:
        via = b"Via: " + b", ".join([*head.via, via[5:]])
    lines: list[bytes] = []
    if policy is not None:
        lines.append(policy.request_lines)
    lines += (
        exchange.client.forwarding(head),
        via,
        b"X-Request-ID: ",
        exchange.request_id.encode(),
        b"\r\nX-Correlation-ID: ",
        exchange.correlation_id.encode(),
        b"\r\ntraceparent: ",
        exchange.traceparent,
        b"\r\n",
    )
    if head.tracestate is not None:
        lines += (b"tracestate: ", head.tracestate, b"\r\n")
    lines.append(exchange.caller_lines)
    if policy is None and exchange.service is context.mounted:
        lines.append(control_lines(exchange.client_address, head, exchange.identity))
    target = (endpoint.base_path + exchange.path or b"/") + exchange.query
    return m.request_pieces(head, target, endpoint.host_line, lines, exchange.upgrade)


def control_lines(address: str, head: m.RequestHead, identity: Identity | None) -> bytes:
    """For the control application alone; clients can't send these (headers.request_kind)."""
    lines = b"X-Gateway-Client: %b\r\n" % address.encode()
    if not head.forwarding and head.via is None:
        lines += b"X-Gateway-Direct: 1\r\n"
    if identity is not None:
        lines += b"X-Gateway-Identity: %b\r\n" % identity.encode()
    return lines


def change_answer(
    exchange: Exchange, service: Service, head: m.ResponseHead, endpoint: Endpoint
) -> bytes:
    """Take off the answer what the client does not get; returns the lines that it gets besides."""
    policy = exchange.policy
    lines = b""
    if policy is not None:
        lines = policy.response_lines
        if policy.response_removed:
            head.fields = h.without(head.fields, policy.response_removed)
    if exchange.context.cors is not None:
        head.fields = h.without(head.fields, CORS_FIELDS)
    if service.sticky is not None and endpoint is not exchange.named:
        secure = exchange.client.peer.scheme == "https"
        lines += service.sticky.line(endpoint, secure=secure)
    return lines
