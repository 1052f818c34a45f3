"""What `gateway check` and `gateway routes` say of routes: the table, or what one request would
meet: its route, the policies on it, and the endpoints.

Read from the settings alone: nothing is connected, no key is needed. The command line is in `cli`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.jobs.needs import missing_for_jobs
from gateway.routing.matching import Matching
from gateway.routing.routes import OPEN_LINE, durable_of
from gateway.routing.table import BadTarget, MethodNotAllowed, RouteTable, split_target
from gateway.settings import ServiceSettings, Settings
from gateway.settings_limits import LimitSettings, TierSettings
from gateway.settings_patterns import Rewrite, parse_pattern, plain_segments
from gateway.settings_route_rows import HeaderChanges, HeaderCondition, RouteSettings

_FIGURES = (
    ("per_second", "a second"),
    ("per_minute", "a minute"),
    ("per_hour", "an hour"),
    ("per_day", "a day"),
)


@dataclass(slots=True)
class Asked:
    """The fields of a request that is only asked about, as a table looks at them."""

    host: bytes | None = None
    by_name: Mapping[bytes, Sequence[bytes]] = field(default_factory=dict)

    @classmethod
    def of(cls, fields: Iterable[tuple[str, str]]) -> Asked:
        """From names and values as they are written on a command line."""
        host: bytes | None = None
        found: dict[bytes, list[bytes]] = {}
        for name, value in fields:
            if name.lower() == "host":
                host = value.encode()
            else:
                found.setdefault(name.lower().encode(), []).append(value.encode())
        return cls(host, found)


@dataclass(slots=True)
class _Leads:
    """A row, or the open line to a service, for a table that is only asked."""

    service: ServiceSettings
    row: RouteSettings | None = None
    matching: Matching | None = None

    @property
    def name(self) -> str:
        return OPEN_LINE if self.row is None else self.row.name

    @property
    def rewrite(self) -> Rewrite | None:
        return None if self.row is None else self.row.rewrite


def check_lines(settings: Settings) -> list[str]:
    """What `gateway check` says: how many rows of which files, and what each service gets."""
    files: dict[str, int] = {}
    for row in settings.routes:
        file = row.where.rpartition(":")[0]
        files[file] = files.get(file, 0) + 1
    lines = [
        f"routes      {count} {'row' if count == 1 else 'rows'} of {file}"
        for file, count in files.items()
    ]
    led = {row.service for row in settings.routes}
    lines += [
        f"warning     service {service.name} is not under /api/v1/ and no row leads to it"
        for service in settings.services
        if not service.exposed and service.name not in led
    ]
    if missing_for_jobs(settings) is not None:
        lines += [
            f"warning     {row.where} is always durable, and jobs are off: it is answered 503"
            for row in settings.routes
            if row.durable == "always"
        ]
    return lines


def table_lines(settings: Settings) -> list[str]:
    """The table: the gateway's own paths, the rows as they are looked through, the open line."""
    from gateway.control.app import own_methods

    services = {service.name: service for service in settings.services}
    lines = [
        f"{', '.join(methods)}  {path}  the gateway" for path, methods in own_methods().items()
    ]
    for row in sorted(settings.routes, key=_order):
        methods = ", ".join(row.methods) if row.methods else "ANY"
        asks = "".join(f"  {each}" for each in _conditions(row))
        endpoints = ", ".join(map(str, services[row.service].endpoints))
        leads = f"{row.service}: {endpoints}{_durable(row, services[row.service])}"
        lines.append(f"{methods}  {row.pattern}{asks}  {leads}  ({row.where})")
    for service in settings.services:
        if service.exposed:
            paths = ", ".join(f"/api/v1/{alias}/…" for alias in service.aliases)
            endpoints = ", ".join(map(str, service.endpoints))
            lines.append(f"ANY  {paths}  {endpoints}{_durable(None, service)}")
    return lines


def request_lines(
    settings: Settings, method: str, target: str, fields: Iterable[tuple[str, str]] = ()
) -> list[str]:
    """What a request would meet; `fields` are its header fields, Host among them."""
    try:
        path, query = split_target(target.encode())
    except BadTarget as error:
        return [f"{method} {target}: 400, {error}"]
    found = _table(settings).match(method.encode(), path, Asked.of(fields))
    if found is None:
        return [f"{method} {target}: 404, {_why_not(settings, path)}"]
    if isinstance(found, MethodNotAllowed):
        return [f"{method} {target}: 405, the path takes {found.allow.decode()}"]
    leads = found.route
    if leads is None:
        from gateway.control.app import own_methods

        methods = own_methods().get(found.name, ())
        if method not in methods:
            return [f"{method} {target}: 405, the gateway's own path takes {', '.join(methods)}"]
        return [f"{method} {target}: the gateway itself"]
    forwarded = (found.path + query).decode()
    return [
        f"route     {found.name}" + ("" if leads.row is None else f"  ({leads.row.where})"),
        f"service   {leads.service.name}",
        *(f"endpoint  {endpoint}{forwarded}" for endpoint in leads.service.endpoints),
        *_policies(settings, leads, path),
    ]


