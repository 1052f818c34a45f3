"""Looking at jobs: lists, status, result, history; whose they are; what the log says of them."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.messages import Message
from tests.scenarios.job_calls import (
    ALICE,
    API,
    ASYNC,
    GRAPH,
    LIST,
    OPERATION_ID,
    PROCESS,
    begun,
    body_of,
    call,
    did,
    ended,
    fetch,
    path_of,
    stands,
    started,
    starts,
    status,
    tell,
    until,
)
from tests.scenarios.job_house import House, Reply
from tests.streams import TIMESTAMP, post, refusal, who

SUMMARY = {"operation_id", "workflow_type", "status", "started_at", "ended_at", "status_url"}
PATHS = [
    ("GET", "status"),
    ("GET", "result"),
    ("GET", "stream"),
    ("GET", "history"),
    ("POST", "cancel"),
    ("POST", "terminate"),
    ("POST", "signal/pause"),
    ("POST", "update/skip_step"),
]


async def page(house: House, caller: bytes, **query: Any) -> dict[str, Any]:
    """One page of a list, held against the contract."""
    path = LIST + ("?" + urlencode(query) if query else "")
    response = await fetch(house.door, path, caller)
    assert response.status == 200, (response.start, response.body)
    document: dict[str, Any] = response.json()
    assert set(document) == {"workflows", "next_page_token"}
    assert all(set(each) == SUMMARY for each in document["workflows"]), document
    return document


async def listed(house: House, caller: bytes, wanted: list[str], **query: Any) -> None:
    """Waits until a list holds just these, in this order (it follows within a moment)."""

    async def there() -> bool:
        found = (await page(house, caller, **query))["workflows"]
        return [each["operation_id"] for each in found] == wanted

    await until(f"{wanted} in a list of {query}", there)


async def test_a_list_is_filtered_and_has_the_newest_first(house: House) -> None:
    place = house.place()
    caller = who("lister", "jobs:write", tenant=f"list{place.prefix}")
    assert await page(house, caller) == {"workflows": [], "next_page_token": None}
    place.hold("/held")
    place.on("/bad", Reply({}, 404))
    done = (await did(house, ASYNC, call(place("/a")), caller=caller))["operation_id"]
    graph = {"steps": [{"id": "a", **call(place("/bad"))}]}
    failed = (await did(house, GRAPH, graph, expected="failed", caller=caller))["operation_id"]
    running = await started(house, ASYNC, call(place("/held")), caller=caller)
    asking = {"steps": [{"id": "q", "ask": {"prompt": "?"}}]}
    waiting = await started(house, PROCESS, asking, caller=caller)
    await stands(house, waiting, "waiting", caller)
    place.until("/held")
    await listed(house, caller, [waiting, running, failed, done])
    await listed(house, caller, [running, done], type=ASYNC)
    await listed(house, caller, [done], status="completed")
    await listed(house, caller, [failed], status="failed")
    await listed(house, caller, [waiting], status="waiting")
    await listed(house, caller, [running], status="running")
    await listed(house, caller, [running], status="running", type=ASYNC)
    await listed(house, caller, [], status="completed", type=API)
    for kind in ("terminated", "timed_out", "cancelled"):
        await listed(house, caller, [], status=kind)
    await tell(house, waiting, "terminate", caller=caller)
    await tell(house, running, "cancel", caller=caller)
    await listed(house, caller, [waiting], status="terminated")
    await listed(house, caller, [running], status="cancelled")
    first = (await page(house, caller))["workflows"][-1]
    assert first["status_url"] == path_of(done, "status")
    assert TIMESTAMP.fullmatch(first["started_at"])
    assert first["ended_at"] >= first["started_at"]


async def test_the_newest_is_the_one_that_was_started_last_whichever_ended_first(
    house: House,
) -> None:
    place = house.place()
    caller = who("orderer", "jobs:write", tenant=f"order{place.prefix}")
    held = place.hold("/held")
    first = await started(house, ASYNC, call(place("/held")), caller=caller)
    second = (await did(house, ASYNC, call(place("/a")), caller=caller))["operation_id"]
    third = (await did(house, ASYNC, call(place("/a")), caller=caller))["operation_id"]
    await listed(house, caller, [third, second], status="completed")
    await listed(house, caller, [third, second, first])
    page_of_two = await page(house, caller, page_size=2)
    held.set()
    await ended(house, first, caller=caller)
    await listed(house, caller, [third, second, first], status="completed")
    rest = await page(house, caller, page_size=2, page_token=page_of_two["next_page_token"])
    assert [each["operation_id"] for each in rest["workflows"]] == [first]


async def test_a_list_comes_in_pages(house: House) -> None:
    caller = who("pager", "jobs:write", tenant=f"page{house.place().prefix}")
    given = {"steps": [{"id": "a", "value": 1}]}
    ids = [await started(house, PROCESS, given, caller=caller) for _ in range(5)]
    await listed(house, caller, ids[::-1])
    found: list[str] = []
    query: dict[str, Any] = {"page_size": 2}
    for size in (2, 2, 1):
        document = await page(house, caller, **query)
        assert len(document["workflows"]) == size
        found += [each["operation_id"] for each in document["workflows"]]
        query["page_token"] = document["next_page_token"]
    assert query["page_token"] is None
    assert found == ids[::-1]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("status=done", 422, "UNPROCESSABLE"),
        ("type=nothing", 422, "UNPROCESSABLE"),
        ("page_token=nonsense", 400, "BAD_REQUEST"),
        ("page_size=0", 400, "BAD_REQUEST"),
        ("page_size=201", 400, "BAD_REQUEST"),
    ],
)
async def test_a_filter_that_is_none_is_refused(
    house: House, query: str, status: int, code: str
) -> None:
    refusal(await fetch(house.door, f"{LIST}?{query}", ALICE), status, code)


async def test_a_page_token_opens_nobody_elses_list(house: House) -> None:
    place = house.place()
    mine, other = (
        who(name, "jobs:write", tenant=f"{name}{place.prefix}") for name in ("mine", "other")
    )
    given = {"steps": [{"id": "a", "value": 1}]}
    ids = [await started(house, PROCESS, given, caller=mine) for _ in range(3)]
    await listed(house, mine, ids[::-1])
    token = (await page(house, mine, page_size=1))["next_page_token"]
    response = await fetch(house.door, f"{LIST}?page_size=1&page_token={token}", other)
    if response.status == 200:
        assert response.json()["workflows"] == []
    else:
        refusal(response, 400, "BAD_REQUEST")


async def asks(house: House, method: str, operation_id: str, what: str, caller: bytes) -> Message:
    """One of a job's paths."""
    path = path_of(operation_id, what)
    if method == "GET":
        return await fetch(house.door, path, caller, b"Accept: */*")
    return await house.door.ask(post(path, b"", caller))


