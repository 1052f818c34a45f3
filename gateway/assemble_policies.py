"""Who may and how often, built from settings: keys, limits, doors, and what the store says of them.

A part of `assemble`: what policies consist of, and what a reload changes of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from gateway.edge.context import EdgeContext
from gateway.edge.listener import upstream_tls_context
from gateway.observe.metrics import Metrics
from gateway.policy.abuse import Doors
from gateway.policy.api_keys import ApiKeys
from gateway.policy.auth import Authenticator
from gateway.policy.cors import Cors
from gateway.policy.jwks import Jwks
from gateway.policy.limit_rules import Buckets
from gateway.policy.limits import Limits
from gateway.policy.ratelimit import LocalBuckets
from gateway.policy.revocations import Revocations
from gateway.settings import Settings
from gateway.store import (
    Database,
    LimitConfigs,
    PolicyWatch,
    RequestLog,
    RevokedTokens,
    StoredRule,
)

if TYPE_CHECKING:
    from gateway.policy.ratelimit_redis import LeasedBuckets


# What an Authenticator is made of besides keys, and what it says at start.
_AUTHENTICATED_BY: Final = (
    "allow_anonymous",
    "auth_default",
    "cookie_secret",
    "host",
    "jwt_audience",
    "jwt_issuer",
    "jwt_public_key",
    "jwt_secret",
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """New policies that nobody has taken yet."""

    settings: Settings
    jwks: Jwks | None
    keys: ApiKeys
    authenticator: Authenticator
    limits: Limits
    cors: Cors | None

    @property
    def judged_by(self) -> tuple[object, ...]:
        """What tokens are judged by: who was let in by other keys has to show his again. An API key
        speaks for itself alone, but with the first one the door is no longer open to all.
        """
        settings = self.settings
        signed = (settings.jwt_secret, settings.jwt_public_key, settings.jwks_url)
        keyless = self.authenticator.is_keyless
        return (*signed, settings.jwt_issuer, settings.jwt_audience, keyless)


class PolicyRoom:
    """The policies of one gateway. `start` once, then `close`; `prepare` and `take` in between."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        database: Database,
        *,
        service_token: str | None = None,
        on_revoked: Callable[[], None] = lambda: None,
    ) -> None:
        """Needs a running event loop. `service_token` is what workers of jobs show. `on_revoked` is
        called when credentials were revoked. Raises SettingsError for keys that can't be used.
        """
        self._service_token = service_token
        self._log = structlog.get_logger("gateway.policy")
        self._context: EdgeContext | None = None
        self._buckets, self._leases = _buckets(settings)
        self._stored: tuple[StoredRule, ...] = ()
        self._over: set[asyncio.Task[None]] = set()  # the ends of issuers of before
        self.on_revoked = on_revoked
        self.revocations = Revocations()
        self._doors = Doors(settings.abuse)
        self.now = self._prepared(settings, None)
        self.rules, self.revoked = LimitConfigs(database), RevokedTokens(database)
        self.watch = PolicyWatch(self.rules, self.revoked, self._take_rules, self._take_revoked)
        self._requests = RequestLog(database, days=settings.request_log_days)
        self._show(metrics)

    def __repr__(self) -> str:
        return f"<PolicyRoom {self.now.authenticator!r} {self.now.limits!r}>"

    @property
    def dependencies(self) -> dict[str, dict[str, object]]:
        """The state of what the policies need, for the health page."""
        states = {} if self.now.jwks is None else {"issuer": self.now.jwks.state}
        return states if self._leases is None else states | {"limits": self._leases.state}

    def attach(self, context: EdgeContext) -> None:
        """Let the door know them."""
        self._context = context
        self._tell()

    async def start(self) -> None:
        """Begin; the store may be away."""
        if self.now.jwks is not None:
            self.now.jwks.start()
        if self._leases is not None:
            await self._leases.start()
        await self.watch.start()
        self._requests.start()

    async def close(self) -> None:
        """End; what is in the buffer of the request log is written."""
        await self._requests.close()
        await self.watch.close()
        if self._leases is not None:
            await self._leases.close()
        if self.now.jwks is not None:
            await self.now.jwks.close()
        await asyncio.gather(*self._over)

    # A reload

    def prepare(self, settings: Settings) -> Prepared:
        """What new settings say; nothing changes. Raises SettingsError, OSError, ssl.SSLError."""
        return self._prepared(settings, self.now)

    def _prepared(self, settings: Settings, before: Prepared | None) -> Prepared:
        names = {alias: each.name for each in settings.services for alias in each.aliases}
        limits = Limits(settings.tiers, settings.limits, settings.rate_limit, self._buckets, names)
        limits.set_stored(self._stored)
        jwks, keys = _jwks(settings, before), ApiKeys.read(settings.api_keys)
        return Prepared(
            settings,
            jwks,
            keys,
            self._authenticator(settings, keys, jwks, before),
            limits,
            Cors(settings) if settings.cors_origins else None,
        )

    def _authenticator(
        self, settings: Settings, keys: ApiKeys, jwks: Jwks | None, before: Prepared | None
    ) -> Authenticator:
        """The one of before, with the tokens that it verified, where nothing about it changed."""
        if before is not None and (jwks, keys) == (before.jwks, before.keys):
            old = before.settings
            if all(getattr(settings, name) == getattr(old, name) for name in _AUTHENTICATED_BY):
                return before.authenticator
        return Authenticator(
            settings,
            keys=keys,
            jwks=jwks,
            revocations=self.revocations,
            service_token=self._service_token,
        )

    def take(self, new: Prepared) -> None:
        """Go on with what was prepared."""
        before, self.now = self.now, new
        if new.jwks is not before.jwks:
            if before.jwks is not None:
                over = asyncio.get_running_loop().create_task(before.jwks.close())
                self._over.add(over)
                over.add_done_callback(self._over.discard)
            if new.jwks is not None:
                new.jwks.start()
        self._requests.days = new.settings.request_log_days
        self._doors.configure(new.settings.abuse)
        self._tell()

    def _tell(self) -> None:
        context, now = self._context, self.now
        if context is None:
            return
        context.authenticator = now.authenticator
        context.limiter = now.limits
        context.doors = self._doors
        context.cors = now.cors
        context.kept = self._requests.add if now.settings.request_log == "database" else None

    # What the store says

    def _take_rules(self, rules: Sequence[StoredRule]) -> None:
        self._stored = tuple(rules)
        for rule in self.now.limits.set_stored(rules):
            self._log.warning("limit_rule_left_out", tenant=rule.tenant, pattern=rule.pattern)

    def _take_revoked(self, revoked: Mapping[str, float]) -> None:
        self.revocations.merge(revoked)
        self.revocations.forget_ended(time.time())
        self.on_revoked()

    def _show(self, metrics: Metrics) -> None:
        """Their figures."""
        requests = self._requests
        metrics.counter(
            "gateway_request_log_rows_dropped_total",
            "Rows of the request log that were not written.",
            (),
            lambda: [((), float(requests.dropped))],
        )
        metrics.counter(
            "gateway_doors_closed_total",
            "Times that the door was closed to an address.",
            (),
            lambda: [((), float(self._doors.closed_total))],
        )
        leases = self._leases
        if leases is not None:
            metrics.gauge(
                "gateway_limits_shared",
                "1 while limits are those of all gateways, 0 while this one keeps its share.",
                (),
                lambda: [((), float(leases.shared))],
            )


def _buckets(settings: Settings) -> tuple[Buckets, LeasedBuckets | None]:
    """In memory, or shared."""
    if settings.redis_url is None:
        return LocalBuckets(settings.rate_limit_keys), None
    # Loaded where it is used: most gateways are alone.
    from gateway.policy.ratelimit_redis import LeasedBuckets

    leases = LeasedBuckets(
        settings.redis_url, max_keys=settings.rate_limit_keys, gateways=settings.workers
    )
    return leases, leases


def _jwks(settings: Settings, before: Prepared | None) -> Jwks | None:
    """The issuer, the one of before where nothing about it has changed."""
    if settings.jwks_url is None:
        return None
    if before is not None and (settings.jwks_url, settings.upstream_ca) == (
        before.settings.jwks_url,
        before.settings.upstream_ca,
    ):
        return before.jwks
    return Jwks(settings.jwks_url, upstream_tls_context(settings.upstream_ca))
