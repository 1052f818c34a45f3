"""Event streams at the door: from an admitted GET to a socket that belongs to the hub.

After the checks the socket is handed over: the request's connection and parser are let go, and what
is left is a subscriber of the hub and the access record that it will write at its end.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, unquote_to_bytes

import orjson

from gateway.edge import message as m
from gateway.edge.admission import bad_credential, credentials
from gateway.edge.answer import answer
from gateway.edge.headers import Field
from gateway.edge.record import RECORD_FIELDS, keep, observe, record_of, wanted
from gateway.errors import Rejection
from gateway.policy.auth import (
    Identity,
    auth_failed,
    forbidden,
    unauthorized,
)
from gateway.policy.ratelimit import address_key
from gateway.policy.security_headers import security_lines
from gateway.policy.tickets import TicketsAwayError
from sse.event import JOB_PREFIX, is_client_id
from sse.stream import EventStream, Lane, lane

if TYPE_CHECKING:
    from gateway.edge.events import EventsDoor
    from gateway.edge.exchange import Exchange
    from gateway.edge.roles import Server
    from sse.hub import Hub
    from sse.prefaces import Preface

# A peer that takes nothing for so long while data waits is cut; Linux counts a closed window too.
USER_TIMEOUT_MS: Final = 60_000
# Each reader may want others; so many are looked through for an event in a microsecond or two.
MAX_TYPES: Final = 32
_TYPES: Final = re.compile(r"(?:[a-z0-9_.-]{1,64}|[a-z0-9_.-]{0,63}\*)").fullmatch
STREAM_FIELDS: Final[tuple[Field, ...]] = (
    (b"Content-Type", b"text/event-stream; charset=utf-8"),
    (b"Cache-Control", b"no-cache, no-transform"),
    (b"X-Accel-Buffering", b"no"),
)
_EVENT_STREAM: Final = b"text/event-stream"


def client_id_of(path: bytes) -> str | None:
    """The client id that is the path's fifth segment, after one percent-decoding; None: not one."""
    segment = path.split(b"/")[4]
    decoded = (unquote_to_bytes(segment) if b"%" in segment else segment).decode("latin-1")
    return decoded if is_client_id(decoded) else None


def bad_client_id() -> Rejection:
    """The refusal of a path without a client id."""
    return Rejection(
        "BAD_REQUEST", "a client id is 1 to 128 letters, digits and any of . _ ~ : @ -"
    )


def accepts_events(accept: bytes) -> bool:
    """Whether an Accept field lets event streams through (RFC 9110 §12.5.1); none: anything."""
    if not accept.strip():
        return True
    best = (-1, 0.0)  # how exact the range is, its weight
    for part in accept.lower().split(b","):
        media, *parameters = (piece.strip() for piece in part.split(b";"))
        exact = {_EVENT_STREAM: 2, b"text/*": 1, b"*/*": 0}.get(media, -1)
        if exact < 0 or exact < best[0]:
            continue
        weight = next((p[2:] for p in parameters if p.startswith(b"q=")), b"1")
        try:
            best = max(best, (exact, float(weight)))
        except ValueError:
            best = max(best, (exact, 1.0))
    return best[0] >= 0 and best[1] > 0


def names_events(exchange: Exchange) -> bool:
    """Whether it asks for an event stream by name, as an EventSource does."""
    return _EVENT_STREAM in exchange.head.accept.lower()


# What differs from stream to stream in its record, besides how it ended.
_KEPT: Final = (
    "request_id", "correlation_id", "trace_id", "client_ip", "user_id", "tenant", "path", "route",
    "user_agent", "ai_agent",
)  # fmt: skip


