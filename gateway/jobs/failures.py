"""What can go wrong with a job's requests: the kinds of errors, what is of which kind, and how
often each is tried again. Pure; also imported by workflow code.

The table is the one that jobs are asked for: database 3 tries from 1 s, network 5 from 2 s,
external 3 from 5 s, validation and authorisation never. Durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final

from gateway.jobs.models import JobError, Retry

# Between two tries, whatever the input says: only the first counts in the caller's limits.
LEAST_SECONDS: Final = 0.1
FACTOR: Final = 2.0  # each wait is this much longer than the one before
MOST_SECONDS: Final = 60.0  # between two tries, unless the input says otherwise
# A service may ask for patience, but not so much that a job stands still: what lasts longer is a
# refusal that the caller should see.
MOST_RETRY_AFTER_SECONDS: Final = 300
MOST_ATTEMPTS: Final = 100  # what an input may ask for; each is a request that somebody pays
MESSAGE_LENGTH: Final = 500  # of an error; histories and events hold many


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of error: its name, the type that failures in Temporal carry, and its retry policy.

    `max_attempts` counts the first try; 1: never again.
    """

    name: str
    code: str
    max_attempts: int
    initial_seconds: float

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.max_attempts > 1


def _kinds() -> dict[str, Kind]:
    rows: tuple[tuple[str, int, float], ...] = (
        ("database", 3, 1.0),
        ("network", 5, 2.0),  # no answer: refused, broken off, unresolvable
        ("timeout", 3, 5.0),  # no answer in time: whether it was done is unknown, the key tells
        ("external", 3, 5.0),  # the service says that it failed
        ("rate_limited", 5, 5.0),  # Retry-After comes first where it is said
        ("validation", 1, 0.0),  # the request is wrong and stays so
        ("authorization", 1, 0.0),
        ("cancelled", 1, 0.0),
        ("internal", 1, 0.0),  # a bug of ours: the same again would be the same
    )
    return {name: Kind(name, name.upper(), most, first) for name, most, first in rows}


KINDS: Final[Mapping[str, Kind]] = MappingProxyType(_kinds())
# How a job ends that took too long, or that was cancelled: codes besides those of the kinds.
TIMED_OUT: Final = "TIMED_OUT"
CANCELLED: Final = "CANCELLED"
# What no retry helps, for a RetryPolicy's non_retryable_error_types.
NEVER_AGAIN: Final = tuple(kind.code for kind in KINDS.values() if not kind.retryable)

_BY_STATUS: Final[Mapping[int, str]] = {
    401: "authorization",
    403: "authorization",
    407: "authorization",
    408: "timeout",
    425: "external",  # Too Early (RFC 8470): the same request again is what is asked for
    429: "rate_limited",
    501: "validation",
    502: "network",
    504: "timeout",
    505: "validation",
}
_BY_CODE: Final[Mapping[str, str]] = {
    # What the gateway refuses is the worker's own credential then (a token that was changed): that
    # is an operator's to mend, and no reason to undo a job.
    "AUTH_FAILED": "network",
    "PROXY_ERROR": "network",
    "SERVICE_UNAVAILABLE": "external",
    "CIRCUIT_BREAKER_OPEN": "external",
    "OVERLOADED": "external",
    "TIMEOUT": "timeout",
    "REQUEST_TIMEOUT": "timeout",
    "RATE_LIMITED": "rate_limited",
    "INTERNAL_ERROR": "internal",
    TIMED_OUT: "timeout",
}
# Exceptions by the name of their class or of one that it is made from: drivers and clients are not
# imported here.
_BY_EXCEPTION: Final[Mapping[str, str]] = {
    "CancelledError": "cancelled",
    "DBAPIError": "database",
    "PostgresError": "database",
    "SQLAlchemyError": "database",
    "RedisError": "database",
    "PermissionError": "authorization",
    "ClientPayloadError": "network",
    "ClientConnectionError": "network",
    "ClientError": "network",
    "OSError": "network",
    "ValueError": "validation",
}


def kind_of_status(status: int) -> Kind | None:
    """What an answer of this status is a sign of; None where it is no error (below 400)."""
    if status < 400:
        return None
    return KINDS[_BY_STATUS.get(status, "validation" if status < 500 else "external")]


def kind_of_code(code: str, status: int | None = None) -> Kind:
    """The kind of an error by its code: one of the gateway's error table, or of the taxonomy.

    A code that is neither counts by its status, and without one as `internal`.
    """
    name = _BY_CODE.get(code)
    if name is None:
        name = code.lower()
    kind = KINDS.get(name)
    if kind is None and status is not None:
        kind = kind_of_status(status)
    return kind or KINDS["internal"]


def kind_of_exception(error: BaseException) -> Kind:
    """The kind of an exception that was raised here, the most special name first."""
    if isinstance(error, TimeoutError):
        return KINDS["timeout"]  # some clients' are connection errors too
    for each in type(error).__mro__:
        name = _BY_EXCEPTION.get(each.__name__)
        if name is not None:
            return KINDS[name]
    return KINDS["internal"]


def may_try_again(kind: Kind, attempt: int, retry: Retry | None = None) -> bool:
    """Whether there is another try after `attempt` (1 is the first) failed. `retry` overrides the
    kind's number, but what never helps is never tried again.
    """
    if not kind.retryable:
        return False
    asked = None if retry is None else retry.max_attempts
    return attempt < (kind.max_attempts if asked is None else min(asked, MOST_ATTEMPTS))


def delay_seconds(
    kind: Kind, attempt: int, retry: Retry | None = None, retry_after: int | None = None
) -> float:
    """How long to wait after `attempt` failed: as `retry` says, else as the kind's policy, and not
    less than the service asked for, as far as that is bearable.
    """
    first, factor, most = kind.initial_seconds, FACTOR, MOST_SECONDS
    if retry is not None:
        first = kind.initial_seconds if retry.initial_seconds is None else retry.initial_seconds
        factor, most = max(retry.backoff, 1.0), retry.max_seconds
    # The exponent is bounded before the power is taken: the delay has reached its most by then.
    delay = max(min(first * factor ** min(attempt - 1, 30), most), LEAST_SECONDS)
    return max(delay, float(min(retry_after or 0, MOST_RETRY_AFTER_SECONDS)))


def short(message: str) -> str:
    """An error's text as it may be kept."""
    return message if len(message) <= MESSAGE_LENGTH else message[: MESSAGE_LENGTH - 1] + "…"


def error_of(members: Any) -> JobError | None:
    """The JobError that a failure's details hold; None where they are something else.

    Unknown members are left out: a newer worker may have written them.
    """
    if not isinstance(members, Mapping):
        return None
    code, message = members.get("code"), members.get("message")
    if not isinstance(code, str) or not isinstance(message, str):
        return None
    known = {name: members[name] for name in _OPTIONAL if members.get(name) is not None}
    return JobError(code, message, **known)


_OPTIONAL: Final = ("step", "status", "retry_after", "retryable")


def members_of(error: JobError) -> dict[str, Any]:
    """What a failure's details hold of an error."""
    return asdict(error)
