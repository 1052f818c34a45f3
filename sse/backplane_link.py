"""Connections to Redis that come back by themselves, and how they all stand together.

Each connection has a task of its own that serves it and starts again, whatever ended it: a listener
that is dead and silent would deliver nothing and show nothing.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError, ResponseError

from sse.backplane_scripts import asking_appendfsync, asking_info, asking_life, run

# What an absent or broken Redis raises, `hiredis` and the system included.
AWAY: Final = (RedisError, OSError, TimeoutError, asyncio.IncompleteReadError)
# A connection that served this long was a good one: the next try is made at once.
_GOOD_SECONDS: Final = 1.0
# Of an error's text in `state` and in a log line.
_ERROR_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class Times:
    """How long things may take, in seconds."""

    publish: float = 5.0  # a publication
    join: float = 2.0  # new readers wait for a Redis that says nothing, then begin without it
    connect: float = 3.0  # a connection with its greeting
    answer: float = 5.0  # a reading command
    tick: float = 5.0  # between two looks at what is due; a silent connection is asked for a PONG
    silent: float = 60.0  # a history nothing was heard of is compared
    counts: float = 180.0  # a gateway that says nothing any more has no readers
    shortest_pause: float = 0.1  # before trying again to connect; doubled each time
    longest_pause: float = 2.0


class Log(Protocol):
    """Where lines go: a structlog logger."""

    def info(self, event: str, **fields: object) -> object: ...
    def warning(self, event: str, **fields: object) -> object: ...
    def error(self, event: str, **fields: object) -> object: ...


class Wire(Protocol):
    """What is used of redis-py's `Connection`."""

    async def connect(self) -> None: ...
    async def disconnect(self, nowait: bool = ...) -> None: ...
    async def send_packed_command(self, command: bytes, check_health: bool = ...) -> None: ...
    async def read_response(
        self, disable_decoding: bool = ..., timeout: float = ..., *, disconnect_on_error: bool = ...
    ) -> Any: ...


def connections(url: str) -> tuple[Callable[[str], Wire], int]:
    """What makes connections to a Redis, named after their part, and the number of its database.

    Raises ValueError, without a word of the URL, which may hold a password.
    """
    try:
        pool = ConnectionPool.from_url(url)
        options = {
            **pool.connection_kwargs,
            "protocol": 2,  # pub/sub on a connection of its own; known to every Redis
            "driver_info": None,  # no further commands in the greeting
            "socket_timeout": None,  # each command has its own
            "decode_responses": False,
        }
        options.pop("client_name", None)
        make = pool.connection_class
        make(**options)
    except (ValueError, TypeError):
        raise ValueError("the URL of Redis can't be read") from None

    def connect(part: str) -> Wire:
        return cast(Wire, make(**options, client_name=f"gateway-{part}"))

    return connect, int(options.get("db") or 0)


class Health:
    """Whether every part does its work; one log line when that ends, one when it is so again."""

    def __init__(self, parts: Iterable[str], log: Log) -> None:
        self._log = log
        self._down = dict.fromkeys(parts, "not connected yet")
        self._lost_at: float | None = None
        self.latency_ms: float | None = None

    def __repr__(self) -> str:
        return f"<Health {self._down or 'healthy'}>"

    def up(self, part: str) -> None:
        """This part works."""
        self._down.pop(part, None)
        if not self._down and self._lost_at is not None:
            away_seconds = time.monotonic() - self._lost_at
            self._lost_at = None
            self._log.info("backplane healed", away_seconds=round(away_seconds, 3))

    def down(self, part: str, error: BaseException | str) -> None:
        """This part does not, and why."""
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        self._down[part] = text[:_ERROR_CHARACTERS]
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            self._log.warning("backplane lost", part=part, error=self._down[part])

    @property
    def state(self) -> dict[str, object]:
        """For the health page."""
        errors = "; ".join(f"{part}: {error}" for part, error in self._down.items())
        return {
            "state": "degraded" if self._down else "healthy",
            "latency_ms": self.latency_ms,
            "error": errors or None,
        }


