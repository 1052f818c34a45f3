"""Starting a job: who waits for what, once for each Idempotency-Key, and nothing from bad input."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.messages import request
from tests.scenarios.job_calls import (
    ALICE,
    API,
    ASYNC,
    GRAPH,
    LIST,
    PROCESS,
    RECOVERY,
    SWITCH,
    TYPES,
    accepted,
    begun,
    body_of,
    call,
    ended,
    fetch,
    starts,
    status,
)
from tests.scenarios.job_house import House, Reply
from tests.streams import LOCAL, post, refusal, who

SHORT = "/api/workflows"


def prefer(text: str) -> bytes:
    """The field of RFC 7240."""
    return b"Prefer: " + text.encode()


def keyed(key: str) -> bytes:
    """The field that makes a start repeatable."""
    return b"Idempotency-Key: " + key.encode()


@pytest.mark.parametrize("prefix", [LIST, SHORT])
async def test_a_short_kind_is_answered_with_its_result(house: House, prefix: str) -> None:
    place = house.place()
    place.on("/a", Reply({"n": 1}, 201, {"X-Colour": "blue"}))
    response = await starts(house, API, call(place("/a"), "POST", body={"m": 2}), prefix=prefix)
    body = body_of(response)
    assert (body["workflow_type"], body["status"]) == (API, "completed")
    assert body["result"]["status"] == 201
    assert body["result"]["body"] == {"n": 1}
    assert body["result"]["headers"]["x-colour"] == "blue"
    assert response.get("preference-applied") is None
    assert body == await status(house, body["operation_id"])
    (seen,) = place.seen()
    assert (seen.method, seen.json()) == ("POST", {"m": 2})


@pytest.mark.parametrize("prefix", [LIST, SHORT])
async def test_a_long_kind_is_answered_with_where_to_look(house: House, prefix: str) -> None:
    place = house.place()
    steps = [{"id": "a", **call(place("/a"))}]
    process = [{"id": "a", "request": call(place("/b"))}]
    gates = [place.hold(path) for path in ("/a", "/b", "/c")]
    ids = {}
    inputs = {ASYNC: call(place("/c")), GRAPH: {"steps": steps}, PROCESS: {"steps": process}}
    for kind, given in inputs.items():
        response = await starts(house, kind, given, prefix=prefix)
        ids[kind] = accepted(response)
        assert response.get("preference-applied") is None
    for gate in gates:
        gate.set()
    for kind, operation_id in ids.items():
        assert (await ended(house, operation_id))["workflow_type"] == kind


async def test_who_prefers_to_wait_gets_the_result_of_a_long_kind(house: House) -> None:
    place = house.place()
    response = await starts(house, ASYNC, call(place("/a")), prefer("wait=25"))
    assert body_of(response)["status"] == "completed"
    assert response.get("preference-applied") == b"wait=25"


async def test_who_waits_too_short_is_told_where_to_look(house: House) -> None:
    place = house.place()
    held = place.hold("/a", {"late": True})
    for kind in (ASYNC, API):
        response = await starts(house, kind, call(place("/a")), prefer("wait=1"))
        operation_id = accepted(response)
        assert response.get("preference-applied") == b"wait=1"
        assert (await status(house, operation_id))["status"] in ("pending", "running")
    held.set()
    assert (await ended(house, operation_id))["result"]["body"] == {"late": True}


async def test_a_short_kind_is_not_waited_for_when_the_client_prefers_so(house: House) -> None:
    place = house.place()
    held = place.hold("/a")
    response = await starts(house, API, call(place("/a")), prefer("respond-async"))
    operation_id = accepted(response)
    assert response.get("preference-applied") == b"respond-async"
    held.set()
    await ended(house, operation_id)


async def test_with_both_preferences_it_waits_that_long_and_then_goes_on_alone(
    house: House,
) -> None:
    place = house.place()
    quick = await starts(house, API, call(place("/a")), prefer("respond-async, wait=25"))
    assert body_of(quick)["status"] == "completed"
    held = place.hold("/b")
    response = await starts(
        house, API, call(place("/b")), prefer("wait=1"), prefer("Respond-Async; x=1")
    )
    operation_id = accepted(response)
    assert b"respond-async" in (response.get("preference-applied") or b"")
    held.set()
    await ended(house, operation_id)


@pytest.mark.parametrize("text", ["wait=soon", "wait=-1", "wait", "lenient", '"', "=,;"])
async def test_a_preference_that_nobody_understands_changes_nothing(
    house: House, text: str
) -> None:
    response = await starts(house, API, call(house.place()("/a")), prefer(text))
    assert body_of(response)["status"] == "completed"
    assert response.get("preference-applied") is None


async def test_the_same_key_and_body_are_the_same_job(house: House) -> None:
    place = house.place()
    given, key = call(place("/a")), keyed(f"k-{place.prefix}")
    first = body_of(await starts(house, API, given, key))
    again = await starts(house, API, given, key)
    assert body_of(again) == first
    assert again.get("idempotent-replayed") == b"true"
    waiting = await starts(house, API, given, key, prefer("respond-async"), prefix=SHORT)
    assert waiting.json()["operation_id"] == first["operation_id"]
    assert len(place.seen()) == 1


async def test_the_same_key_with_another_body_is_refused(house: House) -> None:
    place = house.place()
    key = keyed(f"k-{place.prefix}")
    first = begun(await starts(house, ASYNC, call(place("/a")), key))
    refusal(await starts(house, ASYNC, call(place("/b")), key), 422, "UNPROCESSABLE")
    await ended(house, first)
    refusal(await starts(house, ASYNC, call(place("/b")), key), 422, "UNPROCESSABLE")
    assert place.paths() == ["GET /a"]


async def test_a_key_is_one_kinds_and_one_tenants(house: House) -> None:
    place = house.place()
    key = keyed(f"k-{place.prefix}")
    other = who("bob", "jobs:write", tenant="globex")
    ids = {
        (await starts(house, kind, call(place("/a")), key, caller=caller)).json()["operation_id"]
        for kind in (API, ASYNC)
        for caller in (ALICE, other)
    }
    assert len(ids) == 4


async def test_a_key_that_comes_many_times_at_once_starts_one_job(house: House) -> None:
    place = house.place()
    key = keyed(f"k-{place.prefix}")
    held = place.hold("/a")
    answers = await asyncio.gather(
        *(starts(house, ASYNC, call(place("/a")), key) for _ in range(16))
    )
    (operation_id,) = {accepted(each) for each in answers}
    assert sum(each.get("idempotent-replayed") is None for each in answers) == 1
    held.set()
    await ended(house, operation_id)
    assert len(place.seen()) == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ü"])
async def test_a_key_that_is_none_is_refused(house: House, key: str) -> None:
    place = house.place()
    refusal(await starts(house, API, call(place("/a")), keyed(key)), 400, "BAD_REQUEST")
    assert place.seen() == []


async def test_an_unknown_type_is_told_with_the_known_ones(house: House) -> None:
    for kind in ("nothing", "orchestration_part_workflow", "service_breaker_workflow", "status"):
        error = refusal(await starts(house, kind, {}), 404, "NOT_FOUND")
        assert all(known in error["message"] for known in TYPES), error


def graph(*steps: dict[str, Any]) -> dict[str, Any]:
    """An orchestration's input."""
    return {"steps": [{"service": "svc", **step} for step in steps]}


