"""Decisions on their way to the jobs that wait for them.

The row is written with the decision, so whichever gateway took the answer, and whatever stops
between, the job is told. It is told at least once and takes it once: the question's id is the id of
what it is told. Not here: how a job is told (`gateway.jobs`, through `JobDecisions`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import orjson

from gateway.callbacks.delivering import SWEEP_SECONDS, Delivering, Outcome
from gateway.callbacks.retries import next_try_for_job
from gateway.store.deliveries import JOB, Delivery, Outbox

# A job whose worker is away takes nothing; it is asked again, and others get their turn.
TELL_SECONDS: Final = 15.0
_MAX_DETAIL_CHARACTERS: Final = 200
_DECISION: Final = ("question_id", "status", "response", "answered_by", "answered_at", "expires_at")


class JobDecisions(Protocol):
    """Tells jobs what became of their questions."""

    async def tell(self, operation_id: str, decision: Mapping[str, Any], /) -> bool:
        """Whether the job has it now; False: there is no such job any more, or it is over. Any
        exception: it is to be told again. `decision` has the members of
        `jobs.activity_models.Decision`.
        """


class JobDecisionWorker(Delivering):
    """Tells jobs until it is closed. `wall` is Unix time, `random` draws from [0, 1)."""

    def __init__(
        self,
        outbox: Outbox,
        decisions: JobDecisions,
        *,
        wall: Callable[[], float],
        random: Callable[[], float],
        log: Any,
        sweep_seconds: float = SWEEP_SECONDS,
    ) -> None:
        super().__init__(outbox, (JOB,), wall=wall, log=log, sweep_seconds=sweep_seconds)
        self._decisions = decisions
        self._random = random

    def _destination(self, delivery: Delivery) -> str:
        """Each job is one of its own: one that takes nothing holds up no other."""
        return f"job {delivery.target}"

    def _next_try(self, delivery: Delivery, failed: int, patience: float | None) -> float:
        return next_try_for_job(failed, self._wall(), self._random())

    async def _attempt(self, delivery: Delivery, log: Any) -> Outcome:
        question = orjson.loads(delivery.payload)["data"]
        decision = {name: question.get(name) for name in _DECISION}
        try:
            async with asyncio.timeout(TELL_SECONDS):
                told = await self._decisions.tell(delivery.target, decision)
        except Exception as error:
            # Whatever it is: the decision is kept, and the job may be told later.
            why = f"{type(error).__name__}: {error}"[:_MAX_DETAIL_CHARACTERS]
            return Outcome(error="the job could not be told", detail=why)
        return Outcome(final=True, detail="told the job" if told else "the job is over")
