"""Event streams as the tests read them: a strict reader of its own, fed in any pieces.

It follows the HTML standard, section 9.2.6 (Interpreting an event stream), and shares nothing with
`sse/`: what the gateway writes is judged by a second pair of eyes. Where the standard repairs
(bytes that are not UTF-8) it raises instead; what the standard drops silently it keeps to be
looked at: comments, fields that were ignored, blocks that were no event.
"""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

_LINE_END = re.compile(r"\r\n|\r|\n")
_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_TIMESTAMP = re.compile(
    r"[0-9]{4}-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]\.[0-9]{3}Z"
)


@dataclass(frozen=True, slots=True)
class Event:
    """What an EventSource would hand out.

    `last_event_id` is what it would send on reconnecting; `id` and `retry_ms` are of this very
    block, None without such a line.
    """

    type: str
    data: str
    last_event_id: str = ""
    id: str | None = None
    retry_ms: int | None = None

    @property
    def sequence(self) -> int:
        """Of an id `<epoch>-<sequence>`."""
        assert self.id is not None, f"no id: {self}"
        return int(self.id.rpartition("-")[2])

    @property
    def epoch(self) -> str:
        """Of an id `<epoch>-<sequence>`."""
        assert self.id is not None, f"no id: {self}"
        return self.id.rpartition("-")[0]

    def envelope(self) -> dict[str, Any]:
        """The data as the contract's envelope; AssertionError when it is none."""
        value = read_json(self.data)
        assert isinstance(value, dict), self.data
        assert list(value) == ["id", "event_type", "timestamp", "data"], self.data
        assert value["event_type"] == self.type, (self.type, self.data)
        assert _UUID7.fullmatch(value["id"]), self.data
        assert _TIMESTAMP.fullmatch(value["timestamp"]), self.data
        return value

    def payload(self) -> Any:
        """What the publisher gave as data."""
        return self.envelope()["data"]


def read_json(text: str) -> Any:
    """JSON as RFC 8259 has it: no NaN, no Infinity, no name twice."""
    return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once_each)


def _no_constant(text: str) -> NoReturn:
    raise AssertionError(f"{text} is not JSON")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    assert len(members) == len(pairs), f"a name twice among {[name for name, _ in pairs]}"
    return members


@dataclass
class _Block:
    """The buffers of the block that is being read."""

    data: list[str] = field(default_factory=list)
    type: str = ""
    id: str | None = None
    retry_ms: int | None = None
    lines: int = 0


class Reader:
    """One stream from its first byte; a reconnect is a new Reader.

    `comments` and `ignored` are lines; `hollow` counts blocks with fields but no data, which are
    no event. `retry_ms` is the reconnection time as last set.
    """

    def __init__(self, last_event_id: str = "") -> None:
        """`last_event_id`: what an earlier connection of the same EventSource had."""
        self.last_event_id = last_event_id
        self.retry_ms: int | None = None
        self.comments: list[str] = []
        self.ignored: list[str] = []
        self.hollow = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self._begun = False
        self._line_feed_may_follow = False
        self._rest = ""
        self._block = _Block()

    def __repr__(self) -> str:
        return f"<Reader last_event_id={self.last_event_id!r} at_rest={self.at_rest}>"

    @property
    def at_rest(self) -> bool:
        """Whether all bytes so far ended with a block, so that a stream may end here cleanly."""
        return not (self._rest or self._block.lines or self._decoder.getstate()[0])

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that are complete with these bytes; UnicodeDecodeError when not UTF-8."""
        text = self._decoder.decode(chunk)
        if text and not self._begun:
            self._begun = True
            text = text.removeprefix("\ufeff")
        if text and self._line_feed_may_follow:
            self._line_feed_may_follow = False
            text = text.removeprefix("\n")
        if not text:
            return []
        *lines, self._rest = _LINE_END.split(self._rest + text)
        # A CR ends a line at once; an LF that comes later belongs to it.
        self._line_feed_may_follow = text.endswith("\r")
        events = (self._line(line) for line in lines)
        return [event for event in events if event is not None]

    def end(self) -> None:
        """The stream is over: AssertionError when it broke off inside a block."""
        assert self.at_rest, f"broke off: {self._rest!r} after {self._block}"

    def _line(self, line: str) -> Event | None:
        if not line:
            return self._dispatch()
        if line.startswith(":"):
            self.comments.append(line[1:])
            return None
        self._block.lines += 1
        name, _, value = line.partition(":")
        self._field(line, name, value.removeprefix(" "))
        return None

    def _field(self, line: str, name: str, value: str) -> None:
        if name == "event":
            self._block.type = value
        elif name == "data":
            self._block.data.append(value)
        elif name == "id" and "\0" not in value:
            self._block.id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self._block.retry_ms = self.retry_ms = int(value)
        else:
            self.ignored.append(line)

    def _dispatch(self) -> Event | None:
        block, self._block = self._block, _Block()
        if block.id is not None:
            self.last_event_id = block.id
        if not block.data:
            self.hollow += block.lines > 0
            return None
        return Event(
            type=block.type or "message",
            data="\n".join(block.data),
            last_event_id=self.last_event_id,
            id=block.id,
            retry_ms=block.retry_ms,
        )


def read_all(stream: bytes) -> list[Event]:
    """The events of a whole stream, which must end with a block."""
    reader = Reader()
    events = reader.feed(stream)
    reader.end()
    return events
