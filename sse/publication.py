"""What a publisher sends: the body of a publication becomes events, or a refusal. Pure.

One event `{"event_type", "data"}` or a list of them; a list is taken whole or not at all. Not here:
who may publish, how often, and what becomes of the events (hub, backplane, questions).

JSON is RFC 8259 as orjson reads it, and written anew, compact: so a frame has one data line, and
clients get each number as far as 64-bit integers and doubles keep it. Beyond those: a whole number
outside -2**63 ... 2**64 - 1 becomes the nearest double, one outside the doubles (1e400) is refused,
of members with the same name the last one counts (both as RFC 8259 §6 and §4 leave open), and
nesting ends at 254 levels, which is as deep as orjson writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson

from sse.event import (
    MAX_DATA_BYTES,
    NewEvent,
    Refused,
    envelope,
    is_event_type,
    is_reserved,
    timestamp,
    uuid7,
)

MAX_BODY_BYTES: Final = 1 << 20
MAX_EVENTS: Final = 100
# What an error tells at most: who gets that many wrong sends another format, not a slip.
MAX_DETAILS: Final = 20
# A longer name of a member is not repeated in an error, which would grow with it.
_NAME_CHARACTERS: Final = 128

# Bytes of a data line besides the event's type and data: they are the same for every event.
_AROUND: Final = len(b"data: ") + len(envelope(NewEvent("", b""), uuid7(0.0), timestamp(0.0)))
_ROOM: Final = MAX_DATA_BYTES - _AROUND

_FORM: Final = (
    'Send one event, {"event_type": "run.progress", "data": …}, or a list of 1 to 100 of them.'
)
_NAME_FORM: Final = "a type is 1 to 64 of a-z, 0-9, '_', '.' and '-'"
_ONLY: Final = "an event has event_type and data, and what is yours goes into data"
_KINDS: Final = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    type(None): "null",
    int: "a number",
    float: "a number",
}

Detail = tuple[str, str]


def read(body: bytes, *, internal: bool) -> list[NewEvent]:
    """The events of a publication, in order; `internal`: the publisher may use reserved types.

    Raises Refused, for the whole body: BAD_REQUEST when it is not JSON, UNPROCESSABLE when it is
    not events, PAYLOAD_TOO_LARGE when it or the data line of an event (`data: ` and the envelope,
    without the line end) is too long. Of several the first in this order is said.
    """
    if len(body) > MAX_BODY_BYTES:
        text = f"A publication has at most {MAX_BODY_BYTES} bytes, this one {len(body)}; split it."
        raise Refused("PAYLOAD_TOO_LARGE", _message("", text), (("", text),))
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _not_json(body, error) from None
    if type(value) is not list:
        event = _event(value, internal)
        if event is None:
            raise _refusal([value], [""], internal)
        return [event]
    if not 1 <= len(value) <= MAX_EVENTS:
        text = f"A list holds 1 to {MAX_EVENTS} events, this one {len(value)}."
        raise Refused("UNPROCESSABLE", _message("", text), (("", text),))
    events: list[NewEvent] = []
    for member in value:
        event = _event(member, internal)
        if event is None:
            raise _refusal(value, [f"/{index}" for index in range(len(value))], internal)
        events.append(event)
    return events


def _event(value: object, internal: bool) -> NewEvent | None:
    """The event that `value` is; None when anything is wrong, which `_refusal` then looks for."""
    if type(value) is not dict:
        return None
    event_type = value.get("event_type")
    if type(event_type) is not str or is_event_type(event_type) is None:
        return None
    if len(value) != 1 and (len(value) != 2 or "data" not in value):
        return None
    if not internal and is_reserved(event_type):
        return None
    try:
        data = orjson.dumps(value.get("data"))
    except TypeError:
        return None
    if len(data) + len(event_type) > _ROOM:
        return None
    return NewEvent(event_type, data)


def _refusal(values: Sequence[object], pointers: Sequence[str], internal: bool) -> Refused:
    """What is wrong with these would-be events, which stand at these JSON pointers (RFC 6901)."""
    deep: list[Detail] = []
    wrong: list[Detail] = []
    large: list[Detail] = []
    for value, at in zip(values, pointers, strict=True):
        wrong += _faults(value, at, internal, MAX_DETAILS - len(wrong))
        if type(value) is not dict:
            continue
        try:
            size = _AROUND + len(orjson.dumps(value.get("data"))) + len(_type_of(value))
        except TypeError:
            deep.append((f"{at}/data", "Is nested deeper than 254 levels."))
            continue
        if size > MAX_DATA_BYTES:
            text = f"An event's data line has at most {MAX_DATA_BYTES} bytes, this one {size}."
            large.append((f"{at}/data", text))
    if deep:
        code, details = "BAD_REQUEST", deep
    elif wrong:
        code, details = "UNPROCESSABLE", wrong
    else:
        code, details = "PAYLOAD_TOO_LARGE", large
    return Refused(code, _message(*details[0]), tuple(details[:MAX_DETAILS]))


def _type_of(value: dict[str, object]) -> str:
    event_type = value.get("event_type")
    return event_type if type(event_type) is str else ""


def _faults(value: object, at: str, internal: bool, at_most: int) -> list[Detail]:
    """What makes `value` no event, but for the size of its data; not more than `at_most`."""
    if type(value) is not dict:
        return [(at, f"An event is an object, this is {_KINDS[type(value)]}. {_FORM}")][:at_most]
    faults: list[Detail] = []
    if "event_type" not in value:
        faults.append((f"{at}/event_type", f"Is missing; {_NAME_FORM}."))
    else:
        text = _type_fault(value["event_type"], internal)
        if text:
            faults.append((f"{at}/event_type", text))
    for name in value:
        if len(faults) >= at_most:
            break
        if name in ("event_type", "data"):
            continue
        if len(name) > _NAME_CHARACTERS:
            faults.append((at, f"Has a member whose name has {len(name)} characters; {_ONLY}."))
            continue
        token = name.replace("~", "~0").replace("/", "~1")
        faults.append((f"{at}/{token}", f"Is no member of an event; {_ONLY}."))
    return faults[:at_most]


def _type_fault(event_type: object, internal: bool) -> str:
    """What is wrong with a type; empty when nothing is."""
    if type(event_type) is not str:
        return f"Is {_KINDS[type(event_type)]}, but a type is a string; {_NAME_FORM}."
    if is_event_type(event_type) is None:
        return f"Is no name of a type; {_NAME_FORM}."
    if not internal and is_reserved(event_type):
        return (
            "Is reserved for the gateway: connection.*, stream.*, job.*, heartbeat and"
            " question.resolved need the scope internal. Choose another type."
        )
    return ""


def _not_json(body: bytes, error: orjson.JSONDecodeError) -> Refused:
    text = f"{error.msg}, at line {error.lineno}, column {error.colno}"
    try:
        body.decode()
    except UnicodeDecodeError as bad:
        text = f"it is not UTF-8 at byte {bad.start}"
    if not body:
        text = "it is empty"
    text = f"The body is not JSON (RFC 8259): {text}. {_FORM}"
    return Refused("BAD_REQUEST", _message("", text), (("", text),))


def _message(pointer: str, text: str) -> str:
    """What the error says as a whole: that nothing happened, and the first thing to mend."""
    return f"Nothing was published. {f'{pointer}: ' if pointer else ''}{text}"
