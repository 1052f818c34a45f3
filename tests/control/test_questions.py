"""The paths of questions: every row of the table of answers, and the shape of all of them."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp.test_utils import TestClient, TestServer

from gateway.control.app import build_app
from gateway.control.state import ControlState
from gateway.policy.auth import Identity
from gateway.settings import Settings
from gateway.store.database import FILE_NAME
from tests.asking import ASKER, KEYLESS, Clock, Place, Room, room, someone
from tests.control.conftest import Client
from tests.control.pages import Page, asked, error

QUESTIONS = "/api/v1/questions"
ALICE, BOB, NOBODY = someone("alice"), someone("bob"), someone(None)
APPROVAL = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}},
    "required": ["approved"],
}
PATHS = pytest.mark.parametrize("via", [None, "alice"], ids=["questions path", "events path"])


@dataclass
class Site:
    """The application over a store."""

    client: Client
    room: Room

    async def ask(
        self, method: str, path: str, who: Identity = ALICE, body: Any = None, **headers: str
    ) -> Page:
        """A request as the door hands it over."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        return await asked(self.client, method, path, who, data, **headers)

    async def asked(self, who: Identity = ASKER, **members: Any) -> str:
        body = {"client_ids": ["alice"], "prompt": "Deploy?"} | members
        page = await self.ask("POST", QUESTIONS, who, body)
        assert page.status == 201, page
        return str(page.json["question_id"])

    async def answer(
        self, question_id: str, who: Identity = ALICE, body: Any = None, via: str | None = None,
        **headers: str,
    ) -> Page:  # fmt: skip
        body = {"response": "yes"} if body is None else body
        if via is None:
            return await self.ask(
                "POST", f"{QUESTIONS}/{question_id}/response", who, body, **headers
            )
        if isinstance(body, dict):
            body = {"question_id": question_id} | body
        return await self.ask("POST", f"/api/v1/events/{via}/response", who, body, **headers)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with room(Place(None, tmp_path), Clock()) as here:
        state = cast(ControlState, SimpleNamespace(questions=here.questions, settings=Settings()))
        async with TestClient(TestServer(build_app(state))) as client:
            yield Site(client, here)


# The table of answers


@PATHS
async def test_recorded(site: Site, via: str | None) -> None:
    question_id = await site.asked(schema=APPROVAL)
    page = await site.answer(question_id, body={"response": {"approved": True}}, via=via)
    assert page.status == 200
    assert page.json == {
        "question_id": question_id,
        "status": "answered",
        "response": {"approved": True},
        "answered_by": "alice",
        "answered_at": "2026-01-01T00:00:00.000Z",
    }
    assert page.headers["Content-Type"] == "application/json"
    assert page.headers["Cache-Control"] == "no-store"
    assert "Idempotent-Replayed" not in page.headers


@PATHS
async def test_same_key_same_body(site: Site, via: str | None) -> None:
    question_id = await site.asked()
    first = await site.answer(question_id, via=via, Idempotency_Key="k")
    again = await site.answer(question_id, via=via, Idempotency_Key="k")
    assert (again.status, again.body) == (200, first.body)
    assert again.headers["Idempotent-Replayed"] == "true"


@PATHS
async def test_same_key_other_body(site: Site, via: str | None) -> None:
    question_id = await site.asked()
    await site.answer(question_id, via=via, Idempotency_Key="k")
    page = await site.answer(question_id, body={"response": 2}, via=via, Idempotency_Key="k")
    error(page, 422, "UNPROCESSABLE")


@PATHS
async def test_already_answered_by_someone_else(site: Site, via: str | None) -> None:
    question_id = await site.asked()
    await site.answer(question_id)
    both = someone("bob", client_ids=["alice"])
    page = await site.answer(question_id, both, {"response": "no"}, via=via)
    told = error(page, 409, "CONFLICT", "answered_by", "answered_at", "response")
    assert (told["answered_by"], told["response"]) == ("alice", "yes")
    assert told["answered_at"] == "2026-01-01T00:00:00.000Z"


@PATHS
async def test_expired(site: Site, via: str | None) -> None:
    question_id = await site.asked(expires_in=1)
    site.room.clock.now += 1
    error(await site.answer(question_id, via=via), 410, "GONE")


