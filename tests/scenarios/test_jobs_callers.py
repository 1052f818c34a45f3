"""In whose name a job asks services: the rights and limits of who started it, once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.messages import request
from tests.scenarios.job_calls import ALICE, API, ASYNC, GRAPH, body_of, call, did, ended, starts
from tests.scenarios.job_house import ENVIRON, House, Reply
from tests.streams import LOCAL, bearer, refusal, who

VIP = who("vera", "jobs:write", "vip", tenant="acme", tier="pro")
SERVICE_TOKEN = ENVIRON["SERVICE_TOKEN"]


async def result_of(house: House, given: dict[str, Any], caller: bytes = ALICE) -> dict[str, Any]:
    """What a request as a job comes to."""
    body = body_of(await starts(house, API, given, caller=caller))
    assert body["status"] == "completed", body
    result: dict[str, Any] = body["result"]
    return result


def refused(result: dict[str, Any], status: int, code: str) -> dict[str, Any]:
    """Holds a result that is a refusal against the contract; its error."""
    assert (result["status"], result["error"]["code"]) == (status, code), result
    assert result["error"]["message"]
    error: dict[str, Any] = result["error"]
    return error


async def test_a_service_is_told_who_started_the_job(house: House) -> None:
    place = house.place()
    body = body_of(await starts(house, API, call(place("/a")), caller=VIP))
    (seen,) = place.seen()
    told = {name: seen.headers.get(name) for name in ("x-user-id", "x-tenant-id", "x-user-tier")}
    assert told == {"x-user-id": "vera", "x-tenant-id": "acme", "x-user-tier": "pro"}
    assert seen.headers["idempotency-key"] == f"{body['operation_id']}:request"
    assert "x-on-behalf-of" not in seen.headers
    assert SERVICE_TOKEN not in str(seen.headers)
    assert "authorization" not in seen.headers


async def test_all_requests_of_a_job_belong_together(house: House) -> None:
    place = house.place()
    place.on("/b", Reply({}, 503), Reply({}))
    steps = [
        {"id": "a", **call(place("/a"))},
        {"id": "b", **call(place("/b")), "retry": {"max_attempts": 2, "initial_seconds": 0.1}},
    ]
    body = await did(house, GRAPH, {"steps": steps}, b"X-Correlation-ID: together-1")
    seen = place.seen()
    assert {each.headers["x-correlation-id"] for each in seen} == {"together-1"}
    assert len({each.headers["x-request-id"] for each in seen}) == 3
    keys = [each.headers["idempotency-key"] for each in place.seen("/b")]
    assert keys == [f"{body['operation_id']}:b"] * 2
    assert place.seen("/a")[0].headers["idempotency-key"] == f"{body['operation_id']}:a"


async def test_a_right_that_the_caller_lacks_is_a_refusal_as_result(house: House) -> None:
    place = house.place()
    given = call(place("/a"), service="guarded")
    refused(await result_of(house, given), 403, "FORBIDDEN")
    assert place.seen() == []
    assert (await result_of(house, given, VIP))["status"] == 200
    assert place.paths() == ["GET /a"]


async def test_a_step_without_the_right_fails_at_once_and_is_not_tried_again(house: House) -> None:
    place = house.place()
    steps = [{"id": "a", **call(place("/a"), service="guarded")}]
    body = await did(house, GRAPH, {"steps": steps}, expected="failed")
    assert (body["error"]["step"], body["error"]["status"]) == ("a", 403), body["error"]
    assert body["steps"][0]["attempts"] == 1
    body = await did(house, GRAPH, {"steps": steps}, caller=VIP)
    assert place.paths() == ["GET /a"]


async def test_a_limit_is_the_callers_and_taken_once(house: House) -> None:
    place = house.place()
    caller = who(f"scarce{place.prefix}", "jobs:write")
    given = call("/scarce")
    assert (await result_of(house, given, caller))["status"] == 200
    error = refused(await result_of(house, given, caller), 429, "RATE_LIMITED")
    assert error["retry_after"] > 0
    other = who(f"other{place.prefix}", "jobs:write")
    assert (await result_of(house, given, other))["status"] == 200


async def test_a_tier_that_is_used_up_is_a_refusal_as_result(house: House) -> None:
    place = house.place()
    caller = who(f"poor{place.prefix}", "jobs:write", tier="free")
    line = f"GET /api/v1/svc{place('/direct')}".encode()
    for _ in range(5):
        response = await house.door.ask(request(line, caller, host=LOCAL))
        assert response.status == 200
    error = refused(await result_of(house, call(place("/a")), caller), 429, "RATE_LIMITED")
    assert error["retry_after"] > 0
    assert place.seen("/a") == []
    refusal(await starts(house, API, call(place("/a")), caller=caller), 429, "RATE_LIMITED")


async def test_a_step_over_the_limit_waits_until_it_may(house: House) -> None:
    place = house.place()
    caller = who(f"patient{place.prefix}", "jobs:write", tenant="acme")
    steps = [{"id": "a", **call("/brief")}, {"id": "b", **call("/brief"), "depends_on": ["a"]}]
    body = await did(house, GRAPH, {"steps": steps}, caller=caller)
    assert {step["status"] for step in body["steps"]} == {"completed"}


async def test_a_service_that_nobody_may_ask_directly_is_none_of_a_jobs_either(
    house: House,
) -> None:
    place = house.place()
    response = await starts(house, API, call(place("/a"), service="unseen"), caller=VIP)
    if response.status == 200:
        refused(response.json()["result"], 404, "NOT_FOUND")
    else:
        refusal(response, 422, "UNPROCESSABLE", "/service")
    assert place.seen() == []


async def test_a_service_that_is_away_fails_the_job_with_what_it_was(house: House) -> None:
    given = {"steps": [{"id": "a", **call("/a", service="dead"), "retry": {"max_attempts": 1}}]}
    body = await did(house, GRAPH, given, expected="failed")
    error = body["error"]
    assert (error["step"], error["code"], error["status"]) == ("a", "SERVICE_UNAVAILABLE", 503)


async def test_a_services_own_answer_is_the_result(house: House) -> None:
    place = house.place()
    for status in (201, 302, 400, 404, 409, 422):
        place.on("/a", Reply({"n": status}, status, {"Location": "http://127.0.0.1:1/x"}))
        result = await result_of(house, call(place("/a")))
        assert (result["status"], result["body"]) == (status, {"n": status})
    assert len(place.seen("/a")) == 6


async def test_cookies_of_a_service_are_nobodys(house: House) -> None:
    place = house.place()
    place.on("/a", Reply({}, 200, {"Set-Cookie": "session=s3cret; Path=/"}))
    for _ in range(2):
        result = await result_of(house, call(place("/a")))
        assert "s3cret" not in str(result)
    assert not any("cookie" in each.headers for each in place.seen())


@pytest.mark.parametrize("caller", [ALICE, bearer(SERVICE_TOKEN)])
async def test_a_name_that_was_not_signed_is_nobodys(house: House, caller: bytes) -> None:
    place = house.place()
    for forged in (b"X-On-Behalf-Of: vera", b"X-On-Behalf-Of: eyJhbGciOiJub25lIn0.e30."):
        line = f"GET /api/v1/guarded{place('/a')}".encode()
        response = await house.door.ask(request(line, caller, forged, host=LOCAL))
        assert response.status in (401, 403), response.start
    assert place.seen() == []


async def test_queries_headers_and_bodies_arrive_as_they_were_given(house: House) -> None:
    place = house.place()
    given = call(
        place("/a%20b"),
        "POST",
        query={"q": "a b&c", "n": 7, "l": ["x", "y"], "t": True},
        headers={"X-Mine": "ja", "Content-Type": "application/vnd.x+json"},
        body={"deep": [1, {"two": None}]},
    )
    assert (await result_of(house, given))["status"] == 200
    (seen,) = place.seen()
    assert seen.query.replace("+", "%20") == "q=a%20b%26c&n=7&l=x&l=y&t=true"
    assert (seen.headers["x-mine"], seen.headers["content-type"]) == (
        "ja",
        "application/vnd.x+json",
    )
    assert seen.json() == {"deep": [1, {"two": None}]}
    raw = call(place("/b"), "POST", body_base64="AP9i", headers={"Content-Type": "image/x"})
    assert (await result_of(house, raw))["status"] == 200
    assert place.seen("/b")[0].body == b"\x00\xffb"


async def test_an_answer_is_transformed_as_data(house: House) -> None:
    place = house.place()
    place.on("/a", Reply({"order": {"id": 7}}, 201, {"X-Colour": "blue"}))
    transform = {
        "id": {"$result": "/body/order/id"},
        "text": "${/status} ${/headers/x-colour}",
        "kept": [1],
    }
    result = await result_of(house, call(place("/a"), transform=transform))
    assert result["body"] == {"id": 7, "text": "201 blue", "kept": [1]}


async def test_a_jobs_rights_are_those_of_its_start(house: House) -> None:
    place = house.place()
    held = place.hold("/a")
    steps = [
        {"id": "a", **call(place("/a"))},
        {"id": "b", **call(place("/b"), service="guarded"), "depends_on": ["a"]},
    ]
    response = await starts(house, GRAPH, {"steps": steps}, caller=VIP)
    place.until("/a")
    held.set()
    # Who looks has fewer rights than who started it; it goes on all the same.
    await ended(house, response.json()["operation_id"], caller=ALICE)
    assert place.paths() == ["GET /a", "GET /b"]


async def test_a_retry_follows_the_table_of_its_kind(house: House) -> None:
    place = house.place()
    place.on("/a", Reply({}, 500), Reply({"fine": True}))
    result = await result_of(house, call(place("/a"), retry={"initial_seconds": 0.1}))
    assert (result["status"], result["body"], result["attempts"]) == (200, {"fine": True}, 2)
    place.on("/b", Reply({}, 500))
    steps = [{"id": "b", **call(place("/b")), "retry": {"initial_seconds": 0.1}}]
    body = await did(house, GRAPH, {"steps": steps}, expected="failed")
    assert (body["error"]["code"], body["error"]["status"]) == ("EXTERNAL", 500)
    assert len(place.seen("/b")) == 3
    assert body["steps"][0]["attempts"] == 3


async def test_an_async_request_is_the_callers_as_well(house: House) -> None:
    place = house.place()
    body = await did(house, ASYNC, call(place("/a"), service="guarded"), caller=VIP)
    assert body["result"]["answer"]["status"] == 200
    assert place.seen()[0].headers["x-user-id"] == "vera"
