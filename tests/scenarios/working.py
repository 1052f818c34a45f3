"""A gateway with jobs switched on, and its worker's side of the door: credential and assertion.

Temporal itself is away (nobody listens at that port): the door decides without it.
"""

from __future__ import annotations

import contextlib
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

from gateway.edge.pool import tcp_connector
from gateway.policy.on_behalf import PURPOSE, Assertion, Assertions
from gateway.policy.payload_keys import PayloadKeys
from gateway.settings import EndpointUrl
from tests.scenarios.governed import OK, in_front
from tests.streams import bearer
from tests.wire import RunningGateway, ScriptedUpstream

TOKEN = "a-service-token-that-only-workers-have"
WORKER = bearer(TOKEN)
JOBS: dict[str, Any] = {
    "TEMPORAL_ADDRESS": "127.0.0.1:1",
    "PAYLOAD_KEYS": f"now:{b64encode(b'k' * 32).decode()}",
    "SERVICE_TOKEN": TOKEN,
}
JOB = "0123456789abcdef-0190"


@contextlib.asynccontextmanager
async def at_work(
    config: str = "", *rows: str, **options: Any
) -> AsyncIterator[tuple[RunningGateway, ScriptedUpstream]]:
    """A gateway with jobs in front of one service, `svc` (options as of `in_front`)."""
    async with in_front(config, *rows, **(JOBS | options)) as (gateway, upstream):
        yield gateway, upstream


def signer(gateway: RunningGateway) -> Assertions:
    """Signs as a worker with this gateway's keys does."""
    return Assertions(PayloadKeys(gateway.settings).derive(PURPOSE))


def behalf(gateway: RunningGateway, service: str = "svc", age: float = 0, **said: Any) -> bytes:
    """The field, for ann unless something else is said; signed so many seconds ago."""
    given: dict[str, Any] = {
        "subject": "ann",
        "tenant": "acme",
        "tier": "pro",
        "address": "9.9.9.9",
    }
    assertion = Assertion(service, JOB, **(given | said))
    return b"X-On-Behalf-Of: " + signer(gateway).sign(assertion, time.time() - age).encode()


@contextlib.asynccontextmanager
async def as_control(gateway: RunningGateway, script: Any = OK) -> AsyncIterator[ScriptedUpstream]:
    """Puts a scripted server in the control application's place, to see what it is sent."""
    async with ScriptedUpstream(script) as upstream:
        room, mounted = gateway.gateway._services, gateway.gateway.context.mounted
        room.mount(mounted, tcp_connector(EndpointUrl("http", "127.0.0.1", upstream.port), None))
        yield upstream
