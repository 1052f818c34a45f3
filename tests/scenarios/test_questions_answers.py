"""The table of answers: every row, on both paths; one winner whatever the race."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.connection import PATIENCE_SECONDS
from tests.messages import Message
from tests.questions import (
    APPROVAL,
    QUESTIONS,
    answer,
    asked,
    fetch,
    look,
    recorded,
    resolved,
    what,
    withdraw,
)
from tests.streams import SECRET, bearer, post, quiet, refusal, subscribe, who
from tests.wire import RunningGateway, eventually, start_gateway

KEYED = {"JWT_SECRET": SECRET}
ASKER = who("svc", "questions:ask")
ALICE = who("alice")
BOB = who("bob")
BOTH = pytest.mark.parametrize("via", [None, "alice"], ids=["questions path", "events path"])


@BOTH
async def test_the_first_answer_is_recorded(via: str | None) -> None:
    async with start_gateway(**KEYED) as gateway, subscribe(gateway, "alice", ALICE) as stream:
        found = await asked(gateway, ASKER, schema=APPROVAL)
        question_id = found["question_id"]
        given = {"approved": True, "why": "fine"}
        document = recorded(await answer(gateway, question_id, given, ALICE, client_id=via))
        assert document["question_id"] == question_id
        assert document["response"] == given
        assert document["answered_by"] == "alice"
        assert (await stream.event()).type == "question"
        assert (await resolved(stream)).data == document
        shown = await look(gateway, question_id, ALICE)
        assert shown["status"] == "answered"
        assert shown["answer"]["response"] == given
        assert {"asked", "answered"} <= set(what(shown))


@BOTH
async def test_an_answer_may_have_a_comment(via: str | None) -> None:
    async with start_gateway() as gateway:
        found = await asked(gateway)
        response = await answer(gateway, found["question_id"], "x", client_id=via, comment="why")
        recorded(response)
        shown = await look(gateway, found["question_id"])
        assert "why" in str(shown)


@BOTH
async def test_the_second_answer_is_409_and_told_who_and_when(via: str | None) -> None:
    async with start_gateway(**KEYED) as gateway:
        reader = who("alice", "events:read")
        found = await asked(gateway, ASKER)
        first = recorded(await answer(gateway, found["question_id"], "yes", ALICE))
        for field in (reader, ALICE):
            response = await answer(gateway, found["question_id"], "no", field, client_id=via)
            extra = ("answered_by", "answered_at", "response")
            error = refusal(response, 409, "CONFLICT", extra=extra)
            assert error["answered_by"] == "alice"
            assert error["answered_at"] == first["answered_at"]
            assert error["response"] == "yes"
        assert (await look(gateway, found["question_id"], ALICE))["answer"]["response"] == "yes"


async def test_a_loser_who_may_not_read_is_told_only_the_code() -> None:
    async with start_gateway(**KEYED) as gateway:
        found = await asked(gateway, ASKER, approvers=["bob"])
        recorded(await answer(gateway, found["question_id"], "yes", BOB))
        response = await answer(gateway, found["question_id"], "no", BOB)
        error = refusal(response, 409, "CONFLICT", extra=("answered_by", "answered_at", "response"))
        assert error["answered_by"] == "bob"


async def test_an_anonymous_winner_is_called_so() -> None:
    async with start_gateway() as gateway:
        found = await asked(gateway)
        assert recorded(await answer(gateway, found["question_id"]))["answered_by"] == "anonymous"
        response = await answer(gateway, found["question_id"], "no")
        extra = ("answered_by", "answered_at", "response")
        error = refusal(response, 409, "CONFLICT", extra=extra)
        assert error["answered_by"] == "anonymous"


@BOTH
async def test_the_same_key_and_body_gets_the_same_bytes_again(via: str | None) -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        found = await asked(gateway)
        question_id = found["question_id"]
        first = await answer(gateway, question_id, "yes", client_id=via, key="k1")
        assert first.get("idempotent-replayed") is None
        recorded(first)
        again = await answer(gateway, question_id, "yes", client_id=via, key="k1")
        assert (again.status, again.body) == (200, first.body)
        assert again.get("idempotent-replayed") == b"true"
        other = await answer(gateway, question_id, "no", client_id=via, key="k1")
        refusal(other, 422, "UNPROCESSABLE")
        refusal(
            await answer(gateway, question_id, "yes", client_id=via, key="k2"),
            409,
            "CONFLICT",
            extra=("answered_by", "answered_at", "response"),
        )
        types = [got.type for got in await quiet(stream, gateway, "alice")]
        assert types == ["question", "question.resolved"]


async def test_a_key_is_the_callers_own_and_the_questions_own() -> None:
    async with start_gateway(**KEYED) as gateway:
        one = await asked(gateway, ASKER, client_ids=["alice", "bob"])
        two = await asked(gateway, ASKER, client_ids=["alice", "bob"])
        recorded(await answer(gateway, one["question_id"], "yes", ALICE, key="k"))
        response = await answer(gateway, one["question_id"], "yes", BOB, key="k")
        refusal(response, 409, "CONFLICT", extra=("answered_by", "answered_at", "response"))
        recorded(await answer(gateway, two["question_id"], "other", ALICE, key="k"))


async def test_a_refused_answer_does_not_use_up_its_key() -> None:
    async with start_gateway() as gateway:
        found = await asked(gateway, options=["yes", "no"])
        refused = await answer(gateway, found["question_id"], "maybe", key="k")
        refusal(refused, 422, "UNPROCESSABLE", "/response")
        recorded(await answer(gateway, found["question_id"], "yes", key="k"))


@BOTH
async def test_a_withdrawn_question_is_410_whatever_the_answer(via: str | None) -> None:
    async with start_gateway() as gateway:
        found = await asked(gateway, options=["yes"])
        assert (await withdraw(gateway, found["question_id"])).status == 200
        for given in ("yes", "does not fit"):
            response = await answer(gateway, found["question_id"], given, client_id=via)
            refusal(response, 410, "GONE")


@BOTH
async def test_an_expired_question_is_410_whatever_the_answer(via: str | None) -> None:
    async with start_gateway() as gateway:
        found = await asked(gateway, options=["yes"], expires_in=1)
        await until_status(gateway, found["question_id"], "expired")
        for given in ("yes", "does not fit"):
            response = await answer(gateway, found["question_id"], given, client_id=via)
            refusal(response, 410, "GONE")


async def until_status(gateway: RunningGateway, question_id: str, status: str) -> None:
    """Waits until a question has this status."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await look(gateway, question_id))["status"] != status:
            pass


