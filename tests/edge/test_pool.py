"""Connections to one endpoint: who gets one, who waits, who is told that there is none."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

import pytest

from gateway.edge.pool import Pool, tcp_connector
from gateway.edge.reading import HeadLimits
from gateway.settings import EndpointUrl
from tests.connection import turn
from tests.edge.house import Backend, Customer, House, ended

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_the_first_connection_is_made_and_the_second_request_reuses_it() -> None:
    house = House()
    first = house.want()
    assert house.state == "idle=0 active=0 waiting=1"
    assert first.upstream is None
    await turn()
    house.time.pass_by(0.0125)
    await house.backend.accept()
    assert house.state == "idle=0 active=1 waiting=0"
    assert house.pool.latency_ms == 12.5
    assert repr(first.upstream) == "<UpstreamConnection http://a.test busy fresh>"
    first.done()
    assert house.state == "idle=1 active=0 waiting=0"
    assert repr(first.upstream) == "<UpstreamConnection http://a.test idle fresh>"
    second = house.want()
    assert second.upstream is first.upstream
    assert repr(second.upstream) == "<UpstreamConnection http://a.test busy reused>"
    assert len(house.backend.attempts) == 1


async def test_the_youngest_idle_connection_is_used_first() -> None:
    house = House()
    first, second = await house.served(2)
    first.done()
    second.done()
    assert house.want().upstream is second.upstream
    assert house.want().upstream is first.upstream


async def test_an_idle_connection_that_is_closing_is_passed_over() -> None:
    house = House()
    first, second = await house.served(2)
    first.done()
    second.done()
    assert second.upstream is not None
    second.upstream.transport.close()
    assert house.want().upstream is first.upstream


async def test_more_than_enough_idle_connections_are_closed() -> None:
    house = House(max_connections=3)
    customers = await house.served(3)
    for customer in customers:
        customer.done()
    assert house.state == "idle=2 active=0 waiting=0"
    assert [ended(customer.upstream) for customer in customers] == ["", "", "closed"]


async def test_an_idle_connection_is_closed_when_its_time_is_over() -> None:
    house = House()
    (customer,) = await house.served()
    customer.done()
    house.time.pass_by(89)
    assert ended(customer.upstream) == ""
    house.time.pass_by(2)
    assert ended(customer.upstream) == "closed"
    assert house.state == "idle=0 active=0 waiting=0"


@pytest.mark.parametrize(("hint", "kept_for"), [(10, 8.0), (1000, 89.0), (1, 0.0), (0, 0.0)])
async def test_an_idle_connection_is_closed_before_the_back_end_does(
    hint: int, kept_for: float
) -> None:
    house = House()
    (customer,) = await house.served()
    assert customer.upstream is not None
    customer.upstream.keep_alive_seconds = hint
    customer.done()
    if kept_for:
        house.time.pass_by(kept_for)
        assert ended(customer.upstream) == ""
        house.time.pass_by(1.5)
    assert ended(customer.upstream) == "closed"


async def test_bytes_on_an_idle_connection_drop_it() -> None:
    house = House()
    (customer,) = await house.served()
    customer.done()
    assert customer.upstream is not None
    customer.upstream.data_received(OK)
    assert ended(customer.upstream) == "aborted"
    assert house.state == "idle=0 active=0 waiting=0"
    assert customer.told == []


@pytest.mark.parametrize("how", ["eof", "lost"])
async def test_an_idle_connection_that_the_back_end_ends_is_forgotten(how: str) -> None:
    house = House()
    (customer,) = await house.served()
    customer.done()
    assert customer.upstream is not None
    if how == "eof":
        customer.upstream.eof_received()
    customer.upstream.connection_lost(None)
    assert house.state == "idle=0 active=0 waiting=0"
    assert repr(customer.upstream) == "<UpstreamConnection http://a.test closed fresh>"


async def test_a_connection_that_can_not_be_reused_is_dropped() -> None:
    house = House()
    (customer,) = await house.served()
    customer.done(reusable=False)
    assert ended(customer.upstream)
    assert house.state == "idle=0 active=0 waiting=0"


async def test_at_the_cap_one_waits_and_the_next_is_told_so() -> None:
    house = House()
    first, second = await house.served(2)
    waiting, refused = house.want(), house.want()
    assert house.state == "idle=0 active=2 waiting=1"
    assert refused.code == "OVERLOADED"
    assert refused.refusal is not None
    assert "users" in refused.refusal.message
    second.done()
    assert waiting.upstream is second.upstream
    assert repr(waiting.upstream).endswith("busy reused>")
    first.done()
    assert house.state == "idle=1 active=1 waiting=0"


async def test_whoever_waits_first_is_served_first() -> None:
    house = House(max_connections=1, queue=3)
    (busy,) = await house.served()
    line = [house.want() for _ in range(3)]
    busy.done()
    assert [bool(customer.upstream) for customer in line] == [True, False, False]
    line[0].done()
    assert [bool(customer.upstream) for customer in line] == [True, True, False]


async def test_waiting_for_a_free_connection_has_an_end() -> None:
    house = House(max_connections=1, queue=2)
    await house.served()
    first = house.want()
    house.time.pass_by(3)
    second = house.want()
    house.time.pass_by(2.3)
    assert first.code == "OVERLOADED"
    assert second.code == ""
    house.time.pass_by(3)
    assert second.code == "OVERLOADED"
    assert house.state == "idle=0 active=1 waiting=0"


async def test_whose_connection_is_on_its_way_waits_for_that() -> None:
    house = House(max_connections=1, queue=1, connect_timeout=60)
    dialing, queued = house.want(), house.want()
    house.time.pass_by(6)
    assert sorted([dialing.code, queued.code]) == ["", "OVERLOADED"]
    await house.backend.accept()
    assert (dialing.upstream is None) is (dialing.code == "OVERLOADED")
    assert house.state == "idle=0 active=1 waiting=0"


async def test_a_connection_that_ends_makes_room_for_who_waits() -> None:
    house = House(max_connections=1)
    (busy,) = await house.served()
    waiting = house.want()
    assert busy.upstream is not None
    busy.upstream.connection_lost(ConnectionResetError())
    assert busy.told == ["reset"]
    await house.backend.accept()
    assert waiting.upstream is not None
    assert repr(waiting.upstream).endswith("busy fresh>")


async def test_who_no_longer_waits_is_not_served() -> None:
    house = House(max_connections=1, queue=2)
    (busy,) = await house.served()
    gone, stays = house.want(), house.want()
    house.pool.cancel(gone)
    house.pool.cancel(gone)
    busy.done()
    assert gone.upstream is None
    assert stays.upstream is busy.upstream


async def test_a_connection_that_nobody_wants_any_more_is_kept_idle() -> None:
    house = House()
    gone = house.want()
    house.pool.cancel(gone)
    await house.backend.accept()
    assert house.state == "idle=1 active=0 waiting=0"


async def test_who_wants_a_fresh_connection_gets_no_used_one() -> None:
    house = House()
    (first,) = await house.served()
    first.done()
    fresh = house.want(fresh=True)
    assert fresh.upstream is None
    await house.backend.accept()
    assert fresh.upstream is not first.upstream
    assert repr(fresh.upstream).endswith("busy fresh>")


async def test_at_the_cap_an_idle_connection_makes_room_for_a_fresh_one() -> None:
    house = House()
    first, second = await house.served(2)
    first.done()
    second.done()
    fresh = house.want(fresh=True)
    assert ended(first.upstream) == "closed"
    await house.backend.accept()
    assert fresh.upstream is not None
    assert house.state == "idle=1 active=1 waiting=0"


async def test_a_used_connection_is_given_past_who_waits_for_a_fresh_one() -> None:
    house = House(max_connections=1, queue=2)
    (busy,) = await house.served()
    fresh, any_will_do = house.want(fresh=True), house.want()
    busy.done()
    assert any_will_do.upstream is busy.upstream
    assert fresh.upstream is None
    any_will_do.done(reusable=False)
    await house.backend.accept()
    assert repr(fresh.upstream).endswith("busy fresh>")


async def test_a_used_connection_does_not_help_who_waits_for_a_fresh_one() -> None:
    house = House(max_connections=1, queue=2)
    (busy,) = await house.served()
    fresh = house.want(fresh=True)
    busy.done()
    assert fresh.upstream is None
    house.time.pass_by(6)
    assert fresh.code == "OVERLOADED"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "SERVICE_UNAVAILABLE", "refused"),
        (OSError("no text of its own"), "SERVICE_UNAVAILABLE", "no text"),
        (ssl.SSLCertVerificationError("self-signed"), "PROXY_ERROR", "TLS"),
        (TimeoutError(), "TIMEOUT", "no connection within 5 s"),
        (UnicodeError("label too long"), "SERVICE_UNAVAILABLE", "label too long"),
    ],
)
async def test_a_back_end_that_can_not_be_reached_is_told_with_the_reason(
    error: Exception, code: str, said: str
) -> None:
    house = House()
    customer = house.want()
    await house.backend.refuse(error)
    assert customer.code == code
    assert customer.refusal is not None
    assert said in customer.refusal.message
    assert said in (house.pool.last_error or "")
    assert house.state == "idle=0 active=0 waiting=0"


async def test_connecting_has_an_end() -> None:
    house = House(connect_timeout=0.001)
    customer = house.want()
    while not customer.refusal:
        await turn()
    assert customer.code == "TIMEOUT"


async def test_a_connection_that_is_closed_at_once_is_a_fault_of_the_back_end() -> None:
    house = House()

    class Hasty(Backend):
        async def connect(self, factory: Callable[[], asyncio.Protocol]) -> object:
            line = await super().connect(factory)
            self.made[-1].connection_lost(None)
            return line

    hasty = Hasty()
    pool = Pool(
        house.endpoint,
        hasty.connect,
        house.pool.limits,
        HeadLimits(),
        house.pool.deadlines,
        house.time.clock,
    )
    customer = Customer()
    pool.acquire(customer)
    await hasty.accept()
    assert customer.code == "PROXY_ERROR"
    assert (pool.idle, pool.active, pool.waiting) == (0, 0, 0)


async def test_a_failure_is_told_to_one_and_the_next_gets_another_try() -> None:
    house = House(max_connections=1)
    first, second = house.want(), house.want()
    await house.backend.refuse(OSError("down"))
    assert first.code == "SERVICE_UNAVAILABLE"
    assert second.code == ""
    await house.backend.accept()
    assert second.upstream is not None


async def test_a_failure_that_nobody_waits_for_is_only_noted() -> None:
    house = House()
    house.pool.cancel(house.want())
    await house.backend.refuse(OSError("down"))
    assert house.pool.last_error == "down"
    assert house.state == "idle=0 active=0 waiting=0"


async def test_the_last_error_is_forgotten_when_a_response_came() -> None:
    house = House()
    house.want()
    await house.backend.refuse(OSError("down"))
    assert house.pool.last_error == "down"
    (customer,) = await house.served()
    customer.done()
    assert house.pool.last_error is None


async def test_a_pool_that_retires_serves_who_waits_and_keeps_nothing() -> None:
    house = House(max_connections=2, queue=2)
    first, second = await house.served(2)
    first.done()
    waiting = house.want(fresh=True)
    house.pool.retire()
    await house.backend.accept()
    assert waiting.upstream is not None
    second.done()
    waiting.done()
    assert ended(second.upstream) == "closed"
    assert ended(waiting.upstream) == "closed"
    assert house.state == "idle=0 active=0 waiting=0"


async def test_a_pool_that_retires_closes_what_is_idle() -> None:
    house = House()
    first, second = await house.served(2)
    first.done()
    house.pool.retire()
    assert ended(first.upstream) == "closed"
    assert ended(second.upstream) == ""


async def test_a_pool_that_closes_tells_all_who_wait() -> None:
    house = House(max_connections=2, queue=1)
    (busy,) = await house.served()
    dialing, queued = house.want(), house.want()
    house.pool.close()
    await turn(4)
    assert dialing.code == queued.code == "SERVICE_UNAVAILABLE"
    assert all(attempt.done() for attempt in house.backend.attempts)
    assert len(house.backend.made) == 1
    busy.done()
    assert ended(busy.upstream) == "closed"
    assert house.state == "idle=0 active=0 waiting=0"


class Accepted(asyncio.Protocol):
    """A server's end that waits for the other to leave."""

    def __init__(self) -> None:
        self.gone = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set_result(None)


async def listen() -> tuple[asyncio.Server, int, Accepted]:
    """A server for one connection, and its port."""
    accepted = Accepted()
    server = await asyncio.get_running_loop().create_server(lambda: accepted, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1], accepted


async def test_a_tcp_connector_connects_to_its_endpoint() -> None:
    server, port, accepted = await listen()
    connect = tcp_connector(EndpointUrl("http", "127.0.0.1", port, ""), None)
    made = asyncio.Protocol()
    connected = await connect(lambda: made)
    assert isinstance(connected, tuple)
    transport, protocol = connected
    assert protocol is made
    assert transport.get_extra_info("peername")[:2] == ("127.0.0.1", port)
    transport.close()
    await accepted.gone
    server.close()
    await server.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await connect(lambda: made)
