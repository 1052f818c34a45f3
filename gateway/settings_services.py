"""Services: which URLs of the environment and of the files become back ends, under which names.

The rules are those of the README's section on services. Nothing is connected or resolved here; the
edge's registry takes the result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import AddressValueError, IPv6Address
from typing import Any

from gateway.settings_balancing import (
    KEYS,
    BalanceSettings,
    BreakerSettings,
    CheckSettings,
    OutlierSettings,
    build_balancing,
)
from gateway.settings_values import (
    ENVIRONMENT,
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

# Variables that end in _URL and mean something else, to the gateway or to libraries.
NEVER_VARIABLES = frozenset(
    {"REDIS_URL", "DATABASE_URL", "TEMPORAL_URL", "PUBLIC_URL", "GATEWAY_URL", "JWKS_URL"}
)
NEVER_PREFIX, NEVER_SUFFIX = "OTEL_", "_PROXY"
# First segments below /api/v1/ that are the gateway's own.
OWN_PATH_NAMES = frozenset({"events", "workflows", "questions", "plugins", "admin"})

_VARIABLE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]*)_URL")
_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
_SERVICE_SUFFIX = "_service"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HTTP = re.compile(r"\s*https?://", re.IGNORECASE)
_SECRET_OR_SUFFIX = re.compile(r"https?://[^/?#]*@|[?#]", re.IGNORECASE)
_ENDPOINT = re.compile(
    r"(?P<scheme>https?)://"
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_.])?))"
    r"(?::(?P<port>[0-9]{0,5}))?"
    r"(?P<path>/[A-Za-z0-9\-._~%!$&'()*+;=:@/]*)?",
    re.IGNORECASE,
)
# A scope-token of RFC 6749 §3.3 without the comma, which separates them here.
_AUTH = re.compile(r"none|optional|required|scope:[!#-+\--\[\]-~]+(?:,[!#-+\--\[\]-~]+)*")
_URL_EXPECTED = "http://host:port/base or https://…, several with commas"


@dataclass(frozen=True, slots=True)
class EndpointUrl:
    """Where one endpoint of a service listens; `base_path` is empty or starts with `/` and ends
    without.
    """

    scheme: str
    host: str
    port: int
    base_path: str = ""

    @property
    def authority(self) -> str:
        """`host:port` as a Host field has it: no default port, IPv6 in brackets (RFC 3986 §3.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.base_path}"


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """One service: every name it answers to (written with `_`), its endpoints, its own limits.

    Time-outs are seconds; `max_connections` counts upstream connections per endpoint, `queue`
    requests that wait for one. `max_requests`: those under way at once, None: any number. `auth`:
    the rule of its own for `/api/v1/{service}/…`, None: AUTH_DEFAULT. `durable`: whether requests
    that prefer `respond-async` become jobs.
    """

    name: str
    aliases: tuple[str, ...]
    endpoints: tuple[EndpointUrl, ...]
    exposed: bool = True
    upgrades: tuple[str, ...] = ("websocket",)
    connect_timeout: float = 5.0
    head_timeout: float = 30.0
    idle_timeout: float = 60.0
    stream_idle_timeout: float = 300.0
    max_body_bytes: int = 16 << 20
    max_connections: int = 4096
    max_requests: int | None = None
    queue: int = 1024
    queue_timeout: float = 5.0
    pass_authorization: bool = True
    auth: str | None = None
    durable: bool = False
    balance: BalanceSettings = field(default_factory=BalanceSettings)
    breaker: BreakerSettings | None = field(default_factory=BreakerSettings)
    outlier: OutlierSettings | None = field(default_factory=OutlierSettings)
    checks: CheckSettings | None = None


@dataclass(slots=True)
class Registration:
    """Names and endpoints that one variable, one table, or several that agree, stand for."""

    names: tuple[str, ...]
    endpoints: tuple[EndpointUrl, ...]
    said_by: str


def canonical(name: str) -> str:
    """A service name as it is compared: lower case, `-` as `_`."""
    return name.strip().lower().replace("-", "_")


