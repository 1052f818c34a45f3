"""The process of `subscribers.py` seen from the benchmark: started, commanded, ended."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from bench import machine, processes

# What a process needs besides its streams: publishers, logs, the loop
_SPARE_FILES = 300


def most_streams(wanted: int) -> int:
    """How many streams the file limit allows, raised as far as it goes; children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(wanted, hard - _SPARE_FILES)


class SubscriberProcess:
    """Subscribers and a publisher of one server, on the clients' core."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        with processes.pinned(machine.other_cores()):
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "bench.subscribers", name, str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[1],
            )

    def __enter__(self) -> SubscriberProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._popen.terminate()
        self._popen.wait(10)
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                pipe.close()

    def ask(self, command: str, **arguments: float) -> dict[str, Any]:
        """Sends a command, waits for its result; raises RuntimeError when the process ended."""
        self.tell(command, **arguments)
        return self.result()

    def tell(self, command: str, **arguments: float) -> None:
        """Sends a command; its result is to be fetched by `result`."""
        if self._popen.stdin is None:
            raise RuntimeError("no way to command the subscribers")
        self._popen.stdin.write(json.dumps([command, arguments]) + "\n")
        self._popen.stdin.flush()

    def result(self) -> dict[str, Any]:
        """The result of the oldest command that has not given one yet."""
        line = self._popen.stdout.readline() if self._popen.stdout is not None else ""
        if not line:
            raise RuntimeError(f"the subscribers of {self.name} ended: see above")
        found: dict[str, Any] = json.loads(line)
        return found
