"""The paths of questions: asking, answering, the inbox, waiting. Thin: what happens is in `sse`.

A GET never answers: mail scanners and browsers fetch links before anyone looks at them.
"""

from __future__ import annotations

import math
from functools import wraps

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.control.answers import Failed, body_of, client_id_of, identity_of
from gateway.control.state import STATE
from gateway.errors import Rejection
from gateway.policy.auth import Identity, forbidden, unauthorized
from sse.answer_body import MAX_BODY_BYTES
from sse.event import Refused
from sse.questions import PAGE_SIZE, WAIT_SECONDS, Questions

_JSON = {"Content-Type": "application/json", "Cache-Control": "no-store"}
_PATH = "/api/v1/questions"
_CLIENT_PATH = "/api/v1/events/{client_id}"
# Repeating at once would meet the same database.
_RETRY_SECONDS = 1
_RETRIED = frozenset(("SERVICE_UNAVAILABLE", "TIMEOUT", "OVERLOADED"))


def routes() -> list[web.RouteDef]:
    """All paths about questions."""
    return [
        web.post(_PATH, _told(ask)),
        web.get(_PATH, _told(inbox)),
        web.get(f"{_PATH}/{{question_id}}", _told(one)),
        web.delete(f"{_PATH}/{{question_id}}", _told(withdraw)),
        web.post(f"{_PATH}/{{question_id}}/response", _told(answer)),
        web.get(f"{_PATH}/{{question_id}}/wait", _told(wait), allow_head=False),
        web.post(f"{_CLIENT_PATH}/response", _told(answer_for_client)),
        web.get(f"{_CLIENT_PATH}/questions", _told(inbox_of_client)),
    ]


async def ask(request: web.Request) -> web.Response:
    """201 with the question; 200 when it was asked before with the same body."""
    caller = _writer(request)
    if not caller.may("questions:ask", "events:write", "internal"):  # jobs ask as their worker
        raise Failed(forbidden("this credential may not ask", "questions:ask events:write"))
    body = await body_of(request, MAX_BODY_BYTES)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        text = f"The question is not JSON (RFC 8259): {error.msg}, line {error.lineno}."
        raise Failed(Rejection("BAD_REQUEST", text)) from None
    question, is_new = await _questions(request).ask(caller, value)
    headers = _JSON | {"Location": f"{_PATH}/{question.question_id}"}
    return web.Response(body=question.data, status=201 if is_new else 200, headers=headers)


async def answer(request: web.Request) -> web.Response:
    """200 with the decision, or with how many votes are missing."""
    caller = _writer(request)
    body = await body_of(request, MAX_BODY_BYTES)
    question_id = request.match_info["question_id"]
    answered = await _questions(request).answer(
        caller, _address(request), question_id, body, _key(request)
    )
    return _answered(answered.body, replayed=answered.replayed)


async def answer_for_client(request: web.Request) -> web.Response:
    """The same for a question that is shown to a client id."""
    client_id = client_id_of(request)
    caller = _writer(request)
    body = await body_of(request, MAX_BODY_BYTES)
    answered = await _questions(request).answer_for_client(
        caller, _address(request), client_id, body, _key(request)
    )
    return _answered(answered.body, replayed=answered.replayed)


async def inbox(request: web.Request) -> web.Response:
    """A page of what the caller may see."""
    caller = _reader(request)
    query = request.query
    body = await _questions(request).list(
        caller,
        status=query.get("status", "open"),
        assignee=query.get("assignee"),
        page_token=query.get("page_token") or None,
        page_size=_page_size(request),
    )
    return web.Response(body=body, headers=_JSON)


async def inbox_of_client(request: web.Request) -> web.Response:
    """A page of the open questions of a client id."""
    client_id = client_id_of(request)
    caller = _reader(request)
    body = await _questions(request).list(
        caller,
        page_token=request.query.get("page_token") or None,
        page_size=_page_size(request),
        client_id=client_id,
    )
    return web.Response(body=body, headers=_JSON)


async def one(request: web.Request) -> web.Response:
    """A question with its answer, votes and audit trail."""
    caller = _reader(request)
    body = await _questions(request).get(caller, request.match_info["question_id"])
    return web.Response(body=body, headers=_JSON)


async def withdraw(request: web.Request) -> web.Response:
    """200 with the question, also when it was withdrawn before."""
    caller = _writer(request)
    body = await _questions(request).withdraw(caller, request.match_info["question_id"])
    return web.Response(body=body, headers=_JSON)


async def wait(request: web.Request) -> web.Response:
    """200 with the question when it has ended, 202 when the time ran out before."""
    caller = _reader(request)
    body, ended = await _questions(request).wait(
        caller, request.match_info["question_id"], _timeout_seconds(request)
    )
    return web.Response(body=body, status=200 if ended else 202, headers=_JSON)


# What a request says


def _questions(request: web.Request) -> Questions:
    return request.app[STATE].questions


def _reader(request: web.Request) -> Identity:
    """The caller, if reading is open to him at all."""
    identity = identity_of(request)
    if identity.subject is None and not identity.open_read:
        raise Failed(unauthorized())
    return identity


def _writer(request: web.Request) -> Identity:
    """The caller, if writing is open to him at all."""
    identity = identity_of(request)
    if identity.subject is None and not identity.open_write:
        raise Failed(unauthorized())
    return identity


def _address(request: web.Request) -> str:
    return request.headers.get("X-Gateway-Client", "")


def _key(request: web.Request) -> bytes | None:
    """The field as it came: whether it is a key is looked at in its turn."""
    field = request.headers.get("Idempotency-Key")
    return None if field is None else field.encode("utf-8", "surrogateescape")


def _page_size(request: web.Request) -> int:
    text = request.query.get("page_size")
    if text is None:
        return PAGE_SIZE
    if not text.isascii() or not text.isdecimal() or len(text) > 4:
        raise Failed(Rejection("BAD_REQUEST", "page_size is a whole number from 1 to 200."))
    return int(text)


def _timeout_seconds(request: web.Request) -> float:
    text = request.query.get("timeout")
    if text is None:
        return WAIT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise Failed(Rejection("BAD_REQUEST", "timeout is a number of seconds, 0 to 300."))
    return seconds


# What it is answered


def _answered(body: bytes, *, replayed: bool) -> web.Response:
    headers = _JSON | {"Idempotent-Replayed": "true"} if replayed else _JSON
    return web.Response(body=body, headers=headers)


def _told(handler: Handler) -> Handler:
    """A handler whose refusals are told as errors of the table."""

    @wraps(handler)
    async def telling(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refused as refused:
            retry = _RETRY_SECONDS if refused.code in _RETRIED else None
            rejection = Rejection(refused.code, refused.message, retry)
            raise Failed(rejection, refused.details, refused.extra) from None

    return telling