async def test_the_jobs_of_another_tenant_do_not_exist(house: House) -> None:
    place = house.place()
    held = place.hold("/a")
    operation_id = await started(house, ASYNC, call(place("/a")))
    strangers = (
        who("alice", "jobs:write", "jobs:read", tenant="globex"),
        who("alice", "jobs:write", "jobs:read"),
        who("acme", "jobs:write", "jobs:read"),
    )
    for stranger in strangers:
        for method, what in PATHS:
            refusal(await asks(house, method, operation_id, what, stranger), 404, "NOT_FOUND")
        found = (await page(house, stranger))["workflows"]
        assert operation_id not in [each["operation_id"] for each in found]
    assert (await status(house, operation_id))["status"] in ("pending", "running")
    held.set()
    await ended(house, operation_id)


async def test_a_colleague_with_the_right_to_read_reads_and_does_no_more(house: House) -> None:
    place = house.place()
    held = place.hold("/a")
    operation_id = await started(house, ASYNC, call(place("/a")))
    reader = who("carol", "jobs:read", tenant="acme")
    assert (await status(house, operation_id, reader))["operation_id"] == operation_id
    assert (await fetch(house.door, path_of(operation_id, "result"), reader)).status == 202
    assert (await fetch(house.door, path_of(operation_id, "history"), reader)).status == 200
    for method, what in PATHS:
        if method == "POST":
            refusal(await asks(house, method, operation_id, what, reader), 403, "FORBIDDEN")
    held.set()
    await ended(house, operation_id, caller=reader)


