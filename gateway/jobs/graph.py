"""The steps of an orchestration as a graph: what waits for what, whether that can be done at all,
and how many steps are cut into parts. Pure; used by the gateway before anything starts and by the
workflow.

A step waits for those in its `depends_on` and, said or not, for those that its request or condition
refers to: a reference is a dependency. What it waits for has to end, however that be: a step that
was skipped, or failed and is optional, has ended and has no result.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.jobs import conditions, references
from gateway.jobs.models import OrchestrationInput, Step

# 10 children. Replaying the parent of so many takes about a second, of the two that the SDK allows
# code to run without a pause (1,000 steps: 3.2 s under a profiler).
MAX_STEPS: Final = 500
# Of one workflow: what the issue asks for.
PART_STEPS: Final = 50
_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# For whom all steps wait, counted each time: what is before what is found out in a task of the
# workflow, which has 2 s for all it does.
MAX_WAITS: Final = 20_000
_MAX_FAULTS: Final = 20
Fault = tuple[str, str]


class BadGraphError(ValueError):
    """Steps that can't be run; `faults` are (JSON pointer into the input, message) pairs."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{pointer}: {message}" for pointer, message in faults))


@dataclass(frozen=True, slots=True)
class Graph:
    """`order`: all ids, each after those it waits for, else as given. `waits`: for whom each waits.
    `depths`: 0 for those that wait for none, else one more than the deepest that is waited for.
    """

    order: tuple[str, ...]
    waits: Mapping[str, frozenset[str]]
    depths: Mapping[str, int]


def faults(given: OrchestrationInput) -> list[Fault]:
    """What is wrong with the steps and the output; empty: they can be run."""
    return _read(given)[0][:_MAX_FAULTS]


def graph_of(given: OrchestrationInput) -> Graph:
    """The graph of the steps. Raises BadGraphError."""
    found, waits = _read(given)
    if found:
        raise BadGraphError(found[:_MAX_FAULTS])
    return _graph(waits)


def parts(graph: Graph, size: int = PART_STEPS) -> list[tuple[str, ...]]:
    """The steps cut into parts of `size` at most, such that parts wait for earlier parts only.

    What hangs together stays together where it fits, so that parts wait for each other as little
    as can be.
    """
    done: list[tuple[str, ...]] = []
    open_part: list[str] = []
    for island in _islands(graph):
        for start in range(0, len(island), size):
            piece = island[start : start + size]
            if len(open_part) + len(piece) > size:
                done.append(tuple(open_part))
                open_part = []
            open_part.extend(piece)
    done.append(tuple(open_part))
    return done


def cycle_in(waits: Mapping[str, Collection[str]]) -> list[str]:
    """A cycle, as the ids along it with the first one again at its end; empty: there is none."""
    settled: set[str] = set()
    for start in waits:
        path: list[str] = []
        on_path: set[str] = set()
        trail: list[tuple[str, Iterator[str]]] = [(start, iter((start,)))]
        while trail:
            step = next(trail[-1][1], None)
            if step is None:
                trail.pop()
                if path:
                    settled.add(path[-1])
                    on_path.discard(path.pop())
            elif step in on_path:
                return [*path[path.index(step) :], step]
            elif step not in settled:
                path.append(step)
                on_path.add(step)
                trail.append((step, iter(sorted(waits[step]))))
    return []


def _read(given: OrchestrationInput) -> tuple[list[Fault], dict[str, frozenset[str]]]:
    steps = given.steps
    found = list(_ids(steps))
    if found:
        return found, {}
    ids = {step.id for step in steps}
    waits: dict[str, frozenset[str]] = {}
    for index, step in enumerate(steps):
        wrong, waited = _waits(step, f"/steps/{index}", ids)
        found.extend(wrong)
        waits[step.id] = frozenset(waited & ids)
    if sum(map(len, waits.values())) > MAX_WAITS:
        return [*found, ("/steps", f"wait for more than {MAX_WAITS} others in all")], waits
    cycle = cycle_in(waits)
    if cycle:
        index = next(index for index, step in enumerate(steps) if step.id == cycle[0])
        found.append((f"/steps/{index}", f"waits for itself: {' -> '.join(cycle)}"))
    elif not found:
        found.extend(_compensations(steps, waits))
    found.extend(_under("/output", references.faults(given.output, ids)))
    return found, waits


