"""A client id with readers here, as the backplane sees it: how far it is. Pure.

It goes through three states. *Subscribing*: SUBSCRIBE was sent and not confirmed yet. *Loading*:
nudges are kept aside while the history is asked for, so that nothing falls between the two. *Live*:
nudges go straight to the hub. A gap, another epoch or a lost connection leads back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Final

# How many times `Times.join` new readers wait more while Redis answers others.
PATIENCE: Final = 4


class State(Enum):
    """How far a client id is."""

    SUBSCRIBING = "subscribing"
    LOADING = "loading"
    LIVE = "live"


class Watched:
    """A client id with readers here."""

    __slots__ = (
        "client_id", "epoch", "heard_at", "held", "parked", "patience", "readers", "seq", "state",
        "turn", "verified", "visited_at",
    )  # fmt: skip

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.state = State.SUBSCRIBING
        self.turn = 0  # goes up whenever a history asked for before must not be taken any more
        self.parked = True  # readers wait for the history
        self.patience = PATIENCE
        self.verified = 0  # since the last load: how often a reader asked for another
        self.epoch = ""  # where the history here stands, as far as it is Redis's
        self.seq = 0
        self.held: deque[tuple[str, int, Sequence[bytes]]] = deque()  # nudges while loading
        self.heard_at = 0.0  # monotonic seconds of the last nudge
        self.visited_at = 0.0
        self.readers = 0  # how many Redis was told of

    def __repr__(self) -> str:
        return f"<{self.client_id} {self.state.value} {self.epoch}-{self.seq}>"
