"""What the hub needs of others: of the connection to other gateways, of whoever keeps questions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sse.stream import OpenQuestion


class Backplane(Protocol):
    """What the hub asks of the connection to other gateways."""

    def watch(self, client_id: str) -> None:
        """There are readers here; leads to `Hub.replace` or `Hub.go_local`."""

    def verify(self, client_id: str) -> None:
        """A reader names what is not known here; leads to the same two."""

    def unwatch(self, client_id: str) -> None:
        """There are none any more."""


class QuestionSource(Protocol):
    """Where the open questions of a client id come from; `deliver` may be called at once."""

    def open_for(
        self, client_id: str, deliver: Callable[[list[OpenQuestion]], None], /
    ) -> None: ...

    def resent(self, question_id: str, client_id: str, user: str | None, /) -> None: ...
