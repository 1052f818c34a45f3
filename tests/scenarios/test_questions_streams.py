"""Questions on streams: sent again to who was away, never in the way of resuming."""

from __future__ import annotations

import asyncio

import pytest

from tests.questions import answer, asked, recorded, resolved, withdraw
from tests.streams import SECRET, event, publish_many, published, quiet, split_id, subscribe, who
from tests.wire import start_gateway

KEYED = {"JWT_SECRET": SECRET}


async def test_open_questions_are_sent_again_without_an_id_after_the_first_event() -> None:
    async with start_gateway() as gateway:
        one = await asked(gateway)
        two = await asked(gateway, client_ids=["alice", "bob"])
        await asked(gateway, client_ids=["bob"])
        for _ in range(2):  # also to one who saw them
            async with subscribe(gateway) as stream:
                got = await stream.events(2)
                assert {each.type for each in got} == {"question"}
                assert {each.id for each in got} == {None}
                shown = {each.data["question_id"]: each.data for each in got}
                assert shown == {one["question_id"]: one, two["question_id"]: two}
                assert await quiet(stream, gateway, "alice") == []


async def test_a_question_that_the_replay_holds_is_not_sent_twice() -> None:
    async with start_gateway() as gateway:
        [first] = await published(gateway, "alice", event())
        found = await asked(gateway)
        last = await publish_many(gateway, "alice", 2)
        async with subscribe(gateway, after=first) as stream:
            got = await stream.events(3)
            assert got[0].data == found
            assert got[0].id is not None
            assert [each.id for each in got[1:]] == last
            assert await quiet(stream, gateway, "alice") == []


async def test_a_question_before_the_position_is_sent_again_behind_the_replay() -> None:
    async with start_gateway() as gateway:
        found = await asked(gateway)
        ids = await publish_many(gateway, "alice", 4)
        async with subscribe(gateway, after=ids[1]) as stream:
            assert stream.established.data["resumed"] is True
            got = await stream.events(3)
            assert [each.id for each in got] == [ids[2], ids[3], None]
            assert got[2].data == found
            [live] = await published(gateway, "alice", event())
            assert (await stream.event()).id == live


async def test_the_order_on_connect_is_reset_replay_questions_live() -> None:
    async with start_gateway(HISTORY_EVENTS=3) as gateway:
        found = await asked(gateway)
        ids = await publish_many(gateway, "alice", 10)
        async with subscribe(gateway, after=ids[0]) as stream:
            got = await stream.events(5)
            assert [each.type for each in got] == ["stream.reset", *["note"] * 3, "question"]
            assert got[0].data["reason"] == "trimmed"
            assert [each.id for each in got[1:4]] == ids[7:]
            assert got[4].id is None
            assert got[4].data == found
            assert await quiet(stream, gateway, "alice") == []


async def test_earliest_holds_the_question_once() -> None:
    async with start_gateway() as gateway:
        await asked(gateway)
        async with subscribe(gateway, after="earliest") as stream:
            assert (await stream.event()).id is not None
            assert await quiet(stream, gateway, "alice") == []


async def test_what_is_decided_is_not_sent_again() -> None:
    async with start_gateway() as gateway:
        answered, gone = await asked(gateway), await asked(gateway)
        recorded(await answer(gateway, answered["question_id"]))
        await withdraw(gateway, gone["question_id"])
        async with subscribe(gateway) as stream:
            assert await quiet(stream, gateway, "alice") == []


async def test_the_decision_follows_a_question_that_was_sent_again() -> None:
    async with start_gateway() as gateway:
        found = await asked(gateway)
        async with subscribe(gateway) as stream:
            assert (await stream.event()).data == found
            document = recorded(await answer(gateway, found["question_id"]))
            got = await resolved(stream)
            assert got.data == document
            assert got.seq == 2


async def test_who_was_away_learns_the_decision_when_he_resumes() -> None:
    async with start_gateway() as gateway:
        async with subscribe(gateway) as stream:
            found = await asked(gateway)
            last = (await stream.event()).id
        document = recorded(await answer(gateway, found["question_id"]))
        async with subscribe(gateway, after=last) as stream:
            assert (await resolved(stream)).data == document


async def test_every_client_id_that_was_shown_it_learns_the_decision() -> None:
    async with (
        start_gateway() as gateway,
        subscribe(gateway, "alice") as one,
        subscribe(gateway, "bob") as two,
    ):
        found = await asked(gateway, client_ids=["alice", "bob", "carol"])
        document = recorded(await answer(gateway, found["question_id"], "yes", client_id="bob"))
        for stream in (one, two):
            assert (await stream.event()).type == "question"
            assert (await resolved(stream)).data == document
        async with subscribe(gateway, "carol", after="earliest") as stream:
            assert [each.type for each in await stream.events(2)] == [
                "question",
                "question.resolved",
            ]


@pytest.mark.parametrize(
    ("query", "seen"), [("types=question", True), ("types=question*", True), ("types=run.*", False)]
)
async def test_the_filter_holds_for_questions_sent_again(query: str, seen: bool) -> None:
    async with start_gateway() as gateway:
        found = await asked(gateway)
        async with subscribe(gateway, query=f"{query},test.mark") as stream:
            got = await quiet(stream, gateway, "alice")
            assert [each.data for each in got] == ([found] if seen else [])


async def test_many_open_questions_and_many_streams_that_come_at_once() -> None:
    async with start_gateway() as gateway:
        ids = {(await asked(gateway))["question_id"] for _ in range(30)}

        async def shown() -> set[str]:
            async with subscribe(gateway) as stream:
                got = await stream.events(30)
                return {each.data["question_id"] for each in got}

        for found in await asyncio.gather(*(shown() for _ in range(20))):
            assert found == ids


async def test_a_question_asked_while_a_stream_opens_is_not_missed() -> None:
    async with start_gateway() as gateway:
        for _ in range(15):
            asking = asyncio.create_task(asked(gateway))
            async with subscribe(gateway) as stream:
                found = await asking
                got = await quiet(stream, gateway, "alice")
                mine = [each for each in got if each.data["question_id"] == found["question_id"]]
                assert mine, "the question never came"
                assert len({each.id for each in mine if each.id}) == len(
                    [each for each in mine if each.id]
                )
            recorded(await answer(gateway, found["question_id"]))


async def test_questions_do_not_disturb_the_sequence() -> None:
    async with start_gateway() as gateway:
        found = await asked(gateway)
        async with subscribe(gateway) as stream:
            assert (await stream.event()).id is None
            ids = await publish_many(gateway, "alice", 3)
            assert [split_id(each)[1] for each in ids] == [2, 3, 4]
            assert [each.id for each in await stream.events(3)] == ids
        async with subscribe(gateway, after=ids[-1]) as stream:
            assert stream.established.data["resumed"] is True
            assert (await stream.event()).data == found


async def test_a_reader_gets_the_questions_of_his_client_id_only() -> None:
    async with start_gateway(**KEYED) as gateway:
        asker = who("svc", "questions:ask")
        found = await asked(gateway, asker, client_ids=["alice", "bob"])
        async with subscribe(gateway, "bob", who("bob")) as stream:
            assert (await stream.event()).data == found
        async with subscribe(gateway, "carol", who("carol")) as stream:
            writer = who("svc", "events:write")
            assert await quiet(stream, gateway, "carol", writer) == []
