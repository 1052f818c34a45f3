"""Active checks: a GET at each endpoint of a service that has `check_path`, again and again.

Here is the asking; what comes of an answer is decided in rotation.py. A check passes with a status
from 200 to 399, as nginx, HAProxy and Kubernetes have it: a service that sends its visitors
elsewhere is up. The path stands for itself: an endpoint's base path is not put before it. Each
check is a connection of its own, so that it finds out whether the endpoint still accepts any.
"""

from __future__ import annotations

import asyncio
import os
import random as chance
import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import aiohttp
from yarl import URL

from gateway.routing.endpoint import DRAINING, Endpoint
from gateway.routing.services import Service
from gateway.settings_balancing import CheckSettings

# Of an interval, either way: gateways that were started together do not ask together for ever.
JITTER: Final = 0.1
_HEADERS: Final = {"User-Agent": "gateway-health-check", "Accept": "*/*"}


class HealthChecks:
    """The checks of all services: a Task for each service that has any."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        random: Callable[[], float] = chance.random,
    ) -> None:
        """`clock` is monotonic seconds. Nothing is asked before the first `reload`."""
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self._tls: ssl.SSLContext | None = None
        self._session: aiohttp.ClientSession | None = None
        self._tasks: dict[Service, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<HealthChecks of {sorted(service.name for service in self._tasks)}>"

    def reload(self, services: Iterable[Service], tls: ssl.SSLContext | None = None) -> None:
        """Check these from now on, with `tls` for https endpoints (None: the system's roots). A
        service that is the same object goes on as it was. Needs a running event loop.
        """
        wanted = [service for service in services if service.settings.checks is not None]
        gone = set(self._tasks) - set(wanted) if tls is self._tls else set(self._tasks)
        self._tls = tls
        for service in gone:
            self._tasks.pop(service).cancel()
        for service in wanted:
            checks = service.settings.checks
            if checks is not None and service not in self._tasks:
                watch = self._watch(service, checks)
                self._tasks[service] = asyncio.get_running_loop().create_task(watch)

    async def close(self) -> None:
        """Ask no more."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _watch(self, service: Service, checks: CheckSettings) -> None:
        """One round after the other; its endpoints are those that the service has then."""
        await self._sleep(checks.interval * JITTER * self._random())
        while True:
            begun = self._clock()
            await asyncio.gather(
                *(
                    self._check(service, endpoint, checks)
                    for endpoint in service.endpoints
                    if endpoint.state is not DRAINING
                )
            )
            interval = checks.interval * (1 - JITTER + 2 * JITTER * self._random())
            await self._sleep(max(0.0, begun + interval - self._clock()))

    async def _check(self, service: Service, endpoint: Endpoint, checks: CheckSettings) -> None:
        error = await self._ask(endpoint, checks)
        service.rotation.checked(endpoint, error, self._clock())

    async def _ask(self, endpoint: Endpoint, checks: CheckSettings) -> str | None:
        """What is wrong with the answer; None: nothing."""
        url = f"{endpoint.url.scheme}://{endpoint.url.authority}{checks.path}"
        try:
            async with (
                asyncio.timeout(checks.timeout),
                self._open_session().get(
                    URL(url, encoded=True),
                    headers=_HEADERS,
                    allow_redirects=False,
                    ssl=self._tls or True,
                ) as response,
            ):
                status = response.status
                response.close()  # nobody reads the body, however long it is
        except TimeoutError:
            return f"no answer within {checks.timeout:g} s"
        except Exception as error:  # whatever it is, it must not end the checks
            return _told(error)
        return None if 200 <= status < 400 else f"status {status}"

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            # As many at once as there are endpoints, which the settings bound.
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
            )
        return self._session


def _told(error: Exception) -> str:
    """An error in few words, those of the system where it has some."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name is not known"
    if isinstance(error, aiohttp.ClientSSLError):
        why = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
        return f"TLS failed: {getattr(why, 'reason', None) or type(why).__name__}"
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else type(error).__name__
