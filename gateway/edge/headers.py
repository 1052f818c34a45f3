"""Header fields: which are hop-by-hop, which are the gateway's own, which ids travel with a
request. Pure.

Fields are sorted by kind while they are parsed, so that all but a few are forwarded without another
look. Sources: RFC 9110 §7.6.1 (Connection), §7.6.3 (Via), RFC 7239 (Forwarded), W3C Trace Context
§3.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

Field = tuple[bytes, bytes]

# What happens to a request field. PLAIN (0: the hot path tests truth) is forwarded as it came.
PLAIN: Final = 0
DROP: Final = 1  # hop-by-hop, identity, or an alias of a field that the gateway sets
HOST: Final = 2
CONTENT_LENGTH: Final = 3
TRANSFER_ENCODING: Final = 4
CONNECTION: Final = 5
UPGRADE: Final = 6
EXPECT: Final = 7
TE: Final = 8
TRAILER: Final = 9
FORWARDING: Final = 10  # believed only from a trusted proxy
VIA: Final = 11
REQUEST_ID: Final = 12
CORRELATION_ID: Final = 13
TRACEPARENT: Final = 14
TRACESTATE: Final = 15
USER_AGENT: Final = 16
ACCEPT: Final = 17
# Response fields.
KEEP_ALIVE: Final = 18
LIMIT: Final = 19  # the rate-limit families: the gateway's win where it limits
DATE: Final = 20
CONTENT_TYPE: Final = 21
ERROR_CODE: Final = 22  # from the control application to the record; never to a client
# Request fields again.
AI_AGENT: Final = 23  # by which an agent says so of its own accord
ON_BEHALF: Final = 24  # a worker's word on whom it asks for; never to a service
PREFER: Final = 25
JOB: Final = 26  # of a response: from the control application to the record, as the error code is

_REQUEST_KINDS: Final = {
    b"keep-alive": DROP,
    b"proxy-connection": DROP,
    b"proxy-authenticate": DROP,
    b"proxy-authorization": DROP,
    b"http2-settings": DROP,  # a clear-text HTTP/2 upgrade would open a pipe past every policy
    b"x-user-id": DROP,
    b"x-tenant-id": DROP,
    b"x-user-tier": DROP,
    b"host": HOST,
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"expect": EXPECT,
    b"te": TE,
    b"trailer": TRAILER,
    b"forwarded": FORWARDING,
    b"x-forwarded-for": FORWARDING,
    b"x-forwarded-proto": FORWARDING,
    b"x-forwarded-host": FORWARDING,
    b"x-forwarded-port": FORWARDING,
    b"x-real-ip": FORWARDING,
    b"via": VIA,
    b"x-request-id": REQUEST_ID,
    b"x-correlation-id": CORRELATION_ID,
    b"traceparent": TRACEPARENT,
    b"tracestate": TRACESTATE,
    b"user-agent": USER_AGENT,
    b"accept": ACCEPT,
    b"x-on-behalf-of": ON_BEHALF,
    b"prefer": PREFER,
    b"x-ai-agent": AI_AGENT,
    b"ai-agent-id": AI_AGENT,
}
_READ_ONLY: Final = {
    USER_AGENT,
    ACCEPT,
    PREFER,
    AI_AGENT,
}  # looked at and forwarded: an alias of these harms nobody

_RESPONSE_KINDS: Final = {
    b"proxy-connection": DROP,
    b"proxy-authenticate": DROP,
    b"te": DROP,
    b"alt-svc": DROP,
    b"x-request-id": DROP,  # the gateway's own stands in its place
    b"x-gateway-attempts": DROP,
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"keep-alive": KEEP_ALIVE,
    b"upgrade": UPGRADE,
    b"trailer": TRAILER,
    b"date": DATE,
    b"content-type": CONTENT_TYPE,
    b"x-gateway-error": ERROR_CODE,
    b"x-gateway-job": JOB,
    b"x-ratelimit-limit": LIMIT,
    b"x-ratelimit-remaining": LIMIT,
    b"x-ratelimit-reset": LIMIT,
    b"ratelimit": LIMIT,
    b"ratelimit-policy": LIMIT,
}

# Fields that must never come after a body, where they would be believed too late or by half of the
# readers (RFC 9110 §6.5.1): framing, routing, identity, and what steers the answer.
_NEVER_TRAILERS: Final = frozenset(
    b"authorization cookie set-cookie content-encoding content-type content-range content-location "
    b"cache-control max-forwards age expires date location retry-after vary warning "
    b"www-authenticate x-api-key expect range if-match if-none-match if-modified-since "
    b"if-unmodified-since if-range".split()
)

_ODD_IN_NAME: Final = re.compile(rb"[^a-z0-9]")
_TOKEN_LIST: Final = re.compile(rb"[\s,]+")
_FORWARDED_PAIR: Final = re.compile(r'([\w!#$%&\'*+.^`|~-]+)=(?:"((?:[^"\\]|\\.)*)"|([^;,\s"]+))')
_VISIBLE: Final = re.compile(rb"[\x21-\x7e]{1,128}").fullmatch
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
).fullmatch
# A UUID's variant is the bits 10 (RFC 9562 §4.1): one of 8, 9, a, b, chosen by a random digit.
_VARIANT: Final = {digit: "89ab"[at & 3] for at, digit in enumerate("0123456789abcdef")}
_HOST: Final = re.compile(
    rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\]|\[v[0-9A-Fa-f]+\.[\w~!$&'()*+,;=:.-]+\])(?::[0-9]{0,5})?"
).fullmatch


@lru_cache(maxsize=4096)  # names are the client's: bounded, 4,096 is above what real traffic uses
def request_kind(name: bytes) -> int:
    """What happens to a request field of this name.

    A name with other characters than letters, digits and `-` can alias another field in a back end
    that maps names to variables (`X_User_ID` is HTTP_X_USER_ID in CGI and WSGI): it is dropped
    where it would collide with a field that the gateway sets or reads.
    """
    lower = name.lower()
    kind = _REQUEST_KINDS.get(lower)
    if kind is not None:
        return kind
    plain = _ODD_IN_NAME.sub(b"-", lower)
    if plain.startswith(b"x-gateway-"):
        return DROP
    if plain.startswith(b"x-forwarded-"):
        return FORWARDING if plain == lower else DROP
    alias = _REQUEST_KINDS.get(plain)
    if plain != lower and alias is not None and alias not in _READ_ONLY:
        return DROP
    return PLAIN


@lru_cache(maxsize=4096)  # names are the back end's: bounded for the same reason
def response_kind(name: bytes) -> int:
    """What happens to a response field of this name."""
    return _RESPONSE_KINDS.get(name.lower(), PLAIN)


def connection_tokens(values: list[bytes]) -> frozenset[bytes]:
    """The lower-cased options of all Connection fields of a message (RFC 9110 §7.6.1)."""
    return frozenset(token for token in _TOKEN_LIST.split(b",".join(values).lower()) if token)


def without(fields: list[Field], named: frozenset[bytes]) -> list[Field]:
    """`fields` less those whose name a Connection field listed."""
    return [field for field in fields if field[0].lower() not in named]


@lru_cache(maxsize=4096)  # for the same reason
def plain_name(name: bytes) -> bytes:
    """A field's name as a back end that maps names to variables may read it (`request_kind`)."""
    return _ODD_IN_NAME.sub(b"-", name.lower())