def parse_endpoints(value: Value) -> tuple[EndpointUrl, ...]:
    """The endpoints of a `url` value, each once, in order.

    Raises SettingsError for anything but http(s) URLs without userinfo, query and fragment.
    """
    endpoints: dict[EndpointUrl, None] = {}
    for part in words(value):
        if _SECRET_OR_SUFFIX.search(part):
            raise value.error("holds user information, a query or a fragment", _URL_EXPECTED)
        match = _ENDPOINT.fullmatch(part)
        endpoint = _endpoint(match) if match else None
        if endpoint is None:
            raise value.error(f"is {part!r}", _URL_EXPECTED)
        endpoints[endpoint] = None
    if not endpoints:
        raise value.wrong(_URL_EXPECTED)
    return tuple(endpoints)


def _endpoint(match: re.Match[str]) -> EndpointUrl | None:
    scheme = match["scheme"].lower()
    port = int(match["port"] or _DEFAULT_PORTS[scheme])
    path = (match["path"] or "").rstrip("/")
    dots = any(segment in (".", "..") for segment in path.split("/"))
    if not 1 <= port <= 65535 or dots:
        return None
    if match["v6"] is None:
        try:
            match["host"].encode("idna")  # an empty or overlong label is no host name
        except UnicodeError:
            return None
        return EndpointUrl(scheme, match["host"].lower(), port, path)
    try:
        return EndpointUrl(scheme, str(IPv6Address(match["v6"])), port, path)
    except AddressValueError:
        return None


def from_environment(
    environ: Mapping[str, str], wanted: frozenset[str], warn: Callable[[str], None]
) -> list[Registration]:
    """What `<NAME>_URL` and `<NAME>_SERVICE_URL` register; an empty `wanted` means no limit.

    A value with userinfo, query or fragment, and a name that is one of the gateway's own paths, is
    said through `warn` and left out. Raises SettingsError for a broken http value and for two
    values for one service.
    """
    found: list[Registration] = []
    for variable in sorted(environ):
        names = _variable_names(variable)
        raw = environ[variable]
        if not names or not _HTTP.match(raw) or (wanted and wanted.isdisjoint(names)):
            continue
        free = tuple(name for name in names if name not in OWN_PATH_NAMES)
        if not free:
            warn(f"{variable} is not registered: /api/v1/{names[0]} is the gateway's own path")
        elif _SECRET_OR_SUFFIX.search(raw):
            warn(f"{variable} is not registered: it holds user information, a query or a fragment")
        else:
            endpoints = parse_endpoints(Value(variable, raw, ENVIRONMENT))
            found = _merged(found, Registration(free, endpoints, variable))
    return found


def _variable_names(variable: str) -> tuple[str, ...]:
    """The names a variable stands for: none when it is not a service's."""
    match = _VARIABLE.fullmatch(variable)
    upper = variable.upper()
    never = (
        upper in NEVER_VARIABLES or upper.startswith(NEVER_PREFIX) or upper.endswith(NEVER_SUFFIX)
    )
    if match is None or never:
        return ()
    name = canonical(match[1])
    short = name.removesuffix(_SERVICE_SUFFIX)
    return (short, name) if short not in ("", name) else (name,)


def _merged(found: Iterable[Registration], new: Registration) -> list[Registration]:
    """`found` with `new`: those that share a name must agree, and become one."""
    apart: list[Registration] = []
    names, said_by = list(new.names), new.said_by
    for old in found:
        if set(old.names).isdisjoint(new.names):
            apart.append(old)
            continue
        if old.endpoints != new.endpoints:
            shared = next(name for name in old.names if name in new.names)
            raise SettingsError(
                f"{ENVIRONMENT}: {old.said_by} and {new.said_by} give service {shared!r} "
                "two different values, expected one"
            )
        names = [*old.names, *(name for name in names if name not in old.names)]
        said_by = f"{old.said_by}, {said_by}"
    return [*apart, Registration(tuple(names), new.endpoints, said_by)]


