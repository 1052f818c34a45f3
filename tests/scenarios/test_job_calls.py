"""The paths of jobs at the door: who asks, and what a call takes of the limit. What they answer is
in tests/control; Temporal is away here.
"""

from __future__ import annotations

import pytest

from tests.messages import assert_error, request
from tests.scenarios.governed import get
from tests.scenarios.working import WORKER, at_work
from tests.streams import who

LINES = (
    b"GET /api/v1/workflows",
    b"GET /api/workflows",
    b"POST /api/workflows/api_request_workflow",
    b"GET /api/v1/workflows/0123456789abcdef-1/status",
    b"POST /api/workflows/0123456789abcdef-1/cancel",
    b"HEAD /api/workflows/0123456789abcdef-1/status",
)


async def test_every_call_takes_one_token_under_either_name() -> None:
    async with at_work(RATE_LIMIT=f"{len(LINES)}/hour") as (gateway, _):
        left = []
        for line in LINES:
            found = await gateway.ask(request(line, who("ann", "jobs:write"), body=b""))
            assert found.status not in (401, 429)
            left.append(int(found.get("x-ratelimit-remaining") or b"-1"))
        assert left == list(range(len(LINES)))[::-1]
        found = await get(gateway, "/api/workflows", who("ann", "jobs:write"))
        assert_error(found, 429, "RATE_LIMITED")
        found = await get(gateway, "/api/workflows", WORKER)
        assert found.status != 429


@pytest.mark.parametrize("path", ["/api/v1/workflows", "/api/workflows", "/api/workflows/a/status"])
async def test_a_bad_credential_is_one_under_either_name(path: str) -> None:
    async with at_work() as (gateway, _):
        found = await get(gateway, path, b"Authorization: Bearer x")
        assert_error(found, 401, "AUTH_FAILED")
        found = await get(gateway, path + "?access_token=x")
        assert_error(found, 401, "AUTH_FAILED")
