"""The listening sockets: opened before anything else, closed only when their queue of accepted ones
is empty.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Final

BACKLOG: Final = 4096
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def open_sockets(host: str, port: int, *, share_port: bool) -> list[socket.socket]:
    """Bind every address of `host`; raises OSError (a port in use is one).

    `share_port` sets SO_REUSEPORT, for several processes on one port; otherwise a second gateway on
    the same port must fail instead of taking half of the connections.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            sockets.append(listener)
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if share_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                # `::` takes IPv4 as well, as people expect of it; another address can't anyway.
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
            if port == 0 and len(sockets) > 1:
                chosen = sockets[0].getsockname()[1]
                listener.bind((address[0], chosen, *address[2:]))
            else:
                listener.bind(address)
            listener.listen(BACKLOG)
    except BaseException:
        for listener in sockets:
            listener.close()
        raise
    return sockets


def accept_queued(listener: socket.socket) -> list[socket.socket]:
    """Take what the kernel has queued and close `listener` in the same breath, so that closing
    resets nobody who was let in.

    For a duplicate of a listening socket, after the loop has closed its own: the loop closes a turn
    later than it accepts last, and whoever connects in between would be reset.
    """
    accepted: list[socket.socket] = []
    try:
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            accepted.append(connection)
    except BlockingIOError:
        pass
    finally:
        listener.close()
    return accepted


def tls_context(cert: Path, key: Path, min_version: str) -> ssl.SSLContext:
    """The listener's TLS; raises OSError or ssl.SSLError for a file that can't be used."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = _VERSIONS[min_version]
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(cert, key)
    return context


def upstream_tls_context(extra_ca: Path | None) -> ssl.SSLContext:
    """For https upstreams: certificates and names are verified, by the system's roots and
    `extra_ca`.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if extra_ca is not None:
        context.load_verify_locations(extra_ca)
    return context
