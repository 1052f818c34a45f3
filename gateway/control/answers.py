"""How a page of the gateway refuses: one exception, which the application turns into the answer."""

from __future__ import annotations

from dataclasses import replace

from gateway.errors import Rejection
from sse.event import Refused


class Failed(Exception):
    """The request is refused with an error of the table."""

    def __init__(
        self,
        rejection: Rejection,
        details: tuple[tuple[str, str], ...] = (),
        extra: dict[str, object] | None = None,
    ) -> None:
        """`details` are (JSON pointer, message) pairs, `extra` further members of the error."""
        super().__init__(rejection.message)
        self.rejection = replace(
            rejection,
            details=rejection.details + details,
            extra=rejection.extra + tuple((extra or {}).items()),
        )

    @classmethod
    def of(cls, refused: Refused) -> Failed:
        """A refusal of the event room."""
        return cls(Rejection(refused.code, refused.message), refused.details, refused.extra)
