"""Lists of jobs: what is asked of Temporal's visibility store, and tokens of pages. Pure.

One finds one's own jobs only, by the owner's tag; no value that a caller chooses gets into a query.

The newest come first. The store has an order of its own (open ones, then by their end: its SQL
kinds know no ORDER BY), in which a job moves when it ends; so pages are cut here, by the start.
"""

from __future__ import annotations

from base64 import b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol, TypeVar

from gateway.errors import Rejection
from gateway.jobs.owners import SEAL_BYTES, Owners
from gateway.jobs.refusals import JobRefusedError
from gateway.jobs.status import STATUSES
from gateway.jobs.types import JOB_TYPES, OWNER_ATTRIBUTE, STATE_ATTRIBUTE

PAGE_SIZE: Final = 50
MOST_PAGE_SIZE: Final = 200
MAX_TOKEN: Final = 2048

# Read at once: the more, the sooner the newest are among them (the store gives 1,000). So many are
# never started in one microsecond.
_READ_PAGES: Final = 4
_READ_LEAST: Final = 200
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TICK: Final = timedelta(microseconds=1)

_OPEN: Final = "ExecutionStatus = 'Running'"
_OWN_TIME: Final = f"{STATE_ATTRIBUTE} = 'timed_out'"
_BY_STATUS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "pending": f"{_OPEN} AND {STATE_ATTRIBUTE} = 'pending'",
        "running": f"{_OPEN} AND {STATE_ATTRIBUTE} = 'running'",
        "waiting": f"{_OPEN} AND {STATE_ATTRIBUTE} = 'waiting'",
        "completed": "ExecutionStatus = 'Completed'",
        "failed": f"ExecutionStatus = 'Failed' AND {STATE_ATTRIBUTE} != 'timed_out'",
        "cancelled": "ExecutionStatus = 'Canceled'",
        "terminated": "ExecutionStatus = 'Terminated'",
        "timed_out": (
            f"(ExecutionStatus = 'TimedOut' OR (ExecutionStatus = 'Failed' AND {_OWN_TIME}))"
        ),
    }
)


def query_of(tags: Iterable[str], status: str | None, kind: str | None) -> str:
    """A list filter; raises JobRefusedError (422) for a status or a type that there is none of."""
    if status is not None and status not in _BY_STATUS:
        raise _unknown("status", status, STATUSES)
    if kind is not None and kind not in JOB_TYPES:
        raise _unknown("type", kind, JOB_TYPES)
    kinds = ", ".join(f"'{each}'" for each in ((kind,) if kind else JOB_TYPES))
    owners = ", ".join(f"'{tag}'" for tag in tags)
    parts = [f"{OWNER_ATTRIBUTE} IN ({owners})", f"WorkflowType IN ({kinds})"]
    if status is not None:
        parts.append(_BY_STATUS[status])
    return " AND ".join(parts)


def running_query(tags: Iterable[str]) -> str:
    """A filter for the jobs of an owner that are not over."""
    return f"{query_of(tags, None, None)} AND {_OPEN}"


def _unknown(name: str, given: str, known: Iterable[str]) -> JobRefusedError:
    message = f"There is no {name} {given[:64]!r}; there are: {', '.join(known)}."
    return JobRefusedError(Rejection("UNPROCESSABLE", message))


class Listed(Protocol):
    """An entry of the store's."""

    @property
    def id(self) -> str:
        """Its operation id."""

    @property
    def start_time(self) -> datetime:
        """When it was started."""


L = TypeVar("L", bound=Listed)


class Place(NamedTuple):
    """A job's place in a list; the newer one is the greater."""

    started: datetime
    operation_id: str

    def token(self) -> bytes:
        """It as bytes."""
        return f"{(self.started - _EPOCH) // _TICK} {self.operation_id}".encode()


def place_in(token: bytes) -> Place:
    """What `Place.token` made."""
    ticks, _, operation_id = token.decode().partition(" ")
    return Place(_EPOCH + int(ticks) * _TICK, operation_id)


async def newest(
    read: Callable[[str, int], Awaitable[tuple[Sequence[L], bool]]],
    query: str,
    size: int,
    behind: Place | None,
) -> tuple[list[L], Place | None]:
    """The newest `size` jobs behind a place, and the place behind them if there are more.

    `read` gives so many of a query's entries, and whether there are others. Where there are, the
    newest of those read say from when on there are enough; with the store's own order the second
    read has them all.
    """
    since: datetime | None = None
    count = max(_READ_LEAST, _READ_PAGES * (size + 1))
    while True:
        entries, more = await read(_between(query, behind, since), count)
        places = {Place(each.start_time, each.id): each for each in entries}
        found = sorted((each for each in places if behind is None or each < behind), reverse=True)
        enough = len(found) > size
        if not (more and enough) or (since is not None and found[size].started <= since):
            break
        since = found[size].started
    page = found[:size]
    return [places[each] for each in page], page[-1] if page and (enough or more) else None


def _between(query: str, behind: Place | None, since: datetime | None) -> str:
    """The query for jobs that were started in this time. What is looked at here has microseconds,
    what the store compares nanoseconds: a few too many are left out by who reads.
    """
    if behind is not None:
        query += f" AND StartTime <= '{_written(behind.started + _TICK)}'"
    return query if since is None else f"{query} AND StartTime >= '{_written(since)}'"


def _written(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def written_token(owners: Owners, query: str, place: Place | None) -> str | None:
    """The token, for a URL, of the page behind a place; good for this query alone."""
    if place is None:
        return None
    token = place.token()
    mark = owners.seal(query.encode() + b"\n" + token)
    return urlsafe_b64encode(mark + token).decode("ascii").rstrip("=")


def read_token(owners: Owners, query: str, text: str | None) -> Place | None:
    """What `written_token` wrote; raises JobRefusedError (400) for anything else."""
    if not text:
        return None
    try:
        if len(text) > MAX_TOKEN:
            raise ValueError
        sealed = b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise bad_token() from None
    mark, token = sealed[:SEAL_BYTES], sealed[SEAL_BYTES:]
    if not owners.is_sealed(query.encode() + b"\n" + token, mark):
        raise bad_token()
    return place_in(token)


def bad_token() -> JobRefusedError:
    """The refusal of a token that no list gave."""
    message = "This page_token is none that a list of jobs gave; ask without one."
    return JobRefusedError(Rejection("BAD_REQUEST", message))
