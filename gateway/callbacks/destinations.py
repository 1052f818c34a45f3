"""Whose turn it is: deliveries that are leased, by where they go. Pure: time comes in, what is to
be done comes out.

Rows come from the database oldest first, and a receiver that is down has many old ones. It must not
hold up the others: a destination has a bound of its own, and while it does not answer just one
delivery at a time tries it; the rest are put off at once and make room.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field

from gateway.store.deliveries import Delivery

AT_ONCE = 16  # deliveries under way: enough for hundreds a second to receivers that answer at once
PER_DESTINATION = 4  # of these to one place
MOST_WAITING = 256  # leased and waiting: payloads are at most some 100 KiB, so 25 MiB
SILENT_SECONDS = 60.0  # how long a failure to answer is held against a destination
MOST_SILENT = 1000  # destinations remembered so; the oldest are forgotten first


@dataclass(frozen=True, slots=True)
class Turn:
    """What is to be done now: send these, put those off."""

    send: list[tuple[str, Delivery]] = field(default_factory=list)
    put_off: list[tuple[str, Delivery]] = field(default_factory=list)


class Destinations:
    """What is under way and what waits.

    `patience_seconds`: a row that waited longer is let go, and its lease ends by itself. So those
    of a place that answers slowly do not keep all the room, and another gateway may take them.
    """

    def __init__(self, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._sending: Counter[str] = Counter()
        self._waiting: dict[str, deque[tuple[float, Delivery]]] = {}
        self._silent: dict[str, float] = {}  # until when

    def __repr__(self) -> str:
        waiting = sum(map(len, self._waiting.values()))
        silent = len(self._silent)
        return f"<Destinations sending={self._sending.total()} waiting={waiting} silent={silent}>"

    @property
    def room(self) -> int:
        """How many more rows may be leased now."""
        waiting = sum(map(len, self._waiting.values()))
        return min(AT_ONCE, MOST_WAITING - waiting) if self._sending.total() < AT_ONCE else 0

    @property
    def waiting(self) -> set[str]:
        """The ids of the rows that wait."""
        return {delivery.id for queue in self._waiting.values() for _, delivery in queue}

    def add(self, destination: str, delivery: Delivery, now: float) -> None:
        """A leased row."""
        self._waiting.setdefault(destination, deque()).append((now, delivery))

    def turn(self, now: float) -> Turn:
        """What to do now; what is to be sent counts as under way from here on."""
        turn = Turn()
        for destination in list(self._waiting):
            queue = self._waiting[destination]
            silent = self._silent.get(destination, 0.0) > now
            while queue:
                leased_at, delivery = queue[0]
                if now - leased_at < self._patience_seconds:
                    if self._may_send(destination, silent=silent):
                        self._sending[destination] += 1
                        turn.send.append((destination, delivery))
                    elif silent:
                        turn.put_off.append((destination, delivery))
                    else:
                        break
                queue.popleft()
            if not queue:
                del self._waiting[destination]
        return turn

    def _may_send(self, destination: str, *, silent: bool) -> bool:
        bound = 1 if silent else PER_DESTINATION
        return self._sending[destination] < bound and self._sending.total() < AT_ONCE

    def ended(self, destination: str, now: float, *, answered: bool) -> None:
        """A delivery is over; `answered`: there was a status, whichever."""
        self._sending[destination] -= 1
        if not self._sending[destination]:
            del self._sending[destination]
        self._silent.pop(destination, None)
        if not answered:
            if len(self._silent) >= MOST_SILENT:
                del self._silent[next(iter(self._silent))]
            self._silent[destination] = now + SILENT_SECONDS

    def forget(self, ids: Collection[str]) -> None:
        """Rows that wait no more: another has leased them."""
        for destination, queue in list(self._waiting.items()):
            left = deque(each for each in queue if each[1].id not in ids)
            if left:
                self._waiting[destination] = left
            else:
                del self._waiting[destination]

    def give_back(self) -> Collection[Delivery]:
        """All that waits, at the end."""
        left = [delivery for queue in self._waiting.values() for _, delivery in queue]
        self._waiting.clear()
        return left
