"""What browsers are told: the fields, when they are left out, and when HSTS is among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.policy.security_headers import security_fields, security_lines
from gateway.settings import Settings


@pytest.mark.parametrize("settings", [Settings(), Settings(tls_cert=Path("cert.pem"))])
def test_fields_and_lines_say_the_same(settings: Settings) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in security_fields(settings))
    assert security_lines(settings) == lines.encode()
    assert lines.startswith("X-Content-Type-Options: nosniff\r\n")


def test_hsts_is_said_only_with_tls_of_our_own() -> None:
    assert b"Strict-Transport-Security" not in security_lines(Settings())
    with_tls = security_lines(Settings(tls_cert=Path("cert.pem")))
    assert with_tls.endswith(b"Strict-Transport-Security: max-age=31536000\r\n")


def test_switched_off_there_are_none() -> None:
    off = Settings(security_headers=False, tls_cert=Path("cert.pem"))
    assert security_fields(off) == ()
    assert security_lines(off) == b""
