"""The body of a publication: what becomes of it, and what a refusal tells the publisher."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sse.event import MAX_DATA_BYTES, NewEvent, Refused, encode, timestamp, uuid7
from sse.publication import MAX_BODY_BYTES, MAX_DETAILS, MAX_EVENTS, read

# Another process may have the machine just now: no example is timed.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

POINTER = re.compile(r"(/([^~/]|~0|~1)*)*")


def refusal(body: bytes, *, internal: bool = False) -> Refused:
    """How `body` is refused; it must be."""
    with pytest.raises(Refused) as caught:
        read(body, internal=internal)
    refused = caught.value
    assert refused.message.startswith("Nothing was published. ")
    assert refused.details
    assert len(refused.details) <= MAX_DETAILS
    for pointer, text in refused.details:
        assert POINTER.fullmatch(pointer)
        assert text.endswith(".")
    return refused


def attempt(body: bytes) -> list[NewEvent] | Refused:
    """What becomes of `body`, the refusal as a value."""
    try:
        return read(body, internal=False)
    except Refused as refused:
        return refused


def where(body: bytes, *, internal: bool = False) -> tuple[str, list[str]]:
    """The refusal's code and JSON pointers."""
    refused = refusal(body, internal=internal)
    return refused.code, [pointer for pointer, _ in refused.details]


def data_of(body: bytes) -> bytes:
    """The data of the one event in `body`."""
    (event,) = read(body, internal=False)
    return event.data


def event(data: str, event_type: str = "run.progress") -> bytes:
    """One event with this text as its data."""
    return b'{"event_type": "%b", "data": %b}' % (event_type.encode(), data.encode())


def data_line(published: NewEvent) -> bytes:
    """The data line of its frame, without the line end."""
    frame = encode(published, uuid7(0.0), timestamp(0.0))
    return frame.split(b"\n")[1]


def test_one_event() -> None:
    body = b' {"event_type": "run.progress",\r\n "data": {"percent": 42, "of": [1, 2]}} '
    assert read(body, internal=False) == [NewEvent("run.progress", b'{"percent":42,"of":[1,2]}')]


def test_a_list_stays_in_order() -> None:
    body = b'[{"data":1,"event_type":"a"},{"event_type":"b"},{"event_type":"a","data":2}]'
    assert read(body, internal=False) == [
        NewEvent("a", b"1"),
        NewEvent("b", b"null"),
        NewEvent("a", b"2"),
    ]


def test_missing_data_and_null_are_the_same() -> None:
    assert data_of(b'{"event_type":"x"}') == b"null"
    assert data_of(event("null")) == b"null"


@pytest.mark.parametrize("name", ["a", "x" * 64, "run.start", "..", "9", "a-b_c.d", "question"])
def test_names_of_types(name: str) -> None:
    (published,) = read(event("1", name), internal=False)
    assert published.event_type == name


@pytest.mark.parametrize(
    "name",
    ["", "x" * 65, "Run", "a b", "a/b", "\u00e9", "a\\n", "a\\u0000", "\u0661", "run:1", "*"],
)
def test_other_names_are_refused(name: str) -> None:
    assert where(event("1", name)) == ("UNPROCESSABLE", ["/event_type"])


@pytest.mark.parametrize("value", ["1", "null", "true", "[]", "{}", "1.5"])
def test_a_type_that_is_no_string_is_refused(value: str) -> None:
    assert where(f'{{"event_type":{value}}}'.encode()) == ("UNPROCESSABLE", ["/event_type"])


RESERVED = [
    "connection.established",
    "connection.x",
    "stream.reset",
    "stream.closing",
    "job.started",
    "heartbeat",
    "question.resolved",
]


@pytest.mark.parametrize("name", RESERVED)
def test_reserved_types_need_the_scope_internal(name: str) -> None:
    body = event("1", name)
    assert where(body) == ("UNPROCESSABLE", ["/event_type"])
    assert "scope internal" in refusal(body).message
    assert read(body, internal=True) == [NewEvent(name, b"1")]


@pytest.mark.parametrize("name", ["jobs", "heartbeats", "connection", "stream", "question.asked"])
def test_names_that_only_look_reserved(name: str) -> None:
    assert len(read(event("1", name), internal=False)) == 1


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        (b"{}", ["/event_type"]),
        (b'{"data":1}', ["/event_type"]),
        (b'{"event_type":"x","data":1,"id":"7"}', ["/id"]),
        (b'{"event_type":"x","Data":1}', ["/Data"]),
        (b'{"event_type":"X","da/t~a":1}', ["/event_type", "/da~1t~0a"]),
        (b'{"event_type":"x","":1}', ["/"]),
        (b"1", [""]),
        (b'"x"', [""]),
        (b"null", [""]),
        (b"true", [""]),
        (b"[]", [""]),
        (b'[{"event_type":"x"},7]', ["/1"]),
        (b'[[{"event_type":"x"}]]', ["/0"]),
        (
            b'[{"event_type":"x"},{"event_type":"x"},{"event_type":"job.x"},{}]',
            ["/2/event_type", "/3/event_type"],
        ),
    ],
)
def test_what_is_json_but_no_event(body: bytes, pointers: list[str]) -> None:
    assert where(body) == ("UNPROCESSABLE", pointers)


