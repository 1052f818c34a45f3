"""Conditions over the results of a job, as data: nothing is evaluated but comparisons. Pure.

A condition is `true`, `false`, `{"all": [...]}`, `{"any": [...]}`, `{"not": ...}` or a comparison
`{"pointer": "/step/total", "at_least": 10, "less": 100}`, of which all parts must hold:

    exists (a boolean)   equals   not_equals   in   not_in (lists)
    greater   at_least   less   at_most (numbers with numbers, strings with strings)

What it is compared with may hold references. A value that isn't there equals nothing, is in
nothing and is neither greater nor less; so only `not_equals`, `not_in` and `exists: false` hold.
Equality is JSON's: 1 is 1.0, and true is not 1. There are no patterns: they can be made to take
for ever, and a worker must not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from gateway.jobs import references

MAX_DEPTH: Final = 16
# A condition is looked at inside a workflow task, which has two seconds for all it does.
MAX_PARTS: Final = 200
# What all of its parts may be compared with, as far as that is made of results.
MAX_CHARACTERS: Final = 1 << 20
_GROUPS: Final = ("all", "any")


class BadConditionError(ValueError):
    """A condition that can't be read; `pointer` is where in it."""

    def __init__(self, pointer: str, message: str) -> None:
        self.pointer = pointer
        self.message = message
        super().__init__(f"{pointer or 'the condition'}: {message}")


def check(condition: Any, at: str = "") -> list[references.Reference]:
    """What the condition refers to. Raises BadConditionError, references.BadTemplateError."""
    seen = list(_parts(condition, at, 0))
    if len(seen) > MAX_PARTS:
        raise BadConditionError(at, f"more than {MAX_PARTS} parts")
    return [each for each in seen if each is not None]


def holds(condition: Any, results: Any, budget: references.Budget | None = None) -> bool:
    """Whether the condition holds over the results. None is no condition: it holds. `budget`: of
    what is compared with, where it is made of results; shared with other conditions.

    Raises references.NoResultError when what is compared with isn't there, or is too much.
    """
    if condition is None or isinstance(condition, bool):
        return condition is not False
    budget = budget or references.Budget(MAX_CHARACTERS)
    if "all" in condition:
        return all(holds(each, results, budget) for each in condition["all"])
    if "any" in condition:
        return any(holds(each, results, budget) for each in condition["any"])
    if "not" in condition:
        return not holds(condition["not"], results, budget)
    pointer = condition["pointer"]
    there = references.found(results, pointer)
    value = references.resolve(results, pointer) if there else None
    return all(
        _COMPARISONS[name](there, value, references.fill(operand, results, budget=budget))
        for name, operand in condition.items()
        if name != "pointer"
    )


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return bool(one == other)


def _ordered(value: Any, operand: Any) -> bool:
    return all(_number(each) for each in (value, operand)) or all(
        isinstance(each, str) for each in (value, operand)
    )


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _among(there: bool, value: Any, operand: Any) -> bool:
    return there and isinstance(operand, list) and any(same(value, each) for each in operand)


_COMPARISONS: Final[Mapping[str, Callable[[bool, Any, Any], bool]]] = {
    "exists": lambda there, _, operand: there is operand,
    "equals": lambda there, value, operand: there and same(value, operand),
    "not_equals": lambda there, value, operand: not (there and same(value, operand)),
    "in": _among,
    "not_in": lambda there, value, operand: not _among(there, value, operand),
    "greater": lambda there, value, operand: there and _ordered(value, operand) and value > operand,
    "at_least": lambda there, value, operand: (
        there and _ordered(value, operand) and value >= operand
    ),
    "less": lambda there, value, operand: there and _ordered(value, operand) and value < operand,
    "at_most": lambda there, value, operand: (
        there and _ordered(value, operand) and value <= operand
    ),
}


def _parts(condition: Any, at: str, depth: int) -> Iterator[references.Reference | None]:
    """One for each part of a condition: its reference, or None."""
    if depth > MAX_DEPTH:
        raise BadConditionError(at, f"deeper than {MAX_DEPTH} levels")
    yield None
    if condition is None or isinstance(condition, bool):
        return
    if not isinstance(condition, dict):
        raise BadConditionError(at, "a condition is an object or a boolean")
    if "pointer" in condition:
        yield from _comparison(condition, at)
        return
    if len(condition) != 1:
        raise BadConditionError(at, "a condition has a pointer, or one of all, any, not")
    name, inner = next(iter(condition.items()))
    if name in _GROUPS:
        if not isinstance(inner, list) or not inner:
            raise BadConditionError(f"{at}/{name}", "a list of conditions")
        for index, each in enumerate(inner):
            yield from _parts(each, f"{at}/{name}/{index}", depth + 1)
    elif name == "not":
        yield from _parts(inner, f"{at}/not", depth + 1)
    else:
        raise BadConditionError(at, "a condition has a pointer, or one of all, any, not")


def _comparison(condition: dict[str, Any], at: str) -> Iterator[references.Reference | None]:
    pointer = condition["pointer"]
    if not isinstance(pointer, str):
        raise BadConditionError(f"{at}/pointer", "a JSON pointer")
    try:
        references.tokens_of(pointer)
    except ValueError as error:
        raise BadConditionError(f"{at}/pointer", str(error)) from None
    yield references.Reference(pointer, f"{at}/pointer")
    if len(condition) == 1:
        raise BadConditionError(at, f"compared by one of {', '.join(_COMPARISONS)}")
    for name, operand in condition.items():
        if name == "pointer":
            continue
        if name not in _COMPARISONS:
            raise BadConditionError(f"{at}/{name}", f"not one of {', '.join(_COMPARISONS)}")
        if name == "exists" and not isinstance(operand, bool):
            raise BadConditionError(f"{at}/exists", "true or false")
        if name in ("in", "not_in") and isinstance(operand, (str, int, float, bool)):
            raise BadConditionError(f"{at}/{name}", "a list")
        yield from references.references(operand, f"{at}/{name}")
