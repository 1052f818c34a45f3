"""A job's request as it is written to the gateway, and an answer as it is kept. Pure.

What an input may say about a request ends here: framing, identity and the gateway's own fields are
never an input's (RFC 9110 §7.6.1), a path stays behind its service's prefix, and an answer comes
without cookies, with a body that every JSON library can write again.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as BadBase64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote

import orjson

from gateway.errors import ERRORS
from gateway.jobs import failures
from gateway.jobs.models import JobContext, JobError, ServiceAnswer, ServiceRequest
from gateway.jobs.references import query_string

ERROR_FIELD: Final = "X-Gateway-Error"  # the gateway says so of its own errors, to workers only
MOST_TARGET: Final = 8000  # the gateway takes 8 KiB of a target
# orjson writes 254 levels, and a result lies some deep in what is kept of a job.
MOST_DEPTH: Final = 128
# An object is some 60 to 200 bytes in memory, whatever it is on the wire: `[{},{},…]` of 4 MiB
# would be 100 MB, for as long as the job is.
MOST_VALUES: Final = 200_000
_JSON: Final = "application/json"
_BYTES: Final = "application/octet-stream"
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\U0010ffff]*").fullmatch
_JSON_TYPE: Final = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.I).fullmatch
# What may stand in a path as it is (RFC 3986 §3.3), and in a query; %XX is the input's own.
_PATH_SAFE: Final = "/%:@!$&'()*+,;=-._~"
_REFUSED_METHODS: Final = frozenset(("CONNECT", "TRACE"))
# Never an input's: framing and hops, credentials, and what the gateway or this worker says itself.
_NOT_SENT: Final = frozenset(
    (
        "authorization", "proxy-authorization", "cookie", "connection", "keep-alive",
        "proxy-connection", "transfer-encoding", "content-length", "te", "trailer", "upgrade",
        "expect", "host", "forwarded", "via", "prefer", "accept-encoding", "idempotency-key",
        "x-api-key", "x-request-id", "x-correlation-id", "x-on-behalf-of", "traceparent",
        "tracestate", "x-real-ip", "x-user-id", "x-tenant-id", "x-user-tier",
    )
)  # fmt: skip
_NOT_SENT_PREFIXES: Final = ("x-gateway-", "x-forwarded-")
# Of an answer: hops and framing, cookies, and what is about this exchange rather than the answer.
_NOT_KEPT: Final = frozenset(
    (
        "set-cookie", "set-cookie2", "connection", "keep-alive", "proxy-connection",
        "transfer-encoding", "content-length", "trailer", "upgrade", "te", "proxy-authenticate",
        "www-authenticate", "alt-svc", "date", "x-request-id", "x-ratelimit-limit",
        "x-ratelimit-remaining", "x-ratelimit-reset", "ratelimit", "ratelimit-policy",
        "strict-transport-security", "x-gateway-error", "x-gateway-attempts",
    )
)  # fmt: skip
MOST_FIELDS_BYTES: Final = 16 << 10  # kept of an answer's head


class BadRequestError(ValueError):
    """An input makes no request; the text says why."""


@dataclass(frozen=True, slots=True)
class Received:
    """An answer. `refusal`: the gateway's own error, no answer of the service; `retry_after` is
    what either asked for, in seconds. `too_large`: it had a body, which is left out.
    """

    answer: ServiceAnswer
    refusal: JobError | None = None
    retry_after: int | None = None
    too_large: bool = False


def target_of(context: JobContext, request: ServiceRequest) -> str:
    """Path and query at the gateway, in ASCII. Raises BadRequestError."""
    if request.target is not None:
        target = request.target
    else:
        base = context.bases.get(request.service)
        if base is None:
            raise BadRequestError(f"there is no service {request.service[:64]!r}")
        path, _, query = request.path.partition("?")
        if not path.startswith("/"):
            path = "/" + path
        more = query_string(request.query)
        query = "&".join(filter(None, (query, more)))
        target = base + quote(path, safe=_PATH_SAFE)
        if query:
            target += "?" + quote(query, safe=_PATH_SAFE + "?")
    if not target.startswith("/") or not target.isascii() or not target.isprintable():
        raise BadRequestError("the request's target is no path")
    if " " in target or "#" in target:
        raise BadRequestError("the request's target has a blank or a fragment")
    if len(target) > MOST_TARGET:
        raise BadRequestError(f"the request's target is longer than {MOST_TARGET} characters")
    return target


def request_fields(request: ServiceRequest) -> dict[str, str]:
    """The input's header fields that go out. Raises BadRequestError.

    Host is the input's only where the gateway took the whole request over (`target`), as rows may
    ask for it.
    """
    method = request.method
    if not _TOKEN(method) or method.upper() in _REFUSED_METHODS:
        raise BadRequestError("the request's method is none that can be used")
    fields: dict[str, str] = {}
    for name, value in request.headers.items():
        if not _TOKEN(name) or not _VALUE(value):
            raise BadRequestError("a header field's name or value has characters it can't have")
        plain = re.sub(r"[^a-z0-9]", "-", name.lower())
        own_host = plain == "host" and request.target is not None
        if (plain in _NOT_SENT or plain.startswith(_NOT_SENT_PREFIXES)) and not own_host:
            continue
        fields[name] = value.strip(" \t")
    return fields


def body_of(request: ServiceRequest) -> tuple[bytes | None, str | None]:
    """The body, and its type where the input says none. Raises BadRequestError."""
    if request.body_base64 is not None:
        try:
            return b64decode(request.body_base64, validate=True), _BYTES
        except (BadBase64, ValueError):
            raise BadRequestError("body_base64 is not Base64 (RFC 4648 §4)") from None
    if request.body is None:
        return None, None
    asked = next(
        (text for name, text in request.headers.items() if name.lower() == "content-type"), _JSON
    )
    if isinstance(request.body, str) and not _JSON_TYPE(asked):
        return request.body.encode("utf-8", "replace"), asked
    try:
        return orjson.dumps(request.body), asked
    except TypeError:
        raise BadRequestError("the body is no JSON value, or nested too deep") from None


def read_answer(
    status: int, headers: Mapping[str, str], raw: bytes, wall_seconds: float
) -> Received:
    """An answer as it is kept, and whose it is."""
    patience = retry_after(headers.get("Retry-After"), wall_seconds)
    encoded = headers.get("Content-Encoding", "identity").lower() != "identity"
    body, body_base64 = (None, b64encode(raw).decode()) if encoded else _body(headers, raw)
    answer = ServiceAnswer(status, _kept(headers), body, body_base64)
    return Received(answer, _refusal(status, headers, body, patience), patience)


def error_of(
    members: Mapping[str, Any], status: int, patience_seconds: int | None = None
) -> JobError:
    """An error of the gateway's table, from its body."""
    code = members.get("code")
    message = members.get("message")
    told = members.get("status")
    retry = members.get("retry_after")
    code = code if isinstance(code, str) else "PROXY_ERROR"
    status = told if isinstance(told, int) else status
    return JobError(
        code,
        failures.short(message) if isinstance(message, str) else "refused",
        status=status,
        retry_after=retry if isinstance(retry, int) else patience_seconds,
        retryable=failures.kind_of_code(code, status).retryable,
    )


