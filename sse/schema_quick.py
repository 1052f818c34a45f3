"""A quick yes for usual answers to usual schemas. Pure.

Most forms are an object of a few booleans, texts and numbers. For such a schema there is a function
here that takes 2 µs where the whole validator takes 60. It only ever says that a value fits; what
it does not say so of, and every other schema, is looked at in full. A test holds both against each
other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

Fits = Callable[[Any], bool]

_ANNOTATIONS: Final = frozenset(
    (
        "$comment",
        "$schema",
        "default",
        "deprecated",
        "description",
        "examples",
        "format",
        "readOnly",
        "title",
        "writeOnly",
    )
)
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "array": (list,),
    "boolean": (bool,),
    "integer": (int,),
    "null": (type(None),),
    "number": (int, float),
    "object": (dict,),
    "string": (str,),
}


def quick(schema: object) -> Fits | None:
    """A function that is true only for values that fit; None where there is none."""
    if schema is True:
        return lambda _value: True
    if not isinstance(schema, dict):
        return None
    rules = {name: rule for name, rule in schema.items() if name not in _ANNOTATIONS}
    types = rules.pop("type", None)
    if not isinstance(types, str):
        return None
    enum = rules.pop("enum", None)
    fits = _of_type(types, rules)
    if fits is None or enum is None:
        return fits
    if types != "string":
        return None
    texts = frozenset(each for each in enum if isinstance(each, str))
    return lambda value: fits(value) and value in texts


def _of_type(name: str, rules: dict[str, Any]) -> Fits | None:
    if name == "object":
        return _object(rules)
    if name == "string" and rules.keys() <= {"minLength", "maxLength"}:
        least, most = rules.get("minLength", 0), rules.get("maxLength", float("inf"))
        return lambda value: type(value) is str and least <= len(value) <= most
    if name in ("integer", "number") and rules.keys() <= {"minimum", "maximum"}:
        types = _TYPES[name]
        low, high = rules.get("minimum", float("-inf")), rules.get("maximum", float("inf"))
        return lambda value: type(value) in types and low <= value <= high
    if name in ("boolean", "null", "array") and not rules:
        types = _TYPES[name]
        return lambda value: type(value) in types
    return None


def _object(rules: dict[str, Any]) -> Fits | None:
    properties = rules.pop("properties", {})
    required = frozenset(rules.pop("required", ()))
    others = rules.pop("additionalProperties", True)
    if rules or not isinstance(others, bool):
        return None
    known: dict[str, Fits] = {}
    for name, schema in properties.items():
        fits = quick(schema)
        if fits is None:
            return None
        known[name] = fits

    def check(value: Any) -> bool:
        if type(value) is not dict or not required <= value.keys():
            return False
        for name, member in value.items():
            fits = known.get(name)
            if fits is None:
                if not others:
                    return False
            elif not fits(member):
                return False
        return True

    return check
