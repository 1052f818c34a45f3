"""A house for jobs: a gateway and a worker as processes, Temporal, and services on loopback.

Nothing here knows how jobs are made: it is all started as an operator would start it, and looked
at from outside. One house serves all tests of a process (`tests.scenarios.conftest`): they keep
apart by paths and callers of their own.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.processes import ROOT, clean_environment, free_port
from tests.streams import SECRET, Remote
from tests.temporal_server import PATIENCE_SECONDS

START_SECONDS = 60.0
"""How long processes may take to start, and to end, on a busy machine before it counts as never."""

HELD_SECONDS = 100.0
"""How long a reply is held at most: longer than any test waits for what comes meanwhile."""

WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"a secret that callbacks are signed with").decode()
ENVIRON = {
    "JWT_SECRET": SECRET,
    "WEBHOOK_SECRET": WEBHOOK_SECRET,
    "CALLBACK_ALLOW": "127.0.0.1",
    "COOKIE_SECRET": base64.b64encode(b"c" * 32).decode(),
    "PAYLOAD_KEYS": f"now:{base64.b64encode(b'k' * 32).decode()}",
    "SERVICE_TOKEN": "a-service-token-that-only-workers-have",
    "RATE_LIMIT": "off",
    "LOG_LEVEL": "info",
}
SERVICES = """
[tiers.free]
per_hour = 6

[services.svc]
url = "{url}/svc"
[services.other]
url = "{url}/other"
[services.late]
url = "{url}/late"
durable = true
[services.guarded]
url = "{url}/guarded"
auth = "scope:vip"
[services.unseen]
url = "{url}/unseen"
exposed = false
[services.dead]
url = "{dead}"
"""
CALM = "breaker = false\noutlier = false\n"  # one test's failures are no other's
ROWS = """
[[routes]]
path = "/slow/:id"
service = "svc"
rewrite = "/v2/:id"
name = "slow"
durable = "always"

[[routes]]
path = "/api/v1/late/now/*"
service = "late"
strip_prefix = "/api/v1/late"
durable = false

[[routes]]
path = "/api/v1/svc/scarce"
service = "svc"
strip_prefix = "/api/v1/svc"
limits = { per_hour = 1 }

[[routes]]
path = "/api/v1/svc/brief"
service = "svc"
strip_prefix = "/api/v1/svc"
limits = { per_second = 1, burst = 1 }

[[routes]]
path = "/api/v1/svc/:place/people"
service = "svc"
strip_prefix = "/api/v1/svc"
agents = "refuse"
"""


@dataclass
class Reply:
    """What a service answers; with `held` not before that is set."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    held: threading.Event | None = None


@dataclass
class Seen:
    """A request as a service got it; names of fields in lower case."""

    service: str
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    left: threading.Event = field(default_factory=threading.Event)

    def json(self) -> Any:
        """Its body."""
        return json.loads(self.body)

    @property
    def key(self) -> str:
        """The Idempotency-Key, without the id of the job."""
        return self.headers["idempotency-key"].partition(":")[2]


