"""A question: who may see it, who may answer, how it is shown and kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sse.question import (
    ALL,
    AT_LEAST,
    FIRST,
    MISSING,
    Question,
    from_document,
    may_see,
    may_withdraw,
    milliseconds,
    seats_of,
    why_not_answer,
)
from tests.asking import KEYLESS, NOW, NOW_MS, WORKER, Asker, Clock, someone

KEYED_WRITER = someone("svc", "questions:ask", "events:write")


def question(asked_by: str | None = "svc", **members: Any) -> Question:
    return Asker(Clock()).new(asked_by, **members).question


@pytest.mark.parametrize(
    ("caller", "members", "sees"),
    [
        (someone("alice"), {}, True),
        (someone("bob"), {}, False),
        (someone("bob", client_ids=["alice"]), {}, True),
        (someone("bob", "events:read"), {}, True),
        (someone("bob", "questions:answer"), {}, True),
        (someone("bob", "admin"), {}, True),
        (someone("bob", "questions:ask", "events:write"), {}, False),
        (someone("svc"), {}, True),
        (someone("bob"), {"approvers": ["bob"]}, True),
        (someone("bob", "team-lead"), {"approvers": ["team-lead"]}, True),
        (someone(None), {}, False),
        (KEYLESS, {"approvers": ["bob"]}, True),
    ],
)
def test_who_may_see_a_question(caller: Any, members: dict[str, Any], sees: bool) -> None:
    assert may_see(caller, question(**members)) is sees


@pytest.mark.parametrize(
    ("caller", "members", "may"),
    [
        (someone("alice"), {}, True),
        (someone("bob", "questions:answer"), {}, True),
        (someone("bob", "admin"), {}, False),
        (someone("svc"), {}, False),
        (someone("alice"), {"approvers": ["bob"]}, False),
        (someone("bob"), {"approvers": ["bob"]}, True),
        (someone("bob", "questions:answer", "admin"), {"approvers": ["carol"]}, False),
        (someone("bob", "team-lead"), {"approvers": ["carol", "team-lead"]}, True),
        (KEYLESS, {}, True),
        (KEYLESS, {"approvers": ["bob"]}, False),
        (someone("svc", "questions:answer"), {}, True),
        (someone("svc", "questions:answer"), {"forbid_self": True}, False),
        (someone("svc"), {"forbid_self": True, "approvers": ["svc"]}, False),
        (someone("alice"), {"forbid_self": True}, True),
    ],
)
def test_who_may_answer_a_question(caller: Any, members: dict[str, Any], may: bool) -> None:
    assert (why_not_answer(caller, question(**members)) is None) is may


def test_without_credentials_nobody_can_be_told_from_the_asker() -> None:
    assert why_not_answer(KEYLESS, question(None, forbid_self=True)) is not None
    assert why_not_answer(KEYLESS, question("svc", forbid_self=True)) is None


@pytest.mark.parametrize(
    ("caller", "may"),
    [
        (someone("svc"), True),
        (someone("bob", "admin"), True),
        (someone("alice"), False),
        (someone(None), False),
        (KEYLESS, True),
    ],
)
def test_who_may_withdraw_a_question(caller: Any, may: bool) -> None:
    assert may_withdraw(caller, question()) is may


def test_an_anonymous_question_is_not_every_anonymous_callers_own() -> None:
    assert not may_withdraw(someone(None), question(None))


def test_a_seat_is_filled_by_its_subject_first() -> None:
    asked = question(approvers=["lead", "alice", "ops"], policy="all")
    assert seats_of(someone("alice", "ops", "lead"), asked) == ("alice", "lead", "ops")
    assert seats_of(someone("bob", "ops"), asked) == ("ops",)
    assert seats_of(someone("bob"), asked) == ()


def test_what_is_shown_is_what_was_asked_and_what_the_gateway_knows() -> None:
    asked = question(options=["yes", "no"], metadata={"a": [1]}, expires_in=60)
    assert json.loads(asked.shown("open")) == {
        "question_id": "q-1",
        "client_ids": ["alice"],
        "prompt": "Deploy?",
        "options": ["yes", "no"],
        "metadata": {"a": [1]},
        "policy": "first",
        "forbid_self": False,
        "expires_at": "2026-01-01T00:01:00.000Z",
        "asked_at": "2026-01-01T00:00:00.000Z",
        "asked_by": "svc",
        "status": "open",
    }
    assert json.loads(asked.shown("expired", answer=None))["answer"] is None


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"options": ["a", "b"], "default": "a"},
        {"schema": {"type": "integer"}, "default": 3},
        {"schema": False},
        {"default": None},
        {"policy": {"at_least": 3}},
        {"policy": "all", "approvers": ["x", "y"]},
        {"reminders": [10, 0.5], "forbid_self": True},
        {"callback_url": "https://example.test/hook", "run_id": "r", "metadata": {"k": 1}},
    ],
)
@pytest.mark.parametrize("asked_by", ["svc", None, "anonymous"])
def test_a_question_is_the_same_when_it_was_kept(
    members: dict[str, Any], asked_by: str | None
) -> None:
    asked = question(asked_by, **members)
    assert from_document(asked.document, asked_by, asked.ordinal) == asked


@pytest.mark.parametrize("document", [b"{}", b"{", b'{"question_id": "x", "client_ids": 3}'])
def test_a_document_that_is_no_question_is_an_error(document: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        from_document(document, None, 1)


def test_policies_say_how_many_votes_decide() -> None:
    assert (question().policy, question().needed) == (FIRST, 1)
    every = question(policy="all", approvers=["a", "b", "c"])
    assert (every.policy, every.needed) == (ALL, 3)
    some = question(policy={"at_least": 2})
    assert (some.policy, some.needed) == (AT_LEAST, 2)


def test_reminders_are_due_before_the_expiry_one_after_the_other() -> None:
    asked = question(expires_in=100, reminders=[10, 50])
    assert asked.next_reminder_ms(NOW_MS) == NOW_MS + 50_000
    assert asked.next_reminder_ms(NOW_MS + 50_000) == NOW_MS + 90_000
    assert asked.next_reminder_ms(NOW_MS + 90_000) is None
    assert question().next_reminder_ms(NOW_MS) is None


def test_times_are_milliseconds() -> None:
    assert milliseconds("2026-01-01T00:00:00.123Z") == NOW_MS + 123
    assert milliseconds("2026-01-01T02:00:00+02:00") == NOW_MS
    with pytest.raises(ValueError, match="UTC"):
        milliseconds("2026-01-01T00:00:00")
    assert question().asked_ms == int(NOW * 1000)


def test_missing_is_not_null() -> None:
    assert question().default is MISSING
    assert question(default=None).default is None
    assert repr(MISSING) == "missing"
    assert "prompt" not in repr(question())


def test_a_worker_sees_and_withdraws_what_was_asked_for_a_job() -> None:
    of_job, other = question(job="a-1", asked_by="ann"), question()
    assert may_see(WORKER, of_job)
    assert may_withdraw(WORKER, of_job)
    assert why_not_answer(WORKER, of_job) is not None
    assert not may_see(WORKER, other)
    assert not may_withdraw(WORKER, other)
    assert may_withdraw(someone("ann"), of_job)
    assert not may_see(KEYED_WRITER, of_job)


def test_a_job_is_kept_with_its_question() -> None:
    asked = question(job="a-1", asked_by="ann")
    assert from_document(asked.document, asked.asked_by, asked.ordinal) == asked
