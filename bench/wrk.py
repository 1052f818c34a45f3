"""The closed loop by wrk where it is installed, else by our own client."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench import load, machine, processes
from bench.client import Call, get, post

_POST_SCRIPT = 'wrk.method = "POST"\nwrk.body = string.rep("x", {size})\n'


@dataclass(frozen=True, slots=True)
class Run:
    """What one closed-loop run completed, and what went wrong in it."""

    completed: int
    failed: int
    seconds: float


def name() -> str:
    """Which client it is going to be."""
    return "wrk" if shutil.which("wrk") else "own client"


def run(
    port: int,
    path: str,
    *,
    seconds: float,
    connections: int = 64,
    post_bytes: int = 0,
    token: str = "",
    directory: Path,
) -> Run:
    """GETs `path`, or POSTs so many bytes to it, as fast as answers come; on the clients' core.
    `token` is sent as a bearer token.

    Raises RuntimeError when wrk said something that can't be read.
    """
    if shutil.which("wrk") is None:
        request = post(path, port, b"x" * post_bytes) if post_bytes else get(path, port, token)
        with processes.pinned(machine.other_cores()):
            outcome = uvloop.run(
                load.closed_loop(port, Call(request), connections=connections, seconds=seconds)
            )
        return Run(outcome.completed, outcome.failed, outcome.seconds)
    url = f"http://127.0.0.1:{port}{path}"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
    if post_bytes:
        script = directory / f"post-{post_bytes}.lua"
        script.write_text(_POST_SCRIPT.format(size=post_bytes))
        command += ["-s", str(script)]
    if token:
        command += ["-H", f"Authorization: Bearer {token}"]
    with processes.pinned(machine.other_cores()):
        done = subprocess.run(
            [*command, url], capture_output=True, text=True, timeout=seconds + 60, check=False
        )
    return read(done.stdout)


def read(said: str) -> Run:
    """Reads wrk's summary."""
    found = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m),", said)
    if found is None:
        raise RuntimeError(f"wrk said: {said}")
    factor = {"ms": 0.001, "s": 1.0, "m": 60.0}[found.group(3)]
    errors = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said
    )
    failed = sum(map(int, errors.groups())) if errors else 0
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    failed += int(refused.group(1)) if refused else 0
    return Run(int(found.group(1)), failed, float(found.group(2)) * factor)
