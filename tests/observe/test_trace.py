"""Spans: who is sampled, what a service is told, and what is exported of a request."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from gateway.observe.trace import Trace, Tracer
from gateway.settings import SettingsError

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER_ID = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE_ID}-{CALLER_ID}-01".encode()
UNSAMPLED = f"00-{TRACE_ID}-{CALLER_ID}-00".encode()

RECORD: dict[str, object] = {
    "request_id": "r-1",
    "client_ip": "192.0.2.7",
    "method": "GET",
    "path": "/api/v1/orders/7",
    "route": "/api/v1/{service}",
    "endpoint": "http://127.0.0.1:9000/base",
    "status": 200,
    "error_code": None,
    "duration_ms": 12.5,
    "upstream_ms": 10.0,
    "attempts": 1,
    "user_agent": "curl/8.1",
}


class Traced:
    """A tracer and what it has exported when it was closed."""

    def __init__(self, sample: float = 1.0) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer = Tracer(sample, self.exporter, "1.2.3")

    def trace(self, traceparent: bytes = SAMPLED, *, begun: bool = False) -> Trace:
        trace = self.tracer.begin(traceparent, begun=begun)
        assert trace is not None
        return trace

    async def spans(self, trace: Trace | None = None, /, **record: object) -> list[ReadableSpan]:
        """The spans of one request with this record, the server's first."""
        self.tracer.finished(
            trace or self.trace(),
            RECORD | record,
            started_wall=1000.0,
            scheme="https",
            upstream_path="/7",
        )
        await self.tracer.close()
        return list(self.exporter.get_finished_spans())


@pytest.fixture
async def traced() -> AsyncIterator[Traced]:
    found = Traced()
    yield found
    await found.tracer.close()


def attributes(span: ReadableSpan) -> dict[str, object]:
    assert span.attributes is not None
    return dict(span.attributes)


async def test_a_request_is_two_spans_below_its_callers(traced: Traced) -> None:
    trace = traced.trace()
    server, client = await traced.spans(trace)
    assert (server.context.trace_id, client.context.trace_id) == (trace.trace_id, trace.trace_id)
    assert f"{trace.trace_id:032x}" == TRACE_ID
    assert server.parent is not None
    assert client.parent is not None
    assert f"{server.parent.span_id:016x}" == CALLER_ID
    assert server.parent.is_remote
    assert client.parent.span_id == server.context.span_id == trace.server_id
    assert client.context.span_id == trace.client_id
    assert (server.kind, client.kind) == (SpanKind.SERVER, SpanKind.CLIENT)
    assert (server.name, client.name) == ("GET /api/v1/{service}", "GET")
    assert (server.start_time, server.end_time) == (1_000_000_000_000, 1_000_012_500_000)
    assert (client.start_time, client.end_time) == (1_000_002_500_000, 1_000_012_500_000)
    assert {span.status.status_code for span in (server, client)} == {StatusCode.UNSET}


async def test_spans_speak_the_names_of_the_http_conventions(traced: Traced) -> None:
    server, client = await traced.spans(attempts=3)
    assert attributes(server) == {
        "http.request.method": "GET",
        "http.route": "/api/v1/{service}",
        "http.response.status_code": 200,
        "http.request.header.x-request-id": ("r-1",),
        "url.scheme": "https",
        "url.path": "/api/v1/orders/7",
        "client.address": "192.0.2.7",
        "user_agent.original": "curl/8.1",
    }
    assert attributes(client) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.request.resend_count": 2,
        "server.address": "127.0.0.1",
        "server.port": 9000,
        "url.full": "http://127.0.0.1:9000/base/7",
    }
    resource = server.resource.attributes
    assert (resource["service.name"], resource["service.version"]) == ("gateway", "1.2.3")


async def test_the_name_of_the_service_is_the_environments_to_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "edge-eu")
    (server, _) = await Traced().spans()
    assert server.resource.attributes["service.name"] == "edge-eu"


async def test_a_request_that_reached_no_service_is_one_span(traced: Traced) -> None:
    found = {"route": "none", "endpoint": None, "upstream_ms": None, "status": 404}
    (server,) = await traced.spans(**found, error_code="NOT_FOUND", user_agent="")
    assert server.name == "GET"
    said = attributes(server)
    assert "http.route" not in said
    assert "user_agent.original" not in said
    assert (said["http.response.status_code"], said["error.type"]) == (404, "NOT_FOUND")
    assert server.status.status_code is StatusCode.UNSET  # the client's fault


@pytest.mark.parametrize(
    ("found", "of_server", "of_client", "failed"),
    [
        ({"status": 404}, (404, None), (404, "404"), (False, True)),
        ({"status": 500}, (500, "500"), (500, "500"), (True, True)),
        (
            {"status": 504, "error_code": "TIMEOUT"},
            (504, "TIMEOUT"),
            (None, "TIMEOUT"),
            (True, True),
        ),
        ({"status": 499}, (None, None), (None, None), (False, False)),
        ({"status": 0}, (None, None), (None, None), (False, False)),
        ({"status": None}, (None, None), (None, None), (False, False)),
    ],
)
async def test_whose_fault_it_was_shows(
    traced: Traced,
    found: dict[str, object],
    of_server: tuple[object, object],
    of_client: tuple[object, object],
    failed: tuple[bool, bool],
) -> None:
    spans = await traced.spans(**found)
    told = [
        (attributes(s).get("http.response.status_code"), attributes(s).get("error.type"))
        for s in spans
    ]
    assert told == [of_server, of_client]
    errors = [span.status.status_code is StatusCode.ERROR for span in spans]
    assert tuple(errors) == failed


