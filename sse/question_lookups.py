"""Look-ups that come one by one and are made together: all of a loop's turn are one query."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from sse.question_store import StoreAwayError

V = TypeVar("V")

# Of one query: it takes 5 ms then, and holds up those that came meanwhile no longer.
MOST_TOGETHER: Final = 500
# As many as there can be streams that open and requests beside them.
MOST_WAITING: Final = 20_000


class Lookups(Generic[V]):
    """Asks `fetch` for many keys at a time, one query after the other."""

    def __init__(
        self,
        fetch: Callable[[list[str]], Awaitable[dict[str, V]]],
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self._fetch = fetch
        self._most_waiting = most_waiting
        self._waiting: dict[str, list[asyncio.Future[V | None]]] = {}
        self._count = 0
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Lookups {self._count} waiting>"

    def ask(self, key: str) -> asyncio.Future[V | None]:
        """What is found under a key; None when there is nothing. The query begins after this call.

        Raises StoreAwayError, at once when too many wait.
        """
        if self._count >= self._most_waiting:
            raise StoreAwayError("too much waits for the database")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[V | None] = loop.create_future()
        future.add_done_callback(_retrieved)
        self._waiting.setdefault(key, []).append(future)
        self._count += 1
        if self._task is None:
            self._task = loop.create_task(self._drain())
        return future

    async def close(self) -> None:
        """Finish what was asked."""
        if self._task is not None:
            await self._task

    async def _drain(self) -> None:
        while self._waiting:
            keys = list(self._waiting)[:MOST_TOGETHER]
            asked = {key: self._waiting.pop(key) for key in keys}
            self._count -= sum(map(len, asked.values()))
            try:
                found = await self._fetch(keys)
            except Exception as error:
                for futures in asked.values():
                    _settle(futures, error, None)
            else:
                for key, futures in asked.items():
                    _settle(futures, None, found.get(key))
        self._task = None


def _settle(
    futures: list[asyncio.Future[V | None]], error: Exception | None, value: V | None
) -> None:
    for future in futures:
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)


def _retrieved(done: asyncio.Future[V | None]) -> None:
    """Who asked may have gone; an error is no news to the loop then."""
    if not done.cancelled():
        done.exception()
