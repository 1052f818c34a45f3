"""What becomes of a question: votes, withdrawal, expiry, waiting, lists, a restart."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.connection import PATIENCE_SECONDS
from tests.messages import Message
from tests.questions import (
    QUESTIONS,
    answer,
    asked,
    fetch,
    listed,
    look,
    question,
    recorded,
    resolved,
    what,
    withdraw,
)
from tests.streams import SECRET, Door, event, metric, published, quiet, refusal, subscribe, who
from tests.wire import eventually, holds, start_gateway

KEYED = {"JWT_SECRET": SECRET}
ASKER = who("svc", "questions:ask")
VOTES = {"status", "votes", "needed", "question_id"}


def missing(response: Message, votes: int, needed: int) -> None:
    """Holds the answer to a vote that does not decide yet."""
    assert response.status == 200, (response.start, response.body)
    document = response.json()
    assert set(document) >= VOTES
    assert (document["status"], document["votes"], document["needed"]) == ("open", votes, needed)


async def test_at_least_two_need_two_and_the_second_decides() -> None:
    async with start_gateway(**KEYED) as gateway, subscribe(gateway, "a", who("a")) as stream:
        found = await asked(gateway, ASKER, client_ids=["a", "b", "c"], policy={"at_least": 2})
        question_id = found["question_id"]
        missing(await answer(gateway, question_id, "yes", who("a")), 1, 2)
        assert (await look(gateway, question_id, who("b")))["status"] == "open"
        recorded(await answer(gateway, question_id, "yes", who("b")))
        response = await answer(gateway, question_id, "yes", who("c"))
        refusal(response, 409, "CONFLICT", extra=("answered_by", "answered_at", "response"))
        assert (await stream.event()).type == "question"
        assert (await resolved(stream)).data["status"] == "answered"
        assert len((await look(gateway, question_id, who("c")))["votes"]) == 2


async def test_all_need_every_approver() -> None:
    async with start_gateway(**KEYED) as gateway:
        names = ["a", "b", "c"]
        found = await asked(gateway, ASKER, client_ids=names, approvers=names, policy="all")
        question_id = found["question_id"]
        missing(await answer(gateway, question_id, "yes", who("b")), 1, 3)
        missing(await answer(gateway, question_id, "yes", who("a")), 2, 3)
        recorded(await answer(gateway, question_id, "yes", who("c")))


async def test_one_voter_is_one_vote() -> None:
    async with start_gateway(**KEYED) as gateway:
        found = await asked(gateway, ASKER, client_ids=["a", "b"], policy={"at_least": 2})
        question_id = found["question_id"]
        first = await answer(gateway, question_id, "yes", who("a"), key="k")
        missing(first, 1, 2)
        again = await answer(gateway, question_id, "yes", who("a"), key="k")
        assert again.body == first.body
        assert again.get("idempotent-replayed") == b"true"
        await answer(gateway, question_id, "yes", who("a"), key="another")
        assert (await look(gateway, question_id, who("a")))["status"] == "open"
        recorded(await answer(gateway, question_id, "yes", who("b")))


async def test_withdrawing_is_200_and_again_200_and_everybody_learns_of_it() -> None:
    async with start_gateway(**KEYED) as gateway, subscribe(gateway, "alice", who()) as stream:
        found = await asked(gateway, ASKER)
        assert (await stream.event()).type == "question"
        for _ in range(2):
            response = await withdraw(gateway, found["question_id"], ASKER)
            assert response.status == 200
            assert response.json()["question_id"] == found["question_id"]
            assert response.json()["status"] == "withdrawn"
        got = await resolved(stream)
        assert got.data["status"] == "withdrawn"
        assert got.data["response"] is None
        writer = who("svc", "events:write")
        assert await quiet(stream, gateway, "alice", writer) == []
        assert "withdrawn" in what(await look(gateway, found["question_id"], who()))


async def test_only_the_asker_or_an_admin_withdraws() -> None:
    async with start_gateway(**KEYED) as gateway:
        found = await asked(gateway, ASKER)
        refusal(await withdraw(gateway, found["question_id"], who()), 403, "FORBIDDEN")
        refusal(await withdraw(gateway, found["question_id"], who("bob")), 404, "NOT_FOUND")
        assert (await withdraw(gateway, found["question_id"])).status == 401
        admin = who("root", "admin")
        assert (await withdraw(gateway, found["question_id"], admin)).status == 200


async def test_what_is_answered_cannot_be_withdrawn() -> None:
    async with start_gateway() as gateway:
        found = await asked(gateway)
        recorded(await answer(gateway, found["question_id"]))
        response = await withdraw(gateway, found["question_id"])
        refusal(response, 409, "CONFLICT", extra=("answered_by", "answered_at", "response"))
        refusal(await withdraw(gateway, "unknown"), 404, "NOT_FOUND")


async def test_a_question_without_a_default_expires_in_its_time() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        found = await asked(gateway, expires_in=1)
        assert (await stream.event()).type == "question"
        got = await resolved(stream)
        assert got.data["question_id"] == found["question_id"]
        assert (got.data["status"], got.data["response"]) == ("expired", None)
        assert moment(got.envelope["timestamp"]) >= moment(found["expires_at"])
        assert "expired" in what(await look(gateway, found["question_id"]))
        assert await listed(gateway, "status=expired") == [found["question_id"]]


async def test_a_question_with_a_default_is_answered_by_it_in_its_time() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        found = await asked(gateway, expires_in=1, options=["yes", "no"], default="no")
        assert (await stream.event()).type == "question"
        got = await resolved(stream)
        assert (got.data["status"], got.data["response"]) == ("answered", "no")
        assert got.data["answered_by"] == "default"
        response = await answer(gateway, found["question_id"], "yes")
        extra = ("answered_by", "answered_at", "response")
        error = refusal(response, 409, "CONFLICT", extra=extra)
        assert error["answered_by"] == "default"


def moment(text: str) -> datetime:
    """A time."""
    return datetime.fromisoformat(text)


async def test_answers_that_race_with_the_expiry_have_one_winner() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        found = await asked(gateway, expires_in=1, default="late")
        assert (await stream.event()).type == "question"
        codes: set[int] = set()

        async def keep_looking() -> None:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (await look(gateway, found["question_id"]))["status"] == "open":
                    pass
            codes.add((await answer(gateway, found["question_id"], "me")).status)

        await asyncio.gather(*(keep_looking() for _ in range(5)))
        assert codes <= {409, 410}
        got = await resolved(stream)
        assert got.data["response"] == "late"
        assert await quiet(stream, gateway, "alice") == []


@pytest.mark.parametrize("default", [None, "no"])
async def test_what_expired_while_the_gateway_was_down_is_decided_at_start(
    tmp_path: Path, default: str | None
) -> None:
    environ = {"STATE_DIR": str(tmp_path / "kept")}
    async with start_gateway(**environ) as gateway:
        found = await asked(gateway, expires_in=1, default=default)
    await holds(lambda: True, 1.3)
    async with start_gateway(**environ) as gateway:
        status = "expired" if default is None else "answered"

        async def seen() -> str:
            return str((await look(gateway, found["question_id"]))["status"])

        async with asyncio.timeout(PATIENCE_SECONDS):
            while await seen() == "open":
                pass
        assert await seen() == status
        async with subscribe(gateway, after="earliest") as stream:
            got = await resolved(stream)
            assert (got.data["status"], got.data["response"]) == (status, default)


async def test_questions_and_answers_survive_a_restart(tmp_path: Path) -> None:
    environ = {"STATE_DIR": str(tmp_path / "kept")}
    async with start_gateway(**environ) as gateway:
        still_open = await asked(gateway, options=["yes", "no"])
        done = await asked(gateway)
        first = await answer(gateway, done["question_id"], "done", key="k1")
        before = await look(gateway, done["question_id"])
    async with start_gateway(**environ) as gateway:
        assert await look(gateway, done["question_id"]) == before
        again = await answer(gateway, done["question_id"], "done", key="k1")
        assert (again.status, again.body) == (200, first.body)
        assert await listed(gateway) == [still_open["question_id"]]
        async with subscribe(gateway) as stream:
            got = await stream.event()
            assert (got.type, got.id) == ("question", None)
            assert got.data == still_open
            recorded(await answer(gateway, still_open["question_id"], "yes"))
            await resolved(stream)


async def test_waiting_ends_when_it_is_decided() -> None:
    async with start_gateway() as gateway:
        for how in ("answered", "withdrawn", "expired"):
            seconds = 1 if how == "expired" else None
            found = await asked(gateway, expires_in=seconds)
            path = f"{QUESTIONS}/{found['question_id']}/wait?timeout=60"
            waiting = [asyncio.create_task(long_poll(gateway, path)) for _ in range(20)]
            await eventually(lambda tasks=waiting: all(not task.done() for task in tasks))
            if how == "answered":
                await answer(gateway, found["question_id"], "yes")
            elif how == "withdrawn":
                await withdraw(gateway, found["question_id"])
            async with asyncio.timeout(PATIENCE_SECONDS):
                responses = await asyncio.gather(*waiting)
            assert {each.status for each in responses} == {200}
            assert {each.json()["status"] for each in responses} == {how}
            late = await fetch(gateway, path)
            assert (late.status, late.json()["status"]) == (200, how)


async def long_poll(gateway: Door, path: str) -> Message:
    """A request that may take longer than others."""
    async with gateway.connect() as client:
        client.send(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await client.until(lambda: client.count, "an answer")
        return await client.response()


@pytest.mark.parametrize("query", ["timeout=1", "timeout=0.3", "timeout=0"])
async def test_waiting_in_vain_is_202_with_the_question(query: str) -> None:
    async with start_gateway() as gateway:
        found = await asked(gateway)
        response = await fetch(gateway, f"{QUESTIONS}/{found['question_id']}/wait?{query}")
        if response.status == 400:
            assert query != "timeout=1"  # a whole number of seconds is the least that is good
            return
        assert response.status == 202
        assert response.json()["question_id"] == found["question_id"]
        assert response.json()["status"] == "open"


@pytest.mark.parametrize("timeout", ["x", "-1", "nan", "inf", "1e9", "", "1s"])
async def test_a_bad_timeout_is_400(timeout: str) -> None:
    async with start_gateway() as gateway:
        found = await asked(gateway)
        path = f"{QUESTIONS}/{found['question_id']}/wait?timeout={timeout}"
        refusal(await fetch(gateway, path), 400, "BAD_REQUEST")


async def test_waiting_for_an_unknown_question_is_404() -> None:
    async with start_gateway() as gateway:
        refusal(await fetch(gateway, f"{QUESTIONS}/unknown/wait?timeout=1"), 404, "NOT_FOUND")


async def test_a_waiter_that_leaves_does_not_disturb_the_answer() -> None:
    async with start_gateway() as gateway:
        found = await asked(gateway)
        path = f"{QUESTIONS}/{found['question_id']}/wait?timeout=60"
        async with gateway.connect() as client:
            client.send(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            await client.flush()
            client.reset()
        recorded(await answer(gateway, found["question_id"]))


async def test_the_list_has_the_open_ones_newest_first() -> None:
    async with start_gateway() as gateway:
        ids = [(await asked(gateway, prompt=f"{n}?"))["question_id"] for n in range(4)]
        recorded(await answer(gateway, ids[1]))
        assert (await withdraw(gateway, ids[2])).status == 200
        assert await listed(gateway) == [ids[3], ids[0]]
        assert await listed(gateway, "status=open") == [ids[3], ids[0]]
        assert await listed(gateway, "status=answered") == [ids[1]]
        assert await listed(gateway, "status=withdrawn") == [ids[2]]
        assert await listed(gateway, "status=expired") == []
        response = await fetch(gateway, f"{QUESTIONS}?status=nonsense")
        refusal(response, response.status, response.json()["error"]["code"])
        assert response.status in (400, 422)


async def test_a_page_has_50_and_the_next_ones_follow() -> None:
    async with start_gateway() as gateway:
        ids = []
        for start in range(0, 120, 40):
            body = [event(question(prompt=f"{start + n}?"), "question") for n in range(40)]
            await published(gateway, "alice", body)
        found: list[str] = []
        sizes = []
        token = ""
        while True:
            query = f"?page_token={token}" if token else ""
            document: dict[str, Any] = (await fetch(gateway, f"{QUESTIONS}{query}")).json()
            assert set(document) == {"questions", "next_page_token"}
            sizes.append(len(document["questions"]))
            found += [each["question_id"] for each in document["questions"]]
            ids += [int(each["prompt"][:-1]) for each in document["questions"]]
            if not (token := document["next_page_token"] or ""):
                break
        assert sizes == [50, 50, 20]
        assert len(set(found)) == 120
        assert ids == list(range(119, -1, -1))


async def test_a_page_token_that_is_none_is_400() -> None:
    async with start_gateway() as gateway:
        for token in ("x", "%00", "a" * 3000):
            response = await fetch(gateway, f"{QUESTIONS}?page_token={token}")
            refusal(response, 400, "BAD_REQUEST")


async def test_a_client_id_lists_its_own_open_questions() -> None:
    async with start_gateway(**KEYED) as gateway:
        one = await asked(gateway, ASKER)
        two = await asked(gateway, ASKER, client_ids=["alice", "bob"])
        await asked(gateway, ASKER, client_ids=["bob"])
        path = "/api/v1/events/alice/questions"
        wanted = [two["question_id"], one["question_id"]]
        assert await listed(gateway, "", who(), path=path) == wanted
        recorded(await answer(gateway, one["question_id"], "yes", who()))
        assert await listed(gateway, "", who(), path=path) == wanted[:1]
        assert (await fetch(gateway, path, who("carol"))).status in (403, 404)
        refusal(await fetch(gateway, path), 401, "UNAUTHORIZED")


async def test_the_inbox_holds_what_the_caller_may_see_and_of_assignee_what_he_may_answer() -> None:
    async with start_gateway(**KEYED) as gateway:
        for_bob = await asked(gateway, ASKER, approvers=["bob"])
        for_alice = await asked(gateway, ASKER, approvers=["alice"])
        for_all = await asked(gateway, ASKER)
        await asked(gateway, ASKER, client_ids=["carol"])
        ids = [each["question_id"] for each in (for_all, for_alice, for_bob)]
        assert await listed(gateway, "", who()) == ids
        assert await listed(gateway, "assignee=me", who()) == ids[:2]
        assert ids[2] in await listed(gateway, "assignee=bob", who())
        assert ids[1] not in await listed(gateway, "assignee=bob", who())
        assert await listed(gateway, "assignee=me", who("bob")) == [ids[2]]
        assert await listed(gateway, "", who("dave")) == []
        refusal(await fetch(gateway, QUESTIONS), 401, "UNAUTHORIZED")


async def test_the_audit_trail_tells_the_story_in_its_order() -> None:
    async with start_gateway(**KEYED) as gateway, subscribe(gateway, "alice", who()) as stream:
        found = await asked(gateway, ASKER, options=["yes", "no"])
        assert (await stream.event()).type == "question"
        await answer(gateway, found["question_id"], "maybe", who())
        recorded(await answer(gateway, found["question_id"], "yes", who()))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while "delivered" not in what(await look(gateway, found["question_id"], who())):
                pass
        shown = await look(gateway, found["question_id"], who())
        words = what(shown)
        assert words[0] == "asked"
        assert words.index("refused") < words.index("answered")
        people = {each["what"]: each["who"] for each in shown["audit"]}
        assert people["asked"] == "svc"
        assert people["delivered"] == people["refused"] == people["answered"] == "alice"
        times = [moment(each["at"]) for each in shown["audit"]]
        assert times == sorted(times)


async def test_looking_at_a_question_is_seen() -> None:
    async with start_gateway(**KEYED) as gateway:
        found = await asked(gateway, ASKER)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while "seen" not in what(await look(gateway, found["question_id"], who())):
                pass


async def test_a_reminder_comes_as_an_event_before_the_expiry() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        found = await asked(gateway, expires_in=60, reminders=[59])
        assert (await stream.event()).type == "question"
        reminder = await stream.event()
        assert reminder.type not in ("question.resolved", "question")
        assert reminder.data["question_id"] == found["question_id"]
        assert "reminded" in what(await look(gateway, found["question_id"]))


async def test_the_open_ones_are_counted() -> None:
    async with start_gateway() as gateway:
        found = await asked(gateway)
        await asked(gateway)
        assert await metric(gateway, "gateway_questions_open") == 2
        recorded(await answer(gateway, found["question_id"]))
        assert await metric(gateway, "gateway_questions_open") == 1
