"""Orchestrations that run in parts, as their callers see them."""

from __future__ import annotations

from tests.scenarios.job_calls import ALICE, GRAPH, call, fetch, over, path_of, started
from tests.scenarios.job_house import House, Reply


async def test_the_history_of_a_large_one_has_every_step_with_why_it_failed(house: House) -> None:
    place = house.place()
    place.on("/s7", Reply({"text": "no such item"}, 404))
    steps = [{"id": f"s{n}", **call(place(f"/s{n}"), "POST")} for n in range(60)]
    steps[7]["required"] = False
    operation_id = await started(house, GRAPH, {"steps": steps})
    await over(house, operation_id)
    found = (await fetch(house.door, path_of(operation_id, "history"), ALICE)).json()
    ran = {each["step"]: each for each in found["entries"] if "part" in each and "step" in each}
    assert set(ran) == {f"s{n}" for n in range(60)}
    assert {each["part"] for each in ran.values()} == {"part-1", "part-2"}
    assert ran["s8"]["status"] == "completed"
    assert ran["s7"]["status"] == "failed"
    assert "404" in ran["s7"]["failure"]["message"]  # decoded: what Temporal has is not readable
    assert found["events_left_out"] == 0
