"""What the parts of the door know of each other: the words between server, client, exchange and
tunnel, so that none of them needs the other's file.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from gateway.edge.admission import Peer
from gateway.edge.context import EdgeContext
from gateway.edge.message import RequestHead


class OpenTunnel(Protocol):
    """A connection after 101, as the server keeps it in mind."""

    def send_held(self, data: bytes) -> None:
        """Pass on what the client sent before the 101 was there."""

    def client_done(self) -> None:
        """The client had sent its FIN before the 101 was there."""

    def go_away(self) -> None:
        """The gateway is closing: say so and end."""

    def close(self, reason: str) -> None:
        """End both directions."""


class Server(Protocol):
    """What a client's connection needs of the server that accepted it."""

    context: EdgeContext
    tunnels: set[OpenTunnel]
    closing: bool  # the grace of a drain is over: connections end with their answer

    @property
    def is_full(self) -> bool:
        """Whether there are more connections than `max_connections`."""

    def opened(self, connection: Connection) -> None:
        """A connection was accepted."""

    def closed(self, connection: Connection) -> None:
        """A connection ended."""


class Connection(Protocol):
    """A client's connection, as the server keeps it in mind."""

    def close_idle(self) -> None:
        """Close if nothing is under way."""

    def stop(self) -> None:
        """End at once."""


class Client(Protocol):
    """What an exchange needs of the connection that the request came on."""

    context: EdgeContext
    server: Server
    peer: Peer
    paused: bool  # it takes no more of the response for now

    @property
    def done(self) -> bool:
        """Whether it has sent its FIN."""

    def write(self, data: bytes) -> None:
        """Send to the client."""

    def forwarding(self, head: RequestHead) -> bytes:
        """The forwarding fields for this request."""

    def hold_upload(self, hold: bool) -> None:
        """Stop reading the request body, or go on."""

    def cut(self, *, flush: bool) -> None:
        """End the connection in a way that the client can't take for the end of the response."""

    def exchange_done(self, *, keep: bool) -> None:
        """The exchange is over; `keep`: the connection may carry another."""

    def detach(self) -> asyncio.Transport:
        """Hand the transport over to a tunnel."""

    def hand_over(self, successor: Connection) -> asyncio.Transport:
        """Hand the transport over to `successor`, which the server knows from here on instead."""

    def detached_end(self) -> None:
        """The transport handed over was closed."""

    def add_tunnel(self, tunnel: OpenTunnel) -> None:
        """Let the server know of a tunnel, so that a drain closes it."""
