"""Questions as a whole, over a real store: the order of the checks, telling, waiting, lists."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.policy.auth import Identity
from gateway.store.database import FILE_NAME
from sse.event import BackplaneAwayError, NewEvent, Refused
from tests.asking import ASKER, KEYLESS, WORKER, Board, Clock, Place, Room, room, someone
from tests.connection import eventually
from tests.sse.questioning import ALICE, BOB, answer, asked, code, open_for

URL = "https://example.test/hook"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(None, tmp_path)


@pytest.fixture
async def here(place: Place) -> AsyncIterator[Room]:
    """A gateway."""
    async with room(place, Clock()) as made:
        yield made


# Telling


async def test_what_is_asked_and_decided_is_told_to_every_client_id(here: Room) -> None:
    question_id = await asked(here, client_ids=["alice", "bob"])
    told = await answer(here, question_id)
    await here.settle()
    for client_id in ("alice", "bob"):
        first, last = here.board.events[client_id]
        assert first.event_type == "question"
        assert json.loads(first.data)["question_id"] == question_id
        assert (last.event_type, json.loads(last.data)) == ("question.resolved", told)


async def test_who_reads_is_noted_as_delivered_to(here: Room) -> None:
    here.board.reading["alice"] = ["alice", None, "alice"]
    question_id = await asked(here)
    await here.settle()
    here.questions.resent(question_id, "alice", "bob")
    here.questions.resent(question_id, "alice", "bob")
    await here.settle()
    trail = json.loads(await here.questions.get(ASKER, question_id))["audit"]
    assert [(each["what"], each["who"], each["detail"]) for each in trail] == [
        ("asked", "svc", None),
        ("delivered", "alice", "alice"),
        ("delivered", "anonymous", "alice"),
        ("delivered", "bob", "alice"),
    ]


async def test_a_withdrawal_and_an_expiry_are_told_too(here: Room) -> None:
    gone, over = await asked(here), await asked(here, expires_in=1)
    await here.questions.withdraw(ASKER, gone)
    await here.questions.withdraw(ASKER, gone)
    here.clock.now += 1
    assert await here.questions.sweep() <= 1
    await here.settle()
    told = [json.loads(each.data) for each in here.board.events["alice"][2:]]
    assert [(each["question_id"], each["status"], each["response"]) for each in told] == [
        (gone, "withdrawn", None),
        (over, "expired", None),
    ]


async def test_a_reminder_is_an_event_of_its_own_before_the_expiry(here: Room) -> None:
    question_id = await asked(here, expires_in=100, reminders=[40])
    assert await here.questions.sweep() == 1.0
    here.clock.now += 59.5
    assert await here.questions.sweep() == pytest.approx(0.5, abs=0.01)
    here.clock.now += 0.5
    await here.questions.sweep()
    await here.settle()
    await here.questions.sweep()
    await here.settle()
    assert here.board.types("alice") == ["question", "question.reminder"]
    data = json.loads(here.board.events["alice"][1].data)
    assert (data["question_id"], data["seconds_left"]) == (question_id, 40.0)
    trail = json.loads(await here.questions.get(ASKER, question_id))["audit"]
    assert [each["what"] for each in trail] == ["asked", "reminded"]


async def test_what_could_not_be_published_is_when_it_can(here: Room) -> None:
    here.board.failing = BackplaneAwayError()
    question_id, done = await asked(here), await asked(here)
    await answer(here, done)
    await here.settle()
    assert here.board.events == {}
    here.clock.now += 5
    await here.questions.sweep()
    await here.settle()
    assert here.board.events == {}
    here.board.failing = None
    here.clock.now += 10
    await here.questions.sweep()
    await here.settle()
    told = [(each.event_type, json.loads(each.data)["question_id"])
            for each in here.board.events["alice"]]  # fmt: skip
    assert sorted(told) == [("question", question_id), ("question.resolved", done)]
    here.clock.now += 1000
    await here.questions.sweep()
    await here.settle()
    assert len(here.board.events["alice"]) == 2


async def test_what_a_gateway_kept_and_died_over_another_publishes(place: Place) -> None:
    clock, dead, alive = Clock(), Board(), Board()
    dead.failing = BackplaneAwayError()
    async with room(place, clock, dead) as one:
        question_id = await asked(one)
    async with room(place, clock, alive) as two:
        clock.now += 5
        await two.questions.start()
        await two.settle()
        assert alive.types("alice") == ["question"]
        assert json.loads(alive.events["alice"][0].data)["question_id"] == question_id


async def test_expiries_that_passed_while_no_gateway_ran_are_decided_at_the_start(
    place: Place,
) -> None:
    clock = Clock()
    async with room(place, clock) as one:
        plain = await asked(one, expires_in=1)
        default = await asked(one, expires_in=1, default="late")
    clock.now += 3600
    async with room(place, clock) as two:
        await two.questions.start()
        assert two.questions.open_count == 0
        shown = [json.loads(await two.questions.get(ASKER, each)) for each in (plain, default)]
        assert [each["status"] for each in shown] == ["expired", "answered"]
        assert shown[1]["answer"]["answered_by"] == "default"
        await two.settle()
        assert two.board.types("alice").count("question.resolved") == 2


async def test_a_decision_that_is_to_be_sent_is_announced(place: Place) -> None:
    due: list[int] = []
    async with room(place, Clock(), due=lambda: due.append(1)) as here:
        await answer(here, await asked(here, callback_url=URL))
        await here.questions.withdraw(ASKER, await asked(here, callback_url=URL))
        assert len(due) == 2
        await here.questions.withdraw(ASKER, await asked(here))
        assert len(due) == 2


# Order of checks


async def test_the_order_of_the_checks_on_the_questions_path(here: Room) -> None:
    question_id = await asked(here, approvers=["alice"], client_ids=["alice", "carol"])
    carol = someone("carol")
    bad = b"{"
    # Who may not see it learns nothing, whatever he sends.
    assert await code(answer(here, question_id, BOB, bad)) == "NOT_FOUND"
    assert await code(answer(here, "unknown", BOB, bad)) == "NOT_FOUND"
    # Who may not answer it, nothing of its state.
    assert await code(answer(here, question_id, carol, bad, key=b"")) == "FORBIDDEN"
    assert await code(answer(here, question_id, ALICE, bad, key=b"")) == "BAD_REQUEST"
    assert await code(answer(here, question_id, ALICE, {}, key=b"")) == "BAD_REQUEST"
    assert await code(answer(here, question_id, ALICE, {})) == "UNPROCESSABLE"
    await answer(here, question_id, ALICE, {"response": 1}, b"k")
    # A key that is known comes before the state, and what is wrong with an answer after it.
    assert (await answer(here, question_id, ALICE, {"response": 1}, b"k"))["response"] == 1
    assert await code(answer(here, question_id, ALICE, {"x": 1}, b"k")) == "UNPROCESSABLE"
    assert await code(answer(here, question_id, ALICE, {"x": 1})) == "CONFLICT"
    assert await code(answer(here, question_id, ALICE, bad)) == "BAD_REQUEST"
    assert await code(answer(here, question_id, carol, bad)) == "FORBIDDEN"


async def test_the_order_of_the_checks_on_a_client_ids_path(here: Room) -> None:
    question_id = await asked(here, approvers=["alice"], client_ids=["alice"])
    named = {"question_id": question_id, "response": 1}
    assert await code(answer(here, "", BOB, b"{", client_id="alice")) == "NOT_FOUND"
    assert await code(answer(here, "", ALICE, b"{", client_id="alice")) == "BAD_REQUEST"
    assert await code(answer(here, "", ALICE, {}, client_id="alice")) == "UNPROCESSABLE"
    both = someone("alice", client_ids=["bob"])
    assert await code(answer(here, "", both, named, client_id="bob")) == "NOT_FOUND"
    reader = someone("carol", client_ids=["alice"])
    assert await code(answer(here, "", reader, named, client_id="alice")) == "FORBIDDEN"
    assert (await answer(here, "", ALICE, named, client_id="alice"))["status"] == "answered"


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, "../../etc", "\u00e4", "%"])
async def test_what_can_be_no_id_is_unknown(here: Room, name: str) -> None:
    for work in (
        answer(here, name),
        here.questions.get(KEYLESS, name),
        here.questions.withdraw(KEYLESS, name),
        here.questions.wait(KEYLESS, name, 0),
    ):
        assert await code(work) == "NOT_FOUND"


async def test_tries_that_were_refused_are_kept_before_they_are_told(here: Room) -> None:
    question_id = await asked(here, approvers=["alice"])
    carol = someone("carol", client_ids=["alice"])
    for _ in range(2):
        assert await code(answer(here, question_id, carol)) == "FORBIDDEN"
        assert await code(answer(here, question_id, BOB)) == "NOT_FOUND"
    trail = json.loads(await here.questions.get(ASKER, question_id))["audit"]
    assert [(each["what"], each["who"], each["detail"]) for each in trail[1:]] == [
        ("refused", "carol", "FORBIDDEN"),
        ("refused", "bob", "NOT_FOUND"),
    ]


async def test_asking_the_same_again_shows_it_to_who_may_see_it(here: Room) -> None:
    body = {"client_ids": ["alice"], "prompt": "x", "question_id": "mine"}
    first, is_new = await here.questions.ask(ASKER, body)
    assert is_new
    again, is_new = await here.questions.ask(ASKER, body)
    assert (again, is_new) == (first, False)
    other = someone("svc2", "questions:ask")
    assert await code(here.questions.ask(other, body)) == "CONFLICT"
    assert await code(here.questions.ask(ASKER, body | {"prompt": "y"})) == "CONFLICT"
    await answer(here, "mine")
    again, is_new = await here.questions.ask(ASKER, body)
    assert json.loads(again.data)["answer"]["response"] == 1
    await here.settle()
    assert here.board.types("alice") == ["question", "question.resolved"]


# Publishing lists


def event(data: object, event_type: str = "question") -> NewEvent:
    return NewEvent(event_type, json.dumps(data).encode())


async def test_a_list_is_published_in_its_order_with_its_questions_whole(here: Room) -> None:
    events = [event(1, "note"), event({"prompt": "x", "client_ids": ["bob", "alice"]}),
              event({"prompt": "y"})]  # fmt: skip
    done = await here.questions.publish_list(ASKER, "alice", events)
    assert done.ids == ["abcdefgh-1", "abcdefgh-2", "abcdefgh-3"]
    await here.settle()
    assert here.board.types("alice") == ["note", "question", "question"]
    assert here.board.types("bob") == ["question"]
    shown = json.loads(here.board.events["alice"][1].data)
    assert shown == json.loads(here.board.events["bob"][0].data)
    assert (shown["status"], shown["asked_by"]) == ("open", "svc")
    assert await open_for(here, "alice") == [(shown["question_id"], "abcdefgh-2"), (
        json.loads(here.board.events["alice"][2].data)["question_id"], "abcdefgh-3")]  # fmt: skip


@pytest.mark.parametrize(("bad", "pointer"), [({"prompt": 7}, "/1/data/prompt"), (None, "/1/data")])
async def test_a_list_with_a_bad_question_is_refused_whole(
    here: Room, bad: object, pointer: str
) -> None:
    events = [event({"prompt": "x"}), event(bad)]
    with pytest.raises(Refused) as caught:
        await here.questions.publish_list(ASKER, "alice", events)
    assert [at for at, _ in caught.value.details] == [pointer]
    assert json.loads(await here.questions.list(KEYLESS))["questions"] == []
    with pytest.raises(Refused) as caught:
        await here.questions.publish_list(ASKER, "alice", events[1:], listed=False)
    assert caught.value.details[0][0] == pointer.removeprefix("/1")


async def test_a_list_whose_publication_fails_asks_nothing(here: Room) -> None:
    here.board.failing = BackplaneAwayError()
    events = [event({"prompt": "x", "question_id": "mine"})]
    work = here.questions.publish_list(ASKER, "alice", events)
    assert await code(work) == "SERVICE_UNAVAILABLE"
    assert json.loads(await here.questions.list(KEYLESS))["questions"] == []
    assert here.questions.open_count == 0
    assert await code(answer(here, "mine")) == "NOT_FOUND"
    here.board.failing = None
    await here.questions.publish_list(ASKER, "alice", events)
    assert (await answer(here, "mine"))["status"] == "answered"


async def test_a_list_with_an_id_that_exists_is_refused(here: Room) -> None:
    body = {"prompt": "x", "question_id": "mine"}
    await here.questions.publish_list(ASKER, "alice", [event(body)])
    work = here.questions.publish_list(ASKER, "alice", [event(body)])
    assert await code(work) == "CONFLICT"


# Waiting


async def test_all_who_wait_learn_the_decision(here: Room) -> None:
    question_id = await asked(here)
    waiting = [asyncio.create_task(here.questions.wait(ALICE, question_id, 60)) for _ in range(200)]
    await eventually(lambda: here.questions.waiting == 200)
    await answer(here, question_id)
    done = await asyncio.gather(*waiting)
    assert len(set(done)) == 1
    body, ended = done[0]
    assert ended
    assert json.loads(body)["answer"]["response"] == 1
    assert here.questions.waiting == 0
    assert (await here.questions.wait(ALICE, question_id, 60))[1]


async def test_what_another_gateway_decided_wakes_who_waits_here(place: Place) -> None:
    clock = Clock()
    async with room(place, clock) as one, room(place, clock) as two:
        question_id = await asked(one)
        waiting = asyncio.create_task(two.questions.wait(ALICE, question_id, 60))
        await eventually(lambda: two.questions.waiting == 1)
        await answer(one, question_id)
        await two.questions.sweep()
        body, ended = await waiting
        assert ended
        assert json.loads(body)["answer"]["answered_by"] == "alice"


async def test_waiting_ends_with_its_time_and_with_its_caller(here: Room) -> None:
    question_id = await asked(here)
    body, ended = await here.questions.wait(ALICE, question_id, 0)
    assert (json.loads(body)["status"], ended) == ("open", False)
    assert not (await here.questions.wait(ALICE, question_id, 0.01))[1]
    gone = asyncio.create_task(here.questions.wait(ALICE, question_id, 60))
    await eventually(lambda: here.questions.waiting == 1)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert here.questions.waiting == 0


async def test_a_drain_lets_all_who_wait_go(here: Room) -> None:
    question_id = await asked(here)
    waiting = asyncio.create_task(here.questions.wait(ALICE, question_id, 60))
    await eventually(lambda: here.questions.waiting == 1)
    await asyncio.sleep(0)
    here.questions.drain()
    assert not (await waiting)[1]


@pytest.mark.parametrize("seconds", [-1, 300.1, float("nan"), float("inf")])
async def test_nobody_waits_for_ever(here: Room, seconds: float) -> None:
    question_id = await asked(here)
    assert await code(here.questions.wait(ALICE, question_id, seconds)) == "BAD_REQUEST"


async def test_a_database_that_is_slow_is_a_time_out(place: Place, tmp_path: Path) -> None:
    clock = Clock()
    async with room(place, clock) as patient, room(place, clock, patience_seconds=0.05) as here:
        question_id = await asked(patient)
        await patient.settle()
        other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert await code(answer(here, question_id, key=b"k")) == "TIMEOUT"
        other.execute("ROLLBACK")
        other.close()
        told = await answer(patient, question_id, key=b"k")
        assert told["status"] == "answered"


# Lists


async def ids(here: Room, caller: Identity, **options: Any) -> list[str]:
    page = json.loads(await here.questions.list(caller, **options))
    return [each["question_id"] for each in page["questions"]]


async def test_an_inbox_has_what_is_for_its_reader_and_pages(here: Room) -> None:
    mine = [await asked(here) for _ in range(5)]
    theirs = await asked(here, client_ids=["bob"], approvers=["carol"])
    newest = [theirs, *reversed(mine)]
    assert await ids(here, KEYLESS) == newest
    assert await ids(here, ASKER) == newest
    assert await ids(here, ALICE) == newest[1:]
    assert await ids(here, someone("carol")) == [theirs]
    assert await ids(here, someone("dave")) == []
    assert await ids(here, KEYLESS, assignee="me") == newest[1:]
    assert await ids(here, KEYLESS, assignee="carol") == [theirs]
    assert await ids(here, KEYLESS, assignee="bob") == []
    assert await ids(here, ALICE, client_id="alice") == newest[1:]
    first = json.loads(await here.questions.list(ALICE, page_size=3))
    token = first["next_page_token"]
    second = json.loads(await here.questions.list(ALICE, page_size=3, page_token=token))
    shown = [each["question_id"] for each in first["questions"] + second["questions"]]
    assert shown == newest[1:]
    assert second["next_page_token"] is None
    assert first["questions"][0]["answer"] is None


@pytest.mark.parametrize(
    "options",
    [
        {"status": "all"},
        {"page_size": 0},
        {"page_size": 201},
        {"page_token": "x"},
        {"page_token": "%"},
        {"page_token": "W10="},
        {"page_token": "WzEsIDJd"},
        {"page_token": "x" * 5000},
        {"page_token": "\u00e4"},
    ],
)
async def test_a_list_that_can_not_be_is_no_request(here: Room, options: Any) -> None:
    assert await code(here.questions.list(KEYLESS, **options)) == "BAD_REQUEST"


async def test_another_ones_client_id_is_unknown(here: Room) -> None:
    assert await code(here.questions.list(BOB, client_id="alice")) == "NOT_FOUND"


async def test_looking_is_noted_for_others_than_the_asker(here: Room) -> None:
    question_id = await asked(here)
    await here.questions.get(ASKER, question_id)
    await here.questions.list(ALICE)
    await here.questions.get(ALICE, question_id)
    await here.settle()
    trail = json.loads(await here.questions.get(ASKER, question_id))["audit"]
    assert [(each["what"], each["who"]) for each in trail] == [("asked", "svc"), ("seen", "alice")]


async def test_the_number_of_open_ones_is_kept(here: Room) -> None:
    one, _ = await asked(here), await asked(here)
    assert here.questions.open_count == 2
    await answer(here, one)
    assert here.questions.open_count == 1
    await here.questions.start()
    assert here.questions.open_count == 1
    assert "open=1" in repr(here.questions)


async def test_every_end_of_a_jobs_question_is_to_be_sent(place: Place) -> None:
    due: list[int] = []
    clock = Clock()
    async with room(place, clock, due=lambda: due.append(1)) as here:
        members = {"job": "a-1", "asked_by": "ann"}
        await answer(here, await asked(here, WORKER, **members))
        assert len(due) == 1
        await here.questions.withdraw(WORKER, await asked(here, WORKER, **members))
        assert len(due) == 2
        await asked(here, WORKER, expires_in=1, **members)
        clock.now += 2
        await here.questions.sweep()
        assert len(due) == 3
        await here.questions.withdraw(ASKER, await asked(here))
        assert len(due) == 3


async def test_a_worker_that_asks_again_gets_the_same_question_and_leaves_no_look(
    here: Room,
) -> None:
    members = {"question_id": "q-9", "job": "a-1", "asked_by": "ann", "prompt": "Deploy?"}
    body = {"client_ids": ["alice"]} | members
    first, is_new = await here.questions.ask(WORKER, body)
    again, is_new_again = await here.questions.ask(WORKER, body)
    assert (first, is_new, is_new_again) == (again, True, False)
    found = json.loads(await here.questions.get(WORKER, "q-9"))
    assert (found["job"], found["asked_by"]) == ("a-1", "ann")
    await here.settle()
    found = json.loads(await here.questions.get(WORKER, "q-9"))
    assert [each["what"] for each in found["audit"]] == ["asked"]
