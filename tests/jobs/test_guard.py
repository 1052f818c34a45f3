"""The guard: what it runs ends when its starter does, however that ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.jobs import guard

GUARD = (sys.executable, "-I", "-S", str(Path(guard.__file__)))  # as embedded runs it
WAIT_SECONDS = 30
# Says its pid and goes on until it is told to end; {0} is what it does then.
CHILD = """
import os, signal, sys
signal.signal(signal.SIGTERM, {0})
os.write(1, b'%d\\n' % os.getpid())
while True:
    signal.pause()
"""
OBEYS = CHILD.format("lambda *_: (os.write(1, b'told\\n'), sys.exit(3))")
IGNORES = CHILD.format("signal.SIG_IGN")


def guarded(
    program: str, *, grace: str = "20", log: str = "-", **options: int
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*GUARD, grace, log, sys.executable, "-S", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_starter_that_closes_the_pipe_ends_the_command() -> None:
    process = guarded(OBEYS)
    pid = int(said(process))
    output, _ = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, output) == (3, "told\n")
    assert ended(pid)


def test_what_does_not_obey_is_killed_after_the_grace() -> None:
    process = guarded(IGNORES, grace="0.1")
    pid = int(said(process))
    process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 128 + signal.SIGKILL
    assert ended(pid)


def test_what_was_stopped_is_killed_after_the_grace() -> None:
    process = guarded(OBEYS, grace="0.1")
    pid = int(said(process))
    os.kill(pid, signal.SIGSTOP)
    process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 128 + signal.SIGKILL
    assert ended(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="what Linux alone does")
def test_a_guard_that_is_killed_takes_the_command_with_it() -> None:
    process = guarded(OBEYS)
    said(process)
    process.kill()
    # The pipe is at its end when all that had it have ended: nobody told the command to.
    output, _ = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, output) == (-signal.SIGKILL, "")


def test_a_starter_that_is_killed_leaves_nothing_behind() -> None:
    starter = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys, signal\n"
            "kept = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)\n"
            "signal.pause()",
            *GUARD, "20", "-", sys.executable, "-S", "-c", OBEYS,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    pid = int(said(starter))
    starter.kill()
    output, _ = starter.communicate(timeout=WAIT_SECONDS)  # at its end when the guard has ended too
    assert output == "told\n"
    assert ended(pid)


def test_a_guard_that_is_terminated_ends_the_command() -> None:
    process = guarded(OBEYS)
    pid = int(said(process))
    process.terminate()
    assert process.wait(WAIT_SECONDS) == 128 + signal.SIGTERM
    assert said(process) == "told"
    process.communicate(timeout=WAIT_SECONDS)
    assert ended(pid)


def test_the_exit_code_of_the_command_is_the_guards() -> None:
    process = guarded("import sys; sys.exit(7)")
    assert process.wait(WAIT_SECONDS) == 7
    process.communicate(timeout=WAIT_SECONDS)


def test_what_the_command_started_itself_ends_with_it() -> None:
    process = guarded(
        "import os, subprocess, sys\n"
        f"command = [sys.executable, '-S', '-c', {IGNORES!r}]\n"
        "kept = os.dup(1)\n"
        "child = subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[kept])\n"
        "print(child.stdout.readline().decode().strip(), flush=True)"
    )
    assert int(said(process))
    # It ignores what it is told and keeps our pipe, which is at its end when it has ended too.
    output, _ = process.communicate(timeout=WAIT_SECONDS)
    assert output == ""


def test_what_the_command_says_goes_to_the_log_for_its_owner_only(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = guarded("print('hello'); print(open('/proc/self/status').read())", log=str(log))
    assert process.wait(WAIT_SECONDS) == 0
    assert process.communicate()[0] == ""
    assert log.read_text().startswith("hello\n")
    assert "Umask:\t0077" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_command_that_closes_its_output_is_still_waited_for(tmp_path: Path) -> None:
    program = "import os, sys\nos.close(1); os.close(2)\nsys.stdin.read()\nos._exit(5)"
    process = guarded(program, log=str(tmp_path / "log"))
    assert process.wait(WAIT_SECONDS) == 5
    process.communicate(timeout=WAIT_SECONDS)


def test_a_command_that_cannot_be_run_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    command = [*GUARD, "1", "-", "/nowhere/temporal"]
    done = subprocess.run(command, check=False, timeout=WAIT_SECONDS)
    assert done.returncode == 127
    assert capfd.readouterr().err == (
        "gateway: /nowhere/temporal cannot be run: No such file or directory\n"
    )


def test_a_log_begins_anew_when_it_is_full(tmp_path: Path) -> None:
    log = guard.Log(tmp_path / "log", limit_bytes=10)
    for _ in range(3):
        log.write(b"12345")
    log.close()
    assert (tmp_path / "log").read_bytes() == b"12345"


def test_a_full_disk_loses_the_log_and_nothing_else() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    log = guard.Log(Path("/dev/full"))
    log.write(b"lost")
    log.close()


def test_data_on_the_pipe_means_nothing() -> None:
    process = guarded(OBEYS)
    said(process)
    output, _ = process.communicate("whatever\n", timeout=WAIT_SECONDS)
    assert (process.returncode, output) == (3, "told\n")


def test_the_command_waits_for_its_starter_where_cores_are_short() -> None:
    process = guarded("import os; print(os.nice(0))")
    niceness = int(said(process))
    process.communicate(timeout=WAIT_SECONDS)
    assert niceness == os.nice(0) + guard.NICENESS
