"""Callbacks of asynchronous requests: accepted, then the end, signed as Standard Webhooks."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.callbacks.receiving import is_genuine
from tests.scenarios.job_calls import (
    ALICE,
    ASYNC,
    BODY_MEMBERS,
    begun,
    call,
    did,
    ended,
    path_of,
    started,
    starts,
    tell,
)
from tests.scenarios.job_house import WEBHOOK_SECRET, House, Place, Reply, Seen
from tests.streams import TIMESTAMP, refusal, subscribe, who


def hook(house: House, place: Place, path: str = "/hook") -> str:
    """Where a receiver listens."""
    return house.services.url + "/receiver" + place(path)


def opened(seen: Seen) -> dict[str, Any]:
    """A callback, held against Standard Webhooks."""
    assert seen.method == "POST"
    assert seen.headers["content-type"].startswith("application/json")
    assert is_genuine(WEBHOOK_SECRET, seen.headers, seen.body, time.time())
    assert not {"authorization", "cookie", "x-on-behalf-of"} & set(seen.headers)
    message: dict[str, Any] = seen.json()
    assert {"type", "timestamp", "data"} <= set(message), message
    assert TIMESTAMP.fullmatch(message["timestamp"]), message
    return message


async def test_a_receiver_is_told_that_it_was_accepted_and_how_it_ended(house: House) -> None:
    place = house.place()
    held = place.hold("/a", {"id": 7})
    given = call(place("/a"), callback_url=hook(house, place), metadata={"mine": [1]})
    operation_id = await started(house, ASYNC, given)
    first = opened(place.until("/hook")[0])
    assert first["data"]["operation_id"] == operation_id
    assert first["data"]["metadata"] == {"mine": [1]}
    assert first["data"]["status"] in ("pending", "running", "accepted")
    held.set()
    body = await ended(house, operation_id)
    last = opened(place.until("/hook", 2)[1])
    assert last["type"] != first["type"]
    data = last["data"]
    assert {"operation_id": operation_id, "status": "completed"}.items() <= data.items()
    assert data["metadata"] == {"mine": [1]}
    assert set(data) >= BODY_MEMBERS
    assert data["result"]["answer"] == body["result"]["answer"]
    ids = [each.headers["webhook-id"] for each in place.seen("/hook")]
    assert len(set(ids)) == 2


@pytest.mark.parametrize("how", ["timed_out", "cancelled"])
async def test_a_receiver_is_told_of_a_bad_end_as_well(house: House, how: str) -> None:
    place = house.place()
    place.hold("/a")
    given = call(place("/a"), callback_url=hook(house, place))
    if how == "timed_out":
        given["timeout_seconds"] = 1  # which may be over before the request
    operation_id = await started(house, ASYNC, given)
    if how == "cancelled":
        place.until("/a")
        await tell(house, operation_id, "cancel")
    body = await ended(house, operation_id, how)
    last = opened(place.until("/hook", 2)[1])
    assert (last["data"]["status"], last["data"]["error"]) == (how, body["error"])


async def test_a_callback_that_fails_comes_again_with_the_same_id(house: House) -> None:
    place = house.place()
    place.on("/hook", Reply({}, 503), Reply({}), Reply({}))
    operation_id = await started(house, ASYNC, call(place("/a"), callback_url=hook(house, place)))
    await ended(house, operation_id)  # the job does not wait for its receivers
    seen = place.until("/hook", 3)
    types = [opened(each)["type"] for each in seen]
    assert len(set(types)) == 2
    again = [each for each in types if types.count(each) == 2]
    ids = {each.headers["webhook-id"] for each in seen if opened(each)["type"] == again[0]}
    assert len(ids) == 1
    assert "accepted" in types[0]


async def test_a_receiver_that_is_gone_is_left_alone(house: House) -> None:
    place = house.place()
    place.on("/hook", Reply({}, 410))
    operation_id = await started(house, ASYNC, call(place("/a"), callback_url=hook(house, place)))
    await ended(house, operation_id)
    assert len(place.until("/hook")) <= 2


async def test_a_redirect_is_not_followed(house: House) -> None:
    place = house.place()
    place.on("/hook", Reply({}, 302, {"Location": hook(house, place, "/elsewhere")}))
    operation_id = await started(house, ASYNC, call(place("/a"), callback_url=hook(house, place)))
    await ended(house, operation_id)
    place.until("/hook")
    assert place.seen("/elsewhere") == []


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "http://192.168.1.1/",
        "http://[::1]:1/",
        "http://user:pass@127.0.0.1/",
        "file:///etc/passwd",
        "nonsense",
    ],
)
async def test_an_address_that_callbacks_may_not_reach_is_refused(house: House, url: str) -> None:
    place = house.place()
    response = await starts(house, ASYNC, call(place("/a"), callback_url=url))
    error = refusal(response, 422, "UNPROCESSABLE", "/callback_url")
    assert "pass@" not in str(error)
    assert place.seen() == []


async def test_a_callback_url_is_in_no_log(house: House) -> None:
    place = house.place()
    url = hook(house, place) + "?token=s3cret-token"
    body = await did(house, ASYNC, call(place("/a"), callback_url=url))
    place.until("/hook", 2)
    assert body["status"] == "completed"
    for process in (house.gateway, house.worker):
        assert "s3cret-token" not in process.output.read_text()


async def test_the_callers_own_stream_is_told_of_the_end(house: House) -> None:
    place = house.place()
    name = f"sub{place.prefix.replace('/', '-')}"
    caller = who(name, "jobs:write", tenant="acme")
    async with subscribe(house.door, name, caller) as stream:
        operation_id = await started(house, ASYNC, call(place("/a")), caller=caller)
        event = await stream.event()
        assert event.type == "job.completed"
        assert event.data["operation_id"] == operation_id
        assert event.data["status"] == "completed"
        assert event.id is not None


async def test_another_stream_is_told_where_the_caller_may(house: House) -> None:
    place = house.place()
    name = f"screen{place.prefix.replace('/', '-')}"
    mine = who("alice", "jobs:write", tenant="acme", client_ids=[name])
    async with subscribe(house.door, name, mine) as stream:
        given = call(place("/a"), client_id=name)
        operation_id = begun(await starts(house, ASYNC, given, caller=mine))
        event = await stream.event()
        assert (event.type, event.data["operation_id"]) == ("job.completed", operation_id)
    response = await starts(house, ASYNC, given, caller=ALICE)
    assert response.status in (403, 404, 422), response.start
    assert path_of(operation_id, "result") in str(event.data)
