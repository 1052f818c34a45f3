"""Access records: one line for each request, and the thread that carries lines to the output.

Here are the writer that never blocks the event loop, the choice of what is recorded, and the two
shapes of a record (JSON, and a short line for a terminal). Not here: what a record says (the edge
fills it in) and the gateway's other log lines (log.py), which share the writer so that lines never
interleave.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import SimpleQueue

import orjson

# One write call carries at most this much: larger ones hold the interpreter long enough to show in
# the p99.
BATCH_BYTES = 64 * 1024
# A record is on its way to the output at the latest after this.
FLUSH_SECONDS = 0.05
# `sampled` keeps one in so many of the requests that went well.
SAMPLE_EVERY = 100
# Write what fits and do not wait for the rest (Linux; elsewhere the thread writes everything).
_NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)

CallLater = Callable[[float, Callable[[], None]], object]


class RecordWriter:
    """Writes lines to a file descriptor in batches, without ever making the event loop wait.

    `write`, `flush` and `close` belong to the thread that made the writer, the event loop's;
    `write_now` may be called from any. A batch goes out when it reaches 64 KiB or after 50 ms,
    `call_later` being the loop's.

    What the output takes at once is written at once, where the system can be asked to (Linux: pipes
    and sockets, RWF_NOWAIT). The rest goes to a thread, as does everything elsewhere: handing over
    a batch and getting the interpreter back costs up to 2 us a record. The descriptor stays
    blocking, as it may be shared with other processes: when its reader stops, only the thread
    waits. Up to `max_waiting_bytes` then wait for it; batches beyond that are dropped whole and
    their lines counted, so that a line is never cut. Lines that the output refuses (a closed pipe,
    a full disk) are dropped and counted too.
    """

    def __init__(self, fd: int, call_later: CallLater, max_waiting_bytes: int = 4 << 20) -> None:
        self._fd = fd
        self._call_later = call_later
        self._max_waiting_bytes = max_waiting_bytes
        self._lines: list[bytes] = []
        self._size = 0
        self._armed = False
        self._closed = False
        self._at_once = bool(_NOWAIT)
        # Whether the output ends within a line. Belongs to who writes: the thread, or under the
        # lock the caller while the thread has nothing to do.
        self._cut = False
        # Counters have one writer each: `_handed` and `_refused` change under the lock, `_done` and
        # `_lost` in the thread only.
        self._lock = threading.Lock()
        self._handed = 0
        self._refused = 0
        self._done = 0
        self._lost = 0
        self._owner = threading.get_ident()
        self._batches: SimpleQueue[_Batch | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="record-writer", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        counts = f"waiting={self.waiting_bytes} dropped={self.dropped}"
        return f"<RecordWriter fd={self._fd} {state} {counts}>"

    @property
    def waiting_bytes(self) -> int:
        """Bytes accepted and not yet written, those of the batch being filled included."""
        return self._handed - self._done + self._size

    @property
    def dropped(self) -> int:
        """Lines that were not written."""
        return self._refused + self._lost

    def write(self, line: bytes) -> None:
        """Take one line, its newline included; it is written within 50 ms. Never blocks."""
        size = self._size + len(line)
        if size > BATCH_BYTES:
            self.flush()
            size = len(line)
        self._size = size
        self._lines.append(line)
        if not self._armed:
            self._armed = True
            self._call_later(FLUSH_SECONDS, self._on_timer)

    def write_now(self, line: bytes) -> None:
        """Take one line from any thread, for the output at once, after those taken before."""
        if threading.get_ident() == self._owner:
            self._lines.append(line)
            self._size += len(line)
            self.flush()
        else:
            self._send([line], len(line))

    def flush(self) -> None:
        """Send what was taken on its way now."""
        if self._lines:
            lines, size = self._lines, self._size
            self._lines, self._size = [], 0
            self._send(lines, size)

    def close(self, timeout_seconds: float = 2.0) -> None:
        """Write what is waiting and end the thread.

        Waits at most `timeout_seconds` for an output that is stuck. Lines taken later are dropped.
        """
        if self._closed:
            return
        self.flush()
        self._closed = True
        self._armed = True
        self._batches.put(None)
        self._thread.join(timeout_seconds)

    def _on_timer(self) -> None:
        self._armed = self._closed
        self.flush()

    def _send(self, lines: list[bytes], size: int) -> None:
        """To the output if it takes them at once, else to the thread."""
        with self._lock:
            waiting = self._handed - self._done
            if self._closed or waiting + size > self._max_waiting_bytes:
                self._refused += len(lines)
                return
            batch = _Batch(b"".join(lines), False)
            if self._at_once and not waiting:
                batch = self._write_at_once(batch)
            if batch.data:
                self._handed += len(batch.data)
                self._batches.put(batch)

    def _write_at_once(self, batch: _Batch) -> _Batch:
        """Write what the output takes without waiting; returns the rest."""
        data = batch.output(self._cut)
        try:
            count = os.pwritev(self._fd, [data[:BATCH_BYTES]], -1, _NOWAIT)
        except BlockingIOError:
            return batch
        except OSError:
            # Not a descriptor that can be asked, or none that takes anything: for the thread.
            self._at_once = False
            return batch
        self._cut = not data.endswith(b"\n", 0, count)
        return _Batch(data[count:], self._cut)

    def _run(self) -> None:
        """The thread: what is left of batches to the descriptor, in order."""
        while (batch := self._batches.get()) is not None:
            data = batch.output(self._cut)
            count = self._write_all(data)
            if count:
                self._cut = not data.endswith(b"\n", 0, count)
            if count < len(data):
                self._lost += batch.data.count(b"\n") - data.count(b"\n", 0, count)
                self._lost += count > 0 and len(data) > len(batch.data)
            self._done += len(batch.data)

    def _write_all(self, data: bytes) -> int:
        """Write `data` however many calls it takes; returns how much the output took."""
        start = 0
        while start < len(data):
            try:
                start += os.write(self._fd, data[start : start + BATCH_BYTES])
            except BlockingIOError:
                # Someone who shares the descriptor made it non-blocking: wait as a blocking one.
                self._wait_writable()
            except OSError:
                break
        return start

    def _wait_writable(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.poll()


@dataclass(frozen=True, slots=True)
class _Batch:
    """Whole lines, or with `continues` the rest of some whose beginning is written."""

    data: bytes
    continues: bool

    def output(self, cut: bool) -> bytes:
        """What to write: new lines are not glued to one that the output took half of."""
        return b"\n" + self.data if cut and not self.continues else self.data


class AccessLog:
    """Turns finished records into lines.

    `mode` is `on`, `off`, or `sampled`: every 100th request that went well (status below 400) and
    all others. `console` asks for the short coloured line of `console_line` instead of JSON.
    """

    def __init__(self, writer: RecordWriter, mode: str, console: bool) -> None:
        self.enabled = mode != "off"
        self._put = writer.write
        self._sampled = mode == "sampled"
        self._console = console
        self._went_well = 0

    def __repr__(self) -> str:
        mode = "sampled" if self._sampled else "on" if self.enabled else "off"
        return f"<AccessLog {mode} {'console' if self._console else 'json'}>"

    def write(self, record: dict[str, object]) -> None:
        """Record one request; `record` has the fields of the contract. Never raises."""
        if self._sampled and self._leave_out(record):
            return
        if self._console:
            self._put(console_line(record).encode("utf-8", "backslashreplace"))
            return
        try:
            line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
        except TypeError:
            line = json_line(record)
        self._put(line)

    def _leave_out(self, record: dict[str, object]) -> bool:
        status = record.get("status")
        if not isinstance(status, int) or status >= 400:
            return False
        self._went_well += 1
        return self._went_well % SAMPLE_EVERY != 1


_MILLISECONDS = tuple(f"{number:03d}Z" for number in range(1000))


class Timestamps:
    """RFC 3339 times in UTC with milliseconds; all but these is formatted once a second."""

    __slots__ = ("_prefix", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._prefix = ""

    def at(self, wall_seconds: float) -> str:
        """The text of `wall_seconds` (Unix time)."""
        second = int(wall_seconds)
        if second != self._second:
            self._second = second
            self._prefix = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
        return self._prefix + _MILLISECONDS[int((wall_seconds - second) * 1000)]


def timestamp(wall_seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds; for many in a row use `Timestamps`."""
    return Timestamps().at(wall_seconds)


