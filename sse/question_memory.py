"""What is remembered so that the store is asked less: questions, and notes about them. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from sse.question import Question

# Questions never change, so what was read once is right for ever. Documents take most of the room.
MAX_BYTES: Final = 32 << 20
# Notes that are made once for each person; the store knows for certain.
MAX_NOTED: Final = 50_000


class Recent:
    """The questions that were asked or looked at last, up to `max_bytes` of documents."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._questions: OrderedDict[str, Question] = OrderedDict()
        self._size_bytes = 0

    def __repr__(self) -> str:
        return f"<Recent {len(self._questions)} questions, {self._size_bytes} bytes>"

    def add(self, question: Question) -> None:
        """Remember one; those that were not looked at for longest go."""
        if question.question_id in self._questions:
            return
        self._questions[question.question_id] = question
        self._size_bytes += _size(question)
        while self._size_bytes > self._max_bytes and len(self._questions) > 1:
            _, oldest = self._questions.popitem(last=False)
            self._size_bytes -= _size(oldest)

    def get(self, question_id: str) -> Question | None:
        """One, if it is remembered."""
        question = self._questions.get(question_id)
        if question is not None:
            self._questions.move_to_end(question_id)
        return question

    def forget(self, question_id: str) -> None:
        """There is no such question any more."""
        question = self._questions.pop(question_id, None)
        if question is not None:
            self._size_bytes -= _size(question)


def _size(question: Question) -> int:
    """The document twice, since its members are kept beside it, and the objects around."""
    return 2 * len(question.document) + 1024


class Noted:
    """Which notes were made, so that they are not made again and again."""

    def __init__(self, most: int = MAX_NOTED) -> None:
        self._most = most
        self._noted: OrderedDict[tuple[str, str, str], None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Noted {len(self._noted)}>"

    def is_new(self, question_id: str, what: str, who: str) -> bool:
        """Whether it was not made yet; then it counts as made."""
        key = (question_id, what, who)
        if key in self._noted:
            self._noted.move_to_end(key)
            return False
        self._noted[key] = None
        if len(self._noted) > self._most:
            self._noted.popitem(last=False)
        return True

    def forget(self, question_id: str, what: str, who: str) -> None:
        """It was not made after all."""
        self._noted.pop((question_id, what, who), None)
