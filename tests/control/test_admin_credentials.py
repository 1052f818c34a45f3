"""The admin API and credentials: which can be revoked, and who is told of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import structlog

from gateway.policy.identity import LEEWAY_SECONDS
from gateway.settings import Settings
from tests.control.administering import FUTURE, REVOKE, RULES, Site
from tests.control.conftest import Running


async def test_a_revoked_token_is_refused_at_once_and_for_all(site: Site) -> None:
    found = await site.ok("POST", REVOKE, {"jti": "t-1", "expires_at": FUTURE})
    assert found == {"jti": "t-1", "expires_at": FUTURE, "status": "revoked"}
    assert site.parts.revocations.is_revoked("t-1")
    found = await site.ok("POST", REVOKE, {"key_id": "gw_abc"})
    told = {"key_id": "gw_abc", "expires_at": None, "status": "revoked", "known": False}
    assert found == told
    assert site.parts.revocations.is_revoked("gw_abc")
    assert site.parts.told == [1, 2]  # for the streams that were opened with it
    assert set(await site.parts.revoked.current()) == {"t-1", "gw_abc"}


async def test_a_token_can_be_revoked_as_long_as_it_is_taken(site: Site) -> None:
    now = time.time()
    body = {"jti": "t-1", "expires_at": now - LEEWAY_SECONDS + 10}
    await site.ok("POST", REVOKE, body)
    assert site.parts.revocations.is_revoked("t-1")
    body = {"jti": "t-2", "expires_at": now - LEEWAY_SECONDS}
    assert (await site.refused("POST", REVOKE, body))[0] == 422


async def test_whether_the_file_has_a_revoked_key_is_told(
    site: Site, running: Running, tmp_path: Path
) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(f'[keys.gw_abc]\nhash = "{"5" * 64}"\n')
    running.state.settings = Settings(api_keys=file)
    assert (await site.ok("POST", REVOKE, {"key_id": "gw_abc"}))["known"] is True
    assert (await site.ok("POST", REVOKE, {"key_id": "gw_nope"}))["known"] is False
    file.write_text("[keys")
    assert (await site.ok("POST", REVOKE, {"key_id": "gw_abc"}))["known"] is False
    assert site.parts.revocations.is_revoked("gw_nope")


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, [""]),
        ({"jti": "a", "key_id": "b", "expires_at": FUTURE}, [""]),
        ({"jti": "a"}, ["/expires_at"]),
        ({"jti": "a", "expires_at": 1}, ["/expires_at"]),
        ({"jti": "a", "expires_at": "tomorrow"}, ["/expires_at"]),
        ({"jti": "a", "expires_at": 1e300}, ["/expires_at"]),
        ({"jti": "a", "expires_at": True}, ["/expires_at"]),
        ({"jti": "", "expires_at": FUTURE}, ["/jti"]),
        ({"jti": "x" * 256, "expires_at": FUTURE}, ["/jti"]),
        ({"key_id": None}, ["/key_id"]),
    ],
)
async def test_a_revocation_names_one_credential_and_its_end(
    site: Site, body: dict[str, object], pointers: list[str]
) -> None:
    status, code, details = await site.refused("POST", REVOKE, body)
    assert (status, code, list(details)) == (422, "UNPROCESSABLE", pointers)
    assert len(site.parts.revocations) == 0


async def test_with_the_store_away_a_token_is_refused_here_and_the_answer_says_so(
    site: Site,
) -> None:
    await site.parts.database.close()
    with structlog.testing.capture_logs() as logged:
        refused = await site.refused("POST", REVOKE, {"jti": "t-1", "expires_at": FUTURE})
    assert refused[:2] == (503, "SERVICE_UNAVAILABLE")
    assert site.parts.revocations.is_revoked("t-1")
    (line,) = [entry for entry in logged if entry["event"] == "admin_change"]
    assert (line["change"], line["told_others"]) == ("revoked", False)
    assert (await site.refused("GET", RULES))[:2] == (503, "SERVICE_UNAVAILABLE")
