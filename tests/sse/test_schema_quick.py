"""The quick yes: never said of what does not fit, and said of usual answers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from sse.schema_quick import quick

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

FORM = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Approval",
    "type": "object",
    "properties": {
        "approved": {"type": "boolean"},
        "why": {"type": "string", "maxLength": 5},
        "how": {"type": "string", "enum": ["fast", "slow"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 3},
        "more": {"type": "object", "properties": {"ratio": {"type": "number"}}},
    },
    "required": ["approved"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ({"approved": True}, True),
        ({"approved": False, "why": "short", "how": "slow", "count": 3}, True),
        ({"approved": True, "more": {"ratio": 0.5, "x": 1}}, True),
        ({"approved": True, "more": {"ratio": "x"}}, False),
        ({}, False),
        ({"approved": 1}, False),
        ({"approved": True, "why": "too long"}, False),
        ({"approved": True, "how": "odd"}, False),
        ({"approved": True, "count": 4}, False),
        ({"approved": True, "count": True}, False),
        ({"approved": True, "other": 1}, False),
        ([], False),
    ],
)
def test_a_form_is_answered_quickly(value: Any, fits: bool) -> None:
    check = quick(FORM)
    assert check is not None
    assert check(value) is fits


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {},
        {"enum": ["a"]},
        {"type": ["string", "null"]},
        {"type": "string", "pattern": "a"},
        {"type": "string", "minimum": 1},
        {"type": "array", "items": {}},
        {"type": "integer", "enum": [1]},
        {"type": "integer", "multipleOf": 2},
        {"type": "object", "properties": {"a": {"$ref": "#"}}},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"type": "object", "minProperties": 1},
        {"type": "object", "if": {}},
        {"type": "string", "x-mine": 1},
    ],
)
def test_of_other_schemas_nothing_is_said(schema: Any) -> None:
    assert quick(schema) is None


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text("ab", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=6,
)
simple = st.fixed_dictionaries(
    {"type": st.sampled_from(["string", "integer", "number", "boolean", "null", "array"])},
    optional={
        "minLength": st.integers(0, 2),
        "maxLength": st.integers(0, 2),
        "minimum": st.integers(-2, 2),
        "maximum": st.floats(-2, 2),
        "enum": st.lists(values, max_size=3),
        "format": st.just("email"),
    },
)
schemas = st.recursive(
    simple | st.booleans(),
    lambda inner: st.fixed_dictionaries(
        {"type": st.just("object")},
        optional={
            "properties": st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
            "required": st.sampled_from([[], ["a"], ["a", "b"]]),
            "additionalProperties": st.booleans(),
        },
    ),
    max_leaves=4,
)


@unhurried
@given(schemas, values)
def test_it_is_never_said_of_what_does_not_fit(schema: Any, value: Any) -> None:
    check = quick(schema)
    if check is not None and check(value):
        assert Draft202012Validator(schema).is_valid(value)