@PATHS
async def test_expired_with_a_default_was_answered(site: Site, via: str | None) -> None:
    question_id = await site.asked(expires_in=1, default="late")
    site.room.clock.now += 1
    page = await site.answer(question_id, via=via)
    told = error(page, 409, "CONFLICT", "answered_by", "answered_at", "response")
    assert (told["answered_by"], told["response"]) == ("default", "late")


@PATHS
async def test_withdrawn(site: Site, via: str | None) -> None:
    question_id = await site.asked()
    page = await site.ask("DELETE", f"{QUESTIONS}/{question_id}", ASKER)
    assert (page.status, page.json["status"]) == (200, "withdrawn")
    error(await site.answer(question_id, via=via), 410, "GONE")


@PATHS
async def test_unknown_or_not_visible_to_this_caller(site: Site, via: str | None) -> None:
    question_id = await site.asked()
    one = error(await site.answer("unknown", via=via), 404, "NOT_FOUND")
    two = error(await site.answer(question_id, BOB), 404, "NOT_FOUND")
    assert one["message"] == two["message"]
    error(await site.answer(question_id, BOB, via="alice"), 404, "NOT_FOUND")


@PATHS
async def test_not_json(site: Site, via: str | None) -> None:
    question_id = await site.asked()
    for body in (b"", b"{", b'{"response": NaN}', b"\xff"):
        error(await site.answer(question_id, body=body, via=via), 400, "BAD_REQUEST")


@PATHS
async def test_not_matching_the_schema(site: Site, via: str | None) -> None:
    question_id = await site.asked(schema=APPROVAL)
    page = await site.answer(question_id, body={"response": {"approved": "x"}}, via=via)
    [detail] = error(page, 422, "UNPROCESSABLE", "details")["details"]
    assert detail["pointer"] == "/response/approved"
    assert "boolean" in detail["message"]


@PATHS
async def test_no_credential(site: Site, via: str | None) -> None:
    question_id = await site.asked()
    page = await site.answer(question_id, NOBODY, via=via)
    error(page, 401, "UNAUTHORIZED")
    assert page.headers["WWW-Authenticate"] == 'Bearer realm="gateway"'
    error(await site.answer("unknown", NOBODY, b"{", via=via), 401, "UNAUTHORIZED")


@PATHS
async def test_not_an_allowed_approver(site: Site, via: str | None) -> None:
    question_id = await site.asked(approvers=["bob"])
    error(await site.answer(question_id, via=via), 403, "FORBIDDEN")


async def test_the_asker_himself_where_forbidden(site: Site) -> None:
    question_id = await site.asked(forbid_self=True, approvers=["svc", "alice"])
    error(await site.answer(question_id, ASKER), 403, "FORBIDDEN")


@PATHS
async def test_store_away(site: Site, via: str | None) -> None:
    question_id = await site.asked()
    await site.room.settle()
    await site.room.database.close()
    page = await site.answer(question_id, via=via)
    error(page, 503, "SERVICE_UNAVAILABLE", "retry_after")
    assert page.headers["Retry-After"] == "1"
    for method, path in (
        ("POST", QUESTIONS),
        ("GET", QUESTIONS),
        ("GET", f"{QUESTIONS}/{question_id}"),
        ("GET", f"{QUESTIONS}/{question_id}/wait?timeout=1"),
        ("DELETE", f"{QUESTIONS}/{question_id}"),
        ("GET", "/api/v1/events/alice/questions"),
    ):
        body = {"client_ids": ["a"], "prompt": "x"} if method == "POST" else None
        page = await site.ask(method, path, someone("svc", "questions:ask", "events:read"), body)
        error(page, 503, "SERVICE_UNAVAILABLE", "retry_after")


async def test_store_slow(tmp_path: Path) -> None:
    place, clock = Place(None, tmp_path), Clock()
    async with room(place, clock) as patient, room(place, clock, patience_seconds=0.05) as here:
        state = cast(ControlState, SimpleNamespace(questions=here.questions, settings=Settings()))
        asked, _ = await patient.questions.ask(ASKER, {"client_ids": ["alice"], "prompt": "x"})
        await patient.settle()
        async with TestClient(TestServer(build_app(state))) as client:
            other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            page = await Site(client, here).answer(asked.question_id, Idempotency_Key="k")
            error(page, 504, "TIMEOUT", "retry_after")
            other.execute("ROLLBACK")
            other.close()


