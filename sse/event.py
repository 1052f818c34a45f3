"""What an event is: its names, its limits, its bytes on the wire. Pure.

An event is encoded once, whatever the number of its readers. The `id:` line comes from the ring
(`ring.py`), so the same bytes serve a history in memory and one in Redis. Format: the HTML
standard's section 9.2 (Server-sent events).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

import orjson

# One event's data line, with its envelope; a frame beyond it would be a download, not an event.
MAX_DATA_BYTES: Final = 65536

CLIENT_ID: Final = r"[A-Za-z0-9._~:@-]{1,128}"
EVENT_TYPE: Final = r"[a-z0-9_.-]{1,64}"
is_client_id: Final = re.compile(CLIENT_ID).fullmatch
is_event_type: Final = re.compile(EVENT_TYPE).fullmatch
_RESERVED: Final = ("connection.", "stream.", "job.")
_RESERVED_NAMES: Final = frozenset(("heartbeat", "question.resolved"))
# Client ids of jobs begin so; they have more readers than a person has tabs.
JOB_PREFIX: Final = "job:"
# The id of a job: its owner's tag, then a UUID, or what an Idempotency-Key comes to.
OPERATION_ID: Final = (
    r"(?P<tag>[0-9a-f]{16})-"
    r"(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32})"
)
# Such a client id is a job's own: whose it is, its id tells; none but workers publish there.
is_job_stream: Final = re.compile(JOB_PREFIX + OPERATION_ID).fullmatch
# After one of the last three nothing comes of a job, unless it is begun anew.
JOB_STARTED: Final = b"job.started"
JOB_ENDS: Final = frozenset((b"job.completed", b"job.failed", b"job.cancelled"))
# The types of the contract, which figures tell apart.
KNOWN_TYPES: Final = frozenset(
    (
        *("run.start", "run.progress", "run.complete", "run.error", "node.complete", "node.error"),
        *("question", "question.resolved", "job.snapshot", "job.started", "job.progress"),
        *("job.step", "job.question", "job.completed", "job.failed", "job.cancelled"),
    )
)


class BackplaneAwayError(Exception):
    """What the gateways share can't be reached: nothing was published, and asking again is safe."""


class Refused(Exception):
    """A publication, question or answer is refused; the text tells a client what to do.

    `code` is a code of the gateway's error table. `details` are (JSON pointer, message) pairs,
    `extra` further members of the error.
    """

    def __init__(
        self,
        code: str,
        message: str,
        details: tuple[tuple[str, str], ...] = (),
        extra: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details
        self.extra: dict[str, object] = extra or {}


@dataclass(frozen=True, slots=True)
class NewEvent:
    """What a publisher hands in; `data` is compact JSON, so it holds no line end."""

    event_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Published:
    """What became of a publication: the ids `<epoch>-<seq>`, in order, and how many readers."""

    ids: list[str] = field(default_factory=list)
    subscribers: int = 0


def is_reserved(event_type: str) -> bool:
    """Whether only the gateway itself may publish this type."""
    return event_type.startswith(_RESERVED) or event_type in _RESERVED_NAMES


def timestamp(wall_seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds."""
    second, milliseconds = divmod(int(wall_seconds * 1000), 1000)
    return f"{_second(second)}.{milliseconds:03}Z"


@lru_cache(maxsize=4)  # the one that is, and neighbours: 3 µs an event otherwise
def _second(since_1970: int) -> str:
    return datetime.fromtimestamp(since_1970, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def uuid7(wall_seconds: float, random: bytes | None = None) -> str:
    """A UUIDv7 (RFC 9562 §5.7) of this time; `random`: ten bytes, drawn when not given."""
    drawn = os.urandom(10) if random is None else random
    digits = f"{int(wall_seconds * 1000) & 0xFFFFFFFFFFFF:012x}{drawn.hex()}"
    variant = "89ab"[drawn[2] >> 6]
    return f"{digits[:8]}-{digits[8:12]}-7{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


def envelope(event: NewEvent, event_id: str, at: str) -> bytes:
    """The data line's JSON: `event_id` a UUIDv7, `at` its RFC 3339 time."""
    return b'{"id":"%b","event_type":"%b","timestamp":"%b","data":%b}' % (
        event_id.encode(),
        event.event_type.encode(),
        at.encode(),
        event.data,
    )


def encode(event: NewEvent, event_id: str, at: str, retry_ms: int | None = None) -> bytes:
    """The frame without its `id:` line, ended by the empty line.

    `retry_ms` stands inside the block: a block of its own would be an empty event to some readers.
    """
    retry = b"" if retry_ms is None else b"retry: %d\n" % retry_ms
    return b"%bevent: %b\ndata: %b\n\n" % (
        retry,
        event.event_type.encode(),
        envelope(event, event_id, at),
    )


def frame_type(frame: bytes) -> bytes:
    """The type of an encoded frame."""
    start = frame.index(b"event: ") + 7
    return frame[start : frame.index(b"\n", start)]


def frame_data(frame: bytes) -> bytes:
    """The data of an encoded frame, its envelope left out."""
    return frame[frame.index(b',"data":') + 8 : -3]


def dumps(value: object) -> bytes:
    """Compact JSON."""
    return orjson.dumps(value)
