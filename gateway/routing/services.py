"""The registry: services by name, each with its endpoints and its own limits.

Names and endpoints come from the settings; what is known of an endpoint's connections lives with
its pool.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.observe.metrics import ServiceMetrics
from gateway.routing.balance import RoundRobin
from gateway.settings import EndpointUrl, ServiceSettings


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address that a service is reached at, with what each request to it needs."""

    service: str
    url: EndpointUrl
    name: str  # as records and `/health` write it
    key: str  # its pool's: two services may share an address, not a pool
    host_line: bytes
    base_path: bytes


class Service:
    """A named back end: its endpoints in turn, its settings and its figures."""

    __slots__ = ("balance", "endpoints", "metrics", "name", "settings", "upgrades")

    def __init__(self, settings: ServiceSettings, metrics: ServiceMetrics) -> None:
        self.name = settings.name
        self.settings = settings
        self.metrics = metrics
        self.endpoints = tuple(_endpoint(settings.name, url) for url in settings.endpoints)
        self.balance = RoundRobin(self.endpoints)
        self.upgrades = frozenset(token.lower().encode() for token in settings.upgrades)

    def __repr__(self) -> str:
        return f"<Service {self.name} endpoints={[endpoint.name for endpoint in self.endpoints]}>"


def _endpoint(service: str, url: EndpointUrl) -> Endpoint:
    return Endpoint(
        service=service,
        url=url,
        name=str(url),
        key=f"{service} {url}",
        host_line=b"Host: %b\r\n" % url.authority.encode("ascii"),
        base_path=url.base_path.encode("ascii"),
    )


def exposed(services: Iterable[Service]) -> dict[str, Service]:
    """The services that `/api/v1/{service}/…` reaches, by every name they answer to."""
    return {
        alias: service
        for service in services
        if service.settings.exposed
        for alias in service.settings.aliases
    }
