"""`gateway key new`: what it prints, what it writes, and that it breaks nothing."""

from __future__ import annotations

import argparse
import os
import stat
import tomllib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway import cli_keys
from gateway.policy.api_keys import MAX_KEYS, ApiKeys, digest_of
from gateway.policy.auth import Authenticator, Credentials, Identity
from gateway.settings import SETTINGS, Settings, SettingsError
from tests.policy.keys import NOW


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for setting in SETTINGS:
        monkeypatch.delenv(setting.name, raising=False)
    monkeypatch.delenv("GATEWAY_CONFIG", raising=False)


def new(*arguments: str) -> argparse.Namespace:
    return cli_keys.parser().parse_args(["new", *arguments])


def names(directory: Path) -> list[str]:
    return [each.name for each in directory.iterdir()]


def make(file: Path, *arguments: str) -> tuple[str, str]:
    return cli_keys.make(Settings(api_keys=file), new(*arguments), NOW)


def test_the_key_is_printed_once_and_opens_the_gateway(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = new("--tier", "pro", "--scope", "events:read", "jobs:write", "--scope", "admin")
    assert options.command == "key"
    assert cli_keys.run(options) == 0
    out, err = capsys.readouterr()
    (key,) = out.splitlines()
    file = tmp_path / "config" / "keys.toml"
    key_id = key.rpartition("_")[0]
    assert (key not in err, key_id in err, "config/keys.toml" in err) == (True, True, True)
    assert key.rpartition("_")[2] not in file.read_text()
    found = Authenticator(Settings(), keys=ApiKeys.read(file)).identify(
        Credentials(api_key=[key.encode()]), NOW
    )
    scopes = frozenset(("events:read", "jobs:write", "admin"))
    assert found == Identity(key_id, tier="pro", scopes=scopes, jti=key_id)


def test_all_that_can_be_said_of_a_key_is_written_down(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    said = ("--sub", 'é"\\x', "--tenant", "acme", "--client-id", "a", "b", "--expires-in", "60")
    key, key_id = make(file, *said)
    found = ApiKeys.read(file).find(digest_of(key.encode()))
    assert found is not None
    assert found.identity == Identity(
        'é"\\x',
        "acme",
        client_ids=frozenset(("a", "b")),
        expires_at=NOW + 60,
        jti=key_id,
    )
    table = tomllib.loads(file.read_text())["keys"][key_id]
    assert table["created"] == datetime.fromtimestamp(NOW, UTC)
    assert (table["tier"], table["scopes"]) == ("anonymous", [])


@pytest.mark.parametrize(
    "said", [["a:b c"], ["a:b,c"], ["a:b, c"], ["a:b", "c"], ["a:b,", "c", "--scope", "c a:b"]]
)
def test_scopes_are_parted_by_arguments_blanks_or_commas(tmp_path: Path, said: list[str]) -> None:
    file = tmp_path / "keys.toml"
    _, key_id = make(file, "--scope", *said)
    assert tomllib.loads(file.read_text())["keys"][key_id]["scopes"] == ["a:b", "c"]


def test_a_key_is_added_behind_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    before = f'# ours\n[keys.ci]  # by hand\nhash = "{"5" * 64}"'
    file.write_text(before)
    file.chmod(0o644)
    make(file)
    make(file)
    assert file.read_text().startswith(before + "\n\n[keys.gw_")
    assert len(ApiKeys.read(file)) == 3
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert names(tmp_path) == ["keys.toml"]


def test_a_new_file_is_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "keys.toml"
    make(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().startswith("# API keys of command line tools")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.toml", tmp_path / "keys.toml"
    link.symlink_to(real)
    make(link)
    assert link.is_symlink()
    assert len(ApiKeys.read(real)) == 1


def test_keys_made_at_once_are_all_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: make(file), range(24)))
    keys = ApiKeys.read(file)
    assert len(keys) == 24
    assert all(keys.find(digest_of(key.encode())) for key, _ in made)


@pytest.mark.parametrize("text", ["[keys.ci]\n", "keys = [", '[keys.ci]\nhash = "5"\n', "\xff"])
def test_nothing_is_built_on_a_broken_file(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config" / "keys.toml"
    file.parent.mkdir()
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingsError, match=rf"^{file}:"):
        cli_keys.run(new())
    assert file.read_bytes() == text.encode("latin-1")
    assert names(file.parent) == ["keys.toml"]
    assert capsys.readouterr() == ("", "")


def test_a_full_file_takes_no_more(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text("".join(f'[keys.k{n}]\nhash = "{n:064x}"\n' for n in range(MAX_KEYS)))
    with pytest.raises(SettingsError, match="full, expected fewer than"):
        make(file)


@pytest.mark.parametrize("where", ["keys.toml/deeper/keys.toml", "."])
def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, where: str) -> None:
    (tmp_path / "keys.toml").write_text("")
    with pytest.raises(SettingsError, match="expected a"):
        make(tmp_path / where)
    assert (tmp_path / "keys.toml").read_text() == ""


def test_a_write_that_fails_leaves_the_file_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.toml"
    make(file)
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SettingsError, match=r"can't be written .No space left on device"):
        make(file)
    assert file.read_bytes() == before
    assert names(tmp_path) == ["keys.toml"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tier", "gold"],
        ["--scope", ""],
        ["--scope", " , "],
        ["--scope", 'a"'],
        ["--sub", ""],
        ["--sub", "a\n"],
        ["--tenant", "a" * 256],
        ["--client-id", "\udcff"],
        ["--expires-in", "0"],
        ["--expires-in", "1h"],
        ["--expires-in", "٣"],
        ["--scop", "a"],
        ["extra"],
    ],
)
def test_wrong_usage_exits_2_and_writes_nothing(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as error:
        new(*arguments)
    assert error.value.code == 2
    assert "usage: gateway key" in capsys.readouterr().err
    assert names(tmp_path) == []


def test_a_key_alone_is_wrong_usage() -> None:
    with pytest.raises(SystemExit):
        cli_keys.parser().parse_args([])
