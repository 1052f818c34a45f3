"""The OpenAPI document and the admin API: bodies that both take, and answers as described."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request

from gateway.control import admin_bodies
from gateway.control.answers import Failed
from gateway.control.app import build_app
from tests.control.administering import Administered, Site
from tests.control.conftest import Connect, Running
from tests.control.describing import SCHEMAS, breaches, content, operations, valid

URL = "http://127.0.0.1:9001"
NO_URLS: tuple[object, ...] = ({}, [], 7, None, {"url": URL, "weight": 1})
RULE = {"pattern": "/api/v1/search*", "requests_per_minute": 600}
ADMIN_BODIES: list[tuple[str, object]] = [
    *(("NewEndpoint", {"url": URL} | more) for more in ({}, {"weight": 1}, {"weight": 1000})),
    *(("NewEndpoint", {"url": URL, "weight": weight}) for weight in (0, 1001, 1.5, "1", None)),
    *(("NamedEndpoint", {"url": url}) for url in (URL, "", "a b", 7, None, "x" * 2048, "x" * 2049)),
    *(("NamedEndpoint", value) for value in NO_URLS),
    *(("BreakerState", {"state": state}) for state in ("open", "closed", "half_open", None, 1)),
    *(("Limit", RULE | {"tenant": tenant}) for tenant in (None, "acme", "", "x" * 255, "x" * 256)),
    *(("Limit", RULE | {"requests_per_day": count}) for count in (None, 1, 0, 10**9, 10**9 + 1)),
    *(("Limit", RULE | {"pattern": path}) for path in ("/", "x", "/a b", "/" + "x" * 1024, 1)),
    ("Limit", {"pattern": "/x"}),
    ("Limit", {"pattern": "/x", "requests_per_minute": None}),
    ("Limit", RULE | {"burst": 1}),
    *(("LimitName", value) for value in ({"pattern": "/x"}, {"tenant": "a"}, RULE)),
    ("Revocation", {"jti": "t-1", "expires_at": 1_800_000_000}),
    ("Revocation", {"jti": "t-1", "expires_at": 1_800_000_000.5}),
    ("Revocation", {"key_id": "gw_1"}),
    ("Revocation", {"key_id": "gw_1", "expires_at": 1_800_000_000}),
    ("Revocation", {"jti": "t-1"}),
    ("Revocation", {"jti": "t-1", "key_id": "gw_1", "expires_at": 1_800_000_000}),
    ("Revocation", {"jti": "t-1", "expires_at": 0}),
    ("Revocation", {"jti": "t-1", "expires_at": 253_402_300_800}),
    ("Revocation", {"jti": None, "key_id": "gw_1"}),
    ("Revocation", {}),
]


@pytest.mark.parametrize(("name", "value"), ADMIN_BODIES)
async def test_the_schemas_of_the_admin_api_take_what_it_takes(name: str, value: object) -> None:
    assert await taken(name, value) == valid(name, value), breaches(SCHEMAS[name], value)


async def taken(name: str, value: object) -> bool:
    """Whether a body has the shape that the admin API wants."""
    reader = StreamReader(BaseProtocol(asyncio.get_running_loop()), 2**16)
    reader.feed_data(json.dumps(value).encode())
    reader.feed_eof()
    request = make_mocked_request("POST", "/admin", payload=reader)
    shapes = {
        "NewEndpoint": admin_bodies.NEW_ENDPOINT,
        "NamedEndpoint": admin_bodies.ENDPOINT,
        "BreakerState": admin_bodies.BREAKER,
        "LimitName": admin_bodies.RULE_NAME,
    }
    try:
        if name == "Limit":
            await admin_bodies.limit_row(request)
        elif name == "Revocation":
            await admin_bodies.revoked(request)
        else:
            await admin_bodies.members(request, shapes[name])
    except Failed:
        return False
    return True


async def test_what_the_admin_api_tells_is_as_described(
    running: Running, aiohttp_client: Connect, tmp_path: Path
) -> None:
    parts = Administered(tmp_path)
    await parts.database.open()
    running.state.desk = parts.desk
    site = Site(await aiohttp_client(build_app(running.state)), parts)
    assert parts.limits is not None
    parts.limits.check("s:alice", "anonymous", None, "/x", (), 4, 100.0, 1e9)
    one = "/admin/services/orders"
    asked: list[tuple[str, str, str, object]] = [
        ("GET", "/admin/services", "", None),
        ("POST", f"{one}/endpoints", "", {"url": "http://127.0.0.1:9003"}),
        ("POST", f"{one}/endpoints/drain", "", {"url": "http://127.0.0.1:9003"}),
        ("DELETE", f"{one}/endpoints", "?url=http://127.0.0.1:9003", None),
        ("POST", f"{one}/breaker", "", {"state": "open"}),
        ("GET", "/admin/limits", "?subject=alice", None),
        ("PUT", "/admin/limits/rules", "", RULE),
        ("GET", "/admin/limits/rules", "", None),
        ("DELETE", "/admin/limits/rules", f"?pattern={RULE['pattern']}", None),
        ("GET", "/admin/connections", "", None),
        ("POST", "/admin/tokens/revoke", "", {"key_id": "gw_1"}),
        ("POST", "/admin/reload", "", None),
        ("GET", "/health", "", None),
    ]
    for method, path, query, body in asked:
        status, found = await site.ask(method, path + query, body)
        described = path.replace("orders", "{name}")
        assert breaches(content(described, method.lower(), status), found) == [], path
    called = {(method, path.replace("orders", "{name}")) for method, path, *_ in asked}
    wanted = {
        (method.upper(), path)
        for method, path, _ in operations()
        if path.startswith("/admin/") and method != "head"
    }
    assert wanted <= called
    await parts.database.close()
