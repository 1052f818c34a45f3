"""What is wrong with a value, in words: for who sent it, a program's author or somebody at a form.

A sentence for each keyword of JSON Schema 2020-12 (draft-bhutton-json-schema-validation-01 §6). It
says what would fit, and never repeats the value: that may be long, or not for logs. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson
from jsonschema.exceptions import ValidationError

MAX_CHARACTERS: Final = 200  # of a rule that is shown, or of names

_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "array": "an array",
        "boolean": "a boolean (true or false)",
        "integer": "an integer",
        "null": "null",
        "number": "a number",
        "object": "an object",
        "string": "a string",
    }
)


def words(error: ValidationError) -> str:
    """The sentence for what a validator found."""
    name, rule = error.validator, error.validator_value
    if name == "items":  # all that stand behind prefixItems are ruled out
        rule = len(error.schema.get("prefixItems", ()))
    elif name == "contains":
        rule = error.schema.get("minContains", 1)
    if name in _OWN:
        return sentence(brief(error.message))
    say = _SENTENCES.get(name)
    if say is not None:
        return say(rule)
    return "Nothing can stand here." if name is None else sentence(f"does not fit {name}")


def sentence(clause: str) -> str:
    """A clause as a sentence: with a capital and a full stop, unless it ends in … as `brief`'s."""
    return f"{clause[:1].upper()}{clause[1:]}{'' if clause.endswith(('.', '…')) else '.'}"


def brief(text: str, most: int = MAX_CHARACTERS) -> str:
    """A text as it is shown, cut where it is long."""
    return text if len(text) <= most else f"{text[:most]}…"


def required(
    _validator: Any, rule: list[str], value: Any, _schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    """The keyword, with one error for all that is missing: jsonschema's has one for each."""
    missing = [name for name in rule if name not in value] if isinstance(value, dict) else []
    if missing:
        yield ValidationError(f"lacks {', '.join(missing)}")


def dependent_required(
    _validator: Any, rule: Mapping[str, list[str]], value: Any, _schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    """The keyword, with one error for all that a member asks for."""
    for each, needed in rule.items() if isinstance(value, dict) else ():
        missing = [name for name in needed if name not in value] if each in value else []
        if missing:
            yield ValidationError(f"lacks {', '.join(missing)}, needed beside {each}")


def property_names(
    validator: Any, rule: Any, value: Any, _schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    """The keyword, with errors that point at the member and speak of its name."""
    for name in value if isinstance(value, dict) else ():
        for error in validator.descend(name, rule):
            said = words(error)
            text = f"a member's name: {said[0].lower()}{said[1:]}"
            yield ValidationError(text, path=(name,))


# Keywords whose messages are written here or beside here, as clauses.
_OWN: Final = frozenset(
    (
        "additionalProperties",
        "dependentRequired",
        "pattern",
        "propertyNames",
        "required",
        "uniqueItems",
    )
)


def _json(rule: Any) -> str:
    return brief(orjson.dumps(rule).decode())


def _number(rule: float) -> str:
    """As a person writes it: 86400 and not 86400.0."""
    return str(int(rule)) if abs(rule) < 1e15 and rule == int(rule) else str(rule)


def _either(said: Iterable[str]) -> str:
    *others, last = said
    return f"{', '.join(others)} or {last}" if others else last


def _type(rule: str | list[str]) -> str:
    return (
        f"Must be {_either(_TYPES[each] for each in ([rule] if isinstance(rule, str) else rule))}."
    )


def _enum(rule: list[Any]) -> str:
    values = ", ".join(orjson.dumps(each).decode() for each in rule)
    return sentence(f"must be one of {brief(values)}")


def _bound(before: str, unit: str = "", behind: str = "") -> Callable[[float], str]:
    """A sentence with a number, and what is counted where something is."""

    def say(rule: float) -> str:
        counted = f" {unit}{'' if rule == 1 else 's'}" if unit else ""
        return f"{before} {_number(rule)}{counted}{behind}."

    return say


def _always(text: str) -> Callable[[Any], str]:
    return lambda _rule: text


_COUNTED: Final = " of the items that the schema counts"
_SENTENCES: Final[Mapping[str, Callable[[Any], str]]] = MappingProxyType(
    {
        "type": _type,
        "enum": _enum,
        "const": lambda rule: sentence(f"must be {_json(rule)}"),
        "minimum": _bound("Must be at least"),
        "maximum": _bound("Must be at most"),
        "exclusiveMinimum": _bound("Must be more than"),
        "exclusiveMaximum": _bound("Must be less than"),
        "multipleOf": _bound("Must be a multiple of"),
        "minLength": _bound("Needs at least", "character"),
        "maxLength": _bound("Takes at most", "character"),
        "minItems": _bound("Needs at least", "item"),
        "maxItems": _bound("Takes at most", "item"),
        "items": _bound("Takes at most", "item"),
        "minProperties": _bound("Needs at least", "member"),
        "maxProperties": _bound("Takes at most", "member"),
        "anyOf": _always("Fits none of the schemas of anyOf."),
        "oneOf": _always("Does not fit exactly one of the schemas of oneOf."),
        "not": _always("Fits what the schema rules out."),
        "contains": _bound("Needs at least", behind=_COUNTED),
        "minContains": _bound("Needs at least", behind=_COUNTED),
        "maxContains": _bound("Takes at most", behind=_COUNTED),
        "unevaluatedItems": _always("Has items that the schema does not name."),
        "unevaluatedProperties": _always("Has members that the schema does not name."),
    }
)
