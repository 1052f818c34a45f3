"""One request out, one status back: resolved once, connected to the very addresses that were
checked, in bounded time and space.

What is sent is made in `callback.py` and `forward.py`; when it is tried again is decided in
`retries.py`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from gateway.callbacks.address import AddressRefused, Allowed
from gateway.callbacks.lookups import Resolve

TIMEOUT_SECONDS = 10.0  # for all of it; a receiver should take the message and work afterwards
MAX_ANSWER_BYTES = 64 << 10  # read so that the receiver can finish politely; nobody looks at it
MAX_ADDRESSES = 8  # tried of one name; more would not fit into the time anyway


class NotSent(Exception):
    """No answer came. The text is one of a few, without addresses and URLs: it goes into the audit
    trail, where the asker reads it. What the operator may know besides is in `detail`.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request to send. `allowed` judges the addresses; None for the operator's own services."""

    method: str
    url: URL = field(repr=False)  # as secret as its path and query are
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    allowed: Allowed | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the status, and `Retry-After` as it was written."""

    status: int
    retry_after: str | None


class _Checked(AbstractResolver):
    """Knows one name only, with the addresses that were checked."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6
                if isinstance(ip_address(address), IPv6Address)
                else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """Nothing is held."""


class Sender:
    """Sends requests; holds nothing between them: no connection, no cookie, no name's address.

    `tls` verifies certificates of https targets; another may take its place at any time.
    """

    def __init__(
        self, resolve: Resolve, tls: ssl.SSLContext, *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        self._resolve = resolve
        self.tls = tls
        self._timeout_seconds = timeout_seconds

    def __repr__(self) -> str:
        return f"<Sender timeout={self._timeout_seconds}>"

    async def send(self, outgoing: Outgoing) -> Answer:
        """Send once. Raises NotSent when no status came back in time."""
        answers: list[Answer] = []
        try:
            async with asyncio.timeout(self._timeout_seconds):
                addresses = await self._addresses(outgoing)
                await self._exchange(outgoing, addresses, answers)
        except TimeoutError:
            failure = NotSent("no answer in time")
        except aiohttp.ClientConnectorCertificateError as error:
            failure = NotSent("the certificate was not accepted", str(error.certificate_error))
        except aiohttp.ClientSSLError:
            failure = NotSent("no TLS")
        except (aiohttp.ClientConnectorError, OSError) as error:
            failure = NotSent("no connection", _errno(error))
        except (aiohttp.ClientError, ValueError) as error:
            failure = NotSent(
                "the connection broke, or what came was not HTTP", type(error).__name__
            )
        else:
            return answers[0]
        if answers:  # the status is the answer, whatever befell what came after it
            return answers[0]
        raise failure

    async def _addresses(self, outgoing: Outgoing) -> list[str]:
        host, port = outgoing.url.raw_host or "", outgoing.url.port or 0
        try:
            addresses = [str(ip_address(host))]
        except ValueError:
            try:
                addresses = await self._resolve(host, port)
            except OSError as error:
                raise NotSent("the host's name could not be resolved", _errno(error)) from None
        if outgoing.allowed is not None:
            try:
                outgoing.allowed.check(host, addresses)
            except AddressRefused as refused:
                raise NotSent(f"the host {refused}", " ".join(addresses[:MAX_ADDRESSES])) from None
        return addresses[:MAX_ADDRESSES]

    async def _exchange(
        self, outgoing: Outgoing, addresses: Sequence[str], answers: list[Answer]
    ) -> None:
        connector = aiohttp.TCPConnector(
            resolver=_Checked(addresses), use_dns_cache=False, ssl=self.tls, force_close=True
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                trust_env=False,  # no proxy, no netrc
                auto_decompress=False,
            ) as session,
            session.request(
                outgoing.method,
                outgoing.url,
                headers={"User-Agent": "gateway", "Accept-Encoding": "identity"}
                | dict(outgoing.headers),
                data=outgoing.body,
                allow_redirects=False,
            ) as response,
        ):
            answers.append(Answer(response.status, response.headers.get("Retry-After")))
            left = MAX_ANSWER_BYTES
            while left > 0 and (chunk := await response.content.read(left)):
                left -= len(chunk)


def _errno(error: Exception) -> str:
    """What the system said, without the address."""
    number = error.errno if isinstance(error, OSError) else None
    name = type(error).__name__
    return name if number is None else f"{name} {number}"
