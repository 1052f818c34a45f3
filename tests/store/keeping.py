"""What tests of the store have in common: keeping questions, and what became of a deed."""

from __future__ import annotations

from gateway.store import StoredQuestions
from sse.answer import Outcome
from sse.question import Question
from sse.question_body import NewQuestion
from tests.asking import someone

ALICE, BOB, CAROL = someone("alice"), someone("bob"), someone("carol")


async def keep(store: StoredQuestions, *news: NewQuestion) -> list[Question]:
    """Ask, one by one."""
    for new in news:
        asked = await store.ask([new], together=False)
        assert (asked.taken, asked.found) == ((), None)
    return [new.question for new in news]


def code(outcome: Outcome) -> str:
    return "" if outcome.refused is None else outcome.refused.code
