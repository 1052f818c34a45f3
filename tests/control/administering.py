"""The admin API over real parts of a gateway, with their time and their back ends in hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from aiohttp.test_utils import TestClient

from gateway.assemble_admin import RunningDesk
from gateway.edge.context import EdgeContext
from gateway.edge.deadlines import Deadlines
from gateway.edge.pool import Pool, PoolLimits
from gateway.edge.reading import HeadLimits
from gateway.edge.server import EdgeServer
from gateway.observe.metrics import Metrics
from gateway.policy.auth import Identity
from gateway.policy.limits import Limits
from gateway.policy.ratelimit import LocalBuckets
from gateway.policy.revocations import Revocations
from gateway.routing.services import Endpoint, Service, services_from
from gateway.settings import SettingsError, load
from gateway.settings_values import RateLimit
from gateway.store import LimitConfigs, RevokedTokens, StoredRule
from gateway.store.database import Database
from gateway.store.watching import PolicyWatch
from tests.edge.clock import Time
from tests.edge.house import Backend

Client = TestClient[Any, Any]

NOW = 100.0
ONE, TWO, THREE = "http://127.0.0.1:9001", "http://127.0.0.1:9002", "http://127.0.0.1:9003"

FUTURE = 4_000_000_000
ENDPOINTS = "/admin/services/orders/endpoints"
BREAKER = "/admin/services/orders/breaker"
RULES = "/admin/limits/rules"
REVOKE = "/admin/tokens/revoke"

ADMIN = Identity(subject="root", scopes=frozenset({"admin"}))
ALICE = Identity(subject="alice", scopes=frozenset({"events:read", "internal"}))


def as_caller(identity: Identity, headers: Mapping[str, str] | None = None) -> dict[str, str]:
    """The fields that the door hands in for a caller from somewhere."""
    field_ = identity.encode().decode("ascii")
    return {"X-Gateway-Identity": field_, "X-Gateway-Client": "198.51.100.7"} | dict(headers or {})


def services_of(directory: Path, config: str) -> list[Service]:
    """Services as a file sets them."""
    file = directory / "gateway.toml"
    file.write_text(config)
    settings = load({"GATEWAY_CONFIG": str(file)})
    return services_from(settings.services, Metrics("1"))


CONFIG = f"""
[services.orders]
url = "{ONE},{TWO}"

[services.users_service]
url = "http://127.0.0.1:9100"
breaker = "off"
"""


@dataclass
class Administered:
    """The parts, and the desk over them. `reloads` counts; `wrong` is what the next one raises."""

    directory: Path
    config: str = CONFIG
    reloads: int = 0
    wrong: Exception | None = None
    retired: list[Pool] = field(default_factory=list)
    told: list[int] = field(default_factory=list)  # how many were revoked, each time one was

    def __post_init__(self) -> None:
        self.time = Time()
        self.backend = Backend()
        self.services = {s.name: s for s in services_of(self.directory, self.config)}
        self.pools: dict[str, Pool] = {}
        for service in self.services.values():
            for endpoint in service.endpoints:
                self.pools[endpoint.key] = self.open_pool(service, endpoint)
        self.limits: Limits | None = Limits([], [], RateLimit(10, 60), LocalBuckets(1000))
        self.revocations = Revocations()
        self.database = Database(None, self.directory)
        self.rules = LimitConfigs(self.database)
        self.revoked = RevokedTokens(self.database)
        self.server = EdgeServer(cast(EdgeContext, None))
        self.watch = PolicyWatch(
            self.rules, self.revoked, self.rules_changed, self.revocations.merge
        )
        self.desk = RunningDesk(
            server=self.server,
            clock=lambda: NOW,
            services=lambda: self.services,
            pools=lambda: self.pools,
            open_pool=self.open_pool,
            retire=self.retired.append,
            limits=lambda: self.limits,
            revocations=self.revocations,
            rules=self.rules,
            revoked=self.revoked,
            look=self.watch.look,
            reload=self.reload,
            on_revoked=lambda: self.told.append(len(self.revocations)),
        )

    def rules_changed(self, rules: Any) -> None:
        if self.limits is not None:
            self.limits.set_stored(rules)

    def open_pool(self, service: Service, endpoint: Endpoint) -> Pool:
        clock = self.time.clock
        limits = PoolLimits(2, 90.0, 2, 1, 5.0, 5.0)
        deadlines = Deadlines(clock, self.time.call_later)
        return Pool(endpoint, self.backend.connect, limits, HeadLimits(), deadlines, clock)

    def reload(self) -> None:
        if self.wrong is not None:
            raise self.wrong
        self.reloads += 1


@dataclass
class Site:
    """A client of the admin API and the parts behind it."""

    client: Client
    parts: Administered

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        identity: Identity = ADMIN,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Status and body of an answer."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        async with self.client.request(
            method, path, data=data, headers=as_caller(identity, headers)
        ) as answer:
            return answer.status, await answer.json()

    async def ok(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """The body of an answer that is a good one."""
        status, found = await self.ask(method, path, body)
        assert status in (200, 201), found
        return found

    async def refused(
        self, method: str, path: str, body: object = None, **how: Any
    ) -> tuple[int, str, Mapping[str, str]]:
        """Status, code, and the details by pointer of a refusal."""
        status, found = await self.ask(method, path, body, **how)
        error = found["error"]
        details = {each["pointer"]: each["message"] for each in error.get("details", [])}
        return status, error["code"], details


__all__ = [
    "ADMIN",
    "ALICE",
    "BREAKER",
    "CONFIG",
    "ENDPOINTS",
    "FUTURE",
    "NOW",
    "ONE",
    "REVOKE",
    "RULES",
    "THREE",
    "TWO",
    "Administered",
    "SettingsError",
    "Site",
    "StoredRule",
    "as_caller",
]
