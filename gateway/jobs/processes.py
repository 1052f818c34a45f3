"""What is wrong with the input of a process, a tenant switch or a recovery, beyond its JSON Schema:
found before anything starts, by the gateway and once more by the worker. Pure.

Not here: the order of an orchestration's steps and its depths (`graph`), whether a service is
registered and a question's JSON Schema good (the gateway alone can tell).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from gateway.jobs import conditions, references
from gateway.jobs.models import (
    Ask,
    BusinessProcessInput,
    ErrorRecoveryInput,
    ProcessStep,
    TenantSwitchInput,
)

INPUT: Final = "input"
DECISIONS: Final = "decisions"
SESSION: Final = "session_id"
VALIDATE: Final = "validate"
FAILURE: Final = "failure"
REQUEST: Final = "request"

# Of a step: exactly one of them says what it is.
_KINDS: Final = ("request", "value", "ask", "wait_seconds")
# Of a question: what may hold references.
ASK_TEMPLATES: Final = ("prompt", "client_ids", "approvers", "options", "default", "metadata")

STRATEGIES: Final = ("retry", "fallback", "circuit_breaker")


class Flaw(NamedTuple):
    """What is wrong, and where: a JSON pointer into the input."""

    pointer: str
    message: str


def flaws_of(given: BusinessProcessInput | TenantSwitchInput | ErrorRecoveryInput) -> list[Flaw]:
    """What is wrong with it; empty: it can start."""
    if isinstance(given, BusinessProcessInput):
        return list(_process(given))
    if isinstance(given, TenantSwitchInput):
        return list(_switch(given))
    return list(_recovery(given))


def _process(given: BusinessProcessInput) -> Iterator[Flaw]:
    known = {INPUT, DECISIONS}
    yield from _ids((step.id for step in given.steps), known)
    for index, step in enumerate(given.steps):
        at = f"/steps/{index}"
        yield from _one_kind(step, at)
        yield from _condition(step.condition, known, f"{at}/condition")
        if step.request is not None:
            yield from _references(references.references_of, step.request, known, f"{at}/request")
        yield from _references(references.references, step.value, known, f"{at}/value")
        if step.ask is not None:
            yield from _question(step.ask, known, f"{at}/ask")
        known = known | {step.id}
        yield from _condition(step.continue_when, known, f"{at}/continue_when")
        if step.compensation is not None:
            undo = step.compensation
            yield from _references(references.references_of, undo, known, f"{at}/compensation")
    yield from _references(references.references, given.output, known, "/output")


def _switch(given: TenantSwitchInput) -> Iterator[Flaw]:
    known = {INPUT, SESSION}
    check = references.references_of
    yield from _references(check, given.validate, known, "/validate")
    known = known | {VALIDATE}
    yield from _ids((step.id for step in given.services), known, "/services")
    for index, step in enumerate(given.services):
        at = f"/services/{index}"
        yield from _references(check, step.request, known, f"{at}/request")
        known = known | {step.id}
        if step.compensation is not None:
            yield from _references(check, step.compensation, known, f"{at}/compensation")
    yield from _references(references.references, given.context, known, "/context")


def _recovery(given: ErrorRecoveryInput) -> Iterator[Flaw]:
    if given.strategy is not None and given.strategy not in STRATEGIES:
        yield Flaw("/strategy", f"one of {', '.join(STRATEGIES)}")
    fallback = given.fallback
    if fallback is None and given.strategy == "fallback":
        yield Flaw("/fallback", "there is none, and the strategy is fallback")
    if fallback is not None and fallback.request is None and fallback.answer is None:
        yield Flaw("/fallback", "a fallback has a request or an answer")
    known = {FAILURE}
    yield from _references(references.references_of, given.request, known, "/request")
    if fallback is not None and fallback.request is not None:
        known = known | {REQUEST}
        at = "/fallback/request"
        yield from _references(references.references_of, fallback.request, known, at)


def _ids(ids: Iterable[str], reserved: set[str], at: str = "/steps") -> Iterator[Flaw]:
    seen = set(reserved)
    for index, each in enumerate(ids):
        if each in reserved:
            yield Flaw(f"{at}/{index}/id", f"the name {each} is taken: it is a result of its own")
        elif each in seen:
            yield Flaw(f"{at}/{index}/id", f"there is a step {each} before")
        seen.add(each)


def _one_kind(step: ProcessStep, at: str) -> Iterator[Flaw]:
    # `value: null` can't be told from none: a step with nothing else is that.
    if sum(getattr(step, kind) is not None for kind in _KINDS) > 1:
        yield Flaw(at, f"a step has one of {', '.join(_KINDS)}")
    if step.rules and step.request is None:
        yield Flaw(f"{at}/rules", "rules are for a request's answer")


def _question(ask: Ask, known: set[str], at: str) -> Iterator[Flaw]:
    for name in ASK_TEMPLATES:
        yield from _references(references.references, getattr(ask, name), known, f"{at}/{name}")


def _references(check: Any, template: Any, known: set[str], at: str) -> Iterator[Flaw]:
    """References look into what is known by then, and nothing else."""
    try:
        found = references.unknown(check(template, at), known)
    except references.BadTemplateError as error:
        found = [(error.pointer, error.message)]
    yield from itertools.starmap(Flaw, found)


def _condition(condition: Any, known: set[str], at: str) -> Iterator[Flaw]:
    try:
        found = references.unknown(conditions.check(condition, at), known)
    except (conditions.BadConditionError, references.BadTemplateError) as error:
        found = [(error.pointer, error.message)]
    yield from itertools.starmap(Flaw, found)
