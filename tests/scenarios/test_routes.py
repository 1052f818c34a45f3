"""Rows of a route table on the wire: rewriting, methods, changed fields, own limits, CORS."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from tests.wire import (
    RunningGateway,
    ScriptedUpstream,
    answer,
    assert_error,
    proxied,
    request,
)

ROWS = """
[[routes]]
path = "/shop/:id"
methods = "GET, PUT"
service = "svc"
rewrite = "/v2/items/:id"
request_headers = { set = { X-Stage = "prod" }, add = { X-More = "1" }, remove = "Cookie" }
response_headers = { set = { Server = "shop" }, add = { X-Answer = "2" }, remove = "X-Powered-By" }

[[routes]]
path = "/shop/*"
methods = "DELETE"
service = "svc"
strip_prefix = "/shop"
limits = { per_hour = 3 }
cost = 2

[[routes]]
path = "/api/v1/svc/private/*"
methods = "POST"
service = "svc"
"""
FIELDS = (b"X-Powered-By: x", b"Server: svc/1", b"X-Answer: 1")


@contextlib.asynccontextmanager
async def routed(
    tmp_path: Path, **environ: object
) -> AsyncIterator[tuple[RunningGateway, ScriptedUpstream]]:
    rows = tmp_path / "rows.toml"
    rows.write_text(ROWS)
    config = f"routes = ['{rows}']\n"
    async with proxied(answer(b"", *FIELDS), config, **environ) as both:
        yield both


async def test_a_row_rewrites_the_path_and_changes_fields_both_ways(tmp_path: Path) -> None:
    async with routed(tmp_path) as (gateway, upstream):
        response = await gateway.ask(
            request(b"GET /shop/%41%2C?q=%20", b"Cookie: a=b", b"X-Stage: mine", b"X-More: 0")
        )
        (seen,) = upstream.requests
        assert seen.target == b"/v2/items/%41%2C?q=%20"
        assert (seen.all("cookie"), seen.all("x-stage")) == ([], [b"prod"])
        assert seen.all("x-more") == [b"0", b"1"]
        assert (response.all("server"), response.all("x-powered-by")) == ([b"shop"], [])
        assert response.all("x-answer") == [b"1", b"2"]


async def test_another_method_is_405_and_never_the_open_line(tmp_path: Path) -> None:
    async with routed(tmp_path) as (gateway, upstream):
        refused = await gateway.ask(request(b"PATCH /shop/1"))
        assert_error(refused, 405, "METHOD_NOT_ALLOWED")
        assert refused.get("allow") == b"DELETE, GET, HEAD, PUT"
        for path in (
            b"/api/v1/svc/private/x",
            b"/api/v1/svc//%70rivate",
            b"/api/v1/svc/private;/x",
        ):
            refused = await gateway.ask(request(b"GET " + path))
            assert_error(refused, 405, "METHOD_NOT_ALLOWED")
            assert refused.get("allow") == b"POST"
        assert (await gateway.ask(request(b"HEAD /shop/1"))).status == 200
        assert (await gateway.ask(request(b"GET /api/v1/svc/public"))).status == 200
        assert [each.target for each in upstream.requests] == [b"/v2/items/1", b"/public"]


async def test_a_row_has_a_limit_and_a_cost_of_its_own(tmp_path: Path) -> None:
    async with routed(tmp_path) as (gateway, upstream):
        first = await gateway.ask(request(b"DELETE /shop/1/2"))
        assert (first.status, first.get("x-ratelimit-limit")) == (200, b"3")
        assert first.get("x-ratelimit-remaining") == b"1"
        error = assert_error(await gateway.ask(request(b"DELETE /shop/1")), 429, "RATE_LIMITED")
        assert "'/shop/*'" in error["message"]
        assert (await gateway.ask(request(b"GET /shop/1"))).status == 200
        assert [each.target for each in upstream.requests] == [b"/1/2", b"/v2/items/1"]


PREFLIGHT = (b"Origin: https://app.test", b"Access-Control-Request-Method: PUT")


async def test_a_preflight_is_answered_without_limit_and_service(tmp_path: Path) -> None:
    cors = {"CORS_ORIGINS": "https://app.test", "RATE_LIMIT": "1"}
    async with routed(tmp_path, **cors) as (gateway, upstream):
        for _ in range(3):
            granted = await gateway.ask(request(b"OPTIONS /shop/1", *PREFLIGHT))
            assert granted.status == 204
            assert granted.get("access-control-allow-origin") == b"https://app.test"
            assert granted.get("access-control-allow-credentials") == b"true"
            assert b"PUT" in (granted.get("access-control-allow-methods") or b"")
        foreign = await gateway.ask(
            request(b"OPTIONS /shop/1", b"Origin: null", b"Access-Control-Request-Method: PUT")
        )
        assert (foreign.status, foreign.all("access-control-allow-origin")) == (204, [])
        assert upstream.requests == []


async def test_every_answer_says_who_may_read_it_and_that_it_varies(tmp_path: Path) -> None:
    said = answer(b"ok", b"Access-Control-Allow-Origin: *", b"Vary: Accept")
    rows = tmp_path / "rows.toml"
    rows.write_text(ROWS)
    config = f"routes = ['{rows}']\ncors_origins = ['https://app.test']\n"
    async with proxied(said, config) as (gateway, _):
        for path in (b"/shop/1", b"/nothing", b"/health"):
            read = await gateway.ask(request(b"GET " + path, b"Origin: https://app.test"))
            assert read.get("access-control-allow-origin") == b"https://app.test", path
            assert b"Origin" in read.all("vary")
            assert b"X-Request-ID" in (read.get("access-control-expose-headers") or b"")
            foreign = await gateway.ask(request(b"GET " + path, b"Origin: https://evil.test"))
            assert foreign.all("access-control-allow-origin") == []
            assert b"Origin" in foreign.all("vary")
