"""A receiver of callbacks on a real socket that answers as a test says, and keeps what it got."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field

from aiohttp import web

Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Receiver:
    """Answers 200, or what stands next in `script`: a status, or a handler."""

    port: int = 0
    script: list[int | Respond] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    _more: asyncio.Condition = field(default_factory=asyncio.Condition)

    def url(self, path: str = "/hook", host: str = "127.0.0.1", scheme: str = "http") -> str:
        """Where it listens."""
        return f"{scheme}://{host}:{self.port}{path}"

    async def got(self, count: int) -> list[Received]:
        """All requests, once there are `count`."""
        async with self._more:
            await self._more.wait_for(lambda: len(self.received) >= count)
        return self.received

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        answer = self.script.pop(0) if self.script else 200
        async with self._more:
            self.received.append(Received(request.method, request.path_qs, headers, body))
            self._more.notify_all()
        if isinstance(answer, int):
            return web.Response(status=answer)
        return await answer(request)  # type: ignore[arg-type]


@asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """A receiver on 127.0.0.1, at any free port."""
    receiver = Receiver()
    runner = web.ServerRunner(web.Server(receiver._handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    receiver.port = runner.addresses[0][1]
    try:
        yield receiver
    finally:
        await runner.cleanup()


@contextmanager
def silence() -> Iterator[int]:
    """A port where connections are taken, by the kernel, and nothing is ever said."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=128)) as listener:
        yield listener.getsockname()[1]
