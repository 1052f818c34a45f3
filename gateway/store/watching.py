"""Watching for policy that other gateways, or their operators, changed: limits and revocations.

One cheap look every other second, so that all gateways follow a change within 5 s. While the
database is away a gateway keeps what it knows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from gateway.store.faults import brief
from gateway.store.limit_configs import LimitConfigs, StoredRule
from gateway.store.policy_versions import LIMITS, REVOKED
from gateway.store.revoked import SWEEP_ROWS, RevokedTokens
from sse.question_store import StoreAwayError, StoreSlowError

INTERVAL_SECONDS: Final = 2.0
SWEEP_SECONDS: Final = 60.0
_log = structlog.get_logger("gateway.store")


class PolicyWatch:
    """Calls `on_rules` with all rules, and `on_revoked` with the revocations that are new, when
    there are such: ids of tokens, and when these expire (Unix seconds). `start` once, then `close`.
    """

    def __init__(
        self,
        limit_configs: LimitConfigs,
        revoked: RevokedTokens,
        on_rules: Callable[[Sequence[StoredRule]], object],
        on_revoked: Callable[[Mapping[str, float]], object],
        interval_seconds: float = INTERVAL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock`: monotonic seconds."""
        self._configs = limit_configs
        self._revoked = revoked
        self._on_rules = on_rules
        self._on_revoked = on_revoked
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._rules_version: int | None = None
        self._revoked_version = 0
        self._sweep_at = 0.0
        self._away = False
        self._looking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "away" if self._away else f"rules={self._rules_version}"
        return f"<PolicyWatch {state} revoked={self._revoked_version}>"

    async def start(self) -> None:
        """Look, and go on looking. A database that is away is no error: it is asked again."""
        await self.look()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> None:
        """Take what changed now: who changed something here need not wait for the next look."""
        async with self._looking:
            try:
                await self._look()
            except (StoreAwayError, StoreSlowError) as error:
                self._told(away=True, error=str(error))
            except Exception as error:
                # A bug must not end the watch: later revocations would never be heard of.
                self._told(away=True, error=brief(error))
            else:
                self._told(away=False)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_seconds)
            await self.look()

    async def _look(self) -> None:
        versions = await self._configs.versions.current()
        await self._take_revoked(versions.get(REVOKED, 0))
        await self._take_rules(versions.get(LIMITS, 0))
        now = self._clock()
        if now >= self._sweep_at and await self._revoked.sweep() < SWEEP_ROWS:
            self._sweep_at = now + SWEEP_SECONDS

    async def _take_rules(self, version: int) -> None:
        if version == self._rules_version:
            return
        rules = await self._configs.all()
        self._on_rules(rules)
        self._rules_version = version

    async def _take_revoked(self, version: int) -> None:
        if version < self._revoked_version:
            self._revoked_version = 0  # an older copy of the database: read all of it
        while self._revoked_version < version:
            page, more = await self._revoked.since(self._revoked_version)
            if page:
                self._on_revoked(page)
            self._revoked_version = version if more is None else more

    def _told(self, *, away: bool, error: str = "") -> None:
        """One line when it goes, one when it is back."""
        if away == self._away:
            return
        self._away = away
        if away:
            _log.warning("policy_watch.away", error=error, keeps="what it knows")
        else:
            _log.info("policy_watch.back")
