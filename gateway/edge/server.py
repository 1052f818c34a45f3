"""The server that aiohttp's runner and sites run: it makes client connections and knows the live
ones.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from gateway.edge.context import EdgeContext
from gateway.edge.downstream import ClientConnection
from gateway.edge.roles import Connection, OpenTunnel


async def _unused(request: web.BaseRequest) -> web.StreamResponse:  # pragma: no cover
    """aiohttp's server wants a handler; our connections never ask it."""
    raise NotImplementedError


class EdgeServer(web.Server):
    """aiohttp's low-level server with our protocol in place of its own."""

    def __init__(self, context: EdgeContext) -> None:
        """Needs a running event loop."""
        super().__init__(_unused)
        self.context = context
        self.tunnels: set[OpenTunnel] = set()
        self.closing = False  # the grace of a drain is over: connections end with their answer
        self._live: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __repr__(self) -> str:
        return f"<EdgeServer live={len(self._live)} tunnels={len(self.tunnels)}>"

    def __call__(self) -> Any:
        """A protocol for a new connection."""
        return ClientConnection(self)

    @property
    def connections(self) -> list[Any]:
        """The live connections."""
        return list(self._live)

    @property
    def is_full(self) -> bool:
        """Whether there are more connections than `max_connections`."""
        return len(self._live) > self.context.settings.max_connections

    def opened(self, connection: Connection) -> None:
        """A connection was accepted."""
        self._live.add(connection)
        self._empty.clear()

    def closed(self, connection: Connection) -> None:
        """A connection ended."""
        self._live.discard(connection)
        if not self._live:
            self._empty.set()

    def pre_shutdown(self) -> None:
        """Idle connections close, tunnels are told that the gateway goes away."""
        self.closing = True
        for connection in list(self._live):
            connection.close_idle()
        for tunnel in list(self.tunnels):
            tunnel.go_away()

    async def shutdown(self, timeout: float | None = None) -> None:
        """Wait `timeout` seconds for what is under way, then end it."""
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        except TimeoutError:
            for connection in list(self._live):
                connection.stop()
            for tunnel in list(self.tunnels):
                tunnel.close("stopped")
