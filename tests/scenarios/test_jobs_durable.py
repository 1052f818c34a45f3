"""A proxied request that becomes a job: by one header where it may, always where a row says so."""

from __future__ import annotations

import json

import pytest

from tests.messages import chunks, request
from tests.scenarios.job_calls import ALICE, ASYNC, accepted, begun, body_of, ended, fetch
from tests.scenarios.job_house import House, Reply
from tests.streams import LOCAL, refusal, who

LATER = b"Prefer: respond-async"
MIB = 1024 * 1024


def asks(line: str, *fields: bytes, body: bytes | None = None) -> bytes:
    """A request to a service, of alice."""
    return request(line.encode(), ALICE, *fields, body=body, host=LOCAL)


async def test_a_request_is_answered_later_by_one_header(house: House) -> None:
    place = house.place()
    held = place.hold("/order")
    place.on("/order", Reply({"id": 7}, 201, {"X-Colour": "blue"}, held))
    response = await house.door.ask(
        asks(
            f"PUT /api/v1/late{place('/order')}?q=a%20b&q=2",
            LATER,
            b"Content-Type: text/plain",
            b"X-Mine: yes",
            b"Cookie: session=s3cret",
            b"X-User-ID: root",
            body=b"\x00\xffbytes",
        )
    )
    operation_id = accepted(response)
    assert response.get("preference-applied") == b"respond-async"
    held.set()
    body = await ended(house, operation_id)
    assert body["workflow_type"] == ASYNC
    assert body["result"]["answer"]["status"] == 201
    assert body["result"]["answer"]["body"] == {"id": 7}
    assert body["result"]["answer"]["headers"]["x-colour"] == "blue"
    (seen,) = place.seen()
    assert (seen.method, seen.query, seen.body) == ("PUT", "q=a%20b&q=2", b"\x00\xffbytes")
    assert (seen.headers["content-type"], seen.headers["x-mine"]) == ("text/plain", "yes")
    assert (seen.headers["x-user-id"], seen.headers["x-tenant-id"]) == ("alice", "acme")
    assert seen.headers["idempotency-key"] == f"{operation_id}:request"
    left_out = {"cookie", "authorization", "x-on-behalf-of", "prefer"}
    assert not left_out & set(seen.headers), seen.headers
    assert "s3cret" not in str(seen.headers)


@pytest.mark.parametrize("path", ["/a%20b/%C3%BC", "/a//b", "/a;x=1/b", "/a/", "/${/order/id}"])
async def test_its_path_is_the_one_that_was_asked_for(house: House, path: str) -> None:
    place = house.place()
    path = path.replace("{", "%7B").replace("}", "%7D")
    response = await house.door.ask(asks(f"GET /api/v1/late{place(path)}", LATER))
    await ended(house, begun(response))
    (seen,) = place.seen()
    assert seen.path == place(path)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PATCH"])
async def test_any_method_can_be_answered_later(house: House, method: str) -> None:
    place = house.place()
    response = await house.door.ask(asks(f"{method} /api/v1/late{place('/a')}", LATER))
    await ended(house, begun(response))
    assert place.paths() == [f"{method} /a"]


async def test_nobody_makes_a_job_in_anothers_name(house: House) -> None:
    place = house.place()
    data = asks(f"GET /api/v1/late{place('/a')}", LATER, b"X-On-Behalf-Of: forged")
    refusal(await house.door.ask(data), 403, "FORBIDDEN")
    assert place.seen() == []


async def test_who_waits_a_little_gets_the_status_body(house: House) -> None:
    place = house.place()
    data = asks(f"GET /api/v1/late{place('/a')}", b"Prefer: respond-async, wait=25")
    body = body_of(await house.door.ask(data))
    assert (body["workflow_type"], body["status"]) == (ASYNC, "completed")


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        ("/api/v1/svc{}", (LATER,)),
        ("/api/v1/late/now{}", (LATER,)),
        ("/api/v1/late{}", ()),
        ("/api/v1/late{}", (b"Prefer: wait=5",)),
        ("/api/v1/late{}", (b"Prefer: respond-asynchronous",)),
    ],
)
async def test_elsewhere_and_unasked_it_is_proxied_as_ever(
    house: House, target: str, fields: tuple[bytes, ...]
) -> None:
    place = house.place()
    place.on("/a", Reply("now"))
    house.services.on("/now" + place("/a"), Reply("now"))
    response = await house.door.ask(asks("GET " + target.format(place("/a")), *fields))
    assert (response.status, response.body) == (200, b'"now"')
    assert response.get("preference-applied") is None


async def test_who_has_no_name_is_answered_at_once(house: House) -> None:
    place = house.place()
    response = await fetch(house.door, f"/api/v1/late{place('/a')}", LATER)
    assert response.status == 200
    assert response.json()["path"] == place("/a")


