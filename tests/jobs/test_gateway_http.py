"""The worker's HTTP client, against a gateway whose answers are written here."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

import pytest
import trustme
from aiohttp import web

from gateway.jobs.gateway_http import MOST_ANSWER_BYTES, GatewayHttp, NoAnswerError, new_session
from gateway.jobs.messages import BadRequestError, Received
from gateway.jobs.models import Caller, JobContext, ServiceRequest
from gateway.policy.on_behalf import MOST_WAIT_SECONDS, Assertions
from tests.jobs.scripted_gateway import (
    KEYS,
    TOKEN,
    ScriptedGateway,
    answer,
    http_to,
    refusal,
    scripted_gateway,
)
from tests.jobs.tls_front import TlsFront

CONTEXT = JobContext(
    Caller("ada", None, "pro", ["a", "b"], open_write=True), "op-1", "kind", 30,
    bases={"orders": "/api/v1/orders"},
)  # fmt: skip
PATH = "/api/v1/orders/1"
REQUEST = ServiceRequest("orders", "/1", "POST", headers={"Content-Type": "a/b"}, body="text")
ADMISSION = "/internal/jobs/admission"


@pytest.fixture
async def gateway() -> AsyncIterator[ScriptedGateway]:
    async with scripted_gateway() as gateway:
        yield gateway


@pytest.fixture
async def http(gateway: ScriptedGateway) -> AsyncIterator[GatewayHttp]:
    http = http_to(gateway.url)
    yield http
    await http.close()


async def asked(http: GatewayHttp, request: ServiceRequest = REQUEST) -> Received:
    return await http.ask_service(CONTEXT, request, key="k", timeout_seconds=10, spent=False)


async def test_a_gateway_with_a_certificate_of_ones_own_is_trusted_where_that_is_said(
    gateway: ScriptedGateway,
) -> None:
    authority = trustme.CA()
    theirs, ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    authority.configure_trust(ours)
    gateway.put(PATH, answer(200, 1))
    async with TlsFront(theirs, gateway.url.removeprefix("http://")) as front:
        for context in (None, ours):
            http = http_to(f"https://{front.address}", partial(new_session, context))
            if context is None:
                with pytest.raises(NoAnswerError, match="Certificate"):
                    await asked(http)
            else:
                assert (await asked(http)).answer.body == 1
            await http.close()


async def test_a_request_says_who_asks_and_for_whom(
    gateway: ScriptedGateway, http: GatewayHttp
) -> None:
    gateway.put(PATH, answer(200, 1))
    await asked(http)
    await asked(http)
    first, second = gateway.asked(PATH)
    assert first.body == b"text"
    assert first.headers["content-type"] == "a/b"
    assert first.headers["idempotency-key"] == "k"
    assert first.headers["accept-encoding"] == "identity"
    assert first.headers["x-correlation-id"] == "op-1"
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    said = first.assertion
    assert (said.subject, said.tenant, said.tier) == ("ada", None, "pro")
    assert (said.scopes, said.open_write, said.spent) == (frozenset("ab"), True, False)
    assert said.wait_seconds == 10  # so long the gateway lets the service think


async def test_all_requests_of_a_job_belong_to_the_trace_of_its_start(
    gateway: ScriptedGateway, http: GatewayHttp
) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    context = replace(CONTEXT, trace=trace)
    gateway.put(PATH, answer(200, 1))
    await http.admission(context, REQUEST, "limit")
    await http.ask_service(context, REQUEST, key="k", timeout_seconds=10, spent=True)
    await asked(http)
    assert [each.headers.get("traceparent") for each in gateway.seen] == [trace, trace, None]


async def test_one_assertion_serves_for_half_of_its_life_for_requests_that_say_the_same(
    gateway: ScriptedGateway,
) -> None:
    gateway.put(PATH, answer(200, 1))
    began = time.time()
    times = iter([began, began + 29, began + 30, began - 1, began - 1])
    now = [began]
    http = GatewayHttp(
        gateway.url, TOKEN, Assertions(KEYS), wall=lambda: now[0], new_request_id=lambda: "r"
    )
    for spent in (False, False, False, False, True):
        now[0] = next(times)
        await http.ask_service(CONTEXT, REQUEST, key="k", timeout_seconds=10, spent=spent)
    await http.close()
    first, same, later, back, other = (
        each.headers["x-on-behalf-of"] for each in gateway.asked(PATH)
    )
    assert first == same
    assert len({first, later, back, other}) == 4
    assert [each.assertion.spent for each in gateway.asked(PATH)][-2:] == [False, True]


async def test_a_longer_time_than_any_is_the_longest(
    gateway: ScriptedGateway, http: GatewayHttp
) -> None:
    gateway.put(PATH, answer(200, 1))
    await http.ask_service(CONTEXT, REQUEST, key="k", timeout_seconds=1e9, spent=True)
    (one,) = gateway.asked(PATH)
    assert one.assertion.wait_seconds == MOST_WAIT_SECONDS


async def test_the_type_of_a_body_is_said(gateway: ScriptedGateway, http: GatewayHttp) -> None:
    gateway.put(PATH, answer(200))
    await asked(http, ServiceRequest("orders", "/1", "PUT", body={"a": 1}))
    await asked(http, ServiceRequest("orders", "/1"))
    first, second = gateway.asked(PATH)
    assert first.headers["content-type"] == "application/json"
    assert "content-type" not in second.headers
    await asked(http, ServiceRequest("orders", "/1", "POST"))
    bare = gateway.asked(PATH)[-1].headers
    assert ("content-type" in bare, bare["content-length"]) == (False, "0")


async def test_no_redirect_is_followed_and_no_cookie_kept(
    gateway: ScriptedGateway, http: GatewayHttp
) -> None:
    gateway.put(PATH, answer(302, None, Location="/elsewhere", Set_Cookie="a=b"))
    received = await asked(http)
    await asked(http)
    assert received.answer.status == 302
    assert not gateway.asked("/elsewhere")
    assert all("cookie" not in each.headers for each in gateway.asked(PATH))


async def test_an_answer_has_a_bound(gateway: ScriptedGateway, http: GatewayHttp) -> None:
    gateway.put(PATH, web.Response(body=b"x" * (MOST_ANSWER_BYTES + 1)))
    received = await asked(http)
    assert (received.too_large, received.answer.status) == (True, 200)
    assert (received.answer.body, received.answer.body_base64) == (None, None)
    gateway.put(PATH, web.Response(body=b"x" * MOST_ANSWER_BYTES))
    received = await asked(http)
    assert (received.too_large, len(received.answer.body)) == (False, MOST_ANSWER_BYTES)


async def test_a_time_out_covers_all_of_it(gateway: ScriptedGateway, http: GatewayHttp) -> None:
    async def drip(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x")
        await asyncio.get_running_loop().create_future()
        return response

    gateway.put(PATH, drip)
    with pytest.raises(NoAnswerError) as failed:
        await http.ask_service(CONTEXT, REQUEST, key="k", timeout_seconds=0.2, spent=True)
    assert failed.value.kind == "timeout"


async def test_nobody_there_is_told_without_an_address() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        http = http_to(f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(NoAnswerError) as failed:
            await asked(http)
        await http.close()
    assert failed.value.kind == "network"
    assert "127.0.0.1" not in str(failed.value)


async def test_a_caller_that_can_not_be_asserted_is_a_bad_request(http: GatewayHttp) -> None:
    context = replace(CONTEXT, caller=Caller("ada", tier="golden"))
    with pytest.raises(BadRequestError):
        await http.ask_service(context, REQUEST, key="k", timeout_seconds=1, spent=True)


async def test_admission_tells_what_is_asked_for(
    gateway: ScriptedGateway, http: GatewayHttp
) -> None:
    request = ServiceRequest("orders", headers={"Host": "shop", "X-A": "b"}, target="/shop?a")
    assert await http.admission(CONTEXT, request, "limit") is None
    (seen,) = gateway.asked(ADMISSION)
    assert seen.json == {
        "what": "limit", "service": "orders", "method": "GET", "target": "/shop?a",
        "headers": {"X-A": "b"}, "host": "shop",
    }  # fmt: skip
    assert seen.assertion.service == "orders"


async def test_admission_that_is_refused_itself_is_an_error(
    gateway: ScriptedGateway, http: GatewayHttp
) -> None:
    gateway.put(ADMISSION, refusal(401, "AUTH_FAILED"), web.Response(status=500, body=b"<html>"))
    first = await http.admission(CONTEXT, REQUEST, "limit")
    second = await http.admission(CONTEXT, REQUEST, "limit")
    assert first is not None
    assert second is not None
    assert (first.code, first.status) == ("AUTH_FAILED", 401)
    assert (second.code, second.retryable) == ("PROXY_ERROR", True)


async def test_what_is_not_allowed_is_refused_with_a_reason_or_without(
    gateway: ScriptedGateway, http: GatewayHttp
) -> None:
    named = {"allowed": False, "error": {"code": "FORBIDDEN"}}
    gateway.put(ADMISSION, answer(200, named), answer(200, {"allowed": False}), answer(200, {}))
    errors = [await http.admission(CONTEXT, REQUEST, "limit") for _ in range(3)]
    assert [each and each.code for each in errors] == ["FORBIDDEN", "PROXY_ERROR", "PROXY_ERROR"]
    assert [each and each.status for each in errors] == [403] * 3


async def test_the_gateways_own_paths_are_asked_as_the_worker(
    gateway: ScriptedGateway, http: GatewayHttp
) -> None:
    gateway.put("/api/v1/questions", answer(503, {"error": {}}, Retry_After="2"))
    own = await http.own("POST", "/api/v1/questions", {"a": 1}, key="k")
    assert (own.status, own.value, own.retry_after) == (503, {"error": {}}, 2)
    (seen,) = gateway.seen
    assert seen.headers["authorization"] == "Bearer service-token"
    assert seen.headers["idempotency-key"] == "k"
    assert "x-on-behalf-of" not in seen.headers


async def test_it_shows_its_state_and_no_token() -> None:
    http = http_to("http://gateway:8081/")
    assert repr(http) == "<GatewayHttp http://gateway:8081 new>"
    await http.close()
    async with scripted_gateway() as gateway:
        http = http_to(gateway.url)
        await http.own("GET", "/x")
        assert "open" in repr(http)
        await http.close()
        assert "closed" in repr(http)
