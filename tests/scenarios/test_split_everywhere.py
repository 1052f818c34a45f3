"""However a request is cut into segments, the upstream is sent the same, and so is the client."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wire import (
    Link,
    Message,
    RawClient,
    ScriptedUpstream,
    answer,
    chunks,
    request,
    start_gateway,
    turn,
)

FIXED = (
    b"X-Request-ID: fixed",
    b"X-Correlation-ID: fixed",
    b"Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
)
SPAN = re.compile(rb"(?i)(traceparent: 00-[0-9a-f]{32}-)[0-9a-f]{16}")
REQUESTS = (
    request(
        b"GET /api/v1/svc/a%20b?c=d", b"Accept: */*", b"Connection: X-Drop", b"X-Drop: 1", *FIXED
    ),
    request(b"POST /api/v1/svc/counted", *FIXED, body=b"a counted body\r\n\r\n"),
    request(b"POST /api/v1/svc/chunked", b"Transfer-Encoding: chunked", *FIXED)
    + chunks(b"a ", b"chunked", b" body\r\n0\r\n", trailers=(b"X-Checksum: 1",)),
    request(b"HEAD /api/v1/svc/head", b"Empty:", b"TE: trailers, gzip", *FIXED),
    request(b"PUT /api/v1/svc/empty", *FIXED, body=b""),
    request(b"GET /api/v1/svc/last", *FIXED),
)
STREAM = b"".join(REQUESTS)


async def echo(link: Link) -> None:
    """Answers every request with what it was."""
    while True:
        message = await link.request()
        reply = answer(message.method + message.target + message.body)
        link.send(reply.split(b"\r\n\r\n")[0] + b"\r\n\r\n" if message.method == b"HEAD" else reply)


def essence(message: Message) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
    """What may not depend on how a request came: the exact head, the body, the trailers."""
    return SPAN.sub(rb"\1", message.head), message.body, message.trailers


async def exchange(client: RawClient, pieces: list[bytes]) -> list[tuple[int, bytes]]:
    """Sends the stream in these pieces and reads all answers."""
    for piece in pieces:
        client.send(piece)
        await turn(3)
    answers = []
    for data in REQUESTS:
        response = await client.response(data.split(b" ", 1)[0])
        answers.append((response.status, response.body))
    return answers


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The pieces between these places."""
    edges = [0, *sorted(set(places)), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if start < end]


async def test_a_stream_cut_in_two_at_every_byte_is_the_same() -> None:
    async with (
        ScriptedUpstream(echo) as upstream,
        start_gateway(SVC_URL=upstream.url, ACCESS_LOG="off") as gateway,
        gateway.connect() as client,
    ):
        expected = await exchange(client, [STREAM])
        sent = [essence(message) for message in upstream.requests]
        assert [status for status, _ in expected] == [200] * len(REQUESTS)
        assert len(sent) == len(REQUESTS)
        for place in range(1, len(STREAM)):
            upstream.requests.clear()
            assert await exchange(client, [STREAM[:place], STREAM[place:]]) == expected, place
            assert [essence(message) for message in upstream.requests] == sent, place


async def test_a_stream_byte_by_byte_is_the_same() -> None:
    async with (
        ScriptedUpstream(echo) as upstream,
        start_gateway(SVC_URL=upstream.url) as gateway,
        gateway.connect() as client,
    ):
        expected = await exchange(client, [STREAM])
        sent = [essence(message) for message in upstream.requests]
        upstream.requests.clear()
        single = [STREAM[at : at + 1] for at in range(len(STREAM))]
        assert await exchange(client, single) == expected
        assert [essence(message) for message in upstream.requests] == sent


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(places=st.lists(st.integers(1, len(STREAM) - 1), max_size=40))
async def test_a_stream_cut_anywhere_is_the_same(places: list[int]) -> None:
    async with (
        ScriptedUpstream(echo) as upstream,
        start_gateway(SVC_URL=upstream.url, ACCESS_LOG="off") as gateway,
        gateway.connect() as client,
    ):
        expected = [(200, body_of(data)) for data in REQUESTS]
        assert await exchange(client, cut(STREAM, places)) == expected
        whole = await exchange(client, [STREAM])
        assert whole == expected
        count = len(REQUESTS)
        first, second = upstream.requests[:count], upstream.requests[count:]
        assert [essence(message) for message in first] == [essence(m) for m in second]


def body_of(data: bytes) -> bytes:
    """What `echo` answers to one of the requests."""
    method, target, _ = data.split(b" ", 2)
    bodies = {b"/counted": b"a counted body\r\n\r\n", b"/chunked": b"a chunked body\r\n0\r\n"}
    path = target.removeprefix(b"/api/v1/svc")
    return b"" if method == b"HEAD" else method + path + bodies.get(path, b"")


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.binary(min_size=1, max_size=300), max_size=8),
    places=st.lists(st.integers(1, 4000), max_size=20),
    counted=st.booleans(),
)
async def test_any_body_in_any_pieces_arrives_as_it_is(
    parts: list[bytes], places: list[int], counted: bool
) -> None:
    body = b"".join(parts)
    data = request(b"POST /api/v1/svc/x", body=body)
    if not counted:
        data = request(b"POST /api/v1/svc/x", b"Transfer-Encoding: chunked") + chunks(*parts)
    async with (
        ScriptedUpstream() as upstream,
        start_gateway(SVC_URL=upstream.url, ACCESS_LOG="off") as gateway,
        gateway.connect() as client,
    ):
        for piece in cut(data, [place for place in places if place < len(data)]):
            client.send(piece)
            await turn(3)
        assert (await client.response()).status == 200
        assert upstream.requests[0].body == body