async def test_without_a_tenant_one_sees_ones_own(house: House) -> None:
    place = house.place()
    sub = f"solo{place.prefix.replace('/', '-')}"
    mine = who(sub, "jobs:write")
    operation_id = (await did(house, ASYNC, call(place("/a")), caller=mine))["operation_id"]
    await listed(house, mine, [operation_id])
    for stranger in (who("someone", "jobs:read"), who(sub, "jobs:read", tenant=sub)):
        path = path_of(operation_id, "status")
        refusal(await fetch(house.door, path, stranger), 404, "NOT_FOUND")


@pytest.mark.parametrize(("method", "what"), PATHS)
async def test_looking_takes_a_right(house: House, method: str, what: str) -> None:
    operation_id = "0123456789abcdef-01a20060-8eb6-7c9b-b11b-526389e7ce20"
    refusal(await asks(house, method, operation_id, what, b"X-A: b"), 401, "UNAUTHORIZED")
    bad = b"Authorization: Bearer nonsense"
    refusal(await asks(house, method, operation_id, what, bad), 401, "AUTH_FAILED")
    nobody = who("ann", "events:read", tenant="acme")
    response = await asks(house, method, operation_id, what, nobody)
    assert (response.status, response.json()["error"]["code"]) in (
        (403, "FORBIDDEN"),
        (404, "NOT_FOUND"),
    )
    refusal(await asks(house, method, operation_id, what, ALICE), 404, "NOT_FOUND")


async def test_listing_takes_a_right(house: House) -> None:
    refusal(await fetch(house.door, LIST), 401, "UNAUTHORIZED")
    refusal(await fetch(house.door, LIST, who("ann", "events:read")), 403, "FORBIDDEN")


@pytest.mark.parametrize("operation_id", ["x", "..", "%00", "a" * 3000, "callback", "0" * 16 + "-"])
async def test_an_id_that_is_none_is_not_found(house: House, operation_id: str) -> None:
    response = await fetch(house.door, path_of(operation_id, "status"), ALICE)
    assert response.status in (400, 404), response.start


async def test_an_unknown_word_below_a_job_is_not_found(house: House) -> None:
    operation_id = "0123456789abcdef-01a20060-8eb6-7c9b-b11b-526389e7ce20"
    refusal(await fetch(house.door, path_of(operation_id, "colour"), ALICE), 404, "NOT_FOUND")


async def test_the_result_comes_alone_and_a_failure_with_its_cause(house: House) -> None:
    place = house.place()
    place.on("/bad", Reply({"reason": "no such order"}, 404))
    done = await did(house, ASYNC, call(place("/a")))
    response = await fetch(house.door, path_of(done["operation_id"], "result"), ALICE)
    assert (response.status, response.json()) == (200, done["result"])
    graph = {"steps": [{"id": "one", **call(place("/bad"))}]}
    failed = await did(house, GRAPH, graph, expected="failed")
    response = await fetch(house.door, path_of(failed["operation_id"], "result"), ALICE)
    error = refusal(response, 409, "JOB_FAILED", extra=("status", "cause"))
    assert error["status"] == "failed"
    assert error["cause"] == failed["error"]
    assert (error["cause"]["step"], error["cause"]["status"]) == ("one", 404)


async def test_the_result_of_what_runs_is_202_with_where_to_look(house: House) -> None:
    place = house.place()
    held = place.hold("/a", 1)
    operation_id = await started(house, ASYNC, call(place("/a")))
    for query in ("", "?wait=0", "?wait=0.2"):
        response = await fetch(house.door, path_of(operation_id, "result" + query), ALICE)
        assert response.status == 202
        document = response.json()
        assert document["operation_id"] == operation_id
        assert document["status_url"] == path_of(operation_id, "status")
        assert int(response.get("retry-after") or b"0") >= 1
    for query in ("-1", "x", "inf", "nan", ""):
        path = path_of(operation_id, f"result?wait={query}")
        refusal(await fetch(house.door, path, ALICE), 400, "BAD_REQUEST")
    path = path_of(operation_id, "result?wait=25")
    waiting = [asyncio.create_task(fetch(house.door, path, ALICE)) for _ in range(20)]
    place.until("/a")
    held.set()
    assert {(each.status, each.body) for each in await asyncio.gather(*waiting)} == {
        (200, (await fetch(house.door, path, ALICE)).body)
    }