def without_aliases(fields: list[Field], named: frozenset[bytes]) -> list[Field]:
    """`fields` less those of these names (lower case), and those that could alias one of them."""
    return [
        field
        for field in fields
        if field[0].lower() not in named and plain_name(field[0]) not in named
    ]


def trailers(fields: list[Field], removed: frozenset[bytes] = frozenset()) -> list[Field]:
    """The trailers that may be forwarded: never framing, routing, identity or response control, and
    none that the route takes off the head.
    """
    if removed:
        fields = without_aliases(fields, removed)
    return [
        field
        for field in fields
        if not request_kind(field[0])
        and not response_kind(field[0])
        and plain_name(field[0]) not in _NEVER_TRAILERS
    ]


@lru_cache(maxsize=1024)  # few hosts come again and again; bounded against invented ones
def is_host(value: bytes) -> bool:
    """Whether a Host value is one (RFC 9110 §7.2, RFC 3986 §3.2); empty is allowed."""
    return _HOST(value) is not None


def accepted_id(value: bytes) -> bool:
    """Whether a client's request or correlation id is taken: 1-128 visible ASCII characters."""
    return _VISIBLE(value) is not None


def is_traceparent(value: bytes) -> bool:
    """Whether a traceparent is well-formed (W3C Trace Context §3.2); version 00 has four parts
    only.
    """
    match = _TRACEPARENT(value)
    return match is not None and not (value.startswith(b"00") and match.group(1) is not None)


