"""Many subscribers and a publisher in one process: raw sockets, one epoll, every event checked.

Started as `python -m bench.subscribers NAME PORT` by subscriber_process.py; a command a line of
JSON on stdin, its result a line on stdout. Ten thousand get the same bytes, so these are read once
and then only compared: a delivery costs little more than its `read`, well below any `write`. While
it publishes the process asks its epoll without a pause: were it asleep, every write of the server
would pay for waking it, as it would for no client on another machine.
"""

from __future__ import annotations

import gc
import json
import os
import select
import socket
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable
from random import Random

from bench import figures
from bench.frames import Piece, Target, answer_end, read_piece

_READ_BYTES = 65_536
_TURN = 256  # sockets looked at between two looks at the clock
_BATCH = 128  # connections opened at once: well below any listener's backlog
_SOURCES = 8  # one source address has some 28,000 ports
_PUBLISHERS = 64
_PATIENCE_SECONDS = 30
_PIECES = 1000
# `lazily`: a hundredth of the streams is read every hundredth of a second; what was published last
# has so long to arrive
_TICK_SECONDS, _TICKS = 0.01, 100
_LAST_SECONDS = 5
_EDGE = select.EPOLLIN | select.EPOLLET


class Subscribers:
    """The streams of one server. Faults are counted by what they are; none is a failure's cause."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._epoll = select.epoll()
        self._fds: list[int] = []
        self._chunked = True  # nchan's streams end with the connection instead
        self._answers: dict[int, bytes] = {}  # publishers' connections: what has come of an answer
        self._idle: deque[int] = deque()
        self._under_way: dict[int, tuple[int, int]] = {}  # how many answers are due, whose
        self._busy: set[int] = set()  # client ids with a publication under way
        # By file descriptor: the number of the last event, and what its id was ahead of it
        self._last: list[int] = []
        self._offsets: list[bytes] = []
        # Streams that are within their head or an event, and what has come of it
        self._heads: dict[int, bytes] = {}
        self._rests: dict[int, tuple[bytes, bytes]] = {}
        self._pieces: dict[bytes, Piece] = {}
        self._numbers: list[int] = []  # by client id
        self._reads = 0
        self.ages_ns: array[int] = array("q")
        self.keep_ages = False
        self.delivered = 0
        self.frame_bytes = 0
        self.faults: Counter[str] = Counter()

    def open(self, count: int, clients: int) -> dict[str, object]:
        """Opens so many streams, spread over so many client ids; waits for their heads.

        Raises TimeoutError when a head does not come.
        """
        self._numbers = [0] * clients
        # Descriptors are small numbers and these are the last to be opened
        highest = count + _PUBLISHERS + 64
        self._last, self._offsets = [0] * highest, [b""] * highest
        for start in range(0, count, _BATCH):
            for number in range(start, min(start + _BATCH, count)):
                fd = self._connect(number)
                self._heads[fd] = b""
                self._fds.append(fd)
                os.write(fd, self._target.subscribe(f"bench-{number % clients}"))
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while self._heads:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{len(self._heads)} streams got no head")
                self._turn(0.1)
        return {"opened": len(self._fds)}

    def close(self) -> dict[str, object]:
        """Ends all streams."""
        for fd in (*self._fds, *self._answers):
            self._epoll.unregister(fd)
            os.close(fd)
        self._fds, self._answers, self._rests = [], {}, {}
        self._under_way, self._busy = {}, set()
        self._idle.clear()
        return {"faults": dict(self.faults)}

    def publish(self, times: int, events: int) -> dict[str, object]:
        """Publishes to the one client id, the next when all have the last: seconds to the last of
        them.
        """
        self._settle()
        took, before = [], self.delivered
        for _ in range(times):
            wanted = self.delivered + len(self._fds) * events
            first = self._numbers[0] + 1
            self._numbers[0] += events
            began = time.monotonic_ns()
            batch = [(number, began) for number in range(first, first + events)]
            self._send(self._target.publish("bench-0", batch), 0)
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while self.delivered < wanted or self._under_way:
                if time.monotonic() > deadline:
                    self.faults["missing"] += wanted - self.delivered
                    break
                self._turn(0)
            took.append((time.monotonic_ns() - began) / 1e9)
        return {
            "seconds": took,
            "delivered": self.delivered - before,
            "frame_bytes": self.frame_bytes,
            "faults": dict(self.faults),
        }

    def spread(self, rate: float, seconds: float, seed: int) -> dict[str, object]:
        """Publishes at a fixed rate to client ids drawn at random, whatever the answers do.

        An event's age counts from the time at which it was due.
        """
        self._settle()
        self.keep_ages, before, self.ages_ns = True, self.delivered, array("q")
        random, due = Random(seed), deque[int]()
        total, begun, sent = int(rate * seconds), 0, 0
        gap_ns = 1e9 / rate
        start = time.monotonic_ns()
        deadline = time.monotonic() + seconds + _PATIENCE_SECONDS
        clients = len(self._numbers)
        while sent < total or self.delivered - before < total:
            if time.monotonic() > deadline:
                self.faults["missing"] += total - (self.delivered - before)
                break
            self._turn(0)
            now = time.monotonic_ns()
            while begun < total and (at := start + int(begun * gap_ns)) <= now:
                due.append(at)
                begun += 1
            while due and (self._idle or len(self._answers) < _PUBLISHERS):
                client = random.randrange(clients)
                if client in self._busy:  # two at once on two connections have no order
                    break
                self._numbers[client] += 1
                event = (self._numbers[client], due.popleft())
                self._send(self._target.publish(f"bench-{client}", [event]), client)
                sent += 1
        took = (time.monotonic_ns() - start) / 1e9
        self.keep_ages = False
        ordered = sorted(self.ages_ns)
        return {
            "published": sent,
            "delivered": self.delivered - before,
            "seconds": took,
            "ages_ms": {
                str(share): figures.percentile(ordered, share) / 1e6 if ordered else 0.0
                for share in (0.5, 0.99, 0.999, 1.0)
            },
            "frame_bytes": self.frame_bytes,
            "faults": dict(self.faults),
        }

    def lazily(self, rate: float, seconds: float) -> dict[str, object]:
        """Publishes at a fixed rate to the one client id and reads each stream once a second.

        So the readers take little of the core that they share with whoever measures meanwhile;
        what they have not read waits in their sockets.
        """
        self._settle()
        fd = self._connect(0)
        self._epoll.unregister(fd)
        before, published, answered = self.delivered, 0, 0
        start = time.monotonic()
        turns = int(seconds / _TICK_SECONDS)
        for turn in range(turns + int(_LAST_SECONDS / _TICK_SECONDS)):
            time.sleep(max(0.0, start + turn * _TICK_SECONDS - time.monotonic()))
            for reader in self._fds[turn % _TICKS :: _TICKS]:
                self._look(reader)
            if published > answered and (answer := _read(fd)):
                answered += 1
                if not answer.startswith(b"HTTP/1.1 20"):
                    self.faults[f"answer {answer[:200].decode('latin-1')}"] += 1
            due = turn * _TICK_SECONDS * rate >= published and turn < turns
            if due and published == answered:  # one that is late holds up the next
                self._numbers[0] += 1
                published += 1
                event = (self._numbers[0], time.monotonic_ns())
                os.write(fd, self._target.publish("bench-0", [event])[0])
        os.close(fd)
        missing = published * len(self._fds) - (self.delivered - before)
        if missing:
            self.faults["missing"] += missing
        return {"published": published, "seconds": seconds, "faults": dict(self.faults)}

    def _look(self, fd: int) -> None:
        """Reads one stream, whether or not there is anything."""
        data = _read(fd)
        if data is None:
            return
        piece = None if fd in self._rests else self._pieces.get(data)
        if piece is None:
            self._read_slowly(fd, data)
        else:
            self._account(fd, piece)

    def _connect(self, number: int) -> int:
        source = (f"127.0.0.{2 + number % _SOURCES}", 0)
        client = socket.create_connection(
            ("127.0.0.1", self._target.port), timeout=10, source_address=source
        )
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fd = client.detach()
        self._epoll.register(fd, _EDGE)
        return fd

    def _send(self, requests: list[bytes], client: int) -> None:
        """Sends these in order on one connection that has nothing else under way."""
        if self._idle:
            fd = self._idle.popleft()
        else:
            fd = self._connect(len(self._answers))
            self._answers[fd] = b""
        self._under_way[fd] = (len(requests), client)
        self._busy.add(client)
        os.write(fd, b"".join(requests))

    def _settle(self) -> None:
        """Reads what came while nobody looked, such as heartbeats."""
        before = -1
        while before != (before := self._reads):
            self._turn(0.01)

    def _turn(self, timeout_seconds: float) -> None:
        last, offsets, pieces = self._last, self._offsets, self._pieces
        heads, rests, answers = self._heads, self._rests, self._answers
        delivered = 0
        events = self._epoll.poll(timeout_seconds, _TURN)
        self._reads += len(events)
        for fd, _ in events:
            data = _read(fd)
            if data is None:
                continue
            if fd in answers:
                self._answer(fd, data)
                continue
            piece = pieces.get(data)
            if piece is None or fd in rests or fd in heads:
                self._read_slowly(fd, data)
            elif last[fd] + 1 == piece.first and offsets[fd] == piece.offset:
                last[fd] = piece.last
                delivered += piece.count
            else:
                self._account(fd, piece)
        self.delivered += delivered

    def _read_slowly(self, fd: int, data: bytes) -> None:
        """What was not read before in the same bytes, or not from the beginning of a chunk."""
        now = time.monotonic_ns()
        if not data:
            self.faults["stream ended"] += 1
            return
        if fd in self._heads:
            head, found, data = (self._heads[fd] + data).partition(b"\r\n\r\n")
            self._heads[fd] = head
            if not found:
                return
            del self._heads[fd]
            fields = head.lower()
            self._chunked = b"transfer-encoding: chunked" in fields
            if not head.startswith(b"HTTP/1.1 200") or b"text/event-stream" not in fields:
                self.faults[f"head {head[:60].decode('latin-1')}"] += 1
            if not data:
                return
        raw, text = self._rests.pop(fd, (b"", b""))
        piece, raw_rest, text_rest = read_piece(raw + data, text, chunked=self._chunked)
        if raw_rest or text_rest:
            self._rests[fd] = (raw_rest, text_rest)
        elif not raw and not text and piece.count and not piece.faults and not self.keep_ages:
            if len(self._pieces) == _PIECES:
                self._pieces.clear()
            self._pieces[data] = piece
            if piece.count == 1:
                self.frame_bytes = len(data)
        if self.keep_ages:
            self.ages_ns.extend(now - at_ns for at_ns in piece.ages_from_ns)
            if piece.count == 1:
                self.frame_bytes = len(data)
        self._account(fd, piece)

    def _account(self, fd: int, piece: Piece) -> None:
        """The rules for what comes next on a stream: each number once, in order, ids in step."""
        self.faults.update(piece.faults)
        if not piece.count:
            return
        if self._last[fd] and self._offsets[fd] != piece.offset:
            self.faults["id out of step"] += 1
        missing = piece.first - self._last[fd] - 1
        if missing > 0:
            self.faults["lost"] += missing
        elif missing < 0:
            self.faults["doubled"] += -missing
        self._last[fd], self._offsets[fd] = piece.last, piece.offset
        self.delivered += piece.count

    def _answer(self, fd: int, data: bytes) -> None:
        due, client = self._under_way.get(fd, (0, 0))
        if not data:
            if due:
                self.faults["no answer"] += due
                del self._under_way[fd]
                self._busy.discard(client)
            else:
                self._idle.remove(fd)  # it had rested for as long as the server allows
            del self._answers[fd]
            self._epoll.unregister(fd)
            os.close(fd)
            return
        data = self._answers[fd] + data
        while data and (end := answer_end(data)):
            if not data.startswith(b"HTTP/1.1 20"):
                self.faults[f"answer {data[:200].decode('latin-1')}"] += 1
            data = data[end:]
            due -= 1
        self._answers[fd] = data
        self._under_way[fd] = (due, client)
        if due == 0:
            del self._under_way[fd]
            self._busy.discard(client)
            self._idle.append(fd)


def _read(fd: int) -> bytes | None:
    """All that is there, as the edge is told once; None: nothing, empty: the end."""
    try:
        data = os.read(fd, _READ_BYTES)
        if len(data) == _READ_BYTES:
            data += _read(fd) or b""
    except BlockingIOError:
        return None
    except OSError:
        return b""
    return data


def main() -> None:
    """Obeys until stdin ends."""
    target = Target(sys.argv[1], int(sys.argv[2]))
    subscribers = Subscribers(target)
    commands: dict[str, Callable[..., dict[str, object]]] = {
        "open": subscribers.open,
        "close": subscribers.close,
        "publish": subscribers.publish,
        "spread": subscribers.spread,
        "lazily": subscribers.lazily,
    }
    gc.disable()  # nothing here refers to itself, and a collection would be taken for a delay
    for line in sys.stdin:
        name, arguments = json.loads(line)
        sys.stdout.write(json.dumps(commands[name](**arguments)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