def process(*steps: dict[str, Any]) -> dict[str, Any]:
    """A process's input."""
    return {"steps": list(steps)}


def headers(name: str) -> dict[str, Any]:
    """A request with that field."""
    return call("/a", headers={name: "x"})


BAD: list[tuple[str, Any, str]] = [
    (API, {}, ""),
    (API, {"service": "nobody"}, "/service"),
    (API, {"service": 7}, "/service"),
    (API, {"service": "workflows"}, "/service"),
    (API, call("a"), "/path"),
    (API, call("/a?b=1"), "/path"),
    (API, call("/a\r\nX: y"), "/path"),
    (API, call("/a", "TRACE"), "/method"),
    (API, call("/a", colour="blue"), ""),
    (API, call("/a", timeout_seconds=31), "/timeout_seconds"),
    (API, call("/a", timeout_seconds=0), "/timeout_seconds"),
    (API, call("/a", body_base64="!"), "/body_base64"),
    (API, call("/a", retry={"max_attempts": 0}), "/retry/max_attempts"),
    (API, call("/a", headers={"X Y": "z"}), "/headers"),
    (API, call("/a", headers={"X-Y": "a\r\nb: c"}), "/headers/X-Y"),
    (API, headers("Authorization"), "/headers/Authorization"),
    (API, headers("cookie"), "/headers/cookie"),
    (API, headers("Proxy-Authorization"), "/headers/Proxy-Authorization"),
    (API, headers("X-API-Key"), "/headers/X-API-Key"),
    (API, headers("Connection"), "/headers/Connection"),
    (API, headers("Transfer-Encoding"), "/headers/Transfer-Encoding"),
    (API, headers("Host"), "/headers/Host"),
    (API, headers("Content-Length"), "/headers/Content-Length"),
    (API, headers("X-On-Behalf-Of"), "/headers/X-On-Behalf-Of"),
    (GRAPH, {"steps": []}, "/steps"),
    (GRAPH, graph({"id": "a"}, {"id": "a"}), "/steps/1/id"),
    (GRAPH, graph({"id": "a b"}), "/steps/0/id"),
    (GRAPH, graph({"id": "a", "depends_on": ["b"]}), "/steps/0/depends_on/0"),
    (GRAPH, graph({"id": "a", "service": "nobody"}), "/steps/0/service"),
    (GRAPH, graph({"id": "a", "rules": [{"schema": {"type": 1}}]}), "/steps/0/rules/0/schema"),
    (GRAPH, graph({"id": "a", "rules": [{"schema": {"$ref": "http://x/"}}]}), "/steps/0/rules"),
    (GRAPH, graph({"id": "a", "condition": {"pointer": "/b/x", "like": 1}}), "/steps/0/condition"),
    (GRAPH, graph({"id": "a", "compensation": {"service": "x"}}), "/steps/0/compensation/service"),
    (GRAPH, graph({"id": "a", "body": {"$result": "/b/id"}}), "/steps/0/body"),
    (ASYNC, call("/a", callback_url="ftp://127.0.0.1/"), "/callback_url"),
    (ASYNC, call("/a", callback_url="http://10.1.2.3/"), "/callback_url"),
    (ASYNC, call("/a", client_id="a b"), "/client_id"),
    (PROCESS, process({"id": "a"}), "/steps/0"),
    (PROCESS, process({"id": "a", "value": 1, "wait_seconds": 1}), "/steps/0"),
    (PROCESS, process({"id": "a", "ask": {"prompt": ""}}), "/steps/0/ask/prompt"),
    (PROCESS, process({"id": "a", "ask": {"prompt": "?", "schema": {"type": 1}}}), "/steps/0/ask"),
    (PROCESS, process({"id": "input", "value": 1}), "/steps/0/id"),
    (RECOVERY, {"request": call("/a")}, ""),
    (RECOVERY, {"request": call("/a"), "failure": {"kind": "x"}, "strategy": "pray"}, "/strategy"),
    (RECOVERY, {"request": call("/a"), "failure": {"kind": "x"}, "strategy": "fallback"}, ""),
    (SWITCH, {"to_tenant": "b", "validate": call("/a"), "services": []}, "/services"),
    (SWITCH, {"to_tenant": "", "validate": call("/a"), "services": []}, "/to_tenant"),
]


