"""Nothing is lost: readers that leave in every way and come back, gateways and Redis that die.

Every reader keeps a ledger: what it got must follow its last id without a hole and without a
repetition, and a hole must have been told by a reset to the last event. The chances are seeded.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from asyncio import FIRST_EXCEPTION
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from tests.connection import PATIENCE_SECONDS
from tests.messages import Message
from tests.processes import Running
from tests.redis_server import RedisServer, redis_server
from tests.streams import CutError, Door, Ledger, Remote, event, get, publish, raw_stream
from tests.wire import eventually, start_gateway, turn

CLIENT = "alice"
END = "test.end"
ROOM = {"STREAMS_PER_CLIENT": "5000", "STREAMS_PER_ADDRESS": "5000"}


@dataclass
class Run:
    """One run: the gateways that live, what was published, who reads."""

    chance: random.Random
    doors: list[Door]
    ids: list[str] = field(default_factory=list)
    payloads: list[int] = field(default_factory=list)
    reconnects: int = 0
    abandoned: list[contextlib.AsyncExitStack] = field(default_factory=list)

    def door(self) -> Door:
        """One of the gateways."""
        return self.chance.choice(self.doors)


class Reader:
    """A subscriber that leaves at random and comes back with its last id."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.ledger = Ledger()

    async def live(self) -> None:
        """Reads, leaves and comes back until it has the last event of the run."""
        while not self.complete:
            try:
                await self.visit()
            except (CutError, ConnectionError, EOFError):
                await turn(5)  # a gateway went away: another one, or the same when it is back
            self.run.reconnects += 1

    @property
    def complete(self) -> bool:
        """Whether nothing more can come."""
        return bool(self.ledger.got) and self.ledger.got[-1].type == END

    async def visit(self) -> None:
        """One connection."""
        chance = self.run.chance
        stack = contextlib.AsyncExitStack()
        half_open = False
        try:
            data = get(CLIENT, after=self.ledger.last)
            stream = await stack.enter_async_context(raw_stream(self.run.door(), data))
            first = await stream.event()
            assert first.type == "connection.established"
            self.ledger.take(first)
            if self.ledger.last is None:
                self.ledger.last = f"{first.data['epoch']}-0"
            for _ in range(chance.choice((0, 1, 3, 10, 40))):
                if self.complete:
                    return
                self.ledger.take(await stream.event())
            how = chance.randrange(3)
            if how == 0:
                stream.client.close()
            elif how == 1:
                stream.client.reset()
            else:
                half_open = True
                stream.client.hold()  # the other side can't know
        finally:
            if half_open:
                self.run.abandoned.append(stack)
            else:
                await stack.aclose()


async def publish_surely(run: Run, numbers: Sequence[int], event_type: str = "note") -> None:
    """One list, asked for again with its key until some gateway accepted it."""
    body = [event({"n": number}, event_type) for number in numbers]
    key = b"Idempotency-Key: list-%d" % numbers[0]
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with contextlib.suppress(ConnectionError):
                response: Message = await publish(run.door(), CLIENT, body, key)
                if response.status == 202:
                    break
                assert response.status in (409, 503), (response.start, response.body)
            await turn(20)
    run.ids += response.json()["ids"]
    run.payloads += numbers


async def publish_until(run: Run, enough: Callable[[], bool], largest: int = 5) -> None:
    """Lists of random length until it is enough."""
    while not enough():
        first = len(run.payloads)
        await publish_surely(run, range(first, first + run.chance.randint(1, largest)))
        await turn(run.chance.randrange(4))


