"""How a page of the gateway refuses: one exception, which the application turns into the answer."""

from __future__ import annotations

from dataclasses import replace

from aiohttp import web

from gateway.errors import Rejection
from sse.event import is_client_id


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


def client_id_of(request: web.Request) -> str:
    """The client id in the path; raises Failed when it is none."""
    client_id = request.match_info["client_id"]
    if not is_client_id(client_id):
        message = "a client id is 1 to 128 of the characters A-Z a-z 0-9 . _ ~ : @ -"
        raise Failed(Rejection("BAD_REQUEST", message))
    return client_id
