"""Names to addresses: through the system's resolver, bounded, and given up without harm."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress

import pytest

from gateway.callbacks.lookups import Lookups


async def test_a_name_has_each_address_once() -> None:
    found = await Lookups().resolve("localhost", 80)
    assert set(found) <= {"127.0.0.1", "::1"}
    assert len(found) == len(set(found)) > 0


@pytest.mark.parametrize("name", ["a" * 64 + ".example", "a..b"])
async def test_a_name_that_cannot_be_looked_up_is_an_oserror(name: str) -> None:
    names = Lookups()
    with pytest.raises(OSError, match="not a name"):
        await names.resolve(name, 80)


async def test_a_name_that_nobody_has_is_an_oserror(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(OSError, match="not known"):
        await Lookups().resolve("gone.example", 80)


def test_a_look_up_may_outlive_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def slow(*_: object, **__: object) -> list[object]:
        threads.append(threading.current_thread())
        asked.set()
        answer.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)

    async def given_up() -> None:
        look_up = asyncio.create_task(Lookups().resolve("slow.example", 80))
        await asyncio.to_thread(asked.wait)
        look_up.cancel()

    asyncio.run(given_up())
    answer.set()
    threads[0].join()


async def test_a_look_up_that_is_given_up_keeps_its_place_until_its_thread_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer, asked = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        loop.call_soon_threadsafe(asked.set)
        answer.wait()
        return [(2, 1, 6, "", ("192.0.2.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    names = Lookups(at_once=1)
    first = asyncio.create_task(names.resolve("slow.example", 80))
    await asked.wait()
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    assert repr(names) == "<Lookups full=True>"
    second = asyncio.create_task(names.resolve("next.example", 80))
    answer.set()
    assert await second == ["192.0.2.1"]
    assert repr(names) == "<Lookups full=False>"


async def test_a_machine_without_threads_left_is_an_oserror(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    names = Lookups(at_once=1)
    for _ in range(2):
        with pytest.raises(OSError, match="no thread"):
            await names.resolve("localhost", 80)
