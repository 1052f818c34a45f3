"""The keys of an issuer, by URL (`JWKS_URL`): fetched in the background and kept while the issuer
is away.

A set is fetched at start, every ten minutes (or as its Cache-Control says, within a minute and an
hour), and when a token names a key that is not known, the latter at most once in 10 s however many
such tokens come. What a set means is in jwk_set; what a token may be signed with in signatures.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

import aiohttp
import structlog
from yarl import URL

from gateway.policy.jwk_set import KeySet
from gateway.policy.pending import Pending
from gateway.policy.signatures import VerifyingKey
from gateway.settings import SettingsError

# A set of 64 RSA keys takes 64 KiB, its certificates among it three times as much.
MAX_BYTES: Final = 256 << 10
FETCH_SECONDS: Final = 10.0  # one attempt, all of it
WAIT_SECONDS: Final = 2.0  # a request with an unknown key waits for a fetch; then it is refused
# Requests that wait for one fetch, some 5 KB each; those after them are refused at once.
MAX_WAITING: Final = 1024

_MAX_AGE: Final = re.compile(r"(?:^|[\s,])max-age=\"?([0-9]{1,9})\"?", re.IGNORECASE)
_EXPECTED: Final = "https://…, or http://… on this machine"


@dataclass(frozen=True, slots=True)
class Pace:
    """When a set is fetched again, in seconds."""

    usual: float = 600.0
    least: float = 60.0  # whatever Cache-Control says
    most: float = 3600.0
    retry: float = 5.0  # after a failure; doubled with each, up to `usual`
    unknown_key: float = 10.0  # between fetches that tokens with unknown keys bring about


class _FetchError(Exception):
    """A fetch failed; the text says how, without the URL, which may hold a secret."""


class _Fetch:
    """A fetch under way, as those see it who wait for it, each at most 2 s."""

    __slots__ = ("_done", "_wait_seconds", "waiting")

    def __init__(self, wait_seconds: float) -> None:
        self._done = asyncio.Event()
        self._wait_seconds = wait_seconds
        self.waiting = 0

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._done.wait()
        except TimeoutError:
            pass
        finally:
            self.waiting -= 1

    def over(self) -> None:
        self._done.set()


class Jwks:
    """The keys at one URL. `start` once, in a running loop, then `close`.

    `tls` verifies the issuer's certificate; None: as the system does. `version` changes whenever a
    key goes that was here before: what was verified by it must be verified again. Raises
    SettingsError for a URL that keys can't be trusted from.
    """

    def __init__(
        self,
        url: str,
        tls: ssl.SSLContext | None = None,
        *,
        pace: Pace | None = None,
        wait_seconds: float = WAIT_SECONDS,
        fetch_seconds: float = FETCH_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = _checked(url)
        self._tls: ssl.SSLContext | bool = tls or True
        self._pace = pace or Pace()
        self._wait_seconds = wait_seconds
        self._fetch_seconds = fetch_seconds
        self._clock = clock
        self._log = structlog.get_logger("gateway.jwks")
        self._keys = KeySet()
        self._wanted = asyncio.Event()
        self._under_way: _Fetch | None = None
        self._task: asyncio.Task[None] | None = None
        self._asked_at: float | None = None
        self._error: str | None = "not fetched yet"
        self._failures = 0
        self.version = 0
        self.fetches = 0
        self.next_seconds = 0.0  # from the end of the last fetch to the next

    def __repr__(self) -> str:
        return f"<Jwks {self._url.host} {self._keys!r} error={self._error!r}>"

    @property
    def state(self) -> dict[str, object]:
        """For the health page: `state` (`healthy` or `degraded`), `keys`, `error`."""
        state = "healthy" if self._error is None else "degraded"
        return {"state": state, "keys": len(self._keys), "error": self._error}

    @property
    def has_keys(self) -> bool:
        """Whether the issuer's keys were ever had."""
        return len(self._keys) > 0

    def start(self) -> None:
        """Begin to fetch; the first fetch is under way when this returns."""
        if self._task is None:
            self._under_way = _Fetch(self._wait_seconds)
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """End; nobody waits any more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._under_way is not None:
            self._under_way.over()
            self._under_way = None

    def keys_for(self, algorithm: str, kid: str | None) -> Sequence[VerifyingKey] | None:
        """The keys that a token with this header may be signed with; None: none of that name is
        known.
        """
        return self._keys.keys_for(algorithm, kid)

    def ask(self) -> Pending | None:
        """For a token whose key is not known: what to wait for, or None when no fetch is due and
        it is to be refused now.
        """
        if self._task is None:
            return None
        if self._under_way is None:
            now = self._clock()
            if self._asked_at is not None and now - self._asked_at < self._pace.unknown_key:
                return None
            self._asked_at = now
            self._under_way = _Fetch(self._wait_seconds)
            self._wanted.set()
        fetch = self._under_way
        return None if fetch.waiting >= MAX_WAITING else Pending(fetch, last=False)

    async def _run(self) -> None:
        while True:
            self._wanted.clear()
            fetch = self._under_way = self._under_way or _Fetch(self._wait_seconds)
            await self._refresh()
            self._under_way = None
            fetch.over()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.next_seconds):
                    await self._wanted.wait()

    async def _refresh(self) -> None:
        """Fetch once; the keys stay as they are when that fails."""
        self.fetches += 1
        try:
            async with asyncio.timeout(self._fetch_seconds):
                body, max_age = await self._fetch()
            self._took(_parsed(body), max_age)
        except Exception as error:  # whatever an issuer does, the next fetch comes
            self._failed(_reason(error))

    async def _fetch(self) -> tuple[bytes, float | None]:
        """The body and its max-age in seconds."""
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                trust_env=False,  # no proxy, no netrc
                auto_decompress=False,
            ) as session,
            session.get(
                self._url,
                headers={
                    "User-Agent": "gateway",
                    "Accept": "application/jwk-set+json, application/json",
                    "Accept-Encoding": "identity",
                },
                # Whom to trust is the setting's matter, not that of whoever answers there.
                allow_redirects=False,
            ) as response,
        ):
            if response.status != 200:
                raise _FetchError(f"the issuer answered {response.status}")
            body = bytearray()
            while chunk := await response.content.read(MAX_BYTES + 1 - len(body)):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise _FetchError(f"the issuer sent more than {MAX_BYTES} bytes")
            return bytes(body), _max_age(response.headers.get("Cache-Control", ""))

    def _took(self, keys: KeySet, max_age: float | None) -> None:
        before, self._keys = self._keys, keys
        if before.fingerprints - keys.fingerprints:
            self.version += 1
        pace = self._pace
        self.next_seconds = min(
            max(pace.usual if max_age is None else max_age, pace.least), pace.most
        )
        if self._error is not None or before.fingerprints != keys.fingerprints:
            self._log.info("jwks_loaded", keys=len(keys), skipped=keys.skipped)
        self._error, self._failures = None, 0

    def _failed(self, reason: str) -> None:
        self.next_seconds = min(self._pace.retry * 2**self._failures, self._pace.usual)
        self._failures = min(self._failures + 1, 16)  # as far as doubling changes anything
        if self._error != reason:
            self._log.warning("jwks_failed", reason=reason, keys=len(self._keys))
        self._error = reason


def _checked(url: str) -> URL:
    """Raises SettingsError for a URL that anyone on the way could answer for. It is not shown: its
    query may hold a secret.
    """
    with contextlib.suppress(ValueError):
        parsed = URL(url)
        known = parsed.host is not None and parsed.user is None and parsed.password is None
        if known and (parsed.scheme == "https" or (parsed.scheme == "http" and _is_local(parsed))):
            return parsed
    raise SettingsError(f"settings: JWKS_URL is no such address, expected {_EXPECTED}")


def _is_local(url: URL) -> bool:
    """Raises ValueError for a host that is another name than localhost."""
    return url.host == "localhost" or ip_address(url.host or "").is_loopback


def _parsed(body: bytes) -> KeySet:
    try:
        return KeySet.parse(body)
    except ValueError as error:
        raise _FetchError(f"the issuer sent {error}") from None


def _max_age(cache_control: str) -> float | None:
    """RFC 9111 §5.2.2.1."""
    match = _MAX_AGE.search(cache_control)
    return None if match is None else float(match[1])


def _reason(error: Exception) -> str:
    """What went wrong, without addresses."""
    if isinstance(error, _FetchError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "the issuer did not answer in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "the issuer's certificate was not accepted"
    return f"no answer from the issuer ({type(error).__name__})"
