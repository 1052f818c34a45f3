"""Whatever comes over the wire: no exception leaves a reader, and nothing is made out of nothing.

The cases are those of `bench fuzz`, by seed and number, so that a failure is repeated by its name.
"""

from __future__ import annotations

from random import Random

import pytest

from bench.mutations import Case, cases
from gateway.edge.reading import HeadLimits, RequestReader, ResponseReader

SEED = 20_240_607
BLOCKS = range(0, 300, 50)
Request = tuple[bytes, bytes, bytes]  # method, target, body


def requests_in(*pieces: bytes) -> tuple[list[Request], int | None]:
    """The whole requests that a reader makes of the pieces, and the status of its refusal."""
    reader = RequestReader(HeadLimits())
    found: list[Request] = []
    for piece in pieces:
        rest = piece
        while rest:
            before = len(rest)
            rest = reader.feed(rest)
            repr(reader)
            if reader.failure is not None:
                return found, reader.failure.status
            if not reader.complete:
                assert not rest, "a reader that wants more has taken all"
                break
            assert len(rest) < before, "a request is made of bytes"
            head = reader.head
            assert head is not None
            found.append((head.method, head.target, b"".join(reader.body)))
            if head.upgrade is not None or not head.keep_alive or head.method == b"CONNECT":
                return found, None
            reader.rest()
    return found, None


@pytest.mark.parametrize("first", BLOCKS)
def test_no_request_comes_out_that_did_not_go_in(first: int) -> None:
    for case in cases(SEED, 50, first):
        found, status = requests_in(*case.pieces)
        assert len(found) <= case.data.count(b"\r\n\r\n"), case
        assert status in (None, 400, 414, 431, 501, 505), case
        for method, target, body in found:
            assert method in case.data
            assert target in case.data
            assert len(body) < len(case.data)


@pytest.mark.parametrize("first", BLOCKS)
def test_the_requests_are_the_same_in_other_pieces(first: int) -> None:
    for case in cases(SEED, 50, first):
        found, status = requests_in(*case.pieces)
        whole, status_of_whole = requests_in(case.data)
        assert found == whole, case
        assert (status is None) is (status_of_whole is None), case


RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nDate: now\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nhello",
    b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00",
)
ODD = (
    *(b"\r\n", b"\n", b"\r", b"\x00", b" ", b":", b"0", b"f", b"-", b"\xff", b"HTTP/1.1 200 OK"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"),
    b"\r\n\r\n",
)


def mutated(number: int) -> bytes:
    """A response, or several, that something has happened to."""
    random = Random(f"{SEED}/response/{number}")
    wire = b"".join(random.choices(RESPONSES, k=random.choice((1, 1, 2))))
    for _ in range(random.choice((0, 1, 1, 2, 4))):
        at = random.randrange(len(wire) + 1)
        wire = wire[:at] + random.choice(ODD) + wire[at + random.choice((0, 0, 1, 3)) :]
    return wire[: random.randrange(len(wire) + 1)] if random.random() < 0.2 else wire


def received(*pieces: bytes, is_head: bool) -> ResponseReader:
    """What a reader makes of the pieces; a proxy stops at a failure, an end or an upgrade."""
    reader = ResponseReader(HeadLimits())
    reader.expect(is_head=is_head)
    for piece in pieces:
        if reader.failure is not None or reader.upgraded is not None:
            break
        reader.feed(piece)
        repr(reader)
    return reader


@pytest.mark.parametrize("first", BLOCKS)
def test_a_response_is_whole_or_refused_but_never_two(first: int) -> None:
    for number in range(first, first + 50):
        wire = mutated(number)
        for is_head in (False, True):
            reader = received(wire, is_head=is_head)
            split = received(*(wire[at : at + 1] for at in range(len(wire))), is_head=is_head)
            for one in (reader, split):
                heads = len(one.interim) + (one.head is not None)
                assert heads <= wire.count(b"\r\n\r\n"), (number, wire)
                body = b"".join(one.body)
                assert len(body) <= len(wire)
                if one.complete and one.head is not None and one.head.counted is not None:
                    assert len(body) in (0, one.head.counted), (number, wire)
                if one.complete and is_head:
                    assert body == b"", (number, wire)
            assert split.complete is reader.complete, (number, wire)
            assert bool(split.failure) is bool(reader.failure), (number, wire)
            if not reader.failure:
                assert b"".join(split.body) == b"".join(reader.body), (number, wire)


@pytest.mark.parametrize("first", BLOCKS)
def test_requests_are_no_responses(first: int) -> None:
    case: Case
    for case in cases(SEED, 50, first):
        reader = received(*case.pieces, is_head=False)
        assert reader.head is None, case
        assert not reader.complete, case