class StreamRequest:
    """A GET or HEAD of the events path. What a stream of something else does otherwise is said by
    `_read_client_id`, `_refusal`, `_new_cookie` and `_admit`.
    """

    __slots__ = (
        "_client_id", "_cookie", "_door", "_exchange", "_last_event_id", "_preface", "_types",
    )  # fmt: skip

    def __init__(self, door: EventsDoor, exchange: Exchange) -> None:
        self._door = door
        self._exchange = exchange
        self._client_id = ""
        self._cookie: bytes | None = None  # to set with the answer
        self._last_event_id: str | None = None
        self._preface: Preface | None = None
        self._types = ""

    def receive(self, pieces: Sequence[bytes], complete: bool) -> None:
        """Open the stream; a body has no place here."""
        exchange = self._exchange
        if exchange.head.has_body or not complete:
            message = "a request for events has no body"
            exchange.reject(Rejection("BAD_REQUEST", message, close=True))
            return
        found = self._read()
        if found is None:
            self._open(exchange.identity)
        elif isinstance(found, Rejection):
            exchange.reject(found)
        else:
            failed = Rejection("INTERNAL_ERROR", "the gateway failed; it is logged")
            self._door.wait_for(self._redeem(found), lambda: exchange.reject(failed))

    def _read(self) -> Rejection | Coroutine[Any, Any, Identity | None] | None:
        """Everything the request says; a ticket may have to be waited for."""
        exchange = self._exchange
        client_id = self._read_client_id()
        if isinstance(client_id, Rejection):
            return client_id
        self._client_id = client_id
        query = parse_qs(
            exchange.query[1:].decode("latin-1"), keep_blank_values=True, encoding="latin-1"
        )
        if not accepts_events(exchange.head.accept):
            return Rejection("NOT_ACCEPTABLE", "this path answers text/event-stream only")
        self._types = query.get("types", [""])[-1]
        words = [word.strip() for word in self._types.split(",") if word.strip()]
        if len(words) > MAX_TYPES or not all(map(_TYPES, words)):
            message = f"types is a comma list of at most {MAX_TYPES} types and prefixes as run.*"
            return Rejection("BAD_REQUEST", message)
        header = field_of(exchange, b"last-event-id")
        given = header.decode("latin-1") if header else query.get("last_event_id", [""])[-1]
        self._last_event_id = given or None
        return self._read_grant(query.get("ticket"))

    def _read_client_id(self) -> str | Rejection:
        return client_id_of(self._exchange.path) or bad_client_id()

    def _refusal(self, identity: Identity | None) -> Rejection | None:
        """Why the caller may not read this."""
        return _may_read(identity, self._client_id)

    def _read_grant(
        self, tickets: list[str] | None
    ) -> Rejection | Coroutine[Any, Any, Identity | None] | None:
        """The rights of a cookie or a ticket, where no Authorization says who it is."""
        exchange, door = self._exchange, self._door
        identity = exchange.identity
        if tickets is None or (identity is not None and identity.open_read):
            self._fall_back()  # where reading is open nobody needs a ticket
            return None
        redeemed = door.tickets.redeem(tickets[-1], self._client_id, exchange.started_wall)
        if redeemed is not None and not isinstance(redeemed, Identity):
            return redeemed
        return self._redeemed(redeemed)

    def _redeemed(self, identity: Identity | None) -> Rejection | None:
        """A good ticket is exchanged for a cookie; a used one is no matter where that cookie is."""
        if identity is not None:
            self._cookie = self._new_cookie(identity)
            self._exchange.identity = identity
            return None
        return None if self._fall_back() else self._bad_ticket()

    def _fall_back(self) -> bool:
        """Whether a cookie says who it is, where nothing else does."""
        exchange = self._exchange
        asked = credentials(exchange.head, exchange.client_address)
        given = bool(asked.authorization or asked.api_key)
        if given or asked.cookie is None:
            return given
        granted = self._door.grants.read(asked.cookie, self._client_id, exchange.started_wall)
        if granted is not None:
            exchange.identity = granted
        return granted is not None

    async def _redeem(self, waiting: Coroutine[Any, Any, Identity | None]) -> None:
        exchange = self._exchange
        away = False
        try:
            identity = await waiting
        except TicketsAwayError:
            identity, away = None, True
        if exchange.finished:
            return  # the client left meanwhile
        refusal = self._redeemed(identity)
        if refusal is None:
            self._open(exchange.identity)
        elif away:
            exchange.reject(Rejection("SERVICE_UNAVAILABLE", "tickets can't be checked now", 2))
        else:
            exchange.reject(refusal)

    def _bad_ticket(self) -> Rejection:
        message = "the ticket is used, too old or for another client id: ask for a new one"
        return self._counted(auth_failed(message))

    def _counted(self, refusal: Rejection) -> Rejection:
        """The refusal of a bad credential, or that there were too many."""
        exchange = self._exchange
        key = address_key(exchange.client_address)
        return bad_credential(exchange.context, exchange, key) or refusal

    def _new_cookie(self, identity: Identity) -> bytes | None:
        exchange = self._exchange
        return self._door.grants.set_cookie(
            identity,
            self._client_id,
            exchange.started_wall,
            secure=exchange.client.peer.scheme == "https",
            written=exchange.path.split(b"/")[4].decode("ascii"),
        )

    # Opening

    def _open(self, identity: Identity | None) -> None:
        exchange = self._exchange
        if exchange.finished or exchange.status:
            return
        refusal = self._refusal(identity)
        if refusal is not None or identity is None:
            exchange.reject(refusal or unauthorized("say who you are"))
            return
        if identity.has_ended(exchange.started_wall):
            exchange.reject(self._counted(auth_failed("the token has expired (exp)")))
            return
        exchange.identity = identity
        self._admit(identity)

    def _admit(self, identity: Identity) -> None:
        """Open it, if there is room."""
        exchange = self._exchange
        fields = [*STREAM_FIELDS]
        if self._cookie is not None:
            fields.append((b"Set-Cookie", self._cookie))
        why = self._door.hub.refusal(self._client_id, _address_of(exchange))
        if why == "full":
            self._turn_away_or_refuse(fields)
        elif why is not None:
            message = f"too many open streams of this {why}: close some, or try again later"
            exchange.reject(Rejection("RATE_LIMITED", message, 5))
        elif exchange.head.method == b"HEAD":
            exchange.request_complete = False  # as a GET: the connection ends
            answer(exchange, 200, fields, None)
        else:
            self._hand_over(identity, fields)

    def _is_full(self) -> bool:
        """Whether there is no room for it."""
        hub = self._door.hub
        return hub.refusal(self._client_id, _address_of(self._exchange)) is not None

    def _turn_away_or_refuse(self, fields: list[Field]) -> None:
        """No room: an EventSource would stop for ever at an error, so it is told to come back."""
        if names_events(self._exchange):
            self._turn_away(fields, "draining" if self._door.hub.draining else "overloaded")
        else:
            message = "no further event stream can be opened here now; try again later"
            self._exchange.reject(Rejection("OVERLOADED", message, 5))

    def _turn_away(self, fields: list[Field], reason: str) -> None:
        """A stream that ends at once, and says when to come back."""
        exchange = self._exchange
        exchange.request_complete = False
        exchange.end_reason = reason
        answer(exchange, 200, fields, self._door.hub.closing(reason, later=True))

    def _hand_over(self, identity: Identity, fields: list[Field]) -> None:
        exchange, hub = self._exchange, self._door.hub
        chunked = exchange.head.version == m.HTTP_11
        head = self._response_head(fields, chunked)
        exchange.status = 200
        expires_at = None
        if identity.expires_at is not None:
            expires_at = exchange.started + identity.expires_at - exchange.started_wall
        DoorStream(
            exchange,
            hub,
            lane(chunked, self._types),
            head,
            self._last_event_id,
            expires_at,
            self._preface,
        ).join(self._client_id, done=exchange.client.done)

    def _response_head(self, fields: list[Field], chunked: bool) -> bytes:
        exchange = self._exchange
        settings = exchange.context.settings
        pieces = [b"HTTP/1.1 200 OK\r\n", *m.field_lines(fields), security_lines(settings)]
        if chunked:
            pieces.append(b"Transfer-Encoding: chunked\r\n")
        pieces += (b"Date: ", exchange.context.date(), b"\r\n", exchange.limit_lines)
        pieces += (exchange.own_lines(), b"Connection: close\r\n\r\n")
        return b"".join(pieces)


