"""Jobs at the door: whose they can be, what an AI agent starts, and what their records say."""

from __future__ import annotations

import pytest

from tests.messages import assert_error, request
from tests.scenarios.governed import get, row
from tests.scenarios.working import JOB, WORKER, as_control, at_work, behalf
from tests.streams import who
from tests.wire import answer

PATH = "/api/v1/svc/x"
ASYNC = b"Prefer: respond-async"
GPTBOT = b"User-Agent: Mozilla/5.0 (compatible; GPTBot/1.2; +https://openai.com/gptbot)"
SCOPES = ("jobs:read", "jobs:write")
NAMELESS = who(None, *SCOPES)
ROWS = (
    row("/closed/*", 'agents = "refuse"'),
    row("/few/*", "agents = { per_hour = 2 }"),
    row("/slow/*", 'durable = "always"'),
)
PATHS = [
    f"{method} {prefix}{below}".encode()
    for prefix in ("/api/v1/workflows", "/api/workflows")
    for method, below in (
        ("GET", ""),
        ("POST", "/api_request_workflow"),
        ("GET", f"/{JOB}/status"),
        ("GET", f"/{JOB}/result"),
        ("GET", f"/{JOB}/history"),
        ("POST", f"/{JOB}/cancel"),
        ("POST", f"/{JOB}/terminate"),
        ("POST", f"/{JOB}/signal/pause"),
        ("POST", f"/{JOB}/update/skip_step"),
    )
]


# Tokens that name nobody


@pytest.mark.parametrize("line", PATHS)
async def test_a_token_that_names_nobody_has_no_jobs(line: bytes) -> None:
    async with at_work() as (gateway, _), as_control(gateway) as control:
        found = await gateway.ask(request(line, NAMELESS))
        error = assert_error(found, 403, "FORBIDDEN")
        assert "neither a subject (sub) nor a tenant" in error["message"]
        assert control.requests == []
        for somebody in (who("ann", *SCOPES), who(None, *SCOPES, tenant="acme")):
            assert (await gateway.ask(request(line, somebody))).status == 200


async def test_without_a_key_a_token_is_not_looked_at_and_jobs_are_open_as_ever() -> None:
    async with at_work(JWT_SECRET=None) as (gateway, _), as_control(gateway) as control:
        for line in PATHS:
            for fields in ((NAMELESS,), ()):
                assert (await gateway.ask(request(line, *fields))).status == 200
        assert len(control.requests) == 2 * len(PATHS)


async def test_a_request_of_nobody_becomes_no_job() -> None:
    async with (
        at_work("", *ROWS, lines=("durable = true",)) as (gateway, upstream),
        as_control(gateway) as control,
    ):
        assert (await get(gateway, PATH, NAMELESS, ASYNC)).status == 200
        assert len(upstream.requests) == 1
        error = assert_error(await get(gateway, "/slow/1", NAMELESS), 403, "FORBIDDEN")
        assert "neither a subject (sub) nor a tenant" in error["message"]
        assert control.requests == []
        assert (await get(gateway, "/slow/1", who(None, *SCOPES, tenant="acme"))).status == 200
        assert len(control.requests) == 1


# AI agents


@pytest.mark.parametrize(
    ("fields", "agent"),
    [
        ((), None),
        ((GPTBOT,), b"GPTBot"),
        ((b"X-AI-Agent: my own",), b"other"),
        ((b"X-Gateway-Agent: mine", b"x_gateway_agent: mine"), None),
        ((GPTBOT, b"X-Gateway-Agent: mine"), b"GPTBot"),
    ],
)
async def test_control_is_told_what_agent_starts_a_job(
    fields: tuple[bytes, ...], agent: bytes | None
) -> None:
    async with (
        at_work("", *ROWS, lines=("durable = true",)) as (gateway, _),
        as_control(gateway) as control,
    ):
        ann = who("ann", *SCOPES)
        for line in (
            b"POST /api/v1/workflows/api_request_workflow",
            b"POST /api/workflows/api_request_workflow",
            b"GET /api/v1/svc/x",
            b"GET /slow/1",
        ):
            assert (await gateway.ask(request(line, ann, ASYNC, *fields))).status == 200
            asked = control.requests[-1]
            told = [value for name, value in asked.fields if name.lower() == b"x-gateway-agent"]
            assert told == ([] if agent is None else [agent])


