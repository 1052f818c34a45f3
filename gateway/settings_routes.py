"""Rows of a route table: what `[[routes]]` in a file may say, and what is wrong with it.

Files are read in `settings_file`, patterns in `settings_patterns`; which rows can't be told apart
or never met is in `settings_route_order`. What becomes of a row is in `routing/routes.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from gateway.settings_fields import conditions, request_changes, response_changes
from gateway.settings_limits import LimitSettings, read_figures
from gateway.settings_patterns import (
    Pattern,
    PatternError,
    Rewrite,
    parse_pattern,
    parse_rewrite,
    parse_strip,
)
from gateway.settings_route_order import check_order
from gateway.settings_route_rows import HeaderChanges, HeaderCondition, RetrySettings, RouteSettings
from gateway.settings_services import OWN_PATH_NAMES, ServiceSettings, auth_rule, canonical
from gateway.settings_values import (
    Reader,
    SettingsError,
    Value,
    seconds,
    size_bytes,
    switch,
    text,
    whole,
    words,
)

__all__ = [
    "RETRIABLE",
    "HeaderChanges",
    "HeaderCondition",
    "RetrySettings",
    "RouteSettings",
    "build_routes",
]

RETRIABLE: Final = ("connect", "reset", "502", "503", "504")
MAX_ROWS: Final = 10_000  # checked against each other at every start and reload
MAX_COST: Final = 1_000_000
MAX_ATTEMPTS: Final = 10  # more only multiplies the load on what is ill

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/*-]{0,63}")
_METHOD: Final = re.compile(r"[A-Z][A-Z0-9_-]{0,31}")  # RFC 9110 §9.1, as the registry writes them
_HOST: Final = re.compile(
    r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*"
    r"|\[[0-9a-f:.]+\]"
)


def build_routes(
    rows: Sequence[Mapping[str, Value]],
    services: Iterable[ServiceSettings],
    wanted: frozenset[str],
    warnings: list[str],
) -> tuple[RouteSettings, ...]:
    """The rows, in the order of the files.

    `services` are the registered ones, `wanted` the names that `SERVICES` limits them to (none: no
    limit); rows of a service that it leaves out are left out too, with a warning. Raises
    SettingsError (`file:line: …`) for a row that is wrong, or that no request could ever meet.
    """
    if len(rows) > MAX_ROWS:
        raise _place(rows[MAX_ROWS]).error(f"has row {MAX_ROWS + 1}", f"at most {MAX_ROWS}")
    built = [_row(keys, _place(keys)) for keys in rows]
    _check_names(built, rows)
    check_order(built)
    registered = {alias: service.name for service in services for alias in service.aliases}
    kept: list[RouteSettings] = []
    left_out: set[str] = set()
    for route, keys in zip(built, rows, strict=True):
        if route.service in registered:
            kept.append(replace(route, service=registered[route.service]))
        elif wanted and route.service not in wanted:
            left_out.add(route.service)
        else:
            raise keys["service"].wrong("a service that is registered")
    warnings.extend(
        f"routes lead to {name}, which SERVICES leaves out: they are left out too"
        for name in sorted(left_out)
    )
    return tuple(kept)


def _check_names(built: Sequence[RouteSettings], rows: Sequence[Mapping[str, Value]]) -> None:
    """Names that are given are each row's own: records, figures and limits go by them."""
    first: dict[str, str] = {}
    for route, keys in zip(built, rows, strict=True):
        if "name" in keys:
            if route.name in first:
                raise keys["name"].error(
                    f"is {route.name!r}, as {first[route.name]}", "another name for each row"
                )
            first[route.name] = route.where


def _row(keys: Mapping[str, Value], place: Value) -> RouteSettings:
    """One row by itself; its service is the canonical name, not looked for yet."""
    read: dict[str, Any] = {}
    for key, value in keys.items():
        if key in _READERS:
            if isinstance(value.raw, dict) and key not in _TABLES:
                raise value.error("is a table", "a value")
            read[key] = _READERS[key](value)
        elif key and key not in _LATER:
            raise value.error("is unknown", f"one of {', '.join(_KEYS)}")
    for key in ("path", "service"):
        if key not in keys:
            raise place.error(f"has no {key}", "path and service")
    pattern: Pattern = read.pop("path")
    name = read.pop("name", None) or str(pattern)
    for own in _OWN_PATTERNS:
        if own.contains(pattern):
            raise keys["path"].error(
                f"is {str(pattern)!r}, which is the gateway's own path", "another path"
            )
    if "rewrite" in keys and "strip_prefix" in keys:
        raise keys["strip_prefix"].error("stands beside rewrite", "one of them")
    for key, parse in (("rewrite", parse_rewrite), ("strip_prefix", parse_strip)):
        if key in keys:
            read["rewrite"] = _rewrite(keys[key], parse, pattern)
    if "limits" in keys:
        read["limits"] = _limits(keys["limits"], name)
    if "agents" in keys:
        read["agents"] = _agents(keys["agents"], name)
    route = RouteSettings(name=name, where=place.where, pattern=pattern, **read)
    _check_cost(route, keys)
    return route


def _check_cost(route: RouteSettings, keys: Mapping[str, Value]) -> None:
    """A request that no bucket could ever hold would wait for ever."""
    for limits in (route.limits, route.agents):
        if isinstance(limits, LimitSettings) and route.cost > (holds := _smallest(limits)):
            raise keys["cost"].error(
                f"is {route.cost}, but a limit of the row holds {holds} at most",
                "a cost that fits",
            )


