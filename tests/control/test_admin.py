"""The admin API: who may use it, reloads, and what all its changes have in common."""

from __future__ import annotations

import pytest
import structlog

from gateway.control.admin import paths, routes
from gateway.policy.auth import Identity
from gateway.settings import SettingsError
from tests.control.administering import (
    ADMIN,
    ALICE,
    BREAKER,
    ENDPOINTS,
    FUTURE,
    REVOKE,
    RULES,
    THREE,
    Site,
    as_caller,
)
from tests.control.conftest import LOCAL


def called(path: str) -> str:
    return path.replace("{name}", "orders")


# Who


@pytest.mark.parametrize("path", [*paths(), "/admin/nothing", "/admin/services/orders/nothing"])
async def test_for_everyone_else_there_is_nothing_below_admin(site: Site, path: str) -> None:
    others = (ALICE, Identity(), Identity(open_read=True), Identity(open_write=True))
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PURGE"):
        for fields in (*map(as_caller, others), {}):  # the last: the door said nothing at all
            answer = await site.client.request(method, called(path), data=b"{", headers=fields)
            assert answer.status == 404
            assert "Allow" not in answer.headers
    assert site.parts.reloads == 0


async def test_without_a_key_the_owner_of_this_machine_may(site: Site) -> None:
    owner = Identity(open_read=True, open_write=True)
    home = {"X-Forwarded-Host": "127.0.0.1:8081"} | LOCAL
    status, _ = await site.ask("GET", "/admin/services", identity=owner, headers=home)
    assert status == 200
    evil = home | {"Origin": "https://evil.example"}
    status, _ = await site.ask("POST", "/admin/reload", identity=owner, headers=evil)
    assert (status, site.parts.reloads) == (404, 0)


@pytest.mark.parametrize("path", paths())
async def test_an_admin_learns_which_methods_a_path_has(site: Site, path: str) -> None:
    answer = await site.client.request("PURGE", called(path), headers=as_caller(ADMIN))
    assert answer.status == 405
    allowed = {route.method for route in routes() if route.path == path}
    assert set(answer.headers["Allow"].split(",")) - {"HEAD"} == allowed


# Configuration


async def test_a_reload_answers_with_what_is_now_in_force(site: Site) -> None:
    found = await site.ok("POST", "/admin/reload")
    assert found["status"] == "reloaded"
    assert [service["name"] for service in found["services"]] == ["orders", "users_service"]
    await site.ok("POST", "/admin/reload", {})
    assert site.parts.reloads == 2


@pytest.mark.parametrize(
    "error",
    [
        SettingsError("config/gateway.toml:7: prot is unknown, expected a setting"),
        FileNotFoundError(2, "No such file or directory", "cert.pem"),
    ],
)
async def test_a_bad_file_changes_nothing_and_says_why(site: Site, error: Exception) -> None:
    site.parts.wrong = error
    with structlog.testing.capture_logs() as logged:
        status, found = await site.ask("POST", "/admin/reload")
    assert (status, found["error"]["code"]) == (422, "UNPROCESSABLE")
    assert found["error"]["message"] == str(error)
    assert site.parts.reloads == 0
    told = [entry["event"] for entry in logged if entry["event"].startswith(("admin", "reload"))]
    assert told == ["reload_refused"]


async def test_a_reload_takes_no_body(site: Site) -> None:
    assert (await site.refused("POST", "/admin/reload", b'{"x":1}'))[0] == 400
    assert site.parts.reloads == 0


# What all have in common


async def test_every_change_is_logged_with_who_and_what(site: Site) -> None:
    home = {"X-Request-ID": "r-7"}
    with structlog.testing.capture_logs() as logged:
        await site.ask("POST", ENDPOINTS, {"url": THREE}, headers=home)
        await site.ask("POST", f"{ENDPOINTS}/drain", {"url": THREE}, headers=home)
        await site.ask("DELETE", ENDPOINTS, {"url": THREE}, headers=home)
        await site.ask("POST", BREAKER, {"state": "open"}, headers=home)
        await site.ask("PUT", RULES, {"pattern": "/a", "requests_per_day": 1}, headers=home)
        await site.ask("DELETE", RULES, {"pattern": "/a"}, headers=home)
        await site.ask("POST", REVOKE, {"jti": "t-1", "expires_at": FUTURE}, headers=home)
        await site.ask("POST", "/admin/reload", headers=home)
        await site.ask("GET", "/admin/services", headers=home)
        await site.ask("POST", ENDPOINTS, {"url": "nonsense"}, headers=home)
    lines = [entry for entry in logged if entry["event"] == "admin_change"]
    assert [line["change"] for line in lines] == [
        "endpoint_added",
        "endpoint_drained",
        "endpoint_removed",
        "breaker_set",
        "limit_set",
        "limit_deleted",
        "revoked",
        "reloaded",
    ]
    for line in lines:
        assert (line["who"], line["client_ip"], line["request_id"]) == (
            "root",
            "198.51.100.7",
            "r-7",
        )
    assert (lines[0]["service"], lines[0]["endpoint"]) == ("orders", THREE)
    assert (lines[4]["pattern"], lines[4]["requests_per_day"]) == ("/a", 1)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "BAD_REQUEST"),
        (b"{", 400, "BAD_REQUEST"),
        (b"[]", 422, "UNPROCESSABLE"),
        (b"null", 422, "UNPROCESSABLE"),
        (b"{}", 422, "UNPROCESSABLE"),
        (b'{"url":' + b'"' + b"x" * 16_384 + b'"}', 413, "PAYLOAD_TOO_LARGE"),
    ],
)
async def test_a_body_that_is_none_is_refused(
    site: Site, body: bytes, status: int, code: str
) -> None:
    assert (await site.refused("POST", ENDPOINTS, body))[:2] == (status, code)


async def test_connections_are_counted_and_their_list_is_bounded(site: Site) -> None:
    found = await site.ok("GET", "/admin/connections?limit=5")
    kinds = {"request": 0, "stream": 0, "tunnel": 0, "idle": 0, "other": 0}
    assert found == {"total": 0, "kinds": kinds, "connections": []}
    for limit in ("1001", "-1", "x", "1" * 30, "\u0661"):
        assert (await site.refused("GET", f"/admin/connections?limit={limit}"))[0] == 400
