"""A gateway with one service behind one row of a table, an upstream for each of its endpoints, and
its books looked at when the test is over: what a request took it must have given back.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from gateway.edge.message import HTTP_11, RequestHead
from gateway.routing.services import Service
from tests.wire import Link, RunningGateway, Script, ScriptedUpstream, eventually, start_gateway

__all__ = ["Routed", "books", "hang", "routed"]

ROW = """
[services.svc]
{service}

[[routes]]
path = "/r/*"
service = "svc"
{row}
"""


async def hang(link: Link) -> None:
    """Takes a request whole and never answers."""
    await link.request()
    await link.closed(60)
    link.close()


class Routed:
    """The gateway and its upstreams, in the order of the service's endpoints."""

    def __init__(self, gateway: RunningGateway, upstreams: Sequence[ScriptedUpstream]) -> None:
        self.gateway = gateway
        self.upstreams = upstreams
        self.ask = gateway.ask
        self.connect = gateway.connect

    @property
    def context(self) -> Any:
        """What the gateway's connections share."""
        return self.gateway.gateway.context

    @property
    def service(self) -> Service:
        """The service as it runs."""
        match = self.context.table.match(b"GET", b"/r/x", RequestHead(b"GET", b"", HTTP_11, []))
        service = match.route.service
        assert isinstance(service, Service)
        return service

    def half_open(self) -> None:
        """The time is over for which the breaker is open."""
        with self.gateway.stopped_clock() as time:
            time.pass_by(self.service.settings.breaker.open_seconds)
        assert self.service.breaker.look(self.context.clock()) == "half_open"

    @property
    def asked(self) -> list[int]:
        """How many requests each upstream has got."""
        return [len(upstream.requests) for upstream in self.upstreams]

    @property
    def judged(self) -> tuple[int, int]:
        """What the breaker has seen: requests, failures."""
        return self.service.breaker.window(self.context.clock())


def books(routed: Routed) -> dict[str, object]:
    """What is taken and not given back yet."""
    service, context = routed.service, routed.context
    line = context.lines.get(service.name)
    taken: dict[str, object] = {
        "requests in flight": service.metrics.in_flight,
        "requests at endpoints": [
            each.outstanding for each in service.endpoints if each.outstanding
        ],
        "retries": service.budget.retries,
        "places in the line": 0 if line is None else line.active + line.waiting,
        "places of probes": len(service.breaker._places),
        "connections at work": sum(
            pool.active + pool.waiting
            for pool in context.pools.values()
            if pool.endpoint.service == service.name
        ),
    }
    return {name: count for name, count in taken.items() if count}


@contextlib.asynccontextmanager
async def routed(
    *scripts: Script | bytes | Sequence[bytes], row: str = "", service: str = "", **environ: object
) -> AsyncIterator[Routed]:
    """A gateway that sends `/r/…` to a service with an endpoint for each script, by `row` (more of
    its table) and `service` (of the service's). Afterwards the books must balance.
    """
    async with contextlib.AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(ScriptedUpstream(each)) for each in scripts]
        urls = ",".join(upstream.url for upstream in upstreams)
        config = ROW.format(row=row, service=service)
        gateway = await stack.enter_async_context(
            start_gateway(config, **({"SVC_URL": urls} | environ))
        )
        found = Routed(gateway, upstreams)
        yield found
        await eventually(lambda: not books(found), f"balanced books: {books(found)}")
