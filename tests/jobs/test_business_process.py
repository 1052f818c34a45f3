"""A process: steps at services, local ones and waiting; what fails is undone in reverse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.client import (
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowUpdateFailedError,
)
from temporalio.exceptions import CancelledError

from gateway.jobs.activity_models import CallResult
from gateway.jobs.models import (
    Ask,
    BusinessProcessInput,
    ProcessStep,
    ResultRule,
    Retry,
    ServiceAnswer,
    ServiceRequest,
)
from gateway.jobs.workflows import business_process
from gateway.jobs.workflows.business_process import BusinessProcessWorkflow
from tests.jobs.saga_world import DAY, World, broken, failure_of, hurried, world
from tests.temporal_server import TemporalServer, temporal  # noqa: F401

PROCESS = "business_process_workflow"


@pytest.fixture
async def around(temporal: TemporalServer) -> AsyncIterator[World]:  # noqa: F811
    async with world(temporal, [BusinessProcessWorkflow]) as made:
        yield made


@pytest.fixture
async def days(temporal: TemporalServer) -> AsyncIterator[World]:  # noqa: F811
    """Where days pass in no time."""
    async with world(temporal, [BusinessProcessWorkflow], hurried()) as made:
        yield made


def remote(id: str, path: str | None = None, **members: Any) -> ProcessStep:  # noqa: A002
    members.setdefault("compensation", ServiceRequest("shop", f"/{id}/undo", "DELETE"))
    return ProcessStep(id, request=ServiceRequest("shop", path or f"/{id}", "POST"), **members)


def renamed(template: Any, pointer: str) -> Any:
    """The template with another pointer in it."""
    if isinstance(template, str):
        return template.replace("/s", pointer)
    return [{"$result": pointer} for _ in template]


async def test_steps_run_in_their_order_each_with_the_results_before_it(days: World) -> None:
    days.script["order"] = {"id": 7, "total": 120}
    given = BusinessProcessInput(
        [
            remote("order", timeout_seconds=12, retry=Retry(2)),
            ProcessStep(
                "sum", value={"gross": {"$result": "/order/total"}, "for": "${/input/who}"}
            ),
            ProcessStep("rest", wait_seconds=3 * DAY),
            remote("ship", "/orders/${/order/id}/ship"),
        ],
        data={"who": "alice"},
    )
    result = await days.run(PROCESS, given)
    assert result["data"] == {
        "order": {"id": 7, "total": 120},
        "sum": {"gross": 120, "for": "alice"},
        "rest": None,
        "ship": {"by": "/orders/7/ship"},
    }
    assert (result["skipped"], result["compensations"], result["decisions"]) == ([], [], {})
    assert result["completed_at"].endswith("Z")
    assert days.made == ["order", "ship"]
    order = days.calls[0]
    assert (order.timeout_seconds, order.step, order.retry) == (12, "order", Retry(2))
    assert days.statuses("rest") == ["waiting", "completed"]
    assert days.told("job.completed")[0]["progress"] == 1.0


async def test_an_output_is_made_of_the_results_and_what_is_missing_is_null(around: World) -> None:
    given = BusinessProcessInput(
        [remote("a"), ProcessStep("b", value=2, condition=False)],
        data=5,
        output={"x": {"$result": "/input"}, "y": {"$result": "/b"}, "z": "${/a/by}"},
    )
    result = await around.run(PROCESS, given)
    assert result["data"] == {"x": 5, "y": None, "z": "/a"}
    assert result["skipped"] == ["b"]
    assert around.statuses("b") == ["skipped"]


async def test_a_step_whose_condition_does_not_hold_is_left_out(around: World) -> None:
    around.script["a"] = {"total": 5}
    dear = {"pointer": "/a/total", "greater": 10}
    given = BusinessProcessInput(
        [remote("a"), remote("b", condition=dear, continue_when=False), remote("c")]
    )
    result = await around.run(PROCESS, given)
    assert around.made == ["a", "c"]
    assert result["skipped"] == ["b"]


@pytest.mark.parametrize(
    ("failing", "expected"),
    [("a", []), ("b", ["a"]), ("c", ["a"]), ("d", ["c", "a"]), ("e", ["d", "c", "a"])],
)
async def test_a_failure_at_any_step_undoes_those_before_it_in_reverse(
    around: World, failing: str, expected: list[str]
) -> None:
    steps = [
        remote("a"),
        remote("b", compensation=None),
        ProcessStep(
            "c",
            value="${/b/by}",
            compensation=ServiceRequest("shop", "/undo${/b/by}", "DELETE"),
        ),
        remote("d"),
        remote("e"),
    ]
    around.script[failing] = broken()
    if failing == "c":
        around.script["b"] = "no object"
    handle = await around.start(PROCESS, BusinessProcessInput(steps))
    code, details = await failure_of(handle)
    assert code == ("VALIDATION" if failing == "c" else "EXTERNAL")
    assert details["error"]["step"] == failing
    assert [each["step"] for each in details["compensations"]] == expected
    assert [each["status"] for each in details["compensations"]] == ["done"] * len(expected)
    assert [each for each in around.made if each.endswith(":undo")] == [
        f"{step}:undo" for step in expected
    ]
    assert around.statuses(failing) == ["running", "failed"]
    for step in expected:
        assert around.statuses(step)[-1] == "compensated"
    told = around.told("job.failed")[0]["error"]["details"] or {"compensations": []}
    assert told["compensations"] == details["compensations"]


async def test_a_compensation_that_fails_is_reported_and_the_others_run(around: World) -> None:
    around.script |= {"b:undo": broken(), "c": broken()}
    handle = await around.start(
        PROCESS, BusinessProcessInput([remote("a"), remote("b"), remote("c")])
    )
    _, details = await failure_of(handle)
    assert [(each["step"], each["status"]) for each in details["compensations"]] == [
        ("b", "failed"),
        ("a", "done"),
    ]
    assert around.statuses("b")[-1] == "compensation_failed"


async def test_what_does_not_let_it_go_on_undoes_that_step_too(around: World) -> None:
    around.script["b"] = {"stock": 0}
    enough = {"pointer": "/b/stock", "greater": 0}
    handle = await around.start(
        PROCESS, BusinessProcessInput([remote("a"), remote("b", continue_when=enough), remote("c")])
    )
    code, details = await failure_of(handle)
    assert (code, details["error"]["step"]) == ("CONDITION_NOT_MET", "b")
    assert around.made == ["a", "b", "b:undo", "a:undo"]


async def test_a_broken_rule_fails_the_process_or_leaves_the_step_out(around: World) -> None:
    answer = ServiceAnswer(200, {}, {"x": 1})
    around.script["b"] = CallResult(answer, broken="skip", message="no y")
    rule = ResultRule({"required": ["y"]}, "skip")
    result = await around.run(PROCESS, BusinessProcessInput([remote("b", rules=[rule])]))
    assert (result["data"], result["skipped"]) == ({}, ["b"])
    assert around.calls[0].rules == [rule]
    around.script["b"] = CallResult(answer, broken="fail", message="no y")
    handle = await around.start(PROCESS, BusinessProcessInput([remote("a"), remote("b")]))
    assert (await failure_of(handle))[0] == "VALIDATION"
    assert around.made[-2:] == ["b:undo", "a:undo"]


@pytest.mark.parametrize(
    "bad",
    [
        ProcessStep("b", value={"$result": "/a/nothing"}),
        ProcessStep("b", value=1, condition={"pointer": "/a", "equals": {"$result": "/a/no"}}),
        ProcessStep("b", value=1, continue_when={"pointer": "/a", "equals": {"$result": "/a/no"}}),
        ProcessStep("b", ask=Ask("${/a/nothing}?")),
        remote("b", "/${/a/nothing}"),
    ],
    ids=["value", "condition", "continue_when", "ask", "request"],
)
async def test_a_reference_to_what_a_service_did_not_say_fails_and_undoes(
    around: World, bad: ProcessStep
) -> None:
    handle = await around.start(PROCESS, BusinessProcessInput([remote("a"), bad]))
    code, details = await failure_of(handle)
    assert (code, details["error"]["step"]) == ("VALIDATION", "b")
    assert around.made == ["a", "a:undo"]
    assert around.statuses("b")[-1] == "failed"


async def test_an_output_that_takes_too_much_undoes_all(around: World) -> None:
    around.script["a"] = "x" * 500_000
    output = [{"$result": "/a"}] * 9
    handle = await around.start(PROCESS, BusinessProcessInput([remote("a")], output=output))
    assert (await failure_of(handle))[0] == "VALIDATION"
    assert around.made == ["a", "a:undo"]


def test_the_cause_stays_where_its_output_can_not_be_read() -> None:
    given = BusinessProcessInput([remote("a")], output="${/a")
    assert business_process._reached(given, {"a": 1}) is None


async def test_an_input_that_is_wrong_starts_nothing(around: World) -> None:
    handle = await around.start(PROCESS, BusinessProcessInput([remote("a"), remote("b", "/${/c}")]))
    code, details = await failure_of(handle)
    assert code == "VALIDATION"
    assert details["error"]["message"].startswith("/steps/1/request/path: ")
    assert around.made == []


async def test_cancelled_within_a_request_it_is_cut_off_and_the_rest_undone(
    around: World,
) -> None:
    around.script["b"] = asyncio.Event()
    handle = await around.start(PROCESS, BusinessProcessInput([remote("a"), remote("b")]))
    await around.until(lambda: around.made == ["a", "b"])
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as raised:
        await handle.result()
    assert isinstance(raised.value.cause, CancelledError)
    assert (await handle.describe()).status == WorkflowExecutionStatus.CANCELED
    assert around.made == ["a", "b", "a:undo"]
    cancelled = around.told("job.cancelled")[0]
    assert [each["step"] for each in cancelled["error"]["details"]["compensations"]] == ["a"]


async def test_cancelled_while_it_rests_it_is_undone(around: World) -> None:
    given = BusinessProcessInput([remote("a"), ProcessStep("rest", wait_seconds=100 * DAY)])
    handle = await around.start(PROCESS, given)
    await around.until(lambda: around.statuses("rest") == ["waiting"])
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert around.made == ["a", "a:undo"]
    assert around.statuses("rest") == ["waiting", "failed"]


async def test_when_its_time_is_over_it_is_undone(
    temporal: TemporalServer,  # noqa: F811
) -> None:
    # What comes before has four seconds, also on a busy machine.
    async with world(temporal, [BusinessProcessWorkflow], hurried(0.25)) as days:
        given = BusinessProcessInput([remote("a"), ProcessStep("rest", wait_seconds=100 * DAY)])
        handle = await days.start(PROCESS, given, timeout_seconds=DAY)
        code, details = await failure_of(handle)
    assert code == "TIMED_OUT"
    assert [each["step"] for each in details["compensations"]] == ["a"]
    assert days.told("job.failed")[0]["status"] == "timed_out"


async def test_a_step_that_has_not_begun_can_be_skipped_but_no_guard(around: World) -> None:
    around.script["a"] = asyncio.Event()
    given = BusinessProcessInput(
        [
            remote("a"),
            remote("b"),
            remote("c", continue_when={"pointer": "/c/by", "equals": "/c"}),
            ProcessStep("d", ask=Ask("?"), condition=False),
        ]
    )
    handle = await around.start(PROCESS, given)
    await around.until(lambda: around.made == ["a"])
    assert (await handle.execute_update("skip_step", "b"))["current_step"] == "a"
    for guard in ("c", "d", "nothing", "a"):
        with pytest.raises(WorkflowUpdateFailedError):
            await handle.execute_update("skip_step", guard)
    around.script["a"].set()
    assert (await handle.result())["skipped"] == ["b", "d"]
    assert around.made == ["a", "c"]


async def test_paused_it_begins_nothing_new(around: World) -> None:
    around.script["a"] = asyncio.Event()
    handle = await around.start(PROCESS, BusinessProcessInput([remote("a"), remote("b")]))
    await around.until(lambda: around.made == ["a"])
    await handle.signal("pause")
    around.script["a"].set()
    await around.until(lambda: "completed" in around.statuses("a"))
    assert (await handle.query("status"))["status"] == "waiting"
    assert around.made == ["a"]
    await handle.signal("resume")
    await handle.result()
    assert around.made == ["a", "b"]


@pytest.mark.parametrize(
    ("first", "double"),
    [
        ([[]] * 8, [{"$result": "/s"}] * 2),
        ("x" * 1000, "${/s}${/s}"),
        ([""] * 9, [{"$result": "/s"}] * 2),
    ],
)
async def test_local_values_never_fill_the_workers_memory(
    around: World, first: Any, double: Any
) -> None:
    """A kilobyte that doubles itself at each step, and then is kept hundreds of times."""
    steps = [remote("a"), ProcessStep("s0", value=first)]
    steps += [ProcessStep(f"s{n}", value=renamed(double, f"/s{n - 1}")) for n in range(1, 13)]
    steps += [ProcessStep(f"t{n}", value=renamed(double, "/s12")) for n in range(400)]
    handle = await around.start(PROCESS, BusinessProcessInput(steps, output=1))
    code, details = await failure_of(handle)
    assert (code, "characters" in details["error"]["message"]) == ("VALIDATION", True)
    assert around.made == ["a", "a:undo"]


async def test_all_results_together_are_an_output_like_any_other(around: World) -> None:
    around.script |= dict.fromkeys("abcde", "x" * 1_000_000)
    handle = await around.start(PROCESS, BusinessProcessInput([remote(each) for each in "abcde"]))
    assert (await failure_of(handle))[0] == "VALIDATION"
    assert around.made[-1] == "a:undo"


async def test_conditions_of_a_process_share_what_they_may_compare(around: World) -> None:
    around.script["a"] = {"list": [[7] * 5] * 4000}
    alike = {"pointer": "/a", "equals": {"$result": "/a"}}
    steps = [remote("a"), *(ProcessStep(f"s{n}", value=n, condition=alike) for n in range(400))]
    code, details = await failure_of(await around.start(PROCESS, BusinessProcessInput(steps)))
    assert (code, "characters" in details["error"]["message"]) == ("VALIDATION", True)


async def test_the_more_steps_the_less_an_answer_may_have(around: World) -> None:
    steps = [remote("a"), *(ProcessStep(f"s{n}", value=n) for n in range(63))]
    await around.run(PROCESS, BusinessProcessInput(steps))
    await around.run(PROCESS, BusinessProcessInput([remote("a")]))
    assert [call.most_bytes for call in around.calls] == [1 << 20, 4 << 20]
