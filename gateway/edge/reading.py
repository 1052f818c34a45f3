"""Bytes in, messages out: httptools on both sides, one message at a time. Pure: no I/O, no clock.

A reader never parses past the end of a message, so what comes behind it (a pipelined request, a
tunnel's first bytes, an upstream's excess) stays raw bytes until somebody decides what it is. On
the request side that works because a head and a chunked body both end in CRLF CRLF (RFC 9112 §2.1,
§7.1): bytes are fed up to and including the next one, and a counted body by its count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import httptools

from gateway.edge import headers as h
from gateway.edge import message as m
from gateway.errors import Rejection

_END: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """How large a head may be (bytes; count of fields). httptools has no limits of its own."""

    request_line_bytes: int = 8192
    header_line_bytes: int = 8192
    headers_bytes: int = 65536
    header_count: int = 128


class RequestReader:
    """Reads one request after the other from a client's bytes.

    After `feed`, `head` is set once the head is whole, `body` holds what came of the body since it
    was last taken, `complete` says that the message ended, and `failure` that it never will.
    """

    __slots__ = (
        "_fields", "_head_bytes", "_left", "_limits", "_line", "_line_ended", "_parser", "_special",
        "_tail", "_target", "_unchecked_bytes", "body", "complete", "failure", "head", "trailers",
    )  # fmt: skip

    def __init__(self, limits: HeadLimits) -> None:
        self._limits = limits
        # A head that is smaller than each limit breaks none.
        self._unchecked_bytes = min(limits.header_line_bytes, limits.headers_bytes)
        self._parser: httptools.HttpRequestParser | None = None
        self.trailers: list[h.Field] = []
        self.rest()

    def rest(self) -> None:
        """Forget the ended message; the next may begin."""
        if self.trailers:
            self._parser = None  # it has taken a `Connection: close` among them for its own
        self.head: m.RequestHead | None = None
        self.body: list[bytes] = []
        self.trailers = []
        self.complete = False
        self.failure: Rejection | None = None
        self._fields: list[h.Field] = []
        self._special: list[m.SpecialField] = []
        self._target = b""
        self._line = b""
        self._line_ended = False
        self._head_bytes = 0
        self._left = 0  # bytes of a counted body still to come; they go past the parser
        self._tail = b""

    def __repr__(self) -> str:
        state = (
            "failed"
            if self.failure
            else "complete"
            if self.complete
            else "body"
            if self.head
            else "head"
        )
        return f"<RequestReader {'idle' if self.idle else state}>"

    @property
    def idle(self) -> bool:
        """Whether nothing of a message has come yet."""
        return self.head is None and not self._head_bytes and self.failure is None

    def feed(self, data: bytes) -> bytes:
        """Take bytes up to the end of the current message; returns what is behind it."""
        if self.complete and self.failure is None:
            self.rest()
        while data and not self.complete and self.failure is None:
            if self.head is None:
                data = self._feed_head(data)
            elif self._left:
                data = self._count(data)
            else:
                data = self._feed_chunked(data)
        return data

    def _feed_chunked(self, data: bytes) -> bytes:
        end = self._boundary(data)
        piece = data if end == len(data) else data[:end]
        before = len(self.body)
        self._parse(piece)
        # Extensions and trailers have no bound in the parser: count what comes without any body.
        self._head_bytes = 0 if len(self.body) > before else self._head_bytes + len(piece)
        if self._head_bytes > self._limits.headers_bytes and self.failure is None:
            self._too_large(
                f"more than {self._limits.headers_bytes} bytes of chunk framing or trailers"
            )
        return data[end:]

    def _feed_head(self, data: bytes) -> bytes:
        if not self._head_bytes and data[0] in b"\r\n":
            # Empty lines before a request line are skipped (RFC 9112 §2.2).
            data = data.lstrip(b"\r\n")
            if not data:
                return data
        end = self._boundary(data)
        piece = data if end == len(data) else data[:end]
        if not self._line_ended:
            self._read_line(piece)
        self._head_bytes += len(piece)
        if self.failure is None:
            self._parse(piece)
        if self.failure is None and self._head_bytes > self._unchecked_bytes:
            self._check_sizes()
        head = self.head
        if head is None:
            return data[end:]
        self._head_bytes = 0
        if self.failure is None and head.content_length and not self.complete:
            # The parser has done its part; a counted body needs no parsing (and no second copy).
            self._left = head.content_length
            self._parser = None
        return data[end:]

    def _boundary(self, data: bytes) -> int:
        """Where the next CRLF CRLF ends, it may have begun in what was fed before; else all of
        `data`.
        """
        if self._tail:
            at = (self._tail + data[:3]).find(_END)
            if at >= 0:
                end = at + 4 - len(self._tail)
                self._tail = b""
                return end
        at = data.find(_END)
        if at >= 0:
            self._tail = b""
            return at + 4
        self._tail = (self._tail + data[-3:])[-3:]
        return len(data)

    def _read_line(self, piece: bytes) -> None:
        """Keep the request line: the version is read from it (RTSP/1.0 and ICE/1.0 pass the
        parser).
        """
        line = self._line + piece if self._line else piece
        at = line.find(b"\r\n")
        if at >= 0:
            line = line[:at]
            self._line_ended = True
        self._line = line
        if len(line) > self._limits.request_line_bytes:
            message = f"the request line is longer than {self._limits.request_line_bytes} bytes"
            self.failure = Rejection("URI_TOO_LONG", message, close=True)

    def _check_sizes(self) -> None:
        limits = self._limits
        if self._head_bytes > limits.headers_bytes + len(self._line):
            self._too_large(
                f"the header fields are larger than {limits.headers_bytes} bytes together"
            )

    def _too_large(self, message: str) -> None:
        self.failure = Rejection("HEADERS_TOO_LARGE", message, close=True)

    def _count(self, data: bytes) -> bytes:
        piece = data if len(data) <= self._left else data[: self._left]
        self.body.append(piece)
        self._left -= len(piece)
        self.complete = not self._left
        return data[len(piece) :]

    def _parse(self, piece: bytes) -> None:
        parser = self._parser
        if parser is None:
            parser = self._parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            # Raised behind the head whatever that counts: a body would be read as a request.
            self._parser = None
            if self.head is not None and self.head.has_body and self.failure is None:
                self.failure = m.bad_request("an upgrade request has no body")
        except httptools.HttpParserError as error:
            self._parser = None
            if self.failure is None:
                self.failure = self._parse_failure(str(error))

    def _parse_failure(self, reason: str) -> Rejection:
        if self.head is None and ("HTTP version" in reason or self._line.startswith(b"PRI ")):
            return Rejection("HTTP_VERSION_NOT_SUPPORTED", "speak HTTP/1.1 or HTTP/1.0", close=True)
        part = "request" if self.head is None else "request body"
        return m.bad_request(f"the {part} is malformed: {reason}")

    # httptools' callbacks

    def on_url(self, piece: bytes) -> None:
        """A part of the request target."""
        self._target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field of the head, or a trailer when the head is over."""
        if self.head is not None:
            self.trailers.append((name, value))
            return
        kind = h.request_kind(name)
        if kind == h.PLAIN:
            self._fields.append((name, value))
        else:
            self._special.append((kind, name, value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        parser = self._parser
        assert parser is not None  # noqa: S101 - it is calling us
        line = self._line
        version = m.HTTP_11 if line.endswith(b" HTTP/1.1") else m.HTTP_10
        if version == m.HTTP_10 and not line.endswith(b" HTTP/1.0"):
            message = "speak HTTP/1.1 or HTTP/1.0"
            self.failure = Rejection("HTTP_VERSION_NOT_SUPPORTED", message, close=True)
            return
        limits = self._limits
        fields, special = self._fields, self._special
        if len(fields) + len(special) > limits.header_count:
            self._too_large(f"more than {limits.header_count} header fields")
            return
        if self._head_bytes > self._unchecked_bytes and self._long_line():
            self._too_large(f"a header line is longer than {limits.header_line_bytes} bytes")
            return
        read = m.read_request(parser.get_method(), self._target, version, fields, special)
        if isinstance(read, Rejection):
            self.failure = read
        else:
            self.head = read

    def _long_line(self) -> bool:
        longest = self._limits.header_line_bytes - 4  # less the colon, the space and CRLF
        return any(len(n) + len(v) > longest for n, v in self._fields) or any(
            len(n) + len(v) > longest for _, n, v in self._special
        )

    def on_body(self, piece: bytes) -> None:
        """A part of the body."""
        self.body.append(piece)

    def on_message_complete(self) -> None:
        """The message ended."""
        self.complete = self.failure is None


class ResponseReader:
    """Reads one response from an upstream's bytes; `expect` begins the next.

    After `feed`: `interim` holds 1xx heads, `head` the final one, `body` what came of the body,
    `complete` says that it ended, `failure` why it can't be trusted, `excess` that bytes came
    behind its end, and `upgraded` (bytes, else None) what came behind a 101.
    """

    __slots__ = (
        "_fields", "_first", "_in_interim", "_is_head", "_left", "_max_bytes", "_max_count",
        "_parser", "_reason", "_received", "_special", "body", "complete", "excess", "failure",
        "head", "interim", "keep_alive", "trailers", "upgraded",
    )  # fmt: skip

    def __init__(self, limits: HeadLimits) -> None:
        self._max_bytes = limits.headers_bytes
        self._max_count = limits.header_count
        self._parser: httptools.HttpResponseParser | None = None
        self.trailers: list[h.Field] = []
        self.expect(is_head=False)

    def expect(self, *, is_head: bool) -> None:
        """Begin a response; `is_head`: the request was HEAD, so whatever it counts, no body
        follows.
        """
        if self.trailers:
            self._parser = None  # it has taken a `Connection: close` among them for its own
        self._is_head = is_head
        self._in_interim = False
        self._first = b""
        self._left = 0
        self._received = 0
        self._reason = b""
        self._fields: list[h.Field] = []
        self._special: list[m.SpecialField] = []
        self.interim: list[m.ResponseHead] = []
        self.head: m.ResponseHead | None = None
        self.body: list[bytes] = []
        self.trailers = []
        self.complete = False
        self.excess = False
        self.failure: str | None = None
        self.keep_alive = False
        self.upgraded: bytes | None = None

    @property
    def untouched(self) -> bool:
        """Whether not a byte of a response has come."""
        return not self._received and self.head is None

    @property
    def by_close(self) -> bool:
        """Whether the body ends only with the connection."""
        head = self.head
        return head is not None and not self.complete and head.counted is None and not head.chunked

    def __repr__(self) -> str:
        state = self.failure or ("complete" if self.complete else "body" if self.head else "head")
        return f"<ResponseReader {state}>"

    def feed(self, data: bytes) -> None:
        """Take bytes; see the class for where the result is."""
        if self._left:
            self._count(data)
            return
        parser = self._parser
        if parser is None:
            parser = self._parser = httptools.HttpResponseParser(self)
        if self._received < 9:
            self._first += data[: 9 - self._received]
        self._received += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.upgraded = data[upgrade.args[0] :]
            self._parser = None
        except httptools.HttpParserError as error:
            self._broken(str(error))
        if not self.complete:
            self._bound()
        elif self._is_head and data.count(_END) > len(self.interim) + 1:
            self.excess = True  # the parser took it for the body that a HEAD has not

    def _broken(self, reason: str) -> None:
        self._parser = None
        if self.complete:
            self.excess = True
        elif self.failure is None:
            self.failure = f"malformed response: {reason}"

    def _bound(self) -> None:
        """Heads, chunk framing and trailers have no bound in the parser: count what comes without a
        body.
        """
        head = self.head
        if head is not None and head.counted is not None:
            # Past the head a counted body needs no parsing, and no second copy.
            self._left = head.counted - sum(map(len, self.body))
            self._parser = None
        elif self.body:
            self._received = 9  # past the start line, and nothing to bound
        elif self._received > self._max_bytes and (head is None or head.chunked):
            self.failure = f"response head or trailers larger than {self._max_bytes} bytes"

    def _count(self, data: bytes) -> None:
        left = self._left
        if len(data) > left:
            self.excess = True
            data = data[:left]
        self.body.append(data)
        self._left = left - len(data)
        self.complete = not self._left

    # httptools' callbacks

    def on_message_begin(self) -> None:
        """A response begins: a second one behind a complete one is nobody's."""
        if self.complete:
            self.excess = True

    def on_status(self, reason: bytes) -> None:
        """A part of the reason phrase."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field of the head, or a trailer."""
        if self.head is not None:
            self.trailers.append((name, value))
            return
        kind = h.response_kind(name)
        if kind == h.PLAIN:
            self._fields.append((name, value))
        else:
            self._special.append((kind, name, value))

    def on_headers_complete(self) -> None:
        """A head is whole: an interim one or the final one."""
        if self.complete or self.failure is not None:
            return
        parser = self._parser
        assert parser is not None  # noqa: S101 - it is calling us
        if len(self._fields) + len(self._special) > self._max_count:
            self.failure = f"more than {self._max_count} response header fields"
            return
        status = parser.get_status_code()
        # The parser takes RTSP and ICE too; asking it for the version formats a string: 0.3 µs.
        if self._first != b"HTTP/1.1 " and (
            not self._first.startswith(b"HTTP/") or parser.get_http_version() not in ("1.1", "1.0")
        ):
            self.failure = "not HTTP/1.1 or HTTP/1.0"
            return
        read = m.read_response(status, self._reason, self._fields, self._special)
        if isinstance(read, str):
            self.failure = read
            return
        self._fields, self._special, self._reason = [], [], b""
        if status < 200 and status != 101:
            self._in_interim = True
            self._first = b"HTTP/"  # of the next head the parser is asked
            self.interim.append(read)
            return
        self.head = read
        self.keep_alive = parser.should_keep_alive()
        if self._is_head or status in (204, 304, 101):
            self.complete = True
            # The parser may wait for a body that never comes: it can't be told of HEAD.
            self._parser = None if self._is_head else parser

    def on_body(self, piece: bytes) -> None:
        """A part of the body; none may come where the response is over."""
        if self.complete:
            self.excess = True
        else:
            self.body.append(piece)

    def on_message_complete(self) -> None:
        """The message ended."""
        if self._in_interim:
            self._in_interim = False
        elif self.head is not None:
            self.complete = True
