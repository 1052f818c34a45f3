"""Events as the benchmarks publish them to each server, and as they find them on the wire. Pure.

Every event says its number, counted per client id, and when it was published, so that a subscriber
can tell what is missing, doubled or late, whatever ids its server gives. The gateway is handed the
data alone and makes the envelope; its peers are let off with less and get the envelope ready-made.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

EVENT_TYPE = "run.progress"
# Kinds of events that a subscriber may see besides those that were published
EXPECTED_KINDS = frozenset((b"connection.established", b"heartbeat"))

_ENVELOPE = (
    b'{"id":"0192f0c1-7d3a-7b21-9c44-5e0a1d2b3c4d","event_type":"run.progress",'
    b'"timestamp":"2025-01-01T00:00:00.000Z","data":%b}'
)
_BARE_FRAME = b"id: b4rewr1t-%d\nevent: run.progress\ndata: " + _ENVELOPE + b"\n\n"
_NUMBER = re.compile(rb'"n":(\d+),"at":(\d+)')
_IDENTIFIER = re.compile(rb"^id: ([^\s-]+)-(\d+)$", re.MULTILINE)
_KIND = re.compile(rb"^event: (.*)$", re.MULTILINE)


def event_data(number: int, at_ns: int) -> bytes:
    """An event's data: its number, the monotonic nanosecond of its publishing, something to say."""
    note = b'"step":"resize","percent":42,"note":"frame 118 of 280 written"'
    return b'{"n":%d,"at":%d,%b}' % (number, at_ns, note)


@dataclass(frozen=True, slots=True)
class Target:
    """A server of event streams under test: where and in which words it is spoken to."""

    name: str
    port: int

    def subscribe(self, client_id: str) -> bytes:
        """A subscriber's request."""
        path = f"/api/v1/events/{client_id}" if self._ours else f"/subscribe/{client_id}"
        fields = "Accept: text/event-stream\r\nUser-Agent: bench\r\n"
        return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n{fields}\r\n".encode()

    def publish(self, client_id: str, events: Sequence[tuple[int, int]]) -> list[bytes]:
        """The requests that publish these (number, nanosecond); one where it takes a list.

        Several are to be sent on one connection, so that their order is kept.
        """
        datas = [event_data(number, at_ns) for number, at_ns in events]
        if self.name == "bare":
            frames = b"".join(
                _BARE_FRAME % (number, data)
                for (number, _), data in zip(events, datas, strict=True)
            )
            return [self._post(b"/publish", b"%x\r\n%b\r\n" % (len(frames), frames))]
        if not self._ours:
            path = b"/publish/" + client_id.encode()
            return [self._post(path, _ENVELOPE % data) for data in datas]
        each = [b'{"event_type":"run.progress","data":%b}' % data for data in datas]
        body = each[0] if len(each) == 1 else b"[" + b",".join(each) + b"]"
        return [self._post(b"/api/v1/events/" + client_id.encode(), body)]

    @property
    def _ours(self) -> bool:
        return self.name in ("gateway", "profiled")

    def _post(self, path: bytes, body: bytes) -> bytes:
        return (
            b"POST %b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: bench\r\n"
            b"Content-Type: application/json\r\nX-EventSource-Event: run.progress\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (path, self.port, len(body), body)
        )


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a stream, read: the numbered events in them, and kinds that should not be there.

    `offset` is the history and what its sequence is ahead of the numbers: it never changes on a
    stream whose ids are contiguous. `ages_from_ns` are the moments of publishing.
    """

    first: int
    last: int
    count: int
    offset: bytes
    ages_from_ns: tuple[int, ...]
    faults: tuple[str, ...]


def read_piece(raw: bytes, text: bytes = b"", *, chunked: bool) -> tuple[Piece, bytes, bytes]:
    """Reads a body, chunked or not, from `raw`; `text` is what an earlier piece left of an event.

    Returns what was found and the rests of raw bytes and of text for the next time. Raises
    ValueError where the chunks are malformed (RFC 9112 §7.1).
    """
    at = 0
    if not chunked:
        text, at = text + raw, len(raw)
    while chunked and (end := raw.find(b"\r\n", at)) >= 0:
        start = end + 2
        stop = start + int(raw[at:end], 16)
        if len(raw) < stop + 2:
            break
        if raw[stop : stop + 2] != b"\r\n":
            raise ValueError(f"a chunk does not end in CRLF: {raw[stop : stop + 20]!r}")
        text += raw[start:stop]
        at = stop + 2
    whole, _, rest = text.rpartition(b"\n\n")
    return _read_events(whole), raw[at:], rest


def _read_events(text: bytes) -> Piece:
    first = last = count = 0
    offset = b""
    stamps: list[int] = []
    faults: list[str] = []
    for frame in text.split(b"\n\n"):
        found = _NUMBER.search(frame)
        if found is None:
            faults += [
                f"event {kind.decode()}"
                for kind in _KIND.findall(frame)
                if kind not in EXPECTED_KINDS
            ]
            continue
        number = int(found.group(1))
        named = _IDENTIFIER.search(frame)
        here = b"%b%d" % (named.group(1), int(named.group(2)) - number) if named else b""
        if count and (number != last + 1 or here != offset):
            faults.append(f"{number} ({here.decode()}) after {last} ({offset.decode()})")
        first = first if count else number
        last, offset = number, here
        count += 1
        stamps.append(int(found.group(2)))
    return Piece(first, last, count, offset, tuple(stamps), tuple(faults))


def answer_end(data: bytes) -> int:
    """Where the first answer to a POST ends, by its Content-Length or last chunk; 0: not yet."""
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return 0
    fields = head.lower()
    start = len(head) + 4
    if b"transfer-encoding: chunked" in fields:
        last = data.find(b"0\r\n\r\n", start)
        return last + 5 if last >= 0 else 0
    length = int(fields.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
    return start + length if len(body) >= length else 0
