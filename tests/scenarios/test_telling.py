"""What a running gateway tells of a request elsewhere: AI agents in record and figures, spans."""

from __future__ import annotations

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.wire import ScriptedUpstream, answer, proxied, request

GET = b"GET /api/v1/svc/x"
TRACE_ID = b"4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = b"traceparent: 00-%b-00f067aa0ba902b7-01" % TRACE_ID


@pytest.mark.parametrize(
    ("field", "name", "label"),
    [
        (b"User-Agent: Mozilla/5.0 (compatible; GPTBot/1.2)", "GPTBot", "GPTBot"),
        (b"X-AI-Agent: my-agent/1.0", "my-agent/1.0", "other"),
        (b"AI-Agent-ID: claudebot", "ClaudeBot", "ClaudeBot"),
        (b"User-Agent: curl/8.1", None, None),
    ],
)
async def test_agents_are_recorded_by_name_and_counted_by_a_label_of_ours(
    field: bytes, name: str | None, label: str | None
) -> None:
    async with proxied() as (gateway, upstream):
        assert (await gateway.ask(request(GET, field))).status == 200
        (record,) = await gateway.records()
        assert record["ai_agent"] == name
        assert field in upstream.received[0]  # it goes on as it came
        figures = (await gateway.ask(request(b"GET /metrics"))).body.decode()
    counted = [line for line in figures.splitlines() if "ai_agent_requests_total{" in line]
    expected = [] if label is None else [f'gateway_ai_agent_requests_total{{agent="{label}"}} 1.0']
    assert counted == expected


async def test_a_sampled_request_is_exported_and_its_service_is_below_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with ScriptedUpstream(answer(b"")) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        trusting = {"TRACE_SAMPLE": "0.000001", "TRUSTED_PROXIES": "127.0.0.1"}
        async with proxied(**trusting) as (gateway, upstream):
            assert (await gateway.ask(request(GET, CALLER))).status == 200
            assert (await gateway.ask(request(GET))).status == 200
            sampled, passed = (each.get("traceparent") for each in upstream.requests)
            await gateway.drain(grace=False)
        (exported,) = collector.requests
        assert exported.start.startswith(b"POST /v1/traces ")
        found = ExportTraceServiceRequest.FromString(exported.body)
        spans = found.resource_spans[0].scope_spans[0].spans
        server, client = sorted(spans, key=lambda span: span.kind)
        assert server.trace_id.hex() == client.trace_id.hex() == TRACE_ID.decode()
        assert server.parent_span_id.hex() == "00f067aa0ba902b7"
        assert client.parent_span_id == server.span_id
        assert sampled == b"00-%b-%b-01" % (TRACE_ID, client.span_id.hex().encode())
        assert passed is not None
        assert passed.endswith(b"-00")  # begun here, and not among the share
        said = {each.key: each.value.string_value for each in client.attributes}
        assert said["url.full"] == f"{upstream.url}/x"


async def test_a_strangers_flag_fills_no_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedUpstream(answer(b"")) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        async with proxied(TRACE_SAMPLE="0.000001") as (gateway, upstream):
            assert (await gateway.ask(request(GET, CALLER))).status == 200
            await gateway.drain(grace=False)
        assert CALLER.removeprefix(b"traceparent: ") == upstream.requests[0].get("traceparent")
        assert collector.requests == []


async def test_without_a_share_traces_go_on_as_they_came() -> None:
    async with proxied() as (gateway, upstream):
        assert (await gateway.ask(request(GET, CALLER))).status == 200
        assert CALLER.removeprefix(b"traceparent: ") == upstream.requests[0].get("traceparent")
