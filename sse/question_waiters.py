"""Who waits for a decision: a future each, and nothing that asks again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sse.event import Refused

# Each is a request that is held open, with its connection: some 10 KB.
MOST: Final = 10_000


class Waiters:
    """Futures by question. Their result is what the decision looks like, None where only that there
    may be one is known.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._by_question: dict[str, list[asyncio.Future[bytes | None]]] = {}
        self.count = 0

    def __repr__(self) -> str:
        return f"<Waiters {self.count} for {len(self._by_question)} questions>"

    @property
    def question_ids(self) -> list[str]:
        """What is waited for."""
        return list(self._by_question)

    @contextmanager
    def place(self, question_id: str) -> Iterator[asyncio.Future[bytes | None]]:
        """A place among those who wait, until the block ends, however it does.

        Raises Refused (OVERLOADED) when there is none.
        """
        if self.count >= self._most:
            text = f"{self._most} callers wait for answers here already; ask again a little later."
            raise Refused("OVERLOADED", text)
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        waiting = self._by_question.setdefault(question_id, [])
        waiting.append(future)
        self.count += 1
        try:
            yield future
        finally:
            self.count -= 1
            waiting.remove(future)
            if not waiting and self._by_question.get(question_id) is waiting:
                del self._by_question[question_id]

    def wait_for(self, question_id: str) -> bool:
        """Whether anyone waits for a question."""
        return question_id in self._by_question

    def wake(self, question_id: str, result: bytes | None) -> None:
        """Tell all who wait for a question."""
        for future in self._by_question.get(question_id, ()):
            if not future.done():
                future.set_result(result)

    def wake_all(self) -> None:
        """Let everybody look for himself."""
        for question_id in self.question_ids:
            self.wake(question_id, None)