def test_a_list_holds_one_to_a_hundred_events() -> None:
    body = b"[" + b",".join([b'{"event_type":"x"}'] * MAX_EVENTS)
    assert len(read(body + b"]", internal=False)) == 100
    refused = refusal(body + b',{"event_type":"x"}]')
    assert (refused.code, refused.details[0][0]) == ("UNPROCESSABLE", "")
    assert "this one 101" in refused.message


def test_all_or_none_says_every_member_that_is_wrong() -> None:
    members: list[object] = [{"event_type": "x"} for _ in range(9)]
    members[3] = {"event_type": "A", "data": 1}
    members[5] = {"event_type": "x", "more": 1}
    refused = refusal(json.dumps(members).encode())
    assert [pointer for pointer, _ in refused.details] == ["/3/event_type", "/5/more"]
    assert refused.message.startswith("Nothing was published. /3/event_type: Is no name of a type")


def test_an_error_stays_small() -> None:
    """A body full of wrong members does not come back as an error of its size."""
    names = {f"{n}": 1 for n in range(5000)}
    refused = refusal(json.dumps({"event_type": "x", **names}).encode())
    assert len(refused.details) == MAX_DETAILS
    refused = refusal(json.dumps([{"event_type": "x", **names}] * 2 + [1]).encode())
    assert [pointer[:3] for pointer, _ in refused.details] == ["/0/"] * MAX_DETAILS
    refused = refusal(json.dumps([{"event_type": "x", "n" * 100_000: 1}, 1]).encode())
    assert [pointer for pointer, _ in refused.details] == ["/0", "/1"]
    assert "100000 characters" in refused.message
    assert len(refused.message) < 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"{'event_type': 'x'}",
        b'{"event_type":"x",}',
        b'{"event_type":"x"} {"event_type":"x"}',
        b'{"event_type":"x"}\x00',
        b'\xef\xbb\xbf{"event_type":"x"}',
        b'{"event_type":"x","data":"\xff"}',
        b'{"event_type":"x","data":"\xed\xa0\x80"}',
        b'{"event_type":"x","data":"\xc0\xaf"}',
        '{"event_type":"x"}'.encode("utf-16"),
        event("NaN"),
        event("Infinity"),
        event("-Infinity"),
        event("1e400"),
        event("-1e400"),
        event("9" * 400),
        event(r'"\ud800"'),
        event(r'"\udc00\ud800"'),
        event(r'{"\ud800":1}'),
        event('"a\nb"'),
        event('"\0"'),
        event("01"),
        event("+1"),
        event(".5"),
        event("1."),
        event("0x1"),
        event("tru"),
        event("[1,]"),
        event("1 /* one */"),
        event("[" * 100_000),
        event("[" * 255 + "]" * 255),
        event('{"a":' * 255 + "1" + "}" * 255),
        event("[" * 1500 + "]" * 1500),
    ],
)
def test_what_is_not_json(body: bytes) -> None:
    refused = refusal(body)
    assert refused.code == "BAD_REQUEST"
    assert len(refused.message) < 400


def test_a_refusal_says_where_the_json_breaks_off() -> None:
    assert "line 2, column 15" in refusal(b'{\n"event_type": x}').message
    assert "not UTF-8 at byte 16" in refusal(b'{"event_type": "\xff"}').message
    assert "it is empty" in refusal(b"").message
    assert "BOM" in refusal(b"\xef\xbb\xbf{}").message


def test_a_refusal_repeats_nothing_of_the_data() -> None:
    for body in (event('"secret'), event('{"secret": 1'), event('"secret"', "A")):
        refused = refusal(body)
        assert "secret" not in refused.message + repr(refused.details)


def test_not_json_comes_before_not_an_event_before_too_large() -> None:
    deep: Any = []
    for _ in range(255):
        deep = [deep]
    large = {"event_type": "x", "data": "x" * MAX_DATA_BYTES}
    members = [large, {"event_type": "A"}, {"event_type": "x", "data": deep}]
    assert where(json.dumps(members).encode()) == ("BAD_REQUEST", ["/2/data"])
    assert where(json.dumps(members[:2]).encode()) == ("UNPROCESSABLE", ["/1/event_type"])
    assert where(json.dumps(members[:1]).encode()) == ("PAYLOAD_TOO_LARGE", ["/0/data"])
    nameless = {"data": "x" * MAX_DATA_BYTES}
    assert where(json.dumps(nameless).encode()) == ("UNPROCESSABLE", ["/event_type"])


