"""Outlier ejection: which endpoint is left alone for a while because its requests fail. Pure.

As Envoy's outlier detection with consecutive errors: so many failures in a row (5xx, or no valid
answer) eject an endpoint for 30 s times the number of its ejections, at most 300 s. Our own: at
most half of the endpoints are out at once, rounded down, those counted that checks took out; so a
single endpoint is never ejected (the breaker is there for that) unless the share is 1. An endpoint
that stayed in for the longest time, 300 s, begins at 30 s again.
"""

from __future__ import annotations

from collections.abc import Collection

from gateway.routing.endpoint import DRAINING, Endpoint
from gateway.settings_balancing import OutlierSettings


def eject(
    settings: OutlierSettings, endpoint: Endpoint, endpoints: Collection[Endpoint], now: float
) -> bool:
    """Whether `endpoint`, one of `endpoints`, is to be ejected now; then its time is set.

    The caller has counted its failures in a row. Endpoints that are draining are not counted.
    """
    if endpoint.failures < settings.failures or not endpoint.available:
        return False
    members = [each for each in endpoints if each.state is not DRAINING]
    out = sum(not each.available for each in members)
    if endpoint not in members or out + 1 > settings.share * len(members):
        return False
    if now - endpoint.returned_at >= settings.max_seconds:
        endpoint.ejections = 0
    endpoint.ejections += 1
    endpoint.ejected_until = now + min(settings.seconds * endpoint.ejections, settings.max_seconds)
    return True
