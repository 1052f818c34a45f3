"""Fields: which go on, which are the gateway's, and which ids and addresses are written."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge import headers as h

TRACE = b"0af7651916cd43dd8448eb211c80319c"
PARENT = b"b7ad6b7169203331"


@pytest.mark.parametrize(
    "name",
    [
        b"Keep-Alive",
        b"Proxy-Connection",
        b"Proxy-Authenticate",
        b"PROXY-AUTHORIZATION",
        b"HTTP2-Settings",
        b"X-User-ID",
        b"x-tenant-id",
        b"X-User-Tier",
        b"X-Gateway-Client",
        b"X-Gateway-Direct",
        b"X-Gateway-Anything-Later",
        b"X_On_Behalf_Of",
        b"x-on.behalf-of",
    ],
)
def test_hop_by_hop_and_identity_fields_of_a_client_are_dropped(name: bytes) -> None:
    assert h.request_kind(name) == h.DROP


@pytest.mark.parametrize(
    "name",
    [
        b"X_User_ID",
        b"X.Tenant.Id",
        b"x_user-tier",
        b"X_Forwarded_For",
        b"X-Forwarded_Proto",
        b"X_Forwarded_Anything",
        b"X_Request_Id",
        b"X_Gateway_Client",
        b"Content_Length",
        b"Transfer_Encoding",
        b"Proxy_Authorization",
    ],
)
def test_a_name_that_a_back_end_could_take_for_the_gateways_is_not_forwarded(name: bytes) -> None:
    assert h.request_kind(name) != h.PLAIN


@pytest.mark.parametrize("name", [b"user_agent", b"My_Field", b"X.Y", b"_", b"Cookie", b"X-User"])
def test_other_names_go_on(name: bytes) -> None:
    assert h.request_kind(name) == h.PLAIN


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (b"HOST", h.HOST),
        (b"content-Length", h.CONTENT_LENGTH),
        (b"Transfer-Encoding", h.TRANSFER_ENCODING),
        (b"X-Forwarded-For", h.FORWARDING),
        (b"X-Forwarded-Prefix", h.FORWARDING),
        (b"X-Real-IP", h.FORWARDING),
        (b"Forwarded", h.FORWARDING),
        (b"Via", h.VIA),
        (b"X-AI-Agent", h.AI_AGENT),
        (b"AI-Agent-ID", h.AI_AGENT),
    ],
)
def test_fields_with_a_meaning_are_known_in_any_case(name: bytes, kind: int) -> None:
    assert h.request_kind(name) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (b"Alt-Svc", h.DROP),
        (b"Proxy-Authenticate", h.DROP),
        (b"Proxy-Connection", h.DROP),
        (b"X-Request-ID", h.DROP),
        (b"X-Gateway-Attempts", h.DROP),
        (b"Keep-Alive", h.KEEP_ALIVE),
        (b"RateLimit-Policy", h.LIMIT),
        (b"Content-Type", h.CONTENT_TYPE),
        (b"Set-Cookie", h.PLAIN),
        (b"Server", h.PLAIN),
    ],
)
def test_fields_of_a_response_are_sorted(name: bytes, kind: int) -> None:
    assert h.response_kind(name) == kind


def test_connection_options_are_one_lower_case_set() -> None:
    assert h.connection_tokens([b"Close,, X-One", b"\tx-TWO ,", b""]) == {
        b"close",
        b"x-one",
        b"x-two",
    }
    assert h.connection_tokens([]) == frozenset()


def test_a_field_that_a_route_takes_off_has_no_alias_left() -> None:
    fields = [(b"X-Stage", b"1"), (b"x_stage", b"2"), (b"X.Stage", b"3"), (b"X-Stages", b"4")]
    assert h.without_aliases(fields, frozenset((b"x-stage",))) == [(b"X-Stages", b"4")]
    assert h.without_aliases([(b"a_b", b"1")], frozenset((b"a_b",))) == []
    assert h.without_aliases(fields, frozenset()) == fields


def test_a_trailer_that_a_route_takes_off_is_not_forwarded() -> None:
    fields = [(b"X-Stage", b"1"), (b"X_Stage", b"2"), (b"X-Sum", b"3")]
    assert h.trailers(fields, frozenset((b"x-stage",))) == [(b"X-Sum", b"3")]
    assert h.trailers(fields) == fields


def test_named_fields_are_taken_away_in_any_case() -> None:
    fields = [(b"X-One", b"1"), (b"Two", b"2"), (b"x-one", b"3")]
    assert h.without(fields, frozenset((b"x-one",))) == [(b"Two", b"2")]


@pytest.mark.parametrize(
    "name",
    [
        b"Content-Length",
        b"transfer-encoding",
        b"Host",
        b"Authorization",
        b"X-Forwarded-For",
        b"X_Forwarded_For",
        b"X-User-ID",
        b"X-Request-ID",
        b"Connection",
        b"Trailer",
        b"Set-Cookie",
        b"Cache-Control",
        b"Content-Encoding",
        b"Content-Type",
        b"Content-Range",
        b"Location",
        b"If-None-Match",
        b"RateLimit",
        b"X-API-Key",
        b"X_API_Key",
        b"set.cookie",
    ],
)
def test_a_trailer_never_frames_routes_identifies_or_steers(name: bytes) -> None:
    checksum = (b"X-Checksum", b"1")
    assert h.trailers([(name, b"1"), checksum, (b"grpc-status", b"0")]) == [
        checksum,
        (b"grpc-status", b"0"),
    ]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"a.test",
        b"a.test:80",
        b"a.test:",
        b"127.0.0.1:8081",
        b"[::1]",
        b"[::1]:80",
        b"[v1.x:y]",
        b"a_b",
        b"x%20y",
    ],
)
def test_a_host_is_a_name_or_an_address_with_or_without_a_port(value: bytes) -> None:
    assert h.is_host(value)


@pytest.mark.parametrize(
    "value",
    [
        *(b"a b", b"a:b", b"a:80:80", b"a:123456", b"a/b", b"u@a", b"a?b", b"a#b", b"a\\b"),
        *(b"[::1", b"::1", b"[]", b"[g::1]", b'"a"', b"a\n", b"a\xe9", b"\x00"),
    ],
)
def test_anything_else_is_no_host(value: bytes) -> None:
    assert not h.is_host(value)


@given(st.binary(max_size=140))
def test_an_id_is_taken_when_it_is_1_to_128_visible_characters(value: bytes) -> None:
    visible = all(0x21 <= byte <= 0x7E for byte in value)
    assert h.accepted_id(value) is (visible and 1 <= len(value) <= 128)


def test_the_longest_id_is_taken_and_one_more_is_not() -> None:
    assert h.accepted_id(b"x" * 128)
    assert not h.accepted_id(b"x" * 129)


@pytest.mark.parametrize(
    "value",
    [
        b"00-" + TRACE + b"-" + PARENT + b"-01",
        b"00-" + TRACE + b"-" + PARENT + b"-ff",
        b"01-" + TRACE + b"-" + PARENT + b"-01",
        b"cc-" + TRACE + b"-" + PARENT + b"-01-what-comes-later",
    ],
)
def test_a_traceparent_is_believed(value: bytes) -> None:
    assert h.is_traceparent(value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00-" + TRACE + b"-" + PARENT,
        b"00-" + TRACE + b"-" + PARENT + b"-01-extra",
        b"00-" + TRACE + b"-" + PARENT + b"-01-",
        b"cc-" + TRACE + b"-" + PARENT + b"-01extra",
        b"ff-" + TRACE + b"-" + PARENT + b"-01",
        b"00-" + b"0" * 32 + b"-" + PARENT + b"-01",
        b"00-" + TRACE + b"-" + b"0" * 16 + b"-01",
        b"00-" + TRACE.upper() + b"-" + PARENT + b"-01",
        b"00-" + TRACE[1:] + b"-" + PARENT + b"-01",
        b"00_" + TRACE + b"_" + PARENT + b"_01",
        b"00-" + TRACE + b"-" + PARENT + b"-0g",
    ],
)
def test_a_malformed_traceparent_is_not(value: bytes) -> None:
    assert not h.is_traceparent(value)


def seeded(seed: int = 1) -> Callable[[int], bytes]:
    return Random(seed).randbytes


def test_a_request_id_is_a_uuid_of_its_millisecond() -> None:
    ids = h.Ids(seeded())
    made = uuid.UUID(ids.request_id(1_700_000_000.1234))
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == 1_700_000_000_123


@given(st.floats(min_value=0, max_value=1e10), st.integers(0, 9))
def test_every_request_id_is_written_as_a_uuid_is(wall_seconds: float, seed: int) -> None:
    text = h.Ids(seeded(seed)).request_id(wall_seconds)
    assert str(uuid.UUID(text)) == text
    assert text[19] in "89ab"


def test_ids_of_one_millisecond_differ_and_those_of_later_ones_sort_behind() -> None:
    ids = h.Ids(seeded())
    made = [ids.request_id(1000.0 + number // 100) for number in range(2000)]
    assert len(set(made)) == 2000
    stamps = [text[:13] for text in made]
    assert stamps == sorted(stamps)


def test_random_digits_are_drawn_in_blocks() -> None:
    asked: list[int] = []

    def random_bytes(count: int) -> bytes:
        asked.append(count)
        return bytes(count)

    ids = h.Ids(random_bytes)
    for _ in range(400):
        ids.request_id(0.0)
    assert asked == [4096]
    for _ in range(100):
        ids.request_id(0.0)
    assert asked == [4096, 4096]


def test_a_new_trace_is_well_formed_even_if_chance_gives_zeros() -> None:
    for random_bytes in (bytes, seeded(), lambda count: b"\xff" * count):
        ids = h.Ids(random_bytes)
        drawn = ids.traceparent(None)
        assert h.is_traceparent(drawn.encode())
        assert drawn.startswith("00-")
        assert drawn.endswith("-00")
        request_id = ids.request_id(1_700_000_000.0)
        assert h.is_traceparent(ids.traceparent(request_id).encode())


def test_a_new_trace_has_the_digits_of_the_request_id_made_with_it() -> None:
    ids = h.Ids(seeded())
    request_id = ids.request_id(1_700_000_000.0)
    trace, parent = ids.traceparent(request_id).split("-")[1:3]
    assert uuid.UUID(trace) == uuid.UUID(request_id)
    assert re.fullmatch("[0-9a-f]{16}", parent)


def test_two_new_traces_differ() -> None:
    ids = h.Ids(seeded())
    assert ids.traceparent(None) != ids.traceparent(None)


def test_forwarding_fields_tell_of_the_client_alone() -> None:
    assert h.forwarding_lines("192.0.2.1", "http", b"a.test:80", None) == (
        b"X-Forwarded-For: 192.0.2.1\r\n"
        b"X-Forwarded-Proto: http\r\n"
        b"X-Forwarded-Host: a.test:80\r\n"
        b'Forwarded: for=192.0.2.1;proto=http;host="a.test:80"\r\n'
    )


def test_an_ipv6_client_is_quoted_in_forwarded() -> None:
    # RFC 7239 §6: IPv6 addresses stand in brackets, and the colon makes it a quoted string.
    lines = h.forwarding_lines("2001:db8::1", "https", b"a.test", None)
    assert b"X-Forwarded-For: 2001:db8::1\r\n" in lines
    assert b'Forwarded: for="[2001:db8::1]";proto=https;host="a.test"\r\n' in lines


@pytest.mark.parametrize("host", [None, b""])
def test_no_host_is_forwarded_where_the_client_sent_none(host: bytes | None) -> None:
    assert h.forwarding_lines("192.0.2.1", "http", host, None) == (
        b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n"
        b"Forwarded: for=192.0.2.1;proto=http\r\n"
    )


def test_what_a_trusted_proxy_said_is_continued() -> None:
    inherited = [
        (b"x-forwarded-for", b"203.0.113.9"),
        (b"X-Forwarded-For", b"10.0.0.2, 10.0.0.3"),
        (b"Forwarded", b"for=203.0.113.9"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"public.test"),
        (b"X-Forwarded-Port", b"443"),
        (b"X-Real-IP", b"203.0.113.9"),
    ]
    assert h.forwarding_lines("10.0.0.1", "http", b"inner.test", inherited) == (
        b"X-Forwarded-For: 203.0.113.9, 10.0.0.2, 10.0.0.3, 10.0.0.1\r\n"
        b"X-Forwarded-Proto: https\r\n"
        b"X-Forwarded-Host: public.test\r\n"
        b'Forwarded: for=203.0.113.9, for=10.0.0.1;proto=http;host="inner.test"\r\n'
        b"X-Forwarded-Port: 443\r\n"
        b"X-Real-IP: 203.0.113.9\r\n"
    )


def test_the_forwarding_chain_is_read_from_left_to_right() -> None:
    assert h.forwarded_for(
        [
            (b"X-Forwarded-For", b"203.0.113.9 ,, unknown"),
            (b"Forwarded", b"for=192.0.2.7"),
            (b"x-forwarded-for", b" 10.0.0.2"),
            (b"X-Forwarded-For", b""),
        ]
    ) == ["203.0.113.9", "unknown", "10.0.0.2"]


@pytest.mark.parametrize(
    ("value", "addresses"),
    [
        (b"for=192.0.2.1", ["192.0.2.1"]),
        (b"For=192.0.2.1;proto=http, by=10.0.0.1; FOR=10.0.0.2", ["192.0.2.1", "10.0.0.2"]),
        (b'for="[2001:db8::1]"', ["2001:db8::1"]),
        (b'for="[2001:db8::1]:4711", for="192.0.2.1:80"', ["2001:db8::1", "192.0.2.1"]),
        (b"proto=http;host=a.test", []),
        (b'before="x";for=192.0.2.1', ["192.0.2.1"]),
    ],
)
def test_without_x_forwarded_for_the_chain_is_that_of_forwarded(
    value: bytes, addresses: list[str]
) -> None:
    assert h.forwarded_for([(b"Forwarded", value)]) == addresses


def test_the_fields_of_forwarded_are_one_list() -> None:
    fields = [(b"forwarded", b"for=192.0.2.1"), (b"FORWARDED", b"for=10.0.0.2")]
    assert h.forwarded_for(fields) == ["192.0.2.1", "10.0.0.2"]


@pytest.mark.parametrize("node", [b"unknown", b"_hidden", b'"_gazonk"', b'""', b'"["', b'":80"'])
def test_a_node_that_is_no_address_ends_the_chain_and_not_the_gateway(node: bytes) -> None:
    chain = h.forwarded_for([(b"Forwarded", b"for=192.0.2.1, for=" + node)])
    assert len(chain) == 2
    assert chain[0] == "192.0.2.1"
    assert not re.fullmatch(r"[0-9.]+|.*:.*", chain[1])


@pytest.mark.parametrize("host", [b"x,for=6.6.6.6,y", b"x;for=6.6.6.6;y"])
def test_what_looks_like_an_address_in_a_quoted_host_is_none(host: bytes) -> None:
    # The host is the client's own word: `,`, `;` and `=` may stand in it (RFC 3986 §3.2.2).
    lines = h.forwarding_lines("192.0.2.1", "http", host, None)
    value = lines.partition(b"\r\nForwarded: ")[2].removesuffix(b"\r\n")
    assert h.forwarded_for([(b"Forwarded", value)]) == ["192.0.2.1"]


@given(st.text(alphabet='for=",;[]: 19.\\', max_size=40))
def test_no_forwarded_field_breaks_the_reading_of_the_chain(value: str) -> None:
    for address in h.forwarded_for([(b"Forwarded", value.encode())]):
        assert isinstance(address, str)


def test_whom_a_worker_asks_for_is_read_and_a_preference_read_and_passed_on() -> None:
    assert h.request_kind(b"X-On-Behalf-Of") == h.ON_BEHALF
    assert h.request_kind(b"prefer") == h.PREFER
    fields = [(b"X-On-Behalf-Of", b"a"), (b"X_On_Behalf_Of", b"a"), (b"Prefer", b"b")]
    assert h.trailers(fields) == []
