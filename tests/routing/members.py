"""Services and endpoints for tests, with what they told."""

from __future__ import annotations

import random
from typing import Any

from gateway.observe.metrics import Metrics
from gateway.routing.endpoint import Endpoint
from gateway.routing.rotation import Rotation, Rules
from gateway.routing.services import Service
from gateway.settings import EndpointUrl, ServiceSettings
from gateway.settings_balancing import BalanceSettings, OutlierSettings

SECRET = "a secret of tests"


def url(host: str) -> EndpointUrl:
    """Where an endpoint of a test listens: nobody does."""
    return EndpointUrl("http", f"{host}.test", 80)


class Told:
    """A rotation that keeps what it says: `a unknown>healthy`."""

    def __init__(self, hosts: str, **rules: Any) -> None:
        rules.setdefault("outlier", OutlierSettings())
        self.lines: list[str] = []
        self.whys: list[str] = []
        self.rotation = Rotation(
            [Endpoint("users", url(host)) for host in hosts], Rules(**rules), self._changed
        )

    def _changed(self, endpoint: Endpoint, before: str, why: str) -> None:
        self.lines.append(f"{endpoint.url.host[0]} {before}>{endpoint.state}")
        self.whys.append(why)

    def __getitem__(self, host: str) -> Endpoint:
        return next(each for each in self.rotation.endpoints if each.url.host[0] == host)

    @property
    def ready(self) -> str:
        """Those in rotation."""
        return "".join(each.url.host[0] for each in self.rotation.ready)

    def states(self) -> str:
        """How each stands."""
        return " ".join(each.state for each in self.rotation.endpoints)

    def fail(self, host: str, count: int = 5, now: float = 0.0) -> None:
        """So many failed requests in a row."""
        self.requests(host, count, now, failed=True)

    def requests(self, host: str, count: int, now: float, *, failed: bool | None) -> None:
        """So many requests that end so."""
        endpoint = self[host]
        for _ in range(count):
            endpoint.outstanding += 1
            self.rotation.settled(endpoint, failed, now)


def settings(hosts: str = "abc", **changed: Any) -> ServiceSettings:
    """A service `users` with an endpoint for each letter; keys of its balance may be among them."""
    balance = {
        key: changed.pop(key)
        for key in ("kind", "weights", "hash_on", "sticky", "slow_start", "panic")
        if key in changed
    }
    changed.setdefault("name", "users")
    return ServiceSettings(
        aliases=(changed["name"],),
        endpoints=tuple(url(host) for host in hosts),
        balance=BalanceSettings(**balance),
        **changed,
    )


def service(hosts: str = "abc", *, before: Service | None = None, **changed: Any) -> Service:
    """A service of such settings, with a chance that is always the same."""
    made = settings(hosts, **changed)
    return Service(
        made,
        Metrics("1").service(made.name),
        before=before,
        sticky_secret=SECRET,
        random=random.Random(1).random,
    )


def picks(service: Service, count: int, now: float = 0.0, **asked: Any) -> str:
    """Which endpoints so many requests would go to; `-`: none."""
    found = (service.pick(asked.get("key"), now, asked.get("avoid", ())) for _ in range(count))
    return "".join(each.url.host[0] if each else "-" for each in found)


def named(service: Service, host: str) -> Endpoint:
    """An endpoint by its letter."""
    return next(each for each in service.endpoints if each.url.host[0] == host)


def fail(service: Service, host: str, count: int = 5, now: float = 0.0) -> None:
    """So many failed requests in a row at one endpoint."""
    endpoint = named(service, host)
    for _ in range(count):
        service.picked(endpoint)
        service.settled(endpoint, True, now)
