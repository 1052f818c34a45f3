"""Header fields in rows of a route table: conditions on them, and changes to them.

What the gateway sets or decides itself can't be changed by a row, nor asked for by a condition: the
names are here, and a test compares them with `edge/headers.py`, which sorts fields by them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from gateway.settings_route_rows import HeaderChanges, HeaderCondition
from gateway.settings_values import Value, words

MAX_VALUE: Final = 4096  # characters; half of a header line

# RFC 9110 §5.6.2 less what back ends take for `-` (`X_User_ID` is X-User-ID to many).
_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,128}")
# RFC 9110 §5.5 without obs-text: visible characters, blanks between them; never a line end.
_VALUE: Final = re.compile(r"(?:[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)?")

_EVERYWHERE: Final = (
    "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization",
    "te", "trailer", "transfer-encoding", "upgrade", "content-length", "x-request-id",
)  # fmt: skip
_NEVER_IN_REQUESTS: Final = frozenset((
    *_EVERYWHERE, "host", "expect", "http2-settings", "forwarded", "x-real-ip", "via",
    "x-correlation-id", "traceparent", "tracestate", "x-user-id", "x-tenant-id", "x-user-tier",
    "x-on-behalf-of",
))  # fmt: skip
_NEVER_IN_RESPONSES: Final = frozenset((
    *_EVERYWHERE, "date", "alt-svc", "ratelimit", "ratelimit-policy",
))  # fmt: skip
_REQUEST_FAMILIES: Final = ("x-forwarded-", "x-gateway-")
_RESPONSE_FAMILIES: Final = ("access-control-", "x-ratelimit-", "x-gateway-")
_EXPECTED_CHANGES: Final = "a table of set, add and remove"


def conditions(value: Value) -> tuple[HeaderCondition, ...]:
    """`{ "X-Beta" = true, "X-Version" = "2" }`: present, and equal to."""
    found: dict[str, HeaderCondition] = {}
    for name, item in _table(value, "a table of fields, such as { X-Version = '2' }").items():
        lower = _field_name(item, name).lower()
        if is_own_request_field(lower):
            raise item.error("is none that a row can ask for", "another field")
        if lower in found:
            raise item.error("is there twice", "one condition for a field")
        if item.raw is not True and not isinstance(item.raw, str):
            raise item.wrong("true (the field is there) or the text it is equal to")
        found[lower] = HeaderCondition(lower, None if item.raw is True else _text(item))
    return tuple(sorted(found.values(), key=lambda condition: condition.name))


def request_changes(value: Value) -> HeaderChanges:
    """Changes to what the service gets."""
    return _changes(value, is_own_request_field)


def response_changes(value: Value) -> HeaderChanges:
    """Changes to what the client gets of the service's answer."""
    return _changes(value, is_own_response_field)


def is_own_request_field(lower: str) -> bool:
    """Hop-by-hop, framing, Host, forwarding, identity, ids: the gateway's alone."""
    return lower in _NEVER_IN_REQUESTS or lower.startswith(_REQUEST_FAMILIES)


def is_own_response_field(lower: str) -> bool:
    """Hop-by-hop, framing, request id, limit and CORS fields: the gateway's alone."""
    return lower in _NEVER_IN_RESPONSES or lower.startswith(_RESPONSE_FAMILIES)


def _changes(value: Value, is_own: Callable[[str], bool]) -> HeaderChanges:
    table = _table(value, _EXPECTED_CHANGES)
    for key, item in table.items():
        if key not in ("set", "add", "remove"):
            raise item.error("is unknown", _EXPECTED_CHANGES)
    said: dict[str, str] = {}

    def checked(item: Value, name: str) -> str:
        """A name that may be changed, and is not changed twice."""
        lower = _field_name(item, name).lower()
        if is_own(lower):
            raise item.error(f"changes {name}, which is the gateway's own", "another field")
        if lower in said:
            raise item.error(f"changes {name} again", "one change of a field")
        said[lower] = name
        return name

    pairs = {
        key: tuple(
            (checked(item, name), _text(item))
            for name, item in _table(table[key], 'fields, such as { X-Tier = "2" }').items()
        )
        for key in ("set", "add")
        if key in table
    }
    removed: tuple[str, ...] = ()
    if "remove" in table:
        removed = tuple(checked(table["remove"], name) for name in words(table["remove"]))
    return HeaderChanges(pairs.get("set", ()), pairs.get("add", ()), removed)


def _table(value: Value, expected: str) -> Mapping[str, Value]:
    if not isinstance(value.raw, dict):
        raise value.wrong(expected)
    return {name: item for name, item in value.raw.items() if name}


def _field_name(item: Value, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise item.error(f"names the field {name!r}", "letters, digits and -")
    return name


def _text(item: Value) -> str:
    if not isinstance(item.raw, str) or not _VALUE.fullmatch(item.raw):
        raise item.error("is no field value", "a text of visible ASCII in one line")
    if len(item.raw) > MAX_VALUE:
        raise item.error(f"has {len(item.raw)} characters", f"at most {MAX_VALUE}")
    return item.raw
