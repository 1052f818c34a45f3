"""What every connection of the door shares: settings, table, limits, figures, clocks. Built by
`assemble`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final, Protocol

from gateway.edge.deadlines import Deadlines
from gateway.edge.headers import Ids
from gateway.edge.outbox import Outbox
from gateway.edge.reading import HeadLimits
from gateway.observe.access import AccessLog, Timestamps
from gateway.observe.agents import Agents
from gateway.observe.metrics import Metrics
from gateway.policy.abuse import Doors
from gateway.policy.limits import Limits
from gateway.policy.ratelimit import RateLimiter
from gateway.routing.routes import Route
from gateway.routing.services import Service
from gateway.routing.table import RouteTable
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.edge.exchange import Exchange
    from gateway.edge.line import Line
    from gateway.edge.pool import Pool
    from gateway.observe.trace import Tracer
    from gateway.policy.auth import Authenticator
    from gateway.policy.cors import Cors
    from gateway.policy.on_behalf import Assertions

# A path that the door answers itself: it opens streams and takes publications.
EVENTS_ROUTE: Final = "/api/v1/events/{client_id}"
# Another: workers ask there whether a request would be let in (job_admission.py).
ADMISSION_ROUTE: Final = "/internal/jobs/admission"
# interface.md, Limits: bad credentials have their own bucket per address.
BAD_CREDENTIALS_A_MINUTE: Final = 20
BAD_CREDENTIAL_KEYS: Final = 100_000  # addresses remembered; the least recently seen go first


class LocalRequest(Protocol):
    """A request that is answered at the door itself, by callbacks."""

    def receive(self, pieces: Sequence[bytes], complete: bool) -> None:
        """Called when the request is admitted and then for more of its body, until complete."""


@dataclass(slots=True, eq=False)
class EdgeContext:
    """Shared state; a reload replaces `settings`, `limits`, `table`, `pools` and the policies."""

    settings: Settings
    limits: HeadLimits  # of requests' heads
    table: RouteTable[Route]
    mounted: Service  # the control application, reached in memory
    limiter: Limits  # of requests in time
    agents: Agents
    pools: dict[str, Pool]  # by the endpoint's key
    metrics: Metrics
    access: AccessLog
    timestamps: Timestamps
    deadlines: Deadlines
    outbox: Outbox
    ids: Ids
    via: bytes  # this gateway's pseudonym in Via fields
    clock: Callable[[], float]  # seconds, monotonic
    wall: Callable[[], float]  # seconds since 1970
    log: Any
    authenticator: Authenticator | None = None  # None: the gateway's own paths are closed to all
    bad_credentials: RateLimiter = field(
        default_factory=lambda: RateLimiter(BAD_CREDENTIALS_A_MINUTE, 60, BAD_CREDENTIAL_KEYS)
    )
    assertions: Assertions | None = None  # what workers say of callers; None: nobody is believed
    jobs_on: bool = False  # whether requests can become jobs
    cors: Cors | None = None  # None: no page of another origin may read an answer
    doors: Doors = field(default_factory=lambda: Doors(None))
    lines: dict[str, Line] = field(default_factory=dict)  # of services with `max_requests`
    tracer: Tracer | None = None
    # One more place that finished requests are written to: the request log.
    kept: Callable[[dict[str, object]], None] | None = None
    # What is answered at the door itself, by route and method.
    local: dict[tuple[str, bytes], Callable[[Exchange], LocalRequest]] = field(default_factory=dict)
    draining: bool = False
    via_10: bytes = field(init=False)
    via_11: bytes = field(init=False)
    _date: tuple[int, bytes] = field(default=(0, b""))

    def __post_init__(self) -> None:
        self.via_10 = b"Via: 1.0 %b\r\n" % self.via
        self.via_11 = b"Via: 1.1 %b\r\n" % self.via

    def date(self) -> bytes:
        """The value of a Date field now (RFC 9110 §6.6.1), made once a second."""
        second = int(self.wall())
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True).encode("ascii"))
        return self._date[1]
