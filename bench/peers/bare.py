"""The floor: what arrives in a POST is written to every subscriber's socket by a bare `os.write`.

No event, no history, no check: a loop over file descriptors, all that the kernel asks for anyway.
`POST /publish` with the very bytes to be written; any GET subscribes. Usage: python bare.py PORT
"""

from __future__ import annotations

import os
import select
import socket
import sys

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"


def main() -> None:
    """Serves until it is ended."""
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=4096)
    listening = listener.fileno()
    clients: dict[int, socket.socket] = {}
    subscribers: list[int] = []
    epoll = select.epoll()
    epoll.register(listening, select.EPOLLIN)
    while True:
        for fd, _ in epoll.poll():
            if fd == listening:
                client, _ = listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients[client.fileno()] = client
                epoll.register(client.fileno(), select.EPOLLIN)
                continue
            data = os.read(fd, 65536)
            if not data:
                epoll.unregister(fd)
                clients.pop(fd).close()
                if fd in subscribers:
                    subscribers.remove(fd)
            elif data.startswith(b"GET "):
                os.write(fd, HEAD)
                subscribers.append(fd)
            else:
                _publish(fd, data, subscribers)


def _publish(publisher: int, data: bytes, subscribers: list[int]) -> None:
    head, _, body = data.partition(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(body) < size:
        body += os.read(publisher, 65536)
    write = os.write
    for fd in subscribers:
        write(fd, body)
    write(publisher, ACCEPTED)


if __name__ == "__main__":
    main()
