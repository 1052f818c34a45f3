"""The Lab: starts the gateway and its peers in front of one backend. It measures nothing.

Those that serve event streams need no backend: nchan, axum-streams, aiohttp-queue, bare.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from bench import machine, processes
from bench.processes import Process

PREFIX = "/api/v1/bench"
_HERE = Path(__file__).parent
_BUILD_SECONDS = 900
_AXUM_SOURCES = ("Cargo.toml", "src/main.rs", "src/streams.rs")
_NGINX_MODULES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/etc/nginx/modules")


class Unavailable(Exception):
    """This peer can't run here; the message says why."""


class Lab:
    """A directory, a backend, and the proxies started in front of it; leaving it stops them all."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.skipped: dict[str, str] = {}

    def __enter__(self) -> Lab:
        directory = tempfile.TemporaryDirectory(prefix="gateway-bench-", ignore_cleanup_errors=True)
        self.directory = Path(self._stack.enter_context(directory))
        command = [sys.executable, "-m", "bench.backend"]
        try:
            self.backend = self._run(
                "backend", lambda port: [*command, str(port)], machine.other_cores()
            )
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def start(self, name: str, **settings: str) -> Process:
        """Starts a proxy: gateway, nginx, nginx-plain, haproxy, caddy, axum or naive; or a server
        of event streams: nchan, axum-streams, aiohttp-queue or bare.

        `settings` are environment variables for the gateway, and one `settings` string for nginx's
        location. Raises Unavailable when the peer is not installed, NotReadyError when it does not
        come up.
        """
        makers: dict[str, Callable[[int, dict[str, str]], list[str]]] = {
            "gateway": lambda port, settings: [sys.executable, "-m", "gateway", "server"],
            "profiled": lambda port, settings: [sys.executable, "-m", "bench.profiled"],
            "nginx": lambda port, settings: self._nginx(
                "nginx", port, settings.get("settings", "")
            ),
            "nginx-plain": lambda port, settings: self._nginx("nginx-plain", port, ""),
            "haproxy": lambda port, settings: self._haproxy(port),
            "caddy": lambda port, settings: self._caddy(port),
            "axum": lambda port, settings: [str(axum_binary()), str(port), str(self.backend.port)],
            "naive": lambda port, settings: [
                *(sys.executable, str(_HERE / "naive.py")),
                *(str(port), str(self.backend.port)),
            ],
            "nchan": lambda port, settings: self._nginx("nchan", port, ""),
            "axum-streams": lambda port, settings: [str(axum_binary("axum-streams")), str(port)],
            "aiohttp-queue": lambda port, settings: self._script("aiohttp_queue.py", port),
            "bare": lambda port, settings: self._script("bare.py", port),
        }
        ours = name in ("gateway", "profiled")
        return self._run(
            name,
            lambda port: makers[name](port, settings),
            machine.proxy_cores(),
            environ=(lambda port: self.gateway_environ(port, settings)) if ours else None,
        )

    def start_all(self, names: tuple[str, ...], **settings: str) -> dict[str, Process]:
        """Starts each. Those that can't be are named with the reason in `skipped` and on stderr."""
        started = {}
        for name in names:
            try:
                started[name] = self.start(name, **settings)
            except (Unavailable, processes.NotReadyError) as error:
                self.skipped[name] = str(error)
                sys.stderr.write(f"bench: {name} skipped: {error}\n")
        return started

    def gateway_environ(self, port: int, settings: dict[str, str]) -> dict[str, str]:
        """The gateway with everything on: record, metrics, ids, limit and its fields."""
        environ = {
            **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "BENCH_URL": f"http://127.0.0.1:{self.backend.port}",
            "RATE_LIMIT": "999999999/minute",
            "ACCESS_LOG": "on",
            "LOG_FORMAT": "json",
            "DRAIN_GRACE_SECONDS": "0",
            "STATE_DIR": str(self.directory / f"state-{port}"),
        }
        return environ | settings

    def _run(
        self,
        name: str,
        command: Callable[[int], list[str]],
        cores: set[int],
        environ: Callable[[int], dict[str, str]] | None = None,
    ) -> Process:
        port = processes.free_port()
        files = [self.directory / f"{name}-{port}.{kind}" for kind in ("out", "err")]
        process = processes.start(
            name,
            command(port),
            port=port,
            output=files[0],
            errors=files[1],
            cores=cores,
            environ=environ(port) if environ else None,
        )
        self._stack.callback(process.stop)
        process.wait_until_ready()
        return process

    def _fill(self, name: str, **words: str) -> Path:
        text = (_HERE / name).read_text()
        for word, value in words.items():
            text = text.replace(f"@{word.upper()}@", value)
        path = self.directory / f"{name}-{words['port']}"
        path.write_text(text)
        return path

    def _nginx(self, name: str, port: int, settings: str) -> list[str]:
        program = installed("nginx")
        module = _nchan_module() if name == "nchan" else ""
        place = self.directory / f"{name}-{port}.d"
        place.mkdir()
        path = self._fill(
            f"{name}.conf",
            port=str(port),
            backend=str(self.backend.port),
            directory=str(place),
            # As root nginx would hand its worker to a user that can't write in our directory
            user="user root;" if os.geteuid() == 0 else "",
            settings=settings,
            module=module,
        )
        return [program, "-p", str(place), "-c", str(path), "-e", str(place / "start.log")]

    def _script(self, name: str, port: int) -> list[str]:
        return [sys.executable, str(_HERE / name), str(port)]

    def _haproxy(self, port: int) -> list[str]:
        program = installed("haproxy")
        path = self._fill("haproxy.cfg", port=str(port), backend=str(self.backend.port))
        return [program, "-f", str(path), "-db"]

    def _caddy(self, port: int) -> list[str]:
        program = installed("caddy")
        place = str(self.directory)
        path = self._fill(
            "Caddyfile", port=str(port), backend=str(self.backend.port), directory=place
        )
        return [program, "run", "--config", str(path), "--adapter", "caddyfile"]


def installed(program: str) -> str:
    """The path of a program; raises Unavailable."""
    path = shutil.which(program)
    if path is None:
        raise Unavailable(f"{program} is not installed")
    return path


def _nchan_module() -> str:
    """Where nginx's packages put nchan; raises Unavailable."""
    for place in _NGINX_MODULES:
        module = Path(place, "ngx_nchan_module.so")
        if module.is_file():
            return str(module)
    raise Unavailable("nginx has no nchan module (on Debian: libnginx-mod-nchan)")


def axum_binary(program: str = "axum-gateway") -> Path:
    """A Rust peer, built once per version of the sources, outside the tree; or Unavailable."""
    cargo = installed("cargo")
    source = _HERE / "axum"
    texts = {name: (source / name).read_bytes() for name in _AXUM_SOURCES}
    version = hashlib.sha256(b"".join(texts.values())).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache / "gateway-bench" / f"axum-{version}"
    binary = place / "target" / "release" / program
    if binary.exists():
        return binary
    (place / "src").mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (place / name).write_bytes(text)
    sys.stderr.write("bench: building the axum peers (once)\n")
    command = [cargo, "build", "--release", "--quiet"]
    try:
        done = subprocess.run(
            command, cwd=place, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"cargo took longer than {_BUILD_SECONDS} s") from None
    if done.returncode:
        raise Unavailable(f"cargo could not build it: {done.stderr[-500:]}")
    return binary