# The rest of the contract


@PATHS
@pytest.mark.parametrize("key", ["a b", "x" * 256, "\u00e4"])
async def test_a_key_that_is_none_is_a_bad_request(site: Site, via: str | None, key: str) -> None:
    question_id = await site.asked()
    page = await site.answer(question_id, via=via, Idempotency_Key=key)
    error(page, 400, "BAD_REQUEST")


async def test_keys_belong_to_a_caller_and_an_anonymous_one_to_an_address(site: Site) -> None:
    question_id = await site.asked(KEYLESS, policy={"at_least": 2})
    body = {"response": 1}
    path = f"{QUESTIONS}/{question_id}/response"
    first = await site.ask("POST", path, KEYLESS, body, Idempotency_Key="k")
    again = await site.ask("POST", path, KEYLESS, body, Idempotency_Key="k")
    assert first.body == again.body
    other = {"X_Gateway_Client": "192.0.2.2"}
    second = await site.ask("POST", path, KEYLESS, body, Idempotency_Key="k", **other)
    assert second.json["status"] == "answered"


async def test_a_vote_that_decides_nothing_yet_says_how_many_are_missing(site: Site) -> None:
    question_id = await site.asked(policy={"at_least": 2})
    page = await site.answer(question_id)
    assert page.json == {"question_id": question_id, "status": "open", "votes": 1, "needed": 2}


async def test_asking_is_created_with_its_place_and_again_it_is_not(site: Site) -> None:
    body = {"client_ids": ["alice"], "prompt": "x", "question_id": "mine"}
    page = await site.ask("POST", QUESTIONS, ASKER, body)
    assert (page.status, page.headers["Location"]) == (201, f"{QUESTIONS}/mine")
    assert page.json["question_id"] == "mine"
    again = await site.ask("POST", QUESTIONS, ASKER, body)
    assert (again.status, again.body) == (200, page.body)
    other = await site.ask("POST", QUESTIONS, ASKER, body | {"prompt": "y"})
    error(other, 409, "CONFLICT")


async def test_asking_needs_a_right_and_json_and_sense(site: Site) -> None:
    body = {"client_ids": ["alice"], "prompt": "x"}
    page = await site.ask("POST", QUESTIONS, ALICE, body)
    error(page, 403, "FORBIDDEN")
    assert "questions:ask" in page.headers["WWW-Authenticate"]
    error(await site.ask("POST", QUESTIONS, NOBODY, body), 401, "UNAUTHORIZED")
    error(await site.ask("POST", QUESTIONS, ASKER, b"{"), 400, "BAD_REQUEST")
    page = await site.ask("POST", QUESTIONS, ASKER, {"prompt": 3})
    details = error(page, 422, "UNPROCESSABLE", "details")["details"]
    assert {each["pointer"] for each in details} == {"/prompt", "/client_ids"}


@pytest.mark.parametrize(
    "path", [QUESTIONS, f"{QUESTIONS}/x/response", "/api/v1/events/a/response"]
)
async def test_a_body_of_more_than_a_mebibyte_is_too_large(site: Site, path: str) -> None:
    who = someone("a", "questions:ask")
    page = await site.ask("POST", path, who, io.BytesIO(b" " * ((1 << 20) + 1)))
    error(page, 413, "PAYLOAD_TOO_LARGE")

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * 65536

    page = await site.ask("POST", path, who, pieces())
    error(page, 413, "PAYLOAD_TOO_LARGE")


async def test_lists_are_of_what_the_caller_may_see(site: Site) -> None:
    mine, theirs = await site.asked(), await site.asked(client_ids=["bob"])
    page = await site.ask("GET", QUESTIONS, ALICE)
    assert page.status == 200
    assert set(page.json) == {"questions", "next_page_token"}
    assert [each["question_id"] for each in page.json["questions"]] == [mine]
    page = await site.ask("GET", f"{QUESTIONS}?assignee=me&status=open&page_size=1", BOB)
    assert [each["question_id"] for each in page.json["questions"]] == [theirs]
    page = await site.ask("GET", "/api/v1/events/alice/questions", ALICE)
    assert [each["question_id"] for each in page.json["questions"]] == [mine]
    error(await site.ask("GET", "/api/v1/events/alice/questions", BOB), 404, "NOT_FOUND")
    error(await site.ask("GET", QUESTIONS, NOBODY), 401, "UNAUTHORIZED")
    error(await site.ask("GET", "/api/v1/events/a%20b/questions", ALICE), 400, "BAD_REQUEST")


