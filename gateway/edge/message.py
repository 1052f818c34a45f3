"""Message heads: what a parsed request or response says, what is wrong with it, and how it is
written. Pure.

httptools has refused what is malformed; here is what it lets through and a proxy must not: RFC 9112
§3.2 (Host), §6.1 (Transfer-Encoding), §2.3 (versions). Framing sent on is always written anew,
never copied (§6.3).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from functools import lru_cache
from typing import Final

from gateway.edge import headers as h
from gateway.errors import Rejection, wants_problem

HTTP_10: Final = 10
HTTP_11: Final = 11
SpecialField = tuple[int, bytes, bytes]
_BODILESS: Final = frozenset((204, 304))


class Framing(Enum):
    """How a response body is delimited towards the client (RFC 9112 §6.3)."""

    NONE = "none"
    COUNTED = "counted"
    CHUNKED = "chunked"
    CLOSE = "close"


# Members by plain names: `Framing.CHUNKED` costs 0.1 µs each time in Python 3.11.
UNFRAMED, COUNTED, CHUNKED, BY_CLOSE = Framing


class RequestHead:
    """One request's head, sorted: `fields` go on as they are, all else has a meaning here."""

    # Slots, all of them filled: a default of the class costs a search through the classes each time
    # that it is read, and these are read thirty times a request (4 % of its time, measured).
    __slots__ = (
        "_by_name", "accept", "ai_agent", "chunked", "content_length", "correlation_id",
        "expects_continue", "fields", "forwarding", "host", "job", "keep_alive", "method",
        "on_behalf", "prefers", "request_id", "target", "te_trailers", "traceparent", "tracestate",
        "trailer", "upgrade", "user_agent", "version", "via", "vouched",
    )  # fmt: skip

    def __init__(self, method: bytes, target: bytes, version: int, fields: list[h.Field]) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.fields = fields
        self.host: bytes | None = None
        self.content_length: int | None = None
        self.chunked = False
        self.keep_alive = True
        self.upgrade: bytes | None = None
        self.expects_continue = False
        self.te_trailers = False
        self.request_id: bytes | None = None
        self.correlation_id: bytes | None = None
        self.traceparent: bytes | None = None
        self.tracestate: bytes | None = None
        self.user_agent = b""
        self.ai_agent: bytes | None = None
        self.accept = b""
        self.forwarding: list[h.Field] | None = None
        self.via: list[bytes] | None = None
        self.trailer: bytes | None = None
        self.on_behalf: bytes | None = None  # X-On-Behalf-Of; empty where there are several
        self.vouched = False  # whether it came from a worker, found out at the door
        self.job: str | None = None  # the job that it is a step of, as a worker's signed word says
        self.prefers = False  # whether there is a Prefer field among `fields`
        self._by_name: dict[bytes, list[bytes]] | None = None

    @property
    def by_name(self) -> dict[bytes, list[bytes]]:
        """The values of the fields that go on, by lower-cased name, for what has to look at them.
        White space around a value is no part of it (RFC 9110 §5.5), though it goes on.
        """
        found = self._by_name
        if found is None:
            found = self._by_name = {}
            for name, value in self.fields:
                found.setdefault(name.lower(), []).append(value.strip(b" \t"))
        return found

    @property
    def has_body(self) -> bool:
        """Whether body bytes follow the head."""
        return self.chunked or bool(self.content_length)

    @property
    def wants_problem(self) -> bool:
        """Whether an error is to be told as RFC 9457."""
        return wants_problem(self.accept.decode("latin-1"))

    def __repr__(self) -> str:
        return f"<RequestHead {self.method!r} {self.target[:64]!r} fields={len(self.fields)}>"


