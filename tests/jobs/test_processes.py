"""What is wrong with an input is found before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.jobs.models import (
    Ask,
    BusinessProcessInput,
    ErrorRecoveryInput,
    FailureReport,
    Fallback,
    ProcessStep,
    ResultRule,
    ServiceRequest,
    SwitchStep,
    TenantSwitchInput,
)
from gateway.jobs.processes import Flaw, flaws_of


def _at(*steps: ProcessStep, **members: Any) -> list[str]:
    return [each.pointer for each in flaws_of(BusinessProcessInput(list(steps), **members))]


def _request(path: str = "/") -> ServiceRequest:
    return ServiceRequest("stock", path)


def test_a_process_that_refers_to_what_is_there_by_then_has_no_flaw() -> None:
    given = BusinessProcessInput(
        [
            ProcessStep(
                "order",
                request=_request("/orders/${/input/id}"),
                compensation=_request("/orders/${/order/id}/undo"),
            ),
            ProcessStep("sum", value={"of": {"$result": "/order/total"}}),
            ProcessStep(
                "approve",
                ask=Ask("${/sum/of} EUR?", client_ids=["${/input/boss}"]),
                condition={"pointer": "/sum/of", "greater": 100},
                continue_when={"pointer": "/approve", "equals": "yes"},
            ),
            ProcessStep("rest", wait_seconds=5),
        ],
        data={"id": 1, "boss": "b"},
        output={"by": {"$result": "/decisions/approve/answered_by"}, "all": {"$result": ""}},
    )
    assert flaws_of(given) == []


def test_a_step_refers_to_no_later_step_and_not_to_itself() -> None:
    assert _at(
        ProcessStep("a", request=_request("/${/a}"), value=None),
        ProcessStep("b", value={"$result": "/c"}),
        ProcessStep("c", ask=Ask("${/c}", metadata={"x": ["${/d}"]})),
        ProcessStep("d", wait_seconds=1, condition={"pointer": "/d", "exists": True}),
        ProcessStep("e", compensation=_request("/${/f}")),
        ProcessStep("f", continue_when={"pointer": "/g", "equals": {"$result": "/h"}}),
        output={"x": {"$result": "/i"}},
    ) == [
        "/steps/0/request/path",
        "/steps/1/value",
        "/steps/2/ask/prompt",
        "/steps/2/ask/metadata/x/0",
        "/steps/3/condition/pointer",
        "/steps/4/compensation/path",
        "/steps/5/continue_when/pointer",
        "/steps/5/continue_when/equals",
        "/output/x",
    ]


def test_templates_and_conditions_that_cannot_be_read_are_flaws() -> None:
    assert _at(
        ProcessStep("a", value={"$result": "nowhere"}),
        ProcessStep("b", value=1, condition={"pointer": "/a"}),
        ProcessStep("c", value=1, continue_when={"pointer": "/a", "equals": "${x"}),
    ) == ["/steps/0/value", "/steps/1/condition", "/steps/2/continue_when/equals"]


@pytest.mark.parametrize("reserved", ["input", "decisions"])
def test_a_step_has_no_name_of_another_result(reserved: str) -> None:
    assert _at(ProcessStep(reserved, value=1)) == ["/steps/0/id"]


def test_a_name_is_given_once_and_a_step_is_one_thing() -> None:
    assert _at(ProcessStep("a", value=1), ProcessStep("a", value=2)) == ["/steps/1/id"]
    assert _at(ProcessStep("a", value=1, wait_seconds=1)) == ["/steps/0"]
    assert _at(ProcessStep("a", value=1, rules=[ResultRule(True)])) == ["/steps/0/rules"]


def test_a_switch_refers_to_its_session_and_to_the_services_before() -> None:
    given = TenantSwitchInput(
        "acme",
        _request("/${/input/to_tenant}"),
        [
            SwitchStep("a", _request("/${/session_id}/${/validate/role}")),
            SwitchStep("b", _request("/${/a}"), _request("/${/b}")),
        ],
        context={"a": {"$result": "/a"}},
    )
    assert flaws_of(given) == []
    given.validate = _request("/${/validate}")
    given.services += [
        SwitchStep("session_id", _request("/${/x}"), _request("/${/y}")),
        SwitchStep("a", _request()),
    ]
    given.context = "${/z}"
    assert flaws_of(given) == [
        Flaw("/validate/path", "there is no result validate"),
        Flaw("/services/2/id", "the name session_id is taken: it is a result of its own"),
        Flaw("/services/3/id", "there is a step a before"),
        Flaw("/services/2/request/path", "there is no result x"),
        Flaw("/services/2/compensation/path", "there is no result y"),
        Flaw("/context", "there is no result z"),
    ]


def test_a_recovery_names_a_strategy_that_it_has_the_means_for() -> None:
    given = ErrorRecoveryInput(_request(), FailureReport("network"))
    assert flaws_of(given) == []
    given.strategy = "fallback"
    assert [each.pointer for each in flaws_of(given)] == ["/fallback"]
    given.fallback = Fallback()
    assert [each.pointer for each in flaws_of(given)] == ["/fallback"]
    given.fallback = Fallback(answer=1)
    assert flaws_of(given) == []
    given.strategy = "pray"
    assert [each.pointer for each in flaws_of(given)] == ["/strategy"]


def test_requests_of_a_recovery_refer_to_the_failure_and_a_fallback_to_the_first_try() -> None:
    given = ErrorRecoveryInput(_request("/${/failure/kind}"), FailureReport("network"))
    given.fallback = Fallback(_request("/${/$errors/request/code}/${/failure/status}"))
    assert flaws_of(given) == []
    given.request, given.fallback = (
        _request("/${/$errors/request/code}"),
        Fallback(_request("/${/x}")),
    )
    assert [each.pointer for each in flaws_of(given)] == ["/request/path", "/fallback/request/path"]