async def test_a_step_of_an_agents_job_is_the_agents() -> None:
    async with at_work("", *ROWS) as (gateway, upstream):
        agents, persons = behalf(gateway, agent="GPTBot"), behalf(gateway, subject="bob")
        error = assert_error(await get(gateway, "/closed/1", WORKER, agents), 403, "FORBIDDEN")
        assert "agents" in error["message"]
        # A limit that has counted the step does not let in whom the row refuses.
        spent = behalf(gateway, agent="GPTBot", spent=True)
        assert_error(await get(gateway, "/closed/1", WORKER, spent), 403, "FORBIDDEN")
        # Nor is anyone another by what a step says of itself.
        plain = b"User-Agent: curl/8"
        assert_error(await get(gateway, "/closed/1", WORKER, agents, plain), 403, "FORBIDDEN")
        assert_error(await get(gateway, "/closed/1", WORKER, persons, GPTBOT), 403, "FORBIDDEN")
        assert upstream.requests == []
        assert (await get(gateway, "/closed/1", WORKER, persons)).status == 200
        for path in ("/few/1", PATH):
            assert (await get(gateway, path, WORKER, agents)).status == 200


async def test_the_limit_of_agents_counts_an_agents_steps() -> None:
    async with at_work("", *ROWS) as (gateway, _):
        agents, persons = behalf(gateway, agent="other"), behalf(gateway, subject="bob")
        statuses = [(await get(gateway, "/few/1", WORKER, agents)).status for _ in range(3)]
        assert statuses == [200, 200, 429]
        spent = behalf(gateway, agent="other", spent=True)
        for field in (spent, persons, persons, persons):
            assert (await get(gateway, "/few/1", WORKER, field)).status == 200


async def test_a_worker_is_told_before_that_an_agent_is_not_let_in() -> None:
    async with at_work("", *ROWS) as (gateway, _):

        async def told(field: bytes, what: str, target: str) -> str | None:
            asked = b'{"what":"%b","service":"svc","method":"GET","target":"%b"}' % (
                what.encode(),
                target.encode(),
            )
            line = b"POST /internal/jobs/admission"
            error = (await gateway.ask(request(line, WORKER, field, body=asked))).json()["error"]
            return None if error is None else str(error["code"])

        agents, persons = behalf(gateway, agent="GPTBot"), behalf(gateway, subject="bob")
        for what in ("authenticate", "limit"):
            assert await told(agents, what, "/closed/1") == "FORBIDDEN"
            assert await told(persons, what, "/closed/1") is None
            assert await told(agents, what, PATH) is None
        limited = [await told(agents, "limit", "/few/1") for _ in range(3)]
        assert limited == [None, None, "RATE_LIMITED"]
        assert await told(persons, "limit", "/few/1") is None


# Records


async def test_the_record_of_a_start_names_the_job() -> None:
    begun = answer(b"{}", b"X-Gateway-Job: " + JOB.encode(), status=b"202 Accepted")
    async with (
        at_work(lines=("durable = true",), script=begun) as (gateway, _),
        as_control(gateway, begun) as _,
    ):
        ann = who("ann", *SCOPES)
        for line in (b"POST /api/v1/workflows/api_request_workflow", b"GET /api/v1/svc/x"):
            found = await gateway.ask(request(line, ann, ASYNC))
            assert found.status == 202
            assert found.get("x-gateway-job") is None
        # A service that says so is neither believed nor passed on.
        found = await get(gateway, PATH, ann)
        assert found.get("x-gateway-job") is None
        records = await gateway.records(3)
        assert [record.get("operation_id") for record in records] == [JOB, JOB, None]