@pytest.mark.parametrize(
    ("written", "read_back"),
    [
        ("9223372036854775807", b"9223372036854775807"),
        ("-9223372036854775808", b"-9223372036854775808"),
        ("18446744073709551615", b"18446744073709551615"),  # 2**64 - 1
        ("18446744073709551616", b"1.8446744073709552e+19"),  # the nearest double
        ("-9223372036854775809", b"-9.223372036854776e+18"),
        ("9007199254740993", b"9007199254740993"),  # 2**53 + 1: more than a double holds
        ("9007199254740993.0", b"9007199254740992.0"),
        ("1.0", b"1.0"),
        ("1E2", b"100.0"),
        ("-0.0", b"-0.0"),
        ("-0", b"0"),
        ("5e-324", b"5e-324"),
        ("1e-400", b"0.0"),
        ("1.7976931348623157e308", b"1.7976931348623157e+308"),
        ("0.1000000000000000055511151231257827", b"0.1"),
    ],
)
def test_numbers_keep_their_value_as_far_as_integers_and_doubles_go(
    written: str, read_back: bytes
) -> None:
    assert data_of(event(written)) == read_back


def test_of_members_with_the_same_name_the_last_one_counts() -> None:
    assert data_of(event('{"a":1,"b":2,"a":3}')) == b'{"a":3,"b":2}'
    body = b'{"event_type":"job.x","event_type":"y","data":1,"data":2}'
    assert read(body, internal=False) == [NewEvent("y", b"2")]


def test_the_nesting_that_still_passes() -> None:
    lists = "[" * 254 + "]" * 254
    assert data_of(event(lists)) == lists.encode()
    # The list of events and the event count for nothing.
    assert read(b"[" + event(lists) + b"]", internal=False)[0].data == lists.encode()


@pytest.mark.parametrize(
    "text", ["a\r\nb", "\u2028\u2029", "\x00\x1f\x7f", "</script>", "\U0001f600"]
)
def test_a_frame_has_one_data_line_whatever_a_string_holds(text: str) -> None:
    (published,) = read(event(json.dumps(text)), internal=False)
    assert json.loads(published.data) == text
    assert not set(b"\r\n\0") & set(published.data)


def test_the_data_line_has_its_limit_envelope_included() -> None:
    def body(event_type: str, size: int) -> bytes:
        return event(json.dumps("x" * (size - 2)), event_type)

    around = len(data_line(NewEvent("", b"")))
    for event_type in ("a", "run.progress", "y" * 64):
        room = MAX_DATA_BYTES - around - len(event_type)
        (published,) = read(body(event_type, room), internal=False)
        assert len(data_line(published)) == MAX_DATA_BYTES
        assert where(body(event_type, room + 1)) == ("PAYLOAD_TOO_LARGE", ["/data"])
        assert "65536 bytes, this one 65537" in refusal(body(event_type, room + 1)).message


def test_the_limit_counts_bytes_as_they_are_sent() -> None:
    """Escapes and spaces of the publisher's own writing are gone in the frame."""
    spaces = event("[" + " " * 200_000 + "]")
    assert data_of(spaces) == b"[]"
    escaped = event('"' + r"\u0041" * 60_000 + '"')
    assert len(data_of(escaped)) == 60_002
    wide = event('"' + "\N{EURO SIGN}" * 30_000 + '"')
    assert where(wide) == ("PAYLOAD_TOO_LARGE", ["/data"])


def test_a_publication_has_its_limit() -> None:
    body = event("1")
    full = body + b" " * (MAX_BODY_BYTES - len(body))
    assert len(read(full, internal=False)) == 1
    assert where(full + b" ") == ("PAYLOAD_TOO_LARGE", [""])
    assert where(b"[" * (MAX_BODY_BYTES + 1)) == ("PAYLOAD_TOO_LARGE", [""])


def test_a_hundred_large_events_that_fit_pass() -> None:
    body = b"[" + b",".join([event(json.dumps("x" * 10_000))] * 100) + b"]"
    assert len(read(body, internal=False)) == 100


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=20,
)


@unhurried
@given(JSON, st.booleans())
def test_any_json_value_is_published_as_it_is(value: object, ascii_only: bool) -> None:
    body = json.dumps({"event_type": "x", "data": value}, ensure_ascii=ascii_only, indent=1)
    published = json.loads(data_of(body.encode()))
    assert published == value
    assert repr(published) == repr(value)  # 1 is not 1.0 nor True, and -0.0 not 0.0


@unhurried
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode()))
def test_any_bytes_are_events_or_refused(body: bytes) -> None:
    answer = attempt(body)
    if isinstance(answer, Refused):
        assert answer.code in ("BAD_REQUEST", "UNPROCESSABLE")
        assert answer.details
    else:
        assert answer


_CLOSE = JSON | st.fixed_dictionaries(
    {},
    optional={
        "event_type": st.sampled_from(["x", "A", "job.x", 1, None]),
        "data": JSON,
        "other": JSON,
    },
)


@unhurried
@given(st.lists(_CLOSE, min_size=1, max_size=5))
def test_a_refusal_names_each_member_that_would_be_refused_alone(members: list[object]) -> None:
    alone = [attempt(json.dumps([member]).encode()) for member in members]
    bad = {f"/{index}" for index, answer in enumerate(alone) if isinstance(answer, Refused)}
    answer = attempt(json.dumps(members).encode())
    if isinstance(answer, Refused):
        named = {"/" + pointer.split("/")[1] for pointer, _ in answer.details}
        assert named == bad or (named < bad and len(answer.details) == MAX_DETAILS)
    else:
        assert not bad
        assert len(answer) == len(members)
