"""Active checks, against real servers on this machine; time passes when a test says so."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
import trustme

from gateway.edge.listener import upstream_tls_context
from gateway.observe.metrics import Metrics
from gateway.routing.health import HealthChecks
from gateway.routing.services import Service
from gateway.settings import EndpointUrl, ServiceSettings
from gateway.settings_balancing import CheckSettings, OutlierSettings

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Backend:
    """A server that answers each connection as told and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: bytes | None = OK  # None: never
        self.asked: list[bytes] = []
        self.was_asked = asyncio.Event()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def listen(self, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        """On a free port, or the one it had."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            self.was_asked.set()
            if self.answer is None:
                await reader.read()
            else:
                writer.write(self.answer)
                await writer.drain()
                await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def close(self) -> None:
        """Refuse from now on."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await self._server.wait_closed()

    def url(self, scheme: str = "http", base_path: str = "") -> EndpointUrl:
        """Where it listens."""
        return EndpointUrl(scheme, "127.0.0.1", self.port, base_path)


class Naps:
    """Sleeps that end when the test says so; the clock moves by as much."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._asked: asyncio.Queue[tuple[float, asyncio.Future[None]]] = asyncio.Queue()

    def clock(self) -> float:
        """Seconds, monotonic."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """As asyncio's."""
        woken = asyncio.get_running_loop().create_future()
        self._asked.put_nowait((seconds, woken))
        await woken

    async def wake(self) -> float:
        """End the next nap that anybody takes; returns how long it was to be."""
        while True:
            seconds, woken = await self._asked.get()
            if not woken.done():  # whose sleeper was cancelled
                self.now += seconds
                woken.set_result(None)
                return seconds

    async def rounds(self, count: int = 1) -> list[float]:
        """Let so many rounds of checks be made to their end, and begin the next nap but one."""
        return [await self.wake() for _ in range(count)]

    async def idle(self) -> None:
        """Until somebody naps again: the round before is over then."""
        nap = await self._asked.get()
        self._asked.put_nowait(nap)


def service(*urls: EndpointUrl, checks: CheckSettings | None, name: str = "users") -> Service:
    settings = ServiceSettings(
        name=name,
        aliases=(name,),
        endpoints=urls,
        checks=checks,
        outlier=OutlierSettings(),
    )
    return Service(settings, Metrics("1").service(name))


@pytest_asyncio.fixture
async def backend() -> AsyncIterator[Backend]:
    made = Backend()
    await made.listen()
    yield made
    await made.close()


@asynccontextmanager
async def checking(
    *services: Service, naps: Naps, tls: ssl.SSLContext | None = None, chance: float = 0.5
) -> AsyncIterator[HealthChecks]:
    """Checks of these, to be woken one by one."""
    checks = HealthChecks(naps.clock, sleep=naps.sleep, random=lambda: chance)
    checks.reload(services, tls)
    try:
        yield checks
    finally:
        await checks.close()


def states(made: Service) -> list[str]:
    return [endpoint.state for endpoint in made.endpoints]


async def test_an_endpoint_goes_out_after_three_bad_checks_and_in_after_two_good_ones(
    backend: Backend,
) -> None:
    made, naps = service(backend.url(), checks=CheckSettings("/health")), Naps()
    seen = []
    async with checking(made, naps=naps):
        for answer in (OK, *[b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n"] * 3, OK, OK):
            backend.answer = answer
            await naps.wake()
            await naps.idle()
            seen.append(states(made)[0])
    assert seen == ["healthy", "healthy", "healthy", "unhealthy", "unhealthy", "healthy"]


async def test_a_check_is_a_plain_get_of_the_path_on_its_own_connection(backend: Backend) -> None:
    made = service(backend.url(base_path="/v2"), checks=CheckSettings("/he%61lth?deep=%2F1"))
    naps = Naps()
    async with checking(made, naps=naps):
        for _ in range(2):
            await naps.wake()
            await naps.idle()
    assert len(backend.asked) == 2
    lines = backend.asked[0].split(b"\r\n")
    assert lines[0] == b"GET /he%61lth?deep=%2F1 HTTP/1.1"
    assert b"Host: 127.0.0.1:%d" % backend.port in lines
    assert b"User-Agent: gateway-health-check" in lines


@pytest.mark.parametrize(
    ("status", "error"),
    [(200, None), (204, None), (302, None), (399, None), (400, "status 400"), (404, "status 404"),
     (429, "status 429"), (500, "status 500")],
)  # fmt: skip
async def test_2xx_and_3xx_pass_and_redirects_are_not_followed(
    backend: Backend, status: int, error: str | None
) -> None:
    backend.answer = b"HTTP/1.1 %d X\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n" % status
    made, naps = service(backend.url(), checks=CheckSettings("/")), Naps()
    async with checking(made, naps=naps):
        await naps.wake()
        await naps.idle()
    assert made.endpoints[0].last_error == error
    assert len(backend.asked) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (None, "no answer within 0.05 s"),
        (b"HTTP/1.1 200 OK\r\nContent-", "no answer within 0.05 s"),
        (b"nonsense\r\n\r\n", "ClientResponseError"),
    ],
)
async def test_no_answer_in_time_and_no_valid_answer_are_failures(
    backend: Backend, answer: bytes | None, error: str
) -> None:
    backend.answer = answer
    patience = 0.05 if error.endswith(" s") else 30.0
    made, naps = service(backend.url(), checks=CheckSettings("/", timeout=patience)), Naps()
    async with checking(made, naps=naps):
        await naps.wake()
        await naps.idle()
    told = made.endpoints[0].last_error
    assert told is not None
    assert told == error or (answer is not None and told.endswith("Error"))


async def test_a_body_without_an_end_is_not_waited_for(backend: Backend) -> None:
    backend.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nx"
    made, naps = service(backend.url(), checks=CheckSettings("/")), Naps()
    async with checking(made, naps=naps):
        await naps.wake()
        await naps.idle()
    assert states(made) == ["healthy"]


async def test_an_endpoint_that_refuses_connections_goes_out_and_comes_back(
    backend: Backend,
) -> None:
    made, naps = service(backend.url(), checks=CheckSettings("/")), Naps()
    port = backend.port
    await backend.close()
    async with checking(made, naps=naps):
        await naps.rounds(3)
        await naps.idle()
        assert states(made) == ["unhealthy"]
        assert made.endpoints[0].last_error == "Connection refused"
        await backend.listen(port=port)
        await naps.rounds(2)
        await naps.idle()
        assert states(made) == ["healthy"]


async def test_one_that_hangs_does_not_keep_the_others_from_being_checked(
    backend: Backend,
) -> None:
    hanging = Backend()
    hanging.answer = None
    await hanging.listen()
    checks = CheckSettings("/", timeout=0.5)
    made, naps = service(hanging.url(), backend.url(), checks=checks), Naps()
    async with checking(made, naps=naps):
        await naps.rounds(3)
        await naps.idle()
    assert states(made) == ["unhealthy", "healthy"]
    await hanging.close()


async def test_a_good_check_brings_an_ejected_endpoint_back(backend: Backend) -> None:
    other = Backend()
    await other.listen()
    made, naps = service(backend.url(), other.url(), checks=CheckSettings("/")), Naps()
    a = made.endpoints[0]
    for _ in range(5):
        made.picked(a)
        made.settled(a, True, naps.now)
    assert states(made)[0] == "ejected"
    async with checking(made, naps=naps):
        await naps.wake()
        await naps.idle()
    assert states(made) == ["healthy", "healthy"]
    await other.close()


async def test_checks_come_in_their_interval_more_or_less(backend: Backend) -> None:
    made = service(backend.url(), checks=CheckSettings("/", interval=10.0))
    for chance, expected in ((0.0, [0.0, 9.0, 9.0]), (0.999, [1.0, 11.0, 11.0])):
        naps = Naps()
        async with checking(made, naps=naps, chance=chance):
            assert await naps.rounds(3) == [pytest.approx(each, abs=0.1) for each in expected]


async def test_endpoints_added_at_run_time_are_checked_and_draining_ones_are_not(
    backend: Backend,
) -> None:
    other = Backend()
    await other.listen()
    made, naps = service(backend.url(), checks=CheckSettings("/")), Naps()
    async with checking(made, naps=naps):
        await naps.wake()
        await naps.idle()
        made.add_endpoint(other.url())
        made.drain_endpoint(str(backend.url()))
        await naps.wake()
        await naps.idle()
    assert (len(backend.asked), len(other.asked)) == (1, 1)
    await other.close()


async def test_a_service_without_a_path_is_not_checked(backend: Backend) -> None:
    made, naps = service(backend.url(), checks=None), Naps()
    async with checking(made, naps=naps) as checks:
        assert repr(checks) == "<HealthChecks of []>"


async def test_a_reload_keeps_what_is_the_same_and_ends_what_is_gone(backend: Backend) -> None:
    kept = service(backend.url(), checks=CheckSettings("/kept"), name="kept")
    gone = service(backend.url(), checks=CheckSettings("/gone"), name="gone")
    new = service(backend.url(), checks=CheckSettings("/new"), name="new")
    naps = Naps()
    async with checking(kept, gone, naps=naps) as checks:
        await naps.idle()
        assert repr(checks) == "<HealthChecks of ['gone', 'kept']>"
        checks.reload([kept, new])
        assert repr(checks) == "<HealthChecks of ['kept', 'new']>"
        await naps.rounds(2)
        await naps.idle()
        await naps.rounds(2)
        await naps.idle()
    paths = {asked.split(b" ")[1] for asked in backend.asked}
    assert paths == {b"/kept", b"/new"}


async def test_https_is_verified_by_the_given_roots(tmp_path: Path) -> None:
    authority = trustme.CA()
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    backend = Backend()
    await backend.listen(serving)
    made, naps = service(backend.url("https"), checks=CheckSettings("/")), Naps()
    async with checking(made, naps=naps) as checks:
        await naps.wake()
        await naps.idle()
        assert made.endpoints[0].last_error == "TLS failed: CERTIFICATE_VERIFY_FAILED"
        checks.reload([made], upstream_tls_context(tmp_path / "ca.pem"))
        await naps.wake()
        await naps.idle()
        assert states(made) == ["healthy"]
    await backend.close()


async def test_tls_asked_of_an_endpoint_that_speaks_none_is_a_failure(backend: Backend) -> None:
    made, naps = service(backend.url("https"), checks=CheckSettings("/", timeout=0.5)), Naps()
    backend.answer = None
    async with checking(made, naps=naps):
        await naps.wake()
        await naps.idle()
    assert made.endpoints[0].last_error is not None


async def test_a_name_that_nobody_knows_and_one_that_is_none_are_failures() -> None:
    unknown = EndpointUrl("http", ".".join(["x" * 60] * 6), 80)  # longer than any name may be
    broken = EndpointUrl("http", "x" * 300, 80)
    made, naps = service(unknown, broken, checks=CheckSettings("/")), Naps()
    async with checking(made, naps=naps):
        await naps.wake()
        await naps.idle()
    errors = [endpoint.last_error for endpoint in made.endpoints]
    assert errors == ["its name is not known", "UnicodeError"]


async def test_nothing_is_checked_after_the_end(backend: Backend) -> None:
    made, naps = service(backend.url(), checks=CheckSettings("/")), Naps()
    backend.answer = None
    async with checking(made, naps=naps):
        await naps.wake()
        await backend.was_asked.wait()
    assert made.endpoints[0].last_error is None
    assert len(asyncio.all_tasks()) <= 2, "this test's and the server's connection"


async def test_an_end_before_the_beginning_is_no_trouble() -> None:
    await HealthChecks(Naps().clock).close()
