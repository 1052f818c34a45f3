"""A proxied request that becomes a job, as the door hands it over."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.policy.identity import Identity
from tests.control.jobs_site import (
    NOBODY,
    OWNER,
    PLAIN,
    Site,
    accepted,
    bare_site,
    job,
    jobs_site,
)
from tests.control.pages import Page, error
from tests.jobs.desk import ALICE, ASYNC
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


async def durable(site: Site, who: Identity = ALICE, body: Any = b"a=1", **headers: str) -> Page:
    """As the door sends it."""
    fields = {
        "X_Gateway_Target": "/api/v1/demo/echo?x=%20y",
        "X_Gateway_Service": "demo",
        "X_Gateway_Route": "a%20row",
        "X_Gateway_Host": "shop.example",
        "X_Forwarded_For": "192.0.2.1",
        "Forwarded": "for=192.0.2.1",
        "Via": "1.1 gateway",
        "traceparent": "00-1-2-03",
        "Content_Type": "application/x-www-form-urlencoded",
        "Authorization": "Bearer secret",
        "Cookie": "a=secret",
        "Prefer": "respond-async",
    } | headers
    return await site.ask("PUT", "/internal/jobs/durable", who, body, **fields)


async def test_a_proxied_request_becomes_a_job(site: Site) -> None:
    page = await durable(site, who=PLAIN, X_Mine="1")
    assert page.headers["Preference-Applied"] == "respond-async"
    found = (await site.there.ended(accepted(page))).body
    assert found["workflow_type"] == ASYNC
    context, given = found["result"]["context"], found["result"]["input"]
    assert (context["spent"], context["notify"]) == (True, "alice")
    assert (context["request_id"], context["correlation_id"]) == ("r-1", "c-1")
    assert (given["method"], given["target"]) == ("PUT", "/api/v1/demo/echo?x=%20y")
    assert (given["service"], given["body"]) == ("demo", None)
    assert base64.b64decode(given["body_base64"]) == b"a=1"
    headers = given["headers"]
    assert headers["content-type"] == "application/x-www-form-urlencoded"
    assert (headers["x-mine"], headers["host"]) == ("1", "shop.example")
    assert "secret" not in json.dumps(given)
    assert not {"via", "forwarded", "prefer", "x-forwarded-for", "traceparent"} & set(headers)
    assert not [name for name in headers if name.startswith("x-gateway-")]


async def test_a_proxied_request_is_waited_for_where_that_is_preferred(site: Site) -> None:
    job(await durable(site, body=None, Prefer="respond-async, wait=30"), "completed")


async def test_a_proxied_request_with_a_key_is_one_job(site: Site) -> None:
    key = site.there.settings.temporal_task_queue
    one = accepted(await durable(site, Idempotency_Key=key))
    two = await durable(site, Idempotency_Key=key, Prefer="wait=30")
    assert job(two, "completed")["operation_id"] == one
    error(await durable(site, body=b"a=2", Idempotency_Key=key), 422, "UNPROCESSABLE")


async def test_who_could_never_look_starts_none(site: Site) -> None:
    error(await durable(site, who=NOBODY), 401, "UNAUTHORIZED")
    accepted(await durable(site, who=OWNER))


async def test_fields_that_come_twice_are_one(site: Site) -> None:
    headers = [("X-A", "1"), ("X-A", "2"), ("X-Gateway-Identity", ALICE.encode().decode())]
    headers += [("X-Gateway-Target", "/api/v1/demo/"), ("X-Gateway-Service", "demo")]
    response = await site.client.get("/internal/jobs/durable", headers=headers)
    operation_id = (await response.json())["operation_id"]
    given = (await site.there.ended(operation_id)).body["result"]["input"]
    assert given["headers"]["x-a"] == "1, 2"
    assert given["body_base64"] is None
    assert "host" not in given["headers"]


async def test_without_temporal_it_is_said_what_to_set(bare: Site) -> None:
    error(await durable(bare), 503, "SERVICE_UNAVAILABLE", "retry_after")