@pytest.mark.parametrize(
    "query",
    ["status=x", "page_token=x", "page_size=0", "page_size=201", "page_size=-1", "page_size=x",
     "page_size=%C2%B2", "page_size=99999", "page_size="],
)  # fmt: skip
async def test_a_query_that_makes_no_sense_is_a_bad_request(site: Site, query: str) -> None:
    error(await site.ask("GET", f"{QUESTIONS}?{query}"), 400, "BAD_REQUEST")


async def test_one_question_has_its_answer_votes_and_trail(site: Site) -> None:
    question_id = await site.asked()
    await site.answer(question_id)
    page = await site.ask("GET", f"{QUESTIONS}/{question_id}", ASKER)
    assert page.json["answer"]["answered_by"] == "alice"
    assert [each["who"] for each in page.json["votes"]] == ["alice"]
    assert [each["what"] for each in page.json["audit"]] == ["asked", "answered"]
    head = await site.ask("HEAD", f"{QUESTIONS}/{question_id}", ASKER)
    assert (head.status, head.body) == (200, b"")


async def test_withdrawing_is_for_the_asker(site: Site) -> None:
    question_id = await site.asked()
    path = f"{QUESTIONS}/{question_id}"
    error(await site.ask("DELETE", path, ALICE), 403, "FORBIDDEN")
    error(await site.ask("DELETE", path, BOB), 404, "NOT_FOUND")
    error(await site.ask("DELETE", path, NOBODY), 401, "UNAUTHORIZED")
    for _ in range(2):
        assert (await site.ask("DELETE", path, ASKER)).status == 200
    answered = await site.asked()
    await site.answer(answered)
    page = await site.ask("DELETE", f"{QUESTIONS}/{answered}", ASKER)
    error(page, 409, "CONFLICT", "answered_by", "answered_at", "response")


async def test_waiting_is_200_when_decided_and_202_when_not(site: Site) -> None:
    question_id = await site.asked()
    path = f"{QUESTIONS}/{question_id}/wait"
    page = await site.ask("GET", f"{path}?timeout=0")
    assert (page.status, page.json["status"]) == (202, "open")
    waiting = asyncio.create_task(site.ask("GET", f"{path}?timeout=60"))
    await site.answer(question_id)
    page = await waiting
    assert (page.status, page.json["answer"]["response"]) == (200, "yes")
    for timeout in ("x", "-1", "nan", "inf", "301", "", "1s"):
        error(await site.ask("GET", f"{path}?timeout={timeout}"), 400, "BAD_REQUEST")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{QUESTIONS}/x/response"),
        ("GET", "/api/v1/events/alice/response"),
        ("PUT", f"{QUESTIONS}/x"),
        ("POST", f"{QUESTIONS}/x/wait"),
        ("HEAD", f"{QUESTIONS}/x/wait"),
        ("DELETE", QUESTIONS),
        ("POST", "/api/v1/events/alice/questions"),
    ],
)
async def test_another_method_is_405(site: Site, method: str, path: str) -> None:
    page = await site.ask(method, path)
    assert page.status == 405
    assert page.headers["Allow"]


async def test_of_many_answers_over_two_gateways_one_is_recorded(tmp_path: Path) -> None:
    place, clock = Place(None, tmp_path), Clock()
    async with room(place, clock) as one, room(place, clock) as two:
        states = [
            SimpleNamespace(questions=here.questions, settings=Settings()) for here in (one, two)
        ]
        apps = [build_app(cast(ControlState, state)) for state in states]
        async with TestClient(TestServer(apps[0])) as a, TestClient(TestServer(apps[1])) as b:
            sites = [Site(a, one), Site(b, two)]
            question_id = await sites[0].asked()
            pages = await asyncio.gather(
                *(
                    sites[n % 2].answer(
                        question_id, someone(f"u{n}", "events:read"), {"response": n}
                    )
                    for n in range(30)
                )
            )
            assert sorted(page.status for page in pages) == [200] + [409] * 29
            [winner] = [page.json for page in pages if page.status == 200]
            for page in pages:
                if page.status == 409:
                    assert page.json["error"]["response"] == winner["response"]
