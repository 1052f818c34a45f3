"""The worker's one HTTP client: it speaks to the gateway and to nobody else.

Services are reached through the gateway like by anyone, in the caller's name: the service's token
lets the worker in, X-On-Behalf-Of says for whom (policy/on_behalf). How a request is written and an
answer read is in `messages`. Nothing is retried here, no redirect followed, no cookie kept; an
answer has a bound, and the time-out covers all of it.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import aiohttp
import orjson
from yarl import URL

from gateway.jobs import messages
from gateway.jobs.messages import BadRequestError, Received
from gateway.jobs.models import JobContext, JobError, ServiceRequest
from gateway.policy.on_behalf import (
    HEADER,
    LIFE_SECONDS,
    MOST_WAIT_SECONDS,
    Assertion,
    Assertions,
)

# As many requests as a worker's activities at once (its tuner's bound) with room for bookkeeping.
MOST_CONNECTIONS: Final = 512
CONNECT_SECONDS: Final = 5.0
OWN_SECONDS: Final = 10.0  # for what the gateway answers itself; it never waits for a service there
KEEP_ALIVE_SECONDS: Final = 30.0  # less than the gateway's 75, so that none is closed under us
MOST_ANSWER_BYTES: Final = 4 << 20  # results are kept, by reference above 256 KiB
_READ_BYTES: Final = 64 << 10
# One assertion serves for so long: half of what it is good for is left to its last request then.
_SIGNED_SECONDS: Final = LIFE_SECONDS / 2
# Some 600 bytes each: more jobs than have requests under way at once.
_MOST_SIGNED: Final = 1000
_ADMISSION: Final = "/internal/jobs/admission"


class NoAnswerError(Exception):
    """No answer came; `kind` is one of the taxonomy, the text names no address."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class OwnAnswer:
    """What the gateway said itself: the status, and the JSON value (None where it was none)."""

    status: int
    value: Any
    retry_after: int | None = None


