"""Which endpoint of a service takes the next request. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

EndpointT = TypeVar("EndpointT")


class RoundRobin(Generic[EndpointT]):
    """Each endpoint in turn."""

    __slots__ = ("_endpoints", "_next")

    def __init__(self, endpoints: Sequence[EndpointT]) -> None:
        """`endpoints` must not be empty (ValueError)."""
        if not endpoints:
            raise ValueError("a service needs an endpoint")
        self._endpoints = tuple(endpoints)
        self._next = 0

    def pick(self) -> EndpointT:
        """The endpoint whose turn it is."""
        at = self._next
        self._next = at + 1 if at + 1 < len(self._endpoints) else 0
        return self._endpoints[at]
