"""Conditions as data: what holds over which results, and what is no condition."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.jobs import conditions
from gateway.jobs.conditions import BadConditionError
from gateway.jobs.references import BadTemplateError, Budget, NoResultError

RESULTS: dict[str, Any] = {
    "a": {"n": 5, "f": 5.0, "s": "five", "t": True, "z": None, "list": [1, {"x": 2}], "o": {"k": 1}}
}


def holds(comparison: dict[str, Any], pointer: str = "/a/n") -> bool:
    condition = {"pointer": pointer} | comparison
    conditions.check(condition)
    return conditions.holds(condition, RESULTS)


@pytest.mark.parametrize(
    ("pointer", "comparison", "expected"),
    [
        ("/a/n", {"equals": 5}, True),
        ("/a/n", {"equals": 5.0}, True),
        ("/a/n", {"equals": "5"}, False),
        ("/a/t", {"equals": 1}, False),
        ("/a/t", {"equals": True}, True),
        ("/a/n", {"equals": True}, False),
        ("/a/z", {"equals": None}, True),
        ("/a/none", {"equals": None}, False),
        ("/a/list", {"equals": [1.0, {"x": 2}]}, True),
        ("/a/list", {"equals": [True, {"x": 2}]}, False),
        ("/a/list", {"equals": [1]}, False),
        ("/a/o", {"equals": {"k": True}}, False),
        ("/a/o", {"equals": {}}, False),
        ("/a/o", {"equals": {"k": 1}}, True),
        ("/a/n", {"not_equals": 6}, True),
        ("/a/n", {"not_equals": 5}, False),
        ("/a/none", {"not_equals": 5}, True),
        ("/a/n", {"exists": True}, True),
        ("/a/n", {"exists": False}, False),
        ("/a/z", {"exists": True}, True),
        ("/a/none", {"exists": False}, True),
        ("/a/n", {"greater": 4}, True),
        ("/a/n", {"greater": 5}, False),
        ("/a/n", {"at_least": 5}, True),
        ("/a/n", {"less": 5.5}, True),
        ("/a/n", {"less": 5}, False),
        ("/a/n", {"at_most": 5}, True),
        ("/a/n", {"at_most": 4}, False),
        ("/a/n", {"greater": "4"}, False),
        ("/a/s", {"greater": "fi"}, True),
        ("/a/t", {"at_least": 0}, False),
        ("/a/none", {"at_least": 0}, False),
        ("/a/none", {"less": 0}, False),
        ("/a/none", {"at_most": 0}, False),
        ("/a/none", {"greater": 0}, False),
        ("/a/n", {"at_least": 1, "less": 10}, True),
        ("/a/n", {"at_least": 1, "less": 5}, False),
        ("/a/s", {"in": ["four", "five"]}, True),
        ("/a/t", {"in": [1, "true"]}, False),
        ("/a/none", {"in": [None]}, False),
        ("/a/s", {"not_in": ["four"]}, True),
        ("/a/s", {"not_in": ["five"]}, False),
        ("/a/none", {"not_in": [None]}, True),
        ("/a/n", {"equals": {"$result": "/a/f"}}, True),
        ("/a/n", {"in": {"$result": "/a/list"}}, False),
        ("/a/n", {"in": {"$result": "/a/s"}}, False),
    ],
)
def test_a_comparison(pointer: str, comparison: dict[str, Any], expected: bool) -> None:
    assert holds(comparison, pointer) is expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (None, True),
        (True, True),
        (False, False),
        ({"all": [True, {"pointer": "/a/n", "equals": 5}]}, True),
        ({"all": [True, False]}, False),
        ({"any": [False, {"not": False}]}, True),
        ({"any": [False, False]}, False),
        ({"not": {"pointer": "/a/n", "equals": 5}}, False),
    ],
)
def test_conditions_are_put_together(condition: Any, expected: bool) -> None:
    conditions.check(condition)
    assert conditions.holds(condition, RESULTS) is expected


def test_what_it_is_compared_with_has_to_be_there() -> None:
    with pytest.raises(NoResultError):
        holds({"equals": {"$result": "/none"}})


def test_all_references_of_a_condition_are_found() -> None:
    found = conditions.check(
        {"all": [{"pointer": "/a/n", "equals": {"$result": "/b"}}, {"not": {"any": [True]}}]}, "/c"
    )
    assert [(each.pointer, each.at) for each in found] == [
        ("/a/n", "/c/all/0/pointer"),
        ("/b", "/c/all/0/equals"),
    ]


@pytest.mark.parametrize(
    ("condition", "pointer"),
    [
        ("a > 5", ""),
        ({}, ""),
        ({"all": [True], "any": [True]}, ""),
        ({"xor": []}, ""),
        ({"all": []}, "/all"),
        ({"any": True}, "/any"),
        ({"not": {"not": []}}, "/not/not"),
        ({"pointer": "/a"}, ""),
        ({"pointer": 5, "equals": 1}, "/pointer"),
        ({"pointer": "a", "equals": 1}, "/pointer"),
        ({"pointer": "/a", "matches": ".*"}, "/matches"),
        ({"pointer": "/a", "exists": "yes"}, "/exists"),
        ({"pointer": "/a", "in": "abc"}, "/in"),
        ({"any": [True, {"pointer": "/a", "equals": "${x}"}]}, "/any/1/equals"),
    ],
)
def test_what_is_no_condition_is_refused_with_its_place(condition: Any, pointer: str) -> None:
    with pytest.raises((BadConditionError, BadTemplateError)) as refused:
        conditions.check(condition)
    assert refused.value.pointer == pointer
    assert refused.value.message


def test_a_condition_is_bounded() -> None:
    deep: Any = True
    for _ in range(conditions.MAX_DEPTH):
        deep = {"not": deep}
    conditions.check(deep)
    with pytest.raises(BadConditionError, match="deeper"):
        conditions.check({"not": deep})
    conditions.check({"all": [True] * 199})
    with pytest.raises(BadConditionError, match="parts"):
        conditions.check({"all": [True] * 200})


def test_it_is_told_which_results_a_condition_looks_into() -> None:
    condition = {"all": [{"pointer": "/b/x", "equals": "${/a}"}, True]}
    found = [(each.at, each.root) for each in conditions.check(condition)]
    assert found == [("/all/0/pointer", "b"), ("/all/0/equals", "a")]


def test_what_is_compared_is_bounded_for_all_parts_together() -> None:
    large = {"a": [[7] * 5] * 4000}
    part = {"pointer": "/a", "equals": {"$result": "/a"}}
    assert conditions.holds(part, large)
    with pytest.raises(NoResultError, match="characters"):
        conditions.holds({"all": [part] * conditions.MAX_PARTS}, large)
    with pytest.raises(NoResultError, match="characters"):
        conditions.holds({"not": {"any": [{"not": part}] * 2}}, large)
    budget = Budget(1_000_000)
    assert conditions.holds(part, large, budget)
    with pytest.raises(NoResultError, match="characters"):
        conditions.holds(part, large, budget)