@BOTH
@pytest.mark.parametrize("name", ["unknown", "a" * 128, "a b", "a" * 129])
async def test_an_unknown_question_is_404(via: str | None, name: str) -> None:
    async with start_gateway() as gateway:
        if via is None:
            name = name.replace(" ", "%20")
        response = await answer(gateway, name, "yes", client_id=via)
        assert response.status in ((404,) if name == "unknown" or len(name) == 128 else (400, 404))
        refusal(response, response.status, response.json()["error"]["code"])


async def test_a_question_that_the_caller_may_not_see_is_404_and_nothing_else() -> None:
    async with start_gateway(**KEYED) as gateway:
        open_one = await asked(gateway, ASKER)
        done = await asked(gateway, ASKER)
        gone = await asked(gateway, ASKER)
        recorded(await answer(gateway, done["question_id"], "yes", ALICE))
        assert (await withdraw(gateway, gone["question_id"], ASKER)).status == 200
        bodies: list[bytes] = []
        for question_id in (open_one["question_id"], done["question_id"], gone["question_id"], "x"):
            for given in ("yes", b"{"):
                response = await answer(gateway, question_id, given, BOB)
                error = refusal(response, 404, "NOT_FOUND")
                bodies.append(error["message"].replace(question_id, "Q"))
            assert (await fetch(gateway, f"{QUESTIONS}/{question_id}", BOB)).status == 404
            assert (await fetch(gateway, f"{QUESTIONS}/{question_id}/wait", BOB)).status == 404
            assert (await withdraw(gateway, question_id, BOB)).status == 404
        assert len(set(bodies)) == 1, bodies


async def test_a_client_id_that_the_caller_may_not_read_is_404_on_the_events_path() -> None:
    async with start_gateway(**KEYED) as gateway:
        found = await asked(gateway, ASKER, client_ids=["alice", "bob"])
        for given in ("yes", b"{", b"{}"):
            response = await answer(gateway, found["question_id"], given, BOB, client_id="alice")
            refusal(response, 404, "NOT_FOUND")
        recorded(await answer(gateway, found["question_id"], "yes", BOB, client_id="bob"))