def _may_read(identity: Identity | None, client_id: str) -> Rejection | None:
    if identity is None or not identity.may_read(client_id):
        if identity is None or identity.subject is None:
            return unauthorized("this stream needs a token, an API key, a cookie or a ticket")
        return forbidden("this credential may not read this client id", "events:read")
    return None


def _address_of(exchange: Exchange) -> str:
    """What counts as one address: an IPv6 network has more of them than streams are allowed. The
    same text for all of them, since many streams come from few.
    """
    return sys.intern(str(address_key(exchange.client_address)))


def field_of(exchange: Exchange, wanted: bytes) -> bytes | None:
    """The first field of a name, in lower case."""
    found = exchange.head.by_name.get(wanted)
    return None if found is None else found[0]


def _limit_silence(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    if sock.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)


class DoorStream(EventStream):
    """A stream with what is left of its request: a place among the server's connections, and the
    access record that is written at its end.
    """

    __slots__ = ("_record", "_server", "jti")

    def __init__(
        self,
        exchange: Exchange,
        hub: Hub,
        shape: Lane,
        head: bytes,
        last_event_id: str | None,
        expires_at: float | None,
        preface: Preface | None,
    ) -> None:
        """Takes over the exchange and its client's transport."""
        client, identity = exchange.client, exchange.identity
        self._server: Server = client.server
        exchange.finished = True
        observe(exchange)
        # The credential that it was opened with: when that is revoked the stream ends.
        self.jti = None if identity is None else identity.jti
        self._record = b""
        if wanted(exchange.context):
            self._record = _packed(exchange, last_event_id)
        super().__init__(
            hub,
            client.hand_over(self),
            _address_of(exchange),
            shape,
            head,
            last_event_id,
            user=None if identity is None else identity.subject or None,
            expires_at=expires_at,
            paused=client.paused,
            preface=preface,
        )

    def join(self, client_id: str, *, done: bool) -> None:
        """From here on the socket is the hub's. `done`: the client has sent its FIN already."""
        _limit_silence(self.transport)
        self.transport.set_protocol(self)
        self.hub.join(self, client_id)
        if done:
            self.eof_received()

    def close_idle(self) -> None:
        """A drain: the hub ends the streams, spread over its time."""

    def stop(self) -> None:
        """End at once."""
        self.abort("stopped")

    def closed(self, reason: str) -> None:
        """Write the record."""
        self._server.closed(self)
        if not self._record:
            return
        context = self._server.context
        started, last_event_id, *values = orjson.loads(self._record)
        record = dict.fromkeys(RECORD_FIELDS) | _SAME | dict(zip(_KEPT, values, strict=True))
        record["timestamp"] = context.timestamps.at(context.wall())
        record["service"] = context.mounted.name
        record["duration_ms"] = int((context.clock() - started) * 1000000) / 1000
        record["bytes_out"] = self.bytes_sent
        record["events_sent"] = self.events_sent
        record["last_event_id"] = self.position or last_event_id
        record["end_reason"] = reason
        if self.is_job and self.channel is not None:
            record["operation_id"] = self.channel.client_id.removeprefix(JOB_PREFIX)
        keep(context, record)


# What is the same in the record of every stream.
_SAME: Final[dict[str, object]] = {
    "level": "info",
    "message": "request",
    "method": "GET",
    "query": "",
    "status": 200,
    "bytes_in": 0,
    "attempts": 0,
}


def _packed(exchange: Exchange, last_event_id: str | None) -> bytes:
    """When a request began and what its record needs of it as one small text: 18,000 are kept, and
    a dict of objects is ten times larger. Copied, since orjson's own bytes keep the 8 KiB that they
    were written in.
    """
    record = record_of(exchange)
    values = [record[name] for name in _KEPT]
    return bytes(bytearray(orjson.dumps([exchange.started, last_event_id, *values])))
