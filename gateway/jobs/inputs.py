"""From a request's body to the input of a job, or to everything that is wrong with it.

First the JSON Schema (`schemas`), then the dataclass (`models`), then what no schema can say: are
the services registered, can the steps be run, are the schemas and questions in it good ones. Nobody
is asked for that, and nothing is started yet.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

import orjson
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from gateway.errors import Rejection
from gateway.jobs import schemas
from gateway.jobs.input_checks import Fault, InputChecks, Registered
from gateway.jobs.refusals import MAX_FAULTS, JobRefusedError, unprocessable
from gateway.jobs.types import JOB_TYPES, JobType
from sse.answer_schema import pointer
from sse.schema_patterns import regex
from sse.schema_words import brief, required, sentence, words

__all__ = ["MAX_INPUT_BYTES", "Inputs", "Registered", "argument", "job_type", "made"]

MAX_INPUT_BYTES: Final = 1 << 20
# Deeper is no request any more, and JSON writers on the way have bounds of their own.
MAX_NESTING: Final = 100
# Each is taken apart some times, here and in the worker: 50 us.
MAX_REFERENCES: Final = 5000
_REFERENCE: Final = "$result"
# Requests as they are; what looks like a reference in them is none.
_NO_TEMPLATES: Final = frozenset(("api_request_workflow", "async_request_workflow"))


def job_type(name: str) -> JobType:
    """The kind of job of that name; raises JobRefusedError (404) with those that there are."""
    found = JOB_TYPES.get(name)
    if found is None:
        known = ", ".join(JOB_TYPES)
        message = f"There is no workflow of this type; there are: {known}."
        raise JobRefusedError(Rejection("NOT_FOUND", message))
    return found


class Inputs:
    """Reads inputs; what it is made of is as of `InputChecks`."""

    def __init__(
        self,
        services: Callable[[], Mapping[str, Registered]],
        callback_fault: Callable[[str], str | None],
    ) -> None:
        self._checks = InputChecks(services, callback_fault)

    def read(self, kind: JobType, body: bytes, asked_by: str | None) -> Any:
        """The input, its services by their own names. `asked_by` is whose questions a job asks.

        Raises JobRefusedError: BAD_REQUEST for what is not JSON or nested too deep, UNPROCESSABLE
        with a pointer to each fault.
        """
        value = _json(body)
        faults = _breaches(kind.name, value)
        if not faults and kind.name not in _NO_TEMPLATES and _references(value) > MAX_REFERENCES:
            faults = [("", f"Holds more than {MAX_REFERENCES} references.")]
        if faults:
            raise unprocessable(faults)
        given = made(kind.input, value)
        faults = list(self._checks.faults(given, asked_by))
        if faults:
            raise unprocessable(faults)
        return given


def argument(name: str, args: Sequence[Any]) -> list[Any]:
    """What a signal or update is called with, out of what a caller gave. `skip_step` takes a step's
    id, or an object with it as `id`; the others take nothing. Raises JobRefusedError (422).
    """
    given = args[0] if args else None
    if name != "skip_step":
        if given not in (None, {}):
            text = f"{name} takes nothing: send no body."
            raise unprocessable([("", text)], "The job was not told.")
        return []
    step = given["id"] if isinstance(given, dict) and set(given) == {"id"} else given
    if not isinstance(step, str) or regex(schemas.STEP_ID).search(step) is None:
        text = 'Lacks the id of a step: send it as {"id": "…"}.'
        raise unprocessable([("", text)], "Nothing was skipped.")
    return [step]


def _json(body: bytes) -> Any:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        text = f"The input is not JSON (RFC 8259): {error.msg}, line {error.lineno}."
        raise JobRefusedError(Rejection("BAD_REQUEST", text)) from None
    if _is_deep(value):
        text = f"The input is nested deeper than {MAX_NESTING} levels."
        raise JobRefusedError(Rejection("BAD_REQUEST", text))
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_NESTING):
        below: list[Any] = []
        for each in level:
            if type(each) is dict:
                below += each.values()
            elif type(each) is list:
                below += each
        if not below:
            return False
        level = [each for each in below if type(each) in (dict, list)]
    return bool(level)


def _references(value: Any) -> int:
    """How many references a value may hold at most."""
    count, waiting = 0, [value]
    while waiting:
        each = waiting.pop()
        if type(each) is str:
            count += each.count("${")
        elif type(each) is list:
            waiting += each
        elif type(each) is dict:
            count += _REFERENCE in each
            waiting += each.values()
    return count


# The schemas


def _within(keyword: Any, bound: str) -> Any:
    """A keyword that looks at each item or member, but not where there are more than `bound` says:
    that is a fault of its own, and enough.
    """

    def looking(
        validator: Any, rule: Any, value: Any, schema: Mapping[str, Any]
    ) -> Iterable[ValidationError] | None:
        if isinstance(value, list | dict) and len(value) > schema.get(bound, len(value)):
            return None
        found: Iterable[ValidationError] | None = keyword(validator, rule, value, schema)
        return found

    return looking


def _items(
    validator: Any, rule: Mapping[str, Any], value: Any, _schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    """Lists of texts are long ones here: 100 times as fast as by a validator for each."""
    if not isinstance(value, list):
        return
    texts = rule.get("type") == "string" and rule.keys() <= _OF_TEXTS
    most, pattern = rule.get("maxLength", math.inf), rule.get("pattern")
    matches = None if pattern is None else regex(pattern).search
    for index, item in enumerate(value):
        fits = texts and isinstance(item, str) and len(item) <= most
        if not (fits and (matches is None or matches(item) is not None)):
            yield from validator.descend(item, rule, path=index)


_OF_TEXTS: Final = frozenset(("type", "pattern", "maxLength", "description"))


def _pattern(
    validator: Any, rule: str, value: Any, _schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    """By RE2, as for schemas of questions: `$` is the end there, never before a last line end."""
    if isinstance(value, str) and regex(rule).search(value) is None:
        yield ValidationError(f"does not match the pattern {rule}")


_KNOWN: Final = Draft202012Validator.VALIDATORS
_Validator: Final = extend(
    Draft202012Validator,
    {
        "pattern": _pattern,
        "items": _within(_items, "maxItems"),
        "additionalProperties": _within(_KNOWN["additionalProperties"], "maxProperties"),
        "required": required,
        "propertyNames": _within(_KNOWN["propertyNames"], "maxProperties"),
    },
)


@lru_cache(maxsize=len(schemas.INPUTS))
def _validator(name: str) -> Any:
    return _Validator(schemas.INPUTS[name])


def _breaches(name: str, value: Any) -> list[Fault]:
    """Where a value is not as the schema says, at most MAX_FAULTS."""
    found: list[Fault] = []
    for error in _validator(name).iter_errors(value):
        found.append((pointer(error.absolute_path), _message(error)))
        if len(found) == MAX_FAULTS:
            break
    return found


def _message(error: Any) -> str:
    """What is wrong, without repeating what was given: it may be long, or not for logs. Names that
    are no members are repeated, as far as they are short.
    """
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        others = sorted(name for name in error.instance if name not in known)
        there = "is no member" if len(others) == 1 else "are no members"
        return sentence(f"there {there} {brief(', '.join(others))}")
    if error.validator == "oneOf":
        names = ", ".join(each["required"][0] for each in error.validator_value)
        return f"Needs exactly one of {names}."
    if error.validator == "pattern" and error.validator_value in _FORMS:
        return _FORMS[error.validator_value]
    return words(error)


_FORMS: Final[Mapping[str, str]] = {
    schemas.STEP_ID: "An id is 1 to 64 of the characters A-Z a-z 0-9 _ . -",
    schemas.PATH: "A path begins with / and holds no query: put that in `query`. What no path may"
    " hold as it is (RFC 3986 §3.3) is percent-encoded.",
    schemas.FIELD_NAME: "A field's name is 1 to 64 of the characters of RFC 9110 §5.6.2.",
    schemas.FIELD_VALUE: "A field's value holds no line end and no other control character.",
    schemas.BASE64: "Must be Base64 (RFC 4648 §4), with its padding.",
    schemas.CLIENT_ID: "A client id is 1 to 128 of the characters A-Z a-z 0-9 . _ ~ : @ -",
}


# The dataclasses


def made(kind: Any, value: Any) -> Any:
    """A value of a dataclass's type out of JSON that fits its schema."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        [kind] = [each for each in get_args(kind) if each is not type(None)]
        return made(kind, value)
    if origin is list and isinstance(value, list):
        [inner] = get_args(kind)
        return [made(inner, each) for each in value]
    if not (isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict)):
        return value
    members = {name: made(hint, value[name]) for name, hint in _hints(kind) if name in value}
    if "default" in value and "has_default" in (each.name for each in fields(kind)):
        members["has_default"] = True
    return kind(**members)


@lru_cache(maxsize=64)  # the dataclasses of models, which are fewer
def _hints(kind: type) -> tuple[tuple[str, Any], ...]:
    return tuple(get_type_hints(kind).items())
