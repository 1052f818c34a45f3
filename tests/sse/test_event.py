"""Events: their names, their times and ids, and their bytes as an independent reader sees them."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sse.event import (
    JOB_PREFIX,
    MAX_DATA_BYTES,
    BackplaneAwayError,
    NewEvent,
    Published,
    Refused,
    dumps,
    encode,
    envelope,
    frame_type,
    is_client_id,
    is_event_type,
    is_reserved,
    timestamp,
    uuid7,
)
from sse.publication import read
from tests.sse.reader import Event, Reader, read_all, read_json

# Another process may have the machine just now: no example is timed.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
AT = "2026-11-21T10:00:00.000Z"
# Up to 2199, which is beyond the life of a frame.
TIMES = st.floats(min_value=0.0, max_value=7_258_118_399.0)


@pytest.mark.parametrize("text", ["a", "Z", "7", "a" * 128, "job:7", "a@b.c", "~_.-:@", "..", "-"])
def test_client_ids(text: str) -> None:
    assert is_client_id(text)


@pytest.mark.parametrize(
    "text", ["", "a" * 129, "a b", "a/b", "a%20", "a\n", "\u00e9", "a\0", "a,b", "\u0661", "a*"]
)
def test_what_is_no_client_id(text: str) -> None:
    assert not is_client_id(text)


def test_the_client_ids_of_jobs_are_client_ids() -> None:
    assert is_client_id(JOB_PREFIX + str(uuid.uuid4()))


@pytest.mark.parametrize("text", ["a", "run.start", "a_b-c.9", "x" * 64, "."])
def test_names_of_types(text: str) -> None:
    assert is_event_type(text)


@pytest.mark.parametrize("text", ["", "x" * 65, "A", "a b", "a:b", "a\n", "\u00e9", "a*", "a/b"])
def test_what_is_no_name_of_a_type(text: str) -> None:
    assert not is_event_type(text)


@pytest.mark.parametrize(
    ("name", "reserved"),
    [
        ("connection.established", True),
        ("connection.", True),
        ("stream.reset", True),
        ("stream.anything", True),
        ("job.started", True),
        ("heartbeat", True),
        ("question.resolved", True),
        ("question", False),
        ("question.other", False),
        ("heartbeat.x", False),
        ("connection", False),
        ("jobs.started", False),
        ("run.start", False),
        ("node.complete", False),
    ],
)
def test_the_gateways_own_types(name: str, reserved: bool) -> None:
    assert is_reserved(name) == reserved


@unhurried
@given(TIMES)
def test_an_id_is_a_uuid_of_version_7_with_its_time(wall_seconds: float) -> None:
    made = uuid.UUID(uuid7(wall_seconds))
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == int(wall_seconds * 1000)


@unhurried
@given(st.binary(min_size=10, max_size=10))
def test_an_id_is_made_of_time_and_chance_alone(random: bytes) -> None:
    made = uuid7(1_790_000_000.123, random)
    assert made == uuid7(1_790_000_000.123, random)
    assert uuid.UUID(made).hex == made.replace("-", "")
    assert uuid.UUID(made).version == 7
    assert uuid.UUID(made).variant == uuid.RFC_4122


def test_all_74_bits_of_chance_are_used() -> None:
    """RFC 9562 §5.7: rand_a and rand_b vary, each bit by itself and none with another."""
    drawn = [uuid.UUID(uuid7(0.0)).int for _ in range(200)]
    columns = ["".join(str(number >> bit & 1) for number in drawn) for bit in range(80)]
    varying = {column for column in columns if len(set(column)) == 2}
    assert len(varying) == 74


def test_ids_sort_by_their_milliseconds() -> None:
    ids = [uuid7(1_790_000_000 + n / 1000) for n in range(50)]
    assert ids == sorted(ids)


@unhurried
@given(TIMES)
def test_a_timestamp_is_rfc_3339_in_utc_with_milliseconds(wall_seconds: float) -> None:
    text = timestamp(wall_seconds)
    assert len(text) == 24
    assert text[10] == "T"
    assert text.endswith("Z")
    read_back = datetime.fromisoformat(text)
    assert read_back.tzinfo == UTC
    exact = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=wall_seconds)
    assert timedelta(0) <= exact - read_back < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("wall_seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_790_000_000.0, "2026-09-21T14:13:20.000Z"),
        (1_790_000_000.9999, "2026-09-21T14:13:20.999Z"),  # never a time that is yet to come
        (951_782_400.5, "2000-02-29T00:00:00.500Z"),
    ],
)
def test_timestamps(wall_seconds: float, text: str) -> None:
    assert timestamp(wall_seconds) == text


def test_a_frame_to_the_byte() -> None:
    event = NewEvent("run.progress", b'{"percent":42}')
    line = (
        b'{"id":"01890a5d-ac96-774b-bcce-b302099a8057","event_type":"run.progress",'
        b'"timestamp":"2026-11-21T10:00:00.000Z","data":{"percent":42}}'
    )
    assert envelope(event, ID, AT) == line
    assert encode(event, ID, AT) == b"event: run.progress\ndata: " + line + b"\n\n"
    assert encode(event, ID, AT, retry_ms=2500) == b"retry: 2500\n" + encode(event, ID, AT)
    assert read_all(encode(event, ID, AT, retry_ms=2500)) == [
        Event("run.progress", line.decode(), retry_ms=2500)
    ]


def test_the_type_of_a_frame() -> None:
    event = NewEvent("a.b", b'"event: x"')
    assert frame_type(encode(event, ID, AT)) == b"a.b"
    assert frame_type(b"id: e-1\n" + encode(event, ID, AT, retry_ms=1)) == b"a.b"


def test_json_is_written_compact() -> None:
    assert dumps({"a": [1, None, "\n"]}) == b'{"a":[1,null,"\\n"]}'


def test_a_refusal_says_what_to_do() -> None:
    plain = Refused("GONE", "It is over.")
    assert (str(plain), plain.code, plain.message) == ("It is over.", "GONE", "It is over.")
    assert (plain.details, plain.extra) == ((), {})
    full = Refused("CONFLICT", "Too late.", (("/a", "No."),), {"answered_by": "bob"})
    assert (full.details, full.extra) == ((("/a", "No."),), {"answered_by": "bob"})


def test_what_publishing_answers_begins_empty() -> None:
    assert Published() == Published(ids=[], subscribers=0)
    assert issubclass(BackplaneAwayError, Exception)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(["\r\n\r\ndata: forged", "\n", "\r", "\u2028\u0085\x0b", "\0", "id: 7\n\n"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=15,
)
NAMES = st.from_regex(r"[a-z0-9_.-]{1,64}", fullmatch=True)


def published(event_type: str, value: object) -> NewEvent:
    """What a publisher's JSON becomes."""
    body = json.dumps({"event_type": event_type, "data": value}).encode()
    (event,) = read(body, internal=True)
    return event