class Services:
    """All back ends, in one server of its own thread; an unknown path answers with what it got."""

    def __init__(self) -> None:
        self._replies: dict[str, list[Reply]] = {}
        self._changed = threading.Condition()
        self.seen: list[Seen] = []
        self._holds: list[threading.Event] = []
        services = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle_one_request()
                    return
                self.close_connection = True

            def parse_request(self) -> bool:
                if not super().parse_request():
                    return False
                services._answer(self)
                return False  # it is answered: there are no methods do_GET and so on

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 512

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def let_go(self) -> None:
        """Whatever is held goes on."""
        for held in self._holds:
            held.set()

    def close(self) -> None:
        """Ends it."""
        self.let_go()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def on(self, path: str, *replies: Reply) -> None:
        """What requests to this path are answered, in order; the last one for ever."""
        self._replies[path] = list(replies)

    def hold(self) -> threading.Event:
        """For a reply that waits."""
        self._holds.append(threading.Event())
        return self._holds[-1]

    def until(
        self, condition: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS
    ) -> Any:
        """Waits until what was seen fulfils a condition; its value."""
        found: list[Any] = []

        def now() -> bool:
            found[:] = [condition()]
            return bool(found[0])

        with self._changed:
            assert self._changed.wait_for(now, seconds), f"never: {what}"
        return found[0]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        target = urlsplit(handler.path)
        _, service, *rest = target.path.split("/")
        length = int(handler.headers.get("content-length") or 0)
        headers = {name.lower(): text for name, text in handler.headers.items()}
        seen = Seen(
            service,
            handler.command,
            "/" + "/".join(rest),
            target.query,
            headers,
            handler.rfile.read(length),
        )
        with self._changed:
            self.seen.append(seen)
            replies = self._replies.get(unquote(seen.path))
            reply = None if replies is None else replies.pop(0) if len(replies) > 1 else replies[0]
            self._changed.notify_all()
        if reply is None:
            reply = Reply({"service": service, "method": seen.method, "path": seen.path})
        if reply.held is not None and not reply.held.wait(HELD_SECONDS):
            handler.close_connection = True
            return
        self._write(handler, reply, seen)

    def _write(self, handler: BaseHTTPRequestHandler, reply: Reply, seen: Seen) -> None:
        raw = isinstance(reply.body, bytes)
        body = reply.body if raw else json.dumps(reply.body).encode()
        handler.close_connection = headers_say_close(handler)
        handler.send_response(reply.status)
        if not raw:
            handler.send_header("Content-Type", "application/json")
        for name, text in reply.headers.items():
            handler.send_header(name, text)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(b"" if seen.method == "HEAD" else body)
        with self._changed:
            seen.left.set()
            self._changed.notify_all()


def headers_say_close(handler: BaseHTTPRequestHandler) -> bool:
    """Whether the request ends its connection."""
    return (handler.headers.get("connection") or "").lower() == "close"


class Place:
    """Paths of the services that are one test's own."""

    def __init__(self, services: Services, prefix: str) -> None:
        self._services = services
        self.prefix = prefix

    def __call__(self, path: str) -> str:
        """A path below it, as the services are asked for it."""
        return self.prefix + path

    def on(self, path: str, *replies: Reply) -> None:
        """What a path below is answered."""
        self._services.on(self.prefix + path, *replies)

    def hold(self, path: str, body: Any = None) -> threading.Event:
        """A path below that answers once the event is set."""
        held = self._services.hold()
        self.on(path, Reply(body, held=held))
        return held

    def seen(self, path: str | None = None) -> list[Seen]:
        """The requests so far, all or of one path below."""
        own = [each for each in list(self._services.seen) if each.path.startswith(self.prefix)]
        return [each for each in own if path is None or each.path == self.prefix + path]

    def paths(self) -> list[str]:
        """Methods and paths below of the requests so far."""
        cut = len(self.prefix)
        return [f"{each.method} {each.path[cut:]}" for each in self.seen()]

    def until(self, path: str, count: int = 1) -> list[Seen]:
        """The requests of a path below, as soon as there are so many."""
        self._services.until(lambda: len(self.seen(path)) >= count, f"{count} x {path}")
        return self.seen(path)


