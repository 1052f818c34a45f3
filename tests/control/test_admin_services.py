"""The admin API and services: endpoints that come, drain and go, breakers, and states told."""

from __future__ import annotations

from typing import Any

import pytest

from tests.control.administering import BREAKER, ENDPOINTS, NOW, ONE, THREE, TWO, Site


def endpoints(service: dict[str, Any]) -> dict[str, str]:
    """State by URL."""
    return {each["url"]: each["state"] for each in service["endpoints"]}


async def test_services_are_told_with_endpoints_pools_and_breakers(site: Site) -> None:
    orders = site.parts.services["orders"]
    site.parts.pools[orders.endpoints[1].key].latency_ms = 1.25
    found = (await site.ok("GET", "/admin/services"))["services"]
    assert [service["name"] for service in found] == ["orders", "users_service"]
    assert repr(site.parts.desk) == "<RunningDesk services=['orders', 'users_service']>"
    assert found[0]["state"] == "unknown"
    assert found[0]["breaker"] == {"state": "closed", "forced": False, "requests": 0, "failed": 0}
    assert found[0]["endpoints"][1] == {
        "url": TWO,
        "state": "unknown",
        "weight": 1,
        "outstanding": 0,
        "idle": 0,
        "active": 0,
        "waiting": 0,
        "latency_ms": 1.25,
        "last_error": None,
    }


async def test_an_endpoint_comes_drains_comes_back_and_goes(site: Site) -> None:
    parts, orders = site.parts, site.parts.services["orders"]
    status, service = await site.ask("POST", ENDPOINTS, {"url": f"{THREE}/", "weight": 3})
    assert status == 201
    assert service["endpoints"][2]["url"] == THREE
    assert service["endpoints"][2]["weight"] == 3
    added = orders.endpoints[2]
    assert added.key in parts.pools  # before any request may pick it

    service = await site.ok("POST", f"{ENDPOINTS}/drain", {"url": THREE})
    assert endpoints(service)[THREE] == "draining"
    assert all(orders.pick(None, NOW) is not added for _ in range(6))
    assert added.key in parts.pools

    status, service = await site.ask("POST", ENDPOINTS, {"url": THREE})
    assert status == 201
    assert (endpoints(service)[THREE], service["endpoints"][2]["weight"]) == ("unknown", 1)

    service = await site.ok("DELETE", f"{ENDPOINTS}?url={THREE}")
    assert list(endpoints(service)) == [ONE, TWO]
    assert added.key not in parts.pools
    assert [pool.endpoint for pool in parts.retired] == [added]


async def test_an_endpoint_with_requests_leaves_when_they_have_ended(site: Site) -> None:
    parts, orders = site.parts, site.parts.services["orders"]
    busy = orders.endpoints[0]
    orders.picked(busy)
    service = await site.ok("DELETE", ENDPOINTS, {"url": ONE})
    assert service["endpoints"][0]["leaving"] is True
    assert (service["endpoints"][0]["state"], parts.retired) == ("draining", [])
    orders.settled(busy, False, NOW)
    assert [endpoint.name for endpoint in orders.endpoints] == [TWO]
    assert [pool.endpoint for pool in parts.retired] == [busy]


async def test_the_last_endpoint_stays(site: Site) -> None:
    await site.ok("POST", f"{ENDPOINTS}/drain", {"url": ONE})
    for method, path in (("POST", f"{ENDPOINTS}/drain"), ("DELETE", ENDPOINTS)):
        assert (await site.refused(method, path, {"url": TWO}))[:2] == (409, "CONFLICT")
    assert endpoints((await site.ok("GET", "/admin/services"))["services"][0])[TWO] == "unknown"


async def test_what_is_not_there_is_not_found_and_what_is_there_a_conflict(site: Site) -> None:
    assert (await site.refused("POST", ENDPOINTS, {"url": ONE}))[:2] == (409, "CONFLICT")
    for method, path in (("POST", f"{ENDPOINTS}/drain"), ("DELETE", ENDPOINTS)):
        assert (await site.refused(method, path, {"url": THREE}))[:2] == (404, "NOT_FOUND")
    other = "/admin/services/other"
    assert (await site.refused("POST", f"{other}/endpoints", {"url": ONE}))[0] == 404
    assert (await site.refused("POST", f"{other}/breaker", {"state": "open"}))[0] == 404


async def test_a_service_answers_to_each_of_its_names(site: Site) -> None:
    for name in ("users_service", "users-service", "Users-Service"):
        service = await site.ok("POST", f"/admin/services/{name}/breaker", {"state": "open"})
        assert service["name"] == "users_service"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1",
        "http://user:secret@127.0.0.1",
        f"{ONE},{THREE}",
        "http://127.0.0.1?x=1",
        "http://127.0.0.1:0",
        "nonsense",
    ],
)
async def test_what_is_no_endpoint_is_refused_and_not_repeated(site: Site, url: str) -> None:
    status, code, details = await site.refused("POST", ENDPOINTS, {"url": url})
    assert (status, code, list(details)) == (422, "UNPROCESSABLE", ["/url"])
    assert "secret" not in str(details)
    assert len(site.parts.services["orders"].endpoints) == 2


async def test_a_breaker_is_opened_and_closed_by_hand(site: Site) -> None:
    breaker = site.parts.services["orders"].breaker
    service = await site.ok("POST", BREAKER, {"state": "open"})
    assert (service["state"], service["breaker"]["state"]) == ("degraded", "open")
    assert service["breaker"]["forced"] is True
    assert breaker.admit(NOW + 3600) is None  # no time takes it back
    service = await site.ok("POST", BREAKER, {"state": "closed"})
    assert (service["state"], service["breaker"]["state"]) == ("unknown", "closed")
    assert breaker.admit(NOW) is not None


async def test_the_state_of_a_service_is_that_of_its_endpoints(site: Site) -> None:
    orders = site.parts.services["orders"]
    one, two = orders.endpoints

    async def states() -> tuple[str, str, str]:
        service = (await site.ok("GET", "/admin/services"))["services"][0]
        return (service["state"], *endpoints(service).values())

    for endpoint in (one, two):
        orders.picked(endpoint)
        orders.settled(endpoint, False, NOW)
    assert await states() == ("healthy", "healthy", "healthy")
    one_pool = site.parts.pools[one.key]
    one_pool.last_error = "connection refused"
    assert await states() == ("degraded", "healthy", "healthy")
    one.state = "ejected"
    one.ejected_until = NOW + 30
    assert await states() == ("degraded", "ejected", "healthy")
    two.state = "unhealthy"
    assert await states() == ("unhealthy", "ejected", "unhealthy")
    two.state, one.state = "unknown", "draining"
    assert await states() == ("unknown", "draining", "unknown")
    site.parts.pools[two.key].last_error = "connection refused"
    assert await states() == ("unhealthy", "draining", "unhealthy")
    del site.parts.pools[two.key]
    assert await states() == ("unknown", "draining", "unknown")