async def test_a_job_that_takes_too_long_is_timed_out(house: House) -> None:
    place = house.place()
    place.hold("/a")
    body = await did(house, ASYNC, call(place("/a"), timeout_seconds=1), expected="timed_out")
    assert body["error"]["code"] == "TIMED_OUT"
    response = await fetch(house.door, path_of(body["operation_id"], "result"), ALICE)
    error = refusal(response, 409, "JOB_FAILED", extra=("status", "cause"))
    assert error["status"] == "timed_out"


async def test_the_status_of_a_job_under_way_says_which_step(house: House) -> None:
    place = house.place()
    held = place.hold("/b")
    given = {
        "steps": [
            {"id": "a", **call(place("/a"))},
            {"id": "b", **call(place("/b")), "depends_on": ["a"]},
            {"id": "c", **call(place("/c")), "depends_on": ["b"]},
        ]
    }
    operation_id = await started(house, GRAPH, given)
    place.until("/b")
    body = await stands(house, operation_id, lambda each: each["current_step"] == "b")
    assert body["status"] == "running"
    assert 0 < body["progress"] < 1
    steps = {step["id"]: step for step in body["steps"]}
    assert [steps[name]["status"] for name in "abc"] == ["completed", "running", "pending"]
    assert steps["a"]["ended_at"] >= steps["a"]["started_at"]
    assert steps["c"]["started_at"] is None
    held.set()
    body = await ended(house, operation_id)
    assert body["started_at"] <= body["updated_at"] <= body["ended_at"]


async def whole_history(house: House, operation_id: str) -> Message:
    """The history of a job with its end, which Temporal has a moment after it was told."""

    async def whole() -> Message | None:
        response = await fetch(house.door, path_of(operation_id, "history"), ALICE)
        assert response.status == 200, response.body
        ends = [each for each in response.json()["entries"] if each["what"] == "job"]
        return response if len(ends) > 1 else None

    found: Message = await until("the end in the history", whole)
    return found


async def test_the_history_says_what_ran_and_which_attempt_failed_and_why(house: House) -> None:
    place = house.place()
    place.on("/a", Reply({"why": "s3cret"}, 503), Reply({"fine": True}))
    retry = {"max_attempts": 3, "initial_seconds": 0.1}
    step = {"id": "shaky", **call(place("/a")), "retry": retry}
    body = await did(house, GRAPH, {"steps": [step]})
    (shown,) = body["steps"]
    assert (shown["status"], shown["attempts"]) == ("completed", 2)
    response = await whole_history(house, body["operation_id"])
    document = response.json()
    assert set(document) == {"operation_id", "workflow_type", "entries", "events_left_out"}
    assert document["events_left_out"] == 0
    entries = document["entries"]
    assert [each["at"] for each in entries] == sorted(each["at"] for each in entries)
    assert (entries[0]["what"], entries[0]["status"]) == ("job", "started")
    assert [each["status"] for each in entries if each["what"] == "job"] == ["started", "completed"]
    (ran,) = [each for each in entries if "shaky" in str(each.get("step"))]
    assert (ran["what"], ran["status"], ran["attempts"]) == ("activity", "completed", 2)
    assert ran["duration_ms"] >= 0
    assert ran["last_failure"]["message"]
    assert b"s3cret" not in response.body


async def test_an_answer_as_large_as_a_service_may_give_comes_back_whole(house: House) -> None:
    place = house.place()
    text = "x" * 1_000_000
    place.on("/a", Reply({"text": text}))
    body = await did(house, ASYNC, call(place("/a"), "POST", body={"text": text[:600_000]}))
    assert body["result"]["answer"]["body"] == {"text": text}
    assert len(place.seen()[0].json()["text"]) == 600_000


