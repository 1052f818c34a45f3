"""What tests of limits share: rules of a few words, requests, and reading an answer's fields."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.policy.limit_rules import Key, Rule, rule_of
from gateway.policy.limits import Limits, Verdict
from gateway.policy.ratelimit import LocalBuckets, address_key
from gateway.settings_limits import LimitSettings, TierSettings
from gateway.settings_values import RateLimit

WALL = 1_700_000_000.0
MEDIA = (
    TierSettings("anonymous", per_second=5, per_minute=100, burst=10),
    TierSettings("free", per_second=10, per_minute=200, burst=20),
    TierSettings("pro", per_second=50, per_minute=1000, burst=100),
    TierSettings("enterprise", per_second=200, per_minute=5000, burst=400),
)
HERE = address_key("192.0.2.1")

_POLICY = re.compile(r'"((?:[^"\\]|\\.)*)";q=([0-9]+);w=([0-9]+)')
_LIMIT = re.compile(r'"((?:[^"\\]|\\.)*)";r=([0-9]+);t=([0-9]+)')


def rule(
    name: str = "x",
    per_second: float | None = None,
    per_minute: int | None = None,
    per_hour: int | None = None,
    burst: int | None = None,
) -> Rule:
    """A rule of some figures."""
    return rule_of(
        name,
        LimitSettings(
            name, per_second=per_second, per_minute=per_minute, per_hour=per_hour, burst=burst
        ),
    )


@dataclass
class Fields:
    """The limit fields of an answer: `policy` and `limit` by the names in them."""

    limit: int
    remaining: int
    reset: int
    policies: dict[str, tuple[int, int]]  # quota, window
    limits: dict[str, tuple[int, int]]  # remaining, seconds

    @classmethod
    def read(cls, lines: bytes) -> Fields:
        """Fails when a line is not as the draft or its elder says."""
        text = lines.decode("ascii")
        assert text.endswith("\r\n")
        fields = dict(line.split(": ", 1) for line in text[:-2].split("\r\n"))
        assert list(fields) == [
            "X-RateLimit-Limit",
            "X-RateLimit-Remaining",
            "X-RateLimit-Reset",
            "RateLimit-Policy",
            "RateLimit",
        ]
        policies = _POLICY.findall(fields["RateLimit-Policy"])
        limits = _LIMIT.findall(fields["RateLimit"])
        assert ", ".join(f'"{n}";q={q};w={w}' for n, q, w in policies) == fields["RateLimit-Policy"]
        assert ", ".join(f'"{n}";r={r};t={t}' for n, r, t in limits) == fields["RateLimit"]
        assert [name for name, _, _ in policies] == [name for name, _, _ in limits]
        assert len({name for name, _, _ in policies}) == len(policies)
        return cls(
            int(fields["X-RateLimit-Limit"]),
            int(fields["X-RateLimit-Remaining"]),
            int(fields["X-RateLimit-Reset"]),
            {name: (int(quota), int(window)) for name, quota, window in policies},
            {name: (int(left), int(seconds)) for name, left, seconds in limits},
        )


@dataclass(frozen=True)
class Stored:
    """A rule of the database."""

    tenant: str | None = None
    pattern: str | None = None
    per_minute: int | None = None
    per_hour: int | None = None
    per_day: int | None = None


def limits_of(
    *rules: LimitSettings,
    tiers: Sequence[TierSettings] = (),
    default: int | None = None,
    buckets: LocalBuckets | None = None,
) -> Limits:
    limit = None if default is None else RateLimit(default, 60)
    return Limits(tiers, rules, limit, LocalBuckets() if buckets is None else buckets)


def ask(
    limits: Limits,
    caller: Key = HERE,
    *,
    tier: str = "anonymous",
    tenant: str | None = None,
    path: str = "/api/v1/x",
    own: tuple[Rule, ...] = (),
    cost: int = 1,
    now: float = 1000.0,
    wall: float = WALL,
) -> Verdict:
    """One request; its verdict must come at once."""
    verdict = limits.check(caller, tier, tenant, path, own, cost, now, wall)
    assert isinstance(verdict, Verdict)
    assert verdict.admitted == (verdict.retry_after == 0) == (verdict.rule == "")
    return verdict


def admitted(limits: Limits, *, most: int = 10_000, now: float = 1000.0, **about: object) -> int:
    """How many requests are let in at once."""
    for count in range(most):
        if not ask(limits, now=now, **about).admitted:  # type: ignore[arg-type]
            return count
    return most
