"""Routes as requests meet them: where one leads and the policies that hold on the way.

Made from the rows of the settings (`settings_routes`) and, for the open line, from the services;
found by `table`. Nothing is decided here: admission, exchange and record read what a route says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from gateway.policy.auth import AuthRule
from gateway.policy.limit_rules import Rule, route_rule
from gateway.routing.matching import Matching
from gateway.routing.services import Service
from gateway.settings_limits import LimitSettings
from gateway.settings_patterns import Rewrite
from gateway.settings_route_rows import HeaderChanges, RetrySettings, RouteSettings
from gateway.settings_services import ServiceSettings

OPEN_LINE = "/api/v1/{service}"


@dataclass(slots=True, eq=False)
class Route:
    """One row, or the open line to one service. Durations are seconds; None: the service's own.

    `matching` is None for the open line. `request_lines` and `response_lines` are CRLF-ended fields
    to send; those named in `…_removed` (lower case) are taken off before. `agent_rules` hold for AI
    agents besides the others where `agents` is `limit`. `query_keys`: whose values a record may
    show. `durable`: whether a request becomes a job where its client prefers that, or each does;
    None: none.
    """

    name: str
    service: Service
    auth: AuthRule
    matching: Matching | None = None
    rules: tuple[Rule, ...] = ()
    cost: int = 1
    retries: RetrySettings | None = None
    hedge_after: float | None = None
    head_timeout: float | None = None
    idle_timeout: float | None = None
    total_timeout: float | None = None
    max_body_bytes: int | None = None
    rewrite: Rewrite | None = None
    request_lines: bytes = b""
    request_removed: frozenset[bytes] = frozenset()
    response_lines: bytes = b""
    response_removed: frozenset[bytes] = frozenset()
    agents: Literal["allow", "refuse", "limit"] = "allow"
    agent_rules: tuple[Rule, ...] = ()
    query_keys: frozenset[bytes] = frozenset()
    durable: Literal["allowed", "always"] | None = None

    def __repr__(self) -> str:
        return f"<Route {self.name} -> {self.service.name}>"


def build_routes(
    rows: Iterable[RouteSettings], services: Mapping[str, Service], auth_default: str
) -> list[Route]:
    """The routes of rows, whose services are in `services` by their names."""
    return [_route(row, services[row.service], auth_default) for row in rows]


def open_routes(exposed: Mapping[str, Service], auth_default: str) -> dict[str, Route]:
    """The open line: a route for each service, by every name that it answers to."""
    made: dict[str, Route] = {}
    for service in exposed.values():
        if service.name not in made:
            auth = AuthRule.parse(service.settings.auth or auth_default)
            durable = durable_of(None, service.settings)
            made[service.name] = Route(OPEN_LINE, service, auth, durable=durable)
    return {name: made[service.name] for name, service in exposed.items()}


def _route(row: RouteSettings, service: Service, auth_default: str) -> Route:
    agents = row.agents
    return Route(
        name=row.name,
        service=service,
        auth=AuthRule.parse(row.auth or service.settings.auth or auth_default),
        matching=Matching.of(row),
        rules=() if row.limits is None else (route_rule(row.name, row.limits, _conditions(row)),),
        cost=row.cost,
        retries=row.retries,
        hedge_after=row.hedge_after,
        head_timeout=row.head_timeout,
        idle_timeout=row.idle_timeout,
        total_timeout=row.total_timeout,
        max_body_bytes=row.max_body_bytes,
        rewrite=row.rewrite,
        request_lines=_lines(row.request_headers),
        request_removed=_removed(row.request_headers),
        response_lines=_lines(row.response_headers),
        response_removed=_removed(row.response_headers),
        agents="limit" if isinstance(agents, LimitSettings) else agents,
        agent_rules=_agent_rules(row),
        query_keys=frozenset(key.encode() for key in row.query),
        durable=durable_of(row, service.settings),
    )


def durable_of(
    row: RouteSettings | None, service: ServiceSettings
) -> Literal["allowed", "always"] | None:
    """What a row says of jobs, or its service; None: neither lets a request become one."""
    said = None if row is None else row.durable
    if said is None:
        return "allowed" if service.durable else None
    return None if said == "off" else said


def _agent_rules(row: RouteSettings) -> tuple[Rule, ...]:
    agents = row.agents
    if not isinstance(agents, LimitSettings):
        return ()
    return (route_rule(agents.name, agents, f"agents {_conditions(row)}"),)


def _conditions(row: RouteSettings) -> str:
    """What tells it from other rows of its path: they may have one name, and not one count."""
    return " ".join(map(str, (row.methods or "", row.host or "", row.headers or ""))).strip()


def _lines(changes: HeaderChanges) -> bytes:
    return b"".join(
        b"%b: %b\r\n" % (name.encode("ascii"), value.encode("ascii"))
        for name, value in (*changes.set, *changes.add)
    )


def _removed(changes: HeaderChanges) -> frozenset[bytes]:
    """What is set takes the place of whatever came."""
    names = (*(name for name, _ in changes.set), *changes.remove)
    return frozenset(name.lower().encode("ascii") for name in names)
