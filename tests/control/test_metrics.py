"""The page of figures is for those who may read it, and not there for anyone else."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from gateway.control.metrics import may_read
from gateway.settings import Settings
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


@pytest.mark.parametrize(
    ("client_address", "direct", "allowed"),
    [
        ("127.0.0.1", True, True),
        ("127.9.9.9", True, True),
        ("::1", True, True),
        ("::ffff:127.0.0.1", True, True),
        ("::1", False, False),
        ("192.0.2.77", False, True),
        ("::ffff:192.0.2.77", False, True),
        ("2001:db8::1", True, True),
        ("198.51.100.1", True, False),
        ("2001:db9::1", True, False),
        ("", True, False),
    ],
)
def test_loopback_and_the_listed_networks_may_read(
    client_address: str, direct: bool, allowed: bool
) -> None:
    assert may_read(Settings(admin_from=ADMIN), client_address, direct=direct) is allowed
