"""What the pages of the gateway have in common: who asks, the body that came, and how one refuses
(an exception, which the application turns into the answer).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from aiohttp import web

from gateway.errors import Rejection
from gateway.policy.auth import Identity
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


def identity_of(request: web.Request) -> Identity:
    """Who the door says it is; where it says nothing, nobody."""
    field = request.headers.get("X-Gateway-Identity")
    return _NOBODY if field is None else _decoded(field)


@lru_cache(maxsize=1024)
def _decoded(field: str) -> Identity:
    """The same few callers come again and again; an identity never changes."""
    return Identity.decode(field)


_NOBODY = Identity()


async def body_of(request: web.Request, most_bytes: int) -> bytes:
    """The whole body; raises Failed when it has more than `most_bytes`."""
    pieces: list[bytes] = []
    size = request.content_length or 0
    if size <= most_bytes:
        size = 0
        while size <= most_bytes:
            whole = request.content.is_eof()  # small ones come with the head
            piece = request.content.read_nowait() if whole else await request.content.readany()
            pieces.append(piece)
            size += len(piece)
            if whole or not piece:
                break
    if size > most_bytes:
        message = f"this body has more than {most_bytes} bytes"
        raise Failed(Rejection("PAYLOAD_TOO_LARGE", message))
    return b"".join(pieces)
