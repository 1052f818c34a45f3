"""The desk over real parts: what a reload that goes wrong is answered."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.control.answers import Failed
from gateway.settings import SettingsError
from tests.control.administering import Administered


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError("gateway.toml:1: wrong"), "UNPROCESSABLE"),
        (FileNotFoundError("gone"), "UNPROCESSABLE"),
        (ValueError("a bug"), "INTERNAL_ERROR"),
    ],
)
async def test_a_reload_that_fails_is_logged_and_answered(
    tmp_path: Path, error: Exception, code: str
) -> None:
    parts = Administered(tmp_path, wrong=error)
    with capture_logs() as lines, pytest.raises(Failed) as caught:
        parts.desk.reload()
    assert caught.value.rejection.code == code
    assert [line["event"] for line in lines] == ["reload_refused"]
    await parts.database.close()
