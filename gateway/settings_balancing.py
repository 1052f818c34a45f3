"""How a service's requests are spread over its endpoints, and when one of them, or the service, is
left alone: the keys of a `[services.<name>]` table about balancing, checks, ejection and breaker.

Pure: raw values in, frozen settings out, or a SettingsError. The other keys of the table are in
settings_services; what these mean at run time is in gateway/routing and gateway/policy/breaker.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from gateway.settings_values import Reader, Value, choice, seconds, switch, text, whole, words

MAX_WEIGHT = 1000  # a thousandfold share is a drained endpoint by another name

HashSource = tuple[str] | tuple[str, bytes]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # RFC 9110 §5.6.2
_PATH = re.compile(r"/[A-Za-z0-9\-._~%!$&'()*+,;=:@/]*(\?[A-Za-z0-9\-._~%!$&'()*+,;=:@/?]*)?")
_HASH_EXPECTED = "header:<name>, cookie:<name> or address"


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """It opens for `open_seconds` when of a window's requests `failures` failed, and that is a
    share of at least `rate`.
    """

    failures: int = 20
    open_seconds: float = 3.0
    rate: float = 0.5


@dataclass(frozen=True, slots=True)
class OutlierSettings:
    """`failures` in a row eject an endpoint for `seconds` times its ejections, `max_seconds` at
    most; never so many that more than `share` of all are out.
    """

    failures: int = 5
    seconds: float = 30.0
    max_seconds: float = 300.0
    share: float = 0.5


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """Active checks: GET `path` at each endpoint; so many good or bad ones in a row decide."""

    path: str
    interval: float = 10.0
    timeout: float = 2.0
    healthy: int = 2
    unhealthy: int = 3


@dataclass(frozen=True, slots=True)
class BalanceSettings:
    """`weights` are those of the endpoints in their order; empty: all alike. `slow_start` in
    seconds, 0: none. `panic`: try endpoints that are out when no other is left.
    """

    kind: str = "round_robin"
    weights: tuple[int, ...] = ()
    hash_on: HashSource | None = None
    sticky: str | None = None  # the cookie's name
    slow_start: float = 0.0
    panic: bool = False


def _share(*, zero: bool = False) -> Reader:
    """A reader of shares: a number up to 1, or a percentage as a text."""
    expected = f"a share {'from 0' if zero else 'above 0'} to 1, such as 0.5 or 50%"

    def read(value: Value) -> float:
        raw = value.raw
        try:
            if isinstance(raw, bool) or not isinstance(raw, str | int | float):
                raise ValueError
            if isinstance(raw, str) and raw.strip().endswith("%"):
                number = float(raw.strip()[:-1]) / 100
            else:
                number = float(raw)
        except ValueError:
            raise value.wrong(expected) from None
        if not 0 <= number <= 1 or (number == 0 and not zero):
            raise value.wrong(expected)
        return number

    return read


def _weights(value: Value) -> tuple[int, ...]:
    raw = value.raw if isinstance(value.raw, list) else list(words(value))
    read = whole(1, MAX_WEIGHT)
    return tuple(read(Value(value.name, part, value.where)) for part in raw)


def _hash_on(value: Value) -> HashSource:
    word = text(value)
    kind, _, name = word.partition(":")
    if word.lower() == "address":
        return ("address",)
    kind = kind.strip().lower()
    name = name.strip()
    if kind not in ("header", "cookie") or not _TOKEN.fullmatch(name):
        raise value.wrong(_HASH_EXPECTED)
    return (kind, (name.lower() if kind == "header" else name).encode("ascii"))


def _cookie_name(value: Value) -> str:
    name = text(value)
    if not _TOKEN.fullmatch(name):
        raise value.wrong("a cookie's name")
    return name


def _check_path(value: Value) -> str:
    path = text(value)
    if not _PATH.fullmatch(path):
        raise value.wrong("a path at the endpoint, such as /health")
    return path


_count = whole(1, 1_000_000)
_wait = seconds()

KEYS: Mapping[str, Reader] = {
    "breaker": choice("on", "off"),
    "breaker_failures": _count,
    "breaker_seconds": _wait,
    "breaker_rate": _share(),
    "balance": choice("round_robin", "weighted", "p2c", "hash"),
    "weights": _weights,
    "hash_on": _hash_on,
    "sticky": _cookie_name,
    "slow_start": seconds(zero=True),
    "panic": switch,
    "check_path": _check_path,
    "check_interval": _wait,
    "check_timeout": _wait,
    "check_healthy": _count,
    "check_unhealthy": _count,
    "outlier": choice("on", "off"),
    "outlier_failures": _count,
    "outlier_seconds": _wait,
    "outlier_max_seconds": _wait,
    "outlier_share": _share(zero=True),
}


@dataclass(frozen=True, slots=True)
class Balancing:
    """All of it for one service."""

    balance: BalanceSettings
    breaker: BreakerSettings | None  # None: off
    outlier: OutlierSettings | None
    checks: CheckSettings | None


def build_balancing(keys: Mapping[str, Value], endpoints: int) -> Balancing:
    """What the `KEYS` among `keys` say of a service with so many endpoints; SettingsError where
    they contradict each other.
    """
    read: dict[str, Any] = {name: KEYS[name](value) for name, value in keys.items() if name in KEYS}
    weights = read.get("weights", ())
    if weights and len(weights) != endpoints:
        raise keys["weights"].error(
            f"has {len(weights)} weights", f"one for each of the {endpoints} endpoints"
        )
    kind = read.get("balance", "round_robin")
    hash_on = read.get("hash_on")
    if hash_on is not None and kind != "hash":
        raise keys["hash_on"].error(f"stands beside balance {kind!r}", 'balance = "hash"')
    checked = [name for name in keys if name.startswith("check_")]
    if checked and "check_path" not in keys:
        raise keys[checked[0]].error("has no check_path beside it", "one, or no checks")
    outlier = _part(OutlierSettings, "outlier_", read)
    if outlier.max_seconds < outlier.seconds:
        if "outlier_max_seconds" in keys:
            least = f"at least outlier_seconds ({outlier.seconds:g})"
            raise keys["outlier_max_seconds"].wrong(least)
        most = f"at most outlier_max_seconds ({outlier.max_seconds:g})"
        raise keys["outlier_seconds"].wrong(most)
    return Balancing(
        balance=BalanceSettings(
            kind=kind,
            weights=weights,
            hash_on=("address",) if kind == "hash" and hash_on is None else hash_on,
            sticky=read.get("sticky"),
            slow_start=read.get("slow_start", 0.0),
            panic=read.get("panic", False),
        ),
        breaker=_part(BreakerSettings, "breaker_", read, open_seconds="breaker_seconds")
        if read.get("breaker", "on") == "on"
        else None,
        outlier=outlier if read.get("outlier", "on") == "on" else None,
        checks=_part(CheckSettings, "check_", read) if checked else None,
    )


def _part(kind: type[Any], prefix: str, read: Mapping[str, Any], **otherwise: str) -> Any:
    """A `kind` of what was read under its fields' names with `prefix`, or other names."""
    named = {each.name: otherwise.get(each.name, prefix + each.name) for each in fields(kind)}
    return kind(**{name: read[key] for name, key in named.items() if key in read})
