"""An asker's words: what is taken, and where a pointer says what is wrong."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sse.answer_schema import AnswerSchemas
from sse.event import MAX_DATA_BYTES, NewEvent, Refused, encode, timestamp, uuid7
from sse.question import MISSING
from sse.question_body import (
    MAX_METADATA_BYTES,
    MAX_NAME_CHARACTERS,
    NewQuestion,
    QuestionReader,
    checker_of,
)
from tests.asking import NOW, NOW_MS, Ids

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
POINTER = re.compile(r"(/([^~/]|~0|~1)*)*")


def read(body: object, *, callbacks: bool = True, client_id: str | None = None) -> NewQuestion:
    reader = QuestionReader(AnswerSchemas(), Ids("new"), callbacks=callbacks)
    return reader.read(body, "svc", int(NOW * 1_000_000), client_id)


def body(**members: Any) -> dict[str, Any]:
    given = {"client_ids": ["alice"], "prompt": "Deploy?"} | members
    return {name: value for name, value in given.items() if value is not ...}


def refused(given: object, code: str = "UNPROCESSABLE", **options: Any) -> list[str]:
    """The pointers of a refusal."""
    with pytest.raises(Refused) as caught:
        read(given, **options)
    assert caught.value.code == code
    for pointer, text in caught.value.details:
        assert POINTER.fullmatch(pointer)
        assert text.endswith((".", "…")) or ":" in text
    return [pointer for pointer, _ in caught.value.details]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no prompt": ({"prompt": ...}, "/prompt"),
    "a null prompt": ({"prompt": None}, "/prompt"),
    "a prompt of 8193": ({"prompt": "x" * 8193}, "/prompt"),
    "no client ids": ({"client_ids": ...}, "/client_ids"),
    "65 client ids": ({"client_ids": [f"c{n}" for n in range(65)]}, "/client_ids"),
    "the same client id twice": ({"client_ids": ["a", "b", "a"]}, "/client_ids/2"),
    "schema and options": ({"schema": {}, "options": ["a"]}, "/options"),
    "65 options": ({"options": [f"o{n}" for n in range(65)]}, "/options"),
    "an option twice": ({"options": ["a", "a"]}, "/options/1"),
    "an empty option": ({"options": [""]}, "/options/0"),
    "no approvers in the list": ({"approvers": []}, "/approvers"),
    "an approver with a line end": ({"approvers": ["a\nb"]}, "/approvers/0"),
    "all of nobody": ({"policy": "all"}, "/policy"),
    "all with the asker who may not": (
        {"policy": "all", "approvers": ["x", "svc"], "forbid_self": True},
        "/approvers/1",
    ),
    "at least 1.5": ({"policy": {"at_least": 1.5}}, "/policy/at_least"),
    "at least true": ({"policy": {"at_least": True}}, "/policy/at_least"),
    "at least 65": ({"policy": {"at_least": 65}}, "/policy/at_least"),
    "a policy with more": ({"policy": {"at_least": 1, "most": 2}}, "/policy"),
    "both expiries": ({"expires_in": 5, "expires_at": "2026-01-02T00:00:00Z"}, "/expires_at"),
    "an expiry of now": ({"expires_at": "2026-01-01T00:00:00Z"}, "/expires_at"),
    "an expiry without an offset": ({"expires_at": "2026-01-02T00:00:00"}, "/expires_at"),
    "an expiry that is a date": ({"expires_at": "2026-01-02"}, "/expires_at"),
    "an expiry on the 30th of February": ({"expires_at": "2026-02-30T00:00:00Z"}, "/expires_at"),
    "an expiry after 90 days": ({"expires_at": "2026-04-01T00:00:01Z"}, "/expires_at"),
    "expires_in beyond the doubles' whole numbers": ({"expires_in": 1e308}, "/expires_in"),
    "a reminder before the question": ({"expires_in": 60, "reminders": [60]}, "/reminders/0"),
    "a reminder at the expiry": ({"reminders": [0]}, "/reminders/0"),
    "17 reminders": ({"reminders": list(range(1, 18))}, "/reminders"),
    "a reminder that is true": ({"reminders": [True]}, "/reminders/0"),
    "metadata that is a list": ({"metadata": []}, "/metadata"),
    "a run id of 257": ({"run_id": "x" * 257}, "/run_id"),
    "a node id that is a number": ({"node_id": 3}, "/node_id"),
    "forbid_self of 1": ({"forbid_self": 1}, "/forbid_self"),
    "a default that is no option": ({"options": ["a"], "default": "b"}, "/default"),
    "a member with a slash": ({"a/b~c": 1}, "/a~1b~0c"),
}


@pytest.mark.parametrize(("members", "pointer"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_said_with_its_pointer(members: dict[str, Any], pointer: str) -> None:
    assert refused(body(**members)) == [pointer]


def test_all_that_is_wrong_is_said_at_once() -> None:
    given = body(prompt=7, client_ids=["a b"], policy="most", what=1)
    assert set(refused(given)) == {"/prompt", "/client_ids/0", "/policy", "/what"}


def test_not_more_than_twenty_faults_are_said() -> None:
    assert len(refused(body(**{f"member{n}": n for n in range(50)}))) == 20


def test_a_long_name_of_a_member_is_not_repeated() -> None:
    [pointer] = refused(body(**{"x" * 5000: 1}))
    assert len(pointer) < 40


URLS = {
    "https://example.test/hook?x=1": True,
    "http://10.0.0.1:8080/": True,
    "https://[2001:db8::1]/x": True,
    "ftp://example.test/": False,
    "/relative": False,
    "https:///nohost": False,
    "https://user@example.test/": False,
    "https://user:secret@example.test/": False,
    "https://:@example.test/": False,
    "https://example.test/#here": False,
    "https://example.test:0/": False,
    "https://example.test:99999/": False,
    "https://[::1": False,
    "https://example.test/a b": False,
    "https://example.test/ä": False,
    "https://example.test/\n": False,
    "https://example.test/" + "x" * 2048: False,
    "javascript:alert(1)": False,
}


@pytest.mark.parametrize(("url", "good"), URLS.items(), ids=[f"{n}" for n in range(len(URLS))])
def test_a_callback_goes_to_an_absolute_address_without_secrets_of_its_own(
    url: str, good: bool
) -> None:
    if good:
        assert read(body(callback_url=url)).question.callback_url == url
    else:
        assert refused(body(callback_url=url)) == ["/callback_url"]


def test_without_a_secret_there_are_no_callbacks() -> None:
    assert refused(body(callback_url="https://example.test/"), callbacks=False) == ["/callback_url"]
    read(body(), callbacks=False)


def test_null_counts_as_not_given_but_for_the_default() -> None:
    members = dict.fromkeys(
        ("schema", "options", "approvers", "policy", "forbid_self", "expires_at", "expires_in",
         "reminders", "callback_url", "run_id", "node_id", "metadata", "question_id")
    )  # fmt: skip
    question = read(body(**members)).question
    assert "metadata" not in json.loads(question.document)
    assert question.default is MISSING
    assert read(body(default=None)).question.default is None
    assert refused(body(schema={"type": "string"}, default=None)) == ["/default"]


def test_a_question_without_an_expiry_lives_a_week() -> None:
    assert read(body()).question.expires_ms == NOW_MS + 7 * 86_400_000


@pytest.mark.parametrize(
    ("given", "later_ms"),
    [
        ({"expires_in": 1}, 1000),
        ({"expires_in": 1.5}, 1500),
        ({"expires_in": 90 * 86400}, 90 * 86_400_000),
        ({"expires_at": "2026-01-01T00:00:00.001Z"}, 1),
        ({"expires_at": "2026-01-01t01:00:00z"}, 3_600_000),
        ({"expires_at": "2026-01-01T03:00:00.5+02:00"}, 3_600_500),
    ],
)
def test_expiries_in_both_forms(given: dict[str, Any], later_ms: int) -> None:
    assert read(body(**given)).question.expires_ms == NOW_MS + later_ms


def test_published_it_is_shown_to_the_client_id_it_is_published_to() -> None:
    assert read(body(client_ids=...), client_id="bob").question.client_ids == ("bob",)
    named = read(body(client_ids=["alice", "bob"]), client_id="bob").question
    assert named.client_ids == ("alice", "bob")
    assert refused(body(client_ids=["alice"]), client_id="bob") == ["/client_ids"]


def test_an_id_is_given_or_drawn() -> None:
    drawn = read(body())
    assert (drawn.question.question_id, drawn.named) == ("new-1", False)
    given = read(body(question_id="mine.1"))
    assert (given.question.question_id, given.named) == ("mine.1", True)


def test_the_same_body_is_known_again_whatever_its_order() -> None:
    one = read({"question_id": "q", "client_ids": ["a"], "prompt": "x"})
    again = read({"prompt": "x", "client_ids": ["a"], "question_id": "q"})
    assert again.digest == one.digest
    assert read({"question_id": "q", "prompt": "y", "client_ids": ["a"]}).digest != one.digest


@pytest.mark.parametrize("given", [None, 1, "x", [], [body()]])
def test_what_is_no_object_is_no_question(given: object) -> None:
    assert refused(given) == [""]


def test_what_is_nested_too_deep_is_no_request() -> None:
    deep: Any = {}
    for _ in range(300):
        deep = {"a": deep}
    assert refused(body(metadata=deep), "BAD_REQUEST") == []


def test_metadata_has_a_bound() -> None:
    fits = {"x": "y" * (MAX_METADATA_BYTES - 8)}
    assert len(json.dumps(fits, separators=(",", ":"))) == MAX_METADATA_BYTES
    read(body(metadata=fits))
    assert refused(body(metadata={"x": "y" * (MAX_METADATA_BYTES - 7)})) == ["/metadata"]


def test_a_question_that_is_no_event_any_more_is_too_large() -> None:
    many = [f"{'c' * 120}{n}" for n in range(10)]
    given = body(prompt="\x01" * 8000, metadata={"x": "y" * 16000}, client_ids=many)
    assert refused(given, "PAYLOAD_TOO_LARGE") == []


def test_the_largest_question_fits_an_event_with_its_reminder() -> None:
    sizes = [8192, 8000, 7000, 6000]
    for size in sizes:
        try:
            question = read(body(prompt="\x01" * size, metadata={"x": "y" * 16000})).question
        except Refused:
            continue
        data = question.shown("open", seconds_left=7775999.999)
        frame = encode(NewEvent("question.reminder", data), uuid7(NOW), timestamp(NOW))
        assert max(map(len, frame.split(b"\n"))) <= MAX_DATA_BYTES
        return
    pytest.fail("none fitted")


def test_names_have_a_bound() -> None:
    read(body(options=["x" * MAX_NAME_CHARACTERS]))
    assert refused(body(options=["x" * (MAX_NAME_CHARACTERS + 1)])) == ["/options/0"]


def test_answers_are_held_against_what_the_asker_said() -> None:
    schemas = AnswerSchemas()
    anything = checker_of(schemas, read(body()).question)
    assert anything.faults({"x": [1]}) == []
    options = checker_of(schemas, read(body(options=["yes", "no"])).question)
    assert options.faults("yes") == []
    assert [at for at, _ in options.faults("maybe")] == [""]
    schema = checker_of(schemas, read(body(schema={"type": "integer"})).question)
    assert schema.faults(3) == []
    assert [at for at, _ in schema.faults("3")] == [""]


numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
members = st.sampled_from(
    ["question_id", "client_ids", "prompt", "schema", "options", "approvers", "policy",
     "forbid_self", "expires_at", "expires_in", "default", "reminders", "callback_url", "run_id",
     "node_id", "metadata", "other"]
)  # fmt: skip


@unhurried
@given(st.dictionaries(members, json_values, max_size=6))
def test_whatever_is_asked_is_taken_or_refused_with_pointers_that_exist(
    given: dict[str, Any],
) -> None:
    given = {"client_ids": ["alice"], "prompt": "Deploy?"} | given
    try:
        question = read(given).question
    except Refused as refused:
        outcome = refused
    else:
        outcome = None
    if outcome is not None:
        assert outcome.code in ("UNPROCESSABLE", "PAYLOAD_TOO_LARGE")
        for pointer, text in outcome.details:
            assert POINTER.fullmatch(pointer)
            assert text
            assert pointer.split("/")[1] in given
    else:
        shown = json.loads(question.shown("open"))
        assert shown["client_ids"] == given["client_ids"]
        for name in ("metadata", "schema", "default"):
            if name in given and (given[name] is not None or name == "default"):
                assert shown[name] == given[name]


def test_a_job_is_named_by_the_gateways_own_workers_only() -> None:
    reader = QuestionReader(AnswerSchemas(), Ids("new"), callbacks=True)
    given = body(job="0123456789abcdef-1", asked_by="ann")
    question = reader.read(given, "gateway-worker", int(NOW * 1_000_000), internal=True).question
    assert (question.job, question.asked_by) == ("0123456789abcdef-1", "ann")
    shown = json.loads(question.document)
    assert (shown["job"], shown["asked_by"]) == ("0123456789abcdef-1", "ann")
    assert sorted(refused(given)) == ["/asked_by", "/job"], "to others they are no members"


def test_a_jobs_question_without_an_asker_is_nobodys() -> None:
    reader = QuestionReader(AnswerSchemas(), Ids("new"), callbacks=True)
    given = body(job="a-1", asked_by=None)
    question = reader.read(given, "gateway-worker", int(NOW * 1_000_000), internal=True).question
    assert question.asked_by is None
    assert json.loads(question.document)["asked_by"] == "anonymous"


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"job": "a b"}, "/job"),
        ({"job": 1}, "/job"),
        ({"job": "a-1", "asked_by": 1}, "/asked_by"),
        ({"job": "a-1", "asked_by": ""}, "/asked_by"),
        ({"asked_by": "ann"}, "/asked_by"),
        ({"job": "a-1", "policy": "all", "approvers": ["ann"], "forbid_self": True,
          "asked_by": "ann"}, "/approvers/0"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_jobs_question_is_said(members: dict[str, Any], pointer: str) -> None:
    reader = QuestionReader(AnswerSchemas(), Ids("new"), callbacks=True)
    with pytest.raises(Refused) as caught:
        reader.read(body(**members), "gateway-worker", int(NOW * 1_000_000), internal=True)
    assert [at for at, _ in caught.value.details] == [pointer]