class Process:
    """A process whose output goes to a file."""

    def __init__(self, directory: Path, name: str, *arguments: str, **environ: str) -> None:
        self.output = directory / f"{name}.log"
        with self.output.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway", *arguments],
                cwd=ROOT,
                env=clean_environment(**environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def lines(self) -> list[dict[str, Any]]:
        """The whole lines of its log so far."""
        data = self.output.read_bytes()
        lines = data[: data.rfind(b"\n") + 1].splitlines()
        return [json.loads(line) for line in lines if line.startswith(b"{")]

    def answers(self, port: int, path: str, good: Callable[[Any], bool]) -> None:
        """Waits until a GET is answered well."""
        end = time.monotonic() + START_SECONDS
        said: Any = None
        while time.monotonic() < end:
            assert self.process.poll() is None, self.told()
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                with contextlib.closing(connection):
                    connection.request("GET", path)
                    said = json.loads(connection.getresponse().read())
                    if good(said):
                        return
            time.sleep(0.05)
        raise AssertionError(f"{path} says {said} after {self.told()}")

    def told(self) -> str:
        """The end of its log, without the requests that it answered."""
        lines = self.output.read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if '"message":"request"' not in line)[-3000:]

    def stop(self) -> None:
        """Ends it; an orderly end that takes too long is cut short."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class House:
    """What a module's tests look at: the door, the services, the logs."""

    def __init__(self, directory: Path, services: Services, port: int) -> None:
        self.directory = directory
        self.services = services
        self.door = Remote(port)
        self.gateway: Process = None  # type: ignore[assignment]
        self.worker: Process = None  # type: ignore[assignment]
        self.worker_door: Remote = None  # type: ignore[assignment]
        self._numbers = itertools.count(1)

    def place(self) -> Place:
        """Paths of the services that nobody else has."""
        return Place(self.services, f"/p{next(self._numbers)}")

    def lines(self, message: str, **members: Any) -> list[dict[str, Any]]:
        """The log lines of both processes with this message and these members."""
        lines = self.gateway.lines() + self.worker.lines()
        wanted = {"message": message} | members
        return [line for line in lines if wanted.items() <= line.items()]


def write_settings(directory: Path, url: str) -> Path:
    """The settings file and its rows."""
    dead = f"http://127.0.0.1:{free_port()}"
    tables = SERVICES.format(url=url, dead=dead)
    calm = re.sub(r"(\[services\.\w+\]\n)", r"\1" + CALM, tables)
    (directory / "rows.toml").write_text(ROWS)
    settings = directory / "settings.toml"
    settings.write_text('routes = ["rows.toml"]\n' + calm)
    return settings


@contextlib.contextmanager
def job_house(address: str, queue: str, **environ: str) -> Iterator[House]:
    """A gateway and a worker at that Temporal, ready to work."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="house-")))
        services = Services()
        stack.callback(services.close)
        made = House(directory, services, free_port())
        names = ENVIRON | {
            "GATEWAY_CONFIG": str(write_settings(directory, services.url)),
            "STATE_DIR": str(directory / "state"),
            "TEMPORAL_ADDRESS": address,
            "TEMPORAL_TASK_QUEUE": queue,
            "GATEWAY_URL": f"http://127.0.0.1:{made.door.address[1]}",
        }
        names |= environ
        made.gateway = Process(directory, "gateway", PORT=str(made.door.address[1]), **names)
        stack.callback(made.gateway.stop)
        made.gateway.answers(made.door.address[1], "/health", temporal_is_up)
        worker_port = free_port()
        made.worker_door = Remote(worker_port)
        made.worker = Process(
            directory, "worker", "worker", **(names | {"WORKER_PORT": str(worker_port)})
        )
        stack.callback(made.worker.stop)
        made.worker.answers(worker_port, "/health/ready", lambda said: said["status"] == "ready")
        try:
            yield made
        finally:
            services.let_go()
            keep_logs(made)


def temporal_is_up(health: Any) -> bool:
    """Whether jobs can be started; they may have to wait for a worker."""
    found = health["checks"].get("temporal", {})
    return bool(found.get("status") == "healthy" or "no worker is at" in found.get("detail", ""))


def keep_logs(made: House) -> None:
    """Where HOUSE_LOGS names a directory, what the processes wrote stays there."""
    if kept := os.environ.get("HOUSE_LOGS"):
        for process in (made.gateway, made.worker):
            (Path(kept) / process.output.name).write_bytes(process.output.read_bytes())