@pytest.mark.parametrize(("kind", "given", "pointer"), BAD, ids=[f"{b[0]}{b[2]}" for b in BAD])
async def test_a_bad_input_is_told_with_its_place_and_starts_nothing(
    house: House, kind: str, given: Any, pointer: str
) -> None:
    caller = who("careless", "jobs:write", tenant=f"careless{house.place().prefix}")
    error = refusal(await starts(house, kind, given, caller=caller), 422, "UNPROCESSABLE")
    pointers = [each["pointer"] for each in error["details"]]
    assert any(each.startswith(pointer) for each in pointers), error
    assert (await fetch(house.door, LIST, caller)).json()["workflows"] == []


async def test_a_circle_of_steps_is_refused(house: House) -> None:
    given = graph({"id": "a", "depends_on": ["b"]}, {"id": "b", "depends_on": ["a"]})
    error = refusal(await starts(house, GRAPH, given), 422, "UNPROCESSABLE")
    assert error["details"][0]["pointer"].startswith("/steps")


@pytest.mark.parametrize("data", [b"", b"{", b'{"service": NaN}', b"\xff", b"[" * 9999])
async def test_a_body_that_is_no_json_is_refused(house: House, data: bytes) -> None:
    refusal(await starts(house, API, data), 400, "BAD_REQUEST")


