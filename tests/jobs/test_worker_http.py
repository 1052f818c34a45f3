"""What a worker answers: live, ready, how it is, and its figures to whom they are for."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from temporalio.runtime import PrometheusConfig, TelemetryConfig

from gateway.jobs.worker_http import WorkerHttp
from gateway.jobs.worker_metrics import WorkerMetrics, sdk_runtime


class Told:
    """A worker that is as a test says."""

    def __init__(self) -> None:
        self.state = "ready"
        self.checks: dict[str, dict[str, object]] = {"temporal": {"state": "healthy", "queues": 1}}
        self.metrics = WorkerMetrics("1.2.3", ["known_workflow"])

    def server(self, sdk_address: str | None = None, **more: Any) -> WorkerHttp:
        return WorkerHttp(
            metrics=self.metrics,
            sdk_address=sdk_address,
            state=lambda: self.state,
            checks=lambda: self.checks,
            admin_from=more.get("admin_from", ()),
        )


async def asked(port: int, path: str) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}") as answer,
    ):
        if answer.content_type == "application/json":
            return answer.status, await answer.json()
        return answer.status, await answer.text()


async def test_health_tells_whether_it_works_and_what_it_needs() -> None:
    told = Told()
    server = told.server()
    port = await server.start("127.0.0.1", 0)
    assert await asked(port, "/health/live") == (200, {"status": "live"})
    assert await asked(port, "/health/ready") == (200, {"status": "ready"})
    status, health = await asked(port, "/health")
    assert (status, health["status"]) == (200, "healthy")
    assert health["checks"]["temporal"] == {"status": "healthy", "queues": 1}
    told.checks["temporal"]["state"] = "unhealthy"
    status, health = await asked(port, "/health")
    assert (status, health["status"]) == (200, "degraded")
    told.state = "connecting"
    assert await asked(port, "/health/ready") == (
        503, {"status": "unavailable", "reason": "connecting"},
    )  # fmt: skip
    status, health = await asked(port, "/health")
    assert (status, health["status"]) == (503, "unhealthy")
    assert repr(server) == "<WorkerHttp connecting>"
    assert (await asked(port, "/other"))[0] == 404
    await server.close()


async def test_the_page_of_figures_holds_the_workers_and_the_sdks() -> None:
    told = Told()
    runtime, address = sdk_runtime()
    runtime.metric_meter.create_counter("of_the_sdk", "").add(3)
    told.metrics.executed("known_workflow", "completed", 3.0)
    told.metrics.executed("of a stranger", "failed", 700.0)
    told.metrics.retried("route_to_service")
    told.metrics.given_up("known_workflow", 2)
    told.metrics.given_up("of a stranger", 1)
    server = told.server(address)
    port = await server.start("127.0.0.1", 0)
    status, page = await asked(port, "/metrics")
    await server.close()
    assert status == 200
    for line in (
        'workflow_executions_total{status="completed",workflow_type="known_workflow"} 1.0',
        'workflow_executions_total{status="failed",workflow_type="other"} 1.0',
        'workflow_duration_seconds_bucket{le="1.0",workflow_type="known_workflow"} 0.0',
        'workflow_duration_seconds_bucket{le="5.0",workflow_type="known_workflow"} 1.0',
        'workflow_duration_seconds_bucket{le="600.0",workflow_type="other"} 0.0',
        'activity_retries_total{activity_type="route_to_service"} 1.0',
        'workflow_events_given_up_total{workflow_type="known_workflow"} 2.0',
        'workflow_events_given_up_total{workflow_type="other"} 1.0',
        'gateway_worker_info{version="1.2.3"} 1.0',
    ):
        assert line in page
    assert "of_the_sdk" in page
    assert "stranger" not in page
    assert repr(told.metrics) == "<WorkerMetrics ['known_workflow']>"


@pytest.mark.parametrize("failures", [1, 5])
def test_a_port_that_another_process_took_is_followed_by_another(
    monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    addresses: list[str] = []

    def runtime(telemetry: TelemetryConfig) -> object:
        assert isinstance(telemetry.metrics, PrometheusConfig)
        addresses.append(telemetry.metrics.bind_address)
        if len(addresses) <= failures:
            raise RuntimeError("address in use")
        return "runtime"

    monkeypatch.setattr("gateway.jobs.worker_metrics.Runtime", runtime)
    if failures == 1:
        assert sdk_runtime()[1] == addresses[1]
    else:
        with pytest.raises(RuntimeError, match="in use"):
            sdk_runtime()


async def test_without_the_sdks_figures_the_own_are_shown(unused_tcp_port: int) -> None:
    told = Told()
    assert b"gateway_worker_info" in await told.metrics.page(f"127.0.0.1:{unused_tcp_port}")
    assert b"gateway_worker_info" in await told.metrics.page(None)


@pytest.mark.parametrize(
    ("remote", "may"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("192.0.2.7", True),
     ("192.0.3.7", False), ("", False), (None, False)],
)  # fmt: skip
async def test_figures_are_for_this_machine_and_for_whom_they_are_opened(
    remote: str | None, may: bool
) -> None:
    server = Told().server(admin_from=(ip_network("192.0.2.0/24"),))
    request = make_mocked_request("GET", "/metrics").clone(remote=remote or "")
    if may:
        assert (await server._figures(request)).status == 200
    else:
        with pytest.raises(web.HTTPNotFound):
            await server._figures(request)
