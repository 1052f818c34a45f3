"""Shutting the door to an address that keeps getting it wrong: bad credentials, refusals, for ever.

What counts is told by admission; here it is counted, and said how long the door stays shut. The
figures are those of `[abuse]`; without that table nothing is counted and no door closes. `now` is
monotonic seconds, passed in.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

import structlog

from gateway.policy.ratelimit import address_of
from gateway.settings_limits import AbuseSettings

# Addresses that are remembered, and doors that are shut, at most: some 30 MB together. Whoever has
# more addresses than that to come from is not stopped by shutting doors.
MAX_ADDRESSES: Final = 100_000


@dataclass(slots=True)
class _Record:
    """What an address got wrong since `since`, and how often its door was shut for it."""

    since: float
    bad_credentials: int = 0
    refusals: int = 0
    closings: int = 0
    open_at: float = 0.0


class Doors:
    """The doors of all addresses; keys are those of `address_key`.

    Of each kind so many within a window, which begins with the first, close the door: for
    `close_seconds`, and twice as long each time, up to `close_max_seconds`. An address that was not
    shut out for `close_max_seconds` begins anew. What was let in before the door closed and goes
    wrong after it counts as nothing. Each closing is one line of the log
    (`door_closed`) and counts in `closed_total`.
    """

    def __init__(self, settings: AbuseSettings | None, log: Any = None) -> None:
        self.closed_total = 0
        self._settings = settings
        self._log = structlog.get_logger("gateway.policy") if log is None else log
        self._records: OrderedDict[int, _Record] = OrderedDict()
        self._shut: OrderedDict[int, float] = OrderedDict()  # when each opens again

    def __repr__(self) -> str:
        return (
            f"<Doors remembered={len(self._records)} shut={len(self._shut)}"
            f" closed_total={self.closed_total}>"
        )

    def configure(self, settings: AbuseSettings | None) -> None:
        """Other figures from now on; None opens all doors."""
        self._settings = settings
        if settings is None:
            self._records.clear()
            self._shut.clear()

    def closed(self, key: int, now: float) -> int:
        """0, or the whole seconds after which the door is open again. Asked before anything else,
        so a request to a shut door counts as nothing.
        """
        open_at = self._shut.get(key)
        if open_at is None:
            return 0
        if now < open_at:
            return ceil(open_at - now)
        del self._shut[key]
        return 0

    def bad_credential(self, key: int, now: float) -> None:
        """An address came with a credential that is none."""
        settings = self._settings
        if settings is not None and not self.closed(key, now):
            record = self._record(settings, key, now)
            record.bad_credentials += 1
            if 0 < settings.bad_credentials <= record.bad_credentials:
                self._close(settings, record, key, "bad_credentials", now)

    def refused(self, key: int, now: float) -> None:
        """A request of an address was over a limit."""
        settings = self._settings
        if settings is not None and not self.closed(key, now):
            record = self._record(settings, key, now)
            record.refusals += 1
            if 0 < settings.refusals <= record.refusals:
                self._close(settings, record, key, "refusals", now)

    def _record(self, settings: AbuseSettings, key: int, now: float) -> _Record:
        record = self._records.get(key)
        if record is None:
            if len(self._records) >= MAX_ADDRESSES:
                self._records.popitem(last=False)
            record = self._records[key] = _Record(now)
        else:
            self._records.move_to_end(key)
        if now - record.since >= settings.window_seconds:
            record.since, record.bad_credentials, record.refusals = now, 0, 0
        if now - record.open_at >= settings.close_max_seconds:
            record.closings = 0
        return record

    def _close(
        self, settings: AbuseSettings, record: _Record, key: int, reason: str, now: float
    ) -> None:
        # Doubling is bounded before it is done: two to the power of all closings would be a number
        # of its own.
        doubled = settings.close_seconds * 2.0 ** min(record.closings, 64)
        seconds = min(doubled, settings.close_max_seconds)
        record.closings += 1
        record.since, record.bad_credentials, record.refusals = now, 0, 0
        record.open_at = now + seconds
        if len(self._shut) >= MAX_ADDRESSES:
            self._shut.popitem(last=False)
        self._shut[key] = record.open_at
        self.closed_total += 1
        self._log.warning(
            "door_closed",
            address=address_of(key),
            reason=reason,
            seconds=seconds,
            times=record.closings,
        )
