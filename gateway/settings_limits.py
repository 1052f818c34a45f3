"""Limits as they are written: tiers, rules by tenant and path, and when an address is shut out.

Here are the tables `[tiers.<name>]`, `[[limits]]` and `[abuse]` of a settings file. What a rule
does with its figures is policy/limit_rules. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.settings_patterns import Pattern, PatternError, parse_pattern
from gateway.settings_values import Value, seconds, text, whole

# interface.md, Identity: other tiers of a token count as anonymous, so a row for one never holds.
TIER_NAMES: Final = ("anonymous", "free", "pro", "enterprise")
MAX_FIGURE: Final = 1_000_000_000  # more a second than the gateway could count apart

_LEAST_RATE: Final = 0.001  # tokens a second
_MAX_TENANT: Final = 255  # as in a token (OpenID Connect Core §2 on `sub`)
_LIMIT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/*-]{0,63}")
_FIGURE_NAMES: Final = ("per_second", "per_minute", "per_hour", "per_day", "burst")
_FIGURES_EXPECTED: Final = "at least one of per_second, per_minute, per_hour, per_day"


@dataclass(frozen=True, slots=True)
class TierSettings:
    """`[tiers.<name>]`: how often each caller of a tier may ask; None where no figure is given."""

    name: str
    per_second: float | None = None
    per_minute: int | None = None
    per_hour: int | None = None
    per_day: int | None = None
    burst: int | None = None


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """A row of `[[limits]]`, or the figures of a route.

    With a `tenant` it counts that tenant as a whole, without one each caller; without a `path` all
    paths. `where` is `file:line` for messages.
    """

    name: str
    tenant: str | None = None
    path: str | None = None
    per_second: float | None = None
    per_minute: int | None = None
    per_hour: int | None = None
    per_day: int | None = None
    burst: int | None = None
    where: str = ""


@dataclass(frozen=True, slots=True)
class AbuseSettings:
    """`[abuse]`: how much one address may get wrong in `window_seconds` before its door closes.

    It closes for `close_seconds` the first time, twice as long each time after that, at most
    `close_max_seconds`. 0 of `bad_credentials` or `refusals`: those are not counted.
    """

    bad_credentials: int = 20
    refusals: int = 100
    window_seconds: float = 60.0
    close_seconds: float = 60.0
    close_max_seconds: float = 3600.0


def limit_name(tenant: str | None, path: str | None) -> str:
    """What a rule without a name of its own is called in refusals and fields."""
    return ":".join(part for part in (tenant, path) if part) or "all"


def build_tiers(tables: Mapping[str, Mapping[str, Value]]) -> tuple[TierSettings, ...]:
    """The tiers of `[tiers.<name>]`. Raises SettingsError (`file:line: …`)."""
    tiers = []
    for name, keys in tables.items():
        place = _place(keys, f"tiers.{name}")
        if name not in TIER_NAMES:
            raise place.error("is no tier", " or ".join(TIER_NAMES))
        tiers.append(TierSettings(name, **read_figures(keys, place)))
    return tuple(tiers)


def build_limits(rows: Sequence[Mapping[str, Value]]) -> tuple[LimitSettings, ...]:
    """The rules of `[[limits]]`. Raises SettingsError (`file:line: …`), also for a second row for
    the same tenant and paths, or with the same name.
    """
    limits: list[LimitSettings] = []
    subjects: dict[tuple[str | None, object], str] = {}
    names: dict[str, str] = {}
    for keys in rows:
        place = _place(keys, "limits")
        tenant = _tenant(keys["tenant"]) if "tenant" in keys else None
        pattern = _pattern(keys["path"]) if "path" in keys else None
        path, shape = (None, None) if pattern is None else (pattern.text, pattern.shape)
        name = _name(keys["name"]) if "name" in keys else limit_name(tenant, path)
        for found in (subjects.get((tenant, shape)), names.get(name)):
            if found is not None:
                raise place.error(
                    f"has a row for {name!r} already ({found})", "one row for a tenant and path"
                )
        subjects[tenant, shape] = names[name] = place.where
        figures = read_figures(keys, place, also=("name", "tenant", "path"))
        limits.append(LimitSettings(name, tenant, path, where=place.where, **figures))
    return tuple(limits)


def build_abuse(keys: Mapping[str, Value]) -> AbuseSettings | None:
    """`[abuse]`, or None where no file has that table. Raises SettingsError (`file:line: …`)."""
    if not keys:
        return None
    readers = {
        "bad_credentials": whole(0, MAX_FIGURE),
        "refusals": whole(0, MAX_FIGURE),
        "window_seconds": seconds(),
        "close_seconds": seconds(),
        "close_max_seconds": seconds(),
    }
    read: dict[str, Any] = {}
    for key, value in keys.items():
        if key == "":
            continue
        if key not in readers:
            raise value.error("is unknown", f"one of {', '.join(readers)}")
        read[key] = readers[key](value)
    abuse = AbuseSettings(**read)
    if abuse.close_max_seconds < abuse.close_seconds:
        raise _place(keys, "abuse").error(
            f"closes for {abuse.close_seconds:g} s first and {abuse.close_max_seconds:g} s at most",
            "close_max_seconds not below close_seconds",
        )
    return abuse


def read_figures(
    keys: Mapping[str, Value], place: Value, *, also: Sequence[str] = ()
) -> dict[str, Any]:
    """The figures of a table, as arguments of the settings; `also`: keys that others read.

    Raises SettingsError: an unknown key, no figure at all, or `burst` without `per_second`.
    """
    read: dict[str, Any] = {}
    for key, value in keys.items():
        if key in ("", *also):
            continue
        if key not in _FIGURE_NAMES:
            raise value.error("is unknown", f"one of {', '.join((*also, *_FIGURE_NAMES))}")
        read[key] = _per_second(value) if key == "per_second" else _COUNT(value)
    if not read.keys() - {"burst"}:
        raise place.error("has no figure", _FIGURES_EXPECTED)
    if "burst" in read and "per_second" not in read:
        raise keys["burst"].error("stands alone", "per_second beside it, which refills it")
    return read


_COUNT = whole(1, MAX_FIGURE)


def _per_second(value: Value) -> float:
    raw = value.raw
    if (
        isinstance(raw, bool)
        or not isinstance(raw, int | float)
        or not _LEAST_RATE <= raw <= MAX_FIGURE
    ):
        raise value.wrong(f"a number from {_LEAST_RATE} to {MAX_FIGURE}")
    return float(raw)


def _name(value: Value) -> str:
    name = text(value)
    if not _LIMIT_NAME.fullmatch(name):
        raise value.wrong("letters, digits and ._:/*-, at most 64")
    return name


def _tenant(value: Value) -> str:
    tenant = text(value)
    if len(tenant) > _MAX_TENANT:
        raise value.error("is too long", f"a tenant's name, at most {_MAX_TENANT} characters")
    return tenant


def _pattern(value: Value) -> Pattern:
    path = text(value)
    try:
        return parse_pattern(path)
    except PatternError as error:
        raise value.error(
            f"is {path!r}: {error}", "a path, such as /api/v1/search* or /api/v1/movies/:id"
        ) from None


def _place(keys: Mapping[str, Value], name: str) -> Value:
    """Where a table stands: its empty key says so, else the first of its keys."""
    first = keys.get("") or next(iter(keys.values()), None)
    return Value(name, None, "settings" if first is None else first.where)
