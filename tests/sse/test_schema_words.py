"""What does not fit a schema, in words."""

from __future__ import annotations

from typing import Any

import pytest

from sse.answer_schema import AnswerSchemas
from sse.schema_words import MAX_CHARACTERS, brief, sentence


@pytest.mark.parametrize(
    ("schema", "value", "told"),
    [
        ({"type": "object"}, 1, "Must be an object."),
        ({"type": ["string", "boolean", "null"]}, 1,
         "Must be a string, a boolean (true or false) or null."),
        ({"prefixItems": [True], "items": False}, [1, 2], "Takes at most 1 item."),
        ({"type": ["array", "null"]}, 1, "Must be an array or null."),
        ({"type": "integer"}, 1.5, "Must be an integer."),
        ({"enum": ["a", 1, None]}, "x", 'Must be one of "a", 1, null.'),
        ({"const": {"a": 1}}, "x", 'Must be {"a":1}.'),
        ({"minimum": 3}, 1, "Must be at least 3."),
        ({"maximum": 86400.0}, 1e9, "Must be at most 86400."),
        ({"exclusiveMinimum": 0}, 0, "Must be more than 0."),
        ({"exclusiveMaximum": 0.5}, 1, "Must be less than 0.5."),
        ({"maximum": -1e300}, 0, "Must be at most -1e+300."),
        ({"multipleOf": 3}, 1, "Must be a multiple of 3."),
        ({"minLength": 1}, "", "Needs at least 1 character."),
        ({"maxLength": 2}, "abc", "Takes at most 2 characters."),
        ({"minItems": 2}, [], "Needs at least 2 items."),
        ({"maxItems": 1}, [1, 2], "Takes at most 1 item."),
        ({"minProperties": 1}, {}, "Needs at least 1 member."),
        ({"maxProperties": 0}, {"a": 1}, "Takes at most 0 members."),
        ({"required": ["a", "b", "c"]}, {"b": 1}, "Lacks a, c."),
        ({"pattern": r"^[A-Z]\d+$"}, "x", r"Does not match the pattern ^[A-Z]\d+$."),
        ({"uniqueItems": True}, [1, 1], "Holds the same item twice."),
        ({"anyOf": [False, {"type": "null"}]}, 1, "Fits none of the schemas of anyOf."),
        ({"oneOf": [True, True]}, 1, "Does not fit exactly one of the schemas of oneOf."),
        ({"oneOf": [False, False]}, 1, "Does not fit exactly one of the schemas of oneOf."),
        ({"not": {}}, 1, "Fits what the schema rules out."),
        (False, 1, "Nothing can stand here."),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1},
         "Lacks b, needed beside a."),
        ({"unevaluatedProperties": False}, {"a": 1}, "Has members that the schema does not name."),
        ({"unevaluatedItems": False}, [1], "Has items that the schema does not name."),
    ],
)  # fmt: skip
def test_every_keyword_has_a_sentence(schema: Any, value: Any, told: str) -> None:
    assert AnswerSchemas().read(schema).faults(value) == [("", told)]


@pytest.mark.parametrize(
    ("bounds", "value", "told"),
    [
        ({}, [1], "Needs at least 1"),
        ({"minContains": 2}, [1], "Needs at least 2"),
        ({"minContains": 2}, [None], "Needs at least 2"),
        ({"maxContains": 1}, [None] * 2, "Takes at most 1"),
    ],
)
def test_items_that_are_counted_are_too_few_or_too_many(
    bounds: dict[str, int], value: list[Any], told: str
) -> None:
    checker = AnswerSchemas().read({"contains": {"type": "null"}, **bounds})
    found = [("", f"{told} of the items that the schema counts.")]
    assert checker.faults(value) == found


def test_a_member_that_is_not_named_is_pointed_at() -> None:
    checker = AnswerSchemas().read({"additionalProperties": False})
    told = "Is not among the members that the schema names."
    assert checker.faults({"a/b": 1}) == [("/a~1b", told)]


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"maxLength": 2}, "takes at most 2 characters."),
        ({"pattern": "^a$"}, "does not match the pattern ^a$."),
        (False, "nothing can stand here."),
    ],
)
def test_a_name_that_does_not_fit_is_pointed_at_and_called_a_name(rule: Any, told: str) -> None:
    found = AnswerSchemas().read({"propertyNames": rule}).faults({"a/bc": "a value"})
    assert found == [("/a~1bc", f"A member's name: {told}")]


def test_all_that_a_member_asks_for_is_named_at_once() -> None:
    rule = {"a": ["b", "c", "d"], "e": ["f"]}
    checker = AnswerSchemas().read({"dependentRequired": rule})
    assert checker.faults({"a": 1, "c": 1}) == [("", "Lacks b, d, needed beside a.")]


def test_nothing_that_was_sent_is_repeated() -> None:
    schema = {"anyOf": [{"type": "null"}, {"enum": [1]}], "not": {"type": "string"}, "maxLength": 2}
    assert "secret" not in str(AnswerSchemas().read(schema).faults("secret"))


def test_what_is_long_is_cut() -> None:
    assert brief("x" * MAX_CHARACTERS) == "x" * MAX_CHARACTERS
    assert brief("x" * (MAX_CHARACTERS + 1)) == "x" * MAX_CHARACTERS + "…"
    schema = {"required": [f"name-{n}" for n in range(500)], "enum": ["x" * 500]}
    for _, text in AnswerSchemas().read(schema).faults({}):
        assert len(text) < MAX_CHARACTERS + 30
        assert text.endswith("…")


def test_a_clause_becomes_a_sentence() -> None:
    assert sentence("there is no step a") == "There is no step a."
    assert sentence("a segment that is . or ..") == "A segment that is . or .."
    assert sentence("") == "."
