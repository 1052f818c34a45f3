"""Raw bytes for the fuzz test: well-formed requests, and what becomes of them by mishap.

Pure and repeatable: case N of a seed is always the same bytes. Every request carries its own marker
in its path, and bodies often look like requests (`/smuggled/`), so that a request that was made out
of another's body is seen. What may come of a case is judged in judging.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from random import Random

PREFIX = b"/api/v1/bench"


class Ending(Enum):
    """What the client does when it has sent everything."""

    HALF_CLOSE = "shuts its sending side and reads to the end"
    WAIT = "waits for the gateway to close"
    RESET = "vanishes"


@dataclass(frozen=True, slots=True)
class Case:
    """One client connection."""

    seed: int
    number: int
    pieces: tuple[bytes, ...]
    ending: Ending

    @property
    def data(self) -> bytes:
        """Everything it sends."""
        return b"".join(self.pieces)


def cases(seed: int, count: int, first: int = 0) -> Iterator[Case]:
    """So many cases of a seed."""
    return (case(seed, number) for number in range(first, first + count))


def case(seed: int, number: int) -> Case:
    """One case, by its number alone."""
    random = Random(f"{seed}/{number}")
    if random.random() < 0.02:
        data = random.choice(_STRANGERS)(random)
    else:
        count = random.choice((1, 1, 1, 2, 2, 3, 4))
        requests = [_request(random, b"%d-%d-%d" % (seed, number, index)) for index in range(count)]
        for _ in range(random.choice((0, 1, 1, 1, 2, 3))):
            index = random.randrange(count)
            requests[index] = random.choice(_CHANGES)(random, requests[index])
        data = b"".join(requests)
        if random.random() < 0.1:
            data = data[: random.randrange(len(data) + 1)]
    ending = random.choices(tuple(Ending), weights=(80, 8, 12))[0]
    return Case(seed, number, _pieces(random, data), ending)


def _pieces(random: Random, data: bytes) -> tuple[bytes, ...]:
    draw = random.random()
    if draw < 0.6 or len(data) < 3:
        return (data,)
    if draw < 0.95:
        cuts = sorted({random.randrange(1, len(data)) for _ in range(random.choice((1, 2, 5)))})
    else:
        cuts = list(range(1, min(len(data), 150)))
    return tuple(data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True))


def _request(random: Random, marker: bytes) -> bytes:
    method = random.choice((b"GET", b"GET", b"POST", b"POST", b"PUT", b"HEAD", b"DELETE", b"PATCH"))
    tail = random.choice((b"", b"?a=1&b=%2F", b"/%3Fx/%C3%A9", b"/a;b=c", b"?", b"/~x/*'()"))
    target = PREFIX + b"/m/" + marker + tail
    if random.random() < 0.05:
        target = b"http://elsewhere.test" + target
    version = b"1.0" if random.random() < 0.05 else b"1.1"
    lines = [b"%b %b HTTP/%b" % (method, target, version), b"Host: gateway.test"]
    lines += random.sample(_FIELDS, random.choice((0, 1, 2, 4)))
    body = b""
    if method in (b"POST", b"PUT", b"PATCH") or random.random() < 0.05:
        content = _content(random, marker)
        if version == b"1.1" and random.random() < 0.5:
            lines.append(b"Transfer-Encoding: chunked")
            body = _chunked(random, content)
        else:
            lines.append(b"Content-Length: %d" % len(content))
            body = content
    if random.random() < 0.3:
        head, fields = lines[0], lines[1:]
        random.shuffle(fields)
        lines = [head, *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _content(random: Random, marker: bytes) -> bytes:
    smuggled = b"GET %b/smuggled/%b HTTP/1.1\r\nHost: gateway.test\r\n\r\n" % (PREFIX, marker)
    kind = random.randrange(5)
    if kind == 0:
        return b""
    if kind == 1:
        return random.randbytes(random.randrange(1, 5000))
    if kind == 2:
        return b"0\r\n\r\n" + smuggled
    return smuggled * random.choice((1, 3))


def _chunked(random: Random, content: bytes) -> bytes:
    made, rest = b"", content
    while rest:
        size = random.randrange(1, len(rest) + 1)
        extension = random.choice((b"", b"", b"", b";a=b", b';a="x;y"'))
        line = random.choice((b"%x", b"%X", b"%04x")) % size + extension
        made += line + b"\r\n" + rest[:size] + b"\r\n"
        rest = rest[size:]
    trailers = random.choice((b"", b"", b"X-Checksum: 1\r\n", b"Content-Length: 3\r\nHost: t\r\n"))
    return made + b"0\r\n" + trailers + b"\r\n"


# Fields that a well-formed request may have and that a proxy has to do something about
_FIELDS = (
    b"Accept: */*",
    b"Accept: application/problem+json",
    b"Connection: keep-alive",
    b"Connection: close",
    b"Connection: X-Request-ID, X-Forwarded-For, Host",
    b"Connection: Upgrade, HTTP2-Settings",
    b"Upgrade: h2c",
    b"Upgrade: websocket",
    b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    b"Expect: 100-continue",
    b"TE: trailers, deflate",
    b"Trailer: X-Checksum",
    b"Keep-Alive: timeout=5",
    b"Proxy-Connection: keep-alive",
    b"X-Request-ID: mine",
    b"X-Request-ID: " + b"x" * 300,
    b"X-Forwarded-For: 1.2.3.4, unknown, [::1]:80",
    b'Forwarded: for="[::1]";proto=https;host="a',
    b"X_Forwarded_For: 6.6.6.6",
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b"traceparent: ff-zz",
    b"Via: 1.0 fred, 1.1 p.example",
    b"Cookie: a=b; c=\xc3\xa9",
    b"User-Agent: GPTBot/1.0 \xff",
    b"X-Empty:",
    b"X-Spaces: \t a \t",
)

# Lines that no request may have, or not beside what is there already
_WRONG_LINES = (
    b"Content-Length: 5",
    b"Content-Length: 0",
    b"Content-Length: +5",
    b"Content-Length: -1",
    b"Content-Length: 5, 5",
    b"Content-Length: 0x10",
    b"Content-Length: 99999999999999999999",
    b"Content-Length : 5",
    b"Content-Length:",
    b"Content-Length: 5 6",
    b"Content_Length: 5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: Chunked",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding: chunked\x00",
    b"Transfer-Encoding\t: chunked",
    b" Transfer-Encoding: chunked",
    b"X: y\r\n Transfer-Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked",
    b"Host: other.test",
    b"Host: a b",
    b"Host:",
    b"Host: gateway.test, other.test",
    b": no name",
    b"no colon",
    b"X\x00Y: z",
    b"X-Long: " + b"a" * 9000,
    b"\r\n".join(b"X-Many-%d: 1" % number for number in range(200)),
    b"\r\n".join(b"X-Wide-%d: %b" % (number, b"a" * 7000) for number in range(12)),
)


def _line_ends(data: bytes) -> list[int]:
    head = data.split(b"\r\n\r\n", 1)[0]
    return [at for at in range(len(head)) if head.startswith(b"\r\n", at)] or [0]


def _add_line(random: Random, data: bytes) -> bytes:
    at = random.choice(_line_ends(data))
    return data[:at] + b"\r\n" + random.choice(_WRONG_LINES) + data[at:]


def _drop_line(random: Random, data: bytes) -> bytes:
    at = random.choice(_line_ends(data))
    end = data.find(b"\r\n", at + 2)
    return data[:at] + data[end:] if end > 0 else data


def _other_line_end(random: Random, data: bytes) -> bytes:
    at = random.choice(_line_ends(data))
    other = random.choice((b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n ", b"\r\n\t", b"\x00\r\n", b""))
    return data[:at] + other + data[at + 2 :]


def _other_byte(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) or 1)
    return data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]


def _more_bytes(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    added = (b"\x00", b"\r", b"\n", b" ", b"\t", b":", b"\xff", b"\\", b"/../", b"%00")
    return data[:at] + random.choice(added) + data[at:]


def _cut(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) or 1)
    return data[:at] + data[at + random.randrange(1, 12) :]


def _twice(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) or 1)
    end = at + random.randrange(1, 60)
    return data[:end] + data[at:end] + data[end:]


def _other_number(random: Random, data: bytes) -> bytes:
    """Another Content-Length or chunk size: one off, far off, signed, huge."""
    digits = [at for at in range(data.find(b"\r\n"), len(data)) if data[at : at + 1].isdigit()]
    if not digits:
        return data
    at = random.choice(digits)
    others = (b"0", b"1", b"9", b"f", b"-1", b"+1", b"1_0", b"ffffffffffffffff", b" 1", b"1 ")
    return data[:at] + random.choice(others) + data[at + 1 :]


def _other_target(random: Random, data: bytes) -> bytes:
    wrong = random.choice(
        (
            *(b"/..%2f..%2fadmin", b"/../../admin", b"/%2e%2e/admin", b"/./x", b"/a\\b"),
            *(b"/..;/admin", b"/%252e%252e/x", b"/%00", b"/%", b"/%zz", b"#fragment"),
            *(b"/\xc3\xa9", b"//x", b"/%5c"),
            b"/" + b"a" * 9000,
        )
    )
    return data.replace(b" HTTP/1", wrong + b" HTTP/1", 1)


def _other_start(random: Random, data: bytes) -> bytes:
    _, space, rest = data.partition(b" ")
    others = (b"CONNECT", b"TRACE", b"PRI", b"get", b"OPTIONS", b"FOO", b"", b"GET\t", b"\r\nGET")
    return random.choice(others) + space + rest


def _other_version(random: Random, data: bytes) -> bytes:
    new = random.choice((b"1.0", b"0.9", b"1.2", b"2.0", b"1.1 ", b"1", b"1.10", b"1.1\t"))
    return data.replace(b"HTTP/1.1", b"HTTP/" + new, 1)


_CHANGES: tuple[Callable[[Random, bytes], bytes], ...] = (
    *(_add_line, _add_line, _add_line, _drop_line, _other_line_end, _other_byte, _more_bytes),
    *(_cut, _twice, _other_number, _other_number, _other_target, _other_start, _other_version),
)

# Not HTTP/1 at all
_STRANGERS: tuple[Callable[[Random], bytes], ...] = (
    lambda random: random.randbytes(random.randrange(1, 400)),
    lambda random: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    lambda random: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.randbytes(300),
    lambda random: b"\r\n" * random.randrange(1, 300),
    lambda random: b"GET / HTTP/1.1\r\n" + b"a" * 70000,
    lambda random: b"OPTIONS * HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
    lambda random: b"",
)