class ResponseHead:
    """One response's head; `counted` is its Content-Length, None where chunked or delimited by
    close.
    """

    __slots__ = (
        "chunked", "counted", "error_code", "fields", "has_date", "is_event_stream", "job",
        "keep_alive_seconds", "limits", "reason", "status", "trailer", "upgrade",
    )  # fmt: skip

    def __init__(self, status: int, reason: bytes, fields: list[h.Field]) -> None:
        self.status = status
        self.reason = reason
        self.fields = fields
        self.counted: int | None = None
        self.chunked = False
        self.keep_alive_seconds: int | None = None
        self.has_date = False
        self.is_event_stream = False
        self.upgrade: bytes | None = None
        self.trailer: bytes | None = None
        self.limits: list[h.Field] | None = None
        self.error_code: str | None = None  # believed from the control application alone
        self.job: str | None = None  # the same

    def __repr__(self) -> str:
        return f"<ResponseHead {self.status} fields={len(self.fields)}>"


def bad_request(message: str) -> Rejection:
    """A 400 after which nothing on the connection can be trusted."""
    return Rejection("BAD_REQUEST", message, close=True)


def read_request(
    method: bytes,
    target: bytes,
    version: int,
    fields: list[h.Field],
    special: list[SpecialField],
) -> RequestHead | Rejection:
    """Sort the special fields of a request, or say what is wrong with it."""
    head = RequestHead(method, target, version, fields)
    connection: list[bytes] = []
    upgrade: list[bytes] = []
    for kind, name, value in special:
        if kind == h.HOST:
            if head.host is not None:
                return bad_request("two Host fields: send one")
            head.host = value
        elif kind == h.USER_AGENT:
            head.user_agent = value
            fields.append((name, value))
        elif kind == h.ACCEPT:
            head.accept = value if not head.accept else head.accept + b"," + value
            fields.append((name, value))
        elif kind == h.CONTENT_LENGTH:
            head.content_length = int(value)
        elif kind == h.TRANSFER_ENCODING:
            *before, last = (coding.strip() for coding in value.lower().split(b","))
            if last != b"chunked":
                return bad_request("Transfer-Encoding must end in chunked (RFC 9112 §6.3)")
            if before:
                message = "only Transfer-Encoding: chunked is supported"
                return Rejection("NOT_IMPLEMENTED", message, close=True)
            head.chunked = True
        elif kind == h.CONNECTION:
            connection.append(value)
        elif kind == h.UPGRADE:
            upgrade.append(value)
        else:
            _note(head, kind, name, value)
    wrong = _wrong(head)
    if wrong is not None:
        return wrong
    if connection or version == HTTP_10:
        _apply_connection(head, h.connection_tokens(connection), upgrade)
    return head


def _note(head: RequestHead, kind: int, name: bytes, value: bytes) -> None:
    """The rarer fields. Of a repeated id only the first is taken."""
    if kind == h.FORWARDING:
        head.forwarding = [*(head.forwarding or ()), (name, value)]
    elif kind == h.VIA:
        head.via = [*(head.via or ()), value]
    elif kind == h.EXPECT and head.version == HTTP_11:  # 1.0 has none (RFC 9110 §10.1.1)
        head.expects_continue = value.lower() == b"100-continue"
        head.fields.append((name, value))
    elif kind == h.TE:
        tokens = (token.split(b";")[0].strip() for token in value.lower().split(b","))
        head.te_trailers = head.te_trailers or b"trailers" in tokens
    elif kind == h.TRAILER:
        head.trailer = value
    elif kind == h.REQUEST_ID and head.request_id is None and h.accepted_id(value):
        head.request_id = value
    elif kind == h.CORRELATION_ID and head.correlation_id is None and h.accepted_id(value):
        head.correlation_id = value
    elif kind == h.TRACEPARENT:
        # Two of them are none (W3C Trace Context §3.2.2.5 lets the receiver begin anew).
        head.traceparent = value if head.traceparent is None else b""
    elif kind == h.AI_AGENT:
        head.ai_agent = value if head.ai_agent is None else head.ai_agent
        head.fields.append((name, value))
    elif kind == h.PREFER:
        head.prefers = True
        head.fields.append((name, value))
    elif kind == h.ON_BEHALF:
        head.on_behalf = value if head.on_behalf is None else b""
    elif kind == h.TRACESTATE:
        head.tracestate = value if head.tracestate is None else head.tracestate + b"," + value


