"""Lists: newest first, of what the viewer may see, for who may answer."""

from __future__ import annotations

from typing import Any

from gateway.store import StoredQuestions
from sse.question_store import Reach, Wanted
from tests.asking import Asker, Clock, Place, attempt
from tests.store.keeping import ALICE, keep


async def ids(store: StoredQuestions, status: str = "open", **options: Any) -> list[str]:
    wanted = Wanted(status, options.pop("limit", 50), **options)
    return [each.question.question_id for each in await store.page(wanted)]


def reach(subject: str | None, *scopes: str, everything: bool = False, **more: Any) -> Reach:
    client_ids = frozenset(more.get("client_ids", ()))
    return Reach(subject, frozenset(scopes), client_ids, everything)


async def test_pages_are_newest_first_and_go_on_where_the_last_ended(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.store(clock) as store:
        questions = await keep(store, *(asker.new() for _ in range(7)))
        newest = [each.question_id for each in reversed(questions)]
        assert await ids(store) == newest
        assert await ids(store, limit=3) == newest[:3]
        last = questions[4]
        before = (last.ordinal, last.question_id)
        assert await ids(store, limit=3, before=before) == newest[3:6]
        await store.decide(attempt(questions[0], ALICE))
        assert await ids(store, "answered") == ["q-1"]
        assert "q-1" not in await ids(store)
        assert await ids(store, "expired") == []


async def test_a_list_holds_what_its_viewer_may_see(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.store(clock) as store:
        await keep(
            store,
            asker.new(question_id="for-alice"),
            asker.new(question_id="for-bob", client_ids=["bob"]),
            asker.new(question_id="for-team", client_ids=["x"], approvers=["team"]),
            asker.new("alice", question_id="by-alice", client_ids=["x"]),
            asker.new(None, question_id="by-nobody", client_ids=["x"]),
        )
        everything = ["by-nobody", "by-alice", "for-team", "for-bob", "for-alice"]
        assert await ids(store) == everything
        assert await ids(store, viewer=reach("z", everything=True)) == everything
        assert await ids(store, viewer=reach("alice")) == ["by-alice", "for-alice"]
        assert await ids(store, viewer=reach("z", "team")) == ["for-team"]
        assert await ids(store, viewer=reach("z", client_ids=["bob", "alice"])) == [
            "for-bob",
            "for-alice",
        ]
        assert await ids(store, viewer=reach(None)) == []
        assert await ids(store, client_id="x") == ["by-nobody", "by-alice", "for-team"]
        assert await ids(store, client_id="x", viewer=reach("z", "team")) == ["for-team"]


async def test_a_list_for_an_assignee_holds_what_he_may_answer(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.store(clock) as store:
        await keep(
            store,
            asker.new(question_id="for-alice"),
            asker.new(question_id="by-bob", client_ids=["alice"], approvers=["bob"]),
            asker.new(question_id="by-team", client_ids=["alice"], approvers=["team", "bob"]),
            asker.new("alice", question_id="own", client_ids=["alice"]),
            asker.new("alice", question_id="not-own", client_ids=["alice"], forbid_self=True),
            asker.new(None, question_id="nobodys", client_ids=["alice"], forbid_self=True),
        )
        assert await ids(store, assignee=reach("alice")) == ["nobodys", "own", "for-alice"]
        assert await ids(store, assignee=reach("bob")) == ["by-team", "by-bob"]
        assert await ids(store, assignee=reach("z", "team")) == ["by-team"]
        everything = ["nobodys", "not-own", "own", "for-alice"]
        assert await ids(store, assignee=reach("z", everything=True)) == everything
        assert await ids(store, assignee=reach(None, everything=True)) == [
            "not-own",
            "own",
            "for-alice",
        ]
        assert await ids(store, assignee=reach("z")) == []
