"""What requests about jobs say: preferences, keys, seconds, arguments. Raises Failed (400)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import orjson
from aiohttp import web

from gateway.control.answers import Failed, body_of
from gateway.control.answers import identity_of as identity_of
from gateway.errors import Rejection
from gateway.jobs.listing import MOST_PAGE_SIZE, PAGE_SIZE
from gateway.policy.prefer import preferences
from sse.event import Refused
from sse.idempotency import read_key

# How long the start of a short kind waits for its end, where the caller does not say.
SHORT_SECONDS: Final = 30.0
# As for questions: proxies on the way give up later, as a rule.
MOST_SECONDS: Final = 300
MAX_ARGUMENT_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a caller prefers (RFC 7240): `wait` seconds at most, or no waiting."""

    wait: int | None
    respond_async: bool

    def seconds(self, usual: float) -> float:
        """How long to wait for the end. With both it is waited first (RFC 7240 §4.1)."""
        if self.wait is not None:
            return float(self.wait)
        return 0.0 if self.respond_async else usual

    @property
    def applied(self) -> dict[str, str]:
        """The Preference-Applied field: what was done as preferred."""
        parts = ["respond-async"] if self.respond_async else []
        if self.wait is not None:
            parts.append(f"wait={self.wait}")
        return {"Preference-Applied": ", ".join(parts)} if parts else {}


def wishes_of(request: web.Request) -> Wishes:
    """The Prefer fields; what can't be read of them is passed over."""
    found = preferences(request.headers.getall("Prefer", ()))
    wait = None if found.wait is None else min(found.wait, MOST_SECONDS)
    return Wishes(wait, found.respond_async)


def key_of(request: web.Request) -> str | None:
    """The Idempotency-Key."""
    fields = request.headers.getall("Idempotency-Key", ())
    if not fields:
        return None
    try:
        if len(fields) > 1:
            raise Refused("BAD_REQUEST", "There are several fields Idempotency-Key.")
        return read_key(fields[0].encode("utf-8", "surrogateescape"))
    except Refused as refused:
        raise Failed(Rejection(refused.code, refused.message)) from None


def fingerprint_of(*parts: str | bytes) -> str:
    """What is kept of a request to tell whether a repeat is the same."""
    digest = sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def address_of(request: web.Request) -> str:
    """The client's address, as the door found it."""
    return request.headers.get("X-Gateway-Client", "")


def agent_of(request: web.Request) -> str | None:
    """The AI agent that asks, by the name that figures have for it, as the door found it."""
    return request.headers.get("X-Gateway-Agent")


def page_size_of(request: web.Request) -> int:
    """`page_size`."""
    text = request.query.get("page_size", str(PAGE_SIZE))
    size = int(text) if text.isascii() and text.isdecimal() and len(text) < 5 else 0
    if not 1 <= size <= MOST_PAGE_SIZE:
        message = f"page_size is a whole number from 1 to {MOST_PAGE_SIZE}."
        raise Failed(Rejection("BAD_REQUEST", message))
    return size


def seconds_of(request: web.Request, name: str) -> float:
    """A number of seconds in the query, from 0; none is 0, and a large one is the most."""
    text = request.query.get(name)
    if text is None:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        message = f"{name} is a number of seconds, from 0; at most {MOST_SECONDS} are waited."
        raise Failed(Rejection("BAD_REQUEST", message))
    return min(seconds, MOST_SECONDS)


async def no_body(request: web.Request) -> None:
    """Nothing, or an empty object, as some clients send with every POST."""
    value = await _value(request)
    if value not in (None, {}):
        raise Failed(Rejection("BAD_REQUEST", "This takes no body."))


async def arguments_of(request: web.Request) -> list[Any]:
    """The argument of a signal or update: the body, any JSON value; without one none."""
    value = await _value(request)
    return [] if value is None else [value]


async def _value(request: web.Request) -> Any:
    body = await body_of(request, MAX_ARGUMENT_BYTES)
    if not body.strip():
        return None
    try:
        value = orjson.loads(body)
        orjson.dumps(value)  # what is nested too deep for a history
    except (orjson.JSONDecodeError, TypeError):
        raise Failed(Rejection("BAD_REQUEST", "The body is not JSON (RFC 8259).")) from None
    return value
