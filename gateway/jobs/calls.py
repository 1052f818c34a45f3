"""Calls to Temporal: each has its time, and where it fails the client is told in the gateway's own
terms. What the last calls were like is what the health page shows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from temporalio.service import RPCError, RPCStatusCode

from gateway.jobs.codec import PayloadError
from gateway.jobs.refusals import away
from sse.question_store import StoreAwayError, StoreSlowError

# A start takes 15 ms at its p99; who gets no answer in that time asks again.
CALL_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 2
# What says something of the request and not of Temporal; who calls knows what.
_ABOUT_THE_REQUEST: Final = frozenset(
    (
        RPCStatusCode.NOT_FOUND,
        RPCStatusCode.ALREADY_EXISTS,
        RPCStatusCode.INVALID_ARGUMENT,
        RPCStatusCode.FAILED_PRECONDITION,
        RPCStatusCode.OUT_OF_RANGE,
    )
)
AWAY: Final = "Temporal can't be reached just now, and jobs with it; nothing is lost: ask again."
SLOW: Final = "Temporal did not answer in time; ask again."
_STORE: Final = (
    "What this job holds is in the database, which can't be reached just now: ask again."
)


class Calls:
    """Bounds calls and knows how the last one went. `clock` is monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._latency_seconds: float | None = None
        self._error: str | None = None

    def __repr__(self) -> str:
        return f"<Calls {self._error or 'well'}>"

    @property
    def state(self) -> dict[str, object]:
        """For the health page: without Temporal the gateway goes on, with less."""
        told: dict[str, object] = {"state": "healthy" if self._error is None else "degraded"}
        if self._latency_seconds is not None:
            told["latency_ms"] = round(self._latency_seconds * 1000, 3)
        return told if self._error is None else told | {"error": self._error}

    @asynccontextmanager
    async def bounded(
        self, seconds: float = CALL_SECONDS, message: str = SLOW
    ) -> AsyncIterator[None]:
        """A call within its time. Raises JobRefusedError (503) where Temporal or the database is
        away; an RPCError about the request itself passes.
        """
        began = self._clock()
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            self._error = "no answer in time"
            raise away(message, RETRY_SECONDS) from None
        except RPCError as error:
            if error.status not in _ABOUT_THE_REQUEST:
                self._error = error.status.name.lower()
                raise away(AWAY, RETRY_SECONDS) from None
            self._well(began)
            raise
        except (StoreAwayError, StoreSlowError):
            raise away(_STORE, RETRY_SECONDS) from None
        except PayloadError as error:
            raise away(f"This job can't be read here: {error}.", RETRY_SECONDS) from None
        else:
            self._well(began)

    def _well(self, began: float) -> None:
        self._latency_seconds = self._clock() - began
        self._error = None
