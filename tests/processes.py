"""Gateways as processes of their own, for tests of the command line, signals and workers.

Tests wait for lines the process writes, never for time to pass.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parent.parent
WAIT_SECONDS = 90
"""For a process on a machine that has much else to do; time that only a test that fails takes."""


_STATE = tempfile.TemporaryDirectory(prefix="gateway-tests-")


def clean_environment(**extra: str) -> dict[str, str]:
    """The environment without settings of the gateway; the shortest drain, any free port, files
    where they do not stay.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "HOME", "LANG", "TMPDIR") or name.startswith("COV")
    }
    kept |= {"PORT": "0", "LOG_FORMAT": "json", "DRAIN_GRACE_SECONDS": "0"}
    kept["STATE_DIR"] = _STATE.name
    return kept | {"GATEWAY_CONFIG": str(ROOT / "config" / "gateway.toml")} | extra


def run_gateway(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        cwd=ROOT,
        env=clean_environment(**extra),
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_SECONDS,
    )


class Running:
    """A gateway that runs until told to stop."""

    def __init__(self, *arguments: str, command: Sequence[str] = (), **extra: str) -> None:
        self.process = subprocess.Popen(
            [*(command or (sys.executable, "-m", "gateway")), *arguments],
            cwd=ROOT,
            env=clean_environment(**extra),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[dict[str, Any]] = []

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def wait_for(self, message: str) -> dict[str, Any]:
        """Read log lines up to one with this message."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))
            if self.lines[-1]["message"] == message:
                return self.lines[-1]
        raise AssertionError(f"no {message!r} in {self.lines}, {self.end()}")

    def port(self) -> int:
        """The port it listens on, once it does."""
        port = self.wait_for("listening")["port"]
        assert isinstance(port, int)
        return port

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait until it has ended: the exit code and what is left on stderr."""
        stdout, stderr = self.process.communicate(timeout=WAIT_SECONDS)
        self.lines += [json.loads(line) for line in stdout.splitlines()]
        return self.process.returncode, stderr


def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of one GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@contextmanager
def taken_port() -> Iterator[int]:
    """A port of 127.0.0.1 that something listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on just now, of those that the kernel gives nobody
    who asks for any port: other tests do so all the time.
    """
    ephemeral = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    while True:
        port = random.randrange(10_000, max(10_001, int(ephemeral[0])))
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