async def test_a_question_that_is_not_shown_to_that_client_id_is_404_there() -> None:
    async with start_gateway(**KEYED) as gateway:
        found = await asked(gateway, ASKER)
        both = who("bob", client_ids=["alice"])
        response = await answer(gateway, found["question_id"], "yes", both, client_id="bob")
        refusal(response, 404, "NOT_FOUND")
        recorded(await answer(gateway, found["question_id"], "yes", both, client_id="alice"))


@BOTH
@pytest.mark.parametrize("body", [b"", b"{", b"yes", b'{"response": NaN}', b'{"response":"\xff"}'])
async def test_what_is_not_json_is_400(via: str | None, body: bytes) -> None:
    async with start_gateway() as gateway:
        found = await asked(gateway)
        response = await answer(gateway, found["question_id"], body, client_id=via)
        refusal(response, 400, "BAD_REQUEST")


SHAPES = {
    "no response": ({}, "/response"),
    "an unknown member": ({"response": 1, "extra": 1}, "/extra"),
    "a comment that is a number": ({"response": 1, "comment": 7}, "/comment"),
}


@BOTH
@pytest.mark.parametrize(("members", "pointer"), SHAPES.values(), ids=SHAPES.keys())
async def test_a_body_of_another_shape_is_422(
    via: str | None, members: dict[str, Any], pointer: str
) -> None:
    async with start_gateway() as gateway:
        question_id = (await asked(gateway))["question_id"]
        path, body = f"{QUESTIONS}/{question_id}/response", dict(members)
        if via:
            path, body = f"/api/v1/events/{via}/response", {"question_id": question_id} | members
        refusal(await gateway.ask(post(path, body)), 422, "UNPROCESSABLE", pointer)
        recorded(await answer(gateway, question_id, 1))


async def test_null_is_a_response() -> None:
    async with start_gateway() as gateway:
        found = await asked(gateway)
        assert recorded(await answer(gateway, found["question_id"], None))["response"] is None


async def test_the_question_id_belongs_in_the_body_on_the_events_path_only() -> None:
    async with start_gateway() as gateway:
        question_id = (await asked(gateway))["question_id"]
        path = "/api/v1/events/alice/response"
        response = await gateway.ask(post(path, {"response": "yes"}))
        refusal(response, 422, "UNPROCESSABLE", "/question_id")
        response = await gateway.ask(post(path, {"question_id": 7, "response": "yes"}))
        refusal(response, 422, "UNPROCESSABLE", "/question_id")
        body = {"question_id": question_id, "response": "yes"}
        response = await gateway.ask(post(f"{QUESTIONS}/{question_id}/response", body))
        refusal(response, 422, "UNPROCESSABLE", "/question_id")


MISFITS = [
    ({"schema": APPROVAL}, {"approved": "yes"}, "/response/approved"),
    ({"schema": APPROVAL}, {}, "/response"),
    ({"schema": APPROVAL}, "yes", "/response"),
    ({"schema": APPROVAL}, {"approved": True, "why": "x" * 21}, "/response/why"),
    ({"schema": {"items": {"type": "integer"}}}, [1, "x", 3], "/response/1"),
    ({"schema": {"properties": {"a/b~c": {"type": "null"}}}}, {"a/b~c": 1}, "/response/a~1b~0c"),
    ({"options": ["yes", "no"]}, "maybe", "/response"),
    ({"options": ["yes", "no"]}, None, "/response"),
]


@BOTH
@pytest.mark.parametrize(("members", "given", "pointer"), MISFITS)
async def test_an_answer_that_does_not_fit_is_422_with_pointers(
    via: str | None, members: dict[str, Any], given: Any, pointer: str
) -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        found = await asked(gateway, **members)
        response = await answer(gateway, found["question_id"], given, client_id=via)
        refusal(response, 422, "UNPROCESSABLE", pointer)
        assert [got.type for got in await quiet(stream, gateway, "alice")] == ["question"]
        shown = await look(gateway, found["question_id"])
        assert shown["status"] == "open"
        assert "refused" in what(shown)


@BOTH
async def test_without_a_good_credential_it_is_401_whatever_else_is_wrong(via: str | None) -> None:
    async with start_gateway(**KEYED) as gateway:
        found = await asked(gateway, ASKER)
        for question_id, given in ((found["question_id"], "yes"), ("unknown", b"{")):
            response = await answer(gateway, question_id, given, client_id=via)
            refusal(response, 401, "UNAUTHORIZED")
            response = await answer(gateway, question_id, given, bearer("bad"), client_id=via)
            refusal(response, 401, "AUTH_FAILED")
            assert response.get("www-authenticate")


