"""The registry: what a service knows of itself and the names it is reached by."""

from __future__ import annotations

import pytest

from gateway.observe.metrics import Metrics
from gateway.routing.services import Service, exposed
from gateway.settings import EndpointUrl, ServiceSettings


def service(
    name: str,
    *urls: EndpointUrl,
    aliases: tuple[str, ...] = (),
    is_exposed: bool = True,
    upgrades: tuple[str, ...] = ("websocket",),
) -> Service:
    endpoints = urls or (EndpointUrl("http", "a.test", 80, ""),)
    settings = ServiceSettings(
        name=name,
        aliases=aliases or (name,),
        endpoints=endpoints,
        exposed=is_exposed,
        upgrades=upgrades,
    )
    return Service(settings, Metrics("1").service(name))


@pytest.mark.parametrize(
    ("url", "name", "host_line", "base_path"),
    [
        (EndpointUrl("http", "a.test", 80, ""), "http://a.test", b"Host: a.test\r\n", b""),
        (
            EndpointUrl("http", "a.test", 443, "/v2"),
            "http://a.test:443/v2",
            b"Host: a.test:443\r\n",
            b"/v2",
        ),
        (EndpointUrl("https", "a.test", 443, ""), "https://a.test", b"Host: a.test\r\n", b""),
        (EndpointUrl("http", "::1", 9000, ""), "http://[::1]:9000", b"Host: [::1]:9000\r\n", b""),
    ],
)
def test_an_endpoint_has_what_each_request_to_it_needs(
    url: EndpointUrl, name: str, host_line: bytes, base_path: bytes
) -> None:
    (endpoint,) = service("users", url).endpoints
    assert endpoint.service == "users"
    assert endpoint.url == url
    assert endpoint.name == name
    assert endpoint.host_line == host_line
    assert endpoint.base_path == base_path


def test_two_services_at_one_address_have_a_pool_each() -> None:
    url = EndpointUrl("http", "a.test", 80, "")
    one, other = service("one", url).endpoints[0], service("other", url).endpoints[0]
    assert one.name == other.name
    assert one.key != other.key


def test_endpoints_of_a_service_take_turns() -> None:
    urls = [EndpointUrl("http", host, 80, "") for host in ("a.test", "b.test")]
    made = service("users", *urls)
    hosts = [made.balance.pick().url.host for _ in range(3)]
    assert hosts == ["a.test", "b.test", "a.test"]


def test_upgrades_are_compared_in_lower_case() -> None:
    assert service("users", upgrades=("WebSocket", "x")).upgrades == {b"websocket", b"x"}
    assert service("users", upgrades=()).upgrades == frozenset()


def test_a_service_shows_its_name_and_where_it_leads() -> None:
    assert repr(service("users")) == "<Service users endpoints=['http://a.test']>"


def test_services_are_reached_by_every_name_and_hidden_ones_by_none() -> None:
    users = service("users", aliases=("users", "users_service"))
    inner = service("inner", is_exposed=False)
    assert exposed([users, inner]) == {"users": users, "users_service": users}
    assert exposed([]) == {}
