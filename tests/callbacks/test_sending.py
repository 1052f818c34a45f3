"""One request over real sockets: where it connects, what it carries, what ends it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable
from contextlib import closing

import pytest
import trustme
from aiohttp import web
from yarl import URL

from gateway.callbacks.address import Allowed
from gateway.callbacks.sending import MAX_ANSWER_BYTES, Answer, NotSent, Outgoing, Sender
from tests.callbacks.receiver import receiving, silence

HERE = Allowed(["127.0.0.1"])
TLS = ssl.create_default_context()


class Names:
    """Answers look-ups with the next of its answers, and counts them."""

    def __init__(self, *answers: list[str] | OSError) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def resolve(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        answer = self._answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer


def sender(names: Names | None = None, tls: ssl.SSLContext = TLS, seconds: float = 10) -> Sender:
    return Sender((names or Names()).resolve, tls, timeout_seconds=seconds)


def post(url: str, allowed: Allowed | None = HERE, body: bytes = b"{}") -> Outgoing:
    headers = {"Content-Type": "application/json", "webhook-id": "1"}
    return Outgoing("POST", URL(url, encoded=True), headers, body, allowed)


async def failure(sent: Awaitable[Answer]) -> str:
    with pytest.raises(NotSent) as caught:
        await sent
    return str(caught.value)


async def test_a_request_carries_what_was_made_and_nothing_of_the_client_library() -> None:
    async with receiving() as receiver:
        answer = await sender().send(post(receiver.url("/a%2Fb/../c?x=%2B"), body=b'{"a":1}'))
        (request,) = receiver.received
    assert answer == Answer(200, None)
    assert (request.method, request.target) == ("POST", "/a%2Fb/../c?x=%2B")
    assert request.body == b'{"a":1}'
    assert request.headers == {
        "host": f"127.0.0.1:{receiver.port}",
        "user-agent": "gateway",
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": "7",
        "connection": "close",
        "webhook-id": "1",
    }


async def test_a_name_is_resolved_once_and_what_it_means_afterwards_does_not_matter() -> None:
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    async with receiving() as receiver:
        url = receiver.url(host="hooks.example.com")
        assert (await sender(names).send(post(url))).status == 200
    assert names.asked == [("hooks.example.com", receiver.port)]
    assert receiver.received[0].headers["host"] == f"hooks.example.com:{receiver.port}"


async def test_each_attempt_resolves_anew() -> None:
    names = Names(["127.0.0.1"], ["10.0.0.1"])
    async with receiving() as receiver:
        out, outgoing = sender(names), post(receiver.url(host="hooks.example.com"))
        await out.send(outgoing)
        assert await failure(out.send(outgoing)) == "the host has an address that is not public"
        assert len(receiver.received) == 1


async def test_a_name_with_one_closed_address_is_not_connected_to_at_all() -> None:
    async with receiving() as receiver:
        url = receiver.url(host="hooks.example.com")
        both = sender(Names(["127.0.0.1", "127.0.0.2"]))
        assert "not public" in await failure(both.send(post(url)))
        assert receiver.received == []


async def test_a_written_address_is_judged_too() -> None:
    async with receiving() as receiver:
        assert "not public" in await failure(sender().send(post(receiver.url(), Allowed())))
        assert receiver.received == []


async def test_what_was_refused_is_told_to_the_log_only() -> None:
    with pytest.raises(NotSent) as caught:
        await sender(Names(["10.9.8.7"])).send(post("http://db.internal/"))
    assert "10.9.8.7" not in str(caught.value)
    assert caught.value.detail == "10.9.8.7"


async def test_a_listed_host_is_reached_wherever_it_is() -> None:
    async with receiving() as receiver:
        url = receiver.url(host="hooks.internal")
        allowed = Allowed(["hooks.internal"])
        assert (await sender(Names(["127.0.0.1"])).send(post(url, allowed))).status == 200


async def test_a_service_of_the_operator_may_be_anywhere() -> None:
    async with receiving() as receiver:
        assert (await sender().send(post(receiver.url(), None))).status == 200


async def test_the_next_checked_address_is_tried_when_one_does_not_answer() -> None:
    async with receiving() as receiver:
        allowed = Allowed(["127.0.0.0/8"])
        names = Names(["127.0.0.3", "127.0.0.1"])
        url = receiver.url(host="hooks.example.com")
        assert (await sender(names).send(post(url, allowed))).status == 200


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_answer_and_not_followed(status: int) -> None:
    async with receiving() as receiver:

        async def elsewhere(_request: web.Request) -> web.Response:
            return web.Response(status=status, headers={"Location": receiver.url("/elsewhere")})

        receiver.script.append(elsewhere)
        assert (await sender().send(post(receiver.url()))).status == status
        assert [request.target for request in receiver.received] == ["/hook"]


async def test_no_cookie_comes_back() -> None:
    async def cookie(_request: web.Request) -> web.Response:
        return web.Response(headers={"Set-Cookie": "a=1; Path=/"})

    async with receiving() as receiver:
        receiver.script.append(cookie)
        out = sender()
        for _ in range(2):
            await out.send(post(receiver.url()))
        assert "cookie" not in receiver.received[1].headers


async def test_proxies_and_passwords_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    netrc = f"{tmp_path}/netrc"
    with open(netrc, "w") as file:  # noqa: ASYNC230, PTH123
        file.write("machine 127.0.0.1 login u password p\n")
    monkeypatch.setenv("NETRC", netrc)
    async with receiving() as receiver, receiving() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url(""))
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        await sender().send(post(receiver.url()))
        assert proxy.received == []
        assert "authorization" not in receiver.received[0].headers


async def test_an_answer_without_end_is_read_no_further_than_its_bound() -> None:
    sent = 0
    broken = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(status=202)
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65536)
                sent += 65536
        except ConnectionError:
            broken.set()
            raise

    async with receiving() as receiver:
        receiver.script.append(endless)
        assert (await sender().send(post(receiver.url()))).status == 202
        await broken.wait()
    # What the kernel's buffers took besides is not ours to bound.
    assert sent < MAX_ANSWER_BYTES + (16 << 20)


async def test_an_answer_that_stops_in_the_middle_has_been_given() -> None:
    async def stuck(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=204 + 2)
        await response.prepare(request)
        await response.write(b"x")
        await asyncio.Event().wait()
        return response

    async def torn(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"x")
        assert request.transport is not None
        request.transport.close()
        return response

    async with receiving() as receiver:
        receiver.script += [stuck, torn]
        assert (await sender(seconds=0.2).send(post(receiver.url()))).status == 206
        assert (await sender().send(post(receiver.url()))).status == 200


async def test_a_zipped_answer_is_not_unpacked() -> None:
    async def bomb(_request: web.Request) -> web.Response:
        return web.Response(body=b"no gzip at all", headers={"Content-Encoding": "gzip"})

    async with receiving() as receiver:
        receiver.script.append(bomb)
        assert (await sender().send(post(receiver.url()))).status == 200


async def test_a_wish_for_patience_is_handed_on() -> None:
    async def busy(_request: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "120"})

    async with receiving() as receiver:
        receiver.script.append(busy)
        assert await sender().send(post(receiver.url())) == Answer(429, "120")


async def test_no_answer_in_time_is_a_failure() -> None:
    with silence() as port:
        out = sender(seconds=0.05)
        assert await failure(out.send(post(f"http://127.0.0.1:{port}/"))) == "no answer in time"


async def test_a_resolver_that_never_answers_is_bounded_by_the_same_time() -> None:
    async def resolve(_host: str, _port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    out = Sender(resolve, TLS, timeout_seconds=0.05)
    assert await failure(out.send(post("http://h/"))) == "no answer in time"


async def test_a_port_where_nobody_listens_is_a_failure() -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        assert await failure(sender().send(post(url))) == "no connection"


async def test_a_name_that_does_not_resolve_is_a_failure() -> None:
    names = Names(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    said = await failure(sender(names).send(post("http://gone.example/")))
    assert said == "the host's name could not be resolved"


@pytest.mark.parametrize(
    "answer",
    [b"", b"no HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"],
)
async def test_what_is_not_http_is_a_failure(answer: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1")
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        assert "not HTTP" in await failure(sender().send(post(url)))


# --- TLS


def tls(authority: trustme.CA, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext, list[str]]:
    """A receiver's context for `name`, a sender's that trusts it, and the names asked for."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(server)
    asked: list[str] = []
    server.sni_callback = lambda _socket, asked_for, _context: asked.append(asked_for or "")
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client, asked


