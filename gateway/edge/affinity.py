"""What of a request decides which endpoint of its service it goes to: what is hashed, and the
cookie of a session. The choice among endpoints itself is in gateway/routing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from gateway.edge.message import RequestHead
from gateway.routing.services import Endpoint, Service
from gateway.routing.sticky import cookie_values
from gateway.settings_balancing import HashSource

if TYPE_CHECKING:
    from gateway.edge.exchange import Exchange
    from gateway.policy.auth import Identity


def choose(exchange: Exchange, service: Service, avoid: Collection[Endpoint]) -> Endpoint | None:
    """The endpoint for a request: the one that its session began with, or the service's choice.
    `avoid` are those that it was tried at.
    """
    context = exchange.context
    if service.sticky is not None and not avoid:
        exchange.named = service.sticky.endpoint(cookie_field(exchange.head))
        if exchange.named is not None:
            return exchange.named
    source, key = service.hash_source, exchange.hash_key
    if source is not None and key is None:
        key = hash_key(source, exchange.head, exchange.client_address, exchange.identity)
        exchange.hash_key = key
    return service.pick(key, context.clock(), avoid)


def cookie_field(head: RequestHead) -> bytes | None:
    """All Cookie fields as one (RFC 6265 §5.4 wants one; some split it)."""
    fields = head.by_name.get(b"cookie")
    return None if fields is None else b"; ".join(fields)


def hash_key(
    source: HashSource, head: RequestHead, address: str, identity: Identity | None
) -> bytes | None:
    """What `source` says of a request; None where it has no such field.

    The fields that say who asks are the gateway's own: they are those of the identity, whatever the
    client sent.
    """
    if len(source) == 1:
        return address.encode()
    kind, name = source
    if kind == "cookie":
        return next(iter(cookie_values(cookie_field(head), name)), None)
    if name == b"host":
        return head.host
    if name in (b"x-user-id", b"x-tenant-id"):
        known = None if identity is None else (identity.subject, identity.tenant)
        text = None if known is None else known[name == b"x-tenant-id"]
        return text.encode() if text else None
    values = head.by_name.get(name)
    return None if values is None else b",".join(values)