class Ids:
    """New request ids (UUIDv7, RFC 9562 §5.7) and the traces that begin with them.

    Random digits are drawn 4 KiB at a time: one system call for some 200 ids instead of one each.
    """

    __slots__ = ("_at", "_digits", "_millisecond", "_random_bytes", "_stamp")

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._digits = ""
        self._at = 0
        self._millisecond = -1
        self._stamp = ""

    def _draw(self, count: int) -> str:
        at = self._at
        if at + count > len(self._digits):
            self._digits = self._random_bytes(4096).hex()
            at = 0
        self._at = at + count
        return self._digits[at : at + count]

    def request_id(self, wall_seconds: float) -> str:
        """A UUIDv7 of this time (seconds since 1970)."""
        millisecond = int(wall_seconds * 1000)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            stamp = f"{millisecond:012x}"
            self._stamp = f"{stamp[:8]}-{stamp[8:]}-7"
        digits = self._draw(19)
        return f"{self._stamp}{digits[:3]}-{_VARIANT[digits[3]]}{digits[4:7]}-{digits[7:]}"

    def traceparent(self, made_id: str | None) -> str:
        """A new trace with a new parent, sampling left to the back end (flags 00).

        The trace's id is the digits of a request id made here, so that whoever holds one has the
        other; where the client chose its request id (None) the trace's is drawn. A leading 1 keeps
        a drawn id from being all zeros, which the standard forbids.
        """
        trace = "1" + self._draw(31) if made_id is None else made_id.replace("-", "")
        return f"00-{trace}-1{self._draw(15)}-00"


def forwarding_lines(
    client: str, scheme: str, host: bytes | None, inherited: list[Field] | None
) -> bytes:
    """X-Forwarded-For, -Proto, -Host and Forwarded, CRLF-ended.

    `client` is the peer's address. `inherited` are the forwarding fields of a trusted peer: its
    lists are continued, its -Proto and -Host are kept; without trust nothing of them goes on.
    """
    chain: list[bytes] = []
    forwarded: list[bytes] = []
    rest: list[Field] = []
    proto, forwarded_host = scheme.encode(), host
    for name, value in inherited or ():
        lower = name.lower()
        if lower == b"x-forwarded-for":
            chain.append(value)
        elif lower == b"forwarded":
            forwarded.append(value)
        elif lower == b"x-forwarded-proto":
            proto = value
        elif lower == b"x-forwarded-host":
            forwarded_host = value
        else:
            rest.append((name, value))
    peer = client.encode()
    chain.append(peer)
    node = b'"[%b]"' % peer if b":" in peer else peer
    element = b"for=%b;proto=%b" % (node, scheme.encode())
    if host:
        # Quoted unless a bare token: a port's colon is no token character (RFC 7239 §4).
        element += b';host="%b"' % host
    forwarded.append(element)
    lines = [b"X-Forwarded-For: ", b", ".join(chain), b"\r\nX-Forwarded-Proto: ", proto, b"\r\n"]
    if forwarded_host:
        lines += (b"X-Forwarded-Host: ", forwarded_host, b"\r\n")
    lines += (b"Forwarded: ", b", ".join(forwarded), b"\r\n")
    for name, value in rest:
        lines += (name, b": ", value, b"\r\n")
    return b"".join(lines)


def forwarded_for(inherited: list[Field]) -> list[str]:
    """The addresses of the forwarding chain, left to right (the client first).

    X-Forwarded-For where it is present, else the `for=` of Forwarded (RFC 7239 §5.2). What is no
    address (`unknown`, an obfuscated name) is kept as it is: whoever reads the list stops there.
    """
    values = _values(inherited, b"x-forwarded-for")
    if values:
        return [address.strip() for address in ",".join(values).split(",") if address.strip()]
    return [
        _node_address(quoted or bare)
        for name, quoted, bare in _FORWARDED_PAIR.findall(
            ",".join(_values(inherited, b"forwarded"))
        )
        if name.lower() == "for"
    ]


def _values(fields: list[Field], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in fields if key.lower() == name]


def _node_address(node: str) -> str:
    """A node of Forwarded without its port and brackets (RFC 7239 §6)."""
    if node.startswith("["):
        return node[1:].partition("]")[0]
    return node.partition(":")[0]
