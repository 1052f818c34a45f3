"""What was revoked before its end: ids of tokens (`jti`, RFC 7519 §4.1.7) and of API keys.

In memory, for one look-up a request. Where they are kept for all gateways is the store's matter,
whose poll is merged into this.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from typing import Final

from gateway.policy.identity import LEEWAY_SECONDS

# A token lives an hour or a day, so this is a mass revocation's size and not a day's. Some 250
# bytes each: 25 MB at worst.
MAX_REVOKED: Final = 100_000


class Revocations:
    """Ids, each until its credential has ended anyway.

    Past the bound those go first whose credentials end soonest, of which those that ended already
    are the first.
    """

    __slots__ = ("_bound", "_ends", "_order", "dropped")

    def __init__(self, bound: int = MAX_REVOKED) -> None:
        self._bound = bound
        self._ends: dict[str, float] = {}
        self._order: list[tuple[float, str]] = []  # a heap; an entry whose end grew stays behind
        self.dropped = 0  # ids that went for want of room, ended or not

    def __repr__(self) -> str:
        return f"<Revocations {len(self._ends)} dropped={self.dropped}>"

    def __len__(self) -> int:
        """How many are held."""
        return len(self._ends)

    def is_revoked(self, jti: str | None) -> bool:
        """Whether the credential with this id was revoked; one without an id can't be."""
        return jti in self._ends

    def revoke(self, jti: str, expires_at: float | None) -> None:
        """From now on refuse the credential with this id; `expires_at` is its own end in Unix
        seconds, None where it has none. The later of two ends counts.
        """
        end = math.inf if expires_at is None else expires_at
        before = self._ends.get(jti)
        if before is not None and before >= end:
            return
        if before is None and len(self._ends) >= self._bound:
            self._drop_soonest()
        self._ends[jti] = end
        heapq.heappush(self._order, (end, jti))
        if len(self._order) > 2 * self._bound:
            self._tidy()

    def merge(self, revoked: Mapping[str, float | None]) -> None:
        """Add what other gateways revoked. Nothing is taken back by it: a revocation of here may be
        younger than what was read.
        """
        for jti, expires_at in revoked.items():
            self.revoke(jti, expires_at)

    def forget_ended(self, wall_seconds: float) -> None:
        """Let go of what would be refused for its age by now, the leeway over."""
        while self._order and self._order[0][0] <= wall_seconds - LEEWAY_SECONDS:
            end, jti = heapq.heappop(self._order)
            if self._ends.get(jti) == end:
                del self._ends[jti]

    def _drop_soonest(self) -> None:
        while True:
            end, jti = heapq.heappop(self._order)
            if self._ends.get(jti) == end:
                del self._ends[jti]
                self.dropped += 1
                return

    def _tidy(self) -> None:
        """Let go of the entries that stayed behind, so that repeating an id takes no memory."""
        self._order = [(end, jti) for jti, end in self._ends.items()]
        heapq.heapify(self._order)
