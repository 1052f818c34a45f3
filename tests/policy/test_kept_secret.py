"""A secret of a gateway's own is made once, whoever starts at the same time, for this user only."""

from __future__ import annotations

import concurrent.futures
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.policy.kept_secret import kept_secret
from gateway.settings import SettingsError


def test_a_secret_is_made_once_for_this_user_alone(tmp_path: Path) -> None:
    file = tmp_path / "a" / "state" / "key"
    secret = kept_secret(file, "")
    assert len(bytes.fromhex(secret)) == 32
    assert kept_secret(file, "") == secret == file.read_text("ascii")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert kept_secret(file.with_name("other"), "") != secret


def test_processes_that_start_at_once_have_one_secret(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from gateway.policy.kept_secret import kept_secret;"
        "sys.stdin.read(1); print(kept_secret(Path(sys.argv[1]), ''))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "state" / "key")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        secrets = set(pool.map(lambda process: process.communicate("x", timeout=60)[0], started))
    assert len(secrets) == 1
    assert [found.name for found in (tmp_path / "state").iterdir()] == ["key"]


def test_threads_that_start_at_once_have_one_secret(tmp_path: Path) -> None:
    file = tmp_path / "state" / "key"
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: kept_secret(file, ""), range(64)))) == 1
    assert [found.name for found in file.parent.iterdir()] == ["key"]


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff" * 64, b"A" * 64 + b"\n", b"a" * 65])
def test_a_damaged_secret_is_said_in_one_line_and_left_alone(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(SettingsError) as error:
        kept_secret(file, "INSTEAD")
    said = str(error.value)
    assert said.startswith(f"settings: {file} holds no key of this gateway, expected one")
    assert said.endswith(", or INSTEAD")
    assert "\n" not in said
    assert file.read_bytes() == content


def test_a_directory_that_is_none_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for file in (tmp_path / "file" / "key", tmp_path / "file" / "below" / "key"):
        with pytest.raises(SettingsError, match="expected a STATE_DIR to write to, or INSTEAD"):
            kept_secret(file, "INSTEAD")
    (tmp_path / "key").mkdir()
    with pytest.raises(SettingsError, match="can't be read or made"):
        kept_secret(tmp_path / "key", "INSTEAD")
