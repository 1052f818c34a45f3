"""Which endpoints of a service are in rotation: the only writer of how an endpoint stands.

Requests tell it how they ended (passive detection, outlier.py), checks what they found (health.py),
an operator what to add, drain and remove. What comes of it is a tuple of those that take requests,
made when something changes, so that a request only reads it. Pure: `now` is monotonic seconds.

    unknown ── a good request or check ─▶ healthy
    unknown, healthy ── failures in a row ─▶ ejected ── its time is over ─▶ unknown
    ejected ── a good check ─▶ healthy
    all but draining ── bad checks in a row ─▶ unhealthy ── good checks in a row ─▶ healthy
    any ── drained ─▶ draining ── added again ─▶ unknown
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Final

from gateway.routing.endpoint import (
    DRAINING,
    EJECTED,
    HEALTHY,
    UNHEALTHY,
    UNKNOWN,
    Endpoint,
    State,
)
from gateway.routing.outlier import eject
from gateway.settings import EndpointUrl
from gateway.settings_balancing import CheckSettings, OutlierSettings

# More than anyone runs behind one name, and the most that an admin API can be made to fill.
MAX_ENDPOINTS: Final = 1024
FIRST_SHARE: Final = 0.1  # of its weight, that a recovered endpoint begins with (Envoy)
_RAMP_STEPS: Final = 20  # of a slow start: shares are brought up to date so often

OnChange = Callable[[Endpoint, State, str], None]


@dataclass(frozen=True, slots=True)
class Rules:
    """What takes an endpoint out and brings it back; `slow_start` in seconds."""

    outlier: OutlierSettings | None = None
    checks: CheckSettings | None = None
    slow_start: float = 0.0


class Rotation:
    """One service's endpoints, for as long as the service is there: a reload changes it in place,
    so requests that began before settle with those that began after.
    """

    __slots__ = ("_on_change", "_rules", "endpoints", "even", "look_at", "on_removed", "ready")

    def __init__(
        self, endpoints: Iterable[Endpoint], rules: Rules, on_change: OnChange | None = None
    ) -> None:
        """`on_change` is told an endpoint, changed already, its former state and why.

        Raises ValueError without an endpoint.
        """
        self.endpoints = tuple(endpoints)
        if not self.endpoints:
            raise ValueError("a service needs an endpoint")
        self.on_removed: Callable[[Endpoint], None] | None = None  # told when one is forgotten
        self._rules = rules
        self._on_change = on_change
        self.ready: tuple[Endpoint, ...] = ()  # those that take requests
        self.even = True  # their shares are alike
        self.look_at = inf  # monotonic seconds: `look` has something to do then
        self._arrange()

    def __repr__(self) -> str:
        return f"<Rotation {len(self.ready)} of {len(self.endpoints)} in>"

    # What requests tell

    def settled(self, endpoint: Endpoint, failed: bool | None, now: float) -> None:
        """A request to `endpoint` ended; None: that says nothing about it."""
        endpoint.outstanding -= 1
        if failed:
            endpoint.failures += 1
            self._consider(endpoint, now)
        elif failed is not None:
            if endpoint.failures:
                endpoint.failures = 0
            if endpoint.state is UNKNOWN:
                self._set(endpoint, HEALTHY, "a request succeeded")
        if endpoint.leaving and not endpoint.outstanding:
            self._forget(endpoint)

    def _consider(self, endpoint: Endpoint, now: float) -> None:
        outlier = self._rules.outlier
        if outlier is None or endpoint.failures < outlier.failures:
            return
        if eject(outlier, endpoint, self.endpoints, now):
            until = endpoint.ejected_until
            self.look_at = min(self.look_at, until)
            why = f"{endpoint.failures} failures in a row, for {until - now:g} s"
            self._set(endpoint, EJECTED, why)

    # What checks tell

    def checked(self, endpoint: Endpoint, error: str | None, now: float) -> None:
        """An active check of `endpoint` passed (None), or why it did not."""
        checks = self._rules.checks
        state = endpoint.state
        if checks is None or state is DRAINING or endpoint not in self.endpoints:
            return
        endpoint.last_error = error
        if error is None:
            endpoint.checks = max(endpoint.checks, 0) + 1
            if state is EJECTED:
                self._recover(endpoint, HEALTHY, now, "a check passed")
            elif state is UNKNOWN:
                self._set(endpoint, HEALTHY, "a check passed")
            elif state is UNHEALTHY and endpoint.checks >= checks.healthy:
                self._recover(endpoint, HEALTHY, now, f"{endpoint.checks} checks passed")
            return
        endpoint.checks = min(endpoint.checks, 0) - 1
        if state is not UNHEALTHY and -endpoint.checks >= checks.unhealthy:
            self._set(endpoint, UNHEALTHY, f"{-endpoint.checks} checks failed: {error}")

    # What time brings

    def look(self, now: float) -> None:
        """Bring back whose ejection is over, let shares grow; nothing to do before `look_at`."""
        for endpoint in self.endpoints:
            if endpoint.state is EJECTED and now >= endpoint.ejected_until:
                self._recover(endpoint, UNKNOWN, now, "its ejection is over")
        slow = self._rules.slow_start
        ends = [each.ejected_until for each in self.endpoints if each.state is EJECTED]
        for endpoint in self.endpoints:
            since = endpoint.slow_since
            if since is None:
                continue
            if since == inf:
                since = endpoint.slow_since = now
            grown = (now - since) / slow if slow else 1.0
            if grown < 1:
                endpoint.share = endpoint.weight * max(FIRST_SHARE, grown)
                ends.append(now + slow / _RAMP_STEPS)
            else:
                endpoint.slow_since = None
                endpoint.share = float(endpoint.weight)
        self.look_at = min(ends, default=inf)
        self._arrange()

    # What an operator tells

    def add(self, endpoint: Endpoint) -> Endpoint:
        """Let `endpoint` take requests from now on; returns the one that does: one of the same name
        that is draining takes part again instead, with the weight of `endpoint`.

        Raises ValueError when it takes part already, or there are 1024.
        """
        known = self._named(endpoint.name)
        if known is None:
            if len(self.endpoints) >= MAX_ENDPOINTS:
                raise ValueError(f"a service has at most {MAX_ENDPOINTS} endpoints")
            self.endpoints = (*self.endpoints, endpoint)
            known = endpoint
        elif known.state is not DRAINING:
            raise ValueError(f"{endpoint.name} is an endpoint already")
        known.weight = endpoint.weight
        known.share = float(endpoint.weight)
        known.leaving = False
        known.checks = known.ejections = 0
        self._recover(known, UNKNOWN, None, "added")
        return known

    def drain(self, name: str) -> Endpoint:
        """Give the endpoint no new requests; those under way end.

        Raises KeyError for an unknown name, ValueError for the last that is not draining.
        """
        endpoint = self._named(name)
        if endpoint is None:
            raise KeyError(name)
        if all(each.state is DRAINING or each is endpoint for each in self.endpoints):
            raise ValueError(f"{name} is the last endpoint")
        self._set(endpoint, DRAINING, "drained")
        return endpoint

    def remove(self, name: str) -> Endpoint:
        """Drain the endpoint and forget it when nothing is under way. Raises as `drain`."""
        endpoint = self._named(name)
        if endpoint is None or endpoint.state is not DRAINING or len(self.endpoints) == 1:
            endpoint = self.drain(name)
        endpoint.leaving = True
        if not endpoint.outstanding:
            self._forget(endpoint)
        return endpoint

    # What a reload brings

    def configure(self, rules: Rules, now: float) -> None:
        """Other rules: who is out by a rule that is no more is in again."""
        before, self._rules = self._rules, rules
        for endpoint in self.endpoints:
            if rules.checks is None:
                endpoint.last_error = None
                if endpoint.state is UNHEALTHY:
                    self._set(endpoint, UNKNOWN, "checks are off")
            if rules.outlier is None and endpoint.state is EJECTED:
                self._set(endpoint, UNKNOWN, "ejection is off")
            if rules.checks != before.checks:
                endpoint.checks = 0
        self.look(now)

    def replace(self, wanted: Iterable[tuple[EndpointUrl, int]], service: str, now: float) -> None:
        """The endpoints that a file names instead, with weights: what stays keeps its standing,
        what is new begins, what is gone takes no more.
        """
        known = {endpoint.url: endpoint for endpoint in self.endpoints}
        endpoints = []
        for url, weight in wanted:
            endpoint = known.get(url) or Endpoint(service, url, weight)
            endpoint.weight, endpoint.share = weight, float(weight)
            endpoint.leaving = False
            endpoints.append(endpoint)
        for endpoint in self.endpoints:
            if endpoint not in endpoints:
                # Gone from here now: when it ends must not be told of one added again by its name.
                endpoint.leaving = False
                self._set(endpoint, DRAINING, "no longer configured")
        self.endpoints = tuple(endpoints)
        if all(each.state is DRAINING for each in endpoints):
            for each in endpoints:
                self._set(each, UNKNOWN, "no other is left")
        self.look(now)

    # Inside

    def _named(self, name: str) -> Endpoint | None:
        return next((each for each in self.endpoints if each.name == name), None)

    def _recover(self, endpoint: Endpoint, to: State, now: float | None, why: str) -> None:
        """In, with a share that grows, from `now` on or from the next look."""
        endpoint.failures = 0
        endpoint.credit = 0.0
        if now is not None:
            endpoint.returned_at = now
        if self._rules.slow_start:
            endpoint.slow_since = inf if now is None else now
            endpoint.share = endpoint.weight * FIRST_SHARE
            self.look_at = -inf
        self._set(endpoint, to, why)

    def _set(self, endpoint: Endpoint, to: State, why: str) -> None:
        before, endpoint.state = endpoint.state, to
        self._arrange()
        if before != to and self._on_change is not None:
            self._on_change(endpoint, before, why)

    def _forget(self, endpoint: Endpoint) -> None:
        self.endpoints = tuple(each for each in self.endpoints if each is not endpoint)
        endpoint.leaving = False
        self._arrange()
        if self.on_removed is not None:
            self.on_removed(endpoint)

    def _arrange(self) -> None:
        self.ready = tuple(each for each in self.endpoints if each.available)
        self.even = len({each.share for each in self.ready}) < 2
