"""The graph of an orchestration: what waits for what, what can't be run, and the cut into parts."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.jobs import graph
from gateway.jobs.graph import BadGraphError, Graph
from gateway.jobs.models import OrchestrationInput, ServiceRequest, Step


def step(step_id: str, *after: str, **more: Any) -> Step:
    return Step(step_id, "shop", depends_on=list(after), **more)


def made(*steps: Step, output: Any = None) -> Graph:
    return graph.graph_of(OrchestrationInput(list(steps), output))


def faults(*steps: Step, output: Any = None) -> list[tuple[str, str]]:
    return graph.faults(OrchestrationInput(list(steps), output))


def test_steps_come_after_those_they_wait_for_and_else_as_given() -> None:
    found = made(step("d", "b", "c"), step("b", "a"), step("c", "a"), step("a"), step("x"))
    assert found.order == ("a", "x", "b", "c", "d")
    assert found.depths == {"a": 0, "x": 0, "b": 1, "c": 1, "d": 2}


def test_a_reference_is_a_dependency() -> None:
    found = made(
        step("a"),
        step("b"),
        step("c"),
        step("d"),
        step("e"),
        step(
            "f",
            path="/${/a/id}",
            query={"q": {"$result": "/b"}},
            headers={"X": "${/c}"},
            body={"$result": "/$answers/d/status"},
            condition={"pointer": "/e", "exists": True},
        ),
    )
    assert found.waits["f"] == {"a", "b", "c", "d", "e"}


@pytest.mark.parametrize(
    ("steps", "cycle"),
    [
        ([step("a", "a")], "a -> a"),
        ([step("a", "b"), step("b", "a")], "a -> b -> a"),
        ([step("x"), step("a", "x", "c"), step("b", "a"), step("c", "b")], "a -> c -> b -> a"),
        ([step("a", body="${/b}"), step("b", condition={"pointer": "/a", "exists": True})], "a ->"),
        ([step("a", path="/${/a/id}")], "a -> a"),
    ],
)
def test_a_cycle_is_refused_and_named(steps: list[Step], cycle: str) -> None:
    [(pointer, message)] = faults(*steps)
    assert cycle in message
    assert pointer == f"/steps/{[each.id for each in steps].index('a')}"
    with pytest.raises(BadGraphError, match="waits for itself"):
        made(*steps)


def test_there_is_no_cycle_where_ways_only_meet() -> None:
    assert graph.cycle_in({"a": (), "b": ("a",), "c": ("a", "b"), "d": ("b", "c")}) == []


def test_a_very_long_chain_is_no_deep_recursion() -> None:
    steps = [step("s0"), *(step(f"s{n}", f"s{n - 1}") for n in range(1, graph.MAX_STEPS))]
    assert made(*steps).depths[f"s{graph.MAX_STEPS - 1}"] == graph.MAX_STEPS - 1
    [(_, message)] = faults(step("s0", f"s{graph.MAX_STEPS - 1}"), *steps[1:])
    assert message.startswith("waits for itself")


@pytest.mark.parametrize(
    ("steps", "pointer"),
    [
        ([], "/steps"),
        ([step("")], "/steps/0/id"),
        ([step("a/b")], "/steps/0/id"),
        ([step("$errors")], "/steps/0/id"),
        ([step("a" * 65)], "/steps/0/id"),
        ([step("a"), step("a")], "/steps/1/id"),
        ([step("a", "b")], "/steps/0/depends_on/0"),
        ([step("a"), step("b", path="/${/c/id}")], "/steps/1/path"),
        ([step("a"), step("b", body={"x": [{"$result": "/c"}]})], "/steps/1/body/x/0"),
        ([step("a"), step("b", body={"$result": ""})], "/steps/1/body"),
        ([step("a", headers={"X": "${oops"})], "/steps/0/headers/X"),
        ([step("a", condition={"pointer": "/x", "exists": True})], "/steps/0/condition/pointer"),
        ([step("a", condition={"matches": "x"})], "/steps/0/condition"),
        ([step(f"s{n}") for n in range(graph.MAX_STEPS + 1)], "/steps"),
    ],
)
def test_what_cannot_be_run_is_told_with_its_place(steps: list[Step], pointer: str) -> None:
    assert [found for found, _ in faults(*steps)] == [pointer]


def test_an_output_refers_to_steps_that_there_are() -> None:
    assert faults(step("a"), output={"x": {"$result": "/a"}, "all": {"$result": ""}}) == []
    assert faults(step("a"), output={"x": "${/b}"}) == [("/output/x", "there is no result b")]


def test_what_undoes_a_step_knows_its_result_and_those_before_it() -> None:
    def undo(template: str) -> ServiceRequest:
        return ServiceRequest("shop", template)

    assert (
        faults(step("a"), step("b", "a"), step("c", "b", compensation=undo("/${/c/id}/${/a/id}")))
        == []
    )
    assert faults(step("a"), step("b", compensation=undo("/${/a/id}"))) == [
        ("/steps/1/compensation/path", "when b is undone a need not be there")
    ]
    assert faults(step("a", compensation=undo("/${}"))) == [
        ("/steps/0/compensation/path", "when a is undone that need not be there")
    ]
    [(pointer, message)] = faults(step("a", compensation=undo("/${x")))
    assert (pointer, "without its }" in message) == ("/steps/0/compensation/path", True)


def test_not_more_faults_are_told_than_somebody_reads() -> None:
    assert len(faults(*(step(f"s{n}", "none") for n in range(100)))) == 20


# Parts


def checked(found: Graph, size: int) -> list[tuple[str, ...]]:
    """The parts; none is too large, and none waits for itself through another."""
    parts = graph.parts(found, size)
    assert sorted(each for part in parts for each in part) == sorted(found.order)
    assert all(len(part) <= size for part in parts)
    where = {each: number for number, part in enumerate(parts) for each in part}
    waits = {
        str(number): {
            str(where[other]) for each in part for other in found.waits[each] if other not in part
        }
        for number, part in enumerate(parts)
    }
    assert graph.cycle_in(waits) == []
    return parts


def test_what_hangs_together_stays_together() -> None:
    chains = [
        step(f"{name}{n}", *([f"{name}{n - 1}"] if n else [])) for n in range(4) for name in "abc"
    ]
    parts = checked(made(*chains), 4)
    assert sorted("".join(sorted({each[0] for each in part})) for part in parts) == ["a", "b", "c"]


def test_what_is_too_large_is_cut_in_its_order() -> None:
    chain = [step("s0"), *(step(f"s{n}", f"s{n - 1}") for n in range(1, 10))]
    parts = checked(made(*chain, step("x"), step("y")), 4)
    assert [len(part) for part in parts] == [4, 4, 4]
    assert parts[2] == ("s8", "s9", "x", "y")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_any_graph_is_cut_into_parts_that_can_be_run(size: int) -> None:
    steps = [step(f"s{n}", *(f"s{m}" for m in (n // 2, n - 3) if 0 <= m < n)) for n in range(40)]
    checked(made(*steps), size)


def test_steps_that_wait_for_very_many_others_are_refused() -> None:
    ids = [f"s{number}" for number in range(220)]
    steps = [Step(each, "svc", depends_on=ids[:at]) for at, each in enumerate(ids)]
    [(at, text)] = graph.faults(OrchestrationInput(steps))
    assert (at, "20000" in text) == ("/steps", True)
    assert graph.faults(OrchestrationInput(steps[:200])) == []
