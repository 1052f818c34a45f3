"""Live, ready, and how the gateway and its services are."""

from __future__ import annotations

import pytest

from gateway import __version__
from tests.control.conftest import HEALTHY, Client, Running


@pytest.mark.parametrize("readiness", ["ready", "starting", "draining"])
async def test_live_is_200_as_long_as_it_answers(
    client: Client, running: Running, readiness: str
) -> None:
    running.readiness = readiness
    answer = await client.get("/health/live")
    assert (answer.status, await answer.json()) == (200, {"status": "live"})


async def test_ready_is_200_when_ready(client: Client) -> None:
    answer = await client.get("/health/ready")
    assert (answer.status, await answer.json()) == (200, {"status": "ready"})


@pytest.mark.parametrize("readiness", ["starting", "draining"])
async def test_not_ready_is_503_with_the_reason(
    client: Client, running: Running, readiness: str
) -> None:
    running.readiness = readiness
    answer = await client.get("/health/ready")
    assert answer.status == 503
    assert await answer.json() == {"status": "unavailable", "reason": readiness}
    assert (await client.head("/health/ready")).status == 503


async def test_health_tells_of_the_gateway_and_its_services(
    client: Client, running: Running
) -> None:
    running.state.metrics.loop_lag(0.25)
    answer = await client.get("/health")
    body = await answer.json()
    assert answer.status == 200
    assert 5 <= body.pop("uptime_seconds") < 60
    assert body == {
        "status": "healthy",
        "version": __version__,
        "checks": {
            "ready": {"status": "healthy", "state": "ready"},
            "services": {"status": "healthy", "total": 1, "not_healthy": 0},
            "event_loop": {"status": "healthy", "lag_seconds": 0.25},
        },
        "services": [HEALTHY],
    }


@pytest.mark.parametrize("state", ["degraded", "unhealthy"])
async def test_a_service_that_is_not_well_degrades_but_does_not_fail(
    client: Client, running: Running, state: str
) -> None:
    running.services = [HEALTHY, HEALTHY | {"name": "other", "state": state}]
    answer = await client.get("/health")
    body = await answer.json()
    assert (answer.status, body["status"]) == (200, "degraded")
    assert body["checks"]["services"] == {"status": "degraded", "total": 2, "not_healthy": 1}


async def test_a_service_nobody_asked_yet_is_no_worry(client: Client, running: Running) -> None:
    running.services = [HEALTHY | {"state": "unknown"}]
    assert (await (await client.get("/health")).json())["status"] == "healthy"


@pytest.mark.parametrize("readiness", ["starting", "draining"])
async def test_a_gateway_that_takes_no_requests_is_unhealthy(
    client: Client, running: Running, readiness: str
) -> None:
    running.readiness = readiness
    answer = await client.get("/health")
    body = await answer.json()
    assert (answer.status, body["status"]) == (503, "unhealthy")
    assert body["checks"]["ready"] == {"status": "unhealthy", "state": readiness}


async def test_a_clock_set_back_gives_no_negative_uptime(client: Client, running: Running) -> None:
    running.state.started_wall = 1e12
    assert (await (await client.get("/health")).json())["uptime_seconds"] == 0


@pytest.mark.parametrize(
    ("state", "status", "health", "ready"),
    [
        ("healthy", 200, "healthy", 200),
        ("degraded", 200, "degraded", 200),
        ("unhealthy", 503, "unhealthy", 503),
    ],
)
async def test_what_the_gateway_needs_shows_in_its_health(
    client: Client, running: Running, state: str, status: int, health: str, ready: int
) -> None:
    running.dependencies = {"database": {"state": state, "latency_ms": 1.5, "error": None}}
    answer = await client.get("/health")
    body = await answer.json()
    assert (answer.status, body["status"]) == (status, health)
    assert body["checks"]["database"] == {"status": state, "latency_ms": 1.5, "error": None}
    answer = await client.get("/health/ready")
    assert answer.status == ready
    if ready == 503:
        assert (await answer.json())["reason"] == "database away"
