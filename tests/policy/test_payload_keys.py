"""The keys of jobs: from the settings, or from a file of one's own where Temporal is embedded."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.policy.payload_keys import (
    KEY_FILE,
    PayloadKeys,
    has_keys,
    is_embedded,
    service_token,
)
from gateway.settings import Settings, SettingsError

OLD, NEW = b"o" * 32, b"n" * 32


def test_the_first_key_of_the_setting_is_the_current_one() -> None:
    keys = PayloadKeys(Settings(payload_keys=(("new", NEW), ("old", OLD))))
    assert keys.current == "new"
    assert keys.by_id == {"new": NEW, "old": OLD}


def test_each_purpose_has_keys_of_its_own_and_every_process_the_same() -> None:
    settings = Settings(payload_keys=(("new", NEW), ("old", OLD)))
    first, second = PayloadKeys(settings).derive(b"a"), PayloadKeys(settings).derive(b"a")
    other = PayloadKeys(settings).derive(b"b")
    assert first == second
    assert list(first) == ["new", "old"]
    assert len({*first.values(), *other.values(), OLD, NEW}) == 6
    assert {len(key) for key in first.values()} == {32}


def test_no_key_is_shown() -> None:
    shown = repr(PayloadKeys(Settings(payload_keys=(("new", NEW), ("old", OLD)))))
    assert shown == "<PayloadKeys new, old>"


def test_without_keys_beyond_this_machine_there_are_no_jobs(tmp_path: Path) -> None:
    settings = Settings(temporal_address="temporal.example:7233", state_dir=tmp_path)
    assert not has_keys(settings)
    with pytest.raises(SettingsError, match="PAYLOAD_KEYS is not set"):
        PayloadKeys(settings)
    assert list(tmp_path.iterdir()) == []


def test_an_embedded_temporal_has_a_key_that_is_made_once_for_this_user(tmp_path: Path) -> None:
    gateway = Settings(temporal_address="embedded", state_dir=tmp_path / "state")
    worker = Settings(
        temporal_address="127.0.0.1:7233", embedded=True, state_dir=tmp_path / "state"
    )
    assert has_keys(gateway)
    assert has_keys(worker)
    assert is_embedded(worker)
    keys = PayloadKeys(gateway)
    assert PayloadKeys(worker).by_id == keys.by_id
    assert keys.current.startswith("kept-")
    file = tmp_path / "state" / KEY_FILE
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_keys_that_are_set_come_first_and_the_kept_one_still_decrypts(tmp_path: Path) -> None:
    before = PayloadKeys(Settings(temporal_address="embedded", state_dir=tmp_path))
    after = PayloadKeys(
        Settings(temporal_address="embedded", state_dir=tmp_path, payload_keys=(("new", NEW),))
    )
    assert after.current == "new"
    assert dict(after.by_id) == {"new": NEW, **before.by_id}


def test_no_file_is_made_where_keys_are_set(tmp_path: Path) -> None:
    PayloadKeys(
        Settings(temporal_address="embedded", state_dir=tmp_path, payload_keys=(("new", NEW),))
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff" * 65, b"g" * 64 + b"\n"])
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KEY_FILE).write_bytes(content)
    with pytest.raises(SettingsError, match="holds no key of this gateway"):
        PayloadKeys(Settings(temporal_address="embedded", state_dir=tmp_path))


def test_an_embedded_worker_shows_a_token_that_needs_no_environment(tmp_path: Path) -> None:
    gateway = Settings(temporal_address="embedded", state_dir=tmp_path)
    worker = Settings(temporal_address="127.0.0.1:1", embedded=True, state_dir=tmp_path)
    keys = PayloadKeys(gateway)
    token = service_token(gateway, keys)
    assert token == service_token(worker, PayloadKeys(worker))
    assert token is not None
    assert len(token) == 64
    assert bytes.fromhex(token) not in keys.by_id.values()


def test_a_token_that_is_set_is_the_one(tmp_path: Path) -> None:
    settings = Settings(temporal_address="embedded", state_dir=tmp_path, service_token="set")
    assert service_token(settings, PayloadKeys(settings)) == "set"


def test_elsewhere_there_is_no_token_but_the_one_that_is_set() -> None:
    settings = Settings(temporal_address="a.example:1", payload_keys=(("new", NEW),))
    assert service_token(settings, PayloadKeys(settings)) is None
