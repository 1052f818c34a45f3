"""What is said about a request: one shape of errors, an id on every answer, one record, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from typing import Any

import pytest

from tests.wire import (
    Link,
    Message,
    answer,
    assert_error,
    closed_port,
    eventually,
    proxied,
    request,
    start_gateway,
    turn,
)

GET = b"GET /api/v1/svc/x"
DROPPED = re.compile(rb"^gateway_log_records_dropped_total (\S+)", re.MULTILINE)
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
RECORD_FIELDS = set(
    re.findall(
        r"\w+",
        "timestamp level message request_id correlation_id trace_id client_ip user_id tenant "
        "method path query route service endpoint status error_code duration_ms upstream_ms "
        "bytes_in bytes_out attempts user_agent ai_agent",
    )
)

ERRORS = {
    "404": (request(b"GET /nowhere"), 404, "NOT_FOUND"),
    "400": (request(b"GET /api/v1/svc/../x"), 400, "BAD_REQUEST"),
    "400 of the parser": (b"GET / HTTP/1.1\r\nbad\r\n\r\n", 400, "BAD_REQUEST"),
    "405": (request(b"POST /health"), 405, "METHOD_NOT_ALLOWED"),
    "413": (request(b"POST /api/v1/svc/x", body=b"b" * 101), 413, "PAYLOAD_TOO_LARGE"),
    "414": (request(b"GET /" + b"a" * 9000), 414, "URI_TOO_LONG"),
    "431": (request(GET, b"X-Long: " + b"a" * 9000), 431, "HEADERS_TOO_LARGE"),
    "502": (request(GET), 502, "PROXY_ERROR"),
    "503": (request(b"GET /api/v1/off/x"), 503, "SERVICE_UNAVAILABLE"),
    "505": (request(b"GET / HTTP/2.0"), 505, "HTTP_VERSION_NOT_SUPPORTED"),
}


async def provoke(data: bytes) -> tuple[Message, dict[str, Any]]:
    """The answer to a request that fails, and its record."""
    with closed_port() as port:
        environ = {"MAX_BODY_BYTES": 100, "OFF_URL": f"http://127.0.0.1:{port}"}
        async with proxied(b"nonsense\r\n\r\n", **environ) as (gateway, _):
            response = await gateway.ask(data)
            return response, (await gateway.records())[0]


@pytest.mark.parametrize(("data", "status", "code"), ERRORS.values(), ids=ERRORS.keys())
async def test_every_error_has_the_one_shape_and_a_record(
    data: bytes, status: int, code: str
) -> None:
    response, record = await provoke(data)
    error = assert_error(response, status, code)
    assert record["status"] == status
    assert record["error_code"] == code
    assert record["request_id"] == error["request_id"]


@pytest.mark.parametrize("name", ["404", "405", "413", "502", "503"])
async def test_an_error_is_a_problem_document_for_who_accepts_that(name: str) -> None:
    data, status, code = ERRORS[name]
    head, _, body = data.partition(b"\r\n\r\n")
    accept = b"\r\nAccept: application/problem+json, text/html;q=0.1\r\n\r\n"
    response, _record = await provoke(head + accept + body)
    assert response.status == status
    assert (response.get("content-type") or b"").startswith(b"application/problem+json")
    problem = response.json()
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["title"]
    assert problem.get("type", "about:blank")
    assert response.all("x-request-id") == [problem["request_id"].encode()]


async def test_a_405_says_what_is_allowed() -> None:
    async with start_gateway() as gateway:
        response = await gateway.ask(request(b"POST /health/live"))
        assert_error(response, 405, "METHOD_NOT_ALLOWED")
        assert b"get" in response.tokens("allow")


async def test_an_error_for_head_has_no_body() -> None:
    async with start_gateway() as gateway, gateway.connect() as client:
        assert (await client.ask(request(b"HEAD /nowhere"))).status == 404
        assert (await client.ask(request(b"GET /nowhere"))).status == 404


async def test_an_errors_id_is_the_clients_where_that_is_sound() -> None:
    async with start_gateway() as gateway:
        response = await gateway.ask(request(b"GET /nowhere", b"X-Request-ID: mine"))
        assert response.json()["error"]["request_id"] == "mine"


@pytest.mark.parametrize(
    "path", [b"/health", b"/health/live", b"/health/ready", b"/metrics", b"/openapi.json"]
)
async def test_every_answer_of_the_gateway_has_an_id_and_a_record(path: bytes) -> None:
    async with start_gateway() as gateway:
        response = await gateway.ask(request(b"GET " + path, b"X-Request-ID: mine"))
        assert response.status == 200
        assert response.all("x-request-id") == [b"mine"]
        record = (await gateway.records())[0]
        assert record["request_id"] == "mine"
        assert record["path"] == path.decode()
        assert record["status"] == 200


async def test_the_record_says_what_happened() -> None:
    async with proxied(answer(b"created", status=b"201 Created")) as (gateway, upstream):
        data = request(
            b"POST /api/v1/svc/things?token=secret-1",
            b"User-Agent: probe/1.0",
            b"Authorization: Bearer secret-2",
            b"Cookie: session=secret-3",
            body=b"secret-4",
        )
        assert (await gateway.ask(data)).status == 201
        record = (await gateway.records())[0]
        assert set(record) >= RECORD_FIELDS
        assert TIMESTAMP.fullmatch(record["timestamp"])
        assert record["level"] == "info"
        assert record["client_ip"] == "127.0.0.1"
        assert record["method"] == "POST"
        assert record["path"] == "/api/v1/svc/things"
        assert record["service"] == "svc"
        assert str(upstream.port) in record["endpoint"]
        assert record["status"] == 201
        assert not record["error_code"]
        assert record["duration_ms"] >= record["upstream_ms"] >= 0
        assert record["attempts"] == 1
        assert record["user_agent"] == "probe/1.0"
        assert record["bytes_in"] >= 8
        assert record["bytes_out"] >= 7
        text = gateway.log_path.read_text()
        assert "secret" not in text


async def test_the_body_bytes_are_counted() -> None:
    async with proxied(answer(b"a" * 5000)) as (gateway, _):
        await gateway.ask(request(b"POST /api/v1/svc/x", body=b"b" * 3000))
        record = (await gateway.records())[0]
        assert 3000 <= record["bytes_in"] < 4000
        assert 5000 <= record["bytes_out"] < 6000


async def test_a_hostile_value_cannot_forge_a_record() -> None:
    agent = b'"}\xc3\xa9\xff {"status": 1, "duration_ms": 1}'
    async with proxied() as (gateway, _):
        await gateway.ask(request(b"GET /api/v1/svc/%22%0a%7b", b"User-Agent: " + agent))
        record = (await gateway.records())[0]
        assert record["status"] == 200
        assert record["path"] == "/api/v1/svc/%22%0a%7b"


@pytest.mark.parametrize(
    "agent",
    [
        b"Mozilla/5.0 (compatible; GPTBot/1.2; +https://openai.com/gptbot)",
        b"Mozilla/5.0 (compatible; ClaudeBot/1.0; +claudebot@anthropic.com)",
    ],
)
async def test_a_known_ai_agent_is_named(agent: bytes) -> None:
    async with proxied() as (gateway, _):
        await gateway.ask(request(GET, b"User-Agent: " + agent))
        await gateway.ask(request(GET, b"User-Agent: Mozilla/5.0 Firefox/140.0"))
        named, other = await gateway.records(2)
        assert named["ai_agent"]
        assert not other["ai_agent"]
        metrics = (await gateway.ask(request(b"GET /metrics"))).body
        assert b'gateway_ai_agent_requests_total{agent="' in metrics


async def test_a_client_that_leaves_is_recorded_as_499() -> None:
    async def silent(link: Link) -> None:
        await link.request()
        await link.closed()

    async with proxied(silent) as (gateway, upstream):
        async with gateway.connect() as client:
            client.send(request(GET))
            await upstream.received_requests(1)
            client.close()
            record = (await gateway.records())[0]
        assert record["status"] == 499


async def test_a_cut_answer_is_recorded_as_a_fault_of_the_upstream() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(answer(b"0123456789")[:-5])
        await client.until(lambda: client.count, "the head")
        link.close()

    async with proxied(script) as (gateway, _), gateway.connect() as client:
        client.send(request(GET))
        await client.closed()
        record = (await gateway.records())[0]
        assert record["error_code"] == "PROXY_ERROR"


async def test_the_access_log_may_be_off() -> None:
    async with proxied(ACCESS_LOG="off") as (gateway, _):
        assert (await gateway.ask(request(GET))).status == 200
        assert (await gateway.ask(request(b"GET /nowhere"))).status == 404
        await gateway.drain(grace=False)
        assert gateway.access_records() == []


async def test_a_sampled_log_holds_every_failure() -> None:
    async with proxied(ACCESS_LOG="sampled") as (gateway, _), gateway.connect() as client:
        for _ in range(20):
            await client.ask(request(GET))
            await client.ask(request(b"GET /nowhere"))
        client.close()
        await eventually(lambda: len(gateway.access_records()) >= 20, "the failures")
        records = gateway.access_records()
        assert len([r for r in records if r["status"] == 404]) == 20
        assert len(records) <= 22


async def test_a_log_that_nobody_reads_does_not_stop_the_gateway_and_its_losses_are_counted() -> (
    None
):
    read_end, write_end = os.pipe()
    try:
        async with (
            start_gateway(log_fd=write_end) as gateway,
            gateway.connect() as client,
        ):
            for _ in range(40):
                client.send(request(b"GET /nowhere/" + b"x" * 7500) * 20)
                for _ in range(20):
                    assert (await client.response()).status == 404
            lost = re.search(DROPPED, await metrics_of(gateway))
            assert lost
            assert float(lost[1]) > 0
            os.set_blocking(read_end, False)
            task = asyncio.create_task(gateway.drain(grace=False))
            while not task.done():
                with contextlib.suppress(BlockingIOError):
                    os.read(read_end, 1 << 20)
                await turn()
            await task
    finally:
        os.close(read_end)
        os.close(write_end)


async def test_the_log_is_complete_when_the_gateway_has_gone() -> None:
    async with proxied() as (gateway, _):
        async with gateway.connect() as client:
            client.send(request(GET) * 200)
            for _ in range(200):
                await client.response()
        await gateway.drain(grace=False)
        assert len(gateway.access_records()) == 200


async def test_health_tells_of_process_readiness_and_dependencies() -> None:
    async with proxied() as (gateway, _):
        assert (await gateway.ask(request(b"GET /health/live"))).status == 200
        assert (await gateway.ask(request(b"GET /health/ready"))).status == 200
        health = await gateway.ask(request(b"GET /health"))
        assert health.status == 200
        assert (health.get("content-type") or b"").startswith(b"application/json")
        assert b'"svc"' in health.body


async def test_head_of_health_is_answered_without_a_body() -> None:
    async with start_gateway() as gateway, gateway.connect() as client:
        for path in (b"/health/live", b"/health"):
            assert (await client.ask(request(b"HEAD " + path))).status == 200


@pytest.mark.parametrize(
    "field",
    [
        b"X-Forwarded-For: 127.0.0.1",
        b"X-Forwarded-For: 203.0.113.9",
        b"Forwarded: for=127.0.0.1",
        b"X-Forwarded-Host: a",
        b"X-Forwarded-Proto: https",
    ],
)
async def test_metrics_are_404_behind_a_forwarding_field(field: bytes) -> None:
    async with start_gateway() as gateway:
        assert (await gateway.ask(request(b"GET /metrics"))).status == 200
        assert_error(await gateway.ask(request(b"GET /metrics", field)), 404, "NOT_FOUND")


async def test_metrics_are_for_the_networks_of_admin_from_too() -> None:
    environ = {"TRUSTED_PROXIES": "127.0.0.0/8", "ADMIN_FROM": "203.0.113.0/24"}
    async with start_gateway(**environ) as gateway:
        inside = request(b"GET /metrics", b"X-Forwarded-For: 203.0.113.9")
        outside = request(b"GET /metrics", b"X-Forwarded-For: 198.51.100.9")
        assert (await gateway.ask(inside)).status == 200
        assert_error(await gateway.ask(outside), 404, "NOT_FOUND")


async def metrics_of(gateway: Any) -> bytes:
    """The exposition."""
    response: Message = await gateway.ask(request(b"GET /metrics"))
    assert response.status == 200
    return response.body


async def test_metrics_count_requests_by_service_method_and_code() -> None:
    script = [answer()] * 3 + [answer(status=b"404 Not Found")]
    async with proxied(script) as (gateway, _):
        for method in (b"GET", b"GET", b"PROPFIND", b"POST"):
            await gateway.ask(request(method + b" /api/v1/svc/x"))
        text = await metrics_of(gateway)
    lines = [line for line in text.splitlines() if line.startswith(b"gateway_requests_total{")]
    found = {}
    for line in lines:
        labels = dict(re.findall(rb'(\w+)="([^"]*)"', line))
        assert set(labels) == {b"service", b"route", b"method", b"code"}
        if labels[b"service"] == b"svc":
            found[labels[b"method"], labels[b"code"]] = float(line.rsplit(b" ", 1)[1])
    assert found == {(b"GET", b"200"): 2, (b"other", b"200"): 1, (b"POST", b"404"): 1}


@pytest.mark.parametrize(
    "name",
    [
        "gateway_requests_total{",
        "gateway_request_duration_seconds_bucket{",
        "gateway_upstream_duration_seconds_bucket{",
        'gateway_requests_in_flight{service="svc"} 0',
        "gateway_errors_total{",
        "gateway_upstream_connections{",
        "gateway_log_records_dropped_total 0",
        "gateway_event_loop_lag_seconds",
        "gateway_rate_limited_total{",
    ],
)
async def test_metrics_have_the_names_of_the_contract(name: str) -> None:
    with closed_port() as port:
        environ = {"RATE_LIMIT": "2/hour", "OFF_URL": f"http://127.0.0.1:{port}"}
        async with proxied(**environ) as (gateway, _):
            await gateway.ask(request(GET))
            await gateway.ask(request(b"GET /api/v1/off/x"))
            assert (await gateway.ask(request(GET))).status == 429
            text = (await metrics_of(gateway)).decode()
            assert re.search("^" + re.escape(name), text, re.MULTILINE), text


async def test_no_label_holds_what_a_client_chose() -> None:
    async with proxied() as (gateway, _):
        chosen = b"Chosen-By-Client"
        await gateway.ask(request(b"GET /api/v1/svc/" + chosen + b"?" + chosen))
        await gateway.ask(request(b"GET /api/v1/" + chosen + b"/x"))
        await gateway.ask(request(b"GET /" + chosen, b"User-Agent: " + chosen, host=chosen))
        assert b"chosen" not in (await metrics_of(gateway)).lower()


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (b"*/*", b"text/plain"),
        (b"application/openmetrics-text; version=1.0.0", b"application/openmetrics-text"),
    ],
)
async def test_metrics_come_in_the_format_asked_for(accept: bytes, content_type: bytes) -> None:
    async with start_gateway() as gateway:
        response = await gateway.ask(request(b"GET /metrics", b"Accept: " + accept))
        assert (response.get("content-type") or b"").startswith(content_type)
        assert response.body.endswith(b"# EOF\n") == (content_type != b"text/plain")


async def test_openapi_describes_the_paths() -> None:
    async with start_gateway() as gateway:
        document = (await gateway.ask(request(b"GET /openapi.json"))).json()
        assert document["openapi"].startswith("3.1")
        assert {"/health", "/health/live", "/health/ready", "/metrics"} <= set(document["paths"])
