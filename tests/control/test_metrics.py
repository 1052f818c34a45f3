"""The page of figures is for those who may read it, and not there for anyone else."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

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


ENDED = b"""\
# HELP workflow_executions_total Jobs that ended.
# TYPE workflow_executions_total counter
workflow_executions_total{status="failed",workflow_type="x"} 2.0
"""
CREATED = b"""\
# HELP workflow_executions_created Jobs that ended.
# TYPE workflow_executions_created gauge
workflow_executions_created{status="failed",workflow_type="x"} 1.7e+09
"""
TOOK = b"""\
# HELP workflow_duration_seconds How long.
# TYPE workflow_duration_seconds histogram
workflow_duration_seconds_bucket{le="+Inf",workflow_type="x"} 2.0
"""
OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0"}


async def worker() -> bytes:
    return ENDED + CREATED + TOOK


async def test_the_figures_of_a_worker_of_ours_are_on_the_page(
    client: Client, running: Running
) -> None:
    running.state.worker_metrics = worker
    plain = await (await client.get("/metrics", headers=LOCAL)).read()
    assert plain.endswith(ENDED + TOOK)
    text = await (await client.get("/metrics", headers=LOCAL | OPENMETRICS)).text()
    assert text.endswith("# EOF\n")
    assert text.count("# EOF") == 1
    assert "# TYPE workflow_executions counter\n" in text
    assert 'workflow_executions_total{status="failed",workflow_type="x"} 2.0\n' in text
    assert "workflow_executions_created" not in text
    parsed: list[Any] = list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
    families = {each.name for each in parsed}
    assert {"workflow_executions", "workflow_duration_seconds"} <= families


async def test_what_both_a_worker_and_the_gateway_count_is_one_family(
    client: Client, running: Running
) -> None:
    labels = ("workflow_type", "status")
    running.state.metrics.counter(
        "workflow_executions_total", "Jobs that ended.", labels, lambda: [(("x", "terminated"), 1)]
    )
    alone = await (await client.get("/metrics", headers=LOCAL)).text()
    assert 'workflow_executions_total{status="terminated",workflow_type="x"} 1.0\n' in alone
    running.state.worker_metrics = worker
    text = await (await client.get("/metrics", headers=LOCAL | OPENMETRICS)).text()
    parsed: list[Any] = list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
    [family] = [each for each in parsed if each.name == "workflow_executions"]
    assert {each.labels["status"]: each.value for each in family.samples} == {
        "terminated": 1,
        "failed": 2,
    }
    plain = await (await client.get("/metrics", headers=LOCAL)).text()
    assert plain.count("# TYPE workflow_executions_total ") == 1