@pytest.mark.parametrize("data", [b"[]", b"null", b'"x"', b"7"])
async def test_a_body_that_is_no_object_is_refused(house: House, data: bytes) -> None:
    refusal(await starts(house, API, data), 422, "UNPROCESSABLE", "")


async def test_a_path_can_not_reach_the_gateways_own_or_another_service(house: House) -> None:
    place = house.place()
    paths = (
        "/../other" + place("/a"),
        "/%2e%2e/other" + place("/b"),
        "//other" + place("/c"),
        "/..;/..;/admin/services",
    )
    for path in paths:
        response = await starts(house, API, call(path))
        if response.status == 200:
            body = response.json()
            assert body["result"]["status"] != 200 or "svc" in str(body["result"]["body"]), path
        else:
            refusal(response, 422, "UNPROCESSABLE", "/path")
    other = [each.path for each in house.services.seen if each.service == "other"]
    assert not [path for path in other if place.prefix in path]


async def test_starting_takes_the_right_to(house: House) -> None:
    place = house.place()
    data = (f"{LIST}/{API}", call(place("/a")))
    refusal(await house.door.ask(post(*data)), 401, "UNAUTHORIZED")
    refusal(await house.door.ask(post(*data, b"Authorization: Bearer x")), 401, "AUTH_FAILED")
    for scopes in (("jobs:read",), ("events:write",), ()):
        refusal(await house.door.ask(post(*data, who("ann", *scopes))), 403, "FORBIDDEN")
    assert place.seen() == []


async def test_a_start_takes_no_other_method(house: House) -> None:
    response = await fetch(house.door, f"{LIST}/{API}", ALICE, method=b"PUT")
    refusal(response, 405, "METHOD_NOT_ALLOWED")
    assert response.get("allow") == b"POST"


async def test_a_start_names_its_job_under_either_prefix(house: House) -> None:
    place = house.place()
    operation_id = begun(await starts(house, ASYNC, call(place("/a")), prefix=SHORT))
    await ended(house, operation_id)
    for prefix in (LIST, SHORT):
        response = await fetch(house.door, f"{prefix}/{operation_id}/status", ALICE)
        assert body_of(response)["operation_id"] == operation_id


async def test_a_start_is_counted_and_says_what_is_left(house: House) -> None:
    caller = who("counted", "jobs:write", tenant="counted", tier="free")
    left = []
    for _ in range(2):
        response = await starts(house, ASYNC, {"service": "nobody"}, caller=caller)
        assert response.get("x-ratelimit-limit") == b"6"
        left.append(int(response.get("x-ratelimit-remaining") or b"-1"))
    assert left[0] - left[1] == 1


async def test_a_body_without_a_length_is_taken_as_well(house: House) -> None:
    place = house.place()
    text = b'{"service": "svc", "path": "%s"}' % place("/a").encode()
    data = request(f"POST {LIST}/{API}".encode(), ALICE, b"Transfer-Encoding: chunked", host=LOCAL)
    framed = data + b"%x\r\n%b\r\n0\r\n\r\n" % (len(text), text)
    assert body_of(await house.door.ask(framed))["status"] == "completed"
