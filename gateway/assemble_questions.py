"""The question room, built from settings: the database, the questions, what is sent about them.

A part of `assemble`. Without its database the gateway serves everything else, says so in its
health, and goes on trying.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from gateway.callbacks import (
    Allowed,
    DeliveryWorker,
    Lookups,
    Sender,
    check_callback_url,
    delivery_requests,
)
from gateway.callbacks.roles import Requests
from gateway.observe.metrics import Metrics
from gateway.settings import Settings, SettingsError
from gateway.store import Database, Deliveries, StoredQuestions, StoreError
from sse.event import NewEvent, Published, uuid7
from sse.hub import Hub
from sse.question_store import StoreAwayError, StoreSlowError
from sse.questions import Questions

Publish = Callable[[str, Sequence[NewEvent]], Awaitable[Published]]

# Between two tries to open a database that is away.
RETRY_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class PreparedQuestions:
    """What a reload changes of questions."""

    settings: Settings
    requests: Mapping[str, Requests]
    allowed: Allowed
    tls: ssl.SSLContext


class QuestionRoom:
    """Questions of one gateway. `start` once, `drain`, then `close`."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        hub: Hub,
        publish: Publish,
        metrics: Metrics,
        tls: ssl.SSLContext,
    ) -> None:
        """Needs a running event loop. The database is opened here and closed by its owner. `tls`
        verifies whom decisions are sent to.
        """
        self._database = database
        self.on_due: Callable[[], None] = lambda: None  # what else is told of decisions
        self._store = StoredQuestions(
            self._database,
            time.time,
            time.monotonic,
            lambda: uuid7(time.time()),
            forward=settings.questions_forward is not None,
        )
        self._sender = Sender(Lookups().resolve, tls)
        self._worker = DeliveryWorker(
            Deliveries(self._database),
            self._sender,
            delivery_requests(settings, uuid7),
            wall=time.time,
            random=random.SystemRandom().random,
            log=structlog.get_logger("gateway.callbacks"),
        )
        self.questions = Questions(
            self._store,
            publish,
            hub.readers,
            time.time,
            structlog.get_logger("gateway.questions"),
            callbacks=bool(settings.webhook_secret),
            delivery_due=self._due,
        )
        self.take(self.prepare(settings, tls))
        self._opening: asyncio.Task[None] | None = None
        self._open = False
        metrics.gauge(
            "gateway_questions_open",
            "Questions without an answer.",
            (),
            lambda: [((), float(self.questions.open_count))],
        )

    def __repr__(self) -> str:
        return f"<QuestionRoom {self._database!r} {self.questions!r}>"

    def _due(self) -> None:
        self._worker.wake()
        self.on_due()

    @property
    def state(self) -> dict[str, object]:
        """Of the database, for the health page."""
        return self._database.state

    async def start(self) -> None:
        """Begin. A database server that is away is waited for; a file that can't be used is a
        SettingsError.
        """
        try:
            await self._begin()
        except (StoreError, StoreAwayError, StoreSlowError) as error:
            if self._database.dialect == "sqlite":
                raise SettingsError(f"settings: {error}, expected a writable STATE_DIR") from None
            structlog.get_logger("gateway.store").error("store.away", error=str(error))
            self._opening = asyncio.get_running_loop().create_task(self._keep_trying())

    async def _begin(self) -> None:
        await self._database.open()
        await self.questions.start()
        self._worker.start()
        self._open = True

    async def _keep_trying(self) -> None:
        while not self._open:
            await asyncio.sleep(RETRY_SECONDS)
            with suppress(StoreError, StoreAwayError, StoreSlowError):
                await self._begin()

    def prepare(self, settings: Settings, tls: ssl.SSLContext) -> PreparedQuestions:
        """New secrets and destinations, which nobody has taken yet."""
        return PreparedQuestions(
            settings, delivery_requests(settings, uuid7), Allowed(settings.callback_allow), tls
        )

    def take(self, new: PreparedQuestions) -> None:
        """Go on with what was prepared."""
        self._store.forward = new.settings.questions_forward is not None
        self._worker.requests = new.requests
        self._sender.tls = new.tls
        self.questions.allow_callbacks(
            bool(new.settings.webhook_secret), lambda url: check_callback_url(url, new.allowed)
        )

    def drain(self) -> None:
        """Let go who waits for an answer."""
        self.questions.drain()

    async def close(self) -> None:
        """Finish what was begun."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._open:
            await self._worker.close()
            await self.questions.close()
        await self._store.close()
