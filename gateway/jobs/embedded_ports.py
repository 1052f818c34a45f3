"""Where an embedded Temporal listens: ports of this machine that are free, told to the gateways
that share a `STATE_DIR` by a file in it, and asked whether anything answers there.

Not here: what listens there, and whose it is (`embedded`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.jobs.devserver import LOOPBACK, Ports

# Where people and the `temporal` command look first.
USUAL_PORT: Final = 7233
USUAL_UI_PORT: Final = 8233

ANSWER_SECONDS: Final = 2.0
MOST_PORT: Final = 65_535
_LONGEST_LINE: Final = 8192


def free_port(wanted: int = 0) -> int:
    """`wanted` where nothing listens on it just now, else any that is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind((LOOPBACK, wanted))
        except OSError:
            probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def free_ports(before: Ports | None = None) -> Ports:
    """Those from before, or the usual ones, where they are free."""
    wanted = before or Ports(USUAL_PORT, 0, USUAL_UI_PORT)
    return Ports(free_port(wanted.grpc), free_port(wanted.http), free_port(wanted.ui or 0))


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A port that nobody gets by chance until the end: only who shares it (SO_REUSEPORT), as a
    gateway's worker does. One that was only found free may be another's by the time it is used.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((LOOPBACK, 0))
        yield holder.getsockname()[1]


async def status_of(port: int, path: str) -> int:
    """Of the answer to one GET on loopback; 0 without any."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(LOOPBACK, port, limit=_LONGEST_LINE)
            try:
                request = f"GET {path} HTTP/1.0\r\nHost: {LOOPBACK}:{port}\r\n\r\n"
                writer.write(request.encode())
                return int((await reader.readline()).split()[1])
            finally:
                writer.close()
    except (OSError, ValueError, IndexError, TimeoutError):
        return 0


def write_ports(file: Path, ports: Ports) -> None:
    """For those that share the directory: all of it at once, or nothing."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps({"grpc": ports.grpc, "http": ports.http, "ui": ports.ui}))
    new.replace(file)


def read_ports(file: Path) -> Ports | None:
    """What stands in the file, when there is one that says it."""
    try:
        found = json.loads(file.read_text())
        ports = [int(found[name]) for name in ("grpc", "http", "ui")]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Ports(*ports) if all(0 < port <= MOST_PORT for port in ports) else None
