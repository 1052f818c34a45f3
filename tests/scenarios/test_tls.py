"""TLS on both sides: the listener's certificate and its renewal, upstreams verified or refused."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from tests.wire import (
    Link,
    ScriptedUpstream,
    answer,
    assert_error,
    connect,
    request,
    start_gateway,
)

GET = b"GET /api/v1/svc/x"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs the certificates of a test."""
    return trustme.CA()


def write_certificate(authority: trustme.CA, directory: Path, *names: str) -> dict[str, str]:
    """A certificate as the settings of a listener; written over the one before."""
    issued = authority.issue_cert(*names)
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return {"TLS_CERT": str(certificate), "TLS_KEY": str(key)}


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client that believes the authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def serving(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """An upstream with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


async def test_the_listener_speaks_tls_and_says_so_upstream(
    authority: trustme.CA, tmp_path: Path
) -> None:
    tls = write_certificate(authority, tmp_path, "127.0.0.1")
    async with (
        ScriptedUpstream() as upstream,
        start_gateway(SVC_URL=upstream.url, **tls) as gateway,
        gateway.connect(tls=trusting(authority)) as client,
    ):
        for _ in range(3):
            assert (await client.ask(request(GET))).body == b"ok"
        assert upstream.requests[0].get("x-forwarded-proto") == b"https"
        assert len(upstream.links) == 1


async def test_large_bodies_pass_over_tls_both_ways(authority: trustme.CA, tmp_path: Path) -> None:
    body = bytes(range(256)) * 16384

    async def echo(link: Link) -> None:
        message = await link.request()
        link.send(answer(message.body))
        await link.flush()

    tls = write_certificate(authority, tmp_path, "127.0.0.1")
    async with (
        ScriptedUpstream(echo) as upstream,
        start_gateway(SVC_URL=upstream.url, **tls) as gateway,
        gateway.connect(tls=trusting(authority)) as client,
    ):
        response = await client.ask(request(b"POST /api/v1/svc/x", body=body))
        assert response.body == body


async def test_a_client_below_the_least_version_is_refused(
    authority: trustme.CA, tmp_path: Path
) -> None:
    tls = write_certificate(authority, tmp_path, "127.0.0.1")
    old = trusting(authority)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with ScriptedUpstream() as upstream:
        async with (
            start_gateway(SVC_URL=upstream.url, **tls) as gateway,
            gateway.connect(tls=old) as client,
        ):
            assert (await client.ask(request(GET))).status == 200
        async with start_gateway(SVC_URL=upstream.url, TLS_MIN_VERSION="1.3", **tls) as gateway:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                async with gateway.connect(tls=old):
                    pass
            async with gateway.connect(tls=trusting(authority)) as client:
                assert (await client.ask(request(GET))).status == 200


async def test_a_plain_client_of_a_tls_listener_is_closed_and_harms_nobody(
    authority: trustme.CA, tmp_path: Path
) -> None:
    tls = write_certificate(authority, tmp_path, "127.0.0.1")
    async with start_gateway(**tls) as gateway:
        async with gateway.connect() as plain:
            plain.send(request(b"GET /health/live"))
            await plain.closed()
        async with gateway.connect(tls=trusting(authority)) as client:
            assert (await client.ask(request(b"GET /health/live"))).status == 200


async def test_a_renewed_certificate_is_served_after_a_reload_and_nothing_is_cut(
    authority: trustme.CA, tmp_path: Path
) -> None:
    tls = write_certificate(authority, tmp_path, "127.0.0.1")

    def certificate(client: object) -> bytes:
        session = client.transport.get_extra_info("ssl_object")  # type: ignore[attr-defined]
        shown: bytes = session.getpeercert(binary_form=True)
        return shown

    async with (
        ScriptedUpstream() as upstream,
        start_gateway(SVC_URL=upstream.url, **tls) as gateway,
        gateway.connect(tls=trusting(authority)) as before,
    ):
        assert (await before.ask(request(GET))).status == 200
        write_certificate(authority, tmp_path, "127.0.0.1", "renewed.example")
        gateway.gateway.reload(gateway.settings)
        async with gateway.connect(tls=trusting(authority)) as after:
            assert certificate(after) != certificate(before)
            assert (await after.ask(request(GET))).status == 200
        assert (await before.ask(request(GET))).status == 200


def spoil(authority: trustme.CA, tls: dict[str, str], broken: str) -> None:
    """Makes the files unusable."""
    if broken == "missing":
        Path(tls["TLS_KEY"]).unlink()
    elif broken == "not a certificate":
        Path(tls["TLS_CERT"]).write_text("nonsense")
    else:
        Path(tls["TLS_KEY"]).write_bytes(authority.issue_cert("a").private_key_pem.bytes())


@pytest.mark.parametrize("broken", ["missing", "not a certificate", "another's key"])
async def test_an_unreadable_key_or_certificate_stops_the_start(
    authority: trustme.CA, tmp_path: Path, broken: str
) -> None:
    from gateway.settings import SettingsError

    tls = write_certificate(authority, tmp_path, "127.0.0.1")
    spoil(authority, tls, broken)
    with pytest.raises((OSError, SettingsError)):
        async with start_gateway(**tls):
            pass


async def test_an_https_upstream_of_a_known_authority_is_used(
    authority: trustme.CA, tmp_path: Path
) -> None:
    trusted = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(trusted)
    async with (
        ScriptedUpstream(tls=serving(authority, "127.0.0.1")) as upstream,
        start_gateway(SVC_URL=upstream.url, UPSTREAM_CA=trusted) as gateway,
    ):
        for _ in range(3):
            assert (await gateway.ask(request(GET))).body == b"ok"
        assert len(upstream.links) == 1


async def test_an_https_upstream_of_a_stranger_is_refused_before_a_request_is_sent(
    authority: trustme.CA,
) -> None:
    async with (
        ScriptedUpstream(tls=serving(authority, "127.0.0.1")) as upstream,
        start_gateway(SVC_URL=upstream.url) as gateway,
    ):
        response = await gateway.ask(request(GET))
        assert_error(response, (502, 503), ("PROXY_ERROR", "SERVICE_UNAVAILABLE"))
        assert upstream.requests == []


async def test_an_https_upstream_with_another_name_is_refused(
    authority: trustme.CA, tmp_path: Path
) -> None:
    trusted = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(trusted)
    async with (
        ScriptedUpstream(tls=serving(authority, "other.example")) as upstream,
        start_gateway(SVC_URL=upstream.url, UPSTREAM_CA=trusted) as gateway,
    ):
        response = await gateway.ask(request(GET))
        assert_error(response, (502, 503), ("PROXY_ERROR", "SERVICE_UNAVAILABLE"))
        assert upstream.requests == []


async def test_an_https_endpoint_that_speaks_plain_http_is_refused() -> None:
    async def plain(link: Link) -> None:
        await link.until(lambda: link.count, "a greeting")
        link.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        link.close()

    async with (
        ScriptedUpstream(plain) as upstream,
        start_gateway(SVC_URL=f"https://127.0.0.1:{upstream.port}") as gateway,
    ):
        response = await gateway.ask(request(GET))
        assert_error(response, (502, 503), ("PROXY_ERROR", "SERVICE_UNAVAILABLE"))


async def test_a_websocket_passes_over_tls_on_both_sides(
    authority: trustme.CA, tmp_path: Path
) -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
        link.send(b"Connection: Upgrade\r\n\r\n")
        link.send(await link.exactly(4))
        await link.closed()

    trusted = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(trusted)
    tls = write_certificate(authority, tmp_path, "127.0.0.1")
    async with (
        ScriptedUpstream(script, tls=serving(authority, "127.0.0.1")) as upstream,
        start_gateway(SVC_URL=upstream.url, UPSTREAM_CA=trusted, **tls) as gateway,
        connect(gateway.address, tls=trusting(authority)) as client,
    ):
        client.send(request(GET, b"Connection: Upgrade", b"Upgrade: websocket"))
        assert (await client.response()).status == 101
        client.send(b"ping")
        assert await client.exactly(4) == b"ping"
        client.close()
        await upstream.links[0].closed()
