"""One client id's history: numbered frames under two bounds, and where a reader stands in it. Pure.

Sequence numbers start at 1 and have no holes. The epoch names this history: when it is forgotten
the next one has another, so an id of the old one is recognised instead of silently matching.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

EPOCH_LENGTH: Final = 8
EPOCH_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
EARLIEST: Final = "earliest"
# An id that a client hands in; longer ones are none of ours.
MAX_ID_BYTES: Final = 64

_ID: Final = re.compile(r"([a-z0-9]{8})-(0|[1-9][0-9]*)").fullmatch


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """Bounds of one client id's history; `seconds` counts from the last event and reader."""

    events: int = 100
    size_bytes: int = 4 << 20
    seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Position:
    """Where a reader begins: `cursor` is the sequence number of the first event it gets.

    `reset` is why it can't go on where it was, None when it can; `lost` how many are lost, None
    where nobody knows.
    """

    cursor: int
    resumed: bool
    reset: str | None = None
    lost: int | None = None


class Ring:
    """The last frames of a client id, each with its `id:` line."""

    __slots__ = ("epoch", "frames", "last", "size_bytes")

    def __init__(self, epoch: str, last: int = 0) -> None:
        """An empty history; `last`: the number of the newest event, also when none is retained."""
        self.epoch = epoch
        self.last = last
        self.frames: list[bytes] = []
        self.size_bytes = 0

    def __repr__(self) -> str:
        return f"<Ring {self.epoch} {self.first}..{self.last} {self.size_bytes} bytes>"

    @property
    def first(self) -> int:
        """The number of the oldest event retained; `last` + 1 when none is."""
        return self.last - len(self.frames) + 1

    def id_of(self, sequence: int) -> str:
        """The event id of a number."""
        return f"{self.epoch}-{sequence}"

    def frame(self, body: bytes) -> bytes:
        """The next frame: `body` (an encoded event) behind its `id:` line."""
        return b"id: %b-%d\n%b" % (self.epoch.encode(), self.last + 1, body)

    def dropped_by(self, size_bytes: int, limits: HistoryLimits) -> int:
        """How many of the oldest frames must go to make room for one of this size."""
        count = max(0, len(self.frames) + 1 - limits.events)
        over = self.size_bytes + size_bytes - limits.size_bytes
        at = 0
        while at < len(self.frames) and (at < count or over > 0):
            over -= len(self.frames[at])
            at += 1
        return at

    def append(self, frame: bytes, limits: HistoryLimits) -> None:
        """Add what `frame` gave; the oldest go where a bound is passed."""
        self.drop(self.dropped_by(len(frame), limits))
        self.frames.append(frame)
        self.size_bytes += len(frame)
        self.last += 1

    def drop(self, count: int) -> None:
        """Forget the oldest frames."""
        if count:
            self.size_bytes -= sum(map(len, self.frames[:count]))
            del self.frames[:count]

    def since(self, cursor: int, end: int, most_bytes: int) -> Sequence[bytes]:
        """Frames from `cursor` to `end` (inclusive), at least one and else at most `most_bytes`."""
        first = self.first
        at, stop = cursor - first, end - first + 1
        size = 0
        for index in range(at, stop):
            size += len(self.frames[index])
            if size > most_bytes and index > at:
                return self.frames[at:index]
        return self.frames[at:stop]

    def locate(self, last_event_id: str | None, *, ahead: bool = False) -> Position:
        """Where a reader that names `last_event_id` begins; None or empty: live only. `ahead`: an
        id of this epoch beyond the newest is believed, since this may be an old copy.
        """
        first, after = self.first, self.last + 1
        if not last_event_id:
            return Position(after, resumed=False)
        if last_event_id == EARLIEST:
            return Position(first, resumed=False)
        match = _ID(last_event_id) if len(last_event_id) <= MAX_ID_BYTES else None
        if match is None:
            return Position(first, resumed=False, reset="invalid")
        if match[1] != self.epoch:
            return Position(first, resumed=False, reset="epoch")
        sequence = int(match[2])
        if sequence > self.last and not ahead:
            return Position(first, resumed=False, reset="future")
        if sequence + 1 < first:
            return Position(first, resumed=False, reset="trimmed", lost=first - sequence - 1)
        return Position(sequence + 1, resumed=True)
