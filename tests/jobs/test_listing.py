"""Lists of jobs, by a real Temporal's visibility store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from gateway.jobs.listing import newest, place_in
from gateway.jobs.refusals import JobRefusedError
from tests.jobs.desk import (
    ALICE,
    ORCHESTRATION,
    REQUEST,
    Desk,
    listed,
    refusal,
    tenant,
)


async def test_lists_are_filtered_by_status_and_type(room: Desk) -> None:
    mine = tenant("lists")
    whats: dict[str, Any] = {
        "completed": {"do": "complete"},
        "failed": {"do": "fail"},
        "timed_out": {"do": "fail", "code": "TIMED_OUT"},
        "waiting": {"do": "ask"},
        "running": {"do": "wait"},
        "cancelled": {"do": "wait"},
        "terminated": {"do": "wait"},
    }
    ids = {name: await room.started(what, caller=mine) for name, what in whats.items()}
    orchestration = await room.started({"do": "complete"}, ORCHESTRATION, caller=mine)
    await room.stands(ids["cancelled"], "running", mine)
    await room.jobs.cancel(mine, ids["cancelled"])
    await room.jobs.terminate(mine, ids["terminated"])
    for status, operation_id in ids.items():
        await room.stands(operation_id, status, mine)
        [found], token = await listed(room, 1, mine, status=status, kind=REQUEST)
        assert token is None
        assert found["operation_id"] == operation_id
        assert found["status"] == status
        assert found["workflow_type"] == REQUEST
        assert (found["ended_at"] is None) == (status in ("waiting", "running"))
        assert found["status_url"] == f"/api/v1/workflows/{operation_id}/status"
    [found], _ = await listed(room, 1, mine, kind=ORCHESTRATION)
    assert found["operation_id"] == orchestration
    every, _ = await listed(room, 8, mine)
    assert {each["operation_id"] for each in every} == {*ids.values(), orchestration}
    for name in ("waiting", "running"):
        await room.go(ids[name])


async def test_what_no_worker_has_taken_is_listed_as_pending(unmanned: Desk) -> None:
    mine = tenant("pending")
    operation_id = await unmanned.started(caller=mine)
    [found], _ = await listed(unmanned, 1, mine, status="pending")
    assert (found["operation_id"], found["status"]) == (operation_id, "pending")


async def test_lists_have_pages(room: Desk) -> None:
    mine = tenant("pages")
    ids = [await room.started(caller=mine) for _ in range(5)]
    await listed(room, 5, mine)
    for each in ids[::-1]:
        await room.ended(each, mine)
    await listed(room, 5, mine, status="completed")
    found, token, pages = [], None, 0
    while pages == 0 or token:
        page, token = await room.jobs.page(mine, page_size=2, page_token=token)
        found += [each["operation_id"] for each in page]
        pages += 1
    assert pages >= 3
    assert found == ids[::-1]


@pytest.mark.parametrize("token", ["x", "!", "ä", "AAAA", "e30", "x" * 3000])
async def test_a_token_that_no_list_gave_is_400(room: Desk, token: str) -> None:
    with pytest.raises(JobRefusedError) as caught:
        await room.jobs.page(ALICE, page_token=token)
    assert refusal(caught)[0] == "BAD_REQUEST"


@pytest.mark.parametrize(("status", "kind"), [("x' OR 'a'='a", None), (None, "x' OR 'a'='a")])
async def test_a_filter_that_there_is_none_of_is_422(
    room: Desk, status: str | None, kind: str | None
) -> None:
    with pytest.raises(JobRefusedError) as caught:
        await room.jobs.page(ALICE, status, kind)
    assert refusal(caught)[0] == "UNPROCESSABLE"


@dataclass(frozen=True)
class Entry:
    """A job in a store of a test."""

    id: str
    start_time: datetime


class Store:
    """Entries in an order that is not the start's, read as a list filter says."""

    def __init__(self, count: int, ticks: int) -> None:
        begin = datetime(2026, 11, 21, 14, tzinfo=UTC)
        self.entries = [
            Entry(f"{number:05}", begin + timedelta(microseconds=number // ticks))
            for number in range(count)
        ]
        Random(count).shuffle(self.entries)
        self.reads = 0

    async def read(self, query: str, count: int) -> tuple[list[Entry], bool]:
        """As Temporal does."""
        self.reads += 1
        bounds = re.findall(r"StartTime (<=|>=) '([^']+)'", query)
        found = self.entries
        for sign, text in bounds:
            at = datetime.fromisoformat(text)
            found = [
                each
                for each in found
                if (each.start_time <= at if sign == "<=" else each.start_time >= at)
            ]
        return found[:count], len(found) > count


@pytest.mark.parametrize("size", [1, 50, 200])
@pytest.mark.parametrize(("count", "ticks"), [(0, 1), (1, 1), (201, 1), (3000, 1), (3000, 3)])
async def test_the_newest_come_first_whatever_the_stores_order(
    size: int, count: int, ticks: int
) -> None:
    store = Store(count, ticks)
    found: list[str] = []
    place, pages = None, 0
    while pages == 0 or (place is not None and pages < 60):
        page, place = await newest(store.read, "x = 'y'", size, place)
        if place is not None:
            place = place_in(place.token())
        found += [each.id for each in page]
        pages += 1
    whole = [f"{number:05}" for number in range(count)][::-1]
    assert found == whole[: len(found)]
    assert len(found) == min(count, 60 * size)
    assert store.reads <= pages * 10
