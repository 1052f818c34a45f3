"""What all that deliver decisions have in common: they lease due rows, try, and say how it went.

The rows are in the database, so a delivery outlives the process, and several gateways share the
work. Delivery is at least once: a process that dies between the answer and the row's end leaves a
lease that nobody renews; it runs out within seconds, and the receiver gets the same id again. How
one kind gets there is in `delivery.py` (over HTTP) and `job_decisions.py` (to a job that waits).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gateway.callbacks.destinations import Destinations
from gateway.store.deliveries import Delivery, Outbox

SWEEP_SECONDS = 1.0  # rows that other gateways, retries and restarts left are seen this late
CLOSE_SECONDS = 5.0  # for deliveries under way when the process ends; the rest is sent again
# Often enough that the lease of what is under way outlasts two renewals that failed, and
# `CLOSE_SECONDS` without any; what waits is forgotten at the first that fails.
RENEW_SECONDS = 2.0
PATIENCE_SECONDS = 10.0  # for as long again, until its lease is over, rows of others have the room
PUT_OFF_SECONDS = 60.0  # at least one more try for a row whose day ended while it was not its turn

_NOT_TRIED = "not tried: the destination did not answer shortly before"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attempt. `status` 0: none came back. No `error`: it has arrived. `final`:
    there will be no other attempt.

    `error` goes into the audit trail, `detail` only into the log; where it has arrived, `detail`
    tells the trail what came of it.
    """

    status: int = 0
    error: str = ""
    detail: str = ""
    final: bool = False
    retry_after_seconds: float | None = None


