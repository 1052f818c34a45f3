"""The desk of the admin API over the parts of a running gateway, and how services stand.

A part of `assemble`. What the API takes and tells is in `control/admin`; what the parts do is
theirs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import structlog

from gateway.control.admin_bodies import wrong
from gateway.control.admin_connections import live_connections
from gateway.control.admin_desk import AdminDesk, Figures, LimitRow
from gateway.control.answers import Failed
from gateway.edge.pool import Pool
from gateway.edge.server import EdgeServer
from gateway.errors import Rejection
from gateway.policy.breaker import CLOSED
from gateway.policy.limits import Limits
from gateway.policy.revocations import Revocations
from gateway.routing.endpoint import DRAINING, EJECTED, UNHEALTHY, UNKNOWN
from gateway.routing.services import Endpoint, Service
from gateway.settings import EndpointUrl, SettingsError
from gateway.settings_patterns import parse_pattern
from gateway.settings_services import parse_endpoints
from gateway.settings_values import Value
from gateway.store import LimitConfigs, RevokedTokens, StoredRule, TooManyRulesError

_OUT = (UNHEALTHY, EJECTED)


class RunningDesk(AdminDesk):
    """What `/admin` works on."""

    def __init__(
        self,
        *,
        server: EdgeServer,
        clock: Callable[[], float],
        services: Callable[[], Mapping[str, Service]],
        pools: Callable[[], dict[str, Pool]],
        open_pool: Callable[[Service, Endpoint], Pool],
        retire: Callable[[Pool], None],
        limits: Callable[[], Limits | None],
        revocations: Revocations,
        rules: LimitConfigs,
        revoked: RevokedTokens,
        look: Callable[[], Awaitable[None]],
        reload: Callable[[], None],
        on_revoked: Callable[[], None],
    ) -> None:
        """`clock`: monotonic seconds. `services`: as they are now, by name; `pools`: the door's, by
        the endpoint's key. `open_pool` makes the pool of a new endpoint, `retire` lets one end when
        nothing is under way. `look` makes this gateway take what changed
        in the store at once (`PolicyWatch.look`). `reload` reads the configuration and
        applies it; it raises SettingsError or OSError, and then nothing has changed. `on_revoked`
        is told of each revocation: what was opened with that credential is to end.
        """
        self._clock = clock
        self._server = server
        self._services = services
        self._pools = pools
        self._open_pool = open_pool
        self._retire = retire
        self._limits = limits
        self._revocations = revocations
        self._rules = rules
        self._revoked = revoked
        self._look = look
        self._reload = reload
        self._on_revoked = on_revoked
        self._log = structlog.get_logger("gateway.admin")

    def __repr__(self) -> str:
        return f"<RunningDesk services={sorted(self._services())}>"

    # Services

    def services(self) -> list[Figures]:
        """All of them, as they stand."""
        return [self._figures(service) for service in self._services().values()]

    def add_endpoint(self, service: str, url: str, weight: int) -> Figures:
        """One more, with its pool; one that is draining takes part again."""
        found, where = self._service(service), _endpoint_url(url)
        try:
            endpoint = found.add_endpoint(where, weight)
        except ValueError as error:
            raise _conflict(str(error)) from None
        pools = self._pools()
        if endpoint.key not in pools:
            pools[endpoint.key] = self._open_pool(found, endpoint)
        return self._figures(found)

    def drain_endpoint(self, service: str, url: str) -> Figures:
        """No new requests; its pool stays, for it may come back."""
        found = self._service(service)
        self._endpoint(found.drain_endpoint, url)
        return self._figures(found)

    def remove_endpoint(self, service: str, url: str) -> Figures:
        """Gone when its last request has ended, and then its pool too."""
        found = self._service(service)
        found.rotation.on_removed = self._removed
        self._endpoint(found.remove_endpoint, url)
        return self._figures(found)

    def _removed(self, endpoint: Endpoint) -> None:
        pool = self._pools().get(endpoint.key)
        if pool is not None and pool.endpoint is endpoint:  # else another one's of the same name
            self._retire(self._pools().pop(endpoint.key))

    def set_breaker(self, service: str, *, is_open: bool) -> Figures:
        """Open until it is closed here, or closed and begun anew. Every service has one to open,
        also where none opens by itself.
        """
        breaker = (found := self._service(service)).breaker
        if is_open:
            breaker.force_open()
        else:
            breaker.reset()
        return self._figures(found)

    def _figures(self, service: Service) -> Figures:
        return service_figures(service, self._pools(), self._clock())

    def _service(self, name: str) -> Service:
        for service in self._services().values():
            if name == service.name or name in service.settings.aliases:
                return service
        raise Failed(Rejection("NOT_FOUND", f"there is no service {name!r}"))

    def _endpoint(self, act: Callable[[str], Endpoint], url: str) -> None:
        name = str(_endpoint_url(url))
        try:
            act(name)
        except KeyError:
            message = f"the service has no endpoint {name}"
            raise Failed(Rejection("NOT_FOUND", message)) from None
        except ValueError as error:
            raise _conflict(str(error)) from None

    # Limits

    def buckets(self, key: int | str) -> list[Figures]:
        """Those that somebody took from."""
        limits = self._limits()
        if limits is None:
            return []
        return [
            {
                "rule": standing.rule,
                "bucket": standing.bucket,
                "quota": standing.quota,
                "window_seconds": standing.window_seconds,
                "remaining": standing.remaining,
                "reset_seconds": round(standing.reset_seconds, 3),
            }
            for standing in limits.buckets_of(key, self._clock())
        ]

    async def rules(self) -> list[LimitRow]:
        """As they are in the store."""
        return [
            LimitRow(
                rule.tenant or None, rule.pattern, rule.per_minute, rule.per_hour, rule.per_day
            )
            for rule in await self._rules.all()
        ]

    async def put_rule(self, row: LimitRow, who: str) -> None:
        """Into the store, and from there to all gateways; to this one at once."""
        try:
            pattern = parse_pattern(row.pattern)
        except ValueError as error:
            raise wrong(("/pattern", str(error))) from None
        for other in await self._rules.all():
            same = (other.tenant or None) == (row.tenant or None) and other.pattern != row.pattern
            if same and parse_pattern(other.pattern).shape == pattern.shape:
                raise _conflict(f"there is a limit for the same paths, written {other.pattern}")
        rule = StoredRule(
            row.tenant or "",
            row.pattern,
            row.requests_per_minute,
            row.requests_per_hour,
            row.requests_per_day,
            updated_by=who,
        )
        try:
            await self._rules.put(rule)
        except TooManyRulesError as error:
            raise _conflict(str(error)) from None
        await self._look()

    async def delete_rule(self, tenant: str | None, pattern: str) -> None:
        """Out of the store, and so of all gateways."""
        if not await self._rules.delete(tenant or "", pattern):
            raise Failed(Rejection("NOT_FOUND", "there is no such limit"))
        await self._look()

    # Connections, credentials, configuration

    async def connections(self, most: int) -> Figures:
        """As `admin_connections` tells them."""
        return await live_connections(self._server, most)

    async def revoke(self, credential: str, expires_at: float | None, who: str) -> None:
        """Here first: what can't be kept is refused at this gateway all the same."""
        self._revocations.revoke(credential, expires_at)
        self._on_revoked()
        await self._revoked.revoke(credential, expires_at, revoked_by=who)

    def reload(self) -> Figures:
        """All or nothing; why nothing is said and logged."""
        try:
            self._reload()
        except (SettingsError, OSError) as error:
            self._log.error("reload_refused", error=str(error))
            raise Failed(Rejection("UNPROCESSABLE", str(error))) from None
        except Exception as error:
            self._log.exception("reload_refused", error=repr(error))
            message = "the configuration could not be taken: a bug, which the log shows"
            raise Failed(Rejection("INTERNAL_ERROR", message)) from None
        return {"status": "reloaded", "services": self.services()}


