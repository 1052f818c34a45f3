"""The harness of the scenarios: a scripted upstream, a raw client, and a gateway between them.

All three live in one event loop and talk over real sockets of 127.0.0.1. Nothing here knows how the
gateway is made: it is built from settings by `gateway.assemble` and looked at from outside only.
How bytes are sent and awaited is in `tests.connection`, how messages are written and strictly read
in `tests.messages`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from tests.connection import (
    PATIENCE_SECONDS,
    RawClient,
    Wire,
    WireClosedError,
    connect,
    eventually,
    holds,
    turn,
)
from tests.edge.clock import Time
from tests.messages import (
    REQUEST_LINE,
    Message,
    TruncatedError,
    ViolationError,
    answer,
    assert_error,
    chunks,
    read_head,
    read_request_body,
    request,
)
from tests.processes import free_port

__all__ = [
    "Link",
    "Message",
    "RawClient",
    "RunningGateway",
    "ScriptedUpstream",
    "TruncatedError",
    "ViolationError",
    "Wire",
    "WireClosedError",
    "answer",
    "assert_error",
    "chunks",
    "closed_port",
    "connect",
    "eventually",
    "free_port",
    "holds",
    "load_settings",
    "proxied",
    "request",
    "start_gateway",
    "turn",
]


class Link(Wire):
    """One connection that the gateway opened to the scripted upstream."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        super().__init__(upstream.record)
        self.upstream = upstream
        self.requests: list[Message] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if self.upstream.send_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.upstream.send_buffer_bytes)
        self.upstream.link_opened(self)

    async def head(self) -> Message:
        """The head of the next request; its body is left to `body`."""
        message = await read_head(self, REQUEST_LINE)
        self.requests.append(message)
        self.upstream.requests.append(message)
        return message

    async def body(self, message: Message) -> Message:
        """Reads the body of a request whose head was read."""
        return await read_request_body(self, message)

    async def request(self) -> Message:
        """The next request, whole."""
        return await self.body(await self.head())

    async def reply(self, data: bytes) -> Message:
        """Reads a request and answers it."""
        message = await self.request()
        self.send(data)
        return message


OK = answer(b"ok")
Script = Callable[[Link], Awaitable[None]]


