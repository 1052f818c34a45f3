"""The paths of jobs: every row of the table of answers, over a real Temporal."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from gateway.control.job_desk import JobsOff
from gateway.control.jobs import PATHS, PREFIXES
from gateway.policy.identity import Identity
from tests.connection import eventually
from tests.control.describing import DOCUMENT, content, valid
from tests.control.jobs_site import (
    NOBODY,
    OWNER,
    PLAIN,
    V1,
    Site,
    accepted,
    bare_site,
    job,
    jobs_site,
)
from tests.control.pages import error
from tests.jobs.desk import ALICE, BOB, COLLEAGUE, ORCHESTRATION, REQUEST
from tests.temporal_server import TemporalServer, temporal  # noqa: F401


@pytest.fixture
async def site(temporal: TemporalServer) -> AsyncIterator[Site]:  # noqa: F811
    async with jobs_site(temporal) as found:
        yield found


@pytest.fixture
async def bare() -> AsyncIterator[Site]:
    """Without Temporal."""
    async with bare_site() as found:
        yield found


# Starting


async def test_a_short_kind_is_answered_with_its_result(site: Site) -> None:
    body = job(await site.start({"do": "complete", "result": [1]}), "completed")
    assert body["result"] == [1]


async def test_a_job_that_failed_is_over_too(site: Site) -> None:
    body = job(await site.start({"do": "fail"}), "failed")
    assert body["error"]["code"] == "EXTERNAL"


async def test_a_long_kind_is_answered_with_where_to_look(site: Site) -> None:
    page = await site.start({"do": "complete"}, ORCHESTRATION)
    operation_id = accepted(page)
    assert "Preference-Applied" not in page.headers
    found = await site.ask("GET", f"{V1}/{operation_id}/result?wait=30")
    assert (found.status, found.json) == (200, {"answer": 42})


async def test_preferences_override_the_kind(site: Site) -> None:
    page = await site.start({"do": "complete"}, ORCHESTRATION, Prefer="wait=30")
    job(page, "completed")
    assert page.headers["Preference-Applied"] == "wait=30"
    page = await site.start({"do": "wait"}, REQUEST, Prefer="respond-async")
    await site.there.go(accepted(page))
    assert page.headers["Preference-Applied"] == "respond-async"
    page = await site.start({"do": "wait"}, REQUEST, Prefer="respond-async, wait=0")
    await site.there.go(accepted(page))
    assert page.headers["Preference-Applied"] == "respond-async, wait=0"
    page = await site.start({"do": "complete"}, ORCHESTRATION, Prefer="wait=9999")
    assert page.headers["Preference-Applied"] == "wait=300"
    page = await site.start({"do": "complete"}, REQUEST, Prefer="wait=soon, handling=lenient")
    job(page, "completed")  # what can't be read is passed over
    assert "Preference-Applied" not in page.headers


async def test_the_same_key_is_the_same_job_and_another_body_422(site: Site) -> None:
    key = site.there.settings.temporal_task_queue
    page = await site.start({"do": "wait"}, Idempotency_Key=key, Prefer="wait=0")
    operation_id = accepted(page)
    assert "Idempotent-Replayed" not in page.headers
    page = await site.start({"do": "wait"}, Idempotency_Key=key, Prefer="respond-async")
    assert accepted(page) == operation_id
    assert page.headers["Idempotent-Replayed"] == "true"
    page = await site.start({"do": "fail"}, Idempotency_Key=key)
    assert "Idempotency-Key" in error(page, 422, "UNPROCESSABLE")["message"]
    await site.there.go(operation_id)
    await site.there.ended(operation_id)
    page = await site.start({"do": "wait"}, Idempotency_Key=key, Prefer="respond-async")
    assert job(page, "completed")["operation_id"] == operation_id


@pytest.mark.parametrize("key", ["", "x" * 256, "a b"])
async def test_a_key_that_is_none_is_400(site: Site, key: str) -> None:
    error(await site.start(Idempotency_Key=key), 400, "BAD_REQUEST")


async def test_two_keys_are_400(site: Site) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b"), ("X-Request-ID", "r-1")]
    headers.append(("X-Gateway-Identity", ALICE.encode().decode()))
    response = await site.client.post(f"{V1}/{REQUEST}", headers=headers, data=b"{}")
    assert response.status == 400


async def test_an_unknown_type_is_404_with_the_known_ones(site: Site) -> None:
    told = error(await site.ask("POST", f"{V1}/nothing_workflow", body={}), 404, "NOT_FOUND")
    assert REQUEST in told["message"]


async def test_an_input_is_held_against_its_schema(site: Site) -> None:
    page = await site.ask("POST", f"{V1}/{REQUEST}", body={"path": "x", "more": 1})
    told = error(page, 422, "UNPROCESSABLE", "details")
    assert {each["pointer"] for each in told["details"]} == {"", "/path"}
    for body in (b"", b"{", b"[" * 3000, b'{"service": NaN}'):
        error(await site.ask("POST", f"{V1}/{REQUEST}", body=body), 400, "BAD_REQUEST")
    large = b'{"service": "demo", "body": "%s"}' % (b"x" * (1 << 20))
    fields = {"X-Gateway-Identity": ALICE.encode().decode()}
    path = f"{V1}/{REQUEST}"
    response = await site.client.post(path, data=io.BytesIO(large), headers=fields)
    assert response.status == 413
    error(await site.ask("POST", f"{V1}/{REQUEST}", body=b"[]"), 422, "UNPROCESSABLE", "details")


# Who may


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_who_may_look_and_who_may_steer(site: Site, prefix: str) -> None:
    operation_id = await site.started({"do": "wait"})
    reading = (("GET", "/status"), ("GET", "/result"), ("GET", "/history"))
    steering = (("/signal/pause", 404), ("/update/x", 404), ("/cancel", 202))
    for method, below in (*reading, ("GET", "")):
        path = f"{prefix}/{operation_id}{below}" if below else prefix
        error(await site.ask(method, path, NOBODY), 401, "UNAUTHORIZED")
        error(await site.ask(method, path, PLAIN), 403, "FORBIDDEN")
        for who in (ALICE, COLLEAGUE):
            assert (await site.ask(method, path, who)).status in (200, 202)
        assert (await site.ask(method, path, OWNER)).status == (404 if below else 200)
        assert (await site.ask(method, path, BOB)).status == (404 if below else 200)
    for below, status in steering:
        path = f"{prefix}/{operation_id}{below}"
        error(await site.ask("POST", path, NOBODY), 401, "UNAUTHORIZED")
        error(await site.ask("POST", path, COLLEAGUE), 403, "FORBIDDEN")
        assert (await site.ask("POST", path, BOB)).status == 404
        assert (await site.ask("POST", path)).status == status
    error(await site.start(who=COLLEAGUE), 403, "FORBIDDEN")
    error(await site.start(who=NOBODY), 401, "UNAUTHORIZED")
    reads_only = Identity(open_read=True)
    error(await site.start(who=reads_only), 401, "UNAUTHORIZED")


async def test_without_keys_the_owner_of_the_machine_has_jobs(site: Site) -> None:
    page = await site.start({"do": "complete"}, who=OWNER)
    operation_id = job(page, "completed")["operation_id"]
    assert (await site.ask("GET", f"{V1}/{operation_id}/status", OWNER)).status == 200
    assert (await site.ask("GET", f"{V1}/{operation_id}/status")).status == 404


# Looking


async def test_both_prefixes_show_the_same(site: Site) -> None:
    operation_id = await site.started({"do": "complete"})
    await site.there.ended(operation_id)
    for below in (f"/{operation_id}/status", f"/{operation_id}/result", f"/{operation_id}/history"):
        pages = [await site.ask("GET", prefix + below) for prefix in PREFIXES]
        assert pages[0].status == 200
        assert pages[0].body == pages[1].body
    page = await site.ask("POST", f"/api/workflows/{REQUEST}", body={"service": "demo"})
    job(page, "completed")


async def test_a_running_job_says_when_to_ask_again(site: Site) -> None:
    operation_id = await site.started({"do": "ask"})
    await site.there.stands(operation_id, "waiting")
    page = await site.ask("GET", f"{V1}/{operation_id}/status")
    assert job(page, "waiting")["question"]["question_id"] == "q"
    assert page.headers["Retry-After"]
    page = await site.ask("GET", f"{V1}/{operation_id}/result?wait=0.05")
    assert page.status == 202
    assert page.json["status"] == "waiting"
    await site.there.go(operation_id)
    page = await site.ask("GET", f"{V1}/{operation_id}/result?wait=30")
    assert (page.status, page.json) == (200, {"answer": 42})
    assert "Retry-After" not in (await site.ask("GET", f"{V1}/{operation_id}/status")).headers


@pytest.mark.parametrize(
    ("what", "status", "code"),
    [
        ({"do": "fail"}, "failed", "EXTERNAL"),
        ({"do": "fail", "code": "TIMED_OUT"}, "timed_out", "TIMED_OUT"),
    ],
)
async def test_a_job_without_a_result_says_why(
    site: Site, what: Any, status: str, code: str
) -> None:
    operation_id = await site.started(what)
    page = await site.ask("GET", f"{V1}/{operation_id}/result?wait=30")
    told = error(page, 409, "JOB_FAILED", "status", "cause")
    assert (told["status"], told["cause"]["code"]) == (status, code)
    how = {"failed": "The job failed: it broke", "timed_out": "It broke"}
    assert told["message"] == how[status]


async def test_nobody_waits_for_a_job_that_is_not_there(site: Site) -> None:
    operation_id = await site.started({"do": "complete"})
    path = f"{V1}/{operation_id[:17]}{'0' * 32}/result?wait=300"
    async with asyncio.timeout(60):  # and not after the 300 s
        error(await site.ask("GET", path), 404, "NOT_FOUND")


@pytest.mark.parametrize("wait", ["x", "-1", "nan", "inf", "", "1s"])
async def test_a_wait_that_is_none_is_400(site: Site, wait: str) -> None:
    path = f"{V1}/{'0' * 16}-{'0' * 32}/result?wait={wait}"
    error(await site.ask("GET", path), 400, "BAD_REQUEST")


async def test_lists_are_the_callers_own(site: Site) -> None:
    mine = replace(ALICE, tenant=site.there.settings.temporal_task_queue)
    for _ in range(3):
        accepted(await site.start({"do": "complete"}, ORCHESTRATION, mine))
    found: list[Any] = []
    async with asyncio.timeout(30):
        while len(found) < 3:
            page = await site.ask("GET", f"{V1}?status=completed&type={ORCHESTRATION}", mine)
            found = page.json["workflows"]
            await asyncio.sleep(0.02)
    assert valid("JobList", page.json)
    first = (await site.ask("GET", f"{V1}?page_size=2", mine)).json
    assert len(first["workflows"]) == 2
    token = first["next_page_token"]
    rest = (await site.ask("GET", f"{V1}?page_size=2&page_token={token}", mine)).json
    ids = [each["operation_id"] for each in first["workflows"] + rest["workflows"]]
    assert sorted(ids) == sorted(each["operation_id"] for each in found)
    # A token is good for the list that gave it, and for its owner.
    path = f"{V1}?page_size=2&page_token={token}"
    error(await site.ask("GET", path), 400, "BAD_REQUEST")
    error(await site.ask("GET", f"{path}&status=failed", mine), 400, "BAD_REQUEST")
    for query, status in (
        ("page_size=0", 400),
        ("page_size=201", 400),
        ("page_size=x", 400),
        ("page_token=x", 400),
        ("status=x", 422),
        ("type=x", 422),
        ("status=&type=", 200),
    ):
        assert (await site.ask("GET", f"{V1}?{query}", mine)).status == status


async def test_the_history_is_readable(site: Site) -> None:
    operation_id = await site.started({"do": "complete"})
    await site.there.ended(operation_id)
    body = (await site.ask("GET", f"{V1}/{operation_id}/history")).json
    assert valid("JobHistory", body)
    assert [(each["what"], each["status"]) for each in body["entries"]] == [
        ("job", "started"),
        ("job", "completed"),
    ]


# Steering


async def test_a_job_is_cancelled_once(site: Site) -> None:
    operation_id = await site.started({"do": "wait"})
    await site.there.stands(operation_id, "running")
    assert accepted(await site.ask("POST", f"{V1}/{operation_id}/cancel", body={})) == operation_id
    await site.there.ended(operation_id)
    for what in ("cancel", "terminate"):
        page = await site.ask("POST", f"{V1}/{operation_id}/{what}")
        assert error(page, 409, "CONFLICT", "status")["status"] == "cancelled"


async def test_a_job_is_terminated(site: Site) -> None:
    operation_id = await site.started({"do": "wait"})
    body = job(await site.ask("POST", f"{V1}/{operation_id}/terminate"), "terminated")
    assert body["error"]["code"] == "TERMINATED"
    page = await site.ask("GET", f"{V1}/{operation_id}/result")
    assert error(page, 409, "JOB_FAILED", "status", "cause")["status"] == "terminated"


async def test_signals_and_updates_take_one_value(site: Site) -> None:
    operation_id = await site.started({"do": "wait"}, ORCHESTRATION)
    at = f"{V1}/{operation_id}"
    await site.there.stands(operation_id, "running")
    accepted(await site.ask("POST", f"{at}/signal/pause"))
    page = await site.ask("POST", f"{at}/update/skip_step", body="two", Idempotency_Key="u")
    assert page.json == {"operation_id": operation_id, "result": {"skipped": "two"}}
    page = await site.ask("POST", f"{at}/update/skip_step", body="other", Idempotency_Key="u")
    assert page.json["result"] == {"skipped": "two"}  # done once
    error(await site.ask("POST", f"{at}/update/skip_step", body="done"), 409, "CONFLICT")
    error(await site.ask("POST", f"{at}/update/question_decided", body={}), 404, "NOT_FOUND")
    error(await site.ask("POST", f"{at}/signal/go"), 404, "NOT_FOUND")
    for body in (b"{", b"NaN", b"[" * 300 + b"]" * 300):
        error(await site.ask("POST", f"{at}/signal/pause", body=body), 400, "BAD_REQUEST")
    error(await site.ask("POST", f"{at}/cancel", body={"a": 1}), 400, "BAD_REQUEST")
    accepted(await site.ask("POST", f"{at}/signal/resume", body={}))
    await site.there.ended(operation_id)


# Tickets for streams of jobs


async def test_tickets_are_for_who_may_look_at_the_job(site: Site) -> None:
    operation_id = await site.started({"do": "complete"})
    path = f"/api/v1/events/job:{operation_id}/ticket"
    for who, status in ((ALICE, 201), (COLLEAGUE, 201), (PLAIN, 403), (BOB, 403), (NOBODY, 401)):
        assert (await site.ask("POST", path, who)).status == status, who
    error(await site.ask("POST", "/api/v1/events/other/ticket"), 403, "FORBIDDEN")


# Without Temporal


async def test_without_temporal_every_path_says_what_to_set(bare: Site) -> None:
    for path in PATHS:
        if path.endswith("/stream"):
            continue
        method = "POST" if "POST" in methods_of(path) else "GET"
        filled = path.replace("{type}", REQUEST).replace("{", "").replace("}", "")
        told = error(
            await bare.ask(method, filled, body={}), 503, "SERVICE_UNAVAILABLE", "retry_after"
        )
        assert "TEMPORAL_ADDRESS" in told["message"]
    assert (await bare.ask("POST", "/api/v1/events/job:x/ticket")).status == 403


async def test_while_temporal_starts_it_is_said_so(bare: Site) -> None:
    bare.state.jobs_off = lambda: JobsOff("jobs are starting", 3)
    page = await bare.ask("GET", V1)
    told = error(page, 503, "SERVICE_UNAVAILABLE", "retry_after")
    assert (told["message"], told["retry_after"]) == ("jobs are starting", 3)
    assert page.headers["Retry-After"] == "3"
    error(await bare.ask("GET", V1, NOBODY), 401, "UNAUTHORIZED")  # who asks comes first


def methods_of(path: str) -> set[str]:
    return {name.upper() for name in DOCUMENT["paths"][path]}


@pytest.mark.parametrize("path", [path for path in PATHS if not path.endswith("/stream")])
async def test_another_method_is_405(bare: Site, path: str) -> None:
    filled = path.replace("{", "").replace("}", "")
    for method in {"GET", "POST", "PUT", "DELETE"} - methods_of(path):
        page = await bare.ask(method, filled)
        assert page.status == 405, (method, page)
        assert page.headers["Allow"]


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_a_job_has_no_page_of_its_own_and_is_said_where_to_look(
    site: Site, method: str
) -> None:
    operation_id = await site.started({"do": "complete"})
    page = await site.ask(method, f"{V1}/{operation_id}")
    told = error(page, 405, "METHOD_NOT_ALLOWED")
    assert f"{V1}/{operation_id}/status" in told["message"]
    assert page.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    ("step", "status", "code"),
    [("bad", 422, "UNPROCESSABLE"), ("done", 409, "CONFLICT"), ("none", 404, "NOT_FOUND")],
)
async def test_an_update_that_a_job_refuses_says_why(
    site: Site, step: str, status: int, code: str
) -> None:
    operation_id = await site.started({"do": "wait"}, ORCHESTRATION)
    page = await site.ask("POST", f"{V1}/{operation_id}/update/skip_step", body={"id": step})
    assert "step" in error(page, status, code)["message"]


async def test_many_who_wait_are_all_answered(site: Site) -> None:
    operation_id = await site.started({"do": "wait"})
    waiting = [
        asyncio.create_task(site.ask("GET", f"{V1}/{operation_id}/result?wait=60"))
        for _ in range(30)
    ]
    await eventually(lambda: site.there.jobs._waiters.count == 30, "thirty who wait")
    await site.there.go(operation_id)
    assert {page.status for page in await asyncio.gather(*waiting)} == {200}


async def test_more_of_one_owner_than_may_wait_are_told_so_and_their_jobs_go_on(
    site: Site,
) -> None:
    waiters = site.there.jobs._waiters
    waiters._most_of_owner = 1
    operation_id = await site.started({"do": "wait"})
    waiting = asyncio.create_task(site.ask("GET", f"{V1}/{operation_id}/result?wait=60"))
    await eventually(lambda: waiters.count == 1, "the one that waits")
    told = error(
        await site.ask("GET", f"{V1}/{operation_id}/result?wait=60"),
        429,
        "RATE_LIMITED",
        "retry_after",
    )
    assert "stream" in told["message"]
    page = await site.start({"do": "complete"}, Prefer="wait=60")
    accepted(page)
    assert "Preference-Applied" not in page.headers
    await site.there.go(operation_id)
    assert (await waiting).status == 200


async def test_one_job_too_many_of_one_owner_is_429_before_anything_starts(site: Site) -> None:
    site.there.settings = replace(site.there.settings, jobs_per_owner=1)
    crowded = replace(ALICE, tenant="crowded")
    accepted(await site.start({"do": "wait"}, who=crowded, Prefer="respond-async"))
    page = await site.start({"do": "complete"}, who=crowded)
    told = error(page, 429, "RATE_LIMITED", "retry_after")
    assert page.headers["Retry-After"] == str(told["retry_after"])
    assert "cancel one" in told["message"]
    calm = replace(ALICE, tenant="calm")
    job(await site.start({"do": "complete"}, who=calm), "completed")


def test_the_answers_are_described() -> None:
    for prefix in PREFIXES:
        at = f"{prefix}/{{operation_id}}"
        assert content(f"{at}/status", "get", 200)["$ref"].endswith("/Job")
        assert content(f"{prefix}/{{type}}", "post", 202)["$ref"].endswith("/JobAccepted")
        stream = DOCUMENT["paths"][f"{at}/stream"]["get"]
        assert "job.snapshot" in stream["responses"]["200"]["x-event-data"]
        assert "204" in stream["responses"]
