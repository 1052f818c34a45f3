"""The request log (`REQUEST_LOG=database`): one row a request in `api_requests`, in batches.

A request costs an append here, whatever the database does: rows wait in a bounded buffer, and what
no longer fits is dropped, the oldest first, and counted. Not here: what a record says (the edge
fills it in) and access records on the standard output (`observe/access.py`).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, Final, TypeAlias

import structlog
from sqlalchemy import BigInteger, Connection, Integer, String, bindparam, delete, select

from gateway.store.database import Database
from gateway.store.faults import brief
from gateway.store.sql import Sql
from gateway.store.tables import api_requests
from gateway.store.texts import fitting, most_characters
from sse.question_store import StoreAwayError, StoreSlowError

# What waits for the database: 10 s of a thousand requests a second, some 10 MB, and 40 MB when
# clients send the longest paths and user agents.
BUFFER_ROWS: Final = 10_000
BATCH_ROWS: Final = 200  # with PostgreSQL some 2 ms of the loop's time
FLUSH_SECONDS: Final = 1.0
CLOSE_SECONDS: Final = 2.0
# Deleted at a time, at most once for each batch: twice what may have been written meanwhile.
SWEEP_ROWS: Final = 400
SWEEP_SECONDS: Final = 60.0
TELL_SECONDS: Final = 60.0  # between two lines about rows that were dropped
_DAY_MS: Final = 86_400_000
_MILLISECOND: Final = timedelta(milliseconds=1)

RequestRow: TypeAlias = tuple[Any, ...]

_log = structlog.get_logger("gateway.store")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# The columns after an id and a start are fields of an access record, the last two not of each.
# (Texts of SQLAlchemy's own kind are found in a dict in twice the time.)
_FIELDS: Final = tuple(str(column.name) for column in api_requests.columns)[2:]
_picked: Final = itemgetter("timestamp", *_FIELDS[:-2])
_LENGTHS: Final = tuple(
    most_characters(column) if isinstance(column.type, String) else None
    for column in list(api_requests.columns)[2:]
)
_PATH, _USER_AGENT = 1 + _FIELDS.index("path"), 1 + _FIELDS.index("user_agent")
_MOST_PATH: Final = most_characters(api_requests.c.path)
_MOST_USER_AGENT: Final = most_characters(api_requests.c.user_agent)


def row_of(record: Mapping[str, object]) -> RequestRow:
    """What the log keeps of an access record; what a client can make long is cut.

    Raises KeyError for a record that lacks a field of the contract.
    """
    get = record.get
    row: RequestRow = (*_picked(record), get("end_reason"), get("operation_id"))
    path, user_agent = row[_PATH], row[_USER_AGENT]
    if len(path) > _MOST_PATH or (user_agent is not None and len(user_agent) > _MOST_USER_AGENT):
        cut = list(row)
        cut[_PATH] = path[:_MOST_PATH]
        cut[_USER_AGENT] = user_agent and user_agent[:_MOST_USER_AGENT]
        return tuple(cut)
    return row


def _stored(first_id: int, rows: Sequence[RequestRow]) -> list[RequestRow]:
    """Rows as the table takes them.

    Made by columns: in most of them the same few values come again and again, and each is looked at
    once (3 us a row, 6 if made row by row).
    """
    ended, *columns = zip(*rows, strict=True)
    ended_ms = {
        text: (datetime.fromisoformat(text) - _EPOCH) // _MILLISECOND for text in set(ended)
    }
    started = [ended_ms[text] - int(took) for text, took in zip(ended, columns[0], strict=True)]
    ready: list[Sequence[Any]] = [range(first_id, first_id + len(rows)), started]
    for column, most in zip(columns, _LENGTHS, strict=True):
        if most is None:
            ready.append(column)
        else:
            fits = {text: fitting(text, most) for text in set(column)}
            ready.append([fits[text] for text in column])
    return list(zip(*ready, strict=True))


class RequestLog:
    """Keeps rows of requests for `days`. `start` once, then `close`.

    Rows carry ids that count on from a random number: a batch whose fate is unknown is written
    again, and no row is there twice.
    """

    def __init__(
        self,
        database: Database,
        *,
        days: int = 30,
        buffer_rows: int = BUFFER_ROWS,
        flush_seconds: float = FLUSH_SECONDS,
        close_seconds: float = CLOSE_SECONDS,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wall`: Unix seconds, `clock`: monotonic."""
        self.days = days
        self.written = 0
        self.dropped = 0  # rows that were not written, as far as is known
        self._database = database
        self._buffer_rows = buffer_rows
        self._flush_seconds = flush_seconds
        self._close_seconds = close_seconds
        self._wall = wall
        self._clock = clock
        self._rows: deque[RequestRow] = deque(maxlen=buffer_rows)
        self._under_way = 0
        self._first_id = secrets.randbits(62)
        self._full = asyncio.Event()
        self._away = False
        self._closing = False
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._sweep_at = clock()
        self._refused = ""  # why the database did not take rows
        self._told = 0
        self._tell_at = clock()
        sql = Sql(database.dialect)
        self._insert = sql.insert_missing(api_requests)
        old = (
            select(api_requests.c.id)
            .where(api_requests.c.started_ms < bindparam("before_ms", type_=BigInteger))
            .order_by(api_requests.c.started_ms)
            .limit(bindparam("most", type_=Integer))
        )
        # Nested, since Python counts no rows of a statement for SQLite that begins with WITH.
        chosen = sql.locked(old, skip=True).cte("old", nesting=True)
        self._forget = delete(api_requests).where(api_requests.c.id.in_(select(chosen.c.id)))

    def __repr__(self) -> str:
        counts = f"waiting={self.waiting} written={self.written} dropped={self.dropped}"
        return f"<RequestLog {'away' if self._away else 'well'} {counts}>"

    @property
    def waiting(self) -> int:
        """Rows that came and are neither written nor dropped."""
        return len(self._rows) + self._under_way

    def add(self, record: Mapping[str, object]) -> None:
        """Keep an access record, written within some seconds. Never waits. Once closed it only
        counts: nobody would write it.
        """
        if self._closed:
            self.dropped += 1
            return
        rows = self._rows
        if len(rows) == self._buffer_rows:
            self.dropped += 1  # the oldest: a deque that is full lets go of its first
        rows.append(row_of(record))
        if len(rows) == BATCH_ROWS:
            self._full.set()

    def start(self) -> None:
        """Write from now on. Needs a running loop; the database may be opened later."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Write what waits, for 2 s at most; what is left then is dropped."""
        self._closing = True
        self._full.set()
        if self._task is not None:
            _, late = await asyncio.wait([self._task], timeout=self._close_seconds)
            for task in late:
                # Not awaited: with a server that hangs even giving up takes seconds.
                task.cancel()
        self._closed = True
        self.dropped += self.waiting
        self._rows.clear()
        self._under_way = 0
        self._tell(now=float("inf"))

    async def _run(self) -> None:
        """Each turn writes a batch at most, and forgets one."""
        while not self._closing:
            if self._away or len(self._rows) < BATCH_ROWS:
                await self._pause()
            self._away = not (await self._write() and await self._sweep())
            self._tell(self._clock())
        while self._rows and await self._write():
            pass

    async def _pause(self) -> None:
        """Until there is a batch, or the oldest row has waited long enough."""
        self._full.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._flush_seconds):
                await self._full.wait()

    async def _write(self) -> bool:
        """Write what waits, a batch at most; False: the database is away."""
        rows = self._rows
        if not rows:
            return True
        # The first row's number among all that ever came: its id stays the same when tried again.
        first = self._first_id + self.written + self.dropped
        batch = [rows.popleft() for _ in range(min(len(rows), BATCH_ROWS))]
        self._under_way = len(batch)
        try:
            ready = _stored(first, batch)
            await self._database.write(lambda it: self._insert.run(it, ready))
        except (StoreAwayError, StoreSlowError):
            self._put_back(batch)
            return False
        except asyncio.CancelledError:
            self._put_back(batch)
            raise
        except Exception as error:
            # Tried again it would fail again, and keep all later ones waiting.
            self.dropped += len(batch)
            self._refused = brief(error)
            return True
        finally:
            self._under_way = 0
        self.written += len(batch)
        return True

    def _put_back(self, batch: list[RequestRow]) -> None:
        """Rows that are to be tried again, before those that came since; the oldest give way."""
        room = self._buffer_rows - len(self._rows)
        lost = max(0, len(batch) - room)
        self.dropped += lost
        self._rows.extendleft(reversed(batch[lost:]))

    async def _sweep(self) -> bool:
        """Forget some rows that are old, when it is time; False: the database is away."""
        now = self._clock()
        if now < self._sweep_at:
            return True
        before_ms = int(self._wall() * 1000) - self.days * _DAY_MS
        limits = {"before_ms": before_ms, "most": SWEEP_ROWS}
        try:
            gone = await self._database.write(lambda it: self._delete(it, limits))
        except (StoreAwayError, StoreSlowError):
            return False
        except Exception as error:
            # A bug must not end the log.
            gone = 0
            _log.error("request_log.sweep_failed", error=brief(error))
        if gone < SWEEP_ROWS:
            self._sweep_at = now + SWEEP_SECONDS
        return True

    def _delete(self, connection: Connection, limits: dict[str, int]) -> int:
        return int(connection.execute(self._forget, limits).rowcount)

    def _tell(self, now: float) -> None:
        """Say how many rows were dropped, once a minute while there are any."""
        lost = self.dropped - self._told
        if lost and now >= self._tell_at:
            self._told = self.dropped
            self._tell_at = now + TELL_SECONDS
            why = self._refused or "the database is away, or slower than requests come"
            self._refused = ""
            _log.error("request_log.dropped", rows=lost, ever=self.dropped, error=why)