class Delivering(ABC):
    """Delivers rows of some kinds until it is closed.

    `wall` is Unix time.
    """

    def __init__(
        self,
        outbox: Outbox,
        kinds: Sequence[str],
        *,
        wall: Callable[[], float],
        log: Any,
        sweep_seconds: float = SWEEP_SECONDS,
    ) -> None:
        self._outbox = outbox
        self._kinds = kinds
        self._wall = wall
        self._log = log
        self._sweep_seconds = sweep_seconds
        self._woken = asyncio.Event()
        self._destinations = Destinations(PATIENCE_SECONDS)
        self._running: dict[asyncio.Task[None], Delivery] = {}
        # By id, when it was leased or renewed last; some of them may have ended since.
        self._leased: dict[str, float] = {}
        self._renewed_at = 0.0
        self._work: asyncio.Task[None] | None = None
        self._closing = False
        self._away = False

    def __repr__(self) -> str:
        state = "closed" if self._closing else "away" if self._away else "open"
        return f"<{type(self).__name__} {state} {self._destinations!r}>"

    @abstractmethod
    def _destination(self, delivery: Delivery) -> str:
        """What deliveries to one place are counted by; no secret is in it."""

    @abstractmethod
    async def _attempt(self, delivery: Delivery, log: Any) -> Outcome:
        """Try once; raises nothing."""

    @abstractmethod
    def _next_try(self, delivery: Delivery, failed: int, patience: float | None) -> float | None:
        """When to try again (Unix seconds) after so many failures; None: never. `patience`: what
        the receiver asked for, seconds.
        """

    def start(self) -> None:
        """Begin, with what is due already. Needs a running event loop."""
        self._work = asyncio.get_running_loop().create_task(self._sweep())

    def wake(self) -> None:
        """Look for due rows now, not at the next sweep: called after a decision was committed."""
        self._woken.set()

    async def close(self, grace_seconds: float = CLOSE_SECONDS) -> None:
        """Lease no more, let what is under way end for `grace_seconds`, give back the rest: it is
        due at once, for other gateways or after the restart.
        """
        self._closing = True
        self._woken.set()
        tasks = [*self._running, *([self._work] if self._work else [])]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=grace_seconds)
        left = [self._running[task] for task in late if task in self._running]
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        await self._renew()  # what is another's by now is not given back
        left += self._destinations.give_back()
        now = self._wall()
        for delivery in left:
            await self._failed(delivery, now, "interrupted: the gateway was stopped")

    async def _sweep(self) -> None:
        while not self._closing:
            self._woken.clear()
            try:
                # In this order: after a standstill nothing is sent that is another's by now.
                await self._renew()
                await self._lease()
                await self._take_turn()
            except Exception:
                # Whatever it is, the deliveries after it must not wait for a restart.
                self._log.exception("deliveries.bug")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._sweep_seconds):
                    await self._woken.wait()

    async def _renew(self) -> None:
        """Keep what is held, in time. What waits and is another's by now is forgotten; what is
        under way can't be taken back, and arrives twice with one id.
        """
        now = self._wall()
        if 0 <= now - self._renewed_at < RENEW_SECONDS:
            return
        self._renewed_at = now
        held = self._destinations.waiting | {each.id for each in self._running.values()}
        self._leased = {each: at for each, at in self._leased.items() if each in held}
        if not self._leased:
            return
        kept = set[str]()
        try:
            kept = await self._outbox.renew_deliveries(self._leased, now)
        except Exception as error:
            # Nothing more is begun: nobody knows for how long this lasts, and leases run out.
            self._store_away(error)
        else:
            self._leased |= dict.fromkeys(kept, now)
        lost = self._destinations.waiting - kept
        if lost:
            self._destinations.forget(lost)
            self._log.warning("deliveries.leases_lost", count=len(lost))

    def _store_away(self, error: Exception) -> None:
        """The database's trouble is told elsewhere too."""
        if not self._away:
            self._log.warning("deliveries.store_away", error=type(error).__name__)
        self._away = True

    async def _lease(self) -> None:
        """Take due rows as far as there is room; where they fill it, there may be more."""
        room = self._destinations.room
        if room <= 0:
            return  # the next delivery that ends wakes
        now = self._wall()
        try:
            leased = await self._outbox.due_deliveries(now, room, kinds=self._kinds)
        except Exception as error:
            self._store_away(error)  # what is due then is due still
            return
        self._away = False
        for delivery in leased:
            self._leased[delivery.id] = now
            self._destinations.add(self._destination(delivery), delivery, now)
        if len(leased) == room:
            self._woken.set()

    async def _take_turn(self) -> None:
        if self._closing:
            return
        now = self._wall()
        turn = self._destinations.turn(now)
        for destination, delivery in turn.send:
            task = asyncio.create_task(self._deliver(destination, delivery))
            self._running[task] = delivery
            task.add_done_callback(self._ended)
        for destination, delivery in turn.put_off:
            self._log_of(destination, delivery).info("delivery.put_off")
            at = self._next_try(delivery, delivery.attempts + 1, None)
            await self._failed(delivery, at or now + PUT_OFF_SECONDS, _NOT_TRIED)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._woken.set()

    async def _deliver(self, destination: str, delivery: Delivery) -> None:
        """One attempt, and what it means for the row."""
        log = self._log_of(destination, delivery)
        outcome = Outcome()
        try:
            outcome = await self._attempt(delivery, log)
        finally:
            answered = outcome.status > 0 or outcome.final
            self._destinations.ended(destination, self._wall(), answered=answered)
        now, attempt = self._wall(), delivery.attempts + 1
        if not outcome.error:
            log.info("delivery.done", status=outcome.status)
            detail = f"{outcome.detail or outcome.status} at try {attempt}"
            await self._tell(self._outbox.delivery_done(delivery.id, now, detail))
            return
        at = None
        if not outcome.final:
            at = self._next_try(delivery, attempt, outcome.retry_after_seconds)
        said = {"error": outcome.error, "detail": outcome.detail}
        if at is None:
            log.error("delivery.given_up", **said)
        else:
            log.warning("delivery.failed", **said, next_in_seconds=round(at - now, 1))
        await self._failed(delivery, at, outcome.error)

    async def _failed(self, delivery: Delivery, next_at: float | None, error: str) -> None:
        leased_at = self._leased.get(delivery.id)
        await self._tell(self._outbox.delivery_failed(delivery.id, next_at, error, leased_at))

    async def _tell(self, told: Awaitable[None]) -> None:
        """Write down what became of a row. Where that fails its lease ends and it is sent again."""
        try:
            await told
        except Exception as error:
            self._log.warning("deliveries.not_recorded", error=type(error).__name__)

    def _log_of(self, destination: str, delivery: Delivery) -> Any:
        return self._log.bind(
            kind=delivery.kind,
            delivery_id=delivery.id,
            question_id=delivery.question_id,
            destination=destination,
            attempt=delivery.attempts + 1,
        )