def _wrong(head: RequestHead) -> Rejection | None:
    if head.version == HTTP_11 and head.host is None:
        return bad_request("HTTP/1.1 needs a Host field (RFC 9112 §3.2)")
    if head.host is not None and not h.is_host(head.host):
        return bad_request("the Host field is not a host name (RFC 9110 §7.2)")
    if head.chunked and (head.version == HTTP_10 or head.content_length is not None):
        return bad_request(
            "Transfer-Encoding does not go with HTTP/1.0 or Content-Length (RFC 9112 §6.1)"
        )
    return None


def _apply_connection(head: RequestHead, tokens: frozenset[bytes], upgrade: list[bytes]) -> None:
    if head.version == HTTP_10:
        head.keep_alive = b"keep-alive" in tokens and b"close" not in tokens
    else:
        head.keep_alive = b"close" not in tokens
    if b"upgrade" in tokens and upgrade and head.version == HTTP_11:
        head.upgrade = b",".join(upgrade)
    named = tokens - {b"close", b"keep-alive", b"upgrade", b"te"}
    if named:
        # Only what the client itself sent is taken away; what the gateway sets is added later.
        head.fields = h.without(head.fields, named)
        _forget_named(head, named)


def _forget_named(head: RequestHead, named: frozenset[bytes]) -> None:
    """Ids and traces may be named; what tells the request's way (Via, forwarding) may not, or a
    client could hide that it came through a proxy.
    """
    if b"traceparent" in named:
        head.traceparent = None
    if b"tracestate" in named:
        head.tracestate = None
    if b"x-correlation-id" in named:
        head.correlation_id = None
    if b"x-request-id" in named:
        head.request_id = None


def read_response(
    status: int, reason: bytes, fields: list[h.Field], special: list[SpecialField]
) -> ResponseHead | str:
    """Sort the special fields of a response, or say why it can't be passed on."""
    if not 100 <= status <= 599:
        return f"status {status} is outside 100-599"
    head = ResponseHead(status, reason, fields)
    connection: list[bytes] = []
    for kind, name, value in special:
        if kind == h.CONTENT_LENGTH:
            head.counted = int(value)
        elif kind == h.CONTENT_TYPE:
            head.is_event_stream = value[:17].lower() == b"text/event-stream"
            fields.append((name, value))
        elif kind == h.DATE:
            head.has_date = True
            fields.append((name, value))
        elif kind == h.TRANSFER_ENCODING:
            if value.lower() != b"chunked" or head.chunked:
                return "a transfer coding other than chunked"
            head.chunked = True
        elif kind == h.CONNECTION:
            connection.append(value)
        else:
            _note_of_response(head, kind, name, value)
    if head.chunked and head.counted is not None:
        return "both Transfer-Encoding and Content-Length"
    if connection:
        named = h.connection_tokens(connection) - {b"close", b"keep-alive", b"upgrade"}
        if named:
            head.fields = h.without(head.fields, named)
    return head


def _note_of_response(head: ResponseHead, kind: int, name: bytes, value: bytes) -> None:
    """The rarer fields."""
    if kind == h.KEEP_ALIVE:
        head.keep_alive_seconds = keep_alive_hint(value)
    elif kind == h.UPGRADE:
        head.upgrade = value
    elif kind == h.TRAILER:
        head.trailer = value
    elif kind == h.LIMIT:
        head.limits = [*(head.limits or ()), (name, value)]
    elif kind == h.ERROR_CODE:
        head.error_code = value.decode("latin-1")
    elif kind == h.JOB:
        head.job = value.decode("latin-1")


def keep_alive_hint(value: bytes) -> int | None:
    """The `timeout=` of a Keep-Alive field: seconds that the peer keeps an idle connection."""
    for part in value.lower().split(b","):
        name, _, seconds = part.partition(b"=")
        if name.strip() == b"timeout" and seconds.strip().isdigit():
            return int(seconds)
    return None


@lru_cache(maxsize=1024)  # reasons are the back end's words: bounded
def status_line(status: int, reason: bytes) -> bytes | None:
    """The status line, or None for a reason that holds control characters (httptools lets NUL
    through).
    """
    if any((byte < 0x20 and byte != 0x09) or byte == 0x7F for byte in reason):
        return None
    return b"HTTP/1.1 %d %b\r\n" % (status, reason)