@unhurried
@given(NAMES, JSON, TIMES)
def test_what_is_published_is_read_back_equal(
    event_type: str, value: object, wall_seconds: float
) -> None:
    event = published(event_type, value)
    event_id = uuid7(wall_seconds)
    frame = encode(event, event_id, timestamp(wall_seconds))
    (got,) = read_all(frame)
    assert (got.type, got.id, got.retry_ms) == (event_type, None, None)
    assert repr(got.payload()) == repr(value)  # not 1 for True, nor 0.0 for -0.0
    assert got.envelope() == {
        "id": event_id,
        "event_type": event_type,
        "timestamp": timestamp(wall_seconds),
        "data": value,
    }
    assert frame_type(frame) == event_type.encode()
    assert frame.count(b"\n") == 3
    assert b"\r" not in frame


@unhurried
@given(st.lists(st.tuples(NAMES, JSON), min_size=1, max_size=4), st.data())
def test_a_stream_in_any_pieces_is_the_same_events(
    events: list[tuple[str, Any]], data: st.DataObject
) -> None:
    frames = [
        b"id: aBcD1234-%d\n%b" % (number, encode(published(name, value), ID, AT))
        for number, (name, value) in enumerate(events, 1)
    ]
    stream = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader = Reader()
    got = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += reader.feed(stream[start:end])
    reader.end()
    assert [(event.type, repr(event.payload())) for event in got] == [
        (name, repr(value)) for name, value in events
    ]
    assert [event.sequence for event in got] == list(range(1, len(events) + 1))
    assert {event.epoch for event in got} == {"aBcD1234"}
    assert (reader.comments, reader.ignored, reader.hollow) == ([], [], 0)


def test_the_largest_event_is_read_back() -> None:
    around = len(b"data: ") + len(envelope(NewEvent("x", b'""'), ID, AT))
    text = "x" * (MAX_DATA_BYTES - around)
    frame = encode(published("x", text), ID, AT)
    (got,) = read_all(frame)
    assert read_json(got.data)["data"] == text
