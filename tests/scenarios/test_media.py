"""The media profile as it is shipped: which service each path reaches, who may, how often, and what
when a service fails.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.messages import Message
from tests.streams import SECRET, bearer, sign
from tests.wire import (
    RunningGateway,
    ScriptedUpstream,
    answer,
    assert_error,
    request,
    start_gateway,
)

PROFILE = Path(__file__).resolve().parents[2] / "config" / "media.toml"
SERVICES = ("discovery", "sona", "sync", "auth")
PUBLIC = {
    "/api/v1/content": "discovery",
    "/api/v1/movies": "discovery",
    "/api/v1/tv": "discovery",
    "/api/v1/search": "discovery",
    "/api/v1/discover": "discovery",
    "/api/v1/genres": "discovery",
    "/api/v1/recommendations": "sona",
}
PERSONAL = {
    "/api/v1/user/profile": "auth",
    "/api/v1/user/preferences": "auth",
    "/api/v1/user/watchlist": "sync",
    "/api/v1/user/history": "sync",
}
MEMBER = bearer(sign(sub="ann", tier="enterprise"))


@contextlib.asynccontextmanager
async def media(
    **answers: bytes,
) -> AsyncIterator[tuple[RunningGateway, dict[str, ScriptedUpstream]]]:
    """The profile with each service somewhere else; `answers` are what a service answers."""
    async with contextlib.AsyncExitStack() as stack:
        upstreams = {
            name: await stack.enter_async_context(
                ScriptedUpstream(answers.get(name, answer(name.encode())))
            )
            for name in SERVICES
        }
        environ: dict[str, Any] = {
            f"{name.upper()}_URL": each.url for name, each in upstreams.items()
        }
        gateway = await stack.enter_async_context(
            start_gateway(f"include = ['{PROFILE}']\n", JWT_SECRET=SECRET, **environ)
        )
        yield gateway, upstreams


async def ask(gateway: RunningGateway, line: str, *fields: bytes) -> Message:
    return await gateway.ask(request(line.encode(), *fields))


async def test_every_path_reaches_its_service_as_it_came() -> None:
    async with media() as (gateway, upstreams):
        for path, name in (PUBLIC | PERSONAL).items():
            for below in ("", "/", "/7", "/7/%41//b?q=%2F&r=1"):
                response = await ask(gateway, f"GET {path}{below}", MEMBER)
                assert (response.status, response.body) == (200, name.encode()), path + below
                last = upstreams[name].requests[-1]
                assert last.target == (path + below).encode()
                assert last.get("x-user-id") == b"ann"
                assert last.get("x-user-tier") == b"enterprise"
        assert (await ask(gateway, "POST /api/v1/recommendations", MEMBER)).body == b"sona"


async def test_the_catalogue_is_for_everyone_and_the_users_own_for_the_user() -> None:
    async with media() as (gateway, upstreams):
        for path, name in PUBLIC.items():
            response = await ask(gateway, f"GET {path}/1")
            assert (response.status, response.body) == (200, name.encode())
        assert upstreams["sona"].requests[-1].all("x-user-id") == []
        for path in PERSONAL:
            assert_error(await ask(gateway, f"GET {path}"), 401, "UNAUTHORIZED")
        bad = await ask(gateway, "GET /api/v1/movies/1", b"Authorization: Bearer a.b.c")
        assert_error(bad, 401, "AUTH_FAILED")
        assert upstreams["auth"].requests == upstreams["sync"].requests == []


@pytest.mark.parametrize(
    "path",
    [
        *("/api/v1/user/%70rofile", "/api/v1//user/profile", "/api/v1/user;x=1/profile"),
        *("/api/v1/;/user/profile", "/api/v1/user/profile;x", "//api/v1/user/profile/"),
    ],
)
async def test_no_spelling_of_a_path_walks_round_its_row(path: str) -> None:
    async with media() as (gateway, upstreams):
        assert_error(await ask(gateway, f"GET {path}"), 401, "UNAUTHORIZED")
        assert (await ask(gateway, f"GET {path}", MEMBER)).body == b"auth"
        assert [each.target for each in upstreams["auth"].requests] == [path.encode()]


async def test_no_service_is_reached_beside_its_rows() -> None:
    async with media() as (gateway, upstreams):
        for path in (*(f"/api/v1/{name}/x" for name in SERVICES), "/api/v1/user", "/api/v1/users"):
            assert_error(await ask(gateway, f"GET {path}", MEMBER), 404, "NOT_FOUND")
        assert [each.requests for each in upstreams.values()] == [[], [], [], []]


@pytest.mark.parametrize(
    ("tier", "burst"), [(None, 10), ("anonymous", 10), ("free", 20), ("pro", 100)]
)
async def test_each_tier_has_its_burst(tier: str | None, burst: int) -> None:
    fields = () if tier is None else (bearer(sign(sub="bob", tier=tier)),)
    async with media() as (gateway, _), gateway.connect() as client:
        statuses = []
        for _ in range(burst):
            statuses.append((await client.ask(request(b"GET /api/v1/tv/1", *fields))).status)
        assert statuses == [200] * burst
        while (response := await client.ask(request(b"GET /api/v1/tv/1", *fields))).status == 200:
            assert len(statuses) < 2 * burst  # what trickled in meanwhile
            statuses.append(200)
        error = assert_error(response, 429, "RATE_LIMITED")
        assert error["retry_after"] == 1
        assert response.get("retry-after") == b"1"


@pytest.mark.parametrize(("service", "path", "failures"), [
    ("discovery", "/api/v1/tv/1", 20),
    ("sona", "/api/v1/recommendations", 10),
    ("sync", "/api/v1/user/history", 10),
    ("auth", "/api/v1/user/profile", 10),
])  # fmt: skip
async def test_each_service_has_its_breaker(service: str, path: str, failures: int) -> None:
    broken = {service: answer(b"no", status=b"500 Internal Server Error")}
    async with media(**broken) as (gateway, upstreams):
        for _ in range(failures):
            assert (await ask(gateway, f"GET {path}", MEMBER)).status == 500
        response = await ask(gateway, f"GET {path}", MEMBER)
        assert_error(response, 503, ("CIRCUIT_BREAKER_OPEN", "SERVICE_UNAVAILABLE"))
        assert len(upstreams[service].requests) <= failures
