"""The page of figures is for those who may read it, and not there for anyone else."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from gateway.policy.auth import Identity
from tests.control.conftest import LOCAL, Client, Running

ADMIN = (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"))


async def test_prometheus_text_and_openmetrics_on_accept(client: Client) -> None:
    plain = await client.get("/metrics", headers=LOCAL)
    assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "gateway_build_info" in await plain.text()
    accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
    openmetrics = await client.get("/metrics", headers=LOCAL | accept)
    assert openmetrics.content_type == "application/openmetrics-text"
    assert (await openmetrics.text()).endswith("# EOF\n")


async def test_those_who_may_read_learn_that_it_is_only_read(client: Client) -> None:
    answer = await client.post("/metrics", headers=LOCAL)
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET,HEAD"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Gateway-Client": "127.0.0.1"},
        {"X-Gateway-Client": "127.0.0.1", "X-Gateway-Direct": "0"},
        {"X-Gateway-Client": "192.0.2.1", "X-Gateway-Direct": "1"},
        {"X-Gateway-Client": "unknown", "X-Gateway-Direct": "1"},
    ],
)
async def test_to_others_the_page_is_not_there(
    client: Client, method: str, headers: dict[str, str]
) -> None:
    answer = await client.request(method, "/metrics", headers=headers)
    assert answer.status == 404
    assert "Allow" not in answer.headers
    nothing = await client.request(method, "/nothing", headers=headers)
    assert await answer.json() == await nothing.json()


async def test_admin_from_may_read_and_follows_a_reload(client: Client, running: Running) -> None:
    headers = {"X-Gateway-Client": "192.0.2.1"}
    assert (await client.get("/metrics", headers=headers)).status == 404
    running.state.settings = replace(running.state.settings, admin_from=ADMIN)
    assert (await client.get("/metrics", headers=headers)).status == 200


async def test_the_scope_admin_may_read_from_anywhere(client: Client) -> None:
    field = Identity(subject="root", scopes=frozenset({"admin"})).encode().decode()
    headers = {"X-Gateway-Client": "198.51.100.1", "X-Gateway-Identity": field}
    assert (await client.get("/metrics", headers=headers)).status == 200
    assert (await client.post("/metrics", headers=headers)).status == 405
    field = Identity(subject="alice", scopes=frozenset({"events:read"})).encode().decode()
    assert (
        await client.get("/metrics", headers=headers | {"X-Gateway-Identity": field})
    ).status == 404
