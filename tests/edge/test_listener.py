"""Listening sockets and TLS: what is bound, what must fail, and that nobody queued is reset."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
import trustme

from gateway.edge.listener import accept_queued, open_sockets, tls_context, upstream_tls_context


def ports(sockets: list[socket.socket]) -> list[int]:
    return [listener.getsockname()[1] for listener in sockets]


def close(sockets: list[socket.socket]) -> None:
    for listener in sockets:
        listener.close()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")


def test_a_free_port_is_found_and_listened_on() -> None:
    sockets = open_sockets("127.0.0.1", 0, share_port=False)
    try:
        (listener,) = sockets
        assert not listener.getblocking()
        with socket.create_connection(listener.getsockname()):
            pass
    finally:
        close(sockets)


def test_a_port_in_use_is_an_error_and_leaves_nothing_open() -> None:
    sockets = open_sockets("127.0.0.1", 0, share_port=False)
    try:
        with pytest.raises(OSError, match="in use"):
            open_sockets("127.0.0.1", ports(sockets)[0], share_port=False)
    finally:
        close(sockets)


def test_workers_share_a_port_that_nobody_else_can_take() -> None:
    first = open_sockets("127.0.0.1", 0, share_port=True)
    second = open_sockets("127.0.0.1", ports(first)[0], share_port=True)
    try:
        assert ports(first) == ports(second)
        with pytest.raises(OSError, match="in use"):
            open_sockets("127.0.0.1", ports(first)[0], share_port=False)
    finally:
        close(first + second)


def test_an_address_that_is_not_here_is_an_error() -> None:
    with pytest.raises(OSError, match="assign"):
        open_sockets("192.0.2.1", 0, share_port=False)


@needs_ipv6
def test_the_ipv6_wildcard_takes_ipv4_as_well() -> None:
    sockets = open_sockets("::", 0, share_port=False)
    try:
        with socket.create_connection(("127.0.0.1", ports(sockets)[0])):
            pass
    finally:
        close(sockets)


@needs_ipv6
def test_the_ipv6_loopback_is_that_alone() -> None:
    sockets = open_sockets("::1", 0, share_port=False)
    try:
        with socket.create_connection(("::1", ports(sockets)[0])):
            pass
        assert sockets[0].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    finally:
        close(sockets)


@needs_ipv6
def test_every_address_of_a_name_has_one_port() -> None:
    named = {found[4][0] for found in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    sockets = open_sockets("localhost", 0, share_port=False)
    try:
        assert {listener.getsockname()[0] for listener in sockets} == named
        assert len(set(ports(sockets))) == 1
    finally:
        close(sockets)


def test_whoever_is_in_the_queue_is_accepted_in_the_end() -> None:
    (listener,) = open_sockets("127.0.0.1", 0, share_port=False)
    address = listener.getsockname()
    clients = [socket.create_connection(address) for _ in range(20)]
    for client in clients:
        client.sendall(b"x")
    accepted = accept_queued(listener)
    assert listener.fileno() == -1
    assert {connection.getpeername() for connection in accepted} == {
        client.getsockname() for client in clients
    }
    for connection in accepted:
        assert not connection.getblocking()
        assert connection.recv(1) == b"x"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    close(accepted + clients)


def test_an_empty_queue_is_not_waited_for() -> None:
    (listener,) = open_sockets("127.0.0.1", 0, share_port=False)
    assert accept_queued(listener) == []
    assert listener.fileno() == -1


def test_a_listener_is_closed_also_when_it_can_not_accept() -> None:
    (listener,) = open_sockets("127.0.0.1", 0, share_port=False)
    listener.shutdown(socket.SHUT_RDWR)
    with pytest.raises(OSError, match="argument"):
        accept_queued(listener)
    assert listener.fileno() == -1


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> tuple[Path, Path]:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = authority.issue_cert("gateway.test")
    made.private_key_pem.write_to_path(key)
    made.cert_chain_pems[0].write_to_path(cert)
    return cert, key


def shake(client: ssl.SSLContext, server: ssl.SSLContext) -> ssl.SSLObject:
    """A whole handshake in memory; returns the client's side."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname="gateway.test"),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    return ends[0]


@pytest.mark.parametrize("least", ["1.2", "1.3"])
def test_tls_speaks_http_11_from_the_least_version_on(
    authority: trustme.CA, files: tuple[Path, Path], least: str
) -> None:
    server = tls_context(*files, least)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    client.set_alpn_protocols(["h2", "http/1.1"])
    assert shake(client, server).selected_alpn_protocol() == "http/1.1"
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    if least == "1.2":
        assert shake(client, server).version() == "TLSv1.2"
    else:
        with pytest.raises(ssl.SSLError):
            shake(client, server)


def test_tls_files_that_can_not_be_used_are_an_error(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    cert, key = files
    with pytest.raises(OSError, match="No such file"):
        tls_context(tmp_path / "none.pem", key, "1.2")
    with pytest.raises(ssl.SSLError):
        tls_context(key, cert, "1.2")


def test_an_upstreams_certificate_is_verified_by_the_extra_ca(
    authority: trustme.CA, files: tuple[Path, Path], tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    server = tls_context(*files, "1.2")
    trusting = upstream_tls_context(ca)
    assert shake(trusting, server).selected_alpn_protocol() == "http/1.1"
    assert trusting.check_hostname
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(upstream_tls_context(None), server)
