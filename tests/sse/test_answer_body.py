"""The body of an answer: what is JSON, which question it names, what is wrong with it and when."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sse.answer import Attempt
from sse.answer_body import attempt, idempotency_key, parse, question_id_of, voter_of
from sse.answer_schema import AnswerSchemas
from sse.event import Refused
from sse.question import MAX_SHOWN_BYTES, Question
from sse.question_body import checker_of
from tests.asking import KEYLESS, Asker, Clock, someone

ALICE = someone("alice")


def read(value: object, *, names_question: bool = False, **members: Any) -> Attempt:
    asked: Question = Asker(Clock()).new(**members).question
    checker = checker_of(AnswerSchemas(), asked)
    return attempt(value, asked, checker, ALICE, "192.0.2.1", "k", names_question=names_question)


def problem(value: object, code: str = "UNPROCESSABLE", **options: Any) -> list[str]:
    found = read(value, **options).problem
    assert found is not None
    assert found.code == code
    return [at for at, _ in found.details]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"yes", b'{"a": NaN}', b'"\xff"', b'"\\ud800"', b"1 2"]
)
def test_what_is_not_json_is_no_request(body: bytes) -> None:
    with pytest.raises(Refused) as caught:
        parse(body)
    assert caught.value.code == "BAD_REQUEST"


@pytest.mark.parametrize(
    ("value", "pointer"),
    [([], ""), (None, ""), ({}, "/question_id"), ({"question_id": 7}, "/question_id")],
)
def test_on_a_client_ids_path_the_body_names_the_question(value: object, pointer: str) -> None:
    assert question_id_of({"question_id": "q"}) == "q"
    with pytest.raises(Refused) as caught:
        question_id_of(value)
    assert caught.value.code == "UNPROCESSABLE"
    assert [at for at, _ in caught.value.details] == [pointer]


@pytest.mark.parametrize(
    ("value", "pointers"),
    [
        ({}, ["/response"]),
        ({"response": 1, "extra": 1}, ["/extra"]),
        ({"response": 1, "a/b": 1}, ["/a~1b"]),
        ({"response": 1, "comment": 7}, ["/comment"]),
        ({"response": 1, "comment": "x" * 8193}, ["/comment"]),
        ({"response": 1, "question_id": "q-1"}, ["/question_id"]),
        ({"x": 1}, ["/x", "/response"]),
        ([], [""]),
        (None, [""]),
        ("yes", [""]),
    ],
)
def test_what_is_wrong_has_a_pointer(value: object, pointers: list[str]) -> None:
    assert problem(value) == pointers


def test_what_does_not_fit_is_below_the_response() -> None:
    schema = {"properties": {"a": {"items": {"type": "null"}}}}
    assert problem({"response": {"a": [None, 1]}}, schema=schema) == ["/response/a/1"]
    assert problem({"response": "c"}, options=["a", "b"]) == ["/response"]


def test_a_good_answer_is_kept_as_compact_json() -> None:
    good = read({"response": {"a": [1, None]}, "comment": "why"})
    assert (good.problem, good.response, good.comment) == (None, b'{"a":[1,null]}', "why")
    assert (good.voter, good.who, good.key) == ("subject alice", "alice", "k")
    assert read({"response": None}).problem is None
    assert read({"response": 1, "comment": None}).comment is None


def test_a_repeat_is_the_same_whatever_its_order_and_path() -> None:
    one = read({"response": 1, "comment": "x"}).digest
    assert read({"comment": "x", "response": 1}).digest == one
    assert (
        read({"question_id": "q", "response": 1, "comment": "x"}, names_question=True).digest == one
    )
    assert read({"response": 2, "comment": "x"}).digest != one
    assert read({"response": 1}).digest != one


def test_an_answer_that_no_event_could_tell_is_too_large() -> None:
    big = {"response": "x" * MAX_SHOWN_BYTES}
    assert problem(big, "PAYLOAD_TOO_LARGE") == ["/response"]
    fits = read({"response": "x" * (MAX_SHOWN_BYTES - 2048)})
    assert fits.problem is None


def test_what_is_nested_too_deep_is_no_request() -> None:
    value: Any = 1
    for _ in range(300):
        value = [value]
    with pytest.raises(Refused) as caught:
        read({"response": value})
    assert caught.value.code == "BAD_REQUEST"


def test_not_more_than_twenty_faults_are_said_and_long_names_cut() -> None:
    pointers = problem({f"{n}{'x' * 300}": 1 for n in range(60)})
    assert len(pointers) == 20
    assert max(map(len, pointers)) < 60


@pytest.mark.parametrize("field", [b"", b" ", b"a b", b"\xc3\xa4", b"x" * 256, b"a\tb"])
def test_a_key_is_visible_ascii_of_some_length(field: bytes) -> None:
    with pytest.raises(Refused) as caught:
        idempotency_key(field)
    assert caught.value.code == "BAD_REQUEST"
    assert "answer" in caught.value.message


def test_a_key_is_taken_as_it_is() -> None:
    assert idempotency_key(None) is None
    assert idempotency_key(b'"quoted"') == '"quoted"'
    assert idempotency_key(b"x" * 255) == "x" * 255


def test_callers_without_a_credential_are_told_apart_by_their_address() -> None:
    assert voter_of(KEYLESS, "192.0.2.1") == "address 192.0.2.1"
    assert voter_of(someone("address 192.0.2.1"), "x") == "subject address 192.0.2.1"


def test_the_answer_to_an_answer_fits_an_event_whoever_gave_it() -> None:
    who = someone("\U0001f600" * 255)
    asked = Asker(Clock()).new().question
    checker = checker_of(AnswerSchemas(), asked)
    value = {"response": "x" * (MAX_SHOWN_BYTES - 4000)}
    made = attempt(value, asked, checker, who, "", None, names_question=False)
    assert made.problem is None
    assert json.loads(made.response) == value["response"]
