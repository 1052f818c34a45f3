"""The writer that never blocks, and the shapes of an access record."""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import sys
import threading
import tty
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.observe.access import (
    BATCH_BYTES,
    AccessLog,
    RecordWriter,
    Timestamps,
    console_line,
    json_line,
    printable,
    timestamp,
)


class Clock:
    """Takes the place of a loop's call_later; the test says when time is up."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> object:
        self.calls.append((delay, callback))
        return None

    def time_is_up(self) -> None:
        calls, self.calls = self.calls, []
        for _, callback in calls:
            callback()


class Pipe:
    """A pipe whose reader reads when the test says so."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self._open = {self.reader, self.writer}

    def read_all(self) -> bytes:
        """Close the writing end here and read to the end."""
        self.close(self.writer)
        with os.fdopen(self.reader, "rb", closefd=False) as file:
            return file.read()

    def read_some(self, size_bytes: int) -> bytes:
        return os.read(self.reader, size_bytes)

    def read_exactly(self, size_bytes: int) -> bytes:
        parts: list[bytes] = []
        while size_bytes:
            parts.append(os.read(self.reader, size_bytes))
            size_bytes -= len(parts[-1])
        return b"".join(parts)

    def lines(self) -> list[bytes]:
        """Read until every writing end is closed, also the one in a test's own hands."""
        with os.fdopen(self.reader, "rb", closefd=False) as file:
            return file.readlines()

    def close(self, end: int) -> None:
        if end in self._open:
            self._open.remove(end)
            os.close(end)

    def close_both(self) -> None:
        self.close(self.reader)
        self.close(self.writer)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close_both()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread to bring `condition` about."""
    tick = threading.Event()
    for _ in range(5000):
        if condition():
            return
        tick.wait(0.001)
    raise AssertionError(condition)


def all_written(writer: RecordWriter) -> None:
    """Wait until the thread has dealt with everything that was handed over."""
    until(lambda: writer.waiting_bytes == 0)


def waits_for_the_reader() -> bool:
    """Whether a writing thread polls a descriptor that takes nothing more."""
    writing = {thread.ident for thread in threading.enumerate() if thread.name == "record-writer"}
    frames = sys._current_frames()
    waiting = (frame for ident, frame in frames.items() if ident in writing)
    return any(frame.f_code.co_name == "_wait_writable" for frame in waiting)


def test_lines_are_written_in_order_when_the_timer_ends(pipe: Pipe, clock: Clock) -> None:
    writer = RecordWriter(pipe.writer, clock.call_later)
    writer.write(b"one\n")
    writer.write(b"two\n")
    assert [delay for delay, _ in clock.calls] == [0.05]
    assert "open waiting=8 dropped=0" in repr(writer)
    clock.time_is_up()
    assert pipe.read_some(100) == b"one\ntwo\n"
    writer.write(b"three\n")
    assert len(clock.calls) == 1
    clock.time_is_up()
    assert pipe.read_some(100) == b"three\n"
    writer.close()
    assert "closed waiting=0 dropped=0" in repr(writer)


def test_a_full_batch_does_not_wait_for_the_timer(pipe: Pipe, clock: Clock) -> None:
    writer = RecordWriter(pipe.writer, clock.call_later)
    line = b"x" * 1023 + b"\n"
    for _ in range(BATCH_BYTES // len(line)):
        writer.write(line)
    assert select.select([pipe.reader], [], [], 0) == ([], [], [])
    writer.write(b"one more\n")
    read = pipe.read_some(BATCH_BYTES)
    assert read == line * (BATCH_BYTES // len(line))
    clock.time_is_up()
    assert pipe.read_some(100) == b"one more\n"
    clock.time_is_up()
    writer.close()


def test_a_timer_that_finds_nothing_writes_nothing(pipe: Pipe, clock: Clock) -> None:
    writer = RecordWriter(pipe.writer, clock.call_later)
    writer.write(b"one\n")
    writer.flush()
    clock.time_is_up()
    writer.close()
    assert pipe.read_all() == b"one\n"


def test_a_line_longer_than_a_batch_is_written_whole(pipe: Pipe, clock: Clock) -> None:
    writer = RecordWriter(pipe.writer, clock.call_later)
    line = b"y" * (3 * BATCH_BYTES) + b"\n"
    reader: list[bytes] = []
    thread = threading.Thread(target=lambda: reader.append(pipe.read_exactly(len(line) + 6)))
    thread.start()
    writer.write(b"short\n")
    writer.write(line)
    writer.close()
    thread.join(10)
    assert reader == [b"short\n" + line]


def test_write_now_keeps_the_order_and_does_not_wait(pipe: Pipe, clock: Clock) -> None:
    writer = RecordWriter(pipe.writer, clock.call_later)
    writer.write(b"record\n")
    writer.write_now(b"log line\n")
    assert pipe.read_some(100) == b"record\nlog line\n"
    writer.close()


def test_write_now_may_be_called_from_another_thread(pipe: Pipe, clock: Clock) -> None:
    writer = RecordWriter(pipe.writer, clock.call_later)
    thread = threading.Thread(target=writer.write_now, args=(b"from afar\n",))
    thread.start()
    thread.join(10)
    assert pipe.read_some(100) == b"from afar\n"
    writer.close()


def test_a_reader_that_stops_costs_lines_but_no_time(pipe: Pipe, clock: Clock) -> None:
    writer = RecordWriter(pipe.writer, clock.call_later, max_waiting_bytes=256 * 1024)
    lines = [b"%06d %s\n" % (number, b"z" * 500) for number in range(4000)]
    for line in lines:
        writer.write(line)
    writer.flush()
    assert writer.waiting_bytes <= 256 * 1024
    dropped = writer.dropped
    assert dropped > 2000
    read: list[bytes] = []
    thread = threading.Thread(target=lambda: read.extend(pipe.lines()))
    thread.start()
    writer.close(10)
    pipe.close(pipe.writer)
    thread.join(10)
    assert len(read) == len(lines) - dropped
    assert set(read) <= set(lines)
    assert read == sorted(read)
    assert writer.dropped == dropped


def test_close_gives_up_on_an_output_that_is_stuck(pipe: Pipe, clock: Clock) -> None:
    writer = RecordWriter(pipe.writer, clock.call_later)
    writer.write(b"w" * (1 << 20) + b"\n")
    writer.close(timeout_seconds=0.01)
    assert writer.waiting_bytes > 0
    writer.close()
    pipe.close(pipe.reader)
    all_written(writer)
    assert writer.dropped == 1


def test_lines_after_the_close_are_dropped_and_counted(pipe: Pipe, clock: Clock) -> None:
    writer = RecordWriter(pipe.writer, clock.call_later)
    writer.write(b"early\n")
    writer.close()
    clock.time_is_up()
    writer.write(b"late\n")
    writer.write_now(b"later\n")
    assert clock.calls == []
    assert writer.dropped == 2
    assert pipe.read_all() == b"early\n"


def test_a_closed_pipe_drops_and_counts(pipe: Pipe, clock: Clock) -> None:
    writer = RecordWriter(pipe.writer, clock.call_later)
    pipe.close(pipe.reader)
    for _ in range(2):
        writer.write(b"one\n")
        writer.write(b"two\n")
        writer.flush()
        all_written(writer)
    assert writer.dropped == 4
    writer.close()


def test_a_descriptor_that_takes_no_writes_drops_and_counts(pipe: Pipe, clock: Clock) -> None:
    writer = RecordWriter(pipe.reader, clock.call_later)
    writer.write(b"one\n")
    writer.close()
    assert writer.dropped == 1


def test_a_descriptor_that_others_made_non_blocking_is_waited_for(pipe: Pipe, clock: Clock) -> None:
    os.set_blocking(pipe.writer, False)
    writer = RecordWriter(pipe.writer, clock.call_later)
    lines = [b"%d\n" % number * 100 for number in range(1000)]
    for line in lines:
        writer.write(line)
    writer.flush()
    until(waits_for_the_reader)
    read = pipe.read_exactly(sum(map(len, lines)))
    writer.close()
    assert read == b"".join(lines)
    assert writer.dropped == 0


def test_a_line_cut_by_a_full_disk_is_not_glued_to_the_next(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with path.open("wb") as file:
        writer = RecordWriter(file.fileno(), clock.call_later)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        try:
            for lines in (b"first\n", b"second\nthird\n", b"fourth\n"):
                writer.write(lines)
                writer.flush()
                all_written(writer)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == b"first\nseco"
        assert writer.dropped == 3
        writer.write(b"fifth\n")
        writer.flush()
        writer.write(b"sixth\n")
        writer.close()
    assert path.read_bytes() == b"first\nseco\nfifth\nsixth\n"
    assert writer.dropped == 3


def test_a_socket_and_a_terminal_are_written_to_like_a_pipe(clock: Clock) -> None:
    near, far = socket.socketpair()
    controller, terminal = os.openpty()
    tty.setraw(terminal)
    with near, far:
        for output, read in ((near.fileno(), far.fileno()), (terminal, controller)):
            writer = RecordWriter(output, clock.call_later)
            for line in (b"one\n", b"two\n"):
                writer.write_now(line)
                assert os.read(read, 100) == line
            writer.close()
    os.close(controller)
    os.close(terminal)


def test_what_a_slow_reader_left_of_a_line_follows_before_the_next(
    pipe: Pipe, clock: Clock
) -> None:
    writer = RecordWriter(pipe.writer, clock.call_later)
    lines = [b"%05d" % number * 200 + b"\n" for number in range(300)]
    for line in lines:
        writer.write_now(line)
    read = pipe.read_exactly(sum(map(len, lines)))
    all_written(writer)
    writer.write_now(b"next\n")
    assert read + pipe.read_some(100) == b"".join(lines) + b"next\n"
    writer.close()
    assert writer.dropped == 0


def records(pipe: Pipe, mode: str, *written: dict[str, object], console: bool = False) -> bytes:
    writer = RecordWriter(pipe.writer, Clock().call_later)
    log = AccessLog(writer, mode, console)
    for record in written:
        log.write(record)
    writer.close()
    return pipe.read_all()


def test_a_record_is_one_line_of_json(pipe: Pipe) -> None:
    record: dict[str, object] = {"status": 200, "path": "/a\nb", "user_id": None}
    out = records(pipe, "on", record)
    assert out.count(b"\n") == 1
    assert json.loads(out) == record
    assert list(json.loads(out)) == list(record)


def test_a_record_that_json_cannot_hold_is_written_all_the_same(pipe: Pipe) -> None:
    out = records(pipe, "on", {"path": "/\udcff", "size": 1 << 70, "status": 200, "n": None})
    assert json.loads(out) == {"path": "/\\udcff", "size": str(1 << 70), "status": 200, "n": None}


def test_off_is_said_and_sampled_keeps_what_went_wrong(pipe: Pipe) -> None:
    written: list[dict[str, object]] = [{"status": 200, "n": n} for n in range(250)]
    written[50:50] = [{"status": 500}, {"status": 404}, {"status": None}]
    out = [json.loads(line) for line in records(pipe, "sampled", *written).splitlines()]
    assert [record.get("n", record["status"]) for record in out] == [0, 500, 404, None, 100, 200]


@pytest.mark.parametrize(
    ("mode", "console", "shown", "enabled"),
    [
        ("on", False, "<AccessLog on json>", True),
        ("off", False, "<AccessLog off json>", False),
        ("sampled", True, "<AccessLog sampled console>", True),
    ],
)
def test_the_mode_is_shown(
    pipe: Pipe, clock: Clock, mode: str, console: bool, shown: str, enabled: bool
) -> None:
    writer = RecordWriter(pipe.writer, clock.call_later)
    log = AccessLog(writer, mode, console)
    writer.close()
    assert repr(log) == shown
    assert log.enabled is enabled


FULL: dict[str, object] = {
    "timestamp": "2026-01-02T03:04:05.678Z",
    "status": 502,
    "method": "GET",
    "path": "/api/v1/demo/x",
    "duration_ms": 1.5,
    "service": "demo",
    "endpoint": "127.0.0.1:9000",
    "error_code": "PROXY_ERROR",
    "client_ip": "192.0.2.1",
    "request_id": "r-1",
}


def test_the_console_line_is_short_and_coloured_by_status(pipe: Pipe) -> None:
    out = records(pipe, "on", FULL, console=True).decode()
    assert out == (
        "\x1b[2m03:04:05.678\x1b[0m  \x1b[31m502\x1b[0m  GET /api/v1/demo/x  1.5 ms"
        "  \x1b[2mdemo 127.0.0.1:9000\x1b[0m  \x1b[31mPROXY_ERROR\x1b[0m"
        "  \x1b[2m192.0.2.1 r-1\x1b[0m\n"
    )


@pytest.mark.parametrize(
    ("status", "colour"), [(200, "\x1b[32m"), (304, "\x1b[36m"), (404, "\x1b[33m"), (101, "")]
)
def test_a_status_has_its_colour(status: int, colour: str) -> None:
    assert f"  {colour}{status}\x1b[0m  " in console_line({"status": status})


def test_a_record_with_nothing_in_it_still_makes_a_console_line() -> None:
    assert console_line({}) == "\x1b[2m\x1b[0m  -\x1b[0m  - -  - ms  \x1b[2m \x1b[0m\n"


@given(text=st.text())
def test_no_control_character_of_a_client_reaches_the_terminal(text: str) -> None:
    line = console_line({"path": text, "method": text, "client_ip": text, "request_id": text})
    own = ("\x1b[0m", "\x1b[2m", "\n")
    for sequence in own:
        line = line.replace(sequence, "")
    assert line.isprintable()


def test_escapes_can_be_read() -> None:
    assert printable("plain text") == "plain text"
    assert printable("a\x1b[2Jb\nc\u202e\udc80") == "a\\x1b[2Jb\\nc\\u202e\\udc80"


@given(text=st.text(alphabet=st.characters(exclude_categories=())), number=st.integers())
def test_json_line_takes_any_text_and_number(text: str, number: int) -> None:
    line = json_line({"text": text, "number": number, "other": {"a", text}})
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    json.loads(line)


@given(wall=st.floats(min_value=0.0, max_value=7e9))
def test_a_timestamp_is_rfc_3339_with_milliseconds(wall: float) -> None:
    text = timestamp(wall)
    assert len(text) == len("2026-01-02T03:04:05.678Z")
    assert text.endswith("Z")
    assert 0 <= wall - datetime.fromisoformat(text).timestamp() < 0.001001


def test_timestamps_follow_the_clock_in_both_directions() -> None:
    stamps = Timestamps()
    assert stamps.at(1_700_000_000.5) == "2023-11-14T22:13:20.500Z"
    assert stamps.at(1_700_000_000.25) == "2023-11-14T22:13:20.250Z"
    assert stamps.at(1_700_000_001.0) == "2023-11-14T22:13:21.000Z"
    assert stamps.at(1_699_999_999.999) == "2023-11-14T22:13:19.999Z"
