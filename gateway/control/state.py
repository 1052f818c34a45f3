"""What the control application sees of the running gateway; assemble.py fills it in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from gateway.control.admin_desk import AdminDesk
from gateway.control.job_desk import NOT_SET, JobDesk, JobsOff
from gateway.observe.metrics import Metrics
from gateway.policy.tickets import Tickets
from gateway.policy.tickets_redis import RedisTickets
from gateway.settings import Settings
from sse.questions import Questions


async def no_metrics() -> bytes:
    """Of a gateway without a worker of its own."""
    return b""


@dataclass(slots=True)
class ControlState:
    """The running gateway. `settings` is replaced when the configuration is read again.

    `ready` says `ready`, `starting` or `draining`. `services` gives a dict for each service, the
    schema `Service` of the OpenAPI document. `started_wall` is Unix time in seconds.
    `dependencies` gives by name what else is needed: state (healthy, degraded, unhealthy) and
    more, such as latency_ms and error. `desk` is what `/admin` works on. `jobs` is None while there
    are none, and `jobs_off` says why. `worker_metrics` are the figures of a worker that is this
    gateway's child, as Prometheus text. `nothing_here` is what the door says of paths that nothing
    answers, so that a path hidden from someone reads the same.
    """

    settings: Settings
    metrics: Metrics
    ready: Callable[[], str]
    services: Callable[[], list[dict[str, object]]]
    started_wall: float
    tickets: Tickets | RedisTickets
    questions: Questions
    dependencies: Callable[[], dict[str, dict[str, object]]]
    desk: AdminDesk | None = None
    jobs: JobDesk | None = None
    jobs_off: Callable[[], JobsOff] = lambda: NOT_SET
    worker_metrics: Callable[[], Awaitable[bytes]] = no_metrics
    nothing_here: Callable[[], str] = lambda: "Nothing answers at this path."


STATE: web.AppKey[ControlState] = web.AppKey("state", ControlState)
