"""Runs a command and ends it when whoever started this has gone, however that ended.

`python guard.py GRACE_SECONDS LOG COMMAND …`: stdin is a pipe that the starter holds the other end
of; when it closes, by will or by the end of the starter (SIGKILL included), the command gets
SIGTERM, and SIGKILL after the grace. Should this process be killed itself, Linux kills the command
at once (prctl(2), PR_SET_PDEATHSIG): it would have nobody, and hold ports and a database that the
next one needs. What the command says goes to the file LOG, or where this
process's own output goes (`-`). The exit code is the command's, 128 + N for signal N.

It runs as a file, by the standard library alone: it starts in 0.1 s, takes 12 MB, and sleeps. Not
here: when something is started again (`embedded`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

LOG_BYTES = 4 << 20
"""A log file begins anew when it has grown to this: a server that complains for weeks must not fill
a disk. What was said last is what matters.
"""

NICENESS = 5
"""Added to the child's: where cores are short, jobs wait for requests and not requests for jobs (a
child at 5 gets a third of what the gateway beside it gets on one core: sched(7)).
"""

_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_READ_BYTES = 1 << 16
_WITHOUT_LOG = "-"
_CANNOT_RUN = 127  # as shells have it


class Log:
    """The file that the command's output goes to, bounded."""

    def __init__(self, path: Path, limit_bytes: int = LOG_BYTES) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._limit_bytes = limit_bytes

    def write(self, data: bytes) -> None:
        """Adds to the file; on a full disk what was said is lost, and no more."""
        with contextlib.suppress(OSError):
            if os.fstat(self._descriptor).st_size + len(data) > self._limit_bytes:
                os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, data)

    def close(self) -> None:
        """The file is closed."""
        os.close(self._descriptor)


def run(grace_seconds: float, log: Log | None, command: list[str], starter: int = 0) -> int:
    """The exit code of `command`, which is ended when `starter` (a descriptor) is at its end.

    For the main thread: it waits for SIGCHLD. Raises OSError when the command can't be run.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # loaded before the fork: nothing is after it
    with _told_of_children() as told:
        child = subprocess.Popen(  # noqa: S603 - the starter's words, without a shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if log else None,
            stderr=subprocess.STDOUT if log else None,
            start_new_session=True,  # what it starts itself is ended with it
            preexec_fn=None if prctl is None else lambda: prctl(_DEATH_SIGNAL, signal.SIGKILL),  # noqa: PLW1509 - there are no threads here
        )
        try:
            _relay(child, log, starter, told)
        finally:
            _end(child, grace_seconds)
    if log is not None and child.stdout is not None:
        # What it said at its end. Whoever of its kind lives on may hold the pipe: no waiting.
        os.set_blocking(child.stdout.fileno(), False)
        log.write(child.stdout.read() or b"")
        child.stdout.close()
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


@contextlib.contextmanager
def _told_of_children() -> Iterator[socket.socket]:
    """A socket that can be read when a child has ended: nothing has to be asked again and again."""
    told, tells = socket.socketpair()
    for end in (told, tells):
        end.setblocking(False)
    before = signal.signal(signal.SIGCHLD, lambda *_: None)  # else it wakes nobody
    wakeup = signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
    try:
        yield told
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGCHLD, before)
        told.close()
        tells.close()


def _relay(
    child: subprocess.Popen[bytes], log: Log | None, starter: int, told: socket.socket
) -> None:
    """Returns when the command has ended, or the starter has gone."""
    with selectors.DefaultSelector() as selector:
        selector.register(told, selectors.EVENT_READ)
        selector.register(starter, selectors.EVENT_READ)
        if log is not None and child.stdout is not None:
            selector.register(child.stdout, selectors.EVENT_READ)
        while child.poll() is None:
            for key, _ in selector.select():
                data = os.read(key.fd, _READ_BYTES)
                if key.fd == starter and not data:
                    return
                if key.fileobj is child.stdout and log is not None:
                    log.write(data)
                    if not data:
                        selector.unregister(key.fileobj)


def _end(child: subprocess.Popen[bytes], grace_seconds: float) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace_seconds)
    # What did not obey, and what it started itself and left behind.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def main(arguments: list[str]) -> int:
    """Guards one command; 127 when it can't be run."""
    grace_seconds, name, *command = arguments
    os.nice(NICENESS)
    os.umask(0o077)  # a database and a log of jobs are nobody else's business
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    log = None if name == _WITHOUT_LOG else Log(Path(name))
    try:
        return run(float(grace_seconds), log, command)
    except OSError as error:
        sys.stderr.write(f"gateway: {command[0]} cannot be run: {error.strerror}\n")
        return _CANNOT_RUN
    finally:
        if log is not None:
            log.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
