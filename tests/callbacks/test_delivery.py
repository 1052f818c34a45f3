"""The worker: what it sends, what it writes down, what it tries again, and how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from aiohttp import web

from gateway.callbacks.delivering import PATIENCE_SECONDS
from gateway.callbacks.delivery import DeliveryWorker
from gateway.callbacks.destinations import PER_DESTINATION
from gateway.callbacks.forward import ForwardRequests
from gateway.callbacks.retries import DAY_SECONDS
from gateway.callbacks.sending import Sender
from gateway.settings import EndpointUrl, ForwardSettings
from gateway.store.deliveries import LEASE_SECONDS, Delivery
from tests.callbacks.receiver import Receiver, receiving
from tests.callbacks.receiving import is_genuine
from tests.callbacks.rows import delivery
from tests.callbacks.working import SECRET, START, TLS, Table, a_table, nowhere, working
from tests.observe.test_log import logged


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[Table]:
    async with a_table(tmp_path) as table:
        yield table


def to(receiver: Receiver, path: str = "/hook") -> Delivery:
    return delivery(target=receiver.url(path))


async def test_what_is_due_at_the_start_is_delivered_signed(table: Table) -> None:
    async with receiving() as receiver:
        (row,) = await table.add(to(receiver))
        async with working(table):
            await table.until(lambda: table.rows[row].done)
    (request,) = receiver.received
    assert is_genuine(SECRET, request.headers, request.body, START)
    assert request.headers["webhook-id"] == f"msg_{row}"
    assert json.loads(request.body)["data"]["question_id"] == "q-1"
    assert table.rows[row].said == ["0 called_back 200 at try 1"]


async def test_a_decision_is_delivered_when_the_worker_is_woken(table: Table) -> None:
    async with receiving() as receiver, working(table) as worker:
        await table.was_asked(1)
        (row,) = await table.add(to(receiver))
        worker.wake()
        await table.until(lambda: table.rows[row].done)


async def test_what_nobody_woke_it_for_is_found_by_a_sweep(table: Table) -> None:
    worker = DeliveryWorker(
        table,
        Sender(nowhere, TLS),
        {},
        wall=lambda: table.now,
        random=lambda: 0.5,
        log=structlog.get_logger(),
        sweep_seconds=0.001,
    )
    worker.start()
    await table.was_asked(3)
    await worker.close()


async def test_a_failure_is_tried_again_later_with_the_same_id_until_it_arrives(
    table: Table,
) -> None:
    async with receiving() as receiver, working(table) as worker:
        receiver.script += [500, 404, 302, 200]
        (row,) = await table.add(to(receiver))
        delays = []
        for failed in (1, 2, 3):
            worker.wake()
            await table.tried(row, failed)
            delays.append(table.next_at(row) - table.now)
            table.now = table.next_at(row)
        worker.wake()
        await table.until(lambda: table.rows[row].done)
        requests = receiver.received
    assert delays == [5, 15, 45]
    assert table.rows[row].said == ["65 called_back 200 at try 4"]
    assert len({request.headers["webhook-id"] for request in requests}) == 1
    assert len({request.body for request in requests}) == 1
    stamps = [float(request.headers["webhook-timestamp"]) for request in requests]
    assert stamps == [START, START + 5, START + 20, START + 65]
    for request, stamp in zip(requests, stamps, strict=True):
        assert is_genuine(SECRET, request.headers, request.body, stamp)


async def test_a_delivery_is_given_up_after_a_day_and_the_row_says_so(table: Table) -> None:
    async with receiving() as receiver, working(table) as worker:
        (row,) = await table.add(to(receiver))
        receiver.script += [503] * 100
        while table.rows[row].next_at is not None:
            table.now = table.next_at(row)
            worker.wake()
            await table.tried(row, table.rows[row].attempts + 1)
    assert table.now == START + DAY_SECONDS
    assert (table.rows[row].done, table.rows[row].attempts) == (False, 20)
    assert table.rows[row].said == ["86400 called_back given up: answered 503"]


async def test_gone_ends_it_at_once(table: Table) -> None:
    async with receiving() as receiver, working(table):
        receiver.script.append(410)
        (row,) = await table.add(to(receiver))
        await table.until(lambda: table.rows[row].next_at is None)
    assert table.rows[row].error == "answered 410"


@pytest.mark.parametrize(("status", "delay"), [(429, 900), (503, 900), (500, 5)])
async def test_a_busy_receivers_wish_is_heard(table: Table, status: int, delay: int) -> None:
    async def busy(_request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Retry-After": "900"})

    async with receiving() as receiver, working(table):
        receiver.script.append(busy)
        (row,) = await table.add(to(receiver))
        await table.tried(row, 1)
    assert table.rows[row].next_at == START + delay


async def test_a_redirect_leads_nowhere(table: Table) -> None:
    async with receiving() as receiver, receiving() as inner, working(table):

        async def elsewhere(_request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": inner.url("/admin")})

        receiver.script.append(elsewhere)
        (row,) = await table.add(to(receiver))
        await table.tried(row, 1)
        assert inner.received == []
    assert table.rows[row].error == "answered 307"


async def test_a_name_that_changes_its_mind_is_asked_once_for_each_attempt(table: Table) -> None:
    answers = [["127.0.0.1"], ["169.254.169.254"]]
    asked: list[str] = []

    async def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        return answers.pop(0)

    async with receiving() as receiver, working(table, resolve=resolve) as worker:
        receiver.script.append(500)
        url = receiver.url(host="rebind.example")
        (row,) = await table.add(delivery(target=url))
        await table.tried(row, 1)
        assert (asked, len(receiver.received)) == (["rebind.example"], 1)
        table.now += 5
        worker.wake()
        await table.tried(row, 2)
        assert (asked, len(receiver.received)) == (["rebind.example"] * 2, 1)
    assert table.rows[row].error == "the host has an address that is not public"


async def test_a_restart_in_the_middle_delivers_what_was_left(table: Table) -> None:
    async with receiving() as receiver:
        receiver.script.append(500)
        (row,) = await table.add(to(receiver))
        async with working(table):
            await table.tried(row, 1)
        table.now += 3600
        async with working(table):
            await table.until(lambda: table.rows[row].done)
    first, second = (request.headers["webhook-id"] for request in receiver.received)
    assert first == second


async def test_a_delivery_that_a_kill_cut_off_is_sent_again_when_its_lease_ends(
    table: Table,
) -> None:
    async with receiving() as receiver:
        (row,) = await table.add(to(receiver))
        assert len(await table.due_deliveries(START, 1)) == 1  # by a process that is no more
        async with working(table) as worker:
            await table.was_asked(2)
            assert receiver.received == []
            table.now = START + LEASE_SECONDS
            worker.wake()
            await table.until(lambda: table.rows[row].done)


async def test_what_takes_long_or_waits_is_no_other_gateways_meanwhile(table: Table) -> None:
    go_on = asyncio.Event()

    async def slow(_request: web.Request) -> web.Response:
        await go_on.wait()
        return web.Response()

    async with receiving() as receiver:
        receiver.script += [slow] * PER_DESTINATION
        ids = await table.add(*[to(receiver)] * (PER_DESTINATION + 1))
        async with working(table) as worker:
            await receiver.got(PER_DESTINATION)
            for _ in range(3):
                table.now += PATIENCE_SECONDS / 4
                worker.wake()
                end = table.now + LEASE_SECONDS
                await table.until(lambda: all(table.rows[each].leased_until == end for each in ids))  # noqa: B023 - awaited here
            assert await table.due_deliveries(START + LEASE_SECONDS, 10) == []
            go_on.set()
            await table.until(lambda: all(table.rows[each].done for each in ids))
            assert len(receiver.received) == len(ids)


async def test_a_gateway_that_stood_still_leaves_to_another_what_that_has_taken(
    table: Table,
) -> None:
    go_on = asyncio.Event()

    async def slow(_request: web.Request) -> web.Response:
        await go_on.wait()
        return web.Response()

    with logged() as lines:
        async with receiving() as receiver:
            receiver.script += [slow] * PER_DESTINATION
            ids = await table.add(*[to(receiver)] * (PER_DESTINATION + 2))
            async with working(table) as worker:
                await receiver.got(PER_DESTINATION)
                assert "waiting=2" in repr(worker)
                table.now += LEASE_SECONDS  # and nobody woke it
                taken = await table.due_deliveries(table.now, 10)
                assert len(taken) == len(ids)
                go_on.set()
                await table.until(lambda: sum(row.done for row in table.rows.values()) == 4)
                await table.was_asked(4)
                assert "waiting=0" in repr(worker)
            left = [row for row in table.rows.values() if not row.done]
            # They are the other's still, also after the end of this one.
            assert {(row.attempts, row.leased_until) for row in left} == {
                (0, table.now + LEASE_SECONDS)
            }
            assert len(receiver.received) == PER_DESTINATION
    said = [line for line in lines.json() if line["message"] == "deliveries.leases_lost"]
    assert [line["count"] for line in said] == [2]


async def test_at_the_end_what_is_under_way_may_end(table: Table) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_request: web.Request) -> web.Response:
        arrived.set()
        await go_on.wait()
        return web.Response()

    async with receiving() as receiver:
        receiver.script.append(slow)
        (row,) = await table.add(to(receiver))
        async with working(table) as worker:
            await arrived.wait()
            closing = asyncio.create_task(worker.close())
            (later,) = await table.add(to(receiver))
            worker.wake()
            go_on.set()
            await closing
            assert table.rows[row].done
            assert table.rows[later].attempts == 0
            assert len(receiver.received) == 1
            assert "closed" in repr(worker)


async def test_at_the_end_what_takes_too_long_or_waits_is_given_back(table: Table) -> None:
    async def never(_request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    async with receiving() as receiver:
        receiver.script += [never] * PER_DESTINATION
        ids = await table.add(*[to(receiver)] * 7)
        async with working(table, grace=0) as worker:
            await receiver.got(PER_DESTINATION)
            assert "sending=4 waiting=3" in repr(worker)
    rows = [table.rows[each] for each in ids]
    assert {row.error for row in rows} == {"interrupted: the gateway was stopped"}
    assert {(row.next_at, row.leased_until) for row in rows} == {(START, 0.0)}


async def test_a_worker_that_never_started_closes(table: Table) -> None:
    worker = DeliveryWorker(
        table, Sender(nowhere, TLS), {}, wall=float, random=float, log=structlog.get_logger()
    )
    await worker.close()
    assert repr(worker) == ("<DeliveryWorker closed <Destinations sending=0 waiting=0 silent=0>>")


# --- forwarding


async def test_an_answer_is_forwarded_to_the_service(table: Table) -> None:
    settings = ForwardSettings("hitl", "PUT", "/approvals/{question_id}/{decision}")
    async with receiving() as receiver:
        endpoint = EndpointUrl("http", "127.0.0.1", receiver.port)
        forward = ForwardRequests(settings, [endpoint], lambda _wall: "request-1")
        (row,) = await table.add(delivery("forward", response=False))
        async with working(table, requests={"forward": forward}):
            await table.until(lambda: table.rows[row].done)
    (request,) = receiver.received
    assert (request.method, request.target) == ("PUT", "/approvals/q-1/reject")
    assert request.headers["idempotency-key"] == row
    assert request.headers["x-request-id"] == "request-1"
    assert "webhook-signature" not in request.headers


async def test_what_cannot_be_forwarded_is_dropped_at_once(table: Table) -> None:
    settings = ForwardSettings("hitl", "PUT", "/approvals/{question_id}/{decision}")
    forward = ForwardRequests(settings, [EndpointUrl("http", "h", 80)], str)
    (row,) = await table.add(delivery("forward", response="on Tuesdays"))
    async with working(table, requests={"forward": forward}):
        await table.until(lambda: table.rows[row].next_at is None)
    assert table.rows[row].error == "the answer neither approves nor rejects"


async def test_a_kind_that_is_not_configured_any_more_waits_until_it_is(table: Table) -> None:
    async with receiving() as receiver, working(table) as worker:
        (row,) = await table.add(delivery("forward"))
        await table.tried(row, 1)
        assert table.rows[row].error == "not configured any more"
        endpoint = EndpointUrl("http", "127.0.0.1", receiver.port)
        settings = ForwardSettings("hitl", "POST", "/answers")
        worker.requests = {"forward": ForwardRequests(settings, [endpoint], str)}
        table.now += 5
        worker.wake()
        await table.until(lambda: table.rows[row].done)