async def test_the_certificate_is_asked_for_and_checked_by_name() -> None:
    server, client, asked = tls(trustme.CA(), "hooks.example.com")
    async with receiving(server) as receiver:
        url = receiver.url(host="hooks.example.com", scheme="https")
        assert (await sender(Names(["127.0.0.1"]), client).send(post(url))).status == 200
        other = receiver.url(host="other.example.com", scheme="https")
        said = await failure(sender(Names(["127.0.0.1"]), client).send(post(other)))
        assert said == "the certificate was not accepted"
    assert asked == ["hooks.example.com", "other.example.com"]
    assert len(receiver.received) == 1
    assert receiver.received[0].headers["host"] == f"hooks.example.com:{receiver.port}"


async def test_a_certificate_of_nobody_known_is_refused() -> None:
    server, _, _ = tls(trustme.CA(), "hooks.example.com")
    async with receiving(server) as receiver:
        url = receiver.url(host="hooks.example.com", scheme="https")
        said = await failure(sender(Names(["127.0.0.1"])).send(post(url)))
        assert said == "the certificate was not accepted"
        assert receiver.received == []


async def test_https_to_a_port_without_tls_is_a_failure() -> None:
    async with receiving() as receiver:
        url = receiver.url(host="hooks.example.com", scheme="https")
        assert await failure(sender(Names(["127.0.0.1"])).send(post(url))) == "no TLS"


def test_nothing_that_may_be_secret_is_in_what_it_shows() -> None:
    shown = repr(post("https://h/s3cret?token=s3cret", body=b"s3cret")) + repr(sender())
    assert "s3cret" not in shown
