"""Processes of a benchmark: start on a given core with output to a file, look at, stop by pid.

Readiness is an answer on the port, never a pause. Figures come from /proc (Linux).
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class NotReadyError(Exception):
    """A process ended or did not answer in time; the message ends with what it said last."""


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """What is started inside inherits these cores: safer than a hook between fork and exec."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Process:
    """One started program and its children."""

    def __init__(
        self, name: str, popen: subprocess.Popen[bytes], output: Path, errors: Path, port: int
    ) -> None:
        self.name = name
        self.port = port
        self.output = output
        self.errors = errors
        self._popen = popen

    def __repr__(self) -> str:
        state = "running" if self._popen.poll() is None else f"ended {self._popen.returncode}"
        return f"<Process {self.name} pid={self.pid} port={self.port} {state}>"

    @property
    def pid(self) -> int:
        """The pid of the program itself; its workers are its children."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether the program itself has not ended."""
        return self._popen.poll() is None

    def family(self) -> list[int]:
        """Its pid and those of all its descendants."""
        parents: dict[int, list[int]] = {}
        for entry in filter(str.isdigit, (path.name for path in Path("/proc").iterdir())):
            fields = _stat(int(entry))
            if fields:
                parents.setdefault(int(fields[1]), []).append(int(entry))
        found = [self.pid]
        for pid in found:
            found += parents.get(pid, [])
        return found

    def cpu_seconds(self) -> float:
        """User and system time so far of all its processes and threads, ended ones too."""
        return sum(self.cpu_split_seconds())

    def cpu_split_seconds(self) -> tuple[float, float]:
        """The same as user and system time apart."""
        user = system = 0
        for pid in self.family():
            fields = _stat(pid)
            if fields:
                # 14 to 17 in proc(5), counted after the name: utime stime cutime cstime
                user += int(fields[11]) + int(fields[13])
                system += int(fields[12]) + int(fields[14])
        return user / _TICKS, system / _TICKS

    def rss_bytes(self) -> int:
        """Resident memory of all its processes, shared pages counted in each."""
        total = 0
        for pid in self.family():
            try:
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
            except (OSError, IndexError):  # ended while we looked
                continue
        return total

    def open_files(self) -> int:
        """How many file descriptors the program itself has open."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def tail(self, size_bytes: int = 2000) -> str:
        """The last of what it said."""
        said = b"".join(path.read_bytes() for path in {self.output, self.errors})
        return said[-size_bytes:].decode("utf-8", "replace")

    def wait_until_ready(self, timeout_seconds: float = 20) -> None:
        """Returns when the port accepts; raises NotReadyError."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            if not self.running:
                raise NotReadyError(f"{self.name} ended at once: {self.tail()}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise NotReadyError(f"{self.name} did not answer on port {self.port}: {self.tail()}")

    def stop(self, timeout_seconds: float = 8) -> int:
        """Ends it and its children by pid, politely first; returns its exit code."""
        family = self.family()
        if self.running:
            self._popen.terminate()
        try:
            return self._popen.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            for pid in family[1:]:
                _kill(pid)
            self._popen.kill()
            return self._popen.wait(timeout_seconds)


def start(
    name: str,
    command: Sequence[str],
    *,
    port: int,
    output: Path,
    cores: set[int],
    environ: Mapping[str, str] | None = None,
    errors: Path | None = None,
) -> Process:
    """Starts a program with its output in a file; the caller stops it in a `finally`.

    stderr goes to the same file, or to `errors` where that is given.
    """
    with pinned(cores), output.open("ab") as sink, (errors or output).open("ab") as error_sink:
        popen = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=error_sink,
            env=dict(environ) if environ is not None else None,
            cwd=Path(__file__).parents[1],
        )
    return Process(name, popen, output, errors or output, port)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may hold spaces; [0] is the state."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return
