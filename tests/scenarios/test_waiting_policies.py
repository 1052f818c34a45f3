"""A policy that can't tell at once: the request waits for it, and what may happen meanwhile.

Here it is the limits, whose tokens are somewhere far away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from gateway.policy.limit_rules import UNKNOWN, Key, Levels, Rule
from gateway.policy.limits import Limits
from gateway.policy.pending import Pending
from gateway.policy.ratelimit import LocalBuckets
from gateway.settings_services import EndpointUrl
from tests.routed import Routed, routed
from tests.wire import Link, Script, answer, assert_error, eventually, request

GET = request(b"GET /r/x")
OK = answer(b"ok")
LIMIT = "100/minute"


class FarBuckets(LocalBuckets):
    """Tokens that have to be fetched first, once for each that asks; `leave` lets them come."""

    def __init__(self) -> None:
        super().__init__()
        self.leave = asyncio.Event()
        self.known = 0  # requests whose tokens have come
        self.late = 0  # waits after which they have not
        self.waits = 0
        self.waiting = 0
        self.cancelled = 0
        self.refuses = False
        self.fault: Exception | None = None  # raised when they are to be taken
        self.trouble: Exception | None = None  # in the wait

    def take(self, rule: Rule, key: Key, cost: int, now: float) -> float | Levels:
        if not self.known:
            return UNKNOWN
        self.known -= 1
        if self.fault is not None:
            raise self.fault
        return 7.0 if self.refuses else super().take(rule, key, cost, now)

    def pending(self, wanted: Sequence[tuple[Rule, Key]], cost: int) -> Pending:
        return Pending(self._wait())

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            await self.leave.wait()
            self.waits += 1
            self.known += self.waits > self.late
            if self.trouble is not None:
                raise self.trouble
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1


@asynccontextmanager
async def far(
    script: Script | bytes = OK, **environ: object
) -> AsyncIterator[tuple[Routed, FarBuckets]]:
    """A gateway whose limit's tokens are far away."""
    async with routed(script, RATE_LIMIT=LIMIT, **environ) as at:
        buckets = FarBuckets()
        limit = at.context.settings.rate_limit
        at.context.limiter = Limits((), (), limit, buckets)
        yield at, buckets
        await eventually(lambda: not buckets.waiting, "nobody who waits")


def said(at: Routed, message: str) -> int:
    """How many log lines say that."""
    return sum(line["message"] == message for line in at.gateway.log())


async def test_the_request_goes_on_when_the_policy_can_tell() -> None:
    async with far() as (at, buckets):
        asked = asyncio.create_task(at.ask(GET))
        await eventually(lambda: buckets.waiting, "the wait")
        assert at.asked == [0]
        assert at.service.metrics.in_flight == 1
        buckets.leave.set()
        response = await asked
        assert (response.body, response.get("x-ratelimit-remaining")) == (b"ok", b"99")
        assert at.judged == (1, 0)


async def test_where_somebody_has_to_be_found_out_first_there_may_be_a_second_wait() -> None:
    fields = b"Authorization: Bearer someone"
    async with far() as (at, buckets):
        buckets.leave.set()
        buckets.late = 1
        assert (await at.ask(request(b"GET /r/x", fields))).status == 200
        assert buckets.waits == 2
        buckets.late = 99
        assert_error(await at.ask(request(b"GET /r/x", fields)), 429, "RATE_LIMITED")
        assert buckets.waits == 4
        assert_error(await at.ask(GET), 429, "RATE_LIMITED")
        assert buckets.waits == 5


async def test_a_refusal_then_is_the_answer() -> None:
    async with far() as (at, buckets):
        buckets.refuses = True
        buckets.leave.set()
        assert assert_error(await at.ask(GET), 429, "RATE_LIMITED")["retry_after"] == 7
        assert at.asked == [0]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_comes_meanwhile_is_kept_and_held_back(chunked: bool) -> None:
    body = b"b" * 3_000_000
    async with far() as (at, buckets), at.connect() as client:
        if chunked:
            client.send(request(b"POST /r/x", b"Transfer-Encoding: chunked"))
            client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        else:
            client.send(request(b"POST /r/x", b"Content-Length: %d" % len(body)), body)
        await eventually(lambda: buckets.waiting, "the wait")
        held = [each.exchange for each in at.gateway.gateway._server.connections]
        assert all(exchange.bytes_in < 1_000_000 for exchange in held)
        buckets.leave.set()
        assert (await client.response(b"POST")).status == 200
        assert at.upstreams[0].requests[0].body == body


async def test_a_body_for_the_door_itself_is_whole() -> None:
    body = b'{"event_type":"run.start","data":{"a":"' + b"b" * 40_000 + b'"}}'
    async with far() as (at, buckets), at.connect() as client:
        host = b"127.0.0.1"
        head = request(b"POST /api/v1/events/alice", b"Content-Length: %d" % len(body), host=host)
        client.send(head, body[:10_000])
        await eventually(lambda: buckets.waiting, "the wait")
        client.send(body[10_000:])
        buckets.leave.set()
        assert (await client.response(b"POST")).status == 202


async def test_a_client_that_leaves_ends_the_wait() -> None:
    async with far() as (at, buckets), at.connect() as client:
        client.send(GET)
        await eventually(lambda: buckets.waiting, "the wait")
        client.reset()
        await eventually(lambda: buckets.cancelled, "its end")
        (record,) = await at.gateway.records(1)
        assert (record["status"], record["service"]) == (499, "svc")
        assert at.asked == [0]


async def test_a_wait_that_fails_is_logged_and_the_policy_decides() -> None:
    async with far() as (at, buckets):
        buckets.trouble = RuntimeError("lost")
        buckets.leave.set()
        assert (await at.ask(GET)).status == 200
        await eventually(lambda: said(at, "edge.wait_failed") == 1, "a line of it")


async def test_a_mistake_of_a_policy_costs_its_request_only() -> None:
    async with far() as (at, buckets):
        buckets.leave.set()
        buckets.fault = RuntimeError("a bug")
        assert_error(await at.ask(GET), 500, "INTERNAL_ERROR")
        await eventually(lambda: said(at, "edge.bug") == 1, "a line of it")
        buckets.fault = None
        assert (await at.ask(GET)).status == 200


async def test_a_drain_does_not_wait_for_a_policy_for_ever() -> None:
    async with far(DRAIN_SECONDS=1) as (at, buckets), at.connect() as client:
        client.send(GET)
        await eventually(lambda: buckets.waiting, "the wait")
        await at.gateway.drain(grace=False)
        assert buckets.waiting == 0


async def test_a_reload_meanwhile_leads_it_to_where_it_goes_now() -> None:
    async def named(link: Link) -> None:
        while True:
            link.send(answer((await link.request()).target))

    async with far(named) as (at, buckets):
        asked = asyncio.create_task(at.ask(GET))
        await eventually(lambda: buckets.waiting, "the wait")
        before, limiter = at.service, at.context.limiter
        settings = at.gateway.settings
        (service,) = settings.services
        moved = EndpointUrl("http", "127.0.0.1", at.upstreams[0].port, "/new")
        services = (replace(service, endpoints=(moved,)),)
        at.gateway.gateway.reload(replace(settings, services=services))
        at.context.limiter = limiter
        buckets.leave.set()
        assert (await asked).body == b"/new/r/x"
        assert at.service is not before
