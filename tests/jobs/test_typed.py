"""JSON values as typed inputs and results: as the SDK reads them, and faster."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any

import pytest
from temporalio.converter import value_to_type

from gateway.jobs import activity_models, models
from gateway.jobs.typed import typed

BY_NAME = {
    name: each
    for name, each in (vars(models) | vars(activity_models)).items()
    if isinstance(each, type) and is_dataclass(each)
}


class Colour(StrEnum):
    RED = "red"


@dataclass
class Inner:
    name: str
    amount: float = 0.0


@dataclass
class Outer:
    inner: Inner
    maybe: Inner | None = None
    many: list[Inner] = field(default_factory=list)
    by_name: dict[str, Inner] = field(default_factory=dict)
    anything: Any = None
    texts: list[str] | None = None
    colour: Colour = Colour.RED
    several: int | str = 0
    made: int = field(init=False, default=7)


def filled(kind: Any) -> dict[str, Any]:
    """A value for every field of a model that has no default."""
    by_type = {"str": "a", "float": 1.5, "int": 2, "bool": True, "Any": {"x": [1]}}
    found: dict[str, Any] = {}
    for each in fields(kind):
        name = str(each.type)
        if name in by_type:
            found[each.name] = by_type[name]
        elif name in BY_NAME:
            found[each.name] = filled(BY_NAME[name])
        elif name.startswith("list["):
            inner = name[5:-1]
            found[each.name] = [filled(BY_NAME[inner])] if inner in BY_NAME else []
        elif name.startswith("dict["):
            found[each.name] = {"a": "b"}
    return found


@pytest.mark.parametrize("model", BY_NAME.values(), ids=BY_NAME)
def test_every_model_is_read_as_the_sdk_reads_it(model: Any) -> None:
    value = filled(model)
    read = typed(model, value)
    assert read == value_to_type(model, value)
    assert typed(model, asdict(read)) == read
    assert typed(model, value | {"of a newer gateway": 1}) == read


def test_nested_values_get_their_types() -> None:
    value = {
        "inner": {"name": "a", "amount": 1},
        "maybe": {"name": "b"},
        "many": [{"name": "c"}],
        "by_name": {"d": {"name": "d"}},
        "anything": {"name": "as it is"},
        "texts": ["e"],
        "colour": "red",
        "several": "f",
        "made": 8,
    }
    read = typed(Outer, value)
    assert read == Outer(
        Inner("a", 1.0), Inner("b"), [Inner("c")], {"d": Inner("d")}, {"name": "as it is"}, ["e"],
        Colour.RED, "f",
    )  # fmt: skip
    assert isinstance(read.inner.amount, float)
    assert read.made == 7


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Any, {"a": 1}), (str, "a"), (bool, False), (int, 3), (int, 3.0),
        (float, 3), (type(None), None), (None, None), (list[int], [1, 2]), (list[Any], [None]),
        (dict[str, Any], {"a": None}), (dict[str, int], {"a": 1}), (str | None, None),
        (list, [1]), (dict, {"a": 1}), (dict[int, str], {"1": "a"}),
    ],
)  # fmt: skip
def test_plain_hints_are_read_as_the_sdk_reads_them(hint: Any, value: Any) -> None:
    assert typed(hint, value) == (None if hint is None else value_to_type(hint, value))


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (str, 1), (bool, 1), (int, "1"), (float, "1"), (type(None), 0), (list[int], {}),
        (list[int], ["a"]), (dict[str, int], []), (dict[str, int], {"a": "b"}), (Inner, []),
        (Inner, {"name": 1}), (Inner, {"amount": 1}), (str | None, 1), (int | str, []),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(hint: Any, value: Any) -> None:
    with pytest.raises(TypeError):
        typed(hint, value)


def test_a_refusal_names_what_is_missing_and_no_value() -> None:
    with pytest.raises(TypeError, match=r"^Inner can't be made without name$"):
        typed(Inner, {"amount": 4711})
    with pytest.raises(TypeError, match=r"^expected text, not int$"):
        typed(Inner, {"name": 4711})
