"""What decisions are sent by: the same authorities as services are verified with, also those that a
reload brings.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import trustme

from tests.wire import start_gateway


async def test_a_reload_brings_its_authorities_to_who_sends_decisions_too(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with start_gateway(SVC_URL="https://127.0.0.1:1") as running:
        gateway = running.gateway
        assert gateway is not None
        sender = gateway._room._questions._sender
        before = sender.tls
        assert before is gateway._services.tls, "made once: it takes 60 ms"
        gateway.reload(replace(running.settings, upstream_ca=tmp_path / "ca.pem"))
        assert sender.tls is gateway._services.tls
        assert sender.tls is not before
