"""`service_breaker_workflow`: what is known of a service's health by the jobs of one owner. It is
asked before a request whose service may be ill, and told what became of it.

The breaker at the door counts requests of the last seconds in one process; this one remembers over
minutes and over all workers, since jobs come rarely and last long. One workflow for each owner and
service, so that no tenant's failures refuse another's jobs. It is not a job: nobody sees it, and it
ends by itself when nothing was heard of it for a while. Not here: who asks it (`error_recovery`, by
the activity `ask_breaker`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import timedelta
from math import ceil
from typing import Any, Final

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from gateway.jobs.activity_models import BreakerState

FAILURES: Final = 5  # in a row, none older than the window
WINDOW_SECONDS: Final = 300.0
OPEN_SECONDS: Final = 30.0  # the first time; each time that a probe fails it is doubled
MOST_OPEN_SECONDS: Final = 600.0
# A probe whose job was lost without a word frees its place then.
PROBE_SECONDS: Final = 60.0
# Whatever it knows is older than its longest time by far: nothing is lost when it ends.
IDLE_SECONDS: Final = 3600.0
# A run takes 2,000 updates at most (`history.maxTotalUpdates`); an update is about five events.
UPDATES: Final = 500

CLOSED: Final = "closed"
OPEN: Final = "open"
HALF_OPEN: Final = "half_open"


@dataclass
class BreakerMemory:
    """A breaker's state, as it goes from one run to the next. Times are Unix seconds."""

    state: str = CLOSED
    failed_at: list[float] = field(default_factory=list)  # at most FAILURES
    open_seconds: float = OPEN_SECONDS
    open_until: float = 0.0
    probe_until: float = 0.0


class Memory:
    """The rule over a `BreakerMemory`. Pure: `now` is passed in."""

    def __init__(self, kept: BreakerMemory) -> None:
        self.kept = kept

    def allow(self, now: float) -> BreakerState:
        """Whether a request may go on; half open, it is the one probe."""
        kept = self.kept
        if kept.state == OPEN and now >= kept.open_until:
            kept.state, kept.probe_until = HALF_OPEN, 0.0
        if kept.state == OPEN:
            return self._refused(kept.open_until - now)
        if kept.state == HALF_OPEN:
            if now < kept.probe_until:
                return self._refused(kept.probe_until - now)
            kept.probe_until = now + PROBE_SECONDS
        return self.look()

    def succeeded(self) -> None:
        """A request went well. While it is open that says nothing: it was sent before."""
        if self.kept.state != OPEN:
            self.kept = BreakerMemory()

    def failed(self, now: float) -> None:
        """A request failed."""
        kept = self.kept
        if kept.state == OPEN:
            return
        if kept.state == HALF_OPEN:
            self._open(now, min(kept.open_seconds * 2, MOST_OPEN_SECONDS))
            return
        kept.failed_at = [at for at in kept.failed_at if now - at < WINDOW_SECONDS] + [now]
        if len(kept.failed_at) >= FAILURES:
            self._open(now, OPEN_SECONDS)

    def look(self) -> BreakerState:
        """How it stands."""
        return BreakerState(self.kept.state, failures=len(self.kept.failed_at))

    def _open(self, now: float, seconds: float) -> None:
        self.kept = BreakerMemory(OPEN, self.kept.failed_at, seconds, now + seconds)

    def _refused(self, wait_seconds: float) -> BreakerState:
        stands = self.look()
        stands.allowed, stands.retry_after = False, max(1, ceil(wait_seconds))
        return stands


@workflow.defn(name="service_breaker_workflow")
class ServiceBreakerWorkflow:
    """Started by the first who asks (update with start), with id `breaker-{owner}-{service}`."""

    @workflow.init
    def __init__(self, owner: str, service: str, kept: BreakerMemory | None = None) -> None:
        self._memory = Memory(kept or BreakerMemory())
        self._updates = 0
        self._heard_at = _now()

    @workflow.run
    async def run(self, owner: str, service: str, kept: BreakerMemory | None = None) -> None:
        """Goes on until it is idle; a run that took many updates is continued as a new one."""
        while True:
            idle_seconds = _now() - self._heard_at
            if idle_seconds >= IDLE_SECONDS:
                return
            try:
                await workflow.wait_condition(
                    self._worn, timeout=timedelta(seconds=IDLE_SECONDS - idle_seconds)
                )
            except TimeoutError:
                continue
            workflow.continue_as_new(args=[owner, service, self._memory.kept])

    @workflow.update
    def allow(self) -> BreakerState:
        """Whether a request may go on now. Who may, reports how it went."""
        self._hear()
        return self._memory.allow(_now())

    @workflow.update
    def report(self, what: str) -> BreakerState:
        """`what` is `failed` or `succeeded`."""
        self._hear()
        if what == "failed":
            self._memory.failed(_now())
        else:
            self._memory.succeeded()
        return self._memory.look()

    @report.validator
    def _check_report(self, what: str) -> None:
        if what not in {"failed", "succeeded"}:
            raise ValueError("expected failed or succeeded")

    @workflow.query
    def status(self) -> dict[str, Any]:
        """What it remembers."""
        return asdict(self._memory.kept)

    def _hear(self) -> None:
        self._updates += 1
        self._heard_at = _now()

    def _worn(self) -> bool:
        return self._updates >= UPDATES or workflow.info().is_continue_as_new_suggested()


def _now() -> float:
    return workflow.now().timestamp()