def check_name(value: Value, name: str) -> str:
    """The canonical form of a name that a file gives a service; raises SettingsError when it cannot
    be one.
    """
    plain = canonical(name)
    if not _NAME.fullmatch(plain):
        raise value.error("is no service name", "letters, digits, - and _")
    if plain in OWN_PATH_NAMES:
        raise value.error(
            f"cannot be a service: /api/v1/{plain} is the gateway's own path", "another name"
        )
    return plain


def _upgrades(value: Value) -> tuple[str, ...]:
    """Upgrade tokens; h2c and TLS would open a pipe past every policy (RFC 9113 §3.1, RFC 2817)."""
    protocols = tuple(word.lower() for word in words(value))
    if any(protocol == "h2c" or protocol.startswith("tls/") for protocol in protocols):
        raise value.wrong("protocols other than h2c and TLS")
    return protocols


def auth_rule(value: Value) -> str:
    """Who may use a service or a route, as text; what it means is in policy/auth."""
    rule = text(value)
    if not _AUTH.fullmatch(rule):
        raise value.wrong("none, optional, required or scope:<name>, several with commas")
    return rule


_KEYS: Mapping[str, Reader] = {
    "url": parse_endpoints,
    "exposed": switch,
    "upgrades": _upgrades,
    "connect_timeout": seconds(),
    "head_timeout": seconds(),
    "idle_timeout": seconds(),
    "stream_idle_timeout": seconds(),
    "max_body_bytes": size_bytes,
    "max_connections": whole(1, 1_000_000),
    "max_requests": whole(1, 1_000_000),
    "queue": whole(0, 1_000_000),
    "queue_timeout": seconds(),
    "pass_authorization": switch,
    "auth": auth_rule,
    "durable": switch,
}


def build_services(
    found: Iterable[Registration],
    tables: Mapping[str, Mapping[str, Value]],
    wanted: frozenset[str],
    defaults: ServiceSettings,
) -> tuple[ServiceSettings, ...]:
    """The services, by name: `found` in the environment wins over the `[services.<name>]` tables of
    files.

    `defaults` holds the limits of a service that has none of its own. Raises SettingsError.
    """
    named = _tables_by_name(tables, wanted)
    built: list[ServiceSettings] = []
    for registration in found:
        mine = [name for name in named if name in registration.names]
        if len(mine) > 1:
            value = named[mine[1]][""]
            raise value.error(
                f"and services.{mine[0]} are one service to {registration.said_by}", "one table"
            )
        keys = named.pop(mine[0]) if mine else {}
        built.append(_service(registration.names, keys, defaults, registration.endpoints))
    built.extend(_service((name,), keys, defaults, ()) for name, keys in named.items())
    return tuple(sorted(built, key=lambda service: service.name))


def _tables_by_name(
    tables: Mapping[str, Mapping[str, Value]], wanted: frozenset[str]
) -> dict[str, Mapping[str, Value]]:
    named: dict[str, Mapping[str, Value]] = {}
    for written, keys in tables.items():
        name = check_name(keys[""], written)
        if name in named:
            raise keys[""].error(
                "has a table already (- and _ are the same)", "one table for a service"
            )
        if not wanted or name in wanted:
            named[name] = keys
    return named


def _service(
    names: tuple[str, ...],
    keys: Mapping[str, Value],
    defaults: ServiceSettings,
    endpoints: tuple[EndpointUrl, ...],
) -> ServiceSettings:
    """One service; `endpoints` of the environment win over the `url` of the table."""
    read: dict[str, Any] = {}
    for key, value in keys.items():
        if key == "":
            continue
        if key in KEYS:
            continue
        if key not in _KEYS:
            raise value.error("is unknown", f"one of {', '.join((*_KEYS, *KEYS))}")
        read[key] = _KEYS[key](value)
    url = read.pop("url", ())
    if not (endpoints or url):
        raise keys[""].error("has no url", _URL_EXPECTED)
    endpoints = endpoints or url
    balancing = build_balancing(keys, len(endpoints))
    return replace(
        defaults,
        name=names[0],
        aliases=names,
        endpoints=endpoints,
        balance=balancing.balance,
        breaker=balancing.breaker,
        outlier=balancing.outlier,
        checks=balancing.checks,
        **read,
    )