def _ids(steps: Sequence[Step]) -> Iterator[Fault]:
    if not steps:
        yield "/steps", "there are no steps"
    if len(steps) > MAX_STEPS:
        yield "/steps", f"more than {MAX_STEPS} steps"
        return
    seen: set[str] = set()
    for index, step in enumerate(steps):
        if not _ID.fullmatch(step.id):
            yield f"/steps/{index}/id", "1 to 64 letters, digits, dots, dashes and underscores"
        elif step.id in seen:
            yield f"/steps/{index}/id", f"there is a step {step.id} already"
        seen.add(step.id)


def _waits(step: Step, at: str, ids: Collection[str]) -> tuple[list[Fault], set[str]]:
    """What is wrong with a step, and for whom it waits."""
    found = [
        (f"{at}/depends_on/{index}", f"there is no step {each}")
        for index, each in enumerate(step.depends_on)
        if each not in ids
    ]
    waited = set(step.depends_on)
    for wrong, name in _referring(step, at):
        if isinstance(wrong, references.Reference):
            if wrong.root is None:
                found.append((wrong.at, "names no step"))
            elif wrong.root not in ids:
                found.append((wrong.at, f"there is no step {wrong.root}"))
            else:
                waited.add(wrong.root)
        else:
            found.append((f"{at}/{name}{wrong[0]}", wrong[1]))
    return found, waited


def _referring(step: Step, at: str) -> Iterator[tuple[references.Reference | Fault, str]]:
    """The references of a step's request and condition, or what keeps them from being read."""
    for name in ("path", "query", "headers", "body"):
        try:
            for each in references.references(getattr(step, name), f"{at}/{name}"):
                yield each, name
        except references.BadTemplateError as error:
            yield (error.pointer.removeprefix(f"{at}/{name}"), error.message), name
    try:
        for each in conditions.check(step.condition, f"{at}/condition"):
            yield each, "condition"
    except (conditions.BadConditionError, references.BadTemplateError) as error:
        yield (error.pointer.removeprefix(f"{at}/condition"), error.message), "condition"


def _compensations(steps: Sequence[Step], waits: Mapping[str, frozenset[str]]) -> Iterator[Fault]:
    """What undoes a step knows the step's own result and those that were there before it."""
    before: dict[str, frozenset[str]] | None = None  # most name their own result only
    for index, step in enumerate(steps):
        if step.compensation is None:
            continue
        at = f"/steps/{index}/compensation"
        try:
            found = list(references.references_of(step.compensation, at))
        except references.BadTemplateError as error:
            yield error.pointer, error.message
            continue
        for each in found:
            if each.root == step.id:
                continue
            before = before or _before(waits, _graph(waits).order)
            if each.root not in before[step.id]:
                yield each.at, f"when {step.id} is undone {each.root or 'that'} need not be there"


def _before(waits: Mapping[str, frozenset[str]], order: Iterable[str]) -> dict[str, frozenset[str]]:
    before: dict[str, frozenset[str]] = {}
    for each in order:
        before[each] = waits[each].union(*(before[other] for other in waits[each]))
    return before


def _graph(waits: Mapping[str, frozenset[str]]) -> Graph:
    """Kahn's order, those that are ready in the order they were given; there is no cycle."""
    depths: dict[str, int] = {}
    order: list[str] = []
    left = {step: len(waited) for step, waited in waits.items()}
    waiting: dict[str, list[str]] = {step: [] for step in waits}
    for step, waited in waits.items():
        for each in sorted(waited):
            waiting[each].append(step)
    ready = [step for step, count in left.items() if not count]
    while ready:
        coming: list[str] = []
        for step in ready:
            order.append(step)
            depths[step] = 1 + max((depths[each] for each in waits[step]), default=-1)
            for each in waiting[step]:
                left[each] -= 1
                if not left[each]:
                    coming.append(each)
        ready = coming
    return Graph(tuple(order), waits, depths)


def _islands(graph: Graph) -> list[list[str]]:
    """Steps that hang together in any way, each island in the graph's order; large ones first, so
    that small ones fill what those leave.
    """
    leader: dict[str, str] = {step: step for step in graph.order}

    def of(step: str) -> str:
        while leader[step] != step:
            leader[step] = leader[leader[step]]
            step = leader[step]
        return step

    for step in graph.order:
        for each in sorted(graph.waits[step]):
            leader[of(step)] = of(each)
    islands: dict[str, list[str]] = {}
    for step in graph.order:
        islands.setdefault(of(step), []).append(step)
    return sorted(islands.values(), key=len, reverse=True)


def _under(at: str, found: Iterable[Fault]) -> Iterator[Fault]:
    for pointer, message in found:
        yield at + pointer, message
