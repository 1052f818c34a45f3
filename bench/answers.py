"""What the fuzz test's backend says to a request: sound answers, and all that upstreams get wrong.

Pure: the answer follows from the request alone, so that the judge knows what was said. Every body
names the request it answers; a body outside the framing names `poison` and must reach nobody.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

CUT = b"[cut]"  # in bodies that the backend breaks off: they must not look whole to a client
_POISON = b"answer-to:poison;"


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes to send, whether the connection ends with them, whether they do not wait for a body."""

    kind: str
    data: bytes
    close: bool = False
    early: bool = False


def token(method: bytes, target: bytes) -> bytes:
    """What names a request in its answer."""
    return b"%08x" % zlib.crc32(method + b" " + target)


def answer_for(method: bytes, target: bytes) -> Answer:
    """The backend's answer to a request; mostly a sound one."""
    name = token(method, target)
    random = Random(name)
    if method == b"HEAD":
        return Answer("head", b"HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n")
    body = b"answer-to:%b;" % name
    if random.random() < 0.5:
        return Answer("plain", _plain(body))
    return random.choice(_KINDS)(body)


def _head(status: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join((b"HTTP/1.1 " + status, *fields, b"", b""))


def _plain(body: bytes) -> bytes:
    return _head(b"200 OK", b"Content-Type: text/plain", b"Content-Length: %d" % len(body)) + body


def _chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


_CHUNKED = _head(b"200 OK", b"Transfer-Encoding: chunked")
_NO_CONTENT = _head(b"204 No Content")
_NOT_MODIFIED = _head(b"304 Not Modified", b'ETag: "a"', b"Content-Length: 9")
_HINTS = _head(b"103 Early Hints", b"Link: </a>")
_TOO_SHORT = _head(b"200 OK", b"Content-Length: 99")
_NAMING = b"OK\r\nConnection: X-Request-ID"

_SOUND: tuple[Callable[[bytes], Answer], ...] = (
    lambda body: Answer("chunked", _CHUNKED + _chunk(body) + b"0\r\n\r\n"),
    lambda body: Answer("trailers", _CHUNKED + _chunk(body) + b"0\r\nX-Sum: 1\r\n\r\n"),
    lambda body: Answer("until close", _head(b"200 OK") + body, close=True),
    lambda body: Answer("1.0", b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n" + body, close=True),
    lambda body: Answer("204", _NO_CONTENT),
    lambda body: Answer("304", _NOT_MODIFIED),
    lambda body: Answer("103", _HINTS + _plain(body)),
    lambda body: Answer("100s", _head(b"100 Continue") * 5 + _plain(body)),
    lambda body: Answer("naming", _plain(body).replace(b"OK", _NAMING)),
    lambda body: Answer("early", _plain(body).replace(b"200 OK", b"413 No"), True, early=True),
)

_CUT_SHORT: tuple[Callable[[bytes], Answer], ...] = (
    lambda body: Answer("silent", b"", close=True),
    lambda body: Answer("cut head", b"HTTP/1.1 200 OK\r\nContent-Le", close=True),
    lambda body: Answer("cut", _TOO_SHORT + body + CUT, close=True),
    lambda body: Answer("cut chunks", _CHUNKED + _chunk(body + CUT), close=True),
    lambda body: Answer("cut in chunk", _CHUNKED + b"ff\r\n" + body + CUT, close=True),
    lambda body: Answer("bad chunk", _CHUNKED + _chunk(body + CUT) + b"zz\r\n" + _POISON, True),
)

_TOO_MUCH: tuple[Callable[[bytes], Answer], ...] = (
    lambda body: Answer("excess", _plain(body) + _plain(_POISON)),
    lambda body: Answer("excess of 204", _NO_CONTENT + _plain(_POISON)),
    lambda body: Answer("excess of 304", _NOT_MODIFIED + _POISON),
)


def _wrong(kind: str, *lines: bytes) -> Callable[[bytes], Answer]:
    """An answer that is none: its body must reach nobody."""
    data = b"\r\n".join((*lines, b"", b"")) + _POISON
    return lambda body: Answer(kind, data, close=True)


_OK, _LENGTH = b"HTTP/1.1 200 OK", b"Content-Length: 17"
_UPGRADE = (b"Upgrade: x", b"Connection: upgrade")

_NONSENSE: tuple[Callable[[bytes], Answer], ...] = (
    _wrong("garbage", b"\x00\x01garbage"),
    _wrong("not http", b"SSH-2.0-OpenSSH_9.2"),
    _wrong("status 099", b"HTTP/1.1 099 Low", _LENGTH),
    _wrong("status 999", b"HTTP/1.1 999 High", _LENGTH),
    _wrong("no status", b"HTTP/1.1 abc OK", _LENGTH),
    _wrong("version 2", b"HTTP/2.0 200 OK", _LENGTH),
    _wrong("both framings", _OK, _LENGTH, b"Transfer-Encoding: chunked"),
    _wrong("two lengths", _OK, _LENGTH, b"Content-Length: 3"),
    _wrong("bad length", _OK, b"Content-Length: 1x"),
    _wrong("nul", _OK, _LENGTH, b"X: a\x00b"),
    _wrong("no colon", _OK, _LENGTH, b"nocolon"),
    _wrong("bare cr", _OK, _LENGTH, b"X: a\rSet-Cookie: b"),
    _wrong("huge", _OK, _LENGTH, b"X: " + b"a" * 300_000),
    _wrong("unasked 101", b"HTTP/1.1 101 Switching Protocols", *_UPGRADE),
)

_KINDS = (*_SOUND, *_CUT_SHORT, *_TOO_MUCH, *_NONSENSE)
