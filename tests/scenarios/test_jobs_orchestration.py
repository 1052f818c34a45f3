"""Orchestrations: a graph of requests, what they tell each other, and how it is undone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.connection import holds
from tests.scenarios.job_calls import (
    ALICE,
    GRAPH,
    call,
    did,
    ended,
    fetch,
    over,
    path_of,
    stands,
    started,
    starts,
    steps_of,
    tell,
)
from tests.scenarios.job_house import House, Place, Reply
from tests.streams import TIMESTAMP, refusal

TIME_SECONDS = 5.0
"""Of a job that does not end in time: enough for its first step, also on a busy machine."""


def step(place: Place, name: str, *after: str, **more: Any) -> dict[str, Any]:
    """A POST to a path of its name, after others, undone by a DELETE."""
    undo = call(place(f"/{name}"), "DELETE")
    given = {"id": name, **call(place(f"/{name}"), "POST"), "compensation": undo}
    return given | {"depends_on": list(after)} | more


async def test_results_go_into_paths_queries_headers_bodies_and_the_output(house: House) -> None:
    place = house.place()
    place.on("/a", Reply({"id": "x?y z", "tags": ["t", 2], "deep": {"n": 7, "~/": True}}))
    given = {
        "steps": [
            {"id": "a", **call(place("/a"))},
            {
                "id": "b",
                **call(place("/b/${/a/id}/${/a/deep/n}"), "POST"),
                "query": {"q": "${/a/id}", "n": {"$result": "/a/deep/n"}},
                "headers": {"X-Id": "${/a/id}"},
                "body": {"all": {"$result": "/a/deep"}, "text": "${/a/tags/1}!", "esc": "/a"},
                "depends_on": ["a"],
            },
        ],
        "output": {"n": {"$result": "/a/deep/n"}, "path": {"$result": "/b/path"}},
    }
    body = await did(house, GRAPH, given)
    (seen,) = [each for each in place.seen() if each.method == "POST"]
    assert seen.path == place("/b/x%3Fy%20z/7")
    assert seen.query.replace("+", "%20") == "q=x%3Fy%20z&n=7"
    assert seen.headers["x-id"] == "x?y z"
    assert seen.json() == {"all": {"n": 7, "~/": True}, "text": "2!", "esc": "/a"}
    result = body["result"]
    assert {"data", "errors", "completed_at"} <= set(result)
    assert (result["data"]["n"], result["errors"]) == (7, [])
    assert TIMESTAMP.fullmatch(result["completed_at"])


async def test_without_an_output_all_results_come(house: House) -> None:
    place = house.place()
    place.on("/a", Reply([1]))
    place.on("/b", Reply("two"))
    body = await did(house, GRAPH, {"steps": [step(place, "a"), step(place, "b")]})
    assert body["result"]["data"] == {"a": [1], "b": "two"}


async def test_what_depends_on_nothing_runs_at_once(house: House) -> None:
    place = house.place()
    gates = {name: place.hold(f"/{name}") for name in ("a", "b", "c")}
    steps = [step(place, name) for name in "abc"] + [step(place, "d", "a", "b", "c")]
    operation_id = await started(house, GRAPH, {"steps": steps})
    for name in "abc":
        place.until(f"/{name}")
    gates["a"].set()
    gates["b"].set()
    await stands(house, operation_id, lambda body: steps_of(body)["b"] == "completed")
    await holds(lambda: place.seen("/d") == [], 0.3)
    gates["c"].set()
    await ended(house, operation_id)
    assert len(place.seen("/d")) == 1


CONDITIONS: list[tuple[Any, bool]] = [
    ({"pointer": "/a/n", "equals": 5}, True),
    ({"pointer": "/a/n", "equals": "5"}, False),
    ({"pointer": "/a/n", "not_equals": 5}, False),
    ({"pointer": "/a/x", "exists": True}, False),
    ({"pointer": "/a/x", "exists": False}, True),
    ({"pointer": "/a/n", "greater": 4}, True),
    ({"pointer": "/a/n", "less": 5}, False),
    ({"pointer": "/a/s", "in": ["x", "new"]}, True),
    ({"all": [{"pointer": "/a/n", "greater": 4}, {"pointer": "/a/n", "less": 6}]}, True),
    ({"any": [{"pointer": "/a/n", "less": 4}, {"pointer": "/a/n", "greater": 6}]}, False),
    ({"not": {"pointer": "/a/n", "equals": 6}}, True),
    (False, False),
]


async def test_a_step_runs_where_its_condition_holds(house: House) -> None:
    place = house.place()
    place.on("/a", Reply({"n": 5, "s": "new"}))
    steps = [step(place, "a")]
    steps += [
        step(place, f"c{number}", "a", condition=condition)
        for number, (condition, _) in enumerate(CONDITIONS)
    ]
    found = steps_of(await did(house, GRAPH, {"steps": steps}))
    for number, (condition, good) in enumerate(CONDITIONS):
        assert found[f"c{number}"] == ("completed" if good else "skipped"), condition
        assert len(place.seen(f"/c{number}")) == good


async def test_a_step_that_is_not_required_may_fail_and_is_told(house: House) -> None:
    place = house.place()
    place.on("/b", Reply({"why": "full"}, 409))
    steps = [step(place, "a"), step(place, "b", "a", required=False), step(place, "c", "a")]
    body = await did(house, GRAPH, {"steps": steps})
    assert steps_of(body) == {"a": "completed", "b": "failed", "c": "completed"}
    (error,) = body["result"]["errors"]
    assert (error["step"], error["status"]) == ("b", 409)
    assert "b" not in body["result"]["data"]
    assert "DELETE /a" not in place.paths()


async def test_a_required_one_that_fails_ends_all_and_what_was_done_is_undone_in_reverse(
    house: House,
) -> None:
    place = house.place()
    place.hold("/slow")
    place.on("/d", Reply({"why": "no"}, 422))
    steps = [
        step(place, "a"),
        step(place, "b", "a"),
        step(place, "c", "b"),
        step(place, "slow", "a"),
        step(place, "d", "c"),
        step(place, "e", "d"),
    ]
    body = await did(house, GRAPH, {"steps": steps}, expected="failed")
    found = steps_of(body)
    assert [found[name] for name in "abc"] == ["compensated"] * 3
    assert (found["d"], found["e"]) == ("failed", "pending") or found["e"] == "skipped"
    undone = [each for each in place.paths() if each.startswith("DELETE")]
    assert [each for each in undone if each != "DELETE /slow"] == [
        "DELETE /c",
        "DELETE /b",
        "DELETE /a",
    ]
    assert (body["error"]["step"], body["error"]["status"]) == ("d", 422)
    told = body["error"]["details"]["compensations"]
    assert [each["step"] for each in told if each["step"] != "slow"] == ["c", "b", "a"]
    assert place.seen("/e") == []


async def test_what_undoes_a_step_knows_its_result_and_has_a_key_of_its_own(house: House) -> None:
    place = house.place()
    place.on("/a", Reply({"id": 42}, 201))
    place.on("/b", Reply({}, 404))
    steps = [step(place, "a"), step(place, "b", "a")]
    steps[0]["compensation"] = call(place("/undo/${/a/id}"), "PUT", body={"$result": "/a"})
    body = await did(house, GRAPH, {"steps": steps}, expected="failed")
    (seen,) = place.seen("/undo/42")
    assert (seen.method, seen.json()) == ("PUT", {"id": 42})
    assert seen.headers["idempotency-key"] == f"{body['operation_id']}:a:undo"


async def test_a_result_that_breaks_a_rule_fails_its_step_or_skips_it(house: House) -> None:
    place = house.place()
    place.on("/a", Reply({"n": 1}))
    rule = {"schema": {"type": "object", "required": ["reserved"]}}
    lenient = step(place, "a", rules=[rule | {"otherwise": "skip"}])
    body = await did(house, GRAPH, {"steps": [lenient, step(place, "b")]})
    assert steps_of(body) == {"a": "skipped", "b": "completed"}
    assert "a" not in body["result"]["data"]
    strict = step(place, "a", rules=[rule | {"otherwise": "fail"}])
    body = await did(house, GRAPH, {"steps": [strict]}, expected="failed")
    assert body["error"]["step"] == "a"
    # What was answered has happened, whatever the rule says of it.
    assert "DELETE /a" in place.paths()
    fits = step(place, "a", rules=[{"schema": {"properties": {"n": {"const": 1}}}}])
    assert steps_of(await did(house, GRAPH, {"steps": [fits]})) == {"a": "completed"}


async def test_a_step_has_its_own_time(house: House) -> None:
    place = house.place()
    place.hold("/a")
    given = step(place, "a", timeout_seconds=1, retry={"max_attempts": 1})
    body = await did(house, GRAPH, {"steps": [given]}, expected="failed")
    assert (body["error"]["step"], body["error"]["code"]) == ("a", "TIMEOUT"), body["error"]


async def test_when_its_time_is_over_it_is_undone_as_well(house: House) -> None:
    place = house.place()
    place.hold("/b")
    given = {"steps": [step(place, "a"), step(place, "b", "a")], "timeout_seconds": TIME_SECONDS}
    body = await did(house, GRAPH, given, expected="timed_out")
    assert body["error"]["code"] == "TIMED_OUT"
    assert steps_of(body)["a"] == "compensated"
    assert [each for each in place.paths() if each.startswith("DELETE")][-1] == "DELETE /a"


@pytest.mark.parametrize("count", [50, 51, 120])
async def test_any_number_of_steps_is_one_job(house: House, count: int) -> None:
    place = house.place()
    steps = [step(place, f"s{number}") for number in range(count - 1)]
    steps.append(step(place, "last", "s0", body={"first": {"$result": "/s0/path"}}))
    steps.append(step(place, "bad", "last", required=False, condition=False))
    body = await did(house, GRAPH, {"steps": steps, "output": {"$result": "/last/path"}})
    assert len(body["steps"]) == count + 1
    assert [each["status"] for each in body["steps"]].count("completed") == count
    assert body["result"]["data"] == place("/last")
    assert len(place.seen()) == count
    keys = {each.headers["idempotency-key"] for each in place.seen()}
    assert keys == {f"{body['operation_id']}:{each['id']}" for each in body["steps"][:count]}
    assert place.seen("/last")[0].json() == {"first": place("/s0")}


async def test_many_steps_are_undone_as_few_are(house: House) -> None:
    place = house.place()
    steps = [step(place, "s0")]
    for number in range(1, 56):
        steps.append(step(place, f"s{number}", "s0"))
    steps.append(step(place, "bad", *(f"s{number}" for number in range(1, 56))))
    place.on("/bad", Reply({}, 404))
    body = await did(house, GRAPH, {"steps": steps}, expected="failed")
    undone = [each for each in place.paths() if each.startswith("DELETE")]
    assert len(undone) == 56
    assert undone[-1] == "DELETE /s0"
    assert [each["status"] for each in body["steps"]].count("compensated") == 56


async def test_the_parts_of_a_large_one_are_no_jobs_of_their_own(house: House) -> None:
    place = house.place()
    place.hold("/s59")
    steps = [step(place, f"s{number}") for number in range(60)]
    operation_id = await started(house, GRAPH, {"steps": steps})
    place.until("/s59")
    await stands(
        house, operation_id, lambda body: list(steps_of(body).values()).count("completed") == 59
    )
    response = await fetch(house.door, "/api/v1/workflows?status=running", ALICE)
    for each in response.json()["workflows"]:
        assert each["workflow_type"] != "orchestration_part_workflow"
    for name in ("-part-0", "-part-1"):
        path = path_of(operation_id + name, "status")
        refusal(await fetch(house.door, path, ALICE), 404, "NOT_FOUND")
    assert (await tell(house, operation_id, "cancel")).status == 202
    body = await ended(house, operation_id, "cancelled")
    undone = {each for each in place.paths() if each.startswith("DELETE")}
    assert {f"DELETE /s{number}" for number in range(59)} <= undone
    assert steps_of(body)["s0"] == "compensated"


async def test_more_steps_than_a_job_may_have_are_refused(house: House) -> None:
    place = house.place()
    steps = [step(place, f"s{number}") for number in range(1001)]
    response = await starts(house, GRAPH, {"steps": steps})
    assert response.status in (413, 422), response.start
    assert place.seen() == []


async def test_a_reference_to_nothing_fails_its_step(house: House) -> None:
    place = house.place()
    place.on("/a", Reply({"id": 1}))
    steps = [step(place, "a"), step(place, "b", "a", body={"$result": "/a/nothing"})]
    body = await did(house, GRAPH, {"steps": steps}, expected="failed")
    assert (body["error"]["step"], body["error"]["code"]) == ("b", "VALIDATION")
    assert place.seen("/b") == []
    assert steps_of(body)["a"] == "compensated"


@pytest.mark.parametrize("up", ["../../other/x", "..", "a/b", "%2e%2e/x", "x\\y"])
async def test_a_reference_can_not_leave_its_place_in_a_path(house: House, up: str) -> None:
    place = house.place()
    place.on("/a", Reply({"up": up}))
    steps = [step(place, "a"), {"id": "b", **call(place("/b/${/a/up}/c")), "depends_on": ["a"]}]
    operation_id = await started(house, GRAPH, {"steps": steps})
    body = await over(house, operation_id)
    other = [each for each in house.services.seen if each.service == "other"]
    assert not [each for each in other if each.path.startswith("/x")]
    reached = [each.path for each in place.seen() if each.path.startswith(place("/b"))]
    assert all(each == place("/b/%252e%252e%2Fx/c") for each in reached), reached
    if not reached:
        assert (body["status"], body["error"]["step"]) == ("failed", "b")


async def test_a_reference_can_not_leave_its_place_in_a_query_or_a_field(house: House) -> None:
    place = house.place()
    place.on("/a", Reply({"line": "a\r\nX-Evil: 1", "q": "a&b=c#d"}))
    steps = [
        step(place, "a"),
        {"id": "c", **call(place("/c")), "query": {"q": "${/a/q}"}, "depends_on": ["a"]},
    ]
    await did(house, GRAPH, {"steps": steps})
    assert place.seen("/c")[0].query == "q=a%26b%3Dc%23d"
    steps[1] = {"id": "b", **call(place("/d"), headers={"X-A": "${/a/line}"}), "depends_on": ["a"]}
    body = await did(house, GRAPH, {"steps": steps}, expected="failed")
    assert body["error"]["step"] == "b"
    assert not any("x-evil" in each.headers for each in place.seen())
