"""The tests' own reader of event streams, against the examples and rules of the HTML standard."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sse.reader import Event, Reader, read_all, read_json

# Another process may have the machine just now: no example is timed.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def handed_out(stream: bytes) -> list[tuple[str, str, str]]:
    """Type, data and last event id of each event."""
    return [(e.type, e.data, e.last_event_id) for e in Reader().feed(stream)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        # The examples of section 9.2.6.
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("message", "YHOO\n+2\n10", "")]),
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third",
            [("message", "first event", "1"), ("message", "second event", "")],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [("message", "", ""), ("message", "\n", "")]),
        (b"data:test\n\ndata: test\n\n", [("message", "test", "")] * 2),
        # Line ends, alone and mixed.
        (b"event: a\rdata: 1\r\r", [("a", "1", "")]),
        (b"event: a\r\ndata: 1\r\n\r\n", [("a", "1", "")]),
        (
            b"event: a\r\ndata: 1\n\revent: b\n\ndata: 2\r\n\r",
            [("a", "1", ""), ("message", "2", "")],
        ),
        # A byte order mark counts at the very beginning only.
        (b"\xef\xbb\xbfdata: 1\n\n\xef\xbb\xbfdata: 2\n\n", [("message", "1", "")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: 1\n\n", []),
        # An id holds until the next, also one of a block without data; with NUL it is none.
        (
            b"id: 1\n\ndata: a\n\nid: 2\0\ndata: b\n\n",
            [("message", "a", "1"), ("message", "b", "1")],
        ),
        # Names are exact; one space is taken off the value, a second colon is part of it.
        (b"Data: 1\n data: 2\ndata : 3\n\n", []),
        (b"event:  a:b\ndata:\t1\n\n", [(" a:b", "\t1", "")]),
        (
            "data: \N{EURO SIGN}\u2028\u0085\x0b\n\n".encode(),
            [("message", "€\u2028\u0085\x0b", "")],
        ),
    ],
)
def test_streams_of_the_standard(stream: bytes, events: list[tuple[str, str, str]]) -> None:
    assert handed_out(stream) == events


@unhurried
@given(st.data())
def test_pieces_change_nothing(data: st.DataObject) -> None:
    alphabet = [
        "data",
        "id",
        "event",
        "retry",
        ":",
        " ",
        "\r",
        "\n",
        "\r\n",
        "\ufeff",
        "é",
        "1",
        "\0",
    ]
    stream = "".join(data.draw(st.lists(st.sampled_from(alphabet), max_size=40))).encode()
    whole = Reader()
    expected = whole.feed(stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = Reader()
    events = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        events += pieces.feed(stream[start:end])
    assert events == expected
    for name in ("last_event_id", "retry_ms", "comments", "ignored", "hollow", "at_rest"):
        assert getattr(pieces, name) == getattr(whole, name)


def test_what_a_browser_drops_is_kept_to_be_looked_at() -> None:
    reader = Reader("before")
    stream = b":hello\n: there\nretry: 10\n\nretry: 1s\nretry:\nid: a\0b\nnonsense\ndata: x\n\n\n"
    (event,) = reader.feed(stream)
    assert reader.comments == ["hello", " there"]
    assert reader.ignored == ["retry: 1s", "retry:", "id: a\0b", "nonsense"]
    assert (reader.retry_ms, reader.hollow) == (10, 1)
    assert event == Event("message", "x", last_event_id="before")
    assert repr(reader) == "<Reader last_event_id='before' at_rest=True>"


def test_a_line_feed_of_a_crlf_may_come_later() -> None:
    reader = Reader()
    assert reader.feed(b"data: 1\r") == []
    assert reader.feed(b"") == []
    assert reader.feed(b"\n\r") == [Event("message", "1")]
    assert reader.feed(b"\n") == []
    assert reader.feed(b"\n") == []
    reader.end()


@pytest.mark.parametrize("stream", [b"data: 1", b"data: 1\n", b"id: 1\n", b"d", b"\xe2\x82"])
def test_a_stream_that_breaks_off_is_noticed(stream: bytes) -> None:
    with pytest.raises(AssertionError, match="broke off"):
        read_all(stream)


def test_bytes_that_are_not_utf_8_are_an_error() -> None:
    with pytest.raises(UnicodeDecodeError):
        read_all(b"data: \xff\n\n")


ID = "01890a5d-ac96-774b-bcce-b302099a8057"
ENVELOPE = f'{{"id":"{ID}","event_type":"a","timestamp":"2026-11-21T10:00:00.000Z","data":[1]}}'


def test_the_envelope() -> None:
    (event,) = read_all(f"id: aBc4-12\nevent: a\ndata: {ENVELOPE}\n\n".encode())
    assert event.payload() == [1]
    assert event.envelope()["id"] == ID
    assert (event.epoch, event.sequence) == ("aBc4", 12)


@pytest.mark.parametrize(
    ("part", "other"),
    [
        (ENVELOPE, "[1]"),
        ('"a"', '"b"'),
        ("-774b", "-474b"),
        ("000Z", "000+00:00"),
        (',"data":[1]', ""),
        ('"data":[1]', '"data":[1],"more":1'),
        ("[1]", "[NaN]"),
        ("[1]", '{"a":1,"a":2}'),
    ],
)
def test_what_is_no_envelope(part: str, other: str) -> None:
    with pytest.raises(AssertionError):
        Event("a", ENVELOPE.replace(part, other, 1)).envelope()


@pytest.mark.parametrize("name", ["epoch", "sequence"])
def test_no_position_without_an_id(name: str) -> None:
    with pytest.raises(AssertionError, match="no id"):
        getattr(Event("a", "1", last_event_id="x-1"), name)


def test_json_numbers() -> None:
    assert read_json("[1e2]") == [100.0]
