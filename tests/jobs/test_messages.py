"""Requests as they are written to the gateway, and answers as they are kept."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from multidict import CIMultiDict

from gateway.jobs import messages
from gateway.jobs.messages import BadRequestError
from gateway.jobs.models import Caller, JobContext, ServiceRequest

CONTEXT = JobContext(Caller(), "op", "kind", 30, bases={"orders": "/api/v1/orders", "rows": ""})


def target(path: str, service: str = "orders", **query: Any) -> str:
    return messages.target_of(CONTEXT, ServiceRequest(service, path, query=query))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a", "/api/v1/orders/a"),
        ("a", "/api/v1/orders/a"),
        ("/a b/ü", "/api/v1/orders/a%20b/%C3%BC"),
        ("/a%2Fb", "/api/v1/orders/a%2Fb"),
        ("/a?x=1&y=ü", "/api/v1/orders/a?x=1&y=%C3%BC"),
        ("/a#b", "/api/v1/orders/a%23b"),
        ("/a\r\nX: y", "/api/v1/orders/a%0D%0AX:%20y"),
        ("//a", "/api/v1/orders//a"),
    ],
)
def test_a_path_stays_behind_its_services_prefix(path: str, expected: str) -> None:
    assert target(path) == expected


def test_a_query_is_added_to_the_paths_own() -> None:
    assert (
        target("/a?x=1", y=[1, True], z=None, w="&=") == "/api/v1/orders/a?x=1&y=1&y=true&w=%26%3D"
    )


def test_a_service_with_rows_only_has_no_prefix() -> None:
    assert target("/shop", "rows") == "/shop"


def test_the_gateways_own_target_goes_as_it_is() -> None:
    request = ServiceRequest("rows", target="/shop/%7Ea?b=c")
    assert messages.target_of(CONTEXT, request) == "/shop/%7Ea?b=c"


@pytest.mark.parametrize("wrong", ["shop", "/ü", "/a b", "/a#b", "/\x7f", "/" + "a" * 9000])
def test_a_target_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(BadRequestError):
        messages.target_of(CONTEXT, ServiceRequest("rows", target=wrong))


def test_a_service_that_is_not_known_is_refused() -> None:
    with pytest.raises(BadRequestError, match="nobody"):
        target("/a", "nobody")


@pytest.mark.parametrize(
    "name",
    [
        "Authorization", "cookie", "Host", "Transfer-Encoding", "Content-Length", "Connection",
        "X-On-Behalf-Of", "X_On_Behalf_Of", "Idempotency-Key", "X-Gateway-Identity", "Prefer",
        "X-Forwarded-For", "x.user.id", "TE", "Expect",
    ],
)  # fmt: skip
def test_fields_that_are_never_an_inputs_do_not_go_out(name: str) -> None:
    request = ServiceRequest("orders", headers={name: "x", "X-Mine": " y "})
    assert messages.request_fields(request) == {"X-Mine": "y"}


def test_host_goes_out_with_a_target_of_the_gateways() -> None:
    request = ServiceRequest("rows", headers={"Host": "shop.example"}, target="/")
    assert messages.request_fields(request) == {"Host": "shop.example"}


@pytest.mark.parametrize(
    "request_",
    [
        ServiceRequest("a", headers={"X": "a\r\nY: b"}),
        ServiceRequest("a", headers={"X Y": "a"}),
        ServiceRequest("a", method="GET /"),
        ServiceRequest("a", method="connect"),
    ],
)
def test_what_would_change_the_message_is_refused(request_: ServiceRequest) -> None:
    with pytest.raises(BadRequestError):
        messages.request_fields(request_)


def test_bodies_are_json_unless_they_are_said_to_be_something_else() -> None:
    def body(value: Any, **headers: str) -> tuple[bytes | None, str | None]:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return messages.body_of(ServiceRequest("a", body=value, headers=named))

    assert body(None) == (None, None)
    assert body({"a": 1}) == (b'{"a":1}', "application/json")
    assert body("a") == (b'"a"', "application/json")
    assert body("a", Content_Type="application/ld+json") == (b'"a"', "application/ld+json")
    assert body("ü", Content_Type="text/plain") == ("ü".encode(), "text/plain")
    with pytest.raises(BadRequestError, match="JSON"):
        body(2**70)


def test_bytes_go_as_they_are() -> None:
    assert messages.body_of(ServiceRequest("a", body_base64="AAE=")) == (
        b"\x00\x01", "application/octet-stream",
    )  # fmt: skip
    for wrong in ("AAE", "ü"):
        with pytest.raises(BadRequestError, match="Base64"):
            messages.body_of(ServiceRequest("a", body_base64=wrong))


def received(raw: bytes, status: int = 200, **headers: str) -> messages.Received:
    named = CIMultiDict((name.replace("_", "-"), text) for name, text in headers.items())
    return messages.read_answer(status, named, raw, 1000.0)


def test_an_answers_body_is_json_text_or_base64() -> None:
    json = "application/problem+json; charset=utf-8"
    assert received(b'{"a":1}', Content_Type=json).answer.body == {"a": 1}
    assert received(b'{"a":', Content_Type=json).answer.body == '{"a":'
    assert received(b'{"a":1}', Content_Type="text/plain").answer.body == '{"a":1}'
    assert received(b"").answer.body is None
    binary = received(b"\xff\x00").answer
    assert (binary.body, binary.body_base64) == (None, "/wA=")
    packed = received(b"abc", Content_Encoding="gzip").answer
    assert (packed.body, packed.body_base64) == (None, "YWJj")
    assert packed.headers == {"content-encoding": "gzip"}


def test_a_body_that_is_nested_too_deep_stays_text() -> None:
    deep = b"[" * 200 + b"]" * 200
    answer = received(deep, Content_Type="application/json").answer
    assert answer.body == deep.decode()
    flat = b"[" * 120 + b'{"a":1}' + b"]" * 120
    assert not isinstance(received(flat, Content_Type="application/json").answer.body, str)


def test_cookies_and_hops_are_not_kept() -> None:
    headers = CIMultiDict(
        [
            ("Set-Cookie", "a=b"), ("Connection", "x-hop, close"), ("X-Hop", "1"),
            ("X-Two", "1"), ("x-two", "2"), ("X-RateLimit-Limit", "3"), ("ETag", '"e"'),
        ]
    )  # fmt: skip
    kept = messages.read_answer(200, headers, b"", 0.0).answer.headers
    assert kept == {"x-two": "1, 2", "etag": '"e"'}


def test_an_answers_fields_have_a_bound() -> None:
    headers = CIMultiDict((f"x-{number}", "y" * 1000) for number in range(100))
    assert len(messages.read_answer(200, headers, b"", 0.0).answer.headers) == 16


def test_retry_after_is_seconds_or_a_date() -> None:
    assert messages.retry_after("7", 0.0) == 7
    assert messages.retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 0.0) == 60
    assert messages.retry_after("Thu, 01 Jan 1970 00:01:00 -0000", 90.0) == 0
    assert messages.retry_after("soon", 0.0) is None
    assert messages.retry_after(None, 0.0) is None
    assert received(b"", 503, Retry_After="9").retry_after == 9


def test_the_gateways_own_errors_are_known_by_their_field() -> None:
    body = orjson.dumps({"error": {"code": "FORBIDDEN", "message": "no", "retry_after": 3}})
    refusal = received(
        body, 403, Content_Type="application/json", X_Gateway_Error="FORBIDDEN"
    ).refusal
    assert refusal is not None
    assert (refusal.code, refusal.message, refusal.status, refusal.retry_after) == (
        "FORBIDDEN", "no", 403, 3,
    )  # fmt: skip
    plain = received(b"busy", 503, X_Gateway_Error="OVERLOADED", Retry_After="4").refusal
    assert plain is not None
    assert (plain.code, plain.message, plain.retry_after, plain.retryable) == (
        "OVERLOADED", "refused", 4, True,
    )  # fmt: skip


def test_a_services_error_that_looks_like_the_gateways_is_the_services() -> None:
    body = orjson.dumps({"error": {"code": "FORBIDDEN", "message": "no", "request_id": "r"}})
    json = "application/json"
    assert received(body, 403, Content_Type=json, X_Request_ID="s").refusal is None
    assert received(body, 200, Content_Type=json, X_Gateway_Error="FORBIDDEN").refusal is None
    assert received(body, 404, Content_Type=json, X_Request_ID="r").refusal is None
    assert received(b"[]", 403, Content_Type=json).refusal is None


def test_where_the_worker_is_not_known_for_one_the_body_tells() -> None:
    body = orjson.dumps({"error": {"code": "AUTH_FAILED", "message": "no", "request_id": "r"}})
    refusal = received(body, 401, Content_Type="application/json", X_Request_ID="r").refusal
    assert refusal is not None
    assert refusal.code == "AUTH_FAILED"


def test_an_error_that_says_little_is_still_one() -> None:
    error = messages.error_of({"message": 3, "status": 429}, 200)
    assert (error.code, error.message, error.status) == ("PROXY_ERROR", "refused", 429)


def test_json_of_very_many_values_stays_text() -> None:
    """As objects it would take twenty times its size of memory."""
    many = b"[" + b",".join([b"{}"] * messages.MOST_VALUES) + b"]"
    received = messages.read_answer(200, CIMultiDict({"Content-Type": "application/json"}), many, 0)
    assert received.answer.body == many.decode()
    some = b"[" + b",".join([b"7"] * (messages.MOST_VALUES - 3)) + b"]"
    received = messages.read_answer(200, CIMultiDict({"Content-Type": "application/json"}), some, 0)
    assert received.answer.body == [7] * (messages.MOST_VALUES - 3)


def test_fields_may_hold_all_characters_but_controls() -> None:
    request = ServiceRequest("orders", headers={"X-Mood": "caf\u00e9 \U0001f600"})
    assert messages.request_fields(request) == request.headers
