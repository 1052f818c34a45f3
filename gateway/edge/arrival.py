"""A request at the door, as the checks see it, and what they say of it. No check is here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gateway.edge.headers import Field
from gateway.edge.message import RequestHead
from gateway.errors import Rejection
from gateway.policy.breaker import Pass
from gateway.policy.identity import Identity
from gateway.policy.pending import Pending
from gateway.routing.routes import Route
from gateway.routing.services import Service


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
    fields: list[Field]


Refusal = Rejection | Pending | None
