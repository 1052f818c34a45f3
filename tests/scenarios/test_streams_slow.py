"""Readers that do not read: they hold nobody up, and what they lose they are told to the event."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
from pathlib import Path

import pytest

from tests.streams import Ledger, event, numbers, post, published, subscribe
from tests.wire import RunningGateway, start_gateway, turn

BIG = "x" * 60_000
TINY = 4096


async def publish_big(gateway: RunningGateway, count: int, first: int = 0) -> list[str]:
    """So many counted events of 60 KB, in lists of five."""
    ids: list[str] = []
    for start in range(first, first + count, 5):
        part = [event({"n": number, "pad": BIG}) for number in range(start, start + 5)]
        ids += await published(gateway, "alice", part)
    return ids


async def test_a_reader_that_falls_off_is_told_how_many_it_lost_and_goes_on() -> None:
    async with (
        start_gateway() as gateway,
        subscribe(gateway) as fast,
        subscribe(gateway, receive_buffer_bytes=TINY) as slow,
    ):
        slow.client.hold()
        reading = asyncio.create_task(fast.events(300))
        ids = await publish_big(gateway, 300)
        assert numbers(await reading) == list(range(300))
        slow.client.release()
        ledger = Ledger()
        ledger.last = f"{ids[0][:8]}-0"
        while ledger.last != ids[-1]:
            ledger.take(await slow.event())
        assert {reset.data["reason"] for reset in ledger.resets} == {"slow"}
        assert ledger.lost + len(ledger.got) == 300
        assert ledger.lost > 100
        sent = await published(gateway, "alice", event("live"))
        assert (await slow.event()).id == sent[0]


async def test_a_reader_that_lags_within_what_is_retained_loses_nothing() -> None:
    async with (
        start_gateway() as gateway,
        subscribe(gateway, receive_buffer_bytes=TINY) as slow,
    ):
        slow.client.hold()
        ids = await publish_big(gateway, 60)
        slow.client.release()
        got = await slow.events(60)
        assert [each.id for each in got] == ids


async def test_the_client_that_fell_off_and_comes_back_with_its_last_id_is_told_as_well() -> None:
    async with start_gateway() as gateway:
        async with subscribe(gateway, receive_buffer_bytes=TINY) as slow:
            slow.client.hold()
            ids = await publish_big(gateway, 150)
        async with subscribe(gateway, after=ids[0]) as again:
            reset = await again.event()
            assert reset.data["reason"] == "trimmed"
            got = await again.event()
            assert reset.data["lost"] == got.seq - 2


async def test_a_slow_reader_with_a_filter_is_never_left_with_a_hole_unsaid() -> None:
    async with (
        start_gateway() as gateway,
        subscribe(gateway, query="types=note", receive_buffer_bytes=TINY) as slow,
    ):
        slow.client.hold()
        ids = await publish_big(gateway, 200)
        slow.client.release()
        ledger = Ledger()
        ledger.last = f"{ids[0][:8]}-0"
        while ledger.last != ids[-1]:
            ledger.take(await slow.event())
        assert ledger.resets


@pytest.mark.parametrize("seed", range(3))
async def test_readers_that_stop_and_go_lose_nothing_unsaid(seed: int) -> None:
    chance = random.Random(seed)
    async with (
        start_gateway(HISTORY_EVENTS=20) as gateway,
        subscribe(gateway, receive_buffer_bytes=TINY) as one,
        subscribe(gateway, receive_buffer_bytes=32768) as two,
        subscribe(gateway) as three,
    ):
        streams = (one, two, three)
        held = dict.fromkeys(streams, False)
        ids: list[str] = []
        for step in range(60):
            for stream in streams:
                if chance.random() < 0.3:
                    held[stream] = not held[stream]
                    (stream.client.hold if held[stream] else stream.client.release)()
            ids += await publish_big(gateway, 5, step * 5)
            await turn(chance.randrange(4))
        for stream in streams:
            stream.client.release()
        for stream in streams:
            ledger = Ledger()
            ledger.last = f"{ids[0][:8]}-0"
            while ledger.last != ids[-1]:
                ledger.take(await stream.event())
            assert ledger.lost + len(ledger.got) == 300
            assert {reset.data["reason"] for reset in ledger.resets} <= {"slow"}


async def test_a_burst_larger_than_the_history_reaches_a_reader_that_keeps_up_whole() -> None:
    async with start_gateway(HISTORY_EVENTS=10) as gateway, subscribe(gateway) as stream:
        ids = await published(gateway, "alice", [event({"n": number}) for number in range(100)])
        ledger = Ledger()
        ledger.last = f"{ids[0][:8]}-0"
        while ledger.last != ids[-1]:
            ledger.take(await stream.event())
        assert not ledger.resets
        assert numbers(ledger.got) == list(range(100))


async def test_lists_one_upon_the_other_reach_a_reader_that_keeps_up_whole() -> None:
    async with (
        start_gateway(HISTORY_EVENTS=10, STREAMS_PER_CLIENT=20) as gateway,
        subscribe(gateway) as stream,
        gateway.connect() as publisher,
    ):
        lists = [[event({"n": 10 * k + number}) for number in range(10)] for k in range(30)]
        publisher.send(b"".join(post("/api/v1/events/alice", each) for each in lists))
        ledger = Ledger()
        while len(ledger.got) < 300:
            ledger.take(await stream.event())
        assert numbers(ledger.got) == list(range(300))
        assert not ledger.resets


def resident_bytes() -> int:
    """The memory that this process takes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def test_many_slow_readers_cost_no_memory_beyond_the_history() -> None:
    async with (
        start_gateway(STREAMS_PER_CLIENT=200) as gateway,
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(60):
            slow = await stack.enter_async_context(subscribe(gateway, receive_buffer_bytes=TINY))
            slow.client.hold()
        await publish_big(gateway, 100)
        gc.collect()
        before = resident_bytes()
        await publish_big(gateway, 200)
        gc.collect()
        # 64 KiB and one frame for each reader, the history's 4 MiB once more, and the tests' own.
        assert resident_bytes() - before < 60 * 2 * 65536 + 8 * 1024 * 1024
