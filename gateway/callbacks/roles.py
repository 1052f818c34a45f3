"""The words in which the worker, the makers of requests and the database speak to each other."""

from __future__ import annotations

from typing import Protocol

from gateway.callbacks.sending import Outgoing
from gateway.store.deliveries import Delivery


class Hopeless(Exception):
    """A delivery that no retry will help; the text goes into the audit trail."""


class Requests(Protocol):
    """Makes the requests of one kind of delivery."""

    def destination(self, delivery: Delivery) -> str:
        """What deliveries to one place are counted by; no secret is in it."""
        ...

    def request(self, delivery: Delivery, wall_seconds: float) -> Outgoing:
        """The request of one attempt; raises NotSent or Hopeless when there can be none."""
        ...
