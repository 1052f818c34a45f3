"""Which questions a list shows: whose inbox it is, and where its pages begin. Pure."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

import orjson

from sse.event import Refused, is_client_id
from sse.question import ANSWERER_SCOPE, READER_SCOPE, Caller, Question
from sse.question_store import Reach

ME: Final = "me"
_MAX_TOKEN_CHARACTERS: Final = 512


def reach(caller: Caller, *scopes: str) -> Reach:
    """What a caller sees or answers; with one of `scopes` everything."""
    everything = caller.open_read or READER_SCOPE in caller.scopes or caller.may(*scopes)
    return Reach(caller.subject, caller.scopes, caller.client_ids, everything)


def assignee_reach(caller: Caller, assignee: str | None) -> Reach | None:
    if not assignee:
        return None
    return reach(caller, ANSWERER_SCOPE) if assignee == ME else Reach(assignee)


def token_of(question: Question) -> str:
    place = orjson.dumps([question.ordinal, question.question_id])
    return urlsafe_b64encode(place).decode("ascii")


def place_of(token: str) -> tuple[int, str]:
    """What `token_of` wrote; raises Refused (BAD_REQUEST)."""
    try:
        if len(token) > _MAX_TOKEN_CHARACTERS:
            raise ValueError
        ordinal, question_id = orjson.loads(urlsafe_b64decode(token.encode("ascii")))
        if type(ordinal) is not int or abs(ordinal) >= 1 << 63 or not is_client_id(question_id):
            raise ValueError
    except (ValueError, TypeError):
        raise Refused("BAD_REQUEST", "page_token is none that this gateway gave.") from None
    return ordinal, question_id
