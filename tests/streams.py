"""Event streams for the scenarios: opening one with raw bytes, reading it strictly, publishing.

The reader is no EventSource: what an EventSource would forgive (a comment, a lone `retry:`, an
unknown field, a frame cut by the end) is an error here. What may come after what is judged by
`Ledger`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import jwt

from tests.connection import PATIENCE_SECONDS, RawClient, connect
from tests.messages import STATUS_LINE, Message, ViolationError, read_head, request

SECRET = "a secret of the tests that is long enough to sign with, whichever algorithm is tried"
LOCAL = b"127.0.0.1"
EVENT_STREAM = b"Accept: text/event-stream"
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
EVENT_ID = re.compile(r"([A-Za-z0-9]{8})-([1-9][0-9]*|0)")
EVENT_TYPE = re.compile(r"[a-z0-9_.-]{1,64}")


class CutError(ConnectionError):
    """A stream ended without the end of its body."""


@dataclass
class Event:
    """One event as it came: `id` and `retry` are None without such a line."""

    type: str
    data: Any
    id: str | None = None
    retry: int | None = None
    envelope: dict[str, Any] = field(default_factory=dict)
    raw: bytes = b""

    @property
    def position(self) -> tuple[str, int]:
        """Epoch and sequence of an event with an id."""
        assert self.id is not None, self
        return split_id(self.id)

    @property
    def epoch(self) -> str:
        """The epoch of its id."""
        return self.position[0]

    @property
    def seq(self) -> int:
        """The sequence of its id."""
        return self.position[1]


def split_id(event_id: str) -> tuple[str, int]:
    """Epoch and sequence."""
    match = EVENT_ID.fullmatch(event_id)
    assert match, event_id
    return match[1], int(match[2])


def read_block(block: bytes) -> Event:
    """One block between empty lines, held against the contract."""
    fields: dict[str, str] = {}
    for line in block.decode("utf-8").split("\n"):
        name, colon, value = line.partition(": ")
        if not colon or name not in ("id", "event", "data", "retry") or name in fields:
            raise ViolationError(f"a bad line {line!r} in {block!r}")
        fields[name] = value
    if not {"event", "data"} <= set(fields) or "\r" in fields["data"] or "\0" in fields["data"]:
        raise ViolationError(f"not an event: {block!r}")
    envelope = json.loads(fields["data"])
    assert set(envelope) == {"id", "event_type", "timestamp", "data"}, envelope
    assert UUID7.fullmatch(envelope["id"]), envelope
    assert TIMESTAMP.fullmatch(envelope["timestamp"]), envelope
    assert EVENT_TYPE.fullmatch(fields["event"]), fields
    assert envelope["event_type"] == fields["event"], fields
    if "id" in fields:
        split_id(fields["id"])
    retry = fields.get("retry")
    if retry is not None:
        assert re.fullmatch("[1-9][0-9]*", retry), block
    return Event(
        fields["event"],
        envelope["data"],
        fields.get("id"),
        None if retry is None else int(retry),
        envelope,
        block + b"\n\n",
    )


def read_events(body: bytes) -> list[Event]:
    """A whole body of a stream."""
    assert body.endswith(b"\n\n"), body[-200:]
    return [read_block(block) for block in body[:-2].split(b"\n\n")]


class _Chunked:
    """The bytes of a chunked body as they come, read strictly."""

    def __init__(self) -> None:
        self.ended = False
        self._data = bytearray()

    def feed(self, data: bytes) -> bytes:
        """What of the body is whole chunks by now."""
        self._data += data
        out = []
        while not self.ended and (end := self._data.find(b"\r\n")) >= 0:
            line = bytes(self._data[:end])
            if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", line):
                raise ViolationError(f"bad chunk size line {line!r}")
            size = int(line, 16)
            if len(self._data) < end + 4 + size:
                break
            if self._data[end + 2 + size : end + 4 + size] != b"\r\n":
                raise ViolationError("a chunk does not end with CRLF")
            out.append(bytes(self._data[end + 2 : end + 2 + size]))
            del self._data[: end + 4 + size]
            self.ended = size == 0
        return b"".join(out)


class _ByClose:
    """The bytes of a body that the end of the connection ends."""

    ended = False

    def feed(self, data: bytes) -> bytes:
        """All of them."""
        return data


class Stream:
    """A stream that is open: its head, its first event, and the next ones as they are asked for."""

    def __init__(self, client: RawClient, head: Message) -> None:
        self.client = client
        self.head = head
        self.established: Event = None  # type: ignore[assignment]
        chunked = head.tokens("transfer-encoding") == [b"chunked"]
        self._body: _Chunked | _ByClose = _Chunked() if chunked else _ByClose()
        self._tail = b""
        self._events: deque[Event] = deque()
        self.over = False

    async def event(self, *, heartbeats: bool = False) -> Event:
        """The next event; heartbeats are passed over unless asked for. EOFError after the last."""
        while True:
            while not self._events:
                if self.over:
                    raise EOFError("the stream is over")
                await self._more()
            event = self._events.popleft()
            if heartbeats or event.type != "heartbeat":
                return event

    async def events(self, count: int) -> list[Event]:
        """So many of the next ones."""
        return [await self.event() for _ in range(count)]

    async def until(self, event_type: str) -> list[Event]:
        """All up to the first of that type, with it."""
        got = [await self.event()]
        while got[-1].type != event_type:
            got.append(await self.event())
        return got

    async def rest(self) -> list[Event]:
        """All that is left up to a clean end of the body."""
        got = []
        with contextlib.suppress(EOFError):
            while True:
                got.append(await self.event())
        return got

    async def _more(self) -> None:
        data = await self.client.some()
        if not data:
            if isinstance(self._body, _Chunked) or self._tail:
                raise CutError("the stream was cut")
            self.over = True
            return
        *blocks, self._tail = (self._tail + self._body.feed(data)).split(b"\n\n")
        self._events.extend(read_block(block) for block in blocks)
        if self._body.ended:
            if self._tail:
                raise ViolationError(f"the body ends inside an event: {self._tail!r}")
            self.over = True


class Door(Protocol):
    """A gateway that can be talked to."""

    def connect(self, **options: Any) -> contextlib.AbstractAsyncContextManager[RawClient]:
        """A raw client."""

    async def ask(self, data: bytes) -> Message:
        """One request on a connection of its own."""


class Remote:
    """A gateway in another process."""

    def __init__(self, port: int) -> None:
        self.address = ("127.0.0.1", port)

    def connect(self, **options: Any) -> contextlib.AbstractAsyncContextManager[RawClient]:
        """A raw client."""
        return connect(self.address, **options)

    async def ask(self, data: bytes) -> Message:
        """One request on a connection of its own."""
        async with self.connect() as client:
            return await client.ask(data)


def bearer(token: str) -> bytes:
    """The field that carries a token."""
    return b"Authorization: Bearer " + token.encode()


def sign(
    sub: str | None = "alice",
    *scopes: str,
    client_ids: Iterable[str] = (),
    seconds: float = 3600,
    key: Any = SECRET,
    algorithm: str = "HS256",
    **claims: Any,
) -> str:
    """A token; claims that are None are left out."""
    given = {
        "sub": sub,
        "exp": time.time() + seconds,
        "scope": " ".join(scopes) or None,
        "client_ids": list(client_ids) or None,
    } | claims
    present = {name: value for name, value in given.items() if value is not None}
    return jwt.encode(present, key, algorithm)


def who(sub: str | None = "alice", *scopes: str, **claims: Any) -> bytes:
    """The field with a token of these claims."""
    return bearer(sign(sub, *scopes, **claims))


def path_of(client_id: str, query: str = "") -> bytes:
    """The target of a stream."""
    return f"/api/v1/events/{client_id}{'?' if query else ''}{query}".encode()


def get(
    client_id: str = "alice",
    *fields: bytes,
    query: str = "",
    after: str | None = None,
    accept: bytes | None = EVENT_STREAM,
    version: bytes = b"HTTP/1.1",
    method: bytes = b"GET",
) -> bytes:
    """The request that opens a stream; `after` is its Last-Event-ID."""
    lines = [line for line in (accept, *fields) if line is not None]
    if after is not None:
        lines.append(b"Last-Event-ID: " + after.encode())
    return request(b"%b %b %b" % (method, path_of(client_id, query), version), *lines, host=LOCAL)


@contextlib.asynccontextmanager
async def raw_stream(door: Door, data: bytes, **options: Any) -> AsyncIterator[Stream]:
    """A stream opened by these bytes; its first event is left to be read."""
    async with door.connect(**options) as client:
        client.send(data)
        head = await read_head(client, STATUS_LINE)
        assert head.status == 200, (head.head, client.unread)
        yield Stream(client, head)


@contextlib.asynccontextmanager
async def subscribe(
    door: Door, client_id: str = "alice", *fields: bytes, **options: Any
) -> AsyncIterator[Stream]:
    """An open stream of which `connection.established` was read; options of `get` and `connect`."""
    asked = {key: options.pop(key) for key in ("query", "after", "accept") if key in options}
    async with raw_stream(door, get(client_id, *fields, **asked), **options) as stream:
        stream.established = await stream.event()
        assert stream.established.type == "connection.established", stream.established
        yield stream


def post(path: str, body: Any, *fields: bytes, host: bytes = LOCAL) -> bytes:
    """A POST of JSON, or of exactly these bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return request(b"POST " + path.encode(), *fields, body=data, host=host)