def _table(settings: Settings) -> RouteTable[_Leads]:
    from gateway.control.app import PATHS

    services = {service.name: service for service in settings.services}
    rows = [_Leads(services[row.service], row, Matching.of(row)) for row in settings.routes]
    exposed: dict[str, _Leads] = {}
    for service in settings.services:
        if service.exposed:
            leads = _Leads(service)
            exposed.update((alias, leads) for alias in service.aliases)
    return RouteTable(rows, exposed, PATHS)


def _durable(row: RouteSettings | None, service: ServiceSettings) -> str:
    """Whether requests may become jobs, or always do."""
    said = durable_of(row, service)
    return "" if said is None else f"  durable={said}"


def _order(row: RouteSettings) -> tuple[object, ...]:
    matching = Matching.of(row)
    return (row.pattern.order, str(row.pattern), matching.order)


def _why_not(settings: Settings, path: bytes) -> str:
    """Nothing is there, or rows that ask for other fields."""
    segments = plain_segments(path)
    rows = [row for row in settings.routes if row.pattern.covers(segments)]
    if not rows:
        return "no service and no path of the gateway"
    asked = "; ".join(f"{row.where}: {' '.join(_conditions(row))}" for row in rows[:3])
    return f"the rows for this path ask for more ({asked})"


def _conditions(row: RouteSettings) -> list[str]:
    host = [] if row.host is None else [f"host={row.host}"]
    return host + [_condition(each) for each in row.headers]


def _condition(condition: HeaderCondition) -> str:
    return condition.name if condition.value is None else f"{condition.name}={condition.value}"


def _policies(settings: Settings, leads: _Leads, path: bytes) -> list[str]:
    service, row = leads.service, leads.row or _no_row(leads)
    lines = [f"auth      {row.auth or service.auth or settings.auth_default}"]
    lines += [f"limit     {text}" for text in _limits(settings, row, path)]
    if row.cost > 1:
        lines.append(f"cost      {row.cost}")
    breaker = service.breaker
    lines.append(
        "breaker   off"
        if breaker is None
        else f"breaker   {breaker.failures} failures and {breaker.rate:.0%}, "
        f"open for {breaker.open_seconds:g} s"
    )
    retries = row.retries
    lines.append(
        "retries   off"
        if retries is None
        else f"retries   {retries.attempts} tries in all, after {', '.join(sorted(retries.on))}"
    )
    durable = durable_of(leads.row, service)
    if durable is not None:
        off = "" if missing_for_jobs(settings) is None else ", but jobs are off"
        lines.append(f"durable   {durable}{off}")
    if row.hedge_after is not None:
        lines.append(f"hedge     after {row.hedge_after:g} s")
    lines.append(f"timeouts  {_timeouts(service, row)}")
    lines.append(f"body      at most {row.max_body_bytes or service.max_body_bytes} bytes")
    for title, changes in (("request", row.request_headers), ("response", row.response_headers)):
        if changes != HeaderChanges():
            lines.append(f"{title:8}  {_changes(changes)}")
    if row.agents != "allow":
        said = _figures(row.agents) if isinstance(row.agents, LimitSettings) else "refused"
        lines.append(f"agents    {said}")
    return lines


def _no_row(leads: _Leads) -> RouteSettings:
    """What holds on the open line: nothing but the service's own."""
    return RouteSettings(OPEN_LINE, "", parse_pattern("/api/v1/*"), leads.service.name)


def _limits(settings: Settings, row: RouteSettings, path: bytes) -> list[str]:
    """The limits that may hold, whoever asks: a caller has one tier, or the default."""
    lines = [] if row.limits is None else [f"this route: {_figures(row.limits)}"]
    segments = plain_segments(path)
    for limit in settings.limits:
        if limit.path is None or parse_pattern(limit.path).covers(segments):
            whose = "each caller" if limit.tenant is None else f"tenant {limit.tenant}"
            lines.append(f"{limit.name}: {_figures(limit)}, {whose}")
    lines += [f"tier {tier.name}: {_figures(tier)}" for tier in settings.tiers]
    default = settings.rate_limit
    if default is not None:
        lines.append(f"default: {default.quota} in {default.window_seconds} s")
    return lines or ["none"]


def _figures(limit: TierSettings | LimitSettings) -> str:
    parts = [
        f"{figure:g} {word}"
        for name, word in _FIGURES
        if (figure := getattr(limit, name)) is not None
    ]
    if limit.burst is not None:
        parts.append(f"burst {limit.burst}")
    return ", ".join(parts)


def _timeouts(service: ServiceSettings, row: RouteSettings) -> str:
    said = [
        f"connect {service.connect_timeout:g} s",
        f"head {row.head_timeout or service.head_timeout:g} s",
        f"idle {row.idle_timeout or service.idle_timeout:g} s",
    ]
    if row.total_timeout is not None:
        said.append(f"total {row.total_timeout:g} s")
    return ", ".join(said)


def _changes(changes: HeaderChanges) -> str:
    """The names alone: values may be nobody else's business."""
    said = [f"sets {name}" for name, _ in changes.set]
    said += [f"adds {name}" for name, _ in changes.add]
    return ", ".join([*said, *(f"removes {name}" for name in changes.remove)])