class Link:
    """One connection after another, for ever, each served by the same function."""

    def __init__(
        self,
        part: str,
        connect: Callable[[str], Wire],
        serve: Callable[[Wire], Awaitable[None]],
        changed: Callable[[], None],
        health: Health,
        times: Times,
        log: Log,
    ) -> None:
        """`serve` calls `ready` when the connection can be used and ends by an error; `changed` is
        called after that, and each time a connection could not be made.
        """
        self._part = part
        self._connect = connect
        self._serve = serve
        self._changed = changed
        self._health = health
        self._times = times
        self._log = log
        self._task: asyncio.Task[None] | None = None
        self._ready_at = -math.inf
        self.is_ready = False
        self.is_away = False  # lost, and the next try failed
        self.settled = asyncio.Event()  # it is known which of both

    def __repr__(self) -> str:
        state = "ready" if self.is_ready else "away" if self.is_away else "connecting"
        return f"<Link {self._part} {state}>"

    def start(self) -> None:
        """Connect, again and again."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """End it."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def ready(self) -> None:
        """The connection can be used."""
        self.is_ready = True
        self.is_away = False
        self._ready_at = time.monotonic()
        self.settled.set()

    async def _run(self) -> None:
        pause = 0.0
        while True:
            wire = self._connect(self._part)
            error: Exception = ConnectionError("the connection ended")
            try:
                async with asyncio.timeout(self._times.connect):
                    await wire.connect()
                await self._serve(wire)
            except Exception as problem:
                error = _first(problem)
            finally:
                await wire.disconnect(nowait=True)
            if not isinstance(error, AWAY):
                self._log.error("backplane task failed", part=self._part, exc_info=error)
            was_ready, self.is_ready = self.is_ready, False
            good = was_ready and time.monotonic() - self._ready_at > _GOOD_SECONDS
            # One that does not answer will not do so in a moment either.
            self.is_away = not was_ready or isinstance(error, TimeoutError)
            self._health.down(self._part, error)
            self.settled.set()
            self._changed()
            pause = self._next_pause(pause) if self.is_away or not good else 0.0
            await asyncio.sleep(pause * random.SystemRandom().uniform(0.5, 1.0))

    def _next_pause(self, pause: float) -> float:
        times = self._times
        return min(times.longest_pause, max(times.shortest_pause, 2 * pause))


class Dialogue:
    """Commands and their answers over one connection, whose end is noticed also between them."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._waiting: deque[asyncio.Future[Any]] = deque()

    def expect(self) -> asyncio.Future[Any]:
        """Where the answer to the next command sent will be; it may raise a ResponseError."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    async def send(self, command: bytes) -> None:
        """Returns when there is room for another; raises one of AWAY."""
        await self._wire.send_packed_command(command, check_health=False)

    async def ask(self, command: bytes, seconds: float) -> Any:
        """The answer to a command; raises one of AWAY. After a time-out the connection is of no
        more use.
        """
        async with asyncio.timeout(seconds):
            answer = self.expect()
            await self.send(command)
            return await answer

    async def ask_life(self, seconds: float) -> bytes:
        """What `gateway:life` says; always the same to who may not ask. Raises one of AWAY."""
        try:
            info = await self.ask(asking_info(), seconds)
        except ResponseError:
            return b"? ? ?"
        try:
            _, appendfsync = await self.ask(asking_appendfsync(), seconds)
        except (ResponseError, ValueError):
            appendfsync = b"unknown"
        life: bytes = await self.ask(asking_life(*run(info, appendfsync)), seconds)
        return life

    async def listen(self) -> None:
        """Hands the answers out until the connection ends; raises one of AWAY."""
        while True:
            answer: Any
            try:
                answer = await read(self._wire)
            except ResponseError as error:
                answer = error
            if not self._waiting:
                raise ConnectionError("an answer that nobody asked for")
            future = self._waiting.popleft()
            if future.done():
                continue
            if isinstance(answer, ResponseError):
                future.set_exception(answer)
            else:
                future.set_result(answer)


async def converse(wire: Wire, talk: Callable[[Dialogue], Awaitable[None]]) -> None:
    """Runs `talk` over a connection until either ends."""
    dialogue = Dialogue(wire)
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(dialogue.listen())
        await talk(dialogue)
        listening.cancel()


async def read(wire: Wire) -> Any:
    """The next answer or message, however long it takes."""
    return await wire.read_response(
        disable_decoding=True, timeout=math.inf, disconnect_on_error=False
    )


def _first(error: Exception) -> Exception:
    """The error behind a group of them."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
