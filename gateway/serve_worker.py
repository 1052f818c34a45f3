"""One worker process: its loop, its signals, and what is said when it cannot start.

SIGTERM and SIGINT end it in order, a SIGINT after that at once. One that a gateway has started ends
with that gateway, however the gateway ends. What a worker consists of is in `assemble_worker`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

import uvloop

from gateway.assemble_worker import RefusedError, WorkerProcess
from gateway.exits import EXIT_CANNOT_START, EXIT_DONE, EXIT_STOPPED_AT_ONCE, EXIT_WRONG
from gateway.jobs.worker import WorkerEndedError
from gateway.settings import Settings

PARENT_CHECK_SECONDS = 1.0


def run(settings: Settings, queues: Sequence[str] = ()) -> int:
    """Run a worker on uvloop until a signal ends it; the exit code. Raises SettingsError."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, queues))


async def _serve(settings: Settings, queues: Sequence[str]) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    parent = os.getppid()  # before anyone is told that it listens, and may end on that

    def end() -> None:
        if stop.is_set():
            # Not through the interpreter's end: the SDK's threads are in the middle of things.
            os._exit(EXIT_STOPPED_AT_ONCE)
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, end)
    process = WorkerProcess(settings, queues)
    try:
        await process.listen()
    except OSError as error:
        where = f"{process.host} port {settings.worker_port}"
        _say(f"cannot listen on {where} ({error.strerror}), expected a free port (WORKER_PORT)")
        return EXIT_CANNOT_START
    watch = asyncio.ensure_future(_stop_without_parent(stop, parent)) if settings.embedded else None
    try:
        await process.run(stop)
    except RefusedError as error:
        _say(str(error))
        return EXIT_CANNOT_START
    except WorkerEndedError as error:
        _say(f"the worker ended: {error}")
        return EXIT_WRONG
    finally:
        if watch is not None:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
    return EXIT_DONE


async def _stop_without_parent(stop: asyncio.Event, parent: int) -> None:
    """A worker whose gateway is gone would do jobs that nobody sees: it ends instead."""
    while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells a process that its parent ended
        await asyncio.sleep(PARENT_CHECK_SECONDS)
    stop.set()


def _say(line: str) -> None:
    print(f"gateway: {line}", file=sys.stderr, flush=True)  # noqa: T201 - the log may be closed
