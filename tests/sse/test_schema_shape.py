"""What is a schema: the table of shapes says what the draft's metaschema says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from sse.schema_shape import MAX_DEPTH, MAX_SUBSCHEMAS, child, walk

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=150)


def faults(schema: object) -> list[str]:
    return [pointer for pointer, _ in walk(schema)[1]]


def by_metaschema(schema: object) -> bool:
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError:
        return False
    return True


NAMES = [
    "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not",
    "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties", "allOf", "anyOf",
    "oneOf", "prefixItems", "$defs", "dependentSchemas", "patternProperties", "properties",
    "$comment", "$ref", "$dynamicRef", "contentEncoding", "contentMediaType", "description",
    "format", "pattern", "title", "exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum",
    "maxContains", "maxItems", "maxLength", "maxProperties", "minContains", "minItems",
    "minLength", "minProperties", "deprecated", "readOnly", "uniqueItems", "writeOnly", "enum",
    "examples", "$anchor", "$dynamicAnchor", "multipleOf", "required", "dependentRequired",
    "type", "const", "default", "unknown", "$id",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 1.0, 1.5, 2**70, "", "string", "a b", "x_y-1.2", "#", [], [[]],
    ["a"], ["a", "a"], ["string", "null"], [True], [{}], [1], {}, {"a": True}, {"a": {}},
    {"a": []}, {"a": ["b"]}, {"a": ["b", "b"]}, {"a": 1}, {"type": "integer"},
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_each_keyword_takes_what_the_metaschema_takes(name: str) -> None:
    for value in VALUES:
        schema = {name: value}
        assert (not faults(schema)) is by_metaschema(schema), schema


schemas = st.recursive(
    st.booleans() | st.sampled_from([{"type": "string"}, {"minimum": 3}, {"type": "odd"}, {}, 3]),
    lambda inner: st.dictionaries(
        st.sampled_from(["items", "not", "properties", "allOf", "$defs", "if", "minLength"]),
        inner
        | st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b/c"]), inner, max_size=2)
        | st.integers(-2, 5),
        max_size=3,
    ),
    max_leaves=8,
)


@unhurried
@given(schemas)
def test_nested_schemas_are_taken_as_the_metaschema_takes_them(schema: Any) -> None:
    assert (not faults(schema)) is by_metaschema(schema)


def test_a_fault_is_where_it_stands() -> None:
    schema = {"properties": {"a/b": {"allOf": [{}, {"minLength": -1}]}}, "type": "odd"}
    assert set(faults(schema)) == {"/type", "/properties/a~1b/allOf/1/minLength"}
    assert faults("no schema") == [""]
    assert faults({"items": 3}) == ["/items"]


@pytest.mark.parametrize(
    "schema",
    [
        {"$schema": "http://json-schema.org/draft-07/schema#"},
        {"$schema": 7},
        {"items": {"$id": "https://example.test/"}},
        {"$vocabulary": {"https://example.test/": 1}},
        {"$id": "https://example.test/#part"},
    ],
)
def test_what_would_change_the_rules_is_not_taken(schema: Any) -> None:
    assert faults(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://x.test/s"},
        {"$vocabulary": {"https://example.test/": True}},
        {"const": {"$ref": "anything"}, "enum": [{"type": "odd"}], "x-mine": {"type": "odd"}},
    ],
)
def test_what_only_says_what_it_is_is_taken(schema: Any) -> None:
    assert faults(schema) == []


def test_the_number_of_subschemas_is_bounded() -> None:
    assert faults({"anyOf": [{}] * (MAX_SUBSCHEMAS - 1)}) == []
    assert faults({"anyOf": [{}] * MAX_SUBSCHEMAS}) == [""]


def test_the_depth_is_bounded() -> None:
    schema: Any = {}
    for _ in range(MAX_DEPTH):
        schema = {"not": schema}
    assert faults(schema) == []
    assert faults({"not": schema}) == ["/not" * (MAX_DEPTH + 1)]


def test_all_subschemas_are_found() -> None:
    schema = {"$defs": {"a": {"items": True}}, "prefixItems": [{}, False], "if": {"const": {}}}
    found = {each.pointer for each in walk(schema)[0]}
    assert found == {"", "/$defs/a", "/$defs/a/items", "/prefixItems/0", "/prefixItems/1", "/if"}


def test_pointers_are_escaped() -> None:
    assert child("/a", "b/c~d", 0) == "/a/b~1c~0d/0"
