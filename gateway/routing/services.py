"""The registry: services by name, each with its endpoints, its breaker and its own limits.

Names and endpoints come from the settings. Which endpoint is next is in balance.py, which of them
take requests at all in rotation.py; what is known of an endpoint's connections lives with its pool.
"""

from __future__ import annotations

import random as chance
from collections.abc import Callable, Collection, Iterable
from math import inf

import structlog

from gateway.observe.metrics import Metrics, ServiceMetrics
from gateway.policy.breaker import CLOSED, STATE_FIGURES, Breaker
from gateway.policy.breaker import State as BreakerState
from gateway.routing.balance import balancer
from gateway.routing.budget import RetryBudget
from gateway.routing.endpoint import DRAINING, EJECTED, UNKNOWN, Endpoint
from gateway.routing.endpoint import State as EndpointState
from gateway.routing.rotation import Rotation, Rules
from gateway.routing.sticky import Sticky
from gateway.settings import EndpointUrl, ServiceSettings
from gateway.settings_balancing import HashSource

__all__ = ["Endpoint", "Service", "exposed", "services_from"]

Samples = list[tuple[tuple[str, ...], float]]


class Service:
    """A named back end: its endpoints, its settings and its figures.

    A request asks `breaker.admit`, then `pick`, says `picked` when it goes to an endpoint, and at
    its end `settled` for the endpoint and `breaker.settle` for the service. A retry does `pick` to
    `settled` again.
    """

    __slots__ = (
        "_balancer",
        "_sticky_secret",
        "breaker",
        "budget",
        "hash_source",
        "metrics",
        "name",
        "rotation",
        "settings",
        "sticky",
        "upgrades",
    )

    def __init__(
        self,
        settings: ServiceSettings,
        metrics: ServiceMetrics,
        *,
        before: Service | None = None,
        sticky_secret: str | None = None,
        now: float = 0.0,
        random: Callable[[], float] = chance.random,
    ) -> None:
        """`before`: the service of this name up to now, whose endpoints, with all that is known of
        them, and whose breaker go on where nothing else was set. `sticky_secret` signs cookies;
        ValueError when the settings want one and there is none.
        """
        self.name = settings.name
        self.settings = settings
        self.metrics = metrics
        self.upgrades = frozenset(token.lower().encode() for token in settings.upgrades)
        balance = settings.balance
        self.hash_source: HashSource | None = balance.hash_on
        self._balancer = balancer(balance.kind, random)
        self.budget: RetryBudget = RetryBudget() if before is None else before.budget
        self.breaker = self._breaker(before)
        self.rotation = self._rotation(before, now)
        self._sticky_secret = sticky_secret
        self.sticky: Sticky | None = None
        if balance.sticky is not None:
            if sticky_secret is None:
                raise ValueError(f"service {self.name!r} has sticky sessions and no secret")
            rotation = self.rotation
            self.sticky = Sticky(
                balance.sticky, sticky_secret, self.name, lambda: rotation.endpoints
            )

    def __repr__(self) -> str:
        return f"<Service {self.name} endpoints={[endpoint.name for endpoint in self.endpoints]}>"

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All of them, also those that take no requests; another tuple when they change."""
        return self.rotation.endpoints

    # A request

    def pick(
        self, key: bytes | None, now: float, avoid: Collection[Endpoint] = ()
    ) -> Endpoint | None:
        """The endpoint for a request; None: none takes requests, and it is not to be tried anyway.

        `key` is what `hash_source` says of the request, None where it has none. Endpoints in
        `avoid` were tried already: they are taken only when no other is left.
        """
        rotation = self.rotation
        if now >= rotation.look_at:
            rotation.look(now)
        among = rotation.ready
        if avoid:
            among = tuple(each for each in among if each not in avoid) or among
        if len(among) == 1:
            return among[0]
        if among:
            return self._balancer.pick(among, key, even=rotation.even)
        return self._panic(key, avoid)

    def picked(self, endpoint: Endpoint) -> None:
        """A request goes to `endpoint`; `settled` is to follow once."""
        endpoint.outstanding += 1

    def settled(self, endpoint: Endpoint, failed: bool | None, now: float) -> None:
        """The request to `endpoint` is over; None: its end says nothing about the endpoint."""
        self.rotation.settled(endpoint, failed, now)

    def _panic(self, key: bytes | None, avoid: Collection[Endpoint]) -> Endpoint | None:
        """All are out: any that was not drained by hand, where that is wished. The rotation sees to
        it that there is one.
        """
        if not self.settings.balance.panic:
            return None
        among = [each for each in self.endpoints if each.state is not DRAINING]
        among = [each for each in among if each not in avoid] or among
        return self._balancer.pick(among, key, even=len({each.share for each in among}) == 1)

    def signs_with(self, secret: str | None) -> bool:
        """Whether its cookies, if it has any, are signed with `secret`."""
        return self.sticky is None or self._sticky_secret == secret

    # An operator, at run time

    def add_endpoint(self, url: EndpointUrl, weight: int = 1) -> Endpoint:
        """Let an endpoint take requests from now on: a new one, or one that was drained.

        It needs a pool under its key before the next request. Raises ValueError when it takes part
        already, or there are 1024.
        """
        return self.rotation.add(Endpoint(self.name, url, weight))

    def drain_endpoint(self, name: str) -> Endpoint:
        """No new requests for the endpoint; those under way end, streams too.

        Raises KeyError for an unknown name, ValueError for the last one that is not draining.
        """
        return self.rotation.drain(name)

    def remove_endpoint(self, name: str) -> Endpoint:
        """Drain the endpoint, and forget it when nothing is under way (`rotation.on_removed` is
        told). Raises as `drain_endpoint`.
        """
        return self.rotation.remove(name)

    # Figures

    def health(self, now: float) -> dict[str, object]:
        """How the service stands: its breaker and its endpoints, for `/health` and `/admin`."""
        if now >= self.rotation.look_at:
            self.rotation.look(now)
        state = self.breaker.look(now)
        requests, failed = self.breaker.window(now)
        return {
            "breaker": {
                "state": state,
                "forced": self.breaker.forced,
                "requests": requests,
                "failed": failed,
            },
            "endpoints": [_endpoint_health(endpoint, now) for endpoint in self.endpoints],
        }

    # Building

    def _breaker(self, before: Service | None) -> Breaker:
        figures = self.settings.breaker
        if before is not None and before.settings.breaker == figures:
            return before.breaker
        on_change = _breaker_logger(self.name)
        if figures is None:
            made = Breaker(inf, on_change=on_change)
        else:
            made = Breaker(
                figures.failures, figures.open_seconds, figures.rate, on_change=on_change
            )
        if before is not None:
            made.take_over(before.breaker)
        return made

    def _rotation(self, before: Service | None, now: float) -> Rotation:
        settings = self.settings
        weights = settings.balance.weights or (1,) * len(settings.endpoints)
        wanted = list(zip(settings.endpoints, weights, strict=True))
        rules = Rules(settings.outlier, settings.checks, settings.balance.slow_start)
        if before is None:
            endpoints = [Endpoint(self.name, url, weight) for url, weight in wanted]
            return Rotation(endpoints, rules, _endpoint_logger(self.name))
        rotation, old = before.rotation, before.settings
        if (settings.endpoints, settings.balance.weights) != (old.endpoints, old.balance.weights):
            rotation.replace(wanted, self.name, now)
        rotation.configure(rules, now)
        return rotation


def _endpoint_health(endpoint: Endpoint, now: float) -> dict[str, object]:
    told: dict[str, object] = {
        "url": endpoint.name,
        "state": endpoint.state,
        "weight": endpoint.weight,
        "outstanding": endpoint.outstanding,
        "last_error": endpoint.last_error,
    }
    if endpoint.state is EJECTED:
        told["ejected_seconds"] = round(max(0.0, endpoint.ejected_until - now), 3)
    if endpoint.leaving:
        told["leaving"] = True
    return told


def _breaker_logger(service: str) -> Callable[[Breaker, BreakerState], None]:
    log = structlog.get_logger("gateway.routing")

    def changed(breaker: Breaker, before: BreakerState) -> None:
        tell = log.info if breaker.state is CLOSED else log.warning
        tell(
            "breaker_changed",
            service=service,
            before=before,
            to=breaker.state,
            forced=breaker.forced,
            requests=breaker.requests,
            failed=breaker.failed,
        )

    return changed


def _endpoint_logger(service: str) -> Callable[[Endpoint, EndpointState, str], None]:
    log = structlog.get_logger("gateway.routing")

    def changed(endpoint: Endpoint, before: EndpointState, why: str) -> None:
        tell = log.info if endpoint.available else log.warning
        if before is UNKNOWN and endpoint.available:  # as it should be
            tell = log.debug
        tell(
            "endpoint_changed",
            service=service,
            endpoint=endpoint.name,
            before=before,
            to=endpoint.state,
            why=why,
        )

    return changed


def services_from(
    settings: Iterable[ServiceSettings],
    metrics: Metrics,
    before: Iterable[Service] = (),
    *,
    sticky_secret: str | None = None,
    now: float = 0.0,
    random: Callable[[], float] = chance.random,
) -> list[Service]:
    """The services of the settings. Those of `before` whose settings are the same are the same
    objects; others of the same name take over what goes on.

    What is taken over is changed at once, so a reload calls this when nothing else can fail.
    """
    known = {service.name: service for service in before}
    return [
        _same(known.get(each.name), each, sticky_secret)
        or Service(
            each,
            metrics.service(each.name),
            before=known.get(each.name),
            sticky_secret=sticky_secret,
            now=now,
            random=random,
        )
        for each in settings
    ]


def _same(
    service: Service | None, settings: ServiceSettings, sticky_secret: str | None
) -> Service | None:
    if service is None or service.settings != settings:
        return None
    return service if service.signs_with(sticky_secret) else None


def exposed(services: Iterable[Service]) -> dict[str, Service]:
    """The services that `/api/v1/{service}/…` reaches, by every name they answer to."""
    return {
        alias: service
        for service in services
        if service.settings.exposed
        for alias in service.settings.aliases
    }


def breaker_states(services: Iterable[Service], now: float) -> Samples:
    """`gateway_breaker_state{service}`: 0 closed, 1 half open, 2 open."""
    return [
        ((service.name,), float(STATE_FIGURES[service.breaker.look(now)])) for service in services
    ]


def breaker_changes(services: Iterable[Service]) -> Samples:
    """`gateway_breaker_changes_total{service,to}`."""
    return [
        ((service.name, to), float(count))
        for service in services
        for to, count in service.breaker.changes.items()
    ]


def endpoints_up(services: Iterable[Service]) -> Samples:
    """`gateway_endpoint_up{service,endpoint}`: 1 while it takes requests."""
    return [
        ((service.name, endpoint.name), float(endpoint.available))
        for service in services
        for endpoint in service.endpoints
    ]
