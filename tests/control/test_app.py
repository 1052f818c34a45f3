"""What holds for every path of the control application: errors, methods, fields."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from aiohttp import web

from gateway.control.app import PATHS, build_app, own_methods
from gateway.policy.auth import Identity
from tests.control.conftest import LOCAL, Client, Connect, Running

# Those that show a page; the others have tests of their own.
PAGES = [path for path in PATHS if not path.startswith(("/api/", "/admin/", "/internal/"))]


@pytest.mark.parametrize("path", PAGES)
async def test_every_path_answers_get_and_head(client: Client, path: str) -> None:
    got = await client.get(path, headers={"X-Request-ID": "r-1", **LOCAL})
    assert got.status == 200
    assert got.headers["X-Request-ID"] == "r-1"
    assert got.headers["Cache-Control"] == ("no-cache" if path == "/approvals" else "no-store")
    assert "Server" not in got.headers
    assert await got.read()
    head = await client.head(path, headers=LOCAL)
    assert head.status == 200
    assert head.headers["Content-Type"] == got.headers["Content-Type"]
    assert await head.read() == b""


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS", "PURGE"])
async def test_another_method_is_405_with_allow(client: Client, path: str, method: str) -> None:
    answer = await client.request(method, path, headers={"X-Request-ID": "r-2", **LOCAL})
    assert answer.status == 405
    assert answer.headers["Allow"].replace(" ", "") == "GET,HEAD"
    error = (await answer.json())["error"]
    assert (error["code"], error["request_id"]) == ("METHOD_NOT_ALLOWED", "r-2")
    assert method in error["message"]


async def test_an_unknown_path_is_the_contracts_404(client: Client) -> None:
    answer = await client.get("/health/nothing", headers={"X-Request-ID": "r-3"})
    assert answer.status == 404
    assert answer.content_type == "application/json"
    assert answer.headers["X-Request-ID"] == "r-3"
    assert "Server" not in answer.headers
    assert (await answer.json())["error"]["code"] == "NOT_FOUND"


async def test_what_is_hidden_reads_like_what_is_not_there(
    client: Client, running: Running
) -> None:
    running.state.nothing_here = lambda: "nothing is at this path, as the door says it"
    for path in ("/nothing", "/metrics", "/admin/services", "/admin/reload", "/admin/nothing"):
        answer = await client.post(path)
        assert answer.status == 404
        assert (await answer.json())["error"]["message"].endswith("as the door says it")


@pytest.mark.parametrize("path", ["/health", "/nothing", "/openapi.json"])
async def test_browsers_are_told_not_to_guess_frame_or_refer(client: Client, path: str) -> None:
    headers = (await client.get(path)).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert "Strict-Transport-Security" not in headers


async def test_the_approvals_page_keeps_its_own_policy(client: Client) -> None:
    headers = (await client.get("/approvals")).headers
    assert "script-src 'sha256-" in headers["Content-Security-Policy"]
    assert len(headers.getall("Content-Security-Policy")) == 1
    assert headers["X-Frame-Options"] == "DENY"


async def test_security_headers_can_be_switched_off_and_with_tls_speak_of_it(
    client: Client, running: Running
) -> None:
    running.state.settings = replace(running.state.settings, tls_cert=Path("cert.pem"))
    headers = (await client.get("/health")).headers
    assert headers["Strict-Transport-Security"] == "max-age=31536000"
    running.state.settings = replace(running.state.settings, security_headers=False)
    headers = (await client.get("/health")).headers
    assert not {"Strict-Transport-Security", "X-Frame-Options", "Referrer-Policy"} & set(headers)


async def test_a_problem_is_told_as_one_on_accept(client: Client) -> None:
    answer = await client.get("/nothing", headers={"Accept": "Application/Problem+JSON"})
    assert answer.content_type == "application/problem+json"
    body = await answer.json()
    assert (body["status"], body["code"], body["request_id"]) == (404, "NOT_FOUND", "")


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        (web.HTTPBadRequest(), 400, "BAD_REQUEST"),
        (web.HTTPUnauthorized(), 401, "UNAUTHORIZED"),
        (web.HTTPConflict(), 409, "CONFLICT"),
        (web.HTTPRequestEntityTooLarge(1, 2), 413, "PAYLOAD_TOO_LARGE"),
        (web.HTTPUnsupportedMediaType(), 400, "BAD_REQUEST"),
        (web.HTTPServiceUnavailable(), 503, "SERVICE_UNAVAILABLE"),
        (web.HTTPInsufficientStorage(), 500, "INTERNAL_ERROR"),
    ],
)
async def test_whatever_is_raised_has_the_contracts_shape(
    running: Running, aiohttp_client: Connect, raised: web.HTTPException, status: int, code: str
) -> None:
    async def handler(_request: web.Request) -> web.Response:
        raise raised

    app = build_app(running.state)
    app.router.add_get("/raise", handler)
    answer = await (await aiohttp_client(app)).get("/raise")
    assert answer.status == status
    assert (await answer.json())["error"]["code"] == code


async def test_a_redirect_is_no_error(running: Running, aiohttp_client: Connect) -> None:
    async def handler(_request: web.Request) -> web.Response:
        raise web.HTTPFound("/health")

    app = build_app(running.state)
    app.router.add_get("/raise", handler)
    answer = await (await aiohttp_client(app)).get("/raise", allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (302, "/health")


async def test_a_failure_of_ours_is_logged_and_tells_nothing(
    running: Running, aiohttp_client: Connect
) -> None:
    def fail() -> list[dict[str, object]]:
        raise RuntimeError("a secret")

    running.state.services = fail
    client = await aiohttp_client(build_app(running.state))
    with structlog.testing.capture_logs() as logged:
        answer = await client.get("/health", headers={"X-Request-ID": "r-4"})
    assert answer.status == 500
    assert "secret" not in await answer.text()
    assert (await answer.json())["error"]["code"] == "INTERNAL_ERROR"
    # aiohttp's own access log of this test's server may be among them.
    assert [entry for entry in logged if entry["event"] == "request_failed"] == [
        {
            "event": "request_failed",
            "log_level": "error",
            "request_id": "r-4",
            "path": "/health",
            "exc_info": True,
        }
    ]


@pytest.mark.parametrize("path", [path for path in PATHS if path.startswith("/api/")])
async def test_another_method_of_a_path_with_names_is_405_too(client: Client, path: str) -> None:
    answer = await client.request("PURGE", path.replace("{", "").replace("}", ""), headers=LOCAL)
    assert answer.status == 405
    assert set(answer.headers["Allow"].split(",")) <= {"GET", "HEAD", "POST", "DELETE"}
    assert (await answer.json())["error"]["code"] == "METHOD_NOT_ALLOWED"


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_the_path_of_streams_says_which_methods_it_has(client: Client, method: str) -> None:
    answer = await client.request(method, "/api/v1/events/alice", headers=LOCAL)
    assert answer.status == 405
    assert set(answer.headers["Allow"].split(",")) == {"GET", "HEAD", "POST"}


async def test_the_methods_of_every_path_are_those_that_the_405_names(client: Client) -> None:
    admin = Identity(subject="root", scopes=frozenset({"admin"})).encode().decode()
    methods = own_methods()
    assert tuple(methods) == PATHS
    for path, taken in methods.items():
        answer = await client.request(
            "PURGE", path.replace("{", "").replace("}", ""), headers={"X-Gateway-Identity": admin}
        )
        assert answer.status == 405
        assert set(answer.headers["Allow"].split(",")) == set(taken), path
