"""A client's connection: reads requests one after the other, answers in order, keeps its time
limits.

Pipelined requests wait as raw bytes until the answer before them is complete; when 64 KiB wait, the
socket is not read, so a client can make the gateway hold that and one read more.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from enum import Enum
from typing import Final, cast

from gateway.edge import message as m
from gateway.edge.admission import Peer
from gateway.edge.context import EdgeContext
from gateway.edge.deadlines import NEVER
from gateway.edge.entering import enter
from gateway.edge.exchange import Exchange
from gateway.edge.headers import forwarding_lines
from gateway.edge.reading import RequestReader
from gateway.edge.roles import Connection, OpenTunnel, Server
from gateway.errors import Rejection

# After a client's FIN in the middle of an exchange: a client that closed answers our bytes with a
# reset, one that only finished sending (`printf … | nc`) does not. When nothing is written for this
# long, it is gone.
HALF_CLOSE_SECONDS: Final = 0.5
# After an answer that ends the connection, unread bytes are read and dropped for so long: closing
# on them would send a reset that destroys the answer on its way (RFC 9112 §9.6).
LINGER_SECONDS: Final = 2.0
# How long a connection without any request yet is kept when a drain closes the idle ones.
FIRST_REQUEST_SECONDS: Final = 0.5
# How often, and after which grace, the rate of a request body is looked at.
BODY_CHECK_SECONDS: Final = 5.0

# Pipelined bytes kept while an answer is under way; with more the socket is not read.
PIPELINE_BYTES: Final = 65536

_HOLD_PIPELINE: Final = 1
_HOLD_UPLOAD: Final = 2


class ClientState(Enum):
    """What the connection is doing."""

    READING = "reading"  # idle, or in the middle of a request
    WAITING = "waiting"  # the request is complete, its response is not
    LINGERING = "lingering"  # answered for the last time; bytes are dropped
    CLOSING = "closing"  # the last bytes are being written
    DETACHED = "detached"  # a tunnel has the transport
    CLOSED = "closed"


# Members by plain names: `ClientState.READING` costs 0.1 µs each time in Python 3.11.
READING, WAITING, LINGERING, CLOSING, DETACHED, CLOSED = ClientState


class ClientConnection(asyncio.Protocol):
    """One accepted connection."""

    __slots__ = (
        "_body_seen", "_eof", "_forwarding", "_forwarding_host", "_head_begun", "_held", "_holds",
        "_reader", "_resuming", "_stalled_bytes", "_state", "_transport", "_tunnel",
        "_wrote", "context", "deadline", "exchange", "filed_tick", "paused", "peer", "server",
    )  # fmt: skip

    def __init__(self, server: Server) -> None:
        self.server = server
        self.context: EdgeContext = server.context
        self._reader = RequestReader(self.context.limits)
        self.exchange: Exchange | None = None
        self.deadline = NEVER
        self.filed_tick = NEVER
        self._state: ClientState = READING
        self._held = b""
        self._holds = 0
        self._resuming = False
        self._eof = False
        self.paused = False
        self._wrote = False
        self._stalled_bytes = 0
        self._head_begun = False
        self._body_seen = 0  # body bytes at the last look at their rate
        self._forwarding = b""
        self._forwarding_host: bytes | None = b"\x00"  # no host is this one
        self._tunnel: OpenTunnel | None = None

    def __repr__(self) -> str:
        return f"<ClientConnection {self._state.value} {self._reader!r} exchange={self.exchange}>"

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        waits = self._held or self.exchange is not None
        return self._state is READING and self._reader.idle and not waits

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted (with TLS: after the handshake)."""
        self._transport = cast(asyncio.Transport, transport)
        context = self.context
        address = transport.get_extra_info("peername")
        scheme = "http" if transport.get_extra_info("sslcontext") is None else "https"
        self.peer = Peer(address[0] if address else "127.0.0.1", scheme, context)
        self.server.opened(self)
        if self.server.is_full:
            most = context.settings.max_connections
            message = f"the gateway holds its {most} connections; try again later"
            self._refuse(Rejection("OVERLOADED", message, 1, close=True))
        else:
            self._set_deadline(context.settings.keepalive_timeout)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request, or of one behind it."""
        if self._state is READING and not self._held and not self.paused:
            try:
                self._read(data)
            except (
                Exception
            ):  # a bug must cost one connection, not the process; logged with its trace
                self.context.log.exception("edge.bug", connection=repr(self))
                self._answer_bug()
        elif self._state in (READING, WAITING):
            self._keep_for_later(data)

    def eof_received(self) -> bool:
        """The client is done sending; True keeps the transport for the answer."""
        waits = self._state is WAITING or (self._state is READING and bool(self._held))
        if not waits or self.peer.scheme == "https":
            return False
        self._eof = True
        if not self.paused:
            self._set_deadline(HALF_CLOSE_SECONDS)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, whoever ended it."""
        self._state = CLOSED
        self.context.deadlines.remove(self)
        self.server.closed(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.client_gone("the client closed the connection")

    def pause_writing(self) -> None:
        """The client takes no more for now."""
        self.paused = True
        self._stalled_bytes = self._transport.get_write_buffer_size()
        self._set_deadline(self.context.settings.idle_timeout)
        if self.exchange is not None:
            self.exchange.client_paused(True)

    def resume_writing(self) -> None:
        """It takes more."""
        self.paused = False
        if self._state is WAITING:
            self._watch_for_fin()
        if self.exchange is not None:
            self.exchange.client_paused(False)
        if self._state is READING:
            self._resume_held()

    # Reading

    def _read(self, data: bytes) -> None:
        reader = self._reader
        while data and self._state is READING and not self.paused:
            self._held = reader.feed(data)
            exchange = self.exchange
            if exchange is None:
                if reader.failure is not None:
                    self._refuse(reader.failure)
                elif reader.head is not None:
                    self._begin(reader.head)
                elif not reader.idle and not self._head_begun:
                    self._head_begun = (
                        True  # from here on it has its own time, whatever trickles in
                    )
                    self._set_deadline(self.context.settings.client_head_timeout)
            elif reader.failure is not None:
                exchange.reject(reader.failure)
            else:
                self._pass_body(exchange)
            data, self._held = self._held, b""
        if data and self._state in (READING, WAITING):
            self._keep_for_later(data)

    def _keep_for_later(self, data: bytes) -> None:
        """Pipelined bytes: their turn comes when the answer under way is complete."""
        self._held += data
        if len(self._held) > PIPELINE_BYTES:
            self._hold(_HOLD_PIPELINE, True)
            if not self.paused:
                # A socket that is not read tells nothing of a client that left.
                self._set_deadline(HALF_CLOSE_SECONDS)

    def _begin(self, head: m.RequestHead) -> None:
        exchange = self.exchange = Exchange(self, head, self.context.clock())
        self._head_begun = False
        reader = self._reader
        if reader.complete:
            self._state = WAITING
            if self._eof:
                self._set_deadline(HALF_CLOSE_SECONDS)
        else:
            self._body_seen = 0
            self._set_deadline(BODY_CHECK_SECONDS)
        if reader.body or (reader.complete and head.chunked):
            exchange.early = reader.body
            exchange.request_body(reader.body, reader.complete, reader.trailers)
            reader.body = []
        else:
            exchange.request_complete = reader.complete
        enter(exchange)

    def _pass_body(self, exchange: Exchange) -> None:
        reader = self._reader
        body, reader.body = reader.body, []
        if reader.complete:
            self._state = WAITING
            if not self.paused:
                self._watch_for_fin()
        exchange.request_body(body, reader.complete, reader.trailers)

    def _watch_for_fin(self) -> None:
        """While an answer is awaited: see to it that a client that left is noticed."""
        if self._eof or self._holds:
            self._set_deadline(HALF_CLOSE_SECONDS)
        else:
            self.context.deadlines.clear(self)

    def _refuse(self, rejection: Rejection) -> None:
        """Answer a request that could not be read; nothing after it is looked at."""
        head = self._reader.head or m.RequestHead(b"", b"", m.HTTP_11, [])
        exchange = self.exchange = Exchange(self, head, self.context.clock())
        exchange.reject(rejection)

    def _answer_bug(self) -> None:
        exchange = self.exchange
        if exchange is not None and not exchange.finished and not exchange.status:
            exchange.reject(
                Rejection("INTERNAL_ERROR", "the gateway failed; it is logged", close=True)
            )
        else:
            self._abort("the gateway failed")

    def _hold(self, reason: int, hold: bool) -> None:
        before = self._holds
        self._holds = before | reason if hold else before & ~reason
        if bool(before) != bool(self._holds) and not self._transport.is_closing():
            if self._holds:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _resume_soon(self) -> None:
        if not self._resuming:
            self._resuming = True
            asyncio.get_running_loop().call_soon(self._resume_held)

    def _resume_held(self) -> None:
        self._resuming = False
        if self._state is READING and self._held and not self.paused:
            data, self._held = self._held, b""
            self.data_received(data)
        if not self._held:
            self._hold(_HOLD_PIPELINE, False)

    # What an exchange asks for

    def write(self, data: bytes) -> None:
        """Send to the client."""
        self._wrote = True
        self.context.outbox.write(self._transport, data)

    def forwarding(self, head: m.RequestHead) -> bytes:
        """The forwarding fields for this request; the same as last time when the Host is."""
        peer = self.peer
        if peer.trusted and head.forwarding:
            return forwarding_lines(peer.address, peer.scheme, head.host, head.forwarding)
        if head.host != self._forwarding_host:
            self._forwarding_host = head.host
            self._forwarding = forwarding_lines(peer.address, peer.scheme, head.host, None)
        return self._forwarding

    def hold_upload(self, hold: bool) -> None:
        """Stop reading the request body, or go on."""
        if hold != bool(self._holds & _HOLD_UPLOAD):
            self._hold(_HOLD_UPLOAD, hold)

    def cut(self, *, flush: bool) -> None:
        """End the connection so that the response can't be taken for complete."""
        self.exchange = None
        if flush:
            self._close()
            return
        self.context.outbox.flush()
        # A FIN is how this body ends when it is complete: a reset says that it is not.
        linger = struct.pack("ii", 1, 0)
        self._transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, linger
        )
        self._transport.abort()

    def exchange_done(self, *, keep: bool) -> None:
        """The exchange is over: on to the next request, or close."""
        self.exchange = None
        reader = self._reader
        if self._state is CLOSED:
            return
        if keep and not self._eof and (self._held or not self.server.closing):
            reader.rest()
            self._state = READING
            settings = self.context.settings
            # Until what was answered is taken, the next request waits: it would have no bound.
            seconds = settings.idle_timeout if self.paused else settings.keepalive_timeout
            self.context.deadlines.after(self, seconds)
            if self._holds:
                self._hold(_HOLD_UPLOAD, False)
            if self._held:
                self._resume_soon()
        elif keep and self._held:
            reader.rest()  # the client is done sending, but these came before
            self._state = READING
            self._resume_soon()
        elif reader.complete and not self._held:
            self._close()
        else:
            self._linger()

    def detach(self) -> asyncio.Transport:
        """A tunnel takes over the transport."""
        self.context.outbox.flush()
        self._state = DETACHED
        self.exchange = None
        self.context.deadlines.remove(self)
        self._holds = 0
        self._transport.resume_reading()
        return self._transport

    @property
    def done(self) -> bool:
        """Whether the client has sent its FIN."""
        return self._eof

    def hand_over(self, successor: Connection) -> asyncio.Transport:
        """An event stream takes over the transport and this connection's place in the server."""
        transport = self.detach()
        self._held = b""  # behind the request of a stream nothing is read
        self.server.opened(successor)
        self.server.closed(self)
        return transport

    def detached_end(self) -> None:
        """The tunnel is over."""
        self._state = CLOSED
        if self._tunnel is not None:
            self.server.tunnels.discard(self._tunnel)
        self.server.closed(self)

    def add_tunnel(self, tunnel: OpenTunnel) -> None:
        """Remember the tunnel and pass it what came early."""
        self._tunnel = tunnel
        self.server.tunnels.add(tunnel)
        if self._held:
            held, self._held = self._held, b""
            tunnel.send_held(held)
        if self._eof:
            tunnel.client_done()

    # Ending

    def close_idle(self) -> None:
        """Close if nothing is under way (a drain asks).

        One that was accepted a moment ago has a request on its way: it gets the time to be read.
        """
        if self.idle and self._wrote:
            self._close()
        elif self.idle:
            self._set_deadline(FIRST_REQUEST_SECONDS)

    def stop(self) -> None:
        """End at once."""
        if self._state is not CLOSED:
            self._abort("the gateway stopped")

    def _close(self) -> None:
        self._state = CLOSING
        self._stalled_bytes = 0
        # A client that takes nothing would keep the buffer for ever.
        self._set_deadline(self.context.settings.idle_timeout)
        self.context.outbox.flush()
        self._transport.close()

    def _linger(self) -> None:
        self._state = LINGERING
        self._stalled_bytes = 0
        self._held = b""
        self._set_deadline(LINGER_SECONDS)
        self.context.outbox.flush()
        if self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._holds = 0
        self._transport.resume_reading()

    def _abort(self, reason: str) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.client_gone(reason)
        self._transport.abort()

    def _set_deadline(self, seconds: float) -> None:
        self.context.deadlines.after(self, seconds)

    def expired(self, now: float) -> None:
        """A time limit passed; which one, the state says."""
        if self.paused or self._state not in (READING, WAITING):
            self._check_taken()
        elif self._state is READING:
            self._reading_expired()
        elif self._wrote or not self._has_left():
            self._wrote = False
            self._set_deadline(HALF_CLOSE_SECONDS)
        else:
            self._abort("the client closed the connection")

    def _check_taken(self) -> None:
        """Go on while the client takes something of what waits for it; else that was the end."""
        size = self._transport.get_write_buffer_size()
        if size and size != self._stalled_bytes:
            self._stalled_bytes = size
            self._set_deadline(self.context.settings.idle_timeout)
        else:
            self._abort("the client took nothing of the response")

    def _has_left(self) -> bool:
        """Whether the client has sent its FIN, also one that lies behind bytes not yet read."""
        if self._eof or not self._holds:
            return self._eof
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def _reading_expired(self) -> None:
        reader, exchange = self._reader, self.exchange
        if reader.idle:
            self._close()
        elif exchange is None:
            seconds = self.context.settings.client_head_timeout
            self._refuse(
                Rejection("REQUEST_TIMEOUT", f"no whole head within {seconds:g} s", close=True)
            )
        else:
            self._check_body_rate(exchange)

    def _check_body_rate(self, exchange: Exchange) -> None:
        """A minimum rate and no total, so that a slow line may upload something large."""
        rate = self.context.settings.min_body_rate
        if self._holds and self._has_left():
            self._abort("the client closed the connection")
            return
        late = exchange.bytes_in - self._body_seen < rate * BODY_CHECK_SECONDS
        if late and not self._holds and not exchange.awaits_continue:
            message = f"the body came slower than {rate} bytes a second"
            exchange.reject(Rejection("REQUEST_TIMEOUT", message, close=True))
            return
        self._body_seen = exchange.bytes_in
        self._set_deadline(BODY_CHECK_SECONDS)
