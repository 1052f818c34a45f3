"""What an exchange and a client's connection know of each other: the words between the two."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from gateway.edge.admission import Peer
from gateway.edge.context import EdgeContext
from gateway.edge.message import RequestHead

if TYPE_CHECKING:
    from gateway.edge.tunnel import Tunnel


class Client(Protocol):
    """What an exchange needs of the connection that the request came on."""

    context: EdgeContext
    peer: Peer
    paused: bool  # it takes no more of the response for now

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

    def detached_end(self) -> None:
        """The transport handed over was closed."""

    def add_tunnel(self, tunnel: Tunnel) -> None:
        """Let the server know of a tunnel, so that a drain closes it."""