async def test_each_event_of_a_job_is_one_log_line_without_its_contents(house: House) -> None:
    place = house.place()
    place.on("/a", Reply({"word": "s3cret-of-the-answer"}))
    caller = who("logged", "jobs:write", tenant=f"log{place.prefix}")
    given = {
        "steps": [
            {"id": "a", **call(place("/a"), "POST", body="s3cret-of-the-input")},
            {"id": "b", **call(place("/b")), "condition": {"pointer": "/a/x", "exists": True}},
        ]
    }
    body = await did(house, GRAPH, given, caller=caller)

    async def logged() -> list[dict[str, Any]]:  # by the worker, behind the event
        lines = house.lines("workflow_event", operation_id=body["operation_id"])
        return lines if lines and lines[-1]["event_type"] == "job.completed" else []

    lines = await until("the line of the end", logged)
    assert lines[0]["event_type"] == "job.started"
    assert [each["event_type"] for each in lines].count("job.completed") == 1
    for line in lines:
        assert (line["workflow_type"], line["user_id"]) == (GRAPH, "logged")
        assert line["tenant"] == f"log{place.prefix}"
    for process in (house.gateway, house.worker):
        assert "s3cret-of" not in process.output.read_text()


async def test_the_worker_counts_what_ended_and_what_was_tried_again(house: House) -> None:
    place = house.place()
    place.on("/a", Reply({}, 503), Reply({}))
    step = {"id": "a", **call(place("/a")), "retry": {"max_attempts": 2, "initial_seconds": 0.1}}
    await did(house, GRAPH, {"steps": [step]})
    name = f'workflow_executions_total{{status="completed",workflow_type="{GRAPH}"}}'

    async def counted() -> dict[str, str]:  # by the worker, behind the end that it tells
        text = (await fetch(house.worker_door, "/metrics")).body.decode()
        samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[:1] != "#")
        return samples if float(samples.get(name, 0)) >= 1 else {}

    samples = await until("the figures", counted)
    assert float(samples['activity_retries_total{activity_type="route_to_service"}']) >= 1
    for bound in ("1", "5", "10", "30", "60", "300", "600"):
        name = f'workflow_duration_seconds_bucket{{le="{bound}.0",workflow_type="{GRAPH}"}}'
        assert name in samples, name
    assert any(name.startswith("temporal_") for name in samples)
    assert (await fetch(house.worker_door, "/health")).status == 200


async def test_the_short_prefix_lists_the_same(house: House) -> None:
    caller = who("shorty", "jobs:write", tenant=f"short{house.place().prefix}")
    given = {"steps": [{"id": "a", "value": 1}]}
    operation_id = (await did(house, PROCESS, given, caller=caller))["operation_id"]
    await listed(house, caller, [operation_id], status="completed")
    for what in ("", f"/{operation_id}/status", f"/{operation_id}/result", "?status=completed"):
        short, long = [
            await fetch(house.door, f"/api{version}/workflows{what}", caller)
            for version in ("", "/v1")
        ]
        assert (short.status, short.body) == (long.status, long.body)


async def test_a_status_can_be_asked_for_by_head(house: House) -> None:
    body = await did(house, API, call(house.place()("/a")))
    response = await fetch(
        house.door, path_of(body["operation_id"], "status"), ALICE, method=b"HEAD"
    )
    assert (response.status, response.body) == (200, b"")


async def test_ids_hold_nobodys_name(house: House) -> None:
    caller = who("zoe-q", "jobs:write", tenant="initrode-q")
    response = await starts(
        house, ASYNC, call(house.place()("/a")), b"Idempotency-Key: zoes-key", caller=caller
    )
    operation_id = begun(response)
    assert OPERATION_ID.fullmatch(operation_id)
    body = await ended(house, operation_id, caller=caller)
    assert body_of(await fetch(house.door, path_of(operation_id, "status"), caller)) == body
