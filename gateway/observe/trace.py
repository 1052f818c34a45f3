"""Spans of sampled requests, exported by the OpenTelemetry SDK where that is asked for.

A span is made of the access record when its request is over: one for the gateway (server) and,
where a service was asked, one below it (client), under the names of the OpenTelemetry semantic
conventions for HTTP. While the request runs there are only the ids, which go to the service in
`traceparent` (W3C Trace Context), so that its own spans hang below ours. Where spans go, in what
batches and with what resource attributes, the SDK reads from its OTEL_* environment.

Not here: ids of requests that are not sampled, which edge/headers makes or passes on as they came.
Without TRACE_SAMPLE nothing of OpenTelemetry is imported.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from gateway.observe.metrics import METHODS
from gateway.settings import SettingsError

if TYPE_CHECKING:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer as SdkTracer
    from opentelemetry.util.types import AttributeValue

    Attributes = dict[str, AttributeValue]

CLOSE_SECONDS: Final = 5.0  # for what still waits when the gateway ends; more is lost
CLIENT_GONE: Final = 499  # as records have it; nothing was answered then
# What decides: the last 56 bits of a trace id, which are random in one made here as in any that
# follows W3C Trace Context level 2 §3.3.
_RANDOM_BITS: Final = 56


@dataclass(frozen=True, slots=True)
class Trace:
    """The ids of a sampled request: of its trace, of who called (None: nobody said), of the span of
    the gateway, and of the one that asks the service. `outgoing` is the service's traceparent.
    """

    trace_id: int
    parent_id: int | None
    server_id: int
    client_id: int
    outgoing: bytes


class Tracer:
    """Says which requests are sampled, and exports their spans.

    `sample` is the share of requests, from 0 to 1; where a trace comes with a request of someone
    who is believed, its own flag decides. Belongs to the thread of the event loop; the exporter
    works in another, behind a queue that the SDK bounds (OTEL_BSP_MAX_QUEUE_SIZE, 2,048) and drops
    from.
    """

    __slots__ = ("_bound", "_ids", "_provider", "_sdk", "_set_parent", "sample")

    def __init__(self, sample: float, exporter: SpanExporter, version: str) -> None:
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        from gateway.observe.trace_ids import GivenIds, parent_context

        self.sample = sample
        # Hex digits compare like the numbers that they are; nothing is above `g`.
        share = int(sample * (1 << _RANDOM_BITS))
        self._bound = b"%014x" % share if share < 1 << _RANDOM_BITS else b"g"
        self._ids = GivenIds()
        self._set_parent = parent_context
        resource = Resource.create({"service.version": version})
        if str(resource.attributes.get(SERVICE_NAME)).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "gateway"}))
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # what comes here is sampled already
            resource=resource,
            id_generator=self._ids,
            shutdown_on_exit=False,  # `close` does it, in bounded time
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._sdk: SdkTracer = self._provider.get_tracer("gateway", version)

    def __repr__(self) -> str:
        return f"<Tracer sample={self.sample:g}>"

    @classmethod
    def open(cls, sample: float, version: str) -> Tracer | None:
        """One that exports by OTLP over HTTP to where OTEL_EXPORTER_OTLP_ENDPOINT says; None when
        nothing is to be sampled. Raises SettingsError without the packages.
        """
        if sample <= 0:
            return None
        return cls(sample, exporter_class(sample)(), version)

    def begin(self, traceparent: bytes, *, begun: bool, believed: bool = True) -> Trace | None:
        """The ids of a request that is sampled; None: it is not, and its traceparent goes on as it
        is. `traceparent` must be a valid one; `begun`: the gateway made it; `believed`: whoever
        else did may say whether it is sampled. A stranger may not, or he would fill the collector,
        and his trace id decides nothing either: he chose it.
        """
        if begun:
            if traceparent[21:35] >= self._bound:
                return None
            parent_id, server_id = None, int(traceparent[36:52], 16)
        else:
            if believed:
                sampled = bool(int(traceparent[53:55], 16) & 1)
            else:
                sampled = b"%014x" % secrets.randbits(_RANDOM_BITS) < self._bound
            if not sampled:
                return None
            parent_id, server_id = int(traceparent[36:52], 16), _span_id()
        client_id = _span_id()
        outgoing = b"00-%b-%016x-01" % (traceparent[3:35], client_id)
        return Trace(int(traceparent[3:35], 16), parent_id, server_id, client_id, outgoing)

    def finished(
        self,
        trace: Trace,
        record: Mapping[str, object],
        *,
        started_wall: float,
        scheme: str,
        upstream_path: str | None = None,
    ) -> None:
        """Export the spans of a request that is over, by its access record.

        `started_wall` is Unix time in seconds, `scheme` what the client spoke, `upstream_path` what
        the service was asked for, below its base path and without the query.
        """
        started = int(started_wall * 1e9)
        ended = started + _nanoseconds(record["duration_ms"])
        method = str(record["method"])
        said = method if method in METHODS else "HTTP"
        route = record["route"]
        named = isinstance(route, str) and route not in ("", "none")
        server = _server(record, scheme)
        if named:
            server["http.route"] = str(route)
        self._span(
            f"{said} {route}" if named else said,
            trace.server_id,
            trace.parent_id,
            trace.trace_id,
            server=True,
            failed=_status(record) >= 500,
            attributes=server,
            times=(started, ended),
        )
        if record["upstream_ms"] is not None:
            client = _client(record, upstream_path)
            self._span(
                said,
                trace.client_id,
                trace.server_id,
                trace.trace_id,
                server=False,
                failed="error.type" in client,
                attributes=client,
                times=(max(started, ended - _nanoseconds(record["upstream_ms"])), ended),
            )

    def _span(
        self,
        name: str,
        span_id: int,
        parent_id: int | None,
        trace_id: int,
        *,
        server: bool,
        failed: bool,
        attributes: Attributes,
        times: tuple[int, int],
    ) -> None:
        from opentelemetry.trace import SpanKind, StatusCode

        self._ids.trace_id, self._ids.span_id = trace_id, span_id
        span = self._sdk.start_span(
            name,
            self._set_parent(trace_id, parent_id, remote=server),
            SpanKind.SERVER if server else SpanKind.CLIENT,
            attributes,
            start_time=times[0],
        )
        if failed:
            span.set_status(StatusCode.ERROR)
        span.end(times[1])

    async def close(self, timeout_seconds: float = CLOSE_SECONDS) -> None:
        """Export what waits, for so long at most: without an answer the SDK tries for a minute."""
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # nobody waits any more, and the loop has ended
                loop.call_soon_threadsafe(done.set)

        # A daemon, unlike a thread of the loop's executor, which the end of the process waits for.
        threading.Thread(target=shut_down, name="tracer-close", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await done.wait()


def exporter_class(sample: float) -> type[OTLPSpanExporter]:
    """What exports the spans of this share. Raises SettingsError without the packages."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise SettingsError(
            f"settings: TRACE_SAMPLE is {sample:g} without OpenTelemetry, expected its packages ("
            ".venv/bin/pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http)"
            " or TRACE_SAMPLE=0"
        ) from None
    return OTLPSpanExporter


