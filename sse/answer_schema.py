"""What an answer must look like: a JSON Schema, or a list of options. Pure.

JSON Schema 2020-12 (draft-bhutton-json-schema-01 and -validation-01) by jsonschema, with what an
asker's schema could do to everybody else taken away:

- nothing is ever fetched: a `$ref` stays within the schema, else the schema is refused;
- patterns run in RE2, within bounds of their own (`schema_patterns`);
- sizes, depth and the number of subschemas are bounded, and one check of an answer takes at most
  so many steps: references can double the work at each level of a small schema, and what is said
  of a large value repeats it;
- `format` is an annotation, as the draft has it.

The schema itself is checked here and not by its metaschema: that takes 2 ms for each subschema, so
500 empty ones would hold up the loop for a second. A test holds both against each other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

import orjson
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import NoSuchResource, Unresolvable
from referencing.jsonschema import DRAFT202012

from sse.schema_patterns import bad_patterns, regex, search_steps
from sse.schema_quick import quick
from sse.schema_shape import Fault, SubSchema, child, walk
from sse.schema_words import (
    brief,
    dependent_required,
    property_names,
    required,
    sentence,
    words,
)

MAX_SCHEMA_BYTES: Final = 16384
MAX_POINTER: Final = 512  # characters: more than any form has
# Who gets that many wrong sends something else, not a slip.
MAX_FAULTS: Final = 20
# A keyword applied to a value is one step, an item or member that it goes through another, a
# reference five (20 µs). At 5 µs a step that is 0.1 s at the very worst; a usual answer takes ten.
MAX_STEPS: Final = 20_000
_REFERENCE_STEPS: Final = 5
# Schemas that were read and are kept; the largest take some 200 KB each, 50 MB at worst.
MAX_KEPT: Final = 256
# A schema that refers to itself without end shows that with any value.
TRIAL_STEPS: Final = 2_000
_TRIALS: Final[tuple[object, ...]] = (None, True, 0, "", [], {})
# What takes a step, 5 us: values that are compared or looked through, characters that are told.
_VALUES_A_STEP: Final = 8
_CHARACTERS_A_STEP: Final = 2000
# Keywords that look at each item or member of the value themselves.
_GOING_THROUGH: Final = frozenset(
    (
        "additionalProperties",
        "contains",
        "items",
        "patternProperties",
        "propertyNames",
        "unevaluatedItems",
        "unevaluatedProperties",
        "uniqueItems",
    )
)

Keyword = Callable[[Any, Any, Any, Mapping[str, Any]], Iterable[ValidationError] | None]


class BadSchema(Exception):
    """A schema that can't be used; `faults` are (JSON pointer within it, message) pairs."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)[:MAX_FAULTS]
        super().__init__(self.faults)


class TooManyStepsError(Exception):
    """A check took more steps than any sensible schema and answer need."""


class Checker(Protocol):
    """Says what is wrong with an answer."""

    def faults(self, value: object) -> list[Fault]:
        """(JSON pointer within the value, message) pairs; none when it fits."""


class Anything:
    """Where the asker set no rule."""

    def faults(self, value: object) -> list[Fault]:
        """Any JSON value fits."""
        return []


class Options:
    """One of some texts."""

    def __init__(self, options: Iterable[str]) -> None:
        self._options = tuple(options)

    def faults(self, value: object) -> list[Fault]:
        """Whether it is one of them."""
        if isinstance(value, str) and value in self._options:
            return []
        options = brief(orjson.dumps(self._options).decode())
        return [("", sentence(f"is none of the options: {options}"))]


class SchemaChecker:
    """A JSON Schema, ready to use."""

    def __init__(self, schema: object, validator: Any, steps: _Steps) -> None:
        self._quick = quick(schema)
        self._validator = validator
        self._steps = steps

    def faults(self, value: object) -> list[Fault]:
        """What does not fit, at most MAX_FAULTS."""
        if self._quick is not None and self._quick(value):
            return []
        self._steps.left = MAX_STEPS
        found: list[Fault] = []
        try:
            for error in self._validator.iter_errors(value):
                found.append((pointer(error.absolute_path), words(error)))
                if len(found) == MAX_FAULTS:
                    break
        except (TooManyStepsError, RecursionError):
            return [("", "Takes too long to check against the question's schema.")]
        except ArithmeticError:
            return [("", "Holds a number that the question's schema can't be applied to.")]
        return found


