"""Routes at run time: what is made of a row, and of a service of the open line."""

from __future__ import annotations

from gateway.observe.metrics import Metrics
from gateway.policy.auth import AuthRule
from gateway.routing.routes import OPEN_LINE, build_routes, open_routes
from gateway.routing.services import Service, exposed
from gateway.settings import EndpointUrl, ServiceSettings
from gateway.settings_limits import LimitSettings
from gateway.settings_patterns import parse_pattern, parse_rewrite
from gateway.settings_route_rows import (
    HeaderChanges,
    HeaderCondition,
    RetrySettings,
    RouteSettings,
)


def service(
    name: str,
    *aliases: str,
    auth: str | None = None,
    is_open: bool = True,
    durable: bool = False,
) -> Service:
    settings = ServiceSettings(
        name=name,
        aliases=(name, *aliases),
        endpoints=(EndpointUrl("http", "a.test", 80),),
        exposed=is_open,
        auth=auth,
        durable=durable,
    )
    return Service(settings, Metrics("1").service(name))


PATTERN = parse_pattern("/m/:id")
FULL = RouteSettings(
    name="movie",
    where="r.toml:1",
    pattern=PATTERN,
    service="a",
    methods=("GET",),
    host="*.m.test",
    headers=(HeaderCondition("x-a"), HeaderCondition("x-b", "1")),
    rewrite=parse_rewrite("/v2/:id", PATTERN),
    auth="scope:x,y",
    limits=LimitSettings("movie", per_minute=10),
    cost=2,
    retries=RetrySettings(3),
    hedge_after=0.1,
    head_timeout=1.0,
    idle_timeout=2.0,
    total_timeout=3.0,
    max_body_bytes=4,
    request_headers=HeaderChanges((("X-A", "1"), ("X-E", "")), (("X-B", "2"),), ("X-C",)),
    response_headers=HeaderChanges((), (("X-D", "3"),), ("Server",)),
    agents=LimitSettings("movie (agents)", per_hour=5),
    query=("page",),
)


def test_a_route_has_all_that_its_row_says() -> None:
    owner = service("a")
    (route,) = build_routes([FULL], {"a": owner}, "optional")
    assert (route.name, route.service, route.auth) == ("movie", owner, AuthRule.parse("scope:x,y"))
    matching = route.matching
    assert matching is not None
    assert (matching.pattern, matching.methods, matching.host) == (PATTERN, (b"GET",), b".m.test")
    assert matching.fields == ((b"x-a", None), (b"x-b", b"1"))
    assert route.rewrite is not None
    assert route.rewrite(b"/m/7") == b"/v2/7"
    assert [rule.name for rule in route.rules] == ["movie"]
    assert (route.cost, route.retries, route.hedge_after) == (2, RetrySettings(3), 0.1)
    assert (route.head_timeout, route.idle_timeout, route.total_timeout) == (1.0, 2.0, 3.0)
    assert route.max_body_bytes == 4
    assert route.request_lines == b"X-A: 1\r\nX-E: \r\nX-B: 2\r\n"
    assert route.request_removed == {b"x-a", b"x-e", b"x-c"}
    assert route.response_lines == b"X-D: 3\r\n"
    assert route.response_removed == {b"server"}
    assert (route.agents, [rule.name for rule in route.agent_rules]) == (
        "limit",
        ["movie (agents)"],
    )
    assert route.query_keys == {b"page"}
    assert repr(route) == "<Route movie -> a>"


def test_a_row_that_says_nothing_of_callers_asks_what_its_service_does_or_the_default() -> None:
    rows = [
        RouteSettings(name=name, where="", pattern=PATTERN, service=name, agents="refuse")
        for name in ("a", "b")
    ]
    services = {"a": service("a"), "b": service("b", auth="required")}
    first, second = build_routes(rows, services, "none")
    assert (first.auth.kind, second.auth.kind) == ("none", "required")
    assert (first.agents, first.rules, first.agent_rules) == ("refuse", (), ())
    assert (first.request_lines, first.request_removed) == (b"", frozenset())


def test_a_row_or_else_its_service_says_whether_requests_become_jobs() -> None:
    rows = [
        RouteSettings(name=said or "", where="", pattern=PATTERN, service=name, durable=said)
        for name in ("a", "b")
        for said in (None, "off", "allowed", "always")
    ]
    services = {"a": service("a"), "b": service("b", durable=True)}
    made = [route.durable for route in build_routes(rows, services, "none")]
    assert made[:4] == [None, None, "allowed", "always"]
    assert made[4:] == ["allowed", None, "allowed", "always"]
    by_name = open_routes(exposed(services.values()), "none")
    assert (by_name["a"].durable, by_name["b"].durable) == (None, "allowed")


def test_the_open_line_has_one_route_for_a_service_under_all_its_names() -> None:
    services = [
        service("a", "a_service"),
        service("b", auth="required"),
        service("c", is_open=False),
    ]
    routes = open_routes(exposed(services), "optional")
    assert sorted(routes) == ["a", "a_service", "b"]
    assert routes["a"] is routes["a_service"]
    assert (routes["a"].name, routes["a"].auth.kind) == (OPEN_LINE, "optional")
    assert (routes["b"].auth.kind, routes["b"].matching) == ("required", None)
