"""What `./start.sh` gives: a Temporal and a worker of the gateway's own, open to this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.messages import Message, request
from tests.questions import answer, listed
from tests.scenarios.job_calls import (
    API,
    LIST,
    PROCESS,
    accepted,
    body_of,
    call,
    fetch,
    result,
    until,
)
from tests.scenarios.job_house import Process
from tests.streams import LOCAL, Remote, post, refusal
from tests.temporal_server import required_program
from tests.wire import free_port


@pytest.fixture(scope="module")
def own() -> Iterator[Remote]:
    """A gateway with nothing set, whose jobs are ready."""
    cli = required_program()
    with tempfile.TemporaryDirectory(prefix="own-") as name:
        port = free_port()
        names = {"TEMPORAL_CLI": cli, "TEMPORAL_ADDRESS": "embedded", "PORT": str(port)}
        names |= {"STATE_DIR": f"{name}/state", "RATE_LIMIT": "off"}
        process = Process(Path(name), "gateway", "server", "--demo", **names)
        try:
            process.answers(port, "/health", ready)
            yield Remote(port)
        finally:
            process.stop()


def ready(health: Any) -> bool:
    """Temporal and the worker are there, and the gateway has seen that."""
    found = health["checks"].get("temporal", {})
    return (found.get("status"), found.get("worker")) == ("healthy", "up")


async def starts(own: Remote, kind: str, given: Any, *fields: bytes) -> Message:
    """What a start is answered."""
    return await own.ask(post(f"{LIST}/{kind}", given, *fields))


async def test_a_job_runs_with_nothing_set(own: Remote) -> None:
    body = body_of(await starts(own, API, call("/json", service="demo")))
    assert (body["status"], body["result"]["status"]) == ("completed", 200)
    assert (await fetch(own, f"{LIST}/{body['operation_id']}/status")).json() == body

    async def listed() -> bool:
        found = (await fetch(own, LIST)).json()["workflows"]
        return body["operation_id"] in [each["operation_id"] for each in found]

    await until("the job in the list", listed)


async def test_the_health_says_where_temporals_own_pages_are(own: Remote) -> None:
    found = (await fetch(own, "/health")).json()["checks"]["temporal"]
    assert (found["status"], found["worker"]) == ("healthy", "up")
    assert found["ui"].startswith("http://127.0.0.1:")


async def test_a_process_asks_whoever_is_at_this_machine(own: Remote) -> None:
    ask = {"prompt": "Go on?", "client_ids": ["here"], "options": ["yes", "no"]}
    steps = [{"id": "ok", "ask": ask}]
    operation_id = accepted(await starts(own, PROCESS, {"steps": steps}))
    path = f"{LIST}/{operation_id}/status"

    async def asking() -> Any:
        body = (await fetch(own, path)).json()
        assert body["status"] in ("pending", "running", "waiting"), body
        return body if body["question"] else None

    body = await until("the question", asking)
    question_id = body["question"]["question_id"]
    assert question_id in await listed(own)
    assert (await answer(own, question_id, "yes")).status == 200
    response = await result(own, operation_id)
    assert response.json()["data"] == {"ok": "yes"}


async def test_a_question_of_nobody_says_to_whom_it_goes(own: Remote) -> None:
    response = await starts(own, PROCESS, {"steps": [{"id": "ok", "ask": {"prompt": "?"}}]})
    refusal(response, 422, "UNPROCESSABLE", "/steps/0/ask/client_ids")


async def test_the_figures_of_the_worker_are_among_the_gateways(own: Remote) -> None:
    assert (await starts(own, API, call("/json", service="demo"))).status == 200
    wanted = f'workflow_executions_total{{status="completed",workflow_type="{API}"}}'

    async def counted() -> str:  # by the worker, behind the end that it tells
        text = (await fetch(own, "/metrics")).body.decode()
        return text if wanted in text else ""

    text = await until("the worker's figures", counted)
    assert f'workflow_duration_seconds_bucket{{le="600.0",workflow_type="{API}"}}' in text
    for name in ("workflow_events_given_up", "activity_retries"):
        assert f"# HELP {name}_total " in text


async def test_a_page_of_another_site_starts_nothing(own: Remote) -> None:
    given = call("/json", service="demo")
    for field in (b"Origin: https://evil.example", b"Sec-Fetch-Site: cross-site"):
        response = await starts(own, API, given, field)
        assert response.status in (401, 403), response.start
    response = await starts(own, API, given, b"X-Forwarded-For: 192.0.2.1")
    assert response.status in (401, 403), response.start
    data = request(b"GET /internal/jobs/durable", host=LOCAL)
    refusal(await own.ask(data), 404, "NOT_FOUND")
