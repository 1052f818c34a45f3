"""What requests below `/admin` say: bodies and queries, held to the shapes of the OpenAPI document.

Everything that is wrong with a body is told at once, by JSON pointers (RFC 6901). What a value of a
right shape means (which service, which endpoint) is not known here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import orjson
from aiohttp import web

from gateway.control.admin_desk import LimitRow
from gateway.control.answers import Failed, body_of
from gateway.errors import Rejection

# A URL, a pattern and a few figures: nothing here is longer than the texts below.
MAX_BODY_BYTES: Final = 16_384
MAX_URL_CHARACTERS: Final = 2048
MAX_PATTERN_CHARACTERS: Final = 1024
MAX_NAME_CHARACTERS: Final = 255  # as a subject or a tenant in a token
MAX_WEIGHT: Final = 1000
MAX_REQUESTS: Final = 1_000_000_000
LAST_SECOND: Final = 253_402_300_799  # 9999-12-31T23:59:59Z, as for the claims of a token

_MISSING: Final = object()
_VISIBLE = re.compile(r"[\x21-\x7e]+").fullmatch


class Member(NamedTuple):
    """A member of a body: `read` gives the value or raises ValueError, whose text says what was
    expected. Without `needed` it may be missing, and is `default` then.
    """

    read: Callable[[Any], Any]
    needed: bool = True
    default: object = None


def text(most: int) -> Callable[[Any], str]:
    """A text of 1 to `most` characters that a log line can hold as it is."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= most or not value.isprintable():
            raise ValueError(f"expected a text of 1 to {most} printable characters")
        return value

    return read


def url(value: Any) -> str:
    """A text that may be a URL; whether it is one, is found out where endpoints are known."""
    if not isinstance(value, str) or not _VISIBLE(value) or len(value) > MAX_URL_CHARACTERS:
        raise ValueError(f"expected a URL of at most {MAX_URL_CHARACTERS} characters")
    return value


def pattern(value: Any) -> str:
    """A text that may be a pattern of paths."""
    if (
        not isinstance(value, str)
        or not _VISIBLE(value)
        or not value.startswith("/")
        or len(value) > MAX_PATTERN_CHARACTERS
    ):
        raise ValueError(
            f"expected a path pattern such as /api/v1/search*, of {MAX_PATTERN_CHARACTERS}"
            " visible ASCII characters at most"
        )
    return value


def whole(least: int, most: int) -> Callable[[Any], int]:
    """A whole number; 1.0 is none, and neither is true."""

    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"expected a whole number from {least} to {most}")
        return value

    return read


def or_null(inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same, or null."""
    return lambda value: None if value is None else inner(value)


def word(*allowed: str) -> Callable[[Any], str]:
    """One of these."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError("expected " + " or ".join(allowed))
        return value

    return read


def moment(value: Any) -> float:
    """A time in Unix seconds, as the `exp` of a token (RFC 7519 §2: NumericDate)."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not 0 < value <= LAST_SECOND:
        raise ValueError("expected a time in Unix seconds, as the exp claim of a token")
    return float(value)


async def members(
    request: web.Request, wanted: Mapping[str, Member], given: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The members of the request's body; raises Failed with all that is wrong.

    Where there is no body and `given` (the query) says something, that is taken instead.
    """
    body = await body_of(request, MAX_BODY_BYTES)
    if not body and given:
        return _checked(dict(given), wanted)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        message = f"The body is not JSON (RFC 8259): {error.msg}, line {error.lineno}."
        raise Failed(Rejection("BAD_REQUEST", message)) from None
    if not isinstance(value, dict):
        raise wrong(("", "expected an object"))
    return _checked(value, wanted)


def _checked(value: dict[str, Any], wanted: Mapping[str, Member]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    errors: list[tuple[str, str]] = []
    for name, member in wanted.items():
        said = value.get(name, _MISSING)
        if said is _MISSING:
            found[name] = member.default
            if member.needed:
                errors.append((f"/{name}", "is missing"))
            continue
        try:
            found[name] = member.read(said)
        except ValueError as error:
            errors.append((f"/{name}", str(error)))
    # The first few are enough to see what it was taken for.
    unknown = [name for name in value if name not in wanted][:8]
    errors += [(f"/{_escaped(name)}", "is unknown here") for name in unknown]
    if errors:
        raise wrong(*errors)
    return found


def _escaped(name: str) -> str:
    """A name as a token of a JSON pointer (RFC 6901 §3), shortened."""
    return name[:64].replace("~", "~0").replace("/", "~1")


def wrong(*errors: tuple[str, str]) -> Failed:
    """The refusal of a body of the wrong shape: (pointer, message) pairs."""
    return Failed(Rejection("UNPROCESSABLE", "The body is not as it must be."), errors)


_REQUESTS = Member(or_null(whole(1, MAX_REQUESTS)), needed=False)
_TENANT = Member(or_null(text(MAX_NAME_CHARACTERS)), needed=False)

ENDPOINT: Final = {"url": Member(url)}
NEW_ENDPOINT: Final = {
    "url": Member(url),
    "weight": Member(whole(1, MAX_WEIGHT), needed=False, default=1),
}
BREAKER: Final = {"state": Member(word("open", "closed"))}
RULE_NAME: Final = {"tenant": _TENANT, "pattern": Member(pattern)}
RULE: Final = RULE_NAME | {
    "requests_per_minute": _REQUESTS,
    "requests_per_hour": _REQUESTS,
    "requests_per_day": _REQUESTS,
}
REVOKED: Final = {
    "jti": Member(text(MAX_NAME_CHARACTERS), needed=False),
    "key_id": Member(text(MAX_NAME_CHARACTERS), needed=False),
    "expires_at": Member(moment, needed=False),
}


async def limit_row(request: web.Request) -> LimitRow:
    """The row that a body sets; it must limit something."""
    row = LimitRow(**await members(request, RULE))
    if row.requests_per_minute is row.requests_per_hour is row.requests_per_day is None:
        names = "requests_per_minute, requests_per_hour, requests_per_day"
        raise wrong(("", f"expected one of {names} at least"))
    return row


async def revoked(request: web.Request) -> tuple[str, str, float | None]:
    """What is to be refused: `jti` or `key_id`, its value, and until when (Unix seconds; None: for
    ever).

    A token must say when it would end, or it would be taken again when its entry is forgotten; an
    API key has no end.
    """
    found = await members(request, REVOKED)
    kinds = [kind for kind in ("jti", "key_id") if found[kind] is not None]
    if len(kinds) != 1:
        raise wrong(("", "expected one of jti and key_id"))
    expires_at: float | None = found["expires_at"]
    if expires_at is None and kinds == ["jti"]:
        raise wrong(("/expires_at", "is missing: the exp claim of the token"))
    return kinds[0], found[kinds[0]], expires_at
