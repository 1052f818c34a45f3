"""Answers against an asker's schema: what fits, and what a schema may not do to others."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from sse.answer_schema import (
    MAX_FAULTS,
    MAX_KEPT,
    AnswerSchemas,
    Anything,
    BadSchema,
    Options,
    pointer,
)

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def faults(schema: object, value: object) -> list[str]:
    """The pointers of what does not fit."""
    return [at for at, _ in AnswerSchemas().read(schema).faults(value)]


def bad(schema: object) -> list[str]:
    """The pointers of what makes it no schema."""
    with pytest.raises(BadSchema) as caught:
        AnswerSchemas().read(schema)
    assert all(text for _, text in caught.value.faults)
    return [at for at, _ in caught.value.faults]


APPROVAL = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "why": {"type": "string", "maxLength": 5}},
    "required": ["approved"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("schema", "value", "where"),
    [
        (APPROVAL, {"approved": True}, []),
        (APPROVAL, {"approved": "yes"}, ["/approved"]),
        (APPROVAL, {}, [""]),
        (APPROVAL, {"approved": True, "x/y": 1}, ["/x~1y"]),
        (APPROVAL, {"approved": 1, "why": "too long"}, ["/approved", "/why"]),
        ({"prefixItems": [{"type": "null"}]}, [1], ["/0"]),
        ({"pattern": "^a+$"}, "aaa", []),
        ({"pattern": "^a+$"}, "aab", [""]),
        ({"pattern": "b"}, "abc", []),
        ({"pattern": "^a"}, 7, []),
        ({"patternProperties": {"^n_": {"type": "integer"}}}, {"n_a": "x", "y": "x"}, ["/n_a"]),
        ({"patternProperties": {"^n_": {}}, "additionalProperties": False}, {"n_a": 1, "b": 2},
         ["/b"]),
        ({"additionalProperties": {"type": "integer"}}, {"a": "x"}, ["/a"]),
        ({"uniqueItems": True}, [1, True, "1", [1], {"a": 1}], []),
        ({"uniqueItems": True}, [1, 1.0], [""]),
        ({"uniqueItems": True}, [{"a": [1, 2]}, {"a": [1, 2]}], [""]),
        ({"uniqueItems": False}, [1, 1], []),
        ({"format": "email"}, "no address", []),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}, 1, [""]),
        ({"$ref": "#n", "$defs": {"a": {"$anchor": "n", "type": "string"}}}, 1, [""]),
        ({"properties": {"next": {"$ref": "#"}}, "type": "object"}, {"next": {"next": 1}},
         ["/next/next"]),
        ({"unevaluatedProperties": False, "properties": {"a": True}}, {"a": 1, "b": 2}, [""]),
        (True, {"any": "thing"}, []),
        (False, None, [""]),
    ],
)  # fmt: skip
def test_an_answer_fits_or_is_told_where_it_does_not(
    schema: Any, value: Any, where: list[str]
) -> None:
    assert faults(schema, value) == where


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"type": "odd"}, ["/type"]),
        ({"$ref": "https://example.test/s"}, ["/$ref"]),
        ({"$ref": "other.json"}, ["/$ref"]),
        ({"$ref": ""}, ["/$ref"]),
        ({"$ref": "file:///etc/passwd"}, ["/$ref"]),
        ({"$dynamicRef": "https://example.test/s"}, ["/$dynamicRef"]),
        ({"items": {"$ref": "#/$defs/none"}}, ["/items/$ref"]),
        ({"$ref": "#nowhere"}, ["/$ref"]),
        ({"$ref": "#/properties", "properties": {}}, ["/$ref"]),
        ({"$ref": "#/x-mine", "x-mine": {"$ref": "https://example.test/"}}, ["/$ref"]),
        ({"const": {"pattern": "("}, "$ref": "#/const"}, ["/$ref"]),
        ({"pattern": "(?=a)"}, ["/pattern"]),
        ({"pattern": r"(a)\1"}, ["/pattern"]),
        ({"pattern": "("}, ["/pattern"]),
        ({"items": {"patternProperties": {"(?!a)": {}}}}, ["/items/patternProperties/(?!a)"]),
        ({"unevaluatedProperties": False, "allOf": [{"patternProperties": {"a": {}}}]},
         ["/unevaluatedProperties"]),
        ({"$ref": "#"}, [""]),
        ({"allOf": [{"$ref": "#"}]}, [""]),
        ({"description": "x" * 16_400}, [""]),
    ],
)  # fmt: skip
def test_a_schema_that_can_not_be_used_is_told_why(schema: Any, where: list[str]) -> None:
    assert bad(schema) == where


def test_a_schema_that_doubles_at_each_level_ends_soon() -> None:
    levels = {
        f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}, {"$ref": f"#/$defs/a{n + 1}"}]}
        for n in range(40)
    }
    schema = {"properties": {"p": {"$ref": "#/$defs/a0"}}, "$defs": levels | {"a40": {}}}
    assert faults(schema, {"p": 1}) == [""]
    assert faults(schema, {"q": 1}) == []


def test_a_pattern_takes_no_longer_than_the_text() -> None:
    assert faults({"pattern": "^(a+)+$"}, "a" * 60_000 + "!") == [""]
    names = {"a" * 5000 + "!": 1}
    assert faults({"patternProperties": {"^(a+)+$": False}}, names) == []
    schema = {"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}
    assert len(faults(schema, names)) == 1


@pytest.mark.parametrize(
    "patterns",
    [
        [r"(?i)\p{L}{300}"],  # a second to compile, 4 MB to keep
        [rf"({n}.{{1000}})" for n in range(300)],
        [r"\p{L}" * 50],
        [rf"{n}\p{{Greek}}" for n in range(41)],
        ["(.{900}){9}"],
    ],
)
def test_patterns_that_are_large_are_refused_before_all_are_compiled(patterns: list[str]) -> None:
    assert len(bad({"allOf": [{"pattern": each} for each in patterns]})) == 1
    assert len(bad({"patternProperties": dict.fromkeys(patterns, True)})) == 1


def test_usual_patterns_are_taken_many_times_over() -> None:
    mail = r"^[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,255}\.[A-Za-z]{2,63}$"
    names = {f"m{n}": {"pattern": mail, "maxLength": n} for n in range(100)}
    names["name"] = {"pattern": r"^[\p{L}\p{N} .'-]+$"}
    assert faults({"properties": names}, {"m50": "ann@example.test", "name": "Zoë"}) == []


def test_a_pattern_with_many_states_is_not_followed_through_a_long_text() -> None:
    """Where it matches at the end nothing else would keep the search from going on."""
    checker = AnswerSchemas().read({"pattern": "x.{900}z$"})
    assert checker.faults("x" + "y" * 900 + "z") == []
    [(at, text)] = checker.faults("xy" * 30_000 + "x" + "y" * 900 + "z")
    assert at == ""
    assert "too long" in text
    named = AnswerSchemas().read({"patternProperties": {"x.{900}z$": False}})
    assert "too long" in named.faults({"xy" * 30_000: 1})[0][1]


@pytest.mark.parametrize(
    ("schema", "value", "times"),
    [
        ({"anyOf": [{"type": "null"}] * 450 + [{"type": "object"}]}, {"a": ["x" * 200] * 300}, 20),
        ({"anyOf": [{"const": [[0] * 6000]}, True]}, [[0] * 5999 + [1]], 30),
    ],
)
def test_what_is_said_of_a_large_answer_counts_as_work(schema: Any, value: Any, times: int) -> None:
    """Each branch that fails repeats all of the answer in what it says."""
    branches = {"p": {"allOf": [{"$ref": "#/$defs/a"}] * times}}
    checker = AnswerSchemas().read({"$defs": {"a": schema}, "properties": branches})
    [(at, text)] = checker.faults({"p": value})
    assert (at, "too long" in text) == ("", True)


def test_many_items_are_compared_without_each_meeting_each() -> None:
    assert faults({"uniqueItems": True}, [{"n": n} for n in range(9000)]) == []
    assert faults({"items": {"enum": list(range(2000))}}, list(range(9000))) == [""]


def test_a_deep_answer_to_a_schema_that_comes_back_to_itself_is_refused() -> None:
    value: Any = 1
    for _ in range(250):
        value = [value]
    assert faults({"items": {"$ref": "#"}}, value) == [""]


def test_what_does_not_fit_is_told_up_to_a_number() -> None:
    assert len(faults({"items": {"type": "string"}}, list(range(500)))) == MAX_FAULTS


def test_a_long_answer_is_not_repeated_to_its_sender() -> None:
    [(at, text)] = AnswerSchemas().read({"type": "integer"}).faults("x" * 5000)
    assert at == ""
    assert text == "Must be an integer."
    long = {"enum": ["y" * 3000, "z"]}
    [(_, text)] = AnswerSchemas().read(long).faults("x" * 5000)
    assert len(text) < 300
    inner = {"type": "array", "items": {"type": "string"}}
    named = {"properties": {"a": {"additionalProperties": inner}}}
    found = AnswerSchemas().read(named).faults({"a": {"n" * 5000: [1] * 5, "b": [1]}})
    assert [at for at, _ in found] == ["/a"] * 5 + ["/a/b/0"]


def test_numbers_beyond_doubles_break_nothing() -> None:
    assert faults({"multipleOf": 1e-308}, 1e308) == [""]
    assert faults({"multipleOf": 0.01}, 2**63) in ([], [""])
    assert faults({"maximum": 3}, 1e308) == [""]


def test_schemas_are_read_once_and_the_oldest_are_forgotten() -> None:
    schemas = AnswerSchemas()
    first = schemas.read({"const": -1})
    assert schemas.read({"const": -1}) is first
    assert schemas.checker({"const": -1}) is first
    for n in range(MAX_KEPT):
        schemas.read({"const": n})
    assert schemas.checker({"const": -1}) is not first
    assert repr(schemas) == f"<AnswerSchemas {MAX_KEPT} kept>"


def test_options_are_texts_and_nothing_that_equals_them() -> None:
    options = Options(["1", "true"])
    assert options.faults("1") == []
    for value in (1, True, None, ["1"], {"1": 1}, "2"):
        assert [at for at, _ in options.faults(value)] == [""]
    assert len(Options(["x" * 250] * 60).faults("y")[0][1]) < 300
    assert Anything().faults({"x": object}) == []


def test_pointers_are_as_rfc_6901_says() -> None:
    assert pointer(["a/b", 0, "~", ""]) == "/a~1b/0/~0/"
    assert pointer([]) == ""


numbers = st.integers(-100, 100) | st.floats(-10, 10, allow_nan=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text("abc1", max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=4)
    ),
    max_leaves=8,
)
rules = st.sampled_from(
    [
        {"type": "string"},
        {"type": ["integer", "null"]},
        {"minimum": 0},
        {"maxLength": 2},
        {"pattern": "^a|b$"},
        {"uniqueItems": True},
        {"required": ["a"]},
        {"additionalProperties": False, "properties": {"a": True}},
        {"patternProperties": {"^a": {"type": "integer"}}, "additionalProperties": {"minimum": 1}},
        {"enum": [1, "a", None, [1], {"a": 1}]},
        {"const": 1},
        {"contains": {"type": "integer"}, "minContains": 2},
        {"dependentRequired": {"a": ["b"]}},
        {"propertyNames": {"maxLength": 1}},
        {"multipleOf": 3},
    ]
)
trees = st.recursive(
    rules,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda each: {"allOf": each})
        | st.lists(inner, min_size=1, max_size=3).map(lambda each: {"anyOf": each})
        | st.lists(inner, min_size=1, max_size=3).map(lambda each: {"oneOf": each})
        | inner.map(lambda each: {"not": each})
        | inner.map(lambda each: {"items": each})
        | inner.map(lambda each: {"properties": {"a": each}})
        | st.tuples(inner, inner, inner).map(
            lambda each: {"if": each[0], "then": each[1], "else": each[2]}
        )
    ),
    max_leaves=5,
)


@unhurried
@given(trees, values)
def test_what_fits_is_what_the_drafts_own_validator_says(schema: Any, value: Any) -> None:
    found = AnswerSchemas().read(schema).faults(value)
    assert (not found) is Draft202012Validator(schema).is_valid(value)
    assert all(re.fullmatch(r"(/([^~/]|~0|~1)*)*", at) for at, _ in found)
