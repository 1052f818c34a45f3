"""Connections that come back by themselves, to a real Redis or to something that is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from sse.backplane_link import AWAY, Dialogue, Health, Link, Times, Wire, connections, converse
from sse.backplane_scripts import pinging
from tests.connection import PATIENCE_SECONDS, eventually
from tests.redis_server import RedisServer, redis_server
from tests.sse.gateways import QUICK, Lines

UNKNOWN = b"*1\r\n$7\r\nNONSENS\r\n"


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with redis_server() as started:
        yield started


def test_health_tells_once_when_it_is_lost_and_once_when_it_is_healed() -> None:
    log = Lines()
    health = Health(("a", "b"), log)
    assert health.state["state"] == "degraded"
    health.up("a")
    health.up("b")
    assert health.state == {"state": "healthy", "latency_ms": None, "error": None}
    assert log.events == []
    health.down("a", ConnectionError("x" * 1000))
    health.down("b", TimeoutError())
    health.down("b", "why")
    assert len(str(health.state["error"])) < 300
    health.up("a")
    assert health.state["error"] == "b: why"
    health.up("b")
    assert log.events == ["backplane lost", "backplane healed"]


class Served:
    """A link, and what its connections did."""

    def __init__(self, url: str, times: Times = QUICK) -> None:
        self.log = Lines()
        self.health = Health(("part",), self.log)
        self.wires = 0
        self.changes: list[bool] = []
        self.error: Exception | None = None
        connect, _ = connections(url)
        self.link = Link("part", connect, self._serve, self._changed, self.health, times, self.log)

    async def _serve(self, wire: Wire) -> None:
        self.wires += 1
        self.link.ready()
        self.health.up("part")
        if self.error is not None:
            raise self.error
        await converse(wire, self._talk)

    async def _talk(self, dialogue: Dialogue) -> None:
        await asyncio.get_running_loop().create_future()

    def _changed(self) -> None:
        self.changes.append(self.link.is_away)

    async def __aenter__(self) -> Served:
        self.link.start()
        await self.link.settled.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.link.close()


async def test_a_cut_connection_is_made_again_at_once(server: RedisServer) -> None:
    async with Served(server.url) as served:
        assert repr(served.link) == "<Link part ready>"
        await server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await eventually(lambda: served.wires == 2)
        assert served.changes == [False]
        assert served.health.state["state"] == "healthy"


async def test_a_redis_that_is_not_there_is_away_until_it_is(server: RedisServer) -> None:
    await server.stop()
    async with Served(server.url) as served:
        assert repr(served.link) == "<Link part away>"
        await eventually(lambda: len(served.changes) > 3)
        assert all(served.changes)
        await server.start()
        await eventually(lambda: served.link.is_ready)
        assert served.log.events == ["backplane lost", "backplane healed"]


async def test_a_mistake_of_our_own_is_logged_and_tried_again(server: RedisServer) -> None:
    async with Served(server.url) as served:
        served.error = RuntimeError("a mistake")
        await server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await eventually(lambda: served.wires > 3)
        assert "backplane task failed" in served.log.events
        served.error = None
        await eventually(lambda: served.health.state["state"] == "healthy")


async def test_closing_a_link_that_never_started_does_nothing(server: RedisServer) -> None:
    served = Served(server.url)
    await served.link.close()
    assert repr(served.link) == "<Link part connecting>"


async def spoken(server: RedisServer, talk: Any) -> None:
    """Runs `talk` over a connection of its own."""
    connect, _ = connections(server.url)
    wire = connect("test")
    await wire.connect()
    try:
        await converse(wire, talk)
    finally:
        await wire.disconnect(nowait=True)


async def test_answers_come_to_who_asked_and_errors_too(server: RedisServer) -> None:
    async def talk(dialogue: Dialogue) -> None:
        unknown, known = dialogue.expect(), dialogue.expect()
        dropped = dialogue.expect()
        dropped.cancel()
        await dialogue.send(UNKNOWN + pinging() + UNKNOWN)
        with pytest.raises(ResponseError):
            await unknown
        assert await known == b"PONG"
        assert await dialogue.ask(pinging(), 5) == b"PONG"

    await spoken(server, talk)


async def test_an_answer_that_nobody_asked_for_ends_the_connection(server: RedisServer) -> None:
    async def talk(dialogue: Dialogue) -> None:
        await dialogue.send(pinging())
        await asyncio.get_running_loop().create_future()

    with pytest.raises(ExceptionGroup) as caught:
        await spoken(server, talk)
    assert caught.group_contains(ConnectionError)


async def test_an_answer_that_does_not_come_is_a_time_out(server: RedisServer) -> None:
    async def talk(dialogue: Dialogue) -> None:
        server.hang()
        await dialogue.ask(pinging(), 0.05)

    with pytest.raises(ExceptionGroup) as caught:
        await spoken(server, talk)
    assert caught.group_contains(TimeoutError)
    server.resume()


async def life_of(server: RedisServer) -> bytes:
    lives: list[bytes] = []

    async def talk(dialogue: Dialogue) -> None:
        lives.append(await dialogue.ask_life(5))

    await spoken(server, talk)
    return lives[0].split()[1]


async def test_a_restart_is_a_new_life_unless_everything_was_written_down() -> None:
    for appendonly in (True, False):
        async with redis_server(appendonly=appendonly) as started:
            first = await life_of(started)
            await started.call("CONFIG", "SET", "appendfsync", "everysec")
            assert await life_of(started) == first
            await started.stop(kill=True)
            await started.start()
            assert (await life_of(started) == first) == appendonly
            assert await life_of(started) == await life_of(started)


async def test_a_promoted_replica_is_a_new_life() -> None:
    async with redis_server(appendonly=True) as primary, redis_server(appendonly=True) as replica:
        await replica.call("REPLICAOF", "127.0.0.1", primary.port)
        first = await life_of(primary)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await replica.call("GET", "gateway:life") is None:
                pass
        await replica.call("REPLICAOF", "NO", "ONE")
        assert await life_of(replica) != first
        assert await life_of(primary) == first


@pytest.mark.parametrize("forbidden", ["-info", "-config"])
async def test_who_may_not_ask_for_the_life_of_redis_goes_on_without(
    server: RedisServer, forbidden: str
) -> None:
    await server.call("ACL", "SETUSER", "shy", "on", ">x", "~*", "&*", "+@all", forbidden)

    async def talk(dialogue: Dialogue) -> None:
        told = await dialogue.ask_life(5)
        assert (told == b"? ? ?") == (forbidden == "-info")
        assert await dialogue.ask_life(5) == told

    connect, database = connections(server.url.replace("//", "//shy:x@").replace("/0", "/3"))
    assert database == 3
    wire = connect("test")
    await wire.connect()
    try:
        await converse(wire, talk)
    finally:
        await wire.disconnect(nowait=True)


@pytest.mark.parametrize(
    "url", ["redis://:secret@host:nowhere/0", "redis://h/0?nonsense=secret", "http://secret/"]
)
def test_a_url_that_cannot_be_read_is_refused_without_a_word_of_it(url: str) -> None:
    with pytest.raises(ValueError, match="can't be read") as caught:
        connections(url)
    assert "secret" not in repr(caught.value)
    assert caught.value.__suppress_context__


def test_connections_speak_the_old_protocol_whatever_the_url_says() -> None:
    connect, database = connections("redis://localhost/2?protocol=3&decode_responses=yes")
    wire: Any = connect("reading")
    assert (wire.protocol, wire.client_name, database) == (2, "gateway-reading", 2)
    assert wire.encoder.decode_responses is False
    connect, database = connections("unix:///run/redis.sock?db=4")
    assert database == 4
    connect, database = connections("rediss://localhost")
    assert database == 0


def test_what_redis_raises_when_it_is_away_is_known() -> None:
    for error in (RedisConnectionError(), ConnectionResetError(), TimeoutError()):
        assert isinstance(error, AWAY)
