"""Back-pressure both ways: whoever does not read stops whoever writes, and memory stays flat."""

from __future__ import annotations

import asyncio
import gc
import os
import random
from pathlib import Path

import pytest

from tests.connection import PATIENCE_SECONDS
from tests.wire import (
    Link,
    RawClient,
    RunningGateway,
    ScriptedUpstream,
    eventually,
    proxied,
    request,
    start_gateway,
)

GET = b"GET /api/v1/svc/x"
POST = b"POST /api/v1/svc/x"
BLOCK = b"b" * 65536
BLOCKS = 1024
TOTAL = len(BLOCK) * BLOCKS
MOST_UNDER_WAY = 20 * 1024 * 1024
"""What four kernel buffers and one gateway may hold; a buffer without bounds holds all 64 MiB."""
CHUNK = b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK)
FRAMES = {
    "counted": (b"Content-Length: %d" % TOTAL, BLOCK, b""),
    "chunked": (b"Transfer-Encoding: chunked", CHUNK, b"0\r\n\r\n"),
}


async def pour(
    wire: RawClient | Link, block: bytes, blocks: int, stalled: asyncio.Future[int] | None
) -> None:
    """Writes all blocks as fast as they are taken; tells how much had gone at the first stall."""
    sent = await wire.push(block, blocks) if stalled else 0
    begun = sent // len(block)
    if stalled:
        stalled.set_result(sent)
        if begun < blocks:
            begun += 1  # the block that was not taken at once is on its way
            await wire.flush(30)
    for _ in range(blocks - begun):
        wire.send(block)
        await wire.flush(30)


@pytest.mark.parametrize(("framing", "block", "last"), FRAMES.values(), ids=FRAMES.keys())
async def test_a_slow_reader_stops_the_upstream_and_then_gets_everything(
    framing: bytes, block: bytes, last: bytes
) -> None:
    stalled: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def script(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
        await pour(link, block, BLOCKS, stalled)
        link.send(last)
        await link.closed()

    async with (
        proxied(script) as (gateway, _),
        gateway.connect(held=True, record=False, receive_buffer_bytes=65536) as client,
    ):
        client.send(request(GET, b"Connection: close"))
        assert await asyncio.wait_for(stalled, PATIENCE_SECONDS) < MOST_UNDER_WAY
        client.release()
        assert await client.closed(30) == "eof"
        assert client.count > TOTAL


@pytest.mark.parametrize(("framing", "block", "last"), FRAMES.values(), ids=FRAMES.keys())
async def test_an_upstream_that_does_not_read_stops_the_client_and_then_gets_everything(
    framing: bytes, block: bytes, last: bytes
) -> None:
    stalled: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def script(link: Link) -> None:
        await link.head()
        link.hold()
        link.record = False
        await stalled
        link.release()
        await eventually(lambda: link.count > TOTAL, "the whole body", seconds=30)
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with (
        proxied(script, MAX_BODY_BYTES=TOTAL * 2) as (gateway, upstream),
        gateway.connect() as client,
    ):
        client.send(request(POST, framing))
        await upstream.received_requests(1)
        await pour(client, block, BLOCKS, stalled)
        client.send(last)
        assert stalled.result() < MOST_UNDER_WAY
        assert (await client.response()).body == b"ok"


async def test_a_stalled_client_does_not_hold_up_others() -> None:
    async def script(link: Link) -> None:
        message = await link.request()
        if message.target == b"/large":
            link.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % TOTAL)
            await link.push(BLOCK, BLOCKS)
            stalled.set()
            await link.closed()
        else:
            link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    stalled = asyncio.Event()
    async with (
        proxied(script) as (gateway, _),
        gateway.connect(held=True, receive_buffer_bytes=65536) as slow,
    ):
        slow.send(request(b"GET /api/v1/svc/large"))
        await stalled.wait()
        assert (await gateway.ask(request(GET))).body == b"ok"


@pytest.mark.parametrize("size", [1, 65535, 65536, 65537, 3_000_001])
@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
async def test_every_byte_arrives_both_ways(size: int, chunked: bool) -> None:
    body = random.Random(size).randbytes(size)

    async def echo(link: Link) -> None:
        message = await link.request()
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
        link.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
        link.send(as_chunks(message.body) if chunked else message.body)
        await link.flush()

    data = request(POST, body=body)
    if chunked:
        data = request(POST, b"Transfer-Encoding: chunked") + as_chunks(body)
    async with proxied(echo) as (gateway, _):
        response = await gateway.ask(data)
        assert response.framing == ("chunked" if chunked else "length")
        assert response.body == body


def as_chunks(body: bytes) -> bytes:
    """A chunked body with chunks of an odd size."""
    step = 7919
    parts = [body[at : at + step] for at in range(0, len(body), step)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def resident_bytes() -> int:
    """The memory that this process (client, gateway and upstream in one) takes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def watch_memory(done: asyncio.Event) -> int:
    """How much more memory it took at most until `done`."""
    gc.collect()
    before = most = resident_bytes()
    while not done.is_set():
        most = max(most, resident_bytes())
        try:
            await asyncio.wait_for(done.wait(), 0.005)
        except TimeoutError:
            continue
    return most - before


@pytest.mark.parametrize("way", ["down", "up"])
async def test_64_mib_pass_with_less_than_8_mib_of_memory(way: str) -> None:
    async def script(link: Link) -> None:
        head = await link.head()
        blocks = int(head.target[1:])
        if head.method == b"GET":
            link.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (blocks * len(BLOCK)))
            await pour(link, BLOCK, blocks, None)
        else:
            link.record = False
            whole = len(head.head) + blocks * len(BLOCK)
            await link.until(lambda: link.count >= whole, "the body", 30)
            link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        link.close()

    async with (
        ScriptedUpstream(script) as upstream,
        start_gateway(SVC_URL=upstream.url, MAX_BODY_BYTES=TOTAL * 2) as gateway,
    ):
        await move(gateway, way, 64)
        done = asyncio.Event()
        watching = asyncio.create_task(watch_memory(done))
        await move(gateway, way, BLOCKS)
        done.set()
        assert await watching < 8 * 1024 * 1024


async def move(gateway: RunningGateway, way: str, blocks: int) -> None:
    """One download or upload of so many blocks."""
    size = blocks * len(BLOCK)
    async with gateway.connect(record=False) as client:
        if way == "down":
            client.send(request(b"GET /api/v1/svc/%d" % blocks, b"Connection: close"))
            await client.closed(30)
            assert client.count > size
        else:
            head = request(b"POST /api/v1/svc/%d" % blocks, b"Content-Length: %d" % size)
            client.send(head)
            await pour(client, BLOCK, blocks, None)
            await client.until(lambda: client.count, "the answer", 30)
