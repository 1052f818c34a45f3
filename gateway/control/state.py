"""What the control application sees of the running gateway; assemble.py fills it in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from gateway.observe.metrics import Metrics
from gateway.settings import Settings


@dataclass(slots=True)
class ControlState:
    """The running gateway. `settings` is replaced when the configuration is read again.

    `ready` says `ready`, `starting` or `draining`. `services` gives a dict for each service: name,
    state (healthy, degraded, unhealthy, unknown) and endpoints, a list of dicts of url, state,
    idle, active, waiting, latency_ms, last_error. `started_wall` is Unix time in seconds.
    """

    settings: Settings
    metrics: Metrics
    ready: Callable[[], str]
    services: Callable[[], list[dict[str, object]]]
    started_wall: float


STATE: web.AppKey[ControlState] = web.AppKey("state", ControlState)