async def test_a_row_that_is_always_durable_needs_no_header(house: House) -> None:
    place = house.place()
    name = place.prefix.strip("/")
    response = await house.door.ask(asks(f"POST /slow/{name}", body=b"hello"))
    operation_id = begun(response)
    body = await ended(house, operation_id)
    assert body["workflow_type"] == ASYNC
    (seen,) = [each for each in house.services.seen if each.path == f"/v2/{name}"]
    assert (seen.service, seen.method, seen.body) == ("svc", "POST", b"hello")
    refusal(await fetch(house.door, f"/slow/{name}"), 401, "UNAUTHORIZED")


async def test_the_same_key_is_the_same_job(house: House) -> None:
    place = house.place()
    key = b"Idempotency-Key: " + place.prefix.encode()
    line = f"POST /api/v1/late{place('/a')}"
    first = begun(await house.door.ask(asks(line, LATER, key, body=b"one")))
    again = await house.door.ask(asks(line, LATER, key, body=b"one"))
    assert again.json()["operation_id"] == first
    assert again.get("idempotent-replayed") == b"true"
    refusal(await house.door.ask(asks(line, LATER, key, body=b"two")), 422, "UNPROCESSABLE")
    await ended(house, first)
    assert [each.body for each in place.seen()] == [b"one"]


@pytest.mark.parametrize("framed", [False, True])
async def test_a_body_has_one_mebibyte_at_most(house: House, framed: bool) -> None:
    place = house.place()
    line = f"POST /api/v1/late{place('/a')}"
    for size, good in ((MIB, True), (MIB + 1, False)):
        if framed:
            data = asks(line, LATER, b"Transfer-Encoding: chunked") + chunks(b"x" * size)
        else:
            data = asks(line, LATER, body=b"x" * size)
        async with house.door.connect() as client:
            client.send(data)
            response = await client.response()
        if good:
            await ended(house, begun(response))
        else:
            refusal(response, 413, "PAYLOAD_TOO_LARGE")
    assert [len(each.body) for each in place.seen()] == [MIB]


async def test_a_services_own_refusal_is_the_answer(house: House) -> None:
    place = house.place()
    place.on("/a", Reply({"why": "no such order"}, 404))
    response = await house.door.ask(asks(f"GET /api/v1/late{place('/a')}", LATER))
    body = await ended(house, begun(response))
    answer = body["result"]["answer"]
    assert (answer["status"], answer["body"]) == (404, {"why": "no such order"})


async def test_bytes_that_are_no_json_come_back_as_they_were(house: House) -> None:
    place = house.place()
    place.on("/a", Reply(b"\x89PNG\r\n\x1a\n\x00", headers={"Content-Type": "image/png"}))
    place.on("/b", Reply("grün".encode(), headers={"Content-Type": "text/plain; charset=utf-8"}))
    response = await house.door.ask(asks(f"GET /api/v1/late{place('/a')}", LATER))
    answer = (await ended(house, begun(response)))["result"]["answer"]
    assert answer["body"] is None
    assert answer["body_base64"] == "iVBORw0KGgoA"
    response = await house.door.ask(asks(f"GET /api/v1/late{place('/b')}", LATER))
    answer = (await ended(house, begun(response)))["result"]["answer"]
    assert answer["body"] == "grün"


async def test_its_rights_and_limits_are_the_requests_own(house: House) -> None:
    place = house.place()
    caller = who("hasty", "jobs:read", tenant=f"hasty{place.prefix}", tier="free")
    line = f"GET /api/v1/late{place('/a')}".encode()
    for left in range(5, -1, -1):
        response = await house.door.ask(request(line, caller, LATER, host=LOCAL))
        operation_id = begun(response)
        assert response.get("x-ratelimit-remaining") == b"%d" % left
    refusal(await house.door.ask(request(line, caller, LATER, host=LOCAL)), 429, "RATE_LIMITED")
    reader = who("hasty", "jobs:read", tenant=f"hasty{place.prefix}")
    body = await ended(house, operation_id, caller=reader)
    assert body["result"]["answer"]["status"] == 200, json.dumps(body)


@pytest.mark.parametrize("path", ["/internal/jobs/durable", "/internal/jobs/admission"])
async def test_the_paths_between_gateway_and_worker_do_not_exist(house: House, path: str) -> None:
    fields = [b"X-Gateway-Target: /api/v1/late/x", b"X-Gateway-Service: late"]
    fields += [b"X-Gateway-Identity: x", b"X-On-Behalf-Of: x"]
    for caller in (ALICE, who("root", "admin", "jobs:write"), b"X-A: b"):
        for method in (b"POST", b"GET"):
            response = await fetch(house.door, path, caller, *fields, method=method)
            refusal(response, 404, "NOT_FOUND")