def service_figures(service: Service, pools: Mapping[str, Pool], now: float) -> Figures:
    """How a service stands: its breaker, its endpoints and their connections. `now`: monotonic
    seconds.

    `unhealthy`: no endpoint takes requests. `degraded`: one does not, or the last thing known of
    one is an error, or the breaker is not closed. `unknown`: nobody asked it yet. Endpoints that
    were drained by hand are no reason to worry.
    """
    told = service.health(now)
    endpoints: list[Figures] = []
    for endpoint, known in zip(service.endpoints, _dicts(told["endpoints"]), strict=True):
        shown = known | {"idle": 0, "active": 0, "waiting": 0, "latency_ms": None}
        pool = pools.get(endpoint.key)
        if pool is not None:
            shown |= {
                "idle": pool.idle,
                "active": pool.active,
                "waiting": pool.waiting,
                "latency_ms": pool.latency_ms,
                "last_error": known["last_error"] or pool.last_error,
            }
            if known["state"] == UNKNOWN and pool.last_error is not None:
                shown["state"] = UNHEALTHY  # every request that asked it failed
        endpoints.append(shown)
    breaker = told["breaker"]
    wanted = [each for each in endpoints if each["state"] != DRAINING]
    states = {each["state"] for each in wanted}
    if wanted and states <= set(_OUT):
        whole = UNHEALTHY
    elif (
        states & set(_OUT)
        or any(each["last_error"] for each in wanted)
        or (isinstance(breaker, dict) and breaker["state"] != CLOSED)
    ):
        whole = "degraded"
    else:
        whole = UNKNOWN if states == {UNKNOWN} else "healthy"
    return {"name": service.name, "state": whole, "breaker": breaker, "endpoints": endpoints}


def _dicts(value: object) -> list[Figures]:
    return value if isinstance(value, list) else []


def _endpoint_url(text: str) -> EndpointUrl:
    """The one endpoint that a body names; raises Failed for anything else."""
    try:
        (found,) = parse_endpoints(Value("url", text, "body"))
    except (SettingsError, ValueError):
        message = "expected one http:// or https:// URL without user information, query, fragment"
        raise wrong(("/url", message)) from None
    return found


def _conflict(message: str) -> Failed:
    return Failed(Rejection("CONFLICT", message))
