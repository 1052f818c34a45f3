"""Publishing what was written: in order, once, and noted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from sse.answer import State, Withdrawal, decide
from sse.event import BackplaneAwayError
from sse.question import Question
from sse.question_events import QuestionEvents, Stage
from sse.question_store import Kind, Publication
from tests.asking import Asker, Board, Clock, Place


class Telling:
    """Events over a store that has one question."""

    def __init__(self, events: QuestionEvents, board: Board, question: Question) -> None:
        self.events = events
        self.board = board
        self.question = question

    def publication(self, kind: Kind, client_id: str = "alice") -> Publication:
        state = State()
        if kind == "resolved":
            state = decide(Withdrawal(self.question, "svc"), state, None, 0).state
        return Publication(self.question, state, client_id, kind)


@pytest.fixture
async def telling(tmp_path: Path) -> AsyncIterator[Telling]:
    clock, board = Clock(), Board()
    async with Place(None, tmp_path).store(clock) as store:
        new = Asker(clock).new()
        await store.ask([new], together=False)
        log = structlog.get_logger("test")
        events = QuestionEvents(board.publish, board.readers, store, clock, log)
        yield Telling(events, board, new.question)
        await events.settle()


async def test_events_of_a_client_id_keep_their_order(telling: Telling) -> None:
    kinds: list[Kind] = ["question", "reminder", "resolved"]
    telling.events.add([telling.publication(kind) for kind in kinds])
    await telling.events.settle()
    types = ["question", "question.reminder", "question.resolved"]
    assert telling.board.types("alice") == types


async def test_what_is_on_its_way_does_not_go_twice(telling: Telling) -> None:
    telling.events.add([telling.publication("question")])
    telling.events.add([telling.publication("question")])
    assert repr(telling.events) == "<QuestionEvents 1 waiting>"
    await telling.events.settle()
    assert telling.board.types("alice") == ["question"]
    telling.events.add([telling.publication("question")])
    await telling.events.settle()
    assert telling.board.types("alice") == ["question"] * 2


async def test_the_place_of_an_event_is_known_from_its_publication_to_its_end(
    telling: Telling,
) -> None:
    place = telling.events.place
    question_id = telling.question.question_id
    assert place(question_id, "alice") is Stage.UNKNOWN
    telling.events.add([telling.publication("question")])
    assert place(question_id, "alice") is Stage.WAITING
    await telling.events.settle()
    assert place(question_id, "alice") == "abcdefgh-1"
    assert place(question_id, "bob") is Stage.UNKNOWN
    telling.events.add([telling.publication("resolved")])
    await telling.events.settle()
    assert place(question_id, "alice") is Stage.UNKNOWN


@pytest.mark.parametrize("error", [BackplaneAwayError(), ValueError("a bug")])
async def test_what_can_not_be_published_is_left_to_the_sweep(
    telling: Telling, error: Exception
) -> None:
    telling.board.failing = error
    telling.events.add([telling.publication("question")])
    await telling.events.settle()
    assert telling.events.place(telling.question.question_id, "alice") is Stage.UNKNOWN
    telling.board.failing = None
    telling.events.add([telling.publication("question")])
    await telling.events.settle()
    assert telling.board.types("alice") == ["question"]


async def test_many_events_of_one_client_id_go_in_lists_of_bounded_length(
    telling: Telling,
) -> None:
    asker = Asker(Clock(), "many")
    asked = [asker.new().question for _ in range(120)]
    telling.events.add([Publication(each, State(), "alice", "question") for each in asked])
    await telling.events.settle()
    assert telling.board.lists == [50, 50, 20]
    assert len(telling.board.events["alice"]) == 120
