"""start.sh: what it installs and when, what it runs, what it says when it cannot.

A stand-in for python3 writes down how it was called, so that nothing is installed here; that the
locks install and that the gateway then runs is seen by every run of `./start.sh test` itself.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

STAND_IN = """#!/bin/bash
echo "$*" >>"{log}"
case "$1 $2" in
    "-c import sys"*) exit {old} ;;
    "-c import venv"*) exit {no_venv} ;;
    "-m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip") [ "$3" = --version ] || [ ! -e "{log}.fail" ] ;;
    "-m gateway.jobs.devserver") [ ! -e "{log}.temporal" ] || {{ echo /made/temporal; }} ;;
    "-m pytest") echo "with ${{TEMPORAL_CLI-no program}}" >>"{log}" ;;
    "-m gateway" | "-m bench") echo "ran $* in $PWD with ${{TEMPORAL_ADDRESS-nothing}}" ;;
esac
"""


class Project:
    """A copy of start.sh with tiny locks, and a PATH on which python3 is the stand-in."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "project"
        self.log = directory / "calls"
        self._path = directory / "bin"
        self._path.mkdir()
        (self.root / "requirements").mkdir(parents=True)
        shutil.copy(ROOT / "start.sh", self.root)
        self.lock("base", "one==1\n")
        self.lock("test", "one==1\ntwo==2\n")
        self.python()

    def lock(self, name: str, content: str) -> None:
        (self.root / "requirements" / f"{name}.txt").write_text(content)

    def python(self, *, old: int = 0, no_venv: int = 0) -> None:
        for name in ("python3", "python3.14", "python3.13", "python3.12", "python3.11", "python"):
            file = self._path / name
            file.write_text(STAND_IN.format(log=self.log, old=old, no_venv=no_venv))
            file.chmod(0o755)

    def run(
        self, *arguments: str, script: Path | None = None, cwd: Path | None = None, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(script or self.root / "start.sh"), *arguments],
            cwd=cwd or self.root,
            env={"PATH": f"{self._path}:/usr/bin:/bin", "HOME": str(self.root)} | environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    def installs(self) -> list[str]:
        """The locks that pip was told to install so far."""
        return re.findall(r"-m pip install .*--require-hashes -r (\S+)", self.log.read_text())

    def has_temporal(self) -> None:
        """From now on there is a temporal program."""
        self.log.with_name("calls.temporal").touch()

    def break_pip(self, *, broken: bool) -> None:
        flag = self.log.with_name("calls.fail")
        flag.touch() if broken else flag.unlink()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_it_is_bash_that_parses() -> None:
    for script in ("start.sh", ".ci/run"):
        subprocess.run(["bash", "-n", ROOT / script], check=True, timeout=30)
        assert os.access(ROOT / script, os.X_OK)


def test_the_first_run_installs_and_the_second_is_silent(project: Project) -> None:
    first = project.run()
    assert first.stderr == "start.sh: installing requirements/base.txt into .venv\n"
    assert project.installs() == ["requirements/base.txt"]
    project.log.write_text("")
    second = project.run()
    assert second.stderr == ""
    assert project.log.read_text() == "-m gateway server --demo\n"


def test_a_changed_lock_is_installed(project: Project) -> None:
    project.run("setup")
    project.lock("base", "one==2\n")
    project.run("setup")
    assert len(project.installs()) == 2


def test_a_failed_install_is_done_again(project: Project) -> None:
    project.break_pip(broken=True)
    failed = project.run()
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert "installing requirements/base.txt failed" in failed.stderr
    project.break_pip(broken=False)
    assert project.run().returncode == 0
    assert len(project.installs()) == 2


def test_a_half_made_environment_is_made_again(project: Project) -> None:
    (project.root / ".venv" / "bin").mkdir(parents=True)
    assert project.run("setup").returncode == 0
    assert "-m venv .venv" in project.log.read_text()


def test_the_test_lock_stands_for_the_base_lock_too(project: Project) -> None:
    project.run("test")
    assert project.installs() == ["requirements/test.txt"]
    project.run()
    assert project.installs() == ["requirements/test.txt"]