def retry_after(text: str | None, wall_seconds: float) -> int | None:
    """`Retry-After` in seconds from now (RFC 9110 §10.2.3: seconds or a date); None when there is
    none that can be read.
    """
    if text is None:
        return None
    word = text.strip()
    if word.isascii() and word.isdigit():
        return int(word[:9])
    try:
        at = parsedate_to_datetime(word)
    except (ValueError, OverflowError):
        return None
    left = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - wall_seconds
    return max(0, round(left))


def _refusal(
    status: int, headers: Mapping[str, str], body: Any, patience_seconds: int | None
) -> JobError | None:
    """The gateway's own error, if it is one: by its field. It has none where the gateway did not
    know the worker for one (a wrong SERVICE_TOKEN): then by the shape of the body, a code of the
    table with its status and the request's id.
    """
    if status < 400:
        return None
    members = body.get("error", body) if isinstance(body, dict) else None
    if not isinstance(members, Mapping):
        members = {}
    named = headers.get(ERROR_FIELD)
    if named is not None:
        return error_of({**members, "code": named}, status, patience_seconds)
    kind = ERRORS.get(str(members.get("code")))
    request_id = members.get("request_id")
    if kind is None or kind.status != status or request_id is None:
        return None
    if request_id != headers.get("X-Request-ID"):
        return None
    return error_of(members, status, patience_seconds)


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """The header fields of an answer that are kept, by lower-case names, those first that came
    first. Several of one name are joined (RFC 9110 §5.3).
    """
    named = {
        token.strip().lower() for token in headers.get("Connection", "").split(",") if token.strip()
    }
    kept: dict[str, str] = {}
    size = 0
    for name, value in headers.items():
        lower = name.lower()
        if lower in _NOT_KEPT or lower in named:
            continue
        size += len(lower) + len(value)
        if size > MOST_FIELDS_BYTES:
            break
        text = value.encode("utf-8", "replace").decode()
        kept[lower] = f"{kept[lower]}, {text}" if lower in kept else text
    return kept


def _body(headers: Mapping[str, str], raw: bytes) -> tuple[Any, str | None]:
    """The body as JSON, as text, or in Base64: the first that it is."""
    if not raw:
        return None, None
    if _JSON_TYPE(headers.get("Content-Type", "")) and _at_most_values(raw) <= MOST_VALUES:
        try:
            value = orjson.loads(raw)
        except orjson.JSONDecodeError:
            value = _NOT_JSON
        if value is not _NOT_JSON and not is_deep(value):
            return value, None
    try:
        return raw.decode(), None
    except UnicodeDecodeError:
        return None, b64encode(raw).decode()


_NOT_JSON: Final = object()


def _at_most_values(raw: bytes) -> int:
    """Not fewer than the JSON values in it; what stands in texts is counted too."""
    return 1 + raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def is_deep(value: Any) -> bool:
    """Whether a JSON value is nested deeper than what is kept may be."""
    level: list[Any] = [value]
    for _ in range(MOST_DEPTH):
        level = [below for each in level for below in _below(each)]
        if not level:
            return False
    return True


def _below(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
