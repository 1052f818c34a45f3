"""From JSON values to the typed inputs and results of jobs, as their annotations say.

The SDK's own does the same, but evaluates the annotations of a dataclass for each value: 3 ms for
one activity's input (measured), in the time of the event loop. Here that is done once a class. What
is not a matter of plain data (unions of several, enums, dates) is left to the SDK.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, Final, TypeAlias, Union, get_args, get_origin, get_type_hints

from temporalio.converter import value_to_type

Read: TypeAlias = Callable[[Any], Any]

# On the class itself: workflow code is loaded anew for each job, and its classes must be able to
# go again; a table of them would keep them all.
_READ: Final = "__job_read__"


def typed(hint: Any, value: Any) -> Any:
    """`value`, of JSON, as `hint` says. Members of objects that a dataclass does not know are left
    out: they are of a newer gateway's. Raises TypeError for what does not fit; it holds no value.
    """
    return _reader(hint)(value)


def _reader(hint: Any) -> Read:
    if hint is Any:
        return _as_it_is
    if hint in _PLAIN:
        return _PLAIN[hint]
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return lambda value: _of_dataclass(hint, value)
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType) and len(args) == 2 and args[1] is NoneType:
        read = _reader(args[0])
        return lambda value: None if value is None else read(value)
    if origin is list and len(args) == 1:
        return _lists(_reader(args[0]))
    if origin is dict and args and args[0] is str:
        return _objects(_reader(args[1]))
    return lambda value: value_to_type(hint, value)


def _as_it_is(value: Any) -> Any:
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong("text", value)
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong("true or false", value)
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int | float):
        raise _wrong("a number", value)
    return int(value)


def _number(value: Any) -> float:
    if not isinstance(value, int | float):
        raise _wrong("a number", value)
    return float(value)


def _nothing(value: Any) -> None:
    if value is not None:
        raise _wrong("null", value)


_PLAIN: Final[dict[Any, Read]] = {
    str: _text,
    bool: _boolean,
    int: _whole,
    float: _number,
    NoneType: _nothing,
    None: _nothing,
}


def _lists(read: Read) -> Read:
    def of_list(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise _wrong("a list", value)
        return list(value) if read is _as_it_is else [read(each) for each in value]

    return of_list


def _objects(read: Read) -> Read:
    def of_object(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong("an object", value)
        if read is _as_it_is:
            return dict(value)
        return {name: read(each) for name, each in value.items()}

    return of_object


def _of_dataclass(kind: type[Any], value: Any) -> Any:
    if not isinstance(value, dict):
        raise _wrong(kind.__name__, value)
    readers: dict[str, Read] | None = kind.__dict__.get(_READ)
    if readers is None:
        hints = get_type_hints(kind)
        readers = {
            each.name: _reader(hints[each.name]) for each in dataclasses.fields(kind) if each.init
        }
        setattr(kind, _READ, readers)
    given = {name: read(value[name]) for name, read in readers.items() if name in value}
    try:
        return kind(**given)
    except TypeError:
        missing = ", ".join(sorted(set(readers) - set(given)))
        raise TypeError(f"{kind.__name__} can't be made without {missing}") from None


def _wrong(expected: str, value: Any) -> TypeError:
    return TypeError(f"expected {expected}, not {type(value).__name__}")