async def publish(
    door: Door, client_id: str, body: Any, *fields: bytes, host: bytes = LOCAL
) -> Message:
    """What publishing is answered."""
    return await door.ask(post(f"/api/v1/events/{client_id}", body, *fields, host=host))


async def published(door: Door, client_id: str, body: Any, *fields: bytes) -> list[str]:
    """Publishes; the ids."""
    response = await publish(door, client_id, body, *fields)
    assert response.status == 202, (response.start, response.body)
    document = response.json()
    assert set(document) == {"ids", "subscribers"}, document
    ids: list[str] = document["ids"]
    assert len(ids) == (len(body) if isinstance(body, list) else 1)
    return ids


def event(data: Any = None, event_type: str = "note") -> dict[str, Any]:
    """One event to publish."""
    return {"event_type": event_type, "data": data}


def events(count: int, first: int = 0) -> list[dict[str, Any]]:
    """A list to publish, counted."""
    return [event({"n": number}) for number in range(first, first + count)]


async def publish_many(door: Door, client_id: str, count: int, first: int = 0) -> list[str]:
    """So many counted events, in lists."""
    ids: list[str] = []
    for start in range(first, first + count, 100):
        part = events(min(100, first + count - start), start)
        ids += await published(door, client_id, part)
    return ids


def numbers(got: Iterable[Event]) -> list[int]:
    """What `events` counted."""
    return [event.data["n"] for event in got]