@contextlib.asynccontextmanager
async def readers(run: Run, count: int) -> AsyncIterator[list[Reader]]:
    """So many readers; at the end of the block the run is done and all of them complete."""
    found = [Reader(run) for _ in range(count)]
    tasks = [asyncio.create_task(reader.live()) for reader in found]
    try:
        await eventually(
            lambda: all(r.ledger.last for r in found) or any(t.done() for t in tasks), "the readers"
        )
        yield found
        await publish_surely(run, [len(run.payloads)], END)
        await finished(found, tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for stack in run.abandoned:
            await stack.aclose()


async def finished(found: list[Reader], tasks: list[asyncio.Task[None]]) -> None:
    """Until all have read to the end: as long as any of them gets on, they are only slow."""
    left = set(tasks)
    got = -1
    while left:
        before, got = got, sum(len(reader.ledger.got) for reader in found)
        assert got > before, "the readers stand still"
        done, left = await asyncio.wait(left, timeout=PATIENCE_SECONDS, return_when=FIRST_EXCEPTION)
        for task in done:
            task.result()


def judge(run: Run, found: list[Reader]) -> None:
    """Everything published was got once, or a reset told of it."""
    assert len(set(run.ids)) == len(run.ids)
    for reader in found:
        got = [each.data["n"] for each in reader.ledger.got]
        assert len(set(got)) == len(got), "doubled"
        assert len(got) + reader.ledger.lost == len(run.payloads)
        if not reader.ledger.resets:
            assert got == run.payloads
            assert [each.id for each in reader.ledger.got] == run.ids


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_thousand_reconnects_lose_and_double_nothing(seed: int) -> None:
    environ = ROOM | {"HISTORY_EVENTS": "100000"}
    async with start_gateway(**environ) as gateway:
        run = Run(random.Random(seed), [gateway])
        async with readers(run, 40) as found:
            await publish_until(run, lambda: run.reconnects >= 1000)
        assert run.reconnects >= 1000
        assert not any(reader.ledger.resets for reader in found)
        judge(run, found)


@pytest.mark.parametrize("seed", [3, 4])
async def test_with_a_short_history_every_loss_is_told_to_the_event(seed: int) -> None:
    environ = ROOM | {"HISTORY_EVENTS": "15"}
    async with start_gateway(**environ) as gateway:
        run = Run(random.Random(seed), [gateway])
        async with readers(run, 30) as found:
            await publish_until(run, lambda: run.reconnects >= 500, 12)
        resets = [reset for reader in found for reset in reader.ledger.resets]
        assert {reset.data["reason"] for reset in resets} <= {"trimmed", "slow"}
        assert resets, "the history was too long for this test"
        judge(run, found)


def environment(redis: RedisServer, **extra: str) -> dict[str, str]:
    """The settings of a gateway process."""
    settings = {"REDIS_URL": redis.url, "HISTORY_EVENTS": "100000", "ACCESS_LOG": "off"}
    return ROOM | settings | {"RATE_LIMIT": "off", "LOG_LEVEL": "info"} | extra


@contextlib.asynccontextmanager
async def gateways(
    count: int, redis: RedisServer, directory: object, **extra: str
) -> AsyncIterator[list[Running]]:
    """Gateway processes over one Redis; those that a test adds are ended too."""
    processes: list[Running] = []
    try:
        for number in range(count):
            state = f"{directory}/state-{number}"
            processes.append(Running(**environment(redis, STATE_DIR=state, **extra)))
        yield processes
    finally:
        for process in processes:
            process.__exit__(None, None, None)


async def listening(process: Running) -> Remote:
    """Its door, when it is open."""
    return Remote(await asyncio.to_thread(process.port))


def killed(process: Running) -> None:
    """SIGKILL."""
    process.process.kill()
    process.process.wait()


async def written_through(redis: RedisServer) -> None:
    """What Redis has accepted is in its file: by default it is up to 2 s behind its answers."""
    await redis.call("CONFIG", "SET", "appendfsync", "always")


async def more(run: Run, count: int) -> None:
    """So many more events."""
    enough = len(run.payloads) + count
    await publish_until(run, lambda: len(run.payloads) >= enough)


async def test_gateways_killed_in_turn_lose_and_double_nothing(tmp_path: object) -> None:
    async with redis_server() as redis, gateways(2, redis, tmp_path) as processes:
        doors: list[Door] = [await listening(process) for process in processes]
        run = Run(random.Random(5), doors)
        async with readers(run, 20) as found:
            await more(run, 100)
            for victim in (0, 1):
                killed(processes[victim])
                await more(run, 100)  # the dead one's door is still knocked at
                state = f"{tmp_path}/state-{victim}"
                processes.append(Running(**environment(redis, STATE_DIR=state)))
                run.doors[victim] = await listening(processes[-1])
                await more(run, 100)
        assert not any(reader.ledger.resets for reader in found)
        judge(run, found)


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
async def test_a_redis_that_comes_back_with_its_data_loses_and_doubles_nothing(
    tmp_path: object, kill: bool
) -> None:
    async with (
        redis_server(appendonly=True) as redis,
        gateways(2, redis, tmp_path) as processes,
    ):
        run = Run(random.Random(6), [await listening(process) for process in processes])
        async with readers(run, 20) as found:
            for _ in range(2):
                await written_through(redis)
                await more(run, 100)
                await redis.stop(kill=kill)
                waiting = asyncio.create_task(more(run, 100))
                await redis.start()
                await asyncio.wait_for(waiting, PATIENCE_SECONDS)
        assert not any(reader.ledger.resets for reader in found)
        judge(run, found)


async def test_a_redis_that_comes_back_empty_is_told_as_another_epoch_and_then_nothing_is_lost(
    tmp_path: object,
) -> None:
    async with redis_server() as redis, gateways(2, redis, tmp_path) as processes:
        run = Run(random.Random(7), [await listening(process) for process in processes])
        async with readers(run, 20) as found:
            await more(run, 100)
            await redis.stop(kill=True)
            waiting = asyncio.create_task(more(run, 50))
            await redis.start()
            await asyncio.wait_for(waiting, PATIENCE_SECONDS)
            await more(run, 100)
        epochs = list(dict.fromkeys(each.split("-")[0] for each in run.ids))
        assert len(epochs) == 2, epochs
        last = [each for each in run.ids if each.startswith(epochs[1])]
        for reader in found:
            assert {reset.data["reason"] for reset in reader.ledger.resets} == {"epoch"}
            got = [str(each.id) for each in reader.ledger.got]
            assert len(set(got)) == len(got)
            assert [each for each in got if each.startswith(epochs[1])] == last
            before = [each for each in got if each.startswith(epochs[0])]
            assert before == run.ids[: len(before)]


async def test_a_stream_that_stays_open_lives_through_all_of_it(tmp_path: object) -> None:
    async with (
        redis_server(appendonly=True) as redis,
        gateways(2, redis, tmp_path) as processes,
    ):
        doors: list[Door] = [await listening(process) for process in processes]
        run = Run(random.Random(8), [doors[0]])
        async with raw_stream(doors[1], get(CLIENT)) as stream:
            first = await stream.event()
            ledger = Ledger()
            ledger.last = f"{first.data['epoch']}-0"
            await written_through(redis)
            await more(run, 30)
            await redis.stop(kill=True)
            waiting = asyncio.create_task(more(run, 30))
            await redis.start()
            await asyncio.wait_for(waiting, PATIENCE_SECONDS)
            killed(processes[0])
            run.doors[:] = [doors[1]]
            await more(run, 30)
            while ledger.last != run.ids[-1]:
                ledger.take(await stream.event())
            assert not ledger.resets
            assert [each.data["n"] for each in ledger.got] == run.payloads


async def test_an_id_that_another_gateway_gave_is_never_taken_for_one_of_the_future() -> None:
    """What a gateway has not heard of yet is not beyond the newest: the history in Redis is."""
    async with (
        redis_server() as redis,
        start_gateway(REDIS_URL=redis.url) as here,
        start_gateway(REDIS_URL=redis.url) as there,
        raw_stream(there, get(CLIENT)) as watching,
    ):
        assert (await watching.event()).type == "connection.established"
        for number in range(25):
            await redis.call("CLIENT", "KILL", "TYPE", "pubsub")
            response = await publish(here, CLIENT, event({"n": number}))
            newest = response.json()["ids"][-1]
            async with raw_stream(there, get(CLIENT, after=newest)) as stream:
                first = await stream.event()
                assert first.data["resumed"] is True, (number, first)
                await publish(here, CLIENT, event({"mark": number}))
                got = await stream.event()
                assert got.data == {"mark": number}, got