def _smallest(limits: LimitSettings) -> int:
    """The tokens in the smallest bucket of a rule (see policy/limit_rules)."""
    figures = [limits.per_minute, limits.per_hour, limits.per_day]
    if limits.per_second is not None:
        figures.append(limits.burst or max(1, math.ceil(limits.per_second)))
    return min(figure for figure in figures if figure is not None)


def _path(value: Value) -> Pattern:
    try:
        return parse_pattern(text(value))
    except PatternError as error:
        raise value.error(
            f"is {value.raw!r}: {error}", "a path such as /movies/:id or /movies/*"
        ) from None


def _rewrite(value: Value, parse: Callable[[str, Pattern], Rewrite], pattern: Pattern) -> Rewrite:
    try:
        return parse(text(value), pattern)
    except PatternError as error:
        raise value.error(
            f"is {value.raw!r}: {error}", "a path in the names of the row's"
        ) from None


def _name(value: Value) -> str:
    name = text(value)
    if not _NAME.fullmatch(name):
        raise value.wrong("letters, digits and ._:/*-, at most 64")
    return name


def _methods(value: Value) -> tuple[str, ...]:
    methods = tuple(dict.fromkeys(words(value)))
    if not methods or not all(_METHOD.fullmatch(method) for method in methods):
        raise value.wrong("methods in capitals, such as GET, POST")
    for method in methods:
        if method in ("CONNECT", "TRACE"):
            raise value.error(f"names {method}, which the gateway never lets in", "other methods")
    return methods


def _host(value: Value) -> str:
    host = text(value).lower()
    if not _HOST.fullmatch(host):
        raise value.wrong("a host without a port, such as api.example.com or *.example.com")
    return host


def _on(value: Value) -> frozenset[str]:
    causes = frozenset(words(value))
    if not causes or not causes <= set(RETRIABLE):
        raise value.wrong(f"some of {', '.join(RETRIABLE)}")
    return causes


_RETRY_KEYS: Final[Mapping[str, Reader]] = {
    "attempts": whole(2, MAX_ATTEMPTS),
    "on": _on,
    "try_timeout": seconds(),
    "backoff": seconds(zero=True),
    "backoff_max": seconds(zero=True),
    "unsafe": switch,
}


def _retries(value: Value) -> RetrySettings:
    table = _table(value, "a table, such as { attempts = 2, on = ['connect', '503'] }")
    read: dict[str, Any] = {}
    for key, item in table.items():
        if key not in _RETRY_KEYS:
            raise item.error("is unknown", f"one of {', '.join(_RETRY_KEYS)}")
        read[key] = _RETRY_KEYS[key](item)
    retries = RetrySettings(**read)
    if retries.backoff_max < retries.backoff:
        raise table.get("backoff_max", value).error(
            "is less than backoff", "backoff_max not below it"
        )
    return retries


def _limits(value: Value, name: str) -> LimitSettings:
    table = _table(value, "a table of figures, such as { per_minute = 600 }")
    return LimitSettings(name, where=value.where, **read_figures(table, value))


def _agents(value: Value, name: str) -> Literal["allow", "refuse"] | LimitSettings:
    if isinstance(value.raw, dict):
        return _limits(value, f"{name} (agents)")
    if value.raw == "allow" or value.raw == "refuse":
        return value.raw
    raise value.wrong("allow, refuse or a table of figures")


def _table(value: Value, expected: str) -> dict[str, Value]:
    if not isinstance(value.raw, dict):
        raise value.wrong(expected)
    return {key: item for key, item in value.raw.items() if key}


def _durable(value: Value) -> Literal["off", "allowed", "always"]:
    if value.raw == "always":
        return "always"
    try:
        return "allowed" if value.raw == "allowed" or switch(value) else "off"
    except SettingsError:
        raise value.wrong("true, false or always") from None


def _service(value: Value) -> str:
    return canonical(text(value))


def _place(keys: Mapping[str, Value]) -> Value:
    return keys[""]


_READERS: Final[Mapping[str, Reader]] = {
    "path": _path,
    "name": _name,
    "service": _service,
    "methods": _methods,
    "host": _host,
    "headers": conditions,
    "auth": auth_rule,
    "cost": whole(1, MAX_COST),
    "retries": _retries,
    "hedge_after": seconds(),
    "head_timeout": seconds(),
    "idle_timeout": seconds(),
    "total_timeout": seconds(),
    "max_body_bytes": size_bytes,
    "request_headers": request_changes,
    "response_headers": response_changes,
    "query": words,
    "durable": _durable,
}
# Read with the row's path or name at hand.
_LATER: Final = ("rewrite", "strip_prefix", "limits", "agents")
_KEYS: Final = (*_READERS, *_LATER)
_TABLES: Final = frozenset(("headers", "retries", "request_headers", "response_headers"))
# What a row can't take: the gateway answers there, or will.
_OWN_PATTERNS: Final = tuple(
    parse_pattern(path)
    for path in (
        "/health/*", "/metrics/*", "/openapi.json", "/approvals/*", "/admin/*",
        "/api/workflows/*", "/internal/jobs/*",
        *(f"/api/v1/{name}/*" for name in sorted(OWN_PATH_NAMES)),
    )
)  # fmt: skip
