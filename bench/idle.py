"""bench idle: what a keep-alive connection costs in memory while nothing is asked on it."""

from __future__ import annotations

import resource
import socket
from argparse import Namespace
from contextlib import ExitStack

from bench import figures, results, wrk
from bench.client import get
from bench.peers import Lab
from bench.peers.launch import PREFIX
from bench.processes import Process

_CONNECTIONS = 10_000
_GOAL_KIB = 4.0
# What each process needs besides: logs, the upstream pool, the loop
_SPARE_FILES = 500


def run(options: Namespace) -> None:
    """Opens the connections, one request on each, looks at the memory, writes the section."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(_CONNECTIONS, hard - _SPARE_FILES)
    rows = []
    verdict = ""
    with Lab() as lab:
        started = lab.start_all(("gateway",), KEEPALIVE_TIMEOUT="600", MAX_CONNECTIONS="25000")
        started |= lab.start_all(("nginx", "naive"))
        for name, process in started.items():
            # So that what the first requests cost for good is not put down to the connections
            wrk.run(process.port, f"{PREFIX}/json", seconds=2, directory=lab.directory)
            before, during, after, alive = _fill(process, count)
            each = (during - before) / count / 1024
            if name == "gateway":
                verdict = figures.verdict(each, _GOAL_KIB)
            rows.append(
                (
                    name,
                    *(f"{size / 1e6:.1f}" for size in (before, during, after)),
                    f"{each:.2f}",
                    alive,
                )
            )
    header = ("proxy", "RSS before MB", "with them", "after", "KiB each", "alive at the end")
    body = (
        f"{count:,} keep-alive connections that each made one request and then rest; resident "
        f"memory of the "
        f"proxy before, with and after them. The kernel's own memory for the sockets is not in "
        f"it.\n\n" + figures.table(header, rows) + f"\n\nGoal: ≤ {_GOAL_KIB:g} KiB each: {verdict}."
    )
    results.publish("idle", body, peers=("nginx",), options=options)


def _fill(process: Process, count: int) -> tuple[int, int, int, str]:
    """RSS before, with and after so many idle connections; how many of some still answered."""
    request = get(f"{PREFIX}/json", process.port)
    before = process.rss_bytes()
    with ExitStack() as stack:
        opened = []
        for number in range(count):
            # Several sources: one address has some 28,000 ports, and earlier runs left some in
            # TIME_WAIT
            source = (f"127.0.0.{2 + number % 4}", 0)
            client = socket.create_connection(
                ("127.0.0.1", process.port), timeout=10, source_address=source
            )
            stack.enter_context(client)
            _ask(client, request)
            opened.append(client)
        during = process.rss_bytes()
        sample = opened[:: max(1, count // 100)]
        alive = sum(_ask(client, request) for client in sample)
    return before, during, process.rss_bytes(), f"{alive} of {len(sample)} asked"


def _ask(client: socket.socket, request: bytes) -> bool:
    """One request and its whole answer; False when the connection ended instead."""
    try:
        client.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data:
            more = client.recv(65536)
            if not more:
                return False
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += client.recv(65536)
    except OSError:
        return False
    return head.startswith(b"HTTP/1.1 200")