def new_session(tls: ssl.SSLContext | None = None) -> aiohttp.ClientSession:
    """The client; to be made in a running loop. `tls`: how an https gateway's certificate is
    judged; None: by the system's authorities.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=MOST_CONNECTIONS, keepalive_timeout=KEEP_ALIVE_SECONDS, ssl=tls or True
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        trust_env=False,  # no proxy, no netrc
        skip_auto_headers=("Content-Type",),  # a request without a body has none
        auto_decompress=False,
    )


class GatewayHttp:
    """Requests to the gateway at `url` (scheme, host, port) with the service's `token`.

    `wall` is Unix time. The session is made with the first request.
    """

    def __init__(
        self,
        url: str,
        token: str,
        assertions: Assertions,
        *,
        wall: Callable[[], float],
        new_request_id: Callable[[], str],
        session_factory: Callable[[], aiohttp.ClientSession] = new_session,
    ) -> None:
        self._url = url.rstrip("/")
        self._authorization = f"Bearer {token}"
        self._assertions = assertions
        self._wall = wall
        self._new_request_id = new_request_id
        self._session_factory = session_factory
        self._session: aiohttp.ClientSession | None = None
        self._signed: OrderedDict[Assertion, tuple[float, str]] = OrderedDict()

    def __repr__(self) -> str:
        state = "new" if self._session is None else "closed" if self._session.closed else "open"
        return f"<GatewayHttp {self._url} {state}>"

    async def close(self) -> None:
        """Close the connections; requests that are under way fail."""
        if self._session is not None:
            await self._session.close()

    async def ask_service(
        self,
        context: JobContext,
        request: ServiceRequest,
        *,
        key: str,
        timeout_seconds: float,
        spent: bool,
        most_bytes: int = MOST_ANSWER_BYTES,
    ) -> Received:
        """One request to a service in the caller's name; `key` is its Idempotency-Key. An answer of
        more than `most_bytes` is left without its body.

        Raises NoAnswerError, and BadRequestError where the input makes no request.
        """
        target = messages.target_of(context, request)
        body, content_type = messages.body_of(request)
        fields = messages.request_fields(request)
        if content_type is not None and not any(name.lower() == "content-type" for name in fields):
            fields["Content-Type"] = content_type
        fields |= self._own_fields(
            context,
            request.service,
            spent=spent,
            wait_seconds=min(timeout_seconds, MOST_WAIT_SECONDS),
        )
        fields["Idempotency-Key"] = key
        status, headers, raw = await self._exchange(
            request.method, target, fields, body, timeout_seconds, most_bytes
        )
        received = messages.read_answer(status, headers, raw or b"", self._wall())
        return replace(received, too_large=raw is None)

    async def admission(
        self, context: JobContext, request: ServiceRequest, what: str
    ) -> JobError | None:
        """Ask the gateway whether the caller may (`authenticate`), and count the request once
        (`limit`). None: it may go on. Raises NoAnswerError, BadRequestError.
        """
        asked: dict[str, Any] = {
            "what": what,
            "service": request.service,
            "method": request.method,
            "target": messages.target_of(context, request),
            "headers": {},
        }
        for name, text in messages.request_fields(request).items():
            if name.lower() == "host":
                asked["host"] = text
            else:
                asked["headers"][name] = text
        fields = self._own_fields(context, request.service, spent=False)
        answer = await self._own("POST", _ADMISSION, orjson.dumps(asked), fields)
        if answer.status != 200 or not isinstance(answer.value, dict):
            return refusal_of(answer)
        if answer.value.get("allowed") is True:
            return None
        error = answer.value.get("error")
        return messages.error_of(error if isinstance(error, Mapping) else {}, 403)

    async def own(
        self, method: str, path: str, value: Any = None, *, key: str | None = None
    ) -> OwnAnswer:
        """A request to one of the gateway's own paths, in the worker's own name. Raises
        NoAnswerError.
        """
        fields = {"Authorization": self._authorization, "X-Request-ID": self._new_request_id()}
        if key is not None:
            fields["Idempotency-Key"] = key
        body = None if value is None else orjson.dumps(value)
        return await self._own(method, path, body, fields)

    async def _own(
        self, method: str, path: str, body: bytes | None, fields: dict[str, str]
    ) -> OwnAnswer:
        if body is not None:
            fields["Content-Type"] = "application/json"
        status, headers, raw = await self._exchange(method, path, fields, body, OWN_SECONDS)
        try:
            value = orjson.loads(raw or b"")
        except orjson.JSONDecodeError:
            value = None
        retry_after = messages.retry_after(headers.get("Retry-After"), self._wall())
        return OwnAnswer(status, value, retry_after)

    def _own_fields(
        self, context: JobContext, service: str, *, spent: bool, wait_seconds: float | None = None
    ) -> dict[str, str]:
        """The fields that say who asks, for whom, as part of what, and how long it may take."""
        caller = context.caller
        assertion = Assertion(
            service=service,
            job=context.operation_id,
            subject=caller.subject,
            tenant=caller.tenant,
            tier=caller.tier,
            scopes=frozenset(caller.scopes),
            client_ids=frozenset(caller.client_ids),
            address=caller.address,
            agent=caller.agent,
            spent=spent,
            open_write=caller.open_write,
            wait_seconds=wait_seconds,
        )
        fields = {
            "Authorization": self._authorization,
            HEADER: self._sign(assertion),
            "X-Request-ID": self._new_request_id(),
            "X-Correlation-ID": context.correlation_id or context.operation_id,
        }
        return fields if context.trace is None else fields | {"traceparent": context.trace}

    def _sign(self, assertion: Assertion) -> str:
        """Signed now, or not long ago: many requests of a job say the same."""
        now = self._wall()
        signed_at, text = self._signed.get(assertion, (-math.inf, ""))
        if not 0 <= now - signed_at < _SIGNED_SECONDS:
            try:
                text = self._assertions.sign(assertion, now)
            except ValueError as error:
                raise BadRequestError(str(error)) from None
            self._signed[assertion] = now, text
            self._signed.move_to_end(assertion)
            if len(self._signed) > _MOST_SIGNED:
                self._signed.popitem(last=False)
        return text

    async def _exchange(
        self,
        method: str,
        target: str,
        fields: Mapping[str, str],
        body: bytes | None,
        timeout_seconds: float,
        most_bytes: int = MOST_ANSWER_BYTES,
    ) -> tuple[int, Mapping[str, str], bytes | None]:
        """Status, fields and body; None for one of more than `most_bytes`."""
        if self._session is None:
            self._session = self._session_factory()
        try:
            async with (
                asyncio.timeout(timeout_seconds),
                self._session.request(
                    method,
                    URL(self._url + target, encoded=True),
                    headers={"Accept-Encoding": "identity", "User-Agent": "gateway-worker"}
                    | dict(fields),
                    data=body,
                    allow_redirects=False,
                ) as response,
            ):
                return response.status, response.headers, await _read(response, most_bytes)
        except TimeoutError:
            raise NoAnswerError("timeout", "no answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            # Class names only: texts of these hold addresses and what was received.
            text = f"no answer: {type(error).__name__}"
            raise NoAnswerError("network", text) from None


def refusal_of(answer: OwnAnswer) -> JobError:
    """The error that one of the gateway's own paths answered with."""
    members = answer.value.get("error") if isinstance(answer.value, dict) else None
    if isinstance(members, Mapping):
        return messages.error_of(members, answer.status, answer.retry_after)
    return JobError(
        "PROXY_ERROR", f"the gateway answered {answer.status}", status=answer.status, retryable=True
    )


async def _read(response: aiohttp.ClientResponse, most_bytes: int) -> bytes | None:
    """The body, to its bound; None where it goes beyond."""
    pieces, size = [], 0
    while piece := await response.content.read(_READ_BYTES):
        size += len(piece)
        if size > most_bytes:
            return None
        pieces.append(piece)
    return b"".join(pieces)
