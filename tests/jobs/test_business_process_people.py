"""A process asks people: the store's decision alone counts, for days, and exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from gateway.jobs.activity_models import Decision
from gateway.jobs.models import Ask, BusinessProcessInput, ProcessStep, ServiceRequest
from gateway.jobs.workflows.business_process import BusinessProcessWorkflow
from tests.jobs.saga_world import DAY, World, failure_of, hurried, world
from tests.temporal_server import TemporalServer, temporal  # noqa: F401

PROCESS = "business_process_workflow"
EXPIRED = "QUESTION_EXPIRED"


@pytest.fixture
async def around(temporal: TemporalServer) -> AsyncIterator[World]:  # noqa: F811
    async with world(temporal, [BusinessProcessWorkflow]) as made:
        yield made


@pytest.fixture
async def days(temporal: TemporalServer) -> AsyncIterator[World]:  # noqa: F811
    """Where days pass in no time."""
    async with world(temporal, [BusinessProcessWorkflow], hurried()) as made:
        yield made


def remote(id: str) -> ProcessStep:  # noqa: A002
    undo = ServiceRequest("shop", f"/{id}/undo", "DELETE")
    return ProcessStep(id, request=ServiceRequest("shop", f"/{id}", "POST"), compensation=undo)


def approval(**members: Any) -> BusinessProcessInput:
    """An approval in the middle."""
    ask = Ask("Ship ${/order/by}?", client_ids=["boss"], expires_in=3 * DAY, **members)
    agreed = {"pointer": "/approve", "equals": "yes"}
    steps = [remote("order"), ProcessStep("approve", ask=ask, continue_when=agreed), remote("ship")]
    return BusinessProcessInput(steps)


async def test_it_waits_for_the_answer_and_goes_on_with_it(around: World) -> None:
    handle = await around.start(PROCESS, approval())
    asked = await around.open_question()
    assert asked.step == "approve"
    assert asked.body == {"prompt": "Ship /order?", "client_ids": ["boss"], "expires_in": 3 * DAY}
    status = await handle.query("status")
    assert (status["status"], status["current_step"]) == ("waiting", "approve")
    assert status["question"]["question_id"] == asked.question_id
    assert status["question"]["prompt"] == "Ship /order?"
    decision = await around.decide(handle, "yes")
    result = await handle.result()
    assert result["data"]["approve"] == "yes"
    assert result["decisions"]["approve"]["answered_by"] == "bob"
    assert result["decisions"]["approve"]["question_id"] == decision.question_id
    assert around.made == ["order", "ship"]
    assert around.desk == ["ask_question"]
    assert [each["question"] is None for each in around.told("job.question")] == [False, True]
    assert around.statuses("approve") == ["running", "completed"]


async def test_everything_a_question_can_have_is_asked_with_references_filled(
    around: World,
) -> None:
    ask = Ask(
        "Which?",
        schema={"type": "string"},
        options=["${/input/a}", "b"],
        approvers=["${/input/boss}"],
        policy={"at_least": 2},
        forbid_self=True,
        expires_in=60,
        default=None,
        has_default=True,
        reminders=[10],
        metadata={"order": {"$result": "/input"}},
    )
    given = BusinessProcessInput([ProcessStep("q", ask=ask)], data={"a": "A", "boss": "eve"})
    handle = await around.start(PROCESS, given)
    asked = await around.open_question()
    assert asked.body == {
        "prompt": "Which?",
        "client_ids": [f"job:{handle.id}"],
        "schema": {"type": "string"},
        "options": ["A", "b"],
        "approvers": ["eve"],
        "policy": {"at_least": 2},
        "forbid_self": True,
        "expires_in": 60,
        "default": None,
        "reminders": [10],
        "metadata": {"order": {"a": "A", "boss": "eve"}},
    }
    await around.decide(handle, "A")
    await handle.result()


async def test_a_question_that_names_nobody_is_shown_to_who_started_the_process(
    around: World,
) -> None:
    given = BusinessProcessInput([ProcessStep("q", ask=Ask("?"))])
    handle = await around.start(PROCESS, given, notify="alice")
    assert (await around.open_question()).body == {"prompt": "?", "client_ids": ["alice"]}
    await around.decide(handle, None)
    assert (await handle.result())["data"] == {"q": None}


async def test_an_answer_that_says_no_undoes_what_was_done(around: World) -> None:
    handle = await around.start(PROCESS, approval())
    await around.decide(handle, "no")
    code, details = await failure_of(handle)
    assert (code, details["error"]["step"]) == ("CONDITION_NOT_MET", "approve")
    assert details["decisions"]["approve"]["answered_by"] == "bob"
    assert details["data"]["approve"] == "no"
    assert around.made == ["order", "order:undo"]


async def test_a_step_of_people_is_undone_too_and_sees_what_they_said(around: World) -> None:
    undo = ServiceRequest("shop", "/undo/${/q}/${/decisions/q/answered_by}")
    given = BusinessProcessInput(
        [
            ProcessStep("q", ask=Ask("?"), compensation=undo),
            ProcessStep("stop", value=1, continue_when=False),
        ]
    )
    handle = await around.start(PROCESS, given)
    await around.decide(handle, "yes")
    await failure_of(handle)
    assert [call.request.path for call in around.calls] == ["/undo/yes/bob"]


async def test_an_answer_told_twice_counts_once(around: World) -> None:
    around.script["ship"] = asyncio.Event()
    handle = await around.start(PROCESS, approval())
    decision = await around.decide(handle, "yes")
    await around.tell(handle, decision)
    # A delivery of something else under another id changes nothing either.
    await handle.execute_update("question_decided", replace(decision, response="no"), id="other")
    around.script["ship"].set()
    assert (await handle.result())["data"]["approve"] == "yes"
    assert around.made == ["order", "ship"]


async def test_a_decision_about_another_question_is_not_taken_for_this(around: World) -> None:
    handle = await around.start(PROCESS, approval())
    await around.open_question()
    await around.tell(handle, Decision("another", "answered", "yes"))
    assert (await handle.query("status"))["status"] == "waiting"
    await around.decide(handle, "no")
    assert (await failure_of(handle))[0] == "CONDITION_NOT_MET"


async def test_after_days_without_an_answer_the_default_holds(days: World) -> None:
    days.overdue = lambda open_: replace(
        open_, status="answered", response="yes", answered_by="default"
    )
    result = await days.run(PROCESS, approval(default="yes", has_default=True))
    assert result["decisions"]["approve"]["answered_by"] == "default"
    assert days.desk == ["ask_question", "read_question"]
    assert days.made == ["order", "ship"]


async def test_the_outbox_may_tell_of_the_expiry_first(around: World) -> None:
    handle = await around.start(PROCESS, approval())
    await around.decide(handle, None, status="expired")
    code, _ = await failure_of(handle)
    assert code == EXPIRED
    assert around.desk == ["ask_question"]
    assert around.made == ["order", "order:undo"]


async def test_without_a_default_nobody_answering_undoes_it(days: World) -> None:
    days.overdue = lambda open_: replace(open_, status="expired")
    handle = await days.start(PROCESS, approval())
    code, details = await failure_of(handle)
    assert (code, details["error"]["step"]) == (EXPIRED, "approve")
    assert days.made == ["order", "order:undo"]
    assert days.statuses("approve") == ["running", "failed"]


async def test_withdrawn_by_somebody_it_is_undone(around: World) -> None:
    handle = await around.start(PROCESS, approval())
    await around.decide(handle, None, status="withdrawn")
    assert (await failure_of(handle))[0] == "QUESTION_WITHDRAWN"
    assert around.made == ["order", "order:undo"]


async def test_a_store_that_is_late_with_the_expiry_is_asked_again(days: World) -> None:
    stand = iter(["open", "open", "answered"])
    days.overdue = lambda open_: replace(open_, status=next(stand), response="yes")
    result = await days.run(PROCESS, approval())
    assert result["decisions"]["approve"]["status"] == "answered"
    assert days.desk == ["ask_question"] + ["read_question"] * 3


async def test_an_answer_that_was_there_when_it_asked_again_counts(around: World) -> None:
    """The worker was killed after asking, and somebody answered before the next one asked again."""
    around.at_once = lambda open_: replace(open_, status="answered", response="yes")
    result = await around.run(PROCESS, approval())
    assert result["data"]["approve"] == "yes"
    assert around.desk == ["ask_question"]


async def test_an_answer_that_overtakes_the_asking_counts(around: World) -> None:
    around.desk_held["ask_question"] = asyncio.Event()
    handle = await around.start(PROCESS, approval())
    await around.until(lambda: "ask_question" in around.desk)
    await around.tell(handle, Decision(around.asked[0].question_id, "answered", "yes"))
    around.desk_held["ask_question"].set()
    assert (await handle.result())["data"]["approve"] == "yes"


async def test_a_question_without_a_time_is_looked_after_all_the_same(days: World) -> None:
    days.at_once = lambda open_: replace(open_, expires_at=None)
    days.overdue = lambda open_: replace(open_, status="expired")
    handle = await days.start(PROCESS, approval())
    assert (await failure_of(handle))[0] == EXPIRED


async def test_cancelled_while_it_asks_the_question_is_withdrawn(around: World) -> None:
    around.desk_held["ask_question"] = asyncio.Event()
    handle = await around.start(PROCESS, approval())
    await around.until(lambda: "ask_question" in around.desk)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert around.desk == ["ask_question", "withdraw_question"]
    assert around.made == ["order", "order:undo"]


async def test_a_gateway_that_is_away_is_asked_until_it_is_there(around: World) -> None:
    away = ApplicationError("away", type="NETWORK", next_retry_delay=None)
    around.desk_failures["ask_question"] = [away]
    handle = await around.start(PROCESS, approval())
    await around.decide(handle, "yes")
    await handle.result()
    assert around.desk == ["ask_question", "ask_question"]


async def test_a_question_that_the_gateway_refuses_fails_the_process(around: World) -> None:
    refused = ApplicationError("the default does not fit", type="VALIDATION", non_retryable=True)
    around.desk_failures["ask_question"] = [refused]
    handle = await around.start(PROCESS, approval())
    code, details = await failure_of(handle)
    assert (code, details["error"]["message"]) == ("VALIDATION", "the default does not fit")
    assert around.made == ["order", "order:undo"]


async def test_cancelled_while_it_waits_the_question_is_withdrawn(around: World) -> None:
    handle = await around.start(PROCESS, approval())
    asked = await around.open_question()
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert around.desk == ["ask_question", "withdraw_question"]
    assert around.questions[asked.question_id].status == "withdrawn"
    assert around.made == ["order", "order:undo"]
    assert around.told("job.cancelled")[0]["question"] is None
    assert around.statuses("approve") == ["running", "failed"]


async def test_a_gateway_that_refuses_to_withdraw_does_not_keep_it_from_ending(
    around: World,
) -> None:
    refused = ApplicationError("no", type="AUTHORIZATION", non_retryable=True)
    around.desk_failures["withdraw_question"] = [refused]
    handle = await around.start(PROCESS, approval())
    await around.open_question()
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert around.made == ["order", "order:undo"]


async def test_when_its_time_is_over_the_question_is_withdrawn(
    temporal: TemporalServer,  # noqa: F811
) -> None:
    # What comes before has four seconds, also on a busy machine.
    async with world(temporal, [BusinessProcessWorkflow], hurried(0.25)) as days:
        handle = await days.start(PROCESS, approval(), timeout_seconds=DAY)
        code, details = await failure_of(handle)
    assert code == "TIMED_OUT"
    assert [each["step"] for each in details["compensations"]] == ["order"]
    assert days.desk == ["ask_question", "withdraw_question"]


async def test_several_approvals_follow_each_other_over_weeks(days: World) -> None:
    steps = []
    for number in range(3):
        steps.append(ProcessStep(f"rest{number}", wait_seconds=7 * DAY))
        steps.append(ProcessStep(f"ask{number}", ask=Ask(f"{number}?", expires_in=30 * DAY)))
    handle = await days.start(PROCESS, BusinessProcessInput(steps))
    for number in range(3):
        await days.until(partial(days.shows, f"{number}?"))
        await days.decide(handle, number)
    result = await handle.result()
    assert result["data"] == {f"rest{n}": None for n in range(3)} | {f"ask{n}": n for n in range(3)}
    assert len({each.question_id for each in days.asked}) == 3


async def test_a_worker_that_remembers_nothing_goes_on_from_the_history(
    temporal: TemporalServer,  # noqa: F811
) -> None:
    async with world(temporal, [BusinessProcessWorkflow], cached=0) as around:
        handle = await around.start(PROCESS, approval())
        await around.decide(handle, "yes")
        assert (await handle.result())["data"]["approve"] == "yes"
        handle = await around.start(PROCESS, approval())
        await around.until(lambda: len(around.asked) == 2)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await handle.result()
    assert around.made == ["order", "ship", "order", "order:undo"]