def printable(text: str) -> str:
    """`text` with all that a terminal might act on (control, format characters) escaped."""
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable()
        else char.encode("unicode_escape", "backslashreplace").decode("ascii")
        for char in text
    )


_RESET = "\x1b[0m"
_DIM = "\x1b[2m"
# By the first digit of the status: green, cyan, yellow, red.
_COLOURS = {2: "\x1b[32m", 3: "\x1b[36m", 4: "\x1b[33m", 5: "\x1b[31m"}


def console_line(record: dict[str, object]) -> str:
    """One short line for a terminal: what was asked, what came of it, where it went."""

    def field(name: str) -> str:
        value = record.get(name)
        return "" if value is None else printable(str(value))

    status = record.get("status")
    colour = _COLOURS.get(status // 100, "") if isinstance(status, int) else ""
    time_of_day = field("timestamp")[11:23]
    target = field("service")
    if field("endpoint"):
        target += " " + field("endpoint")
    parts = [
        f"{_DIM}{time_of_day}{_RESET}",
        f"{colour}{field('status') or '-'}{_RESET}",
        f"{field('method') or '-'} {field('path') or '-'}",
        f"{field('duration_ms') or '-'} ms",
        f"{_DIM}{target}{_RESET}" if target else "",
        f"{colour}{field('error_code')}{_RESET}" if field("error_code") else "",
        f"{_DIM}{field('client_ip')} {field('request_id')}{_RESET}",
    ]
    return "  ".join(part for part in parts if part) + "\n"


def json_line(record: dict[str, object]) -> bytes:
    """`record` as one line of JSON. Never raises: what JSON cannot hold is written as text."""
    try:
        return orjson.dumps(record, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        plain = {_plain_text(name): _plain(value) for name, value in record.items()}
        return orjson.dumps(plain, option=orjson.OPT_APPEND_NEWLINE)


def _plain(value: object) -> object:
    """`value` when JSON holds it for sure, else its text."""
    fits = isinstance(value, int) and abs(value) < 1 << 63
    return value if value is None or fits or isinstance(value, float) else _plain_text(value)


def _plain_text(value: object) -> str:
    """The text of `value`; a half of a surrogate pair, which UTF-8 cannot hold, is escaped."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")
