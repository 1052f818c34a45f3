"""The worker in trouble: receivers that do not answer, a database that is away, and mistakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from gateway.callbacks.address import Allowed
from gateway.callbacks.callback import CallbackRequests
from gateway.callbacks.delivering import RENEW_SECONDS
from gateway.callbacks.destinations import AT_ONCE, PER_DESTINATION
from gateway.callbacks.retries import DAY_SECONDS
from gateway.callbacks.sending import Outgoing
from gateway.store.deliveries import LEASE_SECONDS, Delivery
from tests.callbacks.receiver import Receiver, receiving, silence
from tests.callbacks.rows import delivery
from tests.callbacks.working import KEY, SECRET, START, Table, a_table, working
from tests.observe.test_log import logged


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[Table]:
    async with a_table(tmp_path) as table:
        yield table


def to(receiver: Receiver, path: str = "/hook") -> Delivery:
    return delivery(target=receiver.url(path))


# --- one receiver and the others


def silent(port: int) -> Delivery:
    return delivery(target=f"http://127.0.0.1:{port}/")


async def test_a_dead_receiver_with_many_rows_does_not_hold_up_others(table: Table) -> None:
    with silence() as port:
        async with receiving() as receiver, working(table, grace=0) as worker:
            dead = await table.add(*[silent(port)] * 200)
            table.now += 1
            (row,) = await table.add(to(receiver))
            worker.wake()
            await table.until(lambda: table.rows[row].done)
            assert all(table.rows[each].attempts == 0 for each in dead)
            assert f"sending={PER_DESTINATION} " in repr(worker)


async def test_rows_of_a_receiver_that_does_not_answer_make_room_untried(table: Table) -> None:
    with silence() as port:
        async with receiving() as receiver:
            dead = await table.add(*[silent(port)] * 400)
            table.now += 1
            (row,) = await table.add(to(receiver))
            # So long the one who answers has, also on a busy machine.
            async with working(table, seconds=1.0):
                await table.until(lambda: table.rows[row].done)
                await table.until(lambda: all(table.rows[each].attempts == 1 for each in dead))
    errors = {table.rows[each].error for each in dead}
    assert errors == {
        "no answer in time",
        "not tried: the destination did not answer shortly before",
    }
    assert {table.rows[each].next_at for each in dead} == {START + 1 + 5}


async def test_a_row_put_off_when_its_day_is_over_is_still_tried_once_more(table: Table) -> None:
    with silence() as port:
        async with working(table, seconds=0.05, grace=0) as worker:
            ids = await table.add(*[silent(port)] * 10)
            table.now += DAY_SECONDS
            worker.wake()
            await table.until(lambda: all(table.rows[each].attempts == 1 for each in ids))
    assert {table.rows[each].next_at for each in ids} == {None, table.now + 60}


async def test_no_more_are_under_way_than_the_bound(table: Table) -> None:
    most, under_way = 0, 0
    go_on = asyncio.Event()

    async def slow(_request: web.Request) -> web.Response:
        nonlocal most, under_way
        under_way += 1
        most = max(most, under_way)
        if most == AT_ONCE:
            go_on.set()
        await go_on.wait()
        under_way -= 1
        return web.Response()

    async with receiving() as receiver:
        receiver.script += [slow] * 60
        urls = [receiver.url(host=f"h{index % 10}.example") for index in range(60)]
        ids = await table.add(*(delivery(target=url) for url in urls))

        async def here(_host: str, _port: int) -> list[str]:
            return ["127.0.0.1"]

        async with working(table, resolve=here):
            await table.until(lambda: all(table.rows[each].done for each in ids))
    assert most == AT_ONCE


# --- trouble of our own


async def test_a_database_that_is_away_is_said_once_and_asked_again(table: Table) -> None:
    with logged() as lines:
        async with receiving() as receiver, working(table) as worker:
            await table.was_asked(1)
            table.away = True
            for count in (2, 3, 4):
                worker.wake()
                await table.was_asked(count)
            assert "away" in repr(worker)
            table.away = False
            (row,) = await table.add(to(receiver))
            worker.wake()
            await table.until(lambda: table.rows[row].done)
            assert "open" in repr(worker)
    said = [line["message"] for line in lines.json()]
    assert said.count("deliveries.store_away") == 1
    assert "s3cret" not in lines.text


async def test_while_the_database_is_away_nothing_is_begun_that_waits(table: Table) -> None:
    async def then_away(_request: web.Request) -> web.Response:
        table.away = True
        table.now += RENEW_SECONDS
        return web.Response()

    async with receiving() as receiver:
        receiver.script += [then_away]
        ids = await table.add(*[to(receiver)] * (PER_DESTINATION + 1))
        async with working(table) as worker:
            await table.was_asked(2)
            assert "waiting=0" in repr(worker)
            assert len(receiver.received) <= PER_DESTINATION
            table.away = False
            table.now += LEASE_SECONDS
            worker.wake()
            await table.until(lambda: all(table.rows[each].done for each in ids))


async def test_a_delivery_that_cannot_be_written_down_is_sent_again_with_its_id(
    table: Table,
) -> None:
    async def then_away(_request: web.Request) -> web.Response:
        table.away = True
        return web.Response()

    with logged() as lines:
        async with receiving() as receiver:
            receiver.script.append(then_away)
            (row,) = await table.add(to(receiver))
            async with working(table):
                await receiver.got(1)
            table.away = False
            table.now += LEASE_SECONDS
            async with working(table):
                await table.until(lambda: table.rows[row].done)
    assert "deliveries.not_recorded" in lines.text
    first, second = (request.headers["webhook-id"] for request in receiver.received)
    assert first == second


class _Broken(CallbackRequests):
    def request(self, delivery: Delivery, wall_seconds: float) -> Outgoing:
        raise KeyError("a bug")


async def test_a_mistake_in_making_a_request_is_logged_and_tried_again(table: Table) -> None:
    with logged() as lines:
        (row,) = await table.add(delivery())
        async with working(table, requests={"callback": _Broken([KEY], Allowed())}):
            await table.tried(row, 1)
    assert (table.rows[row].error, table.rows[row].next_at) == ("internal error", START + 5)
    assert "delivery.bug" in lines.text


async def test_no_secret_is_in_a_log_line_or_in_a_row(table: Table) -> None:
    with logged("debug") as lines:
        async with receiving() as receiver, working(table):
            receiver.script += [200, 500, 410, 302]
            ids = await table.add(
                *[to(receiver, "/s3cret?token=s3cret")] * 4,
                *(
                    delivery(target=url, response="s3cret", comment="s3cret")
                    for url in (
                        "http://10.0.0.1/s3cret",
                        "https://nowhere.example/s3cret?x=s3cret",
                        f"https://127.0.0.1:{receiver.port}/s3cret",
                        "http://127.0.0.1:1/s3cret",
                        "http://user:s3cret@127.0.0.1/",
                    )
                ),
            )
            rows = table.rows
            await table.until(lambda: all(rows[each].attempts for each in ids))
    shown = f"{lines.text} {[rows[each] for each in ids]}"
    assert "delivery.done" in shown
    assert "delivery.failed" in shown
    assert "delivery.given_up" in shown
    assert "s3cret" not in shown
    assert SECRET not in shown
    assert "v1," not in shown


async def test_a_log_line_says_which_delivery_went_where(table: Table) -> None:
    with logged() as lines:
        async with receiving() as receiver, working(table):
            receiver.script.append(500)
            (row,) = await table.add(to(receiver))
            await table.tried(row, 1)
    (line,) = (line for line in lines.json() if line["message"] == "delivery.failed")
    del line["timestamp"]
    assert line == {
        "level": "warning",
        "message": "delivery.failed",
        "logger": "gateway.callbacks",
        "kind": "callback",
        "delivery_id": row,
        "question_id": "q-1",
        "destination": f"127.0.0.1:{receiver.port}",
        "attempt": 1,
        "error": "answered 500",
        "detail": "",
        "next_in_seconds": 5.0,
    }


class _Misplaced(CallbackRequests):
    def destination(self, delivery: Delivery) -> str:
        raise KeyError("a bug")


async def test_a_mistake_in_the_worker_does_not_end_it(table: Table) -> None:
    with logged() as lines:
        async with receiving() as receiver:
            (row,) = await table.add(to(receiver))
            requests = {"callback": _Misplaced([KEY], Allowed())}
            async with working(table, requests=requests) as worker:
                await table.until(lambda: table.rows[row].leased_until > 0)
                worker.requests = {"callback": CallbackRequests([KEY], Allowed(["127.0.0.1"]))}
                table.now = table.rows[row].leased_until
                worker.wake()
                await table.until(lambda: table.rows[row].done)
    assert "deliveries.bug" in lines.text


async def test_what_is_leased_while_it_closes_is_given_back(table: Table) -> None:
    async with receiving() as receiver:
        (row,) = await table.add(to(receiver))
        async with working(table) as worker:
            table.open.clear()
            await table.until(lambda: table.rows[row].leased_until > 0)
            closing = asyncio.create_task(worker.close())
            await asyncio.sleep(0)  # it has begun
            table.open.set()
            await closing
            assert receiver.received == []
    assert (table.rows[row].error, table.rows[row].leased_until) == (
        "interrupted: the gateway was stopped",
        0.0,
    )
