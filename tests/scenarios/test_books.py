"""Whatever becomes of requests, what they took is given back: places in line, at endpoints, of
probes, of retries, connections. Checked when `routed` ends.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.connection import WireClosedError
from tests.routed import Routed, books, routed
from tests.wire import Link, TruncatedError, answer, eventually, request, turn

ROW = """
retries = { attempts = 3, on = ['connect', 'reset', '502', '503', '504'], try_timeout = 0.3 }
hedge_after = 0.02
head_timeout = 0.5
idle_timeout = 0.3
total_timeout = 2
"""
SERVICE = """
max_requests = 12
queue = 10
queue_timeout = 0.3
breaker_failures = 8
breaker_seconds = 0.05
outlier_seconds = 0.05
panic = true
max_connections = 6
sticky = "where"
"""
UPGRADE = (b"Upgrade: websocket", b"Connection: Upgrade")


def moody(seed: int) -> object:
    """An upstream that does with each request what chance says."""
    chance = random.Random(seed)

    async def script(link: Link) -> None:
        while True:
            message = await link.request()
            mood = chance.randrange(9)
            if message.all("upgrade") and mood < 6:
                link.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
                link.send(b"Connection: Upgrade\r\n\r\n")
                await link.closed(60)
                link.close()
                return
            if mood == 0:
                link.reset()
            elif mood == 1:
                link.close()
            elif mood == 2:
                link.send(b"nonsense\r\n\r\n")
            elif mood == 3:
                link.send(answer(b"busy", b"Retry-After: 0", status=b"503 Busy"))
            elif mood == 4:
                link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            elif mood == 5:
                link.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + answer(b"ok"))
            elif mood == 6:
                await link.closed(60)
                link.close()
                return
            else:
                link.send(answer(b"ok"))

    return script


async def visit(at: Routed, chance: random.Random) -> None:
    """A client that asks this or that, and stays for the answer or not."""
    asks = (
        request(b"GET /r/x"),
        request(b"POST /r/x", body=b"b" * 1000),
        request(b"PUT /r/x", body=b"b" * 100_000),
        request(b"PUT /r/x", b"Content-Length: 10") + b"half",
        request(b"GET /r/x", *UPGRADE),
    )
    async with at.connect() as client:
        for _ in range(chance.randrange(1, 4)):
            await turn(chance.randrange(20))
            client.send(chance.choice(asks))
            leaves = chance.randrange(4)
            if leaves == 0:
                await turn(chance.randrange(40))
                client.reset()
                return
            if leaves == 1:
                await turn(chance.randrange(40))
                client.close()
                return
            async with asyncio.timeout(1):
                if (await client.response()).status == 101:
                    return


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_the_books_balance(seed: int) -> None:
    chance = random.Random(seed)
    scripts = [moody(seed * 10 + number) for number in range(3)]
    async with routed(*scripts, row=ROW, service=SERVICE, UPSTREAM_QUEUE=2) as at:

        async def one(number: int) -> None:
            try:
                await visit(at, random.Random(seed * 1000 + number))
            except (TimeoutError, TruncatedError, WireClosedError):
                pass

        for _ in range(3):
            first = chance.randrange(1_000_000)
            await asyncio.gather(*(one(first + number) for number in range(40)))
        await eventually(lambda: not books(at), f"balanced books: {books(at)}")
        assert not any(
            line["level"] == "error" and "status" not in line for line in at.gateway.log()
        )
