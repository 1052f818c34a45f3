"""What is remembered of questions, and how little of it."""

from __future__ import annotations

from sse.question_memory import Noted, Recent
from tests.asking import Asker, Clock


def test_the_last_questions_are_remembered_and_the_longest_unused_go() -> None:
    asker = Asker(Clock())
    questions = [asker.new(prompt="x" * 1000).question for _ in range(5)]
    room = 3 * (2 * len(questions[0].document) + 1024) + 100
    recent = Recent(room)
    for question in questions[:3]:
        recent.add(question)
        recent.add(question)
    assert recent.get("q-1") is questions[0]
    recent.add(questions[3])
    assert recent.get("q-2") is None
    assert recent.get("q-1") is questions[0]
    assert repr(recent).startswith("<Recent 3 questions")


def test_a_question_that_is_gone_is_forgotten() -> None:
    recent = Recent()
    recent.add(Asker(Clock()).new().question)
    recent.forget("q-1")
    recent.forget("unknown")
    assert recent.get("q-1") is None
    assert repr(recent) == "<Recent 0 questions, 0 bytes>"


def test_one_question_is_remembered_however_large() -> None:
    recent = Recent(10)
    recent.add(Asker(Clock()).new().question)
    assert recent.get("q-1") is not None


def test_a_note_is_new_once_until_it_is_forgotten() -> None:
    noted = Noted(most=2)
    assert noted.is_new("q", "seen", "a")
    assert not noted.is_new("q", "seen", "a")
    assert noted.is_new("q", "refused", "a")
    assert not noted.is_new("q", "seen", "a")
    assert noted.is_new("q", "seen", "b")  # the one used longest ago goes: refused
    assert noted.is_new("q", "refused", "a")
    noted.forget("q", "refused", "a")
    assert noted.is_new("q", "refused", "a")
    assert repr(noted) == "<Noted 2>"
