"""Names to addresses, in threads of their own.

The loop's own resolver has a handful of threads, which the door's connections to services need too:
names that somebody else chose, whose servers never answer, must not sit in them.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable

# Host and port to addresses, in the resolver's order; raises OSError.
Resolve = Callable[[str, int], Awaitable[list[str]]]


class Lookups:
    """At most `at_once` look-ups; one that is given up keeps its place until its thread ends.

    The threads are daemons: a resolver that takes its time does not hold up the end of the process.
    """

    def __init__(self, at_once: int = 16) -> None:
        self._free = asyncio.Semaphore(at_once)

    def __repr__(self) -> str:
        return f"<Lookups full={self._free.locked()}>"

    async def resolve(self, host: str, port: int) -> list[str]:
        """All addresses of a TCP endpoint, each once. Raises OSError when there are none."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[str]] = loop.create_future()

        def look() -> None:
            result: list[str] | OSError
            try:
                infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                result = [str(sockaddr[0]) for *_, sockaddr in infos]
            except OSError as error:
                result = error
            except ValueError:  # a label too long for IDNA
                result = OSError("not a name that can be looked up")
            try:
                loop.call_soon_threadsafe(self._settle, found, result)
            except RuntimeError:
                pass  # the loop has ended meanwhile

        try:
            threading.Thread(target=look, name="callback-lookup", daemon=True).start()
        except RuntimeError as error:
            self._free.release()
            raise OSError("no thread to look a name up in") from error
        return list(dict.fromkeys(await found))

    def _settle(self, found: asyncio.Future[list[str]], result: list[str] | OSError) -> None:
        self._free.release()
        if found.done():  # given up
            return
        if isinstance(result, OSError):
            found.set_exception(result)
        else:
            found.set_result(result)
