"""Asking: by POST or by publishing a `question`; what is refused with which pointer; ids again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.questions import (
    APPROVAL,
    QUESTIONS,
    answer,
    asked,
    asks,
    dumped,
    listed,
    look,
    question,
    recorded,
    whole,
)
from tests.streams import (
    SECRET,
    event,
    post,
    publish,
    published,
    quiet,
    refusal,
    split_id,
    subscribe,
    who,
)
from tests.wire import start_gateway

KEYED = {"JWT_SECRET": SECRET}


def at(**delta: float) -> str:
    """A time from now, as RFC 3339."""
    return (datetime.now(UTC) + timedelta(**delta)).isoformat().replace("+00:00", "Z")


FULL = question(
    schema=APPROVAL,
    approvers=["alice", "bob"],
    policy="first",
    forbid_self=True,
    default={"approved": False},
    run_id="run-1",
    node_id="node-1",
    metadata={"ticket": 7, "deep": {"a": [1]}},
)


@pytest.mark.parametrize(
    "body",
    [
        question(),
        question(options=["yes", "no"]),
        question(schema={"type": "string"}),
        question(client_ids=["alice", "bob"]),
        FULL,
        question(question_id="mine-1", expires_in=60),
        question(policy="all", approvers=["alice", "bob"]),
        question(policy={"at_least": 2}),
        question(reminders=[10, 60], expires_in=3600),
    ],
    ids=lambda body: ",".join(sorted(body)),
)
async def test_a_question_is_answered_whole_and_shown_whole(body: dict[str, Any]) -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        response = await asks(gateway, body)
        assert response.status == 201
        found = response.json()
        whole(found, body)
        assert response.get("location") == f"{QUESTIONS}/{found['question_id']}".encode()
        got = await stream.event()
        assert got.type == "question"
        assert got.id is not None
        assert got.data == found
        shown = await look(gateway, found["question_id"])
        assert {name: shown[name] for name in found} == found


async def test_a_question_lives_seven_days_when_it_says_nothing() -> None:
    async with start_gateway() as gateway:
        found = await asked(gateway)
        asked_at = datetime.fromisoformat(found["asked_at"])
        assert datetime.fromisoformat(found["expires_at"]) - asked_at == timedelta(days=7)
        for seconds in (1, 60, 90 * 86400):
            found = await asked(gateway, expires_in=seconds)
            lives = datetime.fromisoformat(found["expires_at"]) - datetime.fromisoformat(
                found["asked_at"]
            )
            assert abs(lives - timedelta(seconds=seconds)) < timedelta(seconds=0.1)


async def test_an_expiry_may_be_a_time() -> None:
    async with start_gateway() as gateway:
        for text in (at(hours=1), "2026-12-01T12:00:00+02:00".replace("2026", at()[:4])):
            response = await asks(gateway, question(expires_at=text))
            if response.status == 201:
                found = datetime.fromisoformat(response.json()["expires_at"])
                assert abs(found - datetime.fromisoformat(text)) < timedelta(seconds=0.01)


async def test_each_client_id_is_shown_the_question() -> None:
    async with (
        start_gateway() as gateway,
        subscribe(gateway, "alice") as one,
        subscribe(gateway, "bob") as two,
        subscribe(gateway, "carol") as other,
    ):
        found = await asked(gateway, client_ids=["alice", "bob"])
        for stream in (one, two):
            got = await stream.event()
            assert got.data == found
            assert got.seq == 1
        assert await quiet(other, gateway, "carol") == []


LARGE_SCHEMA = {"type": "string", "description": "x" * 16_400}
BAD: dict[str, tuple[Any, str]] = {
    "no prompt": (question(prompt=None), "/prompt"),
    "an empty prompt": (question(prompt=""), "/prompt"),
    "a prompt of 8193": (question(prompt="x" * 8193), "/prompt"),
    "a prompt that is a number": (question(prompt=7), "/prompt"),
    "no client id": (question(client_ids=None), "/client_ids"),
    "an empty list of client ids": (question(client_ids=[]), "/client_ids"),
    "65 client ids": (question(client_ids=[f"c{n}" for n in range(65)]), "/client_ids"),
    "a bad client id": (question(client_ids=["alice", "a b"]), "/client_ids/1"),
    "client ids that are a text": (question(client_ids="alice"), "/client_ids"),
    "a bad schema": (question(schema={"type": "nope"}), "/schema"),
    "a schema that is a text": (question(schema="string"), "/schema"),
    "a schema over 16 KiB": (question(schema=LARGE_SCHEMA), "/schema"),
    "a remote $ref": (question(schema={"$ref": "http://127.0.0.1:9/s.json"}), "/schema"),
    "a remote $ref inside": (
        question(schema={"properties": {"a": {"$ref": "https://x.test/s"}}}),
        "/schema",
    ),
    "a file $ref": (question(schema={"$ref": "file:///etc/passwd"}), "/schema"),
    "a $ref to nothing": (question(schema={"$ref": "#/$defs/none"}), "/schema"),
    "a pattern that looks back": (
        question(schema={"type": "string", "pattern": "(?=a)b"}),
        "/schema",
    ),
    "a pattern that refers back": (
        question(schema={"type": "string", "pattern": r"(a)\1"}),
        "/schema",
    ),
    "a bad patternProperties": (question(schema={"patternProperties": {"(?!a)": {}}}), "/schema"),
    "a broken pattern": (question(schema={"type": "string", "pattern": "("}), "/schema"),
    "options that are no texts": (question(options=["yes", 1]), "/options/1"),
    "no options": (question(options=[]), "/options"),
    "a default that does not fit": (
        question(schema={"type": "boolean"}, default="yes"),
        "/default",
    ),
    "a default inside that does not fit": (
        question(schema=APPROVAL, default={"approved": "x"}),
        "/default/approved",
    ),
    "a default that is no option": (question(options=["yes"], default="no"), "/default"),
    "a past time": (question(expires_at="2020-01-01T00:00:00Z"), "/expires_at"),
    "an unreadable time": (question(expires_at="tomorrow"), "/expires_at"),
    "a time that is a number": (question(expires_at=4102444800), "/expires_at"),
    "a time too far": (question(expires_at="2099-01-01T00:00:00Z"), "/expires_at"),
    "expires in 0": (question(expires_in=0), "/expires_in"),
    "expires in a negative time": (question(expires_in=-1), "/expires_in"),
    "expires in half a second": (question(expires_in=0.5), "/expires_in"),
    "expires in 91 days": (question(expires_in=91 * 86400), "/expires_in"),
    "expires in a text": (question(expires_in="60"), "/expires_in"),
    "expires in true": (question(expires_in=True), "/expires_in"),
    "an unknown policy": (question(policy="most"), "/policy"),
    "at least none": (question(policy={"at_least": 0}), "/policy/at_least"),
    "at least a text": (question(policy={"at_least": "2"}), "/policy/at_least"),
    "a policy of another shape": (question(policy={"most": 2}), "/policy"),
    "approvers that are a text": (question(approvers="bob"), "/approvers"),
    "an approver that is a number": (question(approvers=["bob", 1]), "/approvers/1"),
    "forbid_self that is a text": (question(forbid_self="yes"), "/forbid_self"),
    "a bad question id": (question(question_id="a b"), "/question_id"),
    "a question id of 129": (question(question_id="a" * 129), "/question_id"),
    "a question id that is a number": (question(question_id=7), "/question_id"),
    "metadata over 16 KiB": (question(metadata={"x": "y" * 16_400}), "/metadata"),
    "reminders that are a text": (question(reminders="60"), "/reminders"),
    "a negative reminder": (question(reminders=[-1]), "/reminders/0"),
    "an unknown member": (question(urgent=True), "/urgent"),
    "a status of one's own": (question(status="answered"), "/status"),
    "a callback without a secret": (
        question(callback_url="https://example.test/hook"),
        "/callback_url",
    ),
}


@pytest.mark.parametrize(("body", "pointer"), BAD.values(), ids=BAD.keys())
async def test_a_bad_question_is_422_with_a_pointer_and_nobody_sees_it(
    body: dict[str, Any], pointer: str
) -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        error = refusal(await asks(gateway, body), 422, "UNPROCESSABLE")
        pointers = [detail["pointer"] for detail in error["details"]]
        assert any(each == pointer or each.startswith(pointer + "/") for each in pointers), error
        assert await quiet(stream, gateway, "alice") == []
        assert await listed(gateway) == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]x", b'{"prompt": NaN}', b'"\xff"'])
async def test_what_is_not_json_is_400(body: bytes) -> None:
    async with start_gateway() as gateway:
        refusal(await asks(gateway, body), 400, "BAD_REQUEST")


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"x"'])
async def test_what_is_no_object_is_422(body: bytes) -> None:
    async with start_gateway() as gateway:
        refusal(await asks(gateway, body), 422, "UNPROCESSABLE")


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}},
        {"$id": "https://x.test/s", "$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}},
        {"type": "string", "pattern": "^[a-z]+$"},
        {"enum": ["yes"]},
        True,
        {},
    ],
    ids=repr,
)
async def test_a_good_schema_is_taken(schema: Any) -> None:
    async with start_gateway() as gateway:
        found = await asked(gateway, schema=schema)
        recorded(await answer(gateway, found["question_id"], "yes"))


async def test_a_pattern_that_would_take_for_ever_elsewhere_is_answered_at_once() -> None:
    async with start_gateway() as gateway:
        found = await asked(gateway, schema={"type": "string", "pattern": "^(a+)+$"})
        response = await answer(gateway, found["question_id"], "a" * 5000 + "!")
        refusal(response, 422, "UNPROCESSABLE", "/response")


async def test_the_same_question_again_is_200_and_another_409() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        body = question(question_id="q-1", options=["yes", "no"])
        first = await asks(gateway, body)
        again = await asks(gateway, body)
        assert (first.status, again.status) == (201, 200)
        assert again.json() == first.json()
        other = await asks(gateway, body | {"prompt": "Something else?"})
        refusal(other, 409, "CONFLICT")
        assert [got.type for got in await quiet(stream, gateway, "alice")] == ["question"]


async def test_the_same_question_again_after_its_answer_is_not_asked_again() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        body = question(question_id="q-1")
        await asks(gateway, body)
        recorded(await answer(gateway, "q-1"))
        again = await asks(gateway, body)
        assert again.status == 200
        assert again.json()["status"] == "answered"
        types = [got.type for got in await quiet(stream, gateway, "alice")]
        assert types == ["question", "question.resolved"]


async def test_publishing_a_question_asks_it_and_the_event_is_whole() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        body = question(options=["yes", "no"])
        [sent] = await published(gateway, "alice", event(body, "question"))
        got = await stream.event()
        assert got.id == sent
        assert got.type == "question"
        whole(got.data, body)
        assert await listed(gateway) == [got.data["question_id"]]
        recorded(await answer(gateway, got.data["question_id"], "yes", client_id="alice"))


async def test_a_published_question_is_shown_to_the_client_id_it_is_published_to() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        await published(gateway, "alice", event(question(client_ids=None), "question"))
        got = await stream.event()
        assert got.data["client_ids"] == ["alice"]


async def test_a_published_question_is_shown_to_its_other_client_ids_too() -> None:
    async with (
        start_gateway() as gateway,
        subscribe(gateway) as one,
        subscribe(gateway, "bob") as two,
    ):
        await published(gateway, "alice", event(question(client_ids=["alice", "bob"]), "question"))
        assert (await one.event()).data == (await two.event()).data


async def test_a_list_with_questions_keeps_its_order_and_its_ids() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        body = [event(1), event(question(), "question"), event(2), event(question(), "question")]
        ids = await published(gateway, "alice", body)
        got = await stream.events(4)
        assert [each.id for each in got] == ids
        assert [each.type for each in got] == ["note", "question", "note", "question"]
        assert [split_id(each)[1] for each in ids] == [1, 2, 3, 4]
        assert len(await listed(gateway)) == 2


@pytest.mark.parametrize(
    ("bad", "pointer"),
    [
        (question(prompt=None), "/1/data/prompt"),
        (question(schema={"type": "nope"}), "/1/data/schema"),
        (question(unknown=1), "/1/data/unknown"),
        (None, "/1/data"),
    ],
    ids=["no prompt", "bad schema", "unknown member", "null"],
)
async def test_a_list_with_a_bad_question_is_refused_whole(bad: Any, pointer: str) -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        body = [event(question(), "question"), event(bad, "question"), event(1)]
        error = refusal(await publish(gateway, "alice", body), 422, "UNPROCESSABLE")
        assert any(each["pointer"].startswith(pointer) for each in error["details"]), error
        assert await quiet(stream, gateway, "alice") == []
        assert await listed(gateway) == []


async def test_a_list_with_a_question_that_exists_is_refused_whole() -> None:
    async with start_gateway() as gateway:
        body = question(question_id="q-1")
        await asks(gateway, body)
        async with subscribe(gateway) as stream:
            assert (await stream.event()).type == "question"
            response = await publish(gateway, "alice", [event(1), event(body, "question")])
            assert response.status in (409, 422)
            refusal(response, response.status, response.json()["error"]["code"])
            assert await quiet(stream, gateway, "alice") == []
        twice = [event(question(question_id="q-2"), "question")] * 2
        assert (await publish(gateway, "alice", twice)).status in (409, 422)
        assert await listed(gateway) == ["q-1"]


async def test_a_question_published_again_with_its_key_is_asked_once() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        key = b"Idempotency-Key: k1"
        body = event(question(), "question")
        first = await publish(gateway, "alice", body, key)
        again = await publish(gateway, "alice", body, key)
        assert (first.status, again.body) == (202, first.body)
        assert len(await listed(gateway)) == 1
        assert [got.type for got in await quiet(stream, gateway, "alice")] == ["question"]


@pytest.mark.parametrize(
    ("scopes", "status"),
    [(["questions:ask"], 201), (["events:write"], 201), (["questions:answer"], 403), ([], 403)],
)
async def test_who_may_ask(scopes: list[str], status: int) -> None:
    async with start_gateway(**KEYED) as gateway:
        response = await asks(gateway, question(), who("svc", *scopes))
        assert response.status == status
        if status == 201:
            assert response.json()["asked_by"] == "svc"
        refusal(await asks(gateway, question()), 401, "UNAUTHORIZED")


async def test_asking_counts_against_no_key_of_publishing_and_has_a_record() -> None:
    async with start_gateway() as gateway:
        await asked(gateway, prompt="a-secret-thing")
        [record] = await gateway.records()
        assert (record["method"], record["path"]) == ("POST", QUESTIONS)
        assert record["status"] == 201
        assert "a-secret-thing" not in gateway.log_path.read_text()


async def test_keyless_asking_is_for_this_machine_only() -> None:
    async with start_gateway() as gateway:
        response = await gateway.ask(post(QUESTIONS, dumped(question()), host=b"gateway.test"))
        refusal(response, 401, "UNAUTHORIZED")
        response = await asks(gateway, question(), b"Origin: http://evil.test")
        refusal(response, 401, "UNAUTHORIZED")