def field_lines(fields: Iterable[h.Field]) -> list[bytes]:
    """The pieces of header lines, each CRLF-ended when joined."""
    pieces: list[bytes] = []
    for name, value in fields:
        pieces += (name, b": ", value, b"\r\n")
    return pieces


def request_pieces(
    head: RequestHead, target: bytes, host_line: bytes, added: Iterable[bytes], upgrade: bytes
) -> list[bytes]:
    """A request head as it goes to an endpoint. `added` are pieces of CRLF-ended lines; `upgrade`
    the protocols asked for.
    """
    pieces = [head.method, b" ", target, b" HTTP/1.1\r\n", host_line]
    for name, value in head.fields:
        pieces += (name, b": ", value, b"\r\n")
    pieces += added
    if head.chunked:
        pieces.append(b"Transfer-Encoding: chunked\r\n")
        if head.trailer is not None:
            pieces += (b"Trailer: ", head.trailer, b"\r\n")
    elif head.content_length is not None:
        pieces.append(b"Content-Length: %d\r\n" % head.content_length)
    if upgrade:
        pieces += (b"Upgrade: ", upgrade, b"\r\nConnection: Upgrade\r\n")
    elif head.te_trailers:
        pieces.append(b"TE: trailers\r\nConnection: TE\r\n")
    pieces.append(b"\r\n")
    return pieces


def response_pieces(
    line: bytes, head: ResponseHead, request: RequestHead, *, limited: bool
) -> tuple[list[bytes], Framing]:
    """A response head as it goes to the client, still without its last lines, and how the body will
    be framed.

    `limited`: the gateway adds rate-limit fields of its own, so the back end's do not go on.
    """
    pieces = [line]
    for name, value in head.fields:
        pieces += (name, b": ", value, b"\r\n")
    if head.limits is not None and not limited:
        pieces += field_lines(head.limits)
    if head.status in _BODILESS or request.method == b"HEAD":
        if head.counted is not None and head.status != 204:
            pieces.append(b"Content-Length: %d\r\n" % head.counted)
        return pieces, UNFRAMED
    if head.counted is not None:
        pieces.append(b"Content-Length: %d\r\n" % head.counted)
        return pieces, COUNTED
    if request.version != HTTP_11:
        return pieces, BY_CLOSE
    pieces.append(b"Transfer-Encoding: chunked\r\n")
    if head.trailer is not None:
        pieces += (b"Trailer: ", head.trailer, b"\r\n")
    return pieces, CHUNKED


def switching_pieces(head: ResponseHead, offered: bytes) -> list[bytes] | None:
    """The 101 for the client, still without its last lines; None for one that was not asked for."""
    accepted = token(head.upgrade)
    line = status_line(head.status, head.reason)
    if not accepted or line is None or accepted not in map(token, offered.split(b",")):
        return None
    fields = field_lines(h.without(head.fields, frozenset((b"connection",))))
    return [line, *fields, b"Upgrade: ", head.upgrade or b"", b"\r\nConnection: Upgrade\r\n"]


def token(value: bytes | None) -> bytes:
    """A protocol's name for comparing."""
    return (value or b"").strip().lower()


def allowed_upgrade(offered: bytes, allowed: frozenset[bytes]) -> bytes:
    """The offered protocols that are allowed; h2c and TLS never (they would be a pipe past every
    policy).
    """
    return b", ".join(
        token
        for token in map(bytes.strip, offered.split(b","))
        if token.lower() in allowed
        and token.lower() != b"h2c"
        and not token.lower().startswith(b"tls/")
    )


def chunk(pieces: list[bytes]) -> list[bytes]:
    """One chunk of what came in one read (RFC 9112 §7.1); `pieces` must not be empty altogether."""
    size = sum(map(len, pieces))
    return [b"%x\r\n" % size, *pieces, b"\r\n"]


def last_chunk(trailers: list[h.Field]) -> bytes:
    """The end of a chunked body."""
    if not trailers:
        return b"0\r\n\r\n"
    return b"".join([b"0\r\n", *field_lines(trailers), b"\r\n"])