class AnswerSchemas:
    """Reads schemas, and keeps those that were used last."""

    def __init__(self) -> None:
        self._steps = _Steps()
        self._kept: OrderedDict[bytes, Checker] = OrderedDict()
        self._validator = extend(Draft202012Validator, self._steps.keywords())

    def __repr__(self) -> str:
        return f"<AnswerSchemas {len(self._kept)} kept>"

    def read(self, schema: object) -> Checker:
        """What an asker's schema says; raises BadSchema."""
        text = orjson.dumps(schema)
        if len(text) > MAX_SCHEMA_BYTES:
            raise BadSchema([("", f"Has {len(text)} bytes; at most {MAX_SCHEMA_BYTES} are taken.")])
        known = self._known(text)
        if known is None:
            examine(schema)
            validator = self._validator(schema, registry=Registry())
            for value in _TRIALS:
                if self._steps.passed(validator, value, TRIAL_STEPS):
                    raise BadSchema([("", "Goes round in circles, or takes too many steps.")])
            known = self._keep(text, schema)
        return known

    def checker(self, schema: object) -> Checker:
        """The same for a schema that was read before, here or by another gateway."""
        text = orjson.dumps(schema)
        return self._known(text) or self._keep(text, schema)

    def _known(self, text: bytes) -> Checker | None:
        known = self._kept.get(text)
        if known is not None:
            self._kept.move_to_end(text)
        return known

    def _keep(self, text: bytes, schema: object) -> Checker:
        validator = self._validator(schema, registry=Registry())
        self._kept[text] = checker = SchemaChecker(schema, validator, self._steps)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return checker


