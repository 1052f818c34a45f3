"""Whether something is a JSON Schema 2020-12: each keyword's value has its shape. Pure.

What the metaschema says (draft-bhutton-json-schema-01 §8 to §10, -validation-01 §6 to §9), as a
table; and the list of all subschemas, for who looks into them. Further than the draft goes: at most
MAX_SUBSCHEMAS, MAX_DEPTH deep, `$id` at the root alone, and `$schema` names this draft.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

MAX_SUBSCHEMAS: Final = 500
MAX_DEPTH: Final = 32
DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"

Fault = tuple[str, str]

_TYPES: Final = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))
_ANCHOR: Final = re.compile(r"[A-Za-z_][-A-Za-z0-9._]*").fullmatch
_ID: Final = re.compile(r"[^#]*#?").fullmatch


class SubSchema(NamedTuple):
    """A subschema, where it stands, and its keywords (none of true and false)."""

    pointer: str
    value: object
    members: dict[str, Any]


def child(pointer: str, *names: str | int) -> str:
    """The JSON pointer (RFC 6901) of something below another."""
    escaped = (str(name).replace("~", "~0").replace("/", "~1") for name in names)
    return "/".join((pointer, *escaped))


def walk(schema: object) -> tuple[list[SubSchema], list[Fault]]:
    """All subschemas, and what is wrong with their shape. Stops at the bounds."""
    found: list[SubSchema] = []
    faults: list[Fault] = []
    waiting: list[tuple[str, object, int]] = [("", schema, 0)]
    while waiting:
        at, value, depth = waiting.pop()
        if not isinstance(value, dict | bool):
            faults.append((at, "A schema is an object, true or false."))
            continue
        members = value if isinstance(value, dict) else {}
        found.append(SubSchema(at, value, members))
        if len(found) > MAX_SUBSCHEMAS:
            return found, [("", f"Has more than {MAX_SUBSCHEMAS} subschemas.")]
        if depth > MAX_DEPTH:
            return found, [(at, f"Is nested deeper than {MAX_DEPTH} levels of schemas.")]
        for name, rule in members.items():
            wrong = _wrong(name, rule, depth)
            if wrong:
                faults.append((child(at, name), wrong))
            else:
                below = _subschemas(name, rule, child(at, name))
                waiting += [(where, each, depth + 1) for where, each in below]
    return found, faults


def _wrong(name: str, rule: object, depth: int) -> str | None:
    """What is wrong with a keyword's value as such."""
    if name == "$id" and depth:
        return "Stands at the root of a schema only."
    shape = _SHAPES.get(name)
    if shape is None or shape.holds(rule):
        return None
    return f"Is not {shape.text}."


def _subschemas(name: str, rule: Any, at: str) -> Iterator[tuple[str, object]]:
    shape = _SHAPES.get(name)
    if shape is _SCHEMA:
        yield at, rule
    elif shape is _SCHEMA_LIST:
        yield from ((child(at, index), each) for index, each in enumerate(rule))
    elif shape is _SCHEMA_MAP:
        yield from ((child(at, key), each) for key, each in rule.items())


# Shapes


class _Shape(NamedTuple):
    holds: Callable[[Any], bool]
    text: str


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return whole and not isinstance(value, bool) and value >= 0  # type: ignore[operator]


def _is_texts(value: object) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(each, str) for each in value)
        and len(set(value)) == len(value)
    )


def _is_type(value: object) -> bool:
    if isinstance(value, str):
        return value in _TYPES
    return _is_texts(value) and bool(value) and _TYPES.issuperset(value)  # type: ignore[arg-type]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_texts_map(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_texts, value.values()))


def _is_flags_map(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(each, bool) for each in value.values())


def _matching(match: Callable[[str], object]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and match(value) is not None


# What it holds is looked at as a subschema of its own.
_SCHEMA: Final = _Shape(lambda _value: True, "a schema")
_SCHEMA_LIST: Final = _Shape(
    lambda value: isinstance(value, list) and bool(value), "a list of one or more schemas"
)
_SCHEMA_MAP: Final = _Shape(lambda value: isinstance(value, dict), "an object of schemas")
_TEXT: Final = _Shape(_is_text, "a text")
_NUMBER: Final = _Shape(_is_number, "a number")
_COUNT: Final = _Shape(_is_count, "a whole number from 0")
_FLAG: Final = _Shape(lambda value: isinstance(value, bool), "true or false")
_LIST: Final = _Shape(lambda value: isinstance(value, list), "a list")
_NAME: Final = _Shape(_matching(_ANCHOR), "a name of letters, digits, '.', '_' and '-'")

_BY_SHAPE: Final[tuple[tuple[_Shape, str], ...]] = (
    (
        _SCHEMA,
        "additionalProperties contains contentSchema else if items not propertyNames then"
        " unevaluatedItems unevaluatedProperties",
    ),
    (_SCHEMA_LIST, "allOf anyOf oneOf prefixItems"),
    (_SCHEMA_MAP, "$defs definitions dependentSchemas patternProperties properties"),
    (
        _TEXT,
        "$comment $dynamicRef $ref contentEncoding contentMediaType description format pattern"
        " title",
    ),
    (_NUMBER, "exclusiveMaximum exclusiveMinimum maximum minimum"),
    (
        _COUNT,
        "maxContains maxItems maxLength maxProperties minContains minItems minLength minProperties",
    ),
    (_FLAG, "deprecated readOnly uniqueItems writeOnly"),
    (_LIST, "enum examples"),
    (_NAME, "$anchor $dynamicAnchor"),
    (_Shape(lambda value: _is_number(value) and value > 0, "a number above 0"), "multipleOf"),
    (_Shape(_is_texts, "a list of different texts"), "required"),
    (_Shape(_is_texts_map, "an object of lists of different texts"), "dependentRequired"),
    (_Shape(_is_flags_map, "an object of true and false"), "$vocabulary"),
    (_Shape(_is_type, f"one of {', '.join(sorted(_TYPES))}, or a list of them"), "type"),
    (_Shape(_matching(_ID), "an address without a fragment"), "$id"),
    (
        _Shape(lambda value: value in (DRAFT, f"{DRAFT}#"), f"{DRAFT}, the only draft taken"),
        "$schema",
    ),
)
_SHAPES: Final = {name: shape for shape, names in _BY_SHAPE for name in names.split()}
