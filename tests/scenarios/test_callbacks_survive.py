"""Callbacks survive: of two gateways on one database one is killed while it sends, or stands still.
The other sends the same again as soon as nobody keeps the lease, and it is told of once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import free_port
from tests.questions import answer, asked, look, recorded, what
from tests.scenarios.job_house import ENVIRON, Place, Process, Reply, Services
from tests.scenarios.mortal_house import kill
from tests.streams import Remote, who

SECONDS = 50.0
"""For what is sent again; it would be a minute if leases were as long as they were once."""
OPS = who("ops", scope="questions:ask")
ALICE = who("alice")


class Two:
    """Two gateways with one STATE_DIR, and a receiver of callbacks."""

    def __init__(self, directory: Path, services: Services) -> None:
        self.place = Place(services, "/hook")
        self.services = services
        self.doors: list[Remote] = []
        self.processes: list[Process] = []
        names = ENVIRON | {"STATE_DIR": str(directory / "state")}
        for number in (1, 2):
            port = free_port()
            self.processes.append(Process(directory, f"gateway-{number}", PORT=str(port), **names))
            self.doors.append(Remote(port))

    def start(self) -> None:
        """Returns when both serve."""
        for process, door in zip(self.processes, self.doors, strict=True):
            process.answers(
                door.address[1], "/health/ready", lambda said: said["status"] == "ready"
            )

    async def decided(self) -> tuple[str, int]:
        """A question that was answered, and which of the gateways sends what is to be told of it:
        it has begun, and waits for the receiver.
        """
        url = f"{self.services.url}/svc{self.place('/told')}"
        question = await asked(self.doors[0], OPS, callback_url=url)
        question_id: str = question["question_id"]
        recorded(await answer(self.doors[0], question_id, "yes", ALICE))
        await asyncio.to_thread(self.place.until, "/told")
        # The one that took the answer was woken; a sweep of the other may still have been faster.
        (sender,) = [
            number
            for number, process in enumerate(self.processes)
            if sockets_to(process.process.pid, self.services)
        ]
        return question_id, sender

    def told(self) -> list[tuple[str, bytes]]:
        """What the receiver was told: ids and bodies."""
        return [(each.headers["webhook-id"], each.body) for each in self.place.seen("/told")]


def sockets_to(pid: int, services: Services) -> bool:
    """Whether a process has a connection to the services (Linux: by the inodes of its sockets)."""
    port = f":{int(services.url.rpartition(':')[2]):04X} 01"
    lines = Path("/proc/net/tcp").read_text().splitlines()
    inodes = {line.split()[9] for line in lines if port in line}
    found = set[str]()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(entry.readlink()))
    return any(f"socket:[{inode}]" in found for inode in inodes)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    services = Services()
    made = Two(tmp_path, services)
    try:
        made.start()
        yield made
    finally:
        services.close()
        for process in made.processes:
            kill(process)


async def becomes(good: Callable[[], Any], what: str) -> None:
    """Waits until it is so."""
    end = time.monotonic() + SECONDS
    while not good():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.05)


async def trail(door: Remote, question_id: str, entry: str) -> list[str]:
    """The audit trail, as soon as it has such an entry."""
    end = time.monotonic() + SECONDS
    while entry not in (found := what(await look(door, question_id, OPS))):
        assert time.monotonic() < end, found
        await asyncio.sleep(0.05)
    return found


async def test_what_a_killed_gateway_was_sending_the_other_sends_with_the_same_id(two: Two) -> None:
    held = two.services.hold()
    two.place.on("/told", Reply(held=held), Reply())
    question_id, sender = await two.decided()
    kill(two.processes[sender])
    await becomes(lambda: len(two.told()) == 2, "sent again")
    first, second = two.told()
    assert first == second
    found = await trail(two.doors[1 - sender], question_id, "called_back")
    assert found.count("called_back") == 1


async def test_a_gateway_that_stands_still_while_it_sends_is_followed_by_the_other(
    two: Two,
) -> None:
    held = two.services.hold()
    two.place.on("/told", Reply(held=held), Reply())
    question_id, sender = await two.decided()
    still, other = two.processes[sender], two.processes[1 - sender]
    os.kill(still.process.pid, signal.SIGSTOP)
    try:
        await becomes(lambda: len(two.told()) == 2, "sent again")
        found = await trail(two.doors[1 - sender], question_id, "called_back")
    finally:
        os.kill(still.process.pid, signal.SIGCONT)
    held.set()
    assert found.count("called_back") == 1
    # What the first has to say comes late: there is nothing left to be done, or to be told.
    await becomes(lambda: ended(still), "the first try ends")
    assert [line["attempt"] for line in ended(other)] == [1]
    assert (await trail(two.doors[sender], question_id, "called_back")).count("called_back") == 1
    assert len(two.told()) == 2


def ended(process: Process) -> list[dict[str, Any]]:
    """Its log lines of tries that are over."""
    messages = ("delivery.failed", "delivery.done")
    return [line for line in process.lines() if line["message"] in messages]
