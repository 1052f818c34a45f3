"""Connecting to Temporal: which settings protect the connection, and how files are judged."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from temporalio.service import TLSConfig

from gateway.jobs.codec import data_converter
from gateway.jobs.connect import connect, tls_of, why
from gateway.policy.payload_keys import PayloadKeys
from gateway.settings import Settings, SettingsError
from tests.jobs.tls_front import TlsFront
from tests.temporal_server import TemporalServer, temporal

__all__ = ["temporal"]

CONVERTER = data_converter(PayloadKeys(Settings(payload_keys=(("k", b"k" * 32),))), None)


def test_without_any_setting_there_is_no_tls() -> None:
    assert tls_of(Settings()) is False


def test_tls_alone_trusts_the_systems_authorities() -> None:
    assert tls_of(Settings(temporal_tls=True)) == TLSConfig()


def test_an_api_key_is_never_sent_in_the_open() -> None:
    assert tls_of(Settings(temporal_api_key="secret")) == TLSConfig()


async def test_an_embedded_server_is_spoken_to_plainly_whatever_is_set_for_another(
    temporal: TemporalServer,
) -> None:
    settings = Settings(temporal_address="embedded", temporal_tls=True, temporal_api_key="secret")
    for each in (settings, replace(settings, temporal_address=temporal.address, embedded=True)):
        assert tls_of(each) is False
        client = await connect(temporal.address, each, CONVERTER, role="gateway")
        assert await client.service_client.check_health()
        assert client.api_key is None


def test_files_and_names_ask_for_tls_by_themselves(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text(f"-----BEGIN {name}-----")
    settings = Settings(
        temporal_tls_ca=tmp_path / "ca",
        temporal_tls_cert=tmp_path / "cert",
        temporal_tls_key=tmp_path / "key",
        temporal_tls_server_name="temporal.example",
    )
    assert tls_of(settings) == TLSConfig(
        server_root_ca_cert=b"-----BEGIN ca-----",
        client_cert=b"-----BEGIN cert-----",
        client_private_key=b"-----BEGIN key-----",
        domain="temporal.example",
    )


def test_a_file_that_is_not_there_or_no_pem_is_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(SettingsError, match=r"TEMPORAL_TLS_CA .*missing cannot be read"):
        tls_of(Settings(temporal_tls_ca=missing))
    (tmp_path / "der").write_bytes(b"\x30\x82")
    with pytest.raises(SettingsError, match=r"TEMPORAL_TLS_KEY .*der is no PEM file"):
        tls_of(Settings(temporal_tls_key=tmp_path / "der"))


def test_an_error_is_told_in_one_short_line() -> None:
    assert why(RuntimeError("a\n  b " + "x" * 500)).startswith("a b xxx")
    assert len(why(RuntimeError("x" * 500))) == 200
    assert why(RuntimeError()) == "RuntimeError"


async def test_a_server_that_is_not_there_is_an_error_and_no_wait(unused_tcp_port: int) -> None:
    with pytest.raises(RuntimeError):
        await connect(f"127.0.0.1:{unused_tcp_port}", Settings(), CONVERTER, role="test")


async def test_lazily_nothing_is_connected(unused_tcp_port: int) -> None:
    client = await connect(
        f"127.0.0.1:{unused_tcp_port}", Settings(), CONVERTER, role="test", lazy=True
    )
    assert client.identity.startswith("test-")


async def test_mutual_tls_and_an_api_key_reach_the_server(
    temporal: TemporalServer, tmp_path: Path
) -> None:
    authority = trustme.CA()
    server, client_cert = authority.issue_cert("temporal.example"), authority.issue_cert("worker")
    authority.cert_pem.write_to_path(tmp_path / "ca")
    client_cert.private_key_pem.write_to_path(tmp_path / "key")
    client_cert.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    settings = Settings(
        temporal_tls_ca=tmp_path / "ca",
        temporal_tls_cert=tmp_path / "cert",
        temporal_tls_key=tmp_path / "key",
        temporal_tls_server_name="temporal.example",
        temporal_api_key="secret-key",
    )
    async with TlsFront(context, temporal.address) as front:
        client = await connect(front.address, settings, CONVERTER, role="test")
        assert await client.service_client.check_health()
        for without in ({"temporal_tls_cert": None, "temporal_tls_key": None},
                        {"temporal_tls_server_name": None}):  # fmt: skip
            wrong = Settings(
                temporal_tls_ca=settings.temporal_tls_ca,
                **{
                    name: getattr(settings, name)
                    for name in ("temporal_tls_cert", "temporal_tls_key",
                                 "temporal_tls_server_name")
                    if name not in without
                },
            )  # fmt: skip
            with pytest.raises(RuntimeError):
                await connect(front.address, wrong, CONVERTER, role="test")