def test_without_arguments_it_runs_the_gateway_with_the_demo(project: Project) -> None:
    project.run("setup")
    assert project.run().stdout == f"ran -m gateway server --demo in {project.root} with embedded\n"
    assert " with host:7233\n" in project.run(TEMPORAL_ADDRESS="host:7233").stdout
    assert " with \n" in project.run(TEMPORAL_ADDRESS="").stdout


@pytest.mark.parametrize(
    ("arguments", "ran"),
    [
        (["check"], "-m gateway check"),
        (["routes", "GET", "/a b"], "-m gateway routes GET /a b"),
        (["server"], "-m gateway server"),
        (["--config", "x.toml"], "-m gateway server --demo --config x.toml"),
        (["bench", "proxy"], "-m bench proxy"),
    ],
)
def test_commands_are_passed_on(project: Project, arguments: list[str], ran: str) -> None:
    assert project.run(*arguments).stdout.startswith(f"ran {ran} in ")


def test_test_runs_every_check(project: Project) -> None:
    project.run("test")
    calls = project.log.read_text()
    for check in (
        "-m ruff check",
        "-m ruff format --check",
        "-m mypy --strict gateway sse",
        "lint_imports",
        "-m pytest --numprocesses auto --max-worker-restart 0 --dist loadfile --cov",
        "--fail-under=90",
        "--fail-under=100",
    ):
        assert check in calls


def test_a_part_of_the_tests_is_not_measured(project: Project) -> None:
    project.run("test", "-k", "one")
    calls = project.log.read_text()
    assert calls.endswith("-m pytest -k one\nwith no program\n")
    assert "-m mypy" in calls


def test_the_temporal_program_is_found_before_the_tests_and_named_to_them(
    project: Project,
) -> None:
    without = project.run("test", "-k", "one")
    assert without.stderr.endswith(
        "start.sh: no temporal program: tests that need one are skipped\n"
    )
    project.has_temporal()
    found = project.run("test", "-k", "one")
    assert found.stderr == ""
    assert project.log.read_text().endswith("-m pytest -k one\nwith /made/temporal\n")


def test_only_tests_look_for_it(project: Project) -> None:
    project.run("setup")
    project.run()
    project.run("bench", "proxy")
    assert "devserver" not in project.log.read_text()


def test_it_works_from_elsewhere_and_through_a_link(project: Project, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "gw"
    link.symlink_to("../project/start.sh")
    again = tmp_path / "again"
    again.symlink_to(link)
    for script in (project.root / "start.sh", link, again):
        ran = project.run("check", script=script, cwd=tmp_path)
        assert f"in {project.root} with" in ran.stdout


def test_an_old_python_is_one_clear_line(project: Project) -> None:
    project.python(old=1)
    done = project.run("setup")
    assert done.returncode == 2
    assert done.stderr.splitlines()[1:] == [
        "start.sh: no Python 3.11 or newer found (python3 or $PYTHON): install one"
    ]


def test_a_python_without_venv_is_one_clear_line(project: Project) -> None:
    project.python(no_venv=1)
    done = project.run("setup")
    assert done.returncode == 2
    assert "python3 has no venv or pip" in done.stderr.splitlines()[1]


def test_the_locks_hold_hashes_and_no_addresses() -> None:
    for lock in ("base", "test"):
        content = (ROOT / "requirements" / f"{lock}.txt").read_text()
        entries = [line for line in content.splitlines() if line and line[0] not in " #"]
        assert entries
        assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+ \\", entry) for entry in entries)
        assert content.count("--hash=sha256:") >= len(entries)
        assert not re.search(r"https?:|--(?!hash)|/[a-z]+/", content)


def test_the_test_lock_agrees_with_the_base_lock() -> None:
    pins = [
        set(re.findall(r"^(\S+==\S+)", (ROOT / "requirements" / f"{lock}.txt").read_text(), re.M))
        for lock in ("base", "test")
    ]
    assert pins[0] < pins[1]
