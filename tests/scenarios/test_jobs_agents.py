"""An AI agent's jobs are held to the rows' rules about agents; what the record of a start says."""

from __future__ import annotations

from functools import partial

from tests.connection import eventually
from tests.messages import request
from tests.scenarios.job_calls import ALICE, API, GRAPH, begun, body_of, call, did, starts
from tests.scenarios.job_house import House
from tests.streams import LOCAL

GPTBOT = b"User-Agent: Mozilla/5.0 (compatible; GPTBot/1.2; +https://openai.com/gptbot)"


async def test_no_job_leads_an_agent_round_a_row_that_refuses_it(house: House) -> None:
    place = house.place()
    given = call(place("/people"))
    for agent in (GPTBOT, b"X-AI-Agent: mine"):
        result = body_of(await starts(house, API, given, agent))["result"]
        assert (result["status"], result["error"]["code"]) == (403, "FORBIDDEN")
        steps = [{"id": "a", **given}]
        body = await did(house, GRAPH, {"steps": steps}, agent, expected="failed")
        assert (body["error"]["step"], body["error"]["status"]) == ("a", 403)
        assert body["steps"][0]["attempts"] == 1
    assert place.seen() == []
    assert body_of(await starts(house, API, given))["result"]["status"] == 200
    elsewhere = call(place("/all"))
    assert body_of(await starts(house, API, elsewhere, GPTBOT))["result"]["status"] == 200
    assert place.paths() == ["GET /people", "GET /all"]


async def test_the_record_of_a_start_has_the_id_of_its_job(house: House) -> None:
    place = house.place()
    short = begun(await starts(house, API, call(place("/a"))))
    line = f"GET /api/v1/late{place('/b')}".encode()
    asked = request(line, ALICE, b"Prefer: respond-async", host=LOCAL)
    response = await house.door.ask(asked)
    assert response.status == 202
    assert response.get("x-gateway-job") is None
    durable = response.json()["operation_id"]
    for operation_id, route in (
        (short, "/api/v1/workflows/{type}"),
        (durable, "/api/v1/{service}"),
    ):
        await eventually(
            partial(house.lines, "request", operation_id=operation_id, route=route),
            f"the record of the start of {operation_id}",
        )
