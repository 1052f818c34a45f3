"""The checks at the door, in their order: who it is, what is refused, where it leads, how often."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network

import pytest
import structlog

from gateway.edge.admission import Peer, admit, is_within
from gateway.edge.context import EdgeContext
from gateway.edge.deadlines import Deadlines
from gateway.edge.headers import Ids
from gateway.edge.message import RequestHead
from gateway.edge.outbox import Outbox
from gateway.edge.reading import HeadLimits, RequestReader
from gateway.errors import Rejection
from gateway.observe.access import AccessLog, RecordWriter, Timestamps
from gateway.observe.agents import Agents
from gateway.observe.metrics import Metrics
from gateway.policy.breaker import Pass
from gateway.policy.identity import Identity
from gateway.policy.limits import Limits
from gateway.policy.ratelimit import LocalBuckets
from gateway.routing.routes import Route, open_routes
from gateway.routing.services import Service, exposed
from gateway.routing.table import RouteTable
from gateway.settings import EndpointUrl, RateLimit, ServiceSettings, Settings
from tests.edge.clock import Time

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
CLIENT = "203.0.113.9"


@dataclass
class Arrival:
    """A request at the door."""

    head: RequestHead
    client_address: str
    started: float = 100.0
    started_wall: float = 1_700_000_000.0
    service: Service | None = None
    route: str = ""
    policy: Route | None = None
    path: bytes = b""
    query: bytes = b""
    limit_lines: bytes = b""
    answer_lines: bytes = b""
    caller_lines: bytes = b""
    drop_api_key: bool = False
    identity: Identity | None = None
    agent: str | None = None
    pass_: Pass | None = None


class Door:
    """A context and whoever stands before it."""

    def __init__(self, context: EdgeContext) -> None:
        self.context = context

    def ask(
        self, start: bytes, *lines: bytes, peer: str = "192.0.2.1"
    ) -> tuple[Arrival, Rejection | None]:
        """One request, as read from the wire, and what the checks make of it."""
        reader = RequestReader(HeadLimits())
        reader.feed(b"\r\n".join([start + b" HTTP/1.1", b"Host: gateway.test", *lines, b"", b""]))
        assert reader.head is not None, reader.failure
        known = Peer(peer, "http", self.context)
        arrival = Arrival(reader.head, known.address)
        found = admit(self.context, arrival, known)
        assert found is None or isinstance(found, Rejection)
        return arrival, found

    def client(self, peer: str, *lines: bytes) -> str:
        """The address that counts."""
        arrival, refusal = self.ask(b"GET /api/v1/users", *lines, peer=peer)
        assert refusal is None
        return arrival.client_address

    def refused(self, start: bytes, *lines: bytes) -> Rejection:
        """Why it is not let in."""
        _, refusal = self.ask(start, *lines)
        assert refusal is not None
        return refusal


def service(name: str) -> Service:
    settings = ServiceSettings(
        name=name, aliases=(name,), endpoints=(EndpointUrl("http", "a.test", 80, ""),)
    )
    return Service(settings, Metrics("1").service(name))


@pytest.fixture
def build() -> Iterator[Callable[..., Door]]:
    fd = os.open(os.devnull, os.O_WRONLY)
    writer = RecordWriter(fd, lambda *_: None)

    def door(quota: int = 0, names: tuple[str, ...] = ("users",)) -> Door:
        time = Time()
        services = [service(name) for name in names]
        return Door(
            EdgeContext(
                settings=Settings(trusted_proxies=PROXIES),
                limits=HeadLimits(),
                table=RouteTable([], open_routes(exposed(services), "optional"), ["/health"]),
                mounted=service("gateway"),
                limiter=Limits([], [], RateLimit(quota, 60) if quota else None, LocalBuckets()),
                agents=Agents.shipped(),
                pools={},
                metrics=Metrics("1"),
                access=AccessLog(writer, "off", console=False),
                timestamps=Timestamps(),
                deadlines=Deadlines(time.clock, time.call_later),
                ids=Ids(bytes),
                via=b"gateway-1",
                clock=time.clock,
                wall=lambda: 1_700_000_000.0,
                log=structlog.get_logger("gateway.edge"),
                outbox=Outbox(lambda _: None),
            )
        )

    yield door
    writer.close()
    os.close(fd)


@pytest.fixture
def door(build: Callable[..., Door]) -> Door:
    return build()


def test_a_request_to_a_service_is_let_in_and_knows_where_it_goes(door: Door) -> None:
    arrival, refusal = door.ask(b"GET /api/v1/users/a/%41?b=c")
    assert refusal is None
    assert arrival.service is not None
    assert arrival.service.name == "users"
    assert arrival.route == "/api/v1/{service}"
    assert (arrival.path, arrival.query) == (b"/a/%41", b"?b=c")
    assert arrival.limit_lines == b""


def test_a_mounted_path_leads_to_the_gateway_itself(door: Door) -> None:
    arrival, refusal = door.ask(b"GET /health?x")
    assert refusal is None
    assert arrival.service is door.context.mounted
    assert (arrival.route, arrival.path, arrival.query) == ("/health", b"/health", b"?x")


def test_the_host_of_an_absolute_target_chooses_nothing(door: Door) -> None:
    arrival, refusal = door.ask(b"GET http://elsewhere.test/api/v1/users/x")
    assert refusal is None
    assert arrival.service is not None
    assert (arrival.service.name, arrival.path) == ("users", b"/x")


def test_connect_is_not_implemented_and_the_connection_closes(door: Door) -> None:
    refusal = door.refused(b"CONNECT a.test:443")
    assert refusal.status in (405, 501)
    assert refusal.close


def test_trace_is_not_allowed(door: Door) -> None:
    # RFC 9110 §15.5.6: a 405 names the methods that are.
    refusal = door.refused(b"TRACE /api/v1/users")
    assert refusal.status == 405
    (allow,) = [value for name, value in refusal.headers if name == b"Allow"]
    assert b"GET" in allow
    assert b"TRACE" not in allow


def test_a_request_that_came_through_here_before_is_a_loop(door: Door) -> None:
    for via in (b"Via: 1.1 gateway-1", b"Via: 1.0 p, 1.1 gateway-1 (x), 1.1 q"):
        refusal = door.refused(b"GET /api/v1/users", via)
        assert refusal.status == 502
        assert "loop" in refusal.message
    _, refusal_of_two = door.ask(b"GET /api/v1/users", b"Via: 1.1 p", b"Via: 1.1 gateway-1")
    assert refusal_of_two is not None


def test_a_request_that_came_through_others_is_none(door: Door) -> None:
    _, refusal = door.ask(b"GET /api/v1/users", b"Via: 1.1 gateway-10, 1.1 gateway")
    assert refusal is None


@pytest.mark.parametrize(
    "target", [b"/api/v1/users/../x", b"/api/v1/users/%2e%2e", b"/a\\b", b"/%zz", b"/a%2fb"]
)
def test_a_target_that_means_two_things_is_a_bad_request(door: Door, target: bytes) -> None:
    assert door.refused(b"GET " + target).status == 400


def test_a_path_that_leads_nowhere_is_told_what_there_is(build: Callable[..., Door]) -> None:
    refusal = build(names=("users", "orders")).refused(b"GET /api/v1/nobody")
    assert refusal.status == 404
    assert "orders, users" in refusal.message
    assert not refusal.close


def test_a_gateway_without_services_says_how_to_get_one(build: Callable[..., Door]) -> None:
    refusal = build(names=()).refused(b"GET /api/v1/users")
    assert refusal.status == 404
    assert "no service" in refusal.message


def test_forwarding_fields_of_a_stranger_are_not_believed(door: Door) -> None:
    assert door.client("192.0.2.1", b"X-Forwarded-For: 203.0.113.9") == "192.0.2.1"
    assert door.client("192.0.2.1", b"Forwarded: for=203.0.113.9") == "192.0.2.1"


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        (b"203.0.113.9", CLIENT),
        (b"6.6.6.6, 203.0.113.9", CLIENT),
        (b"203.0.113.9, 10.0.0.2, 10.0.0.3", CLIENT),
        (b"6.6.6.6, 203.0.113.9, fd00::1, ::ffff:10.9.9.9", CLIENT),
        (b"2001:db8::9", "2001:db8::9"),
        (b"10.0.0.3", "10.0.0.3"),
        (b"203.0.113.9, unknown, 10.0.0.2", "10.0.0.2"),
        (b"unknown", "10.0.0.1"),
        (b"203.0.113.9:80", CLIENT),  # as some proxies write it
        (b"[2001:db8::9]:80", "2001:db8::9"),
        (b"", "10.0.0.1"),
    ],
)
def test_behind_a_trusted_proxy_the_right_most_stranger_counts(
    door: Door, chain: bytes, client: str
) -> None:
    assert door.client("10.0.0.1", b"X-Forwarded-For: " + chain) == client


def test_a_trusted_proxy_that_says_nothing_is_the_client_itself(door: Door) -> None:
    assert door.client("10.0.0.1") == "10.0.0.1"
    assert door.client("10.0.0.1", b"X-Real-IP: 203.0.113.9") == "10.0.0.1"


def test_an_address_is_looked_for_in_networks_of_its_family() -> None:
    assert is_within("10.1.2.3", PROXIES)
    assert is_within("::ffff:10.1.2.3", PROXIES)
    assert is_within("fd00::5", PROXIES)
    assert not is_within("11.0.0.1", PROXIES)
    assert not is_within("::1", PROXIES)
    assert not is_within("10.1.2.3", ())
    assert not is_within("a unix socket", PROXIES)


def test_whoever_asks_too_often_is_told_when_to_come_back(build: Callable[..., Door]) -> None:
    door = build(quota=2)
    first, let_in = door.ask(b"GET /api/v1/users")
    assert let_in is None
    assert b"X-RateLimit-Limit: 2\r\n" in first.limit_lines
    assert b"X-RateLimit-Remaining: 1\r\n" in first.limit_lines
    door.ask(b"GET /api/v1/users")
    third, refusal = door.ask(b"GET /api/v1/users")
    assert refusal is not None
    assert refusal.status == 429
    assert refusal.retry_after_seconds is not None
    assert 1 <= refusal.retry_after_seconds <= 60
    assert b"X-RateLimit-Remaining: 0\r\n" in third.limit_lines
    assert third.service is not None, "the record of a refusal has a service too"
    _, other = door.ask(b"GET /api/v1/users", peer="192.0.2.2")
    assert other is None


def test_behind_a_proxy_each_client_has_a_limit_of_its_own(build: Callable[..., Door]) -> None:
    door = build(quota=1)
    outcomes = [
        door.ask(b"GET /api/v1/users", b"X-Forwarded-For: " + address, peer="10.0.0.1")[1]
        for address in (b"203.0.113.1", b"203.0.113.2", b"203.0.113.1")
    ]
    assert [outcome and outcome.status for outcome in outcomes] == [None, None, 429]


def test_neither_mounted_paths_nor_refusals_cost_anything(build: Callable[..., Door]) -> None:
    door = build(quota=1)
    for start in itertools.repeat(b"GET /health", 5):
        arrival, refusal = door.ask(start)
        assert refusal is None
        assert arrival.limit_lines == b""
    assert door.refused(b"GET /nowhere").status == 404
    assert door.refused(b"GET /api/v1/users/..").status == 400
    assert door.ask(b"GET /api/v1/users")[1] is None
    assert door.refused(b"GET /api/v1/users").status == 429
