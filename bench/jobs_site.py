"""A gateway with jobs, for a benchmark: beside it a Temporal development server and one worker.

The gateway has its core to itself, as in every benchmark; Temporal and the worker have all others,
the one of backend and clients included, at a lower priority, since they would be other machines.
Measures nothing.
"""

from __future__ import annotations

import base64
import http.client
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import machine, processes
from bench.peers import Lab
from bench.processes import Process
from bench.sse import STREAM_LIMITS
from gateway.jobs import devserver
from gateway.jobs.types import OWNER_ATTRIBUTE, STATE_ATTRIBUTE
from gateway.settings import environment

_READY_SECONDS = 60.0
_POLL_SECONDS = 0.05
# They would be other machines: what clients and gateway have to do comes first.
_NICE = 19


@dataclass(frozen=True, slots=True)
class Site:
    """The processes of a benchmark of jobs."""

    gateway: Process
    temporal: Process
    worker: Process

    @property
    def port(self) -> int:
        """Of the gateway."""
        return self.gateway.port

    def cpu_seconds(self) -> tuple[float, float, float]:
        """Of gateway, worker and Temporal so far."""
        return self.gateway.cpu_seconds(), self.worker.cpu_seconds(), self.temporal.cpu_seconds()


@contextmanager
def job_site(lab: Lab) -> Iterator[Site]:
    """All of them, answering. Raises NotReadyError, and CannotMakeError without a program."""
    environ = environment()
    program = devserver.find(environ) or devserver.Maker(environ, _say).make()
    shared = {
        "PATH": environ.get("PATH", ""),
        "PAYLOAD_KEYS": f"bench:{base64.b64encode(os.urandom(32)).decode()}",
        "SERVICE_TOKEN": os.urandom(24).hex(),
        "STATE_DIR": str(lab.directory / "state-jobs"),
        "LOG_FORMAT": "json",
    }
    if "PYTHONPATH" in environ:
        shared["PYTHONPATH"] = environ["PYTHONPATH"]
    with _temporal(program, lab.directory) as (temporal, address):
        shared["TEMPORAL_ADDRESS"] = address
        gateway = lab.start("gateway", **shared, **STREAM_LIMITS, STREAMS_PER_JOB="100000")
        with _worker(shared, gateway.port, lab.directory) as worker:
            yield Site(gateway, temporal, worker)


@contextmanager
def _temporal(program: Path, directory: Path) -> Iterator[tuple[Process, str]]:
    ports = devserver.Ports(processes.free_port(), processes.free_port(), None)
    command = devserver.server_command(
        program,
        ports,
        attributes=(OWNER_ATTRIBUTE, STATE_ATTRIBUTE),
        database=directory / "temporal.db",
    )
    process = _start("temporal", command, ports.http, directory)
    try:
        _wait_for(process, devserver.probe("default"))
        yield process, ports.address
    finally:
        process.stop()


@contextmanager
def _worker(shared: dict[str, str], gateway_port: int, directory: Path) -> Iterator[Process]:
    port = processes.free_port()
    own = {"GATEWAY_URL": f"http://127.0.0.1:{gateway_port}", "WORKER_PORT": str(port)}
    # Its registry of services is the gateway's: here none has to be named.
    command = [sys.executable, "-m", "gateway", "worker"]
    process = _start("worker", command, port, directory, shared | own)
    try:
        _wait_for(process, "/health/ready")
        yield process
    finally:
        process.stop()


def _start(
    name: str,
    command: list[str],
    port: int,
    directory: Path,
    environ: dict[str, str] | None = None,
) -> Process:
    return processes.start(
        name,
        ["nice", "-n", str(_NICE), *command],
        port=port,
        output=directory / f"{name}.out",
        cores=os.sched_getaffinity(0) - machine.proxy_cores() or machine.other_cores(),
        environ=environ or devserver.server_environ(environment()),
    )


def _wait_for(process: Process, path: str) -> None:
    """Returns when a GET there is answered with 200; raises NotReadyError."""
    process.wait_until_ready(_READY_SECONDS)
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and process.running:
        connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=5)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(_POLL_SECONDS)
    raise processes.NotReadyError(f"{process.name} is not ready: {process.tail()}")


def _say(line: str) -> None:
    sys.stderr.write(f"bench: {line}\n")
