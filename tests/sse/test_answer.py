"""What becomes of a question: one end, whoever comes first; votes; what everyone is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.policy.auth import Identity
from sse.answer import (
    DEFAULT,
    Attempt,
    Audited,
    Deed,
    Details,
    Ending,
    Expiry,
    Outcome,
    State,
    StoredReply,
    Withdrawal,
    decide,
    delivered,
    expire,
    is_refusal,
    resolved,
    summary,
)
from sse.event import Refused
from sse.question import Question
from tests.asking import NOW_MS, Asker, Clock, attempt, someone

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
ALICE, BOB, CAROL = someone("alice", "ops"), someone("bob", "ops"), someone("carol")


def question(**members: Any) -> Question:
    return Asker(Clock()).new(**members).question


def do(*deeds: Deed, at_ms: int = NOW_MS) -> list[Outcome]:
    """What each comes to, one after the other, without keys."""
    state = State()
    outcomes = []
    for deed in deeds:
        outcomes.append(decide(deed, state, None, at_ms))
        state = outcomes[-1].state
    return outcomes


def refusal(outcome: Outcome) -> Refused:
    assert outcome.refused is not None
    return outcome.refused


def test_the_first_answer_is_the_answer() -> None:
    asked = question()
    first, second = do(attempt(asked, ALICE, b"1"), attempt(asked, BOB, b"2"))
    assert json.loads(first.body) == {
        "question_id": "q-1",
        "status": "answered",
        "response": 1,
        "answered_by": "alice",
        "answered_at": "2026-01-01T00:00:00.000Z",
    }
    assert resolved(asked, first.state) == first.body
    assert refusal(second).code == "CONFLICT"
    assert refusal(second).extra == {
        "response": 1,
        "answered_by": "alice",
        "answered_at": "2026-01-01T00:00:00.000Z",
    }
    assert second.state is first.state


def test_an_answer_that_does_not_fit_changes_nothing_and_comes_last() -> None:
    asked = question()
    problem = Refused("UNPROCESSABLE", "no")
    misfit = Attempt(asked, "subject bob", "bob", b"", problem=problem)
    [only] = do(misfit)
    assert (only.refused, only.state) == (problem, State())
    _, late = do(attempt(asked, ALICE), misfit)
    assert refusal(late).code == "CONFLICT"
    _, gone = do(Withdrawal(asked, "svc"), misfit)
    assert refusal(gone).code == "GONE"


def test_a_key_gets_its_first_reply_again_whatever_became_of_the_question() -> None:
    asked = question()
    mine = attempt(asked, ALICE, key="k")
    known = StoredReply(mine.digest, b"the first")
    for state in (State(), State(status="withdrawn"), State(status="expired")):
        again = decide(mine, state, known, NOW_MS)
        assert (again.body, again.replayed, again.refused) == (b"the first", True, None)
        assert again.state is state
    other = decide(attempt(asked, ALICE, b"2", key="k"), State(), known, NOW_MS)
    assert refusal(other).code == "UNPROCESSABLE"


def test_withdrawing_ends_it_once_and_may_be_repeated() -> None:
    asked = question()
    first, again, late = do(
        Withdrawal(asked, "svc"), Withdrawal(asked, "root"), attempt(asked, ALICE)
    )
    assert (first.state.status, first.state.ended_by, first.refused) == ("withdrawn", "svc", None)
    assert (again.state is first.state, again.refused) == (True, None)
    assert refusal(late).code == "GONE"
    _, answered = do(attempt(asked, ALICE), Withdrawal(asked, "svc"))
    assert refusal(answered).code == "CONFLICT"
    [expired] = do(Withdrawal(asked, "svc"), at_ms=asked.expires_ms)
    assert refusal(expired).code == "GONE"


@pytest.mark.parametrize("late_ms", [0, 1, 10**9])
def test_from_its_expiry_on_no_answer_is_taken(late_ms: int) -> None:
    asked = question(expires_in=1)
    [before] = do(attempt(asked, ALICE), at_ms=asked.expires_ms - 1)
    assert before.state.status == "answered"
    [after] = do(attempt(asked, ALICE), at_ms=asked.expires_ms + late_ms)
    assert refusal(after).code == "GONE"
    assert after.state.status == "expired"


def test_a_default_answers_at_the_expiry() -> None:
    asked = question(expires_in=1, default={"no": None})
    after, late = do(Expiry(asked), attempt(asked, ALICE), at_ms=asked.expires_ms)
    assert after.state.status == "answered"
    assert after.state.ended_by == DEFAULT
    assert refusal(late).extra["answered_by"] == "default"
    assert refusal(late).extra["response"] == {"no": None}


def test_an_expiry_that_is_not_due_changes_nothing() -> None:
    asked = question()
    [early] = do(Expiry(asked))
    assert early.state == State()


def test_at_least_two_wait_for_two() -> None:
    asked = question(policy={"at_least": 2})
    first, second, third = do(*(attempt(asked, who) for who in (ALICE, BOB, CAROL)))
    told = {"question_id": "q-1", "status": "open", "votes": 1, "needed": 2}
    assert json.loads(first.body) == told
    assert json.loads(second.body)["answered_by"] == "bob"
    assert [vote.who for vote in second.state.votes] == ["alice", "bob"]
    assert refusal(third).code == "CONFLICT"


def test_one_person_is_one_vote() -> None:
    asked = question(policy={"at_least": 2})
    _, again = do(attempt(asked, ALICE), attempt(asked, ALICE, b'"no"'))
    assert refusal(again).code == "CONFLICT"
    assert refusal(again).extra["answered_by"] == "alice"
    assert refusal(again).extra["response"] == "yes"
    assert again.state.voted == 1


def test_all_have_a_seat_each_and_a_scope_is_one_seat() -> None:
    asked = question(policy="all", approvers=["carol", "ops"])
    one, two, three = do(*(attempt(asked, who) for who in (ALICE, BOB, CAROL)))
    assert json.loads(one.body)["needed"] == 2
    assert refusal(two).code == "CONFLICT"
    assert refusal(two).extra["answered_by"] == "alice"
    assert three.state.status == "answered"
    assert {vote.seat for vote in three.state.votes} == {"ops", "carol"}


def test_who_holds_two_seats_fills_one() -> None:
    asked = question(policy="all", approvers=["ops", "alice"])
    one, two = do(attempt(asked, ALICE), attempt(asked, BOB))
    assert one.state.is_open
    assert [vote.seat for vote in two.state.votes] == ["alice", "ops"]
    assert two.state.status == "answered"


@pytest.mark.parametrize(
    ("responses", "decided", "by"),
    [
        ([b"true", b"true"], True, "bob"),
        ([b"1", b"2"], 2, "bob"),
        ([b"false", b"true"], False, "alice"),
        ([b"true", b"false"], False, "bob"),
        ([b'{"approved":false}', b'{"approved":true}'], {"approved": False}, "alice"),
        ([b'"reject"', b'"approve"'], "reject", "alice"),
        ([b'"no"', b"false"], False, "bob"),
    ],
)
def test_a_refusal_wins_else_the_last_vote(responses: list[bytes], decided: Any, by: str) -> None:
    asked = question(policy={"at_least": 2})
    votes = [attempt(asked, who, each) for who, each in zip((ALICE, BOB), responses, strict=True)]
    told = json.loads(do(*votes)[-1].body)
    assert (told["response"], told["answered_by"]) == (decided, by)


@pytest.mark.parametrize(
    ("response", "refuses"),
    [
        (False, True),
        (True, False),
        (None, False),
        (0, False),
        ("no", True),
        (" Rejected ", True),
        ("DENY", True),
        ("not now", False),
        ({"approved": False}, True),
        ({"approved": "no"}, False),
        ({"decision": "reject", "approved": True}, True),
        ({"action": "decline"}, True),
        ({"answer": "refused"}, True),
        ({"comment": "no"}, False),
        (["no"], False),
        ({}, False),
    ],
)
def test_what_counts_as_a_refusal(response: object, refuses: bool) -> None:
    assert is_refusal(response) is refuses


def test_votes_that_were_given_do_not_stop_the_expiry() -> None:
    asked = question(policy={"at_least": 2}, expires_in=1)
    [first] = do(attempt(asked, ALICE))
    after = decide(Expiry(asked), first.state, None, asked.expires_ms)
    assert after.state.status == "expired"
    assert [vote.who for vote in after.state.votes] == ["alice"]


def test_what_is_sent_about_a_decision_is_whole() -> None:
    asked = question(run_id="r", metadata={"k": 1}, policy={"at_least": 2})
    votes = [attempt(asked, ALICE, b"1", comment="fine"), attempt(asked, BOB, b"2")]
    state = do(*votes)[-1].state
    assert json.loads(delivered(Ending(asked, state))) == {
        "type": "question.resolved",
        "timestamp": "2026-01-01T00:00:00.000Z",
        "data": {
            "question_id": "q-1",
            "status": "answered",
            "response": 2,
            "answered_by": "bob",
            "answered_at": "2026-01-01T00:00:00.000Z",
            "client_ids": ["alice"],
            "run_id": "r",
            "metadata": {"k": 1},
            "votes": [
                {"who": "alice", "at": "2026-01-01T00:00:00.000Z", "response": 1,
                 "comment": "fine"},
                {"who": "bob", "at": "2026-01-01T00:00:00.000Z", "response": 2},
            ],
        },
    }  # fmt: skip
    single = question()
    said = do(attempt(single, ALICE, b"1", comment="why"))[0].state
    data = json.loads(delivered(Ending(single, said)))["data"]
    assert data["comment"] == "why"
    assert "votes" not in data
    gone = expire(single, State(), NOW_MS)
    data = json.loads(delivered(Ending(single, gone)))["data"]
    assert (data["status"], data["response"], data["answered_by"]) == ("expired", None, None)


def trail(asked: Question, state: State, *noted: Audited) -> list[tuple[str, str]]:
    shown = json.loads(Details(asked, state, noted).shown())
    times = [each["at"] for each in shown["audit"]]
    assert times == sorted(times)
    return [(each["what"], each["who"]) for each in shown["audit"]]


def test_the_trail_tells_the_story_in_its_order() -> None:
    asked = question()
    seen = Audited(NOW_MS, "seen", "alice")
    late = Audited(NOW_MS + 5000, "refused", "bob", "CONFLICT")
    state = decide(attempt(asked, ALICE), State(), None, NOW_MS + 1000).state
    assert trail(asked, state, seen, late) == [
        ("asked", "svc"),
        ("seen", "alice"),
        ("answered", "alice"),
        ("refused", "bob"),
    ]
    assert trail(asked, State()) == [("asked", "svc")]
    assert trail(question(), expire(asked, State(), NOW_MS))[-1] == ("expired", "gateway")
    default = question(default=1)
    assert trail(default, expire(default, State(), NOW_MS))[1:] == [
        ("expired", "gateway"),
        ("answered", "default"),
    ]
    [withdrawn] = do(Withdrawal(asked, "root"))
    assert trail(asked, withdrawn.state)[-1] == ("withdrawn", "root")


def test_someone_called_default_is_someone() -> None:
    asked = question()
    [given] = do(attempt(asked, someone("default"), b"1"))
    shown = json.loads(Details(asked, given.state).shown())
    assert [each["who"] for each in shown["votes"]] == ["default"]


def test_the_single_answer_is_the_only_vote() -> None:
    asked = question()
    [given] = do(attempt(asked, ALICE, b"[1]", comment="why"))
    shown = json.loads(Details(asked, given.state).shown())
    assert shown["answer"] == {
        "response": [1],
        "answered_by": "alice",
        "answered_at": "2026-01-01T00:00:00.000Z",
        "comment": "why",
    }
    [vote] = shown["votes"]
    assert (vote["who"], vote["response"], vote["comment"]) == ("alice", [1], "why")
    short = json.loads(summary(asked, given.state))
    assert short["answer"] == shown["answer"]
    assert "audit" not in short
    assert json.loads(summary(asked, State()))["answer"] is None


deeds = st.lists(
    st.tuples(
        st.sampled_from(["alice", "bob", "carol", "withdraw", "expire"]),
        st.sampled_from([b"1", b"false", b'"x"']),
        st.sampled_from([None, "k1", "k2"]),
        st.integers(0, 400),
    ),
    max_size=12,
)
policies = st.sampled_from(["first", {"at_least": 2}, {"at_least": 3}, "all"])


@unhurried
@given(policies, st.booleans(), deeds)
def test_whatever_happens_it_ends_once_and_stays_as_it_ended(
    policy: Any, has_default: bool, story: list[tuple[str, bytes, str | None, int]]
) -> None:
    members: dict[str, Any] = {"policy": policy, "expires_in": 1}
    if has_default:
        members["default"] = 7
    if policy == "all":
        members["approvers"] = ["alice", "bob"]
    asked = question(**members)
    state = State()
    now_ms = NOW_MS
    kept: dict[tuple[str, str], StoredReply] = {}
    ended: State | None = None
    for who, response, key, later_ms in story:
        now_ms += later_ms
        deed: Deed
        known = None
        if who == "withdraw":
            deed = Withdrawal(asked, "svc")
        elif who == "expire":
            deed = Expiry(asked)
        else:
            deed = attempt(asked, Identity(who), response, key=key)
            known = kept.get((who, key)) if key else None
        outcome = decide(deed, state, known, now_ms)
        if ended is not None:
            assert outcome.state is ended
            if isinstance(deed, Attempt):
                assert outcome.replayed or outcome.refused is not None
        if known is not None and isinstance(deed, Attempt):
            assert outcome.replayed is (known.digest == deed.digest)
        if outcome.keep_key and isinstance(deed, Attempt) and key:
            assert (who, key) not in kept
            kept[who, key] = StoredReply(deed.digest, outcome.body)
        state = outcome.state
        voters = [vote.voter for vote in state.votes]
        assert len(set(voters)) == len(voters) == state.voted <= asked.needed
        assert len({vote.seat for vote in state.votes}) == len(voters)
        if state.is_open:
            assert now_ms < asked.expires_ms or not isinstance(deed, Expiry)
            assert state.answer is None
            assert state.ended_ms is None
        else:
            ended = state
            assert (state.answer is not None) is (state.status == "answered")
            assert json.loads(resolved(asked, state))["status"] == state.status
