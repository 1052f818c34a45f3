"""Whose list it is, and page tokens that say nothing and can't be made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse.event import Refused
from sse.question_list import assignee_reach, place_of, reach, token_of
from sse.question_store import Reach
from tests.asking import KEYLESS, Asker, Clock, someone


def test_a_reach_is_what_the_caller_is() -> None:
    caller = someone("alice", "team", client_ids=["x"])
    assert reach(caller, "admin") == Reach("alice", frozenset({"team"}), frozenset({"x"}), False)
    assert reach(someone("alice", "admin"), "admin").everything
    assert reach(someone("alice", "events:read"), "admin").everything
    assert reach(KEYLESS, "admin").everything


def test_an_assignee_is_the_caller_or_someone_by_name() -> None:
    alice = someone("alice", "admin")
    assert assignee_reach(alice, None) is None
    assert assignee_reach(alice, "") is None
    assert assignee_reach(alice, "bob") == Reach("bob")
    me = assignee_reach(alice, "me")
    assert me == Reach("alice", frozenset({"admin"}))
    answerer = assignee_reach(someone("alice", "questions:answer"), "me")
    assert answerer is not None
    assert answerer.everything


def test_a_token_is_a_place() -> None:
    question = Asker(Clock()).new().question
    assert place_of(token_of(question)) == (question.ordinal, question.question_id)


@given(st.text(max_size=40))
def test_what_is_no_token_is_refused(text: str) -> None:
    try:
        ordinal, question_id = place_of(text)
    except Refused as refused:
        code = refused.code
    else:
        code = "BAD_REQUEST" if isinstance(ordinal, int) and question_id else ""
    assert code == "BAD_REQUEST"


@pytest.mark.parametrize("token", ["WzEsMl0=", "WzEsImEiLDNd", "bnVsbA==", "eyJhIjoxfQ=="])
def test_json_of_another_shape_is_no_token(token: str) -> None:
    with pytest.raises(Refused):
        place_of(token)
