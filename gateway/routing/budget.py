"""How many retries a service gets: a share of what is asked of it anyway. Pure.

Envoy's retry budget: retries under way are at most 20 % of the active requests, and 3 are always
allowed. So when a back end fails as a whole, retrying adds a fifth to its load, not a multiple.
"""

from __future__ import annotations

from typing import Final

SHARE: Final = 0.2
FLOOR: Final = 3


class RetryBudget:
    """One service's. Each retry that was allowed is given back once with `retry_over`."""

    __slots__ = ("_floor", "_share", "refused", "retries")

    def __init__(self, share: float = SHARE, floor: int = FLOOR) -> None:
        self._share = share
        self._floor = floor
        self.retries = 0  # under way
        self.refused = 0  # since the start

    def __repr__(self) -> str:
        return f"<RetryBudget retries={self.retries} refused={self.refused}>"

    def may_retry(self, active: int) -> bool:
        """Whether one more retry may begin, `active` requests of the service being under way; when
        it may, it counts as begun.
        """
        if self.retries >= max(self._floor, int(active * self._share)):
            self.refused += 1
            return False
        self.retries += 1
        return True

    def retry_over(self) -> None:
        """A retry that was allowed has ended, however."""
        self.retries -= 1