class _Steps:
    """The steps that the check under way may still take. Checks are synchronous: one at a time."""

    def __init__(self) -> None:
        self.left = MAX_STEPS

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise TooManyStepsError

    def passed(self, validator: Any, value: object, steps: int) -> bool:
        """Whether a check takes more steps than these."""
        self.left = steps
        try:
            validator.is_valid(value)
        except (TooManyStepsError, RecursionError):
            return True
        return False

    def keywords(self) -> dict[str, Keyword]:
        """Every keyword of the draft, counted; those with patterns or a square of steps ours."""
        mine: dict[str, Keyword] = {
            "additionalProperties": self._additional_properties,
            "pattern": self._pattern,
            "patternProperties": self._pattern_properties,
            "dependentRequired": dependent_required,
            "propertyNames": property_names,
            "required": required,
            "uniqueItems": _unique_items,
        }
        known: dict[str, Keyword] = dict(Draft202012Validator.VALIDATORS)
        return {name: self._counted(name, call) for name, call in (known | mine).items()}

    def _counted(self, name: str, call: Keyword) -> Keyword:
        goes_through = name in _GOING_THROUGH
        least = _REFERENCE_STEPS if name in ("$ref", "$dynamicRef") else 1
        compares = {"enum": 0, "const": 0, "uniqueItems": 1}.get(name)

        def counted(
            validator: Any, rule: Any, value: Any, schema: Mapping[str, Any]
        ) -> Iterator[ValidationError]:
            steps = least
            if type(rule) in (list, dict):
                steps += len(rule)
            if goes_through and type(value) in (list, dict):
                steps += len(value)
            if compares is not None:
                steps += _count((rule, value)[compares], self.left) // _VALUES_A_STEP
            self.spend(steps)
            for error in call(validator, rule, value, schema) or ():
                # It repeats the value, however large that is.
                self.spend(len(error.message) // _CHARACTERS_A_STEP)
                yield error

        return counted

    # Keywords of our own

    def _found(self, pattern: str, text: str) -> bool:
        self.spend(search_steps(pattern, text))
        return regex(pattern).search(text) is not None

    def _pattern(
        self, validator: Any, rule: str, value: Any, _schema: Mapping[str, Any]
    ) -> Iterator[ValidationError]:
        if isinstance(value, str) and not self._found(rule, value):
            yield ValidationError(f"does not match the pattern {rule}")

    def _pattern_properties(
        self, validator: Any, rule: Mapping[str, Any], value: Any, _schema: Mapping[str, Any]
    ) -> Iterator[ValidationError]:
        if not isinstance(value, dict):
            return
        for pattern, schema in rule.items():
            for name, member in value.items():
                if self._found(pattern, name):
                    yield from validator.descend(member, schema, path=name, schema_path=pattern)

    def _additional_properties(
        self, validator: Any, rule: Any, value: Any, schema: Mapping[str, Any]
    ) -> Iterator[ValidationError]:
        if not isinstance(value, dict):
            return
        named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        for name, member in value.items():
            if name in named or any(self._found(each, name) for each in patterns):
                continue
            if rule is False:
                text = "is not among the members that the schema names"
                yield ValidationError(text, path=(name,))
            else:
                yield from validator.descend(member, rule, path=name)


def _unique_items(
    validator: Any, rule: bool, value: Any, _schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    """jsonschema's compares each with each where items can't be sorted."""
    if rule and isinstance(value, list) and len(set(map(_frozen, value))) != len(value):
        yield ValidationError("holds the same item twice")


def _frozen(value: Any) -> object:
    """Something hashable that is equal where the JSON values are: 1 and 1.0 are, true and 1 not."""
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, list):
        return ("list", tuple(map(_frozen, value)))
    if isinstance(value, dict):
        return ("object", frozenset((name, _frozen(each)) for name, each in value.items()))
    return value


def _count(value: Any, steps: int) -> int:
    """The number of values in a JSON value; what is beyond the steps that are left is not looked
    at.
    """
    count, waiting, most = 0, [value], (steps + 1) * _VALUES_A_STEP
    while waiting and count <= most:
        each = waiting.pop()
        count += 1
        if type(each) is list:
            waiting += each
        elif type(each) is dict:
            waiting += each.values()
    return count


# Reading a schema


def examine(schema: object) -> None:
    """Raises BadSchema for what is no schema of the draft, or none that is taken here."""
    subschemas, faults = walk(schema)
    if not faults:
        faults = [*_bad_references(schema, subschemas), *bad_patterns(subschemas)]
    if not faults:
        evaluating = [each for each in subschemas if "unevaluatedProperties" in each.members]
        if evaluating and any("patternProperties" in each.members for each in subschemas):
            text = "unevaluatedProperties is not taken together with patternProperties."
            faults = [(child(evaluating[0].pointer, "unevaluatedProperties"), text)]
    if faults:
        raise BadSchema(faults)


def _bad_references(schema: object, subschemas: Iterable[SubSchema]) -> Iterator[Fault]:
    resource = DRAFT202012.create_resource(schema)
    base = resource.id() or ""
    resolver = Registry().with_resource(base, resource).resolver(base)
    for each in subschemas:
        for name in ("$ref", "$dynamicRef"):
            reference = each.members.get(name)
            if not isinstance(reference, str):
                continue
            at = child(each.pointer, name)
            if not reference.startswith("#"):
                yield at, "Is not within this schema; nothing is fetched, put it into $defs."
                continue
            try:
                found = resolver.lookup(reference).contents
            except (Unresolvable, NoSuchResource, ValueError, TypeError, LookupError):
                yield at, "Refers to nothing in this schema."
                continue
            if not any(found is known.value for known in subschemas):
                yield at, "Refers to something that is not a schema, or not where schemas stand."


def pointer(path: Iterable[str | int]) -> str:
    """A JSON pointer (RFC 6901); of a long one that to what it stands in: names are a client's, and
    each of MAX_FAULTS faults below one would repeat it.
    """
    made = ""
    for each in path:
        token = f"/{str(each).replace('~', '~0').replace('/', '~1')}"
        if len(made) + len(token) > MAX_POINTER:
            break
        made += token
    return made
