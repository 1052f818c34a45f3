"""Settings loaded for tests: what is refused in which line, and which URLs the services have."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings import Settings, SettingsError, load


def refusal(environ: dict[str, str], config: Path | None = None) -> str:
    """The one line that these settings are refused with."""
    with pytest.raises(SettingsError) as caught:
        load(environ, config)
    line = str(caught.value)
    assert "\n" not in line
    return line


def urls(settings: Settings) -> dict[str, list[str]]:
    """The endpoints of each service."""
    return {s.name: [str(endpoint) for endpoint in s.endpoints] for s in settings.services}
