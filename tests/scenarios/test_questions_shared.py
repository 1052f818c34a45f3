"""Questions over two gateways on one database and one Redis: one truth, one winner, told once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.postgres_server import PostgresServer, postgres_server
from tests.questions import (
    QUESTIONS,
    answer,
    asked,
    asks,
    fetch,
    listed,
    look,
    question,
    recorded,
    resolved,
    withdraw,
)
from tests.redis_server import redis_server
from tests.streams import event, publish, quiet, subscribe
from tests.wire import RunningGateway, start_gateway

Two = tuple[RunningGateway, RunningGateway]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A server for all tests here."""
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
async def two(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Two]:
    """Two gateways that share everything."""
    url = f"sqlite:///{tmp_path}/questions.db"
    if request.param == "postgresql":
        url = await request.getfixturevalue("postgres").database()
    async with redis_server() as redis, contextlib.AsyncExitStack() as stack:
        shared = {"REDIS_URL": redis.url, "DATABASE_URL": url}
        here = await stack.enter_async_context(start_gateway(**shared))
        there = await stack.enter_async_context(start_gateway(**shared))
        yield here, there


async def test_a_question_asked_here_is_seen_listed_and_answered_there(two: Two) -> None:
    here, there = two
    async with subscribe(there) as live:
        found = await asked(here, options=["yes", "no"])
        got = await live.event()
        assert (got.type, got.data) == ("question", found)
        assert await listed(there) == [found["question_id"]]
        async with subscribe(there) as late:
            again = await late.event()
            assert (again.type, again.id, again.data) == ("question", None, found)
        document = recorded(await answer(there, found["question_id"], "yes"))
        assert (await resolved(live)).data == document
        assert (await look(here, found["question_id"]))["answer"]["response"] == "yes"


async def test_of_answers_at_both_gateways_one_wins_and_it_is_told_once(two: Two) -> None:
    here, there = two
    async with subscribe(here) as one, subscribe(there) as other:
        for _ in range(5):
            found = await asked(here)
            for stream in (one, other):
                assert (await stream.event()).type == "question"
            responses = await asyncio.gather(
                *(answer((here, there)[n % 2], found["question_id"], n) for n in range(20))
            )
            assert sorted(each.status for each in responses) == [200] + [409] * 19
            [winner] = [each for each in responses if each.status == 200]
            for stream in (one, other):
                assert (await resolved(stream)).data == winner.json()
        assert await quiet(one, here, "alice") == []
        assert [each.type for each in await other.until("test.mark")] == ["test.mark"]


async def test_a_waiter_there_learns_of_an_answer_here(two: Two) -> None:
    here, there = two
    found = await asked(here)
    path = f"{QUESTIONS}/{found['question_id']}/wait?timeout=30"
    waiting = [asyncio.create_task(fetch(there, path)) for _ in range(5)]
    recorded(await answer(here, found["question_id"], "yes"))
    for response in await asyncio.gather(*waiting):
        assert response.status == 200
        assert response.json()["status"] == "answered"


async def test_an_expiry_is_decided_once(two: Two) -> None:
    here, there = two
    async with subscribe(here) as one, subscribe(there) as other:
        found = await asked(here, expires_in=1, default="late")
        for stream in (one, other):
            assert (await stream.event()).data == found
            got = await resolved(stream)
            assert (got.data["answered_by"], got.data["response"]) == ("default", "late")
        assert await quiet(one, there, "alice") == []
        assert [each.type for each in await other.until("test.mark")] == ["test.mark"]


async def test_the_same_key_at_the_other_gateway_gets_the_first_answer(two: Two) -> None:
    here, there = two
    found = await asked(here)
    first = await answer(here, found["question_id"], "yes", key="k")
    again = await answer(there, found["question_id"], "yes", key="k")
    assert (again.status, again.body) == (200, first.body)
    assert again.get("idempotent-replayed") == b"true"


async def test_the_same_question_asked_at_both_is_asked_once(two: Two) -> None:
    here, there = two
    async with subscribe(here) as stream:
        body = question(question_id="q-1")
        responses = await asyncio.gather(*(asks((here, there)[n % 2], body) for n in range(6)))
        assert sorted(each.status for each in responses) == [200] * 5 + [201]
        assert [got.type for got in await quiet(stream, here, "alice")] == ["question"]


async def test_withdrawn_here_is_gone_there(two: Two) -> None:
    here, there = two
    found = await asked(here)
    assert (await withdraw(there, found["question_id"])).status == 200
    assert (await answer(here, found["question_id"])).status == 410


async def test_a_publication_with_its_key_is_published_once_whoever_is_asked(two: Two) -> None:
    here, there = two
    key = b"Idempotency-Key: k1"
    async with subscribe(there) as stream:
        first = await publish(here, "alice", event(1), key)
        again = await publish(there, "alice", event(1), key)
        assert (again.status, again.json()["ids"]) == (202, first.json()["ids"])
        other = await publish(there, "alice", event(2), key)
        assert other.status == 422
        assert [got.data for got in await quiet(stream, here, "alice")] == [1]
