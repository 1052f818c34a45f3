"""After 101: bytes both ways, each side read only as fast as the other takes them.

Nothing is parsed any more but the borders of WebSocket frames from the back end, so that a drain
can put a close frame (RFC 6455 §5.5.1) where one may stand.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from gateway.edge.deadlines import NEVER, Deadlines

if TYPE_CHECKING:
    from gateway.edge.context import EdgeContext
    from gateway.edge.roles import Client
    from gateway.edge.upstream import UpstreamConnection

GOING_AWAY: Final = (
    b"\x88\x02\x03\xe9"  # a close frame with status 1001, unmasked: server to client
)


class FrameBorders:
    """Follows the lengths of WebSocket frames (RFC 6455 §5.2) to know when one ends."""

    __slots__ = ("_header", "_payload")

    def __init__(self) -> None:
        self._header = b""
        self._payload = 0  # bytes of the current frame still to come

    @property
    def at_border(self) -> bool:
        """Whether the next byte begins a frame."""
        return not self._payload and not self._header

    def feed(self, data: bytes) -> None:
        """More bytes of the stream."""
        at = 0
        while at < len(data):
            if self._payload:
                step = min(self._payload, len(data) - at)
                self._payload -= step
                at += step
                continue
            header = self._header + data[at : at + 14]
            length = self._header_length(header)
            if length is None:
                self._header = header
                return
            at += length - len(self._header)
            self._header = b""
            self._payload = self._payload_length(header)

    @staticmethod
    def _header_length(header: bytes) -> int | None:
        """How long the frame's header is, None while that or the header itself is not whole."""
        if len(header) < 2:
            return None
        code = header[1] & 0x7F
        length = (
            2 + (2 if code == 126 else 8 if code == 127 else 0) + (4 if header[1] & 0x80 else 0)
        )
        return length if len(header) >= length else None

    @staticmethod
    def _payload_length(header: bytes) -> int:
        code = header[1] & 0x7F
        if code < 126:
            return code
        return int.from_bytes(header[2 : 4 if code == 126 else 10], "big")


class Owner(Protocol):
    """The exchange that became a tunnel."""

    context: EdgeContext
    client: Client
    bytes_in: int
    bytes_out: int

    def tunnel_ended(self, reason: str) -> None:
        """Both directions are over."""


class _Side(asyncio.Protocol):
    """One end: what is received here is written to the other end."""

    __slots__ = ("_tunnel", "eof", "lost", "other", "transport")

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport) -> None:
        self._tunnel = tunnel
        self.transport = transport
        self.other: _Side = self
        self.eof = False
        self.lost = False

    def data_received(self, data: bytes) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.write(data)
            self._tunnel.moved(self, data)

    def eof_received(self) -> bool:
        """Half-close passes on plain TCP; over TLS there is none here, so the end is both's."""
        self.eof = True
        other = self.other.transport
        if other.can_write_eof() and self.transport.can_write_eof() and not other.is_closing():
            other.write_eof()
            if self.other.eof:
                self._tunnel.close("closed")
            return True
        self._tunnel.close("closed")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._tunnel.close("closed" if exc is None else "reset")
        self._tunnel.side_lost()

    def pause_writing(self) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.resume_reading()


class Tunnel:
    """Two transports joined until both ways end, one is reset, or nothing moves for too long."""

    def __init__(
        self,
        owner: Owner,
        upstream: UpstreamConnection,
        idle_timeout: float,
        websocket: bool,
        first: bytes,
    ) -> None:
        """`first` came from the back end behind its 101 and was written to the client already.
        `idle_timeout` in seconds.
        """
        context = owner.context
        self.deadline = NEVER
        self.filed_tick = NEVER
        self.owner = owner
        self._deadlines: Deadlines = context.deadlines
        self._idle_timeout = idle_timeout
        self._borders = FrameBorders() if websocket else None
        if self._borders is not None:
            self._borders.feed(first)
        self._ended = False  # both ends are closing
        self._over = False  # both are gone
        self._reason = ""
        self._client = _Side(self, owner.client.detach())
        self._upstream = _Side(self, upstream.detach())
        self._client.other, self._upstream.other = self._upstream, self._client
        for side in (self._client, self._upstream):
            side.transport.set_protocol(side)
        owner.client.add_tunnel(self)
        self._deadlines.after(self, self._idle_timeout)

    def __repr__(self) -> str:
        state = "ended" if self._ended else "open"
        return f"<Tunnel {state} in={self.owner.bytes_in} out={self.owner.bytes_out}>"

    def send_held(self, data: bytes) -> None:
        """What the client sent before the 101 was there."""
        self._client.data_received(data)

    def client_done(self) -> None:
        """The client had sent its FIN before the 101 was there."""
        self._client.eof_received()

    def moved(self, side: _Side, data: bytes) -> None:
        """Count what passed and start the idle time anew."""
        if side is self._client:
            self.owner.bytes_in += len(data)
        else:
            self.owner.bytes_out += len(data)
            if self._borders is not None:
                self._borders.feed(data)
        self._deadlines.after(self, self._idle_timeout)

    def expired(self, now: float) -> None:
        """Nothing moved for too long, or one end took nothing of what was left for it."""
        if self._ended:
            self._abort()
        else:
            self.close("idle")

    def go_away(self) -> None:
        """The gateway is closing: tell a WebSocket's client, between two frames."""
        if self._ended:
            return
        half_closed = self._client.eof or self._upstream.eof
        if self._borders is not None and self._borders.at_border and not half_closed:
            self._client.transport.write(GOING_AWAY)
        self.close("draining")

    def close(self, reason: str) -> None:
        """End both directions; after a clean end what was received is still written."""
        if self._ended:
            if reason == "stopped":
                self._abort()
            return
        self._ended = True
        self._reason = reason
        if reason in ("closed", "draining"):
            for side in (self._client, self._upstream):
                side.transport.close()
            # A peer that takes nothing must not keep a buffer for ever.
            self._deadlines.after(self, self.owner.context.settings.idle_timeout)
        else:
            self._abort()

    def _abort(self) -> None:
        for side in (self._client, self._upstream):
            side.transport.abort()

    def side_lost(self) -> None:
        """One transport is gone; with the other the tunnel is over."""
        if self._client.lost and self._upstream.lost and not self._over:
            self._over = True
            self._deadlines.remove(self)
            self.owner.tunnel_ended(self._reason)
