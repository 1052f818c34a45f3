"""The two ends of the fuzz test's wire: a backend that reads strictly, and a client."""

from __future__ import annotations

import asyncio
from typing import cast

from bench.answers import answer_for
from bench.framing import MalformedError, Message, read_request
from bench.judging import Judge
from bench.mutations import Case, Ending


class Recorder:
    """A backend on a loopback port that tells the judge of every request."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.open: set[RecorderConnection] = set()

    async def start(self) -> int:
        """Listens; returns the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: RecorderConnection(self), "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Closes the listener and what is open."""
        self._server.close()
        for connection in list(self.open):
            connection.abort()
        await self._server.wait_closed()


class RecorderConnection(asyncio.Protocol):
    """One upstream connection as the backend sees it."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._judge = recorder.judge
        self._buffer = b""
        self._continued = False
        self._ended = False  # we closed: what still comes was never read by us

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._recorder.open.add(self)

    def abort(self) -> None:
        """Ends it at once."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        self._buffer += data
        try:
            step = read_request(self._buffer)
        except MalformedError as error:
            self._judge.faults.append(f"the backend was sent a malformed request: {error}")
            self._end(b"")
            return
        if step is None:
            return
        message, used = step
        answer = answer_for(message.method, message.target)
        if message.complete:
            if len(self._buffer) > used:
                rest = self._buffer[used : used + 60]
                self._judge.faults.append(f"after {message.target!r} the backend was sent {rest!r}")
            self._buffer = b""
            self._continued = False
            self._judge.saw(message)
        elif answer.early:
            self._judge.saw(message)
        else:
            self._ask_for_the_body(message)
            return
        if answer.close:
            self._end(answer.data)
        else:
            self._transport.write(answer.data)

    def _ask_for_the_body(self, message: Message) -> None:
        if message.values(b"expect") and not self._continued:
            self._continued = True
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _end(self, data: bytes) -> None:
        self._ended, self._buffer = True, b""
        self._transport.write(data)
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._recorder.open.discard(self)
        if not self._buffer:
            return
        try:
            step = read_request(self._buffer)
        except MalformedError as error:
            self._judge.faults.append(f"the backend was sent a malformed request: {error}")
            return
        if step is not None:
            self._judge.saw(step[0])


async def play(case: Case, port: int, judge: Judge, *, timeout_seconds: float = 20) -> None:
    """Plays one case against a gateway on the loopback and tells the judge how it went."""
    judge.expect(case)
    try:
        async with asyncio.timeout(timeout_seconds):
            judge.heard(case, await _play(case, port))
    except TimeoutError:
        judge.heard(case, None)


async def _play(case: Case, port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        for piece in case.pieces:
            if writer.is_closing():
                break
            writer.write(piece)
            # Each piece its own segment; the pause is the loop's turn, not a time
            await asyncio.sleep(0)
        if case.ending is Ending.RESET:
            writer.transport.abort()
            return b""
        if case.ending is Ending.HALF_CLOSE and not writer.is_closing():
            writer.write_eof()
        while more := await reader.read(1 << 16):
            received += more
    except (ConnectionError, OSError):
        return received  # the gateway closed while we still sent: its right after an error
    finally:
        writer.close()
    return received
