"""Forgetting large payloads once no history refers to them any more.

A payload is read again whenever its job is: by a worker that takes it over, by who asks for its
result. Temporal alone knows when a job is forgotten there (its namespace's retention, counted from
the end), so it is asked, rarely: an hour after the payload came, then each time the payload is
twice as old, at last each day. Where the job can't be told, what bounds every history is the bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from gateway.jobs.types import DAY, JOB_TYPES
from sse.question_store import StoreAwayError, StoreSlowError

ROUND_SECONDS: Final = 600.0
# A round asks Temporal so often at most: half a second of its time.
MOST_JOBS: Final = 100
# The longest that a job may take, and then the longest that Temporal Cloud keeps its history.
LONGEST_SECONDS: Final = max(each.most_seconds for each in JOB_TYPES.values()) + 91 * DAY


class KeptPayloads(Protocol):
    """The table; see `JobPayloads`."""

    async def due(self, most: int) -> list[str]:
        """Jobs whose turn it is."""

    async def forget(self, operation_id: str, older_seconds: float = ...) -> int:
        """Drop what was kept for one."""


class PayloadPurge:
    """Looks, again and again. `start` once, then `close`."""

    def __init__(
        self,
        payloads: KeptPayloads,
        is_known: Callable[[str], Awaitable[bool]],
        log: Any,
        round_seconds: float = ROUND_SECONDS,
    ) -> None:
        """`is_known`: whether Temporal has a job of this id, over or not; it may raise RPCError."""
        self._payloads = payloads
        self._is_known = is_known
        self._log = log
        self._round_seconds = round_seconds
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<PayloadPurge {self._payloads!r}>"

    def start(self) -> None:
        """Begin with a round."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> int:
        """One round; how many payloads were dropped. Nothing is dropped of a job that Temporal does
        not answer about.
        """
        dropped = 0
        for operation_id in await self._payloads.due(MOST_JOBS):
            if not operation_id:
                dropped += await self._payloads.forget("", LONGEST_SECONDS)
            elif not await self._is_known(operation_id):
                dropped += await self._payloads.forget(operation_id)
        if dropped:
            self._log.info("job_payloads.purged", payloads=dropped)
        return dropped

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except (RPCError, StoreAwayError, StoreSlowError) as error:
                self._log.warning("job_payloads.not_purged", error=type(error).__name__)
            except Exception:  # a mistake of ours must not let the table grow for ever
                self._log.exception("job_payloads.bug")
            await asyncio.sleep(self._round_seconds)


def known_to(client: Client) -> Callable[[str], Awaitable[bool]]:
    """Whether Temporal has a history of this id in the client's namespace."""

    async def is_known(operation_id: str) -> bool:
        try:
            await client.get_workflow_handle(operation_id).describe()
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                return False
            raise
        return True

    return is_known