class ScriptedUpstream:
    """A server that records every byte of every connection and answers as told.

    The script is an async function run once for each connection, or bytes that answer every
    request, or a list of them that answers the requests in the order in which they come (and then
    no more).
    """

    def __init__(
        self,
        script: Script | bytes | Sequence[bytes] = OK,
        *,
        tls: ssl.SSLContext | None = None,
        record: bool = True,
        send_buffer_bytes: int = 0,
        port: int = 0,
    ) -> None:
        self.links: list[Link] = []
        self.requests: list[Message] = []
        self.record = record
        self.send_buffer_bytes = send_buffer_bytes
        self.script = script
        self.errors: list[BaseException] = []
        self._tls = tls
        self._port = port
        self._canned = iter(itertools.repeat(script) if isinstance(script, bytes) else ())
        if isinstance(script, Sequence) and not isinstance(script, bytes):
            self._canned = iter(script)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Link(self), "127.0.0.1", self._port, ssl=self._tls, backlog=4096
        )
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        assert self._server
        self._server.close()
        for task in self._tasks:
            task.cancel()
        for link in self.links:
            link.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.errors and error is None:
            raise self.errors[0]

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port

    @property
    def url(self) -> str:
        """For `<NAME>_URL`."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def open_links(self) -> list[Link]:
        """Connections that the gateway has not ended."""
        return [link for link in self.links if not link.ended]

    @property
    def received(self) -> list[bytes]:
        """The exact bytes of every connection, in the order of opening."""
        return [bytes(link.received) for link in self.links]

    def link_opened(self, link: Link) -> None:
        """A new connection: runs the script on it."""
        self.links.append(link)
        task = asyncio.get_running_loop().create_task(self._run(link))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, link: Link) -> None:
        try:
            if callable(self.script):
                await self.script(link)
                return
            while True:
                await link.until(lambda: link.unread or link.ended, "a request", 3600)
                await link.request()
                if (data := next(self._canned, None)) is not None:
                    link.send(data)
        except ConnectionError:
            link.transport.close()
        except Exception as error:
            self.errors.append(error)
            link.transport.abort()

    async def link(self, index: int = 0) -> Link:
        """That connection, as soon as it is there."""
        await eventually(lambda: len(self.links) > index, f"upstream connection {index}")
        return self.links[index]

    async def received_requests(self, count: int) -> list[Message]:
        """The requests, as soon as there are that many."""
        await eventually(lambda: len(self.requests) >= count, f"{count} upstream requests")
        return self.requests


class RunningGateway:
    """A gateway under test: where it listens and what it has written."""

    def __init__(self, gateway: Any, settings: Any, log: Path) -> None:
        self.gateway = gateway
        self.settings = settings
        self.log_path = log
        self.drained = False
        self.loop_errors: list[dict[str, Any]] = []
        self.address = ("", 0)

    def connect(self, **options: Any) -> contextlib.AbstractAsyncContextManager[RawClient]:
        """A raw client; options as of `connect`."""
        return connect(self.address, **options)

    async def ask(self, data: bytes) -> Message:
        """One request on a connection of its own."""
        async with self.connect() as client:
            return await client.ask(data)

    def log(self) -> list[dict[str, Any]]:
        """Every whole line written so far; each must be a JSON object."""
        text = self.log_path.read_bytes()
        lines = text[: text.rfind(b"\n") + 1].splitlines()
        return [json.loads(line) for line in lines]

    def access_records(self) -> list[dict[str, Any]]:
        """The access records among them."""
        return [line for line in self.log() if "duration_ms" in line and "status" in line]

    async def records(self, count: int = 1) -> list[dict[str, Any]]:
        """The access records, as soon as there are that many; more are an error."""
        await eventually(lambda: len(self.access_records()) >= count, f"{count} access records")
        records = self.access_records()
        assert len(records) == count, records
        return records

    @contextlib.contextmanager
    def stopped_clock(self) -> Iterator[Time]:
        """The clock of limits, breakers and ejections stands still, and a test moves it; then it
        goes on from there. Time-outs, and what `/health` says, are by the real one.
        """
        context = self.gateway.context
        clock = context.clock
        time = Time(clock())
        context.clock = time.clock
        try:
            yield time
        finally:
            ahead = time.now - clock()
            context.clock = lambda: clock() + ahead

    async def drain(self, *, grace: bool) -> None:
        """Drains it, for tests that look at that; once more without `grace` ends the grace."""
        self.drained = True
        await self.gateway.drain(grace=grace)


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses connections: bound, so that nobody else gets it meanwhile,
    and never listened on.
    """
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def load_settings(directory: Path, config: str = "", port: int = 0, **environ: object) -> Any:
    """Settings from names of the contract; `config` is the text of the file, None unsets."""
    from gateway import settings as gateway_settings

    file = directory / "gateway.toml"
    file.write_text(config)
    names = {
        "GATEWAY_CONFIG": str(file),
        "STATE_DIR": str(directory / "state"),
        "RATE_LIMIT": "off",
        "LOG_FORMAT": "json",
        "DRAIN_GRACE_SECONDS": "0",
        "DRAIN_SECONDS": "3",
    }
    names |= {name: str(value) for name, value in environ.items()}
    names = {name: value for name, value in names.items() if environ.get(name, "") is not None}
    return dataclasses.replace(gateway_settings.load(names), port=port)


@contextlib.contextmanager
def no_authorities() -> Iterator[None]:
    """OpenSSL finds none of the authorities that the machine trusts. A gateway reads them all twice
    when it is built, which took half of its start, and no test has a service that they vouch for.
    """
    before = {name: os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
    os.environ |= dict.fromkeys(before, os.devnull)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.asynccontextmanager
async def start_gateway(
    config: str = "", *, port: int = 0, log_fd: int = -1, **environ: object
) -> AsyncIterator[RunningGateway]:
    """A gateway in this loop on a port of its own, set by names of the contract; no rate limit.

    The log goes to a file that the test can read, unless it brings a descriptor of its own.
    When it has gone, no exception may have reached the loop: it would have escaped a callback.
    """
    from gateway.assemble import build_server

    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as name:
        settings = load_settings(Path(name), config, port, **environ)
        log = Path(name) / "log"
        file_fd = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        running = RunningGateway(None, settings, log)
        loop.set_exception_handler(lambda _, context: running.loop_errors.append(context))
        try:
            with no_authorities():
                fd = file_fd if log_fd < 0 else log_fd
                running.gateway = await build_server(settings, log_fd=fd)
            await running.gateway.start()
            running.address = running.gateway.address
            try:
                yield running
            finally:
                if not running.drained:
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        await running.gateway.drain(grace=False)
            assert not running.loop_errors, running.loop_errors
        finally:
            loop.set_exception_handler(None)
            os.close(file_fd)


@contextlib.asynccontextmanager
async def proxied(
    script: Script | bytes | Sequence[bytes] = OK, config: str = "", **environ: object
) -> AsyncIterator[tuple[RunningGateway, ScriptedUpstream]]:
    """A gateway with one service, `svc`, whose upstream follows the script."""
    async with (
        ScriptedUpstream(script) as upstream,
        start_gateway(config, **({"SVC_URL": upstream.url} | environ)) as gateway,
    ):
        yield gateway, upstream
