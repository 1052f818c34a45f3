"""A row of a route table, read: what it matches, where it leads, what holds on the way. Data only.

How rows are written and what is wrong with one is in `settings_routes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gateway.settings_limits import LimitSettings
from gateway.settings_patterns import Pattern, Rewrite


@dataclass(frozen=True, slots=True)
class HeaderCondition:
    """A field that a request must have: `name` in lower case; `value` None: any."""

    name: str
    value: str | None = None


@dataclass(frozen=True, slots=True)
class HeaderChanges:
    """Fields set (in place of any that came), added, and removed; values are plain text."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """`attempts` tries in all; after which failures another follows (`RETRIABLE`); after how many
    seconds one is given up, and between which a random pause comes before the next.

    `unsafe`: also methods that are not idempotent (RFC 9110 §9.2.2 has a proxy not do that).
    """

    attempts: int = 2
    on: frozenset[str] = frozenset(("connect", "reset"))
    try_timeout: float | None = None
    backoff: float = 0.025
    backoff_max: float = 0.25
    unsafe: bool = False


@dataclass(frozen=True, slots=True)
class RouteSettings:
    """One row. Durations in seconds, sizes in bytes; None: the service's own or the default.

    `methods` None: any. `auth` is `none`, `optional`, `required` or `scope:a,b`. `query`: the keys
    whose values a record may show. `durable`: which requests become jobs (None: as the service
    has it): none, those that prefer `respond-async`, or all.
    """

    name: str
    where: str
    pattern: Pattern
    service: str
    methods: tuple[str, ...] | None = None
    host: str | None = None
    headers: tuple[HeaderCondition, ...] = ()
    rewrite: Rewrite | None = None
    auth: str | None = None
    limits: LimitSettings | None = None
    cost: int = 1
    retries: RetrySettings | None = None
    hedge_after: float | None = None
    head_timeout: float | None = None
    idle_timeout: float | None = None
    total_timeout: float | None = None
    max_body_bytes: int | None = None
    request_headers: HeaderChanges = HeaderChanges()
    response_headers: HeaderChanges = HeaderChanges()
    agents: Literal["allow", "refuse"] | LimitSettings = "allow"
    query: tuple[str, ...] = ()
    durable: Literal["off", "allowed", "always"] | None = None