@BOTH
async def test_who_may_see_but_not_answer_gets_403_before_anything_of_the_state(
    via: str | None,
) -> None:
    async with start_gateway(**KEYED) as gateway:
        open_one = await asked(gateway, ASKER, approvers=["bob"])
        done = await asked(gateway, ASKER, approvers=["bob"])
        gone = await asked(gateway, ASKER, approvers=["bob"])
        recorded(await answer(gateway, done["question_id"], "yes", BOB))
        await withdraw(gateway, gone["question_id"], ASKER)
        for found in (open_one, done, gone):
            response = await answer(gateway, found["question_id"], "yes", ALICE, client_id=via)
            refusal(response, 403, "FORBIDDEN")
        if via is None:
            response = await answer(gateway, open_one["question_id"], b"{", ALICE)
            refusal(response, 403, "FORBIDDEN")
        assert "refused" in what(await look(gateway, open_one["question_id"], ALICE))


APPROVERS: list[tuple[list[str] | None, bytes, bool]] = [
    (None, ALICE, True),
    (None, who("carol", "questions:answer"), True),
    (None, who("carol", "events:read"), True),
    (["bob"], BOB, True),
    (["bob"], ALICE, False),
    (["bob", "alice"], ALICE, True),
    (["questions:answer"], who("carol", "questions:answer"), True),
    (["team-lead"], who("alice", "team-lead"), True),
    (["bob"], who("alice", "questions:answer"), False),
    (["bob"], who("alice", "events:read"), False),
]


@pytest.mark.parametrize(("approvers", "field", "may"), APPROVERS)
async def test_who_may_answer(approvers: list[str] | None, field: bytes, may: bool) -> None:
    async with start_gateway(**KEYED) as gateway:
        found = await asked(gateway, ASKER, approvers=approvers)
        response = await answer(gateway, found["question_id"], "yes", field)
        if may:
            recorded(response)
        else:
            refusal(response, 403, "FORBIDDEN")


async def test_the_asker_may_not_answer_where_that_is_forbidden() -> None:
    async with start_gateway(**KEYED) as gateway:
        asker = who("alice", "questions:ask", "questions:answer")
        forbidden = await asked(gateway, asker, forbid_self=True)
        response = await answer(gateway, forbidden["question_id"], "yes", asker)
        refusal(response, 403, "FORBIDDEN")
        listed_too = await asked(gateway, asker, forbid_self=True, approvers=["alice", "bob"])
        response = await answer(gateway, listed_too["question_id"], "yes", asker)
        refusal(response, 403, "FORBIDDEN")
        recorded(await answer(gateway, listed_too["question_id"], "yes", BOB))
        allowed = await asked(gateway, asker)
        recorded(await answer(gateway, allowed["question_id"], "yes", asker))


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"DELETE"])
@pytest.mark.parametrize("path", [f"{QUESTIONS}/Q/response", "/api/v1/events/alice/response"])
async def test_nothing_but_post_answers(method: bytes, path: str) -> None:
    async with start_gateway() as gateway:
        found = await asked(gateway)
        path = path.replace("Q", found["question_id"]) + "?response=yes"
        response: Message = await fetch(gateway, path, method=method)
        assert response.status in (404, 405)
        assert (await look(gateway, found["question_id"]))["status"] == "open"


async def test_of_many_answers_at_once_exactly_one_wins() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        found = await asked(gateway)
        responses = await asyncio.gather(
            *(
                answer(
                    gateway,
                    found["question_id"],
                    n,
                    client_id="alice" if n % 2 else None,
                    key=f"{n}",
                )
                for n in range(40)
            )
        )
        statuses = sorted(each.status for each in responses)
        assert statuses == [200] + [409] * 39
        [winner] = [each for each in responses if each.status == 200]
        for each in responses:
            if each.status == 409:
                assert each.json()["error"]["response"] == winner.json()["response"]
        assert (await stream.event()).type == "question"
        assert (await resolved(stream)).data == winner.json()
        assert await quiet(stream, gateway, "alice") == []


async def test_answering_takes_a_token_of_the_limit_and_an_answer_has_a_record() -> None:
    async with start_gateway(RATE_LIMIT="3/hour") as gateway:
        found = await asked(gateway)
        response = await answer(gateway, found["question_id"], "a-secret-thing")
        assert response.get("x-ratelimit-limit") == b"3"
        await eventually(lambda: len(gateway.access_records()) >= 2)
        assert "a-secret-thing" not in gateway.log_path.read_text()