def refusal(
    response: Message, status: int, code: str, *pointers: str, extra: Iterable[str] = ()
) -> dict[str, Any]:
    """Holds an answer against the contract's error shape, its pointers too; the error's members."""
    assert response.status == status, (response.start, response.body)
    assert (response.get("content-type") or b"").split(b";")[0] == b"application/json"
    document = response.json()
    assert set(document) == {"error"}, document
    error: dict[str, Any] = document["error"]
    assert error["code"] == code, error
    optional = {"retry_after", "details", *extra}
    assert set(error) - optional == {"code", "message", "request_id"}, error
    assert error["message"]
    assert response.all("x-request-id") == [error["request_id"].encode()], response.head
    for detail in error.get("details", ()):
        assert set(detail) == {"pointer", "message"}, detail
        assert detail["message"]
    found = [detail["pointer"] for detail in error.get("details", ())]
    assert set(pointers) <= set(found), error
    return error


async def quiet(stream: Stream, door: Door, client_id: str, *fields: bytes) -> list[Event]:
    """What came before a mark that is published now: for what must not come."""
    await published(door, client_id, event("mark", "test.mark"), *fields)
    return (await stream.until("test.mark"))[:-1]


async def metric(door: Door, name: str) -> float:
    """The value of one series of the exposition; 0 when it is not there."""
    response = await door.ask(request(b"GET /metrics", host=LOCAL))
    assert response.status == 200
    match = re.search(f"^{re.escape(name)} (\\S+)$", response.body.decode(), re.MULTILINE)
    return float(match[1]) if match else 0.0


class Ledger:
    """What one subscriber got over all its connections: nothing lost, nothing doubled, but for
    what a reset accounts for to the last event."""

    def __init__(self) -> None:
        self.last: str | None = None
        self.got: list[Event] = []
        self.resets: list[Event] = []
        self.lost = 0
        self._reset: Event | None = None
        self._told: int | None = 0  # resets in a row tell of losses one after the other

    def take(self, got: Event) -> None:
        """The next event; raises AssertionError when it can't be the next.

        A new connection's `connection.established` is taken too: resets count from the id that was
        handed in, so what the connection before was told does not add up.
        """
        if got.type == "connection.established":
            self._reset, self._told = None, 0
            return
        if got.type == "stream.reset":
            assert set(got.data) == {"reason", "lost"}, got
            self.resets.append(got)
            self._told = None if got.data["lost"] is None else (self._told or 0) + got.data["lost"]
            self._reset = got
            if got.id is not None:
                assert got.seq == 0, got
                self.last = got.id
                self._reset, self._told = None, 0
            return
        if got.id is None:
            return
        if self.last is not None:
            self._judge(got, split_id(self.last), self._reset, self._told)
        self._reset, self._told = None, 0
        self.last = got.id
        self.got.append(got)

    def _judge(
        self, got: Event, last: tuple[str, int], reset: Event | None, lost: int | None
    ) -> None:
        if got.epoch != last[0]:
            assert reset is not None, f"another epoch without a reset: {last} → {got.id}"
            assert reset.data["reason"] in ("epoch", "invalid"), reset
            assert lost is None
            return
        missing = got.seq - last[1] - 1
        assert missing >= 0, f"doubled: {got.id} after {last}, told {reset and reset.data}"
        assert missing == (lost or 0), f"{missing} missing, {lost} said to be: {last} → {got.id}"
        self.lost += missing


async def gather_all(*tasks: Any) -> list[Any]:
    """All results, within the patience of a test."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return list(await asyncio.gather(*tasks))
