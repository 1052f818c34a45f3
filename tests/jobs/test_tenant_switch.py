"""A switch of tenants is told to all services or to none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError

from gateway.jobs.models import ServiceRequest, SwitchStep, TenantSwitchInput
from gateway.jobs.workflows.tenant_switch import TenantSwitchWorkflow
from tests.jobs.saga_world import World, broken, failure_of, world
from tests.temporal_server import TemporalServer, temporal  # noqa: F401

SWITCH = "tenant_switch_workflow"


@pytest.fixture
async def around(temporal: TemporalServer) -> AsyncIterator[World]:  # noqa: F811
    async with world(temporal, [TenantSwitchWorkflow]) as made:
        made.script["validate"] = {"role": "owner"}
        yield made


def switch(*names: str, **members: Any) -> TenantSwitchInput:
    """Over these services, each taken back by a request of its own."""
    body = {"session": "${/session_id}", "tenant": "${/input/to_tenant}"}
    back = {"session": "${/session_id}", "tenant": "${/input/from_tenant}"}
    services = [
        SwitchStep(
            name,
            ServiceRequest(name, "/context", "PUT", body=body),
            ServiceRequest(name, "/context", "DELETE", body=back),
        )
        for name in names
    ]
    validate = ServiceRequest("auth", "/tenants/${/input/to_tenant}/users/${/input/user_id}")
    return TenantSwitchInput("acme", validate, services, "initech", "alice", **members)


async def test_all_services_are_told_of_the_new_session(around: World) -> None:
    result = await around.run(SWITCH, switch("billing", "search"))
    assert result == {
        "success": True,
        "session_id": "session-1",
        "user_context": {"role": "owner"},
        "error": None,
        "compensations": [],
        "completed_at": result["completed_at"],
    }
    assert around.made == ["validate", "billing", "search"]
    assert around.calls[0].request.path == "/tenants/acme/users/alice"
    for call in around.calls[1:]:
        assert call.request.body == {"session": "session-1", "tenant": "acme"}
    assert around.told("job.completed")[0]["progress"] == 1.0


async def test_the_users_context_is_made_of_what_the_services_said(around: World) -> None:
    around.script["search"] = {"index": "i7"}
    context = {"role": {"$result": "/validate/role"}, "i": "${/search/index}", "no": "${/search/x}"}
    result = await around.run(SWITCH, switch("search", context=context))
    assert result["user_context"] == {"role": "owner", "i": "i7", "no": ""}


@pytest.mark.parametrize(
    ("failing", "undone"),
    [("validate", []), ("a", []), ("b", ["a"]), ("c", ["b", "a"])],
)
async def test_a_failure_anywhere_rolls_all_back_and_says_so(
    around: World, failing: str, undone: list[str]
) -> None:
    around.script[failing] = broken("AUTHORIZATION", 403)
    result = await around.run(SWITCH, switch("a", "b", "c"))
    assert (result["success"], result["session_id"], result["user_context"]) == (False, None, None)
    assert (result["error"]["code"], result["error"]["step"]) == ("AUTHORIZATION", failing)
    assert [each["step"] for each in result["compensations"]] == undone
    assert around.made[-len(undone) - 1 :] == [failing, *(f"{step}:undo" for step in undone)]
    for call in around.calls:
        if call.key.endswith(":undo"):
            assert call.request.body == {"session": "session-1", "tenant": "initech"}
    assert around.told("job.completed")[0]["status"] == "completed"


async def test_a_roll_back_that_fails_is_told(around: World) -> None:
    around.script |= {"b": broken(), "a:undo": broken()}
    result = await around.run(SWITCH, switch("a", "b"))
    assert [(each["step"], each["status"]) for each in result["compensations"]] == [("a", "failed")]


async def test_a_context_that_takes_too_much_rolls_all_back(around: World) -> None:
    around.script["a"] = "x" * 500_000
    result = await around.run(SWITCH, switch("a", context=[{"$result": "/a"}] * 9))
    assert (result["success"], result["error"]["code"]) == (False, "VALIDATION")
    assert around.made == ["validate", "a", "a:undo"]


async def test_cancelled_it_rolls_all_back(around: World) -> None:
    around.script["b"] = asyncio.Event()
    handle = await around.start(SWITCH, switch("a", "b"))
    await around.until(lambda: around.made[-1:] == ["b"])
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert around.made == ["validate", "a", "b", "a:undo"]
    assert around.told("job.cancelled")[0]["status"] == "cancelled"


async def test_an_input_that_is_wrong_starts_nothing(around: World) -> None:
    handle = await around.start(SWITCH, switch("a", "a"))
    code, details = await failure_of(handle)
    assert (code, details["error"]["message"]) == (
        "VALIDATION",
        "/services/1/id: there is a step a before",
    )
    assert around.made == []