async def test_a_method_that_is_none_is_no_name(traced: Traced) -> None:
    server, client = await traced.spans(method="BREW", duration_ms=None)
    assert (server.name, client.name) == ("HTTP /api/v1/{service}", "HTTP")
    said = attributes(server)
    assert said["http.request.method"] == "_OTHER"
    assert said["http.request.method_original"] == "BREW"


@pytest.mark.parametrize(
    ("endpoint", "address", "port"),
    [("https://[::1]", "::1", 443), ("http://svc", "svc", 80), (None, None, None)],
)
async def test_where_the_service_is(
    traced: Traced, endpoint: str | None, address: str | None, port: int | None
) -> None:
    _, client = await traced.spans(endpoint=endpoint)
    said = attributes(client)
    assert (said.get("server.address"), said.get("server.port")) == (address, port)
    assert ("url.full" in said) is (endpoint is not None)


async def test_a_path_that_is_not_known_is_not_made_up(traced: Traced) -> None:
    traced.tracer.finished(traced.trace(), RECORD, started_wall=1.0, scheme="http")
    await traced.tracer.close()
    _, client = traced.exporter.get_finished_spans()
    assert "url.full" not in attributes(client)


async def test_a_callers_flag_decides_whatever_the_share() -> None:
    everything, nothing = Traced(1.0), Traced(1e-9)
    assert everything.tracer.begin(UNSAMPLED, begun=False) is None
    trace = nothing.tracer.begin(SAMPLED, begun=False)
    assert trace is not None
    assert trace.outgoing == f"00-{TRACE_ID}-{trace.client_id:016x}-01".encode()
    assert trace.outgoing != SAMPLED
    assert nothing.tracer.begin(SAMPLED.replace(b"-01", b"-03"), begun=False) is not None
    for each in (everything, nothing):
        await each.tracer.close()


async def test_a_strangers_flag_and_trace_id_decide_nothing() -> None:
    everything, nothing = Traced(1.0), Traced(1e-9)
    least = f"00-{'1' * 18}{'0' * 14}-{CALLER_ID}-01".encode()  # below the bound of any share
    for given in (SAMPLED, least):
        assert nothing.tracer.begin(given, begun=False, believed=False) is None
    for given in (UNSAMPLED, SAMPLED):
        trace = everything.tracer.begin(given, begun=False, believed=False)
        assert trace is not None
        assert f"{trace.trace_id:032x}" == TRACE_ID
        assert f"{trace.parent_id:016x}" == CALLER_ID
        assert trace.server_id != trace.parent_id
    for each in (everything, nothing):
        await each.tracer.close()


@pytest.mark.parametrize(
    ("sample", "digits", "sampled"),
    [
        (1.0, "ffffffffffffff", True),
        (0.5, "7fffffffffffff", True),
        (0.5, "80000000000000", False),
        (0.25, "3fffffffffffff", True),
        (0.25, "40000000000000", False),
    ],
)
async def test_of_the_traces_begun_here_a_share_is_sampled(
    sample: float, digits: str, sampled: bool
) -> None:
    traced = Traced(sample)
    made = f"00-{'1' * 18}{digits}-{CALLER_ID}-00".encode()
    trace = traced.tracer.begin(made, begun=True)
    assert (trace is not None) is sampled
    if trace is not None:
        assert (trace.parent_id, f"{trace.server_id:016x}") == (None, CALLER_ID)
        (server, _) = await traced.spans(trace)
        assert server.parent is None
        assert server.context.trace_id == trace.trace_id
    await traced.tracer.close()


async def test_the_sampler_of_the_environment_does_not_decide_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    assert len(await Traced().spans()) == 2


class Stuck(SpanExporter):
    """An exporter whose collector never answers."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.freed = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked.set()
        self.freed.wait()
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Nothing to do."""


async def test_a_collector_that_hangs_does_not_hold_up_the_end() -> None:
    exporter = Stuck()
    tracer = Tracer(1.0, exporter, "1.2.3")
    trace = tracer.begin(SAMPLED, begun=False)
    assert trace is not None
    tracer.finished(trace, RECORD, started_wall=1.0, scheme="http")
    await tracer.close(0.01)
    assert exporter.asked.wait(8)
    exporter.freed.set()


def test_without_a_share_there_is_no_tracer() -> None:
    assert Tracer.open(0.0, "1.2.3") is None


async def test_with_a_share_it_exports_by_otlp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    tracer = Tracer.open(0.1, "1.2.3")
    assert repr(tracer) == "<Tracer sample=0.1>"
    assert tracer is not None
    await tracer.close()


def test_without_the_packages_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"/pip install opentelemetry-sdk"):
        Tracer.open(0.1, "1.2.3")


def test_nothing_of_opentelemetry_is_imported_before_it_is_asked_for() -> None:
    program = (
        "import sys; from gateway.observe.trace import Tracer; Tracer.open(0.0, '1');"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