def _span_id() -> int:
    """A random id, never 0 (W3C Trace Context §3.2.2.4)."""
    return secrets.randbits(64) or 1


def _nanoseconds(milliseconds: object) -> int:
    return int(milliseconds * 1e6) if isinstance(milliseconds, int | float) else 0


def _status(record: Mapping[str, object]) -> int:
    status = record["status"]
    return status if isinstance(status, int) else 0


def _server(record: Mapping[str, object], scheme: str) -> Attributes:
    """What the conventions want of a server's span."""
    found = _method(record) | {
        "url.scheme": scheme,
        "url.path": str(record["path"]),
        "client.address": str(record["client_ip"]),
        "http.request.header.x-request-id": (str(record["request_id"]),),
    }
    if record["user_agent"]:
        found["user_agent.original"] = str(record["user_agent"])
    status = _status(record)
    if status and status != CLIENT_GONE:
        found["http.response.status_code"] = status
    if record["error_code"] is not None:
        found["error.type"] = str(record["error_code"])
    elif status >= 500:
        found["error.type"] = str(status)
    return found


def _client(record: Mapping[str, object], upstream_path: str | None) -> Attributes:
    """What they want of a client's: of the last attempt at the service."""
    found = _method(record)
    endpoint = str(record["endpoint"] or "")
    url = urlsplit(endpoint)
    if url.hostname is not None:
        found["server.address"] = url.hostname
        found["server.port"] = url.port or (443 if url.scheme == "https" else 80)
        if upstream_path is not None:
            found["url.full"] = endpoint + upstream_path
    status, attempts = _status(record), record["attempts"]
    if record["error_code"] is not None:  # the gateway's own answer, in place of the service's
        found["error.type"] = str(record["error_code"])
    elif status and status != CLIENT_GONE:
        found["http.response.status_code"] = status
        if status >= 400:
            found["error.type"] = str(status)
    if isinstance(attempts, int) and attempts > 1:
        found["http.request.resend_count"] = attempts - 1
    return found


def _method(record: Mapping[str, object]) -> Attributes:
    """The method, `_OTHER` when it is none of HTTP's own."""
    method = str(record["method"])
    if method in METHODS:
        return {"http.request.method": method}
    return {"http.request.method": "_OTHER", "http.request.method_original": method}
