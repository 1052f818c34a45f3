"""Recoveries, which choose what to do about a failure, and switches of a tenant, whole or not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenarios.job_calls import RECOVERY, SWITCH, call, did, ended, started, steps_of, tell
from tests.scenarios.job_house import House, Place, Reply
from tests.streams import who

QUICK = {"max_attempts": 2, "initial_seconds": 0.1}


async def recovered(house: House, caller: bytes, given: dict[str, Any]) -> dict[str, Any]:
    """What a recovery came to."""
    result: dict[str, Any] = (await did(house, RECOVERY, given, caller=caller))["result"]
    return result


def own(place: Place) -> bytes:
    """A caller whose breakers are nobody else's."""
    return who("rita", "jobs:write", tenant=f"rec{place.prefix}")


def failure(kind: str, status: int | None = None) -> dict[str, Any]:
    """A failure that was seen."""
    return {"kind": kind, "message": "it broke", "status": status}


async def test_what_passes_by_itself_is_tried_again(house: House) -> None:
    place = house.place()
    place.on("/a", Reply({}, 503), Reply({"n": 1}))
    given = {"request": call(place("/a")), "failure": failure("network"), "retry": QUICK}
    result = await recovered(house, own(place), given)
    assert (result["strategy"], result["outcome"]) == ("retry", "recovered"), result
    assert result["answer"]["body"] == {"n": 1}
    assert len(place.seen("/a")) == 2


async def test_another_service_answers_where_the_first_does_not(house: House) -> None:
    place = house.place()
    place.on("/a", Reply({}, 503))
    given = {
        "request": call(place("/a")),
        "failure": failure("external", 503),
        "strategy": "fallback",
        "fallback": {"request": call(place("/b"), service="other")},
    }
    result = await recovered(house, own(place), given)
    assert (result["strategy"], result["outcome"]) == ("fallback", "fallback"), result
    assert result["answer"]["body"]["service"] == "other"


async def test_an_answer_that_is_kept_answers_where_nobody_does(house: House) -> None:
    place = house.place()
    given = {
        "request": call("/x", service="dead"),
        "failure": failure("network"),
        "strategy": "fallback",
        "fallback": {"answer": {"kept": True}},
    }
    result = await recovered(house, own(place), given)
    assert result["outcome"] == "fallback"
    assert result["answer"]["body"] == {"kept": True}


async def test_what_never_passes_is_not_tried_again(house: House) -> None:
    place = house.place()
    given = {
        "request": call(place("/a")),
        "failure": failure("authorization", 403),
        "fallback": {"answer": "kept"},
    }
    result = await recovered(house, own(place), given)
    assert result["strategy"] == "fallback", result
    assert place.seen("/a") == []


async def test_after_many_failures_a_service_is_left_alone(house: House) -> None:
    place = house.place()
    place.on("/a", Reply({}, 503))
    given = {
        "request": call(place("/a")),
        "failure": failure("external", 503),
        "strategy": "circuit_breaker",
        "fallback": {"answer": "kept"},
        "retry": {"max_attempts": 1},
    }
    caller = own(place)
    outcomes = []
    for _ in range(8):
        before = len(place.seen("/a"))
        result = await recovered(house, caller, given)
        assert (result["strategy"], result["answer"]["body"]) == ("circuit_breaker", "kept")
        outcomes.append(len(place.seen("/a")) - before)
    assert outcomes[0] == 1
    assert outcomes[-1] == 0, outcomes
    # The breaker is this tenant's: another's requests go through.
    before = len(place.seen("/a"))
    other = who("otto", "jobs:write", tenant=f"other{place.prefix}")
    await recovered(house, other, given)
    assert len(place.seen("/a")) == before + 1


async def test_a_recovery_that_does_not_help_says_what_was_tried(house: House) -> None:
    place = house.place()
    place.on("/a", Reply({}, 503))
    given = {
        "request": call(place("/a")),
        "failure": failure("external", 503),
        "strategy": "retry",
        "retry": QUICK,
    }
    result = await recovered(house, own(place), given)
    assert (result["outcome"], result["answer"]) == ("failed", None)
    assert (result["error"]["status"], result["attempts"]) == (503, 2)
    assert len(place.seen("/a")) == 2


def switch(place: Place, *names: str, **more: Any) -> dict[str, Any]:
    """A switch that tells these services."""
    services = [
        {
            "id": name,
            "request": call(place(f"/{name}"), "POST", body={"session": "${/session_id}"}),
            "compensation": call(place(f"/{name}"), "DELETE"),
        }
        for name in names
    ]
    return {
        "to_tenant": "globex",
        "from_tenant": "acme",
        "validate": call(place("/validate"), "POST"),
        "services": services,
    } | more


async def test_a_switch_tells_all_services_and_gives_a_session(house: House) -> None:
    place = house.place()
    place.on("/validate", Reply({"roles": ["admin"]}))
    given = switch(place, "a", "b", context={"roles": {"$result": "/validate/roles"}})
    body = await did(house, SWITCH, given)
    result = body["result"]
    assert result["success"] is True, result
    assert result["session_id"]
    assert result["user_context"] == {"roles": ["admin"]}
    assert sorted(place.paths()) == ["POST /a", "POST /b", "POST /validate"]
    told = {each.json()["session"] for name in ("/a", "/b") for each in place.seen(name)}
    assert told == {result["session_id"]}
    assert place.paths()[0] == "POST /validate"


async def test_each_switch_has_a_session_of_its_own(house: House) -> None:
    place = house.place()
    ids = {(await did(house, SWITCH, switch(place, "a")))["result"]["session_id"] for _ in "12"}
    assert len(ids) == 2


@pytest.mark.parametrize("bad", ["a", "b", "c"])
async def test_a_switch_that_fails_anywhere_is_taken_back_everywhere(
    house: House, bad: str
) -> None:
    place = house.place()
    place.on(f"/{bad}", Reply({"why": "no"}, 409), Reply({}))
    body = await did(house, SWITCH, switch(place, "a", "b", "c"))
    result = body["result"]
    assert result["success"] is False
    assert result["session_id"] is None
    assert (result["error"]["step"], result["error"]["status"]) == (bad, 409)
    done = [each[5:] for each in place.paths() if each.startswith("POST")]
    done = [each for each in done if each not in ("/validate", f"/{bad}")]
    undone = [each[7:] for each in place.paths() if each.startswith("DELETE")]
    assert [each for each in undone if each != f"/{bad}"] == done[::-1]
    assert {steps_of(body)[name.strip("/")] for name in done} <= {"compensated"}


async def test_a_switch_that_is_not_allowed_tells_nobody(house: House) -> None:
    place = house.place()
    place.on("/validate", Reply({"why": "none of yours"}, 403))
    body = await did(house, SWITCH, switch(place, "a", "b"))
    assert body["result"]["success"] is False
    assert body["result"]["error"]["status"] == 403
    assert place.paths() == ["POST /validate"]


async def test_a_switch_that_is_cancelled_is_taken_back(house: House) -> None:
    place = house.place()
    place.hold("/b")
    operation_id = await started(house, SWITCH, switch(place, "a", "b"))
    place.until("/a")
    place.until("/b")
    await tell(house, operation_id, "cancel")
    await ended(house, operation_id, "cancelled")
    assert "DELETE /a" in place.paths()
