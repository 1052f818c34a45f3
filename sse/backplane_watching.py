"""The histories that somebody reads here: heard of by nudges, loaded from Redis where those fall
short. How far each is, is in `backplane_watched.py`.

A gap, another epoch or a lost connection leads to loading the history; a silent minute leads to a
look at where it stands.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final, TypeVar

from sse.backplane_link import Dialogue, Health, Link, Log, Times, Wire, converse, read
from sse.backplane_publishing import LocalHub
from sse.backplane_scripts import (
    LOAD,
    VISIT,
    Place,
    calling,
    histories,
    loading,
    nudge,
    pinging,
    places,
    subscribing,
    visits,
)
from sse.backplane_watched import State, Watched
from sse.ring import HistoryLimits

_Item = TypeVar("_Item")

LISTENING: Final = "listening"
READING: Final = "reading"
# Client ids in one command: each is some 3 µs of Redis's time to subscribe, 6 to visit.
SUBSCRIBE_IDS: Final = 512
VISIT_IDS: Final = 256
# How often readers that are ahead can have a load under way begun anew.
VERIFY_TIMES: Final = 3
# What one LOAD answers at most, unless a single history is larger.
LOAD_BYTES: Final = 1 << 20
# How long an end waits for the last visits.
CLOSE_SECONDS: Final = 1.0
# Client ids looked at in one go by the timer: about 0.5 ms.
SLICE: Final = 1000


class Watching:
    """All client ids with readers here, and the two connections that keep them up to date."""

    def __init__(
        self,
        hub: LocalHub,
        limits: HistoryLimits,
        connect: Callable[[str], Wire],
        channel: bytes,
        gateway: bytes,
        health: Health,
        times: Times,
        log: Log,
        replaced: Callable[[str], None],
    ) -> None:
        """`replaced` is told of client ids whose history here has become Redis's."""
        self._hub = hub
        self._limits = limits
        self._channel = channel
        self._gateway = gateway
        self._health = health
        self._times = times
        self._replaced = replaced
        self._watched: dict[str, Watched] = {}
        self._changed: dict[str, None] = {}  # watched or no longer: Redis is to be told
        self._told = asyncio.Event()
        self._unconfirmed: dict[str, int] = {}  # SUBSCRIBE sent on this connection, how often
        self._due: dict[str, None] = {}  # to be visited
        self._work = asyncio.Event()
        self._rested = asyncio.Event()  # nothing is due
        self._joining: deque[tuple[float, Watched]] = deque()  # until when their readers wait
        self._recovering: set[str] = set()  # not live again since the connection was lost
        self._heard_at = 0.0
        self._progress_at = -math.inf  # when Redis last told of a history
        self._life = b""  # of the Redis that is connected to
        self._tick_seconds = min(times.tick, limits.seconds / 3)
        self._visit_seconds = min(times.silent, limits.seconds / 3)
        self._listener = Link(LISTENING, connect, self._listen, self._lost, health, times, log)
        self._reader = Link(READING, connect, self._read, self._lost, health, times, log)

    def __repr__(self) -> str:
        return f"<Watching {len(self._watched)} {self._listener!r} {self._reader!r}>"

    @property
    def settled(self) -> list[asyncio.Event]:
        """Set when it is known whether Redis is there."""
        return [self._listener.settled, self._reader.settled]

    def start(self) -> None:
        """Connect."""
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._listener.start()
        self._reader.start()

    async def close(self) -> None:
        """End, after the gateways that stay were told of the readers that left."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._due and self._reader.is_ready:
                    self._rested.clear()
                    await self._rested.wait()
        except TimeoutError:
            pass
        await self._listener.close()
        await self._reader.close()

    def watch(self, client_id: str) -> None:
        """The first reader came: its history is replaced, or it goes local."""
        watched = self._watched[client_id] = Watched(client_id)
        self._change(client_id)
        self._let_in(watched)

    def verify(self, client_id: str) -> None:
        """A reader names an event that is not known here, as another gateway may be ahead: the
        history is loaded again and replaced, or it goes local.
        """
        watched = self._watched.get(client_id)
        if watched is None:
            return
        watched.parked = True
        # A history that is being loaded may have been read before that event was published; in a
        # storm of readers one that was asked for after some of them must do.
        watched.verified += 1
        if watched.state is not State.SUBSCRIBING and watched.verified <= VERIFY_TIMES:
            self._begin_loading(watched)
        self._let_in(watched)

    def _let_in(self, watched: Watched) -> None:
        """See to it that readers do not wait for ever."""
        if self._is_away:
            self._loop.call_soon(self._go_local, watched)
            return
        if not self._joining:
            self._loop.call_later(self._times.join, self._overdue)
        self._joining.append((self._now() + self._times.join, watched))

    def unwatch(self, client_id: str) -> None:
        """The last reader left."""
        if self._watched.pop(client_id, None) is not None:
            self._change(client_id)
            self._recovered(client_id)
            self._visit_soon(client_id)

    def went_local(self, client_id: str) -> None:
        """The history here is this gateway's own for now."""
        watched = self._watched.get(client_id)
        if watched is not None:
            watched.epoch = ""

    def heal(self, client_id: str) -> None:
        """Load the history again."""
        watched = self._watched.get(client_id)
        if watched is not None and watched.state is State.LIVE:
            self._begin_loading(watched)

    @property
    def _is_away(self) -> bool:
        return self._listener.is_away or self._reader.is_away

    # Readers that wait

    def _overdue(self) -> None:
        now = self._now()
        for _ in range(len(self._joining)):
            if self._joining[0][0] > now:
                break
            _, watched = self._joining.popleft()
            waits = watched.parked and self._watched.get(watched.client_id) is watched
            if waits and now - self._progress_at < self._times.join and watched.patience:
                # Redis is busy, but it works: better late than with less than there is.
                watched.patience -= 1
                self._joining.append((now + self._times.join, watched))
            else:
                self._go_local(watched)
        if self._joining:
            self._loop.call_later(self._joining[0][0] - now, self._overdue)

    def _go_local(self, watched: Watched) -> None:
        if watched.parked and self._watched.get(watched.client_id) is watched:
            watched.parked = False
            self._hub.go_local(watched.client_id)

    def _lost(self) -> None:
        """A connection was lost, or another could not be made."""
        if self._is_away:
            for watched in list(self._watched.values()):
                self._go_local(watched)

    # The connection that listens

    async def _listen(self, wire: Wire) -> None:
        self._unconfirmed.clear()
        for watched in self._watched.values():
            watched.state = State.SUBSCRIBING
            watched.turn += 1
            watched.held.clear()
        self._recovering = set(self._watched)
        self._changed = dict.fromkeys(self._watched)
        self._told.set()
        self._heard_at = self._now()
        self._listener.ready()
        self._recovered("")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tell(wire))
            tasks.create_task(self._keep_alive(wire))
            await self._hear(wire)

    async def _hear(self, wire: Wire) -> None:
        heard = 0
        while True:
            message = await read(wire)
            self._heard_at = self._now()
            if type(message) is not list:
                continue
            if message[0] == b"message":
                heard += self._nudged(self._id_of(message[1]), message[2])
                if heard >= self._limits.events:
                    # What was written can leave before the rings go round.
                    heard = 0
                    await asyncio.sleep(0)
            elif message[0] == b"subscribe":
                self._confirmed(self._id_of(message[1]))

    def _id_of(self, channel: bytes) -> str:
        return channel[len(self._channel) :].decode()

    async def _tell(self, wire: Wire) -> None:
        """SUBSCRIBE and UNSUBSCRIBE what has changed, all of a turn of the loop together."""
        while True:
            await self._told.wait()
            self._told.clear()
            begun, ended = [], []
            changed, self._changed = self._changed, {}
            for client_id in changed:
                channel = self._channel + client_id.encode()
                watched = self._watched.get(client_id)
                if watched is None:
                    ended.append(channel)
                elif watched.state is State.SUBSCRIBING:
                    self._unconfirmed[client_id] = self._unconfirmed.get(client_id, 0) + 1
                    begun.append(channel)
            commands = [subscribing(some, ends=True) for some in _chunks(ended, SUBSCRIBE_IDS)]
            commands += [subscribing(some) for some in _chunks(begun, SUBSCRIBE_IDS)]
            if commands:
                await wire.send_packed_command(b"".join(commands), check_health=False)

    async def _keep_alive(self, wire: Wire) -> None:
        """A connection that is cut in between says nothing: ask, and wait no longer than that."""
        while True:
            await asyncio.sleep(self._tick_seconds)
            silent = self._now() - self._heard_at
            if silent > self._times.answer + self._tick_seconds:
                raise TimeoutError("nothing heard")
            await wire.send_packed_command(pinging(), check_health=False)

    def _confirmed(self, client_id: str) -> None:
        missing = self._unconfirmed.pop(client_id, 1) - 1
        if missing:
            self._unconfirmed[client_id] = missing
            return
        watched = self._watched.get(client_id)
        if watched is not None and watched.state is State.SUBSCRIBING:
            self._begin_loading(watched)

    def _nudged(self, client_id: str, payload: bytes) -> int:
        """How many events it brought."""
        watched = self._watched.get(client_id)
        if watched is None or watched.state is State.SUBSCRIBING:
            return 0
        watched.heard_at = self._now()
        try:
            epoch, first, bodies = nudge(payload)
        except ValueError:
            self.heal(client_id)
            return 0
        if watched.state is State.LIVE:
            self._deliver(watched, epoch, first, bodies)
        else:
            watched.held.append((epoch, first, bodies))
            while sum(len(held[2]) for held in watched.held) > self._limits.events:
                watched.held.popleft()  # the history that is being loaded has no room for it
        return len(bodies)

    def _deliver(self, watched: Watched, epoch: str, first: int, bodies: Sequence[bytes]) -> None:
        if not self._hub.deliver(watched.client_id, epoch, first, bodies):
            self._begin_loading(watched)
        elif epoch == watched.epoch:
            watched.seq = max(watched.seq, first + len(bodies) - 1)

    # The connection that reads histories

    async def _read(self, wire: Wire) -> None:
        await converse(wire, self._talk)

    async def _talk(self, dialogue: Dialogue) -> None:
        for script in (VISIT, LOAD):
            await dialogue.ask(loading(script), self._times.answer)
        self._life = await dialogue.ask_life(self._times.answer)
        self._reader.ready()
        self._health.up(READING)
        for client_id, watched in self._watched.items():
            if watched.state is State.LOADING:
                self._due[client_id] = None  # perhaps asked for on the connection that was lost
        tick_at = 0.0
        while True:
            if self._now() >= tick_at:
                tick_at = self._now() + self._tick_seconds
                await self._look_round(dialogue)
            if not self._due:
                self._rested.set()
                self._work.clear()
                try:
                    async with asyncio.timeout_at(tick_at):
                        await self._work.wait()
                except TimeoutError:
                    continue
            await self._visit(dialogue, list(islice(self._due, VISIT_IDS)))

    async def _look_round(self, dialogue: Dialogue) -> None:
        """Find out how far away Redis is, and who was not visited for long."""
        asked_at = self._now()
        await dialogue.ask(pinging(), self._times.answer)
        self._health.latency_ms = round((self._now() - asked_at) * 1000, 3)
        before = self._now() - self._visit_seconds
        for some in _chunks(list(self._watched.values()), SLICE):
            for watched in some:
                if (
                    watched.visited_at < before
                    or max(1, self._hub.subscribers(watched.client_id)) != watched.readers
                ) and self._watched.get(watched.client_id) is watched:
                    self._due[watched.client_id] = None
            await asyncio.sleep(0)

    async def _visit(self, dialogue: Dialogue, client_ids: Sequence[str]) -> None:
        """Ask where some histories stand, and load those that stand elsewhere here."""
        asked: list[tuple[Watched | None, int]] = []
        readers: list[tuple[str, int]] = []
        for client_id in client_ids:
            del self._due[client_id]
            watched = self._watched.get(client_id)
            asked.append((watched, 0 if watched is None else watched.turn))
            count = 0 if watched is None else max(1, self._hub.subscribers(client_id))
            readers.append((client_id, count))
        ttl_ms, counts_ms = int(self._limits.seconds * 1000), int(self._times.counts * 1000)
        command = calling(VISIT, self._gateway, ttl_ms, counts_ms, self._life, *visits(readers))
        try:
            reply = await dialogue.ask(command, self._times.answer)
        except BaseException:
            self._due.update(dict.fromkeys(client_ids))
            raise
        self._progress_at = self._now()
        wanted: list[tuple[Watched, int]] = []
        for (watched, turn), place, (_, count) in zip(asked, places(reply), readers, strict=True):
            if watched is not None and self._watched.get(watched.client_id) is watched:
                watched.visited_at, watched.readers = self._now(), count
                if watched.turn == turn and self._is_behind(watched, place):
                    wanted.append((watched, place.size_bytes))
        for some in _by_size(wanted, LOAD_BYTES):
            await self._load(dialogue, some)

    def _is_behind(self, watched: Watched, place: Place) -> bool:
        """Whether its history must be loaded; takes what can be said without that."""
        if watched.state is State.SUBSCRIBING:
            return False
        same = (place.epoch, place.seq) == (watched.epoch, watched.seq)
        if watched.state is State.LIVE:
            # While it talks the nudges tell; this one may have overtaken the next.
            if same or self._now() - watched.heard_at < self._visit_seconds:
                return False
            self._begin_loading(watched)
            del self._due[watched.client_id]
        elif same and not watched.parked:
            self._go_live(watched)
            return False
        if place.size_bytes == 0:
            self._replace(watched, place.epoch, place.seq + 1, (), place.seq)
            return False
        return True

    async def _load(self, dialogue: Dialogue, some: Sequence[Watched]) -> None:
        asked = [(watched, watched.turn) for watched in some]
        command = calling(LOAD, *(watched.client_id.encode() for watched in some))
        reply = await dialogue.ask(command, self._times.answer)
        self._progress_at = self._now()
        for (watched, turn), history in zip(asked, histories(reply), strict=True):
            if self._watched.get(watched.client_id) is not watched or watched.turn != turn:
                continue
            if not history.epoch:  # forgotten since it was visited
                self._visit_soon(watched.client_id)
                continue
            epoch, first, bodies, last = history
            self._replace(watched, epoch, first, bodies, last)

    # States

    def _begin_loading(self, watched: Watched) -> None:
        watched.state = State.LOADING
        watched.turn += 1
        watched.held.clear()
        self._visit_soon(watched.client_id)

    def _replace(
        self, watched: Watched, epoch: str, first: int, bodies: Sequence[bytes], last: int
    ) -> None:
        watched.epoch, watched.seq = epoch, last
        watched.parked = False
        self._replaced(watched.client_id)
        self._hub.replace(watched.client_id, epoch, first, bodies, last)
        self._go_live(watched)

    def _go_live(self, watched: Watched) -> None:
        watched.state = State.LIVE
        watched.verified = 0
        held, watched.held = watched.held, deque()
        for epoch, first, bodies in held:
            if watched.state is State.LIVE:
                self._deliver(watched, epoch, first, bodies)
        if watched.state is State.LIVE:
            self._recovered(watched.client_id)

    def _recovered(self, client_id: str) -> None:
        """One less to be healed since the connection was lost."""
        self._recovering.discard(client_id)
        if not self._recovering and self._listener.is_ready:
            self._health.up(LISTENING)

    def _change(self, client_id: str) -> None:
        self._changed[client_id] = None
        self._told.set()

    def _visit_soon(self, client_id: str) -> None:
        self._due[client_id] = None
        self._work.set()


def _chunks(items: Sequence[_Item], size: int) -> Iterable[Sequence[_Item]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _by_size(wanted: Sequence[tuple[Watched, int]], most_bytes: int) -> Iterable[Sequence[Watched]]:
    """In order, some at a time that weigh no more than that together, or a single one."""
    some: list[Watched] = []
    total = 0
    for watched, size_bytes in wanted:
        if some and total + size_bytes > most_bytes:
            yield some
            some, total = [], 0
        some.append(watched)
        total += size_bytes
    if some:
        yield some
