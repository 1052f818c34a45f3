"""Fields that rows can't touch are those that the door sorts out, sets or drops."""

from __future__ import annotations

import pytest

from gateway.edge import headers as h
from gateway.policy.cors import CORS_FIELDS
from gateway.settings_fields import is_own_request_field, is_own_response_field

# Looked at and forwarded as they came: a row may change them or ask for them.
_FORWARDED = {h.PLAIN, h.USER_AGENT, h.ACCEPT, h.AI_AGENT, h.PREFER}
# Of answers: what an upstream says of these goes on, or a row may take it off.
_ANSWERED = {h.PLAIN, h.CONTENT_TYPE}


@pytest.mark.parametrize(
    "name",
    [
        *("connection", "keep-alive", "proxy-connection", "proxy-authenticate", "te", "trailer"),
        *("proxy-authorization", "transfer-encoding", "upgrade", "content-length", "host"),
        *("expect", "http2-settings", "forwarded", "x-forwarded-for", "x-forwarded-anything"),
        *("x-real-ip", "via", "x-request-id", "x-correlation-id", "traceparent", "tracestate"),
        *("x-user-id", "x-tenant-id", "x-user-tier", "x-gateway-identity", "user-agent", "accept"),
        *("cookie", "authorization", "x-api-key", "accept-language", "cache-control", "x-beta"),
    ],
)
def test_a_request_field_is_the_gateways_where_the_door_does_not_just_forward_it(
    name: str,
) -> None:
    kind = h.request_kind(name.encode())
    assert is_own_request_field(name) is (kind not in _FORWARDED)


@pytest.mark.parametrize(
    "name",
    [
        *("connection", "keep-alive", "proxy-connection", "proxy-authenticate", "te", "trailer"),
        *("transfer-encoding", "upgrade", "content-length", "alt-svc", "x-request-id", "date"),
        *("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "ratelimit"),
        *("ratelimit-policy", "x-gateway-error", "content-type", "server", "set-cookie", "vary"),
    ],
)
def test_a_response_field_is_the_gateways_where_the_door_does_not_just_forward_it(
    name: str,
) -> None:
    kind = h.response_kind(name.encode())
    assert is_own_response_field(name) is (kind not in _ANSWERED)


def test_all_names_that_the_door_knows_are_known_here() -> None:
    asked = [name.decode() for name, kind in h._REQUEST_KINDS.items() if kind not in _FORWARDED]
    answered = [name.decode() for name, kind in h._RESPONSE_KINDS.items() if kind not in _ANSWERED]
    assert [name for name in asked if not is_own_request_field(name)] == []
    assert [name for name in answered if not is_own_response_field(name)] == []


def test_what_cors_says_is_the_settings_matter() -> None:
    assert all(is_own_response_field(name.decode()) for name in CORS_FIELDS)
